//! Keys of config.json: those that inference does not need, those that nothing here knows, and
//! those of folders that are not read.

use serde_json::{Map, Value};

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::fields::{Fields, shown};

/// Keys of training and of its infrastructure, which inference does not need.
const IGNORED: [&str; 39] = [
    "type",
    "n_obs_steps",
    "input_features",
    "output_features",
    "device",
    "use_amp",
    "use_peft",
    "push_to_hub",
    "repo_id",
    "private",
    "tags",
    "license",
    "pretrained_path",
    "pretrained_revision",
    "dtype",
    "empty_cameras",
    "relative_exclude_joints",
    "gradient_checkpointing",
    "compile_model",
    "compile_mode",
    "freeze_vision_encoder",
    "train_expert_only",
    "memory_frames",
    "memory_stride",
    "memory_temporal_attention_every",
    "use_visual_memory",
    "use_proprioceptive_memory",
    "paligemma_variant",
    "action_expert_variant",
    "tiny_overrides",
    "n_action_steps",
    "chunk_size",
    "max_state_dim",
    "max_action_dim",
    "num_inference_steps",
    "min_period",
    "max_period",
    "image_resolution",
    "tokenizer_max_length",
];
const READ: [&str; 6] = [
    "normalization_mapping",
    "use_relative_actions",
    "action_feature_names",
    "rtc_config",
    "rtc_training_max_delay",
    "revision",
];
const IGNORED_PREFIXES: [&str; 4] = ["time_sampling_", "optimizer_", "scheduler_", "train_"];
/// Keys of folders written before LeRobot 0.4, with other tensor names and other statistics.
const BEFORE_0_4: [&str; 4] =
    ["resize_imgs_with_padding", "proj_width", "adapt_to_pi_aloha", "use_cache"];

/// Refuses folders of another form of the model.
pub(super) fn refuse_other_forms(fields: &Fields<'_>) -> Result<(), CheckpointError> {
    if let Some(key) = BEFORE_0_4.iter().find(|key| fields.map.contains_key(**key)) {
        return Err(fields.error(
            key,
            "present",
            "the folder was written before LeRobot 0.4, with other names and statistics; convert \
            it with LeRobot's migrate_policy_normalization, or take the current revision",
        ));
    }
    for key in ["use_visual_memory", "use_proprioceptive_memory"] {
        if fields.flag(key, false)? {
            return Err(fields.error(key, true, "the memory variant is not implemented"));
        }
    }
    if fields.size("n_obs_steps", 1, 1, 1 << 20)? != 1 {
        let steps = fields.get("n_obs_steps").map(shown).unwrap_or_default();
        return Err(fields.error(
            "n_obs_steps",
            steps,
            "only one observation is fed; it must be 1",
        ));
    }
    Ok(())
}

/// Keys that nothing here knows, for `inspect`.
pub(super) fn unknown(map: &Map<String, Value>) -> Vec<String> {
    map.keys()
        .filter(|key| {
            !IGNORED.contains(&key.as_str())
                && !READ.contains(&key.as_str())
                && !IGNORED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        })
        .take(64)
        .cloned()
        .collect()
}
