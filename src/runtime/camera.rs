//! An image on its way from the camera to the policy, not yet decoded.

use crate::{
    control::ImageSeen,
    observation::{ImageError, RawImage, RgbImage, decode},
};

/// An image as it came, with what must be remembered about its arrival.
#[derive(Debug, Clone)]
pub struct CameraImage {
    /// When it arrived and what its header says.
    pub seen: ImageSeen,
    /// `Output::steps_begun` of control when it arrived.
    pub steps_begun: u64,
    /// The image itself; nothing of it has been believed yet.
    pub bytes: CameraBytes,
}

/// The body of an image message.
#[derive(Debug, Clone)]
pub enum CameraBytes {
    /// `sensor_msgs/Image`.
    Raw {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
        /// Encoding by name, as sent.
        encoding: String,
        /// Bytes from row to row.
        step: u32,
        /// Rows.
        data: Vec<u8>,
    },
    /// The data of `sensor_msgs/CompressedImage`: JPEG or PNG, recognised by its first bytes (the `format` field is often wrong).
    Compressed(Vec<u8>),
}

impl CameraBytes {
    /// The image as RGB. Takes milliseconds for a large or compressed image: neither for the spinning nor for the control thread.
    ///
    /// # Errors
    /// When the message contradicts itself, or does not decode.
    pub fn decode(&self) -> Result<RgbImage, ImageError> {
        match self {
            Self::Raw { width, height, encoding, step, data } => {
                RawImage { width: *width as usize, height: *height as usize, encoding, step: *step as usize, data }
                    .to_rgb()
            }
            Self::Compressed(data) => decode(data),
        }
    }
}
