//! Motion in joint space: where it starts, what the setpoint follows, and what stops it.
//!
//! * **Start.** Motion starts at the measured positions, always at rest: when motion is allowed and
//!   there is no run. A run ends when motion is not allowed and the joints are at rest. So no old
//!   commanded position outlives a hold: the arm may have been moved meanwhile.
//! * **Positions as actions.** Each step's positions are reached at its end, on a straight line in
//!   joint space from those of the step before it. Where a chunk begins, the distance to it is
//!   closed in proportion over one step, in addition to the limits.
//! * **Velocities as actions.** Scaled with one factor to the velocity limits. A joint at its
//!   position limit stops alone.
//! * **Reading ahead.** The limiter delays by half of its windows; a chunk is read ahead by as
//!   much, as far as it goes. So the arm follows a chunk in time, smoothed symmetrically.
//! * **Position limits.** Targets are clipped to them. A joint outside of them (at the start) may
//!   only move inwards, or stay.
//! * **Velocities as output.** The arm integrates them by itself, so its position is known from the
//!   measurement only: setpoint and command are moved to it with each measurement, which changes no
//!   velocity.

use super::{
    chunk_player::{ChunkPlayer, Row},
    inputs::JointsSeen,
    joint_config::{JointOutput, JointSpace, PerJoint, UNIT},
    joint_limiter::JointLimiter,
    joint_target::{Blend, JointTarget},
    outputs::{JointReport, JointState},
    reason::{Cause, Intervention, InterventionSet, Reason, Source},
};
use crate::action_chunk::{JOINTS_MAX, JointAction};
use crate::time::Instant;
use std::time::Duration;

/// State between steps.
#[derive(Debug)]
pub(super) struct JointMotion {
    space: JointSpace,
    limiter: JointLimiter,
    lead: Duration,
    /// Whether there is a run: setpoint and command have started at a measured position.
    running: bool,
    run: u64,
    /// The last sample, and its time.
    state: JointState,
    sampled: Option<Instant>,
    /// Start of the run, and the last time at which the joints were not at rest.
    started: Instant,
    moved: Instant,
    /// Arrival of the last measurement that was followed, and of the last that was compared.
    measured: Option<Instant>,
    compared: Option<Instant>,
    /// Result of that comparison.
    lagging: Option<Cause>,
    blend: Option<Blend>,
    /// What the setpoint follows at the time of this step, before a chunk begins in it.
    reference: Option<PerJoint>,
}

impl JointMotion {
    /// At rest, without a start. Allocates the limiter's window, once.
    pub(super) fn new(space: &JointSpace) -> Self {
        let lead_s = if space.look_ahead { space.delay_s() } else { 0.0 };
        Self {
            space: *space,
            limiter: JointLimiter::new(space),
            lead: Duration::from_secs_f64(lead_s),
            running: false,
            run: 0,
            state: JointState { count: space.count, ..JointState::default() },
            sampled: None,
            started: Instant::START,
            moved: Instant::START,
            measured: None,
            compared: None,
            lagging: None,
            blend: None,
            reference: None,
        }
    }

    pub(super) fn at_rest(&self) -> bool {
        self.limiter.at_rest()
    }

    /// Whether the commanded positions are valid.
    pub(super) const fn is_running(&self) -> bool {
        self.running
    }

    pub(super) const fn run(&self) -> u64 {
        self.run
    }

    /// Continues the numbers of the runs of another configuration.
    pub(super) const fn inherit(&mut self, old: &Self) {
        self.run = old.run;
    }

    /// The last command.
    pub(super) const fn state(&self) -> &JointState {
        &self.state
    }

    /// Speed of the fastest joint.
    pub(super) fn fastest(&self) -> f64 {
        self.state.velocities().iter().fold(0.0, |most, v| v.abs().max(most))
    }

    /// `TRACKING_ERROR` for the first joint that was too far from its commanded position when it
    /// was last measured. An arm that takes velocities is followed, so that only a jump between two
    /// measurements counts there.
    ///
    /// A measurement is compared once, on arrival: a source that falls silent is a fault of its
    /// own.
    pub(super) fn check_tracking(&mut self, joints: Option<&JointsSeen>) -> Option<Cause> {
        if !self.running {
            self.lagging = None;
        } else if let Some(joints) = joints.filter(|joints| self.compared != Some(joints.received))
        {
            self.compared = Some(joints.received);
            let errors = (0..self.space.count)
                .map(|joint| (joints.positions[joint] - self.expected(joint, joints)).abs());
            let lags = errors.enumerate().find(|(i, error)| self.space.tracking_error[*i] < *error);
            self.lagging = lags.map(|(i, error)| {
                let limit = self.space.tracking_error[i];
                Cause::measured(Reason::TrackingError, error, limit, UNIT)
                    .of(Source::Joint(i as u8))
            });
        }
        self.lagging
    }

    /// Where the arm should have been when it was measured, but not before it started: the last
    /// command, moved by its velocity.
    fn expected(&self, joint: usize, seen: &JointsSeen) -> f64 {
        let taken = seen.taken().max(self.started);
        let seconds = self.sampled.map_or(0.0, |sampled| {
            taken.since(sampled).seconds() - sampled.max(self.started).since(taken).seconds()
        });
        self.state.positions[joint] + self.state.velocities[joint] * seconds
    }

    /// Begins or ends a run, and takes a new measurement into account. `allowed`: motion is.
    pub(super) fn update(
        &mut self,
        now: Instant,
        allowed: bool,
        joints: Option<&JointsSeen>,
        player: &mut ChunkPlayer,
    ) {
        if !allowed && self.limiter.at_rest() {
            self.running = false;
        }
        let Some(joints) = joints else { return };
        let measured = &joints.positions[..self.space.count];
        if !measured.iter().all(|x| x.is_finite()) {
            return;
        }
        if allowed && !self.running {
            // One that was measured on the way is not where the arm is now.
            if joints.taken() < self.moved {
                return;
            }
            self.limiter.start_at(measured);
            self.state.positions[..self.space.count].copy_from_slice(measured);
            (self.running, self.run) = (true, self.run.saturating_add(1));
            (self.started, self.measured) = (now, Some(joints.received));
            // Measured before the start, it says nothing about what follows.
            (self.compared, self.lagging) = (Some(joints.received), None);
            self.blend = None;
            if self.space.action == JointAction::Position {
                player.start_from(measured);
            }
        } else if self.running
            && self.space.output == JointOutput::Velocity
            && self.measured != Some(joints.received)
        {
            self.measured = Some(joints.received);
            self.follow(joints);
        }
    }

    /// Moves setpoint and command by the distance of the arm from where it should have been.
    fn follow(&mut self, seen: &JointsSeen) {
        let mut shift = [0.0; JOINTS_MAX];
        for (joint, slot) in shift.iter_mut().enumerate().take(self.space.count) {
            *slot = seen.positions[joint] - self.expected(joint, seen);
        }
        self.state.positions.iter_mut().zip(shift).for_each(|(x, shift)| *x += shift);
        self.limiter.shift(&shift);
    }

    /// Notes what the setpoint follows at `now`, before a chunk may begin.
    pub(super) fn note_reference(&mut self, now: Instant, player: &ChunkPlayer) {
        self.reference = match self.space.action {
            JointAction::Position => self.target(player).reference(now, self.limiter.setpoint()),
            JointAction::Velocity => None,
        };
    }

    /// A chunk has begun: what is missing to its line is closed in proportion.
    ///
    /// The seam between the old line and the new one takes one step; what is left of an older seam
    /// takes the time that is left to it. Both together are closed in the mean of both times, so
    /// that a chunk that agrees with the one before it changes nothing.
    pub(super) fn begin_chunk(&mut self, now: Instant, player: &ChunkPlayer) {
        let old = self.blend.take();
        if self.space.action == JointAction::Velocity {
            return;
        }
        let setpoint = *self.limiter.setpoint();
        let Some(line) = self.target(player).line(now, &setpoint) else { return };
        // A setpoint that lags behind its reference catches up by itself.
        let from = self.reference.unwrap_or(setpoint);
        let mut offset = [0.0; JOINTS_MAX];
        let left = old.map_or(0.0, |old| old.left(now));
        // Lengths of the older seam's rest and of the new seam, in seconds at full speed.
        let (mut rest_s, mut seam_s) = (0.0, 0.0);
        for (joint, slot) in offset.iter_mut().enumerate().take(self.space.count) {
            *slot = from[joint] - line[joint];
            let rest = old.map_or(0.0, |old| old.offset[joint] * left);
            rest_s += rest.abs() / self.space.velocity[joint];
            seam_s += (*slot - rest).abs() / self.space.velocity[joint];
        }
        let old_s = old.map_or(0.0, |old| old.length_s * left);
        let sum_s = rest_s + seam_s;
        if 0.0 < sum_s {
            let length_s = (old_s * rest_s + player.step_s() * seam_s) / sum_s;
            self.blend = Some(Blend { offset, began: now, length_s });
        }
    }

    fn target<'a>(&'a self, player: &'a ChunkPlayer) -> JointTarget<'a> {
        JointTarget { space: &self.space, player, lead: self.lead, blend: self.blend.as_ref() }
    }

    /// Moves the setpoint by the active step, or stops it, and samples the command at `now`.
    /// `desired` is the active step.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        player: &ChunkPlayer,
        desired: Option<&Row>,
        done: &mut InterventionSet,
    ) {
        let Self { space, limiter, lead, blend, .. } = self;
        let target = JointTarget { space, player, lead: *lead, blend: blend.as_ref() };
        let mut scaled = false;
        let desired = desired.filter(|_| self.running);
        let sample = limiter.sample(now, |end, setpoint, tick_s| {
            desired?;
            match space.action {
                JointAction::Position => target.way_to_position(end, setpoint),
                JointAction::Velocity => {
                    let way = target.way_by_velocity(end, setpoint, tick_s)?;
                    scaled |= way.scaled;
                    Some(way.way)
                }
            }
        });
        self.state.positions = sample.positions;
        self.state.velocities = sample.velocities;
        self.sampled = Some(now);
        if !self.limiter.at_rest() {
            self.moved = now;
        }
        if scaled || sample.by_velocity {
            done.insert(Intervention::Velocity);
        }
        if sample.by_acceleration {
            done.insert(Intervention::Acceleration);
        }
    }

    /// `JOINT_OUTSIDE` or `JOINT_LIMIT`: what the position limits take from the active step.
    pub(super) fn limiting(
        &self,
        desired: Option<&Row>,
        done: &mut InterventionSet,
    ) -> Option<Cause> {
        let setpoint = self.limiter.setpoint();
        // Where the setpoint follows a measurement, its noise must not come and go as a cause.
        let near = match self.space.output {
            JointOutput::Velocity => 1e-3,
            JointOutput::Position => 1e-6,
        };
        let limited = desired.and_then(|row| {
            (0..self.space.count).find(|joint| {
                let (x, value) = (setpoint[*joint], row[*joint]);
                let [min, max] = self.space.position_limits(*joint);
                match self.space.action {
                    JointAction::Position => value < min || max < value,
                    // At the limit, and pushing.
                    JointAction::Velocity => {
                        let near = near * (max - min);
                        (value < 0.0 && x <= min + near) || (0.0 < value && max - near <= x)
                    }
                }
            })
        });
        if limited.is_some() {
            done.insert(Intervention::JointLimit);
        }
        let outside = (0..self.space.count).find(|joint| {
            let [min, max] = self.space.position_limits(*joint);
            let near = near * (max - min);
            self.running && !(min - near..=max + near).contains(&setpoint[*joint])
        });
        let cause = |reason, joint: usize, value: f64| {
            let [min, max] = self.space.position_limits(joint);
            let below = if value == setpoint[joint] {
                (value - min).abs() < (max - value).abs()
            } else {
                value < min
            };
            let limit = if below { min } else { max };
            Cause::measured(reason, value, limit, UNIT).of(Source::Joint(joint as u8))
        };
        let outside = outside.map(|joint| cause(Reason::JointOutside, joint, setpoint[joint]));
        outside.or_else(|| {
            let joint = limited?;
            let value = match self.space.action {
                JointAction::Position => desired?[joint],
                JointAction::Velocity => setpoint[joint],
            };
            Some(cause(Reason::JointLimit, joint, value))
        })
    }

    /// For the report; `desired` is the active step.
    pub(super) fn report(&self, desired: Option<&Row>) -> JointReport {
        let desired = desired.map(|row| {
            let mut values = [0.0; JOINTS_MAX];
            values[..self.space.count].copy_from_slice(&row[..self.space.count]);
            values
        });
        JointReport { desired, setpoint: *self.limiter.setpoint(), limited: self.state }
    }
}
