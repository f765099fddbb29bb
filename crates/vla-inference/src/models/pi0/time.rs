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

/// Times of `steps` Euler steps from 1 towards 0: `1 - k / steps`, computed in float64 and rounded
/// to float32 as LeRobot does; without the rounding x moves by 2e-6.
#[must_use]
pub fn times(steps: usize) -> Vec<f32> {
    let dt = -1.0 / steps as f64;
    (0..steps).map(|step| (1.0 + step as f64 * dt) as f32).collect()
}
