//! Every metric equals numpy's to 1e-9: `tools/eval/make_expected.py` computes them from the same
//! frames.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use vla_eval::{
    ActionTokens, EpisodeNotes, MetricOptions, Metrics, Paired, Report, Settings, normalize,
};

const TOLERANCE: f64 = 1e-9;
const TOKENS: ActionTokens = ActionTokens { start: 31_744, end: 32_000 };

fn data(name: &str) -> Vec<u8> {
    std::fs::read(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/eval").join(name),
    )
    .unwrap()
}

fn pairs() -> Vec<Paired> {
    serde_json::from_slice(&data("pairs.json")).unwrap()
}

fn expected() -> Value {
    serde_json::from_slice(&data("expected.json")).unwrap()
}

/// Compares two trees of numbers; `places` counts what was compared.
fn agree(path: &str, ours: &Value, theirs: &Value, places: &mut usize) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{path}");
            a.iter().for_each(|(name, value)| {
                agree(&format!("{path}.{name}"), value, &b[name], places)
            });
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            a.iter()
                .zip(b)
                .enumerate()
                .for_each(|(i, (a, b))| agree(&format!("{path}[{i}]"), a, b, places));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!(
                (a - b).abs() <= TOLERANCE * b.abs().max(1.0),
                "{path}: {a} here, {b} in numpy"
            );
            *places += 1;
        }
        (a, b) => assert_eq!(a, b, "{path}"),
    }
}

#[test]
fn metrics_equal_numpy() {
    let options = MetricOptions { action_tokens: Some(TOKENS), gripper_threshold: 0.5 };
    let metrics = Metrics::of(&pairs(), 7, options);
    assert!(metrics.frames > 40 && metrics.frames < 60);
    let mut places = 0;
    agree("metrics", &serde_json::to_value(&metrics).unwrap(), &expected()["metrics"], &mut places);
    assert!(places > 80, "only {places} numbers were compared");
}

#[test]
fn latencies_equal_numpy() {
    let settings =
        Settings { bags: vec!["a".into(), "b".into()], ..support::settings(Path::new("a")) };
    let notes = vec![EpisodeNotes::default(); 2];
    let report = Report::of(settings, Some(TOKENS), notes, &pairs(), vec![], vec![]);
    let mut places = 0;
    agree(
        "latency_ms",
        &serde_json::to_value(&report.latency_ms).unwrap(),
        &expected()["latency_ms"],
        &mut places,
    );
    assert_eq!(places, 4 * 7);
    assert_eq!(report.frames.evaluated, 60);
    assert_eq!(report.frames.matched as usize, report.overall.frames);
    assert_eq!(report.frames.failed, report.failures["token 29871 is no action token"]);
    let episodes: usize = report.episodes.iter().map(|episode| episode.metrics.frames).sum();
    assert_eq!(episodes, report.overall.frames);
}

#[test]
fn encoding_equals_numpy() {
    let expected = expected();
    let floats = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let tokens = TOKENS;
    for (probe, id) in
        floats(&expected["probes"]).into_iter().zip(floats(&expected["probe_tokens"]))
    {
        assert_eq!(f64::from(tokens.encode(probe)), id, "token of {probe:e}");
    }
    let (q01, q99) = (floats(&expected["q01"]), floats(&expected["q99"]));
    let mask = expected["mask"].as_array().unwrap();
    let rows =
        |name: &str| expected[name].as_array().unwrap().iter().map(floats).collect::<Vec<_>>();
    for ((physical, normalized), ids) in
        rows("physical").into_iter().zip(rows("physical_normalized")).zip(rows("physical_tokens"))
    {
        for i in 0..7 {
            let range = mask[i].as_bool().unwrap().then_some((q01[i], q99[i]));
            let ours = normalize(physical[i], range);
            assert!(
                (ours - normalized[i]).abs() < TOLERANCE,
                "{} becomes {ours}, {} in numpy",
                physical[i],
                normalized[i]
            );
            assert_eq!(f64::from(tokens.encode(ours)), ids[i]);
        }
    }
}

#[test]
fn no_metrics_without_recorded_actions() {
    let mut pairs = pairs();
    pairs.iter_mut().for_each(|pair| pair.recorded = None);
    let options = MetricOptions { action_tokens: None, gripper_threshold: 0.5 };
    let metrics = Metrics::of(&pairs, 7, options);
    assert_eq!(
        (metrics.frames, metrics.token_accuracy, metrics.normalized_mae, metrics.gripper),
        (0, None, None, None)
    );
    assert!(metrics.dimensions.iter().all(|dimension| dimension.n == 0 && dimension.mae.is_none()));
}
