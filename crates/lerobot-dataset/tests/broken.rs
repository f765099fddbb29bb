//! Broken folders: each is refused in one line with the place and the remedy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use lerobot_dataset::{Dataset, DatasetError, Number, Wanted};
use serde_json::{Value, json};
use support::{sample, write};

const DATA: &str = "data/chunk-000/file-000.parquet";
const EPISODES: &str = "meta/episodes/chunk-000/file-000.parquet";

fn dataset(folder: &tempfile::TempDir) -> PathBuf {
    let out = folder.path().join("d");
    write(&out, &sample(), Number::F32);
    out
}

/// Opens a dataset and reads all of its rows.
fn read(path: &Path, vectors: &[&str]) -> Result<usize, DatasetError> {
    let dataset = Dataset::open(path)?;
    let wanted = Wanted {
        vectors: vectors.iter().map(|name| (*name).to_owned()).collect(),
        pictures: vec!["observation.images.front".into()],
    };
    let mut count = 0;
    for episode in 0..dataset.episodes().len() {
        for row in dataset.rows(episode, &wanted)? {
            row?;
            count += 1;
        }
    }
    Ok(count)
}

fn refused(path: &Path, vectors: &[&str]) -> String {
    let error = read(path, vectors).expect_err("it was accepted").to_string();
    assert!(!error.contains('\n'), "more than one line: {error}");
    error
}

/// Changes `meta/info.json`.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let file = path.join("meta/info.json");
    let mut info: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut info);
    std::fs::write(file, serde_json::to_vec(&info).unwrap()).unwrap();
}

#[test]
fn versions_and_keys_of_info() {
    let folder = tempfile::tempdir().unwrap();
    let path = dataset(&folder);
    assert_eq!(read(&path, &["action"]).unwrap(), 15);
    let original = std::fs::read(path.join("meta/info.json")).unwrap();
    let set = |key: &'static str, value: Value| move |info: &mut Value| info[key] = value;
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: Vec<(Change, &[&str])> = vec![
        (
            Box::new(set("codebase_version", json!("v2.1"))),
            &["codebase_version is \"v2.1\"", "convert_dataset_v21_to_v30"],
        ),
        (Box::new(set("codebase_version", json!("v2.0"))), &["v2.0", "convert it to v2.1"]),
        (Box::new(set("codebase_version", json!("v4.0"))), &["v4.0", "newer LeRobot"]),
        (Box::new(set("codebase_version", json!(3))), &["codebase_version is 3"]),
        (Box::new(set("codebase_version", Value::Null)), &["codebase_version"]),
        (Box::new(set("fps", json!(0))), &["fps is 0"]),
        (Box::new(set("fps", json!(-5))), &["fps is -5"]),
        (Box::new(set("fps", json!("ten"))), &["not as LeRobot writes it"]),
        (Box::new(set("fps", Value::Null)), &["the key fps is missing"]),
        (Box::new(set("fps", json!(25))), &["0.100000 s after the one before", "correct fps"]),
        (Box::new(set("total_episodes", json!(2))), &["3 episodes", "info.json states 2"]),
        (Box::new(set("total_episodes", json!(4))), &["3 episodes", "info.json states 4"]),
        (Box::new(set("total_episodes", json!(1_u64 << 60))), &["at most 10000000 is read"]),
        (Box::new(set("total_episodes", json!(-1))), &["not as LeRobot writes it"]),
        (Box::new(set("total_frames", json!(14))), &["15 rows", "info.json states 14"]),
        (Box::new(set("total_tasks", json!(9))), &["2 tasks", "info.json states 9"]),
        (Box::new(set("total_tasks", json!(0))), &["task_index 0, there are 0 tasks"]),
        (Box::new(set("data_path", json!("/etc/passwd"))), &["data_path", "below the folder"]),
        (
            Box::new(set("data_path", json!("data/../../{chunk_index:03d}.parquet"))),
            &["data_path", "leaves the folder"],
        ),
        (
            Box::new(set("data_path", json!("data/{episode_chunk:03d}.parquet"))),
            &["has the field {episode_chunk:03d}"],
        ),
        (Box::new(set("data_path", json!("no/{file_index}"))), &["cannot open", "no/0"]),
        (Box::new(set("data_path", json!("meta"))), &["it is no file"]),
        (Box::new(set("features", json!([1]))), &["not as LeRobot writes it"]),
    ];
    for (change, says) in cases {
        std::fs::write(path.join("meta/info.json"), &original).unwrap();
        edit(&path, change);
        let error = refused(&path, &["action"]);
        assert!(says.iter().all(|part| error.contains(part)), "{error}\nlacks one of {says:?}");
    }
}

#[test]
fn features_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = dataset(&folder);
    let original = std::fs::read(path.join("meta/info.json")).unwrap();
    const CAMERA: &str = "observation.images.front";
    type Change = Box<dyn FnOnce(&mut Value)>;
    let feature = |name: &'static str, key: &'static str, value: Value| -> Change {
        Box::new(move |info| info["features"][name][key] = value)
    };
    let cases: Vec<(Change, &str, &[&str])> = vec![
        (feature(CAMERA, "dtype", json!("video")), "action", &[CAMERA, "to_pictures"]),
        (feature(CAMERA, "dtype", json!("float32")), "action", &["float32, not image"]),
        (feature("action", "shape", json!([2])), "action", &["action has 12 numbers in 4 rows"]),
        (feature("action", "shape", json!([0])), "action", &["not a vector of numbers"]),
        (feature("action", "shape", json!([1, 3])), "action", &["float32 [1, 3]", "name a vector"]),
        (feature("action", "shape", json!([100_000])), "action", &["too large"]),
        (feature("action", "shape", json!([1_u64 << 40, 1_u64 << 40])), "action", &["too large"]),
        (feature("action", "dtype", json!("string")), "action", &["string [3]"]),
        (
            Box::new(|info| info["features"]["extra"] = json!({"dtype": "float32", "shape": [3]})),
            "extra",
            &["the column extra is missing"],
        ),
        (
            Box::new(|info| info["features"]["bad\n"] = json!({"dtype": "float32", "shape": [3]})),
            "action",
            &["control characters: 'bad\\n'"],
        ),
        (Box::new(|_| ()), "wrench", &["no feature 'wrench'; it has action (float32 [3])"]),
        (Box::new(|_| ()), CAMERA, &["image [1, 2, 3], not a vector"]),
    ];
    for (change, vector, says) in cases {
        std::fs::write(path.join("meta/info.json"), &original).unwrap();
        edit(&path, change);
        let error = refused(&path, &[vector]);
        assert!(says.iter().all(|part| error.contains(part)), "{error}\nlacks one of {says:?}");
    }
}

#[test]
fn files_that_are_missing_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path(), &[]);
    assert!(error.contains("no meta/info.json") && error.contains("data/"), "{error}");
    let path = dataset(&folder);
    std::fs::remove_dir_all(path.join("meta/episodes")).unwrap();
    let error = refused(&path, &[]);
    assert!(error.contains("no meta/episodes; finish the recording"), "{error}");
    for name in [DATA, EPISODES, "meta/tasks.parquet"] {
        let folder = tempfile::tempdir().unwrap();
        let path = dataset(&folder);
        let file = path.join(name);
        let bytes = std::fs::read(&file).unwrap();
        for (content, says) in [
            (&b""[..], "not a complete Parquet file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
            (b"PAR1PAR1", "not a complete Parquet file"),
            (&bytes[..bytes.len() / 2], "not a complete Parquet file"),
            (&bytes[..bytes.len() - 1], "not a complete Parquet file"),
        ] {
            std::fs::write(&file, content).unwrap();
            let error = refused(&path, &["action"]);
            assert!(error.contains(says), "{name}: {error}");
        }
        std::fs::remove_file(&file).unwrap();
        let error = refused(&path, &["action"]);
        assert!(error.contains("cannot open") || error.contains("0 episodes"), "{name}: {error}");
    }
}

#[test]
fn another_datasets_rows() {
    // The rows of a dataset with longer episodes under the metadata of this one.
    let folder = tempfile::tempdir().unwrap();
    let path = dataset(&folder);
    let other = folder.path().join("other");
    let mut episodes = sample();
    let moved = episodes[0].pop().unwrap();
    episodes[1].push(moved);
    write(&other, &episodes, Number::F32);
    std::fs::copy(other.join(DATA), path.join(DATA)).unwrap();
    let error = refused(&path, &["action"]);
    assert!(error.contains("row 3 of episode 0 states episode 1"), "{error}");
    episodes.truncate(1);
    std::fs::remove_dir_all(&other).unwrap();
    write(&other, &episodes, Number::F32);
    std::fs::copy(other.join(DATA), path.join(DATA)).unwrap();
    let error = refused(&path, &["action"]);
    assert!(error.contains("episode 0 ends at row 4, the file has 3"), "{error}");
}

#[test]
fn damaged_bytes_are_errors_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = dataset(&folder);
    let mut state = 7_u64;
    let mut random = move |below: usize| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % below as u64) as usize
    };
    // Long runs by hand, as of the fuzz targets.
    let factor = std::env::var("OPENVLA_FUZZ_FACTOR").ok().and_then(|text| text.parse().ok());
    let factor: usize = factor.unwrap_or(1);
    let mut failures = 0;
    for name in [DATA, EPISODES, "meta/tasks.parquet"] {
        let file = path.join(name);
        let bytes = std::fs::read(&file).unwrap();
        for _ in 0..150 * factor {
            let mut damaged = bytes.clone();
            for _ in 0..=random(3) {
                let place = random(damaged.len());
                damaged[place] = random(256) as u8;
            }
            std::fs::write(&file, damaged).unwrap();
            if let Err(error) = read(&path, &["action", "observation.state"]) {
                failures += 1;
                let line = error.to_string();
                assert!(!line.contains('\n') && line.contains("d/"), "{line}");
            }
        }
        for length in (0..bytes.len()).step_by(bytes.len() / 40) {
            std::fs::write(&file, &bytes[..length]).unwrap();
            refused(&path, &["action"]);
        }
        std::fs::write(&file, &bytes).unwrap();
    }
    assert!(failures > 100, "only {failures} damaged files were noticed");
    assert_eq!(read(&path, &["action"]).unwrap(), 15);
}
