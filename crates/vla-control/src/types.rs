//! What goes into a step and what comes out of it.

use super::reason::{Cause, InterventionSet};
use crate::action_chunk::ActionChunk;
use crate::time::{Instant, Stamp};

/// The state in `Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum State {
    /// No checkpoint is loaded.
    #[default]
    Unconfigured = 0,
    /// Configured, not active: no command is published, except while coming to rest.
    Inactive = 1,
    /// Active, but motion is not asked for: not enabled. Zero is streamed.
    Idle = 2,
    /// Every gate is open and every watchdog content: the policy's actions move the robot.
    Running = 3,
    /// Enabled, but something is missing or wrong: coming to rest, or at rest. Goes on by itself
    /// when the cause has been gone long enough.
    Holding = 4,
    /// Latched. Comes to rest and stays there until `~/reset`.
    Fault = 5,
    /// Latched by the operator. Comes to rest and stays there until `~/reset`.
    Estopped = 6,
}

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [State; 7] = [
        State::Unconfigured,
        State::Inactive,
        State::Idle,
        State::Running,
        State::Holding,
        State::Fault,
        State::Estopped,
    ];

    /// The constant's name in `Status.msg`.
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

    /// The number in `Status.msg`.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether only `~/reset` leads out of it.
    #[must_use]
    pub const fn is_latched(self) -> bool {
        matches!(self, State::Fault | State::Estopped)
    }
}

/// The primary lifecycle state the node is in, as far as control must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifecycle {
    /// Nothing loaded.
    #[default]
    Unconfigured,
    /// Loaded and checked. Entering it from `Active` ramps down first; see [`Output::at_rest`].
    Inactive,
    /// Armed.
    Active,
}

/// What operators asked for since the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// `~/enable` with its value. When both came, the last.
    pub enable: Option<bool>,
    /// `~/estop`.
    pub estop: bool,
    /// `~/reset`. Answered in [`Output::reset`].
    pub reset: bool,
}

/// The newest camera image, as far as control must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSeen {
    /// When it arrived, on the steady clock.
    pub received: Instant,
    /// Its header's stamp.
    pub stamp: Stamp,
    /// ROS time when it arrived.
    pub ros_received: Stamp,
    /// Since when the picture has been the same, on the steady clock: the arrival of the first of
    /// the images in a row, this one the last of them, whose bytes are equal. Its own arrival when
    /// it differs from the image before it.
    pub unchanged_since: Instant,
}

impl ImageSeen {
    /// When it was taken, on the steady clock: when it arrived, less what its stamp lay behind ROS
    /// time *then*. So a camera's delay counts, and what ROS time does afterwards (pause, jump, run
    /// at another rate) does not. Under simulated time the delay is in the simulator's seconds,
    /// which are those its camera lives in. A stamp that lies ahead makes no image younger.
    ///
    /// Of use only when the stamp is: the watchdogs refuse those too far behind or ahead, before
    /// they ask for the age.
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.received.before(self.ros_received.since(self.stamp).get())
    }
}

/// The newest end-effector pose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoseSeen {
    /// When it arrived, on the steady clock.
    pub received: Instant,
    /// Position in metres, in the frame of the workspace box (which must be the frame of the
    /// action). May be anything: it is checked.
    pub position: [f64; 3],
}

/// What the inference worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inference {
    /// Waiting for an observation.
    #[default]
    Idle,
    /// Working on an observation since then, on the steady clock.
    Busy {
        /// When it began.
        since: Instant,
    },
    /// Its thread is gone.
    Dead,
}

/// How the policy failed since the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyFailure {
    /// It produced NaN or an infinity somewhere. Latches.
    NotFinite,
    /// It refused to answer, e.g. because a token was no action token. A fault.
    Refused,
}

/// Everything a step may look at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inputs<'a> {
    /// Now, in ROS time. Only watched for jumping back; nothing is timed with it.
    pub ros_now: Stamp,
    /// The node's lifecycle state.
    pub lifecycle: Lifecycle,
    /// What operators asked for since the last step.
    pub requests: Requests,
    /// The generation of the instruction in force; `None` when there is none (an empty instruction
    /// is none).
    pub instruction: Option<u64>,
    /// The newest image, repeated in each step until a newer one arrives.
    pub image: Option<ImageSeen>,
    /// The newest end-effector pose, repeated likewise. Needed only when a workspace is configured.
    pub ee_pose: Option<PoseSeen>,
    /// A chunk that arrived since the last step. Borrowed: control copies what it needs, so that
    /// freeing it is somebody else's work.
    pub chunk: Option<&'a ActionChunk>,
    /// What the inference worker is doing.
    pub inference: Inference,
    /// How the policy failed since the last step, if it did. When it failed in several ways, the
    /// worst.
    pub policy_failure: Option<PolicyFailure>,
    /// Whether anybody subscribes to the command. Always `true` when the middleware cannot tell.
    pub subscribed: bool,
}

impl Default for Inputs<'_> {
    /// Nothing has arrived, nothing is loaded.
    fn default() -> Self {
        Self {
            ros_now: Stamp::default(),
            lifecycle: Lifecycle::default(),
            requests: Requests::default(),
            instruction: None,
            image: None,
            ee_pose: None,
            chunk: None,
            inference: Inference::default(),
            policy_failure: None,
            subscribed: true,
        }
    }
}

/// A velocity of the end effector.
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

/// A command that may be published. Only `control` can make one, so that nothing reaches a
/// publisher without its verdict.
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

    /// 0 closed .. 1 open; `None` until the policy has said something about the gripper, so that
    /// activation drops nothing.
    #[must_use]
    pub const fn gripper(&self) -> Option<f64> {
        self.gripper
    }
}

/// What was done about the policy's wish in this step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Verdict {
    /// What the policy asked for: its step times `policy_hz`, before anything was changed. Zero
    /// when there was no step to play.
    pub wished: Twist,
    /// What was aimed at after envelope, step cap, workspace and velocity.
    pub target: Twist,
    /// What came out of the acceleration and jerk limits. The published command, unless `dry_run`.
    pub limited: Twist,
    /// What was changed or refused on the way.
    pub interventions: InterventionSet,
}

/// Why a chunk was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It holds a number that is not finite.
    NotFinite,
    /// It answers an earlier instruction.
    OldInstruction,
    /// A newer one was taken before.
    OutOfOrder,
    /// Inference took longer than its deadline.
    LateResult,
    /// Its image was too old, or taken before motion was allowed.
    OldObservation,
    /// None of its steps lies ahead any more.
    Exhausted,
    /// Motion is not allowed.
    NotAllowed,
}

/// What a reset request led to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResetOutcome {
    /// The latch is off. Motion must be enabled anew.
    Done,
    /// There was no latch. Nothing changed.
    NotLatched,
    /// The cause is still there.
    CauseRemains(Cause),
    /// The robot has not come to rest yet.
    StillMoving,
    /// Too soon after the latch, or after its cause went away.
    TooSoon {
        /// Seconds left to wait.
        remaining_s: f64,
    },
}

/// Something worth a line in a log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The state changed.
    StateChanged {
        /// Before.
        from: State,
        /// After.
        to: State,
        /// Why.
        cause: Cause,
    },
    /// A chunk was taken and begins at `first_step`.
    ChunkTaken {
        /// Its generation.
        generation: u64,
        /// The index of the first step that will be played: above zero when steps of the older
        /// chunk were played since its image.
        first_step: u32,
    },
    /// A chunk was refused.
    ChunkRefused {
        /// Its generation.
        generation: u64,
        /// Why.
        why: Refusal,
    },
    /// A fault interrupted motion; `count` of them lie within the window now.
    FaultRaised {
        /// Which.
        cause: Cause,
        /// How many within the window, this one included.
        count: u32,
    },
    /// A latch closed.
    Latched {
        /// Why.
        cause: Cause,
    },
    /// A reset was asked for.
    Reset(ResetOutcome),
    /// The robot came to rest after a stop that began `after_s` ago.
    CameToRest {
        /// Seconds from the step that noticed the cause to the first zero command.
        after_s: f64,
    },
    /// The interval between two steps was longer than allowed.
    Overrun {
        /// Seconds between the two.
        interval_s: f64,
    },
    /// A detector noticed something; reported, never acted upon.
    Noticed(Cause),
    /// What a detector had noticed is over.
    NoLonger(super::Reason),
    /// The gripper's command changed.
    Gripper {
        /// 0 closed, 1 open.
        to: f64,
    },
}

/// How many events one step can hold; more are counted, not kept.
pub const EVENTS_MAX: usize = 16;

/// The events of one step, without allocation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Events {
    list: [Option<Event>; EVENTS_MAX],
    len: usize,
    lost: u32,
}

impl Default for Events {
    fn default() -> Self {
        Self { list: [None; EVENTS_MAX], len: 0, lost: 0 }
    }
}

impl Events {
    /// In the order in which they happened.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.list.iter().flatten()
    }

    /// How many did not fit.
    #[must_use]
    pub const fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether nothing happened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, event: Event) {
        if let Some(slot) = self.list.get_mut(self.len) {
            *slot = Some(event);
            self.len += 1;
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output {
    /// Publish exactly this, now. `None`: publish nothing (not active, `dry_run`, or the step came
    /// too soon after the last one).
    pub command: Option<Command>,
    /// The state after this step.
    pub state: State,
    /// Why it is in that state.
    pub cause: Cause,
    /// What was done about the policy's wish.
    pub verdict: Verdict,
    /// What happened.
    pub events: Events,
    /// What became of a reset request made in this step.
    pub reset: Option<ResetOutcome>,
    /// How many policy steps have begun to play since the state was made. Copied into
    /// `ChunkOrigin::steps_begun_at_observation`.
    pub steps_begun: u64,
    /// Whether the command is exactly zero and stays so until a new chunk is taken. Deactivation
    /// waits for it.
    pub at_rest: bool,
    /// How old the newest image with a new stamp is, in seconds on the steady clock since it was
    /// taken; see [`ImageSeen::taken`].
    pub image_age_s: Option<f64>,
    /// Whether the state, or the reason for it, differs from the step before: publish `~/status`.
    pub changed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    #[test]
    fn states_have_the_numbers_and_names_of_the_message() {
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

    #[test]
    fn events_that_do_not_fit_are_counted() {
        let mut events = Events::default();
        assert!(events.is_empty() && events.iter().next().is_none());
        for i in 0..EVENTS_MAX + 3 {
            assert_eq!(events.lost(), i.saturating_sub(EVENTS_MAX) as u32);
            events.push(Event::Gripper { to: i as f64 });
            assert!(!events.is_empty());
        }
        assert_eq!(events.lost(), 3);
        let kept: Vec<f64> = events
            .iter()
            .map(|event| if let Event::Gripper { to } = event { *to } else { -1.0 })
            .collect();
        assert_eq!(kept, (0..EVENTS_MAX).map(|i| i as f64).collect::<Vec<_>>());
        assert_ne!(Event::NoLonger(Reason::Stuck), Event::NoLonger(Reason::ConstantAction));
    }
}
