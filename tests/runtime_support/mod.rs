//! What stands at both ends of the runtime where no model and no ROS are wanted: a policy that does
//! as told, and a memory of what was published.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use openvla_tt::runtime::{CommandSink, monotonic_now};
use vla_control::Command;
use vla_control::time::{Instant, Stamp};
use vla_inference::observation::RgbImage;
use vla_inference::policy::{Decision, Instruction, Policy, PolicyError, PolicyInfo};

type Act = Box<dyn FnMut(&RgbImage, &Instruction) -> Result<Vec<f64>, PolicyError> + Send>;

/// 2 cm ahead per policy period of 0.2 s: 0.1 m/s.
pub const FORWARD: [f64; 7] = [0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];

/// A policy that does what it was told.
pub struct Scripted {
    act: Act,
    pub info: PolicyInfo,
}

impl Scripted {
    pub fn new(
        act: impl FnMut(&RgbImage, &Instruction) -> Result<Vec<f64>, PolicyError> + Send + 'static,
    ) -> Box<Self> {
        let info = PolicyInfo {
            unnorm_key: "test".into(),
            action_dim: 7,
            device: "script".into(),
            precision: "f64".into(),
            envelope: vec![None; 7],
            action_tokens: None,
        };
        Box::new(Self { act: Box::new(act), info })
    }

    pub fn forward() -> Box<Self> {
        Self::new(|_, _| Ok(FORWARD.to_vec()))
    }
}

impl Policy for Scripted {
    fn act(
        &mut self,
        image: &RgbImage,
        instruction: &Instruction,
    ) -> Result<Decision, PolicyError> {
        let action = (self.act)(image, instruction)?;
        let (prompt, input_ids, token_ids) = (String::new(), Vec::new(), Vec::new());
        Ok(Decision {
            prompt,
            input_ids,
            token_ids,
            normalized: action.clone(),
            action,
            logit_margins: Vec::new(),
            stages: Vec::new(),
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

/// What was published, and when.
#[derive(Clone, Default)]
pub struct Recorded(pub Arc<Mutex<Vec<(Instant, Command)>>>);

impl CommandSink for Recorded {
    fn publish(&mut self, _: Stamp, command: &Command) {
        self.0.lock().unwrap().push((monotonic_now(), *command));
    }
}
