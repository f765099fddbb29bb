//! One action from the image's bytes to the last token without the host in between: run once, recorded, then replayed.
//!
//! Greedy decoding without drafts has no branches once the prompt's length is known: so a device that can record work does
//! the whole of it by itself, the host writes an image and reads the tokens. Two recordings serve: the prompt (towers,
//! projector, language model, first token) and one decode step, which counts positions on the device and is replayed for
//! each further token.

use super::llama::Span;
use super::openvla::OpenVla;
use super::probe::Blind;
use super::{ModelError, Probe};
use crate::backend::{AnswerSpec, Backend, BackendError, Choice, Position};

/// Where an action of prompts of one length takes place on the device.
pub struct RecordedAction<B: Backend> {
    images: Vec<B::Image>,
    prompt: Vec<u32>,
    ids: B::Ids,
    cache: B::Cache,
    answer: B::Answer,
    tokens: usize,
    /// The prompt and a decode step, once recorded.
    recordings: Option<(B::Recording, B::Recording)>,
}

impl<B: Backend> RecordedAction<B> {
    /// Whether it takes prompts of this many ids.
    #[must_use]
    pub fn takes(&self, prompt: usize) -> bool {
        self.prompt.len() == prompt
    }

    /// Whether the next action is a replay.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recordings.is_some()
    }
}

impl<B: Backend> OpenVla<B> {
    /// A place for actions of `tokens` tokens on prompts as long as this one. `end_id` and `centres` are the codec's: the id
    /// after bin 0's, and the bins' centres.
    ///
    /// # Errors
    /// When the prompt is empty or too long, or the device has no room.
    pub fn place_for_action(
        &self,
        backend: &B,
        rgb: &[u8],
        prompt: &[u32],
        (tokens, end_id, centres): (usize, u32, Vec<f32>),
    ) -> Result<RecordedAction<B>, ModelError> {
        let capacity = self.check_prompt(prompt, self.patches(), tokens.saturating_sub(1))?;
        let llama = self.llama();
        let ids = llama.head_ids();
        // Ids are below the vocabulary's size, which the configuration bounds far below u32::MAX.
        let spec = AnswerSpec { tokens, ids: ids.start as u32..ids.end as u32, end_id, centres };
        let mut cache = llama.new_cache(backend, capacity)?;
        backend.seek(&mut cache, self.patches() + prompt.len())?;
        Ok(RecordedAction {
            images: self.images(backend, rgb)?,
            prompt: prompt.to_vec(),
            ids: backend.ids(prompt)?,
            cache,
            answer: llama.new_answer(backend, spec)?,
            tokens,
            recordings: None,
        })
    }

    /// One action. The first of a place is run operation by operation, and recorded afterwards.
    ///
    /// # Errors
    /// When the prompt has another length, a logit is not finite, or the device fails.
    pub fn act(
        &self,
        backend: &B,
        (rgb, prompt): (&[u8], &[u32]),
        place: &mut RecordedAction<B>,
    ) -> Result<Vec<Choice>, ModelError> {
        if !place.takes(prompt.len()) {
            let detail = format!("a prompt of {} ids where {} were recorded", prompt.len(), place.prompt.len());
            return Err(BackendError::Shape { operation: "act", detail }.into());
        }
        self.check_prompt(prompt, self.patches(), place.tokens.saturating_sub(1))?;
        for image in &mut place.images {
            backend.renew_image(image, rgb)?;
        }
        if place.prompt != prompt {
            backend.renew_ids(&mut place.ids, prompt)?;
            place.prompt.clear();
            place.prompt.extend_from_slice(prompt);
        }
        let further = 1..place.tokens;
        if let Some((begin, step)) = &place.recordings {
            backend.replay(begin)?;
            for _ in further {
                backend.replay(step)?;
            }
            return Ok(backend.read_answer(&place.answer)?);
        }
        self.begin(backend, place)?;
        for _ in further {
            self.continue_by_one(backend, place)?;
        }
        let choices = backend.read_answer(&place.answer)?;
        // What ran once is compiled and can be recorded.
        let begin = backend.record(|| self.begin(backend, place))?;
        let step = backend.record(|| self.continue_by_one(backend, place))?;
        place.recordings = begin.zip(step);
        Ok(choices)
    }

    /// From the pixels to the first token.
    fn begin(&self, backend: &B, place: &mut RecordedAction<B>) -> Result<(), BackendError> {
        let features = self.features_of(backend, &place.images, &mut Blind)?;
        let image = self.project(backend, &features, &mut Blind)?;
        let llama = self.llama();
        let text = llama.embed_ids(backend, &place.ids)?;
        let x = self.sequence(backend, &image, &text)?;
        backend.rewind(&mut place.cache)?;
        let span = Span { position: Position::At(0), keep: 1 };
        let last = llama.forward(backend, x, &mut place.cache, span, &mut blind())?;
        llama.choose(backend, &last, &mut place.answer)
    }

    /// From the last token to the next.
    fn continue_by_one(&self, backend: &B, place: &mut RecordedAction<B>) -> Result<(), BackendError> {
        let llama = self.llama();
        let x = backend.chosen_row(&place.answer)?;
        let span = Span { position: Position::Counted, keep: 1 };
        let last = llama.forward(backend, x, &mut place.cache, span, &mut blind())?;
        backend.advance(&mut place.cache)?;
        llama.choose(backend, &last, &mut place.answer)
    }
}

/// What is recorded cannot be looked at.
fn blind<B: Backend>() -> impl Probe<B> {
    Blind
}
