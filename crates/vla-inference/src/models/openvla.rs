//! OpenVLA (Prismatic): vision towers, projector and Llama 2, from one checkpoint.
//!
//! Kim et al., "OpenVLA: An Open-Source Vision-Language-Action Model", 2024. The sequence is `[BOS]
//! + patch embeddings + the rest of the prompt`; tokens are decoded greedily.

use std::ops::Range;

use super::llama::{Llama, Span};
use super::projector::Projector;
use super::vit::VisionTower;
use super::{ModelError, Probe, TensorSource, Weights};
use crate::backend::{Backend, BackendError, Normalisation, Pixels, Position, TopTwo};
use crate::checkpoint::{OpenVlaConfig, PreprocessorConfig};

/// The network.
pub struct OpenVla<B: Backend> {
    /// Each with the number of its grid.
    towers: Vec<(VisionTower<B>, usize)>,
    /// Sides of images and of their patches, pixels: towers with the same share them.
    grids: Vec<(usize, usize)>,
    projector: Projector<B>,
    llama: Llama<B>,
}

impl<B: Backend> OpenVla<B> {
    /// Brings a checkpoint to the device; of the head only the rows `head_ids`.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        source: &dyn TensorSource,
        config: &OpenVlaConfig,
        preprocessor: &PreprocessorConfig,
        head_ids: Range<usize>,
    ) -> Result<Self, ModelError> {
        let weights = Weights::new(source);
        let (mut towers, mut grids) = (Vec::new(), Vec::new());
        for (tower, pixels) in config.towers.iter().zip(&preprocessor.towers) {
            let normalisation = Normalisation { mean: pixels.mean, std: pixels.std };
            let loaded = VisionTower::load(
                backend,
                &weights.at(tower.prefix),
                tower.clone(),
                normalisation,
            )?;
            let grid = (tower.img_size, tower.patch_size);
            let number = grids.iter().position(|known| *known == grid).unwrap_or_else(|| {
                grids.push(grid);
                grids.len() - 1
            });
            towers.push((loaded, number));
        }
        let vision = config.towers.iter().map(|tower| tower.embed_dim).sum();
        let hidden = config.llama.hidden_size;
        Ok(Self {
            towers,
            grids,
            projector: Projector::load(backend, &weights.at("projector"), vision, hidden)?,
            llama: Llama::load(
                backend,
                &weights.at("language_model"),
                config.llama.clone(),
                head_ids,
            )?,
        })
    }

    /// Patch features of all towers side by side, `[patches, sum of widths]`, from a resized RGB
    /// image.
    ///
    /// # Errors
    /// When the device fails.
    pub fn features(
        &self,
        backend: &B,
        rgb: &[u8],
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        self.features_of(backend, &self.images(backend, rgb)?, probe)
    }

    /// A resized RGB image on the device, once for each grid of patches that the towers cut it
    /// into.
    ///
    /// # Errors
    /// When it has another size than the towers take.
    pub fn images(&self, backend: &B, rgb: &[u8]) -> Result<Vec<B::Image>, BackendError> {
        self.grids.iter().map(|&(side, patch)| backend.image(Pixels { rgb, side, patch })).collect()
    }

    /// Like [`OpenVla::features`], of an image on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn features_of(
        &self,
        backend: &B,
        images: &[B::Image],
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let cut =
            images.iter().map(|image| backend.cut_patches(image)).collect::<Result<Vec<_>, _>>()?;
        let mut features = Vec::with_capacity(self.towers.len());
        for (tower, grid) in &self.towers {
            let patches = cut.get(*grid).ok_or_else(|| BackendError::Shape {
                operation: "features",
                detail: format!(
                    "{} images for {} grids of patches",
                    images.len(),
                    self.grids.len()
                ),
            })?;
            features.push(tower.forward(backend, patches, probe)?);
        }
        backend.concat_columns(&features.iter().collect::<Vec<_>>())
    }

    /// Patches of an image: positions that it takes in the sequence.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.towers.first().map_or(0, |(tower, _)| tower.config().patches())
    }

    pub(super) fn llama(&self) -> &Llama<B> {
        &self.llama
    }

    /// Positions that a prompt, its image and `further` tokens take.
    pub(super) fn check_prompt(
        &self,
        prompt: &[u32],
        patches: usize,
        further: usize,
    ) -> Result<usize, ModelError> {
        let capacity = patches + prompt.len() + further;
        let config = self.llama.config();
        let available = config.max_position_embeddings;
        if capacity > available {
            return Err(ModelError::TooLong { positions: capacity, capacity: available });
        }
        let refuse =
            |detail: String| Err(BackendError::Shape { operation: "prefill", detail }.into());
        let vocabulary = config.vocab_size;
        match prompt.iter().find(|&&id| id as usize >= vocabulary) {
            _ if prompt.is_empty() => refuse("the prompt is empty".into()),
            Some(id) => refuse(format!("id {id} leaves a vocabulary of {vocabulary}")),
            None => Ok(capacity),
        }
    }

    /// The language model's input: the image after the first of the text's embeddings.
    pub(super) fn sequence(
        &self,
        backend: &B,
        image: &B::Tensor,
        text: &B::Tensor,
    ) -> Result<B::Tensor, BackendError> {
        let [ids, _] = backend.shape(text);
        let begin = backend.slice_rows(text, 0..1)?;
        let rest = backend.slice_rows(text, 1..ids)?;
        backend.sequence(&[&begin, image, &rest])
    }

    /// Patch embeddings `[patches, hidden]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn project(
        &self,
        backend: &B,
        features: &B::Tensor,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let projected = self.projector.forward(backend, features)?;
        probe.see("projector.out", &projected)?;
        Ok(projected)
    }

    /// Starts a sequence: runs the prompt with the image after its first token, with room for
    /// `new_tokens` more. Returns the sequence and the logits of the next token.
    ///
    /// # Errors
    /// When the prompt is empty or longer than the model allows, or the device fails.
    pub fn prefill(
        &self,
        backend: &B,
        image: &B::Tensor,
        prompt: &[u32],
        new_tokens: usize,
        probe: &mut impl Probe<B>,
    ) -> Result<(Sequence<B>, B::Tensor), ModelError> {
        self.prefill_drafted(backend, image, (prompt, &[]), new_tokens, probe)
    }

    /// Like [`OpenVla::prefill`], with a guess of the tokens to come run along with the prompt: row
    /// i of the logits is that of the token after i drafted ones, and means something as long as
    /// those are what the rows before it chose.
    /// [`Sequence::accept`] keeps the ones that were right.
    ///
    /// # Errors
    /// As [`OpenVla::prefill`].
    pub fn prefill_drafted(
        &self,
        backend: &B,
        image: &B::Tensor,
        (prompt, draft): (&[u32], &[u32]),
        new_tokens: usize,
        probe: &mut impl Probe<B>,
    ) -> Result<(Sequence<B>, B::Tensor), ModelError> {
        let [patches, _] = backend.shape(image);
        let positions = patches + prompt.len();
        let capacity = self.check_prompt(prompt, patches, new_tokens.max(draft.len()))?;
        let text = self.llama.embed(backend, &[prompt, draft].concat())?;
        let x = self.sequence(backend, image, &text)?;
        probe.see("llm.inputs_embeds", &x)?;
        let mut cache = self.llama.new_cache(backend, capacity)?;
        let last = self.llama.forward(
            backend,
            x,
            &mut cache,
            Span { position: Position::At(0), keep: 1 + draft.len() },
            probe,
        )?;
        let logits = self.llama.logits(backend, &last)?;
        probe.see("logits", &logits)?;
        Ok((Sequence { cache, positions }, logits))
    }

    /// Continues a sequence by one token and returns the logits of the next.
    ///
    /// # Errors
    /// When the sequence is full or the device fails.
    pub fn step(
        &self,
        backend: &B,
        sequence: &mut Sequence<B>,
        token: u32,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let x = self.llama.embed(backend, &[token])?;
        let span = Span { position: Position::At(sequence.positions), keep: 1 };
        let last = self.llama.forward(backend, x, &mut sequence.cache, span, probe)?;
        sequence.positions += 1;
        let logits = self.llama.logits(backend, &last)?;
        probe.see("logits", &logits)?;
        Ok(logits)
    }

    /// The greedy choice from each row of logits: its token id and how far ahead of the second it
    /// is.
    ///
    /// # Errors
    /// When a logit is not finite.
    pub fn choices(
        &self,
        backend: &B,
        logits: &B::Tensor,
    ) -> Result<Vec<(u32, TopTwo)>, BackendError> {
        // Vocabularies are far below u32::MAX: the checkpoint's configuration bounds them.
        let id = |top: TopTwo| (self.llama.head_ids().start + top.index) as u32;
        Ok(backend.top_two(logits)?.into_iter().map(|top| (id(top), top)).collect())
    }

    /// The greedy choice from the last row of logits.
    ///
    /// # Errors
    /// When a logit is not finite.
    pub fn choose(&self, backend: &B, logits: &B::Tensor) -> Result<(u32, TopTwo), BackendError> {
        let choice = self.choices(backend, logits)?.pop();
        choice.ok_or_else(|| BackendError::Shape {
            operation: "choose",
            detail: "no row of logits".into(),
        })
    }
}

/// A prompt that was run, and the tokens after it.
pub struct Sequence<B: Backend> {
    cache: B::Cache,
    positions: usize,
}

impl<B: Backend> Sequence<B> {
    /// Keys and values, for tests.
    #[must_use]
    pub fn cache(&self) -> &B::Cache {
        &self.cache
    }

    /// Keeps this many drafted tokens; what was run after them is forgotten when the next token is
    /// written over it.
    pub fn accept(&mut self, drafted: usize) {
        self.positions += drafted;
    }

    /// Positions run so far, drafted ones only where they were accepted.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }
}
