//! Checkpoint folders whose files are not what they should be.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::checkpoint_support::{edited, kit, kit_with};
use super::program::{Input, Should, check};
use super::weights;

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
    oid sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\nsize 8292\n";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Inputs whose folders live as long as this.
#[derive(Default)]
struct Cases {
    folders: Vec<TempDir>,
    inputs: Vec<Input>,
}

impl Cases {
    /// The kit's checkpoint with these files over it, and these left out.
    fn kit(
        &mut self,
        name: &'static str,
        changed: &[(&str, Vec<u8>)],
        removed: &[&str],
        should: Should,
    ) -> &mut Input {
        let folder = kit_with(changed, removed);
        self.inputs.push(Input::checkpoint(name, folder.path(), should));
        self.folders.push(folder);
        self.inputs.last_mut().unwrap()
    }

    /// The kit's checkpoint with one file of these bytes, refused.
    fn file(&mut self, name: &'static str, file: &str, bytes: &[u8], parts: &'static [&str]) {
        self.kit(name, &[(file, bytes.to_vec())], &[], Should::Refuse(parts));
    }

    fn check(self) {
        check(&self.inputs);
    }
}

/// The kit's index with more tensors in a third shard.
fn third_shard(names: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let tensors: Vec<_> = names.iter().map(|name| weights::tensor(name, &[8, 128])).collect();
    let index = edited(INDEX, |index| {
        for name in names {
            index["weight_map"][*name] = json!("model-00003-of-00003.safetensors");
        }
    });
    vec![("model-00003-of-00003.safetensors", weights::bytes(&tensors)), (INDEX, index)]
}

/// A shard of the kit with its tensors changed.
fn shard(file: &str, mut change: impl FnMut(&mut weights::Tensor)) -> Vec<u8> {
    let mut tensors = weights::read(&kit().join(file));
    tensors.iter_mut().for_each(&mut change);
    weights::bytes(&tensors)
}

/// A text file of the kit with a text replaced.
fn replaced(file: &str, from: &str, to: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(kit().join(file)).unwrap();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn siblings_and_adapters_are_not_run_as_openvla() {
    let mut cases = Cases::default();
    let parts = ["action_head--150000_checkpoint.pt", "proprio_projector--150000_checkpoint.pt"];
    let oft: &[&str] = &["OpenVLA-OFT", "action_head--150000_checkpoint.pt: is empty"];
    cases.kit("oft_parts_empty", &parts.map(|name| (name, vec![])), &[], Should::Refuse(oft));
    cases.file("adapter_config", "adapter_config.json", b"{}", &["may or may not contain it"]);
    let lora = "language_model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let unmerged: &[&str] = &["a LoRA adapter that is not merged"];
    cases.kit("lora_tensors", &third_shard(&[lora]), &[], Should::Refuse(unmerged));
    let base = "language_model.model.layers.0.self_attn.q_proj.base_layer.weight";
    cases.kit("peft_base_layer", &third_shard(&[base]), &[], Should::Refuse(unmerged));
    let head = third_shard(&["state_encoder.weight"]);
    cases.kit("unread_tensor", &head, &[], Should::Refuse(&["1 tensors that OpenVLA has not"]));
    let harmless = ["value_head.weight", "language_model.model.rotary_emb.inv_freq"];
    cases.kit("value_head", &third_shard(&harmless), &[], Should::Act(""));
    cases.file("univla_decoder", "action_decoder.pt", b"PK\x03\x04", &["UniVLA"]);
    let tokens = edited("tokenizer.json", |json| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added.last().unwrap().clone();
        token["id"] = json!(32001);
        token["content"] = json!("<ACT_0>");
        added.push(token);
    });
    cases.file("univla_tokens", "tokenizer.json", &tokens, &["the added token \"<ACT_0>\""]);
    let config = |change: fn(&mut Value)| edited("config.json", change);
    let class = config(|c| c["architectures"] = json!(["PrismaticForConditionalGeneration"]));
    cases.file("other_architecture", "config.json", &class, &["architectures is ["]);
    let chunk = config(|c| c["num_actions_chunk"] = json!(8));
    cases.file("chunk_field", "config.json", &chunk, &["num_actions_chunk is 8"]);
    let minivla = config(|c| c["image_sequence_len"] = json!(2));
    cases.file("two_images_field", "config.json", &minivla, &["image_sequence_len is 2"]);
    let smolvla = br#"{"type": "smolvla", "chunk_size": 50}"#;
    cases.file("lerobot_smolvla", "config.json", smolvla, &["this policy of LeRobot"]);
    let prismatic = br#"{"vla": {"vla_id": "x", "base_vlm": "y"}, "run_id": "z"}"#;
    cases.file("prismatic_run", "config.json", prismatic, &["convert_openvla_weights_to_hf.py"]);
    cases.check();
}

#[test]
fn weights_that_did_not_arrive_are_refused() {
    let mut cases = Cases::default();
    let constant: &[&str] = &["at every place looked at"];
    let zeros = shard(SECOND, |tensor| tensor.data.fill(0));
    cases.file("zero_shard", SECOND, &zeros, constant);
    let one = shard(FIRST, |tensor| {
        if tensor.name.ends_with("layers.0.self_attn.q_proj.weight") {
            let value: Vec<u8> = [0x0a, 0x3c].repeat(tensor.data.len() / 2);
            tensor.data = value;
        }
    });
    cases.file("one_constant_matrix", FIRST, &one, constant);
    // Constant as before training, which is no fault: norms of ones, biases of zeros.
    let fresh = shard(SECOND, |tensor| {
        if tensor.name == "vision_backbone.fused_featurizer.attn_pool.latent" {
            tensor.data.fill(0);
        }
    });
    cases.kit("unused_tensor_zero", &[(SECOND, fresh)], &[], Should::Act(""));
    cases.file("shard_is_zeros", FIRST, &[0; 4096], &["begins with zeros only"]);
    cases.file("config_is_zeros", "config.json", &[0; 4096], &["begins with zeros only"]);
    let cut = std::fs::read(kit().join(FIRST)).unwrap();
    let cut = &cut[..cut.len() / 2];
    cases.file("shard_cut", FIRST, cut, &["truncated or damaged, download it again"]);
    cases.check();
}

#[test]
fn vocabularies_that_do_not_fit_are_refused() {
    let mut cases = Cases::default();
    let rows = |tensor: &mut weights::Tensor| {
        if tensor.shape.first() == Some(&32_064) {
            tensor.data.truncate(tensor.data.len() / 32_064 * 32_001);
            tensor.shape[0] = 32_001;
        }
    };
    let config =
        edited("config.json", |config| config["text_config"]["vocab_size"] = 32_001.into());
    let files =
        [(FIRST, shard(FIRST, rows)), (SECOND, shard(SECOND, rows)), ("config.json", config)];
    let shifted: &[&str] = &["every action would be shifted"];
    cases.kit("vocabulary_32001", &files, &[], Should::Refuse(shifted));
    let padded = edited("config.json", |config| config["pad_to_multiple_of"] = 128.into());
    cases.file("padding_128", "config.json", &padded, shifted);
    cases.check();
}

#[test]
fn files_that_are_something_else_are_named() {
    let mut cases = Cases::default();
    let lfs: &[&str] = &["is a Git LFS pointer"];
    for (name, file) in [
        ("lfs_config", "config.json"),
        ("lfs_shard", FIRST),
        ("lfs_tokenizer", "tokenizer.json"),
        ("lfs_index", INDEX),
        ("lfs_statistics", "dataset_statistics.json"),
        ("lfs_tokenizer_config", "tokenizer_config.json"),
    ] {
        cases.file(name, file, LFS, lfs);
    }
    let page = b"<!DOCTYPE html>\n<html lang=\"en\"><head><title>Sign in</title>";
    cases.file("html_config", "config.json", page, &["is a web page"]);
    cases.file("html_shard", FIRST, page, &["is a web page"]);
    let denied = b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>";
    cases.file("xml_tokenizer", "tokenizer.json", denied, &["is an XML document"]);
    cases.file("not_found_text", "config.json", b"Entry not found", &["was not found"]);
    let gated = b"Access to model openvla/openvla-7b is restricted.";
    cases.file("gated_text", "config.json", gated, &["a server's refusal"]);
    let answer = br#"{"error": "Repository not found"}"#;
    cases.file("error_json", "config.json", answer, &["a server's refusal"]);
    cases.file("pickle_shard", FIRST, b"\x80\x02}q\x00.", &["a Python pickle"]);
    cases.file("zip_shard", FIRST, b"PK\x03\x04\0\0\0\0\0\0", &["a PyTorch file"]);
    cases.file("gzip_tokenizer", "tokenizer.json", b"\x1f\x8b\x08\0\0\0\0\0", &["gzip"]);
    cases.file("utf16_config", "config.json", b"\xff\xfe{\0}\0", &["UTF-16"]);
    cases.file("empty_config", "config.json", b"", &["is empty"]);
    let marked = [b"\xef\xbb\xbf", &std::fs::read(kit().join("config.json")).unwrap()[..]].concat();
    cases.kit("byte_order_mark", &[("config.json", marked)], &[], Should::Act(""));
    cases.check();
}

#[test]
fn weights_of_other_formats_are_named() {
    let mut cases = Cases::default();
    let all = [FIRST, SECOND, INDEX];
    let pickled: &[&str] = &["save_pretrained(safe_serialization=True)"];
    let file = |name| [(name, b"\x80\x02.".to_vec())];
    let files = file("pytorch_model.bin");
    cases.kit("pytorch_bin_only", &files, &all, Should::Refuse(pickled));
    let files = file("pytorch_model-00001-of-00002.bin");
    cases.kit("pytorch_bin_shards", &files, &all, Should::Refuse(pickled));
    cases.kit("gguf", &file("model.Q4.gguf"), &all, Should::Refuse(&["GGUF"]));
    cases.kit("flax", &file("flax_model.msgpack"), &all, Should::Refuse(&["JAX or TensorFlow"]));
    let index: &[&str] = &["shards lie here without model.safetensors.index.json"];
    cases.kit("shards_without_index", &[], &[INDEX], Should::Refuse(index));
    let unfinished: &[&str] = &["the download did not finish"];
    let input = cases.kit("shard_incomplete", &[], &[SECOND], Should::Refuse(unfinished));
    let parts = std::path::Path::new(&input.checkpoint).join(".cache/huggingface/download");
    std::fs::create_dir_all(&parts).unwrap();
    std::fs::write(parts.join("abc.incomplete"), b"").unwrap();
    cases.check();
}

#[test]
fn files_of_transformers_5_are_read() {
    let mut cases = Cases::default();
    let config = edited("config.json", |config| {
        let map = config.as_object_mut().unwrap();
        let dtype = map.remove("torch_dtype").unwrap();
        map.insert("dtype".into(), dtype);
        map.insert("tie_word_embeddings".into(), json!(false));
        map.insert("transformers_version".into(), json!("5.3.0"));
        let text = &mut config["text_config"];
        text["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
        text["layer_types"] = Value::Null;
    });
    let pixels: Value =
        serde_json::from_slice(&std::fs::read(kit().join("preprocessor_config.json")).unwrap())
            .unwrap();
    let processor = |change: fn(&mut Value)| {
        let mut pixels = pixels.clone();
        change(&mut pixels);
        let whole = json!({"image_processor": pixels, "processor_class": "PrismaticProcessor"});
        ("processor_config.json", serde_json::to_vec(&whole).unwrap())
    };
    let files = [("config.json", config), processor(|_| {})];
    cases.kit("transformers5", &files, &["preprocessor_config.json"], Should::Act(""));
    cases.kit("both_processors", &[processor(|_| {})], &[], Should::Act(""));
    let differ: &[&str] = &["not what preprocessor_config.json says"];
    let other = processor(|pixels| {
        pixels["means"][0] = json!([0.5, 0.5, 0.5]);
        pixels["tvf_normalize_params"] = Value::Null;
    });
    cases.kit("processors_differ", &[other], &[], Should::Refuse(differ));
    cases.check();
}

#[test]
fn numbers_that_are_not_finite_stop_only_their_data_set() {
    let mut cases = Cases::default();
    let stats = |name: &str, from: &str, to: &str| {
        let mut all: Value =
            serde_json::from_slice(&std::fs::read(kit().join("dataset_statistics.json")).unwrap())
                .unwrap();
        all["my_robot"] = all["bridge_orig"].clone();
        all["my_robot"]["action"][name][2] = json!(from);
        let text = all.to_string();
        vec![("dataset_statistics.json", text.replacen(&format!("\"{from}\""), to, 1).into_bytes())]
    };
    let nan = stats("std", "X", "NaN");
    cases.kit("nan_elsewhere", &nan, &[], Should::Act(""));
    let input = cases.kit("nan_selected", &nan, &[], Should::Refuse(&["action.std[2] is NaN"]));
    (input.unnorm_key, input.everywhere) = ("my_robot", false);
    let infinite = stats("q99", "X", "-Infinity");
    let refused: &[&str] = &["my_robot.action.q99[2] is \"-Infinity\": must be a finite number"];
    let input = cases.kit("infinity_selected", &infinite, &[], Should::Refuse(refused));
    (input.unnorm_key, input.everywhere) = ("my_robot", false);
    let config = replaced("config.json", "\"norm_stats\"", "\"loss\": NaN, \"norm_stats\"");
    cases.kit("nan_in_config", &[("config.json", config)], &[], Should::Act(""));
    cases.check();
}

#[test]
fn special_tokens_are_those_of_tokenizer_config() {
    let mut cases = Cases::default();
    let config = |change: fn(&mut Value)| {
        vec![("tokenizer_config.json", edited("tokenizer_config.json", change))]
    };
    // "In: What action should the robot take to pick up the block?\nOut:" and the empty word.
    let prompt: [u32; 18] = [
        512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304, 5839, 701, 278, 2908, 29973, 13, 3744,
        29901, 29871,
    ];
    let body = &prompt[..17];
    let without = config(|c| c["add_bos_token"] = json!(false));
    cases.kit("without_bos", &without, &[], Should::Read(prompt.to_vec(), ""));
    let null = config(|c| c["add_bos_token"] = Value::Null);
    cases.kit("bos_null", &null, &[], Should::Read(prompt.to_vec(), ""));
    let ends = [&[1], body, &[2, 29871]].concat();
    let with_end = config(|c| c["add_eos_token"] = json!(true));
    cases.kit("with_eos", &with_end, &[], Should::Read(ends, ""));
    let other = [&[0], &prompt[..]].concat();
    let object = config(|c| c["bos_token"] = json!({"content": "<unk>", "lstrip": false}));
    cases.kit("other_bos", &object, &[], Should::Read(other, ""));
    let unknown = config(|c| c["bos_token"] = json!("<|begin_of_text|>"));
    let should = Should::Refuse(&["has no token \"<|begin_of_text|>\""]);
    cases.kit("unknown_bos", &unknown, &[], should);
    cases.kit("without_tokenizer_config", &[], &["tokenizer_config.json"], Should::Act(""));
    cases.check();
}
