//! Logging through rcutils, so that `--log-level`, the console format and the log files work as for
//! other nodes, and on `/rosout`.
//!
//! Lines may contain text from messages. Control characters in it are escaped, so that it can
//! neither forge a line nor send codes to a terminal.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use r2r::{LogSeverity, Publisher, rcl_interfaces::msg::Log};
use vla_control::time::Clock;

use super::messages;
use crate::runtime::NodeClock;

/// Longest line, in characters.
const LONGEST: usize = 4000;

/// Severity of a line; the numbers are those of `rcl_interfaces/Log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Debug = 10,
    Info = 20,
    Warn = 30,
    Error = 40,
}

/// What the lines of this process carry; set once, when the node has a name.
struct Logger {
    /// The node's name with its namespace, separated by dots, as in other client libraries.
    name: String,
    rosout: Mutex<Publisher<Log>>,
    clock: NodeClock,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Sets the logger's name and the publisher of `/rosout`. Only the first call has an effect.
pub(super) fn init(name: &str, rosout: Publisher<Log>, clock: NodeClock) {
    let name = if name.is_empty() { "vla" } else { name }.to_owned();
    let _ = LOGGER.set(Logger { name, rosout: Mutex::new(rosout), clock });
}

/// Logs one line.
fn log(severity: Severity, text: &str) {
    let line = escape(text);
    let native = match severity {
        Severity::Debug => LogSeverity::Debug,
        Severity::Info => LogSeverity::Info,
        Severity::Warn => LogSeverity::Warn,
        Severity::Error => LogSeverity::Error,
    };
    let logger = LOGGER.get();
    r2r::log(&line, logger.map_or("vla", |logger| &logger.name), file!(), line!(), native);
    if severity != Severity::Debug
        && let Some(logger) = logger
    {
        let message = Log {
            stamp: messages::time(logger.clock.ros()),
            level: severity as u8,
            name: logger.name.clone(),
            msg: line,
            ..Log::default()
        };
        // There is no place left to report that this failed.
        let _ = logger.rosout.lock().unwrap_or_else(PoisonError::into_inner).publish(&message);
    }
}

/// The text in one line, without control characters, and of a bounded length.
#[must_use]
pub(super) fn escape(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST));
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            line.push_str(" ...");
            break;
        }
        match c {
            '\n' => line.push_str("\\n"),
            // Line and paragraph separators, and the codes that change the direction of text.
            c if c.is_control()
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') =>
            {
                let _ = write!(line, "\\u{{{:x}}}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line
}

pub(super) fn debug(text: impl AsRef<str>) {
    log(Severity::Debug, text.as_ref());
}

pub(super) fn info(text: impl AsRef<str>) {
    log(Severity::Info, text.as_ref());
}

pub(super) fn warn(text: impl AsRef<str>) {
    log(Severity::Warn, text.as_ref());
}

pub(super) fn error(text: impl AsRef<str>) {
    log(Severity::Error, text.as_ref());
}

/// Logs a line whose rate others decide, at most `BURST` at once and one per `REFILL` of each kind.
pub(super) fn limited(severity: Severity, kind: &'static str, text: impl AsRef<str>) {
    static LIMITS: OnceLock<Mutex<HashMap<&'static str, RateLimit>>> = OnceLock::new();
    let mut limits =
        LIMITS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let permitted = limits.entry(kind).or_default().permit(Instant::now());
    drop(limits);
    match permitted {
        Some(0) => log(severity, text.as_ref()),
        Some(n) => {
            log(severity, &format!("{} ({n} earlier lines of this kind left out)", text.as_ref()))
        }
        None => {}
    }
}

/// Lines of one kind that may follow each other at once.
const BURST: u32 = 5;
/// Interval at which one more line of a kind is permitted.
const REFILL: Duration = Duration::from_secs(5);

/// Token bucket for lines of one kind.
#[derive(Debug, Default)]
struct RateLimit {
    used: u32,
    last: Option<Instant>,
    left_out: u64,
}

impl RateLimit {
    /// Whether a line may be logged now; with the number of lines left out since the last one.
    fn permit(&mut self, now: Instant) -> Option<u64> {
        let last = *self.last.get_or_insert(now);
        let refilled = now.saturating_duration_since(last).as_millis() / REFILL.as_millis();
        if refilled > 0 {
            self.used = self.used.saturating_sub(u32::try_from(refilled).unwrap_or(u32::MAX));
            self.last = Some(now);
        }
        if self.used < BURST {
            self.used += 1;
            Some(std::mem::take(&mut self.left_out))
        } else {
            self.left_out += 1;
            None
        }
    }
}

/// Limits lines about a state that comes and goes: each key at most once per interval.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: HashMap<String, Instant>,
}

impl Throttle {
    /// Whether a line with this key is to be logged now.
    pub fn permit(&mut self, key: &str, now: Instant, interval: Duration) -> bool {
        self.last.retain(|_, at| now.saturating_duration_since(*at) < interval);
        let permitted = !self.last.contains_key(key);
        if permitted {
            self.last.insert(key.to_owned(), now);
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incoming_text_forges_no_line() {
        let forged = escape("rgb8\n[INFO] [0.0] [vla]: fake\x1b[2J\r\u{9b}1A\0\u{2028}x");
        assert!(!forged.chars().any(char::is_control), "{forged}");
        assert_eq!(
            forged,
            "rgb8\\n[INFO] [0.0] [vla]: fake\\u{1b}[2J\\u{d}\\u{9b}1A\\u{0}\\u{2028}x"
        );
        assert_eq!(escape("ordinary text, Schüssel"), "ordinary text, Schüssel");
        assert!(escape(&"x".repeat(100_000)).len() < LONGEST + 10);
    }

    #[test]
    fn a_flood_is_limited_and_counted() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let flood = |limit: &mut RateLimit, from: u64| {
            (0..1000)
                .filter_map(|i| limit.permit(start + Duration::from_millis(from + i)))
                .collect::<Vec<_>>()
        };
        assert_eq!(flood(&mut limit, 0), [0; 5]);
        assert_eq!(flood(&mut limit, 5000), [995]);
        // A pause makes the whole burst available again.
        assert_eq!(flood(&mut limit, 60_000), [999, 0, 0, 0, 0]);
    }

    #[test]
    fn a_flapping_state_is_logged_once_per_interval() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let ten = Duration::from_secs(10);
        let logged = |throttle: &mut Throttle, key, from: u64| {
            (0..100)
                .filter(|i| throttle.permit(key, start + Duration::from_millis(from + 90 * i), ten))
                .count()
        };
        assert_eq!((logged(&mut throttle, "a", 0), logged(&mut throttle, "b", 0)), (1, 1));
        assert_eq!(logged(&mut throttle, "a", 10_000), 1);
    }
}
