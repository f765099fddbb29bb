//! OpenVLA as a policy: preprocessing, prompt, greedy decoding (eager or traced, optionally
//! speculative), action codec.

use std::path::Path;
use std::time::Instant;

use super::{
    ActionCodec, CodecError, Decision, Instruction, Observation, Policy, PolicyError, PolicyInfo,
    PreparationRule, Stage, prompt,
};
use crate::backend::{Backend, TraceBackend};
use crate::checkpoint::Checkpoint;
use crate::models::action_trace::{
    ActionInput, ActionTraceSpec, TracedDecode, TracedDecoder, TracedTokens,
};
use crate::models::openvla::OpenVla;
use crate::models::{NoProbe, Probe, TensorSource, speculative};
use crate::observation::{ImageError, Preparation, Preparer, RgbImage, SINGLE_CAMERA, Size};

/// Tokens among which the argmax selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DecodeMode {
    /// The whole vocabulary, as in the official code. A token that stands for no action is an
    /// error.
    #[default]
    Full,
    /// Action tokens only: the head has 256 rows instead of 32 064.
    Actions,
}

impl std::str::FromStr for DecodeMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "actions" => Ok(Self::Actions),
            other => Err(format!("decode is '{other}'; use full or actions")),
        }
    }
}

/// Options of loading a policy.
#[derive(Clone, Debug, Default)]
pub struct PolicyOptions {
    /// Key of the normalisation statistics; required unless the checkpoint has exactly one set.
    pub unnorm_key: Option<String>,
    /// Tokens among which the argmax selects.
    pub decode: DecodeMode,
    /// Name of the precision policy, for reports.
    pub precision: String,
    /// Speculative decoding: the previous action's tokens are the draft of the next. Same tokens
    /// in fewer decode steps.
    pub draft: bool,
    /// Launch every operation from the host, also on a device that can execute traces. Read by
    /// [`load_policy`](super::load_policy).
    pub eager: bool,
    /// Which image preparation is used.
    pub preparation: PreparationRule,
    /// Options of flow-matching policies (pi0, pi0.5).
    pub flow: super::FlowOptions,
    /// What the policy file says of an OpenVLA-OFT checkpoint; required for one.
    pub oft: Option<super::OftContract>,
}

/// Counters of speculative decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Draft tokens verified.
    pub drafted: u64,
    /// Draft tokens accepted, each of which saved a decode step.
    pub accepted: u64,
}

/// Generated tokens of one action.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Token ids, one per action dimension.
    pub token_ids: Vec<u32>,
    /// Largest minus second largest logit of each token; empty when the device does not compute
    /// it.
    pub logit_margins: Vec<f32>,
    /// Draft tokens verified.
    pub drafted: usize,
    /// Draft tokens accepted.
    pub accepted: usize,
    /// Duration of each stage.
    pub stages: Vec<Stage>,
}

/// Whether every token was chosen among equals, as of weights of zeros: the lowest id then wins,
/// which stands for a full-scale action.
pub(super) fn no_preference(margins: &[f32]) -> bool {
    !margins.is_empty() && margins.iter().all(|&margin| margin == 0.0)
}

/// OpenVLA on a backend.
pub struct OpenVlaPolicy<B: Backend> {
    backend: B,
    model: OpenVla<B>,
    checkpoint: Checkpoint,
    codec: ActionCodec,
    preparer: Preparer,
    info: PolicyInfo,
    /// The last instruction with its prompt and token ids: it rarely changes between images.
    prompted: Option<(Instruction, String, Vec<u32>)>,
    end_of_sequence: Option<u32>,
    /// Whether the previous action's tokens are the draft of the next.
    draft: bool,
    previous_tokens: Vec<u32>,
    counts: DraftCounts,
    /// Traced decoding, see [`OpenVlaPolicy::with_traces`].
    traced: Option<Box<dyn TracedDecode<B>>>,
}

/// Measures consecutive stages.
pub(super) struct Stopwatch {
    last: Instant,
    pub(super) stages: Vec<Stage>,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { last: Instant::now(), stages: Vec::with_capacity(5) }
    }

    pub(super) fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages
            .push(Stage { name, milliseconds: now.duration_since(self.last).as_secs_f64() * 1e3 });
        self.last = now;
    }
}

impl<B: Backend> OpenVlaPolicy<B> {
    /// Loads a checkpoint folder onto a backend, with eager decoding.
    ///
    /// # Errors
    /// When the folder is unfit, in one line that names the file, the value and the remedy.
    pub fn open(backend: B, folder: &Path, options: &PolicyOptions) -> Result<Self, PolicyError> {
        let checkpoint = Checkpoint::open(folder)?;
        let weights = checkpoint.weights.clone();
        Self::from_checkpoint(backend, checkpoint, &weights, options)
    }

    /// Like [`OpenVlaPolicy::open`], with the weights of another source than the checkpoint's
    /// files.
    ///
    /// # Errors
    /// As [`OpenVlaPolicy::open`].
    pub fn from_checkpoint(
        backend: B,
        checkpoint: Checkpoint,
        weights: &(dyn TensorSource + Send + Sync),
        options: &PolicyOptions,
    ) -> Result<Self, PolicyError> {
        let Checkpoint { config, preprocessor, .. } = &checkpoint;
        let (key, stats) = checkpoint.norm_stats.select(options.unnorm_key.as_deref())?;
        let (key, codec) = (key.to_owned(), ActionCodec::new(config, stats.clone()));
        // Refused before the weights are read, which takes minutes.
        let side = config.image_size();
        let preparation = options.preparation.for_statistics(&key, Preparation::plain(side)?)?;
        preparation.require_bytes(Size::square(side))?;
        let head_ids = match options.decode {
            DecodeMode::Full => 0..config.llama.vocab_size,
            DecodeMode::Actions => codec.ids().start as usize..codec.ids().end as usize,
        };
        let load = || OpenVla::load(&backend, weights, config, preprocessor, head_ids);
        let model = backend.scope(load)?;
        let stats = codec.stats();
        let envelope = stats
            .mask
            .iter()
            .zip(stats.q01.iter().zip(&stats.q99))
            .map(|(&masked, (&low, &high))| masked.then_some((low, high)))
            .collect();
        let info = PolicyInfo {
            unnorm_key: key,
            action_dim: codec.action_dim(),
            action_names: Vec::new(),
            horizon: 1,
            cameras: vec![SINGLE_CAMERA.into()],
            state_dim: 0,
            device: backend.name(),
            precision: options.precision.clone(),
            envelope,
            action_tokens: Some(codec.ids()),
        };
        let preparer = Preparer::new(preparation)?;
        let end_of_sequence = checkpoint.tokenizer.end_of_sequence();
        Ok(Self {
            backend,
            model,
            checkpoint,
            codec,
            preparer,
            info,
            prompted: None,
            end_of_sequence,
            draft: options.draft,
            previous_tokens: Vec::new(),
            counts: DraftCounts::default(),
            traced: None,
        })
    }

    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The codec.
    #[must_use]
    pub fn codec(&self) -> &ActionCodec {
        &self.codec
    }

    /// Token id at which generation ends.
    #[must_use]
    pub fn end_of_sequence(&self) -> Option<u32> {
        self.end_of_sequence
    }

    /// Replaces the token id at which generation ends, to reproduce early ends.
    pub fn set_end_of_sequence(&mut self, id: Option<u32>) {
        self.end_of_sequence = id;
    }

    /// The image as the model takes it: prepared, at its input size.
    ///
    /// # Errors
    /// When a step of the preparation cannot be done with this image.
    pub fn prepare(&mut self, image: &RgbImage) -> Result<RgbImage, ImageError> {
        self.preparer.rgb(image)
    }

    /// How images are prepared.
    #[must_use]
    pub fn preparation(&self) -> &Preparation {
        self.preparer.preparation()
    }

    /// Token ids of a prompt as fed to the model.
    ///
    /// # Errors
    /// When the text is too long for the tokenizer.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, PolicyError> {
        Ok(self.checkpoint.tokenizer.encode_prompt(prompt)?)
    }

    /// Generates an action's tokens from a resized image and a prompt's ids.
    ///
    /// # Errors
    /// When a token stands for no action, the model ends early, or the device fails.
    pub fn generate(
        &self,
        rgb: &[u8],
        input_ids: &[u32],
        probe: &mut (impl Probe<B> + Send),
    ) -> Result<Generation, PolicyError> {
        self.generate_speculative(rgb, input_ids, &[], probe)
    }

    /// [`OpenVlaPolicy::generate`] with speculative decoding: `draft` runs along with the prompt,
    /// and its longest prefix that equals the greedy tokens is accepted. The generated tokens do
    /// not depend on the draft.
    ///
    /// # Errors
    /// As [`OpenVlaPolicy::generate`].
    pub fn generate_speculative(
        &self,
        rgb: &[u8],
        input_ids: &[u32],
        draft: &[u32],
        probe: &mut (impl Probe<B> + Send),
    ) -> Result<Generation, PolicyError> {
        let draft = speculative::usable(draft, self.codec.action_dim());
        self.backend.scope(|| self.generate_eager(rgb, (input_ids, draft), probe))
    }

    fn generate_eager(
        &self,
        rgb: &[u8],
        (input_ids, draft): (&[u32], &[u32]),
        probe: &mut impl Probe<B>,
    ) -> Result<Generation, PolicyError> {
        let (backend, model, dimensions) = (&self.backend, &self.model, self.codec.action_dim());
        let mut watch = Stopwatch::start();
        let features = model.features(backend, rgb, probe)?;
        watch.lap("vision");
        let image = model.project(backend, &features, probe)?;
        watch.lap("projector");
        // The last token is selected but never fed, so it needs no position.
        let prefill =
            model.prefill_with_draft(backend, &image, (input_ids, draft), dimensions - 1, probe)?;
        let decode = model.decode_greedily(
            backend,
            prefill,
            (draft, dimensions),
            probe,
            |id, dimension| self.check_token(id, dimension),
            || watch.lap("prefill"),
        )?;
        watch.lap("decode");
        Ok(Generation {
            token_ids: decode.ids,
            logit_margins: decode.logit_margins,
            drafted: draft.len(),
            accepted: decode.accepted,
            stages: watch.stages,
        })
    }

    /// One action with traces, `None` without [`OpenVlaPolicy::with_traces`]. The first action runs
    /// eagerly and is captured afterwards.
    fn generate_traced(
        &mut self,
        input: ActionInput<'_>,
    ) -> Option<Result<Generation, PolicyError>> {
        let mut watch = Stopwatch::start();
        let Self { backend, model, traced, .. } = &mut *self;
        let traced = traced.as_mut()?;
        let decoded = backend.scope(|| traced.decode(backend, model, input));
        Some(decoded.map_err(PolicyError::from).and_then(|decoded| {
            let TracedTokens { tokens, drafted, accepted, executed } = decoded;
            watch.lap(if executed { "execute" } else { "capture" });
            let token_ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            for (index, &id) in token_ids.iter().enumerate() {
                self.check_token(id, index)?;
            }
            let logit_margins: Option<Vec<f32>> =
                tokens.iter().map(|token| token.logit_margin).collect();
            Ok(Generation {
                token_ids,
                logit_margins: logit_margins.unwrap_or_default(),
                drafted,
                accepted,
                stages: watch.stages,
            })
        }))
    }

    /// The prompt of an instruction and its token ids.
    fn prompted(&mut self, instruction: &Instruction) -> Result<(String, Vec<u32>), PolicyError> {
        if let Some((known, text, ids)) = &self.prompted
            && known == instruction
        {
            return Ok((text.clone(), ids.clone()));
        }
        let text = prompt(&self.checkpoint.config.prompt, instruction);
        let ids = self.tokenize(&text)?;
        self.prompted = Some((instruction.clone(), text.clone(), ids.clone()));
        Ok((text, ids))
    }

    /// Refuses an early end, and a token that stands for no action, with its text.
    fn check_token(&self, id: u32, dimension: usize) -> Result<(), PolicyError> {
        let wanted = self.codec.action_dim();
        if self.end_of_sequence == Some(id) && dimension + 1 < wanted {
            return Err(PolicyError::EndedEarly { got: dimension, wanted });
        }
        self.codec.bin(id, dimension).map(drop).map_err(|error| {
            PolicyError::Codec(CodecError { text: self.checkpoint.tokenizer.token(id), ..error })
        })
    }
}

impl<B: TraceBackend + 'static> OpenVlaPolicy<B> {
    /// Decodes with captured traces instead of eagerly.
    #[must_use]
    pub fn with_traces(self) -> Self {
        let spec = ActionTraceSpec {
            tokens: self.codec.action_dim(),
            speculative: self.draft,
            end_id: self.codec.ids().end,
            centres: self.codec.centres().iter().map(|&centre| centre as f32).collect(),
        };
        Self { traced: Some(Box::new(TracedDecoder::new(spec))), ..self }
    }
}

impl<B: Backend> Policy for OpenVlaPolicy<B> {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let started = Instant::now();
        let instruction = &observation.instruction;
        let image = self.preparer.rgb(observation.image(SINGLE_CAMERA)?)?;
        let rgb = image.pixels();
        let (prompt_text, input_ids) = self.prompted(instruction)?;
        let preprocess =
            Stage { name: "preprocess", milliseconds: started.elapsed().as_secs_f64() * 1e3 };
        let draft = std::mem::take(&mut self.previous_tokens);
        let input = ActionInput { rgb, prompt: &input_ids, draft: &draft };
        let generation = match self.generate_traced(input) {
            Some(generation) => generation?,
            None => self.generate_speculative(rgb, &input_ids, &draft, &mut NoProbe)?,
        };
        if no_preference(&generation.logit_margins) {
            return Err(PolicyError::NoPreference(generation.logit_margins.len()));
        }
        self.counts.drafted += generation.drafted as u64;
        self.counts.accepted += generation.accepted as u64;
        if self.draft {
            self.previous_tokens.clone_from(&generation.token_ids);
        }
        let normalized = self.codec.normalized(&generation.token_ids)?;
        let action = self.codec.unnormalize(&normalized);
        Ok(Decision {
            prompt: prompt_text,
            input_ids,
            token_ids: generation.token_ids,
            normalized: vec![normalized],
            actions: vec![action],
            logit_margins: generation.logit_margins,
            stages: std::iter::once(preprocess).chain(generation.stages).collect(),
            ..Decision::default()
        })
    }

    fn prepare_for(&mut self, observation: &Observation) -> Result<bool, PolicyError> {
        if self.traced.is_none() {
            return Ok(false);
        }
        let image = self.preparer.rgb(observation.image(SINGLE_CAMERA)?)?;
        let (_, input_ids) = self.prompted(&observation.instruction)?;
        let Self { backend, model, traced, .. } = &mut *self;
        let Some(traced) = traced else { return Ok(false) };
        let input = ActionInput { rgb: image.pixels(), prompt: &input_ids, draft: &[] };
        Ok(backend.scope(|| traced.prepare(backend, model, input))?)
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }

    fn draft_counts(&self) -> DraftCounts {
        self.counts
    }
}
