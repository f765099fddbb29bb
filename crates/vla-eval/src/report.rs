//! What an evaluation found: `report.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metrics::{MetricOptions, Metrics};
use super::stats::Percentiles;
use super::step::{Outcome, Paired};
use super::tokens::ActionTokens;
use super::{EvalError, Settings};

/// Its name in the output folder.
pub const FILE: &str = "report.json";
/// What `format` says; a change of meaning changes the number.
pub const FORMAT: &str = "openvla_tt evaluation 1";

/// An evaluation's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`]
    pub format: String,
    /// Version of this program.
    pub version: String,
    /// What was evaluated.
    pub settings: Settings,
    /// The policy's action tokens, if it has any.
    pub tokens: Option<ActionTokens>,
    /// Why something is missing; empty when all of it was evaluated.
    pub incomplete: Vec<String>,
    /// What became of the frames.
    pub frames: FrameCounts,
    /// Over all frames.
    pub overall: Metrics,
    /// Bag by bag.
    pub episodes: Vec<EpisodeReport>,
    /// Milliseconds of each stage, and of their sum under `total`.
    pub latency_ms: BTreeMap<String, Percentiles>,
    /// Answers that were no action, by reason.
    pub failures: BTreeMap<String, u64>,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// What became of the frames.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Images on the topic.
    pub images: u64,
    /// Frames that were given to the policy.
    pub evaluated: u64,
    /// Of these, frames for which it had no action.
    pub failed: u64,
    /// Of the actions, those with a recorded one beside them.
    pub matched: u64,
    /// Frames of this run's share that were not given to the policy, by reason.
    pub skipped: BTreeMap<String, u64>,
}

/// One bag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeReport {
    /// The bag.
    pub bag: std::path::PathBuf,
    /// What became of its frames.
    pub frames: FrameCounts,
    /// Over its frames.
    pub metrics: Metrics,
}

/// What reading a bag brought, besides frames.
#[derive(Debug, Clone, Default)]
pub struct EpisodeNotes {
    /// Images on the topic.
    pub images: u64,
    /// Frames that were not given to the policy.
    pub skipped: BTreeMap<String, u64>,
}

impl Report {
    /// Sums up frames. `episodes`: one per bag of the settings.
    pub fn of(
        settings: Settings,
        tokens: Option<ActionTokens>,
        episodes: Vec<EpisodeNotes>,
        pairs: &[Paired],
        incomplete: Vec<String>,
        warnings: Vec<String>,
    ) -> Report {
        let options = MetricOptions { tokens, gripper_threshold: settings.gripper_threshold };
        let dimensions = settings.policy.action_dim;
        let mut frames = FrameCounts::default();
        let mut reports = Vec::new();
        for (index, (bag, notes)) in settings.bags.iter().zip(episodes).enumerate() {
            let own: Vec<&Paired> = pairs.iter().filter(|pair| pair.step.bag == index).collect();
            let counts = count(&own, notes);
            frames.images += counts.images;
            frames.evaluated += counts.evaluated;
            frames.failed += counts.failed;
            frames.matched += counts.matched;
            for (reason, skipped) in &counts.skipped {
                *frames.skipped.entry(reason.clone()).or_default() += skipped;
            }
            let metrics = Metrics::of(own, dimensions, options);
            reports.push(EpisodeReport { bag: bag.clone(), frames: counts, metrics });
        }
        Report {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tokens,
            incomplete,
            frames,
            overall: Metrics::of(pairs, dimensions, options),
            episodes: reports,
            latency_ms: latency(pairs),
            failures: failures(pairs),
            warnings,
            settings,
        }
    }

    /// Reads `report.json` of an output folder.
    pub fn read(out: &Path) -> Result<Report, EvalError> {
        let path = out.join(FILE);
        let bytes = std::fs::read(&path).map_err(EvalError::io("read", &path))?;
        let report: Report = serde_json::from_slice(&bytes).map_err(EvalError::result(&path))?;
        if report.format != FORMAT {
            return Err(EvalError::result(&path)(format!(
                "format is `{}`, expected `{FORMAT}`",
                report.format
            )));
        }
        Ok(report)
    }

    /// Writes `report.json` into an output folder.
    pub fn write(&self, out: &Path) -> Result<(), EvalError> {
        let path = out.join(FILE);
        let mut text = serde_json::to_string_pretty(self).map_err(EvalError::result(&path))?;
        text.push('\n');
        write_whole(&path, text.as_bytes())
    }
}

/// Writes a file so that a reader sees the old one or the new one, never half of it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    std::fs::write(&part, bytes).map_err(EvalError::io("write", &part))?;
    std::fs::rename(&part, path).map_err(EvalError::io("write", path))
}

fn count(own: &[&Paired], notes: EpisodeNotes) -> FrameCounts {
    FrameCounts {
        images: notes.images,
        evaluated: own.len() as u64,
        failed: own.iter().filter(|pair| pair.prediction().is_none()).count() as u64,
        matched: own.iter().filter(|pair| pair.both().is_some()).count() as u64,
        skipped: notes.skipped,
    }
}

fn latency(pairs: &[Paired]) -> BTreeMap<String, Percentiles> {
    let mut stages: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for prediction in pairs.iter().filter_map(Paired::prediction) {
        let total = prediction.stages.iter().map(|(_, milliseconds)| milliseconds).sum();
        for (name, milliseconds) in
            prediction.stages.iter().map(|(n, m)| (n.as_str(), *m)).chain([("total", total)])
        {
            stages.entry(name.to_owned()).or_default().push(milliseconds);
        }
    }
    stages
        .into_iter()
        .filter_map(|(name, values)| Some((name, Percentiles::of(&values)?)))
        .collect()
}

fn failures(pairs: &[Paired]) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for pair in pairs {
        if let Outcome::Failure(reason) = &pair.step.outcome {
            *reasons.entry(reason.clone()).or_default() += 1;
        }
    }
    reasons
}
