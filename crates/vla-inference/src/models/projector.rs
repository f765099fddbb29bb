//! Projector: an MLP from patch features of all towers to the language model's embeddings.

use super::{ModelError, Weights};
use crate::backend::{Activation, Backend, BackendError, TensorParallel, WeightRole};

/// `fc1` (to four times the input), GELU, `fc2`, GELU, `fc3`: the "fused-gelu-mlp" of Prismatic.
pub struct Projector<B: Backend> {
    fc1: B::Linear,
    fc2: B::Linear,
    fc3: B::Linear,
}

impl<B: Backend> Projector<B> {
    /// Loads `projector.*`.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        weights: &Weights<'_>,
        vision: usize,
        hidden: usize,
    ) -> Result<Self, ModelError> {
        let linear = |name, shape, parallelism| {
            weights.linear(backend, (WeightRole::Projector, parallelism), name, shape)
        };
        Ok(Self {
            fc1: linear("fc1", [4 * vision, vision], TensorParallel::Column)?,
            fc2: linear("fc2", [hidden, 4 * vision], TensorParallel::Row)?,
            fc3: linear("fc3", [hidden, hidden], TensorParallel::Column)?,
        })
    }

    /// `[patches, vision]` to `[patches, hidden]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, backend: &B, features: &B::Tensor) -> Result<B::Tensor, BackendError> {
        let x = backend.linear(features, &self.fc1, Activation::Gelu)?;
        let x = backend.linear(&x, &self.fc2, Activation::Gelu)?;
        backend.linear(&x, &self.fc3, Activation::Identity)
    }
}
