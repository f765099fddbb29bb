//! Every linear layer of OpenVLA by its shape, and its memory on a chip.

use super::{Assumptions, HEAD_BLOCKS, MeshKind, OnePass, WIDE_HEAD, allocated};
use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::{Chips, Placement, head_shards};
use crate::backend::{HeadShape, TensorParallel, WeightRole};
use crate::checkpoint::OpenVlaConfig;

/// Part of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The towers.
    Vision,
    /// The projector.
    Projector,
    /// The language model's layers.
    Llama,
    /// The output head; pi0: the layers around the action expert.
    Head,
    /// pi0's action expert.
    Expert,
}

/// A linear layer that occurs `count` times.
#[derive(Clone, Debug)]
pub struct PlannedLayer {
    /// Part of the network.
    pub group: Group,
    /// Role, which selects its number format.
    pub role: WeightRole,
    /// Role under tensor parallelism.
    pub parallelism: TensorParallel,
    /// Number of stacked weights.
    pub parts: usize,
    /// Outputs of all stacked weights.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Number of such layers.
    pub count: usize,
    /// Rows of its input in a prefill, padded to tiles.
    pub rows: usize,
}

impl PlannedLayer {
    /// Chips over which it is divided.
    pub(super) fn chips(
        &self,
        policy: &PrecisionPolicy,
        mesh: MeshKind,
        assumptions: &Assumptions,
    ) -> Chips {
        let few_rows = self.group == Group::Expert;
        assumptions.division(policy, mesh).over((self.role, few_rows), policy, mesh.chips())
    }

    fn placement(
        &self,
        policy: &PrecisionPolicy,
        mesh: MeshKind,
        assumptions: &Assumptions,
    ) -> Placement {
        let multiple =
            if self.role == WeightRole::Mlp { assumptions.mlp_multiple } else { super::TILE_SIDE };
        Placement::of(
            self.parallelism,
            self.parts,
            [self.outputs, self.inputs],
            self.chips(policy, mesh, assumptions),
            multiple,
        )
    }

    /// Allocated bytes of all `count` layers on one chip.
    #[must_use]
    pub fn bytes(
        &self,
        policy: &PrecisionPolicy,
        mesh: MeshKind,
        assumptions: &Assumptions,
    ) -> u64 {
        let Placement { rows, columns, parts } = self.placement(policy, mesh, assumptions);
        let on_chip = |rows, format| allocated(mesh, [rows, columns], format, true);
        let weight = on_chip(rows, policy.weight(self.role).format);
        let bias = if self.bias { on_chip(1, NumberFormat::Bf16) } else { 0 };
        (self.count * parts) as u64 * (weight + bias)
    }

    /// Weight elements of one layer on one chip, padding included.
    #[must_use]
    pub fn elements(
        &self,
        policy: &PrecisionPolicy,
        mesh: MeshKind,
        assumptions: &Assumptions,
    ) -> f64 {
        let Placement { rows, columns, parts } = self.placement(policy, mesh, assumptions);
        let tiles = |n: usize| n.next_multiple_of(super::TILE_SIDE) as f64;
        parts as f64 * tiles(rows) * tiles(columns)
    }

    /// Whether its partial sums are all-reduced.
    #[must_use]
    pub fn all_reduces(
        &self,
        policy: &PrecisionPolicy,
        mesh: MeshKind,
        assumptions: &Assumptions,
    ) -> bool {
        let chips = self.chips(policy, mesh, assumptions);
        match self.parallelism {
            TensorParallel::Row => chips.count > 1,
            // Heads that the chips do not divide are computed by every chip.
            TensorParallel::RowByHead(shape) => head_shards(shape, chips) > 1,
            _ => false,
        }
    }
}

pub(super) fn layers(config: &OpenVlaConfig, assumptions: &Assumptions) -> Vec<PlannedLayer> {
    let mut layers = Vec::new();
    let mut push = |group,
                    role,
                    parallelism,
                    parts,
                    [outputs, inputs]: [usize; 2],
                    bias,
                    count,
                    rows: usize| {
        let rows = rows.next_multiple_of(super::TILE_SIDE);
        layers.push(PlannedLayer {
            group,
            role,
            parallelism,
            parts,
            outputs,
            inputs,
            bias,
            count,
            rows,
        });
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
        let mut vision = |parallelism, shape, count, rows| {
            push(Group::Vision, WeightRole::Vision, parallelism, 1, shape, true, count, rows);
        };
        vision(
            TensorParallel::Replicated,
            [width, 3 * tower.patch_size * tower.patch_size],
            1,
            tower.patches(),
        );
        vision(TensorParallel::ColumnByHead(heads), [3 * width, width], blocks, rows);
        vision(TensorParallel::RowByHead(heads), [width, width], blocks, rows);
        vision(TensorParallel::Column, [tower.mlp_hidden, width], blocks, rows);
        vision(TensorParallel::Row, [width, tower.mlp_hidden], blocks, rows);
    }
    let patches = config.towers.first().map_or(0, |tower| tower.patches());
    let mut inputs = config.projector.vision_size;
    for (index, &outputs) in config.projector.layers.iter().enumerate() {
        let parallelism = if index % 2 == 0 { TensorParallel::Column } else { TensorParallel::Row };
        push(
            Group::Projector,
            WeightRole::Projector,
            parallelism,
            1,
            [outputs, inputs],
            true,
            1,
            assumptions.images * patches,
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
    let rows = assumptions.rows();
    let mut language = |role, parallelism, parts, shape| {
        push(Group::Llama, role, parallelism, parts, shape, false, llama.num_hidden_layers, rows)
    };
    language(
        WeightRole::Attention,
        TensorParallel::ColumnByHead(heads),
        3,
        [queries + 2 * keys, hidden],
    );
    language(WeightRole::Attention, TensorParallel::RowByHead(heads), 1, [hidden, queries]);
    language(WeightRole::Mlp, TensorParallel::Column, 2, [2 * inside, hidden]);
    language(WeightRole::Mlp, TensorParallel::Row, 1, [hidden, inside]);
    if let Some(OnePass { chunk, action_dim, state_dim }) = assumptions.one_pass {
        let whole = TensorParallel::Replicated;
        let mut part = |group, shape, count, rows| {
            push(group, WeightRole::Projector, whole, 1, shape, true, count, rows);
        };
        if state_dim > 0 {
            part(Group::Projector, [hidden, state_dim], 1, 1);
            part(Group::Projector, [hidden, hidden], 1, 1);
        }
        part(Group::Head, [hidden, action_dim * hidden], 1, chunk);
        part(Group::Head, [hidden, hidden], HEAD_BLOCKS, chunk);
        part(Group::Head, [action_dim, hidden], 1, chunk);
        return layers;
    }
    let parallelism = if assumptions.head_rows > WIDE_HEAD {
        TensorParallel::Column
    } else {
        TensorParallel::Replicated
    };
    push(
        Group::Head,
        WeightRole::Head,
        parallelism,
        1,
        [assumptions.head_rows, hidden],
        false,
        1,
        1,
    );
    layers
}

/// Allocated bytes of norms, position embeddings and prefix tokens on one chip; replicated.
pub(super) fn small_tensors(
    config: &OpenVlaConfig,
    policy: &PrecisionPolicy,
    mesh: MeshKind,
) -> u64 {
    let vector = |width| allocated(mesh, [1, width], NumberFormat::Bf16, true);
    let rows = |rows, width| allocated(mesh, [rows, width], policy.stream, true);
    let towers: u64 = config
        .towers
        .iter()
        .map(|tower| {
            let prefix = if tower.prefix_tokens == 0 {
                0
            } else {
                rows(tower.prefix_tokens, tower.embed_dim)
            };
            4 * tower.used_blocks() as u64 * vector(tower.embed_dim)
                + rows(tower.patches(), tower.embed_dim)
                + prefix
        })
        .sum();
    towers + (2 * config.llama.num_hidden_layers as u64 + 1) * vector(config.llama.hidden_size)
}
