//! Llama 2: pre-norm RMS norm, rotary embedding in Hugging Face's order, SwiGLU MLP, untied head.

use std::ops::Range;

use super::{ModelError, Probe, Weights};
use crate::backend::{
    Activation, AnswerSpec, Backend, BackendError, CacheSpec, HeadShape, LinearSource, Position,
    Split, WeightRole,
};
use crate::checkpoint::LlamaConfig;

/// A head of more rows than this may be cut over the chips.
const WIDE_HEAD: usize = 1024;

/// Which positions a forward pass takes in and gives out.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Position of the first row.
    pub position: Position,
    /// How many of the last rows are wanted.
    pub keep: usize,
}

/// The language model. Which rows of the head are loaded is chosen when it is built.
pub struct Llama<B: Backend> {
    config: LlamaConfig,
    embed_tokens: B::Table,
    layers: Vec<Layer<B>>,
    norm: B::Norm,
    lm_head: B::Linear,
    /// Token ids the head's outputs stand for.
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
    /// Loads `language_model.*`; of the head only the rows `head_ids`.
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
        let head = weights.tensor("lm_head.weight", &[config.vocab_size, config.hidden_size])?;
        let rows = head.rows(head_ids.clone()).map_err(BackendError::from)?;
        let lm_head = backend.load_linear(LinearSource {
            role: WeightRole::Head,
            weights: vec![rows],
            bias: None,
            output_scale: None,
            // A head of action tokens is small: every chip holds it, and nothing is gathered.
            split: if head_ids.len() > WIDE_HEAD { Split::Columns } else { Split::Whole },
        })?;
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

    /// Dimensions.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Token ids that the outputs of [`Llama::logits`] stand for.
    #[must_use]
    pub fn head_ids(&self) -> Range<usize> {
        self.head_ids.clone()
    }

    /// An empty cache for `capacity` positions.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new_cache(&self, backend: &B, capacity: usize) -> Result<B::Cache, BackendError> {
        backend.new_cache(CacheSpec {
            layers: self.config.num_hidden_layers,
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
    /// When an id leaves the table.
    pub fn embed(&self, backend: &B, ids: &[u32]) -> Result<B::Tensor, BackendError> {
        backend.embed(&self.embed_tokens, ids)
    }

    /// Like [`Llama::embed`], of ids on the device.
    ///
    /// # Errors
    /// As [`Llama::embed`].
    pub fn embed_ids(&self, backend: &B, ids: &B::Ids) -> Result<B::Tensor, BackendError> {
        backend.embed_ids(&self.embed_tokens, ids)
    }

    /// Room for tokens chosen on the device.
    ///
    /// # Errors
    /// When the device has none.
    pub fn new_answer(&self, backend: &B, spec: AnswerSpec) -> Result<B::Answer, BackendError> {
        backend.new_answer(spec, &self.embed_tokens)
    }

    /// Chooses the token after the one row of `x`, on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn choose(
        &self,
        backend: &B,
        x: &B::Tensor,
        answer: &mut B::Answer,
    ) -> Result<(), BackendError> {
        backend.choose(x, &self.lm_head, &self.embed_tokens, answer)
    }

    /// Makes `id` the answer's newest token.
    ///
    /// # Errors
    /// When the id leaves the table or the device fails.
    pub fn tell(&self, backend: &B, answer: &mut B::Answer, id: u32) -> Result<(), BackendError> {
        backend.tell(answer, &self.embed_tokens, id)
    }

    /// Runs `x` `[positions, hidden]` at `position..`, and returns the normalised state of the last
    /// `keep` positions, `[keep, hidden]`. The last layer's attention output and MLP run for those
    /// positions only.
    ///
    /// # Errors
    /// When the cache is full or the device fails.
    pub fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut B::Cache,
        Span { position, keep }: Span,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let [rows, _] = backend.shape(&x);
        let last = rows.saturating_sub(keep)..rows;
        let mut x = x;
        for (index, layer) in self.layers.iter().enumerate() {
            // A probe wants to see every position of every layer.
            let cut = (index + 1 == self.layers.len() && last.start > 0 && !probe.wants())
                .then(|| last.clone());
            x = layer.forward(backend, x, cache, (index, position), cut)?;
            if probe.wants() {
                probe.see(&format!("llm.layer{index}.out"), &x)?;
            }
        }
        if probe.wants() && last.start > 0 {
            x = backend.slice_rows(&x, last)?;
        }
        let x = backend.rms_norm(&x, &self.norm)?;
        probe.see("llm.final_norm.out", &x)?;
        Ok(x)
    }

    /// Logits `[rows, head_ids]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn logits(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, BackendError> {
        backend.linear(x, &self.lm_head, Activation::Identity)
    }
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
        let (heads, after) = (Split::Heads(shape), Split::AfterHeads(shape));
        let qkv = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let gate_up =
            [("gate_proj", config.intermediate_size), ("up_proj", config.intermediate_size)];
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            qkv: attention.stacked(
                backend,
                (WeightRole::Attention, heads),
                &qkv,
                config.hidden_size,
            )?,
            o_proj: attention.stacked(
                backend,
                (WeightRole::Attention, after),
                &[("o_proj", config.hidden_size)],
                queries,
            )?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_up: mlp.stacked(
                backend,
                (WeightRole::Mlp, Split::Columns),
                &gate_up,
                config.hidden_size,
            )?,
            down_proj: mlp.stacked(
                backend,
                (WeightRole::Mlp, Split::Rows),
                &[("down_proj", config.hidden_size)],
                config.intermediate_size,
            )?,
        })
    }

    /// `cut`: the rows to go on with after attention, when not all are needed any more.
    fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut B::Cache,
        (index, position): (usize, Position),
        cut: Option<Range<usize>>,
    ) -> Result<B::Tensor, BackendError> {
        let normed = backend.rms_norm(&x, &self.input_layernorm)?;
        let qkv = backend.linear(&normed, &self.qkv, Activation::Identity)?;
        let attended = backend.causal_attention(&qkv, cache, index, position)?;
        let (x, attended) = match cut {
            Some(rows) => {
                (backend.slice_rows(&x, rows.clone())?, backend.slice_rows(&attended, rows)?)
            }
            None => (x, attended),
        };
        let x = backend.add(x, &backend.linear(&attended, &self.o_proj, Activation::Identity)?)?;
        let normed = backend.rms_norm(&x, &self.post_attention_layernorm)?;
        let hidden =
            backend.silu_mul(&backend.linear(&normed, &self.gate_up, Activation::Identity)?)?;
        backend.add(x, &backend.linear(&hidden, &self.down_proj, Activation::Identity)?)
    }
}
