//! pi0.5's adaptive norms (adaRMS): scale, shift and gate of every norm of the expert, which depend
//! on the time alone and are tabulated on the host for every Euler step.
//!
//! `[scale | shift | gate] = dense(cond)`; `y = rms(x) (1 + scale) + shift`; the gate of a norm
//! multiplies the branch that it begins before the residual is added
//! (`lerobot/policies/pi_gemma.py`).

use super::time::TimeEmbedding;
use crate::backend::cpu::{CpuBackend, CpuLinear};
use crate::backend::{Activation, Backend, BackendError, LinearSource, TensorParallel, WeightRole};
use crate::checkpoint::pi0::GemmaConfig;
use crate::models::{ModelError, Weights};
use crate::tensor::HostTensor;

/// Factor, offset and gate after one norm: one row for all rows of the sequence, or one for each.
pub(super) struct NormModulation<B: Backend> {
    /// `1 + scale`.
    factor: B::Tensor,
    shift: B::Tensor,
    gate: B::Tensor,
}

impl<B: Backend> NormModulation<B> {
    /// Scale and shift of a normalised matrix.
    pub(super) fn apply(&self, backend: &B, normed: &B::Tensor) -> Result<B::Tensor, BackendError> {
        backend.multiply_add(normed, &self.factor, &self.shift)
    }

    /// `x + gate * branch`.
    pub(super) fn residual(
        &self,
        backend: &B,
        x: B::Tensor,
        branch: &B::Tensor,
    ) -> Result<B::Tensor, BackendError> {
        backend.multiply_add(branch, &self.gate, &x)
    }
}

/// Both norms of a layer.
pub(super) struct LayerModulation<B: Backend> {
    pub input_layernorm: NormModulation<B>,
    pub post_attention_layernorm: NormModulation<B>,
}

/// All norms of the expert at one time.
pub(super) struct Modulation<B: Backend> {
    pub layers: Vec<LayerModulation<B>>,
    pub norm: NormModulation<B>,
}

/// `[scale | shift | gate]` of every norm, `[times, 3 * width]` each: two per layer, then the last.
pub(super) struct ModulationTable {
    norms: Vec<HostTensor>,
    width: usize,
    /// `[times, width]`.
    pub cond: HostTensor,
}

/// The layers that depend on the time, on the host: 116 million parameters that no device needs.
pub(super) struct TimeNetwork {
    host: CpuBackend,
    time_mlp_in: CpuLinear,
    time_mlp_out: CpuLinear,
    dense: Vec<CpuLinear>,
    width: usize,
}

impl TimeNetwork {
    /// `root` holds `time_mlp_*`, `expert` the norms.
    pub(super) fn load(
        root: &Weights<'_>,
        expert: &Weights<'_>,
        config: &GemmaConfig,
    ) -> Result<Self, ModelError> {
        let host = CpuBackend::new(0)?;
        let width = config.width;
        let linear = |weights: &Weights<'_>, name: &str, outputs| {
            let layer = weights.at(name);
            let source = LinearSource {
                role: WeightRole::Attention,
                weights: vec![layer.tensor("weight", &[outputs, width])?],
                bias: Some(layer.tensor("bias", &[outputs])?),
                output_scale: None,
                parallelism: TensorParallel::Replicated,
                few_rows: false,
            };
            Ok::<_, ModelError>(host.load_linear(source)?)
        };
        let mut dense = Vec::with_capacity(2 * config.depth + 1);
        for index in 0..config.depth {
            let layer = expert.at("layers").at(index);
            for name in ["input_layernorm", "post_attention_layernorm"] {
                dense.push(linear(&layer, &format!("{name}.dense"), 3 * width)?);
            }
        }
        dense.push(linear(expert, "norm.dense", 3 * width)?);
        Ok(Self {
            time_mlp_in: linear(root, "time_mlp_in", width)?,
            time_mlp_out: linear(root, "time_mlp_out", width)?,
            dense,
            width,
            host,
        })
    }

    /// The table for the given times.
    pub(super) fn table(
        &self,
        embedding: &TimeEmbedding,
        times: &[f32],
    ) -> Result<ModulationTable, BackendError> {
        let host = &self.host;
        host.scope(|| {
            let embedded = host.upload(&embedding.of(times)?)?;
            let hidden = host.linear(&embedded, &self.time_mlp_in, Activation::Silu)?;
            // A second SiLU after the second layer: leaving it out costs a fifth of LIBERO's
            // successes.
            let cond = host.linear(&hidden, &self.time_mlp_out, Activation::Silu)?;
            let dense = |layer| host.download(&host.linear(&cond, layer, Activation::Identity)?);
            Ok(ModulationTable {
                norms: self.dense.iter().map(dense).collect::<Result<_, _>>()?,
                width: self.width,
                cond: host.download(&cond)?,
            })
        })
    }
}

impl ModulationTable {
    /// The norms at the `rows`' times: one entry for all rows of the sequence, or one per row.
    pub(super) fn at<B: Backend>(
        &self,
        backend: &B,
        rows: &[usize],
    ) -> Result<Modulation<B>, BackendError> {
        let Some((last, pairs)) = self.norms.split_last() else {
            let detail = "the expert has no norm".to_owned();
            return Err(BackendError::Shape { operation: "modulation", detail });
        };
        let norm = |of: &HostTensor| self.norm(backend, of, rows);
        let mut layers = Vec::with_capacity(pairs.len() / 2);
        for pair in pairs.chunks_exact(2) {
            layers.push(LayerModulation {
                input_layernorm: norm(&pair[0])?,
                post_attention_layernorm: norm(&pair[1])?,
            });
        }
        Ok(Modulation { layers, norm: norm(last)? })
    }

    fn norm<B: Backend>(
        &self,
        backend: &B,
        norm: &HostTensor,
        rows: &[usize],
    ) -> Result<NormModulation<B>, BackendError> {
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for &row in rows {
            let values = norm.rows(row..row + 1)?.to_f32();
            for (part, values) in parts.iter_mut().zip(values.chunks_exact(self.width)) {
                part.extend_from_slice(values);
            }
        }
        let [mut scale, shift, gate] = parts;
        scale.iter_mut().for_each(|scale| *scale += 1.0);
        let upload = |values: Vec<f32>| {
            let values = HostTensor::from_f32(&[rows.len(), self.width], values)?;
            // One row serves every row of the block, several are one for each.
            if rows.len() == 1 { backend.upload(&values) } else { backend.upload_block(&values) }
        };
        Ok(NormModulation { factor: upload(scale)?, shift: upload(shift)?, gate: upload(gate)? })
    }
}
