//! Services of the operating system: clocks, absolute sleep, thread priorities, memory, and the
//! death signal of the parent process. Complete on Linux; elsewhere the portable part.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use vla_control::time::{Clock, Instant, Stamp};

/// The monotonic clock, and ROS time: system time, or `/clock` under `use_sim_time`.
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

/// Now on `CLOCK_BOOTTIME`: steady, and advancing while the process is stopped and while the system
/// is suspended, so that both are detected as a pause. Async-signal-safe.
#[cfg(target_os = "linux")]
#[must_use]
pub fn monotonic_now() -> Instant {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec for the duration of the call. The clock exists on
    // every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    // Monotonic time is never negative; the fields are 32 bits wide on some targets.
    Instant::from_nanoseconds(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Sleeps until `deadline` on the clock of [`monotonic_now`]; returns at once when it has passed.
///
/// The deadline is absolute, so that preemption before the call does not lengthen the period.
#[cfg(target_os = "linux")]
pub fn sleep_until(deadline: Instant) {
    let nanoseconds = deadline.nanoseconds();
    #[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast)]
    // 2^63 ns are 292 years; tv_nsec is below 10^9.
    let until = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    // A signal ends the sleep early; then it sleeps again, to the same deadline. SAFETY: `until`
    // is a valid timespec for the duration of the call; with TIMER_ABSTIME the last argument is
    // ignored and may be null.
    while unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_BOOTTIME,
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

/// Result of a request for a real-time priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The calling thread runs under `SCHED_FIFO` with this priority.
    RealTime(u8),
    /// Ordinary scheduling.
    Ordinary,
}

/// Requests `SCHED_FIFO` for the calling thread; 0 requests nothing. Without permission (no
/// `CAP_SYS_NICE`, no `rtprio` limit) the scheduling stays as it is.
#[must_use]
pub fn request_real_time(priority: u8) -> Priority {
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

/// Raises the niceness of the calling thread and of the threads it starts later: on Linux it is an
/// attribute of a thread.
pub fn lower_priority(niceness: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: takes numbers only; 0 names the calling thread. Raising the niceness is always
    // permitted, and failing would cost nothing but time.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, niceness);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = niceness;
}

/// Requests `SIGTERM` for this process when its parent ends; returns whether the parent is still
/// `parent_pid`. If not, the parent ended before the request, and no signal will follow: the caller
/// must stop by itself.
///
/// # Errors
/// The system's error; unsupported outside of Linux.
pub fn stop_with_parent(parent_pid: u32) -> std::io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        let signal = libc::c_ulong::from(libc::SIGTERM.unsigned_abs());
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and accesses no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(std::os::unix::process::parent_id() == parent_pid)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = parent_pid;
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Whether the process was started with this signal ignored, as `nohup` does with SIGHUP.
#[must_use]
pub fn signal_is_ignored(signal: i32) -> bool {
    // SAFETY: all bits zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with a null new action, sigaction only writes the present one to `action`, which is
    // valid and writable.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Resident memory of this process in bytes; `None` where the system does not provide it.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Polls `done` for at most `longest`; returns whether it became true. For shutting down only.
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
    fn sleeps_until_the_deadline() {
        let start = monotonic_now();
        let deadline = start.after(Duration::from_millis(20));
        sleep_until(deadline);
        let woken = monotonic_now();
        assert!(deadline <= woken, "woken {:?} before the deadline", deadline.since(woken));
        sleep_until(start);
        assert!(monotonic_now().since(woken).get() < Duration::from_secs(1));
    }

    #[test]
    fn simulated_time_is_the_value_set() {
        let clock = NodeClock::new(true);
        assert_eq!(clock.ros(), Stamp::default());
        clock.set_simulated(Stamp::from_ros(5, 6));
        assert_eq!(clock.clone().ros(), Stamp::from_ros(5, 6));
        let system = NodeClock::new(false);
        system.set_simulated(Stamp::from_ros(5, 6));
        assert!(Stamp::from_ros(1_600_000_000, 0) < system.ros());
    }
}
