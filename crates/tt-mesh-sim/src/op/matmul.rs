//! The matrix unit. Weights go to SrcA, which multiplies 5 bits a pass, activations to SrcB, 7
//! bits; further passes bring the rest. The destination adds 16 products at a time and, as bf16,
//! rounds each time.

use super::{Activation, Compute, Fidelity, float_tile, vector};
use crate::error::{Result, ensure};
use crate::format::round::{bf16_away, round_away, truncate};
use crate::format::{Format, Layout, Spec, Values};

/// Products summed before they are added to the destination.
const DEPTH: usize = 16;
/// Columns done together, those of a tile: the accumulators stay in registers.
const LANES: usize = 32;

pub fn check(inputs: &[Spec], bias: bool, format: Format) -> Result<Vec<Spec>> {
    let (x, w) = (&inputs[0], &inputs[1]);
    float_tile(x, "linear: x")?;
    float_tile(w, "linear: w")?;
    ensure!(w.dims[0] == 1 && w.dims[1] == 1, "linear: w must be [1, 1, K, N], not {w}");
    ensure!(x.dims[3] == w.dims[2], "linear: x has {} columns and w {} rows", x.dims[3], w.dims[2]);
    if bias {
        vector(&inputs[2], w.dims[3], "linear: bias")?;
    }
    ensure!(format.is_float(), "linear: output format {format:?} is not a float format");
    Ok(vec![Spec::new([x.dims[0], x.dims[1], x.dims[2], w.dims[3]], format, Layout::Tile)?])
}

pub fn linear(
    specs: &[Spec],
    inputs: &[&Values],
    bias: bool,
    activation: Activation,
    compute: Compute,
) -> Vec<f32> {
    let (rows, depth, columns) = (specs[0].rows(), specs[0].width(), specs[1].width());
    let mut out = multiply(inputs[0].floats(), inputs[1].floats(), rows, depth, columns, compute);
    if bias {
        let bias = inputs[2].floats();
        for row in out.chunks_exact_mut(columns) {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value = compute.dest(*value + bias));
        }
    }
    if activation != Activation::None {
        out.iter_mut().for_each(|value| *value = compute.dest(activation.apply(*value)));
    }
    out
}

/// Which parts of the operands a pass multiplies.
#[derive(Clone, Copy)]
enum Part {
    /// The leading bits that fit the multiplier.
    High,
    /// The remaining bits.
    Low,
    /// All bits the register holds.
    All,
}

fn part(values: &[f32], part: Part, high_bits: u32) -> Vec<f32> {
    // The registers hold 19 bits: float32 arrives truncated to 10 explicit mantissa bits. bf16 and
    // block floats fit.
    let register = |value: f32| truncate(value, 10);
    match part {
        Part::All => values.iter().map(|value| register(*value)).collect(),
        Part::High => values.iter().map(|value| truncate(*value, high_bits)).collect(),
        Part::Low => {
            values.iter().map(|value| register(*value) - truncate(*value, high_bits)).collect()
        }
    }
}

/// x [rows, depth] times w [depth, columns]. The order of additions depends on neither `rows` nor
/// `columns`, so that a sharded product equals the same part of the whole.
pub fn multiply(
    x: &[f32],
    w: &[f32],
    rows: usize,
    depth: usize,
    columns: usize,
    compute: Compute,
) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    multiply_into(x, w, &mut out, [rows, depth, columns], compute);
    out
}

/// Adds the product to the destination. Tile after tile the result is bit-identical to the whole
/// product.
pub fn multiply_into(
    x: &[f32],
    w: &[f32],
    out: &mut [f32],
    [rows, depth, columns]: [usize; 3],
    compute: Compute,
) {
    use Part::{All, High, Low};
    // (part of x, part of w). With a float32 destination passes over the same operand join into one
    // exactly representable product; with bf16 every pass is rounded on its own.
    let passes: &[(Part, Part)] = match (compute.fidelity, compute.fp32_dest) {
        (Fidelity::LoFi, _) => &[(High, High)],
        (Fidelity::HiFi2, true) => &[(High, All)],
        (Fidelity::HiFi2, false) => &[(High, High), (High, Low)],
        (Fidelity::HiFi3, true) => &[(High, All), (Low, High)],
        (Fidelity::HiFi3, false) => &[(High, High), (High, Low), (Low, High)],
        (Fidelity::HiFi4, true) => &[(All, All)],
        (Fidelity::HiFi4, false) => &[(High, High), (High, Low), (Low, High), (Low, Low)],
    };
    let operands: Vec<(Vec<f32>, Vec<f32>)> =
        passes.iter().map(|(a, b)| (part(x, *a, 6), part(w, *b, 4))).collect();
    let shape = Shape { rows, depth, columns };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2. The code is the same as below; only the width of its
        // vectors differs, and without fused multiply-add the results are the same bit for bit.
        unsafe { wide(&operands, out, shape, compute.fp32_dest) };
        return;
    }
    accumulate(&operands, out, shape, compute.fp32_dest);
}

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    depth: usize,
    columns: usize,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide(operands: &[(Vec<f32>, Vec<f32>)], out: &mut [f32], shape: Shape, fp32_dest: bool) {
    accumulate(operands, out, shape, fp32_dest);
}

#[inline(always)]
fn accumulate(operands: &[(Vec<f32>, Vec<f32>)], out: &mut [f32], shape: Shape, fp32_dest: bool) {
    let Shape { rows, depth, columns } = shape;
    for column in (0..columns).step_by(LANES) {
        let lanes = LANES.min(columns - column);
        // Weight columns are gathered once and used by all rows; missing lanes stay zero.
        let panels: Vec<Vec<[f32; LANES]>> = operands
            .iter()
            .map(|(_, w)| {
                let mut panel = vec![[0.0; LANES]; depth];
                for (line, row) in panel.iter_mut().zip(w.chunks_exact(columns)) {
                    line[..lanes].copy_from_slice(&row[column..column + lanes]);
                }
                panel
            })
            .collect();
        for row in 0..rows {
            let out = &mut out[row * columns + column..][..lanes];
            line(operands, &panels, out, row, depth, fp32_dest);
        }
    }
}

/// The columns of a panel in one row. Arrays of a fixed length and no index: the loops over them
/// become vectors, in registers.
#[inline(always)]
fn line(
    operands: &[(Vec<f32>, Vec<f32>)],
    panels: &[Vec<[f32; LANES]>],
    out: &mut [f32],
    row: usize,
    depth: usize,
    fp32_dest: bool,
) {
    let mut sums = [0.0f32; LANES];
    sums[..out.len()].copy_from_slice(out);
    // A tile is 32 deep: its passes come one after another, each in two halves of 16.
    let tile = 2 * DEPTH;
    for start in (0..depth).step_by(tile) {
        let end = depth.min(start + tile);
        for ((x, _), panel) in operands.iter().zip(panels) {
            let x = &x[row * depth..][start..end];
            for (x, panel) in x.chunks(DEPTH).zip(panel[start..end].chunks(DEPTH)) {
                let mut parts = [0.0f32; LANES];
                for (activation, weights) in x.iter().zip(panel) {
                    for (part, weight) in parts.iter_mut().zip(weights) {
                        *part += activation * weight;
                    }
                }
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = if fp32_dest {
                        *sum + part
                    } else {
                        // The adder takes 11 significant bits and leaves 8.
                        bf16_away(*sum + round_away(part, 10))
                    };
                }
            }
        }
    }
    out.copy_from_slice(&sums[..out.len()]);
}
