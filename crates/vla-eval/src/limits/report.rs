//! Settings and result of `openvla eval limits`: `limits.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::summary::LimitsSummary;
use crate::EvalError;
use crate::files::{read_report, write_json};
use vla_control::RawMotionLimits;

/// File name in the output folder.
pub const FILE: &str = "limits.json";
/// Value of `format`; an incompatible change increments the number.
pub const FORMAT: &str = "openvla_tt limits 2";

/// What is replayed, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsSettings {
    /// Bags, one episode each.
    pub bags: Vec<PathBuf>,
    /// Topic of the recorded actions.
    pub action_topic: String,
    /// Topic of the recorded gripper command, for actions recorded as twists.
    pub gripper_topic: Option<String>,
    /// Topic of the end effector's pose; without it the workspace limit is not applied.
    pub pose_topic: Option<String>,
    /// The robot file.
    pub robot_file: PathBuf,
    /// The policy file.
    pub policy_file: PathBuf,
    /// Checkpoint whose statistics give the envelope; without it no envelope is applied.
    pub checkpoint: Option<PathBuf>,
    /// Which statistics; by default the only ones that the policy file names.
    pub unnorm_key: Option<String>,
}

/// The limits that were applied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Metres per second, second squared, second cubed.
    pub linear: Bounds,
    /// Radians per second, second squared, second cubed.
    pub angular: Bounds,
    /// Longest step, metres.
    pub step_translation: f64,
    /// Longest step, radians.
    pub step_rotation: f64,
    /// Whether the workspace limit was applied.
    pub workspace: bool,
    /// Whether the statistics' envelope was applied.
    pub envelope: bool,
}

/// Limits of translation or rotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Per second.
    pub velocity: f64,
    /// Per second squared.
    pub acceleration: f64,
    /// Per second cubed.
    pub jerk: f64,
}

impl From<RawMotionLimits> for Bounds {
    fn from(raw: RawMotionLimits) -> Bounds {
        Bounds { velocity: raw.velocity, acceleration: raw.acceleration, jerk: raw.jerk }
    }
}

/// One bag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitsEpisode {
    /// Path of the bag.
    pub bag: PathBuf,
    /// Effect of the limits on it.
    pub summary: LimitsSummary,
}

/// `limits.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitsReport {
    /// [`FORMAT`]
    pub format: String,
    /// Version of this program.
    pub version: String,
    /// What was replayed.
    pub settings: LimitsSettings,
    /// Name of the robot.
    pub robot: String,
    /// Name of the policy.
    pub policy: String,
    /// Steps per second of the policy.
    pub policy_hz: f64,
    /// Commands per second.
    pub command_hz: f64,
    /// The limits that were applied.
    pub limits: Limits,
    /// Over all bags.
    pub overall: LimitsSummary,
    /// Bag by bag.
    pub episodes: Vec<LimitsEpisode>,
    /// Bags that could not be replayed to their end, and why.
    pub incomplete: Vec<String>,
    /// Warnings about bags and settings.
    pub warnings: Vec<String>,
}

impl LimitsReport {
    /// Reads `limits.json` of an output folder.
    ///
    /// # Errors
    /// When the file cannot be read, or has another format.
    pub fn read(out: &Path) -> Result<LimitsReport, EvalError> {
        read_report(&out.join(FILE), FORMAT)
    }

    /// The report in `out` when it covers the same bags: the section of an evaluation's page.
    pub fn of_bags(out: &Path, bags: &[PathBuf]) -> Option<LimitsReport> {
        LimitsReport::read(out).ok().filter(|report| report.settings.bags == bags)
    }

    /// Writes `limits.json` into an output folder.
    pub(super) fn write(&self, out: &Path) -> Result<(), EvalError> {
        write_json(&out.join(FILE), self)
    }
}
