//! Gripper command: two positions with hysteresis and a minimum dwell time between changes, or the
//! policy's value with a limited rate.

use super::{
    config::RawGripper,
    reason::{Intervention, InterventionSet},
};
use crate::time::Instant;
use std::time::Duration;

/// The gripper command and the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Gripper {
    /// 0 closed, 1 open; `None` before the first decisive value of the policy.
    command: Option<f64>,
    /// Time of the last change; of a continuous command, of the last value.
    changed: Option<Instant>,
}

impl Gripper {
    pub(super) const fn command(&self) -> Option<f64> {
        self.command
    }

    /// Applies the policy's finite value; returns the new command when it changes between open and
    /// closed.
    pub(super) fn update(
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
        if config.continuous {
            let seconds = self.changed.map_or(0.0, |last| now.since(last).seconds());
            let most = config.rate * seconds;
            // The first command is the value: no other one is known.
            let command = self.command.map_or(opening, |held| {
                if most < (opening - held).abs() {
                    done.insert(Intervention::GripperRate);
                }
                held + (opening - held).clamp(-most, most)
            });
            (self.command, self.changed) = (Some(command), Some(now));
            return None;
        }
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
        // The first command is not delayed: there was none before it.
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

    const CONFIG: RawGripper = RawGripper {
        threshold: 0.5,
        hysteresis: 0.1,
        min_dwell_s: 0.5,
        invert: false,
        continuous: false,
        rate: 2.0,
    };

    fn at(ms: u64) -> Instant {
        Instant::from_nanoseconds(ms * 1_000_000)
    }

    fn update(
        gripper: &mut Gripper,
        ms: u64,
        value: f64,
        config: &RawGripper,
    ) -> (Option<f64>, InterventionSet) {
        let mut done = InterventionSet::EMPTY;
        (gripper.update(at(ms), value, config, &mut done), done)
    }

    #[test]
    fn no_command_before_a_decisive_value() {
        let mut gripper = Gripper::default();
        let (change, done) = update(&mut gripper, 0, 0.55, &CONFIG);
        assert_eq!((change, gripper.command()), (None, None));
        assert!(done.is_empty());
        assert_eq!(update(&mut gripper, 20, 0.61, &CONFIG).0, Some(1.0));
        assert_eq!(gripper.command(), Some(1.0));
    }

    #[test]
    fn hysteresis_is_counted_when_it_has_an_effect() {
        let mut gripper = Gripper::default();
        update(&mut gripper, 0, 1.0, &CONFIG);
        for value in [0.6, 0.5, 0.45, 0.4] {
            let (change, done) = update(&mut gripper, 10_000, value, &CONFIG);
            assert_eq!(change, None, "{value}");
            assert_eq!(done.contains(Intervention::GripperHysteresis), value <= 0.5, "{value}");
        }
        assert_eq!(update(&mut gripper, 10_000, 0.39, &CONFIG).0, Some(0.0));
        let (change, done) = update(&mut gripper, 20_000, 0.55, &CONFIG);
        assert!(change.is_none() && done.contains(Intervention::GripperHysteresis));
    }

    #[test]
    fn changes_wait_for_the_dwell() {
        let mut gripper = Gripper::default();
        assert_eq!(update(&mut gripper, 1000, 0.0, &CONFIG).0, Some(0.0));
        let (change, done) = update(&mut gripper, 1499, 1.0, &CONFIG);
        assert!(change.is_none() && done.contains(Intervention::GripperDwell));
        assert_eq!(update(&mut gripper, 1500, 1.0, &CONFIG).0, Some(1.0));
        // A value equal to the command does not restart the dwell.
        assert_eq!(update(&mut gripper, 1900, 1.0, &CONFIG).0, None);
        assert_eq!(update(&mut gripper, 2000, 0.0, &CONFIG).0, Some(0.0));
    }

    #[test]
    fn polarity_and_range() {
        let inverted = RawGripper { invert: true, ..CONFIG };
        let mut gripper = Gripper::default();
        let (change, done) = update(&mut gripper, 0, 1.7, &inverted);
        assert_eq!(change, Some(0.0));
        assert!(done.contains(Intervention::GripperRange));
        let (change, done) = update(&mut gripper, 600, -0.2, &inverted);
        assert_eq!(change, Some(1.0));
        assert!(done.contains(Intervention::GripperRange));
        assert!(update(&mut gripper, 600, 0.0, &inverted).1.is_empty());
    }

    #[test]
    fn hysteresis_band_includes_its_ends() {
        for value in [0.6, 0.4] {
            let mut gripper = Gripper::default();
            assert_eq!(update(&mut gripper, 0, value, &CONFIG).0, None, "{value}");
        }
        assert_eq!(update(&mut Gripper::default(), 0, 0.6 + 1e-12, &CONFIG).0, Some(1.0));
        assert_eq!(update(&mut Gripper::default(), 0, 0.4 - 1e-12, &CONFIG).0, Some(0.0));
    }

    #[test]
    fn continuous_value_has_a_rate() {
        let config = RawGripper { continuous: true, invert: true, ..CONFIG };
        let mut gripper = Gripper::default();
        assert_eq!(update(&mut gripper, 0, 0.75, &config).0, None);
        assert_eq!(gripper.command(), Some(0.25));
        let (_, done) = update(&mut gripper, 125, 0.0, &config);
        assert_eq!(gripper.command(), Some(0.5));
        assert!(done.contains(Intervention::GripperRate));
        let (_, done) = update(&mut gripper, 625, -3.0, &config);
        assert_eq!(gripper.command(), Some(1.0));
        assert!(!done.contains(Intervention::GripperRate));
        assert!(done.contains(Intervention::GripperRange));
    }
}
