//! The merged configuration, what loading a checkpoint adds to it, and its changes.

use vla_control::{ConfigErrors, ControlConfig, RawControlConfig, RawEnvelope};

use super::{
    Action, Change, CommandOutput, Files, Given, JointLayout, Origin, PolicyFile, Remark, Rotation,
    Value, Values, parameter, resolve_with, unknown,
};

/// Numbers per step of an end-effector policy: `dx dy dz droll dpitch dyaw gripper`.
pub const STEP_WIDTH: usize = 7;
/// The largest difference between roll, pitch, yaw and a rotation vector that is accepted, radians.
const ROTATION_ERROR_MAX: f64 = 0.1;
/// Time for preparing images beside a policy server's deadline, seconds.
const REMOTE_MARGIN_S: f64 = 0.25;

/// Names that the command publishers are created with; rcl expands and remaps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTopics {
    /// Message of the commands.
    pub output: CommandOutput,
    /// Its topic.
    pub command: String,
    /// Topic of each gripper's `Float64`.
    pub grippers: Vec<String>,
}

/// What loading a checkpoint adds to the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Latency of the self-test, seconds.
    pub inference_s: f64,
    /// Steps per chunk.
    pub horizon: usize,
    /// Numbers per step.
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

impl Resolved {
    /// The configuration with changed parameters.
    ///
    /// # Errors
    /// In one line: unknown names, names that occur twice, values that may not change in this
    /// state, and everything that is wrong with the result.
    pub fn with(&self, changes: &[(String, Value)], state: LifecycleState) -> Result<Self, String> {
        let (mut given, mut problems) = (self.given.clone(), ConfigErrors::default());
        for (i, (name, value)) in changes.iter().enumerate() {
            // Neither value can be taken as the one that is meant: the first may hold already.
            let earlier = changes[..i].iter().filter(|(other, _)| other == name).count();
            if 0 < earlier {
                if earlier == 1 {
                    problems.add(name, "occurs more than once in one request; give it once");
                }
                continue;
            }
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
            .and_then(|()| resolve_with(&given, &self.files, ConfigErrors::default()));
        resolved.map_err(|problems| {
            problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        })
    }

    /// Control's configuration with what loading a checkpoint adds: its latency, and the envelope
    /// of its statistics in metres and radians.
    ///
    /// # Errors
    /// Everything about the checkpoint that does not fit.
    pub fn control_for(&self, measured: &Measured) -> Result<ControlConfig, ConfigErrors> {
        let mut problems = ConfigErrors::default();
        let policy = self.files.policy.as_ref();
        // A result within the time of the steps that are executed of a chunk is never late: a
        // shorter deadline would only refuse results of a busy machine.
        let steps = policy.map_or(1, |policy| policy.execute) as f64;
        // The client's own deadline comes first: it names the server.
        let remote_s = match self.values.remote.as_str() {
            "" => 0.0,
            _ => self.values.remote_timeout_s + REMOTE_MARGIN_S,
        };
        let expected_inference_s = measured
            .inference_s
            .max(0.5 * steps / self.values.policy_hz)
            .max(0.5 * remote_s)
            .clamp(1e-4, 300.0);
        if let Some(policy) = policy
            && (policy.horizon, policy.action.width()) != (measured.horizon, measured.action_dim)
        {
            problems.add(
                "policy_file",
                format!(
                    "has chunks of {} steps (horizon) of {} numbers (action), but the checkpoint's \
                    have {} steps of {}",
                    policy.horizon,
                    policy.action.width(),
                    measured.horizon,
                    measured.action_dim
                ),
            );
        }
        let envelope = measured.statistics.map(|(low, high)| {
            let physical = |[x, y, z, r, p, w, _]: [f64; STEP_WIDTH]| {
                let numbers = [x, y, z, r, p, w];
                let action = policy.and_then(|policy| policy.action.end_effector());
                action.map_or(numbers, |action| action.scaled(numbers))
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

    /// How the policy's numbers become joints; `None` for an end-effector policy.
    #[must_use]
    pub fn joint_layout(&self) -> Option<JointLayout> {
        let (policy, robot) = (self.files.policy.as_ref()?, self.files.robot.as_ref()?);
        JointLayout::new(policy.action.joints()?, policy, robot, &mut ConfigErrors::default())
    }

    /// What the files decide, for the log.
    #[must_use]
    pub fn summary(&self) -> Vec<Remark> {
        let mut lines = Vec::new();
        if let Some(policy) = &self.files.policy {
            let (name, hz) = (&policy.name, self.values.policy_hz);
            let what = match &policy.action {
                Action::EndEffector(action) => format!("{:?} frame", action.frame),
                Action::Joints(action) => {
                    format!("{:?} of {}", action.quantity, action.columns.join(", "))
                }
            };
            let text = format!("policy file '{name}': {hz} Hz, {what}");
            lines.push(Remark::Info(text));
        }
        if let Some(robot) = &self.files.robot {
            let (name, command) = (&robot.name, &robot.command);
            let topics: Vec<&str> = std::iter::once(&self.command_topics.command)
                .chain(&self.command_topics.grippers)
                .map(String::as_str)
                .collect();
            let (topics, hz, timeout) = (topics.join(" and "), command.rate_hz, command.timeout_s);
            lines.push(Remark::Info(format!(
                "robot file '{name}': commands on {topics} at {hz} Hz in frame {}; \
                the arm stops by itself after {timeout} s",
                self.values.frame_id
            )));
            if timeout < self.values.control.overrun_s {
                let overrun_s = self.values.control.overrun_s;
                lines.push(Remark::Warning(format!(
                    "overrun_s is {overrun_s} s, but the arm stops by itself after {timeout} s"
                )));
            }
        }
        lines
    }
}

/// Roll, pitch and yaw are taken to first order as a rotation vector, which is good for small
/// steps: the difference is below half the square of the angle.
fn check_rotation(policy: &PolicyFile, envelope: &RawEnvelope, problems: &mut ConfigErrors) {
    let square: f64 =
        (3..6).map(|i| envelope.q01[i].abs().max(envelope.q99[i].abs()).powi(2)).sum();
    let error = 0.5 * square;
    let rotation = policy.action.end_effector().map(|action| action.rotation);
    if rotation == Some(Rotation::RpyDelta) && ROTATION_ERROR_MAX < error {
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
