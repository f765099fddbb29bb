//! The two parts beside the model: the projector of the state and the regression head.

use super::super::weights::host_tensor;
use super::super::{ModelError, Probe, TensorSource, Weights};
use crate::backend::{Activation, Backend, BackendError, TensorParallel, WeightRole};
use crate::checkpoint::{OftComponent, OftHead, OftProprio};
use crate::tensor::HostTensor;

/// Epsilon of the head's layer norms: PyTorch's default, ten times that of the towers.
const HEAD_EPSILON: f32 = 1e-5;

/// A component's file as a source of tensors.
pub struct OftComponentWeights<'a>(pub &'a OftComponent);

impl TensorSource for OftComponentWeights<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        host_tensor(name, self.0.expect(name, shape)?)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// The robot's state to one row of the language model's input.
pub struct ProprioProjector<B: Backend> {
    fc1: B::Linear,
    fc2: B::Linear,
}

impl<B: Backend> ProprioProjector<B> {
    pub(super) fn load(
        backend: &B,
        proprio: &OftProprio,
        other: Option<&dyn TensorSource>,
        hidden: usize,
    ) -> Result<Self, ModelError> {
        let own = OftComponentWeights(&proprio.component);
        let weights = Weights::new(other.unwrap_or(&own));
        let role = (WeightRole::Projector, TensorParallel::Replicated);
        Ok(Self {
            fc1: weights.linear(backend, role, "fc1", [hidden, proprio.state_dim])?,
            fc2: weights.linear(backend, role, "fc2", [hidden, hidden])?,
        })
    }

    /// Normalised state `[1, state_dim]` to `[1, hidden]`: a linear layer, exact GELU, a linear
    /// layer.
    pub(super) fn forward(
        &self,
        backend: &B,
        state: &B::Tensor,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let x = backend.linear(state, &self.fc1, Activation::Gelu)?;
        let x = backend.linear(&x, &self.fc2, Activation::Identity)?;
        probe.observe("proprio.token", &x)?;
        Ok(x)
    }
}

/// `MLPResNet`: hidden states of one step's numbers, side by side, to that step's action.
pub struct RegressionHead<B: Backend> {
    layer_norm1: B::Norm,
    fc1: B::Linear,
    blocks: Vec<(B::Norm, B::Linear)>,
    layer_norm2: B::Norm,
    fc2: B::Linear,
}

impl<B: Backend> RegressionHead<B> {
    pub(super) fn load(
        backend: &B,
        head: &OftHead,
        other: Option<&dyn TensorSource>,
        llama_hidden: usize,
    ) -> Result<Self, ModelError> {
        let &OftHead { action_dim, hidden, blocks, .. } = head;
        let own = OftComponentWeights(&head.component);
        let weights = Weights::new(other.unwrap_or(&own)).at("model");
        let role = (WeightRole::Projector, TensorParallel::Replicated);
        let norm = |weights: &Weights<'_>, name: &str, width| {
            weights.layer_norm(backend, name, width, HEAD_EPSILON)
        };
        let inputs = action_dim * llama_hidden;
        let block = |index| {
            let weights = weights.at("mlp_resnet_blocks").at(index).at("ffn");
            let linear = weights.linear(backend, role, "1", [hidden, hidden])?;
            Ok::<_, ModelError>((norm(&weights, "0", hidden)?, linear))
        };
        Ok(Self {
            layer_norm1: norm(&weights, "layer_norm1", inputs)?,
            fc1: weights.linear(backend, role, "fc1", [hidden, inputs])?,
            blocks: (0..blocks).map(block).collect::<Result<_, _>>()?,
            layer_norm2: norm(&weights, "layer_norm2", hidden)?,
            fc2: weights.linear(backend, role, "fc2", [action_dim, hidden])?,
        })
    }

    /// Hidden states `[chunk * action_dim, llama_hidden]` to normalised actions `[chunk,
    /// action_dim]`.
    pub(super) fn forward(
        &self,
        backend: &B,
        states: &B::Tensor,
        (chunk, action_dim): (usize, usize),
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let [rows, _] = backend.shape(states);
        if rows != chunk * action_dim {
            return Err(BackendError::Shape {
                operation: "regression head",
                detail: format!("{rows} rows for {chunk} steps of {action_dim}"),
            });
        }
        let x = backend.reshape_rows(states, chunk)?;
        let x = backend.layer_norm(&x, &self.layer_norm1)?;
        probe.observe("head.layer_norm1", &x)?;
        if probe.every_layer() {
            // Recorded before the ReLU in the golden kits.
            probe.observe("head.fc1", &backend.linear(&x, &self.fc1, Activation::Identity)?)?;
        }
        let mut x = backend.linear(&x, &self.fc1, Activation::Relu)?;
        for (index, (norm, linear)) in self.blocks.iter().enumerate() {
            let normed = backend.layer_norm(&x, norm)?;
            x = backend.add(x, &backend.linear(&normed, linear, Activation::Relu)?)?;
            if probe.every_layer() {
                probe.observe(&format!("head.block{index}"), &x)?;
            }
        }
        let x = backend.layer_norm(&x, &self.layer_norm2)?;
        probe.observe("head.layer_norm2", &x)?;
        let x = backend.linear(&x, &self.fc2, Activation::Identity)?;
        probe.observe("head.fc2", &x)?;
        Ok(x)
    }
}
