//! Merges defaults, files and given values, and validates the whole once.

use std::sync::Arc;

use vla_control::{
    ConfigErrors, JointList, JointOutput, RawControlConfig, RawEnvelope, RawJoint, RawJointSpace,
    RawMotionLimits,
};

use super::{
    Action, CommandOutput, CommandTopics, EndEffectorLimits, Files, Given, GivenValue, JointLayout,
    JointQuantity, Origin, Parameter, PolicyFile, Resolved, RobotFile, RobotJoint, Rule,
    STEP_WIDTH, StateAssembler, Value, Values, expand_path, parameter, values::named_on_the_hub,
};

/// Bridge's rate, for looking at a checkpoint in a dry run without its policy file.
const DRY_RUN_HZ: f64 = 5.0;
/// Loads the files that are named, merges them with what was given, and validates the whole.
///
/// # Errors
/// Every problem, those in `problems` included.
pub fn resolve(given: &Given, mut problems: ConfigErrors) -> Result<Resolved, ConfigErrors> {
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
    mut problems: ConfigErrors,
) -> Result<Resolved, ConfigErrors> {
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
    if let Some(robot) = &files.robot {
        check_stop_times(&values, robot, &mut problems);
    }
    complete(&mut values, files, &valid, &mut problems);
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

/// Control's parameters by a policy file, a robot file and the statistics q01 and q99 of a
/// checkpoint (in its own units) alone; for recorded actions. `base` has everything that no file
/// decides.
///
/// # Errors
/// Everything that does not fit, and everything that control refuses.
pub fn join(
    policy: &PolicyFile,
    robot: &RobotFile,
    statistics: Option<(&[f64], &[f64])>,
    base: &RawControlConfig,
) -> Result<RawControlConfig, ConfigErrors> {
    let mut given = Given::default();
    if let Some(key) = policy.unnorm_keys.first() {
        given.insert("unnorm_key", Value::Text(key.clone()), Origin::CommandLine);
    }
    let files =
        Files { policy: Some(Arc::new(policy.clone())), robot: Some(Arc::new(robot.clone())) };
    let merged = resolve_with(&given, &files, ConfigErrors::default())?.raw_control;
    let mut problems = ConfigErrors::default();
    let envelope = statistics.and_then(|(q01, q99)| {
        let (Some(low), Some(high), STEP_WIDTH, STEP_WIDTH) =
            (q01.first_chunk::<6>(), q99.first_chunk::<6>(), q01.len(), q99.len())
        else {
            problems.add(
                "unnorm_key",
                format!(
                    "its statistics have {} and {} dimensions; an end-effector action has \
                    {STEP_WIDTH}",
                    q01.len(),
                    q99.len()
                ),
            );
            return None;
        };
        let action = policy.action.end_effector()?;
        Some(RawEnvelope { q01: action.scaled(*low), q99: action.scaled(*high) })
    });
    let raw = RawControlConfig {
        command_rate_hz: merged.command_rate_hz,
        limits: merged.limits,
        step_cap: merged.step_cap,
        workspace: merged.workspace,
        gripper: merged.gripper,
        envelope,
        ..*base
    };
    if let Err(more) = raw.validate() {
        problems.0.extend(more.0);
    }
    problems.into_result(raw)
}

/// Refuses a given value that is laxer than a file's, or not the same where it must be.
fn compare(
    row: &Parameter,
    value: &Value,
    given: &GivenValue,
    file: &Value,
    of: &str,
    problems: &mut ConfigErrors,
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

/// Refuses limits with which the longest stop of a group takes longer than with the robot file's
/// own. Each limit may be lower, but a lower acceleration or jerk alone lengthens every stop.
fn check_stop_times(values: &Values, robot: &RobotFile, problems: &mut ConfigErrors) {
    let Some(EndEffectorLimits { limits: of_file, .. }) = &robot.end_effector else { return };
    let merged = &values.control.limits;
    for (place, merged, of_file) in [
        ("limits.linear", merged.linear, of_file.linear),
        ("limits.angular", merged.angular, of_file.angular),
    ] {
        let (stop_s, file_s) = (stop_time_s(&merged), stop_time_s(&of_file));
        // Limits above the file's are refused one by one.
        let lower = merged.velocity <= of_file.velocity
            && merged.acceleration <= of_file.acceleration
            && merged.jerk <= of_file.jerk;
        // Limits lowered in proportion differ by rounding alone.
        if lower && file_s * (1.0 + 1e-9) < stop_s {
            let shown = |seconds: f64| (seconds * 1e6).round() / 1e6;
            problems.add(
                place,
                format!(
                    "a stop would take velocity / acceleration + acceleration / jerk = {} s, \
                    longer than {} s of the robot file '{}'; lower {place}.velocity too, or leave \
                    the acceleration and jerk of the file",
                    shown(stop_s),
                    shown(file_s),
                    robot.name
                ),
            );
        }
    }
}

/// The longest time of a stop, as in control.
fn stop_time_s(limits: &RawMotionLimits) -> f64 {
    limits.velocity / limits.acceleration + limits.acceleration / limits.jerk
}

/// Fills in what follows from other values, and checks what belongs together.
fn complete(values: &mut Values, files: &Files, valid: &[&str], problems: &mut ConfigErrors) {
    if values.frame_id.trim().is_empty() {
        problems.add("frame_id", "is empty; name the frame in which the actions are expressed");
    }
    check_server(values, files, valid, problems);
    // Also the default, which is the environment's.
    match expand_path(&values.checkpoint, std::env::var("HOME").ok().as_deref()) {
        Ok(path) => values.checkpoint = path,
        Err(reason) => problems.add("checkpoint", format!("'{}' {reason}", values.checkpoint)),
    }
    if let Some(reason) = named_on_the_hub(&values.checkpoint) {
        problems.add("checkpoint", reason);
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
        // One inference for as many steps as are executed of its chunk.
        let steps = files.policy.as_ref().map_or(1, |policy| policy.execute);
        values.inference_rate_hz = values.policy_hz / steps as f64;
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
    observe(values, files);
    command_joints(values, files, problems);
    if let Some(robot) = &files.robot {
        limit_overrun(values, robot);
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

/// Parameters that only a checkpoint run here has.
const OF_A_CHECKPOINT: [&str; 8] =
    ["checkpoint", "device", "precision", "threads", "decode", "draft", "seed", "weight_cache"];
/// Parameters that only a policy server has.
const OF_A_SERVER: [&str; 4] =
    ["remote_key_file", "remote_connect_timeout_s", "remote_read_timeout_s", "remote_timeout_s"];

/// A server or a checkpoint, each with its own parameters and kind of policy file.
fn check_server(values: &mut Values, files: &Files, valid: &[&str], problems: &mut ConfigErrors) {
    // A value that equals the default says nothing, as in a file made by `ros2 param dump`.
    let defaults = Values::default();
    let says =
        |name: &str| parameter(name).is_some_and(|row| row.get(values) != row.get(&defaults));
    let given = |names: &[&'static str]| -> Vec<&'static str> {
        names.iter().copied().filter(|name| valid.contains(name) && says(name)).collect()
    };
    let (of_a_checkpoint, of_a_server) = (given(&OF_A_CHECKPOINT), given(&OF_A_SERVER));
    let section = files.policy.as_ref().map(|policy| policy.remote.is_some());
    if values.remote.is_empty() {
        for name in of_a_server {
            problems.add(name, "has no effect without a policy server; give remote, or remove it");
        }
        if section == Some(true) {
            problems.add(
                "policy_file",
                "is for a policy server (section remote); give its address as remote, or the \
                policy file of the checkpoint",
            );
        }
        return;
    }
    for name in of_a_checkpoint {
        let message = "is of a checkpoint that is run here, but remote names a server; remove one";
        problems.add(name, message);
    }
    values.checkpoint.clear(); // the environment's, where none was given
    if section != Some(true) {
        problems.add(
            "policy_file",
            "needs a section remote, which says what the server's requests and answers mean (see \
            docs/remote.md)",
        );
    }
    let (own, deadline) = (values.control.inference_timeout_s, values.remote_timeout_s);
    if own != 0.0 && own <= deadline {
        problems.add(
            "inference_timeout_s",
            format!(
                "{own} s is not longer than remote_timeout_s, {deadline} s, so that a late server \
                would not be named; raise it or lower remote_timeout_s"
            ),
        );
    }
}

/// What control watches by the policy file: cameras, state sources, execution of chunks.
fn observe(values: &mut Values, files: &Files) {
    let Some(policy) = &files.policy else { return };
    let control = &mut values.control;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    control.cameras = count(policy.cameras.iter().filter(|camera| camera.topic.is_some()).count());
    control.states = count(StateAssembler::new(&policy.state, &[], 0.0).topics().len());
    if let Some(spread) = policy.observation_spread_s {
        control.observation_spread_s = spread;
    }
    // The worker takes the next observation when the steps to be executed have begun, so that a new
    // chunk takes over at once.
    control.execute_steps = 0;
    control.ensemble = policy.ensemble;
    control.gripper.continuous = policy.gripper.continuous;
}

/// Control's joint space, where the policy file and the robot file are about joints.
fn command_joints(values: &mut Values, files: &Files, problems: &mut ConfigErrors) {
    let (Some(policy), Some(robot)) = (&files.policy, &files.robot) else {
        let robot_of_joints = files.robot.as_ref().is_some_and(|robot| !robot.joints.is_empty());
        let action = files.policy.as_ref().and_then(|policy| policy.action.joints());
        if robot_of_joints {
            problems.add("policy_file", "is missing; the robot file's commands are joints");
        }
        if action.is_some() {
            problems.add(
                "robot_file",
                "is missing; the policy file's actions are joints, whose limits it must give",
            );
        }
        return;
    };
    let action = match (&policy.action, robot.command.output) {
        (Action::Joints(action), output) if output != CommandOutput::Twist => action,
        (Action::EndEffector(_), CommandOutput::Twist) => return,
        (Action::EndEffector(_), output) => {
            return problems.add(
                "robot_file",
                format!(
                    "its command.output is {output:?}, but the policy file's actions move the end \
                    effector; use a robot file with output twist"
                ),
            );
        }
        (Action::Joints(_), _) => {
            return problems.add(
                "robot_file",
                "its command.output is twist, but the policy file's actions are joints; use a \
                robot file with an output of joints",
            );
        }
    };
    let Some(layout) = JointLayout::new(action, policy, robot, problems) else { return };
    let joints: Vec<RawJoint> = robot.joints.iter().map(raw_joint).collect();
    let Some(joints) = JointList::new(&joints) else {
        let (count, most) = (joints.len(), vla_control::action_chunk::JOINTS_MAX);
        return problems.add("robot_file", format!("has {count} joints; at most {most} are moved"));
    };
    values.control.grippers = u32::try_from(layout.grippers.len()).unwrap_or(u32::MAX);
    values.control.joints = Some(RawJointSpace {
        action: match action.quantity {
            JointQuantity::Velocity => vla_control::action_chunk::JointAction::Velocity,
            _ => vla_control::action_chunk::JointAction::Position,
        },
        output: match robot.command.output {
            CommandOutput::JointVelocityArray => JointOutput::Velocity,
            _ => JointOutput::Position,
        },
        joints,
        // Read ahead, the first velocities of a chunk would be lost, and a part of the way with
        // them.
        look_ahead: action.quantity != JointQuantity::Velocity,
    });
}

fn raw_joint(joint: &RobotJoint) -> RawJoint {
    let mut raw = RawJoint::new(joint.velocity, joint.acceleration, joint.jerk);
    raw.min = joint.position.map(|[min, _]| min);
    raw.max = joint.position.map(|[_, max]| max);
    raw.margin = joint.margin.unwrap_or(raw.margin);
    raw.tracking_error = joint.tracking_error.unwrap_or(raw.tracking_error);
    raw
}

fn check_frame(
    values: &Values,
    policy: &PolicyFile,
    files: &Files,
    valid: &[&str],
    problems: &mut ConfigErrors,
) {
    if !policy.action.in_tool_frame() {
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

/// The arm stops by itself after the robot file's `timeout_s`: by default an interval between two
/// control steps that is longer counts as an overrun.
fn limit_overrun(values: &mut Values, robot: &RobotFile) {
    let timeout_s = robot.command.timeout_s;
    if values.control.overrun_s == 0.0 && timeout_s < 5.0 / values.control.command_rate_hz {
        values.control.overrun_s = timeout_s;
    }
}

fn command_topics(given: &Given, files: &Files) -> CommandTopics {
    let command = files.robot.as_ref().map(|robot| &robot.command);
    let output = command.map_or(CommandOutput::Twist, |command| command.output);
    let (of_robot, grippers) = match command {
        Some(command) => (Some(command.topic.clone()), command.gripper_topics.clone()),
        None => (None, Vec::new()),
    };
    let private = if output == CommandOutput::Twist { "twist" } else { "joints" };
    CommandTopics {
        output,
        command: of_robot
            .filter(|_| !given.twist_remapped)
            .unwrap_or_else(|| format!("~/command/{private}")),
        grippers: if command.is_none() || given.gripper_remapped {
            vec!["~/command/gripper".into()]
        } else {
            grippers
        },
    }
}
