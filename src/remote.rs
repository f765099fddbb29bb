//! What a policy file means for a policy on a server.

use vla_config::{Action, PolicyFile, RemoteAnswers};
use vla_inference::observation::PreparationError;
use vla_remote::{Answers, Contract, Protocol, StateRun};

use crate::preparation;

/// Names of an end effector's numbers.
const END_EFFECTOR: [&str; 7] = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"];

/// What requests and answers mean; `None` for a policy file of a checkpoint. `unnorm_key` is sent
/// to OpenVLA's server, which chooses its statistics by it.
///
/// # Errors
/// When the image steps are no preparation, or give floats, which no protocol here sends.
pub fn contract(
    file: &PolicyFile,
    protocol: Protocol,
    unnorm_key: &str,
) -> Result<Option<Contract>, PreparationError> {
    let Some(section) = &file.remote else { return Ok(None) };
    let (instruction, texts) = match protocol {
        Protocol::Openpi => ("prompt", Vec::new()),
        Protocol::Act => ("instruction", vec![("unnorm_key".to_owned(), unnorm_key.to_owned())]),
    };
    let names = match &file.action {
        Action::EndEffector(_) => END_EFFECTOR.map(String::from).to_vec(),
        Action::Joints(joints) => joints.columns.clone(),
    };
    let images = section.images.iter();
    let state = section.state.iter();
    Ok(Some(Contract {
        images: images.map(|(camera, key)| (camera.as_str().into(), key.clone())).collect(),
        preparation: preparation::of(&file.image)?,
        state: state.map(|run| StateRun { key: run.key.clone(), values: run.values }).collect(),
        instruction: section.instruction.clone().unwrap_or_else(|| instruction.into()),
        texts,
        horizon: file.horizon,
        names,
        bounds: section.bounds.clone(),
        tolerance: section.tolerance,
        answers: match &section.answers {
            RemoteAnswers::Physical => Answers::Physical,
            RemoteAnswers::Normalized { unchanged } => {
                Answers::Normalized { unchanged: unchanged.clone() }
            }
        },
    }))
}
