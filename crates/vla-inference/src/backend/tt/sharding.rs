//! Sharding of a matrix's columns over the mesh, and the map from physical to logical columns.
//!
//! A physical tensor may have more columns than the logical matrix: shards are padded to whole
//! tiles, heads to whole tiles or tile pairs. Padding columns hold zeros.

use super::division::{Chips, head_shards, one_key_head};
use crate::backend::{HeadShape, TensorParallel, WeightRole};

/// Marks a physical column without a logical column.
pub(super) const PADDING: u32 = u32::MAX;
/// Rows and columns of a tile.
pub const TILE: usize = 32;
/// Multiple to which the language model's MLP columns per chip are padded, so that 16 cores share
/// them evenly: 11008 / 2 = 172 tiles would leave most cores of TT-NN's matmul idle.
pub const MLP_COLUMN_MULTIPLE: usize = 16 * TILE;

/// Multiple to which a layer's columns per chip are padded.
pub(super) fn column_multiple(role: WeightRole) -> usize {
    if role == WeightRole::Mlp { MLP_COLUMN_MULTIPLE } else { TILE }
}

/// Distribution of a matrix's columns over the chips. All but `Replicated` exist only between a
/// column-parallel layer and the row-parallel layer that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharding {
    /// The whole matrix on every chip, without padding.
    Replicated,
    /// `parts` physical tensors of `part_width` logical columns each. Of each, chip i holds columns
    /// `i * shard_width .. (i + 1) * shard_width`; the last ones are padding.
    Columns { parts: usize, part_width: usize, num_shards: usize, shard_width: usize },
    /// `q | k | v` of the chip's own heads; one key head is on every chip.
    QkvHeads { shape: HeadShape, num_shards: usize },
    /// The attention output of the chip's own heads.
    OutputHeads { shape: HeadShape, num_shards: usize },
}

/// Heads of one chip, each padded to `width` columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalHeads {
    /// Query heads.
    pub queries: usize,
    /// Key/value heads.
    pub groups: usize,
    /// Physical columns of a head.
    pub width: usize,
}

/// Heads of one of `num_shards` chips.
pub(super) fn local_heads(shape: HeadShape, num_shards: usize) -> LocalHeads {
    // The device's rotary embedding exchanges halves of whole tiles.
    let multiple = if shape.rotary { 2 * TILE } else { TILE };
    LocalHeads {
        queries: shape.heads.div_ceil(num_shards),
        groups: shape.kv_heads.div_ceil(num_shards),
        width: shape.head_dim.next_multiple_of(multiple),
    }
}

/// Logical column of a head's physical column; `None` for padding. Each half of a rotary head is
/// padded separately, so that the halves stay `width / 2` apart.
pub(super) fn column_of_head(shape: HeadShape, width: usize, physical: usize) -> Option<usize> {
    if !shape.rotary {
        return (physical < shape.head_dim).then_some(physical);
    }
    let (half, padded) = (shape.head_dim / 2, width / 2);
    let within = physical % padded;
    (within < half).then_some(physical / padded * half + within)
}

impl Sharding {
    /// Sharding of a layer's output: `parts` stacked weights of `part_width` outputs over `chips`,
    /// shards padded to `multiple`.
    pub fn of_outputs(
        parallelism: TensorParallel,
        parts: usize,
        part_width: usize,
        (chips, multiple): (Chips, usize),
    ) -> Self {
        match parallelism {
            TensorParallel::Column => Self::columns(parts, part_width, chips.count, multiple),
            TensorParallel::ColumnByHead(shape) => {
                Self::QkvHeads { shape, num_shards: head_shards(shape, chips) }
            }
            TensorParallel::Replicated | TensorParallel::Row | TensorParallel::RowByHead(_) => {
                Self::Replicated
            }
        }
    }

    /// Sharding of a layer's input.
    pub fn of_inputs(
        parallelism: TensorParallel,
        inputs: usize,
        (chips, multiple): (Chips, usize),
    ) -> Self {
        match parallelism {
            TensorParallel::Row => Self::columns(1, inputs, chips.count, multiple),
            TensorParallel::RowByHead(shape) => {
                Self::OutputHeads { shape, num_shards: head_shards(shape, chips) }
            }
            TensorParallel::Replicated
            | TensorParallel::Column
            | TensorParallel::ColumnByHead(_) => Self::Replicated,
        }
    }

    fn columns(parts: usize, part_width: usize, num_shards: usize, multiple: usize) -> Self {
        let shard_width = part_width.div_ceil(num_shards);
        // A shard smaller than the multiple (test models) is padded to whole tiles only.
        let shard_width =
            shard_width.next_multiple_of(if shard_width >= multiple { multiple } else { TILE });
        if num_shards == 1 && parts == 1 && shard_width == part_width {
            Self::Replicated
        } else {
            Self::Columns { parts, part_width, num_shards, shard_width }
        }
    }

    /// Number of different shards; 1 when every chip holds the same columns.
    pub fn num_shards(self) -> usize {
        match self {
            Self::Replicated => 1,
            Self::Columns { num_shards, .. }
            | Self::QkvHeads { num_shards, .. }
            | Self::OutputHeads { num_shards, .. } => num_shards,
        }
    }

    /// Physical tensors per chip.
    pub fn parts(self) -> usize {
        if let Self::Columns { parts, .. } = self { parts } else { 1 }
    }

    /// Columns of one physical tensor on one chip, padding included, for a matrix of `columns`.
    pub fn shard_width(self, columns: usize) -> usize {
        match self {
            Self::Replicated => columns,
            Self::Columns { shard_width, .. } => shard_width,
            Self::QkvHeads { shape, num_shards } => {
                let local = local_heads(shape, num_shards);
                (local.queries + 2 * local.groups) * local.width
            }
            Self::OutputHeads { shape, num_shards } => {
                let local = local_heads(shape, num_shards);
                local.queries * local.width
            }
        }
    }

    /// For each physical tensor the logical column of each physical column, chip after chip;
    /// [`PADDING`] for a column without one.
    pub fn column_maps(self, columns: usize) -> Vec<Vec<u32>> {
        match self {
            Self::Replicated => vec![(0..columns as u32).collect()],
            Self::Columns { parts, part_width, num_shards, shard_width } => (0..parts)
                .map(|part| {
                    let logical = |at: usize| {
                        if at < part_width { (part * part_width + at) as u32 } else { PADDING }
                    };
                    (0..num_shards * shard_width).map(logical).collect()
                })
                .collect(),
            Self::QkvHeads { shape, num_shards } => {
                let local = local_heads(shape, num_shards);
                let mut map = Vec::new();
                for chip in 0..num_shards {
                    let sections = [
                        (0, shape.heads, local.queries),
                        (shape.heads, shape.kv_heads, local.groups),
                        (shape.heads + shape.kv_heads, shape.kv_heads, local.groups),
                    ];
                    for (first, count, here) in sections {
                        let heads = match count == 1 && one_key_head(shape) {
                            true => 0..1,
                            false => chip * here..(chip + 1) * here,
                        };
                        push_heads(&mut map, (shape, local.width), first, heads, count);
                    }
                }
                vec![map]
            }
            Self::OutputHeads { shape, num_shards } => {
                let local = local_heads(shape, num_shards);
                let mut map = Vec::new();
                let heads = 0..num_shards * local.queries;
                push_heads(&mut map, (shape, local.width), 0, heads, shape.heads);
                vec![map]
            }
        }
    }
}

/// Appends the column map of `heads`; those from `count` on are padding. `first` is the position of
/// head 0 among the matrix's heads.
fn push_heads(
    map: &mut Vec<u32>,
    (shape, width): (HeadShape, usize),
    first: usize,
    heads: std::ops::Range<usize>,
    count: usize,
) {
    for head in heads {
        map.extend((0..width).map(|physical| match column_of_head(shape, width, physical) {
            Some(column) if head < count => ((first + head) * shape.head_dim + column) as u32,
            _ => PADDING,
        }));
    }
}

/// Size of a linear layer on one chip: `parts` weights of `[rows, columns]`, padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Inputs on the chip.
    pub rows: usize,
    /// Outputs on the chip.
    pub columns: usize,
    /// Weights.
    pub parts: usize,
}

impl Placement {
    /// Placement of a layer over `chips`, columns per chip padded to `multiple`.
    #[must_use]
    pub fn of(
        parallelism: TensorParallel,
        parts: usize,
        [outputs, inputs]: [usize; 2],
        chips: Chips,
        multiple: usize,
    ) -> Self {
        let part_width = outputs / parts.max(1);
        let output = Sharding::of_outputs(parallelism, parts, part_width, (chips, multiple));
        let input = Sharding::of_inputs(parallelism, inputs, (chips, multiple));
        Self {
            rows: input.shard_width(inputs),
            columns: output.shard_width(outputs),
            parts: output.parts(),
        }
    }
}

/// Number of chips over which a cache's heads are sharded; one key head is on every chip, whatever
/// queries its layers divide.
pub(super) fn cache_shards(shape: HeadShape, chips: usize) -> usize {
    head_shards(shape, Chips { count: chips, queries: false })
}

/// Key/value heads, columns of a head and rows of one layer's KV cache on one chip.
#[must_use]
pub fn cache_dims(
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    chips: usize,
    capacity: usize,
) -> [usize; 3] {
    let shape = HeadShape { heads, kv_heads, head_dim, rotary: true };
    let local = local_heads(shape, cache_shards(shape, chips));
    [local.groups, local.width, super::bucket(capacity.max(1))]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn shape(heads: usize, kv_heads: usize, head_dim: usize, rotary: bool) -> HeadShape {
        HeadShape { heads, kv_heads, head_dim, rotary }
    }

    #[test]
    fn every_logical_column_occurs_once() {
        for count in [1, 2, 8] {
            let chips = Chips { count, queries: false };
            let cases = [
                (TensorParallel::Column, 2, 344, 688),
                (TensorParallel::Column, 1, 11_008, 11_008),
                (TensorParallel::ColumnByHead(shape(4, 4, 32, true)), 3, 128, 384),
                (TensorParallel::ColumnByHead(shape(4, 2, 16, true)), 3, 64, 128),
                (TensorParallel::ColumnByHead(shape(16, 16, 72, false)), 1, 3456, 3456),
            ];
            for (parallelism, parts, part_width, columns) in cases {
                let sharding = Sharding::of_outputs(
                    parallelism,
                    parts,
                    part_width,
                    (chips, MLP_COLUMN_MULTIPLE),
                );
                let all: Vec<u32> = sharding.column_maps(columns).concat();
                let real: Vec<u32> =
                    all.iter().copied().filter(|&column| column != PADDING).collect();
                assert_eq!(real.len(), columns, "{sharding:?}");
                assert_eq!(
                    real.into_iter().collect::<BTreeSet<_>>().len(),
                    columns,
                    "{sharding:?}"
                );
                for map in sharding.column_maps(columns) {
                    assert_eq!(
                        map.len(),
                        sharding.num_shards() * sharding.shard_width(columns),
                        "{sharding:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn openvla_7b_divides_over_every_mesh() {
        let llama = shape(32, 32, 128, true);
        for chips in [1, 2, 8] {
            let shards = head_shards(llama, Chips { count: chips, queries: false });
            let local = local_heads(llama, shards);
            assert_eq!((local.queries, local.groups, local.width), (32 / chips, 32 / chips, 128));
            // A head of 128 columns needs no padding.
            assert!((0..128).all(|column| column_of_head(llama, 128, column) == Some(column)));
        }
        let shard_width = |chips| match Sharding::of_outputs(
            TensorParallel::Column,
            2,
            11_008,
            (Chips { count: chips, queries: false }, column_multiple(WeightRole::Mlp)),
        ) {
            Sharding::Columns { shard_width, .. } => shard_width,
            _ => 0,
        };
        assert_eq!([1, 2, 8].map(shard_width), [11_264, 5632, 1536]);
    }

    #[test]
    fn rope_halves_stay_half_a_width_apart() {
        let shape = shape(1, 1, 32, true);
        let columns: Vec<_> = (0..64).map(|physical| column_of_head(shape, 64, physical)).collect();
        assert_eq!((columns[0], columns[15], columns[16]), (Some(0), Some(15), None));
        assert_eq!((columns[32], columns[47], columns[48]), (Some(16), Some(31), None));
    }

    #[test]
    fn queries_are_divided_and_their_key_is_on_every_chip() {
        let gemma = shape(8, 1, 64, true);
        for (count, queries) in [(1, 8), (2, 4), (4, 2), (8, 1)] {
            let chips = (Chips { count, queries: true }, TILE);
            let fused = Sharding::of_outputs(TensorParallel::ColumnByHead(gemma), 3, 0, chips);
            let [map] = fused.column_maps(640).try_into().unwrap();
            let heads =
                |map: &[u32]| -> Vec<u32> { map.chunks(64).map(|head| head[0] / 64).collect() };
            let joined = Sharding::of_inputs(TensorParallel::RowByHead(gemma), 512, chips);
            let [rows] = joined.column_maps(512).try_into().unwrap();
            for chip in 0..count {
                let own = (chip * queries) as u32..((chip + 1) * queries) as u32;
                let own: Vec<u32> = own.collect();
                let width = fused.shard_width(640);
                // Key and value are heads 8 and 9 of the stacked weight.
                let wanted = [own.as_slice(), &[8, 9]].concat();
                assert_eq!(heads(&map[chip * width..(chip + 1) * width]), wanted);
                let width = joined.shard_width(512);
                assert_eq!(heads(&rows[chip * width..(chip + 1) * width]), own);
            }
        }
        assert_eq!(cache_dims(8, 1, 64, 8, 32), [1, 64, 32]);
    }
}
