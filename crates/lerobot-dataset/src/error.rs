//! Errors of a dataset, each one line with the place and the remedy.

use std::path::{Path, PathBuf};

/// Why a dataset cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
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
    /// The content of a file is not as the format or the request needs it.
    #[error("{path}: {what}; {remedy}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A stated size above the limit.
    #[error("{path}: {what} is {value}, at most {limit} is read; split the dataset")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Name of the size.
        what: String,
        /// Its value.
        value: u64,
        /// The largest accepted value.
        limit: u64,
    },
    /// There is no such feature.
    #[error("{path} has no feature '{feature}'; it has {available}")]
    NoFeature {
        /// The dataset.
        path: PathBuf,
        /// The name asked for.
        feature: String,
        /// The names of its features, with types.
        available: String,
    },
}

/// What to do about a file that is not as LeRobot writes it.
pub(crate) const DAMAGED: &str = "copy or download the dataset again";

impl DatasetError {
    pub(crate) fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { act, path, source }
    }

    pub(crate) fn invalid(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), what: what.into(), remedy: remedy.into() }
    }

    /// A file that contradicts itself or its metadata.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::invalid(path, what, DAMAGED)
    }

    /// Checks a stated size.
    pub(crate) fn limit(path: &Path, what: &str, value: u64, limit: u64) -> Result<(), Self> {
        if value <= limit {
            return Ok(());
        }
        Err(Self::TooLarge { path: path.to_owned(), what: what.to_owned(), value, limit })
    }
}
