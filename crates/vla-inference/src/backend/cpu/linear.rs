//! Linear layers: a product with packed weights ([`packed`](super::packed)), then bias, activation
//! and scale while the sums are in cache.

use super::packed::Packed;
use super::precision::CpuFormat;
use super::{Activation, BackendError, CpuTensor, LinearSource, loops, shape_error};
use crate::tensor::HostTensor;

/// A linear layer.
pub struct CpuLinear {
    weights: Packed,
    inputs: usize,
    outputs: usize,
    bias: Option<Vec<f32>>,
    output_scale: Option<Vec<f32>>,
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
        Ok(Self {
            bias: vector("bias", source.bias)?,
            output_scale: vector("output_scale", source.output_scale)?,
            inputs,
            outputs,
            weights: Packed::new(format, &source.weights, inputs, outputs)?,
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
        let mut out = CpuTensor::unspecified(x.rows, self.outputs);
        self.weights.multiply(x, &mut out, |out, first| self.finish(out, first, activation));
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
