//! Action chunk: the steps that a policy returns for one observation, with their origin.
//!
//! The values are unchecked and may be NaN: [`step`](crate::step) checks them before use.

use std::sync::Arc;

use crate::time::{Instant, Stamp};

/// Maximum number of steps. pi0 uses 50 steps, OpenVLA-OFT 25 at most; the player's buffer is
/// allocated once for this many.
pub const HORIZON_MAX: usize = 256;

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
    /// [`Output::steps_begun`](crate::Output::steps_begun) when the source image was captured: the
    /// offset of this chunk's step 0.
    pub steps_begun_at_observation: u64,
}

/// Result of a policy for one observation.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionChunk {
    origin: ChunkOrigin,
    policy_hz: f64,
    steps: Arc<[ChunkStep]>,
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
}

impl ActionChunk {
    /// A chunk of steps to be executed at `policy_hz`.
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
        if steps.is_empty() {
            return Err(ChunkError::Empty);
        }
        if HORIZON_MAX < steps.len() {
            return Err(ChunkError::TooLong { steps: steps.len() });
        }
        if !(policy_hz.is_finite() && 0.0 < policy_hz && policy_hz <= 1000.0) {
            return Err(ChunkError::Rate(policy_hz));
        }
        Ok(Self { origin, policy_hz, steps })
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

    /// The steps, at least one.
    #[must_use]
    pub fn steps(&self) -> &[ChunkStep] {
        &self.steps
    }
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
}
