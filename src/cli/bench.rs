//! `openvla bench`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::options::{CheckpointArgs, DecodeArgs, DeviceArgs};
use super::{CliError, print};
use vla_inference::observation;
use vla_inference::policy::Instruction;

/// Time every stage of an inference.
#[derive(Args)]
pub(super) struct Bench {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// JPEG or PNG
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// What the robot should do
    #[arg(long, default_value = "pick up the block", value_name = "TEXT")]
    instruction: String,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
    /// Inferences that are measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeats: u32,
    /// Inferences before that
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    warm_up: u32,
}

/// The value below which `part` of the sorted values lie (nearest rank).
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Bench {
    pub(super) fn run(self) -> Result<(), CliError> {
        let instruction = Instruction::new(&self.instruction)?;
        let image = observation::open(&self.image)?;
        let drafts = self.decode.draft;
        let mut policy = self.device.load(self.checkpoint.folder()?, self.decode)?;
        let mut tokens = Vec::new();
        let mut order = Vec::new();
        let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for run in 0..self.warm_up + self.repeats {
            let decision = policy.act(&image, &instruction)?;
            tokens.clone_from(&decision.token_ids);
            if run < self.warm_up {
                continue;
            }
            let total = ("total", decision.total_ms());
            for (name, ms) in
                decision.stages.iter().map(|stage| (stage.name, stage.milliseconds)).chain([total])
            {
                times
                    .entry(name)
                    .or_insert_with(|| {
                        order.push(name);
                        Vec::new()
                    })
                    .push(ms);
            }
        }
        let counts = policy.draft_counts();
        times.values_mut().for_each(|values| values.sort_by(f64::total_cmp));
        if self.json {
            let stages: serde_json::Map<_, _> = order
                .iter()
                .map(|&name| {
                    let sorted = &times[name];
                    let of = |part| percentile(sorted, part);
                    (
                        name.into(),
                        json!({"p50": of(0.5), "p90": of(0.9), "p99": of(0.99), "max": of(1.0)}),
                    )
                })
                .collect();
            let info = policy.info();
            let mut result = json!({"device": info.device, "repeats": self.repeats, "token_ids": tokens, "milliseconds": stages});
            if drafts {
                result["draft"] = json!({"offered": counts.offered, "accepted": counts.accepted});
            }
            return print(&result.to_string());
        }
        print(&format!("{}, {} inferences", policy.info().device, self.repeats))?;
        print(&format!(
            "{:<12} {:>10} {:>10} {:>10} {:>10}  ms",
            "stage", "p50", "p90", "p99", "max"
        ))?;
        for name in order {
            let of = |part| percentile(&times[name], part);
            print(&format!(
                "{name:<12} {:>10.2} {:>10.2} {:>10.2} {:>10.2}",
                of(0.5),
                of(0.9),
                of(0.99),
                of(1.0)
            ))?;
        }
        if drafts {
            print(&format!("drafted tokens: {} of {} accepted", counts.accepted, counts.offered))?;
        }
        Ok(())
    }
}
