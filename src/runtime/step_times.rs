//! When the steps of the policy began: which step an observation belongs to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vla_control::time::Instant;

/// Steps that are remembered; at 50 Hz those of more than a second.
const REMEMBERED: usize = 64;

/// The number of steps begun, and the times of the last ones. Written by the control loop, read by
/// the worker without a lock. A time that is overwritten during a read is of a step long ago, which
/// is then taken for a new one: only after the reader was suspended for `REMEMBERED` steps.
#[derive(Debug)]
pub(super) struct StepTimes {
    count: AtomicU64,
    /// Start of step `n` at `n % REMEMBERED`.
    began: [AtomicU64; REMEMBERED],
}

impl Default for StepTimes {
    fn default() -> Self {
        Self { count: AtomicU64::new(0), began: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl StepTimes {
    /// Records that `count` steps have begun by `now`. A smaller count is of a new control state.
    pub fn note(&self, count: u64, now: Instant) {
        let before = self.count.load(Ordering::Relaxed).min(count);
        let oldest = count.saturating_sub(REMEMBERED as u64);
        for step in before.max(oldest)..count {
            self.began[step as usize % REMEMBERED].store(now.nanoseconds(), Ordering::Relaxed);
        }
        self.count.store(count, Ordering::Release);
    }

    /// Number of steps begun.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Number of steps begun until `at`. Of those that are not remembered all are counted.
    fn begun_until(&self, at: Instant) -> u64 {
        let count = self.count();
        let newest_first = (count.saturating_sub(REMEMBERED as u64)..count).rev();
        let later = newest_first
            .take_while(|step| {
                let began = self.began[*step as usize % REMEMBERED].load(Ordering::Relaxed);
                at.nanoseconds() < began
            })
            .count();
        count - later as u64
    }

    /// Number of steps begun before the one that the robot began to follow at the time of an
    /// observation: a step begins in the robot `delay` after it began here, and the nearest one is
    /// chosen. So the first step of a chunk is for the motion from the observed pose on, and steps
    /// that the robot has not followed yet count as steps since the observation.
    pub fn begun_at(&self, taken: Instant, delay: Duration, period: Duration) -> u64 {
        self.begun_until(taken.before(delay).before(period / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    fn at(milliseconds: u64) -> Instant {
        Instant::START.after(Duration::from_millis(milliseconds))
    }

    /// Steps at 1.0 s, 1.1 s, ...
    fn ten_steps() -> StepTimes {
        let times = StepTimes::default();
        for step in 0..10 {
            times.note(step + 1, at(1000 + 100 * step));
            times.note(step + 1, at(1000 + 100 * step + 20));
        }
        times
    }

    #[test]
    fn the_nearest_step_is_chosen() {
        let (times, none) = (ten_steps(), Duration::ZERO);
        assert_eq!(times.count(), 10);
        // 40 ms before and after the begin of step 5.
        assert_eq!(times.begun_at(at(1460), none, PERIOD), 5);
        assert_eq!(times.begun_at(at(1540), none, PERIOD), 5);
        assert_eq!(times.begun_at(at(1560), none, PERIOD), 6);
    }

    #[test]
    fn steps_that_the_robot_does_not_follow_yet_are_later() {
        let times = ten_steps();
        for (delay, expected) in [(0, 9), (40, 9), (60, 8), (160, 7), (1000, 0), (9000, 0)] {
            let delay = Duration::from_millis(delay);
            assert_eq!(times.begun_at(at(1900), delay, PERIOD), expected, "{delay:?}");
        }
    }

    #[test]
    fn observations_long_after_the_last_step_and_before_the_first() {
        let times = ten_steps();
        assert_eq!(times.begun_at(at(60_000), PERIOD, PERIOD), 10);
        assert_eq!(times.begun_at(at(10), PERIOD, PERIOD), 0);
        assert_eq!(StepTimes::default().begun_at(at(10), PERIOD, PERIOD), 0);
    }

    #[test]
    fn only_the_last_steps_have_a_time() {
        let times = StepTimes::default();
        (0..200).for_each(|step| times.note(step + 1, at(1000 + 100 * step)));
        assert_eq!(times.begun_at(at(20_900), Duration::ZERO, PERIOD), 199);
        let oldest = 200 - REMEMBERED as u64;
        assert_eq!(times.begun_at(at(5), Duration::ZERO, PERIOD), oldest);
    }

    #[test]
    fn several_steps_at_once_and_a_new_state() {
        let times = StepTimes::default();
        times.note(3, at(1000));
        assert_eq!(times.begun_at(at(990), Duration::ZERO, PERIOD), 0);
        times.note(1000, at(2000));
        assert_eq!(times.begun_at(at(2100), Duration::ZERO, PERIOD), 1000);
        times.note(0, at(3000));
        times.note(1, at(3100));
        assert_eq!(times.begun_at(at(3100), Duration::ZERO, PERIOD), 0);
        assert_eq!(times.begun_at(at(3200), Duration::ZERO, PERIOD), 1);
    }
}
