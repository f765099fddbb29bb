//! `config/robots/*.yaml`: command topics, frames, limits, workspace and gripper of a robot.

use std::path::Path;

use serde::Deserialize;

use super::{ConfigFileError, Unknown, frame_name, need, number, read, refuse_unknown, topic_name};
use vla_control::ranges::{self, Range};
use vla_control::{ConfigErrors, RawGripper, RawLimits, RawMotionLimits, RawStepCap, RawWorkspace};

/// Topics and rate of the commands.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotCommand {
    /// Topic of the `TwistStamped`: absolute, relative to the node's namespace, or private (`~/`).
    pub twist_topic: String,
    /// Topic of the gripper's `Float64`, likewise.
    pub gripper_topic: String,
    /// Commands per second.
    pub rate_hz: f64,
    /// After how much silence the arm stops by itself, seconds. Bounds `overrun_s`.
    pub timeout_s: f64,
}

/// The box, and the frame it is in.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotWorkspace {
    /// The frame of `ee_pose`; must be the base frame.
    pub frame: String,
    /// The box in that frame, metres.
    pub area: RawWorkspace,
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
    /// Velocity, acceleration, jerk.
    pub limits: RawLimits,
    /// The longest single policy step.
    pub step_cap: RawStepCap,
    /// The box the end effector must stay in.
    pub workspace: Option<RobotWorkspace>,
    /// Threshold, hysteresis, dwell. Polarity is the checkpoint's.
    pub gripper: RawGripper,
}

#[derive(Debug, Deserialize)]
struct RawRobot {
    name: Option<String>,
    frames: Option<RawFrames>,
    command: Option<RawCommand>,
    limits: Option<RawRobotLimits>,
    step_cap: Option<RawCap>,
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
    twist_topic: Option<String>,
    gripper_topic: Option<String>,
    rate_hz: Option<f64>,
    timeout_s: Option<f64>,
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

#[derive(Debug, Default, Deserialize)]
struct RawRobotGripper {
    threshold: Option<f64>,
    hysteresis: Option<f64>,
    min_dwell_s: Option<f64>,
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
        let checked = match raw.check(&mut problems) {
            Some(robot) => problems.into_result(robot),
            None => Err(problems),
        };
        checked.map_err(|problems| ConfigFileError::Invalid { path: path.to_owned(), problems })
    }
}

impl RawRobot {
    /// `None` only after something was noted.
    fn check(self, p: &mut ConfigErrors) -> Option<RobotFile> {
        refuse_unknown(p, "", &self.unknown);
        let name = need(p, "name", self.name);
        let frames = self.frames.unwrap_or_default();
        refuse_unknown(p, "frames", &frames.unknown);
        let base_frame = frame_name(p, "frames.base", frames.base);
        let tool_frame = frame_name(p, "frames.tool", frames.tool);
        let command = check_command(p, self.command.unwrap_or_default());
        let limits = self.limits.unwrap_or_default();
        refuse_unknown(p, "limits", &limits.unknown);
        let linear = check_group(p, "limits.linear", limits.linear.unwrap_or_default(), &LINEAR);
        let angular =
            check_group(p, "limits.angular", limits.angular.unwrap_or_default(), &ANGULAR);
        let cap = self.step_cap.unwrap_or_default();
        refuse_unknown(p, "step_cap", &cap.unknown);
        let translation =
            within(p, "step_cap.translation", cap.translation, &ranges::STEP_TRANSLATION);
        let rotation = within(p, "step_cap.rotation", cap.rotation, &ranges::STEP_ROTATION);
        let workspace = self.workspace.and_then(|raw| check_box(p, raw, base_frame.as_deref()));
        let gripper = check_gripper(p, self.gripper.unwrap_or_default());
        Some(RobotFile {
            name: name?,
            base_frame: base_frame?,
            tool_frame: tool_frame?,
            command: command?,
            limits: RawLimits { linear: linear?, angular: angular? },
            step_cap: RawStepCap { translation: translation?, rotation: rotation? },
            workspace,
            gripper,
        })
    }
}

/// A number that must be given and lie in a parameter's range.
fn within(p: &mut ConfigErrors, place: &str, value: Option<f64>, range: &Range) -> Option<f64> {
    number(p, place, value, range.min, range.max, range.unit)
}

fn check_command(p: &mut ConfigErrors, raw: RawCommand) -> Option<RobotCommand> {
    refuse_unknown(p, "command", &raw.unknown);
    let twist_topic = topic_name(p, "command.twist_topic", raw.twist_topic);
    let gripper_topic = topic_name(p, "command.gripper_topic", raw.gripper_topic);
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
    Some(RobotCommand {
        twist_topic: twist_topic?,
        gripper_topic: gripper_topic?,
        rate_hz: rate_hz?,
        timeout_s: timeout_s?,
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

fn check_gripper(p: &mut ConfigErrors, raw: RawRobotGripper) -> RawGripper {
    refuse_unknown(p, "gripper", &raw.unknown);
    let default = RawGripper::default();
    for (place, value, range) in [
        ("gripper.threshold", raw.threshold, &ranges::GRIPPER_THRESHOLD),
        ("gripper.hysteresis", raw.hysteresis, &ranges::GRIPPER_HYSTERESIS),
        ("gripper.min_dwell_s", raw.min_dwell_s, &ranges::GRIPPER_MIN_DWELL),
    ] {
        if let Some(value) = value {
            p.within(place, value, range);
        }
    }
    RawGripper {
        threshold: raw.threshold.unwrap_or(default.threshold),
        hysteresis: raw.hysteresis.unwrap_or(default.hysteresis),
        min_dwell_s: raw.min_dwell_s.unwrap_or(default.min_dwell_s),
        invert: false,
        ..default
    }
}
