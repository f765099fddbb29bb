//! OpenVLA-OFT as a policy: several cameras and the robot's state to a chunk of actions in one
//! pass.
//!
//! Order as in `experiments/robot/openvla_utils.py` and `modeling_prismatic.py` of the official
//! repository: prepare the images, normalise the state and clip it, answer, un-normalise without
//! clipping. What an evaluation does with the gripper afterwards (LIBERO: `2 g - 1`, its sign,
//! negated) is a convention of the robot and belongs to the policy file.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::openvla::{PolicyOptions, Stopwatch, no_preference};
use super::{
    ActionCodec, CodecError, Decision, Instruction, Observation, Policy, PolicyError, PolicyInfo,
    Stage, prompt,
};
use crate::backend::{Backend, Mask, TraceBackend};
use crate::checkpoint::{ActionStats, BoundsKind, OftCheckpoint, StatsOf, ValueBounds};
use crate::models::oft::trace::{TracedAnswer, TracedAnswers};
use crate::models::oft::{OftAnswer, OftInput, OftParts, OpenVlaOft};
use crate::models::vit::Conditioning;
use crate::models::{NoProbe, Probe};
use crate::observation::{Preparation, Preparer, RgbImage, Size};

/// Most steps of a chunk accepted; the official constants go up to 25.
pub const MAX_CHUNK: usize = 256;
/// Most cameras accepted; the official code has up to three.
pub const MAX_CAMERAS: usize = 8;
/// Kept away from zero ranges, as in the official code.
const RANGE_EPSILON: f64 = 1e-8;

/// What an OpenVLA-OFT checkpoint was trained with and no file of its folder says.
#[derive(Clone, Debug)]
pub struct OftContract {
    /// Cameras in the order of training: the main camera, then the wrists.
    pub cameras: Vec<Arc<str>>,
    /// Preparation of every camera's image.
    pub preparation: Preparation,
    /// Steps of a chunk.
    pub chunk: usize,
    /// Which statistics bound states and actions.
    pub bounds: BoundsKind,
    /// Whether the robot's state is an input.
    pub state: bool,
    /// Whether the answers are discrete tokens; otherwise the regression head's.
    pub discrete: bool,
    /// Whether the towers with FiLM are used, where the folder has them.
    pub film: bool,
}

impl OftContract {
    /// Whether the same model serves both contracts.
    #[must_use]
    pub fn same_model(&self, other: &Self) -> bool {
        (self.state, self.discrete, self.film) == (other.state, other.discrete, other.film)
    }
}

/// A contract that the checkpoint does not fulfil.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OftError {
    /// No policy file for it.
    #[error(
        "{0}: an OpenVLA-OFT checkpoint; its cameras, image preparation, chunk, bounds and state \
        are in no file of the folder, so that it needs a policy file made for it"
    )]
    NoContract(String),
    /// A chunk without steps, or too long.
    #[error("a chunk of {0} steps; the policy file must give 1 to {MAX_CHUNK}")]
    Chunk(usize),
    /// No camera, too many, or one twice.
    #[error("cameras {0:?}; the policy file must name 1 to {MAX_CAMERAS} different ones")]
    Cameras(Vec<String>),
    /// Preparation for another size.
    #[error(transparent)]
    Preparation(#[from] crate::observation::PreparationError),
    /// Several images on one tower.
    #[error(
        "{0} cameras with one vision tower; the official code takes several images only with two \
        towers"
    )]
    OneTower(usize),
    /// The head's file is missing.
    #[error(
        "the folder has no action_head--*checkpoint.pt; download it, or say in the policy file \
        that this checkpoint answers with discrete tokens"
    )]
    NoHead,
    /// A head beside discrete tokens.
    #[error("the folder has an action head ({0}) but the policy file says discrete tokens")]
    UnusedHead(String),
    /// A state without a projector, or a projector without a state.
    #[error(
        "the policy file {} the robot's state but the folder has {} proprio_projector",
        if *.wanted { "gives" } else { "does not give" },
        if *.wanted { "no" } else { "a" }
    )]
    State {
        /// Whether the policy file gives the state.
        wanted: bool,
    },
    /// A dimension in which tensors and statistics differ.
    #[error(
        "the {what} has {tensors} numbers but its statistics under '{key}' have {statistics}; \
        choose the unnorm_key of the data set that the checkpoint was trained on"
    )]
    Dimensions {
        /// Action or state.
        what: &'static str,
        /// According to the tensors.
        tensors: usize,
        /// According to the statistics.
        statistics: usize,
        /// Their name.
        key: String,
    },
    /// Statistics that no data set has.
    #[error(
        "number {index} of the {what} has bounds from {low} to {high} under '{key}'; restore \
        dataset_statistics.json from the training run"
    )]
    Inverted {
        /// Action or state.
        what: &'static str,
        /// Dimension.
        index: usize,
        /// Value of -1.
        low: f64,
        /// Value of +1, which is lower.
        high: f64,
        /// Name of the statistics.
        key: String,
    },
    /// An action that is not finite.
    #[error("step {step}, number {index} of the action is {value}; nothing is published for it")]
    NotFinite {
        /// Step of the chunk.
        step: usize,
        /// Number within the step.
        index: usize,
        /// The value.
        value: f64,
    },
}

/// A prompt and what follows from it; it rarely changes between decisions.
struct Prompted<B: Backend> {
    instruction: Instruction,
    text: String,
    ids: Vec<u32>,
    conditioning: Option<Conditioning<B>>,
}

/// One answer with its intermediate results.
#[derive(Clone, Debug, Default)]
pub struct OftGeneration {
    /// Token ids of a discrete answer.
    pub token_ids: Vec<u32>,
    /// Their logit margins.
    pub logit_margins: Vec<f32>,
    /// Normalised actions, `[chunk][action_dim]`.
    pub normalized: Vec<Vec<f64>>,
    /// Actions in the data set's units.
    pub actions: Vec<Vec<f64>>,
    /// Duration of each stage.
    pub stages: Vec<Stage>,
}

/// OpenVLA-OFT on a backend.
pub struct OftPolicy<B: Backend> {
    backend: B,
    model: OpenVlaOft<B>,
    checkpoint: OftCheckpoint,
    contract: OftContract,
    preparer: Preparer,
    action: ValueBounds,
    state: Option<ValueBounds>,
    codec: ActionCodec,
    prompted: Option<Prompted<B>>,
    info: PolicyInfo,
    /// Answers with traces, see [`OftPolicy::with_traces`].
    traced: Option<Box<dyn TracedAnswer<B>>>,
}

impl<B: TraceBackend + 'static> OftPolicy<B> {
    /// Answers with a captured trace instead of eagerly.
    #[must_use]
    pub fn with_traces(self) -> Self {
        Self { traced: Some(Box::<TracedAnswers<B>>::default()), ..self }
    }
}

impl<B: Backend> OftPolicy<B> {
    /// Loads a checkpoint folder onto a backend.
    ///
    /// # Errors
    /// When the folder is unfit or does not fulfil the contract, in one line.
    pub fn open(
        backend: B,
        folder: &Path,
        options: &PolicyOptions,
        contract: OftContract,
    ) -> Result<Self, PolicyError> {
        let checkpoint = OftCheckpoint::open(folder)?;
        check_folder(&checkpoint, &contract)?;
        check_contract(&checkpoint, &contract)?;
        let Statistics { key, action, state } =
            statistics(&checkpoint, &contract, options.unnorm_key.as_deref())?;
        options.preparation.for_statistics(&key, contract.preparation.clone())?;
        let state = state.as_ref().and_then(ValueBounds::inverted);
        for (what, inverted) in [("action", action.inverted()), ("state", state)] {
            if let Some((index, low, high)) = inverted {
                return Err(OftError::Inverted { what, index, low, high, key }.into());
            }
        }
        Self::from_checkpoint(backend, checkpoint, options, contract)
    }

    /// [`OftPolicy::open`] for a checkpoint of which the contract may leave out parts, and with any
    /// statistics, as the golden kits need.
    ///
    /// # Errors
    /// As [`OftPolicy::open`].
    pub fn from_checkpoint(
        backend: B,
        checkpoint: OftCheckpoint,
        options: &PolicyOptions,
        contract: OftContract,
    ) -> Result<Self, PolicyError> {
        check_contract(&checkpoint, &contract)?;
        let Statistics { key, action, state } =
            statistics(&checkpoint, &contract, options.unnorm_key.as_deref())?;
        let parts = OftParts {
            regression: !contract.discrete,
            proprio: contract.state,
            film: contract.film && checkpoint.vision.is_some(),
        };
        let model = backend.scope(|| OpenVlaOft::load(&backend, &checkpoint, parts))?;
        let codec = codec(&checkpoint, &action);
        let info = PolicyInfo {
            unnorm_key: key,
            action_dim: action.low.len(),
            action_names: Vec::new(),
            horizon: contract.chunk,
            cameras: contract.cameras.clone(),
            state_dim: state.as_ref().map_or(0, |state| state.low.len()),
            device: backend.name(),
            precision: options.precision.clone(),
            envelope: envelope(&action),
            action_tokens: contract.discrete.then(|| codec.ids()),
        };
        let preparer = Preparer::new(contract.preparation.clone())?;
        let prompted = None;
        Ok(Self {
            backend,
            model,
            checkpoint,
            contract,
            preparer,
            action,
            state,
            codec,
            prompted,
            info,
            traced: None,
        })
    }

    /// Loads the same checkpoint again onto the same backend, with another contract.
    ///
    /// # Errors
    /// As [`OftPolicy::from_checkpoint`].
    pub fn reload(
        self,
        options: &PolicyOptions,
        contract: OftContract,
    ) -> Result<Self, PolicyError> {
        let Self { backend, checkpoint, model, .. } = self;
        // First, so that both models are never in memory.
        drop(model);
        Self::from_checkpoint(backend, checkpoint, options, contract)
    }

    /// Selects other statistics of the same dimensions.
    ///
    /// # Errors
    /// When there are no such statistics, or they have other dimensions.
    pub fn select_statistics(&mut self, unnorm_key: &str) -> Result<(), PolicyError> {
        let Statistics { key, action, state } =
            statistics(&self.checkpoint, &self.contract, Some(unnorm_key))?;
        let (tensors, statistics) = (self.action.low.len(), action.low.len());
        if tensors != statistics {
            return Err(OftError::Dimensions { what: "action", tensors, statistics, key }.into());
        }
        self.codec = codec(&self.checkpoint, &action);
        self.info.envelope = envelope(&action);
        (self.info.unnorm_key, self.action, self.state) = (key, action, state);
        Ok(())
    }

    /// Prepares images in another way.
    ///
    /// # Errors
    /// When the result has not the model's size.
    pub fn set_preparation(&mut self, preparation: Preparation) -> Result<(), PolicyError> {
        let size = Size::square(self.checkpoint.base.config.image_size());
        preparation.require_bytes(size).map_err(OftError::from)?;
        self.preparer = Preparer::new(preparation.clone())?;
        self.contract.preparation = preparation;
        Ok(())
    }

    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &OftCheckpoint {
        &self.checkpoint
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Replaces the attention mask. Only to show that a causal one is noticed.
    pub fn set_mask(&mut self, mask: Mask) {
        self.model.set_mask(mask);
    }

    /// The image as the model sees it, RGB.
    ///
    /// # Errors
    /// When the image cannot be prepared.
    pub fn prepare(&mut self, image: &RgbImage) -> Result<RgbImage, PolicyError> {
        Ok(self.preparer.rgb(image)?)
    }

    /// Token ids of a prompt as fed to the model, before the zeros and the stop token.
    ///
    /// # Errors
    /// When the text is too long for the tokenizer.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, PolicyError> {
        Ok(self.checkpoint.base.tokenizer.encode_prompt(prompt)?)
    }

    /// The state normalised to -1..1 and clipped, masked-out dimensions too, as in the official
    /// code; empty for a policy without state.
    #[must_use]
    pub fn normalize_state(&self, state: &[f64]) -> Vec<f64> {
        let Some(ValueBounds { low, high, mask }) = &self.state else { return Vec::new() };
        let bounds = low.iter().zip(high).zip(mask);
        let normalized = state.iter().zip(bounds).map(|(&x, ((&low, &high), &masked))| {
            let x = match masked {
                true => 2.0 * (x - low) / (high - low + RANGE_EPSILON) - 1.0,
                false => x,
            };
            x.clamp(-1.0, 1.0)
        });
        normalized.collect()
    }

    /// Answers from prepared images, the prompt's ids and the normalised state.
    ///
    /// # Errors
    /// When a token stands for no action, a number is not finite, or the device fails.
    pub fn generate(
        &self,
        images: &[&[u8]],
        ids: &[u32],
        state: &[f64],
        probe: &mut (impl Probe<B> + Send),
    ) -> Result<OftGeneration, PolicyError> {
        self.backend.scope(|| {
            let conditioning = self.model.condition(&self.backend, ids, probe)?;
            self.generate_conditioned(images, (ids, conditioning.as_ref()), state, probe)
        })
    }

    fn generate_conditioned(
        &self,
        images: &[&[u8]],
        (prompt, conditioning): (&[u32], Option<&Conditioning<B>>),
        state: &[f64],
        probe: &mut impl Probe<B>,
    ) -> Result<OftGeneration, PolicyError> {
        let state: Vec<f32> = state.iter().map(|&value| value as f32).collect();
        let input = self.input(images, (prompt, conditioning), &state);
        let mut watch = Stopwatch::start();
        let answer = self.model.answer(&self.backend, &input, probe, |stage| watch.lap(stage))?;
        self.decoded(answer, watch.stages)
    }

    fn input<'a>(
        &self,
        images: &'a [&'a [u8]],
        (prompt, conditioning): (&'a [u32], Option<&'a Conditioning<B>>),
        state: &'a [f32],
    ) -> OftInput<'a, B> {
        let actions = (self.contract.chunk, self.info.action_dim);
        let state = self.state.as_ref().map(|_| state);
        OftInput { images, prompt, state, conditioning, actions }
    }

    /// Whether a trace serves an observation.
    fn serves(
        &mut self,
        traced: &dyn TracedAnswer<B>,
        observation: &Observation,
    ) -> Result<bool, PolicyError> {
        let mut images = Vec::with_capacity(self.contract.cameras.len());
        for camera in self.contract.cameras.clone() {
            images.push(self.preparer.rgb(observation.image(&camera)?)?);
        }
        let images: Vec<&[u8]> = images.iter().map(RgbImage::pixels).collect();
        let state = self.normalize_state(observation.state(self.info.state_dim)?);
        let state: Vec<f32> = state.iter().map(|&value| value as f32).collect();
        let ids =
            self.tokenize(&prompt(&self.checkpoint.base.config.prompt, &observation.instruction))?;
        let input = self.input(&images, (&ids, None), &state);
        Ok(traced.serves(&self.model, &input)?)
    }

    /// [`OftPolicy::generate`] with a trace; `None` without [`OftPolicy::with_traces`].
    fn generate_traced(
        &mut self,
        images: &[&[u8]],
        prompt: &[u32],
        state: &[f64],
    ) -> Option<Result<OftGeneration, PolicyError>> {
        let mut traced = self.traced.take()?;
        let state: Vec<f32> = state.iter().map(|&value| value as f32).collect();
        let input = self.input(images, (prompt, None), &state);
        let mut watch = Stopwatch::start();
        let answered = self.backend.scope(|| traced.answer(&self.backend, &self.model, &input));
        self.traced = Some(traced);
        Some(answered.map_err(PolicyError::from).and_then(|(answer, executed)| {
            watch.lap(if executed { "execute" } else { "capture" });
            self.decoded(answer, watch.stages)
        }))
    }

    /// Actions in the data set's units.
    fn decoded(&self, answer: OftAnswer, stages: Vec<Stage>) -> Result<OftGeneration, PolicyError> {
        let dim = self.info.action_dim;
        let mut generation = OftGeneration { stages, ..OftGeneration::default() };
        match answer {
            OftAnswer::Normalized(values) => {
                for step in values.chunks_exact(dim) {
                    let normalized: Vec<f64> = step.iter().map(|&n| f64::from(n)).collect();
                    // The official code computes half the sum in float32, the rest in float64.
                    let halves: Vec<f64> =
                        step.iter().map(|&n| f64::from(0.5f32 * (n + 1.0))).collect();
                    generation.actions.push(self.unnormalize(&halves, &normalized));
                    generation.normalized.push(normalized);
                }
            }
            OftAnswer::Tokens(ids, margins) => {
                for step in ids.chunks_exact(dim) {
                    let normalized = self.bin_centres(step)?;
                    let halves: Vec<f64> = normalized.iter().map(|n| 0.5 * (n + 1.0)).collect();
                    generation.actions.push(self.unnormalize(&halves, &normalized));
                    generation.normalized.push(normalized);
                }
                if no_preference(&margins) {
                    return Err(PolicyError::NoPreference(margins.len()));
                }
                generation.token_ids = ids;
                generation.logit_margins = margins;
            }
        }
        for (step, action) in generation.actions.iter().enumerate() {
            if let Some(index) = action.iter().position(|value| !value.is_finite()) {
                return Err(OftError::NotFinite { step, index, value: action[index] }.into());
            }
        }
        Ok(generation)
    }

    /// `half` is `(n + 1) / 2`; `passed` is n, for masked-out dimensions.
    fn unnormalize(&self, half: &[f64], passed: &[f64]) -> Vec<f64> {
        let ValueBounds { low, high, mask } = &self.action;
        let bounds = low.iter().zip(high).zip(mask);
        half.iter()
            .zip(passed)
            .zip(bounds)
            .map(|((&half, &n), ((&low, &high), &masked))| match masked {
                true => half * (high - low + RANGE_EPSILON) + low,
                false => n,
            })
            .collect()
    }

    fn bin_centres(&self, ids: &[u32]) -> Result<Vec<f64>, PolicyError> {
        self.codec.normalized(ids).map_err(|error| {
            let text = self.checkpoint.base.tokenizer.token(error.id);
            PolicyError::Codec(CodecError { text, ..error })
        })
    }

    /// The prompt of an instruction, its ids, and its effect on the towers.
    fn prompted(&mut self, instruction: &Instruction) -> Result<Prompted<B>, PolicyError> {
        let known = self.prompted.take().filter(|known| known.instruction == *instruction);
        if let Some(known) = known {
            return Ok(known);
        }
        let text = prompt(&self.checkpoint.base.config.prompt, instruction);
        let ids = self.tokenize(&text)?;
        let Self { backend, model, .. } = self;
        // A trace holds its own, and nothing may be allocated while it exists.
        let conditioning = match self.traced {
            Some(_) => None,
            None => backend.scope(|| model.condition(backend, &ids, &mut NoProbe))?,
        };
        Ok(Prompted { instruction: instruction.clone(), text, ids, conditioning })
    }
}

/// The bounds of one data set, which fit the tensors.
struct Statistics {
    key: String,
    action: ValueBounds,
    /// `None` for a policy without state.
    state: Option<ValueBounds>,
}

fn statistics(
    checkpoint: &OftCheckpoint,
    contract: &OftContract,
    unnorm_key: Option<&str>,
) -> Result<Statistics, PolicyError> {
    let bounds = |of| checkpoint.base.norm_stats.bounds(unnorm_key, of, contract.bounds);
    let (key, action) = bounds(StatsOf::Action)?;
    let dimensions = |what, tensors: usize, statistics: usize| match tensors == statistics {
        true => Ok(()),
        false => Err(OftError::Dimensions { what, tensors, statistics, key: key.to_owned() }),
    };
    if let (Some(head), false) = (&checkpoint.head, contract.discrete) {
        dimensions("action", head.action_dim, action.low.len())?;
    }
    let state = match (&checkpoint.proprio, contract.state) {
        (Some(proprio), true) => {
            let (_, state) = bounds(StatsOf::Proprio)?;
            dimensions("state", proprio.state_dim, state.low.len())?;
            Some(state)
        }
        _ => None,
    };
    Ok(Statistics { key: key.to_owned(), action, state })
}

/// The tokens of a checkpoint and their bins.
fn codec(checkpoint: &OftCheckpoint, action: &ValueBounds) -> ActionCodec {
    let ValueBounds { low, high, mask } = action.clone();
    ActionCodec::new(&checkpoint.base.config, ActionStats { q01: low, q99: high, mask })
}

/// 1st and 99th percentile, or extremes, of each normalised dimension.
fn envelope(action: &ValueBounds) -> Vec<Option<(f64, f64)>> {
    let bounds = action.low.iter().zip(&action.high).zip(&action.mask);
    bounds.map(|((&low, &high), &masked)| masked.then_some((low, high))).collect()
}

/// Whether the folder has what the contract names and nothing that it leaves unused.
fn check_folder(checkpoint: &OftCheckpoint, contract: &OftContract) -> Result<(), OftError> {
    if let (Some(head), true) = (&checkpoint.head, contract.discrete) {
        return Err(OftError::UnusedHead(head.component.path().display().to_string()));
    }
    if checkpoint.proprio.is_some() && !contract.state {
        return Err(OftError::State { wanted: false });
    }
    Ok(())
}

/// Whether the contract is possible with this checkpoint.
fn check_contract(checkpoint: &OftCheckpoint, contract: &OftContract) -> Result<(), PolicyError> {
    let OftContract { cameras, chunk, .. } = contract;
    if !(1..=MAX_CHUNK).contains(chunk) {
        return Err(OftError::Chunk(*chunk).into());
    }
    let twice = cameras.iter().enumerate().any(|(at, name)| cameras[..at].contains(name));
    if !(1..=MAX_CAMERAS).contains(&cameras.len()) || twice {
        let names = cameras.iter().map(|name| name.to_string()).collect();
        return Err(OftError::Cameras(names).into());
    }
    let config = &checkpoint.base.config;
    if cameras.len() > 1 && config.towers.len() < 2 {
        return Err(OftError::OneTower(cameras.len()).into());
    }
    let size = Size::square(config.image_size());
    contract.preparation.require_bytes(size).map_err(OftError::from)?;
    if !contract.discrete && checkpoint.head.is_none() {
        return Err(OftError::NoHead.into());
    }
    if contract.state && checkpoint.proprio.is_none() {
        return Err(OftError::State { wanted: true }.into());
    }
    Ok(())
}

impl<B: Backend> Policy for OftPolicy<B> {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let started = Instant::now();
        let mut prepared = Vec::with_capacity(self.contract.cameras.len());
        for camera in self.contract.cameras.clone() {
            prepared.push(self.preparer.rgb(observation.image(&camera)?)?);
        }
        let state = self.normalize_state(observation.state(self.info.state_dim)?);
        let prompted = self.prompted(&observation.instruction)?;
        let preprocess =
            Stage { name: "preprocess", milliseconds: started.elapsed().as_secs_f64() * 1e3 };
        let images: Vec<&[u8]> = prepared.iter().map(RgbImage::pixels).collect();
        let generation = match self.generate_traced(&images, &prompted.ids, &state) {
            Some(generation) => generation?,
            None => self.backend.scope(|| {
                let prompt = (prompted.ids.as_slice(), prompted.conditioning.as_ref());
                self.generate_conditioned(&images, prompt, &state, &mut NoProbe)
            })?,
        };
        let (text, ids) = (prompted.text.clone(), prompted.ids.clone());
        self.prompted = Some(prompted);
        Ok(Decision {
            prompt: text,
            input_ids: ids,
            token_ids: generation.token_ids,
            normalized: generation.normalized,
            actions: generation.actions,
            logit_margins: generation.logit_margins,
            stages: std::iter::once(preprocess).chain(generation.stages).collect(),
            ..Decision::default()
        })
    }

    fn prepare_for(&mut self, observation: &Observation) -> Result<bool, PolicyError> {
        let Some(traced) = self.traced.take() else { return Ok(false) };
        let prepared = self.serves(traced.as_ref(), observation);
        self.traced = Some(traced);
        if prepared? {
            return Ok(false);
        }
        self.act(observation).map(|_| true)
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}
