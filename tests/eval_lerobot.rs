//! `openvla convert` and `openvla eval run` on its dataset, as a user types them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eval_support;

use std::path::Path;
use std::process::Command;

use eval_support::{BAG, evaluation, failure, kit, program, root, run};
use serde_json::{Value, json};
use vla_eval::Report;

/// `openvla convert` of the bag that all evaluations here read.
fn conversion(out: &Path) -> Command {
    let mut command = program();
    command
        .args(["convert", "--bag"])
        .arg(root(BAG))
        .args(["--image-topic", "/camera/image", "--instruction-topic", "/instruction"])
        .args(["--action-topic", "/action_array", "--out"])
        .arg(out);
    command
}

/// `openvla eval run` on a dataset, without the name of a feature.
fn of_dataset(dataset: &Path, out: &Path) -> Command {
    let mut command = program();
    command.args(["eval", "run", "--quiet", "--bag"]).arg(dataset).arg("--out").arg(out);
    command.args(kit());
    command
}

#[test]
fn a_bag_is_converted_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let (dataset, result) = (folder.path().join("dataset"), folder.path().join("result"));
    let mut command = conversion(&dataset);
    command.args(["--dtype", "float64", "--robot-type", "widowx", "--json"]);
    let (status, printed, error) = run(command);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let expected = json!({
        "out": dataset, "episodes": 1, "frames": 6, "tasks": 1, "fps": 5, "left_out": {},
        "warnings": [],
    });
    assert_eq!(printed, expected);
    let info: Value =
        serde_json::from_slice(&std::fs::read(dataset.join("meta/info.json")).unwrap()).unwrap();
    assert_eq!(info["robot_type"], "widowx");

    assert_eq!(run(of_dataset(&dataset, &result)).0, Some(0));
    let out = folder.path().join("of_bag");
    let mut command = program();
    command.args(["eval", "run", "--quiet", "--bag"]).arg(root(BAG)).args(kit());
    command.args(["--image-topic", "/camera/image", "--instruction-topic", "/instruction"]);
    command.args(["--action-topic", "/action_array", "--out"]).arg(&out);
    assert_eq!(run(command).0, Some(0));
    let of_bag = Report::read(&out).unwrap();
    let report = Report::read(&result).unwrap();
    assert_eq!((report.frames.evaluated, report.frames.matched), (6, 6));
    assert_eq!(report.overall, of_bag.overall);
    assert_eq!(report.settings.policy_hz, 5.0);
    // One episode by its name or its number is the same evaluation.
    for (name, options) in
        [("dataset/lerobot_episode_000000", &[][..]), ("dataset", &["--episodes", "0"])]
    {
        let mut command = of_dataset(&folder.path().join(name), &result);
        command.args(options);
        assert_eq!(run(command).0, Some(0), "{name}");
    }
}

#[test]
fn wrong_requests_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = folder.path().join("dataset");
    assert_eq!(run(conversion(&dataset)).0, Some(0));
    let out = folder.path().join("out");
    let cases: [(&[&str], &str); 9] = [
        (&["--episodes", "1"], "has no episode 1; its episodes are 0 to 0"),
        (&["--gripper-topic", "/gripper"], "--gripper-topic is for bags"),
        (&["--state-topic", "joint_states=/j"], "--state-topic is for bags"),
        (&["--match", "next"], "--match is for bags"),
        (&["--tolerance-ms", "3"], "--tolerance-ms is for bags"),
        (&["--state-feature", "observation.state"], "the policy has no state"),
        (&["--instruction-topic", "/instruction"], "is its task; remove the option"),
        (&["--image-topic", "observation.images.top"], "no feature 'observation.images.top'"),
        (&["--action-topic", "timestamp"], "'timestamp' has 1 numbers"),
    ];
    for (options, says) in cases {
        let mut command = of_dataset(&dataset, &out);
        command.args(options);
        let line = failure(command);
        assert!(line.contains(says), "{options:?}: {line}");
    }
    let mut mixed = of_dataset(&dataset, &out);
    mixed.arg("--bag").arg(root(BAG));
    assert!(failure(mixed).contains("one after the other"));
    let mut bag = evaluation(&kit(), &out);
    bag.args(["--episodes", "0"]);
    assert!(failure(bag).contains("are for LeRobot datasets"));
    let mut none = program();
    none.args(["eval", "run", "--bag"]).arg(root(BAG)).arg("--out").arg(&out).args(kit());
    assert!(failure(none).contains("no camera; give --image-topic T"));
    assert!(failure(conversion(&dataset)).contains("is not empty; choose another --out"));
    let mut limits = program();
    limits.args(["eval", "limits", "--action-topic", "action", "--bag"]).arg(&dataset);
    limits.arg("--robot-file").arg(root("config/robots/widowx_250.yaml"));
    limits.arg("--policy-file").arg(root("config/policies/openvla-7b.yaml"));
    limits.arg("--out").arg(&out);
    assert!(failure(limits).contains("openvla eval run"));
}

#[test]
fn older_datasets_and_video_are_named_with_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = folder.path().join("dataset");
    assert_eq!(run(conversion(&dataset)).0, Some(0));
    let file = dataset.join("meta/info.json");
    let info: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let (mut older, mut video) = (info.clone(), info);
    older["codebase_version"] = "v2.1".into();
    video["features"]["observation.images.image"]["dtype"] = "video".into();
    for (info, says) in
        [(older, "convert_dataset_v21_to_v30"), (video, "tools/lerobot/to_pictures")]
    {
        std::fs::write(&file, info.to_string()).unwrap();
        let line = failure(of_dataset(&dataset, &folder.path().join("out")));
        assert!(line.contains(says), "{line}");
    }
}
