//! `openvla eval limits`: recorded actions through `control/` alone. No model: what the limits of a
//! robot file would have made of motions that people found good, so that the file is tuned on data
//! before anything moves.
//!
//! [`recorded_actions`] reads a bag into a plan of policy steps, [`control_replay`] steps the control core through it as the node's control loop would,
//! [`measure`] compares what was asked with what was commanded, [`page`] and [`text`] say it.

mod control_replay;
mod measure;
mod page;
mod recorded_actions;
mod text;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use measure::{
    Commanded, DimensionChange, GripperChanges, InterventionCount, Motion, Positions, Sums,
};
pub use page::section;
pub use text::lines;

use crate::EvalError;
use crate::report::write_whole;
use measure::Measure;
use recorded_actions::Recording;
use vla_config::{PolicyFile, RobotFile, join};
use vla_control::{ControlConfig, RawControlConfig, RawMotionLimits};
use vla_inference::checkpoint::NormStats;

/// Its name in the output folder.
pub const FILE: &str = "limits.json";
/// What `format` says; a change of meaning changes the number.
pub const FORMAT: &str = "openvla_tt limits 1";
/// Bags whose motion is drawn.
const CURVES: usize = 50;

/// What is replayed, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsSettings {
    /// Bags, each an episode.
    pub bags: Vec<PathBuf>,
    /// Topic of the recorded actions.
    pub action_topic: String,
    /// Topic of the recorded gripper command, for actions recorded as twists.
    pub gripper_topic: Option<String>,
    /// Topic of the end effector's pose; without it the workspace is not looked at.
    pub pose_topic: Option<String>,
    /// The robot file.
    pub robot: PathBuf,
    /// The policy file.
    pub policy_file: PathBuf,
    /// The checkpoint whose statistics are the envelope; without it there is none.
    pub checkpoint: Option<PathBuf>,
    /// Which statistics; the policy file's only one when not given.
    pub unnorm_key: Option<String>,
}

/// The limits in force.
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
    /// Whether a workspace was guarded.
    pub workspace: bool,
    /// Whether the statistics' envelope was in force.
    pub envelope: bool,
}

/// Limits of one group of axes.
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
pub struct ExpertEpisode {
    /// The bag.
    pub bag: PathBuf,
    /// What the limits made of it.
    pub sums: Sums,
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
    /// The robot's name.
    pub robot: String,
    /// The policy file's name.
    pub policy_file: String,
    /// Steps per second of the policy.
    pub policy_hz: f64,
    /// Commands per second.
    pub command_hz: f64,
    /// The limits in force.
    pub limits: Limits,
    /// Over all bags.
    pub overall: Sums,
    /// Bag by bag.
    pub episodes: Vec<ExpertEpisode>,
    /// Bags that could not be replayed to their end, and why.
    pub incomplete: Vec<String>,
    /// What should be known.
    pub warnings: Vec<String>,
}

impl LimitsReport {
    /// Reads `limits.json` of an output folder.
    pub fn read(out: &Path) -> Result<LimitsReport, EvalError> {
        let path = out.join(FILE);
        let bytes = std::fs::read(&path).map_err(EvalError::io("read", &path))?;
        let report: LimitsReport =
            serde_json::from_slice(&bytes).map_err(EvalError::result(&path))?;
        if report.format != FORMAT {
            return Err(EvalError::result(&path)(format!(
                "format is `{}`, expected `{FORMAT}`",
                report.format
            )));
        }
        Ok(report)
    }
}

/// Control's configuration from the files, and what of it the report names.
struct Limited {
    raw: RawControlConfig,
    config: ControlConfig,
    policy_file: PolicyFile,
    robot: RobotFile,
}

fn limited(settings: &LimitsSettings, warnings: &mut Vec<String>) -> Result<Limited, EvalError> {
    let usage = |path: &Path, what: String| EvalError::Usage(format!("{}: {what}", path.display()));
    let policy_file = PolicyFile::load(&settings.policy_file)?;
    let robot = RobotFile::load(&settings.robot)?;
    let statistics = match &settings.checkpoint {
        None => {
            warnings.push("no --checkpoint: the statistics' envelope was not applied".to_owned());
            None
        }
        Some(folder) => {
            let key = policy_file
                .choose_key(settings.unnorm_key.as_deref())
                .map_err(|problems| usage(&settings.policy_file, problems.to_string()))?;
            let all = NormStats::open(folder)?;
            let (_, stats) = all.select(Some(key))?;
            Some(stats.clone())
        }
    };
    // Nothing is late here: what was recorded comes when its time has come.
    let base = RawControlConfig {
        dry_run: false,
        inference_timeout_s: 600.0,
        ..RawControlConfig::default()
    };
    let statistics = statistics.as_ref().map(|stats| (stats.q01.as_slice(), stats.q99.as_slice()));
    let mut raw = join(&policy_file, &robot, statistics, &base)
        .map_err(|problems| usage(&settings.robot, problems.to_string()))?;
    if settings.pose_topic.is_none() && raw.workspace.take().is_some() {
        warnings.push("no --pose-topic: the workspace was not looked at".to_owned());
    }
    let config = raw.validate().map_err(|problems| usage(&settings.robot, problems.to_string()))?;
    Ok(Limited { raw, config, policy_file, robot })
}

/// Replays every bag and writes `limits.json`, `limits.html` and the plots into `out`.
///
/// # Errors
/// When a file or a topic does not fit, before anything is replayed. A bag that is damaged on the
/// way stands in `incomplete`.
pub fn replay(settings: &LimitsSettings, out: &Path) -> Result<LimitsReport, EvalError> {
    let mut warnings = Vec::new();
    let limited = limited(settings, &mut warnings)?;
    let Limited { raw, config, policy_file, robot } = &limited;
    // Every bag is checked before the first is read.
    let recordings = settings
        .bags
        .iter()
        .map(|bag| Recording::open(bag, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut overall, mut episodes, mut incomplete, mut plots) =
        (Measure::new(raw, policy_file.policy_hz), Vec::new(), Vec::new(), Vec::new());
    for (index, recording) in recordings.iter().enumerate() {
        let (plan, ending) = recording.read(policy_file, settings.pose_topic.is_some())?;
        warnings.extend(ending.warnings);
        incomplete.extend(ending.failure);
        // A bag without a usable pose cannot be guarded; the others can.
        let blind = config.needs_ee_pose() && plan.poses.is_empty();
        let unguarded = || RawControlConfig { workspace: None, ..*raw }.validate();
        let config = if blind {
            &unguarded().map_err(|problems| EvalError::Usage(problems.to_string()))?
        } else {
            config
        };
        let mut own = Measure::new(raw, policy_file.policy_hz);
        let mut curve = (index < CURVES).then(page::Curve::default);
        control_replay::replay(&plan, config, policy_file.policy_hz, &mut |moment| {
            own.take(moment);
            if let Some(curve) = curve.as_mut() {
                curve.take(moment);
            }
        })?;
        own.finish(&plan);
        let bag = recording.path().to_owned();
        plots.extend(curve.map(|curve| curve.draw(index, &bag)).transpose()?.flatten());
        overall.join(&own);
        episodes.push(ExpertEpisode { bag, sums: own.sums() });
    }
    let report = LimitsReport {
        format: FORMAT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: settings.clone(),
        robot: robot.name.clone(),
        policy_file: policy_file.name.clone(),
        policy_hz: policy_file.policy_hz,
        command_hz: robot.command.rate_hz,
        limits: Limits {
            linear: raw.limits.linear.into(),
            angular: raw.limits.angular.into(),
            step_translation: raw.step_cap.translation,
            step_rotation: raw.step_cap.rotation,
            workspace: raw.workspace.is_some(),
            envelope: raw.envelope.is_some(),
        },
        overall: overall.sums(),
        episodes,
        incomplete,
        warnings,
    };
    std::fs::create_dir_all(out).map_err(EvalError::io("create", out))?;
    for plot in &plots {
        write_whole(&out.join(&plot.file), &plot.png)?;
    }
    write_whole(&out.join("limits.html"), page::page(&report, &plots).as_bytes())?;
    let path = out.join(FILE);
    let json = serde_json::to_string_pretty(&report).map_err(EvalError::result(&path))?;
    write_whole(&path, format!("{json}\n").as_bytes())?;
    Ok(report)
}
