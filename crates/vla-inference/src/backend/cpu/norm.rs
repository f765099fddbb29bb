//! Layer norm and RMS norm over the columns.

use rayon::prelude::*;

use super::{BackendError, CpuTensor, NormSource, loops, shape_error};

/// A norm with its parameters widened to float32.
pub struct CpuNorm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    epsilon: f32,
}

impl CpuNorm {
    pub(super) fn new(source: &NormSource) -> Result<Self, BackendError> {
        let norm = Self {
            weight: source.weight.to_f32(),
            bias: source.bias.as_ref().map(|bias| bias.to_f32()),
            epsilon: source.epsilon,
        };
        match &norm.bias {
            Some(bias) if bias.len() != norm.weight.len() => Err(shape_error(
                "load_norm",
                format!("{} weights, {} biases", norm.weight.len(), bias.len()),
            )),
            _ => Ok(norm),
        }
    }

    fn rows(
        &self,
        operation: &'static str,
        x: &CpuTensor,
        row: impl Fn(&mut [f32], &[f32]) + Sync,
    ) -> Result<CpuTensor, BackendError> {
        if x.columns != self.weight.len() || x.columns == 0 {
            return Err(shape_error(
                operation,
                format!("{} columns, {} weights", x.columns, self.weight.len()),
            ));
        }
        let mut out = CpuTensor::unspecified(x.rows, x.columns);
        let pairs = out.values.par_chunks_mut(x.columns).zip(x.values.par_chunks(x.columns));
        pairs.with_min_len(16).for_each(|(out, x)| row(out, x));
        Ok(out)
    }

    pub(super) fn layer_norm(&self, x: &CpuTensor) -> Result<CpuTensor, BackendError> {
        let Some(bias) = &self.bias else {
            return Err(shape_error("layer_norm", "the norm was loaded without a bias".into()));
        };
        self.rows("layer_norm", x, |out, x| {
            let mean = loops::sum(x) / x.len() as f32;
            let variance = loops::square_sum(x, mean) / x.len() as f32;
            loops::normalise(
                out,
                x,
                mean,
                1.0 / (variance + self.epsilon).sqrt(),
                &self.weight,
                bias,
            );
        })
    }

    pub(super) fn rms_norm(&self, x: &CpuTensor) -> Result<CpuTensor, BackendError> {
        self.rows("rms_norm", x, |out, x| {
            let mean_square = loops::square_sum(x, 0.0) / x.len() as f32;
            loops::scale(out, x, 1.0 / (mean_square + self.epsilon).sqrt(), &self.weight);
        })
    }
}
