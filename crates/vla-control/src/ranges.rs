//! Ranges and units of the parameters: the one place that validation, the ROS descriptors and the
//! documents take them from.

/// Smallest and largest value of a parameter, both allowed, and its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Unit of both, empty for a number without one.
    pub unit: &'static str,
}

impl Range {
    /// A range of values with a unit.
    #[must_use]
    pub const fn new(min: f64, max: f64, unit: &'static str) -> Self {
        Self { min, max, unit }
    }

    /// Whether a value lies within; NaN does not.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        self.min <= value && value <= self.max
    }
}

/// Rate of the command stream.
pub const COMMAND_RATE: Range = Range::new(10.0, 1000.0, "Hz");
/// Oldest image that may move the robot.
pub const OBSERVATION_TIMEOUT: Range = Range::new(0.02, 60.0, "s");
/// How far a stamp may lie ahead of ROS time.
pub const STAMP_FUTURE_TOLERANCE: Range = Range::new(0.0, 10.0, "s");
/// How far a stamp may lie behind ROS time.
pub const STAMP_PAST_TOLERANCE: Range = Range::new(0.0, 60.0, "s");
/// Longest inference.
pub const INFERENCE_TIMEOUT: Range = Range::new(0.0, 600.0, "s");
/// How far ROS time may go back.
pub const CLOCK_JUMP_TOLERANCE: Range = Range::new(0.0, 10.0, "s");
/// Longest interval between two control steps.
pub const OVERRUN: Range = Range::new(0.0, 1.0, "s");
/// Interval between two control steps from which on the process counts as paused.
pub const PAUSE: Range = Range::new(0.05, 10.0, "s");
/// Oldest end-effector pose that guards the workspace.
pub const POSE_TIMEOUT: Range = Range::new(0.02, 10.0, "s");
/// How long the command may be without a subscriber.
pub const SUBSCRIBER_TIMEOUT: Range = Range::new(0.0, 10.0, "s");
/// Faults that latch.
pub const FAULTS_TO_LATCH: Range = Range::new(1.0, super::config::FAULTS_MAX as f64, "");
/// Time within which faults are counted.
pub const FAULT_WINDOW: Range = Range::new(0.1, 3600.0, "s");
/// How long a cause must be gone.
pub const CLEAR: Range = Range::new(0.1, 60.0, "s");
/// Longest hold after which motion goes on by itself.
pub const REARM_WINDOW: Range = Range::new(0.0, 60.0, "s");
/// Path that may be driven on an unchanged image.
pub const UNCHANGED_DISTANCE: Range = Range::new(1e-3, 10.0, "m");
/// Rotation that may be driven on an unchanged image.
pub const UNCHANGED_ANGLE: Range = Range::new(1e-3, 100.0, "rad");
/// Velocity of the translation.
pub const LINEAR_VELOCITY: Range = Range::new(1e-3, 3.0, "m/s");
/// Acceleration of the translation.
pub const LINEAR_ACCELERATION: Range = Range::new(1e-2, 30.0, "m/s2");
/// Jerk of the translation.
pub const LINEAR_JERK: Range = Range::new(1e-1, 1e4, "m/s3");
/// Velocity of the rotation.
pub const ANGULAR_VELOCITY: Range = Range::new(1e-3, 6.0, "rad/s");
/// Acceleration of the rotation.
pub const ANGULAR_ACCELERATION: Range = Range::new(1e-2, 60.0, "rad/s2");
/// Jerk of the rotation.
pub const ANGULAR_JERK: Range = Range::new(1e-1, 1e4, "rad/s3");
/// Translation of one policy step.
pub const STEP_TRANSLATION: Range = Range::new(1e-4, 1.0, "m");
/// Rotation of one policy step.
pub const STEP_ROTATION: Range = Range::new(1e-4, 3.2, "rad");
/// A coordinate of a corner of the workspace.
pub const WORKSPACE_CORNER: Range = Range::new(-10.0, 10.0, "m");
/// Margin inside each face of the workspace.
pub const WORKSPACE_MARGIN: Range = Range::new(0.005, 0.5, "m");
/// Threshold of the gripper.
pub const GRIPPER_THRESHOLD: Range = Range::new(0.0, 1.0, "");
/// Half width of the gripper's band.
pub const GRIPPER_HYSTERESIS: Range = Range::new(0.0, 0.5, "");
/// Time between two changes of the gripper.
pub const GRIPPER_MIN_DWELL: Range = Range::new(0.0, 60.0, "s");
/// Equal actions that count as constant.
pub const CONSTANT_STEPS: Range = Range::new(2.0, 10_000.0, "");
/// Motion below which the robot counts as stuck.
pub const STUCK_DISTANCE: Range = Range::new(0.0, 1.0, "m");
/// Continuous gripper: largest change per second, of the whole way.
pub const GRIPPER_RATE: Range = Range::new(0.01, 1000.0, "1/s");
/// Number of grippers.
pub const GRIPPERS: Range = Range::new(0.0, 4.0, "");
/// Number of cameras.
pub const CAMERAS: Range = Range::new(1.0, 8.0, "");
/// Number of state sources.
pub const STATE_SOURCES: Range = Range::new(0.0, 8.0, "");
/// Oldest state that may move the robot.
pub const STATE_TIMEOUT: Range = Range::new(0.02, 60.0, "s");
/// Largest distance between the capture times of one observation's sources.
pub const OBSERVATION_SPREAD: Range = Range::new(0.001, 60.0, "s");
/// Steps of a chunk that are executed before the next chunk takes over.
pub const EXECUTE_STEPS: Range = Range::new(0.0, 256.0, "");
/// Decay of the weights of temporal ensembling, per chunk.
pub const ENSEMBLE_DECAY: Range = Range::new(-10.0, 10.0, "");
/// Chunks that temporal ensembling averages.
pub const ENSEMBLE_CHUNKS: Range = Range::new(2.0, 64.0, "");
/// A position limit of a joint.
pub const JOINT_POSITION: Range = Range::new(-1000.0, 1000.0, "");
/// Velocity of a joint.
pub const JOINT_VELOCITY: Range = Range::new(1e-3, 50.0, "per s");
/// Acceleration of a joint.
pub const JOINT_ACCELERATION: Range = Range::new(1e-2, 1e3, "per s2");
/// Jerk of a joint.
pub const JOINT_JERK: Range = Range::new(1e-1, 1e5, "per s3");
/// Margin inside the position limits of a joint.
pub const JOINT_MARGIN: Range = Range::new(0.0, 1.0, "");
/// Distance between commanded and measured position of a joint.
pub const TRACKING_ERROR: Range = Range::new(1e-3, 10.0, "");
