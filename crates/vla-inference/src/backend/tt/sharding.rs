//! How a matrix lies on the chips, and which physical column stands for which logical one.

use super::super::{HeadShape, Split, WeightRole};

/// A physical column that stands for nothing; it holds zeros.
pub(super) const PADDING: u32 = u32::MAX;
/// Rows and columns of a tile.
pub const TILE: usize = 32;
/// The language model's MLP columns per chip are padded to a multiple of this, so that 16 cores
/// share them evenly: 11008 / 2 = 172 tiles would leave most cores of TT-NN's matmul idle.
const EVEN: usize = 16 * TILE;

/// What the columns per chip of a layer are padded to.
pub(super) fn multiple_of(role: WeightRole) -> usize {
    if role == WeightRole::Mlp { EVEN } else { TILE }
}

/// Columns of a matrix over the chips. All forms but `Whole` exist only between the layers that
/// make and take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are, the same on every chip.
    Whole,
    /// `parts` matrices of `each` columns. Of each, chip i holds columns `i * run .. (i + 1) *
    /// run`, the last ones padded.
    Columns { parts: usize, each: usize, spread: usize, run: usize },
    /// `q | k | v` of some heads per chip.
    Heads { shape: HeadShape, spread: usize },
    /// What attention makes of them.
    AfterHeads { shape: HeadShape, spread: usize },
}

/// Heads of one chip, each padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalHeads {
    /// Query heads.
    pub queries: usize,
    /// Key/value heads.
    pub groups: usize,
    /// Physical columns of a head.
    pub width: usize,
}

/// Over how many chips heads can be cut: all where key/value heads divide, or where every query has
/// its own and heads of zeros can fill up; otherwise every chip does all of them.
pub(super) fn head_spread(shape: HeadShape, chips: usize) -> usize {
    if shape.kv_heads.is_multiple_of(chips) || shape.heads == shape.kv_heads { chips } else { 1 }
}

/// What one of `spread` chips holds.
pub(super) fn local_heads(shape: HeadShape, spread: usize) -> LocalHeads {
    // The device's rotary embedding exchanges halves of whole tiles.
    let multiple = if shape.rotary { 2 * TILE } else { TILE };
    LocalHeads {
        queries: shape.heads.div_ceil(spread),
        groups: shape.kv_heads.div_ceil(spread),
        width: shape.head_dim.next_multiple_of(multiple),
    }
}

/// Logical column of a head's physical column: the halves that a rotary embedding exchanges stay
/// half a width apart.
pub(super) fn column_of_head(shape: HeadShape, width: usize, physical: usize) -> Option<usize> {
    if !shape.rotary {
        return (physical < shape.head_dim).then_some(physical);
    }
    let (half, padded) = (shape.head_dim / 2, width / 2);
    let within = physical % padded;
    (within < half).then_some(physical / padded * half + within)
}

impl Form {
    /// The form of what a layer gives out: `parts` stacked weights of `each` outputs over `chips`.
    pub fn of_outputs(
        split: Split,
        parts: usize,
        each: usize,
        (chips, multiple): (usize, usize),
    ) -> Self {
        match split {
            Split::Columns => Self::columns(parts, each, chips, multiple),
            Split::Heads(shape) => Self::Heads { shape, spread: head_spread(shape, chips) },
            Split::Whole | Split::Rows | Split::AfterHeads(_) => Self::Whole,
        }
    }

    /// The form of what a layer takes in.
    pub fn of_inputs(split: Split, inputs: usize, (chips, multiple): (usize, usize)) -> Self {
        match split {
            Split::Rows => Self::columns(1, inputs, chips, multiple),
            Split::AfterHeads(shape) => {
                Self::AfterHeads { shape, spread: head_spread(shape, chips) }
            }
            Split::Whole | Split::Columns | Split::Heads(_) => Self::Whole,
        }
    }

    fn columns(parts: usize, each: usize, spread: usize, multiple: usize) -> Self {
        let run = each.div_ceil(spread);
        // A part smaller than the multiple (test models) fills tiles only.
        let run = run.next_multiple_of(if run >= multiple { multiple } else { TILE });
        if spread == 1 && parts == 1 && run == each {
            Self::Whole
        } else {
            Self::Columns { parts, each, spread, run }
        }
    }

    /// Number of different chips' parts; 1 when all hold the same.
    pub fn spread(self) -> usize {
        match self {
            Self::Whole => 1,
            Self::Columns { spread, .. }
            | Self::Heads { spread, .. }
            | Self::AfterHeads { spread, .. } => spread,
        }
    }

    /// Physical tensors per chip.
    pub fn parts(self) -> usize {
        if let Self::Columns { parts, .. } = self { parts } else { 1 }
    }

    /// Columns of one physical tensor on one chip.
    pub fn width(self, columns: usize) -> usize {
        match self {
            Self::Whole => columns,
            Self::Columns { run, .. } => run,
            Self::Heads { shape, spread } => {
                let local = local_heads(shape, spread);
                (local.queries + 2 * local.groups) * local.width
            }
            Self::AfterHeads { shape, spread } => {
                let local = local_heads(shape, spread);
                local.queries * local.width
            }
        }
    }

    /// For each physical tensor: which logical column each column stands for, chip after chip.
    pub fn maps(self, columns: usize) -> Vec<Vec<u32>> {
        match self {
            Self::Whole => vec![(0..columns as u32).collect()],
            Self::Columns { parts, each, spread, run } => (0..parts)
                .map(|part| {
                    let logical =
                        |at: usize| if at < each { (part * each + at) as u32 } else { PADDING };
                    (0..spread * run).map(logical).collect()
                })
                .collect(),
            Self::Heads { shape, spread } => {
                let local = local_heads(shape, spread);
                let mut map = Vec::new();
                for chip in 0..spread {
                    let sections = [
                        (0, shape.heads, local.queries),
                        (shape.heads, shape.kv_heads, local.groups),
                        (shape.heads + shape.kv_heads, shape.kv_heads, local.groups),
                    ];
                    for (first, count, here) in sections {
                        heads(
                            &mut map,
                            shape,
                            local.width,
                            first,
                            chip * here..(chip + 1) * here,
                            count,
                        );
                    }
                }
                vec![map]
            }
            Self::AfterHeads { shape, spread } => {
                let local = local_heads(shape, spread);
                let mut map = Vec::new();
                heads(&mut map, shape, local.width, 0, 0..spread * local.queries, shape.heads);
                vec![map]
            }
        }
    }
}

/// What a linear layer takes of one chip: `parts` weights of `[rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Inputs on the chip, padding included.
    pub rows: usize,
    /// Outputs on the chip, padding included.
    pub columns: usize,
    /// Weights.
    pub parts: usize,
}

impl Placement {
    /// Of a layer over `chips` whose columns per chip are padded to a multiple.
    #[must_use]
    pub fn of(
        split: Split,
        parts: usize,
        [outputs, inputs]: [usize; 2],
        chips: usize,
        multiple: usize,
    ) -> Self {
        let gives = Form::of_outputs(split, parts, outputs / parts.max(1), (chips, multiple));
        let takes = Form::of_inputs(split, inputs, (chips, multiple));
        Self { rows: takes.width(inputs), columns: gives.width(outputs), parts: gives.parts() }
    }
}

/// Key/value heads, columns of a head and rows of one layer's cache on one chip.
#[must_use]
pub fn cache_rows(
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    chips: usize,
    capacity: usize,
) -> [usize; 3] {
    let shape = HeadShape { heads, kv_heads, head_dim, rotary: true };
    let local = local_heads(shape, head_spread(shape, chips));
    [local.groups, local.width, super::bucket(capacity.max(1))]
}

/// Appends physical columns of some of `count` heads, whose first is the matrix's head `first`.
fn heads(
    map: &mut Vec<u32>,
    shape: HeadShape,
    width: usize,
    first: usize,
    some: std::ops::Range<usize>,
    count: usize,
) {
    for head in some {
        map.extend((0..width).map(|physical| match column_of_head(shape, width, physical) {
            Some(column) if head < count => ((first + head) * shape.head_dim + column) as u32,
            _ => PADDING,
        }));
    }
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
    fn every_column_stands_exactly_once() {
        for chips in [1, 2, 8] {
            let cases = [
                (Split::Columns, 2, 344, 688),
                (Split::Columns, 1, 11_008, 11_008),
                (Split::Heads(shape(4, 4, 32, true)), 3, 128, 384),
                (Split::Heads(shape(4, 2, 16, true)), 3, 64, 128),
                (Split::Heads(shape(16, 16, 72, false)), 1, 3456, 3456),
            ];
            for (split, parts, each, columns) in cases {
                let form = Form::of_outputs(split, parts, each, (chips, EVEN));
                let all: Vec<u32> = form.maps(columns).concat();
                let real: Vec<u32> =
                    all.iter().copied().filter(|&column| column != PADDING).collect();
                assert_eq!(real.len(), columns, "{form:?}");
                assert_eq!(real.into_iter().collect::<BTreeSet<_>>().len(), columns, "{form:?}");
                for map in form.maps(columns) {
                    assert_eq!(map.len(), form.spread() * form.width(columns), "{form:?}");
                }
            }
        }
    }

    #[test]
    fn the_real_model_divides_over_every_mesh() {
        let llama = shape(32, 32, 128, true);
        for chips in [1, 2, 8] {
            let local = local_heads(llama, head_spread(llama, chips));
            assert_eq!((local.queries, local.groups, local.width), (32 / chips, 32 / chips, 128));
            // Columns of a head of 128 stay where the checkpoint has them.
            assert!((0..128).all(|column| column_of_head(llama, 128, column) == Some(column)));
        }
        let run = |chips| match Form::of_outputs(
            Split::Columns,
            2,
            11_008,
            (chips, multiple_of(WeightRole::Mlp)),
        ) {
            Form::Columns { run, .. } => run,
            _ => 0,
        };
        assert_eq!([1, 2, 8].map(run), [11_264, 5632, 1536]);
    }

    #[test]
    fn halves_stay_half_a_width_apart() {
        let shape = shape(1, 1, 32, true);
        let columns: Vec<_> = (0..64).map(|physical| column_of_head(shape, 64, physical)).collect();
        assert_eq!((columns[0], columns[15], columns[16]), (Some(0), Some(15), None));
        assert_eq!((columns[32], columns[47], columns[48]), (Some(16), Some(31), None));
    }

    #[test]
    fn heads_that_cannot_be_cut_are_on_every_chip() {
        assert_eq!(head_spread(shape(4, 2, 16, true), 8), 1);
        assert_eq!(head_spread(shape(4, 2, 16, true), 2), 2);
        // Each query with its own key: filled up with heads of zeros.
        assert_eq!(head_spread(shape(4, 4, 32, true), 8), 8);
    }
}
