//! FiLM: the instruction scales and shifts the features of every vision block.
//!
//! Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", 2018; in the official
//! code `prismatic/models/film_vit_wrapper.py`. Between attention and MLP of each block,
//! `x * (1 + scale(e)) + shift(e)` on all rows, where e is the mean of the prompt's embeddings.

use rayon::prelude::*;

use super::super::weights::host_tensor;
use super::super::{ModelError, Probe, TensorSource, Weights};
use super::head::OftComponentWeights;
use crate::backend::{Activation, Backend, BackendError, TensorParallel, WeightRole};
use crate::checkpoint::{CheckpointError, OftVision, OpenVlaConfig, WeightFiles};
use crate::models::vit::{Conditioning, Modulation, family_name};
use crate::tensor::HostTensor;

/// `alpha` of the official training: the rank, but at most this.
const LARGEST_ALPHA: usize = 16;

/// The FiLM layers of all towers.
pub(super) struct Film<B: Backend> {
    /// By tower, then by block.
    towers: Vec<TowerFilm<B>>,
}

struct TowerFilm<B: Backend> {
    name: &'static str,
    blocks: Vec<(B::Linear, B::Linear)>,
    /// A row of ones, `[1, width]`.
    one: B::Tensor,
}

impl<B: Backend> Film<B> {
    pub(super) fn load(
        backend: &B,
        source: &FilmWeights<'_>,
        config: &OpenVlaConfig,
    ) -> Result<Self, ModelError> {
        let weights = Weights::new(source);
        let role = (WeightRole::Vision, TensorParallel::Replicated);
        let towers = config.towers.iter().map(|tower| {
            let shape = [tower.embed_dim, config.llama.hidden_size];
            let blocks = (0..tower.used_blocks()).map(|index| {
                let block = weights.at(tower.prefix).at("blocks").at(index);
                let linear = |name| block.linear(backend, role, name, shape);
                Ok((linear("scale")?, linear("shift")?))
            });
            let one = HostTensor::from_f32(&[1, tower.embed_dim], vec![1.0; tower.embed_dim])
                .map_err(BackendError::from)?;
            Ok::<_, ModelError>(TowerFilm {
                name: family_name(tower.family),
                blocks: blocks.collect::<Result<_, ModelError>>()?,
                one: backend.upload(&one)?,
            })
        });
        Ok(Self { towers: towers.collect::<Result<_, _>>()? })
    }

    /// From the embeddings of the prompt and the stop token, `[ids, hidden]`.
    pub(super) fn condition(
        &self,
        backend: &B,
        text: &B::Tensor,
        probe: &mut impl Probe<B>,
    ) -> Result<Conditioning<B>, BackendError> {
        // Once per instruction: the mean is taken on the host.
        let text = backend.download(text)?;
        let width = text.shape().last().copied().unwrap_or(0).max(1);
        let mut mean = vec![0.0f64; width];
        let values = text.to_f32();
        for row in values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let rows = (values.len() / width).max(1) as f64;
        let mean: Vec<f32> = mean.into_iter().map(|sum| (sum / rows) as f32).collect();
        let e = backend.upload(&HostTensor::from_f32(&[1, width], mean)?)?;
        probe.observe("average_language_embedding", &e)?;
        let mut towers = Vec::with_capacity(self.towers.len());
        for TowerFilm { name, blocks, one } in &self.towers {
            let mut all = Vec::with_capacity(blocks.len());
            for (index, (scale, shift)) in blocks.iter().enumerate() {
                let gamma = backend.linear(&e, scale, Activation::Identity)?;
                let offset = backend.linear(&e, shift, Activation::Identity)?;
                if probe.every_layer() {
                    probe.observe(&format!("{name}.block{index}.gamma"), &gamma)?;
                    probe.observe(&format!("{name}.block{index}.beta"), &offset)?;
                }
                all.push(Modulation { factor: backend.add(gamma, one)?, offset });
            }
            towers.push(all);
        }
        Ok(Conditioning(towers))
    }
}

/// A checkpoint's weights with the towers of `vision_backbone--*.pt`, LoRA merged: `W + alpha / r *
/// B A`, in float32.
pub struct FilmWeights<'a> {
    base: &'a WeightFiles,
    vision: OftComponentWeights<'a>,
    alpha: Option<f64>,
}

impl<'a> FilmWeights<'a> {
    pub(super) fn new(base: &'a WeightFiles, vision: &'a OftVision) -> Self {
        let OftVision { component, lora_alpha } = vision;
        Self { base, vision: OftComponentWeights(component), alpha: *lora_alpha }
    }

    /// The name in the file, which wraps each block's own tensors in `block`.
    fn stored_name(name: &str) -> Option<String> {
        if !name.starts_with("vision_backbone.") {
            return None;
        }
        let Some((tower, block)) = name.split_once(".blocks.") else {
            return Some(name.to_owned());
        };
        let (index, rest) = block.split_once('.')?;
        let own = rest.starts_with("scale.") || rest.starts_with("shift.");
        let wrapper = if own { "" } else { "block." };
        Some(format!("{tower}.blocks.{index}.{wrapper}{rest}"))
    }

    fn vision_tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        let Some((layer, kind)) = name.rsplit_once('.') else {
            return self.vision.tensor(name, shape);
        };
        let base = format!("{layer}.base_layer.{kind}");
        if !self.vision.contains(&base) {
            return self.vision.tensor(name, shape);
        }
        let base = self.vision.tensor(&base, shape)?;
        if kind != "weight" {
            return Ok(base);
        }
        let part = |which: &str| format!("{layer}.lora_{which}.default.weight");
        let component = self.vision.0;
        let rank = component.tensor(&part("A"))?.shape().first().copied().unwrap_or(0);
        let (&outputs, inputs) = match shape.split_first() {
            Some((outputs, inputs)) if rank > 0 => (outputs, inputs),
            _ => return Err(self.without_rank(&part("A"))),
        };
        // Of a convolution, B is one of 1 x 1 pixels.
        let ones = vec![1; inputs.len() - 1];
        let a = self.vision.tensor(&part("A"), &[&[rank], inputs].concat())?.to_f32();
        let b = self.vision.tensor(&part("B"), &[&[outputs, rank][..], &ones].concat())?.to_f32();
        let alpha = self.alpha.unwrap_or(rank.min(LARGEST_ALPHA) as f64);
        let merged = merge(base.to_f32(), (&a, &b), rank, (alpha / rank as f64) as f32);
        HostTensor::from_f32(shape, merged)
            .map_err(|source| ModelError::Tensor { name: name.to_owned(), source })
    }

    fn without_rank(&self, name: &str) -> ModelError {
        CheckpointError::MissingTensor {
            path: self.vision.0.path().to_owned(),
            tensor: name.to_owned(),
            hint: "a LoRA of rank 0 cannot be merged; take the file from the original checkpoint",
        }
        .into()
    }
}

/// `base + factor * b a`; `a` is `[rank, inputs]`, `b` is `[outputs, rank]`, row-major.
fn merge(mut base: Vec<f32>, (a, b): (&[f32], &[f32]), rank: usize, factor: f32) -> Vec<f32> {
    let inputs = a.len() / rank.max(1);
    base.par_chunks_mut(inputs.max(1)).zip(b.par_chunks(rank.max(1))).for_each(|(row, b)| {
        let mut update = vec![0.0f32; row.len()];
        for (&b, a) in b.iter().zip(a.chunks_exact(inputs.max(1))) {
            update.iter_mut().zip(a).for_each(|(sum, &a)| *sum += b * a);
        }
        row.iter_mut().zip(update).for_each(|(value, update)| *value += factor * update);
    });
    base
}

impl TensorSource for FilmWeights<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        match Self::stored_name(name) {
            Some(stored) => self.vision_tensor(&stored, shape),
            None => host_tensor(name, self.base.expect(name, shape)?),
        }
    }

    fn contains(&self, name: &str) -> bool {
        match Self::stored_name(name) {
            Some(stored) => {
                let base =
                    stored.rsplit_once('.').map(|(l, kind)| format!("{l}.base_layer.{kind}"));
                self.vision.contains(&stored) || base.is_some_and(|b| self.vision.contains(&b))
            }
            None => self.base.contains(name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn updates_are_added() {
        // 2 outputs, 3 inputs, rank 2.
        let base = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (a, b) = ([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], [1.0, 2.0, 0.0, 4.0]);
        assert_eq!(merge(base, (&a, &b), 2, 0.5), [1.5, 3.0, 4.5, 4.0, 7.0, 8.0]);
    }

    #[test]
    fn blocks_are_wrapped() {
        let name = |name| FilmWeights::stored_name(name);
        let wrapped = "vision_backbone.featurizer.blocks.3.block.attn.qkv.weight";
        assert_eq!(name("vision_backbone.featurizer.blocks.3.attn.qkv.weight").unwrap(), wrapped);
        let own = "vision_backbone.fused_featurizer.blocks.10.scale.bias";
        assert_eq!(name(own).unwrap(), own);
        assert_eq!(name("vision_backbone.featurizer.pos_embed").unwrap().len(), 36);
        assert_eq!(name("projector.fc1.weight"), None);
    }
}
