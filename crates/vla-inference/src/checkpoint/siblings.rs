//! Folders that resemble an OpenVLA checkpoint and are not one: adapters that were not merged, and
//! models that grew out of OpenVLA and kept its `model_type`. Run as OpenVLA, each would give an
//! action that means nothing. OpenVLA-OFT, which is implemented, has its own signs: `oft.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::{CheckpointError, quoted};
use super::expected::ExpectedTensor;
use super::fields::shown;
use super::other_folder::entries;
use super::read::is_listed;
use super::weights::WeightFiles;

/// The class of OpenVLA in config.json's `architectures` and `auto_map`.
const CLASS: &str = "OpenVLAForActionPrediction";
/// Parts of names of files that other models keep beside the same language model.
const FILES: [(&str, &str); 6] = [
    ("action_decoder", "UniVLA's and others' action decoder"),
    ("latent_action", "a model of latent actions"),
    ("action_expert", "a model with an action expert"),
    ("action_tokenizer", "a model with a learned action tokenizer"),
    ("flow_head", "a model with a flow-matching head"),
    ("diffusion_head", "a model with a diffusion head"),
];
/// Fields of config.json that other models of the family write. `false`, `null`, 0 and 1 are what
/// plain OpenVLA does: one image, one step, no history.
const FIELDS: [&str; 12] = [
    "action_chunk_size",
    "action_horizon",
    "action_tokenizer",
    "action_model_type",
    "future_action_window_size",
    "image_sequence_len",
    "num_actions_chunk",
    "num_action_chunks",
    "past_action_window_size",
    "use_action_ts_head",
    "use_latent_action",
    "use_wrist_image",
];
/// Tensors that files hold and generation never reads: buffers that every version of transformers
/// computes, timm's mask token, value heads of reinforcement learning.
const HARMLESS: [&str; 5] =
    ["rotary_emb.inv_freq", "position_ids", "mask_token", "v_head.", "value_head."];
const MERGE: &str = "merge it into its base model first (merge_and_unload, save_pretrained)";

/// Refuses an adapter beside whole weights: it is unknown whether they contain it. transformers
/// loads it on top of them.
pub(super) fn refuse_adapter_file(folder: &Path) -> Result<(), CheckpointError> {
    let adapter = folder.join("adapter_config.json");
    if !is_listed(&adapter) {
        return Ok(());
    }
    let whole = ["model.safetensors", "model.safetensors.index.json"];
    if whole.iter().any(|name| is_listed(&folder.join(name))) {
        let what = "a LoRA adapter beside whole weights, which may or may not contain it";
        let remedy = format!("{MERGE}, or remove this file if the weights are merged");
        return Err(CheckpointError::is(&adapter, what, remedy));
    }
    Err(CheckpointError::is(&adapter, "a LoRA adapter without the model", MERGE))
}

/// Whether a tensor belongs to an adapter of the library PEFT.
fn is_adapter(name: &str) -> bool {
    name.contains(".lora_") || name.contains(".base_layer.") || name.starts_with("base_model.")
}

/// Refuses tensors that no part of the model reads.
pub(super) fn refuse_unread(
    weights: &WeightFiles,
    known: &[ExpectedTensor],
) -> Result<(), CheckpointError> {
    let known: BTreeSet<&str> = known.iter().map(|tensor| tensor.name.as_str()).collect();
    let harmless = |name: &&str| !HARMLESS.iter().any(|part| name.contains(part));
    let unread: Vec<&str> =
        weights.names().filter(|name| !known.contains(name)).filter(harmless).collect();
    let fail = |what: String, remedy: String| {
        Err(CheckpointError::field(weights.folder(), "weights", what, remedy))
    };
    if let Some(name) = unread.iter().find(|name| is_adapter(name)) {
        let what = format!("with a LoRA adapter that is not merged (tensor {})", quoted(name));
        return fail(what, MERGE.to_owned());
    }
    let Some(first) = unread.first() else { return Ok(()) };
    fail(
        format!("{} tensors that OpenVLA has not, {} first", unread.len(), quoted(first)),
        "they belong to another model, which would be computed wrongly without them; use a \
        checkpoint of OpenVLA"
            .to_owned(),
    )
}

/// Refuses a model that states OpenVLA's `model_type` and is another: by the class that runs it, by
/// its fields, by files beside the weights.
pub(super) fn refuse_siblings(
    folder: &Path,
    path: &Path,
    config: &Map<String, Value>,
) -> Result<(), CheckpointError> {
    let only = "only OpenVLA's own model is implemented of this family; use a checkpoint of it";
    let classes = config.get("architectures").and_then(Value::as_array);
    if let Some(classes) = classes.filter(|classes| !classes.is_empty())
        && !classes.iter().any(|class| class == CLASS)
    {
        let value = super::fields::shown_list(classes);
        return Err(CheckpointError::field(path, "architectures", value, only));
    }
    let map = config.get("auto_map").and_then(Value::as_object);
    for (field, class) in map.into_iter().flatten() {
        let other = class.as_str().filter(|class| !class.ends_with(&format!(".{CLASS}")));
        if field.starts_with("AutoModel")
            && let Some(other) = other
        {
            let field = format!("auto_map.{field}");
            return Err(CheckpointError::field(path, field, quoted(other), only));
        }
    }
    let plain =
        |value: &Value| value.is_null() || value == false || matches!(value.as_u64(), Some(0 | 1));
    for field in FIELDS {
        if let Some(value) = config.get(field).filter(|value| !plain(value)) {
            return Err(CheckpointError::field(path, field, shown(value), only));
        }
    }
    let names = entries(folder);
    let found = names.iter().filter(|name| !name.ends_with(".py")).find_map(|name| {
        let (_, model) = FILES.iter().find(|(part, _)| name.contains(part))?;
        Some((name, *model))
    });
    match found {
        Some((name, model)) => {
            Err(CheckpointError::is(&folder.join(name), format!("is part of {model}"), only))
        }
        None => Ok(()),
    }
}
