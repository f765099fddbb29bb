//! The policy file and the robot file that are named, and what they have for parameters.

use std::{path::Path, sync::Arc};

use vla_control::ConfigErrors;

use super::{EndEffectorLimits, Given, PolicyFile, RobotFile, Value, Values, parameter};

/// The files that are named, validated.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `config/policies/*.yaml`
    pub policy: Option<Arc<PolicyFile>>,
    /// `config/robots/*.yaml`
    pub robot: Option<Arc<RobotFile>>,
}

impl Files {
    /// Loads the files that are named.
    pub(crate) fn load(given: &Given, problems: &mut ConfigErrors) -> Self {
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
    pub(crate) fn values(&self) -> Vec<(&'static str, Value, String)> {
        let mut found: Vec<(&'static str, Value, String)> = Vec::new();
        if let Some(robot) = &self.robot {
            let of = format!("the robot file '{}'", robot.name);
            let tool = self.policy.as_ref().is_some_and(|policy| policy.action.in_tool_frame());
            let frame = if tool { &robot.tool_frame } else { &robot.base_frame };
            let mut say = |name, value| found.push((name, value, of.clone()));
            say("frame_id", Value::Text(frame.clone()));
            for (name, value) in [
                ("command_rate_hz", robot.command.rate_hz),
                ("gripper.hysteresis", robot.gripper.hysteresis),
                ("gripper.min_dwell_s", robot.gripper.min_dwell_s),
            ] {
                say(name, Value::Float(value));
            }
            if let Some(EndEffectorLimits { limits, step_cap }) = &robot.end_effector {
                for (name, value) in [
                    ("limits.linear.velocity", limits.linear.velocity),
                    ("limits.linear.acceleration", limits.linear.acceleration),
                    ("limits.linear.jerk", limits.linear.jerk),
                    ("limits.angular.velocity", limits.angular.velocity),
                    ("limits.angular.acceleration", limits.angular.acceleration),
                    ("limits.angular.jerk", limits.angular.jerk),
                    ("step_cap.translation", step_cap.translation),
                    ("step_cap.rotation", step_cap.rotation),
                ] {
                    say(name, Value::Float(value));
                }
            }
            if let Some(workspace) = &robot.workspace {
                say("workspace.min", Value::Floats(workspace.area.min.to_vec()));
                say("workspace.max", Value::Floats(workspace.area.max.to_vec()));
                say("workspace.margin", Value::Float(workspace.area.margin));
            }
        }
        if let Some(policy) = &self.policy {
            let of = format!("the policy file '{}'", policy.name);
            // Grippers beside joints reach control on the scale 0 closed to 1 open.
            let invert = policy.gripper.inverted() && policy.action.joints().is_none();
            found.push(("policy_hz", Value::Float(policy.policy_hz), of.clone()));
            found.push(("gripper.invert", Value::Bool(invert), of));
        }
        let threshold = self.policy.as_ref().and_then(|policy| policy.gripper.threshold);
        let of_robot = self.robot.as_ref().map(|robot| (robot.gripper.threshold, "robot"));
        if let Some((threshold, which)) = threshold.map(|value| (value, "policy")).or(of_robot) {
            found.push(("gripper.threshold", Value::Float(threshold), format!("the {which} file")));
        }
        found
    }
}
