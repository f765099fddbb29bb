//! What a policy hands to `control`: a list of steps, and where it came from.
//!
//! A chunk is a claim, not a command. Its numbers may be anything, NaN included: `control` checks
//! them and refuses what is not fit to move a robot.

use std::sync::Arc;

use crate::time::{Instant, Stamp};

/// The longest chunk accepted. pi0 uses 50 steps, OpenVLA-OFT 25 at most; the player's buffer is
/// allocated once for this many.
pub const HORIZON_MAX: usize = 256;

/// One step of a chunk: how far to go during one policy period.
///
/// Frame: the one named by the policy file. Values are physical (un-normalized) and unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ChunkStep {
    /// `[dx, dy, dz]` in metres.
    pub translation: [f64; 3],
    /// `[droll, dpitch, dyaw]`, or a rotation vector, as the policy file says; radians.
    pub rotation: [f64; 3],
    /// The gripper as the policy says it; the policy file says what it means. OpenVLA on Bridge: 1
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

/// Where a chunk came from. Each field is copied from the observation the policy was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkOrigin {
    /// Counts inferences; grows by at least one with each. An older generation never replaces a
    /// newer one.
    pub generation: u64,
    /// Which instruction was asked. The runtime raises it whenever the instruction changes; an
    /// answer to an earlier one is dropped.
    pub instruction_generation: u64,
    /// The source image's header stamp, in ROS time. Reported, never measured against.
    pub image_stamp: Stamp,
    /// When the source image was taken, on the steady clock: its arrival less its delay until then.
    pub image_taken: Instant,
    /// When inference began, on the steady clock.
    pub inference_started: Instant,
    /// `Output::steps_begun` of `control` when the source image was taken. A newer chunk continues
    /// where the older one got to since then.
    pub steps_begun_at_observation: u64,
}

/// A policy's answer to one observation.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionChunk {
    origin: ChunkOrigin,
    policy_hz: f64,
    steps: Arc<[ChunkStep]>,
}

/// Why a list of steps is not a chunk.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ChunkError {
    /// No step at all.
    #[error("the policy returned a chunk without a single step; check its action codec")]
    Empty,
    /// More steps than the player's buffer holds.
    #[error(
        "the policy returned {steps} steps, more than the {HORIZON_MAX} a chunk may have; shorten \
        the policy's horizon"
    )]
    TooLong {
        /// How many there were.
        steps: usize,
    },
    /// The rate is no rate.
    #[error("policy_hz is {0}, but must be above 0 and at most 1000 Hz; set it in the policy file")]
    Rate(f64),
}

impl ActionChunk {
    /// Makes a chunk of steps to be played at `policy_hz`.
    ///
    /// # Errors
    /// [`ChunkError`] when there is no step, there are more than [`HORIZON_MAX`], or the rate is not in `(0, 1000]` Hz.
    /// The steps' values are *not* checked here: that is `control`'s first act, and a NaN must be
    /// seen there to latch.
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

    /// Where it came from.
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
    fn a_chunk_has_one_to_many_steps_at_a_real_rate() {
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
    fn a_step_with_any_number_that_is_not_finite_is_not_finite() {
        assert!(ChunkStep::default().is_finite());
        for i in 0..7 {
            let mut a = [0.0; 7];
            a[i] = f64::NAN;
            assert!(!ChunkStep::from_array(a).is_finite(), "component {i}");
        }
    }
}
