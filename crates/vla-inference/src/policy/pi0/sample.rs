//! Euler's method from noise to a chunk.

use super::rtc::Continuation;
use super::{Pi0Policy, Prepared};
use crate::backend::{Backend, BackendError, TraceBackend};
use crate::models::pi0::{ChunkInput, Pi0, Prefix, Schedule, TracedChunk, TracedChunks};
use crate::models::{ModelError, Probe};
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
/// stays in float32: a bf16 state would lose the small steps.
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
    observe: impl FnMut(EulerStep<'_>),
) -> Result<Vec<f32>, BackendError> {
    let frozen = continuation.frozen();
    let velocity =
        |x: &HostTensor, step| model.velocity(backend, prefix, x, (schedule, step, frozen), probe);
    euler(model, &schedule.times, noise, continuation, velocity, observe)
}

/// The steps on the host, with velocities from anywhere.
fn euler<B: Backend>(
    model: &Pi0<B>,
    times: &[f32],
    noise: Vec<f32>,
    continuation: &Continuation,
    mut velocity: impl FnMut(&HostTensor, usize) -> Result<HostTensor, BackendError>,
    mut observe: impl FnMut(EulerStep<'_>),
) -> Result<Vec<f32>, BackendError> {
    let shape = shape(model, &noise)?;
    let mut x = noise;
    let dt = (-1.0 / times.len() as f64) as f32;
    for (step, &time) in times.iter().enumerate() {
        continuation.freeze(&mut x, shape[1]);
        let v = velocity(&HostTensor::from_f32(&shape, x.clone())?, step)?.to_f32();
        let guided = continuation.guide(&x, &v, time);
        observe(EulerStep { step, x: &x, v: &v, guided: &guided });
        for (x, v) in x.iter_mut().zip(&guided) {
            *x += dt * v;
        }
        continuation.freeze(&mut x, shape[1]);
        finite(&x)?;
    }
    Ok(x)
}

/// Rows and columns of the noisy actions.
fn shape<B: Backend>(model: &Pi0<B>, noise: &[f32]) -> Result<[usize; 2], BackendError> {
    let (rows, columns) = (model.config().chunk_size, model.config().max_action_dim);
    if noise.len() == rows * columns {
        return Ok([rows, columns]);
    }
    let detail = format!("{} values of noise are not {rows} x {columns}", noise.len());
    Err(BackendError::Shape { operation: "sample", detail })
}

fn finite(x: &[f32]) -> Result<(), BackendError> {
    let finite = x.iter().all(|value| value.is_finite());
    if finite { Ok(()) } else { Err(BackendError::NotFinite { operation: "sample" }) }
}

/// Whether captured traces serve an observation.
pub(super) fn serves<B: Backend>(
    backend: &B,
    network: (&Pi0<B>, &Schedule<B>),
    traced: &dyn TracedChunk<B>,
    prepared: &Prepared,
) -> Result<bool, ModelError> {
    let images: Vec<&[f32]> = prepared.images.iter().map(|(_, pixels)| pixels.as_slice()).collect();
    let state = prepared.padded_state(network.0.config().max_state_dim);
    let input = ChunkInput { images: &images, ids: &prepared.input_ids, state: &state };
    backend.scope(|| traced.serves(backend, network, &input))
}

/// Samples with captured traces: the whole chunk on the device, or, where the host corrects
/// velocities, one step after the other. The flag says whether traces were executed.
pub(super) fn sample_traced<B: Backend>(
    backend: &B,
    (model, schedule): (&Pi0<B>, &Schedule<B>),
    traced: &mut dyn TracedChunk<B>,
    prepared: &Prepared,
    noise: Vec<f32>,
    continuation: &Continuation,
) -> Result<(Vec<f32>, bool), ModelError> {
    let shape = shape(model, &noise)?;
    let images: Vec<&[f32]> = prepared.images.iter().map(|(_, pixels)| pixels.as_slice()).collect();
    let state = prepared.padded_state(model.config().max_state_dim);
    let input = ChunkInput { images: &images, ids: &prepared.input_ids, state: &state };
    let network = (model, schedule);
    let executed = traced.begin(backend, network, &input)?;
    let chunk = match continuation {
        Continuation::None => {
            let noise = HostTensor::from_f32(&shape, noise).map_err(BackendError::from)?;
            let chunk = traced.integrate(backend, network, &noise)?.to_f32();
            finite(&chunk)?;
            chunk
        }
        _ => {
            let frozen = continuation.frozen();
            let velocity =
                |x: &HostTensor, step| traced.velocity(backend, network, x, (step, frozen));
            euler(model, &schedule.times, noise, continuation, velocity, |_| {})?
        }
    };
    traced.finish(backend, network)?;
    Ok((chunk, executed))
}

impl<B: TraceBackend + 'static> Pi0Policy<B> {
    /// Computes chunks with captured traces instead of eagerly.
    #[must_use]
    pub fn with_traces(self) -> Self {
        Self { traced: Some(Box::<TracedChunks<B>>::default()), ..self }
    }
}
