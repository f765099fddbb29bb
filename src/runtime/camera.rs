//! A camera image that is not decoded yet.

use std::sync::Arc;

use vla_control::ImageSeen;
use vla_control::time::Instant;
use vla_inference::observation::EncodedImage;

/// A received image and the circumstances of its arrival.
#[derive(Debug, Clone)]
pub struct CameraImage {
    /// Arrival times and header stamp.
    pub seen: ImageSeen,
    /// The unchecked image data. Shared with [`RepeatDetector`], which compares the next image with
    /// it.
    pub bytes: Arc<EncodedImage>,
}

/// Detects images that are byte for byte equal to the image before.
///
/// Different images usually differ early, where the comparison ends; equal ones are read whole.
#[derive(Debug, Default)]
pub(super) struct RepeatDetector {
    before: Option<(Arc<EncodedImage>, Instant)>,
}

impl RepeatDetector {
    /// Arrival time of the first image of the present run of equal images.
    pub fn since(&mut self, received: Instant, bytes: &Arc<EncodedImage>) -> Instant {
        let since = match &self.before {
            Some((before, since)) if before == bytes => *since,
            _ => received,
        };
        self.before = Some((Arc::clone(bytes), since));
        since
    }

    /// The newest image.
    pub fn newest(&self) -> Option<Arc<EncodedImage>> {
        self.before.as_ref().map(|(bytes, _)| Arc::clone(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(width: u32, height: u32, encoding: &str, step: u32, data: &[u8]) -> EncodedImage {
        let data = data.to_vec().into();
        EncodedImage::Raw { width, height, encoding: encoding.into(), step, data }
    }

    fn compressed(format: &str, data: &[u8]) -> EncodedImage {
        EncodedImage::Compressed { format: format.into(), data: data.to_vec().into() }
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
            compressed("jpeg", &[7, 8]),
            compressed("png", &[7, 8]),
            compressed("jpeg", &[7]),
        ];
        let mut now = 0;
        let mut see = |bytes: EncodedImage| {
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
