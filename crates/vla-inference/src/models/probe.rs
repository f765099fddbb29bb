//! Looking at a network's intermediate tensors: for `selfcheck`, and for finding the first tensor
//! that differs.

use crate::backend::{Backend, BackendError};

/// Sees named intermediate tensors as a model computes them.
pub trait Probe<B: Backend> {
    /// Called with each tensor; names follow the golden kit (`siglip.block0.out`,
    /// `llm.layer0.out`).
    ///
    /// # Errors
    /// When the tensor cannot be read back.
    fn see(&mut self, name: &str, tensor: &B::Tensor) -> Result<(), BackendError>;
    /// Whether anybody looks; names are not even formatted when not.
    fn wants(&self) -> bool {
        true
    }
}

/// Nobody looks.
pub struct Blind;

impl<B: Backend> Probe<B> for Blind {
    fn see(&mut self, _name: &str, _tensor: &B::Tensor) -> Result<(), BackendError> {
        Ok(())
    }

    fn wants(&self) -> bool {
        false
    }
}
