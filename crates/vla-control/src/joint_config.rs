//! Configuration of a robot that is commanded in joint space: raw form, validated form, validation.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{
    config_error::ConfigErrors,
    ranges::{self, Range},
};
use crate::action_chunk::{JOINTS_MAX, JointAction};

/// Unit of a joint's position in causes: what it is depends on the joint.
pub(super) const UNIT: &str = "rad or m";

/// A value per joint; those beyond the configured joints are unused.
pub(super) type PerJoint = [f64; JOINTS_MAX];

/// What the robot takes. The command always has both; only what is taken is bounded against the
/// arm that follows it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JointOutput {
    /// Velocities. The commanded position follows the measured one.
    Velocity,
    /// Positions. The commanded position begins at the measured one and is then on its own; a joint
    /// that does not follow it is a fault.
    Position,
}

/// One joint as given. Units: rad, or m for a prismatic joint, per second, second squared, cubed.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJoint {
    /// Smallest position; neither `min` nor `max` for a continuous joint.
    #[serde(default)]
    pub min: Option<f64>,
    /// Largest position.
    #[serde(default)]
    pub max: Option<f64>,
    /// Largest velocity.
    pub velocity: f64,
    /// Largest acceleration.
    pub acceleration: f64,
    /// Largest jerk.
    pub jerk: f64,
    /// Kept free inside both position limits. With velocities as output at least the way of one
    /// control period at full speed, since the arm keeps a velocity until the next one.
    #[serde(default = "default_margin")]
    pub margin: f64,
    /// Largest distance between commanded and measured position, which must cover the lag of the
    /// arm at full speed. Also how far outside of `min` and `max` a measured position is plausible.
    #[serde(default = "default_tracking_error")]
    pub tracking_error: f64,
}

impl RawJoint {
    /// A continuous joint with the default margin and tracking error.
    #[must_use]
    pub const fn new(velocity: f64, acceleration: f64, jerk: f64) -> Self {
        let (margin, tracking_error) = (default_margin(), default_tracking_error());
        Self { min: None, max: None, velocity, acceleration, jerk, margin, tracking_error }
    }
}

const fn default_margin() -> f64 {
    0.02
}

const fn default_tracking_error() -> f64 {
    0.2
}

/// Up to [`JOINTS_MAX`] joints by index, as a list in a file.
#[derive(Clone, Copy, PartialEq)]
pub struct JointList {
    joints: [RawJoint; JOINTS_MAX],
    len: usize,
}

const UNUSED: RawJoint = RawJoint {
    min: None,
    max: None,
    velocity: 1.0,
    acceleration: 1.0,
    jerk: 1.0,
    margin: 0.0,
    tracking_error: 1.0,
};

impl JointList {
    /// The joints; `None` for more than [`JOINTS_MAX`].
    #[must_use]
    pub fn new(joints: &[RawJoint]) -> Option<Self> {
        let mut list = Self { joints: [UNUSED; JOINTS_MAX], len: joints.len() };
        list.joints.get_mut(..joints.len())?.copy_from_slice(joints);
        Some(list)
    }

    /// By index.
    #[must_use]
    pub fn as_slice(&self) -> &[RawJoint] {
        &self.joints[..self.len]
    }

    /// By index.
    pub fn as_mut_slice(&mut self) -> &mut [RawJoint] {
        &mut self.joints[..self.len]
    }
}

impl fmt::Debug for JointList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<'de> Deserialize<'de> for JointList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Joints;
        impl<'de> Visitor<'de> for Joints {
            type Value = JointList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of 1 to {JOINTS_MAX} joints")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JointList, A::Error> {
                let mut list = JointList { joints: [UNUSED; JOINTS_MAX], len: 0 };
                while let Some(joint) = seq.next_element()? {
                    let Some(slot) = list.joints.get_mut(list.len) else {
                        return Err(A::Error::invalid_length(list.len + 1, &self));
                    };
                    *slot = joint;
                    list.len += 1;
                }
                Ok(list)
            }
        }
        from.deserialize_seq(Joints)
    }
}

/// `joints` as given: the actions and the command are in joint space.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJointSpace {
    /// What the policy's values mean.
    pub action: JointAction,
    /// What the robot takes.
    pub output: JointOutput,
    /// The joints by index, grippers not included.
    pub joints: JointList,
    /// Whether a chunk is read ahead by the delay of the limiter, so that the arm is where the
    /// policy wants it in time.
    #[serde(default = "default_look_ahead")]
    pub look_ahead: bool,
}

const fn default_look_ahead() -> bool {
    true
}

/// Joint space, validated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JointSpace {
    pub(super) action: JointAction,
    pub(super) output: JointOutput,
    pub(super) count: usize,
    /// Position limits within their margins; infinite for a continuous joint.
    pub(super) min: PerJoint,
    pub(super) max: PerJoint,
    /// A measured position beyond these is not plausible.
    pub(super) lowest: PerJoint,
    pub(super) highest: PerJoint,
    pub(super) velocity: PerJoint,
    pub(super) acceleration: PerJoint,
    pub(super) jerk: PerJoint,
    pub(super) tracking_error: PerJoint,
    pub(super) look_ahead: bool,
    pub(super) windows: Windows,
}

/// The windows of the joint limiter's two moving averages, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    /// At least v/a of every joint.
    pub(super) first: usize,
    /// At least 2a/j of every joint.
    pub(super) second: usize,
    pub(super) tick_ns: u64,
}

/// Farthest position of a continuous joint that is plausible; beyond it rounding would count.
const TURNED: f64 = 1e4;
/// Shortest tick of the joint limiter, seconds.
const TICK_SHORTEST_S: f64 = 0.0025;
/// Ticks of the joint limiter per control period, unless they would be shorter than that.
const TICKS_PER_PERIOD: f64 = 4.0;

impl Windows {
    fn new(joints: &[RawJoint], period: Duration) -> Self {
        let tick_s = (period.as_secs_f64() / TICKS_PER_PERIOD).max(TICK_SHORTEST_S);
        let longest = |time: fn(&RawJoint) -> f64| joints.iter().map(time).fold(0.0, f64::max);
        // A relative error of rounding must not add a tick.
        let ticks = |window_s: f64| (window_s / tick_s * (1.0 - 1e-12)).ceil().max(1.0) as usize;
        Self {
            first: ticks(longest(|joint| joint.velocity / joint.acceleration)),
            second: ticks(longest(|joint| 2.0 * joint.acceleration / joint.jerk)),
            // Rounded up: longer windows mean less acceleration and jerk.
            tick_ns: (tick_s * 1e9).ceil() as u64,
        }
    }

    pub(super) fn tick_s(&self) -> f64 {
        self.tick_ns as f64 * 1e-9
    }
}

impl JointSpace {
    /// Number of joints.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// What the policy's values mean.
    #[must_use]
    pub const fn action(&self) -> JointAction {
        self.action
    }

    /// What the robot takes.
    #[must_use]
    pub const fn output(&self) -> JointOutput {
        self.output
    }

    /// Smallest and largest position of a joint within the margins; infinite for a continuous one.
    #[must_use]
    pub fn position_limits(&self, joint: usize) -> [f64; 2] {
        [self.min[joint], self.max[joint]]
    }

    /// Largest velocity, acceleration and jerk of a joint.
    #[must_use]
    pub fn motion_limits(&self, joint: usize) -> [f64; 3] {
        [self.velocity[joint], self.acceleration[joint], self.jerk[joint]]
    }

    /// Bound of the stop time: both windows of the limiter and one tick, which is the largest v/a
    /// and the largest 2a/j of the joints, each rounded up to ticks, and one tick.
    #[must_use]
    pub fn stop_time_s(&self) -> f64 {
        (self.windows.first + self.windows.second + 1) as f64 * self.windows.tick_s()
    }

    /// Delay of the limiter: half of both windows.
    #[must_use]
    pub fn delay_s(&self) -> f64 {
        0.5 * (self.windows.first + self.windows.second) as f64 * self.windows.tick_s()
    }
}

/// Parameter, value, range.
type Row = (&'static str, fn(&RawJoint) -> f64, Range);

const ROWS: [Row; 5] = [
    ("velocity", |joint| joint.velocity, ranges::JOINT_VELOCITY),
    ("acceleration", |joint| joint.acceleration, ranges::JOINT_ACCELERATION),
    ("jerk", |joint| joint.jerk, ranges::JOINT_JERK),
    ("margin", |joint| joint.margin, ranges::JOINT_MARGIN),
    ("tracking_error", |joint| joint.tracking_error, ranges::TRACKING_ERROR),
];

/// Checks `joints` and resolves it; `None` after an error.
pub(super) fn check(
    errors: &mut ConfigErrors,
    raw: &RawJointSpace,
    period: Duration,
) -> Option<JointSpace> {
    let before = errors.0.len();
    let joints = raw.joints.as_slice();
    if joints.is_empty() {
        errors.add("joints", "has no joint; name at least one");
    }
    for (i, joint) in joints.iter().enumerate() {
        for (name, value, range) in &ROWS {
            errors.within(&format!("joints.{i}.{name}"), value(joint), range);
        }
        check_position(errors, i, joint, margin(raw.output, joint, period));
    }
    if before < errors.0.len() {
        return None;
    }
    let per_joint = |value: &dyn Fn(&RawJoint) -> f64| {
        let mut values = [0.0; JOINTS_MAX];
        values.iter_mut().zip(joints).for_each(|(slot, joint)| *slot = value(joint));
        values
    };
    let inside = |joint: &RawJoint| margin(raw.output, joint, period);
    let space = JointSpace {
        action: raw.action,
        output: raw.output,
        count: joints.len(),
        min: per_joint(&|joint| joint.min.map_or(f64::NEG_INFINITY, |min| min + inside(joint))),
        max: per_joint(&|joint| joint.max.map_or(f64::INFINITY, |max| max - inside(joint))),
        lowest: per_joint(&|joint| joint.min.map_or(-TURNED, |min| min - joint.tracking_error)),
        highest: per_joint(&|joint| joint.max.map_or(TURNED, |max| max + joint.tracking_error)),
        velocity: per_joint(&|joint| joint.velocity),
        acceleration: per_joint(&|joint| joint.acceleration),
        jerk: per_joint(&|joint| joint.jerk),
        tracking_error: per_joint(&|joint| joint.tracking_error),
        look_ahead: raw.look_ahead,
        windows: Windows::new(joints, period),
    };
    let stop_s = space.stop_time_s();
    if 3.0 < stop_s {
        let message = format!(
            "a stop would take the largest velocity / acceleration plus the largest 2 x \
            acceleration / jerk of the joints = {stop_s:.3} s, more than 3 s; raise the \
            accelerations or jerks, or lower the velocities"
        );
        errors.add("joints", message);
        return None;
    }
    Some(space)
}

/// The margin in force. A relative 1e-9 of the range is for rounding.
fn margin(output: JointOutput, joint: &RawJoint, period: Duration) -> f64 {
    let range = joint.min.zip(joint.max).map_or(0.0, |(min, max)| (max - min).abs());
    let kept = match output {
        JointOutput::Velocity => joint.velocity * period.as_secs_f64(),
        JointOutput::Position => 0.0,
    };
    joint.margin.max(kept).max(1e-9 * range)
}

fn check_position(errors: &mut ConfigErrors, i: usize, joint: &RawJoint, margin: f64) {
    let (min, max) = match (joint.min, joint.max) {
        (None, None) => return,
        (Some(min), Some(max)) => (min, max),
        (min, max) => {
            let given = if min.is_some() { "min" } else { "max" };
            let value = min.or(max).unwrap_or_default();
            let message = format!(
                "only {given} {value} is given; give min and max, or neither for a continuous joint"
            );
            errors.add(&format!("joints.{i}"), message);
            return;
        }
    };
    errors.within(&format!("joints.{i}.min"), min, &ranges::JOINT_POSITION);
    errors.within(&format!("joints.{i}.max"), max, &ranges::JOINT_POSITION);
    if min.is_finite() && max.is_finite() && max - min <= 2.0 * margin {
        let message =
            format!("min {min} and max {max} leave no room between two margins of {margin}");
        errors.add(&format!("joints.{i}"), message);
    }
}
