//! The table of parameters: name, type, default, range, unit, meaning, and when each may change.
//!
//! Reading, validation, the ROS descriptors, `vla_node --help` and `docs/parameters.md` come from
//! it.

use vla_control::ranges::{self, Range};

use super::Values;

/// When a parameter may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Given at start; read-only afterwards.
    Start,
    /// While the node is unconfigured.
    Unconfigured,
    /// While the node is unconfigured or inactive; weights stay loaded.
    Inactive,
}

impl Change {
    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Start => "at start",
            Self::Unconfigured => "while unconfigured",
            Self::Inactive => "while unconfigured or inactive",
        }
    }
}

/// What a given value may be where the policy file or the robot file has one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// No file has a value.
    Own,
    /// At most the file's.
    AtMost,
    /// At least the file's.
    AtLeast,
    /// The file's and no other.
    Equal,
}

/// Type of a parameter, as in `rcl_interfaces/ParameterType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `bool`
    Bool,
    /// `integer`
    Integer,
    /// `double`
    Double,
    /// `string`
    Text,
    /// `double_array`
    Doubles,
}

impl Type {
    /// ROS's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Text => "string",
            Self::Doubles => "double array",
        }
    }
}

/// Field of a value, with its type.
pub(crate) enum Slot {
    Bool(fn(&mut Values) -> &mut bool),
    Integer(fn(&mut Values) -> &mut i64),
    Count(fn(&mut Values) -> &mut u32),
    Float(fn(&mut Values) -> &mut f64),
    Text(fn(&mut Values) -> &mut String),
    Path(fn(&mut Values) -> &mut String),
    Corner(fn(&mut Values) -> &mut Option<[f64; 3]>),
}

/// One row of the table.
pub struct Parameter {
    /// Dotted name.
    pub name: &'static str,
    /// Range of a number; of each coordinate of a corner.
    pub range: Option<Range>,
    /// What the value 0, or an empty text or list, means where it is no value.
    pub unset: Option<&'static str>,
    /// The words a text may be; empty for any.
    pub choices: &'static [&'static str],
    /// Relation to the value of a file.
    pub rule: Rule,
    /// When it may change.
    pub change: Change,
    /// Meaning, without unit and range.
    pub text: &'static str,
    pub(crate) slot: Slot,
}

macro_rules! table {
    ($($name:literal: $rule:ident, $change:ident, $kind:ident($($field:ident).+)
        $(in $range:expr)? $(, of $choices:expr)? $(, unset $unset:literal)?, $text:literal;)*) => {
        /// Every parameter of the node.
        pub const TABLE: &[Parameter] = &[$(Parameter {
            name: $name,
            range: table!(@option $($range)?),
            unset: table!(@option $($unset)?),
            choices: table!(@list $($choices)?),
            rule: Rule::$rule,
            change: Change::$change,
            text: $text,
            slot: Slot::$kind(|values| &mut values.$($field).+),
        }),*];
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@list) => { &[] };
    (@list $value:expr) => { &$value };
}

/// Rate of a policy's steps.
pub const POLICY_RATE: Range = Range::new(0.1, 200.0, "Hz");
const INFERENCE_RATE: Range = Range::new(0.01, 1000.0, "Hz");
const LOAD_TIMEOUT: Range = Range::new(1.0, 3600.0, "s");
/// Exact as a float64, which ROS's descriptors of ranges are.
const SEED: Range = Range::new(0.0, 9_007_199_254_740_991.0, "");
const ADDED_LATENCY: Range = Range::new(0.0, 10.0, "s");
const DEBUG_IMAGE_RATE: Range = Range::new(0.1, 10.0, "Hz");
const REMOTE_CONNECT_TIMEOUT: Range = Range::new(0.05, 10.0, "s");
const REMOTE_READ_TIMEOUT: Range = Range::new(0.02, 10.0, "s");
const REMOTE_TIMEOUT: Range = Range::new(0.02, 60.0, "s");
const THREADS: Range = Range::new(0.0, 255.0, "");
const PRIORITY: Range = Range::new(0.0, 99.0, "");
const NICENESS: Range = Range::new(0.0, 19.0, "");

table! {
    "checkpoint": Own, Unconfigured, Path(checkpoint), unset "none: configuring fails",
        "Folder of the checkpoint, as downloaded. Default: $OPENVLA_WEIGHTS.";
    "remote": Own, Unconfigured, Text(remote), unset "none: a checkpoint is run here",
        "Policy server that decides instead of a checkpoint: openpi://HOST:PORT (websocket) or \
        act://HOST:PORT[/PATH] (HTTP). Needs a policy file with a section remote; see \
        docs/remote.md.";
    "remote_key_file": Own, Unconfigured, Path(remote_key_file), unset "no key is sent",
        "File with the server's API key alone, sent as Authorization: Api-Key.";
    "remote_connect_timeout_s": Own, Unconfigured, Float(remote_connect_timeout_s)
        in REMOTE_CONNECT_TIMEOUT,
        "Longest connecting to the server, with the websocket's handshake and first frame.";
    "remote_read_timeout_s": Own, Unconfigured, Float(remote_read_timeout_s)
        in REMOTE_READ_TIMEOUT,
        "Longest silence of the server within an answer, from its first byte on.";
    "remote_timeout_s": Own, Unconfigured, Float(remote_timeout_s) in REMOTE_TIMEOUT,
        "Longest time from a request to its whole answer.";
    "policy_file": Own, Start, Path(policy_file), unset "none, which only dry_run allows",
        "Policy file (config/policies): what the checkpoint's numbers mean.";
    "robot_file": Own, Start, Path(robot_file), unset "none",
        "Robot file (config/robots): topics, frames, limits, workspace and gripper of the \
        robot.";
    "unnorm_key": Own, Unconfigured, Text(unnorm_key), unset "the only one there is",
        "Entry of the checkpoint's dataset statistics.";
    "device": Own, Unconfigured, Text(device),
        "Where to compute: cpu, tt:BOARD, or a simulated mesh sim:BOARD; BOARD is n150, n300, \
        t3k, p150, p300, quietbox or loudbox.";
    "precision": Own, Unconfigured, Path(precision), unset "the device's default",
        "Number formats: f32, bf16, int8, mixed, bfp8, or a precision policy's YAML file.";
    "threads": Own, Unconfigured, Integer(threads) in THREADS, unset "one per core",
        "Threads of the CPU backend.";
    "decode": Own, Unconfigured, Text(decode), of ["full", "actions"],
        "full: argmax over the whole vocabulary, as the official code; actions: over the action \
        tokens only.";
    "draft": Own, Unconfigured, Bool(draft),
        "Speculative decoding with the last action's tokens as draft: the same tokens in fewer \
        steps.";
    "seed": Own, Unconfigured, Integer(seed) in SEED, unset "drawn, and logged",
        "Seed of the first chunk's noise after configuring, from which those of the later ones \
        follow; pi0 and pi0.5 only.";
    "added_latency_s": Own, Unconfigured, Float(added_latency_s) in ADDED_LATENCY, unset "none",
        "Every inference takes so much longer, to see how a robot behaves with a slower device.";
    "weight_cache": Own, Unconfigured, Path(weight_cache), unset "none",
        "Folder in which a mesh keeps packed weights, for a quicker next start.";
    "dry_run": Own, Inactive, Bool(control.dry_run),
        "true: infer and report, but publish no command. Nothing moves before this is false.";
    "autostart": Own, Start, Bool(autostart),
        "Configure and activate without a lifecycle manager. ~/enable is needed all the same.";
    "image_transport": Own, Start, Text(image_transport), of ["raw", "compressed"],
        "raw: sensor_msgs/Image on `image`; compressed: CompressedImage on `image/compressed`.";
    "policy_hz": AtMost, Unconfigured, Float(policy_hz)
        in POLICY_RATE, unset "the policy file's, 5 without one",
        "Rate at which the policy's steps follow each other. Lower than the policy file's moves \
        slower.";
    "inference_rate_hz": Own, Unconfigured, Float(inference_rate_hz)
        in INFERENCE_RATE, unset "policy_hz",
        "At most so many inferences per second; 1000 = on every image.";
    "frame_id": Equal, Start, Text(frame_id),
        "Frame in which the actions are expressed: header.frame_id of every command.";
    "command_rate_hz": Equal, Start, Float(control.command_rate_hz)
        in ranges::COMMAND_RATE, unset "the robot file's, 50 without one",
        "Rate of the command stream.";
    "load_timeout_s": Own, Unconfigured, Float(load_timeout_s) in LOAD_TIMEOUT,
        "Longest loading and testing of the checkpoint.";
    "control_priority": Own, Start, Integer(control_priority) in PRIORITY, unset "no request",
        "SCHED_FIFO priority of the control thread, where permitted.";
    "inference_niceness": Own, Start, Integer(inference_niceness) in NICENESS,
        "Niceness of the inference threads.";
    "record_directory": Own, Start, Path(record_directory), unset "none",
        "Folder for flight records, written on a fault, on e-stop and on ~/dump.";
    "debug_image_hz": Own, Start, Float(debug_image_hz) in DEBUG_IMAGE_RATE, unset "no such topic",
        "Pictures per second on ~/debug_image, while it is subscribed: cameras, instruction, state \
        with reason, desired and executed motion within the limits, times.";
    "use_sim_time": Own, Start, Bool(use_sim_time),
        "ROS time comes from /clock. Watchdogs stay on the machine's steady clock.";
    "observation_timeout_s": Own, Inactive, Float(control.observation_timeout_s)
        in ranges::OBSERVATION_TIMEOUT,
        "Oldest image that may move the robot.";
    "inference_timeout_s": Own, Inactive, Float(control.inference_timeout_s)
        in ranges::INFERENCE_TIMEOUT, unset "twice the latency of the self-test",
        "Longest time that one inference may take.";
    "stamp_future_tolerance_s": Own, Inactive, Float(control.stamp_future_tolerance_s)
        in ranges::STAMP_FUTURE_TOLERANCE,
        "How far an image's stamp may lie ahead of ROS time.";
    "stamp_past_tolerance_s": Own, Inactive, Float(control.stamp_past_tolerance_s)
        in ranges::STAMP_PAST_TOLERANCE,
        "How far an image's stamp may lie behind ROS time when it arrives.";
    "clock_jump_tolerance_s": Own, Inactive, Float(control.clock_jump_tolerance_s)
        in ranges::CLOCK_JUMP_TOLERANCE,
        "How far ROS time may go back before it counts as a jump.";
    "overrun_s": Own, Inactive, Float(control.overrun_s)
        in ranges::OVERRUN,
        unset "five periods, or the robot file's timeout_s where that is shorter",
        "Longest interval between two control steps.";
    "pause_s": Own, Inactive, Float(control.pause_s) in ranges::PAUSE,
        "Interval between two control steps from which on the process counts as paused.";
    "pose_timeout_s": Own, Inactive, Float(control.pose_timeout_s) in ranges::POSE_TIMEOUT,
        "Oldest ee_pose that still guards the workspace.";
    "state_timeout_s": Own, Inactive, Float(control.state_timeout_s) in ranges::STATE_TIMEOUT,
        "Oldest message of a state source, and of the measured joints, that may move the robot.";
    "subscriber_timeout_s": Own, Inactive, Float(control.subscriber_timeout_s)
        in ranges::SUBSCRIBER_TIMEOUT,
        "How long the command may be without a subscriber.";
    "faults_to_latch": Own, Inactive, Count(control.faults_to_latch) in ranges::FAULTS_TO_LATCH,
        "How many faults within fault_window_s latch.";
    "fault_window_s": Own, Inactive, Float(control.fault_window_s) in ranges::FAULT_WINDOW,
        "Time within which faults are counted.";
    "clear_s": Own, Inactive, Float(control.clear_s) in ranges::CLEAR,
        "How long a cause must be gone before motion goes on or a latch may be reset.";
    "rearm_window_s": Own, Inactive, Float(control.rearm_window_s) in ranges::REARM_WINDOW,
        "Longest hold after which motion goes on by itself; a longer one withdraws the enabling. \
        0 withdraws it at once.";
    "unchanged_image.distance": Own, Inactive, Float(control.unchanged_image.distance)
        in ranges::UNCHANGED_DISTANCE,
        "Path the tool may be driven while images arrive that are equal byte for byte. A late \
        camera needs more.";
    "unchanged_image.angle": Own, Inactive, Float(control.unchanged_image.angle)
        in ranges::UNCHANGED_ANGLE,
        "Rotation the tool may be driven meanwhile.";
    "limits.linear.velocity": AtMost, Inactive, Float(control.limits.linear.velocity)
        in ranges::LINEAR_VELOCITY,
        "Largest velocity of the tool's translation.";
    "limits.linear.acceleration": AtMost, Inactive, Float(control.limits.linear.acceleration)
        in ranges::LINEAR_ACCELERATION,
        "Largest acceleration of the tool's translation. To lower it, lower the velocity too.";
    "limits.linear.jerk": AtMost, Inactive, Float(control.limits.linear.jerk)
        in ranges::LINEAR_JERK,
        "Largest jerk of the tool's translation. To lower it, lower the velocity too.";
    "limits.angular.velocity": AtMost, Inactive, Float(control.limits.angular.velocity)
        in ranges::ANGULAR_VELOCITY,
        "Largest velocity of the tool's rotation.";
    "limits.angular.acceleration": AtMost, Inactive, Float(control.limits.angular.acceleration)
        in ranges::ANGULAR_ACCELERATION,
        "Largest acceleration of the tool's rotation. To lower it, lower the velocity too.";
    "limits.angular.jerk": AtMost, Inactive, Float(control.limits.angular.jerk)
        in ranges::ANGULAR_JERK,
        "Largest jerk of the tool's rotation. To lower it, lower the velocity too.";
    "step_cap.translation": AtMost, Inactive, Float(control.step_cap.translation)
        in ranges::STEP_TRANSLATION,
        "Largest translation of one policy step.";
    "step_cap.rotation": AtMost, Inactive, Float(control.step_cap.rotation)
        in ranges::STEP_ROTATION,
        "Largest rotation of one policy step.";
    "workspace.min": AtLeast, Start, Corner(workspace_min)
        in ranges::WORKSPACE_CORNER, unset "no box",
        "Lower corner [x, y, z] of the box that the end effector must stay in, in frame_id; \
        needs ee_pose.";
    "workspace.max": AtMost, Start, Corner(workspace_max)
        in ranges::WORKSPACE_CORNER, unset "no box",
        "Upper corner [x, y, z] of that box.";
    "workspace.margin": AtLeast, Inactive, Float(workspace_margin) in ranges::WORKSPACE_MARGIN,
        "Kept free inside each face of the box.";
    "gripper.threshold": Equal, Inactive, Float(control.gripper.threshold)
        in ranges::GRIPPER_THRESHOLD,
        "Above it the gripper opens (after gripper.invert).";
    "gripper.hysteresis": AtLeast, Inactive, Float(control.gripper.hysteresis)
        in ranges::GRIPPER_HYSTERESIS,
        "Half width of the band around the threshold in which nothing changes.";
    "gripper.min_dwell_s": AtLeast, Inactive, Float(control.gripper.min_dwell_s)
        in ranges::GRIPPER_MIN_DWELL,
        "Shortest time between two changes of the gripper.";
    "gripper.invert": Equal, Inactive, Bool(control.gripper.invert),
        "Whether the policy's 1 means closed.";
    "detectors.constant_steps": Own, Inactive, Count(control.detectors.constant_steps)
        in ranges::CONSTANT_STEPS,
        "Equal actions in a row that are reported as constant.";
    "detectors.stuck_distance": Own, Inactive, Float(control.detectors.stuck_distance)
        in ranges::STUCK_DISTANCE,
        "Motion over those steps below which the robot is reported as stuck.";
}

/// The row of a name.
#[must_use]
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    TABLE.iter().find(|parameter| parameter.name == name)
}
