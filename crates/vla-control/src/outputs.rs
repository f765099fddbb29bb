//! Outputs of one control step.

use super::{
    events::{EnableOutcome, Events, ResetOutcome},
    reason::{Cause, CauseSet, InterventionSet},
};
use crate::action_chunk::{GRIPPERS_MAX, JOINTS_MAX};

/// State of the control core; the numbers are the constants of `Status.msg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum State {
    /// No checkpoint is loaded.
    #[default]
    Unconfigured = 0,
    /// Configured, not active: no command is published, except while coming to rest.
    Inactive = 1,
    /// Active, but motion is not enabled or there is no instruction. The command is zero or ramps
    /// down to zero.
    Idle = 2,
    /// Enabled and no watchdog has fired: the command follows the policy.
    Running = 3,
    /// Enabled, but a watchdog has fired: ramping down, or at rest. Motion resumes by itself only
    /// when the cause is gone in time (`rearm_window_s`).
    Holding = 4,
    /// Latched. Comes to rest and stays there until `~/reset`.
    Fault = 5,
    /// Latched by the operator. Comes to rest and stays there until `~/reset`.
    Estopped = 6,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [State; 7] = [
        State::Unconfigured,
        State::Inactive,
        State::Idle,
        State::Running,
        State::Holding,
        State::Fault,
        State::Estopped,
    ];

    /// Name of the constant in `Status.msg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Unconfigured => "UNCONFIGURED",
            State::Inactive => "INACTIVE",
            State::Idle => "IDLE",
            State::Running => "RUNNING",
            State::Holding => "HOLDING",
            State::Fault => "FAULT",
            State::Estopped => "ESTOPPED",
        }
    }

    /// Number in `Status.msg`.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether only `~/reset` leaves this state.
    #[must_use]
    pub const fn is_latched(self) -> bool {
        matches!(self, State::Fault | State::Estopped)
    }
}

/// Velocity of the end effector.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Twist {
    /// Metres per second, in the frame of the policy file.
    pub linear: [f64; 3],
    /// Radians per second, in the frame of the policy file.
    pub angular: [f64; 3],
}

impl Twist {
    /// At rest.
    pub const ZERO: Self = Self { linear: [0.0; 3], angular: [0.0; 3] };

    /// Whether every component is exactly zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

/// Positions and velocities of the joints by index, rad and rad/s (m and m/s for a prismatic
/// joint).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct JointState {
    pub(super) count: usize,
    pub(super) positions: [f64; JOINTS_MAX],
    pub(super) velocities: [f64; JOINTS_MAX],
}

impl JointState {
    /// By joint index.
    #[must_use]
    pub fn positions(&self) -> &[f64] {
        &self.positions[..self.count]
    }

    /// By joint index.
    #[must_use]
    pub fn velocities(&self) -> &[f64] {
        &self.velocities[..self.count]
    }

    /// Whether every velocity is exactly zero.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.velocities().iter().all(|velocity| *velocity == 0.0)
    }
}

/// The motion part of a command in joint space.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JointCommand {
    pub(super) state: JointState,
    pub(super) run: u64,
    pub(super) anchored: bool,
}

impl JointCommand {
    /// The commanded positions, within every limit. `None` while there is no start position (with
    /// [`JointOutput::Velocity`](crate::JointOutput) only; the velocities are zero then).
    #[must_use]
    pub fn positions(&self) -> Option<&[f64]> {
        self.anchored.then(|| self.state.positions())
    }

    /// The commanded velocities: the exact derivative of the positions.
    #[must_use]
    pub fn velocities(&self) -> &[f64] {
        self.state.velocities()
    }

    /// Number of the run: increases whenever the commanded position starts anew at the measured
    /// one, which happens at rest only. Position limits hold for every command; limits on
    /// differences of positions hold within a run.
    #[must_use]
    pub const fn run(&self) -> u64 {
        self.run
    }
}

/// The motion part of a command.
#[derive(Debug, Clone, Copy, PartialEq)]
// Boxing the large variant would allocate in the control loop.
#[allow(clippy::large_enum_variant)]
pub enum CommandMotion {
    /// Velocity of the end effector.
    Twist(Twist),
    /// Joint positions and velocities.
    Joints(JointCommand),
}

/// Gripper commands by index: 0 closed, 1 open; `None` before the policy's first value.
pub(super) type GripperCommands = [Option<f64>; GRIPPERS_MAX];

/// A command that may be published. Only this crate can construct one, so that every published
/// command has passed the limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Command {
    motion: CommandMotion,
    grippers: GripperCommands,
}

impl Command {
    pub(super) const fn new(motion: CommandMotion, grippers: GripperCommands) -> Self {
        Self { motion, grippers }
    }

    /// The motion, within every limit.
    #[must_use]
    pub const fn motion(&self) -> &CommandMotion {
        &self.motion
    }

    /// The velocity of the end effector, within every limit; zero in joint space.
    #[must_use]
    pub const fn twist(&self) -> &Twist {
        match &self.motion {
            CommandMotion::Twist(twist) => twist,
            CommandMotion::Joints(_) => &Twist::ZERO,
        }
    }

    /// The joints; `None` in the space of the end effector.
    #[must_use]
    pub const fn joints(&self) -> Option<&JointCommand> {
        match &self.motion {
            CommandMotion::Twist(_) => None,
            CommandMotion::Joints(joints) => Some(joints),
        }
    }

    /// The first gripper: 0 closed, 1 open; `None` before the first gripper value of the policy, so
    /// that activation moves no gripper.
    #[must_use]
    pub const fn gripper(&self) -> Option<f64> {
        self.grippers[0]
    }

    /// Every gripper by index, likewise; those beyond the configured ones are `None`.
    #[must_use]
    pub const fn grippers(&self) -> &[Option<f64>; GRIPPERS_MAX] {
        &self.grippers
    }
}

/// The seam between two chunks: how far the first executed step of a chunk is from the last
/// executed step before it. For joint positions after a start: from the start position.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seam {
    /// Difference of the displacements, metres per policy step; zero in joint space.
    pub translation: f64,
    /// Likewise, radians.
    pub rotation: f64,
    /// Largest difference of a joint: rad (m) for positions, rad/s (m/s) for velocities; zero in
    /// the space of the end effector.
    pub joint: f64,
}

impl Seam {
    /// The larger of each component.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            translation: self.translation.max(other.translation),
            rotation: self.rotation.max(other.rotation),
            joint: self.joint.max(other.joint),
        }
    }
}

/// Seams since the state was made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seams {
    /// The newest one.
    pub last: Option<Seam>,
    /// Largest of each component.
    pub largest: Seam,
    /// How many there were.
    pub count: u64,
}

/// The motion of this step in joint space at each stage of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct JointReport {
    /// The policy's values of the present step: positions or velocities, unlimited. `None` without
    /// a step to execute.
    pub desired: Option<[f64; JOINTS_MAX]>,
    /// The setpoint: where the joints come to rest if nothing follows.
    pub setpoint: [f64; JOINTS_MAX],
    /// After every limit: the published command, unless `dry_run`.
    pub limited: JointState,
}

/// The motion of this step at each stage of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MotionReport {
    /// The policy's step times `policy_hz`, unlimited. Zero without a step to execute.
    pub desired: Twist,
    /// After envelope, step cap, workspace and velocity limit.
    pub target: Twist,
    /// After the acceleration and jerk limits: the published command, unless `dry_run`.
    pub limited: Twist,
    /// Joint space; `None` in the space of the end effector, and the twists are zero otherwise.
    pub joints: Option<JointReport>,
    /// Seams between chunks.
    pub seams: Seams,
    /// Limits that changed the velocity, and refused results.
    pub interventions: InterventionSet,
}

/// Result of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// The command to publish now. `None`: publish nothing (not active, `dry_run`, or the step came
    /// too soon after the last one).
    pub command: Option<Command>,
    /// State after this step.
    pub state: State,
    /// Cause of that state: the first of `causes`, or [`Cause::NONE`].
    pub cause: Cause,
    /// Everything that prevents motion in this step, in order of priority: latch, lifecycle,
    /// enabling, watchdogs, instruction, recovery, dry run; while running also the workspace limit,
    /// a missing action and the detectors.
    pub causes: CauseSet,
    /// Whether motion is enabled after this step: `~/enable` was accepted and has not been
    /// withdrawn.
    pub enabled: bool,
    /// Velocities and interventions.
    pub motion: MotionReport,
    /// Events, in the order of occurrence.
    pub events: Events,
    /// Result of an enable request of this step.
    pub enable: Option<EnableOutcome>,
    /// Result of a reset request of this step.
    pub reset: Option<ResetOutcome>,
    /// On hold with its cause gone: motion resumes by itself after this many seconds, at the
    /// earliest, unless a new cause appears. Seconds on the steady clock.
    pub resumes_in_s: Option<f64>,
    /// On hold without a resumption in sight: the enabling is withdrawn after this many seconds,
    /// unless the cause goes away early enough. Never set together with `resumes_in_s`.
    pub enable_withdrawn_in_s: Option<f64>,
    /// Number of policy steps begun since the state was made. Copied into
    /// `ChunkOrigin::steps_begun_at_observation`.
    pub steps_begun: u64,
    /// Whether the command is exactly zero and stays so until a new chunk is accepted. Deactivation
    /// waits for it.
    pub at_rest: bool,
    /// Age of the newest image with a new stamp, in seconds on the steady clock since its capture;
    /// see [`ImageSeen::taken`](crate::ImageSeen::taken).
    pub image_age_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_match_the_message() {
        let message = include_str!("../../../msg/msg/Status.msg");
        for (i, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.code()), i);
            let constant = message.lines().find_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let name = words.get(1).filter(|_| words.first() == Some(&"uint8"))?;
                (name.split('=').next() == Some(state.name())).then(|| words.join(" "))
            });
            let constant = constant.unwrap_or_default();
            assert!(
                constant.replace(' ', "").contains(&format!("{}={}", state.name(), state.code())),
                "{constant}"
            );
            assert_eq!(state.is_latched(), matches!(state.name(), "FAULT" | "ESTOPPED"));
        }
    }
}
