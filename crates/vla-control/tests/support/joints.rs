//! An arm that is commanded in joint space, and the judge of its commands.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::SourceSim;
use vla_control::action_chunk::{JOINTS_MAX, JointAction};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    Command, JointList, JointOutput, JointSpace, JointsSeen, Output, RawControlConfig, RawJoint,
    RawJointSpace,
};

/// A joint with the limits of an ordinary arm: 0.2 s to full speed, 0.2 s to full acceleration.
pub const JOINT: RawJoint = RawJoint {
    min: Some(-2.0),
    max: Some(2.0),
    velocity: 1.0,
    acceleration: 5.0,
    jerk: 50.0,
    margin: 0.02,
    tracking_error: 0.2,
};

/// Control of `joints` in joint space.
pub fn joint_config(
    action: JointAction,
    output: JointOutput,
    joints: &[RawJoint],
) -> RawControlConfig {
    let joints = JointList::new(joints).unwrap();
    RawControlConfig {
        joints: Some(RawJointSpace { action, output, joints, look_ahead: true }),
        ..super::live()
    }
}

/// An arm that follows its commands exactly.
#[derive(Debug, Clone)]
pub struct Arm {
    pub source: SourceSim,
    pub output: JointOutput,
    pub positions: Vec<f64>,
    velocities: Vec<f64>,
    commanded: Option<Vec<f64>>,
    /// Executes nothing.
    pub stuck: bool,
    /// How much of a commanded velocity it executes.
    pub gain: f64,
    /// A joint that the message does not name.
    pub missing: Option<usize>,
    sent: Option<JointsSeen>,
}

impl Arm {
    pub fn new(space: &JointSpace) -> Self {
        Self {
            source: SourceSim::new(),
            output: space.output(),
            positions: vec![0.0; space.count()],
            velocities: vec![0.0; space.count()],
            commanded: None,
            stuck: false,
            gain: 1.0,
            missing: None,
            sent: None,
        }
    }

    /// Executes the last command for `dt` and reports the positions.
    pub fn measure(&mut self, dt: u64, now: Instant, ros_now: Stamp) -> Option<JointsSeen> {
        if !self.stuck {
            match (self.output, &self.commanded) {
                (JointOutput::Position, Some(commanded)) => self.positions.clone_from(commanded),
                (JointOutput::Position, None) => {}
                (JointOutput::Velocity, _) => {
                    let ways = self
                        .velocities
                        .iter()
                        .map(|velocity| self.gain * velocity * dt as f64 * 1e-9);
                    self.positions.iter_mut().zip(ways).for_each(|(x, way)| *x += way);
                }
            }
        }
        let on = self.source.on;
        if let Some(seen) = self.source.send(now, ros_now).filter(|_| on) {
            let mut positions = [f64::NAN; JOINTS_MAX];
            positions[..self.positions.len()].copy_from_slice(&self.positions);
            if let Some(sent) = self.sent.filter(|_| self.source.frozen) {
                // A driver that repeats one message.
                positions = sent.positions;
            }
            if let Some(joint) = self.missing {
                positions[joint] = f64::NAN;
            }
            self.sent = Some(JointsSeen {
                received: seen.received,
                stamp: seen.stamp,
                ros_received: seen.ros_received,
                positions,
            });
        }
        self.sent
    }

    /// Takes the command of a step. A step too early for one leaves the last one in force; after
    /// the last one the arm stays.
    pub fn take(&mut self, output: &Output) {
        if let Some(joints) = output.command.as_ref().and_then(Command::joints) {
            self.commanded = joints.positions().map(<[f64]>::to_vec);
            self.velocities.copy_from_slice(joints.velocities());
        } else if output.at_rest {
            self.commanded = None;
            self.velocities.fill(0.0);
        }
    }
}

/// The divided differences of one joint's samples, up to the third order.
#[derive(Debug, Clone, Default)]
struct Samples {
    /// Time in seconds and value, the newest last; at most four.
    kept: Vec<(f64, f64)>,
}

impl Samples {
    /// Adds a sample and checks the differences of order `k` times `k!` against `limits[k - 1]`.
    fn check(&mut self, at: f64, value: f64, limits: &[f64]) -> Result<(), String> {
        if self.kept.len() == 4 {
            self.kept.remove(0);
        }
        self.kept.push((at, value));
        let mut differences: Vec<f64> = self.kept.iter().map(|(_, value)| *value).collect();
        let mut factorial = 1.0;
        let size = self.kept.iter().fold(1.0, |most: f64, (_, value)| most.max(value.abs()));
        let shortest =
            self.kept.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::INFINITY, f64::min);
        for order in 1..self.kept.len() {
            for i in 0..differences.len() - 1 {
                let span = self.kept[i + order].0 - self.kept[i].0;
                differences[i] = (differences[i + 1] - differences[i]) / span;
            }
            differences.pop();
            factorial *= order as f64;
            let Some(limit) = limits.get(order - 1) else { break };
            // The samples are rounded, and so are our differences.
            let slack = 64.0 * f64::EPSILON * size * factorial / shortest.powi(order as i32);
            let most = factorial * differences.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            if limit + slack < most {
                return Err(format!("difference of order {order}: {most} above {limit}"));
            }
        }
        Ok(())
    }
}

/// Checks every command in joint space.
#[derive(Debug, Clone)]
pub struct JointJudge {
    space: JointSpace,
    positions: Vec<Samples>,
    velocities: Vec<Samples>,
    run: u64,
    period_ns: u64,
    last_due: u64,
    /// The measurement of the step before.
    measured: Option<JointsSeen>,
    /// How far each joint may be outside of its limits: never more than before.
    outside: Vec<f64>,
    last: Option<(f64, Vec<f64>, Vec<f64>)>,
    pub runs: u64,
    /// Largest distance of a joint outside of its limits.
    pub farthest_outside: f64,
}

impl JointJudge {
    pub fn new(space: &JointSpace, period: Duration) -> Self {
        Self {
            space: *space,
            period_ns: period.as_nanos() as u64,
            last_due: 0,
            measured: None,
            positions: vec![Samples::default(); space.count()],
            velocities: vec![Samples::default(); space.count()],
            run: 0,
            outside: vec![f64::INFINITY; space.count()],
            last: None,
            runs: 0,
            farthest_outside: 0.0,
        }
    }

    fn restart(&mut self) {
        self.positions.fill(Samples::default());
        self.outside.fill(f64::INFINITY);
        self.last = None;
    }

    /// `measured` are the positions that the step was given.
    pub fn check(
        &mut self,
        now: u64,
        output: &Output,
        measured: Option<&JointsSeen>,
    ) -> Result<(), String> {
        let checked = self.check_command(now, output, measured);
        self.measured = measured.copied();
        checked
    }

    fn check_command(
        &mut self,
        now: u64,
        output: &Output,
        measured: Option<&JointsSeen>,
    ) -> Result<(), String> {
        let at = now as f64 * 1e-9;
        // The last step that was not too early for a command.
        let since = now - self.last_due;
        if self.period_ns / 2 <= since {
            self.last_due = now;
        }
        let Some(joints) = output.command.as_ref().and_then(|command| command.joints()) else {
            // A step too early for a command is no gap; without a run there is none.
            if output.command.is_none() && output.at_rest {
                self.restart();
                self.velocities.fill(Samples::default());
            }
            return Ok(());
        };
        let by_position = self.space.output() == JointOutput::Position;
        if by_position && joints.positions().is_none() {
            return Err("a command without positions".into());
        }
        let positions = joints.positions().unwrap_or_default();
        for (joint, position) in positions.iter().enumerate() {
            let limits = self.space.motion_limits(joint);
            let name = |error| format!("joint {joint}: {error}");
            let velocity = joints.velocities()[joint];
            if !(velocity.abs() <= limits[0] && position.is_finite()) {
                return Err(name(format!("velocity {velocity} above {}", limits[0])));
            }
            self.velocities[joint].check(at, velocity, &limits[1..]).map_err(name)?;
        }
        if self.run != joints.run() {
            self.restart();
            (self.run, self.runs) = (joints.run(), self.runs + 1);
            // The first command is at most one interval after the start, which may have been in a
            // step too early for a command.
            let near = |measured: &JointsSeen| {
                positions.iter().enumerate().all(|(joint, position)| {
                    let most = self.space.motion_limits(joint)[0] * since as f64 * 1e-9 + 1e-12;
                    (position - measured.positions[joint]).abs() <= most
                })
            };
            if !measured.is_some_and(near) && !self.measured.as_ref().is_some_and(near) {
                return Err(format!("starts at {positions:?}, measured {measured:?}"));
            }
        }
        if !by_position {
            return Ok(());
        }
        for (joint, position) in positions.iter().enumerate() {
            let name = |error| format!("joint {joint}: {error}");
            let limits = self.space.motion_limits(joint);
            self.positions[joint].check(at, *position, &limits).map_err(name)?;
            self.check_limits(joint, *position).map_err(name)?;
            self.check_derivative(joint, at, *position, joints.velocities()[joint])
                .map_err(name)?;
        }
        self.last = Some((at, positions.to_vec(), joints.velocities().to_vec()));
        Ok(())
    }

    /// Within the limits, or not further outside than before.
    fn check_limits(&mut self, joint: usize, position: f64) -> Result<(), String> {
        let [min, max] = self.space.position_limits(joint);
        let outside = (min - position).max(position - max).max(0.0);
        if self.outside[joint] + 1e-12 < outside {
            return Err(format!("{position} is outside of {min}..{max} and moves outwards"));
        }
        self.outside[joint] = outside;
        self.farthest_outside = self.farthest_outside.max(outside);
        Ok(())
    }

    /// The velocities are the derivative of the positions: the trapezoid of a curve whose second
    /// derivative is bounded by J is wrong by at most J dt3 / 12.
    fn check_derivative(&self, joint: usize, at: f64, x: f64, v: f64) -> Result<(), String> {
        let Some((then, positions, velocities)) = &self.last else { return Ok(()) };
        let dt = at - then;
        let error = (x - positions[joint] - 0.5 * dt * (v + velocities[joint])).abs();
        let limit = self.space.motion_limits(joint)[2] * dt.powi(3) / 12.0;
        // Late in a day the times have eleven digits after the point.
        if limit + 1e-9 < error {
            return Err(format!("positions and velocities differ by {error}"));
        }
        Ok(())
    }
}
