//! The gripper: two positions, a band in which nothing changes, and a time between changes.

use super::{
    config::RawGripper,
    reason::{Intervention, InterventionSet},
};
use crate::time::Instant;
use std::time::Duration;

/// The gripper's command and when it last changed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Gripper {
    /// 0 closed, 1 open; `None` until the policy has said something.
    command: Option<f64>,
    changed: Option<Instant>,
}

impl Gripper {
    pub(super) const fn command(&self) -> Option<f64> {
        self.command
    }

    /// Hears the policy's finite value; returns the new command when it changes.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        value: f64,
        config: &RawGripper,
        done: &mut InterventionSet,
    ) -> Option<f64> {
        let clipped = value.clamp(0.0, 1.0);
        if clipped != value {
            done.insert(Intervention::GripperRange);
        }
        let opening = if config.invert { 1.0 - clipped } else { clipped };
        let wanted = if config.threshold + config.hysteresis < opening {
            1.0
        } else if opening < config.threshold - config.hysteresis {
            0.0
        } else {
            if let Some(held) = self.command {
                let plain = if config.threshold < opening { 1.0 } else { 0.0 };
                if plain != held {
                    done.insert(Intervention::GripperHysteresis);
                }
            }
            return None;
        };
        if self.command == Some(wanted) {
            return None;
        }
        // The first word is no change: nothing has been commanded yet that could flap.
        let dwell = Duration::from_secs_f64(config.min_dwell_s);
        if self.changed.is_some_and(|changed| now.since(changed).get() < dwell) {
            done.insert(Intervention::GripperDwell);
            return None;
        }
        self.command = Some(wanted);
        self.changed = Some(now);
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RawGripper;

    const CONFIG: RawGripper =
        RawGripper { threshold: 0.5, hysteresis: 0.1, min_dwell_s: 0.5, invert: false };

    fn at(ms: u64) -> Instant {
        Instant::from_nanoseconds(ms * 1_000_000)
    }

    fn hear(
        gripper: &mut Gripper,
        ms: u64,
        value: f64,
        config: &RawGripper,
    ) -> (Option<f64>, InterventionSet) {
        let mut done = InterventionSet::EMPTY;
        (gripper.hear(at(ms), value, config, &mut done), done)
    }

    #[test]
    fn says_nothing_until_the_policy_is_clear() {
        let mut gripper = Gripper::default();
        let (change, done) = hear(&mut gripper, 0, 0.55, &CONFIG);
        assert_eq!((change, gripper.command()), (None, None));
        assert!(done.is_empty());
        assert_eq!(hear(&mut gripper, 20, 0.61, &CONFIG).0, Some(1.0));
        assert_eq!(gripper.command(), Some(1.0));
    }

    #[test]
    fn the_band_holds_and_is_counted_only_when_it_held_something_back() {
        let mut gripper = Gripper::default();
        hear(&mut gripper, 0, 1.0, &CONFIG);
        for value in [0.6, 0.5, 0.45, 0.4] {
            let (change, done) = hear(&mut gripper, 10_000, value, &CONFIG);
            assert_eq!(change, None, "{value}");
            assert_eq!(done.contains(Intervention::GripperHysteresis), value <= 0.5, "{value}");
        }
        assert_eq!(hear(&mut gripper, 10_000, 0.39, &CONFIG).0, Some(0.0));
        let (change, done) = hear(&mut gripper, 20_000, 0.55, &CONFIG);
        assert!(change.is_none() && done.contains(Intervention::GripperHysteresis));
    }

    #[test]
    fn changes_wait_for_the_dwell_to_the_nanosecond() {
        let mut gripper = Gripper::default();
        assert_eq!(hear(&mut gripper, 1000, 0.0, &CONFIG).0, Some(0.0));
        let (change, done) = hear(&mut gripper, 1499, 1.0, &CONFIG);
        assert!(change.is_none() && done.contains(Intervention::GripperDwell));
        assert_eq!(hear(&mut gripper, 1500, 1.0, &CONFIG).0, Some(1.0));
        // Asking for what is already commanded restarts nothing.
        assert_eq!(hear(&mut gripper, 1900, 1.0, &CONFIG).0, None);
        assert_eq!(hear(&mut gripper, 2000, 0.0, &CONFIG).0, Some(0.0));
    }

    #[test]
    fn polarity_and_range() {
        let inverted = RawGripper { invert: true, ..CONFIG };
        let mut gripper = Gripper::default();
        let (change, done) = hear(&mut gripper, 0, 1.7, &inverted);
        assert_eq!(change, Some(0.0));
        assert!(done.contains(Intervention::GripperRange));
        let (change, done) = hear(&mut gripper, 600, -0.2, &inverted);
        assert_eq!(change, Some(1.0));
        assert!(done.contains(Intervention::GripperRange));
        assert!(hear(&mut gripper, 600, 0.0, &inverted).1.is_empty());
    }

    #[test]
    fn the_ends_of_the_band_belong_to_it() {
        for value in [0.6, 0.4] {
            let mut gripper = Gripper::default();
            assert_eq!(hear(&mut gripper, 0, value, &CONFIG).0, None, "{value}");
        }
        assert_eq!(hear(&mut Gripper::default(), 0, 0.6 + 1e-12, &CONFIG).0, Some(1.0));
        assert_eq!(hear(&mut Gripper::default(), 0, 0.4 - 1e-12, &CONFIG).0, Some(0.0));
    }
}
