//! The golden kit's checkpoint opens, and its contents equal the recorded ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use vla_inference::checkpoint::{
    NormStats, OpenVlaConfig, PromptStyle, StoredType, Tokenizer, TowerFamily, WeightFiles,
};

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny")
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(kit().join(name)).unwrap()).unwrap()
}

#[test]
fn weights_are_mapped_in_place() {
    let weights = WeightFiles::open(&kit().join("ckpt")).unwrap();
    assert_eq!(weights.files().len(), 2);
    assert_eq!(weights.total_bytes(), 18_940_616); // metadata.total_size of the index
    let tensor = weights.expect("projector.fc1.weight", &[544, 136]).unwrap();
    drop(weights); // the tensor keeps the map
    assert_eq!(tensor.dtype(), StoredType::BF16);
    let place = tensor.as_bf16().unwrap();
    assert_eq!(place.len(), 544 * 136);
    assert_eq!(place.as_ptr().cast::<u8>(), tensor.bytes().as_ptr(), "no copy");
    let copy = tensor.to_f32_vec().unwrap();
    assert!(place.iter().zip(&copy).all(|(a, b)| a.to_f32() == *b));
    assert!(copy.iter().any(|value| *value != 0.0));
    std::thread::spawn(move || assert_eq!(tensor.elements(), 544 * 136)).join().unwrap();
}

#[test]
fn configuration_has_defaults_and_overrides() {
    let config = OpenVlaConfig::open(&kit().join("ckpt")).unwrap();
    assert_eq!(config.prompt, PromptStyle::Pure);
    assert_eq!(
        (config.action_bins, config.action_token_end, config.pad_token_id),
        (256, 32_000, 32_000)
    );
    assert_eq!((config.patches(), config.image_size(), config.pixel_channels()), (256, 224, 6));
    let [dino, siglip] = config.towers.as_slice() else { panic!("two towers") };
    assert_eq!(
        (
            dino.family,
            dino.embed_dim,
            dino.depth,
            dino.num_heads,
            dino.mlp_hidden,
            dino.prefix_tokens
        ),
        (TowerFamily::Dinov2, 64, 3, 4, 256, 5)
    );
    assert_eq!(
        (
            siglip.family,
            siglip.embed_dim,
            siglip.depth,
            siglip.num_heads,
            siglip.mlp_hidden,
            siglip.prefix_tokens
        ),
        (TowerFamily::Siglip, 72, 3, 4, 269, 0)
    );
    assert_eq!(config.projector.layers, [544, 128, 128]);
    let llama = &config.llama;
    assert_eq!(
        (
            llama.hidden_size,
            llama.intermediate_size,
            llama.num_hidden_layers,
            llama.num_attention_heads,
            llama.num_key_value_heads,
            llama.head_dim
        ),
        (128, 344, 3, 4, 4, 32)
    );
    assert_eq!(
        (llama.rms_norm_eps, llama.rope_theta, llama.max_position_embeddings),
        (1e-6, 10_000.0, 2048)
    );
}

#[test]
fn tokenizer_equals_the_official_one() {
    let tokenizer = Tokenizer::open(&kit().join("ckpt")).unwrap();
    let cases = json("tokenizer_cases.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 28);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode_as_official(text).unwrap(), expected, "{text:?}");
    }
    assert_eq!(tokenizer.token(29_871).as_deref(), Some("▁"));
    assert_eq!((tokenizer.vocab_size(), tokenizer.id_end()), (32_001, 32_001));
}

#[test]
fn statistics_come_from_the_fine_tuned_file() {
    let stats = NormStats::open(&kit().join("ckpt")).unwrap();
    assert!(stats.path().ends_with("dataset_statistics.json"));
    assert_eq!(stats.keys().collect::<Vec<_>>(), ["bridge_orig", "nomask_5d", "tiny_all_true"]);
    let (key, bridge) = stats.select(Some("bridge_orig")).unwrap();
    assert_eq!((key, bridge.dim()), ("bridge_orig", 7));
    assert_eq!(bridge.mask, [true, true, true, true, true, true, false]);
    assert_eq!(bridge.q01[0], -0.018745226669766656);
    let (_, five) = stats.select(Some("nomask_5d")).unwrap();
    assert_eq!(five.mask, [true; 5]);
}
