//! Velocity, acceleration and jerk limiter for joint positions, all joints in step: two moving
//! averages over a setpoint whose rate is limited (a FIR filter; Biagiotti and Melchiorri 2012, FIR
//! filters for online trajectory planning with time- and frequency-domain specifications, Control
//! Engineering Practice 20, 1385-1399).
//!
//! All limits are per joint: `V` velocity, `A` acceleration, `J` jerk.
//!
//! # Algorithm
//! Continuous time, on a grid of ticks of length `d`:
//!
//! 1. Setpoint `r(t)`, a polyline in joint space. In each tick it moves straight towards the target
//!    with rates `w = dr/dt`: `|w| <= V`, and `|w(t) - w(t - W1)| <= A W1`. One factor for all
//!    joints.
//! 2. Moving average over `W1 = m1 d >= V / A`, of every joint.
//! 3. Moving average over `W2 = m2 d >= 2 A / J`, of every joint: `p(t)`. Its samples and those of
//!    `v = dp/dt` at the times of publication are the commands.
//!
//! # Properties and proof
//! The kernel `k` of both averages together is not negative, has the integral 1 and vanishes
//! outside of `[0, W1 + W2]`.
//!
//! * **Position limits, no overshoot.** `p(t)` is a weighted mean of `r` over `[t - W1 - W2, t]`:
//!   it never leaves the interval of recent setpoints. `r` is kept within the position limits, so
//!   `p` is. `r` ends exactly on its target, so `p` comes to rest there, from one side. An arm that
//!   starts outside has an `r` that only moves inwards, hence so does `p`. This holds for every
//!   setpoint curve, so retargeting, pushing at a limit and stopping at any time need no case of
//!   their own.
//! * **A stop is always in reserve**: `w = 0` satisfies every rule, because `|w(t - W1)| <= V <= A
//!   W1`. It ends at `r`, which is within the limits, after `W1 + W2` and the rest of a tick.
//! * **Velocity.** `v` is a mean of `w`: `|v| <= V`.
//! * **Acceleration.** `dv/dt` is the mean over `W2` of `g(t) = (w(t) - w(t - W1)) / W1`, and `|g|
//!   <= A` by the rule. Both times lie in ticks that are `m1` apart, since `W1` is `m1` ticks.
//! * **Jerk.** `d2v/dt2 = (g(t) - g(t - W2)) / W2`, at most `2 A / W2 <= J`.
//! * **Finite differences, for any jitter.** `p` has a second derivative that is Lipschitz. By the
//!   Hermite-Genocchi formula every divided difference of its samples is a mean of a derivative
//!   over the span of the nodes. So for *any* sampling times, of the published **positions**:
//!   `|f[t0, t1]| <= V`, `2 |f[t0, t1, t2]| <= A`, `6 |f[t0 .. t3]| <= J`; and of the published
//!   **velocities**: `|v| <= V`, `|f[t0, t1]| <= A`, `2 |f[t0, t1, t2]| <= J`.
//! * **In step.** The kernel is common to all joints and the setpoint moves straight to its target
//!   with a common factor. From rest, or along one line, every joint has covered the same fraction
//!   of its way at every moment; where a limit of one joint binds, all are slowed by the same
//!   factor. A velocity target that pushes at a position limit is the exception: the joint at its
//!   limit stops alone, and the others go on.
//!
//! The price is a constant delay of `(W1 + W2) / 2`. For chunks it is removed by reading ahead
//! (`joint_motion`).
//!
//! Ticks are decided as late as possible: a sample decides those that cover the time since the last
//! sample. So a stop begins in effect within one tick of the previous publication.

use super::joint_config::{JointSpace, PerJoint};
use crate::action_chunk::JOINTS_MAX;
use crate::time::Instant;
use std::time::Duration;

/// Relative margin subtracted from every limit, for rounding.
const EPSILON: f64 = 1e-7;

/// Result of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LimitedJoints {
    pub(super) positions: PerJoint,
    pub(super) velocities: PerJoint,
    /// Whether the velocity limit of a joint slowed the setpoint.
    pub(super) by_velocity: bool,
    /// Whether the acceleration limit of a joint did.
    pub(super) by_acceleration: bool,
}

/// Limiter of all joints.
#[derive(Debug)]
pub(super) struct JointLimiter {
    count: usize,
    /// `V` per tick, and `A W1` per tick: bounds of a tick's displacement, and of its difference to
    /// the one a first window ago.
    longest: PerJoint,
    change: PerJoint,
    first: usize,
    second: usize,
    tick_s: f64,
    tick_ns: u64,
    /// Displacements of the last `m1 + m2 + 1` ticks, `count` values each; a ring buffer.
    ticks: Box<[f64]>,
    newest: usize,
    /// `r` at the end of the newest tick.
    setpoint: PerJoint,
    /// The end of the newest tick; `None` before the first sample.
    decided_until: Option<Instant>,
    /// Number of consecutive newest ticks without any displacement.
    settled: usize,
    /// Whether the last sample was before the end of the newest tick.
    mid_tick: bool,
    kernel: Kernel,
}

impl JointLimiter {
    /// At rest at zero. Allocates the window, once.
    pub(super) fn new(space: &JointSpace) -> Self {
        let windows = &space.windows;
        let (tick_s, ticks) = (windows.tick_s(), windows.first + windows.second + 1);
        let scaled = |limits: &PerJoint, factor: f64| limits.map(|x| x * factor * (1.0 - EPSILON));
        let window_s = windows.first as f64 * tick_s;
        Self {
            count: space.count,
            longest: scaled(&space.velocity, tick_s),
            change: scaled(&space.acceleration, window_s * tick_s),
            first: windows.first,
            second: windows.second,
            tick_s,
            tick_ns: windows.tick_ns,
            ticks: vec![0.0; ticks * space.count].into_boxed_slice(),
            newest: 0,
            setpoint: [0.0; JOINTS_MAX],
            decided_until: None,
            settled: ticks,
            mid_tick: false,
            kernel: Kernel::new(windows.first, windows.second),
        }
    }

    fn len(&self) -> usize {
        self.first + self.second + 1
    }

    /// The displacements of the tick `ago` ticks before the newest; `ago <= m1 + m2`.
    fn tick(&self, ago: usize) -> &[f64] {
        let index = self.newest + self.len() - ago;
        let index = if self.len() <= index { index - self.len() } else { index };
        &self.ticks[index * self.count..(index + 1) * self.count]
    }

    /// Whether the velocity is exactly zero, and stays so until the setpoint moves.
    pub(super) fn at_rest(&self) -> bool {
        self.first + self.second + usize::from(self.mid_tick) <= self.settled
    }

    /// `r`: where the joints come to rest if nothing follows.
    pub(super) const fn setpoint(&self) -> &PerJoint {
        &self.setpoint
    }

    /// Starts anew at `positions`. Only at rest: the velocity is not changed.
    pub(super) fn start_at(&mut self, positions: &[f64]) {
        self.setpoint.iter_mut().zip(positions).for_each(|(slot, value)| *slot = *value);
    }

    /// Moves setpoint and command by `shift`, without any velocity: for an arm that is commanded by
    /// velocities and is not where they should have taken it.
    pub(super) fn shift(&mut self, shift: &PerJoint) {
        self.setpoint.iter_mut().zip(shift).for_each(|(slot, shift)| *slot += shift);
    }

    /// Decides the ticks up to `now` and samples at `now`. `wanted` gets the end of a tick, the
    /// setpoint and the length of a tick in seconds, and returns the wanted displacement of that
    /// tick, finite, zero for a stop, with the joints that may be slowed alone clipped already; or
    /// `None` for a stop.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        mut wanted: impl FnMut(Instant, &PerJoint, f64) -> Option<PerJoint>,
    ) -> LimitedJoints {
        let (mut by_velocity, mut by_acceleration) = (false, false);
        let mut until = self.decided_until.unwrap_or(now);
        while until < now {
            let end = until.after(Duration::from_nanos(self.tick_ns));
            match wanted(end, &self.setpoint, self.tick_s) {
                Some(displacement) => {
                    let (velocity, acceleration) = self.move_setpoint(&displacement);
                    by_velocity |= velocity;
                    by_acceleration |= acceleration;
                }
                None if self.at_rest() => {
                    // At rest no ticks are needed, however long the interval was.
                    until = now;
                    break;
                }
                None => self.push(&[0.0; JOINTS_MAX], 0.0),
            }
            until = end;
        }
        self.decided_until = Some(until);
        let ahead_s = until.since(now).seconds();
        self.mid_tick = 0.0 < ahead_s;
        let (positions, velocities) = self.average((ahead_s / self.tick_s).min(1.0));
        LimitedJoints { positions, velocities, by_velocity, by_acceleration }
    }

    /// Moves the setpoint by the largest legal part of `wanted`; returns whether velocity and
    /// acceleration limited it.
    fn move_setpoint(&mut self, wanted: &PerJoint) -> (bool, bool) {
        let (mut velocity, mut acceleration): (f64, f64) = (1.0, 1.0);
        let before = self.tick(self.first - 1);
        for joint in 0..self.count {
            let way = wanted[joint].abs();
            if way == 0.0 {
                continue;
            }
            velocity = velocity.min(self.longest[joint] / way);
            // |factor * wanted - before| <= change. Zero is legal: |before| <= longest <= change.
            let along = if wanted[joint] < 0.0 { -before[joint] } else { before[joint] };
            acceleration = acceleration.min((self.change[joint] + along).max(0.0) / way);
        }
        let factor = velocity.min(acceleration);
        self.push(wanted, factor);
        (velocity < 1.0, acceleration < velocity)
    }

    /// Appends a tick of `factor` times `displacement`.
    fn push(&mut self, displacement: &PerJoint, factor: f64) {
        self.newest = if self.newest + 1 == self.len() { 0 } else { self.newest + 1 };
        let slots = &mut self.ticks[self.newest * self.count..(self.newest + 1) * self.count];
        let mut moved = false;
        for (joint, slot) in slots.iter_mut().enumerate() {
            let before = self.setpoint[joint];
            // A factor of one must not change the last bit: the setpoint ends on its target.
            let after = before + displacement[joint] * factor;
            moved |= after != before;
            *slot = after - before;
            self.setpoint[joint] = after;
        }
        self.settled = if moved { 0 } else { self.settled.saturating_add(1) };
    }

    /// Both moving averages at `ahead` ticks (0..=1) before the end of the newest tick.
    fn average(&mut self, ahead: f64) -> (PerJoint, PerJoint) {
        let mut positions = self.setpoint;
        let mut velocities = [0.0; JOINTS_MAX];
        if self.len() <= self.settled {
            return (positions, velocities);
        }
        self.kernel.weigh(ahead, self.tick_s);
        // The oldest tick counts only while the newest one is not over.
        for ago in 0..self.len() - usize::from(ahead == 0.0) {
            let (open, share) = (self.kernel.open[ago], self.kernel.share[ago]);
            let tick = self.tick(ago);
            for ((x, v), way) in positions.iter_mut().zip(&mut velocities).zip(tick) {
                *x -= open * way;
                *v += share * way;
            }
        }
        (positions, velocities)
    }
}

/// The kernel of both averages: a trapezoid, the second difference of a ramp with corners at 0,
/// `m1`, `m2` and `m1 + m2` ticks. With its cumulative kernel `C` (0 before, 1 after) and the
/// integral `D` of that, a tick that covers the times `[x, y]` before the sample has put the part
/// `D(y) - D(x)` of its displacement into effect, and its part of the velocity is `C(y) - C(x)`.
#[derive(Debug)]
struct Kernel {
    m1: f64,
    m2: f64,
    /// `C` and `D` at the ends of the ticks, one more than there are ticks.
    cumulative: Box<[f64]>,
    integral: Box<[f64]>,
    /// By tick: the part of its displacement that is not in effect yet, and its part of the
    /// velocity per second.
    open: Box<[f64]>,
    share: Box<[f64]>,
}

impl Kernel {
    fn new(first: usize, second: usize) -> Self {
        let zeros = |len: usize| vec![0.0; len].into_boxed_slice();
        let ticks = first + second + 1;
        Self {
            m1: first as f64,
            m2: second as f64,
            cumulative: zeros(ticks + 1),
            integral: zeros(ticks + 1),
            open: zeros(ticks),
            share: zeros(ticks),
        }
    }

    /// Weighs the ticks for a sample `ahead` ticks before the end of the newest one. Plain loops
    /// over the ticks, which the compiler vectorises.
    fn weigh(&mut self, ahead: f64, tick_s: f64) {
        let (m1, m2) = (self.m1, self.m2);
        let (half, sixth) = (1.0 / (2.0 * m1 * m2), 1.0 / (6.0 * m1 * m2));
        let ends = self.cumulative.iter_mut().zip(&mut self.integral);
        for (i, (cumulative, integral)) in ends.enumerate() {
            let x = i as f64 - ahead;
            let corners = [x, x - m1, x - m2, x - m1 - m2].map(|x| if x < 0.0 { 0.0 } else { x });
            let [a, b, c, d] = corners.map(|x| x * x);
            *cumulative = (a - b - c + d) * half;
            let [a, b, c, d] = [a * corners[0], b * corners[1], c * corners[2], d * corners[3]];
            *integral = (a - b - c + d) * sixth;
        }
        let per_second = 1.0 / tick_s;
        let weights = self.open.iter_mut().zip(&mut self.share);
        let ends = self.cumulative.windows(2).zip(self.integral.windows(2));
        for ((open, share), (c, d)) in weights.zip(ends) {
            // Rounding must not make a weight negative.
            *open = (1.0 - (d[1] - d[0])).clamp(0.0, 1.0);
            *share = (c[1] - c[0]).max(0.0) * per_second;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::action_chunk::JointAction;
    use crate::joint_config::{JointList, JointOutput, RawJoint, RawJointSpace};
    use crate::{JointSpace, RawControlConfig};

    /// One joint per triple of velocity, acceleration and jerk, at 50 Hz.
    fn space(limits: &[[f64; 3]]) -> JointSpace {
        let joint = |[velocity, acceleration, jerk]: &[f64; 3]| RawJoint {
            min: Some(-9.0),
            max: Some(9.0),
            velocity: *velocity,
            acceleration: *acceleration,
            jerk: *jerk,
            margin: 0.0,
            tracking_error: 1.0,
        };
        let joints: Vec<RawJoint> = limits.iter().map(joint).collect();
        let joints = RawJointSpace {
            action: JointAction::Position,
            output: JointOutput::Position,
            joints: JointList::new(&joints).unwrap(),
            look_ahead: false,
        };
        let raw = RawControlConfig { joints: Some(joints), ..RawControlConfig::default() };
        *raw.validate().unwrap().joints().unwrap()
    }

    const MS: u64 = 1_000_000;

    fn at(nanoseconds: u64) -> Instant {
        Instant::from_nanoseconds(nanoseconds)
    }

    #[test]
    fn windows_cover_the_slowest_joint() {
        for (limits, first, second) in [
            (&[[1.0, 5.0, 50.0]][..], 40, 40),
            (&[[1.0, 5.0, 50.0], [2.0, 4.0, 80.0], [0.1, 40.0, 200.0]], 100, 80),
            // Not a whole number of ticks, and less than one.
            (&[[1.01, 5.0, 51.0]], 41, 40),
            (&[[0.01, 100.0, 1e5]], 1, 1),
        ] {
            let windows = space(limits).windows;
            let seen = (windows.first, windows.second, windows.tick_ns);
            assert_eq!(seen, (first, second, 5 * MS), "{limits:?}");
        }
    }

    #[test]
    fn position_is_the_mean_of_means() {
        // A slow way of comparing: the setpoint is kept from the beginning as a function of time,
        // and averaged twice by a fine midpoint rule.
        let mut limiter = JointLimiter::new(&space(&[[1.0, 8.0, 200.0]]));
        let tick_s = limiter.tick_s;
        let (m1, m2) = (limiter.first, limiter.second);
        limiter.start_at(&[0.5]);
        limiter.sample(at(0), |_, _, _| None);
        let mut ends = vec![0.5; m1 + m2 + 2];
        let before = ends.len() - 1;
        let mut now = 0;
        let mut last: Option<(u64, f64, f64)> = None;
        for (i, dt) in [3, 7, 20, 20, 1, 19, 20, 5, 15, 10, 33, 20, 2, 18, 40, 20, 20, 20]
            .into_iter()
            .enumerate()
        {
            now += dt * MS;
            let target = if i < 9 { 0.9 } else { 0.6 };
            let sample = limiter.sample(at(now), |_, setpoint, _| {
                let mut way = [0.0; JOINTS_MAX];
                way[0] = target - setpoint[0];
                Some(way)
            });
            let decided = now.div_ceil(limiter.tick_ns) as usize;
            let new = decided + before + 1 - ends.len();
            let mut x = limiter.setpoint[0];
            let mut added: Vec<f64> = (0..new)
                .map(|ago| {
                    let end = x;
                    x -= limiter.tick(ago)[0];
                    end
                })
                .collect();
            added.reverse();
            ends.extend(added);
            let setpoint = |ticks: f64| {
                let place = ticks + before as f64;
                let (low, part) = (place.floor() as usize, place.fract());
                let next = ends.get(low + 1).copied().unwrap_or(ends[low]);
                ends[low] + part * (next - ends[low])
            };
            let ticks = now as f64 / limiter.tick_ns as f64;
            let (cells1, cells2) = (m1 * 20, m2 * 20);
            let mut sum = 0.0;
            for i in 0..cells1 {
                for j in 0..cells2 {
                    let back = (i as f64 + 0.5) / 20.0 + (j as f64 + 0.5) / 20.0;
                    sum += setpoint(ticks - back);
                }
            }
            let mean = sum / (cells1 * cells2) as f64;
            assert!((sample.positions[0] - mean).abs() < 1e-6, "{}: {mean}", sample.positions[0]);
            // The velocity is the derivative of the position.
            if let Some((then, x, v)) = last {
                let dt = (now - then) as f64 * 1e-9;
                let error = sample.positions[0] - x - 0.5 * dt * (v + sample.velocities[0]);
                assert!(error.abs() <= 200.0 * dt.powi(3) / 12.0 + 1e-12, "{error}");
            }
            last = Some((now, sample.positions[0], sample.velocities[0]));
        }
        assert!(tick_s == 0.005 && last.unwrap().1 != 0.5);
    }

    #[test]
    fn a_stop_ends_at_the_setpoint_in_time() {
        let space = space(&[[1.0, 5.0, 50.0], [2.0, 20.0, 300.0]]);
        for moving in 0..40 {
            let mut limiter = JointLimiter::new(&space);
            limiter.sample(at(0), |_, _, _| None);
            let mut now = 0;
            for _ in 0..moving {
                now += 20 * MS;
                limiter.sample(at(now), |_, _, _| Some([1.0; JOINTS_MAX]));
            }
            let ends_at = *limiter.setpoint();
            let began = now + 20 * MS;
            while !limiter.at_rest() {
                now += 20 * MS;
                let sample = limiter.sample(at(now), |_, _, _| None);
                assert_eq!(limiter.at_rest(), sample.velocities == [0.0; JOINTS_MAX]);
                if limiter.at_rest() {
                    assert_eq!(sample.positions, ends_at);
                }
            }
            let took_s = now.saturating_sub(began) as f64 * 1e-9;
            assert!(took_s <= space.stop_time_s() + 0.02, "{moving}: {took_s}");
        }
    }

    #[test]
    fn a_reversal_waits_for_its_room() {
        // At full speed the other way no displacement is legal before a first window has passed.
        let mut limiter = JointLimiter::new(&space(&[[1.0, 5.0, 50.0]]));
        limiter.sample(at(0), |_, _, _| None);
        let go = |limiter: &mut JointLimiter, ms: u64, way: f64| {
            limiter.sample(at(ms * MS), |_, _, _| Some([way; JOINTS_MAX]))
        };
        let sample = go(&mut limiter, 1000, 1.0);
        assert!(sample.by_velocity && !sample.by_acceleration);
        let turned_at = limiter.setpoint()[0];
        let sample = go(&mut limiter, 1100, -1.0);
        assert!(sample.by_acceleration);
        assert!((limiter.setpoint()[0] - turned_at).abs() < 1e-6);
        let back = go(&mut limiter, 1300, -1.0);
        assert!(limiter.setpoint()[0] < turned_at - 0.09 && back.by_acceleration);
    }
}
