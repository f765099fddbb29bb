//! Image preparation: decodes image messages and files to RGB and brings them to what a model saw
//! in training, byte for byte as Pillow, TensorFlow, OpenCV and torch do.

mod area;
mod camera;
mod columns;
mod crop;
mod file;
mod jpeg;
mod lanczos;
mod pad;
mod preparation;
mod preparer;
mod resize;
mod rotate;
mod torch_bilinear;

use bytes::Bytes;
pub use camera::{EncodedImage, Encoding};
pub use file::{MAX_COMPRESSED_BYTES, decode, open};
pub use preparation::{MAX_STEPS, Operation, Preparation, PreparationError, Size, Step};
pub use preparer::Preparer;
pub use resize::{Filter, Resizer};
pub use torch_bilinear::Layout;

/// Largest width or height that is accepted, pixels.
pub const MAX_SIDE: usize = 8192;

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// An encoding of `sensor_msgs/image_encodings.hpp` that is not handled.
    #[error("image encoding '{0}' is not supported; publish rgb8, bgr8, rgba8, bgra8 or mono8")]
    Encoding(String),
    /// No pixels, or more than [`MAX_SIDE`] in a direction.
    #[error(
        "image of {width} x {height} pixels; between 1 and {MAX_SIDE} in each direction are \
        accepted"
    )]
    Side {
        /// Pixels from left to right.
        width: usize,
        /// Pixels from top to bottom.
        height: usize,
    },
    /// Rows that are shorter than their pixels.
    #[error(
        "image rows have step {step} but {width} pixels of {encoding} take {needed} bytes; check \
        the driver"
    )]
    Step {
        /// Bytes between rows, as sent.
        step: usize,
        /// Pixels of a row.
        width: usize,
        /// Encoding, as sent.
        encoding: &'static str,
        /// Bytes a row needs.
        needed: usize,
    },
    /// Fewer or more bytes than the rows take.
    #[error(
        "image data has {bytes} bytes but {height} rows of step {step} take {needed}; check the \
        driver"
    )]
    Bytes {
        /// Bytes sent.
        bytes: usize,
        /// Rows.
        height: usize,
        /// Bytes between rows.
        step: usize,
        /// Bytes the rows take.
        needed: usize,
    },
    /// A compressed image that does not decode.
    #[error("{format} image of {bytes} bytes does not decode: {reason}")]
    Compressed {
        /// Format as recognised.
        format: &'static str,
        /// Bytes given.
        bytes: usize,
        /// The decoder's message.
        reason: String,
    },
    /// A compressed image that is neither JPEG nor PNG.
    #[error("compressed image of {0} bytes is neither JPEG nor PNG; publish one of these")]
    Format(usize),
    /// More compressed bytes than any sensible camera sends.
    #[error("compressed image of {0} bytes; at most {MAX_COMPRESSED_BYTES} are accepted")]
    TooLarge(usize),
    /// `INTER_AREA` to a larger size.
    #[error(
        "image of {from} pixels is smaller than {to}: the step 'area' only reduces; publish \
        larger images"
    )]
    Enlarge {
        /// Size of the image.
        from: Size,
        /// Size it is to be reduced to.
        to: Size,
    },
    /// Nothing would be left of a side after resizing with margins.
    #[error("image of {from} pixels is too narrow: resized into {to}, a side has no pixel left")]
    TooNarrow {
        /// Size of the image.
        from: Size,
        /// Size with margins.
        to: Size,
    },
    /// Bytes were asked for where there are only floats.
    #[error(
        "the step 'torch_bilinear_pad' gives floating-point pixels; this model takes 8-bit pixels"
    )]
    FloatPixels,
    /// A file that cannot be read.
    #[error("{path}: cannot read the image: {reason}")]
    File {
        /// Path as given.
        path: String,
        /// The operating system's message.
        reason: String,
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
