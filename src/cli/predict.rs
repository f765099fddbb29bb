//! `openvla predict`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::options::{CheckpointArgs, DecodeArgs, DeviceArgs};
use super::{CliError, print};
use vla_inference::observation;
use vla_inference::policy::Instruction;

/// One action from one image and one instruction.
#[derive(Args)]
pub(super) struct Predict {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// JPEG or PNG
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// What the robot should do
    #[arg(long, value_name = "TEXT")]
    instruction: String,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl Predict {
    pub(super) fn run(self) -> Result<(), CliError> {
        // What the user typed is checked before a checkpoint is loaded.
        let instruction = Instruction::new(&self.instruction)?;
        let image = observation::open(&self.image)?;
        let mut policy = self.device.load(self.checkpoint.folder()?, self.decode)?;
        let decision = policy.act(&image, &instruction)?;
        let info = policy.info();
        if self.json {
            let mut timings: serde_json::Map<_, _> = decision
                .stages
                .iter()
                .map(|stage| (stage.name.into(), json!(stage.milliseconds)))
                .collect();
            timings.insert("total".into(), json!(decision.total_ms()));
            return print(
                &json!({
                    "prompt": decision.prompt,
                    "input_ids": decision.input_ids,
                    "token_ids": decision.token_ids,
                    "normalized_action": decision.normalized,
                    "action": decision.action,
                    "unnorm_key": info.unnorm_key,
                    "margins": decision.margins,
                    "timings_ms": timings,
                    "device": self.device.device.to_string(),
                    "precision": info.precision,
                })
                .to_string(),
            );
        }
        let names = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"];
        print(&format!(
            "{} on {}, unnorm_key {}",
            instruction.text(),
            info.device,
            info.unnorm_key
        ))?;
        print("dimension   token   normalized      action   margin")?;
        for (index, action) in decision.action.iter().enumerate() {
            // Only the usual seven have names; what others mean is up to the data set.
            let name = if info.action_dim == names.len() {
                names[index].to_owned()
            } else {
                index.to_string()
            };
            print(&format!(
                "{name:<9} {:>7} {:>12.6} {action:>11.6} {:>8}",
                decision.token_ids[index],
                decision.normalized[index],
                decision
                    .margins
                    .get(index)
                    .map_or_else(|| "-".into(), |margin| format!("{margin:.3}"))
            ))?;
        }
        let stages: Vec<String> = decision
            .stages
            .iter()
            .map(|stage| format!("{} {:.1}", stage.name, stage.milliseconds))
            .collect();
        print(&format!("ms: {}, total {:.1}", stages.join(", "), decision.total_ms()))
    }
}
