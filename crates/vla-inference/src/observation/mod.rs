//! Observations: camera images, proprioceptive state and instruction of one decision, and the
//! preparation of images: decoding of messages and files to RGB, and the steps to what a model saw
//! in training, byte for byte as Pillow, TensorFlow, OpenCV and torch do them.

mod area;
mod bayer;
mod camera;
mod columns;
mod crop;
mod file;
mod format_field;
mod found;
mod image_error;
mod instruction;
mod interleave;
mod jpeg;
mod jpeg_file;
mod lanczos;
mod pad;
mod png_file;
mod preparation;
mod preparer;
mod resize;
mod rotate;
mod torch_bilinear;
mod yuv;

use std::sync::Arc;

use bytes::Bytes;
pub use camera::{EncodedImage, Encoding};
pub use file::{MAX_COMPRESSED_BYTES, decode, open, open_with_remark, remark};
pub use image_error::{ImageError, Place};
pub use instruction::{Instruction, InstructionError, InstructionRemark, MAX_INSTRUCTION_BYTES};
pub use preparation::{MAX_STEPS, Operation, Preparation, PreparationError, Size, Step};
pub use preparer::Preparer;
pub use resize::{Filter, Resizer};
pub use torch_bilinear::Layout;

/// Largest width or height that is accepted, pixels.
pub const MAX_SIDE: usize = 8192;

/// Name of the only camera of a policy with one camera whose checkpoint names none.
pub const SINGLE_CAMERA: &str = "image";

/// An image of a named camera.
#[derive(Clone, Debug)]
pub struct CameraFrame {
    /// Name by which the policy knows the camera.
    pub camera: Arc<str>,
    /// The image.
    pub image: RgbImage,
}

/// Progress of the previous chunk, which real-time chunking continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Playback {
    /// Steps begun between the previous chunk's observation and this one; `None` when no previous
    /// chunk is being executed.
    pub executed: Option<usize>,
    /// Steps expected to begin between this observation and the end of its inference.
    pub delay: usize,
}

/// Everything that a policy decides from.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Instruction for the robot.
    pub instruction: Instruction,
    /// One image of each camera of the policy, in any order.
    pub images: Vec<CameraFrame>,
    /// Proprioceptive state in raw units, in the policy's order; empty for a policy without state.
    pub state: Vec<f64>,
    /// Progress of the previous chunk.
    pub playback: Playback,
}

impl Observation {
    /// An image of the only camera and an instruction.
    #[must_use]
    pub fn single(image: &RgbImage, instruction: &Instruction) -> Self {
        let images = vec![CameraFrame { camera: SINGLE_CAMERA.into(), image: image.clone() }];
        let (instruction, playback) = (instruction.clone(), Playback::default());
        Self { instruction, images, state: Vec::new(), playback }
    }

    /// The same image for every camera, and a state of zeros: for measurements of time.
    #[must_use]
    pub fn uniform(
        image: &RgbImage,
        instruction: &Instruction,
        cameras: &[Arc<str>],
        state_dim: usize,
    ) -> Self {
        let frame =
            |camera: &Arc<str>| CameraFrame { camera: Arc::clone(camera), image: image.clone() };
        Self {
            instruction: instruction.clone(),
            images: cameras.iter().map(frame).collect(),
            state: vec![0.0; state_dim],
            playback: Playback::default(),
        }
    }

    /// The image of a camera.
    ///
    /// # Errors
    /// When the observation has none.
    pub fn image(&self, camera: &str) -> Result<&RgbImage, ObservationError> {
        let frame = self.images.iter().find(|frame| *frame.camera == *camera);
        frame.map(|frame| &frame.image).ok_or_else(|| ObservationError::Camera {
            wanted: camera.to_owned(),
            given: self.images.iter().map(|frame| frame.camera.to_string()).collect(),
        })
    }

    /// The state, if it has the wanted number of finite values.
    ///
    /// # Errors
    /// When it has another number of values, or one of them is not finite.
    pub fn state(&self, wanted: usize) -> Result<&[f64], ObservationError> {
        if self.state.len() != wanted {
            return Err(ObservationError::StateLength { wanted, given: self.state.len() });
        }
        match self.state.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(ObservationError::State { index, value: self.state[index] }),
            None => Ok(&self.state),
        }
    }
}

/// Names of images in words.
fn listed(given: &[String]) -> String {
    match given {
        [] => "none".to_owned(),
        [name] if name.is_empty() => "only one without a name".to_owned(),
        names => format!("only '{}'", names.join("', '")),
    }
}

/// An observation that does not fit the policy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ObservationError {
    /// No image of a camera of the policy.
    #[error(
        "the policy needs an image of camera '{wanted}' but the observation has {}; name the \
        camera",
        listed(.given)
    )]
    Camera {
        /// Name of the camera.
        wanted: String,
        /// Names of the images given.
        given: Vec<String>,
    },
    /// Another number of values than the policy's state has.
    #[error(
        "the policy's state has {wanted} values but the observation {given}; give all of them in \
        the policy's order (`openvla inspect` shows it)"
    )]
    StateLength {
        /// Values of the policy's state.
        wanted: usize,
        /// Values given.
        given: usize,
    },
    /// A value that is not finite.
    #[error("value {index} of the state is {value}; the policy cannot decide from it")]
    State {
        /// Index in the policy's order.
        index: usize,
        /// The value.
        value: f64,
    },
}

/// An RGB image, 8 bits per channel, rows top to bottom without gaps. A clone shares the pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Bytes,
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} x {})", self.width, self.height)
    }
}

impl RgbImage {
    /// An image over `width * height * 3` bytes.
    ///
    /// # Errors
    /// When a side is out of bounds or the bytes do not fill the image.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self, ImageError> {
        Self::shared(width, height, pixels.into())
    }

    /// An image over bytes that belong to something larger, such as a message.
    ///
    /// # Errors
    /// As [`RgbImage::new`].
    pub fn shared(width: usize, height: usize, pixels: Bytes) -> Result<Self, ImageError> {
        check_side(width, height)?;
        if pixels.len() != width * height * 3 {
            let needed = width * height * 3;
            return Err(ImageError::Bytes { bytes: pixels.len(), height, step: width * 3, needed });
        }
        Ok(Self { width, height, pixels })
    }

    /// Pixels from left to right.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels from top to bottom.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// `height * width * 3` bytes, RGB.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

fn check_side(width: usize, height: usize) -> Result<(), ImageError> {
    let fits = |side: usize| (1..=MAX_SIDE).contains(&side);
    if fits(width) && fits(height) { Ok(()) } else { Err(ImageError::Side { width, height }) }
}
