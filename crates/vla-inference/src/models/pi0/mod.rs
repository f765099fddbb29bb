//! pi0 and pi0.5: PaliGemma and an action expert with a shared cache, from one checkpoint.
//!
//! The prefix, images and text, sees all of itself and is computed once per chunk. The expert then
//! integrates a velocity field from noise at time 1 to actions at time 0; each of its layers
//! attends to the keys and values of the same layer of the prefix, and to its own rows.
//!
//! What the reference computes and this does not, with the same result (`tests/pi0_plain_form.rs`):
//! - Cameras without an image and padding tokens are left out instead of masked: no row sees them,
//!   and positions count the visible ones.
//! - pi0's state row is computed once, not at every step: it sees the prefix and itself only.
//! - Of the last prefix layer only keys and values are computed, and no head at all.
//! - What depends on the time alone comes from tables.

mod expert;
mod gemma;
mod modulation;
mod position;
mod siglip;
mod time;

pub use expert::Schedule;
pub use gemma::LanguageModel;
pub use position::interpolated;
pub use siglip::{SiglipTower, patches_of};
pub use time::times;

use expert::Expert;
use gemma::ROPE_THETA;

use super::{ModelError, Probe, TensorSource, Weights};
use crate::backend::{Activation, Backend, BackendError, CacheSpec, TensorParallel, WeightRole};
use crate::checkpoint::pi0::{Pi0Checkpoint, Pi0Config};
use crate::tensor::HostTensor;

/// The network.
pub struct Pi0<B: Backend> {
    config: Pi0Config,
    vision_tower: SiglipTower<B>,
    multi_modal_projector: B::Linear,
    /// On the host: a prompt looks up at most 200 rows of a table of 1 GB.
    embed_tokens: HostTensor,
    language_model: LanguageModel<B>,
    expert: Expert<B>,
}

/// Keys and values of everything that the action rows see, of one observation.
pub struct Prefix<B: Backend> {
    cache: B::Cache,
    /// Positions of images and text.
    prefix: usize,
    /// Position of the first action row.
    position: usize,
}

impl<B: Backend> Prefix<B> {
    /// The KV cache.
    #[must_use]
    pub fn cache(&self) -> &B::Cache {
        &self.cache
    }

    /// Positions of images and text, without pi0's state row.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.prefix
    }
}

impl<B: Backend> Pi0<B> {
    /// Loads a checkpoint from `source`, which holds its tensors.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        source: &dyn TensorSource,
        checkpoint: &Pi0Checkpoint,
    ) -> Result<Self, ModelError> {
        let config = checkpoint.config.clone();
        let root = Weights::new(source);
        let root = if checkpoint.prefix.is_empty() { root } else { root.at(checkpoint.prefix) };
        let model = root.at("paligemma_with_expert.paligemma.model");
        let (embed_tokens, rows) = checkpoint.embedding;
        Ok(Self {
            vision_tower: SiglipTower::load(
                backend,
                &model.at("vision_tower.vision_model"),
                &config.vision,
                checkpoint.positions,
                config.grid(),
            )?,
            multi_modal_projector: model.linear(
                backend,
                (WeightRole::Projector, TensorParallel::Replicated),
                "multi_modal_projector.linear",
                [config.vlm.width, config.vision.hidden_size],
            )?,
            embed_tokens: root.tensor(embed_tokens, &[rows, config.vlm.width])?,
            language_model: LanguageModel::load(backend, &model.at("language_model"), &config.vlm)?,
            expert: Expert::load(backend, &root, &config)?,
            config,
        })
    }

    /// Shape and constants.
    #[must_use]
    pub fn config(&self) -> &Pi0Config {
        &self.config
    }

    /// Embeddings `[patches, width]` of a camera's image, `[3, height, width]` with values from -1
    /// to 1; `name` is the camera's in probes.
    ///
    /// # Errors
    /// When the image has another size or the device fails.
    pub fn image(
        &self,
        backend: &B,
        name: &str,
        pixels: &[f32],
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let patches =
            patches_of(pixels, self.config.image_resolution, self.config.vision.patch_size)?;
        let features = self.vision_tower.forward(backend, &patches)?;
        probe.observe(&format!("vision.{name}"), &features)?;
        let image = backend.linear(&features, &self.multi_modal_projector, Activation::Identity)?;
        probe.observe(&format!("projector.{name}"), &image)?;
        Ok(image)
    }

    /// Embeddings of a prompt, `[ids, width]`, times the square root of the width; images are not
    /// scaled.
    fn text(&self, backend: &B, ids: &[u32]) -> Result<B::Tensor, BackendError> {
        let width = self.config.vlm.width;
        let scale = (width as f64).sqrt() as f32;
        let mut values = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let row = id as usize;
            values.extend(self.embed_tokens.rows(row..row + 1)?.to_f32().iter().map(|v| v * scale));
        }
        backend.upload(&HostTensor::from_f32(&[ids.len(), width], values)?)
    }

    /// Runs the prefix: the images that are there, in the checkpoint's order, then the prompt.
    /// `state`, normalised and padded to `max_state_dim`, is pi0's; pi0.5 has it in its prompt.
    ///
    /// # Errors
    /// When there is no prompt, an id is outside the vocabulary, or the device fails.
    pub fn prefix(
        &self,
        backend: &B,
        images: &[B::Tensor],
        ids: &[u32],
        state: &[f32],
        probe: &mut impl Probe<B>,
    ) -> Result<Prefix<B>, ModelError> {
        let text = self.text(backend, ids)?;
        let parts: Vec<&B::Tensor> = images.iter().chain([&text]).collect();
        let x = backend.concat_rows(&parts)?;
        probe.observe("prefix.embs", &x)?;
        let [positions, _] = backend.shape(&x);
        let mut cache = backend.new_cache(CacheSpec {
            layers: self.config.vlm.depth,
            heads: self.config.vlm.num_heads,
            kv_heads: self.config.vlm.num_kv_heads,
            head_dim: self.config.vlm.head_dim,
            capacity: positions + 1 + self.config.chunk_size,
            rope_theta: ROPE_THETA,
        })?;
        self.language_model.fill(backend, x, &mut cache, probe)?;
        let at = (&mut cache, positions);
        let has_state = self.expert.state(backend, state, at, probe)?;
        let position = positions + usize::from(has_state);
        Ok(Prefix { cache, prefix: positions, position })
    }

    /// Tables for `steps` Euler steps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn schedule(&self, backend: &B, steps: usize) -> Result<Schedule<B>, BackendError> {
        self.expert.schedule(backend, steps)
    }

    /// Velocity `[chunk, action_dim]` of the noisy actions `x` at `step`. The first `frozen` rows
    /// count as actions at time 0, which only pi0.5 can express.
    ///
    /// # Errors
    /// When there is no such step or the device fails.
    pub fn velocity(
        &self,
        backend: &B,
        prefix: &mut Prefix<B>,
        x: &HostTensor,
        (schedule, step, frozen): (&Schedule<B>, usize, usize),
        probe: &mut impl Probe<B>,
    ) -> Result<HostTensor, BackendError> {
        let place = (&mut prefix.cache, prefix.position);
        self.expert.velocity(backend, x, place, (schedule, step, frozen), probe)
    }
}
