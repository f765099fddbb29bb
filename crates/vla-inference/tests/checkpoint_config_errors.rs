//! Every error of config.json, the statistics, the preprocessor or the tokenizer is one line with
//! file, field, value and remedy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;

use std::path::Path;

use checkpoint_support::{edited, kit, kit_with, one_line_with};
use serde_json::{Value, json};
use vla_inference::checkpoint::{
    Checkpoint, CheckpointError, MAX_TEXT_BYTES, NormStats, OpenVlaConfig, PreprocessorConfig,
    Tokenizer, WeightIndex,
};

/// The error of the kit's config.json with `value` at `pointer`.
fn config(pointer: &str, value: Value, parts: &[&str]) {
    let bytes = edited("config.json", |config| set(config, pointer, value));
    let error = OpenVlaConfig::from_json(Path::new("dir/config.json"), &bytes)
        .map(|_| "accepted")
        .unwrap_err();
    one_line_with(error, &[&["dir/config.json"], parts].concat());
}

/// Sets, or with `null` removes, the value at a path of keys and numbers.
fn set(root: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = root.pointer_mut(parent).unwrap();
    match parent {
        Value::Object(map) if value.is_null() => drop(map.remove(name)),
        Value::Object(map) => drop(map.insert(name.to_owned(), value)),
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer} has no parent"),
    }
}

#[test]
fn missing_files() {
    let cases = [
        ("config.json", "Hugging Face"),
        ("preprocessor_config.json", "copy it from the original checkpoint"),
        ("tokenizer.json", "save_pretrained"),
        ("model-00001-of-00002.safetensors", "download the missing shard"),
        ("model.safetensors.index.json", "copy it from the original checkpoint"),
    ];
    for (name, remedy) in cases {
        let folder = kit_with(&[], &[name]);
        let error = Checkpoint::open(folder.path()).unwrap_err();
        let shown = if name.starts_with("model.safetensors") { "model.safetensors" } else { name };
        one_line_with(error, &[shown, folder.path().to_str().unwrap(), remedy]);
    }
    let gone = Path::new("/nonexistent/checkpoint");
    one_line_with(
        Checkpoint::open(gone).unwrap_err(),
        &["/nonexistent/checkpoint", "not a folder", "config.json"],
    );
}

#[test]
fn not_json() {
    for (name, bytes) in [
        ("config.json", "{\"model_type\":"),
        ("config.json", ""),
        ("config.json", "[1]"),
        ("tokenizer.json", "{}"),
    ] {
        let folder = kit_with(&[(name, bytes.into())], &[]);
        one_line_with(
            Checkpoint::open(folder.path()).unwrap_err(),
            &[name, "restore the file from the original checkpoint"],
        );
    }
}

#[test]
fn a_file_too_large_for_its_kind() {
    let folder = kit_with(&[("config.json", Vec::new())], &[]);
    // Sparse: no disk space is used.
    std::fs::File::options()
        .write(true)
        .open(folder.path().join("config.json"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    one_line_with(
        Checkpoint::open(folder.path()).unwrap_err(),
        &["config.json", "1099511627776 bytes", "16777216"],
    );
}

#[test]
fn another_model() {
    config("/model_type", json!("llava"), &["model_type is \"llava\"", "\"openvla\""]);
    config("/model_type", Value::Null, &["model_type is missing"]);
    config(
        "/text_config/model_type",
        json!("mistral"),
        &["text_config.model_type is \"mistral\"", "only Llama"],
    );
    config(
        "/llm_backbone_id",
        json!("phi-2-3b"),
        &["llm_backbone_id is \"phi-2-3b\"", "llama2-*-pure"],
    );
    config("/llm_backbone_id", Value::Null, &["llm_backbone_id is missing", "\"vicuna-v15-7b\""]);
    config(
        "/timm_model_ids/1",
        json!("vit_so400m_patch14_siglip_384"),
        &["timm_model_ids", "vit_so400m_patch14_siglip_384", "not implemented"],
    );
    config(
        "/arch_specifier",
        json!("no-align+linear"),
        &["arch_specifier is \"no-align+linear\"", "fused-gelu-mlp"],
    );
}

#[test]
fn unimplemented_arithmetic_is_refused() {
    config(
        "/text_config/rope_scaling",
        json!({"type": "linear", "factor": 2.0}),
        &["text_config.rope_scaling", "changes the arithmetic"],
    );
    config(
        "/text_config/rope_parameters",
        json!({"rope_type": "llama3"}),
        &["rope_parameters.rope_type is \"llama3\"", "changes"],
    );
    config(
        "/text_config/rope_parameters",
        json!({"rope_type": "default", "factor": 8.0}),
        &["rope_parameters.factor is 8.0"],
    );
    config(
        "/text_config/attention_bias",
        json!(true),
        &["text_config.attention_bias is true", "changes the arithmetic"],
    );
    config("/text_config/mlp_bias", json!(true), &["text_config.mlp_bias is true"]);
    config("/text_config/hidden_act", json!("gelu"), &["text_config.hidden_act is \"gelu\""]);
    config(
        "/text_config/tie_word_embeddings",
        json!(true),
        &["text_config.tie_word_embeddings is true", "untied"],
    );
    config("/text_config/sliding_window", json!(4096), &["text_config.sliding_window is 4096"]);
    config(
        "/quantization_config",
        json!({"load_in_4bit": true}),
        &["quantization_config", "bfloat16"],
    );
    config(
        "/timm_override_act_layers/0",
        json!("quick_gelu"),
        &["timm_override_act_layers is \"quick_gelu\"", "GELU"],
    );
    config(
        "/image_resize_strategy",
        json!("letterbox"),
        &["image_resize_strategy is \"letterbox\"", "\"resize-naive\""],
    );
}

#[test]
fn dimensions_out_of_range_or_inconsistent() {
    config("/text_config/hidden_size", json!(0), &["text_config.hidden_size is 0", "8 to 65536"]);
    config("/text_config/hidden_size", json!(-1), &["text_config.hidden_size is -1"]);
    config("/text_config/hidden_size", json!(128.5), &["text_config.hidden_size is 128.5"]);
    config("/text_config/hidden_size", json!("128"), &["text_config.hidden_size is \"128\""]);
    config(
        "/text_config/hidden_size",
        json!(130),
        &["num_attention_heads is 4", "divide hidden_size 130"],
    );
    config(
        "/text_config/hidden_size",
        json!(132),
        &["num_attention_heads is 4", "33 wide", "even"],
    );
    config("/text_config/num_attention_heads", json!(0), &["num_attention_heads is 0"]);
    config(
        "/text_config/num_key_value_heads",
        json!(3),
        &["num_key_value_heads is 3", "divide num_attention_heads 4"],
    );
    config("/text_config/num_key_value_heads", json!(0), &["num_key_value_heads is 0"]);
    config(
        "/text_config/head_dim",
        json!(64),
        &["head_dim is 64", "hidden_size / num_attention_heads = 32"],
    );
    config("/text_config/num_hidden_layers", json!(0), &["num_hidden_layers is 0"]);
    config(
        "/text_config/num_hidden_layers",
        json!(1_000_000),
        &["num_hidden_layers is 1000000", "512"],
    );
    config(
        "/text_config/vocab_size",
        json!(64),
        &["pad_to_multiple_of is 64", "256 action tokens", "vocabulary of 64"],
    );
    config("/text_config/vocab_size", json!(4_000_000_000_u64), &["vocab_size is 4000000000"]);
    config("/text_config/rms_norm_eps", json!(0.0), &["rms_norm_eps is 0.0"]);
    config("/text_config/rope_theta", json!(-1), &["rope_theta is -1"]);
    config(
        "/text_config/max_position_embeddings",
        json!(256),
        &["max_position_embeddings is 256", "256 patches"],
    );
    config("/text_config", json!([]), &["text_config is []", "an object"]);
    config("/n_action_bins", json!(1), &["n_action_bins is 1"]);
    config("/pad_token_id", json!(40_000), &["pad_token_id is 40000"]);
    config("/image_sizes", json!([224]), &["image_sizes is [224]", "2 equal multiples of 14"]);
    config("/image_sizes", json!([224, 225]), &["image_sizes is [224, 225]"]);
    config("/image_sizes", json!([224, 238]), &["image_sizes is [224, 238]"]);
    config(
        "/use_fused_vision_backbone",
        json!(false),
        &["timm_model_ids is a list of 2", "needs 1"],
    );
    config("/timm_model_ids", json!([]), &["timm_model_ids is a list of 0"]);
    config(
        "/tiny_timm_overrides",
        json!([{}]),
        &["tiny_timm_overrides is a list of 1", "2 timm_model_ids"],
    );
    config(
        "/tiny_timm_overrides/1/num_heads",
        json!(5),
        &["tiny_timm_overrides[1].num_heads is 5", "divide embed_dim 72"],
    );
    config("/tiny_timm_overrides/0/depth", json!(1), &["tiny_timm_overrides[0].depth is 1"]);
    config(
        "/tiny_timm_overrides/0/mlp_ratio",
        json!(2),
        &["tiny_timm_overrides[0].mlp_ratio", "embed_dim, depth and num_heads"],
    );
}

#[test]
fn fields_that_are_present_win() {
    let read = |pointer: &str, value: Value| {
        let bytes = edited("config.json", |config| set(config, pointer, value));
        OpenVlaConfig::from_json(Path::new("config.json"), &bytes).unwrap()
    };
    assert_eq!(read("/text_config/rms_norm_eps", json!(1e-5)).llama.rms_norm_eps, 1e-5);
    assert_eq!(read("/text_config/rope_theta", json!(5e5)).llama.rope_theta, 5e5);
    let parameters = json!({"rope_type": "default", "rope_theta": 20000.0});
    assert_eq!(read("/text_config/rope_parameters", parameters).llama.rope_theta, 2e4);
    assert_eq!(read("/text_config/num_key_value_heads", json!(2)).llama.kv_size(), 64);
    assert_eq!(read("/text_config/num_key_value_heads", Value::Null).llama.num_key_value_heads, 4);
    assert_eq!(
        read("/llm_backbone_id", json!("vicuna-v15-7b")).prompt,
        vla_inference::checkpoint::PromptStyle::Vicuna
    );
}

/// The error of selecting `key` in a dataset_statistics.json with `value` at `pointer`.
fn stats(pointer: &str, value: Value, key: Option<&str>, parts: &[&str]) {
    let bytes = edited("dataset_statistics.json", |stats| {
        if !pointer.is_empty() {
            set(stats, pointer, value);
        }
    });
    let stats =
        NormStats::from_statistics_json(Path::new("dir/dataset_statistics.json"), &bytes).unwrap();
    let error = stats.select(key).map(|_| "accepted").unwrap_err();
    one_line_with(error, &[&["dir/dataset_statistics.json"], parts].concat());
}

#[test]
fn unnorm_key_unknown_or_ambiguous() {
    let all = ["\"bridge_orig\", \"nomask_5d\", \"tiny_all_true\""];
    stats(
        "",
        Value::Null,
        Some("bridge"),
        &[&["unnorm_key \"bridge\"", "choose one of"], &all[..]].concat(),
    );
    stats(
        "",
        Value::Null,
        None,
        &[&["unnorm_key is not set", "3 sets", "choose one of"], &all[..]].concat(),
    );
    stats("", Value::Null, Some(""), &["unnorm_key is not set"]);
    stats("", Value::Null, Some("x\ny"), &["\"x\\ny\""]);
    let one = edited("dataset_statistics.json", |stats| {
        set(stats, "/bridge_orig", Value::Null);
        set(stats, "/nomask_5d", Value::Null);
    });
    let one = NormStats::from_statistics_json(Path::new("s.json"), &one).unwrap();
    assert_eq!(one.select(None).unwrap().0, "tiny_all_true");
    assert_eq!(one.select(Some("")).unwrap().0, "tiny_all_true");
}

#[test]
fn statistics_of_the_wrong_width_or_value() {
    let key = Some("bridge_orig");
    let at = |field: &str| format!("/bridge_orig/action/{field}");
    stats(
        &at("q99"),
        json!([1.0, 2.0]),
        key,
        &["bridge_orig.action.q99 is 2 values wide", "q01 is 7 wide", "restore"],
    );
    stats(
        &at("mask"),
        json!([true]),
        key,
        &["bridge_orig.action.mask is 1 values wide", "q01 is 7 wide"],
    );
    stats(
        &at("mask"),
        json!([1, 1, 1, 1, 1, 1, 1]),
        key,
        &["bridge_orig.action.mask is [1,", "true and false"],
    );
    stats(&at("q01"), json!([]), key, &["bridge_orig.action.q01 is 0 values wide", "1 to 256"]);
    stats(&at("q01"), json!(vec![0; 257]), key, &["q01 is 257 values wide"]);
    stats(&at("q01"), json!("x"), key, &["q01 is \"x\"", "list of numbers"]);
    stats(&at("q01"), Value::Null, key, &["q01 is missing", "mean and std"]);
    stats(&at("q99/2"), json!(-5.0), key, &["bridge_orig.action.q99[2] is -5", "q01[2] = -0.0112"]);
    stats(&at("q99/2"), json!("nan"), key, &["q99[2] is \"nan\"", "finite"]);
    stats("/bridge_orig/action", Value::Null, key, &["bridge_orig.action is missing"]);
    stats("/bridge_orig", json!(3), key, &["bridge_orig.action is missing"]);
}

/// One broken data set does not affect the others.
#[test]
fn a_broken_data_set_stops_only_its_users() {
    let bytes = edited("dataset_statistics.json", |stats| {
        set(stats, "/bridge_orig/action/q99", json!([1.0]))
    });
    let stats = NormStats::from_statistics_json(Path::new("s.json"), &bytes).unwrap();
    assert_eq!(stats.select(Some("nomask_5d")).unwrap().1.dim(), 5);
    assert_eq!(stats.entries().filter(|(_, entry)| entry.is_err()).count(), 1);
}

#[test]
fn statistics_absent_empty_or_not_finite() {
    let path = Path::new("dir/config.json");
    let without = edited("config.json", |config| set(config, "/norm_stats", Value::Null));
    one_line_with(
        NormStats::from_config_json(path, &without).unwrap_err(),
        &["norm_stats is missing", "dataset_statistics.json"],
    );
    let empty = edited("config.json", |config| set(config, "/norm_stats", json!({})));
    one_line_with(NormStats::from_config_json(path, &empty).unwrap_err(), &["norm_stats is empty"]);
    let nan = br#"{"a": {"action": {"q01": [NaN], "q99": [1.0]}}}"#;
    // As Python writes it: only selecting this data set fails.
    let stats = NormStats::from_statistics_json(Path::new("s.json"), nan).unwrap();
    one_line_with(stats.select(None).unwrap_err(), &["s.json", "a.action.q01[0] is \"NaN\""]);
    let huge = br#"{"a": {"action": {"q01": [0], "q99": [1e999]}}}"#;
    one_line_with(
        NormStats::from_statistics_json(Path::new("s.json"), huge).unwrap_err(),
        &["s.json", "out of range"],
    );
    let twice = br#"{
        "a": {"action": {"q01": [0], "q99": [1]}}, "a": {"action": {"q01": [0], "q99": [2]}}
    }"#;
    one_line_with(
        NormStats::from_statistics_json(Path::new("s.json"), twice).unwrap_err(),
        &["\"a\" is listed twice"],
    );
}

#[test]
fn fine_tuned_statistics_take_precedence() {
    let folder = kit_with(&[], &["dataset_statistics.json"]);
    let base = NormStats::open(folder.path()).unwrap();
    assert!(base.path().ends_with("config.json"));
    assert_eq!(base.keys().count(), 3);

    let tuned =
        json!({"libero": {"action": {"q01": [0.0], "q99": [1.0]}}}).to_string().into_bytes();
    let folder = kit_with(&[("dataset_statistics.json", tuned)], &[]);
    let tuned = NormStats::open(folder.path()).unwrap();
    assert_eq!(tuned.select(None).unwrap().0, "libero");
    one_line_with(
        tuned.select(Some("bridge_orig")).unwrap_err(),
        &[
            "dataset_statistics.json",
            "\"bridge_orig\"",
            "choose one of \"libero\"",
            "config.json lists it",
            "replaces",
        ],
    );
}

/// A download that left a link to nowhere must not silently un-normalise with the base model's
/// statistics.
#[test]
fn a_dangling_link_is_not_an_absent_file() {
    let shard = "model-00001-of-00002.safetensors";
    for name in ["dataset_statistics.json", "model.safetensors.index.json", shard] {
        let folder = kit_with(&[], &[name]);
        std::os::unix::fs::symlink("../blobs/gone", folder.path().join(name)).unwrap();
        one_line_with(
            Checkpoint::open(folder.path()).unwrap_err(),
            &[
                name,
                "is a link to \"../blobs/gone\", which does not exist",
                "run hf download again",
            ],
        );
    }
}

/// The error of the kit's preprocessor_config.json with `value` at `pointer`.
fn pixels(pointer: &str, value: Value, parts: &[&str]) {
    let bytes = edited("preprocessor_config.json", |config| set(config, pointer, value));
    let path = Path::new("dir/preprocessor_config.json");
    let error = PreprocessorConfig::from_json(path, &bytes).map(|_| "accepted").unwrap_err();
    one_line_with(error, &[&["dir/preprocessor_config.json"], parts].concat());
}

#[test]
fn preprocessing_that_is_not_implemented() {
    pixels(
        "/image_resize_strategy",
        json!("resize-crop"),
        &["image_resize_strategy is \"resize-crop\"", "\"resize-naive\""],
    );
    pixels("/tvf_do_letterbox", json!(true), &["tvf_do_letterbox is true", "letterboxing"]);
    pixels(
        "/interpolations/1",
        json!("bilinear"),
        &["interpolations[1] is \"bilinear\"", "only \"bicubic\""],
    );
    pixels(
        "/tvf_resize_params/0/interpolation",
        json!(2),
        &["tvf_resize_params[0].interpolation is 2", "only \"bicubic\" (3)"],
    );
    pixels(
        "/tvf_resize_params/0/antialias",
        json!(false),
        &["tvf_resize_params[0].antialias is false"],
    );
    pixels("/tvf_resize_params/1/max_size", json!(640), &["tvf_resize_params[1].max_size is 640"]);
    pixels(
        "/tvf_resize_params/1/size",
        json!([256, 256]),
        &["tvf_resize_params[1].size is [256, 256]", "input_sizes is 224"],
    );
    pixels(
        "/tvf_crop_params/0/output_size",
        json!([200, 200]),
        &["tvf_crop_params[0].output_size is [200, 200]"],
    );
    pixels("/tvf_crop_params", json!([]), &["tvf_crop_params is []", "for each tower"]);
    pixels(
        "/tvf_normalize_params/0/mean",
        json!([0.5, 0.5, 0.5]),
        &["tvf_normalize_params[0].mean", "means[0] is [0.485"],
    );
    pixels(
        "/input_sizes/0",
        json!([3, 224, 225]),
        &["input_sizes[0] is [3, 224, 225]", "[3, side, side]"],
    );
    pixels("/input_sizes/0", json!([1, 224, 224]), &["input_sizes[0] is [1, 224, 224]"]);
    pixels(
        "/input_sizes/0",
        json!([3, 9000, 9000]),
        &["input_sizes[0] is [3, 9000, 9000]", "4096"],
    );
    pixels("/input_sizes", Value::Null, &["input_sizes is missing"]);
    pixels("/input_sizes", json!([]), &["input_sizes is a list of 0"]);
    pixels("/means", json!([[0.5, 0.5, 0.5]]), &["means is a list of 1", "input_sizes has 2"]);
    pixels("/means/0", json!([0.5, 0.5]), &["means[0] is [0.5, 0.5]", "three numbers"]);
    pixels("/stds/1", json!([0.5, 0.0, 0.5]), &["stds[1] is [0.5, 0.0, 0.5]", "0.0001 to 10"]);
    let other = edited("config.json", |config| set(config, "/image_sizes", json!([280, 280])));
    let folder = kit_with(&[("config.json", other)], &[]);
    one_line_with(
        Checkpoint::open(folder.path()).unwrap_err(),
        &["preprocessor_config.json", "input_sizes is [224, 224]", "[280, 280]", "one checkpoint"],
    );
}

#[test]
fn a_tokenizer_of_another_model() {
    // Without tokenizer_config.json the template of tokenizer.json decides.
    let open = |edit: fn(&mut Value)| {
        let changed = [("tokenizer.json", edited("tokenizer.json", edit))];
        let folder = kit_with(&changed, &["tokenizer_config.json"]);
        Checkpoint::open(folder.path()).map(|_| "accepted").unwrap_err()
    };
    one_line_with(
        open(|json| set(json, "/post_processor", Value::Null)),
        &["tokenizer.json", "begins with token", "<s>"],
    );
    one_line_with(
        open(|json| set(json, "/post_processor/special_tokens", json!({}))),
        &["tokenizer.json", "post_processor uses \"<s>\" without defining it", "restore"],
    );
    let swapped = open(|json| {
        let vocabulary = json.pointer_mut("/model/vocab").unwrap().as_object_mut().unwrap();
        vocabulary.insert("▁".to_owned(), json!(29_900));
        vocabulary.insert("other".to_owned(), json!(29_871));
    });
    one_line_with(swapped, &["tokenizer.json", "token 29871 is", "empty word", "same checkpoint"]);
    // A vocabulary of another size may have it anywhere, but must have it.
    let config = edited("config.json", |json| set(json, "/pad_to_multiple_of", json!(65)));
    let renamed = |edit: fn(&mut Value)| {
        let folder = kit_with(
            &[("tokenizer.json", edited("tokenizer.json", edit)), ("config.json", config.clone())],
            &[],
        );
        Checkpoint::open(folder.path())
    };
    let moved = renamed(|json| {
        let vocabulary = json.pointer_mut("/model/vocab").unwrap().as_object_mut().unwrap();
        vocabulary.insert("▁".to_owned(), json!(29_900));
        // The last word: the action tokens end where the words do.
        vocabulary.remove("给").unwrap();
    });
    assert_eq!(moved.unwrap().tokenizer.empty_word(), Some(29_900));
    let lost = renamed(|json| {
        let vocabulary = json!([["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]);
        set(
            json,
            "/model",
            json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": vocabulary}),
        );
    });
    one_line_with(lost.unwrap_err(), &["tokenizer.json", "no empty word", "same checkpoint"]);
    let beyond = open(|json| {
        drop(
            json.pointer_mut("/model/vocab")
                .unwrap()
                .as_object_mut()
                .unwrap()
                .insert("new".into(), json!(99_999)),
        )
    });
    one_line_with(beyond, &["tokenizer.json", "up to 99999", "32064 rows"]);
}

#[test]
fn texts_are_bounded() {
    let tokenizer = Tokenizer::open(&kit()).unwrap();
    let longest = "pick ".repeat(MAX_TEXT_BYTES / 5);
    assert!(tokenizer.encode(&longest).unwrap().len() > 1000);
    assert_eq!(tokenizer.encode("").unwrap(), [1]);
    let error = tokenizer.encode(&"x".repeat(10_240)).unwrap_err();
    assert!(matches!(error, CheckpointError::TextTooLong { bytes: 10_240, limit: MAX_TEXT_BYTES }));
    one_line_with(error, &["instruction", "10240 bytes", "8192", "shorten"]);
}

#[test]
fn an_index_by_itself() {
    let path = Path::new("model.safetensors.index.json");
    let index = WeightIndex::from_json(path, &std::fs::read(kit().join(path)).unwrap()).unwrap();
    assert_eq!(index.files().len(), 2);
    assert_eq!(
        index.file_of("language_model.lm_head.weight"),
        Some("model-00002-of-00002.safetensors")
    );
}
