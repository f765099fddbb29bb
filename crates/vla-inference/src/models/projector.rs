//! The projector: patch features of both towers to embeddings of the language model.

use super::{ModelError, Weights};
use crate::backend::{Activation, Backend, BackendError, Split, WeightRole};

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
        let linear = |name, shape, split| {
            weights.linear(backend, (WeightRole::Projector, split), name, shape)
        };
        Ok(Self {
            fc1: linear("fc1", [4 * vision, vision], Split::Columns)?,
            fc2: linear("fc2", [hidden, 4 * vision], Split::Rows)?,
            fc3: linear("fc3", [hidden, hidden], Split::Columns)?,
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
