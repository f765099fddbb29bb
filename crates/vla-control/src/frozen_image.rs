//! A camera that delivers one picture again and again, each time with a new stamp, while the tool
//! is driven.
//!
//! At rest equal pictures prove nothing: a simulator has no noise, and a video decoder repeats a
//! scene that stands still byte for byte. But a tool that was driven stands elsewhere, and a
//! picture of it differs. So what is commanded is added up while the picture stays the same, and
//! held against the limit when another image arrives that shows it unchanged. A camera that has not
//! sent another image yet says nothing either way; the image's age is the business of the watchdog
//! for that.

use super::{
    config::RawUnchangedImage,
    reason::{Cause, Reason},
    types::{ImageSeen, Twist},
    vector::norm,
};
use crate::time::Instant;

/// The lengths of the paths that were commanded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Travel {
    /// Metres.
    distance: f64,
    /// Radians.
    angle: f64,
}

impl Travel {
    /// And then that twist for so long.
    fn and(self, twist: &Twist, seconds: f64) -> Self {
        Self {
            distance: self.distance + norm(twist.linear) * seconds,
            angle: self.angle + norm(twist.angular) * seconds,
        }
    }
}

/// The picture that the newest image shows.
#[derive(Debug, Clone, Copy)]
struct Picture {
    /// When it first arrived.
    since: Instant,
    /// When it last arrived.
    received: Instant,
    /// What was driven since it first arrived.
    driven: Travel,
    /// What was driven between its first and its last arrival.
    driven_when_received: Travel,
}

/// What the watchdog remembers between steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UnchangedImage {
    picture: Option<Picture>,
}

impl UnchangedImage {
    /// Sees the newest image, and the twist that was in force from `before`, the step before, to
    /// `now`.
    pub(super) fn see(
        &mut self,
        before: Instant,
        now: Instant,
        twist: &Twist,
        image: Option<&ImageSeen>,
    ) {
        let Some(image) = image else {
            self.picture = None;
            return;
        };
        let known = self.picture.filter(|picture| picture.since == image.unchanged_since);
        let driven = known.map_or(Travel::default(), |picture| picture.driven);
        // A picture that is new here may have arrived before the step before, which did not see it
        // yet.
        let begin = known.map_or(image.unchanged_since, |_| before);
        let until = |end: Instant| driven.and(twist, end.min(now).since(begin).seconds());
        let driven_when_received = match known {
            Some(picture) if image.received <= picture.received => picture.driven_when_received,
            _ => until(image.received),
        };
        self.picture = Some(Picture {
            since: image.unchanged_since,
            received: image.received,
            driven: until(now),
            driven_when_received,
        });
    }

    /// Counts from here on.
    pub(super) fn forget_travel(&mut self) {
        if let Some(picture) = &mut self.picture {
            (picture.driven, picture.driven_when_received) = (Travel::default(), Travel::default());
        }
    }

    /// The complaint, as long as the picture stays the same.
    pub(super) fn complaint(&self, limit: &RawUnchangedImage) -> Option<Cause> {
        let Travel { distance, angle } = self.picture?.driven_when_received;
        let cause =
            |value, limit, unit| Some(Cause { reason: Reason::ImageUnchanged, value, limit, unit });
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

    /// Twists and images at whole seconds: every number below is exact.
    struct Run {
        watchdog: UnchangedImage,
        now: u64,
        twist: Twist,
    }

    impl Run {
        fn driving(speed: f64, turning: f64) -> Self {
            let twist = Twist { linear: [0.0, -speed, 0.0], angular: [turning, 0.0, 0.0] };
            Self { watchdog: UnchangedImage::default(), now: 10 * S, twist }
        }

        /// A step after so long; the newest image was received and has been unchanged since these
        /// times.
        fn step(&mut self, after: u64, received: u64, since: u64) -> Option<Cause> {
            let (before, now) = (Instant::from_nanoseconds(self.now), self.now + after);
            self.now = now;
            let image = ImageSeen {
                received: Instant::from_nanoseconds(received),
                stamp: Stamp::default(),
                ros_received: Stamp::default(),
                unchanged_since: Instant::from_nanoseconds(since),
            };
            self.watchdog.see(before, Instant::from_nanoseconds(now), &self.twist, Some(&image));
            self.watchdog.complaint(&LIMIT)
        }
    }

    fn told(cause: Option<Cause>) -> Option<(Reason, f64, f64, &'static str)> {
        cause.map(|cause| (cause.reason, cause.value, cause.limit, cause.unit))
    }

    #[test]
    fn exactly_the_limit_is_allowed_and_more_is_told_with_value_limit_and_unit() {
        let mut run = Run::driving(0.125, 0.0);
        assert_eq!(run.step(0, 10 * S, 10 * S), None);
        for second in 11..=14 {
            assert_eq!(run.step(S, second * S, 10 * S), None, "{second}");
        }
        assert_eq!(
            told(run.step(S, 15 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 0.625, 0.5, "m"))
        );
        let mut run = Run::driving(0.0, 2.0);
        assert_eq!(run.step(0, 10 * S, 10 * S), None);
        assert_eq!(run.step(2 * S, 12 * S, 10 * S), None);
        assert_eq!(
            told(run.step(S, 13 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 6.0, 4.0, "rad"))
        );
    }

    #[test]
    fn only_what_was_driven_up_to_an_arrival_counts() {
        let mut run = Run::driving(0.25, 0.0);
        assert_eq!(run.step(0, 10 * S, 10 * S), None);
        // Two metres without another image are no proof, however often control looks at the old
        // one.
        for _ in 0..8 {
            assert_eq!(run.step(S, 10 * S, 10 * S), None);
        }
        // One that arrived between two steps: 8.5 s at 0.25 m/s.
        assert_eq!(
            told(run.step(S, 18 * S + S / 2, 10 * S)),
            Some((Reason::ImageUnchanged, 2.125, 0.5, "m"))
        );
        // The value stays until the next arrival; one that is told late is none.
        assert_eq!(
            told(run.step(S, 18 * S + S / 2, 10 * S)),
            Some((Reason::ImageUnchanged, 2.125, 0.5, "m"))
        );
        assert_eq!(
            told(run.step(0, 12 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 2.125, 0.5, "m"))
        );
        assert_eq!(
            told(run.step(S, 21 * S, 10 * S)),
            Some((Reason::ImageUnchanged, 2.75, 0.5, "m"))
        );
        // Another picture: from its own arrival on.
        assert_eq!(run.step(S, 21 * S + S / 2, 21 * S + S / 2), None);
        assert_eq!(run.step(S, 23 * S, 21 * S + S / 2), None);
        assert_eq!(
            told(run.step(S, 24 * S, 21 * S + S / 2)),
            Some((Reason::ImageUnchanged, 0.625, 0.5, "m"))
        );
    }

    #[test]
    fn a_picture_that_came_before_the_step_before_is_counted_from_its_arrival() {
        let mut run = Run::driving(0.25, 0.0);
        assert_eq!(run.step(S, 11 * S, 8 * S).map(|cause| cause.value), Some(0.75));
        // No image, or an arrival that lies ahead of the step that sees it, which no clock gives.
        run.watchdog.see(Instant::START, Instant::from_nanoseconds(11 * S), &run.twist, None);
        assert_eq!(run.watchdog.complaint(&LIMIT), None);
        assert_eq!(run.step(3 * S, u64::MAX, 11 * S).map(|cause| cause.value), Some(0.75));
    }

    #[test]
    fn what_was_driven_can_be_forgotten_though_the_picture_stays() {
        let mut run = Run::driving(0.25, 0.0);
        run.step(0, 10 * S, 10 * S);
        assert!(run.step(3 * S, 13 * S, 10 * S).is_some());
        run.watchdog.forget_travel();
        assert_eq!(run.watchdog.complaint(&LIMIT), None);
        assert_eq!(run.step(2 * S, 15 * S, 10 * S), None);
        assert_eq!(run.step(S, 16 * S, 10 * S).map(|cause| cause.value), Some(0.75));
    }
}
