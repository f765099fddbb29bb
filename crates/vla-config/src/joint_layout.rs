//! From a policy's columns to a robot's joints, by name.

use vla_control::ConfigErrors;

use super::{JointAction, JointQuantity, PolicyFile, PolicyGripper, RobotFile};

/// How a joint policy's numbers become those of a robot's joints.
#[derive(Debug, Clone, PartialEq)]
pub struct JointLayout {
    /// What the numbers are.
    pub quantity: JointQuantity,
    /// Column of each joint, in the robot file's order.
    pub joints: Vec<usize>,
    /// Columns of the grippers, in the policy's order.
    pub grippers: Vec<usize>,
    scale: f64,
    width: usize,
    gripper: PolicyGripper,
}

impl JointLayout {
    /// Matches the two files; `None` after a problem was noted.
    pub(crate) fn new(
        action: &JointAction,
        policy: &PolicyFile,
        robot: &RobotFile,
        problems: &mut ConfigErrors,
    ) -> Option<Self> {
        let mut joints = Vec::new();
        for joint in &robot.joints {
            let own = |column: &usize| action.columns[*column] == joint.name;
            match action.joints().find(own) {
                Some(column) => joints.push(column),
                None => problems.add(
                    "robot_file",
                    format!(
                        "its joint '{}' is no joint of the policy file's action; the policy would \
                        leave it without a command",
                        joint.name
                    ),
                ),
            }
        }
        for column in action.joints() {
            let name = &action.columns[column];
            if !robot.joints.iter().any(|joint| joint.name == *name) {
                problems.add(
                    "policy_file",
                    format!("its joint '{name}' has no limits in the robot file; add it there"),
                );
            }
        }
        let (topics, grippers) = (robot.command.gripper_topics.len(), action.grippers.len());
        if grippers != topics && grippers != 0 {
            problems.add(
                "robot_file",
                format!("has {topics} gripper topics, but the policy file {grippers} grippers"),
            );
        }
        (joints.len() == robot.joints.len()).then(|| Self {
            quantity: action.quantity,
            joints,
            grippers: action.grippers.clone(),
            scale: action.scale,
            width: action.columns.len(),
            gripper: policy.gripper,
        })
    }

    /// The numbers of a chunk as control takes them: for each step the joints in radians (per
    /// second), in the robot's order, then the grippers from 0 closed to 1 open. `observed` are the
    /// joints' positions at observation time, in the robot's order; used by relative positions.
    ///
    /// # Errors
    /// When a step has another width than the policy file says, or a position is relative to one
    /// that is not known.
    pub fn rows(&self, steps: &[Vec<f64>], observed: &[f64]) -> Result<Vec<f64>, String> {
        let relative = self.quantity == JointQuantity::RelativePosition;
        if relative && observed.len() != self.joints.len() {
            return Err(format!(
                "the actions are relative to {} joints, of which {} are known",
                self.joints.len(),
                observed.len()
            ));
        }
        let mut rows = Vec::with_capacity(steps.len() * self.width);
        for step in steps {
            if step.len() != self.width {
                return Err(format!(
                    "the policy returned a step of {} numbers; the policy file's action has {}",
                    step.len(),
                    self.width
                ));
            }
            rows.extend(self.joints.iter().enumerate().map(|(joint, &column)| {
                let origin = if relative { observed[joint] } else { 0.0 };
                origin + step[column] * self.scale
            }));
            rows.extend(self.grippers.iter().map(|&column| self.gripper.opening(step[column])));
        }
        Ok(rows)
    }
}
