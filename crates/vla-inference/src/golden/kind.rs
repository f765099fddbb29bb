//! Which golden kit a folder is.

use std::fs;
use std::path::Path;

use super::kit::KitError;
use crate::checkpoint::CheckpointKind;

/// The kinds of golden kits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KitKind {
    /// A checkpoint with recorded intermediate results of the official code.
    Policy(CheckpointKind),
    /// Image preparation alone: sources, steps and results.
    ImagePreparation,
}

impl KitKind {
    /// The kind of a kit, from its files.
    ///
    /// # Errors
    /// When the folder is no kit.
    pub fn of(kit: &Path) -> Result<Self, KitError> {
        let error = |reason: String| KitError { path: kit.to_owned(), reason };
        if !kit.join("cases.json").is_file() {
            return Err(error("there is no cases.json in it".into()));
        }
        let checkpoint = kit.join("ckpt");
        if checkpoint.is_dir() {
            let kind = CheckpointKind::of(&checkpoint).map_err(|cause| error(cause.to_string()))?;
            return Ok(Self::Policy(kind));
        }
        if fs::metadata(kit.join("steps")).is_ok_and(|found| found.is_dir()) {
            return Ok(Self::ImagePreparation);
        }
        Err(error("it has neither a checkpoint in ckpt/ nor image preparations in steps/".into()))
    }
}
