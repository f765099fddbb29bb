//! The numbers of `limits.json` for one bag or for all. Desired are the recorded actions as
//! velocities; commanded is what the node would have published.

use serde::{Deserialize, Serialize};

use crate::Percentiles;

/// Largest magnitudes of the commands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CommandPeaks {
    /// Per second.
    pub velocity: f64,
    /// Per second squared.
    pub acceleration: f64,
    /// Per second cubed.
    pub jerk: f64,
}

/// Translation (metres) or rotation (radians); all values are vector magnitudes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Motion {
    /// Desired velocity, one value per action.
    pub desired_velocity: Option<Percentiles>,
    /// Desired acceleration, from action to action.
    pub desired_acceleration: Option<Percentiles>,
    /// Desired jerk, from action to action.
    pub desired_jerk: Option<Percentiles>,
    /// Largest values of the commands.
    pub commanded: CommandPeaks,
    /// Path length of the desired motion.
    pub desired_path: f64,
    /// Path length of the commanded motion.
    pub commanded_path: f64,
    /// Largest distance between the desired and the commanded motion.
    pub deviation_max: f64,
    /// That distance at the end of a bag; over several bags, the largest.
    pub deviation_end: f64,
}

/// One dimension of the action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DimensionSummary {
    /// Name of the dimension.
    pub name: String,
    /// Largest desired velocity, per second.
    pub desired_max: f64,
    /// Largest commanded velocity, per second.
    pub commanded_max: f64,
    /// Actions in which envelope, step cap, workspace or velocity limit changed this dimension.
    pub clipped: u64,
    /// Share of all actions that were clipped.
    pub clipped_share: f64,
}

/// How often one kind of intervention occurred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterventionCount {
    /// As in `Status`.
    pub name: String,
    /// Commands in which it occurred.
    pub commands: u64,
    /// Actions during which it occurred.
    pub actions: u64,
}

/// Changes of the gripper between open and closed, the first value included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GripperChanges {
    /// In the recording.
    pub desired: u64,
    /// In the commands.
    pub commanded: u64,
}

/// Recorded positions of the end effector.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// Number of poses.
    pub n: u64,
    /// Smallest x, y, z, metres.
    pub min: [f64; 3],
    /// Largest x, y, z, metres.
    pub max: [f64; 3],
    /// Poses outside the robot file's workspace box, its margin not counted.
    pub outside: u64,
}

/// Effect of the limits on one bag, or on all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitsSummary {
    /// Actions that were replayed.
    pub actions: u64,
    /// Actions superseded by the next one before a command was due.
    pub superseded: u64,
    /// Actions with a number that is not finite; they are left out.
    pub not_finite: u64,
    /// Intervals in which the policy's step ended before the next action.
    pub pauses: u64,
    /// Seconds replayed, until the arm was at rest.
    pub seconds: f64,
    /// Number of commands.
    pub commands: u64,
    /// Metres.
    pub linear: Motion,
    /// Radians.
    pub angular: Motion,
    /// dx, dy, dz, droll, dpitch, dyaw.
    pub dimensions: Vec<DimensionSummary>,
    /// Interventions that occurred, in the order of `Status`.
    pub interventions: Vec<InterventionCount>,
    /// The gripper.
    pub gripper: GripperChanges,
    /// Positions of the end effector, where poses were read.
    pub positions: Option<Positions>,
}
