//! From an observation and an instruction to a physical action.

mod action_codec;
mod device;
mod instruction;
mod openvla;

pub use action_codec::{ActionCodec, CodecError, bin_edge};
pub use device::{
    Device, DeviceError, Mesh, MeshChoices, PolicyLoadError, PolicySource, Precision, WithBackend,
    load_policy, with_backend,
};
pub use instruction::{Instruction, InstructionError, MAX_INSTRUCTION_BYTES, prompt};
pub use openvla::{DecodeMode, DraftCounts, Generation, OpenVlaPolicy, PolicyOptions};

use crate::backend::BackendError;
use crate::checkpoint::CheckpointError;
use crate::models::ModelError;
use crate::observation::{ImageError, RgbImage};

/// What a policy decided, and how it came to it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The prompt as tokenized.
    pub prompt: String,
    /// Token ids as fed to the model, the image's place excluded.
    pub input_ids: Vec<u32>,
    /// Generated token ids, one per action dimension.
    pub token_ids: Vec<u32>,
    /// Bin centres, -1..1, one per action dimension.
    pub normalized: Vec<f64>,
    /// Physical action in the data set's units (Bridge: metres, radians, gripper 1 = open), per
    /// policy period.
    pub action: Vec<f64>,
    /// Top-1 minus top-2 logit of each token; empty when the device chooses tokens and does not
    /// say.
    pub margins: Vec<f32>,
    /// Where the time went.
    pub stages: Vec<Stage>,
}

/// A named part of an inference and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// `preprocess`, then `vision`, `projector`, `prefill` and `decode`; where a device works
    /// without the host, `record` at first and `replay` afterwards.
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

/// What a policy is, for logs, messages and reports.
#[derive(Clone, Debug)]
pub struct PolicyInfo {
    /// Statistics in use.
    pub unnorm_key: String,
    /// Numbers per action.
    pub action_dim: usize,
    /// What the backend says of itself.
    pub device: String,
    /// Name of the precision policy.
    pub precision: String,
    /// 1st and 99th percentile of each action dimension in the training data; `None` where the
    /// value passes through.
    pub envelope: Vec<Option<(f64, f64)>>,
    /// Token ids that encode actions; `None` for a policy without action tokens.
    pub action_tokens: Option<std::ops::Range<u32>>,
}

/// Anything that turns an image and an instruction into an action.
pub trait Policy: Send {
    /// One decision. May take 30 ms or 30 s.
    ///
    /// # Errors
    /// When no action can be had; nothing that is not an action is ever returned.
    fn act(&mut self, image: &RgbImage, instruction: &Instruction)
    -> Result<Decision, PolicyError>;
    /// What this policy is.
    fn info(&self) -> &PolicyInfo;
    /// What drafting has saved so far; nothing for a policy that does not draft.
    fn draft_counts(&self) -> DraftCounts {
        DraftCounts::default()
    }
}

/// Why there is no action.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The checkpoint folder is unfit.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be built or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The image is unfit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The instruction is unfit.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
    /// A token that stands for no action.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The model ended its answer before all action tokens were there.
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
    /// Whether a value was not finite: the one failure after which nothing the model says may be
    /// believed.
    #[must_use]
    pub fn is_not_finite(&self) -> bool {
        matches!(self, Self::Model(ModelError::Backend(BackendError::NotFinite { .. })))
    }
}
