//! One action from the image's bytes to the last token without the host in between: run once,
//! recorded, then replayed.
//!
//! Greedy decoding has no branches once the prompt's length is known: so a device that can record
//! work does the whole of it by itself, the host writes an image and reads the tokens. Two
//! recordings serve: the prompt (towers, projector, language model, first token) and one decode
//! step, which counts positions on the device and is replayed for each further token. With a draft
//! the prompt's recording chooses after every drafted token too; the host reads how many were
//! right, and steps are replayed for the rest only.

use super::llama::Span;
use super::openvla::OpenVla;
use super::probe::Blind;
use super::{ModelError, Probe};
use crate::backend::{AnswerSpec, Backend, BackendError, Choice, Position};

/// What actions of a place have in common.
#[derive(Clone, Debug)]
pub struct ActionShape {
    /// Ids of the prompt.
    pub prompt: usize,
    /// Tokens to choose.
    pub tokens: usize,
    /// Whether guesses of all but the last token run along with the prompt.
    pub drafts: bool,
    /// One past the id that stands for bin 0.
    pub end_id: u32,
    /// Bin centres.
    pub centres: Vec<f32>,
}

impl ActionShape {
    /// The last token is chosen but never fed, so there is nothing to guess after it.
    fn drafted(&self) -> usize {
        if self.drafts { self.tokens.saturating_sub(1) } else { 0 }
    }
}

/// Where actions of one shape take place on the device.
pub struct RecordedAction<B: Backend> {
    shape: ActionShape,
    images: Vec<B::Image>,
    /// The prompt and what is drafted after it, as it is on the device.
    fed: Vec<u32>,
    ids: B::Ids,
    cache: B::Cache,
    answer: B::Answer,
    /// The prompt and a decode step, once recorded.
    recordings: Option<(B::Recording, B::Recording)>,
}

impl<B: Backend> RecordedAction<B> {
    /// Whether it takes prompts of this many ids.
    #[must_use]
    pub fn takes(&self, prompt: usize) -> bool {
        self.shape.prompt == prompt
    }

    /// Whether the next action is a replay.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recordings.is_some()
    }
}

/// What came of an action.
#[derive(Clone, Debug)]
pub struct Acted {
    /// The tokens.
    pub choices: Vec<Choice>,
    /// Guesses that were tried.
    pub offered: usize,
    /// Guesses that were right.
    pub accepted: usize,
}

impl<B: Backend> OpenVla<B> {
    /// A place for actions of a shape.
    ///
    /// # Errors
    /// When the prompt is too long, or the device has no room.
    pub fn place_for_action(
        &self,
        backend: &B,
        (rgb, prompt): (&[u8], &[u32]),
        shape: ActionShape,
    ) -> Result<RecordedAction<B>, ModelError> {
        let capacity = self.check_prompt(prompt, self.patches(), shape.tokens.saturating_sub(1))?;
        let llama = self.llama();
        let ids = llama.head_ids();
        // Ids are below the vocabulary's size, which the configuration bounds far below u32::MAX.
        let ids = ids.start as u32..ids.end as u32;
        let fed = [prompt, &vec![ids.start; shape.drafted()]].concat();
        let spec = AnswerSpec {
            tokens: shape.tokens,
            ids,
            end_id: shape.end_id,
            centres: shape.centres.clone(),
        };
        let mut cache = llama.new_cache(backend, capacity)?;
        backend.seek(&mut cache, self.patches() + prompt.len())?;
        Ok(RecordedAction {
            images: self.images(backend, rgb)?,
            ids: backend.ids(&fed)?,
            fed,
            cache,
            answer: llama.new_answer(backend, spec)?,
            shape: ActionShape { prompt: prompt.len(), ..shape },
            recordings: None,
        })
    }

    /// One action. The first of a place is run operation by operation without its guess, and
    /// recorded afterwards.
    ///
    /// # Errors
    /// When the prompt has another length, a logit is not finite, or the device fails.
    pub fn act(
        &self,
        backend: &B,
        (rgb, prompt, guess): (&[u8], &[u32], &[u32]),
        place: &mut RecordedAction<B>,
    ) -> Result<Acted, ModelError> {
        if !place.takes(prompt.len()) {
            let detail = format!(
                "a prompt of {} ids where {} were recorded",
                prompt.len(),
                place.shape.prompt
            );
            return Err(BackendError::Shape { operation: "act", detail }.into());
        }
        let tokens = place.shape.tokens;
        // Every program must have run once before it is recorded, the step's too: so the first
        // action guesses nothing.
        let usable = if place.is_recorded() { place.shape.drafted().min(guess.len()) } else { 0 };
        let guess = &guess[..usable];
        let mut fed = [prompt, guess].concat();
        fed.resize(place.fed.len(), self.llama().head_ids().start as u32);
        self.check_prompt(&fed, self.patches(), tokens.saturating_sub(1) - place.shape.drafted())?;
        for image in &mut place.images {
            backend.renew_image(image, rgb)?;
        }
        if place.fed != fed {
            backend.renew_ids(&mut place.ids, &fed)?;
            place.fed = fed;
        }
        match &place.recordings {
            Some((begin, _)) => backend.replay(begin)?,
            None => self.begin(backend, place)?,
        }
        let (mut choices, mut accepted) = (Vec::new(), 0);
        if place.shape.drafts {
            // Row i is valid while the i drafted tokens before it were chosen.
            choices = backend.read_answer(&place.answer)?;
            accepted = choices
                .iter()
                .zip(guess)
                .take_while(|(choice, guessed)| choice.id == **guessed)
                .count();
            choices.truncate(accepted + 1);
            for _ in 0..accepted {
                backend.advance(&mut place.cache)?;
            }
            if let Some(last) = choices.last().filter(|_| choices.len() < tokens) {
                self.llama().tell(backend, &mut place.answer, last.id)?;
            }
        }
        let missing = if place.shape.drafts {
            tokens.saturating_sub(choices.len())
        } else {
            tokens.saturating_sub(1)
        };
        for _ in 0..missing {
            match &place.recordings {
                Some((_, step)) => backend.replay(step)?,
                None => self.continue_by_one(backend, place)?,
            }
        }
        if missing > 0 || !place.shape.drafts {
            let newest = backend.read_answer(&place.answer)?;
            choices.extend_from_slice(&newest[choices.len().min(newest.len())..]);
        }
        if place.recordings.is_none() {
            let begin = backend.record(|| self.begin(backend, place))?;
            let step = backend.record(|| self.continue_by_one(backend, place))?;
            place.recordings = begin.zip(step);
        }
        Ok(Acted { choices, offered: guess.len(), accepted })
    }

    /// From the pixels to the first token, and to those after each drafted one.
    fn begin(&self, backend: &B, place: &mut RecordedAction<B>) -> Result<(), BackendError> {
        let features = self.features_of(backend, &place.images, &mut Blind)?;
        let image = self.project(backend, &features, &mut Blind)?;
        let llama = self.llama();
        let text = llama.embed_ids(backend, &place.ids)?;
        let x = self.sequence(backend, &image, &text)?;
        backend.rewind(&mut place.cache)?;
        let keep = 1 + place.shape.drafted();
        let span = Span { position: Position::At(0), keep };
        let last = llama.forward(backend, x, &mut place.cache, span, &mut blind())?;
        for row in 0..keep {
            llama.choose(backend, &backend.slice_rows(&last, row..row + 1)?, &mut place.answer)?;
        }
        Ok(())
    }

    /// From the last token to the next.
    fn continue_by_one(
        &self,
        backend: &B,
        place: &mut RecordedAction<B>,
    ) -> Result<(), BackendError> {
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
