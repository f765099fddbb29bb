//! pi0 and pi0.5 as a policy: images, state and instruction to a chunk of actions, by flow matching
//! from fresh noise, with real-time chunking.

mod cameras;
mod decide;
mod noise;
mod options;
mod prompt;
mod rtc;
mod sample;

pub use noise::{Noise, fresh_seed, next_seed};
pub use options::{ContinuationMode, FlowError, FlowOptions};
pub use prompt::{prompt, state_bin};
pub use rtc::{Continuation, ContinuationError, Schedule, guidance_weight, prefix_weights};
pub use sample::{EulerStep, sample};

use cameras::{cameras, preparer};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{PolicyError, PolicyInfo, PolicyOptions};
use crate::backend::Backend;
use crate::checkpoint::pi0::{ActionMapping, Normalizer, Pi0Checkpoint, Pi0Source};
use crate::checkpoint::{CheckpointError, Tokenizer};
use crate::models::pi0::Pi0;
use crate::models::{Probe, TensorSource};
use crate::observation::{Layout, Preparer, RgbImage};

/// Everything that a chunk is computed from, prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The prompt.
    pub prompt: String,
    /// Its token ids.
    pub input_ids: Vec<u32>,
    /// The raw state.
    pub state: Vec<f32>,
    /// The normalised state.
    pub normalized_state: Vec<f32>,
    /// Feature and pixels of each camera that has an image, in the model's order: `[3, height,
    /// width]`, values from -1 to 1.
    pub images: Vec<(String, Vec<f32>)>,
}

impl Prepared {
    /// The normalised state padded with zeros to the model's width.
    #[must_use]
    pub fn padded_state(&self, width: usize) -> Vec<f32> {
        let mut state = self.normalized_state.clone();
        state.resize(width, 0.0);
        state
    }
}

/// A chunk, to be continued by the next.
struct Previous {
    normalized: Vec<Vec<f32>>,
    actions: Vec<Vec<f32>>,
}

/// pi0 or pi0.5 on a backend.
pub struct Pi0Policy<B: Backend> {
    backend: B,
    model: Pi0<B>,
    checkpoint: Pi0Checkpoint,
    schedule: crate::models::pi0::Schedule<B>,
    state: Normalizer,
    action: Normalizer,
    info: PolicyInfo,
    /// Feature and name of each camera that must have an image.
    cameras: Vec<(String, Arc<str>)>,
    preparer: Mutex<Preparer>,
    continuation: ContinuationMode,
    /// Seed of the first chunk's noise, and of the next one's.
    first_seed: u64,
    seed: u64,
    previous: Option<Previous>,
    /// Chunks with traces, see [`Pi0Policy::with_traces`].
    traced: Option<Box<dyn crate::models::pi0::TracedChunk<B>>>,
}

impl<B: Backend> Pi0Policy<B> {
    /// Loads a checkpoint folder onto a backend.
    ///
    /// # Errors
    /// When the folder is unfit or has no statistics, in one line with the remedy.
    pub fn open(backend: B, folder: &Path, options: &PolicyOptions) -> Result<Self, PolicyError> {
        let flow = &options.flow;
        let checkpoint = Pi0Checkpoint::open(&Pi0Source {
            folder: folder.to_owned(),
            tokenizer: flow.tokenizer.clone(),
            statistics: flow.statistics.clone(),
            resize: flow.resize,
            state_tokens: flow.state_tokens,
            horizon: flow.horizon,
            actions: flow.actions.clone(),
        })?;
        let weights = checkpoint.weights.clone();
        Self::from_checkpoint(backend, checkpoint, &weights, options)
    }

    /// Like [`Pi0Policy::open`], with the weights of another source than the checkpoint's files.
    ///
    /// # Errors
    /// As [`Pi0Policy::open`].
    pub fn from_checkpoint(
        backend: B,
        checkpoint: Pi0Checkpoint,
        weights: &(dyn TensorSource + Send + Sync),
        options: &PolicyOptions,
    ) -> Result<Self, PolicyError> {
        let flow = &options.flow;
        let place = || checkpoint.folder.display().to_string();
        let missing = |feature| FlowError::NoStatistics { folder: place(), feature };
        let processors = &checkpoint.processors;
        let state = processors.state.clone().ok_or_else(|| missing("state"))?;
        let action = processors.action.clone().ok_or_else(|| missing("action"))?;
        let dimensions = state.constant_dimensions();
        if !dimensions.is_empty() {
            return Err(FlowError::Degenerate { folder: place(), dimensions }.into());
        }
        let config = &checkpoint.config;
        let preparer = preparer(&checkpoint, &options.preparation)?;
        if flow.continuation == ContinuationMode::Trained && config.rtc_training_max_delay == 0 {
            return Err(FlowError::from(ContinuationError::Untrained).into());
        }
        let cameras = cameras(&checkpoint, &flow.absent_cameras)?;
        let steps = flow.steps.unwrap_or(config.num_inference_steps);
        if !(1..=1000).contains(&steps) {
            return Err(FlowError::Steps(steps).into());
        }
        let load = || Pi0::load(&backend, weights, &checkpoint);
        let model = backend.scope(load)?;
        let schedule = backend.scope(|| model.schedule(&backend, steps))?;
        let ranges = action.ranges();
        let envelope = (0..config.action.1)
            .map(|at| match processors.mapping {
                ActionMapping::Absolute => ranges.get(at).copied(),
                ActionMapping::Relative { .. } => None,
            })
            .collect();
        let info = PolicyInfo {
            unnorm_key: config.action.0.clone(),
            action_dim: config.action.1,
            action_names: processors.action_names.clone().unwrap_or_default(),
            horizon: config.chunk_size,
            cameras: cameras.iter().map(|(_, name)| Arc::clone(name)).collect(),
            state_dim: config.state.1,
            device: backend.name(),
            precision: options.precision.clone(),
            envelope,
            action_tokens: None,
        };
        let first_seed = flow.seed.unwrap_or_else(fresh_seed);
        Ok(Self {
            backend,
            model,
            schedule,
            state,
            action,
            info,
            cameras,
            preparer: Mutex::new(preparer),
            continuation: flow.continuation,
            first_seed,
            seed: first_seed,
            previous: None,
            traced: None,
            checkpoint,
        })
    }

    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Pi0Checkpoint {
        &self.checkpoint
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The network.
    #[must_use]
    pub fn model(&self) -> &Pi0<B> {
        &self.model
    }

    /// Normalisers of state and action.
    #[must_use]
    pub fn normalizers(&self) -> [&Normalizer; 2] {
        [&self.state, &self.action]
    }

    /// The prompt and its ids, without the limit of the length.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn tokenize(
        &self,
        instruction: &str,
        normalized_state: &[f32],
    ) -> Result<(String, Vec<u32>), PolicyError> {
        self.tokenize_by(instruction, normalized_state, Tokenizer::encode)
    }

    /// [`Pi0Policy::tokenize`] with another way to encode a text.
    pub(crate) fn tokenize_by(
        &self,
        instruction: &str,
        normalized_state: &[f32],
        encode: impl Fn(&Tokenizer, &str) -> Result<Vec<u32>, CheckpointError>,
    ) -> Result<(String, Vec<u32>), PolicyError> {
        let config = &self.checkpoint.config;
        let tokens = (self.checkpoint.state_tokens, config.max_state_dim);
        let form = (config.kind, self.checkpoint.lerobot);
        let prompt = prompt(form, instruction, normalized_state, tokens);
        let tokenizer = &self.checkpoint.tokenizer;
        let ids = match (self.checkpoint.lerobot, prompt.strip_suffix('\n')) {
            // openpi encodes the line break by itself.
            (false, Some(text)) => {
                let line_break = encode(tokenizer, "\n")?;
                let rest = line_break.get(1..).unwrap_or_default();
                [encode(tokenizer, text)?.as_slice(), rest].concat()
            }
            _ => encode(tokenizer, &prompt)?,
        };
        Ok((prompt, ids))
    }

    /// An image at the model's input size, `[3, height, width]`, values from -1 to 1.
    ///
    /// # Errors
    /// When the image cannot be resized.
    pub fn resize(&self, image: &RgbImage) -> Result<Vec<f32>, PolicyError> {
        let mut pixels = Vec::new();
        // A panic while it was held leaves a plan and buffers, which the next image replaces.
        let mut preparer = self.preparer.lock().unwrap_or_else(PoisonError::into_inner);
        preparer.floats(image, Layout::Chw, &mut pixels)?;
        Ok(pixels)
    }

    /// Prepares images by feature, the raw state and an instruction.
    ///
    /// # Errors
    /// When the prompt would be cut or the tokenizer refuses it.
    pub fn prepare(
        &self,
        images: &BTreeMap<String, &RgbImage>,
        state: &[f32],
        instruction: &str,
    ) -> Result<Prepared, PolicyError> {
        let normalized_state = self.state.normalize(state);
        let (prompt, input_ids) = self.tokenize(instruction, &normalized_state)?;
        let limit = self.checkpoint.processors.max_length;
        if input_ids.len() > limit {
            return Err(FlowError::PromptTooLong { tokens: input_ids.len(), limit }.into());
        }
        let cameras = self.checkpoint.config.real_cameras();
        let images = cameras
            .filter_map(|camera| Some((camera.feature.clone(), images.get(&camera.feature)?)))
            .map(|(feature, image)| Ok((feature, self.resize(image)?)))
            .collect::<Result<_, PolicyError>>()?;
        Ok(Prepared { prompt, input_ids, state: state.to_vec(), normalized_state, images })
    }

    /// The normalised chunk `[chunk, max_action_dim]`, flat, from noise of the same shape.
    ///
    /// # Errors
    /// When the device fails or a value is not finite.
    pub fn sample(
        &self,
        prepared: &Prepared,
        schedule: &crate::models::pi0::Schedule<B>,
        noise: Vec<f32>,
        continuation: &Continuation,
        probe: &mut (impl Probe<B> + Send),
        observe: impl FnMut(EulerStep<'_>) + Send,
    ) -> Result<Vec<f32>, PolicyError> {
        self.backend.scope(|| {
            let mut prefix = self.prefix(prepared, probe)?;
            let place = (&mut prefix, schedule);
            let backend = &self.backend;
            Ok(sample(backend, &self.model, place, noise, continuation, probe, observe)?)
        })
    }

    /// Keys and values of an observation.
    ///
    /// # Errors
    /// When the device fails.
    pub fn prefix(
        &self,
        prepared: &Prepared,
        probe: &mut impl Probe<B>,
    ) -> Result<crate::models::pi0::Prefix<B>, PolicyError> {
        self.timed_prefix(prepared, probe, || {})
    }

    /// [`Pi0Policy::prefix`], with a call after the images.
    fn timed_prefix(
        &self,
        prepared: &Prepared,
        probe: &mut impl Probe<B>,
        after_images: impl FnOnce(),
    ) -> Result<crate::models::pi0::Prefix<B>, PolicyError> {
        let images = prepared
            .images
            .iter()
            .map(|(name, pixels)| self.model.image(&self.backend, name, pixels, probe))
            .collect::<Result<Vec<_>, _>>()?;
        after_images();
        let state = prepared.padded_state(self.checkpoint.config.max_state_dim);
        Ok(self.model.prefix(&self.backend, &images, &prepared.input_ids, &state, probe)?)
    }

    /// Tables for a number of Euler steps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn schedule(&self, steps: usize) -> Result<crate::models::pi0::Schedule<B>, PolicyError> {
        Ok(self.backend.scope(|| self.model.schedule(&self.backend, steps))?)
    }

    /// Physical actions of a normalised chunk, `[chunk][action_dim]`; relative ones are added to
    /// the raw state.
    #[must_use]
    pub fn actions(&self, chunk: &[f32], state: &[f32], mapping: &ActionMapping) -> Vec<Vec<f32>> {
        let config = &self.checkpoint.config;
        chunk
            .chunks_exact(config.max_action_dim)
            .map(|row| {
                mapping.to_absolute(&self.action.unnormalize(&row[..config.action.1]), state)
            })
            .collect()
    }

    /// Absolute actions in the model's space, as seen from another state.
    #[must_use]
    pub fn reanchored(
        &self,
        actions: &[Vec<f32>],
        state: &[f32],
        mapping: &ActionMapping,
    ) -> Vec<Vec<f32>> {
        let one = |row: &Vec<f32>| self.action.normalize(&mapping.to_relative(row, state));
        actions.iter().map(one).collect()
    }
}
