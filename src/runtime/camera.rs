//! An image on its way from the camera to the policy, not yet decoded.

use std::sync::Arc;

use vla_control::ImageSeen;
use vla_control::time::Instant;
use vla_inference::observation::EncodedImage;

/// An image as it came, with what must be remembered about its arrival.
#[derive(Debug, Clone)]
pub struct CameraImage {
    /// When it arrived and what its header says.
    pub seen: ImageSeen,
    /// `Output::steps_begun` of control when it arrived.
    pub steps_begun: u64,
    /// The image itself; nothing of it has been believed yet. Shared with [`Repetition`], which
    /// compares the next one with it.
    pub bytes: Arc<EncodedImage>,
}

/// Notices a picture that is sent again: the image before, and since when it has been the same.
///
/// Pictures that differ do so early, and the comparison ends there; equal ones cost a reading of
/// both.
#[derive(Debug, Default)]
pub(super) struct Repetition {
    before: Option<(Arc<EncodedImage>, Instant)>,
}

impl Repetition {
    /// Since when the picture has been the same that was received now.
    pub fn since(&mut self, received: Instant, bytes: &Arc<EncodedImage>) -> Instant {
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

    fn raw(width: u32, height: u32, encoding: &str, step: u32, data: &[u8]) -> EncodedImage {
        let data = data.to_vec().into();
        EncodedImage::Raw { width, height, encoding: encoding.into(), step, data }
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
            EncodedImage::Compressed(vec![7, 8].into()),
            EncodedImage::Compressed(vec![7].into()),
        ];
        let mut now = 0;
        let mut see = |bytes: EncodedImage| {
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
