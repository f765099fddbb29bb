//! An image on its way from the camera to the policy, not yet decoded.

use std::sync::Arc;

use vla_control::ImageSeen;
use vla_control::time::Instant;
use vla_inference::observation::{ImageError, RawImage, RgbImage, decode};

/// An image as it came, with what must be remembered about its arrival.
#[derive(Debug, Clone)]
pub struct CameraImage {
    /// When it arrived and what its header says.
    pub seen: ImageSeen,
    /// `Output::steps_begun` of control when it arrived.
    pub steps_begun: u64,
    /// The image itself; nothing of it has been believed yet. Shared with [`Repetition`], which
    /// compares the next one with it.
    pub bytes: Arc<CameraBytes>,
}

/// The body of an image message. Two are equal when all of their bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The data of `sensor_msgs/CompressedImage`: JPEG or PNG, recognised by its first bytes (the
    /// `format` field is often wrong).
    Compressed(Vec<u8>),
}

impl CameraBytes {
    /// The image as RGB. Takes milliseconds for a large or compressed image: neither for the
    /// spinning nor for the control thread.
    ///
    /// # Errors
    /// When the message contradicts itself, or does not decode.
    pub fn decode(&self) -> Result<RgbImage, ImageError> {
        match self {
            Self::Raw { width, height, encoding, step, data } => RawImage {
                width: *width as usize,
                height: *height as usize,
                encoding,
                step: *step as usize,
                data,
            }
            .to_rgb(),
            Self::Compressed(data) => decode(data),
        }
    }
}

/// Notices a picture that is sent again: the image before, and since when it has been the same.
///
/// Pictures that differ do so early, and the comparison ends there; equal ones cost a reading of
/// both.
#[derive(Debug, Default)]
pub(super) struct Repetition {
    before: Option<(Arc<CameraBytes>, Instant)>,
}

impl Repetition {
    /// Since when the picture has been the same that was received now.
    pub fn since(&mut self, received: Instant, bytes: &Arc<CameraBytes>) -> Instant {
        let since = match &self.before {
            Some((before, since)) if before == bytes => *since,
            _ => received,
        };
        self.before = Some((Arc::clone(bytes), since));
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(width: u32, height: u32, encoding: &str, step: u32, data: &[u8]) -> CameraBytes {
        CameraBytes::Raw { width, height, encoding: encoding.into(), step, data: data.to_vec() }
    }

    #[test]
    fn a_run_of_equal_pictures_is_told_by_its_first_arrival() {
        let mut repetition = Repetition::default();
        let picture = || raw(2, 1, "mono8", 2, &[7, 8]);
        let others = [
            raw(1, 2, "mono8", 2, &[7, 8]),
            raw(2, 2, "mono8", 2, &[7, 8]),
            raw(2, 1, "8UC1", 2, &[7, 8]),
            raw(2, 1, "mono8", 3, &[7, 8]),
            raw(2, 1, "mono8", 2, &[7, 9]),
            raw(2, 1, "mono8", 2, &[7, 8, 8]),
            CameraBytes::Compressed(vec![7, 8]),
            CameraBytes::Compressed(vec![7]),
        ];
        let mut now = 0;
        let mut see = |bytes: CameraBytes| {
            now += 1;
            (now, repetition.since(Instant::from_nanoseconds(now), &Arc::new(bytes)).nanoseconds())
        };
        for other in others {
            let (first, since) = see(picture());
            assert_eq!(since, first, "before {other:?}");
            assert_eq!(see(picture()).1, first);
            assert_eq!(see(picture()).1, first);
            // What differs in anything at all begins anew, and so does the picture of before when
            // it comes back.
            let (changed, since) = see(other.clone());
            assert_eq!(since, changed, "{other:?}");
            assert_eq!(see(other).1, changed);
        }
    }
}
