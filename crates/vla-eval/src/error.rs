//! Errors of an evaluation.

use std::path::{Path, PathBuf};

use lerobot_dataset::DatasetError;
use rosbag2_reader::BagError;
use vla_inference::policy::{InstructionError, PolicyError, PolicyLoadError};

/// Why an evaluation cannot start or go on. Finished frames are in the journal.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The recording.
    #[error(transparent)]
    Bag(#[from] BagError),
    /// A LeRobot dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The policy failed for a reason that concerns every image.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The policy cannot be loaded.
    #[error(transparent)]
    Load(#[from] PolicyLoadError),
    /// A policy file or a robot file.
    #[error(transparent)]
    ConfigFile(#[from] vla_config::ConfigFileError),
    /// The checkpoint's statistics.
    #[error(transparent)]
    Checkpoint(#[from] vla_inference::checkpoint::CheckpointError),
    /// The instruction of the command line.
    #[error(transparent)]
    Instruction(#[from] InstructionError),
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
    /// A bag was modified after the evaluation began.
    #[error(
        "{bag} has changed since the evaluation in {out} began: {what}; choose another --out, or \
        --overwrite it"
    )]
    OtherBag {
        /// The bag.
        bag: PathBuf,
        /// The output folder.
        out: PathBuf,
        /// Which file, with both sizes and times.
        what: String,
    },
    /// A file of an earlier evaluation that does not parse.
    #[error("{path}: {what}; evaluate again with --overwrite, or restore the file")]
    Result {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The output folder contains an evaluation with other settings.
    #[error(
        "{path} contains an evaluation with other settings: {differing}; choose another --out, \
        or --overwrite it"
    )]
    OtherRun {
        /// The output folder.
        path: PathBuf,
        /// The settings that differ, with both values.
        differing: String,
    },
    /// Two evaluations that cannot be compared or merged.
    #[error("{first} and {second} do not belong together: {what}")]
    Mismatch {
        /// One folder.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// What differs.
        what: String,
    },
    /// Another process evaluates into the same folder.
    #[error(
        "{0}: another evaluation writes into this folder; wait for its end, or choose another \
        --out"
    )]
    InUse(PathBuf),
    /// Arguments that contradict each other or the bag.
    #[error("{0}")]
    Usage(String),
    /// There is nothing to report.
    #[error("no frame of {topic} was evaluated: {why}")]
    Nothing {
        /// The image topic.
        topic: String,
        /// Why no frame was evaluated.
        why: String,
    },
    /// Recorded actions were asked for, and belong to no frame. The report is written.
    #[error("no frame has a recorded action: {0}")]
    Unmatched(String),
    /// A plot could not be drawn.
    #[error("cannot draw {plot}: {what}")]
    Plot {
        /// Which one.
        plot: String,
        /// The drawing library's error.
        what: String,
    },
    /// Ctrl-C.
    #[error(
        "interrupted after {done} frames; the same command resumes the evaluation, the report in \
        {out} covers these frames"
    )]
    Interrupted {
        /// Frames evaluated, earlier runs included.
        done: usize,
        /// The output folder.
        out: PathBuf,
    },
}

impl EvalError {
    /// For `map_err` on input and output.
    pub fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EvalError {
        let path = path.to_owned();
        move |source| EvalError::Io { act, path, source }
    }

    /// For `map_err` on parsing a result file.
    pub fn result<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> EvalError {
        let path = path.to_owned();
        move |error| EvalError::Result { path, what: error.to_string() }
    }
}
