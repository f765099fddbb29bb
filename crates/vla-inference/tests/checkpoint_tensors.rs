//! The tensors expected for a configuration equal those of the published checkpoint, name by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;

use std::path::{Path, PathBuf};

use checkpoint_support::{edited, kit, kit_with, raw_file};
use vla_inference::checkpoint::{Checkpoint, ExpectedTensor, OpenVlaConfig};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

/// The sections REAL and TINY of the list, in order.
fn listed() -> [Vec<ExpectedTensor>; 2] {
    let text = std::fs::read_to_string(data().join("openvla_7b_keys.txt")).unwrap();
    let (real, tiny) = text.split_once("# TINY").unwrap();
    [real, tiny].map(|section| {
        section
            .lines()
            .filter(|line| line.contains("\tbfloat16"))
            .map(|line| {
                let mut columns = line.split('\t');
                let name = columns.next().unwrap().to_owned();
                let shape = serde_json::from_str(columns.next().unwrap()).unwrap();
                ExpectedTensor { name, shape, used: !line.contains("# unused") }
            })
            .collect()
    })
}

/// The published config.json, as far as it determines tensors; its `text_config` has no widths.
const PUBLISHED: &str = r#"{
    "model_type": "openvla", "llm_backbone_id": "llama2-7b-pure",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "image_resize_strategy": "resize-naive", "image_sizes": [224, 224],
    "n_action_bins": 256, "pad_to_multiple_of": 64,
    "pad_token_id": 32000, "timm_override_act_layers": [null, null],
    "use_fused_vision_backbone": true,
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "text_config": {
        "model_type": "llama", "pad_token_id": 32000, "torch_dtype": "bfloat16",
        "vocab_size": 32064
    }
}"#;

#[test]
fn the_published_checkpoint() {
    let config = OpenVlaConfig::from_json(Path::new("config.json"), PUBLISHED.as_bytes()).unwrap();
    let expected = config.expected_tensors();
    let [real, _] = listed();
    assert_eq!(real.len(), 982);
    for (ours, theirs) in expected.iter().zip(&real) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(expected.len(), real.len());
    assert_eq!(expected.iter().map(ExpectedTensor::parameters).sum::<u64>(), 7_541_237_184);
    let unused: Vec<&ExpectedTensor> = expected.iter().filter(|tensor| !tensor.used).collect();
    assert_eq!(unused.len(), 43);
    assert_eq!(unused.iter().map(|tensor| tensor.parameters()).sum::<u64>(), 43_080_480);
    assert_eq!(
        (config.llama.num_attention_heads, config.llama.num_key_value_heads, config.llama.head_dim),
        (32, 32, 128)
    );
    assert_eq!(
        config.towers.iter().map(|tower| (tower.num_heads, tower.head_dim())).collect::<Vec<_>>(),
        [(16, 64), (16, 72)]
    );
}

#[test]
fn backbone_name_replaces_missing_timm_names() {
    let mut json: serde_json::Value = serde_json::from_str(PUBLISHED).unwrap();
    let full =
        OpenVlaConfig::from_json(Path::new("config.json"), json.to_string().as_bytes()).unwrap();
    let map = json.as_object_mut().unwrap();
    for name in
        ["timm_model_ids", "image_sizes", "use_fused_vision_backbone", "timm_override_act_layers"]
    {
        map.remove(name);
    }
    map.insert("vision_backbone_id".into(), "dinosiglip-vit-so-224px".into());
    let derived =
        OpenVlaConfig::from_json(Path::new("config.json"), json.to_string().as_bytes()).unwrap();
    assert_eq!(derived, full);
}

#[test]
fn kit_holds_the_expected_tensors() {
    let checkpoint = Checkpoint::open(&data().join("openvla_tiny/ckpt")).unwrap();
    let [_, tiny] = listed();
    let expected = checkpoint.config.expected_tensors();
    for (ours, theirs) in expected.iter().zip(&tiny) {
        assert_eq!((&ours.name, &ours.shape), (&theirs.name, &theirs.shape));
    }
    assert_eq!(expected.len(), tiny.len());

    let inventory = checkpoint.inventory();
    assert_eq!(
        (inventory.tensors, inventory.bytes, inventory.parameters),
        (tiny.len(), 18_940_616, 9_470_308)
    );
    assert!(
        inventory.missing.is_empty()
            && inventory.misshapen.is_empty()
            && inventory.unexpected.is_empty()
    );
    assert_eq!(inventory.unused.len(), 43);
    assert_eq!(inventory.dtypes.into_iter().collect::<Vec<_>>(), [("BF16".to_owned(), tiny.len())]);
    let groups: Vec<&str> = inventory.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(
        groups,
        [
            "language_model.lm_head",
            "language_model.model",
            "projector.fc1",
            "projector.fc2",
            "projector.fc3",
            "vision_backbone.featurizer",
            "vision_backbone.fused_featurizer"
        ]
    );
    assert_eq!(
        inventory.groups.iter().map(|group| group.parameters).sum::<u64>(),
        inventory.parameters
    );
}

#[test]
fn kit_preprocessing_is_read() {
    let checkpoint = Checkpoint::open(&data().join("openvla_tiny/ckpt")).unwrap();
    let [dino, siglip] = checkpoint.preprocessor.towers.as_slice() else { panic!("two towers") };
    assert_eq!(
        (dino.size, dino.mean, dino.std),
        (224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    );
    assert_eq!((siglip.size, siglip.mean, siglip.std), (224, [0.5; 3], [0.5; 3]));
}

/// The published checkpoint's three shards in full size, as sparse files: opening and checking it
/// reads headers only.
#[test]
fn large_weights_open_without_reading() {
    let config = edited("config.json", |config| *config = serde_json::from_str(PUBLISHED).unwrap());
    let expected =
        OpenVlaConfig::from_json(Path::new("config.json"), &config).unwrap().expected_tensors();
    let statistics = std::fs::read(kit().join("dataset_statistics.json")).unwrap();
    let folder = kit_with(
        &[("config.json", config), ("dataset_statistics.json", statistics)],
        &[
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ],
    );
    let mut places = serde_json::Map::new();
    for (i, shard) in expected.chunks(expected.len().div_ceil(3)).enumerate() {
        let name = format!("model-0000{}-of-00003.safetensors", i + 1);
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for tensor in shard {
            let begin = end;
            end += 2 * tensor.parameters();
            let entry = serde_json::json!({
                "dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end],
            });
            header.insert(tensor.name.clone(), entry);
            places.insert(tensor.name.clone(), name.clone().into());
        }
        let bytes = raw_file(&serde_json::Value::Object(header).to_string(), 0);
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(bytes.len() as u64 + end).unwrap();
        // One element of each tensor differs from the zeros of a sparse file, which are refused.
        let mut begin = bytes.len() as u64;
        for tensor in shard {
            std::os::unix::fs::FileExt::write_all_at(&file, &[0x80, 0x3f], begin).unwrap();
            begin += 2 * tensor.parameters();
        }
    }
    let index = serde_json::json!({"weight_map": places}).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();

    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let inventory = checkpoint.inventory();
    assert_eq!(
        (inventory.tensors, inventory.parameters, inventory.bytes),
        (982, 7_541_237_184, 15_082_474_368)
    );
    assert_eq!((inventory.unused.len(), inventory.unused_parameters), (43, 43_080_480));
    assert!(
        inventory.missing.is_empty()
            && inventory.misshapen.is_empty()
            && inventory.unexpected.is_empty()
    );
    let last = checkpoint.weights.expect("language_model.lm_head.weight", &[32_064, 4096]).unwrap();
    assert_eq!(last.bytes().last(), Some(&0));
}
