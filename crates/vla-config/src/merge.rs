//! Merges defaults, files and given values, and validates the whole once.

use std::{path::Path, sync::Arc};

use vla_control::{ControlConfig, Problems, RawControlConfig, RawEnvelope};

use super::{
    Change, Frame, Given, GivenValue, Origin, Parameter, Polarity, PolicyFile, RobotFile, Rotation,
    Rule, Value, Values, parameter, unknown, values::is_hub_name,
};

/// Numbers per step of an end-effector policy: `dx dy dz droll dpitch dyaw gripper`.
pub const STEP_WIDTH: usize = 7;
/// Bridge's rate, for looking at a checkpoint in a dry run without its policy file.
const DRY_RUN_HZ: f64 = 5.0;
/// The largest difference between roll, pitch, yaw and a rotation vector that is accepted, radians.
const ROTATION_ERROR_MAX: f64 = 0.1;

/// The files that are named, validated.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `config/policies/*.yaml`
    pub policy: Option<Arc<PolicyFile>>,
    /// `config/robots/*.yaml`
    pub robot: Option<Arc<RobotFile>>,
}

/// Names that the command publishers are created with; rcl expands and remaps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTopics {
    /// Topic of the `TwistStamped`.
    pub twist: String,
    /// Topic of the gripper's `Float64`.
    pub gripper: String,
}

/// What loading a checkpoint adds to the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Latency of the self-test, seconds.
    pub inference_s: f64,
    /// Numbers per action: [`STEP_WIDTH`] times the steps of a chunk.
    pub action_dim: usize,
    /// q01 and q99 of the statistics in the checkpoint's units; `None` when they do not cover every
    /// pose number.
    pub statistics: Option<([f64; STEP_WIDTH], [f64; STEP_WIDTH])>,
}

/// State of the managed lifecycle, as far as it decides which parameters may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleState {
    /// No checkpoint is loaded.
    Unconfigured,
    /// A checkpoint is loaded and the command is at rest.
    Inactive,
    /// Any other.
    Other,
}

/// The merged configuration. It does not change; [`Resolved::with`] makes another.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What was given.
    pub given: Given,
    /// What holds, parameter by parameter.
    pub values: Values,
    /// The policy file and the robot file.
    pub files: Files,
    /// Command topics.
    pub command_topics: CommandTopics,
    /// Control's parameters, without what loading a checkpoint adds.
    pub raw_control: RawControlConfig,
    /// The same, validated with an assumed latency.
    pub control: ControlConfig,
}

impl Files {
    /// Loads the files that are named.
    fn load(given: &Given, problems: &mut Problems) -> Self {
        let path = |name| {
            let mut values = Values::default();
            let row = parameter(name)?;
            // A value that is refused is reported with the others.
            row.set(&mut values, &given.get(name)?.value).ok()?;
            match row.get(&values) {
                Value::Text(path) if !path.is_empty() => Some(path),
                _ => None,
            }
        };
        let (policy, robot) = (path("policy_file"), path("robot_file"));
        let policy = policy.and_then(|path| {
            let policy = PolicyFile::load(Path::new(&path))
                .map_err(|error| problems.add("policy_file", error.to_string()))
                .ok()?;
            for what in policy.unsupported() {
                problems.add("policy_file", format!("{path}: {what}"));
            }
            Some(Arc::new(policy))
        });
        let robot = robot.and_then(|path| {
            RobotFile::load(Path::new(&path))
                .map_err(|error| problems.add("robot_file", error.to_string()))
                .ok()
                .map(Arc::new)
        });
        Self { policy, robot }
    }

    /// What the files have for parameters: name, value, and which file.
    fn values(&self) -> Vec<(&'static str, Value, String)> {
        let mut found: Vec<(&'static str, Value, String)> = Vec::new();
        if let Some(robot) = &self.robot {
            let (limits, of) = (&robot.limits, format!("the robot file '{}'", robot.name));
            let tool = self.policy.as_ref().is_some_and(|policy| policy.frame == Frame::Tool);
            let frame = if tool { &robot.tool_frame } else { &robot.base_frame };
            let mut say = |name, value| found.push((name, value, of.clone()));
            say("frame_id", Value::Text(frame.clone()));
            for (name, value) in [
                ("command_rate_hz", robot.command.rate_hz),
                ("limits.linear.velocity", limits.linear.velocity),
                ("limits.linear.acceleration", limits.linear.acceleration),
                ("limits.linear.jerk", limits.linear.jerk),
                ("limits.angular.velocity", limits.angular.velocity),
                ("limits.angular.acceleration", limits.angular.acceleration),
                ("limits.angular.jerk", limits.angular.jerk),
                ("step_cap.translation", robot.step_cap.translation),
                ("step_cap.rotation", robot.step_cap.rotation),
                ("gripper.hysteresis", robot.gripper.hysteresis),
                ("gripper.min_dwell_s", robot.gripper.min_dwell_s),
            ] {
                say(name, Value::Float(value));
            }
            if let Some(workspace) = &robot.workspace {
                say("workspace.min", Value::Floats(workspace.area.min.to_vec()));
                say("workspace.max", Value::Floats(workspace.area.max.to_vec()));
                say("workspace.margin", Value::Float(workspace.area.margin));
            }
        }
        if let Some(policy) = &self.policy {
            let of = format!("the policy file '{}'", policy.name);
            let invert = policy.gripper_polarity == Polarity::OneIsClosed;
            found.push(("policy_hz", Value::Float(policy.policy_hz), of.clone()));
            found.push(("gripper.invert", Value::Bool(invert), of));
        }
        let threshold = self.policy.as_ref().and_then(|policy| policy.gripper_threshold);
        let of_robot = self.robot.as_ref().map(|robot| (robot.gripper.threshold, "robot"));
        if let Some((threshold, which)) = threshold.map(|value| (value, "policy")).or(of_robot) {
            found.push(("gripper.threshold", Value::Float(threshold), format!("the {which} file")));
        }
        found
    }
}

/// Loads the files that are named, merges them with what was given, and validates the whole.
///
/// # Errors
/// Every problem, those in `problems` included.
pub fn resolve(given: &Given, mut problems: Problems) -> Result<Resolved, Problems> {
    let files = Files::load(given, &mut problems);
    resolve_with(given, &files, problems)
}

/// As [`resolve`], with files that were loaded before.
///
/// # Errors
/// Every problem, those in `problems` included.
pub fn resolve_with(
    given: &Given,
    files: &Files,
    mut problems: Problems,
) -> Result<Resolved, Problems> {
    let mut values = Values::default();
    let mut valid = Vec::new();
    for (name, given) in given.iter() {
        let Some(row) = parameter(name) else { continue };
        match row.set(&mut values, &given.value) {
            Ok(()) if row.is_unset(&given.value) => {}
            Ok(()) => valid.push(name),
            Err(what) => problems.add(name, what),
        }
    }
    for (name, value, of) in files.values() {
        let Some(row) = parameter(name) else { continue };
        match given.get(name).filter(|_| valid.contains(&name)) {
            Some(given) => compare(row, &row.get(&values), given, &value, &of, &mut problems),
            None => {
                if let Err(what) = row.set(&mut values, &value) {
                    problems.add(name, format!("{of}: {what}"));
                }
            }
        }
    }
    complete(&mut values, given, files, &valid, &mut problems);
    let raw_control = RawControlConfig { workspace: values.workspace(), ..values.control };
    let control = raw_control.validate().map_err(|more| problems.0.extend(more.0)).ok();
    match control {
        Some(control) if problems.0.is_empty() => Ok(Resolved {
            command_topics: command_topics(given, files),
            given: given.clone(),
            values,
            files: files.clone(),
            raw_control,
            control,
        }),
        _ => Err(problems),
    }
}

/// Refuses a given value that is laxer than a file's, or not the same where it must be.
fn compare(
    row: &Parameter,
    value: &Value,
    given: &GivenValue,
    file: &Value,
    of: &str,
    problems: &mut Problems,
) {
    let numbers = |value: &Value| match value {
        Value::Float(number) => vec![*number],
        Value::Floats(numbers) => numbers.clone(),
        _ => Vec::new(),
    };
    let pairs = || numbers(value).into_iter().zip(numbers(file));
    let (holds, relation, remedy) = match row.rule {
        Rule::Own => return,
        Rule::AtMost => (pairs().all(|(x, y)| x <= y), "more than", "give at most that"),
        Rule::AtLeast => (pairs().all(|(x, y)| y <= x), "less than", "give at least that"),
        Rule::Equal => (value == file, "not", "give the same"),
    };
    if !holds {
        let unit = row.range.map_or(String::new(), |range| format!(" {}", range.unit));
        let unit = unit.trim_end();
        problems.add(
            row.name,
            format!(
                "{value}{unit}, given {}, is {relation} {file}{unit} of {of}; {remedy}, leave it \
                out, or change the file",
                given.origin
            ),
        );
    }
}

/// Fills in what follows from other values, and checks what belongs together.
fn complete(
    values: &mut Values,
    given: &Given,
    files: &Files,
    valid: &[&str],
    problems: &mut Problems,
) {
    if values.frame_id.trim().is_empty() {
        problems.add("frame_id", "is empty; name the frame in which the actions are expressed");
    }
    if is_hub_name(&values.checkpoint) {
        problems.add(
            "checkpoint",
            format!(
                "'{0}' is no folder here and has the form of a name on the Hugging Face Hub; \
                nothing is downloaded here: run hf download {0} --local-dir DIR and give DIR",
                values.checkpoint
            ),
        );
    }
    match (values.workspace_min, values.workspace_max) {
        (Some(_), None) => problems.add("workspace.max", "is missing while workspace.min is set"),
        (None, Some(_)) => problems.add("workspace.min", "is missing while workspace.max is set"),
        _ => {}
    }
    if values.control.command_rate_hz == 0.0 {
        values.control.command_rate_hz = RawControlConfig::default().command_rate_hz;
    }
    if values.policy_hz == 0.0 {
        values.policy_hz = DRY_RUN_HZ;
    }
    if values.inference_rate_hz == 0.0 {
        values.inference_rate_hz = values.policy_hz;
    }
    match &files.policy {
        Some(policy) => {
            let wanted = Some(values.unnorm_key.as_str()).filter(|key| !key.is_empty());
            match policy.choose_key(wanted) {
                Ok(key) => values.unnorm_key = key.to_owned(),
                Err(more) => problems.0.extend(more.0),
            }
            check_frame(values, policy, files, valid, problems);
        }
        // Frame, rotation, polarity and rate have no safe guess: no robot is moved by one.
        None if !values.control.dry_run && values.policy_file.is_empty() => problems.add(
            "policy_file",
            "is missing; with dry_run false, name the file that says what the checkpoint's \
            numbers mean (see config/policies)",
        ),
        None => {}
    }
    if let Some(robot) = &files.robot {
        limit_overrun(values, given, robot, problems);
        let rate_hz = values.control.command_rate_hz;
        if rate_hz < values.policy_hz {
            let policy_hz = values.policy_hz;
            problems.add(
                "command_rate_hz",
                format!("{rate_hz} Hz is slower than the policy's {policy_hz} Hz"),
            );
        }
    }
}

fn check_frame(
    values: &Values,
    policy: &PolicyFile,
    files: &Files,
    valid: &[&str],
    problems: &mut Problems,
) {
    if policy.frame != Frame::Tool {
        return;
    }
    if files.robot.is_none() && !valid.contains(&"frame_id") {
        problems.add(
            "robot_file",
            "is missing; the policy file's actions are in the tool frame, which a robot file or \
            frame_id must name",
        );
    }
    if values.workspace().is_some() {
        problems.add(
            "workspace",
            "the action is in the tool frame, but the box is in the base frame: this cannot be \
            guarded; remove the box or use a checkpoint with base-frame actions",
        );
    }
}

/// The arm stops by itself after the robot file's `timeout_s`: a longer interval between two
/// control steps must not pass as normal.
fn limit_overrun(values: &mut Values, given: &Given, robot: &RobotFile, problems: &mut Problems) {
    let timeout_s = robot.command.timeout_s;
    let overrun_s = &mut values.control.overrun_s;
    if *overrun_s == 0.0 {
        if timeout_s < 5.0 / values.control.command_rate_hz {
            *overrun_s = timeout_s;
        }
    } else if let (Some(row), Some(given)) = (parameter("overrun_s"), given.get("overrun_s")) {
        let of = format!("the robot file '{}' (command.timeout_s)", robot.name);
        let value = Value::Float(*overrun_s);
        compare(row, &value, given, &Value::Float(timeout_s), &of, problems);
    }
}

fn command_topics(given: &Given, files: &Files) -> CommandTopics {
    let of_robot = |remapped: bool, topic: fn(&RobotFile) -> &String| {
        files.robot.as_ref().filter(|_| !remapped).map(|robot| topic(robot).clone())
    };
    CommandTopics {
        twist: of_robot(given.twist_remapped, |robot| &robot.command.twist_topic)
            .unwrap_or_else(|| "~/command/twist".into()),
        gripper: of_robot(given.gripper_remapped, |robot| &robot.command.gripper_topic)
            .unwrap_or_else(|| "~/command/gripper".into()),
    }
}

impl Resolved {
    /// The configuration with changed parameters.
    ///
    /// # Errors
    /// In one line: unknown names, values that may not change in this state, and everything that
    /// is wrong with the result.
    pub fn with(&self, changes: &[(String, Value)], state: LifecycleState) -> Result<Self, String> {
        let (mut given, mut problems) = (self.given.clone(), Problems::default());
        for (name, value) in changes {
            let Some(row) = parameter(name) else {
                problems.add(name, unknown(name));
                continue;
            };
            let mut changed = self.values.clone();
            match row.set(&mut changed, value) {
                Err(what) => problems.add(name, what),
                // A value that holds already, as in a file made by `ros2 param dump`.
                Ok(()) if row.get(&changed) == row.get(&self.values) => {}
                Ok(()) => match refused(row.change, state) {
                    Some(reason) => problems.add(name, reason),
                    None => given.insert(row.name, value.clone(), Origin::Service),
                },
            }
        }
        let resolved = problems
            .into_result(())
            .and_then(|()| resolve_with(&given, &self.files, Problems::default()));
        resolved.map_err(|problems| {
            problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        })
    }

    /// Control's configuration with what loading a checkpoint adds: its latency, and the envelope
    /// of its statistics in metres and radians.
    ///
    /// # Errors
    /// Everything about the checkpoint that does not fit.
    pub fn control_for(&self, measured: &Measured) -> Result<ControlConfig, Problems> {
        let mut problems = Problems::default();
        // A result within the policy's own period is never late: a shorter deadline would only
        // refuse results of a busy machine.
        let expected_inference_s =
            measured.inference_s.max(0.5 / self.values.policy_hz).clamp(1e-4, 300.0);
        let policy = self.files.policy.as_ref();
        if let Some(policy) = policy
            && policy.horizon * STEP_WIDTH != measured.action_dim
        {
            problems.add(
                "policy_file",
                format!(
                    "horizon is {}, but the checkpoint's actions have {} steps of {STEP_WIDTH} \
                    numbers",
                    policy.horizon,
                    measured.action_dim / STEP_WIDTH
                ),
            );
        }
        let envelope = measured.statistics.map(|(low, high)| {
            let physical = |[x, y, z, r, p, w, _]: [f64; STEP_WIDTH]| {
                let numbers = [x, y, z, r, p, w];
                policy.map_or(numbers, |policy| policy.scaled(numbers))
            };
            RawEnvelope { q01: physical(low), q99: physical(high) }
        });
        if let (Some(policy), Some(envelope)) = (policy, &envelope) {
            check_rotation(policy, envelope, &mut problems);
        }
        let raw = RawControlConfig { expected_inference_s, envelope, ..self.raw_control };
        match raw.validate() {
            Ok(control) => problems.into_result(control),
            Err(more) => {
                problems.0.extend(more.0);
                Err(problems)
            }
        }
    }

    /// What the files decide, for the log.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(policy) = &self.files.policy {
            let (name, hz) = (&policy.name, self.values.policy_hz);
            lines.push(format!("policy file '{name}': {hz} Hz, {:?} frame", policy.frame));
        }
        if let Some(robot) = &self.files.robot {
            let (name, command) = (&robot.name, &robot.command);
            let CommandTopics { twist, gripper } = &self.command_topics;
            let (hz, timeout) = (command.rate_hz, command.timeout_s);
            lines.push(format!(
                "robot file '{name}': commands on {twist} and {gripper} at {hz} Hz in frame {}; \
                the arm stops by itself after {timeout} s",
                self.values.frame_id
            ));
        }
        lines
    }
}

/// Roll, pitch and yaw are taken to first order as a rotation vector, which is good for small
/// steps: the difference is below half the square of the angle.
fn check_rotation(policy: &PolicyFile, envelope: &RawEnvelope, problems: &mut Problems) {
    let square: f64 =
        (3..6).map(|i| envelope.q01[i].abs().max(envelope.q99[i].abs()).powi(2)).sum();
    let error = 0.5 * square;
    if policy.rotation == Rotation::RpyDelta && ROTATION_ERROR_MAX < error {
        problems.add(
            "policy_file",
            format!(
                "action.rotation rpy_delta is taken to first order, but the statistics have steps \
                of {:.2} rad, for which that is wrong by up to {error:.2} rad",
                square.sqrt()
            ),
        );
    }
}

/// Why a parameter may not change now.
fn refused(change: Change, state: LifecycleState) -> Option<&'static str> {
    match (change, state) {
        (Change::Start, _) => Some("can be given only when the node is started"),
        (Change::Unconfigured | Change::Inactive, LifecycleState::Unconfigured)
        | (Change::Inactive, LifecycleState::Inactive) => None,
        (Change::Unconfigured, _) => {
            Some("can be changed only while the node is unconfigured; clean it up first")
        }
        (Change::Inactive, LifecycleState::Other) => Some(
            "can be changed only while the node is unconfigured or inactive; deactivate it first",
        ),
    }
}
