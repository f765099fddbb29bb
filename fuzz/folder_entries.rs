//! Entry points of the fuzz targets for whole folders: what a checkpoint folder is, and pi0's.
//! `tests/fuzz_smoke.rs` includes this file and drives the same functions with seeded mutations on
//! stable Rust.

use std::path::{Path, PathBuf};

use vla_inference::checkpoint::pi0::{Pi0Config, Processors};
use vla_inference::checkpoint::{CheckpointKind, Tokenizer, locate};

use crate::checkpoint_entries::check_text;

const PRE: &str = "policy_preprocessor.json";
const POST: &str = "policy_postprocessor.json";

/// The files of pi0's tiny checkpoint that its pipelines read.
const PI0: [(&str, &[u8]); 4] = [
    (PRE, include_bytes!("../tests/data/pi0_lerobot_tiny/ckpt/policy_preprocessor.json")),
    (POST, include_bytes!("../tests/data/pi0_lerobot_tiny/ckpt/policy_postprocessor.json")),
    (
        "policy_preprocessor_step_6_normalizer_processor.safetensors",
        include_bytes!(concat!(
            "../tests/data/pi0_lerobot_tiny/ckpt/",
            "policy_preprocessor_step_6_normalizer_processor.safetensors"
        )),
    ),
    (
        "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
        include_bytes!(concat!(
            "../tests/data/pi0_lerobot_tiny/ckpt/",
            "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
        )),
    ),
];
const PI0_CONFIG: &[u8] = include_bytes!("../tests/data/pi0_lerobot_tiny/ckpt/config.json");

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
    static PIPELINES: (tempfile::TempDir, Pi0Config) = pipelines();
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    FOLDER.with(|folder| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file in the temporary folder");
        path
    })
}

fn pipelines() -> (tempfile::TempDir, Pi0Config) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in PI0 {
        std::fs::write(folder.path().join(name), bytes).expect("a file in the folder");
    }
    let config = Pi0Config::from_json(Path::new("config.json"), PI0_CONFIG);
    (folder, config.expect("the kit's configuration"))
}

/// The bytes as the config.json of a folder with nothing else, and as a file given for a folder.
pub fn fuzz_checkpoint_kind(bytes: &[u8]) -> bool {
    let path = file("config.json", bytes);
    let folder = path.parent().expect("it has a folder");
    assert_eq!(locate(folder).as_deref().ok(), Some(folder));
    let line = locate(&path).expect_err("a file is no folder").to_string();
    check_text(&line);
    let kind = CheckpointKind::of(folder);
    if let Err(error) = &kind {
        check_text(&error.to_string());
    }
    // The same without the name by which a checkpoint is recognised.
    std::fs::rename(&path, path.with_file_name("given")).expect("a file of its own");
    let line = locate(&path.with_file_name("given")).expect_err("a file is no folder").to_string();
    check_text(&line);
    kind.is_ok()
}

/// The bytes as the config.json of pi0 or pi0.5.
pub fn fuzz_pi0_config(bytes: &[u8]) -> bool {
    match Pi0Config::from_json(Path::new("config.json"), bytes) {
        Err(error) => check_text(&error.to_string()),
        Ok(config) => {
            assert!(config.state.1 <= config.max_state_dim);
            assert!(config.action.1 <= config.max_action_dim);
            assert!((1..=config.chunk_size).contains(&config.n_action_steps));
            assert!(config.real_cameras().count() > 0 && config.patches() > 0);
            let tensors = config.expected_tensors(config.patches(), 1000);
            assert!(tensors.iter().map(|tensor| tensor.parameters()).sum::<u64>() > 0);
            true
        }
    }
}

/// A pipeline of pi0's, before the model when the first byte is even, else behind it; the other
/// one is the kit's.
pub fn fuzz_pi0_processors(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else { return false };
    let changed = usize::from(first & 1);
    PIPELINES.with(|(folder, config)| {
        for (at, (name, kit)) in PI0.iter().take(2).enumerate() {
            let bytes = if at == changed { bytes } else { kit };
            std::fs::write(folder.path().join(name), bytes).expect("a file in the folder");
        }
        match Processors::open(folder.path(), config) {
            Err(error) => check_text(&error.to_string()),
            Ok(processors) => {
                assert!(processors.max_length > 0);
                for normalizer in [&processors.state, &processors.action].into_iter().flatten() {
                    assert_eq!(normalizer.low.len(), normalizer.high.len());
                    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
                    assert!(finite(&normalizer.low) && finite(&normalizer.high));
                }
                true
            }
        }
    })
}

/// The bytes as a SentencePiece model.
pub fn fuzz_sentencepiece(bytes: &[u8]) -> bool {
    match Tokenizer::open_file(&file("tokenizer.model", bytes), "give one") {
        Err(error) => check_text(&error.to_string()),
        Ok(tokenizer) => {
            if let Err(error) = tokenizer.encode("pick up the café 🍎\n</s>") {
                check_text(&error.to_string());
            }
            true
        }
    }
}
