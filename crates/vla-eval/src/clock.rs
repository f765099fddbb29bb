//! Whether the stamps of a topic are fit for matching: a stamp that stands still, and the distance
//! of stamps from the recorder's clock, by which two clocks are told apart.

/// Messages whose distance is kept: enough for a median.
const KEPT: usize = 4096;

/// Distance of two clocks above which log times are used instead, nanoseconds. No camera takes that
/// long; clocks without synchronization, boards without a battery and simulators differ by more.
const FOREIGN_NS: u64 = 10_000_000_000;

/// Distance of two clocks that is named, nanoseconds.
const NOTED_NS: u64 = 1_000_000_000;

/// What is known of a topic's stamps.
#[derive(Debug, Clone, Default)]
pub struct StampLog {
    /// Messages with a stamp.
    stamped: u64,
    /// Messages whose stamp is that of the message before.
    repeated: u64,
    last: Option<i64>,
    /// Log time minus stamp.
    distances: Vec<i64>,
}

impl StampLog {
    /// Adds a message.
    pub fn add(&mut self, log_time: i64, stamp: Option<i64>) {
        let Some(stamp) = stamp else { return };
        self.stamped += 1;
        if self.last.replace(stamp) == Some(stamp) {
            self.repeated += 1;
        }
        if self.distances.len() < KEPT {
            self.distances.push(log_time.saturating_sub(stamp));
        }
    }

    /// Whether nine of ten stamps are that of the message before.
    pub fn stands_still(&self) -> bool {
        self.stamped >= 3 && self.repeated * 10 >= (self.stamped - 1) * 9
    }

    /// Median of log time minus stamp.
    pub fn distance(&self) -> Option<i64> {
        let mut sorted = self.distances.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// By which times images and actions are compared, and why not by their stamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Stamps, if both have them.
    Stamps,
    /// Stamps, although the clocks seem to differ.
    Doubtful(String),
    /// Log times, for this reason.
    LogTimes(String),
}

/// Compares the stamps of two topics. `exact`: actions carry the stamp of their image, so that
/// their distance is the duration of an inference.
pub fn compare(image: (&str, &StampLog), action: (&str, &StampLog), exact: bool) -> Verdict {
    for (topic, log) in [image, action] {
        if log.stands_still() {
            return Verdict::LogTimes(format!(
                "the stamps of {topic} stand still ({} of {} messages have the stamp of the one \
                before)",
                log.repeated, log.stamped
            ));
        }
    }
    let (Some(first), Some(second)) = (image.1.distance(), action.1.distance()) else {
        return Verdict::Stamps;
    };
    let apart = first.abs_diff(second);
    if exact || apart < NOTED_NS {
        return Verdict::Stamps;
    }
    let why = format!(
        "the stamps of {} and {} are of different clocks: {} and {} the recorder's",
        image.0,
        action.0,
        against(first),
        against(second)
    );
    if apart < FOREIGN_NS { Verdict::Doubtful(why) } else { Verdict::LogTimes(why) }
}

/// Distance from the recorder's clock, in words.
fn against(log_minus_stamp: i64) -> String {
    let words = in_words(log_minus_stamp.unsigned_abs());
    if log_minus_stamp < 0 { format!("{words} ahead of") } else { format!("{words} behind") }
}

/// A duration in the unit in which it is read best.
pub fn in_words(nanoseconds: u64) -> String {
    let seconds = nanoseconds as f64 * 1e-9;
    let units = [
        (31_557_600.0, "years"),
        (86_400.0, "days"),
        (3600.0, "hours"),
        (60.0, "minutes"),
        (1.0, "s"),
    ];
    match units.iter().find(|(length, _)| seconds >= 2.0 * length) {
        Some((length, name)) => format!("{:.1} {name}", seconds / length),
        None => format!("{:.0} ms", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    const S: i64 = 1_000_000_000;

    fn log(count: i64, stamp: impl Fn(i64) -> i64) -> StampLog {
        let mut log = StampLog::default();
        (0..count).for_each(|i| log.add(1_760_000_000 * S + i * S / 5, Some(stamp(i))));
        log
    }

    #[test]
    fn constant_stamps_stand_still() {
        let fixed = log(10, |_| 7 * S);
        assert!(fixed.stands_still());
        assert!(!log(10, |i| i / 2).stands_still(), "each image twice");
        assert!(!log(2, |_| 7).stands_still(), "two images show nothing");
        let moving = log(10, |i| 1_760_000_000 * S + i * S / 5);
        let Verdict::LogTimes(why) = compare(("/camera", &fixed), ("/cmd", &moving), false) else {
            panic!("not noticed")
        };
        assert!(why.contains("/camera stand still (9 of 10"), "{why}");
    }

    #[test]
    fn clocks_are_told_apart_in_words() {
        let now = log(10, |i| 1_760_000_000 * S + i * S / 5 - S / 20);
        let boot = log(10, |i| 40 * S + i * S / 5);
        let Verdict::LogTimes(why) = compare(("/camera", &boot), ("/cmd", &now), false) else {
            panic!("not noticed")
        };
        assert!(why.contains("55.8 years behind and 50 ms behind"), "{why}");
        assert_eq!(compare(("/a", &boot), ("/b", &boot), false), Verdict::Stamps, "one clock");
        assert_eq!(compare(("/a", &now), ("/b", &boot), true), Verdict::Stamps);
        let late = log(10, |i| 1_760_000_000 * S + i * S / 5 - 3 * S);
        assert!(matches!(compare(("/a", &late), ("/b", &now), false), Verdict::Doubtful(_)));
        let unstamped = StampLog::default();
        assert_eq!(compare(("/a", &boot), ("/b", &unstamped), false), Verdict::Stamps);
    }

    #[test]
    fn durations_in_words() {
        for (nanoseconds, words) in [
            (0, "0 ms"),
            (340_000_000, "340 ms"),
            (1_900_000_000, "1900 ms"),
            (90_000_000_000, "90.0 s"),
            (7_200_000_000_000, "2.0 hours"),
            (u64::MAX, "584.5 years"),
        ] {
            assert_eq!(in_words(nanoseconds), words);
        }
    }
}
