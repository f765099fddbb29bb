//! One evaluated frame.

use serde::{Deserialize, Serialize};

/// What the policy made of a frame. A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Place of the bag in the list of bags.
    pub bag: usize,
    /// Which image of the topic, counted from 0.
    pub frame: u64,
    /// Log time, nanoseconds since the epoch.
    pub log_time: i64,
    /// Header stamp, nanoseconds since the epoch.
    pub stamp: Option<i64>,
    /// Width and height of the camera image, pixels.
    pub size: (u32, u32),
    /// What the robot was to do.
    pub instruction: String,
    /// The policy's answer, or why there is none.
    pub outcome: Outcome,
}

/// A policy's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An action.
    Action(Prediction),
    /// No action: a token that stands for none, or an answer that ended early.
    Failure(String),
}

/// A predicted action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Token ids; empty for policies without action tokens.
    pub token_ids: Vec<u32>,
    /// -1 to 1, per dimension.
    pub normalized: Vec<f64>,
    /// Physical units per policy period, per dimension.
    pub action: Vec<f64>,
    /// Top-1 minus top-2 logit of each token.
    pub margins: Vec<f32>,
    /// Milliseconds of each stage.
    pub stages: Vec<(String, f64)>,
}

/// What was recorded for a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Recorded {
    /// Time of the recorded action on the clock it was matched by, nanoseconds since the epoch.
    pub time: i64,
    /// Physical units per policy period; `None` where the recording has no such dimension.
    pub action: Vec<Option<f64>>,
    /// -1 to 1, as training would normalize it.
    pub normalized: Vec<Option<f64>>,
    /// Tokens: recorded ones, or those training would make; empty for policies without action
    /// tokens.
    pub token_ids: Vec<Option<u32>>,
}

/// A frame with its recorded action, if one was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// What the policy made of it.
    pub step: Step,
    /// What was recorded.
    pub recorded: Option<Recorded>,
}

impl Paired {
    /// Prediction and record, where there are both.
    pub fn both(&self) -> Option<(&Prediction, &Recorded)> {
        match (&self.step.outcome, &self.recorded) {
            (Outcome::Action(prediction), Some(recorded)) => Some((prediction, recorded)),
            _ => None,
        }
    }

    /// The prediction, where there is one.
    pub fn prediction(&self) -> Option<&Prediction> {
        match &self.step.outcome {
            Outcome::Action(prediction) => Some(prediction),
            Outcome::Failure(_) => None,
        }
    }

    /// Mean absolute error over the normalized dimensions that were recorded: what steps are ranked
    /// by.
    pub fn error(&self) -> Option<f64> {
        let (prediction, recorded) = self.both()?;
        let errors: Vec<f64> = prediction
            .normalized
            .iter()
            .zip(&recorded.normalized)
            .filter_map(|(predicted, recorded)| {
                recorded.map(|recorded| (predicted - recorded).abs())
            })
            .collect();
        if errors.is_empty() {
            return None;
        }
        Some(errors.iter().sum::<f64>() / errors.len() as f64)
    }
}

/// Names of the action's dimensions: Bridge's seven, or numbers.
pub fn dimension_names(dimensions: usize) -> Vec<String> {
    const BRIDGE: [&str; 7] = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"];
    if dimensions == BRIDGE.len() {
        return BRIDGE.map(str::to_owned).to_vec();
    }
    (0..dimensions).map(|i| format!("a{i}")).collect()
}
