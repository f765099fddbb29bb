//! `openvla bench`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::options::{CheckpointArgs, DecodeArgs, DeviceArgs, PolicyFileArgs};
use super::{CliError, instruction, print, print_json};
use vla_inference::backend::cpu::Ceilings;
use vla_inference::observation;
use vla_inference::policy::{Decision, Device, DraftCounts, Observation, PolicyError, PolicyInfo};
use vla_inference::stats::percentile;

/// Time every stage of an inference.
#[derive(Args)]
pub(super) struct Bench {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    policy_file: PolicyFileArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// JPEG or PNG
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Task of the robot
    #[arg(long, default_value = "pick up the block", value_name = "TEXT")]
    instruction: String,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Inferences measured
    #[arg(
        long,
        default_value_t = 5,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    repeats: u32,
    /// Inferences before the measured ones
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(0..=1_000)
    )]
    warm_up: u32,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// Percentiles of a stage, milliseconds.
#[derive(Clone, Copy, Serialize)]
struct Times {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// Draft tokens of speculative decoding.
#[derive(Serialize)]
struct Drafts {
    drafted: u64,
    accepted: u64,
}

/// The JSON object. What was decided is the last inference's, for a comparison with another
/// program.
#[derive(Serialize)]
struct Measured<'a> {
    device: &'a str,
    precision: &'a str,
    repeats: u32,
    cameras: Vec<&'a str>,
    prompt: &'a str,
    input_ids: &'a [u32],
    token_ids: &'a [u32],
    /// `[steps][action_dim]`, before the statistics are applied.
    normalized: &'a [Vec<f64>],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// From opening the checkpoint to the first possible inference, packing of weights included.
    load_seconds: f64,
    /// Largest resident memory of the process, mapped weights included.
    peak_memory_bytes: Option<u64>,
    milliseconds: BTreeMap<&'static str, Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft: Option<Drafts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceilings: Option<Ceilings>,
}

/// Milliseconds by stage, in the order of the first occurrence.
#[derive(Default)]
struct Stages(Vec<(&'static str, Vec<f64>)>);

impl Stages {
    fn add(&mut self, decision: &Decision) {
        let stages = decision.stages.iter().map(|stage| (stage.name, stage.milliseconds));
        for (name, ms) in stages.chain([("total", decision.total_ms())]) {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(ms),
                None => self.0.push((name, vec![ms])),
            }
        }
    }

    fn times(mut self) -> Vec<(&'static str, Times)> {
        self.0.iter_mut().for_each(|(_, values)| values.sort_by(f64::total_cmp));
        let of = |values: &[f64], percent| percentile(values, percent).unwrap_or(f64::NAN);
        let times = |values: &[f64]| Times {
            p50: of(values, 50.0),
            p90: of(values, 90.0),
            p99: of(values, 99.0),
            max: of(values, 100.0),
        };
        self.0.iter().map(|(name, values)| (*name, times(values))).collect()
    }
}

/// Largest resident memory of this process; `None` where the system does not provide it.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

impl Bench {
    pub(super) fn run(self) -> Result<(), CliError> {
        let instruction = instruction(&self.instruction)?;
        let image = observation::open(&self.image)?;
        let drafts = self.decode.draft;
        let begin = Instant::now();
        let mut policy =
            self.device.load(&self.checkpoint.folder()?, self.decode, &self.policy_file)?;
        let load_seconds = begin.elapsed().as_secs_f64();
        let info = policy.info();
        // Every camera of a policy sees the same picture, and its state is zero: time is measured.
        let observation = Observation::uniform(&image, &instruction, &info.cameras, info.state_dim);
        let mut last = Decision::default();
        let mut stages = Stages::default();
        for run in 0..self.warm_up + self.repeats {
            let decision = policy.act(&observation)?;
            if run >= self.warm_up {
                stages.add(&decision);
            }
            last = decision;
        }
        let DraftCounts { drafted, accepted } = policy.draft_counts();
        let measured = stages.times();
        let peak_memory_bytes = peak_memory_bytes();
        let PolicyInfo { device, precision, cameras, .. } = policy.info();
        // Measured last: large memory that it uses is not in the way of the model's.
        let ceilings = (self.device.device == Device::Cpu)
            .then(|| Ceilings::measure(self.device.threads))
            .transpose()
            .map_err(PolicyError::from)?;
        if self.json {
            return print_json(&Measured {
                device,
                precision,
                repeats: self.repeats,
                cameras: cameras.iter().map(AsRef::as_ref).collect(),
                prompt: &last.prompt,
                input_ids: &last.input_ids,
                token_ids: &last.token_ids,
                normalized: &last.normalized,
                seed: last.seed,
                load_seconds,
                peak_memory_bytes,
                milliseconds: measured.into_iter().collect(),
                draft: drafts.then_some(Drafts { drafted, accepted }),
                ceilings,
            });
        }
        print(&format!("{device}, {precision}, {} inferences", self.repeats))?;
        print(&format!(
            "{:<12} {:>10} {:>10} {:>10} {:>10}  ms",
            "stage", "p50", "p90", "p99", "max"
        ))?;
        for (name, Times { p50, p90, p99, max }) in measured {
            print(&format!("{name:<12} {p50:>10.2} {p90:>10.2} {p99:>10.2} {max:>10.2}"))?;
        }
        print(&format!("loaded in {load_seconds:.2} s"))?;
        if let Some(bytes) = peak_memory_bytes {
            print(&format!("peak memory: {:.2} GiB", bytes as f64 / f64::from(1 << 30)))?;
        }
        if let Some(ceilings) = ceilings {
            print(&ceilings.to_string())?;
        }
        if drafts {
            print(&format!("draft tokens: {accepted} of {drafted} accepted"))?;
        }
        Ok(())
    }
}
