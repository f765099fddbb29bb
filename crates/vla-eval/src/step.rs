//! One evaluated frame.

use serde::{Deserialize, Serialize};

/// Result of the policy on one frame; a line of the journal.
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
    /// The instruction given to the policy.
    pub instruction: String,
    /// The predicted action, or why there is none.
    pub outcome: Outcome,
}

/// Result of an inference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An action.
    Action(Prediction),
    /// No action: a token outside the action range, or a generation that ended early.
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
    pub logit_margins: Vec<f32>,
    /// Milliseconds of each stage.
    pub stages: Vec<(String, f64)>,
}

/// The recorded action of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Recorded {
    /// Header stamp or log time that it was matched by, nanoseconds since the epoch.
    pub time: i64,
    /// Physical units per policy period; `None` for a dimension that was not recorded.
    pub action: Vec<Option<f64>>,
    /// -1 to 1, normalized as in training.
    pub normalized: Vec<Option<f64>>,
    /// Recorded tokens, or else encoded as in training; empty for policies without action tokens.
    pub token_ids: Vec<Option<u32>>,
}

/// A frame with its recorded action, if one was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// The result of the policy.
    pub step: Step,
    /// The recorded action.
    pub recorded: Option<Recorded>,
}

impl Paired {
    /// Prediction and recorded action, if there are both.
    pub fn both(&self) -> Option<(&Prediction, &Recorded)> {
        match (&self.step.outcome, &self.recorded) {
            (Outcome::Action(prediction), Some(recorded)) => Some((prediction, recorded)),
            _ => None,
        }
    }

    /// The prediction, if there is one.
    pub fn prediction(&self) -> Option<&Prediction> {
        match &self.step.outcome {
            Outcome::Action(prediction) => Some(prediction),
            Outcome::Failure(_) => None,
        }
    }

    /// Mean absolute error over the recorded normalized dimensions, by which frames are ranked.
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

/// Names of the action's dimensions: those of Bridge for seven, else `a0`, `a1`, ...
pub fn dimension_names(dimensions: usize) -> Vec<String> {
    const BRIDGE: [&str; 7] = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"];
    if dimensions == BRIDGE.len() {
        return BRIDGE.map(str::to_owned).to_vec();
    }
    (0..dimensions).map(|i| format!("a{i}")).collect()
}
