//! Rate limit of inferences, aligned with the arrival of images.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use vla_control::time::Instant;

/// Arrival time of the newest image, its interval to the one before, and when it was taken. Written
/// by the executor thread, read by the worker without a lock. A read between the writes is
/// harmless: it only decides whether the worker waits a little.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    newest: AtomicU64,
    interval: AtomicU64,
    taken: AtomicU64,
}

impl Arrivals {
    /// Records the arrival of an image that was taken at another time.
    pub fn note(&self, now: Instant, taken: Instant) {
        self.taken.store(taken.nanoseconds(), Ordering::Release);
        let before = self.newest.swap(now.nanoseconds(), Ordering::AcqRel);
        self.interval.store(now.nanoseconds().saturating_sub(before), Ordering::Release);
    }

    /// When the newest image was taken.
    pub fn taken(&self) -> Instant {
        Instant::from_nanoseconds(self.taken.load(Ordering::Acquire))
    }

    /// Whether the next image, expected one camera interval after the newest, is due before
    /// `latest` and closer to `moment` than the newest.
    fn next_is_nearer(&self, moment: Instant, latest: Instant) -> bool {
        let newest = Instant::from_nanoseconds(self.newest.load(Ordering::Acquire));
        let interval = Duration::from_nanos(self.interval.load(Ordering::Acquire));
        moment.since(newest).get() > interval / 2 && newest.after(interval) <= latest
    }
}

/// Limits the inference rate: starts are an interval apart on average, and each pair at least seven
/// eighths of it.
///
/// A limit alone uses the newest image at the end of the interval. With a camera at a multiple of
/// the policy's rate that is alternately a new image and one that is a camera interval old. A
/// policy faster than its limit therefore waits for the next image, for at most an eighth of the
/// interval and at most [`LONGEST_WAIT`], so that its steps still follow each other. A policy
/// slower than its limit never waits.
#[derive(Debug)]
pub(super) struct InferenceRateLimiter {
    interval: Duration,
    /// Longest wait for an image.
    patience: Duration,
    earliest: Instant,
    /// Whether the limit, not the policy, determines the next start.
    limits: bool,
}

/// More than half an interval of a 10 Hz camera.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Longest time between the starts of two inferences that a limit of `rate_hz` causes while images
/// arrive.
#[must_use]
pub fn longest_pause(rate_hz: f64) -> Duration {
    let InferenceRateLimiter { interval, patience, .. } = InferenceRateLimiter::new(rate_hz);
    interval.saturating_add(patience)
}

impl InferenceRateLimiter {
    /// A limit of `rate_hz` inferences per second; 0 sets none.
    pub fn new(rate_hz: f64) -> Self {
        let interval = if rate_hz > 0.0 {
            Duration::try_from_secs_f64(1.0 / rate_hz).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        };
        Self {
            interval,
            patience: (interval / 8).min(LONGEST_WAIT),
            earliest: Instant::START,
            limits: false,
        }
    }

    /// Time to wait unless another image arrives before; zero when an inference may start.
    pub fn wait(&mut self, now: Instant, arrivals: &Arrivals) -> Duration {
        let wait = self.earliest.since(now).get();
        if !wait.is_zero() {
            self.limits = true;
            return wait;
        }
        let latest = self.earliest.after(self.patience);
        if self.limits && arrivals.next_is_nearer(self.earliest, latest) {
            latest.since(now).get()
        } else {
            wait
        }
    }

    /// Records the start of an inference.
    pub fn began(&mut self, now: Instant) {
        // Counted from the planned start if that was just before: otherwise every late wake-up
        // would shift the following starts away from the camera's images.
        let late = now.since(self.earliest).get();
        let begin = if late <= self.patience { self.earliest } else { now };
        self.earliest = begin.after(self.interval);
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

    fn microseconds(duration: Duration) -> u64 {
        u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// Starts of inferences and the images they are about, in microseconds, when images arrive at
    /// these times, an inference takes `inference` and the worker wakes `late` after what woke it.
    fn run(rate_hz: f64, images: &[u64], inference: u64, late: u64) -> Vec<(u64, u64)> {
        let (mut rate_limiter, arrivals, mut coming) = (
            InferenceRateLimiter::new(rate_hz),
            Arrivals::default(),
            images.iter().copied().peekable(),
        );
        let (mut starts, mut now, mut newest) = (Vec::new(), 0, None);
        loop {
            while let Some(arrived) = coming.next_if(|&arrives| arrives <= now) {
                arrivals.note(at(arrived), at(arrived));
                newest = Some(arrived);
            }
            let wait = microseconds(rate_limiter.wait(at(now), &arrivals));
            match (newest, coming.peek()) {
                (Some(image), _) if wait == 0 => {
                    rate_limiter.began(at(now));
                    starts.push((now, image));
                    newest = None;
                    now += inference;
                }
                // An image wakes the worker; without an image it has nothing to do.
                (Some(_), Some(&next)) => now = next.min(now.saturating_add(wait)) + late,
                (None, Some(&next)) => now = next + late,
                (Some(_), None) => now = now.saturating_add(wait) + late,
                (None, None) => return starts,
            }
        }
    }

    fn camera(hz: f64, images: u32) -> Vec<u64> {
        // From one second on; every image up to 4 ms late.
        (0..images)
            .map(|i| 1_000_000 + (f64::from(i) * 1e6 / hz) as u64 + u64::from(i) * 3571 % 4000)
            .collect()
    }

    /// Inferences per second between the first and the last, and the oldest image among them,
    /// microseconds. The last one is left out: the camera has ended by then.
    fn figures(starts: &[(u64, u64)]) -> (f64, u64) {
        let starts = &starts[..starts.len() - 1];
        let seconds = (starts[starts.len() - 1].0 - starts[0].0) as f64 * 1e-6;
        (
            (starts.len() - 1) as f64 / seconds,
            starts.iter().map(|(start, image)| start - image).max().unwrap_or(0),
        )
    }

    #[test]
    fn camera_at_a_multiple_gives_fresh_images() {
        for hz in [5.0, 10.0, 15.0, 30.0, 60.0, 200.0] {
            let (rate, oldest) = figures(&run(5.0, &camera(hz, 600), 15_000, 200));
            assert!((4.85..=5.0).contains(&rate), "{hz} Hz camera: {rate} Hz");
            assert!(oldest <= 10_000, "{hz} Hz camera: an image {oldest} us old");
        }
        // A limit alone, with the camera of 10 Hz: by turns a whole interval old.
        let limit_alone = |images: &[u64]| {
            let (mut earliest, mut oldest) = (0, 0);
            for pair in images.windows(2) {
                let start = pair[0].max(earliest);
                if start < pair[1] {
                    oldest = oldest.max(start - pair[0]);
                    earliest = start + 200_000;
                }
            }
            oldest
        };
        assert!(limit_alone(&camera(10.0, 600)) > 90_000);
    }

    #[test]
    fn other_ratios_keep_the_rate() {
        for (camera_hz, hz) in [
            (7.6, 5.0),
            (8.0, 5.0),
            (12.0, 5.0),
            (24.0, 5.0),
            (30.0, 20.0),
            (25.0, 20.0),
            (60.0, 50.0),
        ] {
            let (rate, oldest) = figures(&run(hz, &camera(camera_hz, 600), 2_000, 200));
            assert!(rate > 0.88 * hz, "{camera_hz} Hz camera, {hz} Hz policy: {rate} Hz");
            assert!(
                (oldest as f64) < 1e6 / camera_hz + 5_000.0,
                "{camera_hz} Hz camera: {oldest} us"
            );
        }
    }

    #[test]
    fn slow_policy_never_waits_for_the_camera() {
        // After 290 ms the image is 90 ms old and the next 10 ms away; the limit would let it wait.
        let images: Vec<u64> = (1..50).map(|i| i * 100_000).collect();
        for rate_hz in [5.0, 0.0] {
            let starts = run(rate_hz, &images, 290_000, 0);
            let apart: Vec<u64> = starts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            assert!(apart[..10].iter().all(|&apart| apart == 290_000), "{apart:?}");
        }
    }

    #[test]
    fn without_a_limit_every_image_is_used() {
        let images: Vec<u64> = (1..50).map(|i| i * 100_000).collect();
        let expected: Vec<_> = images.iter().map(|&image| (image, image)).collect();
        assert_eq!(run(0.0, &images, 15_000, 0), expected);
        assert_eq!(run(1000.0, &images, 15_000, 0), expected);
    }

    #[test]
    fn wait_for_a_missing_image_ends() {
        // At 1.3 s, when the second may begin, the newest is 80 ms old and the next should come 10
        // ms later. It does not come.
        assert_eq!(
            run(5.0, &[1_100_000, 1_130_000, 1_220_000], 15_000, 0),
            [(1_100_000, 1_100_000), (1_325_000, 1_220_000)]
        );
        assert_eq!(run(5.0, &[1_100_000], 15_000, 0), [(1_100_000, 1_100_000)]);
    }

    proptest! {
        #[test]
        fn starts_keep_their_distance(
            rate in 0.5_f64..50.0,
            inference in 1_000_u64..400_000,
            late in 0_u64..30_000,
            gaps in prop::collection::vec(1_000_u64..300_000, 2..80),
        ) {
            let arrival = |sum: &mut u64, gap: &u64| {
                *sum += gap;
                Some(*sum)
            };
            let images: Vec<u64> = gaps.iter().scan(1_000_000, arrival).collect();
            let starts = run(rate, &images, inference, late);
            let interval = 1e6 / rate;
            for pair in starts.windows(2) {
                let (before, start) = (pair[0].0, pair[1].0);
                let apart = (start - before) as f64;
                prop_assert!(apart >= interval * 0.875 - 1.0, "{start} after {before}");
                prop_assert!(pair[0].1 < pair[1].1, "no image twice");
                // It starts when it may and has an image, plus an eighth of the interval and the
                // time to wake.
                let next = images.iter().copied().find(|&image| image > pair[0].1).unwrap_or(0);
                let could = (before as f64 + interval.max(inference as f64)).max(next as f64);
                let wait = (interval / 8.0).min(50_000.0) + 2.0 * late as f64 + 2.0;
                prop_assert!(start as f64 <= could + wait, "{start} after {could}");
            }
            for (i, start) in starts.iter().enumerate() {
                let passed = (start.0 - starts[0].0) as f64;
                let least = (i as f64 - 0.125) * interval - 1.0;
                prop_assert!(passed >= least, "at most the rate on average");
            }
            // The newest image is used in the end.
            prop_assert_eq!(starts.last().map(|start| start.1), images.last().copied());
        }
    }
}
