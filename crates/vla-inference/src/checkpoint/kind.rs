//! Which policy a checkpoint folder holds. Decided here and nowhere else.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::read_config;
use super::error::CheckpointError;
use super::fields::Fields;
use super::oft::sign_of_oft;
use super::pi0::Pi0Kind;
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
    /// A script without a network, [`ScriptedPolicy`](crate::policy::ScriptedPolicy).
    Scripted,
}

impl fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenVla => "OpenVLA",
            Self::OpenVlaOft => "OpenVLA-OFT",
            Self::Pi0 => "pi0",
            Self::Pi05 => "pi0.5",
            Self::Scripted => "a script",
        })
    }
}

impl CheckpointKind {
    /// The kind of a folder, from the names of its files, `config.json` and the statistics.
    ///
    /// # Errors
    /// When the folder has no readable `config.json`.
    pub fn of(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NotAFolder { path: folder.to_owned() });
        }
        let path = folder.join("config.json");
        let map: Map<String, Value> = parse_json(&path, &read_config(&path)?)?;
        // LeRobot writes `type`, Hugging Face `model_type`.
        Ok(match Fields::new(&path, "", &map).text("type") {
            Ok(Some("pi0")) => Self::Pi0,
            Ok(Some("pi05")) => Self::Pi05,
            Ok(Some("scripted")) => Self::Scripted,
            _ if sign_of_oft(folder)?.is_some() => Self::OpenVlaOft,
            // openpi's converted form states no model; only its tensors do.
            _ if map.contains_key("action_dim") && !map.contains_key("model_type") => {
                match super::pi0::kind_of(folder)? {
                    Pi0Kind::Pi0 => Self::Pi0,
                    Pi0Kind::Pi05 => Self::Pi05,
                }
            }
            _ => Self::OpenVla,
        })
    }
}
