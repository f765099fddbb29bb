//! Both ends of the runtime without model and ROS: a scripted policy, and a recorder of commands.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use openvla_tt::runtime::{ActionTransform, CommandSink, LoadRequest, Loader, monotonic_now};
use vla_control::Command;
use vla_control::time::{Instant, Stamp};
use vla_inference::observation::{Observation, RgbImage, SINGLE_CAMERA};
use vla_inference::policy::{Decision, Instruction, Policy, PolicyError, PolicyInfo};

type Act = Box<dyn FnMut(&RgbImage, &Instruction) -> Result<Vec<f64>, PolicyError> + Send>;

/// 2 cm ahead per policy period of 0.2 s: 0.1 m/s.
pub const FORWARD: [f64; 7] = [0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];

type Prepare = Box<dyn FnMut(&Instruction) -> Result<bool, PolicyError> + Send>;

/// A policy whose actions are given by a closure.
pub struct Scripted {
    act: Act,
    prepare: Prepare,
    pub info: PolicyInfo,
}

impl Scripted {
    pub fn new(
        act: impl FnMut(&RgbImage, &Instruction) -> Result<Vec<f64>, PolicyError> + Send + 'static,
    ) -> Box<Self> {
        let info = PolicyInfo {
            unnorm_key: "test".into(),
            action_dim: 7,
            action_names: Vec::new(),
            horizon: 1,
            cameras: vec![SINGLE_CAMERA.into()],
            state_dim: 0,
            device: "script".into(),
            precision: "f64".into(),
            envelope: vec![None; 7],
            action_tokens: None,
        };
        Box::new(Self { act: Box::new(act), prepare: Box::new(|_| Ok(false)), info })
    }

    /// What it does before the first inference under an instruction.
    pub fn preparing(
        self,
        prepare: impl FnMut(&Instruction) -> Result<bool, PolicyError> + Send + 'static,
    ) -> Box<Self> {
        Box::new(Self { prepare: Box::new(prepare), ..self })
    }

    pub fn forward() -> Box<Self> {
        Self::new(|_, _| Ok(FORWARD.to_vec()))
    }
}

impl Policy for Scripted {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let action = (self.act)(observation.image(SINGLE_CAMERA)?, &observation.instruction)?;
        Ok(Decision {
            normalized: vec![action.clone()],
            actions: vec![action],
            ..Decision::default()
        })
    }

    fn prepare_for(&mut self, observation: &Observation) -> Result<bool, PolicyError> {
        (self.prepare)(&observation.instruction)
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

/// A policy of metres and radians with one camera, at 5 Hz.
pub fn request(loader: Loader, rate_limit_hz: f64) -> LoadRequest {
    LoadRequest {
        loader,
        transform: ActionTransform::identity(),
        policy_hz: 5.0,
        execute: 1,
        motion_delay: Duration::ZERO,
        rate_limit_hz,
        cameras: vec!["image".into()],
        needs_state: false,
    }
}

/// The published commands and their times.
#[derive(Clone, Default)]
pub struct Recorded(pub Arc<Mutex<Vec<(Instant, Command)>>>);

impl CommandSink for Recorded {
    fn publish(&mut self, _: Stamp, command: &Command) {
        self.0.lock().unwrap().push((monotonic_now(), *command));
    }
}
