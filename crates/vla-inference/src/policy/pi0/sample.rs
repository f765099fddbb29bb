//! Euler's method from noise to a chunk.

use super::rtc::Continuation;
use crate::backend::{Backend, BackendError};
use crate::models::Probe;
use crate::models::pi0::{Pi0, Prefix, Schedule};
use crate::tensor::HostTensor;

/// State of the integration at one step, for a golden comparison.
pub struct EulerStep<'a> {
    /// Number of the step, from 0.
    pub step: usize,
    /// The noisy actions before the step, `[chunk, columns]`.
    pub x: &'a [f32],
    /// The model's velocity.
    pub v: &'a [f32],
    /// The velocity that is used, drawn towards a previous chunk.
    pub guided: &'a [f32],
}

/// Integrates from `noise`, `[chunk, columns]`, at time 1 to the normalised actions at time 0. `x`
/// stays on the host in float32: a bf16 state would lose the small steps.
///
/// # Errors
/// When the device fails or a value is not finite.
pub fn sample<B: Backend>(
    backend: &B,
    model: &Pi0<B>,
    (prefix, schedule): (&mut Prefix<B>, &Schedule<B>),
    noise: Vec<f32>,
    continuation: &Continuation,
    probe: &mut impl Probe<B>,
    mut observe: impl FnMut(EulerStep<'_>),
) -> Result<Vec<f32>, BackendError> {
    let (rows, columns) = (model.config().chunk_size, model.config().max_action_dim);
    if noise.len() != rows * columns {
        let detail = format!("{} values of noise are not {rows} x {columns}", noise.len());
        return Err(BackendError::Shape { operation: "sample", detail });
    }
    let mut x = noise;
    let dt = (-1.0 / schedule.times.len() as f64) as f32;
    let frozen = continuation.frozen();
    for (step, &time) in schedule.times.iter().enumerate() {
        continuation.freeze(&mut x, columns);
        let actions = HostTensor::from_f32(&[rows, columns], x.clone())?;
        let place = (schedule, step, frozen);
        let v = model.velocity(backend, prefix, &actions, place, probe)?.to_f32();
        let guided = continuation.guide(&x, &v, time);
        observe(EulerStep { step, x: &x, v: &v, guided: &guided });
        for (x, v) in x.iter_mut().zip(&guided) {
            *x += dt * v;
        }
        continuation.freeze(&mut x, columns);
        if x.iter().any(|value| !value.is_finite()) {
            return Err(BackendError::NotFinite { operation: "sample" });
        }
    }
    Ok(x)
}
