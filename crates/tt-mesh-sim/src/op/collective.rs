//! Between chips. A ring reduction passes a partial sum from chip to chip, and each hop rounds it
//! to the tensor's format: the sum of part `i` starts at chip `i + 1` and ends at chip `i`.

use std::sync::Arc;

use super::{Op, Shards, movement, replicated};
use crate::error::{Result, ensure};
use crate::format::round::{By, round_rows};
use crate::format::{Spec, Values};

pub fn check(op: &Op, x: Spec, chips: usize) -> Result<Vec<Spec>> {
    let mut dims = x.dims;
    match *op {
        Op::AllGather { dim } => {
            ensure!(dim < 4, "all_gather: dimension {dim} is not 0..3");
            dims[dim] = dims[dim].saturating_mul(chips);
        }
        Op::ReduceScatter { dim } | Op::Partition { dim } => {
            ensure!(
                dim < 4 && dims[dim].is_multiple_of(chips),
                "{}: dimension {dim} of {x} does not split over {chips} chips",
                op.name()
            );
            dims[dim] /= chips;
        }
        _ => {}
    }
    if matches!(op, Op::ReduceScatter { .. } | Op::AllReduce) {
        super::float_tile(&x, op.name())?;
    }
    Ok(vec![x.with_dims(dims)?])
}

pub fn run(op: &Op, x: Spec, shards: &Shards, output: Spec) -> Shards {
    let chips = shards.len();
    match *op {
        Op::AllGather { dim } => {
            let inputs: Vec<&Values> = shards.iter().map(Arc::as_ref).collect();
            replicated(movement::concat(&vec![x; chips], &inputs, output, dim), chips)
        }
        Op::ReduceScatter { dim } => (0..chips)
            .map(|chip| Arc::new(Values::Float(reduced_part(x, shards, output, dim, chip))))
            .collect(),
        Op::Partition { dim } => {
            (0..chips).map(|chip| Arc::new(part(x, &shards[chip], output, dim, chip))).collect()
        }
        _ => replicated(Values::Float(all_reduce(x, shards)), chips),
    }
}

fn part(x: Spec, values: &Values, output: Spec, dim: usize, chip: usize) -> Values {
    let mut begin = [0; 4];
    begin[dim] = chip * output.dims[dim];
    movement::slice(x, values, output, begin)
}

fn reduced_part(x: Spec, shards: &Shards, output: Spec, dim: usize, chip: usize) -> Vec<f32> {
    let chips = shards.len();
    let mut order =
        (1..=chips).map(|hop| part(x, &shards[(chip + hop) % chips], output, dim, chip));
    let mut sum = order.next().map(|first| first.floats().to_vec()).unwrap_or_default();
    for next in order {
        sum.iter_mut().zip(next.floats()).for_each(|(sum, value)| *sum += value);
        round_rows(&mut sum, output.width(), output.format, By::Device);
    }
    sum
}

/// A reduce-scatter and an all-gather where the rows split evenly, else the whole sum in chip order
/// on every chip.
fn all_reduce(x: Spec, shards: &Shards) -> Vec<f32> {
    let chips = shards.len();
    let mut sum = shards[0].floats().to_vec();
    let width = x.width();
    let run = if width.is_multiple_of(chips * 32) { width / chips } else { width };
    for (at, out) in sum.chunks_mut(run).enumerate() {
        // Part `at` of a row starts its round at the next chip.
        let first = if run == width { 0 } else { at % chips + 1 };
        for hop in 0..chips {
            let values = &shards[(first + hop) % chips].floats()[at * run..][..run];
            if hop == 0 {
                out.copy_from_slice(values);
            } else {
                out.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                round_rows(out, run, x.format, By::Device);
            }
        }
    }
    sum
}
