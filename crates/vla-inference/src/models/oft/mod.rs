//! OpenVLA-OFT: OpenVLA's towers, projector and Llama, run once for a whole chunk of actions.
//!
//! Kim, Finn, Liang, "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success",
//! 2025, as in `prismatic/extern/hf/modeling_prismatic.py` of the official repository. Rows of the
//! language model's input, positions 0, 1, ...:
//!
//! `BOS | patches of each image | state | rest of the prompt | chunk * action_dim zeros | </s>`
//!
//! Every layer attends **in both directions**: the zeros stand for action tokens that are all
//! answered at once. With a causal mask in its place, as stock transformers have it, the actions
//! look plausible and are wrong. The answers are read one row before their zeros, starting at the
//! last row of the prompt.

mod film;
mod head;
pub mod trace;

use std::ops::Range;

pub use film::FilmWeights;
pub use head::{OftComponentWeights, ProprioProjector, RegressionHead};

use super::openvla::OpenVla;
use super::vit::Conditioning;
use super::{ModelError, Probe, TensorSource};
use crate::backend::{Backend, BackendError, Mask};
use crate::checkpoint::OftCheckpoint;
use crate::tensor::HostTensor;
use film::Film;

/// Token that ends every training sequence, `</s>` of Llama 2.
const STOP: u32 = 2;

/// Parts of a checkpoint that take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OftParts {
    /// The regression head; otherwise discrete tokens.
    pub regression: bool,
    /// The state's row.
    pub proprio: bool,
    /// FiLM in the towers.
    pub film: bool,
}

/// The network.
pub struct OpenVlaOft<B: Backend> {
    base: OpenVla<B>,
    film: Option<Film<B>>,
    proprio: Option<ProprioProjector<B>>,
    /// `None` for discrete tokens.
    head: Option<RegressionHead<B>>,
    hidden: usize,
    mask: Mask,
}

/// Input of one decision.
pub struct OftInput<'a, B: Backend> {
    /// Prepared RGB images of the model's input size, in the order of training: the main camera,
    /// then the wrists.
    pub images: &'a [&'a [u8]],
    /// Token ids of the prompt, the empty word last.
    pub prompt: &'a [u32],
    /// Normalised state, for a model with a state row.
    pub state: Option<&'a [f32]>,
    /// The instruction's effect on the towers, for a model with FiLM.
    pub conditioning: Option<&'a Conditioning<B>>,
    /// Steps of the chunk and numbers per step.
    pub actions: (usize, usize),
}

/// Rows of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OftLayout {
    /// Rows of the whole sequence.
    pub rows: usize,
    /// Patches of all images.
    pub patches: Range<usize>,
    /// The state's row.
    pub proprio: Option<usize>,
    /// The prompt after its first token.
    pub prompt: Range<usize>,
    /// The zeros.
    pub action_zeros: Range<usize>,
    /// The rows whose hidden states are the answers.
    pub read: Range<usize>,
}

impl OftLayout {
    /// Layout for `patches` of all images, a prompt of `prompt` ids and `answers` numbers.
    #[must_use]
    pub fn new(patches: usize, state: bool, prompt: usize, answers: usize) -> Self {
        let after_images = 1 + patches;
        let start = after_images + usize::from(state);
        let end = start + prompt.saturating_sub(1);
        Self {
            rows: end + answers + 1,
            patches: 1..after_images,
            proprio: state.then_some(after_images),
            prompt: start..end,
            action_zeros: end..end + answers,
            read: end.saturating_sub(1)..(end + answers).saturating_sub(1),
        }
    }
}

/// Answers of one decision.
pub enum OftAnswer {
    /// Normalised actions `[chunk * action_dim]`.
    Normalized(Vec<f32>),
    /// Token ids and logit margins, one per number.
    Tokens(Vec<u32>, Vec<f32>),
}

impl<B: Backend> OpenVlaOft<B> {
    /// Loads the given parts of a checkpoint.
    ///
    /// # Errors
    /// When a tensor or a part is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        checkpoint: &OftCheckpoint,
        parts: OftParts,
    ) -> Result<Self, ModelError> {
        Self::load_from(backend, checkpoint, None, parts)
    }

    /// [`OpenVlaOft::load`] with every tensor of another source than the checkpoint's files.
    /// Without FiLM, whose tensors are merged from two files.
    ///
    /// # Errors
    /// As [`OpenVlaOft::load`].
    pub fn load_from(
        backend: &B,
        checkpoint: &OftCheckpoint,
        other: Option<&dyn TensorSource>,
        parts: OftParts,
    ) -> Result<Self, ModelError> {
        let OftCheckpoint { base, head, proprio, vision } = checkpoint;
        let (config, hidden) = (&base.config, base.config.llama.hidden_size);
        let film_weights = match vision {
            Some(vision) if parts.film && other.is_none() => {
                Some(FilmWeights::new(&base.weights, vision))
            }
            _ => None,
        };
        let source: &dyn TensorSource = match (other, &film_weights) {
            (Some(other), _) => other,
            (None, Some(film)) => film,
            (None, None) => &base.weights,
        };
        let head_ids = if parts.regression { 0..0 } else { 0..config.llama.vocab_size };
        let film = film_weights.as_ref().map(|film| Film::load(backend, film, config));
        Ok(Self {
            base: OpenVla::load(backend, source, config, &base.preprocessor, head_ids)?,
            film: film.transpose()?,
            proprio: match proprio {
                Some(proprio) if parts.proprio => {
                    Some(ProprioProjector::load(backend, proprio, other, hidden)?)
                }
                _ => None,
            },
            head: match head {
                Some(head) if parts.regression => {
                    Some(RegressionHead::load(backend, head, other, hidden)?)
                }
                _ => None,
            },
            hidden,
            mask: Mask::Bidirectional,
        })
    }

    /// Replaces the attention mask. Only to show that a causal one is noticed.
    pub fn set_mask(&mut self, mask: Mask) {
        self.mask = mask;
    }

    /// Patches of one image.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.base.patches()
    }

    /// What a prompt changes in the towers; `None` without FiLM. It holds for every image until the
    /// prompt changes.
    ///
    /// # Errors
    /// When an id is outside the vocabulary or the device fails.
    pub fn condition(
        &self,
        backend: &B,
        prompt: &[u32],
        probe: &mut impl Probe<B>,
    ) -> Result<Option<Conditioning<B>>, ModelError> {
        let Some(film) = &self.film else { return Ok(None) };
        self.base.check_prompt(prompt, 0, 1)?;
        let text = self.base.llama().embed(backend, &with_stop(prompt))?;
        Ok(Some(film.condition(backend, &text, probe)?))
    }

    /// Answers all numbers of the chunk in one pass.
    ///
    /// # Errors
    /// When the prompt is too long, an input does not fit the model, a logit is not finite, or the
    /// device fails.
    pub fn answer(
        &self,
        backend: &B,
        input: &OftInput<'_, B>,
        probe: &mut impl Probe<B>,
        mut lap: impl FnMut(&'static str),
    ) -> Result<OftAnswer, ModelError> {
        let shape = self.check(input)?;
        if self.film.is_some() != input.conditioning.is_some() {
            return Err(refused("FiLM and the prompt's conditioning go together".into()));
        }
        let mut placed = self.place(backend, input, shape)?;
        let text = self.base.llama().embed(backend, &with_stop(input.prompt))?;
        let film = input.conditioning;
        let answer = self.compute(backend, &mut placed, (&text, film), probe, &mut lap)?;
        let answer = self.read(backend, &answer)?;
        lap("head");
        Ok(answer)
    }

    /// Uploads everything but the prompt, and allocates what a pass needs.
    fn place(
        &self,
        backend: &B,
        input: &OftInput<'_, B>,
        shape: OftShape,
    ) -> Result<Placed<B>, BackendError> {
        let images = input.images.iter().map(|rgb| self.base.upload_images(backend, rgb));
        let answers = shape.chunk * shape.action_dim;
        let zeros = vec![0.0; answers * self.hidden];
        let state = input.state.map(|state| backend.upload(&row(state)?));
        Ok(Placed {
            images: images.collect::<Result<_, _>>()?,
            state: state.transpose()?,
            zeros: backend.upload(&HostTensor::from_f32(&[answers, self.hidden], zeros)?)?,
            scratch: self.base.llama().scratch_cache(backend, shape.layout().rows)?,
            shape,
        })
    }

    /// The pass, on the device from end to end: actions `[chunk, action_dim]`, or logits `[chunk *
    /// action_dim, vocabulary]` without a head. `text` holds the embeddings of the prompt and the
    /// stop token.
    fn compute(
        &self,
        backend: &B,
        placed: &mut Placed<B>,
        (text, film): (&B::Tensor, Option<&Conditioning<B>>),
        probe: &mut impl Probe<B>,
        lap: &mut impl FnMut(&'static str),
    ) -> Result<B::Tensor, BackendError> {
        let shape = placed.shape;
        let features = self.features(backend, &placed.images, film, probe)?;
        lap("vision");
        let image = self.base.project(backend, &features, probe)?;
        lap("projector");
        let x = self.sequence(backend, placed, (&image, text), probe)?;
        let (llama, read) = (self.base.llama(), shape.layout().read);
        let states =
            llama.forward_once(backend, x, &mut placed.scratch, (self.mask, read), probe)?;
        lap("prefill");
        match &self.head {
            Some(head) => head.forward(backend, &states, (shape.chunk, shape.action_dim), probe),
            None => llama.logits(backend, &states),
        }
    }

    /// The answers that [`OpenVlaOft::compute`] left on the device.
    fn read(&self, backend: &B, answer: &B::Tensor) -> Result<OftAnswer, BackendError> {
        if self.head.is_some() {
            return Ok(OftAnswer::Normalized(backend.download(answer)?.to_f32()));
        }
        let greedy = self.base.greedy(backend, answer)?;
        let (ids, tops): (Vec<_>, Vec<_>) = greedy.into_iter().unzip();
        Ok(OftAnswer::Tokens(ids, tops.into_iter().map(|top| top.logit_margin()).collect()))
    }

    /// Whether the input fits the model, and its shape.
    fn check(&self, input: &OftInput<'_, B>) -> Result<OftShape, ModelError> {
        let (chunk, action_dim) = input.actions;
        let answers = chunk * action_dim;
        if input.images.is_empty() || answers == 0 {
            return Err(refused(format!("{} images, {answers} numbers", input.images.len())));
        }
        match (&self.proprio, input.state) {
            (Some(_), Some(_)) | (None, None) => {}
            (Some(_), None) => return Err(refused("the model needs the robot's state".into())),
            (None, Some(_)) => return Err(refused("the model takes no state".into())),
        }
        let state = input.state.is_some();
        let patches = input.images.len() * self.patches();
        // One more for the stop token.
        let rows = patches + usize::from(state);
        self.base.check_prompt(input.prompt, rows, answers + 1)?;
        Ok(OftShape { patches, state, prompt: input.prompt.len(), chunk, action_dim })
    }

    /// Patch features of all images, one image after the other, `[images * patches, widths]`.
    fn features(
        &self,
        backend: &B,
        images: &[Vec<B::Image>],
        film: Option<&Conditioning<B>>,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let mut all = Vec::with_capacity(images.len());
        for (number, image) in images.iter().enumerate() {
            let mut probe = OfImage { number, probe };
            all.push(self.base.conditioned_features(backend, image, film, &mut probe)?);
        }
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                all.extend(last);
                backend.concat_rows(&all.iter().collect::<Vec<_>>())
            }
        }
    }

    fn sequence(
        &self,
        backend: &B,
        placed: &Placed<B>,
        (image, text): (&B::Tensor, &B::Tensor),
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let prompt = placed.shape.prompt;
        let state = match (&self.proprio, &placed.state) {
            (Some(projector), Some(state)) => Some(projector.forward(backend, state, probe)?),
            _ => None,
        };
        let begin = backend.slice_rows(text, 0..1)?;
        let rest = backend.slice_rows(text, 1..prompt)?;
        let stop = backend.slice_rows(text, prompt..prompt + 1)?;
        let mut parts = vec![&begin, image];
        parts.extend(&state);
        parts.extend([&rest, &placed.zeros, &stop]);
        // Not a causal sequence: padding rows would be attended to.
        let x = backend.concat_rows(&parts)?;
        probe.observe("llm.inputs_embeds", &x)?;
        Ok(x)
    }
}

/// Counts that decide a pass's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OftShape {
    /// Of all images.
    patches: usize,
    state: bool,
    /// Ids of the prompt.
    prompt: usize,
    chunk: usize,
    action_dim: usize,
}

impl OftShape {
    fn layout(self) -> OftLayout {
        OftLayout::new(self.patches, self.state, self.prompt, self.chunk * self.action_dim)
    }
}

/// Inputs on the device, all but the prompt.
struct Placed<B: Backend> {
    /// For each image, one for each patch grid.
    images: Vec<Vec<B::Image>>,
    /// `[1, state_dim]`.
    state: Option<B::Tensor>,
    /// Rows of the actions, `[chunk * action_dim, hidden]`.
    zeros: B::Tensor,
    /// Keys and values of the layer being computed.
    scratch: B::Cache,
    shape: OftShape,
}

/// The ids that are embedded: the prompt's and the stop token.
fn with_stop(prompt: &[u32]) -> Vec<u32> {
    [prompt, &[STOP]].concat()
}

/// One row.
fn row(values: &[f32]) -> Result<HostTensor, BackendError> {
    Ok(HostTensor::from_f32(&[1, values.len()], values.to_vec())?)
}

fn refused(detail: String) -> ModelError {
    BackendError::Shape { operation: "openvla-oft", detail }.into()
}

/// Puts the image's number before the names that a tower reports.
struct OfImage<'a, P> {
    number: usize,
    probe: &'a mut P,
}

impl<B: Backend, P: Probe<B>> Probe<B> for OfImage<'_, P> {
    fn observe(&mut self, name: &str, tensor: &B::Tensor) -> Result<(), BackendError> {
        if !self.every_layer() {
            return self.probe.observe(name, tensor);
        }
        self.probe.observe(&format!("image{}.{name}", self.number), tensor)
    }

    fn every_layer(&self) -> bool {
        self.probe.every_layer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_the_golden_kits() {
        // Case 0 of both kits: 34 and 19 prompt ids and the empty word.
        let libero = OftLayout::new(512, true, 35, 56);
        assert_eq!((libero.rows, libero.proprio), (605, Some(513)));
        assert_eq!((libero.prompt, libero.action_zeros), (514..548, 548..604));
        assert_eq!(libero.read, 547..603);
        let aloha = OftLayout::new(768, true, 20, 350);
        assert_eq!((aloha.rows, aloha.read), (1140, 788..1138));
        assert_eq!(OftLayout::new(256, false, 3, 7).read, 258..265);
    }
}
