//! Chunks from captured traces: one for the prefix, one for each Euler step.
//!
//! The noisy actions stay on the device in float32; each step's trace reads them, leaves its
//! velocity and adds it. A chunk is a few writes, `1 + steps` executions and one read. Where the
//! host corrects velocities (real-time chunking), it writes the actions and reads the velocity at
//! every step, with the same traces.
//!
//! Traces hold for a number of cameras and of rows: positions are padded to whole tiles, and how
//! many of them are in use is renewed with the inputs, also for a prompt some tiles shorter. The
//! first chunk of a shape runs eagerly, which compiles every program; its traces are captured
//! afterwards.

use super::{Pi0, Prefix, Schedule};
use crate::backend::{Backend, BackendError, TraceBackend};
use crate::models::{ModelError, NoProbe};
use crate::tensor::HostTensor;

/// Everything that a chunk is computed from, but noise.
#[derive(Clone, Copy, Debug)]
pub struct ChunkInput<'a> {
    /// Pixels of each camera that has an image, in the model's order: `[3, height, width]`, values
    /// from -1 to 1.
    pub images: &'a [&'a [f32]],
    /// Token ids of the prompt.
    pub ids: &'a [u32],
    /// Normalised state, padded to `max_state_dim`.
    pub state: &'a [f32],
}

/// Computes chunks with traces. A trait object of it keeps the trace types of a backend out of the
/// policy's type.
///
/// A chunk is [`TracedChunk::begin`], then either [`TracedChunk::integrate`] or
/// [`TracedChunk::velocity`] for each step, then [`TracedChunk::finish`]. An error drops the
/// traces; the next chunk captures new ones.
pub trait TracedChunk<B: Backend>: Send + Sync {
    /// Whether the traces that are held serve a chunk of this shape.
    ///
    /// # Errors
    /// When an image has another size than the model's.
    fn serves(
        &self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        input: &ChunkInput<'_>,
    ) -> Result<bool, ModelError>;
    /// Computes the prefix. Returns whether traces are executed for this chunk; otherwise it runs
    /// eagerly.
    ///
    /// # Errors
    /// As [`Pi0::prefix`].
    fn begin(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        input: &ChunkInput<'_>,
    ) -> Result<bool, ModelError>;
    /// The actions `[chunk, action_dim]` after all Euler steps from `noise`.
    ///
    /// # Errors
    /// When nothing was begun or the device fails.
    fn integrate(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        noise: &HostTensor,
    ) -> Result<HostTensor, BackendError>;
    /// [`Pi0::velocity`]. Frozen rows are computed eagerly.
    ///
    /// # Errors
    /// As [`Pi0::velocity`], and when nothing was begun.
    fn velocity(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        x: &HostTensor,
        step_and_frozen: (usize, usize),
    ) -> Result<HostTensor, BackendError>;
    /// Captures traces after the first chunk of a shape.
    ///
    /// # Errors
    /// When the device fails.
    fn finish(&mut self, backend: &B, network: (&Pi0<B>, &Schedule<B>))
    -> Result<(), BackendError>;
}

/// The traces of the last shape, captured on demand.
pub struct TracedChunks<B: TraceBackend> {
    held: Option<Held<B>>,
}

impl<B: TraceBackend> Default for TracedChunks<B> {
    fn default() -> Self {
        Self { held: None }
    }
}

/// What traces are captured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    cameras: usize,
    /// Rows of images and text, padding included.
    rows: usize,
    /// Rows of all images.
    patches: usize,
    /// Euler steps.
    steps: usize,
}

/// Rows by which a prompt may be shorter than the traces. pi0.5's prompt holds the state and
/// changes its length at every observation: it must not capture whenever it crosses a tile.
const SPARE_ROWS: usize = 64;

impl Shape {
    /// What a chunk needs.
    fn of<B: TraceBackend>(
        backend: &B,
        schedule: &Schedule<B>,
        patches: &[HostTensor],
        input: &ChunkInput<'_>,
    ) -> Self {
        let pixels = patches.iter().map(|image| image.shape().first().copied().unwrap_or(0));
        let pixels = pixels.sum::<usize>();
        Self {
            cameras: patches.len(),
            rows: backend.block_rows(pixels + input.ids.len()),
            patches: pixels,
            steps: schedule.times.len(),
        }
    }

    /// Whether traces of this shape serve another: unused rows are masked.
    fn serves(self, other: Self) -> bool {
        let rows = other.rows..=other.rows + SPARE_ROWS;
        self == Self { rows: self.rows, ..other } && rows.contains(&self.rows)
    }
}

/// Device state of chunks of one shape.
struct Held<B: TraceBackend> {
    shape: Shape,
    /// Patches of each camera.
    images: Vec<B::Tensor>,
    text: B::Tensor,
    /// The prompt in `text`.
    fed: Vec<u32>,
    state: Option<B::Tensor>,
    prefix: Prefix<B>,
    /// The noisy actions, `[chunk, action_dim]`, float32.
    x: B::Tensor,
    /// Length of an Euler step in every element.
    dt: B::Tensor,
    /// Whether the programs of an Euler step are compiled.
    compiled: bool,
    traces: Option<Traces<B>>,
}

struct Traces<B: TraceBackend> {
    prefix: B::Trace,
    /// With the velocity that each step leaves.
    steps: Vec<(B::Trace, B::Tensor)>,
}

fn not_begun() -> BackendError {
    BackendError::Shape { operation: "traced chunk", detail: "no chunk was begun".into() }
}

/// Patches of each camera.
fn patches_of<B: Backend>(
    model: &Pi0<B>,
    input: &ChunkInput<'_>,
) -> Result<Vec<HostTensor>, BackendError> {
    input.images.iter().map(|pixels| model.patches(pixels)).collect()
}

impl<B: TraceBackend> TracedChunk<B> for TracedChunks<B> {
    fn serves(
        &self,
        backend: &B,
        (model, schedule): (&Pi0<B>, &Schedule<B>),
        input: &ChunkInput<'_>,
    ) -> Result<bool, ModelError> {
        let shape = Shape::of(backend, schedule, &patches_of(model, input)?, input);
        let held = self.held.as_ref().filter(|held| held.traces.is_some());
        Ok(held.is_some_and(|held| held.shape.serves(shape)))
    }

    fn begin(
        &mut self,
        backend: &B,
        (model, schedule): (&Pi0<B>, &Schedule<B>),
        input: &ChunkInput<'_>,
    ) -> Result<bool, ModelError> {
        let patches = patches_of(model, input)?;
        let shape = Shape::of(backend, schedule, &patches, input);
        let mut held = match self.held.take().filter(|held| held.shape.serves(shape)) {
            Some(mut held) => {
                held.write(backend, model, (&patches, input))?;
                held
            }
            // Only after the previous traces were released: memory allocated while a trace exists
            // may be overwritten by it.
            None => Held::new(backend, model, shape, (&patches, input))?,
        };
        let executed = match &held.traces {
            Some(traces) => {
                backend.execute_trace(&traces.prefix)?;
                true
            }
            None => {
                held.fill(backend, model)?;
                false
            }
        };
        self.held = Some(held);
        Ok(executed)
    }

    fn integrate(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        noise: &HostTensor,
    ) -> Result<HostTensor, BackendError> {
        let mut held = self.held.take().ok_or_else(not_begun)?;
        backend.write_matrix(&mut held.x, noise)?;
        for step in 0..held.shape.steps {
            held.run(backend, network, step)?;
        }
        let x = backend.download(&held.x)?;
        self.held = Some(held);
        Ok(x)
    }

    fn velocity(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        x: &HostTensor,
        (step, frozen): (usize, usize),
    ) -> Result<HostTensor, BackendError> {
        let mut held = self.held.take().ok_or_else(not_begun)?;
        let v = if frozen > 0 {
            let (model, schedule) = network;
            let place = (schedule, step, frozen);
            model.velocity(backend, &mut held.prefix, x, place, &mut NoProbe)?
        } else {
            backend.write_matrix(&mut held.x, x)?;
            match held.run(backend, network, step)? {
                Some(v) => backend.download(&v)?,
                None => {
                    let steps = held.traces.as_ref().map_or(&[][..], |traces| &traces.steps);
                    let (_, v) = steps.get(step).ok_or_else(not_begun)?;
                    backend.download(v)?
                }
            }
        };
        self.held = Some(held);
        Ok(v)
    }

    fn finish(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
    ) -> Result<(), BackendError> {
        let mut held = self.held.take().ok_or_else(not_begun)?;
        if held.traces.is_none() {
            held.traces = Some(held.capture(backend, network)?);
        }
        self.held = Some(held);
        Ok(())
    }
}

impl<B: TraceBackend> Held<B> {
    fn new(
        backend: &B,
        model: &Pi0<B>,
        shape: Shape,
        (patches, input): (&[HostTensor], &ChunkInput<'_>),
    ) -> Result<Self, BackendError> {
        let (rows, columns) = (model.config.chunk_size, model.config.max_action_dim);
        let dt = (-1.0 / shape.steps as f64) as f32;
        let whole = |value: f32| {
            let values = HostTensor::from_f32(&[rows, columns], vec![value; rows * columns])?;
            backend.upload_block_f32(&values)
        };
        let state = model.state_row(input.state)?;
        Ok(Self {
            images: patches.iter().map(|image| backend.upload(image)).collect::<Result<_, _>>()?,
            text: backend.upload(&model.text(input.ids, shape.rows - shape.patches)?)?,
            fed: input.ids.to_vec(),
            state: state.map(|row| backend.upload_block(&row)).transpose()?,
            prefix: model.empty_prefix(backend, shape.patches + input.ids.len())?,
            x: whole(0.0)?,
            dt: whole(dt)?,
            compiled: false,
            traces: None,
            shape,
        })
    }

    /// Overwrites the inputs in place, and the number of positions where it changed.
    fn write(
        &mut self,
        backend: &B,
        model: &Pi0<B>,
        (patches, input): (&[HostTensor], &ChunkInput<'_>),
    ) -> Result<(), BackendError> {
        let Shape { rows, patches: pixels, .. } = self.shape;
        for (place, image) in self.images.iter_mut().zip(patches) {
            backend.write_matrix(place, image)?;
        }
        if self.fed != input.ids {
            let values = model.text(input.ids, rows - pixels)?;
            let blocks = model.block_rows(pixels + input.ids.len());
            backend.write_matrix(&mut self.text, &values)?;
            if self.fed.len() != input.ids.len() {
                backend.set_block_rows(&mut self.prefix.cache, &blocks)?;
                self.prefix.prefix = blocks[0];
                self.prefix.position = blocks[..blocks.len() - 1].iter().sum();
            }
            self.fed = input.ids.to_vec();
        }
        match (&mut self.state, model.state_row(input.state)?) {
            (Some(place), Some(row)) => backend.write_matrix(place, &row),
            _ => Ok(()),
        }
    }

    /// The prefix, eagerly or under capture.
    fn fill(&mut self, backend: &B, model: &Pi0<B>) -> Result<(), BackendError> {
        let images = self.images.iter();
        let images = images.map(|image| model.embed_image(backend, "", image, &mut NoProbe));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let inputs = (images.as_slice(), &self.text, self.state.as_ref());
        model.fill(backend, &mut self.prefix, inputs, &mut NoProbe)
    }

    /// An Euler step, eagerly or under capture; returns its velocity.
    fn step(
        &mut self,
        backend: &B,
        (model, schedule): (&Pi0<B>, &Schedule<B>),
        step: usize,
    ) -> Result<B::Tensor, BackendError> {
        let place = (&mut self.prefix.cache, self.prefix.position);
        let at = (schedule, step, 0);
        let v = model.expert.velocity(backend, &self.x, place, at, &mut NoProbe)?;
        backend.add_scaled(&mut self.x, &v, &self.dt)?;
        Ok(v)
    }

    /// Executes a step's trace, or runs the step and returns its velocity.
    fn run(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
        step: usize,
    ) -> Result<Option<B::Tensor>, BackendError> {
        let Some(traces) = &self.traces else {
            self.compiled = true;
            return self.step(backend, network, step).map(Some);
        };
        let (trace, _) = traces.steps.get(step).ok_or_else(not_begun)?;
        backend.execute_trace(trace)?;
        Ok(None)
    }

    fn capture(
        &mut self,
        backend: &B,
        network: (&Pi0<B>, &Schedule<B>),
    ) -> Result<Traces<B>, BackendError> {
        if !self.compiled {
            self.step(backend, network, 0)?;
        }
        let prefix = backend.capture_trace(|| self.fill(backend, network.0))?;
        let mut steps = Vec::with_capacity(self.shape.steps);
        for step in 0..self.shape.steps {
            let mut place = None;
            let trace = backend.capture_trace(|| {
                place = Some(self.step(backend, network, step)?);
                Ok(())
            })?;
            steps.push((trace, place.ok_or_else(not_begun)?));
        }
        Ok(Traces { prefix, steps })
    }
}
