//! Outputs of one control step.

use super::{
    events::{EnableOutcome, Events, ResetOutcome},
    reason::{Cause, CauseSet, InterventionSet},
};

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

/// A command that may be published. Only this crate can construct one, so that every published
/// command has passed the limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Command {
    twist: Twist,
    gripper: Option<f64>,
}

impl Command {
    pub(super) const fn new(twist: Twist, gripper: Option<f64>) -> Self {
        Self { twist, gripper }
    }

    /// The velocity, within every limit.
    #[must_use]
    pub const fn twist(&self) -> &Twist {
        &self.twist
    }

    /// 0 closed, 1 open; `None` before the first gripper value of the policy, so that activation
    /// moves no gripper.
    #[must_use]
    pub const fn gripper(&self) -> Option<f64> {
        self.gripper
    }
}

/// The velocity of this step at each stage of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MotionReport {
    /// The policy's step times `policy_hz`, unlimited. Zero without a step to execute.
    pub desired: Twist,
    /// After envelope, step cap, workspace and velocity limit.
    pub target: Twist,
    /// After the acceleration and jerk limits: the published command, unless `dry_run`.
    pub limited: Twist,
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
