//! The result of an evaluation: `report.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::convention::{self, Known};
use super::files::{read_report, write_json};
use super::metrics::{MetricOptions, Metrics};
use super::stats::Percentiles;
use super::step::{Outcome, Paired};
use super::tokens::ActionTokens;
use super::{EvalError, Settings};

/// File name in the output folder.
pub const FILE: &str = "report.json";
/// Value of `format`; an incompatible change increments the number.
pub const FORMAT: &str = "openvla_tt evaluation 2";

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
    pub action_tokens: Option<ActionTokens>,
    /// What is missing and why; empty when everything was evaluated.
    pub incomplete: Vec<String>,
    /// Counts of frames by result.
    pub frames: FrameCounts,
    /// Errors over all frames.
    pub overall: Metrics,
    /// Bag by bag.
    pub episodes: Vec<EpisodeReport>,
    /// Milliseconds of each stage, and of their sum under `total`.
    pub latency_ms: BTreeMap<String, Percentiles>,
    /// Frames without an action, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Warnings about bags and settings.
    pub warnings: Vec<String>,
    /// 1st and 99th percentile of each dimension in the policy's statistics; `None` where the value
    /// passes through. For joining shards: see [`convention`].
    #[serde(default)]
    pub ranges: Vec<Option<(f64, f64)>>,
}

/// Counts of frames by result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Images on the topic.
    pub images: u64,
    /// Frames that the policy was run on.
    pub evaluated: u64,
    /// Evaluated frames without an action.
    pub failed: u64,
    /// Evaluated frames with both a predicted and a recorded action.
    pub matched: u64,
    /// Frames of this run's shard that were not evaluated, by reason.
    pub skipped: BTreeMap<String, u64>,
}

/// One bag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeReport {
    /// The bag.
    pub bag: std::path::PathBuf,
    /// Counts of its frames.
    pub frames: FrameCounts,
    /// Errors over its frames.
    pub metrics: Metrics,
}

/// Counts from reading a bag.
#[derive(Debug, Clone, Default)]
pub struct EpisodeNotes {
    /// Images on the topic.
    pub images: u64,
    /// Frames that were not evaluated, by reason.
    pub skipped: BTreeMap<String, u64>,
}

impl Report {
    /// Computes the report. `episodes`: one per bag of the settings.
    pub fn of(
        settings: Settings,
        action_tokens: Option<ActionTokens>,
        episodes: Vec<EpisodeNotes>,
        pairs: &[Paired],
        incomplete: Vec<String>,
        warnings: Vec<String>,
    ) -> Report {
        let options =
            MetricOptions { action_tokens, gripper_threshold: settings.gripper_threshold };
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
            action_tokens,
            incomplete,
            frames,
            overall: Metrics::of(pairs, dimensions, options),
            episodes: reports,
            latency_ms: latency(pairs),
            failures: failures(pairs),
            warnings,
            ranges: Vec::new(),
            settings,
        }
    }

    /// Adds what does not fit about the recorded actions, which is judged over all frames.
    pub(super) fn with_conventions(
        mut self,
        ranges: Vec<Option<(f64, f64)>>,
        pairs: &[Paired],
    ) -> Report {
        self.ranges = ranges;
        self.warnings.extend(self.conventions(pairs));
        self
    }

    /// What does not fit about the recorded actions of these frames.
    pub(super) fn conventions(&self, pairs: &[Paired]) -> Vec<String> {
        let known = Known {
            dimensions: self.settings.policy.action_dim,
            ranges: &self.ranges,
            policy_hz: self.settings.policy_hz,
            gripper_threshold: self.settings.gripper_threshold,
            unnorm_key: &self.settings.policy.unnorm_key,
        };
        convention::warnings(pairs, &known)
    }

    /// Reads `report.json` of an output folder.
    ///
    /// # Errors
    /// When the file cannot be read, or has another format.
    pub fn read(out: &Path) -> Result<Report, EvalError> {
        read_report(&out.join(FILE), FORMAT)
    }

    /// Writes `report.json` into an output folder.
    pub fn write(&self, out: &Path) -> Result<(), EvalError> {
        write_json(&out.join(FILE), self)
    }
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
