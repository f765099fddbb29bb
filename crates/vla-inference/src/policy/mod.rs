//! Policies: an observation to physical actions.

mod action_codec;
mod device;
mod load;
mod oft;
mod openvla;
pub mod pi0;
mod preparation_rule;
mod prompt;
mod remote_error;
mod scripted;

pub use action_codec::{ActionCodec, CodecError, bin_edge};
pub use device::{
    Device, DeviceError, Mesh, MeshChoices, PolicyLoadError, PolicySource, Precision, WithBackend,
    with_backend,
};
pub use load::{load_oft_kit_policy, load_policy};
pub use oft::{MAX_CAMERAS, MAX_CHUNK, OftContract, OftError, OftGeneration, OftPolicy};
pub use openvla::{DecodeMode, DraftCounts, Generation, OpenVlaPolicy, PolicyOptions};
pub use pi0::{ContinuationMode, FlowError, FlowOptions, Pi0Policy};
pub use preparation_rule::{PreparationRule, PreparationRuleError};
pub use prompt::prompt;
pub use remote_error::{RemoteError, RemoteFault, Restored};
pub use scripted::{ScriptError, ScriptedPolicy};

use std::ops::Range;
use std::sync::Arc;

use crate::backend::BackendError;
use crate::checkpoint::{CheckpointError, CheckpointKind};
use crate::models::ModelError;
use crate::observation::{ImageError, ObservationError, PreparationError};
pub use crate::observation::{
    Instruction, InstructionError, InstructionRemark, MAX_INSTRUCTION_BYTES, Observation,
};

/// A chunk of actions of a policy, with its intermediate results.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The prompt as tokenized.
    pub prompt: String,
    /// Token ids as fed to the model, without the image.
    pub input_ids: Vec<u32>,
    /// Generated token ids, one per action dimension; empty for a policy without action tokens.
    pub token_ids: Vec<u32>,
    /// Normalised actions, `[steps][action_dim]`; OpenVLA: bin centres, -1..1.
    pub normalized: Vec<Vec<f64>>,
    /// Actions in the data set's units (Bridge: metres, radians, gripper 1 = open),
    /// `[steps][action_dim]`, one step per policy period.
    pub actions: Vec<Vec<f64>>,
    /// Largest minus second largest logit of each token; empty when the device does not compute
    /// it.
    pub logit_margins: Vec<f32>,
    /// Seed of the noise that a diffusion or flow-matching policy started from.
    pub seed: Option<u64>,
    /// How the decision was made otherwise than was asked for, with the remedy; one line.
    pub remark: Option<String>,
    /// Duration of each stage.
    pub stages: Vec<Stage>,
}

/// A part of an inference and its duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// `preprocess`, then `vision`, `projector`, `prefill` and `decode` or `head` (eager), or
    /// `capture` (first action of a shape) or `execute` (traced). pi0: `vision`, all images
    /// with their projection, `prefix` and `denoise`, all Euler steps. A policy server: `network`,
    /// the way there and back, and `server`, the duration that the server states; `round_trip`
    /// where it states none.
    pub name: &'static str,
    /// Wall-clock milliseconds.
    pub milliseconds: f64,
}

impl Decision {
    /// Sum of all stages, milliseconds.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.milliseconds).sum()
    }
}

/// Properties of a policy, for logs, messages and reports.
#[derive(Clone, Debug)]
pub struct PolicyInfo {
    /// Key of the normalisation statistics.
    pub unnorm_key: String,
    /// Numbers per action.
    pub action_dim: usize,
    /// Names of these numbers; empty when the checkpoint has none.
    pub action_names: Vec<String>,
    /// Steps per decision.
    pub horizon: usize,
    /// The cameras that an observation must have, in the model's order.
    pub cameras: Vec<Arc<str>>,
    /// Values of the state that an observation must have; 0 for a policy without state.
    pub state_dim: usize,
    /// Device and number formats, [`Backend::name`](crate::backend::Backend::name).
    pub device: String,
    /// Name of the precision policy.
    pub precision: String,
    /// 1st and 99th percentile of each action dimension in the training data; `None` where the
    /// value passes through.
    pub envelope: Vec<Option<(f64, f64)>>,
    /// Token ids that stand for actions; `None` for a policy without action tokens.
    pub action_tokens: Option<Range<u32>>,
}

/// A vision-language-action policy.
pub trait Policy: Send {
    /// One decision; takes from 30 ms to 30 s.
    ///
    /// # Errors
    /// When there is no valid action.
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError>;
    /// Compiles and captures what decisions from observations like this one need, so that none of
    /// it falls into the deadline of a decision; the next decision is as if this was not called.
    /// Returns whether anything was left to do; if so, it took as long as loading may.
    ///
    /// # Errors
    /// As [`Policy::act`].
    fn prepare_for(&mut self, _observation: &Observation) -> Result<bool, PolicyError> {
        Ok(false)
    }
    /// Whether the state, too, decides what [`Policy::prepare_for`] has to do, not the instruction
    /// alone: pi0.5's prompt holds it.
    fn prepares_for_state(&self) -> bool {
        false
    }
    /// Properties of this policy.
    fn info(&self) -> &PolicyInfo;
    /// Puts the policy back to where it was after loading: the next chunk starts from the first
    /// seed and continues nothing.
    fn restart(&mut self) {}
    /// Seed of the next chunk's noise; `None` for a policy without noise.
    fn next_seed(&self) -> Option<u64> {
        None
    }
    /// Does what is needed between decisions, such as keeping a connection or opening it again. May
    /// block for as long as that takes, never for a decision's time.
    fn restore(&mut self) -> Restored {
        Restored::Ready
    }
    /// One line about where the decisions come from, for the log; `None` for a policy that runs
    /// here.
    fn origin(&self) -> Option<String> {
        None
    }
    /// Counters of speculative decoding; zero for a policy without it.
    fn draft_counts(&self) -> DraftCounts {
        DraftCounts::default()
    }
}

/// Error of a policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The checkpoint folder is unfit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint of a kind that no policy here runs.
    #[error("{folder}: this is a checkpoint of {kind}, which is not implemented here")]
    Kind {
        /// The folder.
        folder: String,
        /// Its kind.
        kind: CheckpointKind,
    },
    /// The model could not be built or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The image is unfit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image preparation does not fit the model.
    #[error(transparent)]
    Preparation(#[from] PreparationError),
    /// The image preparation does not fit the statistics.
    #[error(transparent)]
    PreparationRule(#[from] PreparationRuleError),
    /// The observation lacks something.
    #[error(transparent)]
    Observation(#[from] ObservationError),
    /// A script or its instruction is unfit.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// The instruction is unfit.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    /// A flow-matching policy cannot decide.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// A token that stands for no action.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The checkpoint does not do what the policy file says of it.
    #[error(transparent)]
    Oft(#[from] OftError),
    /// A policy server failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// No token was preferred to another one.
    #[error(
        "the best and the second-best token are equal for all {0} numbers of the action (margins \
        of 0): the model prefers nothing, so that nothing is published; its weights are damaged or \
        its number format is too coarse"
    )]
    NoPreference(usize),
    /// The end-of-sequence token before all action tokens.
    #[error(
        "the model ended its answer after {got} of {wanted} action tokens; the checkpoint does \
        not fit this robot or instruction"
    )]
    EndedEarly {
        /// Action tokens before the end token.
        got: usize,
        /// Numbers per action.
        wanted: usize,
    },
}

impl From<BackendError> for PolicyError {
    fn from(error: BackendError) -> Self {
        Self::Model(error.into())
    }
}

impl PolicyError {
    /// Whether a logit was not finite: after it, no output of the model is valid.
    #[must_use]
    pub fn is_not_finite(&self) -> bool {
        matches!(self, Self::Model(ModelError::Backend(BackendError::NotFinite { .. })))
    }
}
