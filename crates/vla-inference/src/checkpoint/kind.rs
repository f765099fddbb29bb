//! Which policy a checkpoint folder holds. Decided here and nowhere else.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::read_config;
use super::error::{CheckpointError, quoted};
use super::fields::Fields;
use super::location::{CONFIG, no_folder, not_a_checkpoint};
use super::oft::sign_of_oft;
use super::pi0::Pi0Kind;
use super::read::{is_listed, parse_python_json};
use super::siblings::{refuse_adapter_file, refuse_siblings};

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
    /// When the folder has no readable `config.json`, an adapter beside the weights, or the signs
    /// of a model that only resembles one of these.
    pub fn of(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        let path = folder.join(CONFIG);
        if !is_listed(&path) {
            return Err(not_a_checkpoint(folder));
        }
        let map: Map<String, Value> = parse_python_json(&path, &read_config(&path)?)?;
        refuse_adapter_file(folder)?;
        // LeRobot writes `type`, Hugging Face `model_type`.
        let fields = Fields::new(&path, "", &map);
        Ok(match fields.text("type") {
            Ok(Some("pi0")) => Self::Pi0,
            Ok(Some("pi05")) => Self::Pi05,
            Ok(Some("scripted")) => Self::Scripted,
            Ok(Some(other)) if fields.get("model_type").is_none() => {
                let remedy = "this policy of LeRobot is not implemented; pi0 and pi05 are";
                return Err(fields.error("type", quoted(other), remedy));
            }
            _ if fields.get("model_type").is_none() && fields.get("vla").is_some() => {
                let remedy = "convert it with vla-scripts/extern/convert_openvla_weights_to_hf.py \
                    of OpenVLA's code";
                return Err(fields.error("vla", "that of a Prismatic training run", remedy));
            }
            _ if fields.get("model_type").is_none() && fields.get("error").is_some() => {
                let what = "holds a server's refusal, not the file";
                return Err(CheckpointError::is(&path, what, "download it again"));
            }
            _ if sign_of_oft(folder)?.is_some() => Self::OpenVlaOft,
            // openpi's converted form states no model; only its tensors do.
            _ if map.contains_key("action_dim") && !map.contains_key("model_type") => {
                match super::pi0::kind_of(folder)? {
                    Pi0Kind::Pi0 => Self::Pi0,
                    Pi0Kind::Pi05 => Self::Pi05,
                }
            }
            _ => {
                refuse_siblings(folder, &path, &map)?;
                Self::OpenVla
            }
        })
    }
}
