//! Options and errors of the flow-matching policies.

use std::path::PathBuf;

use super::rtc::{ContinuationError, Schedule};
use crate::checkpoint::pi0::{ActionMapping, Resize, StateTokens};

/// Options of a flow-matching policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowOptions {
    /// A tokenizer file or its folder; `None` searches the checkpoint's folder and beside it.
    pub tokenizer: Option<PathBuf>,
    /// A norm_stats.json that replaces the checkpoint's statistics.
    pub statistics: Option<PathBuf>,
    /// Resizing, where it is not that of the code that wrote the folder.
    pub resize: Option<Resize>,
    /// State in the prompt of pi0.5, where the folder does not say.
    pub state_tokens: Option<StateTokens>,
    /// Steps of a chunk, where the folder does not say.
    pub horizon: Option<usize>,
    /// What the action's numbers are, where the folder does not say.
    pub actions: Option<ActionMapping>,
    /// Cameras of the checkpoint that this robot does not have; their tokens are left out.
    pub absent_cameras: Vec<String>,
    /// Euler steps; `None` for the checkpoint's.
    pub steps: Option<usize>,
    /// Seed of the first chunk's noise, from which those of the later ones follow; `None` draws
    /// one.
    pub seed: Option<u64>,
    /// Real-time chunking.
    pub continuation: ContinuationMode,
}

/// Real-time chunking of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ContinuationMode {
    /// Every chunk starts anew.
    #[default]
    None,
    /// LeRobot's guided mode, with the checkpoint's values where none are given.
    Guided {
        /// Rows that are guided.
        horizon: Option<usize>,
        /// How the weight falls.
        schedule: Option<Schedule>,
        /// Largest weight of the correction.
        max_weight: Option<f32>,
    },
    /// The trained mode, for checkpoints that were trained for it.
    Trained,
}

impl std::str::FromStr for ContinuationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "guided" => Ok(Self::Guided { horizon: None, schedule: None, max_weight: None }),
            "trained" => Ok(Self::Trained),
            other => Err(format!("rtc is '{other}'; use none, guided or trained")),
        }
    }
}

/// A policy that cannot be loaded so, or an observation that it cannot decide from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FlowError {
    /// A checkpoint without statistics.
    #[error(
        "{folder}: a base checkpoint without statistics of the {feature}; fine-tune it, or give \
        the robot's norm_stats.json"
    )]
    NoStatistics {
        /// The folder.
        folder: String,
        /// `state` or `action`.
        feature: &'static str,
    },
    /// Statistics by which a value would be divided by almost 0.
    #[error(
        "{folder}: dimensions {dimensions:?} of the state were constant in the training data, so \
        that any other value would become very large; give statistics of this robot's data"
    )]
    Degenerate {
        /// The folder.
        folder: String,
        /// Dimensions, from 0.
        dimensions: Vec<usize>,
    },
    /// A camera that the checkpoint does not have.
    #[error("camera '{given}' is none of the checkpoint's: {}", known.join(", "))]
    UnknownCamera {
        /// Name as given.
        given: String,
        /// The checkpoint's.
        known: Vec<String>,
    },
    /// Every camera is declared absent.
    #[error("all cameras are declared absent; the policy needs one")]
    NoCamera,
    /// A prompt that would be cut.
    #[error(
        "the prompt takes {tokens} tokens but the model was trained with at most {limit}; shorten \
        the instruction (the end of the prompt would be lost without a word)"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A number of Euler steps out of range.
    #[error("{0} Euler steps; use 1 to 1000 (the checkpoints were published with 10)")]
    Steps(usize),
    /// A previous chunk that does not fit.
    #[error(transparent)]
    Continuation(#[from] ContinuationError),
}
