//! The tensors of pi0 and pi0.5, and a loader that accepts exactly these.

use super::config::{Pi0Config, Pi0Kind};
use super::dimensions::GemmaConfig;
use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::expected::ExpectedTensor;
use crate::checkpoint::weights::WeightFiles;

const VLM: &str = "paligemma_with_expert.paligemma";
const EXPERT: &str = "paligemma_with_expert.gemma_expert";
/// Embedding and output head of the language model; one is a copy of the other in published files.
pub(super) const EMBED_TOKENS: &str =
    "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";
pub(super) const LM_HEAD: &str = "paligemma_with_expert.paligemma.lm_head.weight";
/// A tensor that only pi0.5 has, and one that only pi0 has.
pub(super) const ONLY_PI05: &str = "time_mlp_in.weight";
pub(super) const ONLY_PI0: &str = "state_proj.weight";
/// Buffers that some versions of transformers store and every version computes.
const COMPUTED: [&str; 2] = [".rotary_emb.inv_freq", ".embeddings.position_ids"];

struct List<'a> {
    prefix: &'a str,
    tensors: Vec<ExpectedTensor>,
}

impl List<'_> {
    fn add(&mut self, name: &str, shape: &[usize], used: bool) {
        let name = format!("{}{name}", self.prefix);
        self.tensors.push(ExpectedTensor { name, shape: shape.to_vec(), used });
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs], true);
        self.add(&format!("{name}.bias"), &[outputs], true);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width], true);
        self.add(&format!("{name}.bias"), &[width], true);
    }

    /// Of the last layer of the vision-language model only keys and values are used.
    fn gemma(&mut self, model: &str, config: &GemmaConfig, adaptive: bool, is_vlm: bool) {
        let GemmaConfig { width, depth, mlp_dim, num_heads, num_kv_heads, head_dim } = *config;
        let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
        for index in 0..depth {
            let layer = format!("{model}.layers.{index}");
            let whole = !is_vlm || index + 1 < depth;
            for (name, rows, columns, used) in [
                ("self_attn.q_proj", queries, width, true),
                ("self_attn.k_proj", keys, width, true),
                ("self_attn.v_proj", keys, width, true),
                ("self_attn.o_proj", width, queries, whole),
                ("mlp.gate_proj", mlp_dim, width, whole),
                ("mlp.up_proj", mlp_dim, width, whole),
                ("mlp.down_proj", width, mlp_dim, whole),
            ] {
                self.add(&format!("{layer}.{name}.weight"), &[rows, columns], used);
            }
            for (name, used) in [("input_layernorm", true), ("post_attention_layernorm", whole)] {
                self.gemma_norm(&format!("{layer}.{name}"), width, adaptive, used);
            }
        }
        self.gemma_norm(&format!("{model}.norm"), width, adaptive, !is_vlm);
    }

    fn gemma_norm(&mut self, name: &str, width: usize, adaptive: bool, used: bool) {
        if adaptive {
            self.linear(&format!("{name}.dense"), 3 * width, width);
        } else {
            self.add(&format!("{name}.weight"), &[width], used);
        }
    }
}

/// Every tensor of the checkpoint below `prefix` (`model.` in LeRobot's files), with `vocabulary`
/// rows of the embedding and `positions` of the tower's position embedding. Heads and embedding,
/// of which files hold different subsets, are not listed.
pub(super) fn expected_tensors(
    config: &Pi0Config,
    prefix: &str,
    positions: usize,
) -> Vec<ExpectedTensor> {
    let mut list = List { prefix, tensors: Vec::new() };
    let vision = &config.vision;
    let (width, inner, patch) = (vision.hidden_size, vision.intermediate_size, vision.patch_size);
    let tower = format!("{VLM}.model.vision_tower.vision_model");
    let patches = format!("{tower}.embeddings.patch_embedding");
    list.add(&format!("{patches}.weight"), &[width, 3, patch, patch], true);
    list.add(&format!("{patches}.bias"), &[width], true);
    let position = format!("{tower}.embeddings.position_embedding.weight");
    list.add(&position, &[positions, width], true);
    for index in 0..vision.num_hidden_layers {
        let layer = format!("{tower}.encoder.layers.{index}");
        list.norm(&format!("{layer}.layer_norm1"), width);
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&format!("{layer}.self_attn.{name}"), width, width);
        }
        list.norm(&format!("{layer}.layer_norm2"), width);
        list.linear(&format!("{layer}.mlp.fc1"), inner, width);
        list.linear(&format!("{layer}.mlp.fc2"), width, inner);
    }
    list.norm(&format!("{tower}.post_layernorm"), width);
    list.linear(&format!("{VLM}.model.multi_modal_projector.linear"), config.vlm.width, width);
    list.gemma(&format!("{VLM}.model.language_model"), &config.vlm, false, true);
    let adaptive = config.kind == Pi0Kind::Pi05;
    list.gemma(&format!("{EXPERT}.model"), &config.expert, adaptive, false);
    let expert = config.expert.width;
    list.linear("action_in_proj", expert, config.max_action_dim);
    list.linear("action_out_proj", config.max_action_dim, expert);
    match config.kind {
        Pi0Kind::Pi0 => {
            list.linear("state_proj", expert, config.max_state_dim);
            list.linear("action_time_mlp_in", expert, 2 * expert);
            list.linear("action_time_mlp_out", expert, expert);
        }
        Pi0Kind::Pi05 => {
            list.linear("time_mlp_in", expert, expert);
            list.linear("time_mlp_out", expert, expert);
        }
    }
    list.tensors
}

impl Pi0Config {
    /// The tensors that inference needs, named as LeRobot names them: for a checkpoint of
    /// `positions` position embeddings and `vocabulary` tokens.
    #[must_use]
    pub fn expected_tensors(&self, positions: usize, vocabulary: usize) -> Vec<ExpectedTensor> {
        let mut tensors = expected_tensors(self, "model.", positions);
        let embedding = optional_tensors(self, "model.", vocabulary);
        tensors.extend(embedding.into_iter().filter(|tensor| tensor.used));
        tensors
    }
}

/// Heads and the embedding, with the rows of the vocabulary: known, and read only where the
/// embedding is looked up.
pub(super) fn optional_tensors(
    config: &Pi0Config,
    prefix: &str,
    vocabulary: usize,
) -> Vec<ExpectedTensor> {
    let mut list = List { prefix, tensors: Vec::new() };
    list.add(EMBED_TOKENS, &[vocabulary, config.vlm.width], true);
    list.add(LM_HEAD, &[vocabulary, config.vlm.width], false);
    list.add(&format!("{EXPERT}.lm_head.weight"), &[vocabulary, config.expert.width], false);
    list.tensors
}

/// Accepts the files only when they hold every expected tensor with its shape, and no other.
pub(super) fn check_complete(
    weights: &WeightFiles,
    expected: &[ExpectedTensor],
    optional: &[ExpectedTensor],
) -> Result<(), CheckpointError> {
    for tensor in expected {
        weights.expect(&tensor.name, &tensor.shape)?;
    }
    for tensor in optional {
        if weights.contains(&tensor.name) {
            weights.expect(&tensor.name, &tensor.shape)?;
        }
    }
    let known: std::collections::BTreeSet<&str> =
        expected.iter().chain(optional).map(|tensor| tensor.name.as_str()).collect();
    let unexplained: Vec<&str> = weights
        .names()
        .filter(|name| !known.contains(name) && !COMPUTED.iter().any(|end| name.ends_with(end)))
        .collect();
    let Some(first) = unexplained.first() else { return Ok(()) };
    Err(CheckpointError::field(
        weights.folder(),
        "weights",
        format!(
            "{} tensors that no part of the model reads, {} first",
            unexplained.len(),
            quoted(first)
        ),
        "the model that they belong to would be computed wrongly without them; use a merged \
        checkpoint of pi0 or pi0.5 without additions",
    ))
}
