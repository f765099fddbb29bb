//! From a policy step to a target twist: envelope, step cap, workspace, velocity. Each stage only
//! scales, so that the direction stays.

use super::{
    config::{ControlConfig, RawEnvelope, TICKS_PER_PERIOD, Workspace},
    jerk_limiter::EPSILON,
    reason::{Intervention, InterventionSet},
    types::Twist,
    vector::{V3, add_scaled, norm, scale},
};
use crate::action_chunk::ChunkStep;

/// A finite step as a twist: `delta * policy_hz`, nothing changed yet. Saturates instead of
/// overflowing.
pub(super) fn wish(step: &ChunkStep, policy_hz: f64) -> Twist {
    let rate = |delta: f64| (delta * policy_hz).clamp(f64::MIN, f64::MAX);
    Twist { linear: step.translation.map(rate), angular: step.rotation.map(rate) }
}

/// Envelope and step cap: a step within both, in the same direction.
pub(super) fn bound_step(
    config: &ControlConfig,
    step: &ChunkStep,
    done: &mut InterventionSet,
) -> (V3, V3) {
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

/// By how much a step must shrink so that every component lies within its q01..q99. An interval
/// that does not hold zero is stretched to it: standing still is always allowed. Rounding is
/// forgiven (1e-9 relative): the statistics' own ends are legal.
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

/// `limit / length` when that is below one. An infinite length (three components near the largest
/// number) gives zero.
fn cap_factor(length: f64, limit: f64) -> f64 {
    if limit < length { limit / length } else { 1.0 }
}

/// What was driven since a pose, metres, as far as it counts against the room in front of the upper
/// and of the lower faces. Driving away takes back what was driven before, but is not saved up
/// against what comes after it: the arm may lag, and turn round before it has got there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Driven {
    up: V3,
    down: V3,
}

impl Driven {
    /// With another piece of the way.
    pub(super) fn and(self, way: V3) -> Self {
        let not_below_zero = |v: V3| v.map(|x| x.max(0.0));
        Self {
            up: not_below_zero(add_scaled(self.up, way, 1.0)),
            down: not_below_zero(add_scaled(self.down, way, -1.0)),
        }
    }
}

/// Where the arm is, as far as its pose and the commands since tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whereabouts {
    /// The last pose's position.
    pub(super) position: V3,
    /// What was driven since that pose.
    pub(super) driven: Driven,
    /// The velocity commanded now.
    pub(super) moving: V3,
    /// The velocity the profile has under way: `u`, of which the command is the mean.
    pub(super) under_way: V3,
}

/// By how much the linear velocity must shrink so that the arm, stopped from there within its
/// limits, comes to rest inside the box.
///
/// A stop runs straight against the velocity `s` and takes `|s| / 2a` of it along each axis, plus a
/// lag. So it is asked twice:
/// * of the wish, with a lag of three windows of the jerk limit (one in which braking may be held
///   back, one for the mean, one so that the approach, which follows the shrinking room with that
///   delay, does not swing) and three control periods;
/// * of the motion under way, with two of each: if a stop begun now needs the room there is,
///   nothing but a stop will do. This is what counts when the wish turns along a face while the arm
///   still moves towards it.
///
/// An outward component at or beyond a face shrinks to zero; inward ones are free. What was driven
/// since the pose, and what will be driven until the next command, counts against the room in front
/// of the arm, but never adds to it: the arm may lag.
pub(super) fn guard_workspace(
    config: &ControlConfig,
    area: &Workspace,
    arm: &Whereabouts,
    linear: V3,
) -> f64 {
    let period_s = config.period.as_secs_f64();
    let a = config.linear.acceleration;
    let beat_s = (a / config.linear.jerk).max(period_s / TICKS_PER_PERIOD) + period_s;
    let wished = norm(linear);
    let present = norm(arm.moving).max(norm(arm.under_way));
    let mut factor: f64 = 1.0;
    for (axis, wish) in linear.into_iter().enumerate() {
        let next = arm.moving[axis] * period_s;
        let faces = [
            (1.0, area.max[axis] - arm.position[axis] - (arm.driven.up[axis] + next).max(0.0)),
            (-1.0, arm.position[axis] - area.min[axis] - (arm.driven.down[axis] - next).max(0.0)),
        ];
        for (side, room) in faces {
            let coming = (side * arm.moving[axis]).max(side * arm.under_way[axis]);
            if 0.0 < coming && room < coming * (present / (2.0 * a) + 2.0 * beat_s) {
                return 0.0;
            }
            let towards = side * wish;
            if 0.0 < towards {
                factor = factor.min(share_within(room, towards, wished / (2.0 * a), 3.0 * beat_s));
            }
        }
    }
    factor
}

/// The largest `f` in 0..=1 with `towards f (half f + lag) <= room`.
fn share_within(room: f64, towards: f64, half: f64, lag: f64) -> f64 {
    if room <= 0.0 {
        return 0.0;
    }
    // The positive root in the form that does not cancel.
    let linear = towards * lag;
    (2.0 * room / (linear + (linear * linear + 4.0 * towards * half * room).sqrt())).min(1.0)
}

/// Scales a twist to both velocity limits with one factor, so that translation and rotation stay in
/// proportion. Aims a little below the limit, since the profile keeps [`EPSILON`] off it.
pub(super) fn cap_velocity(
    config: &ControlConfig,
    twist: Twist,
    done: &mut InterventionSet,
) -> Twist {
    let (linear, angular) = (norm(twist.linear), norm(twist.angular));
    let factor = cap_factor(linear, config.linear.velocity)
        .min(cap_factor(angular, config.angular.velocity));
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
    use crate::RawControlConfig;

    fn envelope() -> RawEnvelope {
        RawEnvelope {
            q01: [-0.01, -0.02, 0.005, -0.1, -0.1, -0.1],
            q99: [0.02, 0.02, 0.03, 0.1, 0.1, 0.1],
        }
    }

    #[test]
    fn the_envelope_scales_all_components_by_one_factor() {
        let config = RawControlConfig { envelope: Some(envelope()), ..Default::default() }
            .validate()
            .unwrap();
        let mut done = InterventionSet::EMPTY;
        let step = ChunkStep::from_array([0.04, -0.01, 0.02, 0.05, 0.0, 0.0, 1.0]);
        let (translation, rotation) = bound_step(&config, &step, &mut done);
        assert_eq!(translation, [0.02, -0.005, 0.01]);
        assert_eq!(rotation, [0.025, 0.0, 0.0]);
        assert!(done.contains(Intervention::Envelope) && !done.contains(Intervention::StepCap));
    }

    #[test]
    fn the_envelope_allows_its_own_ends_and_zero() {
        for step in
            [[0.02, 0.02, 0.03, 0.1, 0.1, 0.1], [-0.01, -0.02, 0.005, -0.1, -0.1, -0.1], [0.0; 6]]
        {
            let (t, r) = ([step[0], step[1], step[2]], [step[3], step[4], step[5]]);
            assert_eq!(envelope_factor(&envelope(), t, r), 1.0);
        }
        // What rounding may have added to an end is forgiven, more is not.
        assert_eq!(envelope_factor(&envelope(), [0.02 * (1.0 + 5e-10), 0.0, 0.0], [0.0; 3]), 1.0);
        assert_eq!(envelope_factor(&envelope(), [0.0; 3], [0.0, 0.0, -0.1 * (1.0 + 5e-10)]), 1.0);
        assert!(envelope_factor(&envelope(), [0.02 * (1.0 + 2e-9), 0.0, 0.0], [0.0; 3]) < 1.0);
        let config = RawControlConfig { envelope: Some(envelope()), ..Default::default() }
            .validate()
            .unwrap();
        let mut done = InterventionSet::EMPTY;
        bound_step(
            &config,
            &ChunkStep::from_array([0.02, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0]),
            &mut done,
        );
        assert!(done.is_empty(), "{done:?}");
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
            assert!(norm(t) <= 0.1 + 1e-15 && norm(r) <= 0.5 + 1e-15);
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
        let twist =
            wish(&ChunkStep::from_array([f64::MAX, f64::MIN, 0.0, 0.0, 0.0, 0.0, 1.0]), 5.0);
        assert_eq!(twist.linear, [f64::MAX, f64::MIN, 0.0]);
    }

    #[test]
    fn the_velocity_cap_keeps_translation_and_rotation_in_proportion() {
        let config = RawControlConfig::default().validate().unwrap();
        let mut done = InterventionSet::EMPTY;
        let capped = cap_velocity(
            &config,
            Twist { linear: [0.5, 0.0, 0.0], angular: [0.0, 0.3, 0.0] },
            &mut done,
        );
        assert!((capped.linear[0] - 0.25).abs() < 1e-6 && (capped.angular[1] - 0.15).abs() < 1e-6);
        assert!(done.contains(Intervention::Velocity));
        // The limit of either group alone decides for both; at a limit the aim is a little below
        // it.
        let aim = 1.0 - 2.0 * EPSILON;
        for (linear, angular, factor) in [
            (0.5, 0.5, 0.5 * aim),
            (0.1, 1.2, 0.5 * aim),
            (0.25, 0.1, aim),
            (0.1, 0.6, aim),
            (0.1, 0.1, 1.0),
            (0.249_999, 0.599_999, 1.0),
        ] {
            let twist = Twist { linear: [0.0, -linear, 0.0], angular: [0.0, 0.0, angular] };
            let capped = cap_velocity(&config, twist, &mut done);
            assert!(
                (capped.linear[1] + linear * factor).abs() < 1e-13,
                "{linear} {angular}: {}",
                capped.linear[1]
            );
            assert!(
                (capped.angular[2] - angular * factor).abs() < 1e-13,
                "{linear} {angular}: {}",
                capped.angular[2]
            );
        }
        let mut none = InterventionSet::EMPTY;
        let kept = cap_velocity(
            &config,
            Twist { linear: [0.0, 0.25, 0.0], angular: [0.0, 0.6, 0.0] },
            &mut none,
        );
        assert!(none.is_empty() && (kept.linear[1] - 0.25).abs() < 1e-6 && kept.linear[1] < 0.25);
    }

    #[test]
    fn the_share_of_a_wish_is_the_one_that_still_stops_before_the_face() {
        for room in [1e-6, 0.001, 0.05] {
            let share = share_within(room, 0.2, 0.15, 0.36);
            assert!(
                (0.2 * share * (0.15 * share + 0.36) - room).abs() < 1e-12 * room.max(1.0),
                "{room}"
            );
        }
        assert_eq!(share_within(1.0, 0.2, 0.15, 0.36), 1.0);
        assert_eq!(
            (share_within(0.0, 0.2, 0.15, 0.36), share_within(-1.0, 0.2, 0.15, 0.36)),
            (0.0, 0.0)
        );
    }

    const STILL: Whereabouts = Whereabouts {
        position: [0.5; 3],
        driven: Driven { up: [0.0; 3], down: [0.0; 3] },
        moving: [0.0; 3],
        under_way: [0.0; 3],
    };

    fn guard(arm: Whereabouts, linear: V3) -> f64 {
        let config = RawControlConfig::default().validate().unwrap();
        guard_workspace(&config, &Workspace { min: [0.0; 3], max: [1.0; 3] }, &arm, linear)
    }

    #[test]
    fn the_workspace_lets_inward_motion_free_and_stops_outward_motion_at_the_face() {
        let at = |position| Whereabouts { position, ..STILL };
        assert_eq!(guard(STILL, [0.25, -0.25, 0.1]), 1.0);
        assert_eq!(guard(at([1.0, 0.5, 0.5]), [0.1, 0.1, 0.0]), 0.0);
        assert_eq!(guard(at([0.5, 0.0, 0.5]), [0.0, -0.1, 0.0]), 0.0);
        assert_eq!(guard(at([1.2, 0.5, 0.5]), [-0.1, 0.0, 0.0]), 1.0);
        assert_eq!(guard(at([1.0, 0.5, 0.5]), [0.0; 3]), 1.0);
        // 2 cm from the face at 0.2 m/s, with a window of 0.1 s and a period of 0.02 s: f (0.1 f +
        // 0.36) = 0.1.
        for arm in [at([0.98, 0.5, 0.5]), at([0.5, 0.98, 0.5])] {
            let wish = if arm.position[0] > 0.9 { [0.2, 0.0, 0.0] } else { [0.0, 0.2, 0.0] };
            let f = guard(arm, wish);
            assert!((f * (0.1 * f + 0.36) - 0.1).abs() < 1e-12);
        }
        // The same towards the other face, and less when the wish is faster sideways: the stop
        // takes longer.
        let f = guard(at([0.5, 0.5, 0.02]), [0.0, 0.0, -0.2]);
        assert!((f * (0.1 * f + 0.36) - 0.1).abs() < 1e-12);
        let f = guard(at([0.98, 0.5, 0.5]), [0.2, 1.0, 0.0]);
        assert!((f * (0.5 * 1.04f64.sqrt() * f + 0.36) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn what_was_driven_since_the_pose_counts_against_the_room_in_front_only() {
        let arm = |x: f64, driven: f64, moving: f64| Whereabouts {
            position: [x, 0.5, 0.5],
            driven: Driven::default().and([driven, 0.0, 0.0]),
            moving: [moving, 0.0, 0.0],
            ..STILL
        };
        let two_centimetres = guard(arm(0.98, 0.0, 0.0), [0.2, 0.0, 0.0]);
        assert_eq!(guard(arm(0.9, 0.1, 0.0), [0.2, 0.0, 0.0]), 0.0);
        assert_eq!(guard(arm(0.1, -0.1, 0.0), [-0.2, 0.0, 0.0]), 0.0);
        assert!((guard(arm(0.9, 0.08, 0.0), [0.2, 0.0, 0.0]) - two_centimetres).abs() < 1e-12);
        assert!((guard(arm(0.1, -0.08, 0.0), [-0.2, 0.0, 0.0]) - two_centimetres).abs() < 1e-12);
        // Driving away adds nothing: the arm may not have followed.
        assert!((guard(arm(0.98, -0.1, 0.0), [0.2, 0.0, 0.0]) - two_centimetres).abs() < 1e-12);
        assert!((guard(arm(0.02, 0.1, 0.0), [-0.2, 0.0, 0.0]) - two_centimetres).abs() < 1e-12);
        // Nor does a speed away; a slow speed towards the face takes its way of one period.
        assert!((guard(arm(0.98, 0.0, -0.01), [0.2, 0.0, 0.0]) - two_centimetres).abs() < 1e-12);
        assert!(
            (guard(arm(0.98 - 0.02 * 0.01, 0.0, 0.01), [0.2, 0.0, 0.0]) - two_centimetres).abs()
                < 1e-12
        );
    }

    #[test]
    fn driving_away_takes_back_but_is_not_saved_up() {
        let drive = |ways: &[f64]| {
            let driven =
                ways.iter().fold(Driven::default(), |driven, way| driven.and([0.0, *way, 0.0]));
            assert_eq!((driven.up[0], driven.down[2]), (0.0, 0.0));
            (driven.up[1], driven.down[1])
        };
        assert_eq!(drive(&[0.5, 0.25]), (0.75, 0.0));
        assert_eq!(drive(&[0.5, -0.25]), (0.25, 0.25));
        assert_eq!(drive(&[-0.5, 0.25]), (0.25, 0.25));
        assert_eq!(drive(&[0.5, -1.0, 0.25, 0.25]), (0.5, 0.5));
    }

    #[test]
    fn the_room_a_stop_needs_follows_from_the_limits() {
        let factor = |acceleration: f64, jerk: f64, x: f64, wish: f64| {
            let mut raw = RawControlConfig::default();
            (raw.limits.linear.acceleration, raw.limits.linear.jerk) = (acceleration, jerk);
            let arm = Whereabouts { position: [x, 0.5, 0.5], ..STILL };
            let area = Workspace { min: [0.0; 3], max: [1.0; 3] };
            guard_workspace(&raw.validate().unwrap(), &area, &arm, [wish, 0.0, 0.0])
        };
        // 0.2 f (0.2 f / 2a + 3 beats) = 0.02 m; a beat is a period and a/j, or a quarter of the
        // period where that is longer.
        for (acceleration, jerk, beat) in
            [(2.0, 20.0, 0.12), (0.5, 5.0, 0.12), (1.0, 1000.0, 0.025), (2.0, 400.0, 0.025)]
        {
            let f = factor(acceleration, jerk, 0.98, 0.2);
            let way = 0.2 * f * (0.1 / acceleration * f + 3.0 * beat);
            assert!(
                f == 1.0 && way < 0.02 || (way - 0.02).abs() < 1e-12,
                "{acceleration} {jerk}: {f}, {way} m"
            );
            assert!(factor(acceleration, jerk, 0.998, 0.2) < 1.0);
        }
    }

    #[test]
    fn motion_towards_a_face_that_needs_its_room_to_stop_allows_nothing_else() {
        // 0.2 m/s towards the face and 0.15 sideways: 0.25 in all, a stop of 0.2 * (0.125 + 0.24) =
        // 0.073 m; 0.004 m until the next command.
        for (x, allowed) in [(1.0 - 0.0775, 1.0), (1.0 - 0.0765, 0.0)] {
            let (moving, sideways) = ([0.2, 0.15, 0.0], [0.0, 0.25, 0.0]);
            assert_eq!(
                guard(Whereabouts { position: [x, 0.5, 0.5], moving, ..STILL }, sideways),
                allowed,
                "{x}"
            );
            let mirrored =
                Whereabouts { position: [1.0 - x, 0.5, 0.5], moving: [-0.2, 0.15, 0.0], ..STILL };
            assert_eq!(guard(mirrored, sideways), allowed, "{x} mirrored");
            // What is under way counts as what is commanded, but for the way of the next period.
            let under_way =
                Whereabouts { position: [x + 0.004, 0.5, 0.5], under_way: moving, ..STILL };
            assert_eq!(guard(under_way, sideways), allowed, "{x} under way");
        }
    }
}
