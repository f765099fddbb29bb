//! `openvla eval` with the golden kit's checkpoint on a bag of the kit's images: every token equals
//! the recorded one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../crates/vla-eval/tests/support/mod.rs"]
mod eval_support;

use clap::Parser;
use eval_support::{BagWriter, root};
use openvla_tt::cli::eval::Eval;
use serde_json::Value;
use vla_eval::{Report, read_table};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    eval: Eval,
}

fn eval(arguments: &[&str]) -> Result<(), String> {
    let line = ["eval"].iter().chain(arguments);
    Cli::try_parse_from(line)
        .map_err(|error| error.to_string())?
        .eval
        .run()
        .map_err(|error| error.to_string())
}

/// The kit's images as PNG files and, where the camera could have sent them so, as raw ones too.
fn golden_bag(path: &std::path::Path) -> Vec<Vec<u32>> {
    let kit = root("tests/data/openvla_tiny");
    let cases: Value =
        serde_json::from_slice(&std::fs::read(kit.join("cases.json")).unwrap()).unwrap();
    let mut writer = BagWriter::new(path);
    let mut tokens = Vec::new();
    // An instruction loses the white space around it; the case that has some is compared with the
    // official code in crates/vla-inference/tests/golden.rs.
    let is_trimmed = |case: &&Value| {
        let text = case["instruction"].as_str().unwrap();
        text == text.trim()
    };
    let cases = cases["cases"].as_array().unwrap().iter().filter(is_trimmed);
    for (i, case) in cases.enumerate() {
        let at = 1_700_000_000_000_000_000 + i as i64 * 200_000_000;
        let png = std::fs::read(kit.join(case["image"].as_str().unwrap())).unwrap();
        writer.text("/instruction", at - 1, case["instruction"].as_str().unwrap());
        let decoded = image::load_from_memory(&png).unwrap();
        let (width, height) = (decoded.width(), decoded.height());
        match &decoded {
            image::DynamicImage::ImageLuma8(grey) => {
                writer.image("/raw", at, width, height, "mono8", 1, grey.to_vec())
            }
            image::DynamicImage::ImageRgba8(rgba) => {
                writer.image("/raw", at, width, height, "rgba8", 4, rgba.to_vec())
            }
            other => {
                let bgr = other
                    .to_rgb8()
                    .as_chunks::<3>()
                    .0
                    .iter()
                    .flat_map(|&[r, g, b]| [b, g, r])
                    .collect();
                writer.image("/raw", at, width, height, "bgr8", 3, bgr);
            }
        }
        writer.compressed("/camera/compressed", at, "png", png);
        let action: Vec<f64> = case["actions"]["bridge_orig"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        writer.array("/actions", at + 5_000_000, &action);
        tokens.push(
            case["generated_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect(),
        );
    }
    writer.finish();
    tokens
}

#[test]
fn golden_kit_token_accuracy_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("golden.mcap");
    let tokens = golden_bag(&bag);
    let checkpoint = root("tests/data/openvla_tiny/ckpt");
    for (topic, name) in [("/camera/compressed", "compressed"), ("/raw", "raw")] {
        let out = folder.path().join(name);
        let arguments = [
            "run",
            "--bag",
            bag.to_str().unwrap(),
            "--image-topic",
            topic,
            "--instruction-topic",
            "/instruction",
            "--action-topic",
            "/actions",
            "--checkpoint",
            checkpoint.to_str().unwrap(),
            "--unnorm-key",
            "bridge_orig",
            "--quiet",
            "--out",
            out.to_str().unwrap(),
        ];
        eval(&arguments).unwrap();
        let report = Report::read(&out).unwrap();
        assert_eq!(
            (report.frames.evaluated, report.frames.matched, report.frames.failed),
            (11, 11, 0),
            "{topic}"
        );
        assert_eq!(
            (report.overall.token_accuracy, report.overall.action_accuracy),
            (Some(1.0), Some(1.0)),
            "{topic}"
        );
        assert_eq!(report.overall.bin_distance, Some(0.0));
        let ids = report.action_tokens.unwrap();
        assert_eq!((ids.start, ids.end), (31_744, 32_000));
        for dimension in &report.overall.dimensions {
            assert!(
                dimension.max.unwrap() < 1e-12,
                "{topic} {}: {:?}",
                dimension.name,
                dimension.max
            );
        }
        let predicted: Vec<Vec<u32>> = read_table(&out, 7)
            .unwrap()
            .iter()
            .map(|pair| pair.prediction().unwrap().token_ids.clone())
            .collect();
        assert_eq!(predicted, tokens, "{topic}");
        for stage in ["preprocess", "vision", "projector", "prefill", "decode", "total"] {
            assert_eq!(report.latency_ms[stage].n, 11, "{stage}");
        }
    }
    let (a, b, out) = (
        folder.path().join("raw"),
        folder.path().join("compressed"),
        folder.path().join("compare"),
    );
    eval(&["compare", a.to_str().unwrap(), b.to_str().unwrap(), "--out", out.to_str().unwrap()])
        .unwrap();
    let comparison: Value =
        serde_json::from_slice(&std::fs::read(out.join("compare.json")).unwrap()).unwrap();
    assert_eq!(comparison["token_agreement"], 1.0);
}

/// OpenVLA-OFT of the kit, two cameras and a state: `eval` of a recording answers as `predict` does
/// with the same pictures and the same state.
#[test]
fn several_cameras_and_a_state_as_in_predict() {
    let kit = root("tests/data/oft_tiny");
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("oft.mcap");
    let path = |name: &str| kit.join("images").join(name).to_str().unwrap().to_owned();
    let cases = [
        (
            path("00_full_256x256.png"),
            path("00_wrist_256x256.png"),
            [0.3, -0.1, 0.9],
            [0.02, -0.03],
        ),
        (path("01_full_640x480.png"), path("01_wrist_320x240.png"), [0.5, 0.2, 0.7], [0.01, -0.01]),
    ];
    let mut writer = BagWriter::new(&bag);
    for (i, (full, wrist, position, fingers)) in cases.iter().enumerate() {
        let at = 1_700_000_000_000_000_000 + i as i64 * 1_000_000_000;
        writer.pose("/ee_pose", at - 40_000_000, *position);
        let names = ["panda_finger_joint2", "other", "panda_finger_joint1"];
        writer.joints("/franka/joint_states", at - 3, &names, &[fingers[1], 7.0, fingers[0]]);
        writer.compressed("/wrist", at - 2, "png", std::fs::read(wrist).unwrap());
        writer.compressed("/full", at, "png", std::fs::read(full).unwrap());
    }
    writer.finish();
    let checkpoint = format!("--checkpoint={}", kit.join("ckpt").display());
    let file = root("config/policies/openvla-oft-libero.yaml");
    let file = format!("--policy-file={}", file.display());
    let key = "--unnorm-key=libero_spatial_no_noops";
    let out = folder.path().join("out");
    eval(&[
        "run",
        &format!("--bag={}", bag.display()),
        "--camera=wrist=/wrist",
        "--camera=full=/full",
        "--state-topic=joint_states=/franka/joint_states",
        "--instruction=pick up the black bowl",
        &checkpoint,
        &file,
        key,
        "--quiet",
        &format!("--out={}", out.display()),
    ])
    .unwrap();
    let evaluated = read_table(&out, 7).unwrap();
    assert_eq!(evaluated.len(), cases.len());
    for (pair, (full, wrist, position, fingers)) in evaluated.iter().zip(&cases) {
        let [x, y, z] = position;
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_openvla"))
            .args(["predict", "--json", "--instruction=pick up the black bowl", key])
            .args([&checkpoint, &file])
            .args([format!("--image=full={full}"), format!("--image=wrist={wrist}")])
            .arg(format!("--state={x},{y},{z},0,0,0,{},{}", fingers[0], fingers[1]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let predicted: Value = serde_json::from_slice(&output.stdout).unwrap();
        let action: Vec<f64> = serde_json::from_value(predicted["action"].clone()).unwrap();
        assert_eq!(pair.prediction().unwrap().action, action);
    }
    assert_ne!(
        evaluated[0].prediction().unwrap().action,
        evaluated[1].prediction().unwrap().action
    );
}

#[test]
fn wrong_command_lines_are_refused() {
    let good = ["run", "--bag", "x", "--image-topic", "/i", "--out", "o"];
    let run = |more: &[&'static str]| [&good[..], more].concat();
    let old = ["--bag", "x", "--image-topic", "/i", "--out", "o"];
    let old_limits = ["--expert", "--bag", "x", "--out", "o"];
    for (arguments, part) in [
        (vec!["run", "--bag", "x"], "--out"),
        (vec!["run", "--bag", "x", "--out", "o"], "--image-topic"),
        (run(&["--shard", "4/4"]), "shard is '4/4'"),
        (run(&["--every", "0"]), "--every"),
        (run(&["--match", "soon"]), "'soon' is not one of exact, next"),
        (run(&["--policy-hz=-1"]), "not a positive number"),
        (run(&["--camera", "a=/a"]), "cannot be used with"),
        (vec!["run", "--bag", "x", "--out", "o", "--camera", "a"], "is not NAME=TOPIC"),
        (run(&["--checkpoint", "no/such"]), "no/such"),
        (run(&["--robot-file", "r.yaml"]), "--robot-file"),
        (vec!["limits", "--bag", "x", "--out", "o"], "--robot-file"),
        (vec!["limits", "--device", "cpu"], "--device"),
        (vec!["merge"], "required"),
        (vec!["compare", "a"], "required"),
        (vec![], "subcommand"),
        (old.to_vec(), "use `openvla eval run`"),
        (old_limits.to_vec(), "`openvla eval limits`"),
        (vec!["rum"], "`openvla eval run`"),
    ] {
        let error = eval(&arguments).unwrap_err();
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}
