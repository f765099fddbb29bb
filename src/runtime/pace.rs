//! When the policy is asked: at most so often, and then about the image nearest to that moment.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::time::Instant;

/// When the newest image arrived, and the one before it. Between the spinning side and the worker only.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<(Option<Instant>, Option<Instant>)>);

impl Arrivals {
    /// An image has arrived.
    pub fn note(&self, now: Instant) {
        let mut arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *arrivals = (Some(now), arrivals.0);
    }

    /// How long the next image is worth waiting for: it is expected one interval of the camera after the newest, and it is worth it when it is nearer to
    /// `now` than that one. Zero when it is not, when it is overdue by half an interval, and before two images have come.
    fn worth_waiting(&self, now: Instant) -> Duration {
        let (Some(newest), Some(before)) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) else {
            return Duration::ZERO;
        };
        let (interval, age) = (newest.since(before).get(), now.since(newest).get());
        if age <= interval / 2 { Duration::ZERO } else { interval.saturating_add(interval / 2).saturating_sub(age) }
    }
}

/// Keeps inferences at least an interval apart.
///
/// A limit alone takes what lies there when the interval is over, which with a camera of twice the policy's rate is by turns a new image and one that is a
/// whole camera interval old. A policy that is faster than its limit can afford to wait for the next image; one that is slower than its limit is never made
/// to wait.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    earliest: Instant,
    /// Whether the limit, not the policy, is what determines the next start.
    limits: bool,
}

impl Pace {
    /// At most `rate_hz` inferences a second; 0 sets no limit.
    pub fn new(rate_hz: f64) -> Self {
        let interval = if rate_hz > 0.0 {
            Duration::try_from_secs_f64(1.0 / rate_hz).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        };
        Self { interval, earliest: Instant::START, limits: false }
    }

    /// How long to wait, unless another image arrives before; zero when an inference may begin.
    pub fn wait(&mut self, now: Instant, arrivals: &Arrivals) -> Duration {
        let wait = self.earliest.since(now).get();
        self.limits |= !wait.is_zero();
        if wait.is_zero() && self.limits { arrivals.worth_waiting(now) } else { wait }
    }

    /// An inference begins.
    pub fn began(&mut self, now: Instant) {
        self.earliest = now.after(self.interval);
        self.limits = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(microseconds: u64) -> Instant {
        Instant::from_nanoseconds(microseconds * 1000)
    }

    /// Starts of inferences and the images they are about, both in microseconds, when images arrive at these times and each inference takes so long.
    fn run(pace: &mut Pace, images: &[u64], inference: u64) -> Vec<(u64, u64)> {
        let (arrivals, mut starts, mut now, mut newest, mut coming) =
            (Arrivals::default(), Vec::new(), 0, None, images.iter().copied().peekable());
        loop {
            while let Some(arrived) = coming.next_if(|&arrives| arrives <= now) {
                arrivals.note(at(arrived));
                newest = Some(arrived);
            }
            let wait = u64::try_from(pace.wait(at(now), &arrivals).as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
            if let Some(image) = newest.filter(|_| wait == 0) {
                pace.began(at(now));
                starts.push((now, image));
                newest = None;
                now += inference;
                continue;
            }
            // The bell rings for an image; without one in the mailbox nothing but an image helps.
            match (coming.peek(), newest) {
                (Some(&next), Some(_)) => now = next.min(now.saturating_add(wait)),
                (Some(&next), None) => now = next,
                (None, Some(_)) => now = now.saturating_add(wait),
                (None, None) => return starts,
            }
        }
    }

    #[test]
    fn a_camera_of_twice_the_rate_gives_fresh_images_whatever_its_jitter() {
        // 10 Hz, each image up to 8 ms late: a limit alone is by turns given one that has waited for 100 ms.
        let images: Vec<u64> = (0..100).map(|i| i * 100_000 + i * 3571 % 8000).collect();
        let mut starts = run(&mut Pace::new(5.0), &images, 15_000);
        starts.pop(); // the camera has ended
        assert!(starts.iter().all(|(start, image)| start - image <= 8000), "{starts:?}");
        assert!(starts.len() >= 48, "{}: the rate is kept", starts.len());
    }

    #[test]
    fn a_policy_slower_than_its_limit_never_waits_for_the_camera() {
        let images: Vec<u64> = (0..50).map(|i| i * 100_000).collect();
        for starts in [run(&mut Pace::new(5.0), &images, 250_000), run(&mut Pace::new(0.0), &images, 250_000)] {
            assert!(starts.windows(2).all(|pair| pair[1].0 - pair[0].0 == 250_000), "{starts:?}");
        }
    }

    #[test]
    fn without_a_limit_every_image_is_asked_about() {
        let images: Vec<u64> = (0..50).map(|i| i * 100_000).collect();
        let expected: Vec<_> = images.iter().map(|&image| (image, image)).collect();
        assert_eq!(run(&mut Pace::new(0.0), &images, 15_000), expected);
        assert_eq!(run(&mut Pace::new(1000.0), &images, 15_000), expected);
    }

    #[test]
    fn an_image_that_stays_the_last_is_asked_about_all_the_same() {
        // It comes 40 ms before the next may begin, and the camera ends: after one and a half of its intervals nobody waits any more.
        let starts = run(&mut Pace::new(5.0), &[0, 60_000, 110_000], 15_000);
        assert_eq!(starts, [(0, 0), (200_000, 110_000)]);
        assert_eq!(run(&mut Pace::new(5.0), &[0], 15_000), [(0, 0)]);
    }

    proptest! {
        #[test]
        fn starts_keep_their_distance_and_images_are_the_nearest(
            rate in 0.5_f64..50.0,
            inference in 1_000_u64..400_000,
            gaps in prop::collection::vec(1_000_u64..300_000, 2..80),
        ) {
            let images: Vec<u64> = gaps.iter().scan(0, |sum, gap| { *sum += gap; Some(*sum) }).collect();
            let starts = run(&mut Pace::new(rate), &images, inference);
            let interval = 1e6 / rate;
            let longest = *gaps.iter().max().unwrap_or(&0) as f64;
            for pair in starts.windows(2) {
                let distance = (pair[1].0 - pair[0].0) as f64;
                prop_assert!(distance >= interval - 1.0, "at most the rate: {distance} of {interval}");
                prop_assert!(distance >= inference as f64);
                // Whoever waits for an image waits for one at most, and no longer than one and a half of the camera's intervals.
                prop_assert!(distance <= interval.max(inference as f64) + 1.5 * longest + 1.0, "{distance}");
                prop_assert!(pair[0].1 < pair[1].1, "no image twice");
            }
            // The newest image is asked about in the end.
            prop_assert_eq!(starts.last().map(|start| start.1), images.last().copied());
        }
    }
}
