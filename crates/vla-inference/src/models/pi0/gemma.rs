//! Gemma layers of both stacks: RMS norm with gain `1 + w`, grouped queries, tanh-gated MLP.
//!
//! Positions, keys and values of the two stacks are in one cache: layer by layer, the action expert
//! attends to those of the vision-language model.

use super::modulation::LayerModulation;
use crate::backend::{
    Activation, Backend, BackendError, HeadShape, LinearSource, Mask, NormSource, TensorParallel,
    WeightRole,
};
use crate::checkpoint::pi0::GemmaConfig;
use crate::models::{ModelError, Probe, Weights};
use crate::tensor::HostTensor;

/// Epsilon of its RMS norms.
pub(super) const EPSILON: f32 = 1e-6;
/// Base of its rotary embedding.
pub(super) const ROPE_THETA: f64 = 10_000.0;

/// A layer; without `post_attention_layernorm` and what follows only where nothing needs them.
pub(super) struct Layer<B: Backend> {
    input_layernorm: B::Norm,
    qkv: B::Linear,
    rest: Option<AfterAttention<B>>,
}

/// What the layers of a stack have in common.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    /// Whether scale and shift of the norms come from the time: they have no weight of their own.
    pub adaptive: bool,
    /// Whether every pass has a few tiles of rows only.
    pub few_rows: bool,
}

struct AfterAttention<B: Backend> {
    o_proj: B::Linear,
    post_attention_layernorm: B::Norm,
    gate_up: B::Linear,
    down_proj: B::Linear,
}

/// The norm `name`: gain `1 + weight`, or 1 where scale and shift come from the time.
pub(super) fn load_norm<B: Backend>(
    backend: &B,
    weights: &Weights<'_>,
    name: &str,
    (width, adaptive): (usize, bool),
) -> Result<B::Norm, ModelError> {
    let gain = if adaptive {
        vec![1.0; width]
    } else {
        let stored = weights.at(name).tensor("weight", &[width])?;
        stored.to_f32().into_iter().map(|weight| 1.0 + weight).collect()
    };
    let weight = HostTensor::from_f32(&[width], gain).map_err(BackendError::from)?;
    Ok(backend.load_norm(NormSource { weight, bias: None, epsilon: EPSILON })?)
}

impl<B: Backend> Layer<B> {
    /// Loads a layer of a stack; one that is not `whole` gives keys and values only.
    pub(super) fn load(
        backend: &B,
        weights: &Weights<'_>,
        config: &GemmaConfig,
        (Stack { adaptive, few_rows }, whole): (Stack, bool),
    ) -> Result<Self, ModelError> {
        let GemmaConfig { width, mlp_dim, num_heads, num_kv_heads, head_dim, .. } = *config;
        let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
        let shape = HeadShape { heads: num_heads, kv_heads: num_kv_heads, head_dim, rotary: true };
        let (attention, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        let norm = |name| load_norm(backend, weights, name, (width, adaptive));
        let load = |weights: &Weights<'_>, role, parts: &[_], inputs| {
            let source = weights.stacked_source(role, parts, inputs)?;
            weights.load_linear(backend, LinearSource { few_rows, ..source })
        };
        let column = (WeightRole::Attention, TensorParallel::ColumnByHead(shape));
        let qkv = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let rest = || -> Result<AfterAttention<B>, ModelError> {
            let row = (WeightRole::Attention, TensorParallel::RowByHead(shape));
            let gate_up = [("gate_proj", mlp_dim), ("up_proj", mlp_dim)];
            Ok(AfterAttention {
                o_proj: load(&attention, row, &[("o_proj", width)], queries)?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                gate_up: load(&mlp, (WeightRole::Mlp, TensorParallel::Column), &gate_up, width)?,
                down_proj: load(
                    &mlp,
                    (WeightRole::Mlp, TensorParallel::Row),
                    &[("down_proj", width)],
                    mlp_dim,
                )?,
            })
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            qkv: load(&attention, column, &qkv, width)?,
            rest: whole.then(rest).transpose()?,
        })
    }

    /// `[rows, q | k | v]`.
    fn qkv(
        &self,
        backend: &B,
        x: &B::Tensor,
        modulation: Option<&LayerModulation<B>>,
    ) -> Result<B::Tensor, BackendError> {
        let normed = backend.rms_norm(x, &self.input_layernorm)?;
        let normed = match modulation {
            Some(modulation) => modulation.input_layernorm.apply(backend, &normed)?,
            None => normed,
        };
        backend.linear(&normed, &self.qkv, Activation::Identity)
    }

    /// Runs the rows `position..` of `x`, which attend to the cache before them and to each other.
    /// `None` for a layer that gives keys and values only.
    pub(super) fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        (cache, index, position): (&mut B::Cache, usize, usize),
        modulation: Option<&LayerModulation<B>>,
    ) -> Result<Option<B::Tensor>, BackendError> {
        let qkv = self.qkv(backend, &x, modulation)?;
        let Some(rest) = &self.rest else {
            backend.write_cache(&qkv, cache, index, position)?;
            return Ok(None);
        };
        let attended =
            backend.cached_attention(&qkv, cache, index, position, Mask::Bidirectional)?;
        let attended = backend.linear(&attended, &rest.o_proj, Activation::Identity)?;
        let x = match modulation {
            Some(modulation) => modulation.input_layernorm.residual(backend, x, &attended)?,
            None => backend.add(x, &attended)?,
        };
        let normed = backend.rms_norm(&x, &rest.post_attention_layernorm)?;
        let normed = match modulation {
            Some(modulation) => modulation.post_attention_layernorm.apply(backend, &normed)?,
            None => normed,
        };
        let hidden = backend.linear(&normed, &rest.gate_up, Activation::Identity)?;
        let hidden = backend.gelu_tanh_mul(&hidden)?;
        let out = backend.linear(&hidden, &rest.down_proj, Activation::Identity)?;
        Ok(Some(match modulation {
            Some(modulation) => modulation.post_attention_layernorm.residual(backend, x, &out)?,
            None => backend.add(x, &out)?,
        }))
    }
}

/// The language model of PaliGemma, as far as it is needed: keys and values of every layer.
pub struct LanguageModel<B: Backend> {
    layers: Vec<Layer<B>>,
}

impl<B: Backend> LanguageModel<B> {
    /// Loads `language_model.*` without the embedding.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        weights: &Weights<'_>,
        config: &GemmaConfig,
    ) -> Result<Self, ModelError> {
        let stack = Stack { adaptive: false, few_rows: false };
        let layers = (0..config.depth)
            .map(|index| {
                let whole = index + 1 < config.depth;
                Layer::load(backend, &weights.at("layers").at(index), config, (stack, whole))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }

    /// Fills the cache from position 0 with the keys and values of `x` = `[rows, width]`, which all
    /// see each other.
    ///
    /// # Errors
    /// When the device fails.
    pub fn fill(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut B::Cache,
        probe: &mut impl Probe<B>,
    ) -> Result<(), BackendError> {
        let mut x = Some(x);
        for (index, layer) in self.layers.iter().enumerate() {
            let Some(rows) = x.take() else { break };
            x = layer.forward(backend, rows, (&mut *cache, index, 0), None)?;
            if let (Some(x), true) = (&x, probe.every_layer()) {
                probe.observe(&format!("vlm.layer{index}.out"), x)?;
            }
        }
        Ok(())
    }
}
