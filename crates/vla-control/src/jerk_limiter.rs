//! Velocity, acceleration and jerk: a smooth curve through velocity space that can always be
//! stopped in time.
//!
//! One [`Profile`] shapes one axis group (three linear or three angular velocities). All limits are
//! Euclidean norms of the group.
//!
//! # The curve
//! Two stages, both in continuous time, on a grid of ticks `d` (a quarter of the control period or
//! less):
//!
//! 1. `u(t)`, a polyline in velocity space. In each tick it moves straight towards the target, at a
//!    rate `w = du/dt` with `|w| <= A`, and lands on it exactly.
//! 2. `v(t) = 1/W * integral of u over [t - W, t]`, the mean over the last `W = m d`, where `W >= A
//!    / J`. This is what is published, sampled at the time of publication.
//!
//! # What holds, and why
//! * **Never overshoots, keeps direction, zero stays zero.** `v` is a mean of past `u`, and `u`
//!   only ever walks straight to targets: `v` stays in the convex hull of the targets. If they all
//!   lie on one ray, so does `v`. If all are at most `V` long, so is `v`. If all are zero, `v` is
//!   exactly zero.
//! * **Acceleration.** `dv/dt` is the mean of `w` over the window, so `|dv/dt| <= A`.
//! * **Jerk.** `d2v/dt2 = (w(t) - w(t - W)) / W`. A tick's rate is chosen so that `|w(t) - w(t -
//!   W)| <= A`, hence `|d2v/dt2| <= A / W <= J`. This can always be met: `w = 0` meets it whatever
//!   the rate one window ago.
//! * **Finite differences, whatever the jitter.** The published commands are samples of one curve
//!   whose second derivative exists almost everywhere and is bounded by `J`. By the
//!   Hermite-Genocchi formula every divided difference is a mean of the derivative over the nodes'
//!   span. So for *any* sampling times `t0 < t1 < t2`: `|v1 - v0| <= A (t1 - t0)`, and with `a01 =
//!   (v1 - v0)/(t1 - t0)`: `|a12 - a01| <= J (t2 - t0)/2`. The `dt` in use is the measured one: the
//!   difference between the steady-clock times of the two publications. No nominal period enters.
//! * **The stop.** From now on towards zero, the jerk rule allows at each tick a braking rate of `A
//!   - L(w)`, where `w` is the rate one window ago and `L` is what it costs ([`stop_cost`]). So `u`
//!   is zero after exactly `S / A`, with `S = |u| + d * sum of L over the window`. A tick that
//!   would make `S > V` is shortened until it does not; standing still never raises `S`, and
//!   braking lowers it by `A d` per tick. Hence at *every* moment `S <= V`, and a stop takes at
//!   most `V/A` for `u`, one window `W` for the mean, and the rest of a tick: `V/A + A/J + d`.
//!
//! Ticks are decided as late as possible: those that cover the time since the last sample, when the
//! next sample is taken. So a stop begins in effect within one tick of the *previous* publication,
//! which pays for the tick's length and for the rounding up to whole ticks as long as two
//! publications lie half a period apart or more (`step` sees to that). From the step that sees the
//! cause to the first command that is exactly zero pass at most `V/A + A/J` plus the interval of
//! the publication that shows it.

use super::{
    config::{MotionLimits, TICKS_PER_PERIOD},
    vector::{V3, ZERO, add_scaled, dot, norm, scale, sub},
};
use crate::time::Instant;
use std::time::Duration;

/// Taken off every limit so that neither rounding nor [`SNAP`] can break it.
pub(super) const EPSILON: f64 = 1e-7;
/// A tick that would end within this part of the acceleration limit's way of the target ends on it.
/// Without it, a residue of rounding on the far side of the target would have to wait for one
/// window, since turning round costs jerk.
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

const STILL: Tick = Tick { end: ZERO, rate: ZERO, rate_norm: 0.0 };

/// The result of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shaped {
    /// The velocity to publish.
    pub(super) velocity: V3,
    /// Whether the acceleration limit kept `u` from reaching the target.
    pub(super) by_acceleration: bool,
    /// Whether the jerk limit (or the reserve for a stop) shortened a tick, or the mean still lags
    /// behind `u`.
    pub(super) by_jerk: bool,
}

/// The curve of one axis group.
#[derive(Debug)]
pub(super) struct Profile {
    velocity_max: f64,
    acceleration_max: f64,
    tick_s: f64,
    tick_ns: u64,
    /// The last `m + 1` ticks, a ring: `newest` is the index of the last one decided.
    ticks: Box<[Tick]>,
    newest: usize,
    /// The end of the newest tick; `None` before the first sample.
    decided_until: Option<Instant>,
    /// How many of the newest ticks in a row did not move `u`.
    settled: usize,
    /// The sum of `|w|` over the last `m - 1` ticks: the window of the next tick's stop, without
    /// that tick.
    rates: f64,
    /// Whether the last sample's time lies before the newest tick's end, so that part of the oldest
    /// tick still counts.
    mid_tick: bool,
}

impl Profile {
    /// At rest. Allocates its window, once.
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
            ticks: vec![STILL; window_ticks as usize + 1].into_boxed_slice(),
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

    /// Exactly zero, and exactly zero in every later sample until a target is not.
    pub(super) fn at_rest(&self) -> bool {
        self.tick(0).end == ZERO && self.window() + usize::from(self.mid_tick) <= self.settled
    }

    /// `u`, of which the published velocity is the mean.
    pub(super) fn under_way(&self) -> V3 {
        self.tick(0).end
    }

    /// Samples the curve at `now`, deciding the ticks up to there with `target`, whose length must
    /// be at most the velocity limit.
    pub(super) fn sample(&mut self, now: Instant, target: V3) -> Shaped {
        let (mut by_acceleration, mut by_jerk) = (false, false);
        let mut until = self.decided_until.unwrap_or(now);
        while until < now {
            if target == ZERO && self.at_rest() {
                // Nothing is under way: time may pass without ticks, however long a pause was.
                until = now;
                break;
            }
            let (accelerating, jerking) = self.decide(target);
            by_acceleration |= accelerating;
            by_jerk |= jerking;
            until = until.after(Duration::from_nanos(self.tick_ns));
        }
        self.decided_until = Some(until);
        let ahead_s = until.since(now).seconds();
        self.mid_tick = 0.0 < ahead_s;
        let velocity = self.mean((ahead_s / self.tick_s).min(1.0));
        // A lag of a millionth of the limit is the tail of the approach, not an intervention.
        let lags = 1e-6 * self.velocity_max < norm(sub(target, velocity));
        Shaped {
            velocity,
            by_acceleration: lags && by_acceleration,
            by_jerk: lags && (by_jerk || !by_acceleration),
        }
    }

    /// Decides the next tick; says whether acceleration or jerk kept it from the target.
    fn decide(&mut self, target: V3) -> (bool, bool) {
        let from = self.tick(0).end;
        let way = sub(target, from);
        let distance = norm(way);
        if distance == 0.0 {
            self.push(Tick { end: from, ..STILL });
            return (false, false);
        }
        let direction = scale(way, 1.0 / distance);
        if !direction.iter().all(|x| x.is_finite()) {
            // Less than the reciprocal of the largest number away (subnormal): nothing that could
            // move a robot.
            self.push(Tick { end: target, ..STILL });
            return (false, false);
        }
        let wished = distance / self.tick_s;
        let by_acceleration = self.acceleration_max < wished;
        let mut rate = wished.min(self.acceleration_max).min(self.jerk_allows(direction));
        if target != ZERO {
            rate = self.reserve_allows(from, direction, rate);
        }
        let by_jerk = rate < wished.min(self.acceleration_max);
        let lands = wished <= rate + SNAP * self.acceleration_max;
        let (end, rate) = if lands {
            (target, wished)
        } else {
            (add_scaled(from, direction, rate * self.tick_s), rate)
        };
        if end == from {
            self.push(Tick { end, ..STILL });
        } else {
            self.push(Tick { end, rate: scale(direction, rate), rate_norm: rate });
        }
        (by_acceleration, by_jerk)
    }

    fn push(&mut self, tick: Tick) {
        self.settled =
            if tick.end == self.tick(0).end { self.settled.saturating_add(1) } else { 0 };
        // The tick that leaves these m - 1 is the one m - 2 before the newest. At rest the sum
        // begins anew, so that rounding does not add up.
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

    /// The largest rate up to `wished` along `direction` after which a stop still takes no longer
    /// than `V/A` for `u`.
    fn reserve_allows(&self, from: V3, direction: V3, wished: f64) -> f64 {
        // Whatever the heading, a tick costs a stop at most its rate: often that is enough to know.
        if norm(from) + (2.0 * wished + self.rates) * self.tick_s <= self.velocity_max {
            return wished;
        }
        let excess = |rate: f64| self.stop_path(from, direction, rate) - self.velocity_max;
        let (mut low, mut high) = (0.0, wished);
        let mut above = excess(high);
        if above <= 0.0 {
            return wished;
        }
        let mut below = excess(low);
        // False position with halving: `low` always keeps the reserve, and any `low` is safe.
        // Straight on three guesses lose a quarter of a per cent of the wish at most; turning, one
        // per cent on average (the tests say so).
        for _ in 0..3 {
            // Only a rate above zero may end the search early: at full speed, where nothing is left
            // in reserve, turning must stay possible.
            if 0.0 < low && -5e-7 * self.velocity_max <= below {
                break;
            }
            // Never 0 / 0: `above` is above zero. Where rounding put `below` there too, any guess
            // will do.
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

    /// The mean of `u` over one window that ends `ahead` ticks (0..=1) before the newest tick's
    /// end.
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
        // The part of the oldest tick that the window still touches. Its start is its end less its
        // way.
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

/// `L`: how much less than `limit` a stop against `heading` may brake one window after a tick with
/// rate `w`, where `along = w . heading`. Zero when that tick was itself braking, all of `limit`
/// when it was speeding up with all of it.
fn stop_cost(along: f64, length: f64, limit: f64) -> f64 {
    limit - largest_multiple(-along, length, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A curve and its clock. With the node's defaults a tick is 5 ms and the window 20 ticks.
    struct Run {
        profile: Profile,
        now: Instant,
    }

    fn run(velocity: f64, acceleration: f64, jerk: f64) -> Run {
        let limits = MotionLimits { velocity, acceleration, jerk };
        let mut run =
            Run { profile: Profile::new(&limits, Duration::from_millis(20)), now: Instant::START };
        run.go(0, ZERO);
        run
    }

    impl Run {
        fn go(&mut self, nanoseconds: u64, target: V3) -> Shaped {
            self.now = self.now.after(Duration::from_nanos(nanoseconds));
            self.profile.sample(self.now, target)
        }

        fn ticks(&mut self, ticks: u64, target: V3) -> Shaped {
            self.go(ticks * self.profile.tick_ns, target)
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn the_window_is_long_enough_for_the_jerk_and_made_of_whole_ticks() {
        for (acceleration, jerk, window, tick_ns) in [
            (1.0, 10.0, 20, 5 * MS),
            // Shorter than a tick: one tick is as fine as it gets.
            (1.0, 1000.0, 1, 5 * MS),
            // Not a whole number of the longest ticks: more of them, each shorter, rounded up to
            // nanoseconds.
            (1.0, 150.0, 2, 3_333_334),
            (0.12, 10.0, 3, 4 * MS),
        ] {
            let Run { profile, .. } = run(0.25, acceleration, jerk);
            assert_eq!(
                (profile.window(), profile.tick_ns),
                (window, tick_ns),
                "{acceleration} {jerk}"
            );
            assert!((profile.tick_s - tick_ns as f64 * 1e-9).abs() < 1e-18);
            assert!(acceleration / jerk <= window as f64 * profile.tick_s * (1.0 + 1e-12));
        }
    }

    #[test]
    fn only_the_ticks_up_to_now_are_decided() {
        let mut run = run(0.25, 1.0, 10.0);
        let per_tick = run.profile.acceleration_max * run.profile.tick_s;
        run.ticks(4, [1.0, 0.0, 0.0]);
        assert!(
            (run.profile.under_way()[0] - 4.0 * per_tick).abs() < 1e-15,
            "to the very end of the fourth"
        );
        run.go(1, [1.0, 0.0, 0.0]);
        assert!(
            (run.profile.under_way()[0] - 5.0 * per_tick).abs() < 1e-15,
            "the one that has begun"
        );
        run.go(run.profile.tick_ns - 2, [1.0, 0.0, 0.0]);
        assert!((run.profile.under_way()[0] - 5.0 * per_tick).abs() < 1e-15, "and no other");
    }

    #[test]
    fn the_velocity_is_the_mean_over_the_window_at_any_time() {
        // A slow way of comparing: the polyline is kept from its beginning, and integrated over [t
        // - W, t] exactly, piece by piece.
        let mut run = run(0.25, 1.0, 10.0);
        let (tick_s, window) = (run.profile.tick_s, run.profile.window());
        let mut ends = vec![0.0_f64; window + 2];
        let mut decided = 0;
        for (i, dt) in [3, 7, 20, 20, 1, 19, 20, 5, 15, 10, 10, 33, 20, 2, 18, 20, 20, 40, 20, 20]
            .into_iter()
            .enumerate()
        {
            let target = if i < 8 { 0.2 } else { 0.05 };
            let velocity = run.go(dt * MS, [target, 0.0, 0.0]).velocity[0];
            let new = (run.now.nanoseconds().div_ceil(run.profile.tick_ns)) as usize - decided;
            ends.extend((0..new).rev().map(|ago| run.profile.tick(ago).end[0]));
            decided += new;
            let u = |ticks_ago: f64| {
                let at = ends.len() as f64 - 1.0 - ticks_ago;
                let (low, part) = (at.floor() as usize, at.fract());
                ends[low] + part * (ends.get(low + 1).copied().unwrap_or(ends[low]) - ends[low])
            };
            let ahead = decided as f64 - run.now.nanoseconds() as f64 / run.profile.tick_ns as f64;
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
    fn at_rest_is_when_the_velocity_is_zero_and_not_before_or_after() {
        for offset in [0, 1, 2 * MS, 5 * MS - 1] {
            let mut run = run(0.25, 1.0, 10.0);
            assert!(run.profile.at_rest());
            run.go(offset, [0.1, 0.0, 0.0]);
            for _ in 0..60 {
                let shaped = run.go(5 * MS, [0.1, 0.0, 0.0]);
                assert_eq!(run.profile.at_rest(), shaped.velocity == ZERO);
            }
            let mut zeros = 0;
            for _ in 0..60 {
                let shaped = run.go(5 * MS, ZERO);
                assert_eq!(run.profile.at_rest(), shaped.velocity == ZERO, "offset {offset}");
                zeros += u32::from(shaped.velocity == ZERO);
            }
            assert!(0 < zeros && zeros < 60);
        }
    }

    #[test]
    fn a_sample_says_which_limit_it_lags_behind() {
        let flags = |shaped: Shaped| (shaped.by_acceleration, shaped.by_jerk);
        let far = [0.2, 0.0, 0.0];
        // One tick is the whole window: only the acceleration is in the way.
        let mut quick = run(0.25, 1.0, 1000.0);
        assert_eq!(flags(quick.ticks(4, far)), (true, false));
        // The last part of the way takes less than all of the acceleration: what lags then is the
        // mean.
        quick.ticks(35, far);
        let under_way = quick.profile.under_way()[0];
        let near =
            [under_way + 0.1 * quick.profile.acceleration_max * quick.profile.tick_s, 0.0, 0.0];
        assert_eq!(flags(quick.ticks(1, near)), (false, true));
        assert_eq!(quick.profile.under_way(), near);
        // Arrived within the sample: nothing lags any more, although the acceleration was in the
        // way before.
        let arrives =
            [near[0] + 1.5 * quick.profile.acceleration_max * quick.profile.tick_s, 0.0, 0.0];
        let shaped = quick.ticks(4, arrives);
        assert_eq!((flags(shaped), shaped.velocity), ((false, false), arrives));
        // Braking one window after speeding up costs jerk as well.
        let mut slow = run(0.25, 1.0, 10.0);
        assert_eq!(flags(slow.ticks(20, far)), (true, false));
        assert_eq!(flags(slow.ticks(4, [-0.2, 0.0, 0.0])), (true, true));
        // The jerk rule alone, where the way back is shorter than the acceleration allows.
        let mut slow = run(0.25, 1.0, 10.0);
        slow.ticks(20, far);
        let back =
            slow.profile.under_way()[0] - 0.5 * slow.profile.acceleration_max * slow.profile.tick_s;
        assert_eq!(flags(slow.ticks(1, [back, 0.0, 0.0])), (false, true));
        // A lag is one from a millionth of the velocity limit on.
        for (velocity, target, lags) in
            [(0.25, 1e-6, true), (0.25, 2e-7, false), (2.5, 2e-6, false), (2.5, 4e-6, true)]
        {
            let limits = MotionLimits { velocity, acceleration: 1.0, jerk: 10.0 };
            let mut profile = Profile::new(&limits, Duration::from_millis(20));
            let shaped = profile.sample(Instant::START, [0.0, target, 0.0]);
            assert_eq!(
                (flags(shaped), shaped.velocity),
                ((false, lags), ZERO),
                "{velocity} {target}"
            );
        }
    }

    #[test]
    fn the_smallest_numbers_are_reached_too() {
        let mut run = run(0.25, 1.0, 10.0);
        let tiny = [5e-324, 0.0, -5e-324];
        assert_eq!(run.ticks(100, tiny).velocity, tiny);
        assert_eq!(run.ticks(100, ZERO).velocity, ZERO);
        assert!(run.profile.at_rest());
    }

    #[test]
    fn the_rate_may_differ_by_the_acceleration_from_the_one_a_window_ago() {
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
    fn the_way_to_a_stop_is_what_a_stop_then_takes() {
        // S after some ticks of speeding up, and the number of ticks in which u is brought to zero
        // from there.
        let mut run = run(0.25, 1.0, 10.0);
        for ticks in [3, 9, 30, 7] {
            run.ticks(ticks, [0.1, 0.2, 0.0]);
            let u = run.profile.under_way();
            // After a tick of rate zero, which costs nothing itself.
            let path = run.profile.stop_path(u, [1.0, 0.0, 0.0], 0.0);
            let needed = path / (run.profile.acceleration_max * run.profile.tick_s);
            let mut stopping = Run { profile: clone(&run.profile), now: run.now };
            stopping.profile.push(Tick { end: u, ..STILL });
            let mut taken = 0;
            while stopping.profile.under_way() != ZERO {
                stopping.profile.decide(ZERO);
                taken += 1;
                assert!(taken < 200);
            }
            // A stop shorter than the window is over before all of its cost was due.
            assert!(f64::from(taken) <= needed + 1.0, "{taken} ticks, {needed} were reckoned");
            assert!(
                taken < 20 || needed <= f64::from(taken) + 1.0,
                "{taken} ticks, {needed} were reckoned"
            );
            assert!(path <= run.profile.velocity_max);
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
    fn wander(run: &mut Run, steps: u32, mut each: impl FnMut(&Profile)) {
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
                let reach = run.profile.velocity_max / 3.0_f64.sqrt();
                target = if random() < 0.2 {
                    ZERO
                } else {
                    [(); 3].map(|()| reach * (2.0 * random() - 1.0))
                };
            }
            run.go(1 + (random() * 3.0 * run.profile.tick_ns as f64) as u64, target);
            each(&run.profile);
        }
    }

    #[test]
    fn the_sum_of_rates_is_that_of_the_window_without_its_oldest_tick() {
        for (velocity, acceleration, jerk) in GROUPS {
            let mut run = run(velocity, acceleration, jerk);
            let mut largest: f64 = 0.0;
            wander(&mut run, 3000, |profile| {
                let sum: f64 =
                    (0..profile.window() - 1).map(|ago| profile.tick(ago).rate_norm).sum();
                assert!(
                    (profile.rates - sum).abs() < 1e-9,
                    "{} and {sum} at {acceleration}",
                    profile.rates
                );
                largest = largest.max(sum);
            });
            assert_eq!(run.profile.window() == 1, largest == 0.0);
            run.ticks(1000, ZERO);
            assert_eq!(run.profile.rates, 0.0, "exactly, at rest");
        }
    }

    #[test]
    fn the_reserve_is_kept_and_all_but_used_up() {
        // From many states, in many directions: the rate allowed keeps S <= V. Straight on, nothing
        // is given away; turning, a little.
        let mut given_away = [(0.0_f64, 0.0, 0.0); 2];
        for (velocity, acceleration, jerk) in GROUPS {
            let mut run = run(velocity, acceleration, jerk);
            wander(&mut run, 1500, |profile| {
                let from = profile.under_way();
                let speed = norm(from);
                let (v, a) = (profile.velocity_max, profile.acceleration_max);
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
                    for wished in [a, 0.3 * a] {
                        let rate = profile.reserve_allows(from, direction, wished);
                        assert!((0.0..=wished).contains(&rate));
                        // A tick of rate zero is always allowed, whatever it costs.
                        let path = profile.stop_path(from, direction, rate);
                        assert!(
                            rate == 0.0 || path <= v,
                            "{rate} of {wished} along {direction:?} needs {path} of {v}"
                        );
                        if rate < wished {
                            // The largest rate there is, by bisection.
                            let (mut low, mut high) = (0.0, wished);
                            for _ in 0..50 {
                                let middle = 0.5 * (low + high);
                                if profile.stop_path(from, direction, middle) <= v {
                                    low = middle
                                } else {
                                    high = middle
                                }
                            }
                            let lost = (low - rate) / wished;
                            let (worst, sum, count) = &mut given_away[usize::from(!straight)];
                            (*worst, *sum, *count) = (worst.max(lost), *sum + lost, *count + 1.0);
                        }
                    }
                }
            });
        }
        // What three guesses come to: at worst, and on average.
        for ((worst, sum, count), (worst_allowed, mean_allowed)) in
            given_away.into_iter().zip([(0.0025, 1e-4), (0.42, 0.012)])
        {
            println!(
                "{count} rates were cut; too much by {worst} of the wish at worst, by {} on \
                average",
                sum / count
            );
            assert!(500.0 < count && worst < worst_allowed && sum / count < mean_allowed);
        }
    }

    #[test]
    fn a_tick_lands_on_the_target_when_it_all_but_reaches_it() {
        for (beyond, lands) in [(-1.0, true), (0.5, true), (2.0, false)] {
            let mut run = run(1.5, 4.0, 1000.0);
            let profile = &mut run.profile;
            assert_eq!(profile.window(), 1);
            // One window ago braking with three quarters: a quarter of the acceleration is left for
            // speeding up.
            let limit = profile.acceleration_max;
            profile.push(Tick {
                end: ZERO,
                rate: [-0.75 * limit, 0.0, 0.0],
                rate_norm: 0.75 * limit,
            });
            let target = [(0.25 + beyond * SNAP) * limit * profile.tick_s, 0.0, 0.0];
            profile.decide(target);
            assert_eq!(profile.under_way() == target, lands, "{beyond}");
        }
    }

    fn clone(profile: &Profile) -> Profile {
        Profile { ticks: profile.ticks.clone(), ..*profile }
    }
}
