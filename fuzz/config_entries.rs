//! Entry points of the fuzz targets for what the node is configured with: policy files, robot
//! files, URDF, ROS parameters and paths. `tests/fuzz_smoke.rs` includes this file and drives the
//! same functions with seeded mutations on stable Rust.

use std::path::{Path, PathBuf};

use vla_config::{
    ConfigFileError, PolicyFile, Remark, RobotFile, applies, expand_path, named_on_the_hub,
    parse_sections, parse_value, read_arguments,
};
use vla_control::ConfigErrors;

use crate::checkpoint_entries::check_text;

/// A robot whose joints take every limit from `arm.urdf`, but for what a URDF has not.
const ROBOT_OF_URDF: &str = "name: a
frames: {base: base, tool: tool}
command:
  {output: joint_velocity_array, topic: c, gripper_topic: /g, rate_hz: 50.0, timeout_s: 0.1}
from_urdf: arm.urdf
joints:
  - {name: shoulder, acceleration: 2.5, jerk: 25.0}
  - {name: wrist, acceleration: 2.5, jerk: 25.0}
  - {name: rail, acceleration: 2.5, jerk: 25.0}
gripper: {threshold: 0.5, hysteresis: 0.1, min_dwell_s: 0.5}
";

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

/// A file of the thread's temporary folder with these bytes.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    FOLDER.with(|folder| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file in the temporary folder");
        path
    })
}

/// Each problem is one line; a file may have thousands.
fn check_problems(problems: &ConfigErrors) {
    for problem in &problems.0 {
        check_text(&problem.to_string());
    }
}

fn check_error(error: &ConfigFileError) -> bool {
    match error {
        ConfigFileError::Invalid { problems, .. } => check_problems(problems),
        error => drop(check_text(&error.to_string())),
    }
    false
}

/// The bytes as a policy file.
pub fn fuzz_policy_file(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match PolicyFile::from_text(Path::new("policy.yaml"), &text) {
        Err(error) => check_error(&error),
        Ok(policy) => {
            assert!(1 <= policy.execute && policy.execute <= policy.horizon);
            assert!(policy.policy_hz.is_finite() && 0.0 < policy.policy_hz);
            assert!(!policy.unnorm_keys.is_empty() && !policy.cameras.is_empty());
            for key in &policy.unnorm_keys {
                assert_eq!(policy.choose_key(Some(key)), Ok(key.as_str()));
            }
            for problem in policy.unsupported() {
                check_text(&problem);
            }
            if let Some(step) = policy.to_step([0.5; 7]) {
                let numbers = step.translation.iter().chain(&step.rotation);
                assert!(numbers.chain([&step.gripper]).all(|number| number.is_finite()));
            }
            assert!(policy.state_dim() < 1 << 20);
            true
        }
    }
}

/// The bytes as a robot file.
pub fn fuzz_robot_file(bytes: &[u8]) -> bool {
    check_robot(&file("robot.yaml", bytes))
}

/// The bytes as the URDF that a robot file names.
pub fn fuzz_urdf(bytes: &[u8]) -> bool {
    file("arm.urdf", bytes);
    check_robot(&file("of_urdf.yaml", ROBOT_OF_URDF.as_bytes()))
}

fn check_robot(path: &Path) -> bool {
    match RobotFile::load(path) {
        Err(error) => check_error(&error),
        Ok(robot) => {
            assert!(robot.command.rate_hz.is_finite() && 0.0 < robot.command.rate_hz);
            assert!(robot.end_effector.is_some() == robot.joints.is_empty());
            for joint in &robot.joints {
                let limits = [joint.velocity, joint.acceleration, joint.jerk];
                assert!(limits.iter().all(|limit| limit.is_finite() && 0.0 < *limit));
                if let Some([low, high]) = joint.position {
                    assert!(low.is_finite() && high.is_finite() && low < high);
                }
            }
            if let Some(workspace) = &robot.workspace {
                let area = &workspace.area;
                assert!(area.min.iter().zip(&area.max).all(|(low, high)| low < high));
            }
            true
        }
    }
}

/// The bytes as a ROS parameter file, and its first line as arguments. Accepted: a section applies
/// to the node and has a parameter, QoS overrides included.
pub fn fuzz_parameters(bytes: &[u8]) -> bool {
    const NODE: &str = "/robot1/vla";
    let text = String::from_utf8_lossy(bytes);
    match parse_sections(&text) {
        Err(line) => drop(check_text(&line)),
        Ok(sections) => {
            for section in &sections {
                let _ = applies(&section.node, NODE);
            }
        }
    }
    let line = text.lines().next().unwrap_or_default();
    if let Err(line) = parse_value(line) {
        check_text(&line);
    }
    let path = file("parameters.yaml", bytes).to_string_lossy().into_owned();
    let (line, file) = (line.to_owned(), "--params-file".to_owned());
    let arguments = ["--ros-args".into(), "-p".into(), line.clone(), "-r".into(), line, file, path];
    let mut problems = ConfigErrors::default();
    let read = read_arguments(&arguments, NODE, &mut problems);
    check_problems(&problems);
    for Remark::Info(line) | Remark::Warning(line) in &read.remarks {
        check_text(line);
    }
    read.given.iter().count() + read.given.qos.len() > 0
}

/// The bytes as a path that a user gave.
pub fn fuzz_given_path(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    if let Some(line) = named_on_the_hub(&text) {
        check_text(&line);
    }
    match expand_path(&text, Some("/home/robot")) {
        Err(line) => check_text(&line),
        Ok(path) => {
            let rest = ["~", "$HOME", "${HOME}"].iter().find_map(|name| text.strip_prefix(name));
            match rest {
                Some(rest) => assert_eq!(path, format!("/home/robot{rest}")),
                None => assert_eq!(path, text),
            }
            true
        }
    }
}
