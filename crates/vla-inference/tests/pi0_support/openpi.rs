//! The form of a checkpoint that openpi's `convert_jax_model_to_pytorch.py` writes.

use std::collections::BTreeMap;

use serde_json::json;
use vla_inference::checkpoint::SafetensorsFile;

use super::{copied, edit, read_tensors, write_tensors};

/// A kit's checkpoint in the converted form: the same weights and statistics, other keys, no name
/// prefix, no embedding table beside the tied head, no flag.
pub fn converted(name: &str) -> tempfile::TempDir {
    let copy = copied(name);
    let folder = copy.path().join("ckpt");
    let mut tensors = read_tensors(&folder.join("model.safetensors"));
    let embedding = tensors.iter().find(|tensor| tensor.0.ends_with("embed_tokens.weight"));
    let embedding = embedding.unwrap().3.clone();
    tensors.retain(|tensor| !tensor.0.ends_with("embed_tokens.weight"));
    for tensor in &mut tensors {
        tensor.0 = tensor.0.strip_prefix("model.").unwrap().to_owned();
        if tensor.0.ends_with("paligemma.lm_head.weight") {
            tensor.3.clone_from(&embedding);
        }
    }
    write_tensors(&folder.join("model.safetensors"), &tensors);
    edit(&folder.join("config.json"), |config| {
        *config = json!({
            "action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b",
            "action_expert_variant": "gemma_300m", "precision": "float32",
            "tiny_overrides": config["tiny_overrides"],
        });
    });
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let (mut statistics, mut others) = (None, Vec::new());
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("policy_preprocessor_step") && name.contains("normalizer") {
            statistics = Some(SafetensorsFile::open(&path).unwrap());
        }
        if name.starts_with("policy_") {
            others.push(path);
        }
    }
    let statistics = statistics.unwrap();
    let of = |feature: &str| -> BTreeMap<&str, Vec<f32>> {
        let value = |name| {
            let tensor = statistics.tensor(&format!("{feature}.{name}")).unwrap();
            (name, tensor.to_f32_vec().unwrap())
        };
        ["mean", "std", "q01", "q99"].into_iter().map(value).collect()
    };
    let stats = json!({"norm_stats": {"state": of("observation.state"), "actions": of("action")}});
    let assets = folder.join("assets/physical-intelligence/libero");
    std::fs::create_dir_all(&assets).unwrap();
    std::fs::write(assets.join("norm_stats.json"), stats.to_string()).unwrap();
    for path in others {
        std::fs::remove_file(path).unwrap();
    }
    copy
}
