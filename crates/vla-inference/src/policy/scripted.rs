//! A policy without a network, for commissioning an arm and for tests: it moves on a straight line,
//! at constant speed, to the goal that the instruction names.
//!
//! Its checkpoint is a folder with `config.json` alone (`models/scripted`). Instructions: `move to
//! N1 N2 ..`, with one number for each moving dimension: `x y z` of the end effector in metres, or
//! joint positions in radians. The state begins with the present values of the same dimensions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;

use super::{Decision, Observation, Policy, PolicyError, PolicyInfo, Stage};
use crate::checkpoint::read_json_file;

/// Most dimensions, steps and cameras of a script.
const DIMENSIONS_MAX: usize = 64;
const HORIZON_MAX: usize = 256;

/// What the actions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Space {
    /// `dx dy dz droll dpitch dyaw gripper` per step.
    EndEffector,
    /// Positions at the end of each step.
    JointPosition,
    /// Velocities, per second.
    JointVelocity,
}

/// `config.json` of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// `scripted`.
    #[serde(rename = "type")]
    _kind: String,
    space: Space,
    /// Names of the moving dimensions, in the order of state and action.
    dimensions: Vec<String>,
    /// Values of the state behind those of the moving dimensions.
    #[serde(default)]
    further_state: usize,
    /// Gripper values behind those of the moving dimensions, always open (1).
    #[serde(default)]
    grippers: usize,
    cameras: Vec<String>,
    horizon: usize,
    policy_hz: f64,
    /// Largest speed of any dimension, per second.
    speed: f64,
}

/// An instruction or a script that does not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScriptError {
    /// Not `move to` and numbers.
    #[error("the scripted policy knows 'move to' and {wanted} finite numbers, not '{instruction}'")]
    Instruction {
        /// The instruction.
        instruction: String,
        /// Numbers of a goal.
        wanted: usize,
    },
    /// A value of config.json outside its range.
    #[error("{}: {what}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The scripted policy.
#[derive(Debug)]
pub struct ScriptedPolicy {
    script: Script,
    info: PolicyInfo,
}

impl ScriptedPolicy {
    /// Opens a folder.
    ///
    /// # Errors
    /// When `config.json` is unfit.
    pub fn open(folder: &Path) -> Result<Self, PolicyError> {
        let path = folder.join("config.json");
        let script: Script = read_json_file(&path)?;
        script.check().map_err(|what| ScriptError::Config { path, what })?;
        let moving = script.dimensions.len();
        let (rotation, names) = match script.space {
            Space::EndEffector => {
                (3, ["dx", "dy", "dz", "droll", "dpitch", "dyaw"].map(String::from).to_vec())
            }
            _ => (0, script.dimensions.clone()),
        };
        let grippers = (0..script.grippers).map(|gripper| format!("gripper{gripper}"));
        let action_dim = moving + rotation + script.grippers;
        let info = PolicyInfo {
            unnorm_key: "scripted".into(),
            action_dim,
            action_names: names.into_iter().chain(grippers).collect(),
            horizon: script.horizon,
            cameras: script.cameras.iter().map(|name| Arc::from(name.as_str())).collect(),
            state_dim: moving + script.further_state,
            device: "script".into(),
            precision: "f64".into(),
            envelope: vec![None; action_dim],
            action_tokens: None,
        };
        Ok(Self { script, info })
    }

    fn goal(&self, instruction: &str) -> Result<Vec<f64>, ScriptError> {
        let wanted = self.script.dimensions.len();
        let numbers = instruction
            .strip_prefix("move to")
            .map(|rest| rest.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>());
        match numbers {
            Some(Ok(goal)) if goal.len() == wanted && goal.iter().all(|n| n.is_finite()) => {
                Ok(goal)
            }
            _ => Err(ScriptError::Instruction { instruction: instruction.to_owned(), wanted }),
        }
    }
}

impl Script {
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, low: usize, high: usize| {
            let fits = (low..=high).contains(&value);
            if fits { Ok(()) } else { Err(format!("{name} is {value}, outside {low}..{high}")) }
        };
        within("dimensions", self.dimensions.len(), 1, DIMENSIONS_MAX)?;
        within("further_state", self.further_state, 0, DIMENSIONS_MAX)?;
        within("grippers", self.grippers, 0, 4)?;
        within("cameras", self.cameras.len(), 1, 8)?;
        within("horizon", self.horizon, 1, HORIZON_MAX)?;
        if self.space == Space::EndEffector && (self.dimensions.len(), self.grippers) != (3, 1) {
            return Err("the space end_effector has 3 dimensions and 1 gripper".into());
        }
        for (name, value, high) in
            [("policy_hz", self.policy_hz, 200.0), ("speed", self.speed, 10.0)]
        {
            if !(1e-3..=high).contains(&value) {
                return Err(format!("{name} is {value}, outside 0.001..{high}"));
            }
        }
        Ok(())
    }

    /// One step from `from` to `to`, which are positions.
    fn step(&self, from: &[f64], to: &[f64]) -> Vec<f64> {
        let moved = from.iter().zip(to).map(|(from, to)| to - from);
        let mut action: Vec<f64> = match self.space {
            Space::EndEffector => moved.chain([0.0; 3]).collect(),
            Space::JointPosition => to.to_vec(),
            Space::JointVelocity => moved.map(|moved| moved * self.policy_hz).collect(),
        };
        action.extend(std::iter::repeat_n(1.0, self.grippers));
        action
    }
}

impl Policy for ScriptedPolicy {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let started = Instant::now();
        for camera in &self.info.cameras {
            observation.image(camera)?;
        }
        let state = observation.state(self.info.state_dim)?;
        let start = &state[..self.script.dimensions.len()];
        let goal = self.goal(observation.instruction.text())?;
        let largest = start.iter().zip(&goal).map(|(a, b)| (b - a).abs()).fold(0.0, f64::max);
        // All dimensions arrive together; each step covers the same share of the way.
        let steps = (largest / self.script.speed * self.script.policy_hz).max(1.0);
        let at = |step: usize| -> Vec<f64> {
            let share = (step as f64 / steps).min(1.0);
            start.iter().zip(&goal).map(|(a, b)| a + (b - a) * share).collect()
        };
        let actions: Vec<Vec<f64>> = (0..self.script.horizon)
            .map(|step| self.script.step(&at(step), &at(step + 1)))
            .collect();
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        Ok(Decision {
            normalized: actions.clone(),
            actions,
            stages: vec![Stage { name: "script", milliseconds }],
            ..Decision::default()
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::observation::{CameraFrame, Instruction, Playback, RgbImage};

    fn policy(space: &str, dimensions: usize) -> ScriptedPolicy {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..dimensions).map(|i| format!("\"j{i}\"")).collect();
        let config = format!(
            r#"{{"type": "scripted", "space": "{space}", "dimensions": [{}], "grippers": 1,
            "cameras": ["image"], "horizon": 4, "policy_hz": 10.0, "speed": 0.5}}"#,
            names.join(",")
        );
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        ScriptedPolicy::open(folder.path()).unwrap()
    }

    fn observation(state: &[f64], text: &str) -> Observation {
        let image = RgbImage::new(1, 1, vec![0; 3]).unwrap();
        Observation {
            instruction: Instruction::new(text).unwrap(),
            images: vec![CameraFrame { camera: "image".into(), image }],
            state: state.to_vec(),
            playback: Playback::default(),
        }
    }

    fn close(actions: &[Vec<f64>], wanted: &[&[f64]]) {
        assert_eq!(actions.len(), wanted.len());
        for (action, wanted) in actions.iter().zip(wanted) {
            assert_eq!(action.len(), wanted.len());
            for (a, b) in action.iter().zip(*wanted) {
                assert!((a - b).abs() < 1e-12, "{actions:?}");
            }
        }
    }

    #[test]
    fn steps_lead_to_the_goal() {
        // 0.1 at 0.5 per second and 10 Hz are two steps; the other joint takes part of the way.
        let scene = observation(&[0.0, 1.0], "move to 0.1 0.9");
        let actions = policy("joint_position", 2).act(&scene).unwrap().actions;
        close(
            &actions,
            &[&[0.05, 0.95, 1.0], &[0.1, 0.9, 1.0], &[0.1, 0.9, 1.0], &[0.1, 0.9, 1.0]],
        );
        let actions = policy("joint_velocity", 2).act(&scene).unwrap().actions;
        close(
            &actions,
            &[&[0.5, -0.5, 1.0], &[0.5, -0.5, 1.0], &[0.0, 0.0, 1.0], &[0.0, 0.0, 1.0]],
        );
        let scene = observation(&[0.0, 0.0, 0.5], "Move to 0 0 0.45");
        let actions = policy("end_effector", 3).act(&scene).unwrap().actions;
        let still: &[f64] = &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        close(&actions, &[&[0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 1.0], still, still, still]);
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        let mut policy = policy("joint_position", 2);
        for text in ["pick up the block", "move to 1", "move to 1 nan", "move to 1 2 3"] {
            let error = policy.act(&observation(&[0.0, 0.0], text)).unwrap_err();
            assert!(error.to_string().contains("2 finite numbers"), "{error}");
        }
        let error = policy.act(&observation(&[0.0], "move to 1 2")).unwrap_err().to_string();
        assert!(error.contains("2 values"), "{error}");
    }
}
