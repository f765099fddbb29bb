//! Policy files of joint actions and robot files with joints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use vla_config::{
    Action, CommandOutput, ConfigFileError, JointQuantity, PolicyFile, RobotFile, StateSource,
};

const POLICY: &str = "\
name: two arms
unnorm_keys: [aloha]
cameras: [{name: high, topic: high}, {name: wrist, topic: wrist}, {name: low, absent: true}]
observation_spread_s: 0.1
state:
  - {from: joint_position, joints: [a, b]}
  - {from: gripper, topic: gripper_state, scale: 2.0, offset: -1.0}
action: {space: joint_position, joints: [a, grip, b], grippers: [grip], relative: true}
gripper: {closed: 1, open: -1, continuous: true}
policy_hz: 50.0
horizon: 50
execute: 25
image: {steps: [{step: bicubic, size: 224}]}
prompt: openvla
";
const ROBOT: &str = "\
name: arm
frames: {base: base, tool: tcp}
command:
  output: joint_trajectory
  topic: controller/joint_trajectory
  gripper_topic: gripper/command
  rate_hz: 50.0
  timeout_s: 0.2
joints:
  - {name: a, position: [-2.0, 2.0], velocity: 1.0, acceleration: 3.0, jerk: 30.0}
  - {name: b, continuous: true, velocity: 1.0, acceleration: 3.0, jerk: 30.0}
";

fn load<T>(
    text: &str,
    load: impl FnOnce(&Path) -> Result<T, ConfigFileError>,
) -> Result<T, String> {
    let folder = tempfile::tempdir().unwrap();
    let urdf = "<robot><joint name='a' type='revolute'>\
        <limit lower='-1' upper='1.5' velocity='0.8'/></joint></robot>";
    std::fs::write(folder.path().join("arm.urdf"), urdf).unwrap();
    let path = folder.path().join("file.yaml");
    std::fs::write(&path, text).unwrap();
    load(&path).map_err(|error| error.to_string())
}

#[test]
fn joint_actions_are_read() {
    let policy = load(POLICY, PolicyFile::load).unwrap();
    let Action::Joints(action) = &policy.action else { panic!("no joints") };
    assert_eq!(action.quantity, JointQuantity::RelativePosition);
    assert_eq!(
        (action.grippers.as_slice(), action.joints().collect::<Vec<_>>()),
        (&[1][..], vec![0, 2])
    );
    assert_eq!((policy.horizon, policy.execute, policy.state_dim()), (50, 25, 3));
    assert_eq!(policy.cameras[2].topic, None);
    assert_eq!(policy.state[1].source, StateSource::Gripper { topic: "gripper_state".into() });
    assert_eq!((policy.gripper.opening(1.0), policy.gripper.opening(-1.0)), (0.0, 1.0));
    assert_eq!(policy.to_step([0.0; 7]), None);
}

#[test]
fn wrong_joint_actions_are_refused() {
    for (from, to, wanted) in [
        (
            "relative: true",
            "frame: base",
            "action.frame: means nothing in the space joint_position",
        ),
        (", relative: true", "", "action.relative: missing"),
        ("[a, grip, b]", "[a, grip, a]", "action.joints[2]: `a` is named twice"),
        (
            "grippers: [grip]",
            "grippers: [claw]",
            "action.grippers: `claw` is none of action.joints",
        ),
        ("[a, b]}", "[a]}", "the state has no position of joint `b`"),
        ("[a, grip, b], grippers: [grip]", "[grip], grippers: [grip]", "names no joint"),
        (
            "joint_position, joints: [a, g",
            "joint_torque, joints: [a, g",
            "`joint_torque` is none of",
        ),
    ] {
        assert!(POLICY.contains(from), "{from}");
        let error = load(&POLICY.replacen(from, to, 1), PolicyFile::load).unwrap_err();
        assert!(error.contains(wanted), "{from} -> {to}: {error}");
    }
}

#[test]
fn robots_with_joints_are_read() {
    let robot = load(ROBOT, RobotFile::load).unwrap();
    assert_eq!(robot.command.output, CommandOutput::JointTrajectory);
    assert_eq!(robot.joints[0].position, Some([-2.0, 2.0]));
    assert_eq!(robot.joints[1].position, None);
    assert!(robot.end_effector.is_none());

    let joints = "  - {name: a, acceleration: 3.0, jerk: 30.0}\n";
    let from_urdf = ROBOT.split("joints:\n").next().unwrap().to_owned()
        + "from_urdf: arm.urdf\njoints:\n"
        + joints;
    let robot = load(&from_urdf, RobotFile::load).unwrap();
    assert_eq!((robot.joints[0].position, robot.joints[0].velocity), (Some([-1.0, 1.5]), 0.8));
    for (line, wanted) in [
        ("{name: c, acceleration: 3.0, jerk: 30.0}", "`c` is no moving joint of the URDF"),
        (
            "{name: a, velocity: 2.0, acceleration: 3.0, jerk: 30.0}",
            "2 rad/s is more than 0.8 rad/s of the URDF",
        ),
        (
            "{name: a, position: [-2.0, 1.0], acceleration: 3.0, jerk: 30.0}",
            "[-2, 1] exceeds [-1, 1.5] of the URDF",
        ),
        ("{name: a, continuous: true, acceleration: 3.0, jerk: 30.0}", "the URDF gives the joint"),
    ] {
        let text = from_urdf.replace(joints, &format!("  - {line}\n"));
        let error = load(&text, RobotFile::load).unwrap_err();
        assert!(error.contains(wanted), "{line}: {error}");
    }
}

#[test]
fn wrong_joints_are_refused() {
    for (from, to, wanted) in [
        ("output: joint_trajectory", "output: torque", "command.output: `torque` is none of"),
        ("  topic: controller", "  twist_topic: controller", "name it topic"),
        ("topic: controller/joint_trajectory", "topic: ''", "is not a topic name"),
        ("position: [-2.0, 2.0]", "position: [2.0, -2.0]", "[2, -2] is empty"),
        ("position: [-2.0, 2.0], ", "", "joints[0].position: missing"),
        ("continuous: true", "continuous: true, position: [0, 1]", "remove one of the two"),
        ("name: b", "name: a", "joints[1].name: `a` is named twice"),
        ("jerk: 30.0", "jerk: .nan", "joints[0].jerk: NaN rad/s3 is outside"),
        ("velocity: 1.0", "velocity: 0", "joints[0].velocity: 0 rad/s is outside"),
        ("joints:", "step_cap: {}\njoints:", "step_cap: means nothing for command.output"),
        ("joints:", "from_urdf: other.urdf\njoints:", "from_urdf: cannot read"),
        ("joint_trajectory\n", "twist\n", "joints: means nothing for command.output"),
        ("gripper_topic: g", "gripper_topics: [l, r]\n  gripper_topic: g", "give one of the two"),
    ] {
        assert!(ROBOT.contains(from), "{from}");
        let error = load(&ROBOT.replacen(from, to, 1), RobotFile::load).unwrap_err();
        assert!(error.contains(wanted), "{from} -> {to}: {error}");
    }
}
