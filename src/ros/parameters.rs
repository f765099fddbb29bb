//! Parameters: read once into a raw form, validated together, refused with a list of every problem.
//!
//! One table says what there is. It feeds reading, validation, `ros2 param describe` and `vla_node
//! --help`.

use std::{path::PathBuf, str::FromStr};

use r2r::ParameterValue;

use super::meaning::{Asked, Files, settle};
use crate::runtime::Threads;
use vla_control::{ConfigError, ControlConfig, RawControlConfig, RawWorkspace};
use vla_inference::policy::{DecodeMode, Device, Precision};

/// Parameters as given.
#[derive(Debug, Clone, PartialEq)]
pub struct RawParameters {
    checkpoint: String,
    policy_file: String,
    robot: String,
    unnorm_key: String,
    device: String,
    precision: String,
    threads: i64,
    decode: String,
    draft: bool,
    weight_cache: String,
    autostart: bool,
    image_transport: String,
    policy_hz: f64,
    inference_rate_hz: f64,
    frame_id: String,
    control_priority: i64,
    inference_niceness: i64,
    record_directory: String,
    use_sim_time: bool,
    workspace_min: Option<[f64; 3]>,
    workspace_max: Option<[f64; 3]>,
    workspace_margin: f64,
    load_timeout_s: f64,
    control: RawControlConfig,
}

impl Default for RawParameters {
    fn default() -> Self {
        Self {
            checkpoint: std::env::var("OPENVLA_WEIGHTS").unwrap_or_default(),
            policy_file: String::new(),
            robot: String::new(),
            unnorm_key: String::new(),
            device: "cpu".into(),
            precision: String::new(),
            threads: 0,
            decode: "full".into(),
            draft: false,
            weight_cache: String::new(),
            autostart: false,
            image_transport: "raw".into(),
            policy_hz: 0.0,
            inference_rate_hz: 0.0,
            frame_id: "base_link".into(),
            control_priority: 40,
            inference_niceness: 10,
            record_directory: String::new(),
            use_sim_time: false,
            workspace_min: None,
            workspace_max: None,
            workspace_margin: 0.02,
            load_timeout_s: 600.0,
            control: RawControlConfig { command_rate_hz: 0.0, ..RawControlConfig::default() },
        }
    }
}

/// Whether images come raw or compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTransport {
    /// `sensor_msgs/Image` on `image`.
    Raw,
    /// `sensor_msgs/CompressedImage` on `image/compressed`.
    Compressed,
}

/// Parameters that were found good, each for itself and all together.
#[derive(Debug, Clone)]
pub struct Parameters {
    /// Checkpoint folder; empty when none was named: then configuring fails.
    pub checkpoint: PathBuf,
    /// Statistics to use; needed unless there is exactly one set.
    pub unnorm_key: Option<String>,
    /// Where the model runs.
    pub device: Device,
    /// Number formats; `None` is the device's default.
    pub precision: Option<Precision>,
    /// Longest loading and testing of a checkpoint, seconds.
    pub load_timeout_s: f64,
    /// Threads of the CPU backend, 0 = one per core.
    pub threads: usize,
    /// Over which tokens the choice is made.
    pub decode: DecodeMode,
    /// Whether the last action's tokens are tried as the next.
    pub draft: bool,
    /// Where a mesh keeps packed weights; `None` keeps none.
    pub weight_cache: Option<PathBuf>,
    /// Configure and activate without a lifecycle manager.
    pub autostart: bool,
    /// How images come.
    pub image_transport: ImageTransport,
    /// Rate at which a chunk's steps follow each other, Hz.
    pub policy_hz: f64,
    /// At most so many inferences per second.
    pub inference_rate_hz: f64,
    /// Frame of the action: `header.frame_id` of every command.
    pub frame_id: String,
    /// Priorities of the threads.
    pub scheduling: Threads,
    /// Where flight records go; `None` keeps none.
    pub record_directory: Option<PathBuf>,
    /// ROS time comes from `/clock`.
    pub use_sim_time: bool,
    /// What the numbers mean and what the robot may do.
    pub files: Files,
    /// Everything for control. `expected_inference_s` and `envelope` are filled in when a policy
    /// has been loaded.
    pub raw_control: RawControlConfig,
    /// The same, validated with a guess for `expected_inference_s`.
    pub control: ControlConfig,
}

/// Every problem of a set of parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} problem{} in the parameters:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|p| format!("\n  {p}")).collect::<String>())]
pub struct ParameterProblems(pub Vec<ConfigError>);

impl ParameterProblems {
    /// In one line, for a service's answer.
    #[must_use]
    pub fn one_line(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// What a parameter holds and where.
enum Slot {
    Bool(fn(&mut RawParameters) -> &mut bool),
    Integer(fn(&mut RawParameters) -> &mut i64),
    Count(fn(&mut RawParameters) -> &mut u32),
    Float(fn(&mut RawParameters) -> &mut f64),
    Text(fn(&mut RawParameters) -> &mut String),
    Vector(fn(&mut RawParameters) -> &mut Option<[f64; 3]>),
}

/// One line of the table.
pub struct Spec {
    /// Dotted name.
    pub name: &'static str,
    /// What it means, with its unit.
    pub about: &'static str,
    slot: Slot,
}

macro_rules! table {
    ($($name:literal, $kind:ident, $($field:ident).+, $about:literal;)*) => {
        /// Every parameter of the node.
        pub const TABLE: &[Spec] = &[$(Spec { name: $name, about: $about, slot: Slot::$kind(|raw| &mut raw.$($field).+) }),*];
    };
}

table! {
    "checkpoint", Text, checkpoint, "Folder of the checkpoint, as downloaded. Default: \
    $OPENVLA_WEIGHTS.";
    "policy_file", Text, policy_file, "File that says what the checkpoint's numbers mean \
    (config/policies). Required unless dry_run.";
    "robot_file", Text, robot, "File that says what the robot may do (config/robots). Its values \
    replace command_rate_hz, limits, step_cap, workspace and gripper.";
    "unnorm_key", Text, unnorm_key, "Entry of the checkpoint's dataset statistics; may be empty \
    when there is exactly one.";
    "device", Text, device, "cpu, tt:n150, tt:n300, tt:t3k, or a simulated mesh sim:n150, \
    sim:n300, sim:t3k.";
    "precision", Text, precision, "f32, bf16, mixed, bfp8, or a precision policy's YAML file; \
    empty = the device's default.";
    "threads", Integer, threads, "Threads of the CPU backend, 0..255; 0 = one per core.";
    "decode", Text, decode, "full: greedy over the whole vocabulary, as the official code; \
    actions: over action tokens only.";
    "draft", Bool, draft, "Try the last action's tokens as the next: the same tokens in fewer \
    steps. /diagnostics says how many were right.";
    "weight_cache", Text, weight_cache, "Folder in which a mesh keeps packed weights, for a \
    quicker next start; empty keeps none.";
    "dry_run", Bool, control.dry_run, "true: infer and report, but publish no command. Nothing \
    moves before this is false.";
    "autostart", Bool, autostart, "Configure and activate without a lifecycle manager. ~/enable \
    is needed all the same.";
    "image_transport", Text, image_transport, "raw: sensor_msgs/Image on `image`; compressed: \
    CompressedImage on `image/compressed`.";
    "policy_hz", Float, policy_hz, "Rate at which the policy's steps follow each other, Hz, \
    0..1000; 0 = the policy file's (5 in a dry run without one).";
    "inference_rate_hz", Float, inference_rate_hz, "At most so many inferences per second, Hz, \
    0.01..1000; 0 = policy_hz, the rate a policy of single steps was trained for; 1000 = on every \
    image.";
    "frame_id", Text, frame_id, "Frame in which the actions are expressed: header.frame_id of \
    every command. A robot file has its own.";
    "command_rate_hz", Float, control.command_rate_hz, "Rate of the command stream, Hz, 10..1000; \
    0 = the robot file's, 50 without one.";
    "load_timeout_s", Float, load_timeout_s, "Longest loading and testing of the checkpoint, s, \
    1..3600.";
    "control_priority", Integer, control_priority, "SCHED_FIFO priority of the control thread \
    where permitted, 0..99; 0 does not ask for it.";
    "inference_niceness", Integer, inference_niceness, "Niceness of the inference threads, 0..19.";
    "record_directory", Text, record_directory, "Folder for flight records, written on a fault, \
    on e-stop and on ~/dump; empty keeps none.";
    "use_sim_time", Bool, use_sim_time, "ROS time comes from /clock. Watchdogs stay on the \
    machine's steady clock.";
    "observation_timeout_s", Float, control.observation_timeout_s, "Oldest image that may move \
    the robot, s, 0.02..60.";
    "inference_timeout_s", Float, control.inference_timeout_s, "Longest inference, s, 0..600; 0 = \
    twice the latency of the self-test.";
    "stamp_future_tolerance_s", Float, control.stamp_future_tolerance_s, "How far an image's \
    stamp may lie ahead of ROS time, s, 0..10.";
    "stamp_past_tolerance_s", Float, control.stamp_past_tolerance_s, "How far an image's stamp \
    may lie behind ROS time when it arrives, s, 0..60.";
    "clock_jump_tolerance_s", Float, control.clock_jump_tolerance_s, "How far ROS time may go \
    back before it counts as a jump, s, 0..10.";
    "overrun_s", Float, control.overrun_s, "Longest interval between two control steps, s, 0..1; \
    0 = five periods.";
    "pause_s", Float, control.pause_s, "Interval between two control steps from which on the \
    process counts as paused, s, 0.05..10.";
    "pose_timeout_s", Float, control.pose_timeout_s, "Oldest ee_pose that still guards the \
    workspace, s, 0.02..10.";
    "subscriber_timeout_s", Float, control.subscriber_timeout_s, "How long the command may be \
    without a subscriber, s, 0..10.";
    "faults_to_latch", Count, control.faults_to_latch, "How many faults latch, 1..8.";
    "fault_window_s", Float, control.fault_window_s, "Within which time, s, 0.1..3600.";
    "clear_s", Float, control.clear_s, "How long a cause must be gone before motion goes on or a \
    latch may be reset, s, 0.1..60.";
    "unchanged_image.distance", Float, control.unchanged_image.distance, "Path the tool may be \
    driven while images keep arriving that are equal byte for byte, m, 0.001..10. A late camera \
    needs more.";
    "unchanged_image.angle", Float, control.unchanged_image.angle, "Rotation the tool may be \
    driven meanwhile, rad, 0.001..100.";
    "limits.linear.velocity", Float, control.limits.linear.velocity, "m/s, up to 3.";
    "limits.linear.acceleration", Float, control.limits.linear.acceleration, "m/s2, up to 30.";
    "limits.linear.jerk", Float, control.limits.linear.jerk, "m/s3, up to 10000.";
    "limits.angular.velocity", Float, control.limits.angular.velocity, "rad/s, up to 6.";
    "limits.angular.acceleration", Float, control.limits.angular.acceleration, "rad/s2, up to 60.";
    "limits.angular.jerk", Float, control.limits.angular.jerk, "rad/s3, up to 10000.";
    "step_cap.translation", Float, control.step_cap.translation, "Longest policy step, m, \
    0.0001..1.";
    "step_cap.rotation", Float, control.step_cap.rotation, "Longest policy step, rad, 0.0001..3.2.";
    "workspace.min", Vector, workspace_min, "Lower corner of the box the end effector must stay \
    in, [x, y, z] m in frame_id; needs ee_pose.";
    "workspace.max", Vector, workspace_max, "Upper corner of that box, [x, y, z] m.";
    "workspace.margin", Float, workspace_margin, "Kept free inside each face of the box, m, \
    0..0.5.";
    "gripper.threshold", Float, control.gripper.threshold, "Above it the gripper opens (after \
    `invert`), 0..1.";
    "gripper.hysteresis", Float, control.gripper.hysteresis, "Half width of the band around the \
    threshold in which nothing changes, 0..0.5.";
    "gripper.min_dwell_s", Float, control.gripper.min_dwell_s, "Shortest time between two changes \
    of the gripper, s, 0..60.";
    "gripper.invert", Bool, control.gripper.invert, "Whether the policy's 1 means closed.";
    "detectors.constant_steps", Count, control.detectors.constant_steps, "Equal actions in a row \
    that are reported as constant, 2..10000.";
    "detectors.stuck_distance", Float, control.detectors.stuck_distance, "Motion over those steps \
    below which the robot is reported as stuck, m, 0..1.";
}

/// Parameters that every ROS node may be given and that are none of ours.
fn is_of_ros(name: &str) -> bool {
    name == "start_type_description_service"
}

impl RawParameters {
    /// Fills in the given parameters. Unknown names and wrong types are added to `problems`.
    pub fn read<'a>(
        given: impl IntoIterator<Item = (&'a str, &'a ParameterValue)>,
        problems: &mut Vec<ConfigError>,
    ) -> Self {
        let mut raw = Self::default();
        for (name, value) in given {
            raw.set(name, value, problems);
        }
        raw
    }

    /// Sets one parameter.
    pub fn set(&mut self, name: &str, value: &ParameterValue, problems: &mut Vec<ConfigError>) {
        if is_of_ros(name) {
            return;
        }
        let mut refuse =
            |what: String| problems.push(ConfigError { path: name.to_owned(), message: what });
        let Some(spec) = TABLE.iter().find(|spec| spec.name == name) else {
            return refuse(match nearest(name) {
                Some(nearest) => format!("there is no such parameter; did you mean '{nearest}'?"),
                None => "there is no such parameter; see vla_node --help".into(),
            });
        };
        let wrong = |wanted: &str| format!("is {}, but must be {wanted}", shown(value));
        match (&spec.slot, value) {
            (Slot::Bool(at), ParameterValue::Bool(value)) => *at(self) = *value,
            (Slot::Integer(at), ParameterValue::Integer(value)) => *at(self) = *value,
            (Slot::Count(at), ParameterValue::Integer(value)) => match u32::try_from(*value) {
                Ok(value) => *at(self) = value,
                Err(_) => refuse(wrong("a count")),
            },
            (Slot::Float(at), ParameterValue::Double(value)) => *at(self) = *value,
            // `50` in a YAML file or on the command line is an integer; whoever writes it means
            // 50.0.
            #[allow(clippy::cast_precision_loss)]
            (Slot::Float(at), ParameterValue::Integer(value)) => *at(self) = *value as f64,
            (Slot::Text(at), ParameterValue::String(value)) => value.clone_into(at(self)),
            (Slot::Vector(at), ParameterValue::DoubleArray(values)) => {
                match <[f64; 3]>::try_from(values.as_slice()) {
                    Ok(values) => *at(self) = Some(values),
                    Err(_) => refuse(wrong("a list of three numbers")),
                }
            }
            (Slot::Bool(_), _) => refuse(wrong("true or false")),
            (Slot::Integer(_) | Slot::Count(_), _) => refuse(wrong("an integer")),
            (Slot::Float(_), _) => refuse(wrong("a number")),
            (Slot::Text(_), _) => refuse(wrong("a string")),
            (Slot::Vector(_), _) => {
                refuse(wrong("a list of three numbers, each with a decimal point"))
            }
        }
    }

    /// A parameter's value, as the parameter services show it.
    #[must_use]
    pub fn get(&self, name: &str) -> ParameterValue {
        let Some(spec) = TABLE.iter().find(|spec| spec.name == name) else {
            return ParameterValue::NotSet;
        };
        let mut raw = self.clone();
        match &spec.slot {
            Slot::Bool(at) => ParameterValue::Bool(*at(&mut raw)),
            Slot::Integer(at) => ParameterValue::Integer(*at(&mut raw)),
            Slot::Count(at) => ParameterValue::Integer(i64::from(*at(&mut raw))),
            Slot::Float(at) => ParameterValue::Double(*at(&mut raw)),
            Slot::Text(at) => ParameterValue::String(at(&mut raw).clone()),
            Slot::Vector(at) => at(&mut raw)
                .map_or(ParameterValue::NotSet, |v| ParameterValue::DoubleArray(v.to_vec())),
        }
    }

    /// Checks every value and every rule between values.
    ///
    /// # Errors
    /// All problems at once, those that were found while reading included.
    pub fn validate(
        &self,
        mut problems: Vec<ConfigError>,
    ) -> Result<Parameters, ParameterProblems> {
        let mut add = |place: &str, what: String| {
            problems.push(ConfigError { path: place.to_owned(), message: what })
        };
        let device =
            Device::from_str(&self.device).map_err(|error| add("device", error.to_string())).ok();
        let decode = DecodeMode::from_str(&self.decode).map_err(|error| add("decode", error)).ok();
        let image_transport = match self.image_transport.as_str() {
            "raw" => Some(ImageTransport::Raw),
            "compressed" => Some(ImageTransport::Compressed),
            other => {
                add("image_transport", format!("'{other}' is not known; use raw or compressed"));
                None
            }
        };
        if !(0.0..=1000.0).contains(&self.policy_hz) {
            add("policy_hz", format!("{} Hz is outside 0..1000 Hz", self.policy_hz));
        }
        if self.inference_rate_hz != 0.0 && !(0.01..=1000.0).contains(&self.inference_rate_hz) {
            add(
                "inference_rate_hz",
                format!("{} Hz is outside 0.01..1000 Hz, and not 0", self.inference_rate_hz),
            );
        }
        if !(1.0..=3600.0).contains(&self.load_timeout_s) {
            add("load_timeout_s", format!("{} s is outside 1..3600 s", self.load_timeout_s));
        }
        let mut whole = |place: &str, value: i64, high: u8| {
            u8::try_from(value).ok().filter(|value| *value <= high).unwrap_or_else(|| {
                add(place, format!("{value} is outside 0..{high}"));
                0
            })
        };
        let threads = whole("threads", self.threads, 255).into();
        let scheduling = Threads {
            control_priority: whole("control_priority", self.control_priority, 99),
            inference_niceness: whole("inference_niceness", self.inference_niceness, 19).into(),
        };
        if self.frame_id.trim().is_empty() {
            add("frame_id", "is empty; name the frame in which the actions are expressed".into());
        }
        if self.unnorm_key.contains('\0')
            || self.checkpoint.contains('\0')
            || self.frame_id.contains('\0')
        {
            add("checkpoint", "a name contains a zero byte".into());
        }
        let workspace = match (self.workspace_min, self.workspace_max) {
            (Some(min), Some(max)) => {
                Some(RawWorkspace { min, max, margin: self.workspace_margin })
            }
            (None, None) => None,
            (Some(_), None) => {
                add(
                    "workspace.max",
                    "is missing while workspace.min is set; a box needs both corners".into(),
                );
                None
            }
            (None, Some(_)) => {
                add(
                    "workspace.min",
                    "is missing while workspace.max is set; a box needs both corners".into(),
                );
                None
            }
        };
        let command_rate_hz = if self.control.command_rate_hz == 0.0 {
            RawControlConfig::default().command_rate_hz
        } else {
            self.control.command_rate_hz
        };
        let settled = settle(
            &Asked {
                policy_file: &self.policy_file,
                robot: &self.robot,
                unnorm_key: &self.unnorm_key,
                policy_hz: self.policy_hz,
                frame_id: &self.frame_id,
                base: RawControlConfig { workspace, command_rate_hz, ..self.control },
            },
            &mut problems,
        );
        let raw_control = settled.control;
        self.note_contradictions(&raw_control, &mut problems);
        let control = raw_control.validate().map_err(|refused| problems.extend(refused.0)).ok();
        // A value that is wrong in a file is found when the file is joined, and again when the
        // result is validated.
        let mut seen = std::collections::HashSet::new();
        problems.retain(|problem| seen.insert(problem.to_string()));
        match (device, decode, image_transport, control) {
            (Some(device), Some(decode), Some(image_transport), Some(control))
                if problems.is_empty() =>
            {
                Ok(Parameters {
                    checkpoint: PathBuf::from(&self.checkpoint),
                    unnorm_key: settled.unnorm_key,
                    device,
                    // Cannot fail: any text is a precision's name.
                    precision: (!self.precision.is_empty())
                        .then(|| self.precision.parse().unwrap_or(Precision::F32)),
                    load_timeout_s: self.load_timeout_s,
                    threads,
                    decode,
                    draft: self.draft,
                    weight_cache: (!self.weight_cache.is_empty())
                        .then(|| PathBuf::from(&self.weight_cache)),
                    autostart: self.autostart,
                    image_transport,
                    policy_hz: settled.policy_hz,
                    inference_rate_hz: if self.inference_rate_hz == 0.0 {
                        settled.policy_hz
                    } else {
                        self.inference_rate_hz
                    },
                    frame_id: settled.frame_id,
                    scheduling,
                    record_directory: (!self.record_directory.is_empty())
                        .then(|| PathBuf::from(&self.record_directory)),
                    use_sim_time: self.use_sim_time,
                    files: settled.files,
                    raw_control,
                    control,
                })
            }
            _ => Err(ParameterProblems(problems)),
        }
    }
}

impl RawParameters {
    /// The same parameters with what the files say, as `ros2 param get` shows them.
    #[must_use]
    pub fn settled(&self, parameters: &Parameters) -> Self {
        Self {
            unnorm_key: parameters.unnorm_key.clone().unwrap_or_default(),
            policy_hz: parameters.policy_hz,
            inference_rate_hz: parameters.inference_rate_hz,
            frame_id: parameters.frame_id.clone(),
            ..self.with_control(&parameters.raw_control)
        }
    }

    fn with_control(&self, control: &RawControlConfig) -> Self {
        Self {
            workspace_min: control.workspace.map(|area| area.min),
            workspace_max: control.workspace.map(|area| area.max),
            workspace_margin: control.workspace.map_or(self.workspace_margin, |area| area.margin),
            control: *control,
            ..self.clone()
        }
    }

    /// A parameter that was given and that a file says otherwise: whoever gave it must not believe
    /// that it holds.
    fn note_contradictions(&self, settled: &RawControlConfig, problems: &mut Vec<ConfigError>) {
        let (default, settled) = (Self::default(), self.with_control(settled));
        for spec in TABLE {
            let (given, holds) = (self.get(spec.name), settled.get(spec.name));
            if shown(&given) != shown(&holds) && given != default.get(spec.name) {
                let what = format!(
                    "{} contradicts {} in the policy file or robot file; leave it out here",
                    shown(&given),
                    shown(&holds)
                );
                problems.push(ConfigError { path: spec.name.to_owned(), message: what });
            }
        }
    }
}

/// A value as the user may recognise it, bounded.
fn shown(value: &ParameterValue) -> String {
    let text = match value {
        ParameterValue::NotSet => "not set".into(),
        ParameterValue::Bool(value) => value.to_string(),
        ParameterValue::Integer(value) => value.to_string(),
        ParameterValue::Double(value) => value.to_string(),
        ParameterValue::String(value) => format!("'{value}'"),
        ParameterValue::BoolArray(values) => format!("{values:?}"),
        ParameterValue::ByteArray(values) => format!("{values:?}"),
        ParameterValue::IntegerArray(values) => format!("{values:?}"),
        ParameterValue::DoubleArray(values) => format!("{values:?}"),
        ParameterValue::StringArray(values) => format!("{values:?}"),
    };
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain(['…']).collect() }
}

/// The parameter whose name is most like a wrong one, if any is at all like it.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |spec: &&Spec| edits(name, spec.name);
    TABLE
        .iter()
        .min_by_key(distance)
        .filter(|spec| edits(name, spec.name) <= 1 + spec.name.len() / 4)
        .map(|spec| spec.name)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 100 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn validated(given: &[(&str, ParameterValue)]) -> Result<Parameters, String> {
        let mut problems = Vec::new();
        let raw =
            RawParameters::read(given.iter().map(|(name, value)| (*name, value)), &mut problems);
        raw.validate(problems).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_defaults_are_good_and_move_nothing() {
        let parameters = validated(&[]).unwrap();
        assert!(parameters.control.dry_run() && !parameters.autostart);
        assert_eq!((parameters.policy_hz, parameters.inference_rate_hz), (5.0, 5.0));
        assert_eq!(parameters.device, Device::Cpu);
    }

    fn config(file: &str) -> ParameterValue {
        ParameterValue::String(format!("{}/config/{file}", env!("CARGO_MANIFEST_DIR")))
    }

    /// OpenVLA's policy file with these texts replaced, in a file of its own.
    fn changed_policy_file(folder: &tempfile::TempDir, changes: &[(&str, &str)]) -> ParameterValue {
        let original = concat!(env!("CARGO_MANIFEST_DIR"), "/config/policies/openvla-7b.yaml");
        let text =
            changes.iter().fold(std::fs::read_to_string(original).unwrap(), |text, (from, to)| {
                text.replace(from, to)
            });
        let path = folder.path().join("policy_file.yaml");
        std::fs::write(&path, text).unwrap();
        ParameterValue::String(path.display().to_string())
    }

    #[test]
    fn a_robot_is_not_moved_without_a_policy_file() {
        let live = ("dry_run", ParameterValue::Bool(false));
        let text = validated(std::slice::from_ref(&live)).unwrap_err();
        assert!(text.contains("policy_file: is missing"), "{text}");
        let policy_file = ("policy_file", config("policies/openvla-7b.yaml"));
        let parameters = validated(&[live.clone(), policy_file.clone()]).unwrap();
        assert_eq!(
            (parameters.policy_hz, parameters.unnorm_key.as_deref()),
            (5.0, Some("bridge_orig"))
        );
        let text = validated(&[
            live.clone(),
            policy_file.clone(),
            ("policy_hz", ParameterValue::Double(10.0)),
        ])
        .unwrap_err();
        assert!(text.contains("contradicts"), "{text}");
        let parameters =
            validated(&[live, policy_file, ("robot_file", config("robots/franka_servo.yaml"))])
                .unwrap();
        assert_eq!(parameters.frame_id, "panda_link0");
        assert!(parameters.control.needs_ee_pose());
    }

    #[test]
    fn what_a_file_says_otherwise_is_a_problem_and_not_a_surprise() {
        let files = [
            ("policy_file", config("policies/openvla-7b.yaml")),
            ("robot_file", config("robots/franka_servo.yaml")),
        ];
        let with = |name, value| validated(&[files[0].clone(), files[1].clone(), (name, value)]);
        let text = with("limits.linear.velocity", ParameterValue::Double(0.1)).unwrap_err();
        assert!(text.contains("limits.linear.velocity: 0.1 contradicts 0.25"), "{text}");
        let text = with("gripper.invert", ParameterValue::Bool(true)).unwrap_err();
        assert!(text.contains("gripper.invert: true contradicts false"), "{text}");
        assert!(with("command_rate_hz", ParameterValue::Double(100.0)).is_err());
        let parameters = with("command_rate_hz", ParameterValue::Double(50.0)).unwrap();
        // What holds can be read back, and given again.
        let raw = RawParameters::default().settled(&parameters);
        assert_eq!(raw.get("workspace.min"), ParameterValue::DoubleArray(vec![0.25, -0.4, 0.02]));
        assert_eq!(raw.get("policy_hz"), ParameterValue::Double(5.0));
    }

    #[test]
    fn actions_in_the_tool_frame_need_a_robot_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let changes = [("frame: base", "frame: tool"), ("composition: left", "composition: right")];
        let text =
            validated(&[("policy_file", changed_policy_file(&folder, &changes))]).unwrap_err();
        assert!(text.contains("robot_file: is missing") && text.contains("tool frame"), "{text}");
    }

    #[test]
    fn a_policy_is_asked_at_its_own_rate_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let policy_file =
            ("policy_file", changed_policy_file(&folder, &[("policy_hz: 5.0", "policy_hz: 20.0")]));
        let parameters = validated(std::slice::from_ref(&policy_file)).unwrap();
        assert_eq!((parameters.policy_hz, parameters.inference_rate_hz), (20.0, 20.0));
        assert_eq!(
            RawParameters::default().settled(&parameters).get("inference_rate_hz"),
            ParameterValue::Double(20.0)
        );
        let parameters =
            validated(&[policy_file, ("inference_rate_hz", ParameterValue::Double(1000.0))])
                .unwrap();
        assert_eq!((parameters.policy_hz, parameters.inference_rate_hz), (20.0, 1000.0));
    }

    #[test]
    fn tiny_rates_are_refused() {
        let text = validated(&[("inference_rate_hz", ParameterValue::Double(1e-20))]).unwrap_err();
        assert!(text.contains("0.01..1000"), "{text}");
    }

    /// `ros2 launch openvla_tt vla.launch.yaml checkpoint:=DIR` must start: its defaults are fed
    /// through validation.
    #[test]
    fn the_launch_files_defaults_are_good() {
        let read = |file: &str| -> serde_yaml::Value {
            let text =
                std::fs::read_to_string(format!("{}/launch/{file}", env!("CARGO_MANIFEST_DIR")))
                    .unwrap();
            serde_yaml::from_str(&text).unwrap()
        };
        let launch = read("vla.launch.yaml");
        let actions = launch["launch"].as_sequence().unwrap();
        let default = |name: &str| {
            let arg = actions.iter().find(|action| action["arg"]["name"].as_str() == Some(name));
            let arg = arg.unwrap_or_else(|| panic!("no argument '{name}'"));
            arg["arg"]["default"].as_str().unwrap_or("").to_owned()
        };
        let node = &actions.iter().find(|action| !action["node"].is_null()).unwrap()["node"];
        let (mut given, mut problems) = (Vec::new(), Vec::new());
        for parameter in node["param"].as_sequence().unwrap().iter().filter(|p| p["from"].is_null())
        {
            let name = parameter["name"].as_str().unwrap();
            let value = parameter["value"].as_str().unwrap();
            let value = value
                .strip_prefix("$(var ")
                .and_then(|rest| rest.strip_suffix(')'))
                .map_or(value.to_owned(), default);
            given.push((
                name.to_owned(),
                match parameter["type"].as_str().unwrap() {
                    "str" => ParameterValue::String(value),
                    "bool" => ParameterValue::Bool(value.parse().unwrap()),
                    "int" => ParameterValue::Integer(value.parse().unwrap()),
                    "float" => ParameterValue::Double(value.parse().unwrap()),
                    other => panic!("type {other} of {name}"),
                },
            ));
        }
        assert!(
            given.len() > 10
                && given.iter().any(|(name, _)| name == "policy_file")
                && given.iter().any(|(name, _)| name == "robot_file")
        );
        // The parameter file that is named by default.
        fn flatten(
            prefix: &str,
            value: &serde_yaml::Value,
            into: &mut Vec<(String, ParameterValue)>,
        ) {
            for (key, value) in value.as_mapping().unwrap() {
                let name = format!("{prefix}{}", key.as_str().unwrap());
                match value.as_f64() {
                    Some(number) => into.push((name, ParameterValue::Double(number))),
                    None => flatten(&format!("{name}."), value, into),
                }
            }
        }
        assert!(
            default("params_file").ends_with("launch/cautious_robot.yaml)")
                || default("params_file").ends_with("cautious_robot.yaml")
        );
        flatten("", &read("cautious_robot.yaml")["/**"]["ros__parameters"], &mut given);
        let raw = RawParameters::read(
            given.iter().map(|(name, value)| (name.as_str(), value)),
            &mut problems,
        );
        raw.validate(problems).unwrap();
    }

    #[test]
    fn every_name_is_there_once_and_can_be_read_back() {
        for (i, spec) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.name != spec.name), "{} twice", spec.name);
            let value = RawParameters::default().get(spec.name);
            assert!(spec.about.len() > 3);
            if value != ParameterValue::NotSet {
                let mut problems = Vec::new();
                let raw = RawParameters::read([(spec.name, &value)], &mut problems);
                assert!(
                    problems.is_empty() && raw.get(spec.name) == value,
                    "{}: {problems:?}",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn all_problems_come_at_once() {
        use ParameterValue::{Bool, Double, DoubleArray, Integer, String};
        let text = validated(&[
            ("comand_rate_hz", Double(50.0)),
            ("nonsense", Bool(true)),
            ("command_rate_hz", Integer(5000)),
            ("dry_run", String("no".into())),
            ("device", String("gpu".into())),
            ("decode", String("fast".into())),
            ("image_transport", String("theora".into())),
            ("limits.linear.velocity", Double(f64::NAN)),
            ("workspace.min", DoubleArray(vec![0.0, 0.0, 0.0])),
            ("gripper.hysteresis", Double(0.9)),
            ("control_priority", Integer(100)),
            ("policy_hz", Double(-1.0)),
            ("robot_file", String("/no/such/robot.yaml".into())),
            ("faults_to_latch", Integer(-1)),
        ])
        .unwrap_err();
        for wanted in [
            "comand_rate_hz: there is no such parameter; did you mean 'command_rate_hz'?",
            "nonsense: there is no such parameter; see vla_node --help",
            "command_rate_hz: 5000 Hz is outside 10..1000 Hz",
            "dry_run: is 'no', but must be true or false",
            "device: device 'gpu' is not known",
            "decode: decode is 'fast'; use full or actions",
            "image_transport: 'theora' is not known",
            "limits.linear.velocity: NaN",
            "workspace.max: is missing",
            "gripper.hysteresis: 0.9",
            "control_priority: 100 is outside 0..99",
            "policy_hz: -1 Hz is outside 0..1000 Hz",
            "robot_file: cannot read /no/such/robot.yaml",
            "faults_to_latch: is -1, but must be a count",
        ] {
            assert!(text.contains(wanted), "'{wanted}' not in\n{text}");
        }
    }
}
