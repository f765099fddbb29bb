//! The folder that openpi's `convert_jax_model_to_pytorch.py` writes: `config.json` with five
//! keys, `model.safetensors` without a name prefix, `assets/<id>/norm_stats.json`. What the model
//! means stands in openpi's Python configuration only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::{Pi0Config, Pi0Kind};
use super::features::Camera;
use super::normalizer::NormMode;
use super::processors::Processors;
use super::source::{Pi0Source, StateTokens};
use super::statistics::read_norm_stats;
use crate::checkpoint::error::{CheckpointError, list};
use crate::checkpoint::fields::Fields;
use crate::checkpoint::read::parse_json;

/// openpi's image keys, in the order of its tokens (`models/model.py`).
const CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];

/// Whether a config.json is openpi's.
pub(super) fn is_converted(path: &Path, bytes: &[u8]) -> Result<bool, CheckpointError> {
    let map: Map<String, Value> = parse_json(path, bytes)?;
    Ok(!map.contains_key("type") && map.contains_key("action_dim"))
}

/// Configuration and processors; `kind` is that of the tensors.
pub(super) fn read(
    source: &Pi0Source,
    path: &Path,
    bytes: &[u8],
    kind: Pi0Kind,
) -> Result<(Pi0Config, Processors, StateTokens), CheckpointError> {
    let map: Map<String, Value> = parse_json(path, bytes)?;
    let fields = Fields::new(path, "", &map);
    let horizon = match source.horizon {
        Some(horizon) => horizon,
        None => fields.size("action_horizon", 0, 1, 4096)?,
    };
    if horizon == 0 {
        return Err(fields.error(
            "action_horizon",
            "missing",
            "no tensor states it, and a wrong one gives wrong actions; give the horizon of the \
            training configuration (pi0 50, pi0_droid and pi05_libero 10, pi05_droid 15)",
        ));
    }
    let Some(state_tokens) =
        source.state_tokens.or((kind == Pi0Kind::Pi0).then_some(StateTokens::None))
    else {
        return Err(fields.error(
            "state_tokens",
            "not given",
            "openpi's files do not say whether the state is in the prompt: give exact \
            (discrete_state_input, pi05_droid) or none (pi05_libero)",
        ));
    };
    let Some(mapping) = source.actions.clone() else {
        return Err(fields.error(
            "actions",
            "not given",
            "openpi's files do not say whether actions are differences from the state: give \
            absolute (pi05_libero, pi0_droid) or relative:6,-1 (pi0_libero: six relative, one not)",
        ));
    };
    // The action as openpi feeds it: 32 columns, whatever the robot.
    let width = fields.size("action_dim", 32, 1, 1024)?;
    let mode = if kind == Pi0Kind::Pi0 { NormMode::MeanStd } else { NormMode::Quantiles };
    let stats = match &source.statistics {
        Some(file) => Some(file.clone()),
        None => assets(&source.folder)?,
    };
    let normalizers = stats.map(|file| read_norm_stats(&file, mode, [None, None])).transpose()?;
    let (state, action) = match &normalizers {
        Some([state, action]) => (state.low.len(), action.low.len()),
        None => (width, width),
    };
    let mut lerobot = Map::new();
    lerobot.insert("type".into(), json!(kind.to_string()));
    for (ours, theirs) in [
        ("paligemma_variant", "paligemma_variant"),
        ("action_expert_variant", "action_expert_variant"),
        ("tiny_overrides", "tiny_overrides"),
    ] {
        lerobot.extend(map.get(theirs).map(|value| (ours.to_owned(), value.clone())));
    }
    lerobot.insert("chunk_size".into(), json!(horizon));
    lerobot.insert("max_state_dim".into(), json!(width));
    lerobot.insert("max_action_dim".into(), json!(width));
    lerobot.insert(
        "input_features".into(),
        json!({"observation.state": {"type": "STATE", "shape": [state]},
            "observation.images.base_0_rgb": {"type": "VISUAL", "shape": [3, 224, 224]}}),
    );
    lerobot
        .insert("output_features".into(), json!({"action": {"type": "ACTION", "shape": [action]}}));
    let bytes =
        serde_json::to_vec(&lerobot).map_err(|error| CheckpointError::json(path, &error))?;
    let mut config = Pi0Config::from_json(path, &bytes)?;
    let camera = |name: &str| Camera {
        feature: format!("observation.images.{name}"),
        shape: None,
        empty: false,
    };
    config.cameras = CAMERAS.map(camera).to_vec();
    if let Some(at) = mapping.beyond(config.state.1) {
        let remedy = format!("the state has {} dimensions", config.state.1);
        return Err(fields.error("actions", format!("relative in dimension {at}"), remedy));
    }
    let (state, action) = match normalizers {
        Some([state, action]) => (Some(state), Some(action)),
        None => (None, None),
    };
    let processors = Processors {
        rename_map: BTreeMap::new(),
        state,
        action,
        modes: [mode; 2],
        mapping,
        action_names: None,
        max_length: config.tokenizer_max_length,
        tokenizer: None,
    };
    Ok((config, processors, state_tokens))
}

/// `assets/<id>/norm_stats.json`, when there is exactly one.
fn assets(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let root = folder.join("assets");
    let mut found = Vec::new();
    // Asset ids contain a slash: physical-intelligence/libero.
    let mut open = vec![(root.clone(), 0)];
    while let Some((folder, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten().take(256) {
            let path = entry.path();
            if path.file_name().is_some_and(|name| name == "norm_stats.json") {
                found.push(path);
            } else if depth < 3 && path.is_dir() {
                open.push((path, depth + 1));
            }
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        many => {
            let names: Vec<String> =
                many.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            Err(CheckpointError::field(
                &root,
                "norm_stats.json",
                list(&names),
                "statistics of several robots; name the file of yours",
            ))
        }
    }
}
