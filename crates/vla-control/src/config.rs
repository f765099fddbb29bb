//! Configuration: the raw form (serde, ROS parameters) and the validated form; `config_rules` makes
//! one from the other.

use std::time::Duration;

use serde::Deserialize;

use super::joint_config::{JointSpace, RawJointSpace};
use crate::action_chunk::ActionSpace;

/// Limits of one axis group as given. Units: per second, per second squared, per second cubed of
/// metres or radians.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMotionLimits {
    /// m/s or rad/s.
    pub velocity: f64,
    /// m/s2 or rad/s2.
    pub acceleration: f64,
    /// m/s3 or rad/s3.
    pub jerk: f64,
}

/// `limits` as given.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Translation.
    pub linear: RawMotionLimits,
    /// Rotation.
    pub angular: RawMotionLimits,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            linear: RawMotionLimits { velocity: 0.25, acceleration: 1.0, jerk: 10.0 },
            angular: RawMotionLimits { velocity: 0.6, acceleration: 3.0, jerk: 30.0 },
        }
    }
}

/// `workspace` as given: a box in the frame of the action.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWorkspace {
    /// Lower corner, metres.
    pub min: [f64; 3],
    /// Upper corner, metres.
    pub max: [f64; 3],
    /// Kept free inside each face, metres; at least 5 mm. For the lag of the arm, and for the
    /// approach to a face, which oscillates by less than 0.1 mm when a stop is long and poses are
    /// rare.
    #[serde(default = "default_margin")]
    pub margin: f64,
}

const fn default_margin() -> f64 {
    0.02
}

/// `gripper` as given.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGripper {
    /// The gripper opens above it; compared after `invert`.
    pub threshold: f64,
    /// Half the width of the band around the threshold in which the command does not change.
    pub hysteresis: f64,
    /// Seconds between two changes.
    pub min_dwell_s: f64,
    /// Whether the policy's 1 means closed.
    pub invert: bool,
    /// Command the policy's value in 0..1 instead of open or closed; threshold, hysteresis and
    /// dwell are not used then.
    pub continuous: bool,
    /// Largest change of a continuous command per second.
    pub rate: f64,
}

impl Default for RawGripper {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            hysteresis: 0.1,
            min_dwell_s: 0.5,
            invert: false,
            continuous: false,
            rate: 2.0,
        }
    }
}

/// `ensemble` as given: temporal ensembling (ACT, arXiv:2304.13705): each executed step is the
/// weighted mean of what the kept chunks predict for it. Grippers are taken from the newest chunk.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEnsemble {
    /// The i-th oldest chunk has the weight exp(-decay i): above zero the oldest counts most.
    pub decay: f64,
    /// Number of chunks kept.
    pub chunks: u32,
}

impl Default for RawEnsemble {
    fn default() -> Self {
        Self { decay: 0.01, chunks: 16 }
    }
}

/// `step_cap` as given: the longest single policy step.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawStepCap {
    /// Metres.
    pub translation: f64,
    /// Radians.
    pub rotation: f64,
}

impl Default for RawStepCap {
    fn default() -> Self {
        Self { translation: 0.10, rotation: 0.50 }
    }
}

/// `unchanged_image` as given: the longest commanded path while the camera image stays equal byte
/// for byte.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawUnchangedImage {
    /// Metres.
    pub distance: f64,
    /// Radians.
    pub angle: f64,
}

impl Default for RawUnchangedImage {
    fn default() -> Self {
        Self { distance: 0.05, angle: 0.25 }
    }
}

/// The statistics' envelope of one step, in the order dx dy dz droll dpitch dyaw, physical units.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEnvelope {
    /// q01.
    pub q01: [f64; 6],
    /// q99.
    pub q99: [f64; 6],
}

/// `detectors` as given.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDetectors {
    /// Number of consecutive chunks with the same first action that count as constant.
    pub constant_steps: u32,
    /// Below this displacement of the end effector over those chunks it counts as stuck, metres.
    pub stuck_distance: f64,
}

impl Default for RawDetectors {
    fn default() -> Self {
        Self { constant_steps: 10, stuck_distance: 0.002 }
    }
}

/// Control parameters as given. The defaults are those of the node.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawControlConfig {
    /// Publish nothing.
    pub dry_run: bool,
    /// Steps of control per second.
    pub command_rate_hz: f64,
    /// Maximum age of an image, seconds.
    pub observation_timeout_s: f64,
    /// Largest distance of an image stamp ahead of ROS time, seconds.
    pub stamp_future_tolerance_s: f64,
    /// Largest distance of an image stamp behind ROS time at its arrival, seconds. Cameras with a
    /// long pipeline need more.
    pub stamp_past_tolerance_s: f64,
    /// The longest inference, seconds; 0 means twice `expected_inference_s`.
    pub inference_timeout_s: f64,
    /// Inference time measured by the self-test, seconds.
    pub expected_inference_s: f64,
    /// ROS time may go back by this much without counting as a jump, seconds. Corrections by
    /// network time are smaller.
    pub clock_jump_tolerance_s: f64,
    /// The longest interval between two control steps, seconds; 0 means five periods.
    pub overrun_s: f64,
    /// From this interval between two steps on the process counts as paused, seconds.
    pub pause_s: f64,
    /// Maximum age of the end-effector pose with a workspace, seconds.
    pub pose_timeout_s: f64,
    /// The longest time without a subscriber of the command, seconds.
    pub subscriber_timeout_s: f64,
    /// Number of faults within `fault_window_s` that latch.
    pub faults_to_latch: u32,
    /// Window in which faults are counted, seconds.
    pub fault_window_s: f64,
    /// How long a cause must be gone before motion resumes, or before a latch may be reset,
    /// seconds.
    pub clear_s: f64,
    /// How long after the begin of a hold motion may resume by itself, seconds; `clear_s` counts
    /// within it. Afterwards `~/enable` must be called again. 0: a hold withdraws the enabling at
    /// once.
    pub rearm_window_s: f64,
    /// The longest commanded path while the camera image stays equal.
    pub unchanged_image: RawUnchangedImage,
    /// Velocity, acceleration, jerk.
    pub limits: RawLimits,
    /// The longest policy step.
    pub step_cap: RawStepCap,
    /// The box the end effector must stay in; needs `ee_pose`.
    pub workspace: Option<RawWorkspace>,
    /// The grippers.
    pub gripper: RawGripper,
    /// Number of grippers. One in the space of the end effector.
    pub grippers: u32,
    /// Number of cameras that the policy uses.
    pub cameras: u32,
    /// Number of state sources that the policy uses.
    pub states: u32,
    /// Maximum age of a state source's message and of the measured joint positions, seconds.
    pub state_timeout_s: f64,
    /// Largest distance between the capture times of the newest images and states, seconds.
    pub observation_spread_s: f64,
    /// Number of steps of a chunk that are executed before a newer chunk takes over; 0: the newer
    /// chunk takes over at the next step.
    pub execute_steps: u32,
    /// Temporal ensembling; off by default.
    pub ensemble: Option<RawEnsemble>,
    /// Joint space in place of the end effector's; the limits, workspace, step cap, envelope and
    /// detectors of the end effector are not used then.
    pub joints: Option<RawJointSpace>,
    /// Stall detector; reported only.
    pub detectors: RawDetectors,
    /// The statistics' envelope, from the checkpoint.
    pub envelope: Option<RawEnvelope>,
}

impl Default for RawControlConfig {
    fn default() -> Self {
        Self {
            dry_run: true,
            command_rate_hz: 50.0,
            observation_timeout_s: 0.5,
            stamp_future_tolerance_s: 0.1,
            stamp_past_tolerance_s: 0.5,
            inference_timeout_s: 0.0,
            expected_inference_s: 0.25,
            clock_jump_tolerance_s: 0.1,
            overrun_s: 0.0,
            pause_s: 0.5,
            pose_timeout_s: 0.5,
            subscriber_timeout_s: 0.2,
            faults_to_latch: 3,
            fault_window_s: 10.0,
            clear_s: 0.5,
            rearm_window_s: 2.0,
            unchanged_image: RawUnchangedImage::default(),
            limits: RawLimits::default(),
            step_cap: RawStepCap::default(),
            workspace: None,
            gripper: RawGripper::default(),
            grippers: 1,
            cameras: 1,
            states: 0,
            state_timeout_s: 0.5,
            observation_spread_s: 0.5,
            execute_steps: 0,
            ensemble: None,
            joints: None,
            detectors: RawDetectors::default(),
            envelope: None,
        }
    }
}

/// Limits of one axis group, validated: positive, finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MotionLimits {
    pub(super) velocity: f64,
    pub(super) acceleration: f64,
    pub(super) jerk: f64,
}

impl MotionLimits {
    /// m/s or rad/s.
    #[must_use]
    pub const fn velocity(&self) -> f64 {
        self.velocity
    }

    /// m/s2 or rad/s2.
    #[must_use]
    pub const fn acceleration(&self) -> f64 {
        self.acceleration
    }

    /// m/s3 or rad/s3.
    #[must_use]
    pub const fn jerk(&self) -> f64 {
        self.jerk
    }

    /// v/a + a/j: the longest time of a stop once it has begun.
    #[must_use]
    pub fn stop_time_s(&self) -> f64 {
        self.velocity / self.acceleration + self.acceleration / self.jerk
    }
}

/// The box, validated and shrunk by its margin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workspace {
    pub(super) min: [f64; 3],
    pub(super) max: [f64; 3],
}

/// Control parameters, validated. Durations are on the steady clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ControlConfig {
    pub(super) dry_run: bool,
    pub(super) period: Duration,
    pub(super) observation_timeout: Duration,
    pub(super) stamp_future_tolerance_s: f64,
    pub(super) stamp_past_tolerance_s: f64,
    pub(super) inference_timeout: Duration,
    pub(super) clock_jump_tolerance_s: f64,
    pub(super) overrun: Duration,
    pub(super) pause: Duration,
    pub(super) pose_timeout: Duration,
    pub(super) subscriber_timeout: Duration,
    pub(super) faults_to_latch: u32,
    pub(super) fault_window: Duration,
    pub(super) clear: Duration,
    pub(super) rearm_window: Duration,
    pub(super) unchanged_image: RawUnchangedImage,
    pub(super) linear: MotionLimits,
    pub(super) angular: MotionLimits,
    pub(super) step_cap: RawStepCap,
    pub(super) workspace: Option<Workspace>,
    pub(super) gripper: RawGripper,
    pub(super) grippers: usize,
    pub(super) cameras: usize,
    pub(super) states: usize,
    pub(super) state_timeout: Duration,
    pub(super) observation_spread: Duration,
    pub(super) execute_steps: u64,
    pub(super) ensemble: Option<RawEnsemble>,
    pub(super) joints: Option<JointSpace>,
    pub(super) detectors: RawDetectors,
    pub(super) envelope: Option<RawEnvelope>,
}

/// Upper bound of `faults_to_latch`.
pub(super) const FAULTS_MAX: u32 = 8;
/// Upper bound of the jerk limiter's window, in ticks.
pub(super) const WINDOW_MAX: usize = 512;
/// Ticks of the jerk limiter per control period.
pub(super) const TICKS_PER_PERIOD: f64 = 4.0;

impl ControlConfig {
    /// Delay of the motion behind the steps of a chunk, seconds: half of the window of the
    /// limiter's moving average; none for joints that look ahead by it. A change that the
    /// acceleration limit stretches takes longer.
    #[must_use]
    pub fn motion_delay_s(&self) -> f64 {
        match &self.joints {
            Some(joints) if joints.look_ahead => 0.0,
            Some(joints) => joints.delay_s(),
            None => 0.5 * self.linear.acceleration / self.linear.jerk,
        }
    }

    /// The control period.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Whether nothing is published.
    #[must_use]
    pub const fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// Limits of the translation.
    #[must_use]
    pub const fn linear(&self) -> &MotionLimits {
        &self.linear
    }

    /// Limits of the rotation.
    #[must_use]
    pub const fn angular(&self) -> &MotionLimits {
        &self.angular
    }

    /// Deadline of an inference.
    #[must_use]
    pub const fn inference_timeout(&self) -> Duration {
        self.inference_timeout
    }

    /// Maximum age of an image.
    #[must_use]
    pub const fn observation_timeout(&self) -> Duration {
        self.observation_timeout
    }

    /// How long after the begin of a hold motion may resume by itself.
    #[must_use]
    pub const fn rearm_window(&self) -> Duration {
        self.rearm_window
    }

    /// Whether there is a workspace: then the node needs `ee_pose`.
    #[must_use]
    pub const fn needs_ee_pose(&self) -> bool {
        self.workspace.is_some()
    }

    /// Joint space, when the robot is commanded in it.
    #[must_use]
    pub const fn joints(&self) -> Option<&JointSpace> {
        self.joints.as_ref()
    }

    /// The space of the actions.
    #[must_use]
    pub const fn action_space(&self) -> ActionSpace {
        match &self.joints {
            Some(space) => ActionSpace::Joint(space.action),
            None => ActionSpace::EndEffector,
        }
    }

    /// Number of cameras, state sources and grippers.
    #[must_use]
    pub const fn counts(&self) -> [usize; 3] {
        [self.cameras, self.states, self.grippers]
    }

    /// Largest distance between the capture times of one observation's sources.
    #[must_use]
    pub const fn observation_spread(&self) -> Duration {
        self.observation_spread
    }

    /// Number of steps of a chunk that are executed before a newer one takes over; 0: at once.
    #[must_use]
    pub const fn execute_steps(&self) -> u64 {
        self.execute_steps
    }

    /// Bound of the stop time: from the step that detects a cause to the first command that is
    /// exactly zero pass at most this time plus the longest interval between two steps during the
    /// stop. v/a + a/j of the slower group, or that of [`JointSpace::stop_time_s`].
    #[must_use]
    pub fn stop_time_s(&self) -> f64 {
        match &self.joints {
            Some(space) => space.stop_time_s(),
            None => self.linear.stop_time_s().max(self.angular.stop_time_s()),
        }
    }
}
