//! Stall detector: a policy that repeats one action (`CONSTANT_ACTION`), and a robot that does not
//! move meanwhile (`STUCK`). Reported only; motion is not affected.

use super::{
    config::RawDetectors,
    events::{Event, Events},
    reason::{Cause, Reason},
    vector::{V3, norm, sub},
};
use crate::action_chunk::ChunkStep;

/// State between chunks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StallDetector {
    last: Option<ChunkStep>,
    repeats: u32,
    /// Position of the end effector when the repetition began.
    from: Option<V3>,
    constant: bool,
    stuck: bool,
}

impl StallDetector {
    /// Takes the first step of each accepted chunk, and the end-effector position if known.
    pub(super) fn update(
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
        let limit = f64::from(config.constant_steps);
        set_flag(&mut self.constant, constant, events, || {
            Cause::measured(Reason::ConstantAction, limit, limit, "actions")
        });
        let moved = self.from.zip(position).map(|(from, to)| norm(sub(to, from)));
        let still = moved.is_some_and(|moved| moved < config.stuck_distance);
        set_flag(&mut self.stuck, constant && still, events, || {
            Cause::measured(Reason::Stuck, moved.unwrap_or(0.0), config.stuck_distance, "m")
        });
    }

    /// Starts anew after an interruption of motion.
    pub(super) fn reset(&mut self, events: &mut Events) {
        if self.constant {
            events.push(Event::DetectionCleared(Reason::ConstantAction));
        }
        if self.stuck {
            events.push(Event::DetectionCleared(Reason::Stuck));
        }
        *self = Self::default();
    }

    /// The present detection; `STUCK` has priority.
    pub(super) const fn detected(&self) -> Option<Reason> {
        if self.stuck {
            Some(Reason::Stuck)
        } else if self.constant {
            Some(Reason::ConstantAction)
        } else {
            None
        }
    }
}

/// Sets `flag` and emits an event when it changes.
fn set_flag(flag: &mut bool, now: bool, events: &mut Events, cause: impl FnOnce() -> Cause) {
    if *flag == now {
        return;
    }
    *flag = now;
    let cause = cause();
    events.push(if now { Event::Detected(cause) } else { Event::DetectionCleared(cause.reason) });
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: RawDetectors = RawDetectors { constant_steps: 3, stuck_distance: 0.5 };

    /// Detection after three equal actions during which the end effector moved by `distance`.
    fn after_moving(distance: f64) -> Option<Reason> {
        let mut detectors = StallDetector::default();
        let mut events = Events::default();
        for x in [0.0, 0.0, distance] {
            detectors.update(&ChunkStep::default(), Some([x, 0.0, 0.0]), &CONFIG, &mut events);
        }
        detectors.detected()
    }

    #[test]
    fn stuck_means_less_than_the_distance() {
        assert_eq!(after_moving(0.49), Some(Reason::Stuck));
        assert_eq!(after_moving(0.5), Some(Reason::ConstantAction));
    }

    #[test]
    fn repetition_ends_with_another_action() {
        let mut detectors = StallDetector::default();
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
            detectors.update(&step, None, &CONFIG, &mut events);
            assert_eq!(detectors.detected(), expected);
        }
        assert_eq!(events.iter().count(), 3);
    }
}
