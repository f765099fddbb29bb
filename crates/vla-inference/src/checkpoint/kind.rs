//! Which policy a checkpoint folder holds. Decided here and nowhere else.

use std::fmt;
use std::path::Path;

use super::config::read_config;
use super::error::CheckpointError;
use super::fields::Fields;
use super::read::parse_json;

/// The policy in a checkpoint folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// OpenVLA: Hugging Face layout, one action from generated tokens.
    OpenVla,
    /// OpenVLA-OFT: OpenVLA's folder with an action head and bidirectional attention.
    OpenVlaOft,
    /// pi0, in LeRobot's folder layout or openpi's converted form.
    Pi0,
    /// pi0.5, likewise.
    Pi05,
}

impl fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenVla => "OpenVLA",
            Self::OpenVlaOft => "OpenVLA-OFT",
            Self::Pi0 => "pi0",
            Self::Pi05 => "pi0.5",
        })
    }
}

impl CheckpointKind {
    /// The kind of a folder, from the names of its files and from `config.json`.
    ///
    /// # Errors
    /// When the folder has no readable `config.json`.
    pub fn of(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NotAFolder { path: folder.to_owned() });
        }
        let path = folder.join("config.json");
        let map = parse_json(&path, &read_config(&path)?)?;
        // LeRobot writes `type`, Hugging Face `model_type`.
        Ok(match Fields::new(&path, "", &map).text("type") {
            Ok(Some("pi0")) => Self::Pi0,
            Ok(Some("pi05")) => Self::Pi05,
            _ => Self::OpenVla,
        })
    }
}
