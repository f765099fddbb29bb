//! One action as captured traces, from the image's bytes to the last token without the host.
//!
//! Greedy decoding has no branches once the number of positions is known. The prompt is fed in a
//! fixed number of text slots: a *bucket* of positions ([`TraceBackend::sequence_rows`]), filled up
//! with tokens that no earlier position attends to. Which row gives the first token, and at which
//! position decoding starts, are tensors that the host writes with the token ids. Traces therefore
//! hold for every prompt that fits a bucket: one for towers and projector, a prefill per bucket
//! (language model, first token) and one decode step, which counts positions on the device and is
//! executed once per further token.
//!
//! With speculative decoding the prefill also selects a token after every draft token; the host
//! reads how many are accepted, continues after them (a third trace fetches the embedding of the
//! last accepted token) and executes the decode step for the remaining tokens only.
//!
//! The first action runs eagerly, which compiles every program of every bucket; the traces are
//! captured afterwards. [`TracedDecode::prepare`] does this before a prompt is in use.

use super::openvla::OpenVla;
use super::{ModelError, NoProbe, speculative};
use crate::backend::{Backend, BackendError, GreedyToken, TokenBufferSpec, TraceBackend};

/// Buckets that are captured at once: every instruction of usual length fits one of them.
const BUCKETS: usize = 2;

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
    /// Compiles and captures what prompts as long as this one need, and says whether anything was
    /// left to do. Nothing is decoded.
    ///
    /// # Errors
    /// When the prompt is too long or the device fails.
    fn prepare(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        input: ActionInput<'_>,
    ) -> Result<bool, ModelError>;

    /// Decodes one action. Without a prepared bucket it runs eagerly, and the traces are captured
    /// afterwards.
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

/// Traces for prompts of some buckets, captured on demand.
pub struct TracedDecoder<B: TraceBackend> {
    spec: ActionTraceSpec,
    action: Option<ActionTraces<B>>,
}

impl<B: TraceBackend> TracedDecoder<B> {
    /// A decoder without traces.
    #[must_use]
    pub fn new(spec: ActionTraceSpec) -> Self {
        Self { spec, action: None }
    }

    /// The captured traces that serve a prompt, by the index of its bucket.
    fn known(&mut self, rows: usize) -> Option<(&mut ActionTraces<B>, usize)> {
        let action = self.action.as_mut()?;
        let bucket = action.buckets.iter().position(|bucket| bucket.rows == rows)?;
        Some((action, bucket))
    }

    /// Runs the prompt eagerly and captures the traces of its bucket and of the usual ones.
    fn capture(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        rows: usize,
        run: impl FnOnce(&mut ActionTraces<B>) -> Result<TracedTokens, ModelError>,
    ) -> Result<TracedTokens, ModelError> {
        // Released first: memory allocated while a trace exists may be overwritten by it.
        self.action = None;
        let mut action = ActionTraces::new(backend, model, rows, &self.spec)?;
        let tokens = run(&mut action)?;
        action.capture(backend, model)?;
        self.action = Some(action);
        Ok(tokens)
    }

    /// Positions of a prompt's bucket.
    fn rows(&self, backend: &B, model: &OpenVla<B>, prompt: &[u32]) -> Result<usize, ModelError> {
        let further = self.spec.tokens.saturating_sub(1);
        model.check_prompt(prompt, model.patches(), further)?;
        Ok(backend.sequence_rows(model.patches() + prompt.len() + self.spec.drafted()))
    }
}

impl<B: TraceBackend> TracedDecode<B> for TracedDecoder<B> {
    fn prepare(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        input: ActionInput<'_>,
    ) -> Result<bool, ModelError> {
        let rows = self.rows(backend, model, input.prompt)?;
        if self.known(rows).is_some() {
            return Ok(false);
        }
        self.capture(backend, model, rows, |action| action.run(backend, model, 0, input))?;
        Ok(true)
    }

    fn decode(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        input: ActionInput<'_>,
    ) -> Result<TracedTokens, ModelError> {
        let rows = self.rows(backend, model, input.prompt)?;
        match self.known(rows) {
            Some((action, bucket)) => action.run(backend, model, bucket, input),
            None => {
                self.capture(backend, model, rows, |action| action.run(backend, model, 0, input))
            }
        }
    }
}

/// Device state of traced actions.
struct ActionTraces<B: TraceBackend> {
    spec: ActionTraceSpec,
    images: Vec<B::Image>,
    /// Keys and values, for the largest bucket and the tokens after it.
    cache: B::Cache,
    /// The start position on the device.
    start: usize,
    buffer: B::TokenBuffer,
    /// Last accepted draft token.
    last: B::TokenIds,
    /// The bucket of the first action first.
    buckets: Vec<Bucket<B>>,
    /// Once captured.
    step: Option<Steps<B>>,
}

struct Steps<B: TraceBackend> {
    /// Towers and projector.
    vision: B::Trace,
    /// The patch embeddings that they leave: kept, so that nothing else is allocated there.
    _image: B::Tensor,
    decode: B::Trace,
    /// Continuation after accepted draft tokens; only with speculative decoding.
    resume: Option<B::Trace>,
}

/// Prompts of one number of positions.
struct Bucket<B: TraceBackend> {
    /// Positions of image and text.
    rows: usize,
    ids: B::TokenIds,
    /// Host copy of `ids`: the prompt, its draft, and filling.
    fed: Vec<u32>,
    /// Rows of the prompt's last token and of the draft tokens after it.
    ends: B::TokenIds,
    /// Host copy of the first of `ends`.
    end: usize,
    /// Once captured.
    prefill: Option<B::Trace>,
}

impl<B: TraceBackend> ActionTraces<B> {
    /// Allocates everything that lives as long as the traces, for a bucket of `rows` positions and
    /// the usual ones.
    fn new(
        backend: &B,
        model: &OpenVla<B>,
        rows: usize,
        spec: &ActionTraceSpec,
    ) -> Result<Self, ModelError> {
        let (llama, patches) = (model.llama(), model.patches());
        let mut all = vec![rows];
        let mut usual = patches;
        for _ in 0..BUCKETS {
            usual = backend.sequence_rows(usual + 1);
            if usual != rows {
                all.push(usual);
            }
        }
        // Ids are below the vocabulary's size, which the configuration bounds far below u32::MAX.
        let ids = llama.head_ids();
        let ids = ids.start as u32..ids.end as u32;
        let largest = all.iter().copied().max().unwrap_or(rows);
        let mut cache = llama.new_cache(backend, largest + spec.tokens.saturating_sub(1))?;
        backend.set_position(&mut cache, patches)?;
        let bucket = |rows: usize| {
            let fed = vec![ids.start; rows - patches];
            let end = rows - 1 - spec.drafted();
            Ok(Bucket {
                rows,
                ids: backend.upload_ids(&fed)?,
                fed,
                ends: backend.upload_ids(&ends(end, spec.drafted()))?,
                end,
                prefill: None,
            })
        };
        let buckets = all.into_iter().map(bucket).collect::<Result<_, BackendError>>()?;
        let buffer_spec = TokenBufferSpec {
            tokens: spec.tokens,
            ids: ids.clone(),
            end_id: spec.end_id,
            centres: spec.centres.clone(),
        };
        Ok(Self {
            images: model.blank_images(backend)?,
            cache,
            start: patches,
            buffer: llama.new_token_buffer(backend, buffer_spec)?,
            last: backend.upload_ids(&[ids.start])?,
            buckets,
            spec: spec.clone(),
            step: None,
        })
    }

    /// Decodes one action: with traces once they are captured, eagerly before.
    fn run(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        bucket: usize,
        input: ActionInput<'_>,
    ) -> Result<TracedTokens, ModelError> {
        let executed = self.step.is_some();
        // Every program, the decode step's too, must run once before it is captured: the first
        // action has no draft.
        let draft = if executed && self.spec.speculative {
            speculative::usable(input.draft, self.spec.tokens)
        } else {
            &[]
        };
        self.write_inputs(backend, bucket, input, draft)?;
        match (&self.step, &self.buckets[bucket].prefill) {
            (Some(step), Some(prefill)) => {
                backend.execute_trace(&step.vision)?;
                backend.execute_trace(prefill)?;
            }
            _ => {
                let image = self.vision(backend, model)?;
                self.prefill(backend, model, bucket, &image)?;
            }
        }
        let (mut tokens, accepted) = self.verify(backend, model, draft)?;
        let missing = self.spec.tokens.saturating_sub(tokens.len().max(1));
        for _ in 0..missing {
            match &self.step {
                Some(step) => backend.execute_trace(&step.decode)?,
                None => self.decode_step(backend, model)?,
            }
        }
        if missing > 0 || !self.spec.speculative {
            let newest = backend.read_tokens(&self.buffer)?;
            tokens.extend_from_slice(&newest[tokens.len().min(newest.len())..]);
        }
        Ok(TracedTokens { tokens, drafted: draft.len(), accepted, executed })
    }

    /// Captures all traces, after one action ran eagerly in the first bucket.
    fn capture(&mut self, backend: &B, model: &OpenVla<B>) -> Result<(), ModelError> {
        // The other buckets' programs are compiled before the first capture: memory allocated
        // after it may be overwritten.
        let image = self.vision(backend, model)?;
        for bucket in 1..self.buckets.len() {
            self.prefill(backend, model, bucket, &image)?;
        }
        drop(image);
        if self.spec.speculative {
            self.resume(backend, model)?;
        }
        let mut image = None;
        let vision = backend.capture_trace(|| {
            image = Some(self.vision(backend, model)?);
            Ok(())
        })?;
        let image = image.ok_or_else(|| BackendError::Shape {
            operation: "capture_trace",
            detail: "the captured work was not done".into(),
        })?;
        let prefill = backend.capture_trace(|| self.prefill(backend, model, 0, &image))?;
        self.buckets[0].prefill = Some(prefill);
        let decode = backend.capture_trace(|| self.decode_step(backend, model))?;
        let resume = match self.spec.speculative {
            true => Some(backend.capture_trace(|| self.resume(backend, model))?),
            false => None,
        };
        for bucket in 1..self.buckets.len() {
            match backend.capture_trace(|| self.prefill(backend, model, bucket, &image)) {
                Ok(trace) => self.buckets[bucket].prefill = Some(trace),
                // Without room for it in the trace region, a prompt of this bucket is prepared
                // when it comes.
                Err(_) => {
                    self.buckets.truncate(bucket);
                    break;
                }
            }
        }
        self.step = Some(Steps { vision, _image: image, decode, resume });
        Ok(())
    }

    /// Overwrites image, ids, and what depends on the prompt's length.
    fn write_inputs(
        &mut self,
        backend: &B,
        bucket: usize,
        ActionInput { rgb, prompt, .. }: ActionInput<'_>,
        draft: &[u32],
    ) -> Result<(), ModelError> {
        for image in &mut self.images {
            backend.write_image(image, rgb)?;
        }
        let bucket = &mut self.buckets[bucket];
        let patches = bucket.rows - bucket.fed.len();
        let mut fed = [prompt, draft].concat();
        // Any id will do; the first one is embedded in any case.
        fed.resize(bucket.fed.len(), prompt.first().copied().unwrap_or(0));
        if bucket.fed != fed {
            backend.write_ids(&mut bucket.ids, &fed)?;
            bucket.fed = fed;
        }
        let positions = patches + prompt.len();
        if bucket.end != positions - 1 {
            let ends = ends(positions - 1, self.spec.drafted());
            backend.write_ids(&mut bucket.ends, &ends)?;
            bucket.end = positions - 1;
        }
        if self.start != positions {
            backend.set_position(&mut self.cache, positions)?;
            self.start = positions;
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
        if let Some(last) = tokens.last().filter(|_| tokens.len() < self.spec.tokens) {
            backend.move_position(&mut self.cache, self.start + accepted)?;
            backend.write_ids(&mut self.last, &[last.id])?;
            match self.step.as_ref().and_then(|step| step.resume.as_ref()) {
                Some(resume) => backend.execute_trace(resume)?,
                None => self.resume(backend, model)?,
            }
        }
        Ok((tokens, accepted))
    }

    /// Patch embeddings of the image.
    fn vision(&self, backend: &B, model: &OpenVla<B>) -> Result<B::Tensor, BackendError> {
        let features = model.features_of(backend, &self.images, &mut NoProbe)?;
        model.project(backend, &features, &mut NoProbe)
    }

    /// From the patch embeddings to the first token, and to the token after each draft token.
    fn prefill(
        &mut self,
        backend: &B,
        model: &OpenVla<B>,
        bucket: usize,
        image: &B::Tensor,
    ) -> Result<(), BackendError> {
        let Self { buckets, cache, buffer, .. } = self;
        let Bucket { ids, ends, .. } = &buckets[bucket];
        let llama = model.llama();
        let text = llama.embed_ids(backend, ids)?;
        let x = model.input_sequence(backend, image, &text)?;
        backend.reset_position(cache)?;
        let last = llama.forward_selected(backend, x, cache, ends)?;
        for row in 0..=self.spec.drafted() {
            let x = backend.slice_rows(&last, row..row + 1)?;
            llama.argmax_append(backend, &x, buffer)?;
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

    /// Makes the last accepted token the newest one.
    fn resume(&mut self, backend: &B, model: &OpenVla<B>) -> Result<(), BackendError> {
        model.llama().set_last_token(backend, &mut self.buffer, &self.last)
    }
}

/// The row of a prompt's last token, and those of the draft tokens after it.
fn ends(last: usize, drafted: usize) -> Vec<u32> {
    // Positions are bounded by the model's, far below u32::MAX.
    (last..=last + drafted).map(|row| row as u32).collect()
}
