//! Inputs of one control step.

use crate::action_chunk::{ActionChunk, JOINTS_MAX};
use crate::time::{Instant, Stamp};

/// Maximum number of cameras.
pub const CAMERAS_MAX: usize = 8;
/// Maximum number of state sources.
pub const STATE_SOURCES_MAX: usize = 8;

/// Lifecycle state of the node, reduced to what control distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifecycle {
    /// No checkpoint is loaded.
    #[default]
    Unconfigured,
    /// Loaded and checked. A change from `Active` ramps down first; see
    /// [`Output::at_rest`](crate::Output::at_rest).
    Inactive,
    /// Motion may be enabled.
    Active,
}

/// Operator requests since the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// `~/enable` with its value; the last one when there were several. The result is
    /// [`Output::enable`](crate::Output::enable).
    pub enable: Option<bool>,
    /// `~/estop`.
    pub estop: bool,
    /// `~/reset`. The result is [`Output::reset`](crate::Output::reset).
    pub reset: bool,
}

/// Times of the newest camera image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSeen {
    /// Arrival, on the steady clock.
    pub received: Instant,
    /// Stamp of the message header.
    pub stamp: Stamp,
    /// ROS time at arrival.
    pub ros_received: Stamp,
    /// Arrival, on the steady clock, of the first image in the current run of images with equal
    /// bytes. Equal to `received` when this image differs from the one before it.
    pub unchanged_since: Instant,
}

impl ImageSeen {
    /// Capture time on the steady clock: the arrival minus the delay of the stamp behind ROS time
    /// *at arrival*. The delay of a camera therefore counts, and later changes of ROS time (pause,
    /// jump, another rate) do not. Under simulated time the delay is in simulated seconds. A stamp
    /// ahead of ROS time counts as no delay.
    ///
    /// Only meaningful for a plausible stamp: the watchdogs check the distance between stamp and
    /// ROS time before they use the age.
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.received.before(self.ros_received.since(self.stamp).get())
    }
}

/// Times of the newest message of a state source (joint states, a pose, a gripper), of which the
/// policy's state vector is assembled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSeen {
    /// Arrival, on the steady clock.
    pub received: Instant,
    /// Stamp of the message header. For a message without a header, `ros_received`.
    pub stamp: Stamp,
    /// ROS time at arrival.
    pub ros_received: Stamp,
    /// Whether the message has every value that the policy needs of it, each finite.
    pub complete: bool,
}

impl StateSeen {
    /// Time of the measurement on the steady clock, as [`ImageSeen::taken`].
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.received.before(self.ros_received.since(self.stamp).get())
    }
}

/// Newest measured joint positions. Required in joint space.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JointsSeen {
    /// Arrival, on the steady clock.
    pub received: Instant,
    /// Stamp of the message header.
    pub stamp: Stamp,
    /// ROS time at arrival.
    pub ros_received: Stamp,
    /// Positions by joint index, rad (m for a prismatic joint). NaN for a joint that the message
    /// does not name; anything beyond the configured joints is ignored. Any value is accepted here;
    /// the watchdog checks it.
    pub positions: [f64; JOINTS_MAX],
}

impl JointsSeen {
    /// Time of the measurement on the steady clock, as [`ImageSeen::taken`].
    #[must_use]
    pub fn taken(&self) -> Instant {
        self.received.before(self.ros_received.since(self.stamp).get())
    }
}

/// Newest end-effector pose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoseSeen {
    /// Arrival, on the steady clock.
    pub received: Instant,
    /// Position in metres, in the frame of the workspace box (which must be the frame of the
    /// action). Any value is accepted here; the watchdog checks it.
    pub position: [f64; 3],
}

/// State of the inference worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inference {
    /// Waiting for an observation.
    #[default]
    Idle,
    /// An inference is running.
    Busy {
        /// Its start, on the steady clock.
        since: Instant,
    },
    /// Work before the first inference under a new instruction, e.g. the compilation and capture
    /// of device programs. It takes longer than an inference; there is no chunk to execute.
    Preparing {
        /// Its start, on the steady clock.
        since: Instant,
    },
    /// The worker thread has ended.
    Dead,
}

/// Failure of the policy since the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyFailure {
    /// It produced NaN or an infinity. Latches.
    NotFinite,
    /// It returned an error, e.g. for a token that is not an action token. A fault.
    Refused,
}

/// All inputs of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inputs<'a> {
    /// Current ROS time. Only checked for jumps back; no timeout uses it.
    pub ros_now: Stamp,
    /// Lifecycle state of the node.
    pub lifecycle: Lifecycle,
    /// Operator requests since the last step.
    pub requests: Requests,
    /// Generation of the instruction in force; `None` without one (an empty instruction is none).
    pub instruction: Option<u64>,
    /// The newest image of each camera, by index, repeated in each step until a newer one arrives.
    /// A camera of the configuration without an entry has no image; entries beyond them are
    /// ignored.
    pub images: &'a [Option<ImageSeen>],
    /// The newest message of each state source, likewise.
    pub states: &'a [Option<StateSeen>],
    /// The newest measured joint positions, repeated likewise. Required only in joint space.
    pub joints: Option<&'a JointsSeen>,
    /// The newest end-effector pose, repeated likewise. Required only with a workspace.
    pub ee_pose: Option<PoseSeen>,
    /// A chunk that arrived since the last step. Borrowed: control copies the steps, so that the
    /// caller frees the chunk outside of the control thread.
    pub chunk: Option<&'a ActionChunk>,
    /// State of the inference worker.
    pub inference: Inference,
    /// Failure of the policy since the last step; the most severe one when there were several.
    pub policy_failure: Option<PolicyFailure>,
    /// Whether the command topic has a subscriber. Always `true` when the middleware cannot tell.
    pub subscribed: bool,
}

impl Default for Inputs<'_> {
    /// Unconfigured, no data received.
    fn default() -> Self {
        Self {
            ros_now: Stamp::default(),
            lifecycle: Lifecycle::default(),
            requests: Requests::default(),
            instruction: None,
            images: &[],
            states: &[],
            joints: None,
            ee_pose: None,
            chunk: None,
            inference: Inference::default(),
            policy_failure: None,
            subscribed: true,
        }
    }
}
