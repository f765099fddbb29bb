//! Policies with several cameras and a state: the newest of each source, none too old.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use support::{BagWriter, Scripted, settings};
use vla_config::{StatePart, StateSource};
use vla_eval::{EvalError, Evaluated, ObservationRules, RunOptions, Settings, evaluate_from};
use vla_inference::observation::Observation;
use vla_inference::policy::{Decision, Policy, PolicyError, PolicyInfo};

const S: i64 = 1_000_000_000;

/// Answers with the first pixel of each camera and the state.
struct Two(PolicyInfo);

impl Two {
    fn new() -> Self {
        let cameras = vec!["front".into(), "wrist".into()];
        Self(PolicyInfo { cameras, state_dim: 3, action_tokens: None, ..Scripted::new().info })
    }
}

impl Policy for Two {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let pixel = |camera: &str| observation.image(camera).map(|image| image.pixels()[0]);
        let mut action = vec![f64::from(pixel("front")?), f64::from(pixel("wrist")?)];
        action.extend(observation.state(3)?);
        action.resize(7, 0.0);
        let actions = vec![action];
        Ok(Decision { normalized: actions.clone(), actions, ..Decision::default() })
    }

    fn info(&self) -> &PolicyInfo {
        &self.0
    }
}

fn rules() -> ObservationRules {
    let part = |source| StatePart { source, scale: 1.0, offset: 0.0 };
    let joints = StateSource::JointPosition(vec!["b".into(), "a".into()]);
    let state = vec![part(joints), part(StateSource::Gripper { topic: "grip".into() })];
    ObservationRules { state, ..ObservationRules::default() }
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, topic)| ((*name).into(), (*topic).into())).collect()
}

fn two_cameras(bag: &Path) -> Settings {
    Settings {
        image_topic: "/front".into(),
        cameras: named(&[("front", "/front"), ("wrist", "/wrist")]),
        state_topics: named(&[("joint_states", "/arm/joint_states")]),
        instruction: Some("go".into()),
        instruction_topic: None,
        action_topic: None,
        ..settings(bag)
    }
}

fn run(settings: &Settings, rules: &ObservationRules) -> Result<Evaluated, EvalError> {
    let out = tempfile::tempdir().unwrap();
    let options = RunOptions { quiet: true, ..RunOptions::default() };
    let stop = AtomicBool::new(false);
    evaluate_from(&mut Two::new(), settings, rules, out.path(), options, &stop)
}

fn image(writer: &mut BagWriter, topic: &str, at: i64, pixel: u8) {
    writer.image(topic, at, 1, 1, "rgb8", 3, vec![pixel, 0, 0]);
}

#[test]
fn the_newest_of_each_source_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("two.mcap");
    let mut writer = BagWriter::new(&bag);
    let joints = |writer: &mut BagWriter, at, a, b| {
        writer.joints("/arm/joint_states", at, &["a", "b", "c"], &[a, b, 9.0]);
    };
    image(&mut writer, "/front", S, 10); // before the wrist's first image
    image(&mut writer, "/wrist", S + 1, 20);
    joints(&mut writer, S + 2, 0.1, 0.2);
    writer.number("/grip", S + 3, 0.5);
    image(&mut writer, "/front", S + S / 10, 11);
    joints(&mut writer, S + S / 5, 0.3, 0.4);
    image(&mut writer, "/wrist", S + S / 5, 21);
    image(&mut writer, "/wrist", S + S / 5 + 1, 22);
    image(&mut writer, "/front", S + S / 4, 12);
    joints(&mut writer, 3 * S, 0.5, 0.6);
    image(&mut writer, "/front", 3 * S + 1, 13); // the gripper is 2 s older
    joints(&mut writer, 3 * S + 2, f64::NAN, 0.6);
    image(&mut writer, "/wrist", 3 * S + 3, 23);
    writer.number("/grip", 3 * S + 4, 0.7);
    image(&mut writer, "/front", 3 * S + 5, 14); // a joint is not finite
    writer.finish();
    let evaluated = run(&two_cameras(&bag), &rules()).unwrap();
    let actions: Vec<&[f64]> =
        evaluated.pairs.iter().map(|pair| &pair.prediction().unwrap().action[..5]).collect();
    assert_eq!(actions, [[11.0, 20.0, 0.2, 0.1, 0.5], [12.0, 22.0, 0.4, 0.3, 0.5]]);
    let skipped: Vec<(&str, u64)> = evaluated
        .report
        .frames
        .skipped
        .iter()
        .map(|(reason, count)| (reason.as_str(), *count))
        .collect();
    assert_eq!(
        skipped,
        [
            ("before every source has a message", 1),
            ("incomplete state", 1),
            ("sources too far apart", 1)
        ]
    );
    let warnings = evaluated.report.warnings.join("\n");
    for part in ["camera wrist", "joint_states lacks values", "2.000 s apart, at most 0.5 s"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
}

#[test]
fn what_the_policy_needs_must_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("two.mcap");
    let mut writer = BagWriter::new(&bag);
    image(&mut writer, "/front", S, 10);
    image(&mut writer, "/wrist", S, 10);
    writer.finish();
    let good = two_cameras(&bag);
    let refused = |settings: Settings, rules: &ObservationRules, parts: &[&str]| {
        let error = run(&settings, rules).err().unwrap().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    let one = Settings { cameras: vec![], ..good.clone() };
    refused(one, &rules(), &["front, wrist", "--camera NAME=TOPIC"]);
    let swapped = named(&[("wrist", "/wrist"), ("front", "/front")]);
    refused(Settings { cameras: swapped, ..good.clone() }, &rules(), &["given are wrist, front"]);
    let stateless = ObservationRules::default();
    refused(
        Settings { state_topics: vec![], ..good.clone() },
        &stateless,
        &["a state of 3 numbers", "states 0", "--policy-file"],
    );
    let unknown = Settings { state_topics: named(&[("tool", "/tool")]), ..good.clone() };
    refused(unknown, &rules(), &["'tool'", "joint_states, grip"]);
    refused(good, &rules(), &["no topic `/arm/joint_states`", "/front"]);
}
