//! One decision of OpenVLA-OFT as one captured trace, from the images' bytes to the actions: there
//! is no decoding, so nothing returns to the host in between.
//!
//! The first decision for a shape runs eagerly, which compiles every program; its trace is captured
//! afterwards. Another prompt of the same length renews the ids and, with FiLM, the factors of
//! every block, which are computed eagerly and written in place.

use super::{OftAnswer, OftInput, OpenVlaOft, Placed, row, with_stop};
use crate::backend::{Backend, BackendError, TraceBackend};
use crate::models::vit::Conditioning;
use crate::models::{ModelError, NoProbe};

/// Answers with traces. A trait object of it keeps the trace types of a backend out of the policy's
/// type.
pub trait TracedAnswer<B: Backend>: Send + Sync {
    /// Whether the trace that is held serves a decision of this shape.
    ///
    /// # Errors
    /// As [`OpenVlaOft::answer`], for an input that no trace serves.
    fn serves(&self, model: &OpenVlaOft<B>, input: &OftInput<'_, B>) -> Result<bool, ModelError>;

    /// Answers one decision; the input's conditioning is not read. The flag says whether a trace
    /// was executed. An error drops the trace; the next decision captures a new one.
    ///
    /// # Errors
    /// As [`OpenVlaOft::answer`].
    fn answer(
        &mut self,
        backend: &B,
        model: &OpenVlaOft<B>,
        input: &OftInput<'_, B>,
    ) -> Result<(OftAnswer, bool), ModelError>;
}

/// The trace of the last shape, captured on demand.
pub struct TracedAnswers<B: TraceBackend> {
    held: Option<Held<B>>,
}

impl<B: TraceBackend> Default for TracedAnswers<B> {
    fn default() -> Self {
        Self { held: None }
    }
}

/// Device state of decisions of one shape.
struct Held<B: TraceBackend> {
    placed: Placed<B>,
    ids: B::TokenIds,
    /// Host copy of `ids`.
    fed: Vec<u32>,
    conditioning: Option<Conditioning<B>>,
    /// The trace and the tensor that it leaves the answer in.
    trace: Option<(B::Trace, B::Tensor)>,
}

impl<B: TraceBackend> TracedAnswer<B> for TracedAnswers<B> {
    fn serves(&self, model: &OpenVlaOft<B>, input: &OftInput<'_, B>) -> Result<bool, ModelError> {
        let shape = model.check(input)?;
        let held = self.held.as_ref().filter(|held| held.trace.is_some());
        Ok(held.is_some_and(|held| held.placed.shape == shape))
    }

    fn answer(
        &mut self,
        backend: &B,
        model: &OpenVlaOft<B>,
        input: &OftInput<'_, B>,
    ) -> Result<(OftAnswer, bool), ModelError> {
        let shape = model.check(input)?;
        let fed = with_stop(input.prompt);
        let known = self.held.take().filter(|held| held.placed.shape == shape);
        let mut held = match known {
            Some(mut held) => {
                held.write(backend, model, input, fed)?;
                held
            }
            // Only after the previous trace was released: memory allocated while a trace exists may
            // be overwritten by it.
            None => Held {
                placed: model.place(backend, input, shape)?,
                ids: backend.upload_ids(&fed)?,
                conditioning: model.condition(backend, input.prompt, &mut NoProbe)?,
                fed,
                trace: None,
            },
        };
        let executed = held.trace.is_some();
        let answer = held.run(backend, model)?;
        self.held = Some(held);
        Ok((answer, executed))
    }
}

/// Writes the factors of a prompt in place of another's, through the host: once per instruction.
fn overwrite<B: TraceBackend>(
    backend: &B,
    places: &mut Conditioning<B>,
    new: &Conditioning<B>,
) -> Result<(), BackendError> {
    let blocks = places.0.iter_mut().flatten().zip(new.0.iter().flatten());
    for (place, new) in blocks {
        backend.write_matrix(&mut place.factor, &backend.download(&new.factor)?)?;
        backend.write_matrix(&mut place.offset, &backend.download(&new.offset)?)?;
    }
    Ok(())
}

impl<B: TraceBackend> Held<B> {
    /// Overwrites the inputs in place.
    fn write(
        &mut self,
        backend: &B,
        model: &OpenVlaOft<B>,
        input: &OftInput<'_, B>,
        fed: Vec<u32>,
    ) -> Result<(), ModelError> {
        for (images, rgb) in self.placed.images.iter_mut().zip(input.images) {
            for image in images {
                backend.write_image(image, rgb)?;
            }
        }
        if let (Some(place), Some(state)) = (&mut self.placed.state, input.state) {
            backend.write_matrix(place, &row(state)?)?;
        }
        if self.fed != fed {
            backend.write_ids(&mut self.ids, &fed)?;
            if let Some(places) = &mut self.conditioning
                && let Some(new) = model.condition(backend, input.prompt, &mut NoProbe)?
            {
                overwrite(backend, places, &new)?;
            }
            self.fed = fed;
        }
        Ok(())
    }

    fn run(&mut self, backend: &B, model: &OpenVlaOft<B>) -> Result<OftAnswer, BackendError> {
        if let Some((trace, answer)) = &self.trace {
            backend.execute_trace(trace)?;
            return model.read(backend, answer);
        }
        let answer = self.pass(backend, model)?;
        let answer = model.read(backend, &answer)?;
        let mut place = None;
        let trace = backend.capture_trace(|| {
            place = Some(self.pass(backend, model)?);
            Ok(())
        })?;
        self.trace = place.map(|place| (trace, place));
        Ok(answer)
    }

    fn pass(&mut self, backend: &B, model: &OpenVlaOft<B>) -> Result<B::Tensor, BackendError> {
        let text = model.base.llama().embed_ids(backend, &self.ids)?;
        let film = self.conditioning.as_ref();
        model.compute(backend, &mut self.placed, (&text, film), &mut NoProbe, &mut |_| {})
    }
}
