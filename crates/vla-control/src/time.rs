//! The two clocks as distinct types, and a trait that provides both.
//!
//! * [`Stamp`] is ROS time, as in message headers. Under `use_sim_time` it stops, jumps back and
//!   runs at any rate. It identifies the image of an action; no timeout uses it.
//! * [`Instant`] is the steady clock: monotonic, at one second per second. All timeouts use it.

use std::{fmt, time::Duration};

/// A point in ROS time, in nanoseconds since the epoch of whichever clock the node follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    nanoseconds: i64,
}

impl Stamp {
    /// From nanoseconds.
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self { nanoseconds }
    }

    /// From the two fields of `builtin_interfaces/Time`. Any bit pattern is accepted; the sum
    /// always fits.
    #[must_use]
    pub const fn from_ros(seconds: i32, nanoseconds: u32) -> Self {
        Self { nanoseconds: seconds as i64 * 1_000_000_000 + nanoseconds as i64 }
    }

    /// Nanoseconds since the clock's epoch.
    #[must_use]
    pub const fn nanoseconds(self) -> i64 {
        self.nanoseconds
    }

    /// The two fields of `builtin_interfaces/Time`; seconds saturate at the ends of their 32 bits.
    #[must_use]
    pub const fn to_ros(self) -> (i32, u32) {
        let seconds = self.nanoseconds.div_euclid(1_000_000_000);
        let nanoseconds = self.nanoseconds.rem_euclid(1_000_000_000) as u32;
        if seconds > i32::MAX as i64 {
            (i32::MAX, 999_999_999)
        } else if seconds < i32::MIN as i64 {
            (i32::MIN, 0)
        } else {
            (seconds as i32, nanoseconds)
        }
    }

    /// Seconds from `earlier` to `self`; negative when `self` is the earlier one. Never overflows.
    #[must_use]
    pub fn seconds_since(self, earlier: Stamp) -> f64 {
        (i128::from(self.nanoseconds) - i128::from(earlier.nanoseconds)) as f64 * 1e-9
    }

    /// Time since `earlier`; zero when `earlier` is later. Never overflows: the distance
    /// of two stamps is below 2^64 ns.
    #[must_use]
    pub const fn since(self, earlier: Stamp) -> Age {
        if self.nanoseconds <= earlier.nanoseconds {
            return Age(Duration::ZERO);
        }
        Age(Duration::from_nanos(self.nanoseconds.abs_diff(earlier.nanoseconds)))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.nanoseconds.unsigned_abs();
        let sign = if self.nanoseconds < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:09} s", magnitude / 1_000_000_000, magnitude % 1_000_000_000)
    }
}

/// A point on the steady clock, in nanoseconds since an arbitrary start (that of the process, or of
/// the test).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant {
    nanoseconds: u64,
}

impl Instant {
    /// The clock's start.
    pub const START: Self = Self { nanoseconds: 0 };

    /// From nanoseconds since the clock's start.
    #[must_use]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self { nanoseconds }
    }

    /// Nanoseconds since the clock's start.
    #[must_use]
    pub const fn nanoseconds(self) -> u64 {
        self.nanoseconds
    }

    /// Time since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Age {
        Age(Duration::from_nanos(self.nanoseconds.saturating_sub(earlier.nanoseconds)))
    }

    /// This point moved forward; saturates at the end of the clock (584 years).
    #[must_use]
    pub fn after(self, span: Duration) -> Instant {
        let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self { nanoseconds: self.nanoseconds.saturating_add(nanoseconds) }
    }

    /// This point moved backward; saturates at the clock's start.
    #[must_use]
    pub fn before(self, span: Duration) -> Instant {
        let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self { nanoseconds: self.nanoseconds.saturating_sub(nanoseconds) }
    }
}

/// A time difference, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Age(Duration);

impl Age {
    /// From a duration.
    #[must_use]
    pub const fn new(age: Duration) -> Self {
        Self(age)
    }

    /// As a duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0.as_secs_f64()
    }

    /// Whether it is more than `limit`. Exactly the limit does not exceed it.
    #[must_use]
    pub fn exceeds(self, limit: Duration) -> bool {
        self.0 > limit
    }
}

/// Source of both times. Pure code takes the time as an argument; only threads hold a clock.
pub trait Clock: Send + Sync {
    /// Present steady time. Never decreases.
    fn steady(&self) -> Instant;
    /// Present ROS time. May stop or jump.
    fn ros(&self) -> Stamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_convert_to_ros_and_back() {
        for (seconds, nanoseconds) in
            [(0, 0), (1_700_000_000, 999_999_999), (-1, 1), (i32::MAX, 5), (i32::MIN, 0)]
        {
            assert_eq!(Stamp::from_ros(seconds, nanoseconds).to_ros(), (seconds, nanoseconds));
        }
        // An out-of-range nanosecond field of a hostile message is carried into the seconds.
        assert_eq!(Stamp::from_ros(1, 3_000_000_000).to_ros(), (4, 0));
        assert_eq!(Stamp::from_nanoseconds(i64::MAX).to_ros(), (i32::MAX, 999_999_999));
        assert_eq!(Stamp::from_nanoseconds(i64::MIN).to_ros(), (i32::MIN, 0));
        assert_eq!(Stamp::from_nanoseconds(-1_500_000_000).to_string(), "-1.500000000 s");
    }

    #[test]
    fn stamp_differences_never_overflow() {
        let a = Stamp::from_ros(10, 0);
        let b = Stamp::from_ros(9, 500_000_000);
        assert_eq!(a.seconds_since(b), 0.5);
        assert_eq!(b.seconds_since(a), -0.5);
        let (first, last) = (Stamp::from_nanoseconds(i64::MIN), Stamp::from_nanoseconds(i64::MAX));
        assert!(last.seconds_since(first) > 1.8e10);
        assert_eq!(a.since(b).get(), Duration::from_millis(500));
        assert_eq!((b.since(a).get(), a.since(a).get()), (Duration::ZERO, Duration::ZERO));
        assert_eq!(last.since(first).get(), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn age_limits_are_inclusive() {
        let early = Instant::from_nanoseconds(100);
        let late = Instant::from_nanoseconds(600);
        assert_eq!(late.since(early).get(), Duration::from_nanos(500));
        assert_eq!(early.since(late).get(), Duration::ZERO);
        assert!(!late.since(early).exceeds(Duration::from_nanos(500)));
        assert!(late.since(early).exceeds(Duration::from_nanos(499)));
        assert_eq!(
            Instant::from_nanoseconds(u64::MAX).after(Duration::from_secs(1)).nanoseconds(),
            u64::MAX
        );
        assert_eq!(late.before(Duration::from_nanos(500)), early);
        assert_eq!(early.before(Duration::MAX), Instant::START);
    }
}
