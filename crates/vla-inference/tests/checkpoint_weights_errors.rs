//! Every error of the weight files is one line with file, tensor, value and remedy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checkpoint_support;

use checkpoint_support::{file_of, folder, kit, kit_with, one_line_with, raw_file};
use serde_json::json;
use vla_inference::checkpoint::{Checkpoint, WeightFiles};

/// The error of a folder whose only weights are `model.safetensors` with these bytes.
fn single(bytes: Vec<u8>, parts: &[&str]) -> String {
    let folder = folder(&[("model.safetensors", bytes)]);
    one_line_with(
        WeightFiles::open(folder.path()).unwrap_err(),
        &[&["model.safetensors"], parts].concat(),
    )
}

fn entry(dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn no_folder_no_files() {
    let missing = kit().join("nowhere");
    one_line_with(
        WeightFiles::open(&missing).unwrap_err(),
        &["nowhere", "not a folder", "config.json"],
    );
    let empty = folder(&[]);
    one_line_with(
        WeightFiles::open(empty.path()).unwrap_err(),
        &["model.safetensors", "missing file", "model.safetensors.index.json", "download"],
    );
    let pickled = folder(&[("pytorch_model.bin.index.json", Vec::new())]);
    one_line_with(
        WeightFiles::open(pickled.path()).unwrap_err(),
        &["model.safetensors", "pickled", "save_pretrained"],
    );
}

#[test]
fn folders_and_fifos_are_refused() {
    let folder = folder(&[]);
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    one_line_with(
        WeightFiles::open(folder.path()).unwrap_err(),
        &["model.safetensors", "not a regular file"],
    );
    std::fs::remove_dir(folder.path().join("model.safetensors")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(folder.path().join("model.safetensors"))
        .status()
        .unwrap();
    assert!(made.success());
    one_line_with(
        WeightFiles::open(folder.path()).unwrap_err(),
        &["model.safetensors", "not a regular file"],
    );
}

#[test]
fn truncated() {
    let whole = file_of(&[("a", &[4, 4]), ("b", &[8])]);
    single(
        whole[..whole.len() - 1].to_vec(),
        &["tensor \"b\"", "ends at byte 48", "holds only 47", "download it again"],
    );
    single(whole[..60].to_vec(), &["claims", "whole file has only 60", "download it again"]);
    single(whole[..8].to_vec(), &["8 bytes long", "download it again"]);
    single(Vec::new(), &["is empty", "restore the file"]);
    let mut longer = whole.clone();
    longer.push(0);
    single(longer, &["tensors end at byte 48", "holds 49"]);
}

#[test]
fn a_truncated_shard_of_the_kit() {
    let name = "model-00002-of-00002.safetensors";
    let bytes = std::fs::read(kit().join(name)).unwrap();
    let folder = kit_with(&[(name, bytes[..bytes.len() / 2].to_vec())], &[]);
    one_line_with(
        Checkpoint::open(folder.path()).unwrap_err(),
        &[name, "tensor", "ends at byte", "download it again"],
    );
}

#[test]
fn headers_that_are_not_json() {
    single(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(),
        &["is a Git LFS pointer", "git lfs pull"],
    );
    single(raw_file("[]", 0), &["not the JSON", "download it again"]);
    single(raw_file("{\"a\":\u{7}}", 0), &["not the JSON", "line 1"]);
    single(raw_file(r#"{"a":{"dtype":"BF16","shape":[1]}}"#, 0), &["tensor \"a\"", "data_offsets"]);
    single(
        raw_file(r#"{"a":{"dtype":"BF16","shape":[-1],"data_offsets":[0,2]}}"#, 2),
        &["tensor \"a\"", "-1"],
    );
    single(
        raw_file(r#"{"a":{"dtype":"BF16","shape":[1.5],"data_offsets":[0,2]}}"#, 2),
        &["tensor \"a\"", "1.5"],
    );
    single(
        raw_file(r#"{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2],"x":1}}"#, 2),
        &["tensor \"a\"", "x"],
    );
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    single(raw_file(&deep, 0), &["not the JSON"]);
}

#[test]
fn contradictory_headers() {
    let refused = |entries: &str, data: usize, parts: &[&str]| {
        single(raw_file(&format!("{{{entries}}}"), data), parts)
    };
    let one = |dtype, shape, begin, end| format!(r#""w":{}"#, entry(dtype, shape, begin, end));
    refused(&one("Q4_K", "[2]", 0, 4), 4, &["tensor \"w\"", "unknown dtype \"Q4_K\""]);
    refused(&one("BF16", "[1,1,1,1,1,1,1,1,2]", 0, 4), 4, &["tensor \"w\"", "9 dimensions"]);
    refused(&one("BF16", "[2]", 4, 0), 4, &["tensor \"w\"", "[4, 0]", "before the begin"]);
    refused(&one("BF16", "[2]", 0, 400), 4, &["tensor \"w\"", "byte 400", "holds only 4"]);
    refused(&one("BF16", "[3]", 0, 4), 4, &["tensor \"w\"", "[3]", "needs 6 bytes", "hold 4"]);
    refused(
        &one("BF16", "[4294967296,4294967296]", 0, 4),
        4,
        &["tensor \"w\"", "[4294967296, 4294967296]", "counted"],
    );
    refused(&one("BF16", "[18446744073709551615]", 0, 4), 4, &["tensor \"w\"", "counted"]);
    refused(&one("BF16", "[1]", 2, 4), 4, &["tensor \"w\"", "begins at byte 2", "from 0 on"]);
    let two = |begin, end| {
        format!("{},\"v\":{}", one("BF16", "[2]", 0, 4), entry("BF16", "[2]", begin, end))
    };
    refused(&two(2, 6), 6, &["tensor \"v\"", "begins at byte 2", "tensor \"w\"", "byte 4"]);
    refused(&two(0, 4), 4, &["begins at byte 0", "where tensor"]);
    refused(&two(6, 10), 10, &["tensor \"v\"", "begins at byte 6", "from 4 on"]);
    refused(&two(4, 8), 9, &["end at byte 8", "holds 9"]);
    let twice = format!("{},{}", one("BF16", "[1]", 0, 2), one("BF16", "[1]", 2, 4));
    refused(&twice, 4, &["tensor \"w\" is listed twice"]);
}

/// Offsets that add up to the file's size only when the sum wraps round at 2^64.
#[test]
fn offsets_that_wrap_round() {
    let step = 1_u64 << 61;
    let entries: Vec<String> = (0..8)
        .map(|i| {
            let (begin, end) = (step * i, if i == 7 { u64::MAX - 1023 } else { step * (i + 1) });
            format!(r#""t{i}":{}"#, entry("U8", &format!("[{}]", end - begin), begin, end))
        })
        .collect();
    single(
        raw_file(&format!("{{{}}}", entries.join(",")), 64),
        &["tensor \"t0\"", "holds only 64"],
    );
}

#[test]
fn hostile_names_stay_on_one_line() {
    let name = format!("a\\n\\u001b[31mERROR\\u2028{}", "x".repeat(900));
    let text = single(
        raw_file(&format!("{{\"{name}\":{}}}", entry("BF16", "[3]", 0, 4)), 4),
        &["a\\n\\u{1b}[31mERROR\\u{2028}"],
    );
    assert!(text.len() < 1000, "{} bytes", text.len());
    let long = "y".repeat(5000);
    single(
        raw_file(&format!("{{\"{long}\":{}}}", entry("BF16", "[2]", 0, 4)), 4),
        &["name of 5000 bytes"],
    );
}

/// A sharded folder whose index has this weight_map.
fn sharded(map: serde_json::Value, parts: &[&str]) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string().into_bytes();
    let folder = folder(&[
        ("one.safetensors", file_of(&[("a", &[2]), ("b", &[2])])),
        ("two.safetensors", file_of(&[("c", &[2])])),
        ("model.safetensors.index.json", index),
    ]);
    let error = WeightFiles::open(folder.path()).map(|_| "opened").unwrap_err();
    one_line_with(error, &[&["model.safetensors.index.json"], parts].concat());
}

#[test]
fn index_and_shards_disagree() {
    let good = json!({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"});
    let with = |name: &str, file: &str| {
        let mut map = good.clone();
        map[name] = json!(file);
        map
    };
    sharded(
        with("c", "three.safetensors"),
        &["shard \"three.safetensors\"", "not in the folder", "download the missing shard"],
    );
    sharded(
        with("b", "two.safetensors"),
        &["tensor \"b\"", "\"one.safetensors\"", "lists \"two.safetensors\"", "download both"],
    );
    sharded(
        with("d", "two.safetensors"),
        &["tensor \"d\"", "\"two.safetensors\"", "does not hold it", "download both"],
    );
    sharded(
        json!({"a": "one.safetensors", "c": "two.safetensors"}),
        &["tensor \"b\"", "does not list it"],
    );
    sharded(json!({}), &["weight_map is empty"]);
    sharded(json!(["a"]), &["line 1"]);
    sharded(json!({"a": 1}), &["line 1"]);
}

#[test]
fn index_may_not_leave_the_folder() {
    for path in [
        "../one.safetensors",
        "/etc/passwd",
        "sub/one.safetensors",
        "..",
        ".",
        "",
        "a\\b",
        "C:x",
        "./one.safetensors",
        "one\u{0}",
    ] {
        sharded(
            json!({"a": path}),
            &["tensor \"a\"", "outside the checkpoint folder", "do not use this checkpoint"],
        );
    }
}

#[test]
fn a_tensor_in_two_places() {
    let twice =
        r#"{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}"#.as_bytes().to_vec();
    let index = "model.safetensors.index.json";
    let duplicate = folder(&[(index, twice)]);
    one_line_with(
        WeightFiles::open(duplicate.path()).unwrap_err(),
        &[index, "\"a\" is listed twice"],
    );

    let map = json!({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
        .to_string()
        .into_bytes();
    let both = folder(&[
        (index, map),
        ("one.safetensors", file_of(&[("a", &[2])])),
        ("two.safetensors", file_of(&[("a", &[2]), ("b", &[2])])),
    ]);
    one_line_with(
        WeightFiles::open(both.path()).unwrap_err(),
        &[index, "tensor \"a\" is in shard \"two.safetensors\""],
    );
}

#[test]
fn index_beside_a_whole_file_is_ambiguous() {
    let map = json!({"weight_map": {"a": "one.safetensors"}}).to_string().into_bytes();
    let file = file_of(&[("a", &[2])]);
    let folder = folder(&[
        ("model.safetensors.index.json", map),
        ("one.safetensors", file.clone()),
        ("model.safetensors", file),
    ]);
    one_line_with(
        WeightFiles::open(folder.path()).unwrap_err(),
        &["index.json", "also holds model.safetensors", "stale"],
    );
}

#[test]
fn wrong_shape_dtype_or_name() {
    let header = format!(
        r#"{{"odd":{},"w":{},"n":{},"f":{}}}"#,
        entry("U8", "[1]", 0, 1),
        entry("BF16", "[2,3]", 1, 13),
        entry("I64", "[1]", 13, 21),
        entry("F32", "[1]", 21, 25)
    );
    let folder = folder(&[("model.safetensors", raw_file(&header, 25))]);
    let weights = WeightFiles::open(folder.path()).unwrap();
    one_line_with(weights.tensor("x").unwrap_err(), &["tensor \"x\" is missing", "config.json"]);
    one_line_with(
        weights.expect("w", &[3, 2]).unwrap_err(),
        &["model.safetensors", "tensor \"w\"", "[2, 3]", "expected [3, 2]", "config.json"],
    );
    one_line_with(
        weights.expect("n", &[1]).unwrap_err(),
        &["model.safetensors", "tensor \"n\"", "dtype I64", "BF16, F16 or F32", "unquantised"],
    );
    let w = weights.expect("w", &[2, 3]).unwrap();
    assert_eq!(w.to_f32_vec().unwrap(), [0.0; 6], "a copy works at any alignment");
    one_line_with(w.as_f32().unwrap_err(), &["dtype BF16", "expected F32"]);
}

#[test]
fn unaligned_tensors_are_copied_not_cast() {
    let pad = |n: usize| {
        let header = format!(
            r#"{{"p":{},"w":{}}}"#,
            entry("U8", &format!("[{n}]"), 0, n as u64),
            entry("BF16", "[2]", n as u64, n as u64 + 4)
        );
        let mut bytes = raw_file(&header, n);
        bytes.extend([0x80, 0x3f, 0x00, 0xc0]); // 1.0, -2.0
        let odd = (8 + header.len() + n) % 2 == 1;
        (bytes, odd)
    };
    let (bytes, _) = [pad(1), pad(2)].into_iter().find(|(_, odd)| *odd).unwrap();
    let folder = folder(&[("model.safetensors", bytes)]);
    let w = WeightFiles::open(folder.path()).unwrap().expect("w", &[2]).unwrap();
    one_line_with(
        w.as_bf16().unwrap_err(),
        &["tensor \"w\"", "not a multiple of 2", "save the checkpoint again"],
    );
    assert_eq!(w.to_f32_vec().unwrap(), [1.0, -2.0]);
    assert_eq!(
        w.to_bf16_vec().unwrap().iter().map(|value| value.to_f32()).collect::<Vec<_>>(),
        [1.0, -2.0]
    );
}

#[test]
fn a_tensor_that_the_configuration_needs() {
    let name = "model.safetensors.index.json";
    let shard = |tensors: &[(&str, &[usize])]| {
        let folder = kit_with(&[("model.safetensors", file_of(tensors))], &[name]);
        Checkpoint::open(folder.path()).unwrap_err()
    };
    one_line_with(
        shard(&[]),
        &["tensor \"vision_backbone.featurizer.cls_token\" is missing", "config.json"],
    );
    one_line_with(
        shard(&[("vision_backbone.featurizer.cls_token", &[1, 1, 65])]),
        &[
            "model.safetensors",
            "vision_backbone.featurizer.cls_token",
            "[1, 1, 65]",
            "expected [1, 1, 64]",
        ],
    );
}

#[test]
fn rewritten_files_are_errors_renamed_ones_are_not() {
    let folder = folder(&[("model.safetensors", file_of(&[("a", &[2])]))]);
    let path = folder.path().join("model.safetensors");
    let weights = WeightFiles::open(folder.path()).unwrap();
    weights.prefetch();
    weights.verify_unchanged().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    one_line_with(
        weights.verify_unchanged().unwrap_err(),
        &["model.safetensors", "changed on disk", "renaming"],
    );
    file.set_len(4096).unwrap(); // longer, so that the map stays valid
    one_line_with(weights.verify_unchanged().unwrap_err(), &["4096 now"]);

    let weights = self::folder_with_one_tensor();
    let path = weights.1.path().join("model.safetensors");
    std::fs::write(weights.1.path().join("new"), file_of(&[("b", &[3])])).unwrap();
    std::fs::rename(weights.1.path().join("new"), path).unwrap();
    weights.0.verify_unchanged().unwrap();
    assert_eq!(weights.0.tensor("a").unwrap().elements(), 2);
}

fn folder_with_one_tensor() -> (WeightFiles, tempfile::TempDir) {
    let folder = folder(&[("model.safetensors", file_of(&[("a", &[2])]))]);
    (WeightFiles::open(folder.path()).unwrap(), folder)
}
