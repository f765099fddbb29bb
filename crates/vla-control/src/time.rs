//! Two clocks that must not be confused, and a trait that provides both.
//!
//! * [`Stamp`] is ROS time: what a message header carries. Under `use_sim_time` it stops, jumps
//!   back and runs at any speed. It says *which* image an action belongs to; it never decides
//!   whether the robot may move.
//! * [`Instant`] is the steady clock: it only goes forward, at one second per second. Every
//!   watchdog is measured on it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

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

    /// Time since `earlier`; zero when `earlier` lies ahead. Never overflows: any two stamps lie
    /// less than 2^64 ns apart.
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

    /// Time since `earlier`; zero when `earlier` lies ahead.
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

/// How old something is on the steady clock: never negative.
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

    /// Whether it is more than `limit`. Exactly the limit is still good.
    #[must_use]
    pub fn exceeds(self, limit: Duration) -> bool {
        self.0 > limit
    }
}

/// Where the time comes from. Code that decides something takes the time as an argument; only the
/// threads around it hold a clock.
pub trait Clock: Send + Sync {
    /// Now, on the steady clock. Never less than an earlier answer.
    fn steady(&self) -> Instant;
    /// Now, in ROS time. May stop or jump.
    fn ros(&self) -> Stamp;
}

/// The machine's clocks: steady since this value was made, ROS time = system time.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn steady(&self) -> Instant {
        Instant::START.after(self.start.elapsed())
    }

    fn ros(&self) -> Stamp {
        // Before 1970 counts as 1970: such a system clock is wrong anyway and decides nothing.
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Stamp::from_nanoseconds(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A clock moved by hand; clones share the same hands.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    steady: Arc<AtomicU64>,
    ros: Arc<AtomicI64>,
}

impl ManualClock {
    /// Both clocks at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves both clocks forward.
    pub fn advance(&self, span: Duration) {
        let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.steady.fetch_add(nanoseconds, Ordering::SeqCst);
        self.ros.fetch_add(i64::try_from(nanoseconds).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Moves the steady clock only, as when simulated time is paused.
    pub fn advance_steady(&self, span: Duration) {
        self.steady.fetch_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets ROS time, backwards too.
    pub fn set_ros(&self, stamp: Stamp) {
        self.ros.store(stamp.nanoseconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn steady(&self) -> Instant {
        Instant::from_nanoseconds(self.steady.load(Ordering::SeqCst))
    }

    fn ros(&self) -> Stamp {
        Stamp::from_nanoseconds(self.ros.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_the_way_through_a_message() {
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
    fn differences_of_stamps_have_a_sign_and_never_overflow() {
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
    fn an_age_is_never_negative_and_its_limit_is_inclusive() {
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

    #[test]
    fn the_manual_clock_moves_only_by_hand_and_is_shared() {
        let clock = ManualClock::new();
        let same = clock.clone();
        clock.advance(Duration::from_millis(20));
        assert_eq!(
            (same.steady().nanoseconds(), same.ros().nanoseconds()),
            (20_000_000, 20_000_000)
        );
        same.advance_steady(Duration::from_millis(5));
        same.set_ros(Stamp::from_nanoseconds(-3));
        assert_eq!((clock.steady().nanoseconds(), clock.ros().nanoseconds()), (25_000_000, -3));
    }

    #[test]
    fn the_system_clock_goes_forward() {
        let clock = SystemClock::new();
        let first = clock.steady();
        assert!(first <= clock.steady());
        assert!(Stamp::from_ros(1_600_000_000, 0) < clock.ros());
    }
}
