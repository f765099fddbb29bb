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
mod trace;

pub use expert::Schedule;
pub use gemma::LanguageModel;
pub use position::interpolated;
pub use siglip::{SiglipTower, patches_of};
pub use time::{TimeSteps, times};
pub use trace::{ChunkInput, TracedChunk, TracedChunks};

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
        let time_steps = match checkpoint.lerobot {
            true => TimeSteps::Rounded,
            false => TimeSteps::Accumulated,
        };
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
            expert: Expert::load(backend, &root, (&config, time_steps))?,
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
        let patches = backend.upload(&self.patches(pixels)?)?;
        self.embed_image(backend, name, &patches, probe)
    }

    /// Patches of a camera's image.
    fn patches(&self, pixels: &[f32]) -> Result<HostTensor, BackendError> {
        patches_of(pixels, self.config.image_resolution, self.config.vision.patch_size)
    }

    fn embed_image(
        &self,
        backend: &B,
        name: &str,
        patches: &B::Tensor,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let features = self.vision_tower.forward(backend, patches)?;
        probe.observe(&format!("vision.{name}"), &features)?;
        let image = backend.linear(&features, &self.multi_modal_projector, Activation::Identity)?;
        probe.observe(&format!("projector.{name}"), &image)?;
        Ok(image)
    }

    /// Embeddings of a prompt, `[rows, width]`, times the square root of the width (images are not
    /// scaled); the rows after the prompt's are zeros.
    fn text(&self, ids: &[u32], rows: usize) -> Result<HostTensor, BackendError> {
        let width = self.config.vlm.width;
        let scale = (width as f64).sqrt() as f32;
        let mut values = Vec::with_capacity(rows * width);
        for &id in ids {
            let row = id as usize;
            values.extend(self.embed_tokens.rows(row..row + 1)?.to_f32().iter().map(|v| v * scale));
        }
        values.resize(rows * width, 0.0);
        Ok(HostTensor::from_f32(&[rows, width], values)?)
    }

    /// The state as a row, where the model has one.
    fn state_row(&self, state: &[f32]) -> Result<Option<HostTensor>, BackendError> {
        let row = || HostTensor::from_f32(&[1, state.len()], state.to_vec());
        Ok(self.expert.has_state().then(row).transpose()?)
    }

    /// An empty prefix of `positions` for images and text.
    fn empty_prefix(&self, backend: &B, positions: usize) -> Result<Prefix<B>, BackendError> {
        let rows = self.block_rows(positions);
        let spec = CacheSpec {
            layers: self.config.vlm.depth,
            heads: self.config.vlm.num_heads,
            kv_heads: self.config.vlm.num_kv_heads,
            head_dim: self.config.vlm.head_dim,
            capacity: rows.iter().sum(),
            rope_theta: ROPE_THETA,
        };
        let position = positions + usize::from(self.expert.has_state());
        Ok(Prefix { cache: backend.new_block_cache(spec, &rows)?, prefix: positions, position })
    }

    /// Positions of the blocks of a sequence: images and text, pi0's state, actions.
    fn block_rows(&self, positions: usize) -> Vec<usize> {
        let state = self.expert.has_state().then_some(1);
        [positions].into_iter().chain(state).chain([self.config.chunk_size]).collect()
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
        let text = backend.upload(&self.text(ids, ids.len())?)?;
        let state = self.state_row(state)?.map(|row| backend.upload_block(&row)).transpose()?;
        let rows = images.iter().map(|image| backend.shape(image)[0]).sum::<usize>();
        let mut prefix = self.empty_prefix(backend, rows + ids.len())?;
        self.fill(backend, &mut prefix, (images, &text, state.as_ref()), probe)?;
        Ok(prefix)
    }

    /// Computes keys and values of the prefix and of the state.
    fn fill(
        &self,
        backend: &B,
        prefix: &mut Prefix<B>,
        (images, text, state): (&[B::Tensor], &B::Tensor, Option<&B::Tensor>),
        probe: &mut impl Probe<B>,
    ) -> Result<(), BackendError> {
        let parts: Vec<&B::Tensor> = images.iter().chain([text]).collect();
        let x = backend.concat_sequence(&parts)?;
        probe.observe("prefix.embs", &x)?;
        self.language_model.fill(backend, x, &mut prefix.cache, probe)?;
        match state {
            Some(state) => {
                self.expert.state(backend, state, (&mut prefix.cache, prefix.prefix), probe)
            }
            None => Ok(()),
        }
    }

    /// Tables for `steps` Euler steps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn schedule(&self, backend: &B, steps: usize) -> Result<Schedule<B>, BackendError> {
        self.expert.schedule(backend, steps)
    }

    /// [`Pi0::schedule`] at other times, one for each step.
    ///
    /// # Errors
    /// When the device fails.
    pub fn schedule_at(&self, backend: &B, times: Vec<f32>) -> Result<Schedule<B>, BackendError> {
        self.expert.schedule_at(backend, times)
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
        let x = backend.upload_block_f32(x)?;
        let place = (&mut prefix.cache, prefix.position);
        let v = self.expert.velocity(backend, &x, place, (schedule, step, frozen), probe)?;
        backend.download(&v)
    }
}
