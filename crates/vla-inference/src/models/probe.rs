//! Access to a network's intermediate tensors: for `selfcheck`, and to find the first tensor that
//! differs from a reference.

use crate::backend::{Backend, BackendError};

/// Receives named intermediate tensors as a model computes them.
pub trait Probe<B: Backend> {
    /// Called with each tensor; names follow the golden kit (`siglip.block0.out`,
    /// `llm.layer0.out`).
    ///
    /// # Errors
    /// When the tensor cannot be downloaded.
    fn observe(&mut self, name: &str, tensor: &B::Tensor) -> Result<(), BackendError>;
    /// Whether per-layer tensors are needed. If not, their names are not formatted and the last
    /// layer computes the needed rows only.
    fn every_layer(&self) -> bool {
        true
    }
}

/// A probe that ignores every tensor.
pub struct NoProbe;

impl<B: Backend> Probe<B> for NoProbe {
    fn observe(&mut self, _name: &str, _tensor: &B::Tensor) -> Result<(), BackendError> {
        Ok(())
    }

    fn every_layer(&self) -> bool {
        false
    }
}
