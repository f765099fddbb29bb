//! Packing of weights at load.

use std::ops::Deref;

use memmap2::{Advice, MmapMut};
use rayon::prelude::*;

use super::activations::{ZERO_POINT, interleave, pair, quantise_weights, round};
use super::layout::{LANES, Line, PANEL};
use super::tile::Features;
use super::{BackendError, Format, Packed};
use crate::backend::cpu::shape_error;
use crate::tensor::HostTensor;

/// Inputs whose int8 sums cannot leave 32 bits: 255 * 127 per product.
const MAX_INT8_INPUTS: usize = i32::MAX as usize / (255 * 127);

/// Lines in anonymous memory of whole pages, large pages where the system has them: a decode step
/// reads every weight once and is bound by that.
pub(super) struct Store(MmapMut);

impl Store {
    fn new(lines: usize) -> Result<Self, BackendError> {
        let bytes = lines.checked_mul(size_of::<Line>()).filter(|bytes| *bytes > 0);
        let bytes =
            bytes.ok_or_else(|| shape_error("load_linear", "the weight is empty".into()))?;
        let memory = MmapMut::map_anon(bytes).map_err(|error| BackendError::Device {
            operation: "load_linear",
            detail: format!("{bytes} bytes of memory for packed weights: {error}"),
        })?;
        // Only a hint: without large pages everything works, more slowly.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(Advice::HugePage);
        Ok(Self(memory))
    }

    fn lines_mut(&mut self) -> &mut [Line] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Deref for Store {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Quantisation of one output.
#[derive(Clone, Copy)]
struct Quantised {
    unit: f32,
    zero_sum: i32,
}

pub(super) fn pack(
    format: Format,
    weights: &[HostTensor],
    [inputs, outputs]: [usize; 2],
    features: Features,
) -> Result<Packed, BackendError> {
    if format == Format::Int8 && inputs > MAX_INT8_INPUTS {
        let detail = format!("{inputs} inputs; int8 has at most {MAX_INT8_INPUTS}, use bf16");
        return Err(shape_error("load_linear", detail));
    }
    let words = inputs.div_ceil(format.per_word());
    let panels = outputs.div_ceil(PANEL);
    let mut lines = Store::new(2 * panels * words)?;
    let quantised: Vec<Quantised> = lines
        .lines_mut()
        .par_chunks_exact_mut(2 * words)
        .enumerate()
        .flat_map_iter(|(panel, lines)| pack_panel(format, weights, panel, lines))
        .collect();
    Ok(Packed {
        format,
        features,
        inputs,
        outputs,
        words,
        lines,
        units: quantised.iter().map(|output| output.unit).collect(),
        zero_sums: quantised.iter().map(|output| output.zero_sum).collect(),
    })
}

/// Packs the outputs of one panel; outputs beyond the last stay 0.
fn pack_panel(
    format: Format,
    weights: &[HostTensor],
    panel: usize,
    lines: &mut [Line],
) -> Vec<Quantised> {
    let words = lines.len() / 2;
    let mut by_output = vec![0u32; PANEL * words];
    let quantised = by_output
        .chunks_exact_mut(words)
        .enumerate()
        .map_while(|(lane, words)| {
            let weights = output(weights, panel * PANEL + lane)?;
            Some(match format {
                Format::Floats => {
                    words.copy_from_slice(bytemuck::cast_slice(&weights.to_f32()));
                    Quantised { unit: 1.0, zero_sum: 0 }
                }
                Format::WidenedBf16 | Format::Bf16 => {
                    match weights.as_bf16() {
                        Some(stored) => pair(words, stored),
                        None => round(words, &weights.to_f32()),
                    }
                    Quantised { unit: 1.0, zero_sum: 0 }
                }
                Format::Int8 => {
                    let bytes = bytemuck::cast_slice_mut(words);
                    let (unit, sum) = quantise_weights(bytes, &weights.to_f32());
                    Quantised { unit, zero_sum: sum * ZERO_POINT }
                }
            })
        })
        .collect();
    interleave(&by_output, words, |step, lane, word| {
        lines[2 * step + lane / LANES].0[lane % LANES] = word;
    });
    quantised
}

/// Weights of one output of the stacked parts.
fn output(weights: &[HostTensor], mut output: usize) -> Option<HostTensor> {
    for weight in weights {
        let rows = weight.shape().first().copied().unwrap_or(0);
        if output < rows {
            return weight.rows(output..output + 1).ok();
        }
        output -= rows;
    }
    None
}
