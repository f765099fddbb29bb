//! Errors of a checkpoint folder, one line each: the file, the value, the remedy.

use std::fmt;
use std::path::{Path, PathBuf};

use super::foreign::{Foreign, recognise};
use super::header::{HeaderProblem, StoredType};
use super::torch::TorchProblem;
use crate::text::one_line;

/// A checkpoint folder that cannot be used as it is.
///
/// `Display` is always one line. It names the file, the offending value and what to do about it;
/// text from the files is escaped and shortened first, so a hostile file can neither forge nor
/// flood a log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A path or a file that is recognisably something else than what it should be.
    #[error("{}: {what}: {remedy}", show(path))]
    Recognised {
        /// The path.
        path: PathBuf,
        /// What it is, as "is a Git LFS pointer".
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A file that the checkpoint needs does not exist.
    #[error("{}: missing file: {remedy}", show(path))]
    Missing {
        /// The file.
        path: PathBuf,
        /// Where to get it.
        remedy: &'static str,
    },
    /// The operating system refused to open, read or map a file.
    #[error(
        "{}: cannot {action}: {detail}: check that it is a readable regular file on a working disk",
        show(path)
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The operating system's message.
        detail: String,
    },
    /// A file larger than the bound of its kind.
    #[error(
        "{}: {bytes} bytes, more than the {limit} bytes allowed for this file: download it again, \
        it is not the file that its name promises",
        show(path)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// A JSON file that is not JSON, or whose fields have the wrong types.
    #[error("{}: {detail}: restore the file from the original checkpoint", show(path))]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        detail: String,
    },
    /// A safetensors file with an invalid header.
    #[error("{}: {problem}: the file is truncated or damaged, download it again", show(path))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: HeaderProblem,
    },
    /// A `.pt` file that is damaged or holds anything but tensors.
    #[error("{}: {problem}", show(path))]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: TorchProblem,
    },
    /// `model.safetensors.index.json` and the shards disagree, or the index is invalid.
    #[error("{}: {detail}: {remedy}", show(path))]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong, with the tensor and the shard.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A tensor that the model needs is in no shard.
    #[error("{}: tensor {} is missing: {hint}", show(path), quoted(tensor))]
    MissingTensor {
        /// The folder or file searched.
        path: PathBuf,
        /// The name looked for.
        tensor: String,
        /// What to check.
        hint: &'static str,
    },
    /// A tensor whose shape is not the one that config.json calls for.
    #[error(
        "{}: tensor {} has shape {found:?}, expected {expected:?}: config.json and the weights do \
        not belong together, use both from one checkpoint",
        show(path),
        quoted(tensor)
    )]
    WrongShape {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// A tensor stored in a number format that cannot serve the purpose.
    #[error(
        "{}: tensor {} has dtype {found}, expected {expected}: save the checkpoint in bfloat16, \
        unquantised",
        show(path),
        quoted(tensor)
    )]
    WrongDtype {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Format in the file.
        found: StoredType,
        /// Formats that would do.
        expected: String,
    },
    /// A tensor whose first byte is not where its number format needs it.
    #[error(
        "{}: tensor {} starts at byte {offset}, not a multiple of {align}: save the checkpoint \
        again with a current safetensors, which aligns tensors",
        show(path),
        quoted(tensor)
    )]
    Unaligned {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// First byte in the file.
        offset: usize,
        /// Needed alignment, bytes.
        align: usize,
    },
    /// A shard was rewritten after it was opened.
    #[error(
        "{}: changed on disk while in use ({detail}): restart, and replace checkpoints by \
        renaming a new folder into place",
        show(path)
    )]
    Changed {
        /// The shard.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// A field of a JSON file has a value that is out of range, contradicts another, or needs
    /// what is not implemented.
    #[error("{}: {field} is {value}: {remedy}", show(path))]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with its parents: `text_config.hidden_size`.
        field: String,
        /// Its value.
        value: String,
        /// The rule that it breaks and what to do.
        remedy: String,
    },
    /// `unnorm_key` names no statistics.
    #[error(
        "{}: no statistics for unnorm_key {}: choose one of {}{hint}",
        show(path),
        quoted(key),
        list(available)
    )]
    UnknownUnnormKey {
        /// The file that was searched.
        path: PathBuf,
        /// The key requested.
        key: String,
        /// The keys that exist.
        available: Vec<String>,
        /// Empty, or where else the key was seen.
        hint: &'static str,
    },
    /// No `unnorm_key` was given and there is more than one.
    #[error(
        "{}: unnorm_key is not set and there are {} sets of statistics: choose one of {}",
        show(path),
        available.len(),
        list(available)
    )]
    AmbiguousUnnormKey {
        /// The file that was searched.
        path: PathBuf,
        /// The keys that exist.
        available: Vec<String>,
    },
    /// tokenizer.json cannot be used.
    #[error("{}: {detail}: {remedy}", show(path))]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A text too long to tokenize.
    #[error("instruction: {bytes} bytes of text, more than the {limit} allowed: shorten it")]
    TextTooLong {
        /// Length of the text, bytes.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
}

impl CheckpointError {
    /// `path` is `what`, which was recognised; `remedy` says what to do.
    pub(super) fn is(path: &Path, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::Recognised {
            path: path.to_owned(),
            what: one_line(&what.to_string()),
            remedy: one_line(&remedy.to_string()),
        }
    }

    /// What the file at `path` is instead, by its first `bytes`.
    pub(super) fn recognised(path: &Path, bytes: &[u8]) -> Option<Self> {
        recognise(bytes).map(|Foreign { what, remedy }| Self::is(path, what, remedy))
    }

    /// An error of the operating system at `path`; a missing file gets its own variant, with
    /// `remedy`, and a link that leads nowhere names its goal.
    pub(super) fn io(
        path: &Path,
        action: &'static str,
        error: &std::io::Error,
        remedy: &'static str,
    ) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound {
            broken_link(path).unwrap_or_else(|| Self::Missing { path: path.to_owned(), remedy })
        } else {
            Self::Io { path: path.to_owned(), action, detail: one_line(&error.to_string()) }
        }
    }

    /// A JSON parser's error at `path`.
    pub(super) fn json(path: &Path, error: &serde_json::Error) -> Self {
        Self::Json { path: path.to_owned(), detail: one_line(&error.to_string()) }
    }

    /// A field with a value that breaks a rule.
    pub(super) fn field(
        path: &Path,
        field: impl fmt::Display,
        value: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: one_line(&field.to_string()),
            value: one_line(&value.to_string()),
            remedy: one_line(&remedy.to_string()),
        }
    }
}

/// The error for a link whose goal does not exist; `None` when `path` is no link.
pub(super) fn broken_link(path: &Path) -> Option<CheckpointError> {
    let goal = std::fs::read_link(path).ok()?;
    // Hugging Face's cache: the names of a snapshot are links into `blobs`.
    let remedy = if goal.components().any(|part| part.as_os_str() == "blobs") {
        "the download did not finish or the cache was cleared; run hf download again"
    } else {
        "put the file or folder there, or make the link anew"
    };
    let what = format!("is a link to {}, which does not exist", quoted(&goal.to_string_lossy()));
    Some(CheckpointError::is(path, what, remedy))
}

/// Foreign text on one line, in double quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", one_line(text))
}

fn show(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// Key names, quoted and separated by commas; a long list is cut with the number left out.
pub(super) fn list(names: &[String]) -> String {
    const SHOWN: usize = 64;
    const MAX_KEY: usize = 80;
    if names.is_empty() {
        return "(there are none)".to_owned();
    }
    let short = |name: &String| quoted(&name.chars().take(MAX_KEY).collect::<String>());
    let shown: Vec<String> = names.iter().take(SHOWN).map(short).collect();
    let mut line = shown.join(", ");
    if names.len() > SHOWN {
        line.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    line
}
