//! Operations that change a tensor and leave it where it is: caches, counters, copies.

use std::ops::Range;

use super::Op;
use super::attention::{check_position, position};
use crate::error::{Result, ensure, invalid};
use crate::format::round::{By, round_rows};
use crate::format::{Format, Layout, Spec, Values};

pub fn check(op: &Op, inputs: &[Spec]) -> Result<Vec<Spec>> {
    let target = inputs[0];
    match op {
        Op::Increment { .. } => {
            ensure!(
                matches!(target.format, Format::I32 | Format::U32),
                "increment: x must be I32 or U32, not {target}"
            )
        }
        Op::Copy => {
            ensure!(inputs[1] == target, "copy: x is {} but the target {target}", inputs[1])
        }
        _ => {
            let mut x = inputs[1];
            if matches!(op, Op::CacheUpdatePair { .. }) {
                ensure!(
                    x.dims[..2] == [1, 1],
                    "cache_update_pair: a row must be [1, 1, G, D], not {x}"
                );
                x = x.with_dims([1, x.dims[2], 1, x.dims[3]])?;
            }
            ensure!(
                target.format.is_float()
                    && target.layout == Layout::Tile
                    && x.format.is_float()
                    && x.layout == Layout::Tile,
                "{}: cache and x must be floats in TILE layout, not {target} and {x}",
                op.name()
            );
            ensure!(
                x.dims[0] == 1
                    && target.dims[0] == 1
                    && x.dims[1] == target.dims[1]
                    && x.dims[3] == target.dims[3],
                "{}: x {x} does not fit the cache {target}",
                op.name()
            );
            if let Some(at) = inputs.get(2) {
                ensure!(x.dims[2] == 1, "{}: x must be one row, not {x}", op.name());
                check_position(at)?;
            } else {
                ensure!(
                    x.dims[2] <= target.dims[2],
                    "cache_fill: {} rows do not fit the cache {target}",
                    x.dims[2]
                );
            }
        }
    }
    Ok(Vec::new())
}

pub fn apply(
    op: &Op,
    specs: &[Spec],
    target: &mut Values,
    others: &[&Values],
) -> Result<Option<Range<usize>>> {
    match (op, target) {
        (Op::Increment { value }, Values::Word(words)) => {
            words.iter_mut().for_each(|word| *word = word.wrapping_add_signed(*value));
            Ok(None)
        }
        (Op::Copy, target) => {
            *target = others[0].clone();
            Ok(None)
        }
        (Op::CacheFill | Op::CacheUpdate | Op::CacheUpdatePair { .. }, Values::Float(cache)) => {
            let (cache_spec, x_spec) = (specs[0], specs[1]);
            let [_, heads, rows, dim] = cache_spec.dims;
            let (count, first) = match op {
                Op::CacheFill => (x_spec.dims[2], 0),
                _ => (1, position(others[1], rows)?),
            };
            let mut x = others[0].floats().to_vec();
            round_rows(&mut x, dim, cache_spec.format, By::Device);
            for head in 0..heads {
                cache[(head * rows + first) * dim..][..count * dim]
                    .copy_from_slice(&x[head * count * dim..][..count * dim]);
            }
            Ok(Some(first..first + count))
        }
        _ => Err(invalid(format!("{}: the target has another kind of elements", op.name()))),
    }
}
