//! A camera image that is not decoded yet.

use std::sync::Arc;

use vla_control::ImageSeen;
use vla_control::time::Instant;
use vla_inference::observation::{ImageError, RawImage, RgbImage, decode};

/// A received image and the circumstances of its arrival.
#[derive(Debug, Clone)]
pub struct CameraImage {
    /// Arrival times and header stamp.
    pub seen: ImageSeen,
    /// `Output::steps_begun` of control at its arrival.
    pub steps_begun: u64,
    /// The unchecked image data. Shared with [`RepeatDetector`], which compares the next image with
    /// it.
    pub bytes: Arc<CameraBytes>,
}

/// The body of an image message. Equality compares every byte.
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
    /// Decodes to RGB. Takes milliseconds for a large or compressed image: not to be called on the
    /// executor or control thread.
    ///
    /// # Errors
    /// Inconsistent or undecodable data.
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

/// Detects images that are byte for byte equal to the image before.
///
/// Different images usually differ early, where the comparison ends; equal ones are read whole.
#[derive(Debug, Default)]
pub(super) struct RepeatDetector {
    before: Option<(Arc<CameraBytes>, Instant)>,
}

impl RepeatDetector {
    /// Arrival time of the first image of the present run of equal images.
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
    fn equal_images_keep_their_first_arrival() {
        let mut repeats = RepeatDetector::default();
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
            (now, repeats.since(Instant::from_nanoseconds(now), &Arc::new(bytes)).nanoseconds())
        };
        for other in others {
            let (first, since) = see(picture());
            assert_eq!(since, first, "before {other:?}");
            assert_eq!(see(picture()).1, first);
            assert_eq!(see(picture()).1, first);
            // Any difference starts a new run, also a return to the earlier image.
            let (changed, since) = see(other.clone());
            assert_eq!(since, changed, "{other:?}");
            assert_eq!(see(other).1, changed);
        }
    }
}
