//! Acceleration and jerk limiter for one axis group (three linear or three angular velocities): a
//! moving-average filter over a slew-rate-limited target, with a bounded stop time.
//!
//! The response to a constant target is an S-curve (jerk-limited velocity profile). All limits are
//! Euclidean norms of the group: `V` velocity, `A` acceleration, `J` jerk.
//!
//! # Algorithm
//! Two stages in continuous time, on a grid of ticks of length `d` (at most a quarter of the
//! control period):
//!
//! 1. Slew-rate limiter: `u(t)`, a polyline in velocity space. In each tick it moves straight
//!    towards the target at a rate `w = du/dt` with `|w| <= A`, and ends exactly on it.
//! 2. Moving average: `v(t) = 1/W * integral of u over [t - W, t]` with the window `W = m d`, where
//!    `W >= A / J`. `v`, sampled at the time of publication, is the command.
//!
//! # Properties and proof
//! * **No overshoot, direction kept, zero stays zero.** `v` is a mean of past `u`, and `u` moves
//!   only straight to targets: `v` stays in the convex hull of the targets. If they are all on one
//!   ray, so is `v`. If all are at most `V` long, so is `v`. If all are zero, `v` is exactly zero.
//! * **Acceleration.** `dv/dt` is the mean of `w` over the window, so `|dv/dt| <= A`.
//! * **Jerk.** `d2v/dt2 = (w(t) - w(t - W)) / W`. The rate of a tick is chosen so that
//!   `|w(t) - w(t - W)| <= A`, hence `|d2v/dt2| <= A / W <= J`. Such a rate always exists: `w = 0`
//!   satisfies it whatever the rate one window ago.
//! * **Finite differences, for any jitter.** The published commands are samples of one curve whose
//!   second derivative exists almost everywhere and is bounded by `J`. By the Hermite-Genocchi
//!   formula every divided difference is a mean of the derivative over the span of the nodes. So
//!   for *any* sampling times `t0 < t1 < t2`: `|v1 - v0| <= A (t1 - t0)`, and with `a01 = (v1 -
//!   v0)/(t1 - t0)`: `|a12 - a01| <= J (t2 - t0)/2`. The time is the measured steady-clock time of
//!   the publications; the nominal period is not used.
//! * **Stop time.** On the way to zero from now on, the jerk rule allows at each tick a braking
//!   rate of `A - L(w)`, where `w` is the rate one window ago and `L` is its cost ([`stop_cost`]).
//!   So `u` reaches zero after exactly `S / A`, with `S = |u| + d * sum of L over the window`. A
//!   tick that would make `S > V` is shortened until it does not; a tick of rate zero never
//!   increases `S`, and braking decreases it by `A d` per tick. Hence `S <= V` at *every* moment,
//!   and a stop takes at most `V/A` for `u`, one window `W` for the average, and the rest of a
//!   tick: `V/A + A/J + d`.
//!
//! Ticks are decided as late as possible: a sample decides those that cover the time since the last
//! sample. So a stop begins in effect within one tick of the *previous* publication, which
//! compensates for the length of the tick and the rounding up to whole ticks as long as two
//! publications are at least half a period apart (`step` ensures this). From the step that detects
//! the cause to the first command that is exactly zero pass at most `V/A + A/J` plus the interval
//! to the publication that shows it.

use super::{
    config::{MotionLimits, TICKS_PER_PERIOD},
    vector::{V3, ZERO, add_scaled, dot, norm, scale, sub},
};
use crate::time::Instant;
use std::time::Duration;

/// Relative margin subtracted from every limit, for rounding and [`SNAP`].
pub(super) const EPSILON: f64 = 1e-7;
/// A tick that would end this close to the target, as a fraction of the tick's longest step, ends
/// on it. Otherwise a rounding residue on the far side of the target would remain for one window,
/// since turning round costs jerk.
const SNAP: f64 = 0.25 * EPSILON;

/// One tick of the polyline: its end and its rate.
#[derive(Debug, Clone, Copy)]
struct Tick {
    /// `u` at the end of the tick.
    end: V3,
    /// `w` during the tick.
    rate: V3,
    /// `|w|`.
    rate_norm: f64,
}

const ZERO_TICK: Tick = Tick { end: ZERO, rate: ZERO, rate_norm: 0.0 };

/// Result of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LimitedVelocity {
    /// The velocity to publish.
    pub(super) velocity: V3,
    /// Whether the acceleration limit prevented `u` from reaching the target.
    pub(super) by_acceleration: bool,
    /// Whether the jerk limit (or the stop reserve) shortened a tick, or the average still lags
    /// behind `u`.
    pub(super) by_jerk: bool,
}

/// Limiter of one axis group.
#[derive(Debug)]
pub(super) struct JerkLimiter {
    velocity_max: f64,
    acceleration_max: f64,
    tick_s: f64,
    tick_ns: u64,
    /// The last `m + 1` ticks, a ring buffer; `newest` is the index of the last one decided.
    ticks: Box<[Tick]>,
    newest: usize,
    /// The end of the newest tick; `None` before the first sample.
    decided_until: Option<Instant>,
    /// Number of consecutive newest ticks that did not move `u`.
    settled: usize,
    /// Sum of `|w|` over the last `m - 1` ticks, i.e. the window of the next tick without that
    /// tick.
    rates: f64,
    /// Whether the last sample was before the end of the newest tick, so that part of the oldest
    /// tick is still in the window.
    mid_tick: bool,
}

impl JerkLimiter {
    /// At rest. Allocates the window, once.
    pub(super) fn new(limits: &MotionLimits, period: Duration) -> Self {
        let tick_longest_s = period.as_secs_f64() / TICKS_PER_PERIOD;
        let window_s = (limits.acceleration / limits.jerk).max(tick_longest_s);
        let window_ticks = (window_s / tick_longest_s).ceil().max(1.0);
        // Rounded up to whole nanoseconds: a longer window means less jerk.
        let tick_ns = (window_s / window_ticks * 1e9).ceil();
        Self {
            velocity_max: limits.velocity * (1.0 - EPSILON),
            acceleration_max: limits.acceleration * (1.0 - EPSILON),
            tick_s: tick_ns * 1e-9,
            tick_ns: tick_ns as u64,
            ticks: vec![ZERO_TICK; window_ticks as usize + 1].into_boxed_slice(),
            newest: 0,
            decided_until: None,
            settled: window_ticks as usize + 1,
            rates: 0.0,
            mid_tick: false,
        }
    }

    /// `m`.
    fn window(&self) -> usize {
        self.ticks.len() - 1
    }

    /// The tick `ago` ticks before the newest; `ago <= m`.
    fn tick(&self, ago: usize) -> &Tick {
        let n = self.ticks.len();
        let index = self.newest + n - ago;
        &self.ticks[if n <= index { index - n } else { index }]
    }

    /// Whether the output is exactly zero, and stays so until a target is not zero.
    pub(super) fn at_rest(&self) -> bool {
        self.tick(0).end == ZERO && self.window() + usize::from(self.mid_tick) <= self.settled
    }

    /// `u`, the input of the moving average.
    pub(super) fn unfiltered(&self) -> V3 {
        self.tick(0).end
    }

    /// Decides the ticks up to `now` with `target`, whose norm must be at most the velocity limit,
    /// and samples the output at `now`.
    pub(super) fn sample(&mut self, now: Instant, target: V3) -> LimitedVelocity {
        let (mut by_acceleration, mut by_jerk) = (false, false);
        let mut until = self.decided_until.unwrap_or(now);
        while until < now {
            if target == ZERO && self.at_rest() {
                // At rest no ticks are needed, however long the interval was.
                until = now;
                break;
            }
            let (accelerating, jerking) = self.advance_tick(target);
            by_acceleration |= accelerating;
            by_jerk |= jerking;
            until = until.after(Duration::from_nanos(self.tick_ns));
        }
        self.decided_until = Some(until);
        let ahead_s = until.since(now).seconds();
        self.mid_tick = 0.0 < ahead_s;
        let velocity = self.mean((ahead_s / self.tick_s).min(1.0));
        // A lag below a millionth of the limit is the tail of the approach, not an intervention.
        let lags = 1e-6 * self.velocity_max < norm(sub(target, velocity));
        LimitedVelocity {
            velocity,
            by_acceleration: lags && by_acceleration,
            by_jerk: lags && (by_jerk || !by_acceleration),
        }
    }

    /// Decides the next tick; returns whether acceleration and jerk prevented it from reaching the
    /// target.
    fn advance_tick(&mut self, target: V3) -> (bool, bool) {
        let from = self.tick(0).end;
        let offset = sub(target, from);
        let distance = norm(offset);
        if distance == 0.0 {
            self.push(Tick { end: from, ..ZERO_TICK });
            return (false, false);
        }
        let direction = scale(offset, 1.0 / distance);
        if !direction.iter().all(|x| x.is_finite()) {
            // A subnormal distance, below the reciprocal of the largest number: negligible.
            self.push(Tick { end: target, ..ZERO_TICK });
            return (false, false);
        }
        let needed = distance / self.tick_s;
        let by_acceleration = self.acceleration_max < needed;
        let mut rate = needed.min(self.acceleration_max).min(self.jerk_allows(direction));
        if target != ZERO {
            rate = self.reserve_allows(from, direction, rate);
        }
        let by_jerk = rate < needed.min(self.acceleration_max);
        let lands = needed <= rate + SNAP * self.acceleration_max;
        let (end, rate) = if lands {
            (target, needed)
        } else {
            (add_scaled(from, direction, rate * self.tick_s), rate)
        };
        if end == from {
            self.push(Tick { end, ..ZERO_TICK });
        } else {
            self.push(Tick { end, rate: scale(direction, rate), rate_norm: rate });
        }
        (by_acceleration, by_jerk)
    }

    fn push(&mut self, tick: Tick) {
        self.settled =
            if tick.end == self.tick(0).end { self.settled.saturating_add(1) } else { 0 };
        // The tick that leaves these m - 1 is the one m - 2 before the newest. At rest the sum is
        // reset, so that rounding errors do not accumulate.
        let leaving =
            if self.window() < 2 { tick.rate_norm } else { self.tick(self.window() - 2).rate_norm };
        self.rates = if self.window() < self.settled {
            0.0
        } else {
            (self.rates + tick.rate_norm - leaving).max(0.0)
        };
        self.newest = if self.newest + 1 == self.ticks.len() { 0 } else { self.newest + 1 };
        self.ticks[self.newest] = tick;
    }

    /// The largest rate along the unit vector `direction` that differs by no more than `A` from the
    /// rate one window ago.
    fn jerk_allows(&self, direction: V3) -> f64 {
        let old = self.tick(self.window() - 1);
        if old.rate_norm == 0.0 {
            return self.acceleration_max;
        }
        largest_multiple(dot(old.rate, direction), old.rate_norm, self.acceleration_max)
    }

    /// The largest rate up to `desired` along `direction` after which `u` can still stop within
    /// `V/A`.
    fn reserve_allows(&self, from: V3, direction: V3, desired: f64) -> f64 {
        // A tick costs a stop at most its rate, whatever its direction: a cheap sufficient check.
        if norm(from) + (2.0 * desired + self.rates) * self.tick_s <= self.velocity_max {
            return desired;
        }
        let excess = |rate: f64| self.stop_path(from, direction, rate) - self.velocity_max;
        let (mut low, mut high) = (0.0, desired);
        let mut above = excess(high);
        if above <= 0.0 {
            return desired;
        }
        let mut below = excess(low);
        // Illinois variant of false position: `low` always keeps the reserve, so any `low` is safe.
        // Three iterations lose at most 0.25 % of the desired rate straight ahead, and a few per
        // cent on average in turns.
        for _ in 0..3 {
            // Only a rate above zero may end the search early: at full speed, without reserve,
            // turning must remain possible.
            if 0.0 < low && -5e-7 * self.velocity_max <= below {
                break;
            }
            // Never 0 / 0, since `above` is above zero. If rounding made `below` positive too, any
            // value between is valid.
            let middle = low + (high - low) * (-below / (above - below)).clamp(0.05, 0.95);
            let at_middle = excess(middle);
            if at_middle <= 0.0 {
                (low, below) = (middle, at_middle);
                above *= 0.5;
            } else {
                (high, above) = (middle, at_middle);
            }
        }
        low
    }

    /// `S` after a tick of `rate * direction`.
    fn stop_path(&self, from: V3, direction: V3, rate: f64) -> f64 {
        let end = add_scaled(from, direction, rate * self.tick_s);
        let speed = norm(end);
        if speed == 0.0 {
            return 0.0;
        }
        let heading = scale(end, 1.0 / speed);
        let mut cost = stop_cost(dot(direction, heading) * rate, rate, self.acceleration_max);
        for ago in 0..self.window() - 1 {
            let tick = self.tick(ago);
            if tick.rate_norm != 0.0 {
                cost += stop_cost(dot(tick.rate, heading), tick.rate_norm, self.acceleration_max);
            }
        }
        speed + cost * self.tick_s
    }

    /// Moving average of `u` over the window that ends `ahead` ticks (0..=1) before the end of the
    /// newest tick.
    fn mean(&self, ahead: f64) -> V3 {
        let m = self.window();
        let newest = self.tick(0).end;
        if m < self.settled {
            return newest;
        }
        let before = self.tick(1).end;
        // u(t), and the trapezoid from the newest tick's start to t.
        let at_end = add_scaled(newest, sub(before, newest), ahead);
        let mut sum = scale(add_scaled(before, at_end, 1.0), 0.5 * (1.0 - ahead));
        for ago in 1..m {
            sum = add_scaled(sum, add_scaled(self.tick(ago).end, self.tick(ago + 1).end, 1.0), 0.5);
        }
        // The part of the oldest tick that is still in the window.
        let oldest = self.tick(m);
        let start = add_scaled(oldest.end, oldest.rate, -self.tick_s * ahead);
        sum = add_scaled(sum, add_scaled(oldest.end, start, 1.0), 0.5 * ahead);
        scale(sum, 1.0 / m as f64)
    }
}

/// The largest `x >= 0`, at most `limit`, with `|x n - w| <= limit`, where `along = w . n` and
/// `length = |w| <= limit`.
fn largest_multiple(along: f64, length: f64, limit: f64) -> f64 {
    let root = (along * along + (limit * limit - length * length).max(0.0)).sqrt();
    (along + root).clamp(0.0, limit)
}

/// `L`: the reduction of the braking rate below `limit`, one window after a tick with rate `w`, in
/// a stop against `heading`, where `along = w . heading`. Zero after full braking, `limit` after
/// full acceleration.
fn stop_cost(along: f64, length: f64, limit: f64) -> f64 {
    limit - largest_multiple(-along, length, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limiter and its clock. With the node's defaults a tick is 5 ms and the window 20 ticks.
    struct Run {
        limiter: JerkLimiter,
        now: Instant,
    }

    fn run(velocity: f64, acceleration: f64, jerk: f64) -> Run {
        let limits = MotionLimits { velocity, acceleration, jerk };
        let mut run = Run {
            limiter: JerkLimiter::new(&limits, Duration::from_millis(20)),
            now: Instant::START,
        };
        run.go(0, ZERO);
        run
    }

    impl Run {
        fn go(&mut self, nanoseconds: u64, target: V3) -> LimitedVelocity {
            self.now = self.now.after(Duration::from_nanos(nanoseconds));
            self.limiter.sample(self.now, target)
        }

        fn ticks(&mut self, ticks: u64, target: V3) -> LimitedVelocity {
            self.go(ticks * self.limiter.tick_ns, target)
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn window_covers_the_jerk_limit() {
        for (acceleration, jerk, window, tick_ns) in [
            (1.0, 10.0, 20, 5 * MS),
            // Shorter than a tick: one tick is as fine as it gets.
            (1.0, 1000.0, 1, 5 * MS),
            // Not a whole number of the longest ticks: more of them, each shorter, rounded up to
            // nanoseconds.
            (1.0, 150.0, 2, 3_333_334),
            (0.12, 10.0, 3, 4 * MS),
        ] {
            let Run { limiter, .. } = run(0.25, acceleration, jerk);
            assert_eq!(
                (limiter.window(), limiter.tick_ns),
                (window, tick_ns),
                "{acceleration} {jerk}"
            );
            assert!((limiter.tick_s - tick_ns as f64 * 1e-9).abs() < 1e-18);
            assert!(acceleration / jerk <= window as f64 * limiter.tick_s * (1.0 + 1e-12));
        }
    }

    #[test]
    fn ticks_are_decided_up_to_now() {
        let mut run = run(0.25, 1.0, 10.0);
        let per_tick = run.limiter.acceleration_max * run.limiter.tick_s;
        run.ticks(4, [1.0, 0.0, 0.0]);
        assert!(
            (run.limiter.unfiltered()[0] - 4.0 * per_tick).abs() < 1e-15,
            "to the very end of the fourth"
        );
        run.go(1, [1.0, 0.0, 0.0]);
        assert!(
            (run.limiter.unfiltered()[0] - 5.0 * per_tick).abs() < 1e-15,
            "the one that has begun"
        );
        run.go(run.limiter.tick_ns - 2, [1.0, 0.0, 0.0]);
        assert!((run.limiter.unfiltered()[0] - 5.0 * per_tick).abs() < 1e-15, "and no other");
    }

    #[test]
    fn velocity_is_the_moving_average() {
        // A slow way of comparing: the polyline is kept from its beginning, and integrated over [t
        // - W, t] exactly, piece by piece.
        let mut run = run(0.25, 1.0, 10.0);
        let (tick_s, window) = (run.limiter.tick_s, run.limiter.window());
        let mut ends = vec![0.0_f64; window + 2];
        let mut decided = 0;
        for (i, dt) in [3, 7, 20, 20, 1, 19, 20, 5, 15, 10, 10, 33, 20, 2, 18, 20, 20, 40, 20, 20]
            .into_iter()
            .enumerate()
        {
            let target = if i < 8 { 0.2 } else { 0.05 };
            let velocity = run.go(dt * MS, [target, 0.0, 0.0]).velocity[0];
            let new = (run.now.nanoseconds().div_ceil(run.limiter.tick_ns)) as usize - decided;
            ends.extend((0..new).rev().map(|ago| run.limiter.tick(ago).end[0]));
            decided += new;
            let u = |ticks_ago: f64| {
                let at = ends.len() as f64 - 1.0 - ticks_ago;
                let (low, part) = (at.floor() as usize, at.fract());
                ends[low] + part * (ends.get(low + 1).copied().unwrap_or(ends[low]) - ends[low])
            };
            let ahead = decided as f64 - run.now.nanoseconds() as f64 / run.limiter.tick_ns as f64;
            // A fine midpoint rule: exact on every straight piece that no knot cuts; 2000 cells per
            // tick leave less than 1e-9 elsewhere.
            let cells = 2000 * window;
            let sum: f64 = (0..cells).map(|k| u(ahead + (k as f64 + 0.5) / 2000.0)).sum();
            let expected = sum / cells as f64;
            assert!(
                (velocity - expected).abs() < 1e-9,
                "sample {i}: {velocity}, the mean is {expected}"
            );
            assert!(tick_s > 0.0);
        }
    }

    #[test]
    fn at_rest_means_zero_velocity() {
        for offset in [0, 1, 2 * MS, 5 * MS - 1] {
            let mut run = run(0.25, 1.0, 10.0);
            assert!(run.limiter.at_rest());
            run.go(offset, [0.1, 0.0, 0.0]);
            for _ in 0..60 {
                let sample = run.go(5 * MS, [0.1, 0.0, 0.0]);
                assert_eq!(run.limiter.at_rest(), sample.velocity == ZERO);
            }
            let mut zeros = 0;
            for _ in 0..60 {
                let sample = run.go(5 * MS, ZERO);
                assert_eq!(run.limiter.at_rest(), sample.velocity == ZERO, "offset {offset}");
                zeros += u32::from(sample.velocity == ZERO);
            }
            assert!(0 < zeros && zeros < 60);
        }
    }

    #[test]
    fn sample_reports_the_active_limit() {
        let flags = |sample: LimitedVelocity| (sample.by_acceleration, sample.by_jerk);
        let far = [0.2, 0.0, 0.0];
        // One tick is the whole window: only the acceleration is in the way.
        let mut quick = run(0.25, 1.0, 1000.0);
        assert_eq!(flags(quick.ticks(4, far)), (true, false));
        // The last part of the way takes less than all of the acceleration: what lags then is the
        // mean.
        quick.ticks(35, far);
        let unfiltered = quick.limiter.unfiltered()[0];
        let near =
            [unfiltered + 0.1 * quick.limiter.acceleration_max * quick.limiter.tick_s, 0.0, 0.0];
        assert_eq!(flags(quick.ticks(1, near)), (false, true));
        assert_eq!(quick.limiter.unfiltered(), near);
        // Arrived within the sample: nothing lags any more, although the acceleration was in the
        // way before.
        let arrives =
            [near[0] + 1.5 * quick.limiter.acceleration_max * quick.limiter.tick_s, 0.0, 0.0];
        let sample = quick.ticks(4, arrives);
        assert_eq!((flags(sample), sample.velocity), ((false, false), arrives));
        // Braking one window after speeding up costs jerk as well.
        let mut slow = run(0.25, 1.0, 10.0);
        assert_eq!(flags(slow.ticks(20, far)), (true, false));
        assert_eq!(flags(slow.ticks(4, [-0.2, 0.0, 0.0])), (true, true));
        // The jerk rule alone, where the way back is shorter than the acceleration allows.
        let mut slow = run(0.25, 1.0, 10.0);
        slow.ticks(20, far);
        let back = slow.limiter.unfiltered()[0]
            - 0.5 * slow.limiter.acceleration_max * slow.limiter.tick_s;
        assert_eq!(flags(slow.ticks(1, [back, 0.0, 0.0])), (false, true));
        // A lag is one from a millionth of the velocity limit on.
        for (velocity, target, lags) in
            [(0.25, 1e-6, true), (0.25, 2e-7, false), (2.5, 2e-6, false), (2.5, 4e-6, true)]
        {
            let limits = MotionLimits { velocity, acceleration: 1.0, jerk: 10.0 };
            let mut limiter = JerkLimiter::new(&limits, Duration::from_millis(20));
            let sample = limiter.sample(Instant::START, [0.0, target, 0.0]);
            assert_eq!(
                (flags(sample), sample.velocity),
                ((false, lags), ZERO),
                "{velocity} {target}"
            );
        }
    }

    #[test]
    fn subnormal_targets_are_reached() {
        let mut run = run(0.25, 1.0, 10.0);
        let tiny = [5e-324, 0.0, -5e-324];
        assert_eq!(run.ticks(100, tiny).velocity, tiny);
        assert_eq!(run.ticks(100, ZERO).velocity, ZERO);
        assert!(run.limiter.at_rest());
    }

    #[test]
    fn largest_multiple_and_stop_cost() {
        // Along the old rate twice the way is open, against it none: |x n - w| <= limit.
        assert_eq!(largest_multiple(0.0, 0.0, 2.0), 2.0);
        assert_eq!(largest_multiple(1.0, 1.0, 2.0), 2.0);
        assert_eq!(largest_multiple(-1.0, 1.0, 2.0), 1.0);
        assert_eq!(largest_multiple(-2.0, 2.0, 2.0), 0.0);
        assert!((largest_multiple(0.0, 1.2, 2.0) - 1.6).abs() < 1e-15);
        assert!((largest_multiple(-0.6, 1.0, 2.0) - (-0.6 + 3.36_f64.sqrt())).abs() < 1e-15);
        // A length that rounding put above the limit.
        assert_eq!(largest_multiple(0.0, 2.0 + 1e-12, 2.0), 0.0);
        // What a stop may brake less: nothing after braking, all of it after speeding up.
        assert_eq!(
            (stop_cost(-2.0, 2.0, 2.0), stop_cost(0.0, 0.0, 2.0), stop_cost(2.0, 2.0, 2.0)),
            (0.0, 0.0, 2.0)
        );
        assert_eq!(stop_cost(1.0, 1.0, 2.0), 1.0);
    }

    #[test]
    fn stop_path_predicts_the_stop() {
        // S after some ticks of speeding up, and the number of ticks in which u is brought to zero
        // from there.
        let mut run = run(0.25, 1.0, 10.0);
        for ticks in [3, 9, 30, 7] {
            run.ticks(ticks, [0.1, 0.2, 0.0]);
            let u = run.limiter.unfiltered();
            // After a tick of rate zero, which costs nothing itself.
            let path = run.limiter.stop_path(u, [1.0, 0.0, 0.0], 0.0);
            let needed = path / (run.limiter.acceleration_max * run.limiter.tick_s);
            let mut stopping = Run { limiter: clone(&run.limiter), now: run.now };
            stopping.limiter.push(Tick { end: u, ..ZERO_TICK });
            let mut taken = 0;
            while stopping.limiter.unfiltered() != ZERO {
                stopping.limiter.advance_tick(ZERO);
                taken += 1;
                assert!(taken < 200);
            }
            // A stop shorter than the window is over before all of its cost was due.
            assert!(f64::from(taken) <= needed + 1.0, "{taken} ticks, {needed} predicted");
            assert!(
                taken < 20 || needed <= f64::from(taken) + 1.0,
                "{taken} ticks, {needed} predicted"
            );
            assert!(path <= run.limiter.velocity_max);
        }
    }

    /// Limits whose windows are 1, 2, 3, 20 and 54 ticks long, with accelerations below and above
    /// 1.
    const GROUPS: [(f64, f64, f64); 5] = [
        (0.25, 1.0, 1000.0),
        (0.5, 2.0, 250.0),
        (0.6, 3.0, 200.0),
        (0.25, 1.0, 10.0),
        (1.5, 8.0, 30.0),
    ];

    /// Wanders about: a new target now and then, sampled at uneven times.
    fn wander(run: &mut Run, steps: u32, mut each: impl FnMut(&JerkLimiter)) {
        // xorshift64: what the tests allow as lost rate was measured with this sequence.
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut target = ZERO;
        for _ in 0..steps {
            if random() < 0.1 {
                let reach = run.limiter.velocity_max / 3.0_f64.sqrt();
                target = if random() < 0.2 {
                    ZERO
                } else {
                    [(); 3].map(|()| reach * (2.0 * random() - 1.0))
                };
            }
            run.go(1 + (random() * 3.0 * run.limiter.tick_ns as f64) as u64, target);
            each(&run.limiter);
        }
    }

    #[test]
    fn rates_sum_the_window() {
        for (velocity, acceleration, jerk) in GROUPS {
            let mut run = run(velocity, acceleration, jerk);
            let mut largest: f64 = 0.0;
            wander(&mut run, 3000, |limiter| {
                let sum: f64 =
                    (0..limiter.window() - 1).map(|ago| limiter.tick(ago).rate_norm).sum();
                assert!(
                    (limiter.rates - sum).abs() < 1e-9,
                    "{} and {sum} at {acceleration}",
                    limiter.rates
                );
                largest = largest.max(sum);
            });
            assert_eq!(run.limiter.window() == 1, largest == 0.0);
            run.ticks(1000, ZERO);
            assert_eq!(run.limiter.rates, 0.0, "exactly, at rest");
        }
    }

    #[test]
    fn stop_reserve_is_kept_and_used() {
        // From many states, in many directions: the allowed rate keeps S <= V. Little of the rate
        // is lost, less straight ahead than in turns.
        let mut lost_rates = [(0.0_f64, 0.0, 0.0); 2];
        for (velocity, acceleration, jerk) in GROUPS {
            let mut run = run(velocity, acceleration, jerk);
            wander(&mut run, 1500, |limiter| {
                let from = limiter.unfiltered();
                let speed = norm(from);
                let (v, a) = (limiter.velocity_max, limiter.acceleration_max);
                let ahead = if speed == 0.0 { [1.0, 0.0, 0.0] } else { scale(from, 1.0 / speed) };
                let sideways = [-ahead[1], ahead[0], 0.0];
                let length = norm(sideways);
                let sideways =
                    if length == 0.0 { [1.0, 0.0, 0.0] } else { scale(sideways, 1.0 / length) };
                let diagonal = scale(add_scaled(ahead, sideways, 1.0), 0.5_f64.sqrt());
                for (direction, straight) in [
                    (ahead, true),
                    (sideways, false),
                    (diagonal, false),
                    (scale(ahead, -1.0), false),
                ] {
                    for desired in [a, 0.3 * a] {
                        let rate = limiter.reserve_allows(from, direction, desired);
                        assert!((0.0..=desired).contains(&rate));
                        // A tick of rate zero is always allowed, whatever it costs.
                        let path = limiter.stop_path(from, direction, rate);
                        assert!(
                            rate == 0.0 || path <= v,
                            "{rate} of {desired} along {direction:?} needs {path} of {v}"
                        );
                        if rate < desired {
                            // The largest rate there is, by bisection.
                            let (mut low, mut high) = (0.0, desired);
                            for _ in 0..50 {
                                let middle = 0.5 * (low + high);
                                if limiter.stop_path(from, direction, middle) <= v {
                                    low = middle
                                } else {
                                    high = middle
                                }
                            }
                            let lost = (low - rate) / desired;
                            let (worst, sum, count) = &mut lost_rates[usize::from(!straight)];
                            (*worst, *sum, *count) = (worst.max(lost), *sum + lost, *count + 1.0);
                        }
                    }
                }
            });
        }
        // What three guesses come to: at worst, and on average.
        for ((worst, sum, count), (worst_allowed, mean_allowed)) in
            lost_rates.into_iter().zip([(0.0025, 1e-4), (0.42, 0.012)])
        {
            println!(
                "{count} rates were reduced; {worst} of the desired rate lost at worst, {} on \
                average",
                sum / count
            );
            assert!(500.0 < count && worst < worst_allowed && sum / count < mean_allowed);
        }
    }

    #[test]
    fn close_ticks_end_on_the_target() {
        for (beyond, lands) in [(-1.0, true), (0.5, true), (2.0, false)] {
            let mut run = run(1.5, 4.0, 1000.0);
            let limiter = &mut run.limiter;
            assert_eq!(limiter.window(), 1);
            // One window ago braking with three quarters: a quarter of the acceleration is left for
            // speeding up.
            let limit = limiter.acceleration_max;
            limiter.push(Tick {
                end: ZERO,
                rate: [-0.75 * limit, 0.0, 0.0],
                rate_norm: 0.75 * limit,
            });
            let target = [(0.25 + beyond * SNAP) * limit * limiter.tick_s, 0.0, 0.0];
            limiter.advance_tick(target);
            assert_eq!(limiter.unfiltered() == target, lands, "{beyond}");
        }
    }

    fn clone(limiter: &JerkLimiter) -> JerkLimiter {
        JerkLimiter { ticks: limiter.ticks.clone(), ..*limiter }
    }
}
