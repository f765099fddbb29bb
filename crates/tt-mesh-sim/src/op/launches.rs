//! Programs that TT-NN launches for an operation of the ABI, as the shim calls it
//! (`tt-metal-sys/shim/operations.cpp`); operations that TT-NN answers with a view launch none.

use super::Op;
use crate::format::{Format, Layout, Spec, TILE};

impl Op {
    /// Launched programs, for inputs that passed [`Op::check`].
    pub fn launches(&self, inputs: &[Spec]) -> u32 {
        let first = inputs.first();
        let is_row = |spec: &Spec| spec.dims[2] == 1;
        match *self {
            // The values move from the core of the keys to another one.
            Self::CacheUpdatePair { first } => {
                if first {
                    2
                } else {
                    0
                }
            }
            // The result is transposed, and queries whose heads are not their rows.
            Self::AttentionDecode { .. } => {
                2 + u32::from(first.is_some_and(|q| is_row(q) && q.dims[1] > 1))
            }
            // Transposed, and moved to the L1 of a core.
            Self::CacheUpdate => 3,
            Self::CacheFill => {
                1 + u32::from(
                    inputs.get(1).is_some_and(|x| Some(x.format) != first.map(|c| c.format)),
                )
            }
            // A row-major result becomes tiles where the ids do not fill them.
            Self::Embedding { layout } => {
                let whole = first.is_some_and(|ids| ids.dims[3].is_multiple_of(TILE));
                1 + u32::from(layout == Layout::Tile && !whole)
            }
            Self::Reshape { dims } => first.map_or(1, |x| reshape(x, dims)),
            Self::Convert { format, layout } => {
                first.map_or(1, |x| u32::from(x.format != format) + u32::from(x.layout != layout))
            }
            // A reduce-scatter and an all-gather.
            Self::AllReduce => 2,
            Self::Argmax { .. } => 1 + u32::from(first.is_some_and(|x| !is_row(x))),
            _ => 1,
        }
    }
}

/// Row-major data keeps its place; tiles are rearranged, and block formats pass through bf16.
fn reshape(x: &Spec, dims: [usize; 4]) -> u32 {
    match (x.layout, x.format) {
        (Layout::RowMajor, _) => 0,
        (Layout::Tile, _) if x.dims[2..] == dims[2..] => 0,
        (Layout::Tile, Format::Bfp8B | Format::Bfp4B) => 3,
        (Layout::Tile, _) => 1,
    }
}
