//! Limits from a policy step to the target twist: statistics' envelope, step cap, workspace,
//! velocity. Each one only scales, so that the direction is kept.

use super::{
    config::{ControlConfig, RawEnvelope, TICKS_PER_PERIOD, Workspace},
    jerk_limiter::EPSILON,
    outputs::Twist,
    reason::{Cause, Intervention, InterventionSet, Reason},
    vector::{V3, add_scaled, norm, scale},
};
use crate::action_chunk::ChunkStep;

/// The velocity of a finite step: `delta * policy_hz`, unlimited. Saturates instead of overflowing.
pub(super) fn desired_twist(step: &ChunkStep, policy_hz: f64) -> Twist {
    let rate = |delta: f64| (delta * policy_hz).clamp(f64::MIN, f64::MAX);
    Twist { linear: step.translation.map(rate), angular: step.rotation.map(rate) }
}

/// Scales a step into the envelope and to the step cap; returns translation and rotation.
pub(super) fn limit_step(
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

/// The factor that scales a step so that every component is within its q01..q99. An interval
/// without zero is extended to it: standing still is always allowed. The comparison tolerates a
/// relative error of 1e-9, since the ends of the statistics are legal.
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

/// Distance executed since a pose, metres per axis, as far as it reduces the room in front of the
/// upper and of the lower faces. Motion away from a face cancels earlier motion towards it, but is
/// no credit for later motion: the arm may lag, and turn round before it got there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ExecutedDistance {
    up: V3,
    down: V3,
}

impl ExecutedDistance {
    /// Extended by a displacement.
    pub(super) fn plus(self, displacement: V3) -> Self {
        let not_below_zero = |v: V3| v.map(|x| x.max(0.0));
        Self {
            up: not_below_zero(add_scaled(self.up, displacement, 1.0)),
            down: not_below_zero(add_scaled(self.down, displacement, -1.0)),
        }
    }
}

/// Estimate of the end effector's position and velocity from its last pose and the commands since.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoseEstimate {
    /// Position of the last pose.
    pub(super) position: V3,
    /// Distance executed since that pose.
    pub(super) executed: ExecutedDistance,
    /// The present command.
    pub(super) commanded: V3,
    /// The input of the jerk limiter's filter, `u`, of which the command is the moving average.
    pub(super) unfiltered: V3,
}

/// Below this factor the workspace counts as the cause that the commanded motion stops.
const BLOCKED: f64 = 0.05;

/// Result of [`limit_to_workspace`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WorkspaceLimit {
    /// Factor for the linear velocity, 0..=1.
    pub(super) factor: f64,
    /// Axis of the face that determines the factor; the position along it and the face, metres.
    axis: usize,
    position: f64,
    face: f64,
}

impl WorkspaceLimit {
    /// `WORKSPACE_LIMIT` with position and face, when next to nothing of the motion is left.
    pub(super) fn blocking_cause(&self) -> Option<Cause> {
        let unit = ["m in x", "m in y", "m in z"][self.axis.min(2)];
        (self.factor < BLOCKED)
            .then(|| Cause::measured(Reason::WorkspaceLimit, self.position, self.face, unit))
    }
}

/// The factor for the linear velocity with which the arm, stopped from there within its limits,
/// comes to rest inside the box.
///
/// A stop is straight and takes `|s| / 2a` of the velocity `s` along each axis, plus a lag. The
/// room is checked for
/// * the target, with a lag of three windows of the jerk limiter (one in which braking may be
///   delayed, one of the moving average, one so that the approach, which follows the shrinking room
///   with that delay, does not oscillate) and three control periods;
/// * the present motion, with two of each: if a stop begun now needs the room that is left, the
///   factor is zero. This matters when the target turns along a face while the arm still moves
///   towards it.
///
/// An outward component at or beyond a face gives zero; inward ones are not limited. The distance
/// executed since the pose, and until the next command, reduces the room in front of the arm but
/// never increases it: the arm may lag.
pub(super) fn limit_to_workspace(
    config: &ControlConfig,
    area: &Workspace,
    arm: &PoseEstimate,
    linear: V3,
) -> WorkspaceLimit {
    let period_s = config.period.as_secs_f64();
    let a = config.linear.acceleration;
    let lag_s = (a / config.linear.jerk).max(period_s / TICKS_PER_PERIOD) + period_s;
    let desired = norm(linear);
    let present = norm(arm.commanded).max(norm(arm.unfiltered));
    let mut limit = WorkspaceLimit { factor: 1.0, axis: 0, position: 0.0, face: 0.0 };
    for (axis, component) in linear.into_iter().enumerate() {
        let next = arm.commanded[axis] * period_s;
        let (position, max, min) = (arm.position[axis], area.max[axis], area.min[axis]);
        let faces = [
            (1.0, max, max - position - (arm.executed.up[axis] + next).max(0.0)),
            (-1.0, min, position - min - (arm.executed.down[axis] - next).max(0.0)),
        ];
        for (side, face, room) in faces {
            let approach = (side * arm.commanded[axis]).max(side * arm.unfiltered[axis]);
            let stop_now = approach * (present / (2.0 * a) + 2.0 * lag_s);
            let towards = side * component;
            let factor = if 0.0 < approach && room < stop_now {
                0.0
            } else if 0.0 < towards {
                factor_within(room, towards, desired / (2.0 * a), 3.0 * lag_s)
            } else {
                1.0
            };
            if factor < limit.factor {
                limit = WorkspaceLimit { factor, axis, position, face };
            }
        }
    }
    limit
}

/// The largest `f` in 0..=1 with `towards f (half f + lag) <= room`.
fn factor_within(room: f64, towards: f64, half: f64, lag: f64) -> f64 {
    if room <= 0.0 {
        return 0.0;
    }
    // The positive root in the form that does not cancel.
    let linear = towards * lag;
    (2.0 * room / (linear + (linear * linear + 4.0 * towards * half * room).sqrt())).min(1.0)
}

/// Scales a twist to both velocity limits with one factor, so that translation and rotation stay in
/// proportion. The result is slightly below the limit, since the jerk limiter subtracts
/// [`EPSILON`] from it.
pub(super) fn limit_velocity(
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
    fn envelope_scales_by_one_factor() {
        let config = RawControlConfig { envelope: Some(envelope()), ..Default::default() }
            .validate()
            .unwrap();
        let mut done = InterventionSet::EMPTY;
        let step = ChunkStep::from_array([0.04, -0.01, 0.02, 0.05, 0.0, 0.0, 1.0]);
        let (translation, rotation) = limit_step(&config, &step, &mut done);
        assert_eq!(translation, [0.02, -0.005, 0.01]);
        assert_eq!(rotation, [0.025, 0.0, 0.0]);
        assert!(done.contains(Intervention::Envelope) && !done.contains(Intervention::StepCap));
    }

    #[test]
    fn envelope_includes_its_ends_and_zero() {
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
        limit_step(
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
    fn step_cap_scales_both_groups() {
        let config = RawControlConfig::default().validate().unwrap();
        let mut done = InterventionSet::EMPTY;
        let step = ChunkStep::from_array([0.3, 0.4, 0.0, 0.1, 0.0, 0.0, 0.0]);
        let (translation, rotation) = limit_step(&config, &step, &mut done);
        assert!((norm(translation) - 0.1).abs() < 1e-15 && (rotation[0] - 0.02).abs() < 1e-15);
        assert!(done.contains(Intervention::StepCap));
        for huge in [f64::MAX, -f64::MAX, 1e300] {
            let (t, r) = limit_step(&config, &ChunkStep::from_array([huge; 7]), &mut done);
            assert!(norm(t) <= 0.1 + 1e-15 && norm(r) <= 0.5 + 1e-15);
        }
        let mut none = InterventionSet::EMPTY;
        let tiny = ChunkStep::from_array([5e-324, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(limit_step(&config, &tiny, &mut none), ([5e-324, 0.0, 0.0], [0.0; 3]));
        assert!(none.is_empty());
    }

    #[test]
    fn desired_twist_is_delta_times_rate() {
        let twist =
            desired_twist(&ChunkStep::from_array([0.01, -0.02, 0.0, 0.1, 0.0, 0.0, 1.0]), 5.0);
        assert_eq!((twist.linear, twist.angular), ([0.05, -0.1, 0.0], [0.5, 0.0, 0.0]));
        let twist = desired_twist(
            &ChunkStep::from_array([f64::MAX, f64::MIN, 0.0, 0.0, 0.0, 0.0, 1.0]),
            5.0,
        );
        assert_eq!(twist.linear, [f64::MAX, f64::MIN, 0.0]);
    }

    #[test]
    fn velocity_limit_keeps_the_proportion() {
        let config = RawControlConfig::default().validate().unwrap();
        let mut done = InterventionSet::EMPTY;
        let capped = limit_velocity(
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
            let capped = limit_velocity(&config, twist, &mut done);
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
        let kept = limit_velocity(
            &config,
            Twist { linear: [0.0, 0.25, 0.0], angular: [0.0, 0.6, 0.0] },
            &mut none,
        );
        assert!(none.is_empty() && (kept.linear[1] - 0.25).abs() < 1e-6 && kept.linear[1] < 0.25);
    }

    #[test]
    fn factor_stops_before_the_face() {
        for room in [1e-6, 0.001, 0.05] {
            let share = factor_within(room, 0.2, 0.15, 0.36);
            assert!(
                (0.2 * share * (0.15 * share + 0.36) - room).abs() < 1e-12 * room.max(1.0),
                "{room}"
            );
        }
        assert_eq!(factor_within(1.0, 0.2, 0.15, 0.36), 1.0);
        assert_eq!(
            (factor_within(0.0, 0.2, 0.15, 0.36), factor_within(-1.0, 0.2, 0.15, 0.36)),
            (0.0, 0.0)
        );
    }

    const STILL: PoseEstimate = PoseEstimate {
        position: [0.5; 3],
        executed: ExecutedDistance { up: [0.0; 3], down: [0.0; 3] },
        commanded: [0.0; 3],
        unfiltered: [0.0; 3],
    };

    fn guard(arm: PoseEstimate, linear: V3) -> f64 {
        let config = RawControlConfig::default().validate().unwrap();
        limit_to_workspace(&config, &Workspace { min: [0.0; 3], max: [1.0; 3] }, &arm, linear)
            .factor
    }

    #[test]
    fn only_outward_motion_is_limited() {
        let at = |position| PoseEstimate { position, ..STILL };
        assert_eq!(guard(STILL, [0.25, -0.25, 0.1]), 1.0);
        assert_eq!(guard(at([1.0, 0.5, 0.5]), [0.1, 0.1, 0.0]), 0.0);
        assert_eq!(guard(at([0.5, 0.0, 0.5]), [0.0, -0.1, 0.0]), 0.0);
        assert_eq!(guard(at([1.2, 0.5, 0.5]), [-0.1, 0.0, 0.0]), 1.0);
        assert_eq!(guard(at([1.0, 0.5, 0.5]), [0.0; 3]), 1.0);
        // 2 cm from the face at 0.2 m/s, with a window of 0.1 s and a period of 0.02 s: f (0.1 f +
        // 0.36) = 0.1.
        for arm in [at([0.98, 0.5, 0.5]), at([0.5, 0.98, 0.5])] {
            let target = if arm.position[0] > 0.9 { [0.2, 0.0, 0.0] } else { [0.0, 0.2, 0.0] };
            let f = guard(arm, target);
            assert!((f * (0.1 * f + 0.36) - 0.1).abs() < 1e-12);
        }
        // The same towards the other face, and less when the target is faster sideways: the stop
        // takes longer.
        let f = guard(at([0.5, 0.5, 0.02]), [0.0, 0.0, -0.2]);
        assert!((f * (0.1 * f + 0.36) - 0.1).abs() < 1e-12);
        let f = guard(at([0.98, 0.5, 0.5]), [0.2, 1.0, 0.0]);
        assert!((f * (0.5 * 1.04f64.sqrt() * f + 0.36) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn blocking_face_is_named() {
        let config = RawControlConfig::default().validate().unwrap();
        let area = Workspace { min: [0.0; 3], max: [1.0; 3] };
        let cause = |position, target| {
            let arm = PoseEstimate { position, ..STILL };
            limit_to_workspace(&config, &area, &arm, target).blocking_cause()
        };
        assert_eq!(cause([0.5; 3], [0.2; 3]), None);
        // Slowed down in front of a face, not stopped by it.
        assert_eq!(cause([0.5, 0.98, 0.5], [0.0, 0.2, 0.0]), None);
        assert_eq!(
            cause([0.5, 0.5, -0.3], [0.1, 0.0, -0.2]),
            Some(Cause::measured(Reason::WorkspaceLimit, -0.3, 0.0, "m in z"))
        );
        assert_eq!(
            cause([0.5, 0.9999, 0.5], [0.0, 0.2, 0.0]),
            Some(Cause::measured(Reason::WorkspaceLimit, 0.9999, 1.0, "m in y"))
        );
        assert_eq!(cause([2.0, 0.5, 0.5], [-0.2, 0.0, 0.0]), None);
    }

    #[test]
    fn executed_distance_reduces_the_room_ahead() {
        let arm = |x: f64, executed: f64, speed: f64| PoseEstimate {
            position: [x, 0.5, 0.5],
            executed: ExecutedDistance::default().plus([executed, 0.0, 0.0]),
            commanded: [speed, 0.0, 0.0],
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
    fn motion_away_is_no_credit() {
        let drive = |ways: &[f64]| {
            let executed = ways
                .iter()
                .fold(ExecutedDistance::default(), |sum, way| sum.plus([0.0, *way, 0.0]));
            assert_eq!((executed.up[0], executed.down[2]), (0.0, 0.0));
            (executed.up[1], executed.down[1])
        };
        assert_eq!(drive(&[0.5, 0.25]), (0.75, 0.0));
        assert_eq!(drive(&[0.5, -0.25]), (0.25, 0.25));
        assert_eq!(drive(&[-0.5, 0.25]), (0.25, 0.25));
        assert_eq!(drive(&[0.5, -1.0, 0.25, 0.25]), (0.5, 0.5));
    }

    #[test]
    fn stop_room_follows_from_the_limits() {
        let factor = |acceleration: f64, jerk: f64, x: f64, target: f64| {
            let mut raw = RawControlConfig::default();
            (raw.limits.linear.acceleration, raw.limits.linear.jerk) = (acceleration, jerk);
            let arm = PoseEstimate { position: [x, 0.5, 0.5], ..STILL };
            let area = Workspace { min: [0.0; 3], max: [1.0; 3] };
            limit_to_workspace(&raw.validate().unwrap(), &area, &arm, [target, 0.0, 0.0]).factor
        };
        // 0.2 f (0.2 f / 2a + 3 lags) = 0.02 m; a lag is a period and a/j, or a quarter of the
        // period where that is longer.
        for (acceleration, jerk, lag) in
            [(2.0, 20.0, 0.12), (0.5, 5.0, 0.12), (1.0, 1000.0, 0.025), (2.0, 400.0, 0.025)]
        {
            let f = factor(acceleration, jerk, 0.98, 0.2);
            let way = 0.2 * f * (0.1 / acceleration * f + 3.0 * lag);
            assert!(
                f == 1.0 && way < 0.02 || (way - 0.02).abs() < 1e-12,
                "{acceleration} {jerk}: {f}, {way} m"
            );
            assert!(factor(acceleration, jerk, 0.998, 0.2) < 1.0);
        }
    }

    #[test]
    fn approach_without_room_stops_everything() {
        // 0.2 m/s towards the face and 0.15 sideways: 0.25 in all, a stop of 0.2 * (0.125 + 0.24) =
        // 0.073 m; 0.004 m until the next command.
        for (x, allowed) in [(1.0 - 0.0775, 1.0), (1.0 - 0.0765, 0.0)] {
            let (commanded, sideways) = ([0.2, 0.15, 0.0], [0.0, 0.25, 0.0]);
            assert_eq!(
                guard(PoseEstimate { position: [x, 0.5, 0.5], commanded, ..STILL }, sideways),
                allowed,
                "{x}"
            );
            let mirrored = PoseEstimate {
                position: [1.0 - x, 0.5, 0.5],
                commanded: [-0.2, 0.15, 0.0],
                ..STILL
            };
            assert_eq!(guard(mirrored, sideways), allowed, "{x} mirrored");
            // What is under way counts as what is commanded, but for the way of the next period.
            let unfiltered =
                PoseEstimate { position: [x + 0.004, 0.5, 0.5], unfiltered: commanded, ..STILL };
            assert_eq!(guard(unfiltered, sideways), allowed, "{x} under way");
        }
    }
}
