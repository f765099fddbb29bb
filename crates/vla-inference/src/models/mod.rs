//! Networks, generic over [`Backend`](crate::backend::Backend); fields are named like the
//! checkpoint's tensors, dimensions like `config.json` and timm.
//!
//! Input of a model: the bytes of a resized image and token ids. Output: features, logits and
//! token ids.

pub mod action_trace;
pub mod llama;
pub mod oft;
pub mod openvla;
pub mod pi0;
pub mod probe;
pub mod projector;
pub mod speculative;
pub mod vit;
mod weights;

pub use probe::{NoProbe, Probe};
pub use weights::{TensorSource, Weights};

use crate::backend::BackendError;
use crate::checkpoint::CheckpointError;
use crate::tensor::TensorError;

/// Error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor is missing or has another shape.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An operation failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A tensor could not be loaded.
    #[error("{name}: {source}")]
    Load {
        /// Name of the tensor or layer in the checkpoint.
        name: String,
        /// Error of the device.
        source: BackendError,
    },
    /// Stored bytes that do not match the shape.
    #[error("{name}: {source}")]
    Tensor {
        /// Name of the tensor in the checkpoint.
        name: String,
        /// Cause.
        source: TensorError,
    },
    /// A prompt beyond the model's maximum positions.
    #[error(
        "the prompt takes {positions} positions but the model has room for {capacity}; shorten \
        the instruction"
    )]
    TooLong {
        /// Positions needed.
        positions: usize,
        /// Positions available.
        capacity: usize,
    },
}
