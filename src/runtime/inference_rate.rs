//! When the policy is asked: at most so often, and then about an image that has just arrived.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use vla_control::time::Instant;

/// When the newest image arrived, and how long after the one before it. Written by the spinning
/// side, read by the worker; neither waits for the other, and a reading between the two writes is
/// harmless: it makes the worker wait a little, or not.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    newest: AtomicU64,
    interval: AtomicU64,
}

impl Arrivals {
    /// An image has arrived.
    pub fn note(&self, now: Instant) {
        let before = self.newest.swap(now.nanoseconds(), Ordering::AcqRel);
        self.interval.store(now.nanoseconds().saturating_sub(before), Ordering::Release);
    }

    /// Whether the next image, one interval of the camera after the newest, is due until `latest`
    /// and nearer to `moment` than the newest.
    fn next_is_nearer(&self, moment: Instant, latest: Instant) -> bool {
        let newest = Instant::from_nanoseconds(self.newest.load(Ordering::Acquire));
        let interval = Duration::from_nanos(self.interval.load(Ordering::Acquire));
        moment.since(newest).get() > interval / 2 && newest.after(interval) <= latest
    }
}

/// Keeps inferences an interval apart: on average at least that, and each pair at least seven
/// eighths of it.
///
/// A limit alone takes what lies there when the interval is over, which with a camera of a multiple
/// of the policy's rate is by turns a new image and one that is a whole camera interval old. A
/// policy that is faster than its limit can afford to wait a moment for the next image: an eighth
/// of its interval and at most
/// [`LONGEST_WAIT`], so that its steps still follow each other. One that is slower than its limit is never made to wait.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// How long an image is waited for at most.
    patience: Duration,
    earliest: Instant,
    /// Whether the limit, not the policy, is what determines the next start.
    limits: bool,
}

/// More than half an interval of the slowest camera that a robot is driven by.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Longest time from the start of one inference to the start of the next that a limit of `rate_hz`
/// makes while images keep coming.
#[must_use]
pub fn longest_pause(rate_hz: f64) -> Duration {
    let Pace { interval, patience, .. } = Pace::new(rate_hz);
    interval.saturating_add(patience)
}

impl Pace {
    /// At most `rate_hz` inferences a second; 0 sets no limit.
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

    /// How long to wait, unless another image arrives before; zero when an inference may begin.
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

    /// An inference begins.
    pub fn began(&mut self, now: Instant) {
        // From where this one should have begun, if that is a moment ago: else every late wake-up
        // would shift the next, away from the camera's images.
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
        let (mut pace, arrivals, mut coming) =
            (Pace::new(rate_hz), Arrivals::default(), images.iter().copied().peekable());
        let (mut starts, mut now, mut newest) = (Vec::new(), 0, None);
        loop {
            while let Some(arrived) = coming.next_if(|&arrives| arrives <= now) {
                arrivals.note(at(arrived));
                newest = Some(arrived);
            }
            let wait = microseconds(pace.wait(at(now), &arrivals));
            match (newest, coming.peek()) {
                (Some(image), _) if wait == 0 => {
                    pace.began(at(now));
                    starts.push((now, image));
                    newest = None;
                    now += inference;
                }
                // The bell rings for an image; without one in the mailbox nothing but an image
                // helps.
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
    fn a_camera_of_a_multiple_of_the_rate_gives_fresh_images_at_the_rate() {
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
    fn a_policy_slower_than_its_limit_never_waits_for_the_camera() {
        // After 290 ms the image is 90 ms old and the next 10 ms away; the limit would let it wait.
        let images: Vec<u64> = (1..50).map(|i| i * 100_000).collect();
        for rate_hz in [5.0, 0.0] {
            let starts = run(rate_hz, &images, 290_000, 0);
            let apart: Vec<u64> = starts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            assert!(apart[..10].iter().all(|&apart| apart == 290_000), "{apart:?}");
        }
    }

    #[test]
    fn without_a_limit_every_image_is_asked_about() {
        let images: Vec<u64> = (1..50).map(|i| i * 100_000).collect();
        let expected: Vec<_> = images.iter().map(|&image| (image, image)).collect();
        assert_eq!(run(0.0, &images, 15_000, 0), expected);
        assert_eq!(run(1000.0, &images, 15_000, 0), expected);
    }

    #[test]
    fn an_image_that_stays_the_last_is_waited_over_for_an_eighth_of_the_interval() {
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
        fn starts_keep_their_distance_and_nothing_is_waited_for_in_vain(
            rate in 0.5_f64..50.0,
            inference in 1_000_u64..400_000,
            late in 0_u64..30_000,
            gaps in prop::collection::vec(1_000_u64..300_000, 2..80),
        ) {
            let images: Vec<u64> = gaps.iter().scan(1_000_000, |sum, gap| { *sum += gap; Some(*sum) }).collect();
            let starts = run(rate, &images, inference, late);
            let interval = 1e6 / rate;
            for pair in starts.windows(2) {
                let (before, start) = (pair[0].0, pair[1].0);
                prop_assert!((start - before) as f64 >= interval * 0.875 - 1.0, "{start} after {before}");
                prop_assert!(pair[0].1 < pair[1].1, "no image twice");
                // From the moment on at which it could begin and had an image, it waits an eighth
                // of the interval, and what it takes to wake.
                let first_image = images.iter().copied().find(|&image| image > pair[0].1).unwrap_or(0);
                let could = (before as f64 + interval.max(inference as f64)).max(first_image as f64);
                prop_assert!(start as f64 <= could + (interval / 8.0).min(50_000.0) + 2.0 * late as f64 + 2.0, "{start} after {could}");
            }
            for (i, start) in starts.iter().enumerate() {
                prop_assert!((start.0 - starts[0].0) as f64 >= (i as f64 - 0.125) * interval - 1.0, "at most the rate on average");
            }
            // The newest image is asked about in the end.
            prop_assert_eq!(starts.last().map(|start| start.1), images.last().copied());
        }
    }
}
