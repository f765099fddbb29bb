//! Llama 2: pre-norm RMS norm, rotary embedding in Hugging Face's order, SwiGLU MLP, untied head.

use std::ops::Range;

use super::{ModelError, NoProbe, Probe, Weights};
use crate::backend::{
    Activation, Backend, BackendError, CacheSpec, HeadShape, LinearSource, Mask, TensorParallel,
    TokenBufferSpec, TraceBackend, WeightRole,
};
use crate::checkpoint::LlamaConfig;

/// A head with more rows than this is column-parallel; a smaller one is replicated.
const WIDE_HEAD: usize = 1024;

/// A Llama decoder; its head may hold a range of the vocabulary only.
pub struct Llama<B: Backend> {
    config: LlamaConfig,
    embed_tokens: B::Table,
    layers: Vec<Layer<B>>,
    norm: B::Norm,
    /// `None` for no ids.
    lm_head: Option<B::Linear>,
    /// Token ids of the head's outputs.
    head_ids: Range<usize>,
}

struct Layer<B: Backend> {
    input_layernorm: B::Norm,
    qkv: B::Linear,
    o_proj: B::Linear,
    post_attention_layernorm: B::Norm,
    gate_up: B::Linear,
    down_proj: B::Linear,
}

impl<B: Backend> Llama<B> {
    /// Loads `language_model.*`, of the head only the rows `head_ids`; without ids there are no
    /// logits.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        weights: &Weights<'_>,
        config: LlamaConfig,
        head_ids: Range<usize>,
    ) -> Result<Self, ModelError> {
        let model = weights.at("model");
        let table =
            model.tensor("embed_tokens.weight", &[config.vocab_size, config.hidden_size])?;
        let lm_head = match head_ids.is_empty() {
            true => None,
            false => Some(load_head(backend, weights, &config, head_ids.clone())?),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(backend, &model.at("layers").at(index), &config))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            embed_tokens: backend.load_table(table)?,
            layers,
            norm: model.rms_norm(
                backend,
                "norm",
                config.hidden_size,
                config.rms_norm_eps as f32,
            )?,
            lm_head,
            head_ids,
            config,
        })
    }

    /// Shape and constants.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Token ids of the columns of [`Llama::logits`].
    #[must_use]
    pub fn head_ids(&self) -> Range<usize> {
        self.head_ids.clone()
    }

    /// An empty KV cache for `capacity` positions.
    ///
    /// # Errors
    /// When device memory is short.
    pub fn new_cache(&self, backend: &B, capacity: usize) -> Result<B::Cache, BackendError> {
        self.cache_of(backend, self.config.num_hidden_layers, capacity)
    }

    fn cache_of(
        &self,
        backend: &B,
        layers: usize,
        capacity: usize,
    ) -> Result<B::Cache, BackendError> {
        backend.new_cache(CacheSpec {
            layers,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            capacity,
            rope_theta: self.config.rope_theta,
        })
    }

    /// Token embeddings `[ids, hidden]`.
    ///
    /// # Errors
    /// When an id is outside the vocabulary.
    pub fn embed(&self, backend: &B, ids: &[u32]) -> Result<B::Tensor, BackendError> {
        backend.embed(&self.embed_tokens, ids)
    }

    /// Runs the new positions `x` = `[positions, hidden]` from `position` on, and returns the
    /// normalised hidden state of the last `keep` of them, `[keep, hidden]`.
    ///
    /// # Errors
    /// When the KV cache is full or the device fails.
    pub fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut B::Cache,
        (position, keep): (usize, usize),
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let [rows, _] = backend.shape(&x);
        let kept = rows.saturating_sub(keep)..rows;
        self.run(backend, x, slice_of(backend, kept, rows), probe, |qkv, layer| {
            backend.cached_attention(qkv, cache, layer, position, Mask::Causal)
        })
    }

    /// A cache of one layer, which all layers of [`Llama::forward_once`] use in turn.
    ///
    /// # Errors
    /// When device memory is short.
    pub fn scratch_cache(&self, backend: &B, positions: usize) -> Result<B::Cache, BackendError> {
        self.cache_of(backend, 1, positions)
    }

    /// Runs a whole sequence `x` = `[positions, hidden]` that nothing continues, so that no keys
    /// are kept, and returns the normalised hidden state of the rows `kept`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward_once(
        &self,
        backend: &B,
        x: B::Tensor,
        scratch: &mut B::Cache,
        (mask, kept): (Mask, Range<usize>),
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let [rows, _] = backend.shape(&x);
        self.run(backend, x, slice_of(backend, kept, rows), probe, |qkv, _| {
            backend.cached_attention(qkv, scratch, 0, 0, mask)
        })
    }

    /// All layers with the given attention. The last layer's attention output and MLP run for the
    /// rows that `cut` selects only, unless the probe needs every position.
    fn run(
        &self,
        backend: &B,
        mut x: B::Tensor,
        cut: Option<impl Fn(&B::Tensor) -> Result<B::Tensor, BackendError>>,
        probe: &mut impl Probe<B>,
        mut attend: impl FnMut(&B::Tensor, usize) -> Result<B::Tensor, BackendError>,
    ) -> Result<B::Tensor, BackendError> {
        for (index, layer) in self.layers.iter().enumerate() {
            let cut =
                cut.as_ref().filter(|_| index + 1 == self.layers.len() && !probe.every_layer());
            x = layer.forward(backend, x, cut, |qkv| attend(qkv, index))?;
            if probe.every_layer() {
                probe.observe(&format!("llm.layer{index}.out"), &x)?;
            }
        }
        if let (true, Some(cut)) = (probe.every_layer(), &cut) {
            x = cut(&x)?;
        }
        let x = backend.rms_norm(&x, &self.norm)?;
        probe.observe("llm.final_norm.out", &x)?;
        Ok(x)
    }

    /// Logits `[rows, head_ids]`.
    ///
    /// # Errors
    /// When the head was not loaded or the device fails.
    pub fn logits(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, BackendError> {
        backend.linear(x, self.head()?, Activation::Identity)
    }

    fn head(&self) -> Result<&B::Linear, BackendError> {
        self.lm_head.as_ref().ok_or_else(|| BackendError::Shape {
            operation: "logits",
            detail: "the model was loaded without its head".into(),
        })
    }
}

impl<B: TraceBackend> Llama<B> {
    /// [`Llama::embed`] for ids on the device.
    ///
    /// # Errors
    /// As [`Llama::embed`].
    pub fn embed_ids(&self, backend: &B, ids: &B::TokenIds) -> Result<B::Tensor, BackendError> {
        backend.embed_ids(&self.embed_tokens, ids)
    }

    /// [`Llama::forward`] from position 0, for the rows that ids on the device name.
    ///
    /// # Errors
    /// When the KV cache is full, a row does not exist, or the device fails.
    pub fn forward_selected(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut B::Cache,
        rows: &B::TokenIds,
    ) -> Result<B::Tensor, BackendError> {
        let selected = |x: &B::Tensor| backend.select_rows(x, rows);
        self.run(backend, x, Some(selected), &mut NoProbe, |qkv, layer| {
            backend.cached_attention(qkv, cache, layer, 0, Mask::Causal)
        })
    }

    /// An empty token buffer.
    ///
    /// # Errors
    /// When device memory is short.
    pub fn new_token_buffer(
        &self,
        backend: &B,
        spec: TokenBufferSpec,
    ) -> Result<B::TokenBuffer, BackendError> {
        backend.new_token_buffer(spec, &self.embed_tokens)
    }

    /// Appends the greedy token after the one row of `x` = `[1, hidden]`, on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn argmax_append(
        &self,
        backend: &B,
        x: &B::Tensor,
        buffer: &mut B::TokenBuffer,
    ) -> Result<(), BackendError> {
        backend.argmax_append(x, self.head()?, &self.embed_tokens, buffer)
    }

    /// Makes the one id the token that the next decode step continues from.
    ///
    /// # Errors
    /// When the id is outside the vocabulary or the device fails.
    pub fn set_last_token(
        &self,
        backend: &B,
        buffer: &mut B::TokenBuffer,
        id: &B::TokenIds,
    ) -> Result<(), BackendError> {
        backend.set_last_token(buffer, &self.embed_tokens, id)
    }

    /// [`Llama::forward`] of one position, `x` = `[1, hidden]`, at the KV cache's position counter.
    ///
    /// # Errors
    /// When no position was set or the device fails.
    pub fn forward_at_counter(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut B::Cache,
    ) -> Result<B::Tensor, BackendError> {
        let whole = slice_of(backend, 0..1, 1);
        self.run(backend, x, whole, &mut NoProbe, |qkv, layer| {
            backend.causal_attention_at_counter(qkv, cache, layer)
        })
    }
}

/// The rows `kept` of `rows`; `None` for all of them.
fn slice_of<B: Backend>(
    backend: &B,
    kept: Range<usize>,
    rows: usize,
) -> Option<impl Fn(&B::Tensor) -> Result<B::Tensor, BackendError>> {
    (kept != (0..rows)).then_some(move |x: &B::Tensor| backend.slice_rows(x, kept.clone()))
}

/// The rows `ids` of the output head.
fn load_head<B: Backend>(
    backend: &B,
    weights: &Weights<'_>,
    config: &LlamaConfig,
    ids: Range<usize>,
) -> Result<B::Linear, ModelError> {
    let head = weights.tensor("lm_head.weight", &[config.vocab_size, config.hidden_size])?;
    // The 256 action tokens' rows are replicated, so that no logits are gathered.
    let parallelism = match ids.len() > WIDE_HEAD {
        true => TensorParallel::Column,
        false => TensorParallel::Replicated,
    };
    Ok(backend.load_linear(LinearSource {
        role: WeightRole::Head,
        weights: vec![head.rows(ids).map_err(BackendError::from)?],
        bias: None,
        output_scale: None,
        parallelism,
        few_rows: false,
    })?)
}

impl<B: Backend> Layer<B> {
    fn load(backend: &B, weights: &Weights<'_>, config: &LlamaConfig) -> Result<Self, ModelError> {
        let (attention, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        let (queries, keys) = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        );
        let norm =
            |name| weights.rms_norm(backend, name, config.hidden_size, config.rms_norm_eps as f32);
        let shape = HeadShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            rotary: true,
        };
        let (column, row) = (TensorParallel::ColumnByHead(shape), TensorParallel::RowByHead(shape));
        let qkv = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let gate_up =
            [("gate_proj", config.intermediate_size), ("up_proj", config.intermediate_size)];
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            qkv: attention.stacked(
                backend,
                (WeightRole::Attention, column),
                &qkv,
                config.hidden_size,
            )?,
            o_proj: attention.stacked(
                backend,
                (WeightRole::Attention, row),
                &[("o_proj", config.hidden_size)],
                queries,
            )?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_up: mlp.stacked(
                backend,
                (WeightRole::Mlp, TensorParallel::Column),
                &gate_up,
                config.hidden_size,
            )?,
            down_proj: mlp.stacked(
                backend,
                (WeightRole::Mlp, TensorParallel::Row),
                &[("down_proj", config.hidden_size)],
                config.intermediate_size,
            )?,
        })
    }

    /// `[rows, hidden]` to the same, or to the rows that `cut` selects where only those are needed
    /// after the attention.
    fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        cut: Option<&impl Fn(&B::Tensor) -> Result<B::Tensor, BackendError>>,
        mut attend: impl FnMut(&B::Tensor) -> Result<B::Tensor, BackendError>,
    ) -> Result<B::Tensor, BackendError> {
        let normed = backend.rms_norm(&x, &self.input_layernorm)?;
        let qkv = backend.linear(&normed, &self.qkv, Activation::Identity)?;
        let attended = attend(&qkv)?;
        let (x, attended) = match cut {
            Some(cut) => (cut(&x)?, cut(&attended)?),
            None => (x, attended),
        };
        let x = backend.add(x, &backend.linear(&attended, &self.o_proj, Activation::Identity)?)?;
        let normed = backend.rms_norm(&x, &self.post_attention_layernorm)?;
        let hidden =
            backend.silu_mul(&backend.linear(&normed, &self.gate_up, Activation::Identity)?)?;
        backend.add(x, &backend.linear(&hidden, &self.down_proj, Activation::Identity)?)
    }
}
