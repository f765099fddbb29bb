//! `openvla eval` with checkpoints that answer with chunks from noise: every frame is what
//! `openvla predict` answers to the same cameras and the same state, whatever was evaluated before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../crates/vla-eval/tests/support/mod.rs"]
mod eval_support;

use std::path::{Path, PathBuf};
use std::process::Command;

use eval_support::{BagWriter, root};
use serde_json::Value;
use vla_eval::{Report, read_table};

const INSTRUCTION: &str = "--instruction=pick up the red block";

/// A frame of the bag: a file for each camera, and the state.
type Frame = ([PathBuf; 2], [f64; 8]);

/// A kit's checkpoint with a policy file, and a bag of its pictures.
struct Robot {
    folder: tempfile::TempDir,
    checkpoint: PathBuf,
    cameras: [&'static str; 2],
    frames: Vec<Frame>,
}

impl Robot {
    fn new(kit: &str, cameras: [&'static str; 2]) -> Robot {
        let folder = tempfile::tempdir().unwrap();
        let kit = root("tests/data").join(kit);
        let picture = |name| kit.join("images").join(name);
        let [wide, high, square] =
            ["00_640x480.png", "01_480x640.png", "02_224x224.png"].map(picture);
        let frames = vec![
            ([wide.clone(), square.clone()], [0.2, 0.6, 0.6, -0.6, -0.3, -0.5, 0.2, -0.8]),
            ([high, wide.clone()], [0.2, 0.6, 0.6, -0.6, -0.3, -0.5, 0.2, -0.8]),
            ([wide, square], [0.1, 0.5, 0.4, -0.7, -0.2, -0.6, 0.1, -0.9]),
        ];
        let joints: Vec<String> = (0..8).map(|joint| format!("joint{joint}")).collect();
        let policy = format!(
            "name: kit\nunnorm_keys: [action]\n\
            cameras: [{{name: {0}, topic: {0}}}, {{name: {1}, topic: {1}}}]\n\
            state: [{{from: joint_position, joints: [{2}]}}]\n\
            action: {{frame: base, rotation: rotation_vector, composition: left, \
            translation_scale_m: 0.01, rotation_scale_rad: 0.01}}\n\
            gripper: {{polarity: one_is_open}}\npolicy_hz: 5.0\nhorizon: 10\nexecute: 5\n\
            image: {{steps: [{{step: torch_bilinear_pad, size: 224}}]}}\n\
            flow: {{tokenizer: {3}, euler_steps: 3}}\n",
            cameras[0],
            cameras[1],
            joints.join(", "),
            kit.join("tokenizer").display()
        );
        std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
        let mut writer = BagWriter::new(&folder.path().join("bag.mcap"));
        for (at, (images, state)) in frames.iter().enumerate() {
            let at = 1_700_000_000_000_000_000 + at as i64 * 200_000_000;
            let names: Vec<&str> = joints.iter().map(String::as_str).collect();
            writer.joints("/joint_states", at - 3, &names, state);
            // The first camera decides when there is an observation.
            for (index, (camera, image)) in cameras.iter().zip(images).enumerate().rev() {
                let bytes = std::fs::read(image).unwrap();
                writer.compressed(&format!("/{camera}"), at - index as i64, "png", bytes);
            }
            writer.array("/actions", at + 5_000_000, &[0.0; 7]);
        }
        writer.finish();
        Robot { folder, checkpoint: kit.join("ckpt"), cameras, frames }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, command: &[&str], device: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_openvla"));
        program.env_remove("OPENVLA_WEIGHTS").args(command).args(["--device", device, INSTRUCTION]);
        program.arg("--checkpoint").arg(&self.checkpoint);
        program.arg("--policy-file").arg(self.path("policy.yaml"));
        program
    }

    /// The first step of every frame's chunk, and the report.
    fn evaluated(&self, out: &str, device: &str, more: &[&str]) -> (Vec<Vec<f64>>, Report) {
        let mut command = self.command(&["eval", "run", "--quiet"], device);
        command.arg("--bag").arg(self.path("bag.mcap")).arg("--out").arg(self.path(out));
        for camera in self.cameras {
            command.arg(format!("--camera={camera}=/{camera}"));
        }
        command.args(["--action-topic", "/actions"]).args(more);
        succeeded(command);
        let pairs = read_table(&self.path(out), 7).unwrap();
        let actions = pairs.iter().map(|pair| pair.prediction().unwrap().action.clone()).collect();
        (actions, Report::read(&self.path(out)).unwrap())
    }

    fn predicted(&self, (images, state): &Frame, device: &str, seed: &str) -> Vec<f64> {
        let mut command = self.command(&["predict", "--json", "--seed", seed], device);
        for (camera, image) in self.cameras.iter().zip(images) {
            command.arg(format!("--image={camera}={}", image.display()));
        }
        let state: Vec<String> = state.iter().map(f64::to_string).collect();
        command.arg(format!("--state={}", state.join(",")));
        let answer: Value = serde_json::from_slice(&succeeded(command)).unwrap();
        serde_json::from_value(answer["action"].clone()).unwrap()
    }
}

fn succeeded(mut command: Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn pi0() -> Robot {
    Robot::new("pi0_lerobot_tiny", ["base_0_rgb", "left_wrist_0_rgb"])
}

#[test]
fn frames_are_answered_as_by_predict() {
    for (robot, device) in [
        (pi0(), "cpu"),
        (pi0(), "sim:n300"),
        (Robot::new("pi05_lerobot_tiny", ["image", "wrist_image"]), "cpu"),
    ] {
        let (actions, report) = robot.evaluated("out", device, &[]);
        assert_eq!((report.frames.evaluated, report.frames.matched), (3, 3));
        assert_eq!(report.settings.policy.decode, "flow, 3 Euler steps, seed 0");
        assert_eq!((actions.len(), report.overall.token_accuracy), (3, None));
        assert!(report.latency_ms.contains_key("total"));
        for (action, frame) in actions.iter().zip(&robot.frames) {
            assert_eq!(*action, robot.predicted(frame, device, "0"), "{device}");
        }
        // Other pictures, and another state, give other actions.
        assert!(actions[0] != actions[1] && actions[0] != actions[2], "{actions:?}");
    }
}

#[test]
fn a_frame_does_not_depend_on_the_frames_before_it() {
    let robot = pi0();
    let (whole, _) = robot.evaluated("whole", "cpu", &["--seed", "7"]);
    let (again, _) = robot.evaluated("again", "cpu", &["--seed", "7"]);
    assert_eq!(whole, again);
    assert_eq!(whole[2], robot.predicted(&robot.frames[2], "cpu", "7"));
    let (default, _) = robot.evaluated("default", "cpu", &[]);
    assert_ne!(whole, default);
    for (part, frames) in [("0/2", vec![0, 2]), ("1/2", vec![1])] {
        let (actions, _) = robot.evaluated(&part[..1], "cpu", &["--seed", "7", "--shard", part]);
        let wanted: Vec<_> = frames.into_iter().map(|frame: usize| whole[frame].clone()).collect();
        assert_eq!(actions, wanted, "{part}");
    }
}

/// A policy whose actions are differences: the state of the frame is added.
#[test]
fn relative_actions_become_absolute() {
    let mut robot = pi0();
    let (relative, _) = robot.evaluated("relative", "cpu", &[]);
    let copy = robot.path("ckpt");
    std::fs::create_dir(&copy).unwrap();
    let processors = root("tests/data/pi0_lerobot_tiny/processors_relative");
    for folder in [robot.checkpoint.clone(), processors] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let from = entry.unwrap().path();
            // Not `fs::copy`: a kit may be read-only, and the copy must not be.
            std::fs::write(copy.join(from.file_name().unwrap()), std::fs::read(&from).unwrap())
                .unwrap();
        }
    }
    edit_config(&copy.join("config.json"));
    robot.checkpoint = copy;
    let (absolute, _) = robot.evaluated("absolute", "cpu", &[]);
    for ((absolute, relative), (_, state)) in absolute.iter().zip(&relative).zip(&robot.frames) {
        for (at, (absolute, relative)) in absolute.iter().zip(relative).enumerate() {
            // The processors exclude the gripper, by its name.
            let wanted = relative + if at < 6 { state[at] } else { 0.0 };
            assert!((absolute - wanted).abs() < 1e-6, "{at}: {absolute}, not {wanted}");
        }
    }
}

fn edit_config(path: &Path) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config["use_relative_actions"] = true.into();
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn real_time_chunking_needs_a_robot() {
    let robot = pi0();
    let mut command = robot.command(&["eval", "run", "--rtc", "guided"], "cpu");
    command.arg("--bag").arg(robot.path("bag.mcap")).arg("--out").arg(robot.path("out"));
    command.args(["--camera=base_0_rgb=/base_0_rgb"]);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--rtc") && error.contains("leave it out"), "{error}");
}
