//! A whole pi0 or pi0.5 folder, opened and cross-checked.

use std::path::{Path, PathBuf};

use super::config::{Pi0Config, Pi0Kind};
use super::expected::{
    EMBED_TOKENS, LM_HEAD, ONLY_PI0, ONLY_PI05, check_complete, expected_tensors, optional_tensors,
};
use super::openpi;
use super::processors::Processors;
use super::source::{Pi0Source, Resize, StateTokens};
use super::statistics::read_norm_stats;
use crate::checkpoint::config::{MAX_CONFIG_BYTES, read_config};
use crate::checkpoint::constant::refuse_constant_weights;
use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::expected::ExpectedTensor;
use crate::checkpoint::inventory::Inventory;
use crate::checkpoint::location::no_folder;
use crate::checkpoint::read::is_listed;
use crate::checkpoint::siblings::refuse_adapter_file;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::checkpoint::weights::WeightFiles;

/// Everything in a checkpoint folder. Every needed tensor is present with the right shape, and no
/// other.
#[derive(Clone, Debug)]
pub struct Pi0Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// Dimensions and constants.
    pub config: Pi0Config,
    /// What happens around the model.
    pub processors: Processors,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The mapped weights.
    pub weights: WeightFiles,
    /// Prefix of every tensor: `model`, or nothing in openpi's files.
    pub prefix: &'static str,
    /// Name of the token embedding below the prefix, and its rows.
    pub embedding: (&'static str, usize),
    /// Rows of the tower's position embedding.
    pub positions: usize,
    /// Resizing.
    pub resize: Resize,
    /// State in the prompt.
    pub state_tokens: StateTokens,
    /// Whether the folder is LeRobot's; otherwise openpi's converted form.
    pub lerobot: bool,
}

const POSITION_EMBEDDING: &str = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.\
    embeddings.position_embedding.weight";

impl Pi0Checkpoint {
    /// Opens the folder and checks its parts against each other. Reads the small files and the
    /// shards' headers, no weights.
    ///
    /// # Errors
    /// The first missing, broken or inconsistent part.
    pub fn open(source: &Pi0Source) -> Result<Self, CheckpointError> {
        let checkpoint = Self::open_unchecked(source)?;
        let [expected, optional] = checkpoint.tensors();
        check_complete(&checkpoint.weights, &expected, &optional)?;
        refuse_constant_weights(&expected, |name| checkpoint.weights.tensor(name).ok())?;
        Ok(checkpoint)
    }

    /// Like [`Pi0Checkpoint::open`] without comparing all tensors with the configuration, so that
    /// `inspect` can list what is missing.
    ///
    /// # Errors
    /// The first missing, broken or inconsistent file.
    pub fn open_unchecked(source: &Pi0Source) -> Result<Self, CheckpointError> {
        let folder = source.folder.as_path();
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        refuse_adapter_file(folder)?;
        let path = folder.join("config.json");
        let bytes = read_config(&path)?;
        debug_assert!(bytes.len() as u64 <= MAX_CONFIG_BYTES);
        let weights = WeightFiles::open(folder)?;
        let prefix = prefix_of(&weights);
        let found = kind_of_weights(&weights, prefix)?;
        let lerobot = !openpi::is_converted(&path, &bytes)?;
        let (config, mut processors, state_tokens) = if lerobot {
            let config = Pi0Config::from_json(&path, &bytes)?;
            check_kind(&path, config.kind, found)?;
            let processors = Processors::open(folder, &config)?;
            if source.actions.as_ref().is_some_and(|given| *given != processors.mapping) {
                let value = format!("{:?}", processors.mapping);
                let remedy = "the folder states it itself; leave the option out";
                return Err(CheckpointError::field(&path, "actions", value, remedy));
            }
            (config, processors, StateTokens::Exact)
        } else {
            openpi::read(source, &path, &bytes, found)?
        };
        if let Some(file) = &source.statistics {
            let widths = [Some(config.state.1), Some(config.action.1)];
            // The action's mode counts for both: openpi normalises both alike.
            let [state, action] = read_norm_stats(file, processors.modes[1], widths)?;
            (processors.state, processors.action) = (Some(state), Some(action));
        }
        let embedding = embedding(&weights, prefix, &config)?;
        let positions =
            weights.tensor(&prefixed(prefix, POSITION_EMBEDDING))?.shape().first().copied();
        let tokenizer = open_tokenizer(source, &processors)?;
        tokenizer.check_fits_gemma(embedding.1)?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
            processors,
            tokenizer,
            weights,
            prefix,
            embedding,
            positions: positions.unwrap_or(0),
            resize: source.resize.unwrap_or(if lerobot {
                Resize::TorchBilinearPad
            } else {
                Resize::PilBilinearPad
            }),
            state_tokens: source.state_tokens.unwrap_or(state_tokens),
            lerobot,
        })
    }

    /// Tensors that must be there, and heads and embedding, of which some may be.
    fn tensors(&self) -> [Vec<ExpectedTensor>; 2] {
        let prefix = if self.prefix.is_empty() { "" } else { "model." };
        [
            expected_tensors(&self.config, prefix, self.positions),
            optional_tensors(&self.config, prefix, self.embedding.1),
        ]
    }

    /// The figures of `openvla inspect`.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let [mut expected, optional] = self.tensors();
        let embedding = prefixed(self.prefix, self.embedding.0);
        expected.extend(optional.into_iter().map(|tensor| {
            let used = tensor.name == embedding;
            ExpectedTensor { used, ..tensor }
        }));
        Inventory::new(&self.weights, &expected)
    }
}

fn prefixed(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Which model a folder's tensors are.
pub(in crate::checkpoint) fn kind_of(folder: &Path) -> Result<Pi0Kind, CheckpointError> {
    let weights = WeightFiles::open(folder)?;
    kind_of_weights(&weights, prefix_of(&weights))
}

/// Prefix of the tensors' names.
fn prefix_of(weights: &WeightFiles) -> &'static str {
    if weights.names().any(|name| name.starts_with("model.")) { "model" } else { "" }
}

/// Which model the tensors are.
fn kind_of_weights(weights: &WeightFiles, prefix: &str) -> Result<Pi0Kind, CheckpointError> {
    let has = |name| weights.contains(&prefixed(prefix, name));
    match (has(ONLY_PI0), has(ONLY_PI05)) {
        (true, false) => Ok(Pi0Kind::Pi0),
        (false, true) => Ok(Pi0Kind::Pi05),
        (both, _) => Err(CheckpointError::field(
            weights.folder(),
            "weights",
            if both { "both of" } else { "neither of" }.to_owned()
                + &format!(" {} and {}", quoted(ONLY_PI0), quoted(ONLY_PI05)),
            "the first makes it pi0, the second pi0.5; pi0-FAST and folders from before LeRobot \
            0.4 have other tensors and are not read",
        )),
    }
}

fn check_kind(path: &Path, stated: Pi0Kind, found: Pi0Kind) -> Result<(), CheckpointError> {
    if stated == found {
        return Ok(());
    }
    let remedy = format!(
        "the weights are those of {found}; LeRobot would load them with a warning and leave the \
        rest random; correct the type or take other weights"
    );
    Err(CheckpointError::field(path, "type", stated, remedy))
}

/// Name and rows of the token embedding: `embed_tokens` where it is stored, otherwise the head,
/// which is tied to it.
fn embedding(
    weights: &WeightFiles,
    prefix: &str,
    config: &Pi0Config,
) -> Result<(&'static str, usize), CheckpointError> {
    let name = [EMBED_TOKENS, LM_HEAD]
        .into_iter()
        .find(|name| weights.contains(&prefixed(prefix, name)))
        .ok_or_else(|| CheckpointError::MissingTensor {
            path: weights.folder().to_owned(),
            tensor: prefixed(prefix, EMBED_TOKENS),
            hint: "neither the embedding nor lm_head, to which it is tied, is in the files (some \
                early pi0.5 files); take the current revision",
        })?;
    let tensor = weights.tensor(&prefixed(prefix, name))?;
    let rows = tensor.shape().first().copied().unwrap_or(0);
    let rows = config.vocab_size.unwrap_or(rows);
    tensor.with_shape(&[rows, config.vlm.width])?;
    Ok((name, rows))
}

const NO_TOKENIZER: &str = "put the tokenizer beside the weights or give --tokenizer: \
    google/paligemma-3b-pt-224 has it as tokenizer.json (behind a licence), and \
    https://storage.googleapis.com/big_vision/paligemma_tokenizer.model is the same model, public";

/// Names under which tokenizers are stored.
const TOKENIZER_FILES: [&str; 3] =
    ["tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model"];

fn open_tokenizer(
    source: &Pi0Source,
    processors: &Processors,
) -> Result<Tokenizer, CheckpointError> {
    if let Some(given) = &source.tokenizer
        && !given.is_dir()
    {
        return Tokenizer::open_file(given, NO_TOKENIZER);
    }
    let folder = source.folder.as_path();
    let mut folders = Vec::new();
    match &source.tokenizer {
        Some(given) => folders.push(given.clone()),
        None => {
            folders.extend(processors.tokenizer.as_ref().map(|name| folder.join(name)));
            let beside = match folder.parent() {
                Some(parent) if folder.file_name().is_some() => parent.to_owned(),
                _ => folder.join(".."),
            };
            let own = folder.to_owned();
            folders.extend([own.clone(), own.join("tokenizer"), beside.join("tokenizer"), beside]);
        }
    }
    let files = folders.iter().flat_map(|folder| TOKENIZER_FILES.map(|name| folder.join(name)));
    let found = files.into_iter().find(|file| is_listed(file));
    let missing = || folders.first().cloned().unwrap_or_default().join(TOKENIZER_FILES[0]);
    Tokenizer::open_file(&found.unwrap_or_else(missing), NO_TOKENIZER)
}
