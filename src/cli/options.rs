//! Option groups that several commands share: which checkpoint, which device, how to decode.

use std::path::{Path, PathBuf};

use clap::Args;

use vla_config::{PolicyFile, expand_path, named_on_the_hub};
use vla_inference::backend::tt::Kernels;
use vla_inference::checkpoint::pi0::{ActionMapping, Pi0Source, Resize, StateTokens};
use vla_inference::checkpoint::{CheckpointError, locate};
use vla_inference::policy::{
    ContinuationMode, DecodeMode, Device, FlowOptions, MeshChoices, Policy, PolicyLoadError,
    PolicyOptions, PolicySource, Precision, load_policy,
};

use crate::preparation::{self, PreparationFileError};

/// What is given as the checkpoint is no checkpoint folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointPathError {
    /// Neither the option nor the environment variable names a checkpoint.
    #[error("no checkpoint given; pass --checkpoint DIR or set OPENVLA_WEIGHTS")]
    None,
    /// A text that is no path.
    #[error("checkpoint: {0}")]
    Text(String),
    /// A path that leads to something else.
    #[error(transparent)]
    Path(#[from] CheckpointError),
}

/// Why a policy is not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The policy file.
    #[error(transparent)]
    PolicyFile(#[from] PreparationFileError),
    /// The device or the checkpoint.
    #[error(transparent)]
    Policy(#[from] PolicyLoadError),
}

impl From<LoadError> for vla_eval::EvalError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::PolicyFile(error) => Self::Usage(error.to_string()),
            LoadError::Policy(error) => Self::Load(error),
        }
    }
}

/// The checkpoint folder.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckpointArgs {
    /// Checkpoint folder in Hugging Face's layout
    #[arg(long, env = "OPENVLA_WEIGHTS", value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// The device a policy runs on and its number formats.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeviceArgs {
    /// cpu, or sim: or tt: before n150, n300, t3k (Wormhole), p150, p300, quietbox, loudbox
    /// (Blackhole), such as sim:n300
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
    /// On the CPU f32 (default), bf16, int8 or a YAML file; on a mesh bf16, mixed (default), bfp8
    /// or a YAML file
    #[arg(long)]
    pub(crate) precision: Option<Precision>,
    /// Worker threads of the CPU backend; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// On a mesh, for patch extraction and argmax: custom (our kernels) or ttnn (TT-NN's
    /// operations)
    #[arg(long, default_value = "custom")]
    pub(crate) kernels: Kernels,
    /// On a mesh: keep packed weights in this folder; the next start with the same checkpoint, mesh
    /// and precision is faster
    #[arg(long, value_name = "DIR")]
    pub(crate) weight_cache: Option<PathBuf>,
}

/// The policy file.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PolicyFileArgs {
    /// What the checkpoint was trained with, image preparation above all: a file as in
    /// config/policies/. Without it, images are prepared as the checkpoint's own processor does;
    /// checkpoints that are known to need more are then refused
    #[arg(long, value_name = "FILE")]
    pub(crate) policy_file: Option<PathBuf>,
}

impl PolicyFileArgs {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// When the file is invalid.
    pub(crate) fn load(&self) -> Result<Option<PolicyFile>, LoadError> {
        Ok(preparation::load(self.policy_file.as_deref())?)
    }
}

/// How action tokens are generated and un-normalized.
#[derive(Args, Clone, Debug)]
pub(crate) struct DecodeArgs {
    /// Statistics for un-normalization; required unless the checkpoint has exactly one set
    #[arg(long, value_name = "K")]
    pub(crate) unnorm_key: Option<String>,
    /// full: greedy over the whole vocabulary, as the official code; actions: over the action
    /// tokens only, required for a checkpoint with random weights
    #[arg(long, default_value = "full")]
    pub(crate) decode: DecodeMode,
    /// Speculative decoding with the previous action's tokens as the draft: the same tokens in
    /// fewer steps
    #[arg(long)]
    pub(crate) draft: bool,
    /// On a mesh: enqueue every operation from the host instead of executing a captured trace
    #[arg(long)]
    pub(crate) eager: bool,
    #[command(flatten)]
    pub(crate) flow: FlowArgs,
}

/// What the folders of pi0 and pi0.5 do not say.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "pi0 and pi0.5")]
pub(crate) struct FolderArgs {
    /// tokenizer.json, a SentencePiece .model, or their folder; searched in the checkpoint's folder
    /// and beside it if not given. PaliGemma's is needed: google/paligemma-3b-pt-224 has it
    /// (behind a licence), big_vision's paligemma_tokenizer.model is the same
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// norm_stats.json as openpi writes it, in place of the checkpoint's statistics; a base
    /// checkpoint has none
    #[arg(long, value_name = "FILE")]
    pub(crate) norm_stats: Option<PathBuf>,
    /// torch_bilinear_pad (LeRobot) or pil_bilinear_pad (openpi); default as the folder's
    #[arg(long)]
    pub(crate) resize: Option<Resize>,
    /// The state in pi0.5's prompt: exact, padded (LeRobot before 0.5) or none (openpi's
    /// pi05_libero); openpi's folders do not say
    #[arg(long)]
    pub(crate) state_tokens: Option<StateTokens>,
    /// Steps of a chunk, for openpi's folders that do not say
    #[arg(long, value_name = "N")]
    pub(crate) horizon: Option<usize>,
    /// absolute, or relative:6,-1 (six dimensions relative to the state, one not); openpi's folders
    /// do not say
    #[arg(long, value_name = "MAPPING")]
    pub(crate) actions: Option<ActionMapping>,
}

impl FolderArgs {
    /// The folder with these answers.
    pub(crate) fn source(&self, folder: &Path) -> Pi0Source {
        Pi0Source {
            folder: folder.to_owned(),
            tokenizer: self.tokenizer.clone(),
            statistics: self.norm_stats.clone(),
            resize: self.resize,
            state_tokens: self.state_tokens,
            horizon: self.horizon,
            actions: self.actions.clone(),
        }
    }
}

/// How pi0 and pi0.5 generate a chunk.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "pi0 and pi0.5")]
pub(crate) struct FlowArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// A camera of the checkpoint that the robot does not have; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) absent_camera: Vec<String>,
    /// Euler steps; default the checkpoint's (10)
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Seed of the first chunk's noise; drawn if not given
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Real-time chunking: none, guided (any checkpoint) or trained (checkpoints trained for it)
    #[arg(long, default_value = "none", value_name = "MODE")]
    pub(crate) rtc: ContinuationMode,
}

impl From<FlowArgs> for FlowOptions {
    fn from(args: FlowArgs) -> Self {
        Self {
            tokenizer: args.folder.tokenizer,
            statistics: args.folder.norm_stats,
            resize: args.folder.resize,
            state_tokens: args.folder.state_tokens,
            horizon: args.folder.horizon,
            actions: args.folder.actions,
            absent_cameras: args.absent_camera,
            steps: args.steps,
            seed: args.seed,
            continuation: args.rtc,
        }
    }
}

/// The checkpoint folder that a path means.
fn located(given: &Path) -> Result<PathBuf, CheckpointPathError> {
    // A path that is no Unicode has nothing to expand.
    let Some(text) = given.to_str() else { return Ok(locate(given)?) };
    let path = expand_path(text, std::env::var("HOME").ok().as_deref())
        .map_err(|reason| CheckpointPathError::Text(format!("'{text}' {reason}")))?;
    if let Some(reason) = named_on_the_hub(&path) {
        return Err(CheckpointPathError::Text(reason));
    }
    Ok(locate(Path::new(&path))?)
}

impl CheckpointArgs {
    /// The folder, by the rules of the node's parameter `checkpoint`.
    ///
    /// # Errors
    /// When neither the option nor the environment variable names one, or what is named is none.
    pub(crate) fn folder(&self) -> Result<PathBuf, CheckpointPathError> {
        let given = self.checkpoint.as_deref().filter(|path| !path.as_os_str().is_empty());
        located(given.ok_or(CheckpointPathError::None)?)
    }

    /// The folder, or `kit` when none is named.
    ///
    /// # Errors
    /// When what is named is no checkpoint folder.
    pub(crate) fn folder_or(&self, kit: PathBuf) -> Result<PathBuf, CheckpointPathError> {
        self.checkpoint.as_deref().map_or(Ok(kit), located)
    }
}

impl DeviceArgs {
    /// The options that only a mesh has.
    pub(crate) fn mesh(&self) -> MeshChoices {
        MeshChoices { kernels: self.kernels, weight_cache: self.weight_cache.clone() }
    }

    /// Loads the policy of the checkpoint `folder` on this device.
    ///
    /// # Errors
    /// When the policy file is invalid, the device cannot be opened or the checkpoint is unfit.
    pub(crate) fn load(
        &self,
        folder: &Path,
        decode: DecodeArgs,
        policy_file: &PolicyFileArgs,
    ) -> Result<Box<dyn Policy>, LoadError> {
        self.load_with(folder, decode, policy_file.load()?.as_ref())
    }

    /// [`DeviceArgs::load`] with a policy file that has been read.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn load_with(
        &self,
        folder: &Path,
        decode: DecodeArgs,
        policy_file: Option<&PolicyFile>,
    ) -> Result<Box<dyn Policy>, LoadError> {
        let DecodeArgs { unnorm_key, decode, draft, eager, flow } = decode;
        let given = PolicyOptions {
            unnorm_key,
            decode,
            draft,
            eager,
            flow: flow.into(),
            ..Default::default()
        };
        let options = preparation::options(policy_file, given)?;
        let policy = load_policy(PolicySource {
            checkpoint: folder,
            device: self.device,
            precision: self.precision.as_ref(),
            threads: self.threads,
            mesh: self.mesh(),
            options,
        })?;
        Ok(policy)
    }
}
