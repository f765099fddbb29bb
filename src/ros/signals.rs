//! Signals that end the process, and the end of the parent process.
//!
//! The first of SIGINT, SIGTERM and SIGHUP requests an orderly stop: the command is ramped down to
//! zero. A second one ends the process only if the ramp is overdue, a third one at once, but not
//! earlier than [`PATIENCE`] after the first: a launcher's own signals count too. Signals
//! within [`SAME`] of the last one counted are taken as the same request: a terminal sends one
//! signal to the whole process group, and a launcher forwards it. SIGHUP never ends the process at
//! once, because shells and the kernel send it several times when a terminal closes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level,
};

use crate::runtime::{monotonic_now, signal_is_ignored, stop_with_parent};

/// Signals that follow each other within this time are one request.
const SAME: Duration = Duration::from_millis(50);
/// Shortest time from the first signal to one that ends the process at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// Environment variable with the process id of the parent whose end stops this process. The launch
/// file sets it.
pub(super) const PARENT_PID: &str = "OPENVLA_TT_PARENT_PID";

/// Requests to stop, counted by the signal handlers.
#[derive(Clone, Default)]
pub(super) struct StopSignals(Arc<Counters>);

/// Read and written by signal handlers: atomics only.
#[derive(Default)]
struct Counters {
    stop: AtomicBool,
    /// Requests counted so far.
    requests: AtomicU32,
    /// Time of the first and of the last counted request, nanoseconds on the steady clock.
    first: AtomicU64,
    last: AtomicU64,
    /// Time that a stop may take, nanoseconds; 0 before anything can move.
    stop_time: AtomicU64,
}

impl StopSignals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The system's, when it refuses a handler.
    pub fn install() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && signal_is_ignored(signal) {
                continue; // started by nohup
            }
            let counters = Arc::clone(&signals.0);
            let handler = move || {
                if counters.count(signal, monotonic_now().nanoseconds()) {
                    low_level::exit(128 + signal);
                }
            };
            // SAFETY: the handler is async-signal-safe: it uses atomics, `clock_gettime` and
            // `_exit`, and neither allocates, locks nor panics.
            unsafe { low_level::register(signal, handler) }?;
        }
        Ok(signals)
    }

    /// Whether a stop has been requested.
    pub fn requested(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    /// The flag behind [`Self::requested`].
    #[cfg(feature = "cli")]
    pub fn flag(&self) -> &AtomicBool {
        &self.0.stop
    }

    /// Sets how long after the first signal a stop counts as overdue.
    pub fn set_stop_time(&self, stop_time: Duration) {
        let nanoseconds = u64::try_from(stop_time.as_nanos()).unwrap_or(u64::MAX);
        self.0.stop_time.store(nanoseconds, Ordering::Release);
    }

    /// Stops this process when its parent ends, if [`PARENT_PID`] is set. If the parent has ended
    /// already, the stop is requested at once.
    ///
    /// # Errors
    /// A value that is no process id, or the system's error, in one line.
    pub fn follow_parent(&self) -> Result<(), String> {
        let Some(value) = std::env::var_os(PARENT_PID).filter(|value| !value.is_empty()) else {
            return Ok(());
        };
        let value = value.to_string_lossy();
        let pid: u32 = value.parse().map_err(|_| {
            format!("{PARENT_PID} is '{value}', but must be the process id of the parent")
        })?;
        let alive = stop_with_parent(pid)
            .map_err(|error| format!("{PARENT_PID}: cannot follow process {pid}: {error}"))?;
        if !alive {
            eprintln!(
                "vla_node: process {pid} ({PARENT_PID}) is not the parent of this process (it has \
                ended, or a launch prefix is in between); stopping"
            );
            self.0.count(SIGTERM, monotonic_now().nanoseconds());
        }
        Ok(())
    }
}

impl Counters {
    /// Counts a signal; returns whether the process must end at once. Async-signal-safe.
    fn count(&self, signal: i32, now: u64) -> bool {
        self.stop.store(true, Ordering::Release);
        let requests = self.requests.load(Ordering::Acquire);
        if requests == 0 {
            self.first.store(now, Ordering::Release);
        } else {
            let since_last = now.saturating_sub(self.last.load(Ordering::Acquire));
            if signal == SIGHUP || u128::from(since_last) < SAME.as_nanos() {
                return false;
            }
        }
        self.last.store(now, Ordering::Release);
        self.requests.store(requests + 1, Ordering::Release);
        let since_first = now.saturating_sub(self.first.load(Ordering::Acquire));
        let overdue = self.stop_time.load(Ordering::Acquire) < since_first;
        match requests {
            0 => false,
            1 => overdue,
            _ => PATIENCE.as_nanos() <= u128::from(since_first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Whether each signal ends the process, at these times in milliseconds; a stop takes 400 ms.
    fn ends(signals: &[(i32, u64)]) -> Vec<bool> {
        let counters = Counters::default();
        counters.stop_time.store(400 * MS, Ordering::Release);
        let ends = signals.iter().map(|&(signal, at)| counters.count(signal, (1000 + at) * MS));
        let ends = ends.collect();
        assert!(counters.stop.load(Ordering::Acquire));
        ends
    }

    #[test]
    fn second_signal_ends_only_an_overdue_stop() {
        assert_eq!(ends(&[(SIGINT, 0), (SIGINT, 100)]), [false, false]);
        assert_eq!(ends(&[(SIGINT, 0), (SIGTERM, 399)]), [false, false]);
        assert_eq!(ends(&[(SIGTERM, 0), (SIGINT, 401)]), [false, true]);
    }

    #[test]
    fn third_signal_ends_at_once() {
        assert_eq!(ends(&[(SIGINT, 0), (SIGINT, 100), (SIGINT, 499)]), [false; 3]);
        assert_eq!(ends(&[(SIGINT, 0), (SIGINT, 100), (SIGINT, 500)]), [false, false, true]);
    }

    #[test]
    fn signals_of_one_request_count_once() {
        let group = [(SIGINT, 0), (SIGINT, 5), (SIGTERM, 20), (SIGINT, 100), (SIGINT, 105)];
        assert_eq!(ends(&group), [false; 5]);
    }

    #[test]
    fn hangups_never_end_at_once() {
        assert_eq!(ends(&[(SIGHUP, 0), (SIGHUP, 100), (SIGHUP, 900), (SIGHUP, 2000)]), [false; 4]);
    }
}
