//! OpenVLA as a policy: preprocessing, prompt, greedy decoding, action codec.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use super::{
    ActionCodec, CodecError, Decision, Instruction, Policy, PolicyError, PolicyInfo, Stage, prompt,
};
use crate::backend::{Backend, Choice};
use crate::checkpoint::{Checkpoint, WeightFiles};
use crate::models::action::{Acted, ActionShape, RecordedAction};
use crate::models::openvla::OpenVla;
use crate::models::probe::Blind;
use crate::models::{Probe, TensorSource};
use crate::observation::{Resizer, RgbImage};

/// Over which tokens the greedy choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DecodeMode {
    /// The whole vocabulary, as the official code. A token that stands for no action is an error.
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

/// Choices at loading.
#[derive(Clone, Debug, Default)]
pub struct PolicyOptions {
    /// Which statistics; needed unless the checkpoint has exactly one set.
    pub unnorm_key: Option<String>,
    /// Over which tokens the choice is made.
    pub decode: DecodeMode,
    /// Name of the precision policy, for reports.
    pub precision: String,
    /// Run the last action's tokens along with the next prompt and keep those that are right: the
    /// same tokens in fewer steps, as most actions resemble the one before.
    pub draft: bool,
    /// Do every operation from the host, also where a device could replay a recording.
    pub eager: bool,
}

/// What drafting has saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Tokens that were guessed.
    pub offered: u64,
    /// Tokens that were right, each of which saved a decode step.
    pub accepted: u64,
}

/// Generated tokens and how they came about.
#[derive(Clone, Debug)]
pub struct Generation {
    /// One id per action dimension.
    pub token_ids: Vec<u32>,
    /// Top-1 minus top-2 logit of each; empty when the device does not say.
    pub margins: Vec<f32>,
    /// Tokens that were guessed.
    pub offered: usize,
    /// Tokens taken from the draft.
    pub accepted: usize,
    /// Where the time went.
    pub stages: Vec<Stage>,
}

/// OpenVLA on a backend.
pub struct OpenVlaPolicy<B: Backend> {
    backend: B,
    model: OpenVla<B>,
    checkpoint: Checkpoint,
    codec: ActionCodec,
    resizer: Resizer,
    info: PolicyInfo,
    /// The last instruction with its prompt and ids: it rarely changes between images.
    prompted: Option<(Instruction, String, Vec<u32>)>,
    /// Generation ends at this token.
    end_of_sequence: Option<u32>,
    /// Whether the last answer is tried as the next.
    draft: bool,
    last: Vec<u32>,
    counts: DraftCounts,
    /// Whether actions are recorded and replayed.
    replays: bool,
    /// Where they are, for prompts of one length.
    place: Option<RecordedAction<B>>,
}

/// The network of a checkpoint, with the rows of the head that decoding chooses among.
fn load_model<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    codec: &ActionCodec,
    source: &(dyn TensorSource + Send + Sync),
    decode: DecodeMode,
) -> Result<OpenVla<B>, PolicyError> {
    let Checkpoint { config, preprocessor, .. } = checkpoint;
    let head_ids = match decode {
        DecodeMode::Full => 0..config.llama.vocab_size,
        DecodeMode::Actions => codec.ids().start as usize..codec.ids().end as usize,
    };
    Ok(backend.scope(|| OpenVla::load(backend, source, config, preprocessor, head_ids))?)
}

/// Measures consecutive stages.
struct Stopwatch {
    last: Instant,
    stages: Vec<Stage>,
}

impl Stopwatch {
    fn start() -> Self {
        Self { last: Instant::now(), stages: Vec::with_capacity(5) }
    }

    fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages
            .push(Stage { name, milliseconds: now.duration_since(self.last).as_secs_f64() * 1e3 });
        self.last = now;
    }
}

impl<B: Backend> OpenVlaPolicy<B> {
    /// Loads a checkpoint folder onto a backend.
    ///
    /// # Errors
    /// When the folder is unfit, in one line that names the file, the value and the remedy.
    pub fn open(backend: B, folder: &Path, options: &PolicyOptions) -> Result<Self, PolicyError> {
        let checkpoint = Checkpoint::open(folder)?;
        let (key, stats) = checkpoint.norm_stats.select(options.unnorm_key.as_deref())?;
        let (key, codec) = (key.to_owned(), ActionCodec::new(&checkpoint.config, stats.clone()));
        let model = load_model(&backend, &checkpoint, &codec, &checkpoint.weights, options.decode)?;
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
            device: backend.name(),
            precision: options.precision.clone(),
            envelope,
            action_tokens: Some(codec.ids()),
        };
        let resizer = Resizer::new(checkpoint.config.image_size())?;
        let end_of_sequence = checkpoint.tokenizer.id("</s>");
        Ok(Self {
            replays: backend.records() && !options.eager,
            place: None,
            backend,
            model,
            checkpoint,
            codec,
            resizer,
            info,
            prompted: None,
            end_of_sequence,
            draft: options.draft,
            last: Vec::new(),
            counts: DraftCounts::default(),
        })
    }

    /// Loads the network again, from tensors made of the checkpoint's: for tests of what broken
    /// weights lead to.
    ///
    /// # Errors
    /// As [`OpenVlaPolicy::open`].
    pub fn reload<'a>(
        &'a mut self,
        tensors: impl FnOnce(&'a WeightFiles) -> Box<dyn TensorSource + Send + Sync + 'a>,
        decode: DecodeMode,
    ) -> Result<(), PolicyError> {
        self.place = None;
        let source = tensors(&self.checkpoint.weights);
        self.model = load_model(&self.backend, &self.checkpoint, &self.codec, &*source, decode)?;
        Ok(())
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

    /// The token at which generation ends.
    #[must_use]
    pub fn end_of_sequence(&self) -> Option<u32> {
        self.end_of_sequence
    }

    /// Generation ends at this token from now on; for tests of early ends.
    pub fn set_end_of_sequence(&mut self, id: Option<u32>) {
        self.end_of_sequence = id;
    }

    /// The image as the model sees it, `side * side * 3` bytes.
    pub fn resize(&mut self, image: &RgbImage) -> Vec<u8> {
        self.resizer.resize(image)
    }

    /// Token ids of a prompt as fed to the model.
    ///
    /// # Errors
    /// When the text is too long for the tokenizer.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, PolicyError> {
        let mut ids = self.checkpoint.tokenizer.encode(prompt)?;
        // The official code appends the empty word when the prompt does not end with it: it stood
        // there in training.
        let empty_word = self.checkpoint.tokenizer.empty_word();
        if ids.last().copied() != empty_word {
            ids.extend(empty_word);
        }
        Ok(ids)
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
        self.generate_drafted(rgb, input_ids, &[], probe)
    }

    /// Like [`OpenVlaPolicy::generate`], with a guess of the answer: all but its last token are run
    /// with the prompt, and the longest part that greedy decoding would have chosen is kept. The
    /// answer is the greedy one whatever the guess.
    ///
    /// # Errors
    /// As [`OpenVlaPolicy::generate`].
    pub fn generate_drafted(
        &self,
        rgb: &[u8],
        input_ids: &[u32],
        draft: &[u32],
        probe: &mut (impl Probe<B> + Send),
    ) -> Result<Generation, PolicyError> {
        // The last token is chosen but never fed, so there is nothing to guess after it.
        let draft = &draft[..draft.len().min(self.codec.action_dim() - 1)];
        self.backend.scope(|| self.generate_in_scope(rgb, (input_ids, draft), probe))
    }

    /// Generates an action's tokens without the host in between, on a device that records; with a
    /// guess of the answer when the policy drafts. The first action of a prompt's length is done
    /// operation by operation and recorded afterwards.
    ///
    /// # Errors
    /// As [`OpenVlaPolicy::generate`].
    pub fn generate_recorded(
        &mut self,
        rgb: &[u8],
        input_ids: &[u32],
        guess: &[u32],
    ) -> Result<Generation, PolicyError> {
        let mut watch = Stopwatch::start();
        let Self { backend, model, codec, place, draft, .. } = &mut *self;
        // An action that fails takes its recordings with it.
        let mut here = match place.take().filter(|place| place.takes(input_ids.len())) {
            Some(here) => here,
            // Only after the last recording was given back: what is allocated while one lives may
            // lie where it writes.
            None => {
                let shape = ActionShape {
                    prompt: input_ids.len(),
                    tokens: codec.action_dim(),
                    drafts: *draft,
                    end_id: codec.ids().end,
                    centres: codec.centres().iter().map(|&centre| centre as f32).collect(),
                };
                backend.scope(|| model.place_for_action(backend, (rgb, input_ids), shape))?
            }
        };
        let stage = if here.is_recorded() { "replay" } else { "record" };
        let acted = backend.scope(|| model.act(backend, (rgb, input_ids, guess), &mut here))?;
        let Acted { choices, offered, accepted } = acted;
        self.place = Some(here);
        watch.lap(stage);
        let token_ids: Vec<u32> = choices.iter().map(|choice| choice.id).collect();
        for (index, &id) in token_ids.iter().enumerate() {
            self.accept(id, index)?;
        }
        let margins: Option<Vec<f32>> =
            choices.iter().map(|&Choice { margin, .. }| margin).collect();
        Ok(Generation {
            token_ids,
            margins: margins.unwrap_or_default(),
            offered,
            accepted,
            stages: watch.stages,
        })
    }

    fn generate_in_scope(
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
        // The last token is chosen but never fed, so it needs no place.
        let (mut sequence, logits) =
            model.prefill_drafted(backend, &image, (input_ids, draft), dimensions - 1, probe)?;
        let (mut token_ids, mut margins) =
            (Vec::with_capacity(dimensions), Vec::with_capacity(dimensions));
        // Row i of the first logits is valid while the i drafted tokens before it were chosen.
        let choices = model.choices(backend, &logits)?;
        let right =
            choices.iter().zip(draft).take_while(|((id, _), drafted)| id == *drafted).count();
        sequence.accept(right);
        watch.lap("prefill");
        let mut ready: VecDeque<_> = choices.into_iter().take(right + 1).collect();
        loop {
            let (id, top) = match (ready.pop_front(), token_ids.last()) {
                (Some(choice), _) => choice,
                (None, Some(&last)) => {
                    let logits = model.step(backend, &mut sequence, last, probe)?;
                    model.choose(backend, &logits)?
                }
                (None, None) => return Err(PolicyError::EndedEarly { got: 0, wanted: dimensions }),
            };
            token_ids.push(id);
            margins.push(top.margin());
            self.accept(id, token_ids.len() - 1)?;
            if token_ids.len() == dimensions {
                break;
            }
        }
        watch.lap("decode");
        Ok(Generation {
            token_ids,
            margins,
            offered: draft.len(),
            accepted: right,
            stages: watch.stages,
        })
    }

    /// Refuses an early end, and a token that stands for no action, with its text.
    fn accept(&self, id: u32, dimension: usize) -> Result<(), PolicyError> {
        let wanted = self.codec.action_dim();
        if self.end_of_sequence == Some(id) && dimension + 1 < wanted {
            return Err(PolicyError::EndedEarly { got: dimension, wanted });
        }
        self.codec.bin(id, dimension).map(drop).map_err(|error| {
            PolicyError::Codec(CodecError { text: self.checkpoint.tokenizer.token(id), ..error })
        })
    }
}

impl<B: Backend> Policy for OpenVlaPolicy<B> {
    fn act(
        &mut self,
        image: &RgbImage,
        instruction: &Instruction,
    ) -> Result<Decision, PolicyError> {
        let started = Instant::now();
        let rgb = self.resizer.resize(image);
        let (prompt_text, input_ids) = match &self.prompted {
            Some((known, text, ids)) if known == instruction => (text.clone(), ids.clone()),
            _ => {
                let text = prompt(&self.checkpoint.config.prompt, instruction);
                let ids = self.tokenize(&text)?;
                self.prompted = Some((instruction.clone(), text.clone(), ids.clone()));
                (text, ids)
            }
        };
        let preprocess =
            Stage { name: "preprocess", milliseconds: started.elapsed().as_secs_f64() * 1e3 };
        let guess = if self.draft { std::mem::take(&mut self.last) } else { Vec::new() };
        let generation = if self.replays {
            self.generate_recorded(&rgb, &input_ids, &guess)?
        } else {
            self.generate_drafted(&rgb, &input_ids, &guess, &mut Blind)?
        };
        self.counts.offered += generation.offered as u64;
        self.counts.accepted += generation.accepted as u64;
        if self.draft {
            self.last.clone_from(&generation.token_ids);
        }
        let normalized = self.codec.normalized(&generation.token_ids)?;
        let action = self.codec.unnormalize(&normalized);
        Ok(Decision {
            prompt: prompt_text,
            input_ids,
            token_ids: generation.token_ids,
            normalized,
            action,
            margins: generation.margins,
            stages: std::iter::once(preprocess).chain(generation.stages).collect(),
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }

    fn draft_counts(&self) -> DraftCounts {
        self.counts
    }
}
