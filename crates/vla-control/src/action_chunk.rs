//! Action chunk: the steps that a policy returns for one observation, with their origin.
//!
//! A chunk is in one of two spaces: displacements of the end effector ([`ChunkStep`]), or joints by
//! index (one row of numbers per step). The values are unchecked and may be NaN:
//! [`step`](crate::step) checks them before use.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::stage_times::StageTimes;
use crate::time::{Instant, Stamp};

/// Maximum number of steps. pi0 uses 50 steps, OpenVLA-OFT 25 at most; the player's buffer is
/// allocated once for this many.
pub const HORIZON_MAX: usize = 256;
/// Maximum number of joints, grippers not included. ALOHA has 14 with its two grippers.
pub const JOINTS_MAX: usize = 32;
/// Maximum number of grippers.
pub const GRIPPERS_MAX: usize = 4;
/// Maximum number of values in one step.
pub const WIDTH_MAX: usize = JOINTS_MAX + GRIPPERS_MAX;

/// What the joint values of a step mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JointAction {
    /// Velocities, rad/s (m/s for a prismatic joint), for one policy period.
    Velocity,
    /// Absolute positions, rad (m), reached at the end of the policy period. Positions relative to
    /// the state at the observation are made absolute before.
    Position,
}

/// The space of a chunk's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionSpace {
    /// Displacements of the end effector.
    EndEffector,
    /// Joints by index.
    Joint(JointAction),
}

/// One step of a chunk: the displacement during one policy period.
///
/// Frame: that of the policy file. Values are physical (un-normalized) and unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ChunkStep {
    /// `[dx, dy, dz]` in metres.
    pub translation: [f64; 3],
    /// `[droll, dpitch, dyaw]`, or a rotation vector, depending on the policy file; radians.
    pub rotation: [f64; 3],
    /// Gripper value of the policy; the policy file defines its polarity. OpenVLA on Bridge: 1
    /// open, 0 closed.
    pub gripper: f64,
}

impl ChunkStep {
    /// From `[dx, dy, dz, droll, dpitch, dyaw, gripper]`, OpenVLA's order.
    #[must_use]
    pub const fn from_array(a: [f64; 7]) -> Self {
        Self { translation: [a[0], a[1], a[2]], rotation: [a[3], a[4], a[5]], gripper: a[6] }
    }

    /// `[dx, dy, dz, droll, dpitch, dyaw, gripper]`.
    #[must_use]
    pub const fn to_array(self) -> [f64; 7] {
        let ([x, y, z], [r, p, w]) = (self.translation, self.rotation);
        [x, y, z, r, p, w, self.gripper]
    }

    /// Whether every number is finite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.to_array().iter().all(|value| value.is_finite())
    }
}

/// Origin of a chunk. Each field is copied from the observation of the inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkOrigin {
    /// Number of the inference, strictly increasing. An older generation never replaces a newer
    /// one.
    pub generation: u64,
    /// Number of the instruction; the runtime increases it whenever the instruction changes. A
    /// result for an earlier one is dropped.
    pub instruction_generation: u64,
    /// Header stamp of the source image, in ROS time. Reported only.
    pub image_stamp: Stamp,
    /// Capture time of the source image on the steady clock: its arrival minus its delay.
    pub image_taken: Instant,
    /// Start of the inference, on the steady clock.
    pub inference_started: Instant,
    /// [`Output::steps_begun`](crate::Output::steps_begun) before the step that the robot began to
    /// follow when the source image was captured: the offset of this chunk's step 0.
    pub steps_begun_at_observation: u64,
    /// Largest distance between the capture times of the observation's sources (images, states);
    /// zero for a single source. A result from sources further apart than
    /// `observation_spread_s` is refused.
    pub observation_spread: Duration,
}

/// The steps of a chunk.
#[derive(Debug, Clone, PartialEq)]
enum Steps {
    EndEffector(Arc<[ChunkStep]>),
    /// Row by row: the joints, then the grippers.
    Joints {
        action: JointAction,
        joints: usize,
        grippers: usize,
        values: Arc<[f64]>,
    },
}

/// Result of a policy for one observation.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionChunk {
    origin: ChunkOrigin,
    policy_hz: f64,
    steps: Steps,
    stages: StageTimes,
}

/// Error of [`ActionChunk::new`].
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ChunkError {
    /// No step at all.
    #[error("the policy returned a chunk without a single step; check its action codec")]
    Empty,
    /// More than [`HORIZON_MAX`] steps.
    #[error(
        "the policy returned {steps} steps, more than the {HORIZON_MAX} a chunk may have; shorten \
        the policy's horizon"
    )]
    TooLong {
        /// Number of steps.
        steps: usize,
    },
    /// The rate is outside (0, 1000] Hz.
    #[error("policy_hz is {0}, but must be above 0 and at most 1000 Hz; set it in the policy file")]
    Rate(f64),
    /// No joint, too many joints or grippers, or values that are no whole number of steps.
    #[error(
        "the policy returned {values} values for {joints} joints and {grippers} grippers; a step \
        has 1 to {JOINTS_MAX} joints and at most {GRIPPERS_MAX} grippers; check the policy file's \
        action"
    )]
    Width {
        /// Number of joints.
        joints: usize,
        /// Number of grippers.
        grippers: usize,
        /// Number of values of all steps.
        values: usize,
    },
}

impl ActionChunk {
    /// A chunk of displacements of the end effector, to be executed at `policy_hz`.
    ///
    /// # Errors
    /// [`ChunkError`] when there is no step, there are more than [`HORIZON_MAX`], or the rate is
    /// not in `(0, 1000]` Hz. The values of the steps are *not* checked here: control does, since a
    /// NaN must latch.
    pub fn new(
        origin: ChunkOrigin,
        policy_hz: f64,
        steps: impl Into<Arc<[ChunkStep]>>,
    ) -> Result<Self, ChunkError> {
        let steps = steps.into();
        check(steps.len(), policy_hz)?;
        let steps = Steps::EndEffector(steps);
        Ok(Self { origin, policy_hz, steps, stages: StageTimes::default() })
    }

    /// A chunk of joint values, to be executed at `policy_hz`. `values` holds the steps one after
    /// another, each with `joints` values by joint index and `grippers` values of the policy.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`ChunkError::Width`].
    pub fn joints(
        origin: ChunkOrigin,
        policy_hz: f64,
        action: JointAction,
        [joints, grippers]: [usize; 2],
        values: impl Into<Arc<[f64]>>,
    ) -> Result<Self, ChunkError> {
        let values = values.into();
        let legal = (1..=JOINTS_MAX).contains(&joints) && grippers <= GRIPPERS_MAX;
        if !legal || values.len() % (joints + grippers) != 0 {
            return Err(ChunkError::Width { joints, grippers, values: values.len() });
        }
        check(values.len() / (joints + grippers), policy_hz)?;
        let steps = Steps::Joints { action, joints, grippers, values };
        Ok(Self { origin, policy_hz, steps, stages: StageTimes::default() })
    }

    /// The same chunk with the durations of its inference's stages.
    #[must_use]
    pub fn with_stages(self, stages: StageTimes) -> Self {
        Self { stages, ..self }
    }

    /// Durations of its inference's stages; none where they were not given.
    #[must_use]
    pub const fn stages(&self) -> &StageTimes {
        &self.stages
    }

    /// Its origin.
    #[must_use]
    pub const fn origin(&self) -> &ChunkOrigin {
        &self.origin
    }

    /// Steps per second.
    #[must_use]
    pub const fn policy_hz(&self) -> f64 {
        self.policy_hz
    }

    /// The space of its values.
    #[must_use]
    pub const fn space(&self) -> ActionSpace {
        match &self.steps {
            Steps::EndEffector(_) => ActionSpace::EndEffector,
            Steps::Joints { action, .. } => ActionSpace::Joint(*action),
        }
    }

    /// Numbers of joints and grippers in each step; no joint in the space of the end effector.
    #[must_use]
    pub const fn shape(&self) -> [usize; 2] {
        match &self.steps {
            Steps::EndEffector(_) => [0, 1],
            Steps::Joints { joints, grippers, .. } => [*joints, *grippers],
        }
    }

    /// Number of steps, at least one.
    #[must_use]
    // A chunk is never empty.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match &self.steps {
            Steps::EndEffector(steps) => steps.len(),
            Steps::Joints { joints, grippers, values, .. } => values.len() / (joints + grippers),
        }
    }

    /// The steps in the space of the end effector; empty for joints.
    #[must_use]
    pub fn steps(&self) -> &[ChunkStep] {
        match &self.steps {
            Steps::EndEffector(steps) => steps,
            Steps::Joints { .. } => &[],
        }
    }

    /// The rows of joint values, joints first, then grippers; none in the space of the end
    /// effector.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        let (values, width): (&[f64], usize) = match &self.steps {
            Steps::EndEffector(_) => (&[], 1),
            Steps::Joints { joints, grippers, values, .. } => (values, joints + grippers),
        };
        values.chunks_exact(width)
    }

    /// Whether every number is finite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.steps().iter().all(ChunkStep::is_finite)
            && self.rows().flatten().all(|value| value.is_finite())
    }
}

fn check(steps: usize, policy_hz: f64) -> Result<(), ChunkError> {
    if steps == 0 {
        return Err(ChunkError::Empty);
    }
    if HORIZON_MAX < steps {
        return Err(ChunkError::TooLong { steps });
    }
    if !(policy_hz.is_finite() && 0.0 < policy_hz && policy_hz <= 1000.0) {
        return Err(ChunkError::Rate(policy_hz));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn length_and_rate_are_checked() {
        let step = ChunkStep::from_array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(step.to_array(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let origin = ChunkOrigin::default();
        assert_eq!(ActionChunk::new(origin, 5.0, Vec::new()).unwrap_err(), ChunkError::Empty);
        assert_eq!(
            ActionChunk::new(origin, 5.0, vec![step; 257]).unwrap_err(),
            ChunkError::TooLong { steps: 257 }
        );
        for rate in [0.0, -5.0, f64::INFINITY, 1000.1] {
            assert_eq!(
                ActionChunk::new(origin, rate, vec![step]).unwrap_err(),
                ChunkError::Rate(rate)
            );
        }
        assert!(ActionChunk::new(origin, f64::NAN, vec![step]).is_err());
        assert_eq!(ActionChunk::new(origin, 1000.0, vec![step; 256]).unwrap().steps().len(), 256);
    }

    #[test]
    fn each_component_must_be_finite() {
        assert!(ChunkStep::default().is_finite());
        for i in 0..7 {
            let mut a = [0.0; 7];
            a[i] = f64::NAN;
            assert!(!ChunkStep::from_array(a).is_finite(), "component {i}");
        }
    }

    #[test]
    fn joint_rows_have_one_width() {
        let origin = ChunkOrigin::default();
        let joints = |shape, values: Vec<f64>| {
            ActionChunk::joints(origin, 50.0, JointAction::Position, shape, values)
        };
        let chunk = joints([2, 1], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!((chunk.len(), chunk.shape(), chunk.steps().len()), (2, [2, 1], 0));
        assert_eq!(chunk.space(), ActionSpace::Joint(JointAction::Position));
        assert!(chunk.rows().eq([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
        assert!(chunk.is_finite());
        for i in 0..6 {
            let mut values = vec![0.0; 6];
            values[i] = f64::NEG_INFINITY;
            assert!(!joints([2, 1], values).unwrap().is_finite(), "value {i}");
        }
        for (shape, values) in [([2, 1], 5), ([0, 1], 1), ([33, 0], 33), ([1, 5], 6)] {
            let [joints_, grippers] = shape;
            assert_eq!(
                joints(shape, vec![0.0; values]).unwrap_err(),
                ChunkError::Width { joints: joints_, grippers, values }
            );
        }
        assert_eq!(joints([2, 1], vec![]).unwrap_err(), ChunkError::Empty);
        assert_eq!(joints([32, 4], vec![0.0; 36 * 256]).unwrap().len(), 256);
        assert_eq!(joints([1, 0], vec![0.0; 257]).unwrap_err(), ChunkError::TooLong { steps: 257 });
    }
}
