//! `config/robots/*.yaml`: command topics, frames, limits, workspace and gripper of a robot.

use std::path::Path;

use serde::Deserialize;

use super::gripper_section::{GripperState, RawRobotGripper, check_gripper};
use super::joints_section::{RawJoint, RobotJoint, check_joints};
use super::{
    ConfigFileError, Unknown, choice, frame_name, need, number, read, refuse_unknown, topic_name,
};
use vla_control::action_chunk::GRIPPERS_MAX;
use vla_control::ranges::{self, Range};
use vla_control::{ConfigErrors, RawGripper, RawLimits, RawMotionLimits, RawStepCap, RawWorkspace};

/// The message in which commands are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutput {
    /// `geometry_msgs/TwistStamped`: velocity of the end effector.
    Twist,
    /// `trajectory_msgs/JointTrajectory` of one point: position and velocity of each joint by name,
    /// for a joint_trajectory_controller.
    JointTrajectory,
    /// `std_msgs/Float64MultiArray` of positions in the order of `joints`, for a
    /// forward_command_controller.
    JointPositionArray,
    /// `std_msgs/Float64MultiArray` of velocities in the order of `joints`, likewise.
    JointVelocityArray,
    /// `sensor_msgs/JointState`: position and velocity of each joint by name.
    JointState,
}

/// Topics and rate of the commands.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotCommand {
    /// The message.
    pub output: CommandOutput,
    /// Topic of that message: absolute, relative to the node's namespace, or private (`~/`).
    pub topic: String,
    /// Topic of the `Float64` of each gripper, likewise, in the order of the policy's grippers.
    pub gripper_topics: Vec<String>,
    /// Commands per second.
    pub rate_hz: f64,
    /// After how much silence the arm stops by itself, seconds. Bounds `overrun_s`.
    pub timeout_s: f64,
    /// Time from the publication of a command to the arm's motion, seconds.
    pub latency_s: f64,
}

/// The box, and the frame it is in.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotWorkspace {
    /// The frame of `ee_pose`; must be the base frame.
    pub frame: String,
    /// The box in that frame, metres.
    pub area: RawWorkspace,
}

/// Limits of a robot that is commanded by twists.
#[derive(Debug, Clone, PartialEq)]
pub struct EndEffectorLimits {
    /// Velocity, acceleration, jerk.
    pub limits: RawLimits,
    /// The longest single policy step.
    pub step_cap: RawStepCap,
}

/// What a robot may do, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotFile {
    /// For people.
    pub name: String,
    /// TF frame of the base.
    pub base_frame: String,
    /// TF frame of the tool.
    pub tool_frame: String,
    /// Topics and rate of the commands.
    pub command: RobotCommand,
    /// Limits of the end effector, where it is commanded.
    pub end_effector: Option<EndEffectorLimits>,
    /// The joints, where they are commanded, in the order of the message.
    pub joints: Vec<RobotJoint>,
    /// The box the end effector must stay in.
    pub workspace: Option<RobotWorkspace>,
    /// Threshold, hysteresis, dwell. Polarity is the checkpoint's.
    pub gripper: RawGripper,
    /// Where each gripper's opening is measured, in the order of the topics; empty where none is.
    pub gripper_states: Vec<GripperState>,
}

#[derive(Debug, Deserialize)]
struct RawRobot {
    name: Option<String>,
    frames: Option<RawFrames>,
    command: Option<RawCommand>,
    limits: Option<RawRobotLimits>,
    step_cap: Option<RawCap>,
    from_urdf: Option<String>,
    joints: Option<Vec<RawJoint>>,
    workspace: Option<RawBox>,
    gripper: Option<RawRobotGripper>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawFrames {
    base: Option<String>,
    tool: Option<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawCommand {
    output: Option<String>,
    topic: Option<String>,
    twist_topic: Option<String>,
    gripper_topic: Option<String>,
    gripper_topics: Option<Vec<String>>,
    rate_hz: Option<f64>,
    timeout_s: Option<f64>,
    latency_s: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawRobotLimits {
    linear: Option<RawGroup>,
    angular: Option<RawGroup>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawGroup {
    velocity: Option<f64>,
    acceleration: Option<f64>,
    jerk: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawCap {
    translation: Option<f64>,
    rotation: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Deserialize)]
struct RawBox {
    frame: Option<String>,
    min: Option<[f64; 3]>,
    max: Option<[f64; 3]>,
    margin: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl RobotFile {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`ConfigFileError`]: unreadable, too large, not YAML, or every rule it breaks.
    pub fn load(path: &Path) -> Result<Self, ConfigFileError> {
        let raw: RawRobot = read(path)?;
        let mut problems = ConfigErrors::default();
        let folder = path.parent().unwrap_or(Path::new(""));
        let checked = match raw.check(&mut problems, folder) {
            Some(robot) => problems.into_result(robot),
            None => Err(problems),
        };
        checked.map_err(|problems| ConfigFileError::Invalid { path: path.to_owned(), problems })
    }
}

impl RawRobot {
    /// `None` only after something was noted.
    fn check(self, p: &mut ConfigErrors, folder: &Path) -> Option<RobotFile> {
        refuse_unknown(p, "", &self.unknown);
        let name = need(p, "name", self.name);
        let frames = self.frames.unwrap_or_default();
        refuse_unknown(p, "frames", &frames.unknown);
        let base_frame = frame_name(p, "frames.base", frames.base);
        let tool_frame = frame_name(p, "frames.tool", frames.tool);
        let command = check_command(p, self.command.unwrap_or_default());
        let twist = command.as_ref().is_none_or(|command| command.output == CommandOutput::Twist);
        let of_twist = [
            ("limits", self.limits.is_some()),
            ("step_cap", self.step_cap.is_some()),
            // A box of the end effector cannot be guarded without the arm's kinematics.
            ("workspace", self.workspace.is_some()),
        ];
        let of_joints =
            [("joints", self.joints.is_some()), ("from_urdf", self.from_urdf.is_some())];
        let foreign = if twist { &of_joints[..] } else { &of_twist };
        for (place, _) in foreign.iter().filter(|(_, given)| *given) {
            p.add(place, "means nothing for command.output of this file; remove it");
        }
        let (mut end_effector, mut joints) = (None, Vec::new());
        if twist {
            let limits = self.limits.unwrap_or_default();
            end_effector = check_end_effector(p, limits, self.step_cap.unwrap_or_default());
        } else if let Some(raw) = need(p, "joints", self.joints) {
            if raw.is_empty() {
                p.add("joints", "names no joint");
            }
            joints = check_joints(p, raw, self.from_urdf, folder);
        }
        let workspace = self.workspace.and_then(|raw| check_box(p, raw, base_frame.as_deref()));
        let grippers = command.as_ref().map(|command| command.gripper_topics.len());
        let (gripper, gripper_states) =
            check_gripper(p, self.gripper.unwrap_or_default(), grippers);
        Some(RobotFile {
            name: name?,
            base_frame: base_frame?,
            tool_frame: tool_frame?,
            command: command?,
            end_effector,
            joints,
            workspace,
            gripper,
            gripper_states,
        })
    }
}

/// A number that must be given and lie in a parameter's range.
fn within(p: &mut ConfigErrors, place: &str, value: Option<f64>, range: &Range) -> Option<f64> {
    number(p, place, value, range.min, range.max, range.unit)
}

fn check_command(p: &mut ConfigErrors, raw: RawCommand) -> Option<RobotCommand> {
    refuse_unknown(p, "command", &raw.unknown);
    let outputs = [
        ("twist", CommandOutput::Twist),
        ("joint_trajectory", CommandOutput::JointTrajectory),
        ("joint_position_array", CommandOutput::JointPositionArray),
        ("joint_velocity_array", CommandOutput::JointVelocityArray),
        ("joint_state", CommandOutput::JointState),
    ];
    let output = match raw.output.as_deref() {
        None => Some(CommandOutput::Twist),
        given => choice(p, "command.output", given, &outputs),
    };
    let topic = match (raw.twist_topic, raw.topic) {
        (Some(_), Some(_)) => {
            p.add("command.topic", "is given beside twist_topic; give one of the two");
            None
        }
        (Some(_), None) if output.is_some_and(|output| output != CommandOutput::Twist) => {
            p.add("command.twist_topic", "is not the topic of this output; name it topic");
            None
        }
        (None, Some(topic)) => topic_name(p, "command.topic", Some(topic)),
        (twist, None) if output == Some(CommandOutput::Twist) => {
            topic_name(p, "command.twist_topic", twist)
        }
        (_, None) => topic_name(p, "command.topic", None),
    };
    let gripper_topics = check_gripper_topics(p, raw.gripper_topic, raw.gripper_topics);
    let rate_hz = within(p, "command.rate_hz", raw.rate_hz, &ranges::COMMAND_RATE);
    let timeout_s = number(p, "command.timeout_s", raw.timeout_s, 0.001, 10.0, "s");
    if let (Some(rate_hz), Some(timeout_s)) = (rate_hz, timeout_s)
        && timeout_s * rate_hz < 2.0
    {
        p.add(
            "command.rate_hz",
            format!("at {rate_hz} Hz one late command exceeds the arm's timeout of {timeout_s} s"),
        );
    }
    let latency_s = number(p, "command.latency_s", raw.latency_s.or(Some(0.0)), 0.0, 1.0, "s");
    Some(RobotCommand {
        output: output?,
        topic: topic?,
        gripper_topics: gripper_topics?,
        rate_hz: rate_hz?,
        timeout_s: timeout_s?,
        latency_s: latency_s?,
    })
}

/// One topic, or a list of them for several grippers.
fn check_gripper_topics(
    p: &mut ConfigErrors,
    one: Option<String>,
    several: Option<Vec<String>>,
) -> Option<Vec<String>> {
    match (one, several) {
        (Some(_), Some(_)) => {
            p.add("command.gripper_topics", "is given beside gripper_topic; give one of the two");
            None
        }
        (one, None) => Some(vec![topic_name(p, "command.gripper_topic", one)?]),
        (None, Some(several)) => {
            if GRIPPERS_MAX < several.len() {
                let given = several.len();
                p.add(
                    "command.gripper_topics",
                    format!("has {given} topics; at most {GRIPPERS_MAX}"),
                );
            }
            let topic =
                |(i, topic)| topic_name(p, &format!("command.gripper_topics[{i}]"), Some(topic));
            let topics: Vec<Option<String>> = several.into_iter().enumerate().map(topic).collect();
            topics.into_iter().collect()
        }
    }
}

fn check_end_effector(
    p: &mut ConfigErrors,
    limits: RawRobotLimits,
    cap: RawCap,
) -> Option<EndEffectorLimits> {
    refuse_unknown(p, "limits", &limits.unknown);
    let linear = check_group(p, "limits.linear", limits.linear.unwrap_or_default(), &LINEAR);
    let angular = check_group(p, "limits.angular", limits.angular.unwrap_or_default(), &ANGULAR);
    refuse_unknown(p, "step_cap", &cap.unknown);
    let translation = within(p, "step_cap.translation", cap.translation, &ranges::STEP_TRANSLATION);
    let rotation = within(p, "step_cap.rotation", cap.rotation, &ranges::STEP_ROTATION);
    Some(EndEffectorLimits {
        limits: RawLimits { linear: linear?, angular: angular? },
        step_cap: RawStepCap { translation: translation?, rotation: rotation? },
    })
}

const LINEAR: [Range; 3] =
    [ranges::LINEAR_VELOCITY, ranges::LINEAR_ACCELERATION, ranges::LINEAR_JERK];
const ANGULAR: [Range; 3] =
    [ranges::ANGULAR_VELOCITY, ranges::ANGULAR_ACCELERATION, ranges::ANGULAR_JERK];

fn check_group(
    p: &mut ConfigErrors,
    place: &str,
    raw: RawGroup,
    [v, a, j]: &[Range; 3],
) -> Option<RawMotionLimits> {
    refuse_unknown(p, place, &raw.unknown);
    let velocity = within(p, &format!("{place}.velocity"), raw.velocity, v);
    let acceleration = within(p, &format!("{place}.acceleration"), raw.acceleration, a);
    let jerk = within(p, &format!("{place}.jerk"), raw.jerk, j);
    Some(RawMotionLimits { velocity: velocity?, acceleration: acceleration?, jerk: jerk? })
}

fn check_box(
    p: &mut ConfigErrors,
    raw: RawBox,
    base_frame: Option<&str>,
) -> Option<RobotWorkspace> {
    refuse_unknown(p, "workspace", &raw.unknown);
    let frame = frame_name(p, "workspace.frame", raw.frame);
    if let (Some(frame), Some(base)) = (frame.as_deref(), base_frame)
        && frame != base
    {
        p.add(
            "workspace.frame",
            format!(
                "`{frame}` is not the base frame `{base}`, in which twist and pose must be to \
                guard the box"
            ),
        );
    }
    let min = need(p, "workspace.min", raw.min);
    let max = need(p, "workspace.max", raw.max);
    let margin = within(p, "workspace.margin", raw.margin, &ranges::WORKSPACE_MARGIN);
    Some(RobotWorkspace {
        frame: frame?,
        area: RawWorkspace { min: min?, max: max?, margin: margin? },
    })
}
