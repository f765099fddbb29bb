//! Every linear layer of OpenVLA by its shape, and what it takes of a chip.

use super::{Assumptions, allocated};
use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::Placement;
use crate::backend::{HeadShape, Split, WeightRole};
use crate::checkpoint::OpenVlaConfig;

/// What a layer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The towers.
    Vision,
    /// The projector.
    Projector,
    /// The language model's layers.
    Llama,
    /// The output head.
    Head,
}

/// A linear layer, `count` times.
#[derive(Clone, Debug)]
pub struct PlannedLayer {
    /// What it belongs to.
    pub group: Group,
    /// What it is for.
    pub role: WeightRole,
    /// How it is cut.
    pub split: Split,
    /// Stacked weights.
    pub parts: usize,
    /// All outputs.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// How often.
    pub count: usize,
    /// Rows that go through it in a prefill, padded to tiles.
    pub rows: usize,
}

impl PlannedLayer {
    fn placement(
        &self,
        policy: &PrecisionPolicy,
        chips: usize,
        assumptions: &Assumptions,
    ) -> Placement {
        let spread = match self.role {
            WeightRole::Vision | WeightRole::Projector if !policy.split_vision => 1,
            _ => chips,
        };
        let even =
            if self.role == WeightRole::Mlp { assumptions.mlp_multiple } else { super::TILE_SIDE };
        Placement::of(self.split, self.parts, [self.outputs, self.inputs], spread, even)
    }

    /// Bytes of all of them on one chip, as allocated.
    #[must_use]
    pub fn bytes(&self, policy: &PrecisionPolicy, chips: usize, assumptions: &Assumptions) -> u64 {
        let Placement { rows, columns, parts } = self.placement(policy, chips, assumptions);
        let weight = allocated(rows, columns, policy.weight(self.role).format, true);
        let bias = if self.bias { allocated(1, columns, NumberFormat::Bf16, true) } else { 0 };
        (self.count * parts) as u64 * (weight + bias)
    }

    /// Weights of one of them on one chip, padding included.
    #[must_use]
    pub fn elements(
        &self,
        policy: &PrecisionPolicy,
        chips: usize,
        assumptions: &Assumptions,
    ) -> f64 {
        let Placement { rows, columns, parts } = self.placement(policy, chips, assumptions);
        let tiles = |n: usize| n.next_multiple_of(super::TILE_SIDE) as f64;
        parts as f64 * tiles(rows) * tiles(columns)
    }

    /// Whether its result is a sum over chips.
    #[must_use]
    pub fn sums(&self, policy: &PrecisionPolicy, chips: usize) -> bool {
        let cut =
            chips > 1 && (policy.split_vision || matches!(self.group, Group::Llama | Group::Head));
        cut && matches!(self.split, Split::Rows | Split::AfterHeads(_))
    }
}

pub(super) fn layers(config: &OpenVlaConfig, assumptions: &Assumptions) -> Vec<PlannedLayer> {
    let mut layers = Vec::new();
    let mut push = |group,
                    role,
                    split,
                    parts,
                    [outputs, inputs]: [usize; 2],
                    bias,
                    count,
                    rows: usize| {
        let rows = rows.next_multiple_of(super::TILE_SIDE);
        layers.push(PlannedLayer { group, role, split, parts, outputs, inputs, bias, count, rows });
    };
    for tower in &config.towers {
        let (width, blocks) = (tower.embed_dim, tower.used_blocks());
        let heads = HeadShape {
            heads: tower.num_heads,
            kv_heads: tower.num_heads,
            head_dim: tower.head_dim(),
            rotary: false,
        };
        let rows = tower.patches() + tower.prefix_tokens;
        let mut vision = |split, shape, count, rows| {
            push(Group::Vision, WeightRole::Vision, split, 1, shape, true, count, rows);
        };
        vision(Split::Whole, [width, 3 * tower.patch_size * tower.patch_size], 1, tower.patches());
        vision(Split::Heads(heads), [3 * width, width], blocks, rows);
        vision(Split::AfterHeads(heads), [width, width], blocks, rows);
        vision(Split::Columns, [tower.mlp_hidden, width], blocks, rows);
        vision(Split::Rows, [width, tower.mlp_hidden], blocks, rows);
    }
    let patches = config.towers.first().map_or(0, |tower| tower.patches());
    let mut inputs = config.projector.vision_size;
    for (index, &outputs) in config.projector.layers.iter().enumerate() {
        let split = if index % 2 == 0 { Split::Columns } else { Split::Rows };
        push(
            Group::Projector,
            WeightRole::Projector,
            split,
            1,
            [outputs, inputs],
            true,
            1,
            patches,
        );
        inputs = outputs;
    }
    let llama = &config.llama;
    let (hidden, inside) = (llama.hidden_size, llama.intermediate_size);
    let heads = HeadShape {
        heads: llama.num_attention_heads,
        kv_heads: llama.num_key_value_heads,
        head_dim: llama.head_dim,
        rotary: true,
    };
    let (queries, keys) =
        (llama.num_attention_heads * llama.head_dim, llama.num_key_value_heads * llama.head_dim);
    let rows = crate::backend::tt::bucket(assumptions.positions);
    let mut language = |role, split, parts, shape| {
        push(Group::Llama, role, split, parts, shape, false, llama.num_hidden_layers, rows)
    };
    language(WeightRole::Attention, Split::Heads(heads), 3, [queries + 2 * keys, hidden]);
    language(WeightRole::Attention, Split::AfterHeads(heads), 1, [hidden, queries]);
    language(WeightRole::Mlp, Split::Columns, 2, [2 * inside, hidden]);
    language(WeightRole::Mlp, Split::Rows, 1, [hidden, inside]);
    let split = if assumptions.head_rows > 1024 { Split::Columns } else { Split::Whole };
    push(Group::Head, WeightRole::Head, split, 1, [assumptions.head_rows, hidden], false, 1, 1);
    layers
}

/// Norms, position embeddings and prefix tokens, on every chip.
pub(super) fn small_tensors(config: &OpenVlaConfig, policy: &PrecisionPolicy) -> u64 {
    let vector = |width| allocated(1, width, NumberFormat::Bf16, true);
    let towers: u64 = config
        .towers
        .iter()
        .map(|tower| {
            let prefix = if tower.prefix_tokens == 0 {
                0
            } else {
                allocated(tower.prefix_tokens, tower.embed_dim, policy.stream, true)
            };
            4 * tower.used_blocks() as u64 * vector(tower.embed_dim)
                + allocated(tower.patches(), tower.embed_dim, policy.stream, true)
                + prefix
        })
        .sum();
    towers + (2 * config.llama.num_hidden_layers as u64 + 1) * vector(config.llama.hidden_size)
}
