//! Errors and warnings, each one line: what, where, and the remedy.

use std::path::{Path, PathBuf};

/// Longest text of a bag or a library in a message, characters.
const LONGEST: usize = 4000;

/// `text` on one line. Names in a bag are any bytes, and the libraries' messages quote them.
fn line(text: &str) -> String {
    foreign_text::one_line(text, LONGEST)
}

/// Why a bag cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum BagError {
    /// The operating system refused.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Neither a bag folder nor a bag file.
    #[error(
        "{path} is not a bag: {shown}; expected a folder with .mcap or .db3 files, or one such \
        file (.zstd allowed)",
        shown = line(.found)
    )]
    NotABag {
        /// What was given.
        path: PathBuf,
        /// What it is instead, and the way to a bag.
        found: String,
    },
    /// A bag file without a byte, or without a message of any topic.
    #[error("{path} is empty: {what}; record again, or remove it from the list")]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// `metadata.yaml` is not what rosbag2 writes.
    #[error(
        "{path}: {shown}; repair it with `ros2 bag reindex`, or remove it and the files are read \
        without it",
        shown = line(.what)
    )]
    Metadata {
        /// The metadata file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// `metadata.yaml` lists a file that is not there.
    #[error(
        "{metadata} lists {shown}, which is not in the folder; restore it, or remove \
        metadata.yaml to read the files that are there",
        shown = line(.missing)
    )]
    MissingFile {
        /// The metadata file.
        metadata: PathBuf,
        /// The listed file's name.
        missing: String,
    },
    /// A value exceeds one of [`super::Limits`].
    #[error("{path}: {what} is {value}, above the limit of {limit}")]
    TooLarge {
        /// Where.
        path: PathBuf,
        /// Which quantity.
        what: &'static str,
        /// The stated value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// Unsupported storage, message encoding or compression.
    #[error(
        "{path}: {what} `{shown}` is not supported; supported: {supported}",
        shown = line(.value)
    )]
    Unsupported {
        /// Where.
        path: PathBuf,
        /// Which property.
        what: &'static str,
        /// Its value.
        value: String,
        /// The supported values.
        supported: &'static str,
    },
    /// The topic is not in the bag.
    #[error(
        "no topic `{name}` in {path}; it has: {known}",
        name = line(.topic),
        known = line(.available)
    )]
    NoTopic {
        /// The requested topic.
        topic: String,
        /// The bag.
        path: PathBuf,
        /// The topics that it has, with their types.
        available: String,
    },
    /// The topic has a type that is not accepted.
    #[error(
        "topic `{name}` is {kind}, expected {expected}; topics that fit: {fit}",
        name = line(.topic),
        kind = line(.found),
        fit = line(.candidates)
    )]
    WrongType {
        /// The topic.
        topic: String,
        /// Its type.
        found: String,
        /// The accepted types.
        expected: String,
        /// The topics of this bag with such a type.
        candidates: String,
    },
    /// Two files of one bag give one topic two types.
    #[error(
        "{path}: topic `{name}` is {one} in one place and {other} in another; read the files one \
        by one",
        name = line(.topic),
        one = line(.first),
        other = line(.second)
    )]
    ConflictingTypes {
        /// The bag.
        path: PathBuf,
        /// The topic.
        topic: String,
        /// One type.
        first: String,
        /// The other.
        second: String,
    },
    /// Content that no recorder writes.
    #[error(
        "{path} is damaged after {messages} messages: {shown}; what came before was read, `mcap \
        recover` or sqlite's `.recover` may save more",
        shown = line(.what)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Messages delivered from this file before.
        messages: u64,
        /// What is wrong.
        what: String,
    },
    /// A payload that is not a message of its topic's type.
    #[error(
        "message at {log_time} ns on `{name}` is not a {kind}: {source}",
        name = line(.topic),
        kind = line(.type_name)
    )]
    Payload {
        /// The topic.
        topic: String,
        /// Its type.
        type_name: String,
        /// Log time of the message, nanoseconds since the epoch.
        log_time: i64,
        /// Why it does not decode.
        #[source]
        source: super::cdr::CdrError,
    },
}

impl BagError {
    /// For `map_err` on input and output: `BagError::io("open", path)`.
    pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BagError {
        let path = path.to_owned();
        move |source| BagError::Io { act, path, source }
    }
}

/// A problem that does not prevent reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BagWarning {
    /// The folder has no `metadata.yaml`.
    #[error(
        "{path} has no metadata.yaml; its {files} files are read as one recording, in the order of \
        their names"
    )]
    MissingMetadata {
        /// The folder.
        path: PathBuf,
        /// How many files were found.
        files: usize,
    },
    /// A sqlite file whose recorder was interrupted within a transaction.
    #[error(
        "{path} has beside it {from}, in a temporary copy as sqlite itself does; the files are \
        unchanged"
    )]
    Restored {
        /// The file.
        path: PathBuf,
        /// What is beside it, and what was done with it.
        from: &'static str,
    },
    /// The recorder was interrupted before it finished the file.
    #[error(
        "{path} ends in the middle ({what}): its recorder did not finish; {messages} messages \
        were recovered"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Which part is missing.
        what: &'static str,
        /// Messages that could be read.
        messages: u64,
    },
    /// The index at the end of the file cannot be read, so that the file is read from front to back
    /// to learn its topics.
    #[error(
        "{path}: the summary at its end is unusable ({shown}); the file is read once more to \
        learn its topics",
        shown = line(.what)
    )]
    BadSummary {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Messages that are out of order by more than the sorting window.
    #[error(
        "{path}: {count} messages are out of order by up to {worst_ms} ms, the first at \
        {first_ns} ns; they are delivered in file order"
    )]
    Unsorted {
        /// The bag.
        path: PathBuf,
        /// How many.
        count: u64,
        /// Log time of the first one, nanoseconds since the epoch.
        first_ns: i64,
        /// The largest step back, milliseconds.
        worst_ms: i64,
    },
    /// `metadata.yaml` and the files disagree.
    #[error(
        "{path}: metadata.yaml states {stated} messages, the files contain {found}; the count of \
        the files is used"
    )]
    CountDiffers {
        /// The bag.
        path: PathBuf,
        /// According to `metadata.yaml`.
        stated: u64,
        /// According to the files.
        found: u64,
    },
}
