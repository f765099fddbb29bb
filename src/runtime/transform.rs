//! From a policy's numbers to a chunk of control.

use std::sync::Arc;

use vla_config::{JointLayout, JointQuantity};
use vla_control::action_chunk::{ActionChunk, ChunkOrigin, ChunkStep, JointAction};

/// Numbers per step of an end-effector policy: `dx dy dz droll dpitch dyaw gripper`.
pub const STEP_WIDTH: usize = 7;

/// Converts a decision's numbers from the checkpoint's units to a chunk in metres and radians.
#[derive(Clone)]
pub enum ActionTransform {
    /// Steps of the end effector.
    EndEffector(Arc<dyn Fn([f64; STEP_WIDTH]) -> ChunkStep + Send + Sync>),
    /// Positions or velocities of joints.
    Joints(Arc<JointLayout>),
}

impl ActionTransform {
    /// Numbers that are metres and radians already.
    #[must_use]
    pub fn identity() -> Self {
        Self::EndEffector(Arc::new(ChunkStep::from_array))
    }

    /// Numbers per step that it takes; `None` where the policy file has checked it.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        matches!(self, Self::EndEffector(_)).then_some(STEP_WIDTH)
    }

    /// The chunk of a decision. NaN is passed on: control latches on it. `joints` are the joints'
    /// positions at the observation, in control's order.
    ///
    /// # Errors
    /// In one line, when the numbers are not steps of this kind.
    pub fn chunk(
        &self,
        origin: ChunkOrigin,
        policy_hz: f64,
        actions: &[Vec<f64>],
        joints: &[f64],
    ) -> Result<ActionChunk, String> {
        match self {
            Self::EndEffector(convert) => {
                let step =
                    |action: &Vec<f64>| match <[f64; STEP_WIDTH]>::try_from(action.as_slice()) {
                        Ok(numbers) => Ok(convert(numbers)),
                        Err(_) => Err(format!(
                            "the policy returned a step of {} numbers; an end effector takes \
                        {STEP_WIDTH}",
                            action.len()
                        )),
                    };
                let steps = actions.iter().map(step).collect::<Result<Vec<ChunkStep>, _>>()?;
                ActionChunk::new(origin, policy_hz, steps).map_err(|error| error.to_string())
            }
            Self::Joints(layout) => {
                let rows = layout.rows(actions, joints)?;
                let action = match layout.quantity {
                    JointQuantity::Velocity => JointAction::Velocity,
                    JointQuantity::Position | JointQuantity::RelativePosition => {
                        JointAction::Position
                    }
                };
                let counts = [layout.joints.len(), layout.grippers.len()];
                ActionChunk::joints(origin, policy_hz, action, counts, rows)
                    .map_err(|error| error.to_string())
            }
        }
    }
}
