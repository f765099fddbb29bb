//! Whether a gripper holds something: it is commanded closed, and its measured opening stays above
//! the command, at rest. Pure.

use std::time::Duration;

use vla_control::action_chunk::GRIPPERS_MAX;
use vla_control::time::Instant;

/// A command below it counts as closed.
const CLOSED_BELOW: f64 = 0.5;
/// An opening that changes by more is not at rest.
const REST: f64 = 0.02;
/// Accepted values of `holding_opening`.
const OPENING: std::ops::RangeInclusive<f64> = 0.01..=0.9;
/// Accepted values of `holding_time_s`.
const TIME_S: std::ops::RangeInclusive<f64> = 0.1..=10.0;

/// What counts as holding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Condition {
    /// Least distance of the measured opening from the commanded one.
    opening: f64,
    /// How long it must last, at rest.
    time: Duration,
}

impl Condition {
    /// The values of a goal, or what is wrong with them.
    pub fn read(opening: f64, time_s: f64) -> Result<Self, String> {
        for (name, value, range) in
            [("holding_opening", opening, OPENING), ("holding_time_s", time_s, TIME_S)]
        {
            if !range.contains(&value) {
                let (low, high) = range.into_inner();
                return Err(format!("{name} is {value}; it must be from {low} to {high}"));
            }
        }
        Ok(Self { opening, time: Duration::from_secs_f64(time_s) })
    }
}

/// What is known of a gripper since the goal began.
#[derive(Debug, Clone, Copy, Default)]
struct Gripper {
    /// The opening that the present one is at rest around, and since when.
    rest: Option<(f64, Instant)>,
    /// Since when it is commanded closed with its opening above the command.
    above: Option<Instant>,
    /// It was commanded open, or moved, during the goal: what it holds now was not held before.
    acted: bool,
}

/// The grippers of a goal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Grippers([Gripper; GRIPPERS_MAX]);

impl Grippers {
    /// Takes commands and measured openings (0 closed, 1 open; `None` where unknown) and returns a
    /// sentence once a gripper holds something.
    pub fn update(
        &mut self,
        now: Instant,
        condition: &Condition,
        commands: &[Option<f64>; GRIPPERS_MAX],
        openings: &[Option<f64>; GRIPPERS_MAX],
    ) -> Option<String> {
        let values = commands.iter().zip(openings);
        let mut found = None;
        // Every gripper is followed, also after the first that holds something.
        for (index, (gripper, (command, opening))) in self.0.iter_mut().zip(values).enumerate() {
            if gripper.holds(now, condition, *command, *opening) {
                let (command, opening) = (command.unwrap_or(0.0), opening.unwrap_or(0.0));
                let time = condition.time.as_secs_f64();
                found = found.or(Some(format!(
                    "gripper {index} holds something: commanded {command:.2}, it rests at \
                    {opening:.2} for {time} s (0 closed, 1 open)"
                )));
            }
        }
        found
    }
}

impl Gripper {
    fn holds(
        &mut self,
        now: Instant,
        condition: &Condition,
        command: Option<f64>,
        opening: Option<f64>,
    ) -> bool {
        self.acted |= command.is_some_and(|command| CLOSED_BELOW <= command);
        let Some(opening) = opening else {
            (self.rest, self.above) = (None, None);
            return false;
        };
        let rests_since = match self.rest {
            Some((around, since)) if (opening - around).abs() <= REST => since,
            before => {
                self.acted |= before.is_some();
                self.rest = Some((opening, now));
                now
            }
        };
        let closed = command.filter(|command| *command < CLOSED_BELOW);
        if !closed.is_some_and(|command| condition.opening < opening - command) {
            self.above = None;
            return false;
        }
        let since = (*self.above.get_or_insert(now)).max(rests_since);
        self.acted && condition.time <= now.since(since).get()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    /// Feeds (ms, command, opening) and returns the time at which something is held.
    fn held(values: &[(u64, Option<f64>, Option<f64>)]) -> Option<u64> {
        let condition = Condition::read(0.05, 0.5).expect("in range");
        let mut grippers = Grippers::default();
        values.iter().find_map(|&(ms, command, opening)| {
            let one = |value| [value, None, None, None];
            let now = Instant::from_nanoseconds(ms * 1_000_000);
            let text = grippers.update(now, &condition, &one(command), &one(opening));
            text.map(|_| ms)
        })
    }

    /// A value every 20 ms: `opening` of the time in seconds, commanded closed from 1 s on.
    fn closing(opening: impl Fn(f64) -> Option<f64>) -> Option<u64> {
        let values: Vec<_> = (0..200)
            .map(|step: u32| {
                let s = f64::from(step) * 0.02;
                let command = if s < 1.0 { 1.0 } else { 0.0 };
                (u64::from(step) * 20, Some(command), opening(s))
            })
            .collect();
        held(&values)
    }

    #[test]
    fn an_object_between_the_fingers_is_held_after_the_time() {
        // Closes at 1 per second from 1 s on, and is stopped at 0.4 at 1.6 s.
        let at = closing(|s| Some((2.0 - s).clamp(0.4, 1.0))).expect("held");
        assert!((2080..=2140).contains(&at), "{at}");
    }

    #[test]
    fn an_empty_gripper_holds_nothing() {
        assert_eq!(closing(|s| Some((2.0 - s).clamp(0.0, 1.0))), None);
        assert_eq!(closing(|s| Some((2.0 - s).clamp(0.04, 1.0))), None, "below the threshold");
    }

    #[test]
    fn a_moving_gripper_holds_nothing_yet() {
        assert_eq!(closing(|s| Some((1.2 - 0.2 * s).clamp(0.0, 1.0))), None, "closes slowly");
        let slips = |s: f64| Some(0.4 + 0.05 * (s * 7.0).sin());
        assert_eq!(closing(slips), None);
    }

    #[test]
    fn a_lost_measurement_starts_anew() {
        let lost = |s: f64| (!(1.9..2.0).contains(&s)).then(|| (2.0 - s).clamp(0.4, 1.0));
        let at = closing(lost).expect("held");
        assert!((2500..=2540).contains(&at), "{at}");
        assert_eq!(closing(|_| None), None);
    }

    #[test]
    fn what_was_held_before_the_goal_does_not_end_it() {
        let values: Vec<_> = (0..100).map(|step| (step * 20, Some(0.0), Some(0.4))).collect();
        assert_eq!(held(&values), None);
    }

    #[test]
    fn a_continuous_command_is_compared_with_its_value() {
        let at = |command: f64| {
            let values: Vec<_> = (0..100)
                .map(|step: u64| {
                    let opening = if step < 10 { 0.9 } else { 0.4 };
                    (step * 20, Some(command), Some(opening))
                })
                .collect();
            held(&values)
        };
        assert_eq!(at(0.3), Some(700));
        assert_eq!(at(0.4), None, "it is where it is commanded");
        assert_eq!(at(0.6), None, "commanded open");
    }

    #[test]
    fn values_have_ranges() {
        for (opening, time) in [(0.0, 0.5), (f64::NAN, 0.5), (0.05, 0.0), (0.05, 11.0)] {
            let text = Condition::read(opening, time).expect_err("must be refused");
            assert!(text.contains("it must be from"), "{text}");
        }
    }
}
