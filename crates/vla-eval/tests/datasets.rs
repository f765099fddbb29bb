//! LeRobot datasets in place of bags: a converted bag gives the metrics of the bag itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use lerobot_dataset::{Dataset, Number, Wanted};
use rosbag2_reader::{Bag, Selection, messages};
use support::{BagWriter, Scripted, root, settings};
use vla_config::{StatePart, StateSource};
use vla_eval::{
    Conversion, Converted, EvalError, Evaluated, Metrics, ObservationRules, Report, RunOptions,
    Settings, Shard, compare, convert, episode_path, evaluate, evaluate_from, is_complete, merge,
    write_all,
};
use vla_inference::observation::Observation;
use vla_inference::policy::{Decision, Policy, PolicyError, PolicyInfo};

const QUIET: RunOptions = RunOptions { overwrite: false, quiet: true };
const SECOND: i64 = 1_000_000_000;

fn conversion(settings: Settings, number: Number) -> Conversion {
    Conversion {
        settings,
        rules: ObservationRules::default(),
        action_names: Vec::new(),
        fps: None,
        longest_gap_s: 1.0,
        number,
        robot_type: None,
    }
}

fn converted(settings: Settings, number: Number, out: &Path) -> Result<Converted, EvalError> {
    convert(&conversion(settings, number), out, &AtomicBool::new(false))
}

fn run(settings: &Settings, out: &Path) -> Report {
    let mut policy = Scripted::new();
    let stop = AtomicBool::new(false);
    let evaluated = evaluate(&mut policy, settings, out, QUIET, &stop).unwrap();
    write_all(out, &evaluated.report, &evaluated.pairs).unwrap();
    evaluated.report
}

/// Settings for the first episode of a converted dataset.
fn of_dataset(dataset: &Path, episodes: u64) -> Settings {
    Settings {
        bags: (0..episodes).map(|number| episode_path(dataset, number)).collect(),
        image_topic: "observation.images.image".into(),
        instruction_topic: Some("task".into()),
        action_topic: Some("action".into()),
        ..settings(dataset)
    }
}

fn without_tokens(metrics: &Metrics) -> Metrics {
    let mut metrics = metrics.clone();
    (metrics.token_accuracy, metrics.action_accuracy, metrics.bin_distance) = (None, None, None);
    for dimension in &mut metrics.dimensions {
        (dimension.token_accuracy, dimension.bin_distance) = (None, None);
        dimension.bin_distance_max = None;
    }
    metrics
}

#[test]
fn metrics_of_a_converted_bag_are_the_bags() {
    let bag = root("tests/data/bags/mcap_plain");
    for (image, action, gripper) in [
        ("/camera/image", "/vla/action", None),
        ("/camera/image/compressed", "/action_array", None),
        ("/camera/image", "/twist", Some("/gripper")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("dataset");
        let of_bag = Settings {
            image_topic: image.into(),
            action_topic: Some(action.into()),
            gripper_topic: gripper.map(Into::into),
            ..settings(&bag)
        };
        let result = converted(of_bag.clone(), Number::F64, &out).unwrap();
        assert_eq!((result.written.episodes, result.written.frames, result.fps), (1, 6, 5));
        assert_eq!((&result.left_out, &result.warnings), (&vec![], &vec![]), "{action}");
        let expected = run(&of_bag, &folder.path().join("bag_result"));
        let report = run(&of_dataset(&out, 1), &folder.path().join("result"));
        assert_eq!(report.frames, expected.frames, "{action}");
        // A row has no recorded tokens: they are encoded from its action, as those of an array.
        let without = if action == "/vla/action" { without_tokens } else { Metrics::clone };
        assert_eq!(without(&report.overall), without(&expected.overall), "{action}");
        assert_eq!((&report.incomplete, &report.warnings), (&vec![], &vec![]), "{action}");
        assert_eq!(report.frames.matched, 6);
    }
}

#[test]
fn compressed_pictures_are_the_messages_bytes() {
    let bag = root("tests/data/bags/mcap_plain");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dataset");
    let topic = "/camera/image/compressed";
    let of_bag = Settings { image_topic: topic.into(), ..settings(&bag) };
    converted(of_bag, Number::F32, &out).unwrap();
    let bag = Bag::open(&bag).unwrap();
    let topic = bag.topic(topic).unwrap();
    let sent: Vec<Vec<u8>> = bag
        .messages(&Selection::topics([topic.index]))
        .unwrap()
        .map(|message| {
            let message = message.unwrap();
            messages::decode::<messages::CompressedImage>(&message, topic).unwrap().data.to_vec()
        })
        .collect();
    let dataset = Dataset::open(&out).unwrap();
    let wanted = Wanted { vectors: Vec::new(), pictures: vec!["observation.images.image".into()] };
    let stored: Vec<Vec<u8>> =
        dataset.rows(0, &wanted).unwrap().map(|row| row.unwrap().pictures[0].to_vec()).collect();
    assert_eq!((stored.len(), stored), (6, sent));
}

#[test]
fn shards_of_a_dataset_resume_and_merge() {
    let bag = root("tests/data/bags/mcap_plain");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dataset");
    converted(settings(&bag), Number::F64, &out).unwrap();
    let whole = run(&of_dataset(&out, 1), &folder.path().join("whole"));
    let shards: Vec<PathBuf> = (0..2)
        .map(|index| {
            let part = folder.path().join(format!("part{index}"));
            let shard = Shard { index, count: 2 };
            let settings = Settings { shard, ..of_dataset(&out, 1) };
            assert!(!is_complete(&part, &settings));
            run(&settings, &part);
            assert!(is_complete(&part, &settings));
            part
        })
        .collect();
    let merged = merge(&shards, &folder.path().join("merged"), false).unwrap();
    assert_eq!(merged.overall, whole.overall);
    // The same command again infers nothing.
    let mut policy = Scripted::new();
    let stop = AtomicBool::new(false);
    evaluate(&mut policy, &of_dataset(&out, 1), &folder.path().join("whole"), QUIET, &stop)
        .unwrap();
    assert_eq!(policy.acted, 0);
}

#[test]
fn comparisons_tell_datasets_apart() {
    let bag = root("tests/data/bags/mcap_plain");
    let folder = tempfile::tempdir().unwrap();
    let (all, half) = (folder.path().join("all"), folder.path().join("half"));
    converted(settings(&bag), Number::F64, &all).unwrap();
    let every = Settings { every: 2, policy_hz: 2.5, ..settings(&bag) };
    let plan = Conversion { fps: Some(5), ..conversion(every, Number::F64) };
    convert(&plan, &half, &AtomicBool::new(false)).unwrap();
    let both = Settings {
        bags: vec![episode_path(&all, 0), episode_path(&half, 0)],
        ..of_dataset(&all, 1)
    };
    let result = folder.path().join("result");
    assert_eq!(run(&both, &result).frames.evaluated, 9);
    // The second frame of one is the third of the other.
    let compared = compare(&result, &result, &folder.path().join("compared")).unwrap();
    assert_eq!((compared.frames, compared.action_agreement), (9, Some(1.0)));
}

/// A policy of two cameras and a state; its action is the state's first numbers and a pixel.
struct Observing(PolicyInfo, Vec<Vec<f64>>);

impl Policy for Observing {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let pixel = |camera: &str| f64::from(observation.image(camera).unwrap().pixels()[0]);
        let mut action = observation.state.clone();
        action.extend([pixel("front"), pixel("wrist")]);
        self.1.push(action.clone());
        Ok(Decision {
            normalized: vec![action.clone()],
            actions: vec![action],
            ..Decision::default()
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.0
    }
}

fn rules() -> ObservationRules {
    let joints = vec!["elbow".to_owned(), "wrist".to_owned()];
    let source = StateSource::JointPosition(joints);
    ObservationRules {
        state: vec![StatePart { source, scale: 2.0, offset: 0.5 }],
        ..ObservationRules::default()
    }
}

/// Ten frames of two cameras, joints and actions at 10 Hz; the task changes in the middle, a pause
/// of 5 s comes before the eighth frame, and the last frame has no action.
fn two_cameras(path: &Path) {
    let mut writer = BagWriter::new(path);
    let start = 1_700_000_000 * SECOND;
    for i in 0..10_i64 {
        let at = start + i * SECOND / 10 + if i < 7 { 0 } else { 5 * SECOND };
        if i % 5 == 0 {
            let task = if i == 0 { "open the drawer" } else { "close the drawer" };
            writer.text("/instruction", at - 3_000_000, task);
        }
        let names = ["wrist", "elbow"];
        writer.joints("/joint_states", at - 2_000_000, &names, &[i as f64, 0.1 * i as f64]);
        let pixels = |value: i64| vec![value as u8; 4 * 3 * 3];
        writer.image("/wrist", at - 1_000_000, 4, 3, "bgr8", 3, pixels(100 + i));
        writer.image("/front", at, 4, 3, "rgb8", 3, pixels(i));
        if i < 9 {
            writer.array("/action", at + 5_000_000, &[i as f64, 0.1, 0.2, -0.3]);
        }
    }
    writer.finish();
}

fn of_bag(bag: &Path) -> Settings {
    let mut settings = Settings {
        image_topic: "/front".into(),
        cameras: vec![("front".into(), "/front".into()), ("wrist".into(), "/wrist".into())],
        action_topic: Some("/action".into()),
        policy_hz: 10.0,
        ..settings(bag)
    };
    settings.policy.action_dim = 4;
    settings
}

fn observing() -> Observing {
    let info = PolicyInfo {
        action_dim: 4,
        cameras: vec!["front".into(), "wrist".into()],
        state_dim: 2,
        envelope: vec![None; 4],
        action_tokens: None,
        ..Scripted::new().info
    };
    Observing(info, Vec::new())
}

#[test]
fn cameras_state_tasks_and_pauses() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("bag.mcap");
    two_cameras(&bag);
    let out = folder.path().join("dataset");
    let plan = Conversion { rules: rules(), ..conversion(of_bag(&bag), Number::F64) };
    let stop = AtomicBool::new(false);
    let result = convert(&plan, &out, &stop).unwrap();
    let written = result.written;
    assert_eq!((written.episodes, written.frames, written.tasks, result.fps), (2, 9, 2, 10));
    assert_eq!(result.left_out, [("no recorded action".to_owned(), 1)]);
    assert!(result.warnings.iter().any(|line| line.contains("1 gaps are longer than 1 s")));
    let dataset = Dataset::open(&out).unwrap();
    let lengths: Vec<u64> = dataset.episodes().iter().map(|e| e.length).collect();
    assert_eq!(lengths, [7, 2]);
    let names = |name: &str| dataset.feature(name).unwrap().names.clone();
    assert_eq!(names("observation.state"), ["elbow.pos", "wrist.pos"]);
    assert_eq!(names("action"), ["a0", "a1", "a2", "a3"]);

    let mut policy = observing();
    let result = folder.path().join("bag_result");
    let Evaluated { report: expected, .. } =
        evaluate_from(&mut policy, &of_bag(&bag), &rules(), &result, QUIET, &stop).unwrap();
    let seen = std::mem::take(&mut policy.1);
    let of_rows = Settings {
        image_topic: "observation.images.front".into(),
        cameras: vec![
            ("front".into(), "observation.images.front".into()),
            ("wrist".into(), "observation.images.wrist".into()),
        ],
        state_feature: Some("observation.state".into()),
        policy_hz: 10.0,
        policy: of_bag(&bag).policy,
        ..of_dataset(&out, 2)
    };
    // The state is the row's, whatever the policy file says.
    let rules = ObservationRules::default();
    let result = folder.path().join("result");
    let Evaluated { report, pairs, .. } =
        evaluate_from(&mut policy, &of_rows, &rules, &result, QUIET, &stop).unwrap();
    assert_eq!(policy.1, seen[..9]);
    assert_eq!((report.frames.evaluated, report.frames.matched), (9, 9));
    let instructions: BTreeMap<&str, usize> =
        pairs.iter().fold(BTreeMap::new(), |mut map, pair| {
            *map.entry(pair.step.instruction.as_str()).or_default() += 1;
            map
        });
    let counts = [("close the drawer", 4), ("open the drawer", 5)];
    assert_eq!(instructions, BTreeMap::from(counts));
    // The bag's tenth frame has no action and so no error.
    assert_eq!(expected.frames.matched, 9);
    assert_eq!(report.overall, expected.overall);
}

#[test]
fn every_second_frame_halves_the_rate() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("bag.mcap");
    two_cameras(&bag);
    let out = folder.path().join("dataset");
    let settings = Settings { every: 2, policy_hz: 5.0, ..of_bag(&bag) };
    let result = converted(settings, Number::F32, &out).unwrap();
    assert_eq!((result.fps, result.written.frames), (5, 5));
    let wrong = Settings { every: 3, ..of_bag(&bag) };
    let error = converted(wrong, Number::F32, &folder.path().join("x")).unwrap_err().to_string();
    assert!(error.contains("3.33 Hz") && error.contains("--fps"), "{error}");
}

#[test]
fn what_cannot_be_converted() {
    let folder = tempfile::tempdir().unwrap();
    let bag = root("tests/data/bags/mcap_plain");
    let out = folder.path().join("dataset");
    let fail = |settings: Settings, says: &str| {
        let error = converted(settings, Number::F32, &folder.path().join("x")).unwrap_err();
        let line = error.to_string();
        assert!(line.contains(says) && !line.contains('\n'), "{line}");
    };
    fail(Settings { action_topic: None, ..settings(&bag) }, "no --action-topic");
    fail(Settings { action_topic: Some("/nope".into()), ..settings(&bag) }, "/nope");
    fail(Settings { action_topic: Some("/twist".into()), ..settings(&bag) }, "--gripper-topic");
    fail(
        Settings {
            tolerance_ms: Some(0.001),
            action_match: Some(rosbag2_reader::align::ActionMatch::Exact),
            action_topic: Some("/action_array".into()),
            ..settings(&bag)
        },
        "no frame has an action",
    );
    converted(settings(&bag), Number::F32, &out).unwrap();
    let error = converted(settings(&bag), Number::F32, &out).unwrap_err().to_string();
    assert!(error.contains("is not empty; choose another --out"), "{error}");
    fail(Settings { bags: vec![episode_path(&out, 0)], ..settings(&bag) }, "is a LeRobot dataset");
}

#[test]
fn features_that_do_not_fit_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("bag.mcap");
    two_cameras(&bag);
    let out = folder.path().join("dataset");
    let plan = Conversion { rules: rules(), ..conversion(of_bag(&bag), Number::F32) };
    convert(&plan, &out, &AtomicBool::new(false)).unwrap();
    let good = Settings {
        image_topic: "observation.images.front".into(),
        state_feature: None,
        ..of_dataset(&out, 2)
    };
    let fail = |settings: Settings, says: &str| {
        let mut policy = Scripted::new();
        let stop = AtomicBool::new(false);
        let result = folder.path().join("result");
        let error = evaluate(&mut policy, &settings, &result, QUIET, &stop).unwrap_err();
        let line = error.to_string();
        assert!(line.contains(says) && !line.contains('\n'), "{line}");
    };
    fail(good.clone(), "'action' has 4 numbers (a0, a1, a2, a3), the policy's action 7");
    fail(Settings { action_topic: Some("reward".into()), ..good.clone() }, "no feature 'reward'");
    fail(Settings { image_topic: "action".into(), ..good.clone() }, "name a camera: observation");
    fail(Settings { bags: vec![episode_path(&out, 2)], ..good }, "episodes are 0 to 1");
}
