//! `openvla eval limits`: recorded actions through the control core, without a policy. Shows what
//! the limits of a robot file would have changed, so that the file can be tuned on recorded data
//! before a robot moves.
//!
//! [`recorded_actions`] reads a bag into a plan of policy steps, [`control_replay`] steps the
//! control core through it as the node's control loop does, [`measure`] compares desired with
//! commanded motion, and [`page`] and [`text`] render the [`report`].

mod control_replay;
mod measure;
mod page;
mod recorded_actions;
mod report;
mod summary;
mod text;

use std::path::Path;

pub use page::section;
pub use report::{Bounds, Limits, LimitsEpisode, LimitsReport, LimitsSettings};
pub use summary::{
    CommandPeaks, DimensionSummary, GripperChanges, InterventionCount, LimitsSummary, Motion,
    Positions,
};
pub use text::lines;

use crate::EvalError;
use crate::files::write_file;
use measure::Measure;
use recorded_actions::Recording;
use report::FORMAT;
use vla_config::{PolicyFile, RobotFile, join};
use vla_control::{ControlConfig, RawControlConfig};
use vla_inference::checkpoint::NormStats;

/// Number of bags whose motion is plotted.
const PLOTTED_EPISODES: usize = 50;

/// The control core's configuration and the files that it comes from.
struct LoadedLimits {
    raw: RawControlConfig,
    config: ControlConfig,
    policy_file: PolicyFile,
    robot: RobotFile,
}

fn load_limits(
    settings: &LimitsSettings,
    warnings: &mut Vec<String>,
) -> Result<LoadedLimits, EvalError> {
    let usage = |path: &Path, what: String| EvalError::Usage(format!("{}: {what}", path.display()));
    let policy_file = PolicyFile::load(&settings.policy_file)?;
    if policy_file.action.joints().is_some() {
        let what = "its actions are joints; the limits of the end effector are not theirs".into();
        return Err(usage(&settings.policy_file, what));
    }
    let robot = RobotFile::load(&settings.robot_file)?;
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
    // The replay has no latency; a timeout would only hide the limits' effect.
    let base = RawControlConfig {
        dry_run: false,
        inference_timeout_s: 600.0,
        ..RawControlConfig::default()
    };
    let statistics = statistics.as_ref().map(|stats| (stats.q01.as_slice(), stats.q99.as_slice()));
    let mut raw = join(&policy_file, &robot, statistics, &base)
        .map_err(|problems| usage(&settings.robot_file, problems.to_string()))?;
    if settings.pose_topic.is_none() && raw.workspace.take().is_some() {
        warnings.push("no --pose-topic: the workspace limit was not applied".to_owned());
    }
    let config =
        raw.validate().map_err(|problems| usage(&settings.robot_file, problems.to_string()))?;
    Ok(LoadedLimits { raw, config, policy_file, robot })
}

/// Replays every bag and writes `limits.json`, `limits.html` and the plots into `out`.
///
/// # Errors
/// When a file or a topic does not fit, before anything is replayed. Damage found while reading a
/// bag is reported in `incomplete`.
pub fn replay(settings: &LimitsSettings, out: &Path) -> Result<LimitsReport, EvalError> {
    let mut warnings = Vec::new();
    let loaded = load_limits(settings, &mut warnings)?;
    let policy_hz = loaded.policy_file.policy_hz;
    // Every bag is checked before the first is read.
    let recordings = settings
        .bags
        .iter()
        .map(|bag| Recording::open(bag, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let mut overall = Measure::new(&loaded.raw, policy_hz);
    let (mut episodes, mut incomplete, mut plots) = (Vec::new(), Vec::new(), Vec::new());
    for (index, recording) in recordings.iter().enumerate() {
        let (plan, result) = recording.read(&loaded.policy_file, settings.pose_topic.is_some())?;
        warnings.extend(result.warnings);
        incomplete.extend(result.failure);
        let config = loaded.config_for(&plan)?;
        let mut measure = Measure::new(&loaded.raw, policy_hz);
        let mut curve = (index < PLOTTED_EPISODES).then(page::Curve::default);
        control_replay::replay(&plan, &config, policy_hz, &mut |period| {
            measure.take(period);
            if let Some(curve) = curve.as_mut() {
                curve.take(period);
            }
        })?;
        measure.finish(&plan);
        let bag = recording.path().to_owned();
        plots.extend(curve.map(|curve| curve.draw(index, &bag)).transpose()?.flatten());
        overall.join(&measure);
        episodes.push(LimitsEpisode { bag, summary: measure.summary() });
    }
    let report = LimitsReport {
        format: FORMAT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: settings.clone(),
        robot: loaded.robot.name.clone(),
        policy: loaded.policy_file.name.clone(),
        policy_hz,
        command_hz: loaded.robot.command.rate_hz,
        limits: loaded.limits(),
        overall: overall.summary(),
        episodes,
        incomplete,
        warnings,
    };
    std::fs::create_dir_all(out).map_err(EvalError::io("create", out))?;
    for plot in &plots {
        write_file(&out.join(&plot.file), &plot.png)?;
    }
    write_file(&out.join("limits.html"), page::page(&report, &plots).as_bytes())?;
    report.write(out)?;
    Ok(report)
}

impl LoadedLimits {
    /// The configuration for one bag: without a usable pose the workspace limit cannot be applied
    /// to it.
    fn config_for(&self, plan: &recorded_actions::Plan) -> Result<ControlConfig, EvalError> {
        if !self.config.needs_ee_pose() || !plan.poses.is_empty() {
            return Ok(self.config);
        }
        let raw = RawControlConfig { workspace: None, ..self.raw };
        raw.validate().map_err(|problems| EvalError::Usage(problems.to_string()))
    }

    fn limits(&self) -> Limits {
        let raw = &self.raw;
        Limits {
            linear: raw.limits.linear.into(),
            angular: raw.limits.angular.into(),
            step_translation: raw.step_cap.translation,
            step_rotation: raw.step_cap.rotation,
            workspace: raw.workspace.is_some(),
            envelope: raw.envelope.is_some(),
        }
    }
}
