//! What the worker makes an observation of: the newest image of each camera and the newest state.

use std::sync::Arc;
use std::time::Duration;

use super::{camera::CameraImage, shared_state::SharedState};
use vla_control::time::Instant;
use vla_inference::observation::{
    CameraFrame, ImageError, Instruction, Observation, Playback, RgbImage,
};

/// The policy's state at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct StateSample {
    /// Values in the policy's order and units.
    pub values: Vec<f64>,
    /// Positions of control's joints, in its order.
    pub joints: Vec<f64>,
    /// Measurement times of its sources.
    pub taken: Vec<Instant>,
}

/// The newest image of a camera, decoded when it was needed.
struct Newest {
    image: CameraImage,
    rgb: Option<RgbImage>,
}

/// Everything for one inference, images not decoded yet.
pub(super) struct Job {
    /// Instruction in force, with its generation.
    pub instruction: (u64, Arc<Instruction>),
    /// The image of the first camera, which triggers inferences.
    pub image: CameraImage,
    /// The state, for a policy or transform that needs one.
    pub state: Option<Arc<StateSample>>,
}

/// A camera and its image that does not decode.
pub(super) type Undecodable = (usize, ImageError);

/// Collects the sources of observations.
#[derive(Default)]
pub(super) struct Collector {
    /// Names of the cameras, by index.
    cameras: Vec<Arc<str>>,
    needs_state: bool,
    newest: Vec<Option<Newest>>,
}

impl Collector {
    /// For cameras of these names; the first one triggers inferences.
    pub fn new(cameras: Vec<Arc<str>>, needs_state: bool) -> Self {
        let newest = cameras.iter().map(|_| None).collect();
        Self { cameras, needs_state, newest }
    }

    /// The sources of an inference, when there is a new image of the first camera and everything
    /// else is there.
    pub fn take(&mut self, shared: &SharedState) -> Option<Job> {
        let instruction = shared.instruction()?;
        for (newest, mailbox) in self.newest.iter_mut().zip(&shared.images).skip(1) {
            if let Some(image) = mailbox.take() {
                *newest = Some(Newest { image: *image, rgb: None });
            }
        }
        if self.newest.iter().skip(1).any(Option::is_none) {
            return None;
        }
        let state = shared.state();
        if self.needs_state && state.is_none() {
            return None;
        }
        let image = *shared.images[0].take()?;
        if let Some(first) = self.newest.first_mut() {
            *first = Some(Newest { image: image.clone(), rgb: None });
        }
        Some(Job { instruction, image, state: state.filter(|_| self.needs_state) })
    }

    /// Forgets all images.
    pub fn clear(&mut self) {
        self.newest.iter_mut().for_each(|newest| *newest = None);
    }

    /// Decodes the images, each once.
    ///
    /// # Errors
    /// The first camera whose image does not decode.
    pub fn observation(
        &mut self,
        job: &Job,
        playback: Playback,
        mut decoded: impl FnMut(usize),
    ) -> Result<Observation, Undecodable> {
        let mut images = Vec::with_capacity(self.cameras.len());
        for (index, (camera, newest)) in self.cameras.iter().zip(&mut self.newest).enumerate() {
            let Some(newest) = newest else { continue }; // `take` has seen all
            let rgb = match newest.rgb.take() {
                Some(rgb) => rgb,
                None => newest.image.bytes.decode().map_err(|error| (index, error))?,
            };
            decoded(index);
            newest.rgb = Some(rgb.clone());
            images.push(CameraFrame { camera: Arc::clone(camera), image: rgb });
        }
        let (_, instruction) = &job.instruction;
        Ok(Observation {
            instruction: instruction.as_ref().clone(),
            images,
            state: job.state.as_ref().map(|state| state.values.clone()).unwrap_or_default(),
            playback,
        })
    }

    /// Capture time of the oldest source, and the time from it to that of the newest one.
    pub fn taken(&self, job: &Job) -> (Instant, Duration) {
        let images = self.newest.iter().flatten().map(|newest| newest.image.seen.taken());
        let states = job.state.iter().flat_map(|state| state.taken.iter().copied());
        let mut range = (job.image.seen.taken(), job.image.seen.taken());
        for taken in images.chain(states) {
            range = (range.0.min(taken), range.1.max(taken));
        }
        (range.0, range.1.since(range.0).get())
    }
}
