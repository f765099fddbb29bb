//! Which layers are divided over the chips where an all-reduce may take longer than it saves:
//! attention whose queries share one key head, and layers over few rows (both in pi0).

use super::MeshKind;
use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::{HeadShape, WeightRole};

/// Layers that are divided over the chips. The others are computed whole by every chip, without an
/// all-reduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Query heads that share one key head, over many rows. Keys and values are on every chip.
    pub queries: bool,
    /// The same over few rows.
    pub few_rows_queries: bool,
    /// MLPs over few rows.
    pub few_rows_mlps: bool,
}

/// Chips over which a layer is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chips {
    /// Their number.
    pub count: usize,
    /// Whether query heads that share one key head are divided.
    pub queries: bool,
}

impl Division {
    /// Every layer that can be.
    pub const ALL: Self = Self { queries: true, few_rows_queries: true, few_rows_mlps: true };

    /// The division that `openvla plan` expects to be fastest for pi0 and pi0.5 on a board;
    /// `tests/plan_division.rs` compares it with every other one.
    ///
    /// An all-reduce takes 0.05 to 0.3 ms. Attention has 9 % of the language model's products, so
    /// that only bf16 weights on T3K and QuietBox gain. An Euler step reads its weights for
    /// two tiles of rows: dividing MLPs of bf16 saves more than their all-reduces take, of bfp8_b
    /// only over eight chips with Wormhole's memory; attention is too small in either format.
    #[must_use]
    pub fn of(mesh: MeshKind, policy: &PrecisionPolicy) -> Self {
        let wide = |role| policy.weight(role).format.bytes() >= NumberFormat::Bf16.bytes();
        Self {
            queries: matches!(mesh, MeshKind::T3k | MeshKind::QuietBox)
                && wide(WeightRole::Attention),
            few_rows_queries: false,
            few_rows_mlps: mesh == MeshKind::T3k || wide(WeightRole::Mlp),
        }
    }

    /// Chips over which a layer is divided on a mesh of `chips`.
    #[must_use]
    pub fn over(
        self,
        (role, few_rows): (WeightRole, bool),
        policy: &PrecisionPolicy,
        chips: usize,
    ) -> Chips {
        let whole = match role {
            WeightRole::Vision | WeightRole::Projector => !policy.split_vision,
            WeightRole::Mlp => few_rows && !self.few_rows_mlps,
            _ => false,
        };
        let queries = if few_rows { self.few_rows_queries } else { self.queries };
        Chips { count: if whole { 1 } else { chips }, queries }
    }
}

/// Whether several query heads share one key head, which is then on every chip.
pub(super) fn one_key_head(shape: HeadShape) -> bool {
    shape.kv_heads == 1 && shape.heads > 1
}

/// Number of chips over which heads are sharded. Query heads of one key head: all, if they are
/// divided. Otherwise all if they divide the key/value heads, or if each query has its own key;
/// else 1, and every chip computes all heads. Heads of zeros fill up.
#[must_use]
pub fn head_shards(shape: HeadShape, chips: Chips) -> usize {
    let divided = match one_key_head(shape) {
        true => chips.queries,
        false => shape.kv_heads.is_multiple_of(chips.count) || shape.heads == shape.kv_heads,
    };
    if divided { chips.count } else { 1 }
}

/// Query heads on a chip.
#[must_use]
pub fn local_queries(shape: HeadShape, chips: Chips) -> usize {
    shape.heads.div_ceil(head_shards(shape, chips))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shape(heads: usize, kv_heads: usize) -> HeadShape {
        HeadShape { heads, kv_heads, head_dim: 16, rotary: true }
    }

    #[test]
    fn heads_are_divided_or_whole() {
        let over = |count, queries| Chips { count, queries };
        for queries in [false, true] {
            assert_eq!(head_shards(shape(4, 2), over(8, queries)), 1);
            assert_eq!(head_shards(shape(4, 2), over(2, queries)), 2);
            // Each query with its own key: filled up with heads of zeros.
            assert_eq!(head_shards(shape(4, 4), over(8, queries)), 8);
            assert_eq!(head_shards(shape(1, 1), over(2, queries)), 2);
        }
        for (chips, queries) in [(1, 8), (2, 4), (4, 2), (8, 1)] {
            assert_eq!(local_queries(shape(8, 1), over(chips, true)), queries);
            assert_eq!(local_queries(shape(8, 1), over(chips, false)), 8);
        }
    }

    #[test]
    fn layers_are_divided_as_stated() {
        let policy = PrecisionPolicy::load("bfp8").unwrap();
        let none = Division { queries: false, few_rows_queries: false, few_rows_mlps: false };
        let count =
            |division: Division, role, few_rows| division.over((role, few_rows), &policy, 8).count;
        assert_eq!(count(none, WeightRole::Mlp, true), 1);
        assert_eq!(count(none, WeightRole::Mlp, false), 8);
        assert_eq!(count(Division::ALL, WeightRole::Mlp, true), 8);
        assert_eq!(count(Division::ALL, WeightRole::Vision, false), 1);
        let only = Division { few_rows_queries: true, ..none };
        let queries = |few_rows| only.over((WeightRole::Attention, few_rows), &policy, 8).queries;
        assert_eq!([false, true].map(queries), [false, true]);
    }
}
