//! The times of the Euler steps and their embedding.

use crate::backend::BackendError;
use crate::tensor::HostTensor;

/// Sine and cosine of the time at periods in geometric progression.
#[derive(Clone, Debug)]
pub(super) struct TimeEmbedding {
    /// `2 pi / period`, half as many as the width.
    frequencies: Vec<f64>,
}

impl TimeEmbedding {
    pub(super) fn new(width: usize, min_period: f64, max_period: f64) -> Self {
        let half = width / 2;
        let period = |at: usize| {
            min_period * (max_period / min_period).powf(at as f64 / (half - 1).max(1) as f64)
        };
        let frequency = |at| 1.0 / period(at) * 2.0 * std::f64::consts::PI;
        Self { frequencies: (0..half).map(frequency).collect() }
    }

    /// `[sin | cos]`, `[times, width]`. The shortest period is 0.004: an angle takes float64, and a
    /// time rounded to bf16 would be wrong by 2.5 rad.
    pub(super) fn of(&self, times: &[f32]) -> Result<HostTensor, BackendError> {
        let mut values = Vec::with_capacity(times.len() * 2 * self.frequencies.len());
        for &time in times {
            let angles = || self.frequencies.iter().map(|f| f * f64::from(time));
            values.extend(angles().map(|angle| angle.sin() as f32));
            values.extend(angles().map(|angle| angle.cos() as f32));
        }
        Ok(HostTensor::from_f32(&[times.len(), 2 * self.frequencies.len()], values)?)
    }
}

/// Whose times the Euler steps have; they differ in the last bits, which moves x by 1e-5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSteps {
    /// LeRobot: `1 - k / steps` in float64, rounded to float32.
    Rounded,
    /// openpi (`sample_actions` of `pi0_pytorch.py`): `-1 / steps` is added up in float32.
    Accumulated,
}

/// Times of `steps` Euler steps from 1 towards 0.
#[must_use]
pub fn times(steps: usize, form: TimeSteps) -> Vec<f32> {
    let dt = -1.0 / steps as f64;
    match form {
        TimeSteps::Rounded => (0..steps).map(|step| (1.0 + step as f64 * dt) as f32).collect(),
        TimeSteps::Accumulated => {
            std::iter::successors(Some(1.0), |time| Some(time + dt as f32)).take(steps).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What numpy's float32 gives for both loops.
    #[test]
    #[allow(clippy::excessive_precision)]
    fn openpi_adds_up_and_lerobot_rounds() {
        let openpi = [
            1.0,
            0.899_999_976,
            0.799_999_952,
            0.699_999_928,
            0.599_999_905,
            0.499_999_911,
            0.399_999_917,
            0.299_999_923,
            0.199_999_928,
            0.099_999_927,
        ];
        assert_eq!(times(10, TimeSteps::Accumulated), openpi);
        let lerobot = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1];
        assert_eq!(times(10, TimeSteps::Rounded), lerobot);
        assert_eq!(times(1, TimeSteps::Accumulated), [1.0]);
    }
}
