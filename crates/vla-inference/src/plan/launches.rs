//! Operations of OpenVLA and OpenVLA-OFT, as their models and `backend/tt` launch them under
//! capture. `tests/plan_launches.rs` and `tests/mesh_oft.rs` compare them with those that the
//! backend counts.

use std::collections::BTreeSet;

use super::layers::PlannedLayer;
use super::rates::Operations;
use super::{Assumptions, HEAD_BLOCKS, MeshKind, OnePass, TILE_SIDE};
use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::scanned_logits;
use crate::checkpoint::OpenVlaConfig;

/// A decoder layer over a prompt: two norms, the products of attention (2) and MLP (3), heads split
/// and joined, two rotations, keys and values written, attention, the gate, two sums.
const PREFILL_LAYER: usize = 17;
/// The same over one row, keys and values written at once.
const DECODE_LAYER: usize = 16;
/// Operations of TT-NN within those of a decode layer: values moved to a core of their own, the
/// result turned.
const WITHIN_DECODE_LAYER: usize = 2;
/// Keys and values of a prompt, in the caches of a layer.
const FILLS: usize = 2;
/// Shifting the buffer of tokens: kept part, joined, copied back.
const TOKENS_SHIFTED: usize = 3;

/// What a stage's operations depend on.
pub(super) struct Launched<'a> {
    pub config: &'a OpenVlaConfig,
    pub mesh: MeshKind,
    pub policy: &'a PrecisionPolicy,
    pub assumptions: &'a Assumptions,
    pub layers: &'a [PlannedLayer],
}

impl Launched<'_> {
    /// Operations of an all-reduce: itself, and a conversion where the sums have another format.
    fn reduction(&self) -> usize {
        1 + usize::from(self.policy.collectives != self.policy.stream)
    }

    /// All-reduces of the language model.
    fn reductions(&self) -> usize {
        let reduced = self
            .layers
            .iter()
            .filter(|layer| layer.all_reduces(self.policy, self.mesh, self.assumptions));
        let llama = reduced.filter(|layer| layer.group == super::Group::Llama);
        llama.map(|layer| layer.count).sum()
    }

    /// Towers and projector.
    pub(super) fn vision(&self) -> Operations {
        let Self { config, policy, .. } = self;
        let images = self.assumptions.images;
        let split_vision = usize::from(policy.split_vision && self.mesh.chips() > 1);
        let grids: BTreeSet<_> =
            config.towers.iter().map(|tower| (tower.img_size, tower.patch_size)).collect();
        let towers = config.towers.iter().map(|tower| {
            // Patch and position embedding; prefix tokens are appended and cut off.
            let prefix = if tower.prefix_tokens == 0 { 0 } else { 2 };
            2 + prefix + tower.used_blocks() * (11 + 2 * split_vision * self.reduction())
        });
        let joined = usize::from(config.towers.len() > 1);
        let image = grids.len() + towers.sum::<usize>() + joined;
        // A sharded projector reduces once, applies the activation after it, and gathers its
        // output; a width that does not fill the tiles of its shards is cut.
        let outputs = config.projector.layers.last().copied().unwrap_or(0);
        let shards = if split_vision == 1 { self.mesh.chips() } else { 1 };
        let padded = shards * outputs.div_ceil(shards).next_multiple_of(TILE_SIDE) > outputs;
        let projector = config.projector.layers.len()
            + usize::from(padded)
            + split_vision * (self.reduction() + 2);
        let launches = images * image + usize::from(images > 1) + projector;
        Operations { launches, images: images * grids.len(), ..Operations::default() }
    }

    /// OpenVLA-OFT: everything after the vision stage.
    pub(super) fn one_pass(&self, pass: OnePass) -> Operations {
        let state = if pass.state_dim > 0 { 2 } else { 0 };
        // Embedding, its three parts, the sequence.
        let sequence = 1 + 3 + state + 1;
        let layers = self.config.llama.num_hidden_layers;
        let (reductions, llama) = (self.reductions(), layers * PREFILL_LAYER);
        // The last layer's rows are cut out twice; the last norm.
        let head = 2 + 1 + 5 + 3 * HEAD_BLOCKS;
        Operations {
            launches: sequence + llama + reductions * self.reduction() + head,
            within: reductions,
            ..Operations::default()
        }
    }

    /// OpenVLA: the prompt up to the first token.
    pub(super) fn prefill(&self) -> Operations {
        let layers = self.config.llama.num_hidden_layers;
        let reductions = self.reductions();
        // Embedding, its two parts, the sequence; the position set back.
        let sequence = 1 + 2 + 1 + 2;
        // The last layer's row is looked up twice, in rows without tiles; the last norm.
        let last = 2 * 2 + 1;
        let answer = self.answer();
        let converted = usize::from(self.policy.cache != NumberFormat::Bf16);
        // After the last layer's attention there is one row: its sums are folded.
        let folds = self.folds(reductions.min(2));
        Operations {
            launches: sequence
                + layers * PREFILL_LAYER
                + reductions * self.reduction()
                + folds
                + last
                + answer.launches,
            // A reduction is two operations; keys and values of another format are converted; the
            // rows that were looked up become tiles.
            within: reductions + converted * FILLS * layers + 2,
            folds,
            norms: 2,
            ..answer
        }
    }

    /// OpenVLA: one further token.
    pub(super) fn decode_step(&self) -> Operations {
        let layers = self.config.llama.num_hidden_layers;
        let reductions = self.reductions();
        let folds = self.folds(reductions);
        let answer = self.answer();
        let embedding = usize::from(self.policy.stream != NumberFormat::Bf16);
        // Cosine and sine looked up; the last norm; two counters.
        let around = embedding + 2 + 1 + 2;
        Operations {
            launches: around
                + layers * DECODE_LAYER
                + reductions * self.reduction()
                + folds
                + answer.launches,
            within: layers * WITHIN_DECODE_LAYER + reductions,
            norms: 2 * layers + 1,
            updates: layers,
            folds,
            ..answer
        }
    }

    /// Reshapes around `reductions` all-reduces of one row.
    fn folds(&self, reductions: usize) -> usize {
        if self.assumptions.decode_rows == 1 { 2 * reductions } else { 0 }
    }

    /// Head, argmax and the token's place in the buffer, by the custom kernels.
    fn answer(&self) -> Operations {
        let outputs = self.assumptions.head_rows;
        let divided = outputs > super::WIDE_HEAD;
        let (scanned, by_chip) = scanned_logits(self.mesh, outputs, divided);
        // A scan on every chip, whose candidates are gathered.
        let scans = usize::from(by_chip) * (1 + usize::from(self.mesh.chips() > 1));
        Operations { launches: 2 + scans + TOKENS_SHIFTED, scanned, ..Operations::default() }
    }
}
