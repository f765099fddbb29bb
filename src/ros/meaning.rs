//! What the checkpoint's numbers mean and what the robot may do, from the two files that say so,
//! joined with the parameters.

use std::{path::Path, sync::Arc};

use crate::runtime::{Loaded, Meaning, STEP_WIDTH, longest_pause};
use vla_config::{Frame, PolicyFile, PromptStyle, Resize, RobotFile, join};
use vla_control::action_chunk::ChunkStep;
use vla_control::{ConfigError, ControlConfig, RawControlConfig, RawEnvelope};
use vla_inference::policy::PolicyInfo;

/// Bridge's rate, for looking at a checkpoint in a dry run without its policy file.
const DRY_RUN_HZ: f64 = 5.0;

/// The files that were named, read and found good each for itself.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `config/policies/*.yaml`
    pub policy_file: Option<Arc<PolicyFile>>,
    /// `config/robots/*.yaml`
    pub robot: Option<Arc<RobotFile>>,
}

/// Parameters that the files may say something about.
pub(super) struct Asked<'a> {
    pub policy_file: &'a str,
    pub robot: &'a str,
    pub unnorm_key: &'a str,
    pub policy_hz: f64,
    pub frame_id: &'a str,
    pub base: RawControlConfig,
}

/// What files and parameters say together.
pub(super) struct Settled {
    pub files: Files,
    pub unnorm_key: Option<String>,
    pub policy_hz: f64,
    pub frame_id: String,
    pub control: RawControlConfig,
}

/// Reads the files that are named and puts them together with the parameters; notes everything that
/// does not fit.
pub(super) fn settle(asked: &Asked<'_>, problems: &mut Vec<ConfigError>) -> Settled {
    let mut note = |place: &str, what: String| {
        problems.push(ConfigError { path: place.to_owned(), message: what })
    };
    let policy_file = (!asked.policy_file.is_empty())
        .then(|| {
            PolicyFile::load(Path::new(asked.policy_file))
                .map_err(|error| note("policy_file", error.to_string()))
                .ok()
        })
        .flatten();
    let robot = (!asked.robot.is_empty())
        .then(|| {
            RobotFile::load(Path::new(asked.robot))
                .map_err(|error| note("robot_file", error.to_string()))
                .ok()
        })
        .flatten();
    if asked.policy_file.is_empty() && !asked.base.dry_run {
        // Frame, rotation, polarity and rate have no safe guess: a robot is not moved on one.
        note(
            "policy_file",
            "is missing; with dry_run false, name the file that says what the \
            checkpoint's numbers mean (see config/policies)"
                .into(),
        );
    }
    let mut control = asked.base;
    let mut frame_id = asked.frame_id.to_owned();
    if let Some(robot) = &robot {
        frame_id.clone_from(&robot.base_frame);
        control = with_robot(&control, robot);
    }
    let mut unnorm_key = (!asked.unnorm_key.is_empty()).then(|| asked.unnorm_key.to_owned());
    let mut policy_hz = if asked.policy_hz == 0.0 { DRY_RUN_HZ } else { asked.policy_hz };
    if let Some(policy_file) = &policy_file {
        check_supported(policy_file, &mut note);
        if asked.policy_hz != 0.0 && asked.policy_hz != policy_file.policy_hz {
            note(
                "policy_hz",
                format!(
                    "{} Hz contradicts the policy file's {} Hz; leave it at 0",
                    asked.policy_hz, policy_file.policy_hz
                ),
            );
        }
        policy_hz = policy_file.policy_hz;
        match policy_file.choose_key(unnorm_key.as_deref()) {
            Ok(key) => unnorm_key = Some(key.to_owned()),
            Err(refused) => {
                refused.0.into_iter().for_each(|problem| note(&problem.path, problem.message))
            }
        }
        match (policy_file.frame, &robot) {
            (Frame::Tool, Some(robot)) => frame_id.clone_from(&robot.tool_frame),
            (Frame::Tool, None) => {
                note(
                    "robot_file",
                    "is missing; the policy file's actions are in the tool frame, and only a \
                    robot file names it"
                        .into(),
                );
            }
            _ => {}
        }
        if let Some(robot) = &robot {
            match join(policy_file, robot, None, &control) {
                Ok(joined) => control = joined,
                Err(refused) => {
                    refused.0.into_iter().for_each(|problem| note(&problem.path, problem.message))
                }
            }
        } else {
            control.gripper.invert =
                policy_file.gripper_polarity == vla_config::Polarity::OneIsClosed;
            control.gripper.threshold =
                policy_file.gripper_threshold.unwrap_or(control.gripper.threshold);
        }
    }
    let files = Files { policy_file: policy_file.map(Arc::new), robot: robot.map(Arc::new) };
    Settled { files, unnorm_key, policy_hz, frame_id, control }
}

/// A robot's own limits, for a dry run without a policy file.
fn with_robot(base: &RawControlConfig, robot: &RobotFile) -> RawControlConfig {
    RawControlConfig {
        command_rate_hz: robot.command.rate_hz,
        limits: robot.limits,
        step_cap: robot.step_cap,
        workspace: robot.workspace.as_ref().map(|workspace| workspace.area),
        gripper: robot.gripper,
        ..*base
    }
}

/// Refuses what a policy file may ask for and this version does not do: a picture prepared
/// otherwise than in training is a wrong picture.
fn check_supported(policy_file: &PolicyFile, note: &mut impl FnMut(&str, String)) {
    if policy_file.image.resize != Resize::Bicubic {
        note(
            "policy_file",
            format!(
                "image.resize {:?} is not implemented; only bicubic is",
                policy_file.image.resize
            ),
        );
    }
    if policy_file.image.jpeg {
        note("policy_file", "image.jpeg is not implemented".into());
    }
    if policy_file.image.crop_area.is_some_and(|area| area != 1.0) {
        note("policy_file", "image.crop_area is not implemented".into());
    }
    if policy_file.cameras.len() != 1 {
        note(
            "policy_file",
            format!("needs {} cameras; this policy has one", policy_file.cameras.len()),
        );
    }
    // The checkpoint's own config.json decides about the prompt; the policy file may only say the
    // same.
    if policy_file.prompt == PromptStyle::OpenvlaV01 {
        note(
            "policy_file",
            "prompt openvla_v01 is not checked against a golden kit; only openvla is".into(),
        );
    }
}

impl Files {
    /// How a step's numbers become metres and radians.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        match &self.policy_file {
            Some(policy_file) => {
                let policy_file = Arc::clone(policy_file);
                Arc::new(move |numbers| policy_file.to_step(numbers))
            }
            None => Arc::new(ChunkStep::from_array),
        }
    }

    /// Control's configuration for a policy that was loaded: its measured latency and its
    /// statistics. A policy that is to be asked more rarely than the watchdog of a silent worker
    /// allows is refused: the robot would stop in every pause.
    ///
    /// # Errors
    /// What does not fit, in one line.
    pub fn control_for(
        &self,
        base: &RawControlConfig,
        loaded: &Loaded,
        policy_hz: f64,
        inference_rate_hz: f64,
    ) -> Result<ControlConfig, String> {
        // A result within the policy's own period is never late: a deadline below it would only
        // punish a busy machine.
        let expected_inference_s = loaded.inference_s.max(0.5 / policy_hz).clamp(1e-4, 300.0);
        let base = RawControlConfig { expected_inference_s, ..*base };
        let statistics = statistics(&loaded.info);
        let raw = match (&self.policy_file, &self.robot, &statistics) {
            (Some(policy_file), Some(robot), Some((low, high))) => {
                join(policy_file, robot, Some((low, high)), &base)
                    .map_err(|problems| problems.to_string())?
            }
            (policy_file, _, Some((low, high))) => {
                let meaning = |numbers: &[f64; STEP_WIDTH]| {
                    let step = policy_file.as_ref().map_or_else(
                        || ChunkStep::from_array(*numbers),
                        |policy_file| policy_file.to_step(*numbers),
                    );
                    let [x, y, z, r, p, w, _] = step.to_array();
                    [x, y, z, r, p, w]
                };
                RawControlConfig {
                    envelope: Some(RawEnvelope { q01: meaning(low), q99: meaning(high) }),
                    ..base
                }
            }
            _ => base,
        };
        let control = raw.validate().map_err(|problems| problems.to_string())?;
        let allowed = control.inference_timeout() + control.observation_timeout();
        let pause = longest_pause(inference_rate_hz);
        if allowed <= pause {
            return Err(format!(
                "inference_rate_hz: at {inference_rate_hz} Hz up to {:.3} s pass from one \
                inference to the next, but inference_timeout_s and observation_timeout_s together \
                allow {:.3} s; raise one of the three",
                pause.as_secs_f64(),
                allowed.as_secs_f64()
            ));
        }
        Ok(control)
    }
}

/// The statistics' percentiles in the checkpoint's own units, if it has them for each of the six
/// pose numbers. The gripper's stand for nothing: control does not ask for them. Every step of a
/// chunk has the same.
fn statistics(info: &PolicyInfo) -> Option<([f64; STEP_WIDTH], [f64; STEP_WIDTH])> {
    let (mut low, mut high) = ([0.0; STEP_WIDTH], [1.0; STEP_WIDTH]);
    for i in 0..STEP_WIDTH - 1 {
        (low[i], high[i]) = (*info.envelope.get(i)?)?;
    }
    Some((low, high))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_policy_asked_more_rarely_than_the_watchdog_allows_is_refused() {
        let info = PolicyInfo {
            unnorm_key: "test".into(),
            action_dim: 7,
            device: "cpu".into(),
            precision: "f32".into(),
            envelope: vec![None; 7],
            action_tokens: None,
        };
        let loaded = Loaded { info, inference_s: 0.02, remark: None };
        let files = Files { policy_file: None, robot: None };
        let control = |inference_timeout_s, policy_hz, rate_hz| {
            let raw = RawControlConfig { inference_timeout_s, ..RawControlConfig::default() };
            files.control_for(&raw, &loaded, policy_hz, rate_hz).map(|_| ())
        };
        // A policy's own rate always fits the deadline that is derived from it.
        for hz in [0.1, 1.0, 5.0, 50.0] {
            assert_eq!(control(0.0, hz, hz), Ok(()), "{hz} Hz");
        }
        assert_eq!(control(1.0, 1.0, 1.0), Ok(()));
        let text = control(0.2, 1.0, 1.0).unwrap_err();
        assert!(text.contains("1.050 s") && text.contains("0.700 s"), "{text}");
        assert!(control(0.0, 5.0, 0.5).is_err());
    }
}
