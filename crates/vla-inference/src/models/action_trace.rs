//! One action as two captured traces, from the image's bytes to the last token without the host.
//!
//! Greedy decoding has no branches once the prompt's length is known. Two traces suffice: the
//! prefill (towers, projector, language model, first token) and one decode step, which counts
//! positions on the device and is executed once per further token. With speculative decoding the
//! prefill also selects a token after every draft token; the host reads how many are accepted and
//! executes the decode step for the remaining tokens only.
//!
//! The first action for a prompt length runs eagerly, which compiles every program; its traces are
//! captured afterwards.

use super::openvla::OpenVla;
use super::{ModelError, NoProbe, speculative};
use crate::backend::{Backend, BackendError, GreedyToken, TokenBufferSpec, TraceBackend};

/// Common parameters of traced actions.
#[derive(Clone, Debug)]
pub struct ActionTraceSpec {
    /// Tokens per action.
    pub tokens: usize,
    /// Whether the prefill verifies a draft of all but the last token.
    pub speculative: bool,
    /// One past the id of bin 0.
    pub end_id: u32,
    /// Bin centres, -1..1, bin 0 first.
    pub centres: Vec<f32>,
}

impl ActionTraceSpec {
    /// Draft tokens that run along with the prompt. The last token is selected but never fed, so
    /// nothing is drafted after it.
    fn drafted(&self) -> usize {
        if self.speculative { self.tokens.saturating_sub(1) } else { 0 }
    }
}

/// Input of one action.
#[derive(Clone, Copy, Debug)]
pub struct ActionInput<'a> {
    /// Resized RGB image, `side * side * 3` bytes.
    pub rgb: &'a [u8],
    /// Token ids of the prompt.
    pub prompt: &'a [u32],
    /// Draft of the action's tokens; empty for none.
    pub draft: &'a [u32],
}

/// Tokens of one traced action.
#[derive(Clone, Debug)]
pub struct TracedTokens {
    /// The action's tokens.
    pub tokens: Vec<GreedyToken>,
    /// Draft tokens verified.
    pub drafted: usize,
    /// Draft tokens accepted.
    pub accepted: usize,
    /// Whether traces were executed; otherwise the action ran eagerly and was captured.
    pub executed: bool,
}

/// Decodes actions with traces. A trait object of it keeps the trace types of a backend out of the
/// policy's type.
pub trait TracedDecode<B: Backend>: Send + Sync {
    /// Decodes one action. An error drops the traces; the next action captures new ones.
    ///
    /// # Errors
    /// When the prompt is too long, a logit is not finite, or the device fails.
    fn decode(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        input: ActionInput<'_>,
    ) -> Result<TracedTokens, ModelError>;
}

/// Traces for prompts of one length, captured on demand.
pub struct TracedDecoder<B: TraceBackend> {
    spec: ActionTraceSpec,
    action: Option<ActionTrace<B>>,
}

impl<B: TraceBackend> TracedDecoder<B> {
    /// A decoder without traces.
    #[must_use]
    pub fn new(spec: ActionTraceSpec) -> Self {
        Self { spec, action: None }
    }
}

impl<B: TraceBackend> TracedDecode<B> for TracedDecoder<B> {
    fn decode(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        input: ActionInput<'_>,
    ) -> Result<TracedTokens, ModelError> {
        let known = self.action.take().filter(|action| action.prompt == input.prompt.len());
        let mut action = match known {
            Some(action) => action,
            // Only after the previous traces were released: memory allocated while a trace exists
            // may be overwritten by it.
            None => ActionTrace::new(backend, model, input, &self.spec)?,
        };
        let tokens = action.run(backend, model, input)?;
        self.action = Some(action);
        Ok(tokens)
    }
}

/// Device state of traced actions for prompts of one length.
struct ActionTrace<B: TraceBackend> {
    spec: ActionTraceSpec,
    /// Token ids of a prompt.
    prompt: usize,
    images: Vec<B::Image>,
    /// Host copy of `ids`: the prompt and its draft.
    fed: Vec<u32>,
    ids: B::TokenIds,
    cache: B::Cache,
    buffer: B::TokenBuffer,
    /// Prefill and decode step, once captured.
    traces: Option<(B::Trace, B::Trace)>,
}

impl<B: TraceBackend> ActionTrace<B> {
    fn new(
        backend: &B,
        model: &OpenVla<B>,
        ActionInput { rgb, prompt, .. }: ActionInput<'_>,
        spec: &ActionTraceSpec,
    ) -> Result<Self, ModelError> {
        let further = spec.tokens.saturating_sub(1);
        let capacity = model.check_prompt(prompt, model.patches(), further)?;
        let llama = model.llama();
        let ids = llama.head_ids();
        // Ids are below the vocabulary's size, which the configuration bounds far below u32::MAX.
        let ids = ids.start as u32..ids.end as u32;
        let fed = [prompt, &vec![ids.start; spec.drafted()]].concat();
        let buffer_spec = TokenBufferSpec {
            tokens: spec.tokens,
            ids,
            end_id: spec.end_id,
            centres: spec.centres.clone(),
        };
        let mut cache = llama.new_cache(backend, capacity)?;
        backend.set_position(&mut cache, model.patches() + prompt.len())?;
        Ok(Self {
            images: model.upload_images(backend, rgb)?,
            ids: backend.upload_ids(&fed)?,
            fed,
            cache,
            buffer: llama.new_token_buffer(backend, buffer_spec)?,
            spec: spec.clone(),
            prompt: prompt.len(),
            traces: None,
        })
    }

    fn run(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        input: ActionInput<'_>,
    ) -> Result<TracedTokens, ModelError> {
        let executed = self.traces.is_some();
        // Every program, the decode step's too, must run once before it is captured: the first
        // action has no draft.
        let draft = if executed && self.spec.speculative {
            speculative::usable(input.draft, self.spec.tokens)
        } else {
            &[]
        };
        self.write_inputs(backend, model, input, draft)?;
        match &self.traces {
            Some((prefill, _)) => backend.execute_trace(prefill)?,
            None => self.prefill(backend, model)?,
        }
        let (mut tokens, accepted) = self.verify(backend, model, draft)?;
        let missing = self.spec.tokens.saturating_sub(tokens.len().max(1));
        for _ in 0..missing {
            match &self.traces {
                Some((_, step)) => backend.execute_trace(step)?,
                None => self.decode_step(backend, model)?,
            }
        }
        if missing > 0 || !self.spec.speculative {
            let newest = backend.read_tokens(&self.buffer)?;
            tokens.extend_from_slice(&newest[tokens.len().min(newest.len())..]);
        }
        if self.traces.is_none() {
            let prefill = backend.capture_trace(|| self.prefill(backend, model))?;
            let step = backend.capture_trace(|| self.decode_step(backend, model))?;
            self.traces = Some((prefill, step));
        }
        Ok(TracedTokens { tokens, drafted: draft.len(), accepted, executed })
    }

    /// Overwrites image and ids.
    fn write_inputs(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        ActionInput { rgb, prompt, .. }: ActionInput<'_>,
        draft: &[u32],
    ) -> Result<(), ModelError> {
        let mut fed = [prompt, draft].concat();
        fed.resize(self.fed.len(), model.llama().head_ids().start as u32);
        let further = self.spec.tokens.saturating_sub(1) - self.spec.drafted();
        model.check_prompt(&fed, model.patches(), further)?;
        for image in &mut self.images {
            backend.write_image(image, rgb)?;
        }
        if self.fed != fed {
            backend.write_ids(&mut self.ids, &fed)?;
            self.fed = fed;
        }
        Ok(())
    }

    /// The final tokens after the prefill, and the number of accepted draft tokens. Without
    /// speculative decoding nothing is read: the tokens are read once, at the end.
    fn verify(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        draft: &[u32],
    ) -> Result<(Vec<GreedyToken>, usize), ModelError> {
        if !self.spec.speculative {
            return Ok((Vec::new(), 0));
        }
        let mut tokens = backend.read_tokens(&self.buffer)?;
        let accepted = speculative::accepted(draft, tokens.iter().map(|token| token.id));
        tokens.truncate(accepted + 1);
        for _ in 0..accepted {
            backend.advance_position(&mut self.cache)?;
        }
        if let Some(last) = tokens.last().filter(|_| tokens.len() < self.spec.tokens) {
            model.llama().set_last_token(backend, &mut self.buffer, last.id)?;
        }
        Ok((tokens, accepted))
    }

    /// From the pixels to the first token, and to the token after each draft token.
    fn prefill(&mut self, backend: &B, model: &OpenVla<B>) -> Result<(), BackendError> {
        let features = model.features_of(backend, &self.images, &mut NoProbe)?;
        let image = model.project(backend, &features, &mut NoProbe)?;
        let llama = model.llama();
        let text = llama.embed_ids(backend, &self.ids)?;
        let x = model.input_sequence(backend, &image, &text)?;
        backend.reset_position(&mut self.cache)?;
        let keep = 1 + self.spec.drafted();
        let last = llama.forward(backend, x, &mut self.cache, (0, keep), &mut NoProbe)?;
        for row in 0..keep {
            let x = backend.slice_rows(&last, row..row + 1)?;
            llama.argmax_append(backend, &x, &mut self.buffer)?;
        }
        Ok(())
    }

    /// From the newest token to the next.
    fn decode_step(&mut self, backend: &B, model: &OpenVla<B>) -> Result<(), BackendError> {
        let llama = model.llama();
        let x = backend.last_embedding(&self.buffer)?;
        let last = llama.forward_at_counter(backend, x, &mut self.cache)?;
        backend.advance_position(&mut self.cache)?;
        llama.argmax_append(backend, &last, &mut self.buffer)
    }
}
