//! `openvla predict`.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::options::{CheckpointArgs, DecodeArgs, DeviceArgs, PolicyFileArgs};
use super::{CliError, instruction, print, print_json};
use vla_inference::observation::{self, CameraFrame, Playback, RgbImage};
use vla_inference::policy::{Decision, Instruction, Observation, PolicyInfo};

/// One action, or one chunk of actions, from the images of the cameras, an instruction and, where
/// the policy has one, the robot's state.
#[derive(Args)]
pub(super) struct Predict {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    policy_file: PolicyFileArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// JPEG or PNG; with several cameras, CAMERA=FILE once for each
    #[arg(long, value_name = "[CAMERA=]FILE", required = true)]
    image: Vec<String>,
    /// Proprioceptive state in raw units and in the policy's order: 0.1,-0.2,...
    #[arg(long, value_name = "V,V,...", value_delimiter = ',', allow_hyphen_values = true)]
    state: Vec<f64>,
    /// Task of the robot
    #[arg(long, value_name = "TEXT")]
    instruction: String,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// The JSON object.
#[derive(Serialize)]
struct Prediction<'a> {
    prompt: &'a str,
    input_ids: &'a [u32],
    token_ids: &'a [u32],
    /// The first step.
    normalized_action: &'a [f64],
    /// The first step, un-normalised.
    action: &'a [f64],
    /// The whole chunk, `[steps][action_dim]`, un-normalised.
    actions: &'a [Vec<f64>],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    unnorm_key: &'a str,
    logit_margins: &'a [f32],
    timings_ms: BTreeMap<&'a str, f64>,
    device: String,
    precision: &'a str,
}

impl Predict {
    pub(super) fn run(self) -> Result<(), CliError> {
        // Arguments are checked before the checkpoint is loaded, which takes minutes.
        let instruction = instruction(&self.instruction)?;
        let mut images =
            self.image.iter().map(|text| named(text)).collect::<Result<Vec<_>, _>>()?;
        let mut policy =
            self.device.load(&self.checkpoint.folder()?, self.decode, &self.policy_file)?;
        // A file without a name is that of the only camera.
        if let ([(None, _)], [camera]) = (images.as_slice(), policy.info().cameras.as_slice()) {
            images[0].0 = Some(camera.to_string());
        }
        let decision = policy.act(&Observation {
            instruction: instruction.clone(),
            images: images
                .into_iter()
                .map(|(camera, image)| CameraFrame {
                    camera: camera.unwrap_or_default().into(),
                    image,
                })
                .collect(),
            state: self.state,
            playback: Playback::default(),
        })?;
        if !self.json {
            return show(&instruction, &decision, policy.info());
        }
        let stages = decision.stages.iter().map(|stage| (stage.name, stage.milliseconds));
        print_json(&Prediction {
            prompt: &decision.prompt,
            input_ids: &decision.input_ids,
            token_ids: &decision.token_ids,
            normalized_action: decision.normalized.first().map_or(&[], Vec::as_slice),
            action: decision.actions.first().map_or(&[], Vec::as_slice),
            actions: &decision.actions,
            seed: decision.seed,
            unnorm_key: &policy.info().unnorm_key,
            logit_margins: &decision.logit_margins,
            timings_ms: stages.chain([("total", decision.total_ms())]).collect(),
            device: self.device.device.to_string(),
            precision: &policy.info().precision,
        })
    }
}

/// The camera's name, if one is given, and its image. A file whose name holds `=` is a file.
fn named(text: &str) -> Result<(Option<String>, RgbImage), CliError> {
    match text.split_once('=') {
        Some((camera, file)) if !Path::new(text).exists() => {
            Ok((Some(camera.to_owned()), opened(Path::new(file))?))
        }
        _ => Ok((None, opened(Path::new(text))?)),
    }
}

/// The image of a file; what the file says about it goes to stderr.
fn opened(file: &Path) -> Result<RgbImage, CliError> {
    let (image, remark) = observation::open_with_remark(file)?;
    if let Some(remark) = remark {
        eprintln!("openvla predict: {}: {remark}", file.display());
    }
    Ok(image)
}

/// Names of an end effector's step, for action tokens without names.
const NAMES: [&str; 7] = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"];

fn show(instruction: &Instruction, decision: &Decision, info: &PolicyInfo) -> Result<(), CliError> {
    print(&format!("{} on {}, unnorm_key {}", instruction.text(), info.device, info.unnorm_key))?;
    if decision.token_ids.is_empty() {
        show_chunk(decision, info)?;
    } else {
        show_tokens(decision, info)?;
    }
    let stages: Vec<String> = decision
        .stages
        .iter()
        .map(|stage| format!("{} {:.1}", stage.name, stage.milliseconds))
        .collect();
    print(&format!("ms: {}, total {:.1}", stages.join(", "), decision.total_ms()))
}

/// One line for each step, actions in the data set's units.
fn show_chunk(decision: &Decision, info: &PolicyInfo) -> Result<(), CliError> {
    let seed = decision.seed.map(|seed| format!(", from noise of --seed {seed}"));
    print(&format!(
        "chunk of {} steps, un-normalised{}",
        decision.actions.len(),
        seed.unwrap_or_default()
    ))?;
    let name = |at: usize| info.action_names.get(at).cloned().unwrap_or_else(|| at.to_string());
    let names: Vec<String> = (0..info.action_dim).map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max(10);
    let line = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>width$}")).collect();
        print(&format!("{first:>4}{cells}"))
    };
    line("step", names)?;
    for (step, actions) in decision.actions.iter().enumerate() {
        let cells = actions.iter().map(|value| format!("{value:.6}")).collect();
        line(&step.to_string(), cells)?;
    }
    Ok(())
}

/// One line for each number, with its token.
fn show_tokens(decision: &Decision, info: &PolicyInfo) -> Result<(), CliError> {
    for (step, (actions, normalized)) in
        decision.actions.iter().zip(&decision.normalized).enumerate()
    {
        if decision.actions.len() > 1 {
            print(&format!("step {step}"))?;
        }
        print("dimension   token   normalized      action   margin")?;
        for (index, (action, normalized)) in actions.iter().zip(normalized).enumerate() {
            // Unnamed dimensions of other numbers have no common names.
            let name = match info.action_names.get(index) {
                Some(name) => name.clone(),
                None if info.action_dim == NAMES.len() => NAMES[index].to_owned(),
                None => index.to_string(),
            };
            let at = step * info.action_dim + index;
            let token = decision.token_ids.get(at).map(u32::to_string);
            let margin = decision.logit_margins.get(at).map(|margin| format!("{margin:.3}"));
            print(&format!(
                "{name:<9} {:>7} {normalized:>12.6} {action:>11.6} {:>8}",
                token.as_deref().unwrap_or("-"),
                margin.as_deref().unwrap_or("-")
            ))?;
        }
    }
    Ok(())
}
