//! Image preparation through the `openvla` program: the golden kit, policy files, refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn openvla(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_openvla")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn link(from: &Path, to: PathBuf) {
    std::os::unix::fs::symlink(from, to).unwrap();
}

#[test]
fn selfcheck_compares_every_byte_of_the_kit() {
    let kit = root().join("tests/data/image_preparation");
    let (status, out, error) = openvla(&["selfcheck", "--golden", kit.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{error}");
    assert_eq!(out.lines().count(), 53, "a line for each case, and the sum");
    assert!(out.contains("52 cases, 137 steps: 52 cases equal in every byte"), "{out}");

    let other = tempfile::tempdir().unwrap();
    let cases = std::fs::read_to_string(kit.join("cases.json")).unwrap();
    let hash = "73134cacaa008a41f06c60ac355705fc1650aed501312bac1554a54038251dd0";
    assert!(cases.contains(hash));
    std::fs::write(other.path().join("cases.json"), cases.replacen(hash, "0", 1)).unwrap();
    link(&kit.join("images"), other.path().join("images"));
    let (status, out, error) =
        openvla(&["selfcheck", "--json", "--golden", other.path().to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(error.contains("00_patterns_256x256 bridge: step lanczos3 differs"), "{error}");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&summary["cases_equal"], &summary["steps"]), (&51.into(), &137.into()));
}

/// The tiny checkpoint with its statistics under a name of LIBERO's.
fn libero_checkpoint() -> tempfile::TempDir {
    let kit = root().join("tests/data/openvla_tiny/ckpt");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&kit).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "dataset_statistics.json" {
            link(&entry.path(), folder.path().join(entry.file_name()));
        }
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kit.join("config.json")).unwrap()).unwrap();
    let statistics = serde_json::json!({ "libero_10": config["norm_stats"]["bridge_orig"] });
    std::fs::write(folder.path().join("dataset_statistics.json"), statistics.to_string()).unwrap();
    folder
}

#[test]
fn policy_files_decide_about_pictures() {
    let folder = libero_checkpoint();
    let image = root().join("tests/data/openvla_tiny/images/07_480x640_RGB.png");
    let predict = |policy_file: Option<&str>| {
        let file = policy_file.map(|name| root().join("config/policies").join(name));
        let mut arguments = vec![
            "predict",
            "--checkpoint",
            folder.path().to_str().unwrap(),
            "--image",
            image.to_str().unwrap(),
            "--instruction",
            "pick up the block",
            "--decode",
            "actions",
            "--json",
        ];
        if let Some(file) = &file {
            arguments.extend(["--policy-file", file.to_str().unwrap()]);
        }
        openvla(&arguments)
    };
    let libero = "openvla-7b-finetuned-libero.yaml";
    let (status, _, error) = predict(None);
    assert_eq!(status, Some(1));
    assert!(error.contains("'libero_10'") && error.contains(libero), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");

    let (status, out, error) = predict(Some(libero));
    assert_eq!(status, Some(0), "{error}");
    let prediction: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(prediction["unnorm_key"], "libero_10");

    let (status, _, error) = predict(Some("openvla-7b.yaml"));
    assert_eq!(status, Some(1));
    assert!(error.contains("bridge_orig"), "{error}");
    let (status, _, error) = predict(Some("tabletop.yaml"));
    assert_eq!(status, Some(1));
    assert!(error.contains("tabletop"), "{error}");
}
