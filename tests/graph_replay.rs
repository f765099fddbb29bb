//! Live and offline agree: `openvla replay` against the running node gives the tokens that `openvla
//! eval` gives on the same bag.
#![cfg(feature = "ros")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../crates/vla-eval/tests/support/mod.rs"]
mod eval_support;
mod ros_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Parser;
use eval_support::{BagWriter, root};
use openvla_tt::cli::eval::Eval;
use ros_support::Domain;
use serde_json::Value;
use vla_eval::read_table;

const OPENVLA: &str = env!("CARGO_BIN_EXE_openvla");
const NODE: &str = env!("CARGO_BIN_EXE_vla_node");
const START: i64 = 1_700_000_000_000_000_000;
const PERIOD: i64 = 200_000_000;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    eval: Eval,
}

/// The kit's images, compressed and raw, each with its instruction half a period before it; and
/// what must not be replayed unasked.
fn golden_bag(path: &Path) -> usize {
    let kit = root("tests/data/openvla_tiny");
    let cases: Value =
        serde_json::from_slice(&std::fs::read(kit.join("cases.json")).unwrap()).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let mut writer = BagWriter::new(path);
    for (i, case) in cases.iter().enumerate() {
        let at = START + i as i64 * PERIOD;
        let png = std::fs::read(kit.join(case["image"].as_str().unwrap())).unwrap();
        writer.text("/task", at - PERIOD / 2, case["instruction"].as_str().unwrap());
        let rgb = image::load_from_memory(&png).unwrap().to_rgb8();
        writer.image("/front/raw", at, rgb.width(), rgb.height(), "rgb8", 3, rgb.to_vec());
        writer.compressed("/front/compressed", at, "png", png);
        writer.array("/vla/command/recorded", at, &[1.0; 7]);
    }
    writer.finish();
    cases.len()
}

/// Tokens and instruction of every frame, by the nanoseconds of its stamp, from the offline
/// evaluation.
fn offline(bag: &Path, topic: &str, out: &Path) -> BTreeMap<i64, (String, Vec<u32>)> {
    let checkpoint = root("tests/data/openvla_tiny/ckpt");
    let line = [
        "eval",
        "run",
        "--bag",
        bag.to_str().unwrap(),
        "--image-topic",
        topic,
        "--instruction-topic",
        "/task",
        "--checkpoint",
        checkpoint.to_str().unwrap(),
        "--unnorm-key",
        "bridge_orig",
        "--quiet",
        "--out",
        out.to_str().unwrap(),
    ];
    Cli::try_parse_from(line).unwrap().eval.run().unwrap();
    let pairs = read_table(out, 7).unwrap();
    let frame = |pair: &vla_eval::Paired| {
        (
            pair.step.stamp.unwrap(),
            (pair.step.instruction.clone(), pair.prediction().unwrap().token_ids.clone()),
        )
    };
    pairs.iter().map(frame).collect()
}

fn live_equals_offline(topic: &str, transport: &str) {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("golden.mcap");
    let frames = golden_bag(&bag);
    let offline = offline(&bag, topic, &folder.path().join("eval"));
    assert_eq!(offline.len(), frames);

    let actions = folder.path().join("actions.json");
    let domain = Domain::claim();
    let mut command = ros_support::python();
    command.arg(root("tests/graph/replay.py")).args([
        NODE,
        OPENVLA,
        bag.to_str().unwrap(),
        topic,
        transport,
    ]);
    let output = domain.apply(command.arg(&actions).stdin(Stdio::null())).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "replay in domain {}: {}\n{err}", domain.id(), output.status);

    let recorded: Value = serde_json::from_slice(&std::fs::read(&actions).unwrap()).unwrap();
    let recorded = recorded.as_array().unwrap();
    let mut answered = BTreeMap::new();
    for action in recorded {
        let stamp = action["stamp"].as_i64().unwrap();
        let (instruction, tokens) = offline
            .get(&stamp)
            .unwrap_or_else(|| panic!("no frame of the bag has the stamp {stamp}"));
        assert_eq!(action["instruction"].as_str().unwrap(), instruction, "frame at {stamp}");
        let live: Vec<u32> = action["token_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        assert_eq!(live, *tokens, "frame at {stamp}: live and offline tokens");
        assert!(answered.insert(stamp, live).is_none(), "the frame at {stamp} was answered twice");
    }
    let distinct: std::collections::BTreeSet<_> = answered.values().collect();
    println!(
        "{topic}: {} of {frames} frames answered live, {} different token lists, all as offline",
        answered.len(),
        distinct.len()
    );
    assert!(
        answered.len() * 4 >= frames * 3,
        "only {} of {frames} frames were answered",
        answered.len()
    );
    assert!(distinct.len() > 2, "a comparison of constants would prove nothing");
}

#[test]
fn live_tokens_equal_offline_tokens() {
    // One after the other: each has the machine for itself.
    live_equals_offline("/front/compressed", "compressed");
    live_equals_offline("/front/raw", "raw");
}

#[test]
fn what_cannot_be_replayed_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("golden.mcap");
    golden_bag(&bag);
    let bag = bag.to_str().unwrap();
    for (arguments, part) in [
        (&["--bag", "no/such"][..], "no/such"),
        (&["--bag", bag, "--topics", "/nothing"], "no topic `/nothing`"),
        (&["--bag", bag, "--image-topic", "/task"], "expected sensor_msgs/msg/Image"),
        (&["--bag", bag, "--remap", "/nothing:=image"], "no topic `/nothing`"),
        (&["--bag", bag, "--wait", "0", "--remap", "/task:=not a name"], "`not a name`"),
    ] {
        let domain = Domain::claim();
        let mut command = Command::new(OPENVLA);
        let output = domain
            .apply(command.arg("replay").args(arguments).stdin(Stdio::null()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("openvla: ")).collect();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(lines.last().is_some_and(|line| line.contains(part)), "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}
