//! Networks, written once and generic over [`Backend`](crate::backend::Backend); fields are named
//! like the checkpoint.
//!
//! A model never sees an observation or a robot: bytes of an image and token ids go in, features
//! and logits come out.

pub mod action;
pub mod llama;
pub mod openvla;
pub mod probe;
pub mod projector;
pub mod vit;
mod weights;

pub use probe::Probe;
pub use weights::{TensorSource, Weights};

use crate::backend::BackendError;
use crate::checkpoint::CheckpointError;
use crate::tensor::TensorError;

/// Why a model could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint lacks something or has it in another shape.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A tensor of the checkpoint could not be brought to the device.
    #[error("{name}: {source}")]
    Load {
        /// Name of the tensor or layer in the checkpoint.
        name: String,
        /// What the device said.
        source: BackendError,
    },
    /// Bytes that do not make the tensor they should.
    #[error("{name}: {source}")]
    Tensor {
        /// Name of the tensor in the checkpoint.
        name: String,
        /// What does not fit.
        source: TensorError,
    },
    /// More positions than the model has room for.
    #[error(
        "the prompt takes {positions} positions but the model has room for {capacity}; shorten \
        the instruction"
    )]
    TooLong {
        /// Positions needed.
        positions: usize,
        /// Positions there are.
        capacity: usize,
    },
}
