//! Detectors that report and never move: a policy that repeats itself, and a robot that does not
//! follow.

use super::{
    config::RawDetectors,
    reason::{Cause, Reason},
    types::{Event, Events},
    vector::{V3, norm, sub},
};
use crate::action_chunk::ChunkStep;

/// What the detectors remember.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Detectors {
    last: Option<ChunkStep>,
    repeats: u32,
    /// Where the end effector was when the repetition began.
    from: Option<V3>,
    constant: bool,
    stuck: bool,
}

impl Detectors {
    /// Hears the first step of each chunk taken, and where the end effector is then, if known.
    pub(super) fn hear(
        &mut self,
        step: &ChunkStep,
        position: Option<V3>,
        config: &RawDetectors,
        events: &mut Events,
    ) {
        if self.last == Some(*step) {
            self.repeats = self.repeats.saturating_add(1);
        } else {
            self.last = Some(*step);
            self.repeats = 1;
            self.from = position;
        }
        let constant = config.constant_steps <= self.repeats;
        note(&mut self.constant, constant, events, || Cause {
            reason: Reason::ConstantAction,
            value: f64::from(config.constant_steps),
            limit: f64::from(config.constant_steps),
            unit: "actions",
        });
        let moved = self.from.zip(position).map(|(from, to)| norm(sub(to, from)));
        let still = moved.is_some_and(|moved| moved < config.stuck_distance);
        note(&mut self.stuck, constant && still, events, || Cause {
            reason: Reason::Stuck,
            value: moved.unwrap_or(0.0),
            limit: config.stuck_distance,
            unit: "m",
        });
    }

    /// Motion was interrupted: a repetition across the gap means nothing.
    pub(super) fn forget(&mut self, events: &mut Events) {
        if self.constant {
            events.push(Event::NoLonger(Reason::ConstantAction));
        }
        if self.stuck {
            events.push(Event::NoLonger(Reason::Stuck));
        }
        *self = Self::default();
    }

    /// What is noticed now, the graver first.
    pub(super) const fn noticed(&self) -> Option<Reason> {
        if self.stuck {
            Some(Reason::Stuck)
        } else if self.constant {
            Some(Reason::ConstantAction)
        } else {
            None
        }
    }
}

/// Turns a change of `flag` into an event.
fn note(flag: &mut bool, now: bool, events: &mut Events, cause: impl FnOnce() -> Cause) {
    if *flag == now {
        return;
    }
    *flag = now;
    let cause = cause();
    events.push(if now { Event::Noticed(cause) } else { Event::NoLonger(cause.reason) });
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: RawDetectors = RawDetectors { constant_steps: 3, stuck_distance: 0.5 };

    /// What is noticed after three equal actions during which the end effector moved that far.
    fn after_moving(distance: f64) -> Option<Reason> {
        let mut detectors = Detectors::default();
        let mut events = Events::default();
        for x in [0.0, 0.0, distance] {
            detectors.hear(&ChunkStep::default(), Some([x, 0.0, 0.0]), &CONFIG, &mut events);
        }
        detectors.noticed()
    }

    #[test]
    fn stuck_is_less_than_the_distance() {
        assert_eq!(after_moving(0.49), Some(Reason::Stuck));
        assert_eq!(after_moving(0.5), Some(Reason::ConstantAction));
    }

    #[test]
    fn repetition_needs_its_number_and_ends_with_another_action() {
        let mut detectors = Detectors::default();
        let mut events = Events::default();
        let other = ChunkStep { gripper: 1.0, ..ChunkStep::default() };
        for (step, expected) in [
            (ChunkStep::default(), None),
            (ChunkStep::default(), None),
            (ChunkStep::default(), Some(Reason::ConstantAction)),
            (other, None),
            (other, None),
            (other, Some(Reason::ConstantAction)),
        ] {
            detectors.hear(&step, None, &CONFIG, &mut events);
            assert_eq!(detectors.noticed(), expected);
        }
        assert_eq!(events.iter().count(), 3);
    }
}
