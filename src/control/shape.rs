//! From a policy step to a target twist: envelope, step cap, workspace, velocity. Each stage only scales, so that the direction stays.

use super::{
    config::{ControlConfig, MotionLimits, RawEnvelope, TICKS_PER_PERIOD, Workspace},
    profile::EPSILON,
    reason::{Intervention, InterventionSet},
    types::Twist,
    vector::{V3, norm, scale},
};
use crate::chunk::ChunkStep;

/// A finite step as a twist: `delta * policy_hz`, nothing changed yet. Saturates instead of overflowing.
pub(super) fn wish(step: &ChunkStep, policy_hz: f64) -> Twist {
    let rate = |delta: f64| (delta * policy_hz).clamp(f64::MIN, f64::MAX);
    Twist { linear: step.translation.map(rate), angular: step.rotation.map(rate) }
}

/// Envelope and step cap: a step within both, in the same direction.
pub(super) fn bound_step(config: &ControlConfig, step: &ChunkStep, done: &mut InterventionSet) -> (V3, V3) {
    let (mut translation, mut rotation) = (step.translation, step.rotation);
    if let Some(envelope) = &config.envelope {
        let factor = envelope_factor(envelope, translation, rotation);
        if factor < 1.0 {
            done.insert(Intervention::Envelope);
            (translation, rotation) = (scale(translation, factor), scale(rotation, factor));
        }
    }
    let factor = cap_factor(norm(translation), config.step_cap.translation)
        .min(cap_factor(norm(rotation), config.step_cap.rotation));
    if factor < 1.0 {
        done.insert(Intervention::StepCap);
        (translation, rotation) = (scale(translation, factor), scale(rotation, factor));
    }
    (translation, rotation)
}

/// By how much a step must shrink so that every component lies within its q01..q99. An interval that does not hold zero is stretched to
/// it: standing still is always allowed. Rounding is forgiven (1e-9 relative): the statistics' own ends are legal.
fn envelope_factor(envelope: &RawEnvelope, translation: V3, rotation: V3) -> f64 {
    let mut factor: f64 = 1.0;
    for (i, value) in translation.into_iter().chain(rotation).enumerate() {
        let bound = if value < 0.0 { envelope.q01[i].min(0.0) } else { envelope.q99[i].max(0.0) };
        if bound.abs() * (1.0 + 1e-9) < value.abs() {
            factor = factor.min(bound / value);
        }
    }
    factor
}

/// `limit / length` when that is below one. An infinite length (three components near the largest number) gives zero.
fn cap_factor(length: f64, limit: f64) -> f64 {
    if limit < length { limit / length } else { 1.0 }
}

/// Scales the linear velocity so that the arm, stopped from there within its limits, comes to rest inside the box.
///
/// `position` is `age_s` old; `moving` is the velocity commanded since. An outward component at or beyond a face scales to zero; inward ones are free.
pub(super) fn guard_workspace(
    config: &ControlConfig,
    area: &Workspace,
    position: V3,
    age_s: f64,
    moving: V3,
    linear: V3,
) -> f64 {
    let period_s = config.period.as_secs_f64();
    let reach = Reach::new(&config.linear, period_s);
    let mut factor: f64 = 1.0;
    for axis in 0..3 {
        // How far the arm may have come since the pose was measured, in either direction.
        let since = moving[axis] * (age_s + period_s);
        let (speed, room) = if 0.0 < linear[axis] {
            (linear[axis], area.max[axis] - position[axis] - since.max(0.0))
        } else {
            (-linear[axis], position[axis] - area.min[axis] + since.min(0.0))
        };
        if 0.0 < speed {
            factor = factor.min((reach.speed_within(room) / speed).clamp(0.0, 1.0));
        }
    }
    factor
}

/// The way a stop takes: `s^2 / 2a + s * lag`. The lag covers two windows of the jerk limit (one in which braking may be held back, one for the mean)
/// and two control periods.
struct Reach {
    acceleration: f64,
    lag_s: f64,
}

impl Reach {
    fn new(limits: &MotionLimits, period_s: f64) -> Self {
        let window_s = (limits.acceleration / limits.jerk).max(period_s / TICKS_PER_PERIOD);
        Self { acceleration: limits.acceleration, lag_s: 2.0 * window_s + 2.0 * period_s }
    }

    /// The speed from which a stop takes no more than `room` metres.
    fn speed_within(&self, room: f64) -> f64 {
        if room <= 0.0 {
            return 0.0;
        }
        let (a, lag) = (self.acceleration, self.lag_s);
        // The positive root of s^2/2a + s lag = room, in the form that does not cancel.
        2.0 * room / (lag + (lag * lag + 2.0 * room / a).sqrt())
    }
}

/// Scales a twist to both velocity limits with one factor, so that translation and rotation stay in proportion. Aims a little
/// below the limit, since the profile keeps [`EPSILON`] off it.
pub(super) fn cap_velocity(config: &ControlConfig, twist: Twist, done: &mut InterventionSet) -> Twist {
    let (linear, angular) = (norm(twist.linear), norm(twist.angular));
    let factor = cap_factor(linear, config.linear.velocity).min(cap_factor(angular, config.angular.velocity));
    if factor < 1.0 {
        done.insert(Intervention::Velocity);
    }
    let (linear, angular) = (linear * factor, angular * factor);
    let reserve = cap_factor(linear, config.linear.velocity * (1.0 - 2.0 * EPSILON))
        .min(cap_factor(angular, config.angular.velocity * (1.0 - 2.0 * EPSILON)));
    let factor = factor * reserve;
    Twist { linear: scale(twist.linear, factor), angular: scale(twist.angular, factor) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::RawControlConfig;

    fn envelope() -> RawEnvelope {
        RawEnvelope { q01: [-0.01, -0.02, 0.005, -0.1, -0.1, -0.1], q99: [0.02, 0.02, 0.03, 0.1, 0.1, 0.1] }
    }

    #[test]
    fn the_envelope_scales_all_components_by_one_factor() {
        let config = RawControlConfig { envelope: Some(envelope()), ..Default::default() }.validate().unwrap();
        let mut done = InterventionSet::EMPTY;
        let step = ChunkStep::from_array([0.04, -0.01, 0.02, 0.05, 0.0, 0.0, 1.0]);
        let (translation, rotation) = bound_step(&config, &step, &mut done);
        assert_eq!(translation, [0.02, -0.005, 0.01]);
        assert_eq!(rotation, [0.025, 0.0, 0.0]);
        assert!(done.contains(Intervention::Envelope) && !done.contains(Intervention::StepCap));
    }

    #[test]
    fn the_envelope_allows_its_own_ends_and_zero() {
        for step in [[0.02, 0.02, 0.03, 0.1, 0.1, 0.1], [-0.01, -0.02, 0.005, -0.1, -0.1, -0.1], [0.0; 6]] {
            let (t, r) = ([step[0], step[1], step[2]], [step[3], step[4], step[5]]);
            assert_eq!(envelope_factor(&envelope(), t, r), 1.0);
        }
        // dz: q01 is above zero, so that anything below zero scales to a stop.
        assert_eq!(envelope_factor(&envelope(), [0.0, 0.0, -0.001], [0.0; 3]), 0.0);
        assert_eq!(envelope_factor(&envelope(), [0.0, 0.0, 0.001], [0.0; 3]), 1.0);
    }

    #[test]
    fn the_step_cap_scales_both_groups_together_and_survives_any_finite_number() {
        let config = RawControlConfig::default().validate().unwrap();
        let mut done = InterventionSet::EMPTY;
        let step = ChunkStep::from_array([0.3, 0.4, 0.0, 0.1, 0.0, 0.0, 0.0]);
        let (translation, rotation) = bound_step(&config, &step, &mut done);
        assert!((norm(translation) - 0.1).abs() < 1e-15 && (rotation[0] - 0.02).abs() < 1e-15);
        assert!(done.contains(Intervention::StepCap));
        for huge in [f64::MAX, -f64::MAX, 1e300] {
            let (t, r) = bound_step(&config, &ChunkStep::from_array([huge; 7]), &mut done);
            assert!(norm(t) <= 0.1 && norm(r) <= 0.5);
        }
        let mut none = InterventionSet::EMPTY;
        let tiny = ChunkStep::from_array([5e-324, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(bound_step(&config, &tiny, &mut none), ([5e-324, 0.0, 0.0], [0.0; 3]));
        assert!(none.is_empty());
    }

    #[test]
    fn a_wish_is_delta_times_rate_and_saturates() {
        let twist = wish(&ChunkStep::from_array([0.01, -0.02, 0.0, 0.1, 0.0, 0.0, 1.0]), 5.0);
        assert_eq!((twist.linear, twist.angular), ([0.05, -0.1, 0.0], [0.5, 0.0, 0.0]));
        let twist = wish(&ChunkStep::from_array([f64::MAX, f64::MIN, 0.0, 0.0, 0.0, 0.0, 1.0]), 5.0);
        assert_eq!(twist.linear, [f64::MAX, f64::MIN, 0.0]);
    }

    #[test]
    fn the_velocity_cap_keeps_translation_and_rotation_in_proportion() {
        let config = RawControlConfig::default().validate().unwrap();
        let mut done = InterventionSet::EMPTY;
        let capped = cap_velocity(&config, Twist { linear: [0.5, 0.0, 0.0], angular: [0.0, 0.3, 0.0] }, &mut done);
        assert!((capped.linear[0] - 0.25).abs() < 1e-6 && (capped.angular[1] - 0.15).abs() < 1e-6);
        assert!(done.contains(Intervention::Velocity));
        let mut none = InterventionSet::EMPTY;
        let kept = cap_velocity(&config, Twist { linear: [0.0, 0.25, 0.0], angular: [0.0, 0.6, 0.0] }, &mut none);
        assert!(none.is_empty() && (kept.linear[1] - 0.25).abs() < 1e-6 && kept.linear[1] < 0.25);
    }

    #[test]
    fn the_speed_towards_a_face_is_the_one_that_still_stops_before_it() {
        let config = RawControlConfig::default().validate().unwrap();
        let reach = Reach::new(&config.linear, 0.02);
        assert!((reach.lag_s - 0.24).abs() < 1e-12);
        for room in [1e-6, 0.001, 0.05, 1.0] {
            let speed = reach.speed_within(room);
            assert!((speed * speed / 2.0 + speed * 0.24 - room).abs() < 1e-12 * room.max(1.0), "{room}");
        }
        assert_eq!(reach.speed_within(0.0), 0.0);
        assert_eq!(reach.speed_within(-1.0), 0.0);
        // Without a jerk limit to speak of, the window is a quarter period.
        assert!(
            (Reach::new(&MotionLimits { velocity: 1.0, acceleration: 1.0, jerk: 1e4 }, 0.02).lag_s - 0.05).abs()
                < 1e-12
        );
    }

    #[test]
    fn the_workspace_lets_inward_motion_free_and_stops_outward_motion_at_the_face() {
        let config = RawControlConfig::default().validate().unwrap();
        let area = Workspace { min: [0.0, 0.0, 0.0], max: [1.0, 1.0, 1.0] };
        let guard = |position, moving, linear| guard_workspace(&config, &area, position, 0.0, moving, linear);
        assert_eq!(guard([0.5, 0.5, 0.5], [0.0; 3], [0.25, -0.25, 0.1]), 1.0);
        assert_eq!(guard([1.0, 0.5, 0.5], [0.0; 3], [0.1, 0.1, 0.0]), 0.0);
        assert_eq!(guard([0.5, 0.0, 0.5], [0.0; 3], [0.0, -0.1, 0.0]), 0.0);
        assert_eq!(guard([1.2, 0.5, 0.5], [0.0; 3], [-0.1, 0.0, 0.0]), 1.0);
        assert_eq!(guard([1.0, 0.5, 0.5], [0.0; 3], [0.0; 3]), 1.0);
        // 2 cm from the face: 2 * 0.02 / (0.24 + sqrt(0.24^2 + 0.04)).
        let expected = 0.04 / (0.24 + (0.0576f64 + 0.04).sqrt());
        assert!((guard([0.98, 0.5, 0.5], [0.0; 3], [0.2, 0.0, 0.0]) * 0.2 - expected).abs() < 1e-12);
        assert!((guard([0.5, 0.5, 0.02], [0.0; 3], [0.0, 0.0, -0.2]) * 0.2 - expected).abs() < 1e-12);
        // What was driven since the pose was measured counts against the room, on either side.
        assert_eq!(guard_workspace(&config, &area, [0.9, 0.5, 0.5], 0.48, [0.2, 0.0, 0.0], [0.2, 0.0, 0.0]), 0.0);
        assert_eq!(guard_workspace(&config, &area, [0.1, 0.5, 0.5], 0.48, [-0.2, 0.0, 0.0], [-0.2, 0.0, 0.0]), 0.0);
        assert_eq!(guard_workspace(&config, &area, [0.5, 0.5, 0.5], 0.48, [-0.2, 0.2, 0.0], [0.1, -0.1, 0.0]), 1.0);
    }
}
