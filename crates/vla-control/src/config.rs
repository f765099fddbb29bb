//! Configuration: read once into a raw form, validated as a whole, refused with every problem at
//! once.

use std::{fmt, time::Duration};

use serde::Deserialize;

use super::ranges::{self, Range};

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which parameter, dotted: `limits.linear.velocity`.
    pub place: String,
    /// Its value as given, and the rule it breaks.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Everything wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} problem{} in the configuration: ",
            self.0.len(),
            if self.0.len() == 1 { "" } else { "s" }
        )?;
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Problems {
    /// Adds a problem.
    pub fn add(&mut self, place: &str, what: impl Into<String>) {
        self.0.push(Problem { place: place.to_owned(), what: what.into() });
    }

    /// Adds a problem unless `value` is within `low..=high` (NaN is not). `unit` is for the message.
    pub fn range(&mut self, place: &str, value: f64, low: f64, high: f64, unit: &str) {
        if !(low <= value && value <= high) {
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            self.add(place, format!("{value}{unit} is outside {low}..{high}{unit}"));
        }
    }

    /// Adds a problem unless `value` is within a parameter's range.
    pub fn within(&mut self, place: &str, value: f64, range: &Range) {
        self.range(place, value, range.min, range.max, range.unit);
    }

    /// `value`, or every problem that was added.
    ///
    /// # Errors
    /// The problems, when there is any.
    pub fn into_result<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

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
    /// Kept free inside each face, metres; at least 5 mm. Takes up what the arm lags, and the
    /// approach to a face, which swings by less than 0.1 mm when a stop is long and the pose rare.
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
    /// Above it the gripper opens, after `invert`.
    pub threshold: f64,
    /// Half width of the band around the threshold in which nothing changes.
    pub hysteresis: f64,
    /// Seconds between two changes.
    pub min_dwell_s: f64,
    /// Whether the policy's 1 means closed.
    pub invert: bool,
}

impl Default for RawGripper {
    fn default() -> Self {
        Self { threshold: 0.5, hysteresis: 0.1, min_dwell_s: 0.5, invert: false }
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

/// `unchanged_image` as given: what may be driven while the camera's picture stays the same byte
/// for byte.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawUnchangedImage {
    /// Metres, along the commanded path.
    pub distance: f64,
    /// Radians, likewise.
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
    /// How many chunks in a row must begin with the same action to call it constant.
    pub constant_steps: u32,
    /// How far the end effector may have moved, in metres, over those steps to call it stuck.
    pub stuck_distance: f64,
}

impl Default for RawDetectors {
    fn default() -> Self {
        Self { constant_steps: 10, stuck_distance: 0.002 }
    }
}

/// Control's parameters as given. Every default is a default of the node.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawControlConfig {
    /// Publish nothing.
    pub dry_run: bool,
    /// Steps of control per second.
    pub command_rate_hz: f64,
    /// The oldest image that may move the robot, seconds.
    pub observation_timeout_s: f64,
    /// How far an image's stamp may lie ahead of ROS time, seconds.
    pub stamp_future_tolerance_s: f64,
    /// How far an image's stamp may lie behind ROS time at its arrival, seconds. Cameras with a
    /// long pipeline need more.
    pub stamp_past_tolerance_s: f64,
    /// The longest inference, seconds; 0 means twice `expected_inference_s`.
    pub inference_timeout_s: f64,
    /// What the self-test measured, seconds.
    pub expected_inference_s: f64,
    /// How far ROS time may go back, seconds, before it counts as a jump. Network time corrects by
    /// less.
    pub clock_jump_tolerance_s: f64,
    /// The longest interval between two control steps, seconds; 0 means five periods.
    pub overrun_s: f64,
    /// An interval from which on the process counts as paused, seconds.
    pub pause_s: f64,
    /// The oldest end-effector pose that still guards the workspace, seconds.
    pub pose_timeout_s: f64,
    /// How long the command may be without a subscriber, seconds.
    pub subscriber_timeout_s: f64,
    /// How many faults latch.
    pub faults_to_latch: u32,
    /// Within which time, seconds.
    pub fault_window_s: f64,
    /// How long a cause must be gone before motion goes on, or before a latch may be reset,
    /// seconds.
    pub clear_s: f64,
    /// What may be driven while the camera's picture stays the same.
    pub unchanged_image: RawUnchangedImage,
    /// Velocity, acceleration, jerk.
    pub limits: RawLimits,
    /// The longest policy step.
    pub step_cap: RawStepCap,
    /// The box the end effector must stay in; needs `ee_pose`.
    pub workspace: Option<RawWorkspace>,
    /// The gripper.
    pub gripper: RawGripper,
    /// Detectors that report.
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
            unchanged_image: RawUnchangedImage::default(),
            limits: RawLimits::default(),
            step_cap: RawStepCap::default(),
            workspace: None,
            gripper: RawGripper::default(),
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

    /// v/a + a/j: the longest a stop can take once it has begun.
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

/// Control's parameters, validated. Durations are on the steady clock.
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
    pub(super) unchanged_image: RawUnchangedImage,
    pub(super) linear: MotionLimits,
    pub(super) angular: MotionLimits,
    pub(super) step_cap: RawStepCap,
    pub(super) workspace: Option<Workspace>,
    pub(super) gripper: RawGripper,
    pub(super) detectors: RawDetectors,
    pub(super) envelope: Option<RawEnvelope>,
}

/// The most faults that may be asked for before a latch.
pub(super) const FAULTS_MAX: u32 = 8;
/// The most samples of history the jerk limit may need (see `profile`).
pub(super) const WINDOW_MAX: usize = 512;
/// Profile ticks per control period (see `profile` for why more than one).
pub(super) const TICKS_PER_PERIOD: f64 = 4.0;

impl RawControlConfig {
    /// Checks every value and every rule between values.
    ///
    /// # Errors
    /// [`Problems`] with all that is wrong, each with its parameter's name, value and rule.
    pub fn validate(&self) -> Result<ControlConfig, Problems> {
        let mut p = Problems::default();
        p.within("command_rate_hz", self.command_rate_hz, &ranges::COMMAND_RATE);
        p.within("observation_timeout_s", self.observation_timeout_s, &ranges::OBSERVATION_TIMEOUT);
        p.within(
            "stamp_future_tolerance_s",
            self.stamp_future_tolerance_s,
            &ranges::STAMP_FUTURE_TOLERANCE,
        );
        p.within(
            "stamp_past_tolerance_s",
            self.stamp_past_tolerance_s,
            &ranges::STAMP_PAST_TOLERANCE,
        );
        p.within("inference_timeout_s", self.inference_timeout_s, &ranges::INFERENCE_TIMEOUT);
        p.within(
            "clock_jump_tolerance_s",
            self.clock_jump_tolerance_s,
            &ranges::CLOCK_JUMP_TOLERANCE,
        );
        p.within("overrun_s", self.overrun_s, &ranges::OVERRUN);
        p.within("pause_s", self.pause_s, &ranges::PAUSE);
        p.within("pose_timeout_s", self.pose_timeout_s, &ranges::POSE_TIMEOUT);
        p.within("subscriber_timeout_s", self.subscriber_timeout_s, &ranges::SUBSCRIBER_TIMEOUT);
        p.within("fault_window_s", self.fault_window_s, &ranges::FAULT_WINDOW);
        p.within("clear_s", self.clear_s, &ranges::CLEAR);
        p.within("faults_to_latch", self.faults_to_latch.into(), &ranges::FAULTS_TO_LATCH);
        if self.inference_timeout_s == 0.0 {
            p.range("expected_inference_s", self.expected_inference_s, 1e-4, 300.0, "s");
        }
        p.within(
            "unchanged_image.distance",
            self.unchanged_image.distance,
            &ranges::UNCHANGED_DISTANCE,
        );
        p.within("unchanged_image.angle", self.unchanged_image.angle, &ranges::UNCHANGED_ANGLE);
        let period_s = 1.0 / self.command_rate_hz;
        if self.overrun_s != 0.0 && self.overrun_s < 1.5 * period_s {
            p.add(
                "overrun_s",
                format!(
                    "{} s is less than one and a half control periods ({} s)",
                    self.overrun_s,
                    1.5 * period_s
                ),
            );
        }
        let overrun_s = if self.overrun_s == 0.0 { 5.0 * period_s } else { self.overrun_s };
        if self.pause_s < overrun_s {
            p.add(
                "pause_s",
                format!("{} s is less than the overrun limit of {overrun_s} s", self.pause_s),
            );
        }
        let linear = [ranges::LINEAR_VELOCITY, ranges::LINEAR_ACCELERATION, ranges::LINEAR_JERK];
        let angular =
            [ranges::ANGULAR_VELOCITY, ranges::ANGULAR_ACCELERATION, ranges::ANGULAR_JERK];
        let rate_hz = self.command_rate_hz;
        check_motion(&mut p, "limits.linear", &self.limits.linear, &linear, rate_hz);
        check_motion(&mut p, "limits.angular", &self.limits.angular, &angular, rate_hz);
        p.within("step_cap.translation", self.step_cap.translation, &ranges::STEP_TRANSLATION);
        p.within("step_cap.rotation", self.step_cap.rotation, &ranges::STEP_ROTATION);
        let workspace = self.workspace.and_then(|raw| check_workspace(&mut p, &raw));
        check_gripper(&mut p, &self.gripper);
        let constant_steps = self.detectors.constant_steps;
        p.within("detectors.constant_steps", constant_steps.into(), &ranges::CONSTANT_STEPS);
        p.within(
            "detectors.stuck_distance",
            self.detectors.stuck_distance,
            &ranges::STUCK_DISTANCE,
        );
        if let Some(envelope) = &self.envelope {
            check_envelope(&mut p, envelope);
        }
        if !p.0.is_empty() {
            return Err(p);
        }
        let inference_timeout_s = if self.inference_timeout_s == 0.0 {
            2.0 * self.expected_inference_s
        } else {
            self.inference_timeout_s
        };
        let limits = |raw: RawMotionLimits| MotionLimits {
            velocity: raw.velocity,
            acceleration: raw.acceleration,
            jerk: raw.jerk,
        };
        // Every duration below was found to lie within 0..3600 s, so that the conversions cannot
        // fail.
        let seconds = Duration::from_secs_f64;
        Ok(ControlConfig {
            dry_run: self.dry_run,
            period: seconds(period_s),
            observation_timeout: seconds(self.observation_timeout_s),
            stamp_future_tolerance_s: self.stamp_future_tolerance_s,
            stamp_past_tolerance_s: self.stamp_past_tolerance_s,
            inference_timeout: seconds(inference_timeout_s),
            clock_jump_tolerance_s: self.clock_jump_tolerance_s,
            overrun: seconds(overrun_s),
            pause: seconds(self.pause_s),
            pose_timeout: seconds(self.pose_timeout_s),
            subscriber_timeout: seconds(self.subscriber_timeout_s),
            faults_to_latch: self.faults_to_latch,
            fault_window: seconds(self.fault_window_s),
            clear: seconds(self.clear_s),
            unchanged_image: self.unchanged_image,
            linear: limits(self.limits.linear),
            angular: limits(self.limits.angular),
            step_cap: self.step_cap,
            workspace,
            gripper: self.gripper,
            detectors: self.detectors,
            envelope: self.envelope,
        })
    }
}

fn check_motion(
    p: &mut Problems,
    group: &str,
    raw: &RawMotionLimits,
    [velocity, acceleration, jerk]: &[Range; 3],
    rate_hz: f64,
) {
    let before = p.0.len();
    p.within(&format!("{group}.velocity"), raw.velocity, velocity);
    p.within(&format!("{group}.acceleration"), raw.acceleration, acceleration);
    p.within(&format!("{group}.jerk"), raw.jerk, jerk);
    if before < p.0.len() {
        return;
    }
    let window_s = raw.acceleration / raw.jerk;
    if (WINDOW_MAX as f64) < (window_s * rate_hz * TICKS_PER_PERIOD).ceil() {
        p.add(
            &format!("{group}.jerk"),
            format!(
                "acceleration / jerk is {window_s} s, at most {} s at {rate_hz} Hz; raise the \
                jerk or lower command_rate_hz",
                WINDOW_MAX as f64 / (rate_hz * TICKS_PER_PERIOD)
            ),
        );
    }
    if 3.0 < raw.velocity / raw.acceleration + window_s {
        p.add(
            &format!("{group}.acceleration"),
            format!(
                "a stop would take velocity / acceleration + acceleration / jerk = {} s, more \
                than 3 s",
                raw.velocity / raw.acceleration + window_s
            ),
        );
    }
}

fn check_workspace(p: &mut Problems, raw: &RawWorkspace) -> Option<Workspace> {
    let before = p.0.len();
    p.within("workspace.margin", raw.margin, &ranges::WORKSPACE_MARGIN);
    for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
        let (low, high) = (raw.min[axis], raw.max[axis]);
        p.within(&format!("workspace.min.{name}"), low, &ranges::WORKSPACE_CORNER);
        p.within(&format!("workspace.max.{name}"), high, &ranges::WORKSPACE_CORNER);
        if low.is_finite() && high.is_finite() && high - low <= 2.0 * raw.margin {
            p.add(
                &format!("workspace.{name}"),
                format!(
                    "min {low} m and max {high} m leave no room between two margins of {} m",
                    raw.margin
                ),
            );
        }
    }
    (before == p.0.len()).then(|| Workspace {
        min: raw.min.map(|x| x + raw.margin),
        max: raw.max.map(|x| x - raw.margin),
    })
}

fn check_gripper(p: &mut Problems, raw: &RawGripper) {
    p.within("gripper.threshold", raw.threshold, &ranges::GRIPPER_THRESHOLD);
    p.within("gripper.hysteresis", raw.hysteresis, &ranges::GRIPPER_HYSTERESIS);
    p.within("gripper.min_dwell_s", raw.min_dwell_s, &ranges::GRIPPER_MIN_DWELL);
    if 1.0 <= raw.threshold + raw.hysteresis || raw.threshold - raw.hysteresis <= 0.0 {
        p.add(
            "gripper.hysteresis",
            format!(
                "threshold {} +- hysteresis {} leaves 0..1, so that the gripper could never change",
                raw.threshold, raw.hysteresis
            ),
        );
    }
}

fn check_envelope(p: &mut Problems, raw: &RawEnvelope) {
    for (i, name) in ["dx", "dy", "dz", "droll", "dpitch", "dyaw"].into_iter().enumerate() {
        let (low, high) = (raw.q01[i], raw.q99[i]);
        if !(low.is_finite() && high.is_finite() && low <= high) {
            p.add(
                &format!("envelope.{name}"),
                format!("q01 {low} and q99 {high} are not an interval of finite numbers"),
            );
        }
    }
}

impl ControlConfig {
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

    /// The longest inference may take.
    #[must_use]
    pub const fn inference_timeout(&self) -> Duration {
        self.inference_timeout
    }

    /// The oldest image that may move the robot.
    #[must_use]
    pub const fn observation_timeout(&self) -> Duration {
        self.observation_timeout
    }

    /// Whether a workspace is guarded: then the node needs `ee_pose`.
    #[must_use]
    pub const fn needs_ee_pose(&self) -> bool {
        self.workspace.is_some()
    }

    /// The promise: from the step that notices a cause to the first command that is exactly zero
    /// pass at most v/a + a/j of the slower group plus the longest interval between two steps
    /// during the stop.
    #[must_use]
    pub fn stop_time_s(&self) -> f64 {
        self.linear.stop_time_s().max(self.angular.stop_time_s())
    }
}
