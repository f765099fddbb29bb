//! Configuration: a raw form, and the validated form made from it; validation reports all errors at
//! once.

use std::{fmt, time::Duration};

use serde::Deserialize;

/// An invalid value in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the parameter, dotted: `limits.linear.velocity`.
    pub path: String,
    /// The value as given, and the rule it violates.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All errors of a configuration; not empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} problem{} in the configuration: ",
            self.0.len(),
            if self.0.len() == 1 { "" } else { "s" }
        )?;
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl ConfigErrors {
    /// Adds an error.
    pub fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(ConfigError { path: path.to_owned(), message: message.into() });
    }

    /// Adds an error unless `value` is within `low..=high` (NaN is not). `unit` is for the message.
    pub fn range(&mut self, path: &str, value: f64, low: f64, high: f64, unit: &str) {
        if !(low <= value && value <= high) {
            self.add(path, format!("{value} {unit} is outside {low}..{high} {unit}"));
        }
    }

    /// `value`, or the errors.
    ///
    /// # Errors
    /// `self`, unless it is empty.
    pub fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
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
    /// The gripper.
    pub gripper: RawGripper,
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
    pub(super) detectors: RawDetectors,
    pub(super) envelope: Option<RawEnvelope>,
}

/// Upper bound of `faults_to_latch`.
pub(super) const FAULTS_MAX: u32 = 8;
/// Upper bound of the jerk limiter's window, in ticks.
pub(super) const WINDOW_MAX: usize = 512;
/// Ticks of the jerk limiter per control period.
pub(super) const TICKS_PER_PERIOD: f64 = 4.0;

impl RawControlConfig {
    /// Checks every value and every relation between values.
    ///
    /// # Errors
    /// [`ConfigErrors`] with parameter, value and rule of each error.
    pub fn validate(&self) -> Result<ControlConfig, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        for (path, value, low, high, unit) in RANGES {
            errors.range(path, value(self), *low, *high, unit);
        }
        for (path, value, low, high) in COUNTS {
            let value = value(self);
            if !(*low..=*high).contains(&value) {
                errors.add(path, format!("{value} is outside {low}..{high}"));
            }
        }
        if self.inference_timeout_s == 0.0 {
            errors.range("expected_inference_s", self.expected_inference_s, 1e-4, 300.0, "s");
        }
        self.check_intervals(&mut errors);
        let (linear, angular) = (&self.limits.linear, &self.limits.angular);
        check_motion(&mut errors, "limits.linear", linear, [3.0, 30.0], "m", self.command_rate_hz);
        check_motion(
            &mut errors,
            "limits.angular",
            angular,
            [6.0, 60.0],
            "rad",
            self.command_rate_hz,
        );
        let workspace = self.workspace.and_then(|raw| check_workspace(&mut errors, &raw));
        check_gripper(&mut errors, &self.gripper);
        if let Some(envelope) = &self.envelope {
            check_envelope(&mut errors, envelope);
        }
        if errors.0.is_empty() { Ok(self.resolve(workspace)) } else { Err(errors) }
    }

    fn period_s(&self) -> f64 {
        1.0 / self.command_rate_hz
    }

    /// The overrun limit, with its default of five periods.
    fn resolved_overrun_s(&self) -> f64 {
        if self.overrun_s == 0.0 { 5.0 * self.period_s() } else { self.overrun_s }
    }

    fn check_intervals(&self, errors: &mut ConfigErrors) {
        let shortest_s = 1.5 * self.period_s();
        if self.overrun_s != 0.0 && self.overrun_s < shortest_s {
            errors.add(
                "overrun_s",
                format!(
                    "{} s is less than one and a half control periods ({shortest_s} s)",
                    self.overrun_s
                ),
            );
        }
        let overrun_s = self.resolved_overrun_s();
        if self.pause_s < overrun_s {
            errors.add(
                "pause_s",
                format!("{} s is less than the overrun limit of {overrun_s} s", self.pause_s),
            );
        }
    }

    /// The validated form. Every duration is within 0..3600 s, so that no conversion fails.
    fn resolve(&self, workspace: Option<Workspace>) -> ControlConfig {
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
        let seconds = Duration::from_secs_f64;
        ControlConfig {
            dry_run: self.dry_run,
            period: seconds(self.period_s()),
            observation_timeout: seconds(self.observation_timeout_s),
            stamp_future_tolerance_s: self.stamp_future_tolerance_s,
            stamp_past_tolerance_s: self.stamp_past_tolerance_s,
            inference_timeout: seconds(inference_timeout_s),
            clock_jump_tolerance_s: self.clock_jump_tolerance_s,
            overrun: seconds(self.resolved_overrun_s()),
            pause: seconds(self.pause_s),
            pose_timeout: seconds(self.pose_timeout_s),
            subscriber_timeout: seconds(self.subscriber_timeout_s),
            faults_to_latch: self.faults_to_latch,
            fault_window: seconds(self.fault_window_s),
            clear: seconds(self.clear_s),
            rearm_window: seconds(self.rearm_window_s),
            unchanged_image: self.unchanged_image,
            linear: limits(self.limits.linear),
            angular: limits(self.limits.angular),
            step_cap: self.step_cap,
            workspace,
            gripper: self.gripper,
            detectors: self.detectors,
            envelope: self.envelope,
        }
    }
}

/// Parameter, value, minimum, maximum, unit.
type Range = (&'static str, fn(&RawControlConfig) -> f64, f64, f64, &'static str);

const RANGES: &[Range] = &[
    ("command_rate_hz", |c| c.command_rate_hz, 10.0, 1000.0, "Hz"),
    ("observation_timeout_s", |c| c.observation_timeout_s, 0.02, 60.0, "s"),
    ("stamp_future_tolerance_s", |c| c.stamp_future_tolerance_s, 0.0, 10.0, "s"),
    ("stamp_past_tolerance_s", |c| c.stamp_past_tolerance_s, 0.0, 60.0, "s"),
    ("inference_timeout_s", |c| c.inference_timeout_s, 0.0, 600.0, "s"),
    ("clock_jump_tolerance_s", |c| c.clock_jump_tolerance_s, 0.0, 10.0, "s"),
    ("overrun_s", |c| c.overrun_s, 0.0, 1.0, "s"),
    ("pause_s", |c| c.pause_s, 0.05, 10.0, "s"),
    ("pose_timeout_s", |c| c.pose_timeout_s, 0.02, 10.0, "s"),
    ("subscriber_timeout_s", |c| c.subscriber_timeout_s, 0.0, 10.0, "s"),
    ("fault_window_s", |c| c.fault_window_s, 0.1, 3600.0, "s"),
    ("clear_s", |c| c.clear_s, 0.1, 60.0, "s"),
    ("rearm_window_s", |c| c.rearm_window_s, 0.0, 60.0, "s"),
    ("unchanged_image.distance", |c| c.unchanged_image.distance, 1e-3, 10.0, "m"),
    ("unchanged_image.angle", |c| c.unchanged_image.angle, 1e-3, 100.0, "rad"),
    ("step_cap.translation", |c| c.step_cap.translation, 1e-4, 1.0, "m"),
    ("step_cap.rotation", |c| c.step_cap.rotation, 1e-4, 3.2, "rad"),
    ("detectors.stuck_distance", |c| c.detectors.stuck_distance, 0.0, 1.0, "m"),
];

/// Parameter, value, minimum, maximum.
type CountRange = (&'static str, fn(&RawControlConfig) -> u32, u32, u32);

const COUNTS: &[CountRange] = &[
    ("faults_to_latch", |c| c.faults_to_latch, 1, FAULTS_MAX),
    ("detectors.constant_steps", |c| c.detectors.constant_steps, 2, 10_000),
];

fn check_motion(
    p: &mut ConfigErrors,
    group: &str,
    raw: &RawMotionLimits,
    [v_max, a_max]: [f64; 2],
    unit: &str,
    rate_hz: f64,
) {
    let before = p.0.len();
    p.range(&format!("{group}.velocity"), raw.velocity, 1e-3, v_max, &format!("{unit}/s"));
    p.range(&format!("{group}.acceleration"), raw.acceleration, 1e-2, a_max, &format!("{unit}/s2"));
    p.range(&format!("{group}.jerk"), raw.jerk, 1e-1, 1e4, &format!("{unit}/s3"));
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

fn check_workspace(p: &mut ConfigErrors, raw: &RawWorkspace) -> Option<Workspace> {
    let before = p.0.len();
    p.range("workspace.margin", raw.margin, 0.005, 0.5, "m");
    for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
        let (low, high) = (raw.min[axis], raw.max[axis]);
        p.range(&format!("workspace.min.{name}"), low, -10.0, 10.0, "m");
        p.range(&format!("workspace.max.{name}"), high, -10.0, 10.0, "m");
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

fn check_gripper(p: &mut ConfigErrors, raw: &RawGripper) {
    p.range("gripper.threshold", raw.threshold, 0.0, 1.0, "");
    p.range("gripper.hysteresis", raw.hysteresis, 0.0, 0.5, "");
    p.range("gripper.min_dwell_s", raw.min_dwell_s, 0.0, 60.0, "s");
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

fn check_envelope(p: &mut ConfigErrors, raw: &RawEnvelope) {
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

    /// Bound of the stop time: from the step that detects a cause to the first command that is
    /// exactly zero pass at most v/a + a/j of the slower group plus the longest interval between
    /// two steps during the stop.
    #[must_use]
    pub fn stop_time_s(&self) -> f64 {
        self.linear.stop_time_s().max(self.angular.stop_time_s())
    }
}
