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
//! The kernel `k` of both averages together is not negative, has the integral 1 and vanishes outside
//! of `[0, W1 + W2]`.
//!
//! * **Position limits, no overshoot.** `p(t)` is a weighted mean of `r` over `[t - W1 - W2, t]`: it
//!   never leaves the interval of recent setpoints. `r` is kept within the position limits, so `p`
//!   is. `r` ends exactly on its target, so `p` comes to rest there, from one side. An arm that
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
//!   Hermite-Genocchi formula every divided difference of its samples is a mean of a derivative over
//!   the span of the nodes. So for *any* sampling times, of the published **positions**: `|f[t0,
//!   t1]| <= V`, `2 |f[t0, t1, t2]| <= A`, `6 |f[t0 .. t3]| <= J`; and of the published
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
