//! Linear layers: float32 arithmetic over the weights as stored, or packed weights in another
//! number format ([`packed`](super::packed)).
//!
//! As stored: many rows (a prefill): blocks of outputs are widened into a scratch that stays in
//! cache and handed to the GEMM, so the weights are read once, as bf16. One row (a decode step):
//! the weights are streamed through dot products, which is as fast as memory delivers them.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::matmul::{self, Strided};
use super::packed::{Format, Packed};
use super::precision::CpuFormat;
use super::{Activation, BackendError, CpuTensor, LinearSource, loops, shape_error};
use crate::tensor::{DType, HostTensor};

/// Up to this many rows are done as dot products.
const STREAMED_ROWS: usize = 4;
/// Bytes of widened weights per block: with the input's panel they fit a core's share of the
/// caches.
const BLOCK_BYTES: usize = 1 << 20;
/// Outputs per task of a streamed product.
const STREAMED_OUTPUTS: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A linear layer.
pub struct CpuLinear {
    weights: Weights,
    inputs: usize,
    outputs: usize,
    bias: Option<Vec<f32>>,
    output_scale: Option<Vec<f32>>,
}

enum Weights {
    Stored(Vec<Part>),
    Packed(Packed),
}

/// One of the stacked weights, `[outputs, inputs]`.
struct Part {
    weight: HostTensor,
    first_output: usize,
    outputs: usize,
}

/// Some outputs of one part.
struct Block<'a> {
    part: &'a Part,
    rows: Range<usize>,
}

/// An output matrix that several tasks write at disjoint columns.
#[derive(Clone, Copy)]
struct Output {
    start: *mut f32,
    columns: usize,
}

// SAFETY: tasks write disjoint columns only (each block owns its outputs), see
// `CpuLinear::multiply`.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    fn at(self, column: usize) -> *mut f32 {
        self.start.wrapping_add(column)
    }
}

impl CpuLinear {
    pub(super) fn new(source: LinearSource, format: CpuFormat) -> Result<Self, BackendError> {
        let (inputs, outputs) = stacked_shape(&source.weights)?;
        let vector = |name: &str, tensor: Option<HostTensor>| match tensor {
            Some(tensor) if tensor.len() != outputs => Err(shape_error(
                "load_linear",
                format!("{name} of {} for {outputs} outputs", tensor.len()),
            )),
            other => Ok(other.map(|tensor| tensor.to_f32())),
        };
        let packed = |format| Packed::new(format, &source.weights, inputs, outputs);
        Ok(Self {
            bias: vector("bias", source.bias)?,
            output_scale: vector("output_scale", source.output_scale)?,
            inputs,
            outputs,
            weights: match format {
                CpuFormat::F32 => Weights::Stored(stored(source.weights)?),
                CpuFormat::Bf16 => Weights::Packed(packed(Format::Bf16)?),
                CpuFormat::Int8 => Weights::Packed(packed(Format::Int8)?),
            },
        })
    }

    pub(super) fn apply(
        &self,
        x: &CpuTensor,
        activation: Activation,
    ) -> Result<CpuTensor, BackendError> {
        if x.columns != self.inputs || self.inputs == 0 {
            return Err(shape_error(
                "linear",
                format!("{} columns into {} inputs", x.columns, self.inputs),
            ));
        }
        let mut out = CpuTensor::zeros(x.rows, self.outputs);
        let parts = match &self.weights {
            Weights::Stored(parts) => parts,
            Weights::Packed(packed) => {
                packed.multiply(x, &mut out, |out, first| self.finish(out, first, activation));
                return Ok(out);
            }
        };
        if x.rows <= STREAMED_ROWS {
            for (x, out) in
                x.values.chunks_exact(x.columns).zip(out.values.chunks_exact_mut(self.outputs))
            {
                self.stream(parts, x, out, activation);
            }
        } else {
            self.multiply(parts, x, &mut out, activation);
        }
        Ok(out)
    }

    fn finish(&self, out: &mut [f32], first_output: usize, activation: Activation) {
        let range = first_output..first_output + out.len();
        if let Some(bias) = &self.bias {
            loops::add_in_place(out, &bias[range.clone()]);
        }
        match activation {
            Activation::Identity => {}
            Activation::Gelu => loops::gelu(out),
            Activation::GeluTanh => loops::gelu_tanh(out),
            Activation::Silu => loops::silu(out),
            Activation::Relu => out.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
        if let Some(scale) = &self.output_scale {
            loops::multiply_in_place(out, &scale[range]);
        }
    }

    /// One row by dot products.
    fn stream(&self, parts: &[Part], x: &[f32], out: &mut [f32], activation: Activation) {
        let mut rest = out;
        let mut tasks = Vec::new();
        for block in blocks(parts, STREAMED_OUTPUTS) {
            let (head, tail) = rest.split_at_mut(block.rows.len());
            tasks.push((block, head));
            rest = tail;
        }
        tasks.into_par_iter().for_each(|(block, out)| {
            let elements = block.rows.start * self.inputs..block.rows.end * self.inputs;
            match block.part.weight.as_bf16() {
                Some(weights) => loops::rows_dot(out, &weights[elements], x),
                None => {
                    let weights: &[f32] = block.part.floats();
                    for (out, row) in
                        out.iter_mut().zip(weights[elements].chunks_exact(self.inputs))
                    {
                        *out = loops::dot(row, x);
                    }
                }
            }
            self.finish(out, block.part.first_output + block.rows.start, activation);
        });
    }

    /// Many rows by GEMM.
    fn multiply(&self, parts: &[Part], x: &CpuTensor, out: &mut CpuTensor, activation: Activation) {
        let target = Output { start: out.values.as_mut_ptr(), columns: out.columns };
        let wanted = BLOCK_BYTES / (4 * self.inputs);
        // At least two blocks per worker, so that none waits long for the last one.
        let fair = self.outputs.div_ceil(2 * rayon::current_num_threads());
        let per_block = wanted.min(fair).clamp(16, 1024).next_multiple_of(16);
        blocks(parts, per_block).into_par_iter().for_each(|block| {
            let first = block.part.first_output + block.rows.start;
            let elements = block.rows.start * self.inputs..block.rows.end * self.inputs;
            match block.part.weight.as_bf16() {
                Some(weights) => SCRATCH.with_borrow_mut(|scratch| {
                    widen_into(scratch, &weights[elements]);
                    self.gemm(x, &scratch[..block.rows.len() * self.inputs], target, first);
                }),
                None => self.gemm(x, &block.part.floats()[elements], target, first),
            }
            for row in 0..x.rows {
                // SAFETY: `first..first + rows.len()` lies within the row of `out` (parts tile the
                // outputs), the block alone writes these columns, and `out` outlives the parallel
                // loop.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(
                        target.at(row * target.columns + first),
                        block.rows.len(),
                    )
                };
                self.finish(row, first, activation);
            }
        });
    }

    /// `out[:, first..] = x weights^T` for the rows of `weights`.
    fn gemm(&self, x: &CpuTensor, weights: &[f32], out: Output, first: usize) {
        let outputs = weights.len() / self.inputs;
        debug_assert!(first + outputs <= out.columns);
        // SAFETY: `x.values` holds rows * inputs floats, `weights` outputs * inputs, and the
        // destination rows x outputs floats at a row stride of `out.columns` starting at column
        // `first`, all inside their allocations; no other task touches these columns, and the
        // sources are not written.
        unsafe {
            matmul::multiply(
                [x.rows, outputs, self.inputs],
                Strided { start: out.at(first), row: out.columns, column: 1 },
                Strided { start: x.values.as_ptr(), row: self.inputs, column: 1 },
                // Transposed: inputs down, outputs across.
                Strided { start: weights.as_ptr(), row: 1, column: self.inputs },
                1.0,
            );
        }
    }
}

/// Inputs, and outputs of all stacked weights.
fn stacked_shape(weights: &[HostTensor]) -> Result<(usize, usize), BackendError> {
    let mut outputs = 0;
    let mut inputs = None;
    for weight in weights {
        let [rows, columns] = *weight.shape() else {
            return Err(shape_error(
                "load_linear",
                format!("weight {:?} is not [outputs, inputs]", weight.shape()),
            ));
        };
        if *inputs.get_or_insert(columns) != columns {
            return Err(shape_error("load_linear", format!("{columns} inputs after {inputs:?}")));
        }
        outputs += rows;
    }
    let none = || shape_error("load_linear", "no weight given".into());
    Ok((inputs.ok_or_else(none)?, outputs))
}

/// The weights where they are.
fn stored(weights: Vec<HostTensor>) -> Result<Vec<Part>, BackendError> {
    let mut first_output = 0;
    let part = |weight: HostTensor| {
        // Bytes of a file may have an odd address; such a weight is copied once.
        let aligned = match weight.dtype() {
            DType::Bf16 => weight.as_bf16().is_some(),
            DType::F32 => weight.as_f32().is_some(),
        };
        let weight =
            if aligned { weight } else { HostTensor::from_f32(weight.shape(), weight.to_f32())? };
        let outputs = weight.shape().first().copied().unwrap_or(0);
        let part = Part { weight, first_output, outputs };
        first_output += outputs;
        Ok(part)
    };
    weights.into_iter().map(part).collect()
}

fn blocks(parts: &[Part], outputs_per_block: usize) -> Vec<Block<'_>> {
    let split = |part: &'_ Part| {
        let starts = (0..part.outputs).step_by(outputs_per_block);
        starts.map(|start| start..(start + outputs_per_block).min(part.outputs)).collect::<Vec<_>>()
    };
    parts
        .iter()
        .flat_map(|part| split(part).into_iter().map(move |rows| Block { part, rows }))
        .collect()
}

impl Part {
    /// The weight as float32; only for weights that are not bf16.
    fn floats(&self) -> &[f32] {
        // `stored` keeps nothing that is neither aligned bf16 nor aligned float32.
        self.weight.as_f32().unwrap_or(&[])
    }
}

fn widen_into(scratch: &mut Vec<f32>, weights: &[bf16]) {
    if scratch.len() < weights.len() {
        scratch.resize(weights.len(), 0.0);
    }
    loops::widen(&mut scratch[..weights.len()], weights);
}
