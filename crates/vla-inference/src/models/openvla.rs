//! OpenVLA (Prismatic): vision towers, projector and Llama 2, from one checkpoint.
//!
//! Kim et al., "OpenVLA: An Open-Source Vision-Language-Action Model", 2024. The sequence is `[BOS]
//! + patch embeddings + the rest of the prompt`; tokens are decoded greedily.

use std::ops::Range;

use super::llama::Llama;
use super::projector::Projector;
use super::vit::{Conditioning, VisionTower};
use super::{ModelError, Probe, TensorSource, Weights, speculative};
use crate::backend::{Backend, BackendError, Normalisation, Pixels, TopTwo};
use crate::checkpoint::{OpenVlaConfig, PreprocessorConfig};

/// The network.
pub struct OpenVla<B: Backend> {
    /// Each with the index of its patch grid.
    towers: Vec<(VisionTower<B>, usize)>,
    /// Distinct pairs of image side and patch side, pixels; towers with the same pair share the
    /// patches.
    grids: Vec<(usize, usize)>,
    projector: Projector<B>,
    llama: Llama<B>,
}

impl<B: Backend> OpenVla<B> {
    /// Loads a checkpoint, of the head only the rows `head_ids`.
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
        self.features_of(backend, &self.upload_images(backend, rgb)?, probe)
    }

    /// Uploads a resized RGB image, once for each patch grid.
    ///
    /// # Errors
    /// When the image size is not that of the towers.
    pub fn upload_images(&self, backend: &B, rgb: &[u8]) -> Result<Vec<B::Image>, BackendError> {
        self.grids
            .iter()
            .map(|&(side, patch)| backend.upload_image(Pixels { rgb, side, patch }))
            .collect()
    }

    /// Black images on the device, to be overwritten.
    ///
    /// # Errors
    /// When device memory is short.
    pub(super) fn blank_images(&self, backend: &B) -> Result<Vec<B::Image>, BackendError> {
        let blank = |&(side, patch): &(usize, usize)| {
            backend.upload_image(Pixels { rgb: &vec![0; 3 * side * side], side, patch })
        };
        self.grids.iter().map(blank).collect()
    }

    /// [`OpenVla::features`] of an image on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn features_of(
        &self,
        backend: &B,
        images: &[B::Image],
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        self.conditioned_features(backend, images, None, probe)
    }

    /// [`OpenVla::features_of`] with an instruction's effect on the towers.
    ///
    /// # Errors
    /// When the conditioning is for other towers, or the device fails.
    pub fn conditioned_features(
        &self,
        backend: &B,
        images: &[B::Image],
        film: Option<&Conditioning<B>>,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let cut =
            images.iter().map(|image| backend.cut_patches(image)).collect::<Result<Vec<_>, _>>()?;
        let mut features = Vec::with_capacity(self.towers.len());
        for (index, (tower, grid)) in self.towers.iter().enumerate() {
            let patches = cut.get(*grid).ok_or_else(|| BackendError::Shape {
                operation: "features",
                detail: format!(
                    "{} images for {} grids of patches",
                    images.len(),
                    self.grids.len()
                ),
            })?;
            let film = film.and_then(|film| film.0.get(index)).map_or(&[][..], Vec::as_slice);
            features.push(tower.modulated(backend, patches, film, probe)?);
        }
        backend.concat_columns(&features.iter().collect::<Vec<_>>())
    }

    /// Patches of an image, each one position of the sequence.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.towers.first().map_or(0, |(tower, _)| tower.config().patches())
    }

    pub(super) fn llama(&self) -> &Llama<B> {
        &self.llama
    }

    /// Checks a prompt and returns the positions of the prompt, its image and `further` tokens.
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
            Some(id) => refuse(format!("id {id} is outside a vocabulary of {vocabulary}")),
            None => Ok(capacity),
        }
    }

    /// Input of the language model, `[1 + patches + rest, hidden]`: the image's embeddings after
    /// the first of the text's.
    pub(super) fn input_sequence(
        &self,
        backend: &B,
        image: &B::Tensor,
        text: &B::Tensor,
    ) -> Result<B::Tensor, BackendError> {
        let [ids, _] = backend.shape(text);
        let begin = backend.slice_rows(text, 0..1)?;
        let rest = backend.slice_rows(text, 1..ids)?;
        backend.concat_sequence(&[&begin, image, &rest])
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
        probe.observe("projector.out", &projected)?;
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
        self.prefill_with_draft(backend, image, (prompt, &[]), new_tokens, probe)
    }

    /// [`OpenVla::prefill`] with a draft of the following tokens (speculative decoding): row i of
    /// the logits, `[1 + draft, head_ids]`, is that of the token after i draft tokens.
    /// [`Sequence::accept`] keeps the verified prefix.
    ///
    /// # Errors
    /// As [`OpenVla::prefill`].
    pub fn prefill_with_draft(
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
        let x = self.input_sequence(backend, image, &text)?;
        probe.observe("llm.inputs_embeds", &x)?;
        let mut cache = self.llama.new_cache(backend, capacity)?;
        let last = self.llama.forward(backend, x, &mut cache, (0, 1 + draft.len()), probe)?;
        let logits = self.llama.logits(backend, &last)?;
        probe.observe("logits", &logits)?;
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
        let at = (sequence.positions, 1);
        let last = self.llama.forward(backend, x, &mut sequence.cache, at, probe)?;
        sequence.positions += 1;
        let logits = self.llama.logits(backend, &last)?;
        probe.observe("logits", &logits)?;
        Ok(logits)
    }

    /// Greedy token and its logits for each row of logits `[rows, head_ids]`.
    ///
    /// # Errors
    /// When a logit is not finite.
    pub fn greedy(
        &self,
        backend: &B,
        logits: &B::Tensor,
    ) -> Result<Vec<(u32, TopTwo)>, BackendError> {
        // Vocabularies are far below u32::MAX: the checkpoint's configuration bounds them.
        let id = |top: TopTwo| (self.llama.head_ids().start + top.index) as u32;
        Ok(backend.top_two(logits)?.into_iter().map(|top| (id(top), top)).collect())
    }

    /// Decodes `tokens` tokens greedily after a prefill with `draft`, and calls `check` with each
    /// id and its index; an error of `check` ends the decoding. Returns ids, logit margins and the
    /// number of accepted draft tokens; `prefilled` is called once the draft is verified.
    ///
    /// # Errors
    /// When a logit is not finite, the device fails, or `check` refuses a token.
    pub fn decode_greedily<E: From<BackendError>>(
        &self,
        backend: &B,
        (mut sequence, logits): (Sequence<B>, B::Tensor),
        (draft, tokens): (&[u32], usize),
        probe: &mut impl Probe<B>,
        mut check: impl FnMut(u32, usize) -> Result<(), E>,
        prefilled: impl FnOnce(),
    ) -> Result<GreedyDecode, E> {
        let mut greedy = self.greedy(backend, &logits)?;
        let accepted = speculative::accepted(draft, greedy.iter().map(|(id, _)| *id));
        sequence.accept(accepted);
        prefilled();
        greedy.truncate(accepted + 1);
        let mut decode = GreedyDecode { accepted, ..GreedyDecode::default() };
        let mut verified = greedy.into_iter();
        while decode.ids.len() < tokens {
            let (id, top) = match (verified.next(), decode.ids.last()) {
                (Some(token), _) => token,
                (None, Some(&last)) => self.next(backend, &mut sequence, last, probe)?,
                (None, None) => return Err(no_row().into()),
            };
            decode.ids.push(id);
            decode.logit_margins.push(top.logit_margin());
            check(id, decode.ids.len() - 1)?;
        }
        Ok(decode)
    }

    /// One decode step: the greedy token after `token`.
    fn next(
        &self,
        backend: &B,
        sequence: &mut Sequence<B>,
        token: u32,
        probe: &mut impl Probe<B>,
    ) -> Result<(u32, TopTwo), BackendError> {
        let logits = self.step(backend, sequence, token, probe)?;
        self.greedy(backend, &logits)?.pop().ok_or_else(no_row)
    }
}

fn no_row() -> BackendError {
    BackendError::Shape { operation: "decode", detail: "no row of logits".into() }
}

/// Tokens of a greedy decode.
#[derive(Clone, Debug, Default)]
pub struct GreedyDecode {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Largest minus second largest logit of each token.
    pub logit_margins: Vec<f32>,
    /// Accepted draft tokens.
    pub accepted: usize,
}

/// The KV cache of a prompt and the tokens after it.
pub struct Sequence<B: Backend> {
    cache: B::Cache,
    positions: usize,
}

impl<B: Backend> Sequence<B> {
    /// The KV cache.
    #[must_use]
    pub fn cache(&self) -> &B::Cache {
        &self.cache
    }

    /// Keeps the first `drafted` draft tokens; the KV cache of the others is overwritten by the
    /// next tokens.
    pub fn accept(&mut self, drafted: usize) {
        self.positions += drafted;
    }

    /// Positions so far, accepted draft tokens included.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions
    }
}
