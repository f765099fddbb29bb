//! What the runtime needs from the operating system: a clock to sleep on, and priorities. Linux;
//! elsewhere the portable half of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use vla_control::time::{Clock, Instant, Stamp};

/// The machine's monotonic clock, and ROS time: the system's, or the one that `/clock` gives.
#[derive(Debug, Clone)]
pub struct NodeClock {
    /// Nanoseconds of the last `/clock` message; `None` without `use_sim_time`.
    simulated: Option<Arc<AtomicI64>>,
}

impl NodeClock {
    /// ROS time is the system's time, or, under `use_sim_time`, zero until [`Self::set_simulated`]
    /// is called.
    #[must_use]
    pub fn new(use_sim_time: bool) -> Self {
        Self { simulated: use_sim_time.then(|| Arc::new(AtomicI64::new(0))) }
    }

    /// Sets simulated ROS time; ignored without `use_sim_time`.
    pub fn set_simulated(&self, stamp: Stamp) {
        if let Some(simulated) = &self.simulated {
            simulated.store(stamp.nanoseconds(), Ordering::Relaxed);
        }
    }
}

impl Clock for NodeClock {
    fn steady(&self) -> Instant {
        monotonic_now()
    }

    fn ros(&self) -> Stamp {
        match &self.simulated {
            Some(simulated) => Stamp::from_nanoseconds(simulated.load(Ordering::Relaxed)),
            None => {
                let since_epoch = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                Stamp::from_nanoseconds(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
            }
        }
    }
}

/// Now on `CLOCK_MONOTONIC`: counts while the process is stopped, so that a pause can be noticed.
#[cfg(target_os = "linux")]
#[must_use]
pub fn monotonic_now() -> Instant {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec for the duration of the call. The clock exists on
    // every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    // Monotonic time is never negative; the fields are 32 bits wide on some targets.
    Instant::from_nanoseconds(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Sleeps until `deadline` on the clock of [`monotonic_now`]. A deadline in the past returns at
/// once.
///
/// The deadline is absolute: what the thread did before, and being preempted on the way into the
/// call, adds nothing to the period.
#[cfg(target_os = "linux")]
pub fn sleep_until(deadline: Instant) {
    let nanoseconds = deadline.nanoseconds();
    #[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]
    // 2^63 ns are 292 years; tv_nsec is below 10^9.
    let until = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    // A signal ends the sleep early; then it is slept again, to the same deadline. SAFETY: `until`
    // is a valid timespec for the duration of the call; with TIMER_ABSTIME the last argument is
    // ignored and may be null.
    while unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const until,
            std::ptr::null_mut(),
        )
    } == libc::EINTR
    {}
}

#[cfg(not(target_os = "linux"))]
fn clock_start() -> std::time::Instant {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    *START.get_or_init(std::time::Instant::now)
}

/// Now on the steady clock.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn monotonic_now() -> Instant {
    Instant::START.after(clock_start().elapsed())
}

/// Sleeps until `deadline`.
#[cfg(not(target_os = "linux"))]
pub fn sleep_until(deadline: Instant) {
    std::thread::sleep(deadline.since(monotonic_now()).get());
}

/// What became of a wish for a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The calling thread runs under `SCHED_FIFO` with this priority.
    RealTime(u8),
    /// It runs as every other thread.
    Ordinary,
}

/// Asks for `SCHED_FIFO` for the calling thread; 0 asks for nothing. Not permitted (no
/// `CAP_SYS_NICE`, no `rtprio` limit) leaves things as they are.
#[must_use]
pub fn real_time(priority: u8) -> Priority {
    if priority == 0 {
        return Priority::Ordinary;
    }
    #[cfg(target_os = "linux")]
    {
        let parameters = libc::sched_param { sched_priority: i32::from(priority) };
        // SAFETY: `parameters` is a valid sched_param for the duration of the call; 0 names the
        // calling thread.
        if unsafe {
            libc::sched_setscheduler(
                0,
                libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
                &raw const parameters,
            )
        } == 0
        {
            return Priority::RealTime(priority);
        }
    }
    Priority::Ordinary
}

/// Lets the calling thread, and every thread it starts from now on, step back behind the others. On
/// Linux niceness belongs to a thread.
pub fn step_back(niceness: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: takes numbers only; 0 names the calling thread. Raising the niceness is always
    // permitted, and failing would cost nothing but time.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, niceness);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}

/// Resident memory of this process in bytes, where the system tells.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Waits until `done`, at most for `longest`; tells whether it came true. For shutting down only:
/// it polls.
pub fn wait_until(longest: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = std::time::Instant::now() + longest;
    loop {
        if done() {
            return true;
        }
        if end <= std::time::Instant::now() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_to_the_deadline_and_not_into_the_past() {
        let start = monotonic_now();
        let deadline = start.after(Duration::from_millis(20));
        sleep_until(deadline);
        let woken = monotonic_now();
        assert!(deadline <= woken, "woken {:?} before the deadline", deadline.since(woken));
        sleep_until(start);
        assert!(monotonic_now().since(woken).get() < Duration::from_secs(1));
    }

    #[test]
    fn simulated_time_is_what_was_set() {
        let clock = NodeClock::new(true);
        assert_eq!(clock.ros(), Stamp::default());
        clock.set_simulated(Stamp::from_ros(5, 6));
        assert_eq!(clock.clone().ros(), Stamp::from_ros(5, 6));
        let system = NodeClock::new(false);
        system.set_simulated(Stamp::from_ros(5, 6));
        assert!(Stamp::from_ros(1_600_000_000, 0) < system.ros());
    }
}
