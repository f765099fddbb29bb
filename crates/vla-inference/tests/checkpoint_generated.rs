//! Checkpoints of the random generator open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../examples/make_checkpoint/generate.rs"]
mod generate;

use std::path::Path;

use generate::{LlamaSize, Request, generate};
use vla_inference::checkpoint::Checkpoint;

fn request(out: &Path, seed: u64, shard_bytes: u64) -> Request {
    Request {
        out: out.to_owned(),
        template: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny/ckpt"),
        llama: LlamaSize { hidden: 64, layers: 2, heads: 4, kv_heads: 2, intermediate: 96 },
        tiny_towers: true,
        seed,
        shard_bytes,
    }
}

#[test]
fn sharded_checkpoint_opens_with_sane_weights() {
    let folder = tempfile::tempdir().unwrap();
    let report = generate(&request(&folder.path().join("new"), 1, 3_000_000)).unwrap();
    assert!(report.files > 2);
    let checkpoint = Checkpoint::open(&folder.path().join("new")).unwrap();
    let inventory = checkpoint.inventory();
    assert_eq!(
        (inventory.tensors, inventory.parameters, inventory.bytes),
        (report.tensors, report.parameters, report.bytes)
    );
    assert!(
        inventory.missing.is_empty()
            && inventory.misshapen.is_empty()
            && inventory.unexpected.is_empty()
    );
    assert_eq!(checkpoint.config.llama.kv_size(), 32);
    assert_eq!(checkpoint.norm_stats.keys().count(), 3);

    for file in checkpoint.weights.files() {
        let bytes = std::fs::read(file.path()).unwrap();
        // the format's own library reads it too
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), file.names().count());
    }
    for tensor in checkpoint.weights.tensors() {
        let values = tensor.as_bf16().unwrap(); // aligned
        assert!(values.iter().all(|value| value.is_finite()), "{}", tensor.name());
        if tensor.elements() >= 4096 && !tensor.name().ends_with("lm_head.weight") {
            let mean = values.iter().map(|value| value.to_f64()).sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|value| value.to_f64().powi(2)).sum::<f64>()
                / values.len() as f64;
            assert!(
                mean.abs() < 0.1 * variance.sqrt(),
                "{}: mean {mean}, variance {variance}",
                tensor.name()
            );
        }
    }
    let head = checkpoint.weights.expect("language_model.lm_head.weight", &[32_064, 64]).unwrap();
    let length = |row: usize| {
        head.as_bf16().unwrap()[row * 64..(row + 1) * 64]
            .iter()
            .map(|v| v.to_f32().powi(2))
            .sum::<f32>()
    };
    let mean =
        |rows: std::ops::Range<usize>| rows.clone().map(length).sum::<f32>() / rows.len() as f32;
    let (actions, words) = (mean(31_744..32_000), mean(0..31_744));
    assert!((actions / words - 16.0).abs() < 1.0, "{actions} and {words}");
    assert!(
        length(31_743) < 3.0 * words
            && length(32_000) < 3.0 * words
            && length(31_744) > 5.0 * words
    );
}

#[test]
fn weights_depend_on_the_seed_not_the_shards() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, seed, shard_bytes| {
        let out = folder.path().join(name);
        generate(&request(&out, seed, shard_bytes)).unwrap();
        Checkpoint::open(&out).unwrap().weights
    };
    let (one, many, other) =
        (open("one", 5, u64::MAX), open("many", 5, 1_000_000), open("other", 6, u64::MAX));
    assert_eq!((one.files().len(), many.files().len() > 3), (1, true));
    for tensor in one.tensors() {
        assert_eq!(tensor.bytes(), many.tensor(tensor.name()).unwrap().bytes());
        assert_ne!(tensor.bytes(), other.tensor(tensor.name()).unwrap().bytes());
    }
}

#[test]
fn used_folders_and_wrong_sizes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x"), "x").unwrap();
    let error = generate(&request(folder.path(), 1, 1)).map(|_| ()).unwrap_err();
    assert!(error.contains("not empty") && error.contains("new folder"), "{error}");
    let mut impossible = request(&folder.path().join("new"), 1, 1);
    impossible.llama.heads = 3;
    let error = generate(&impossible).map(|_| ()).unwrap_err();
    assert!(error.contains("num_attention_heads is 3"), "{error}");
}
