//! Cost clock: what launches take, so that a test sees work that does not fit a deadline.
//!
//! The arithmetic of this simulator takes a host's time, which says nothing about a device, and an
//! operation takes as long the first time as later. On silicon the first launch of a program
//! compiles it. With the environment variable [`VARIABLE`] every launch takes that many
//! microseconds besides the arithmetic, and [`COLD`] times as many the first time its program runs.

use std::cell::Cell;
use std::time::Duration;

use crate::error::{Result, invalid};

/// Names the microseconds of a warm launch; unset: launches take no time of their own.
pub const VARIABLE: &str = "TT_MESH_SIM_LAUNCH_US";
/// A cold launch in warm ones. tt-openvla measured 20 for a cold call of the whole model.
pub const COLD: u32 = 20;
/// The longest launch that can be asked for, microseconds.
const LONGEST_US: u32 = 1_000_000;
/// Sleeps are this long at least: shorter ones are not exact.
const SLEEP: Duration = Duration::from_millis(2);

thread_local! {
    static LAUNCHED: Cell<u64> = const { Cell::new(0) };
}

/// Programs that this thread has launched on its meshes, as TT-NN launches them, captured ones and
/// those of executed traces included.
#[must_use]
pub fn launched() -> u64 {
    LAUNCHED.get()
}

/// Time per launch of one mesh.
#[derive(Debug, Default)]
pub struct CostClock {
    warm: Duration,
    /// Not slept yet.
    owed: Duration,
}

impl CostClock {
    /// The clock that the environment asks for.
    pub fn from_environment() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Ok(text) => Self::parse(&text),
            Err(std::env::VarError::NotUnicode(text)) => Self::parse(&text.to_string_lossy()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let us = text.parse().ok().filter(|us| (1..=LONGEST_US).contains(us)).ok_or_else(|| {
            invalid(format!(
                "{VARIABLE} is '{text}', not microseconds of a launch from 1 to {LONGEST_US}; \
                unset it for launches without a time of their own"
            ))
        })?;
        Ok(Self { warm: Duration::from_micros(us.into()), owed: Duration::ZERO })
    }

    /// Some launches, cold or warm, whether run, captured or executed by a trace.
    pub fn launch(&mut self, count: u32, cold: bool) {
        LAUNCHED.set(LAUNCHED.get() + u64::from(count));
        self.owed += self.warm * count * if cold { COLD } else { 1 };
        if SLEEP <= self.owed {
            std::thread::sleep(std::mem::take(&mut self.owed));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn launches_take_their_time() {
        let mut clock = CostClock::parse("100").unwrap();
        let started = std::time::Instant::now();
        (0..40).for_each(|_| clock.launch(1, false));
        clock.launch(2, true);
        assert!(Duration::from_millis(8) <= started.elapsed() + SLEEP);
        assert!(clock.owed < SLEEP);
        let mut none = CostClock::default();
        none.launch(1_000_000, true);
        assert_eq!(none.owed, Duration::ZERO);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        for text in ["", "0", "-1", "fast", "1000001", "1e3"] {
            let refused = CostClock::parse(text).unwrap_err();
            assert!(refused.text.contains(VARIABLE), "{text}: {}", refused.text);
        }
    }
}
