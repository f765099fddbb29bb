//! Watchdog for a frozen camera: image bytes that stay equal, with new stamps, while the tool is
//! driven (`IMAGE_UNCHANGED`).
//!
//! At rest equal images are normal: a simulator has no noise, and a video decoder repeats a static
//! scene byte for byte. After motion of the tool the image must differ. Hence the commanded path is
//! integrated while the image stays equal, and compared with the limit at each further arrival of
//! the same image. Without a new arrival there is no evidence; the watchdog for the image age
//! covers that case.

use super::{
    config::RawUnchangedImage,
    inputs::ImageSeen,
    outputs::Twist,
    reason::{Cause, Reason},
    vector::norm,
};
use crate::time::Instant;

/// Lengths of the commanded path.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct PathLength {
    /// Metres.
    distance: f64,
    /// Radians.
    angle: f64,
}

impl PathLength {
    /// Extended by `twist` during `seconds`.
    fn plus(self, twist: &Twist, seconds: f64) -> Self {
        Self {
            distance: self.distance + norm(twist.linear) * seconds,
            angle: self.angle + norm(twist.angular) * seconds,
        }
    }
}

/// The current run of equal images.
#[derive(Debug, Clone, Copy)]
struct EqualImages {
    /// First arrival.
    since: Instant,
    /// Last arrival.
    received: Instant,
    /// Path since the first arrival.
    path: PathLength,
    /// Path from the first to the last arrival.
    path_when_received: PathLength,
}

/// State between steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UnchangedImageMonitor {
    images: Option<EqualImages>,
}

impl UnchangedImageMonitor {
    /// Takes the newest image, and the twist in force from `before`, the previous step, to `now`.
    pub(super) fn update(
        &mut self,
        before: Instant,
        now: Instant,
        twist: &Twist,
        image: Option<&ImageSeen>,
    ) {
        let Some(image) = image else {
            self.images = None;
            return;
        };
        let known = self.images.filter(|images| images.since == image.unchanged_since);
        let path = known.map_or(PathLength::default(), |images| images.path);
        // The first image of a new run may have arrived before the previous step, which did not
        // have it yet.
        let begin = known.map_or(image.unchanged_since, |_| before);
        let until = |end: Instant| path.plus(twist, end.min(now).since(begin).seconds());
        let path_when_received = match known {
            Some(images) if image.received <= images.received => images.path_when_received,
            _ => until(image.received),
        };
        self.images = Some(EqualImages {
            since: image.unchanged_since,
            received: image.received,
            path: until(now),
            path_when_received,
        });
    }

    /// Restarts the integration.
    pub(super) fn reset_motion(&mut self) {
        if let Some(images) = &mut self.images {
            (images.path, images.path_when_received) = Default::default();
        }
    }

    /// The cause while the path up to the last arrival exceeds a limit.
    pub(super) fn check(&self, limit: &RawUnchangedImage) -> Option<Cause> {
        let PathLength { distance, angle } = self.images?.path_when_received;
        let cause =
            |value, limit, unit| Some(Cause::measured(Reason::ImageUnchanged, value, limit, unit));
        if limit.distance < distance {
            cause(distance, limit.distance, "m")
        } else if limit.angle < angle {
            cause(angle, limit.angle, "rad")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Stamp;

    const LIMIT: RawUnchangedImage = RawUnchangedImage { distance: 0.5, angle: 4.0 };
    const S: u64 = 1_000_000_000;

    /// Twists and images at whole seconds, so that every value is exact.
    struct Run {
        watchdog: UnchangedImageMonitor,
        now: u64,
        twist: Twist,
    }

    impl Run {
        fn driving(speed: f64, turning: f64) -> Self {
            let twist = Twist { linear: [0.0, -speed, 0.0], angular: [turning, 0.0, 0.0] };
            Self { watchdog: UnchangedImageMonitor::default(), now: 10 * S, twist }
        }

        /// A step after `after` ns; arrival and `unchanged_since` of the newest image.
        fn step(&mut self, after: u64, received: u64, since: u64) -> Option<Cause> {
            let (before, now) = (Instant::from_nanoseconds(self.now), self.now + after);
            self.now = now;
            let image = ImageSeen {
                received: Instant::from_nanoseconds(received),
                stamp: Stamp::default(),
                ros_received: Stamp::default(),
                unchanged_since: Instant::from_nanoseconds(since),
            };
            self.watchdog.update(before, Instant::from_nanoseconds(now), &self.twist, Some(&image));
            self.watchdog.check(&LIMIT)
        }
    }

    fn parts(cause: Option<Cause>) -> Option<(Reason, f64, f64, &'static str)> {
        cause.map(|cause| (cause.reason, cause.value, cause.limit, cause.unit))
    }

    #[test]
    fn more_than_the_limit_fires() {
        let mut run = Run::driving(0.125, 0.0);
        assert_eq!(run.step(0, 10 * S, 10 * S), None);
        for second in 11..=14 {
            assert_eq!(run.step(S, second * S, 10 * S), None, "{second}");
        }
        assert_eq!(
            parts(run.step(S, 15 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 0.625, 0.5, "m"))
        );
        let mut run = Run::driving(0.0, 2.0);
        assert_eq!(run.step(0, 10 * S, 10 * S), None);
        assert_eq!(run.step(2 * S, 12 * S, 10 * S), None);
        assert_eq!(
            parts(run.step(S, 13 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 6.0, 4.0, "rad"))
        );
    }

    #[test]
    fn only_motion_before_an_arrival_counts() {
        let mut run = Run::driving(0.25, 0.0);
        assert_eq!(run.step(0, 10 * S, 10 * S), None);
        // Two metres without another image are no evidence.
        for _ in 0..8 {
            assert_eq!(run.step(S, 10 * S, 10 * S), None);
        }
        // One that arrived between two steps: 8.5 s at 0.25 m/s.
        assert_eq!(
            parts(run.step(S, 18 * S + S / 2, 10 * S)),
            Some((Reason::ImageUnchanged, 2.125, 0.5, "m"))
        );
        // The value stays until the next arrival; an older arrival does not count.
        assert_eq!(
            parts(run.step(S, 18 * S + S / 2, 10 * S)),
            Some((Reason::ImageUnchanged, 2.125, 0.5, "m"))
        );
        assert_eq!(
            parts(run.step(0, 12 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 2.125, 0.5, "m"))
        );
        assert_eq!(
            parts(run.step(S, 21 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 2.75, 0.5, "m"))
        );
        // Another image: integrated from its own arrival on.
        assert_eq!(run.step(S, 21 * S + S / 2, 21 * S + S / 2), None);
        assert_eq!(run.step(S, 23 * S, 21 * S + S / 2), None);
        assert_eq!(
            parts(run.step(S, 24 * S, 21 * S + S / 2)),
            Some((Reason::ImageUnchanged, 0.625, 0.5, "m"))
        );
    }

    #[test]
    fn a_late_first_image_counts_from_its_arrival() {
        let mut run = Run::driving(0.25, 0.0);
        assert_eq!(run.step(S, 11 * S, 8 * S).map(|cause| cause.value), Some(0.75));
        // No image, or an arrival later than the step, which no clock gives.
        run.watchdog.update(Instant::START, Instant::from_nanoseconds(11 * S), &run.twist, None);
        assert_eq!(run.watchdog.check(&LIMIT), None);
        assert_eq!(run.step(3 * S, u64::MAX, 11 * S).map(|cause| cause.value), Some(0.75));
    }

    #[test]
    fn reset_motion_restarts_the_integration() {
        let mut run = Run::driving(0.25, 0.0);
        run.step(0, 10 * S, 10 * S);
        assert!(run.step(3 * S, 13 * S, 10 * S).is_some());
        run.watchdog.reset_motion();
        assert_eq!(run.watchdog.check(&LIMIT), None);
        assert_eq!(run.step(2 * S, 15 * S, 10 * S), None);
        assert_eq!(run.step(S, 16 * S, 10 * S).map(|cause| cause.value), Some(0.75));
    }
}
