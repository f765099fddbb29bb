//! Validation of the configuration: ranges, relations between values, and the resolved form.

use std::time::Duration;

use super::{
    config::{
        ControlConfig, MotionLimits, RawControlConfig, RawEnvelope, RawGripper, RawMotionLimits,
        RawWorkspace, TICKS_PER_PERIOD, WINDOW_MAX, Workspace,
    },
    config_error::ConfigErrors,
    joint_config::{self, JointSpace},
    ranges::{self, Range},
};

impl RawControlConfig {
    /// Checks every value and every relation between values.
    ///
    /// # Errors
    /// [`ConfigErrors`] with parameter, value and rule of each error.
    pub fn validate(&self) -> Result<ControlConfig, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        for (path, value, range) in RANGES {
            errors.within(path, value(self), range);
        }
        if self.inference_timeout_s == 0.0 {
            errors.range("expected_inference_s", self.expected_inference_s, 1e-4, 300.0, "s");
        }
        self.check_intervals(&mut errors);
        let (linear, angular) = (&self.limits.linear, &self.limits.angular);
        let rate_hz = self.command_rate_hz;
        check_motion(&mut errors, "limits.linear", linear, &LINEAR, rate_hz);
        check_motion(&mut errors, "limits.angular", angular, &ANGULAR, rate_hz);
        let workspace = self.workspace.and_then(|raw| check_workspace(&mut errors, &raw));
        check_gripper(&mut errors, &self.gripper);
        if let Some(envelope) = &self.envelope {
            check_envelope(&mut errors, envelope);
        }
        let joints = self.check_joints(&mut errors);
        if errors.0.is_empty() { Ok(self.resolve(workspace, joints)) } else { Err(errors) }
    }

    fn check_joints(&self, errors: &mut ConfigErrors) -> Option<JointSpace> {
        if let Some(ensemble) = &self.ensemble {
            errors.within("ensemble.decay", ensemble.decay, &ranges::ENSEMBLE_DECAY);
            let chunks = f64::from(ensemble.chunks);
            errors.within("ensemble.chunks", chunks, &ranges::ENSEMBLE_CHUNKS);
        }
        let Some(raw) = &self.joints else {
            if self.grippers != 1 {
                let message =
                    format!("{} grippers, but an end effector has one gripper", self.grippers);
                errors.add("grippers", message);
            }
            return None;
        };
        for (path, given) in
            [("workspace", self.workspace.is_some()), ("envelope", self.envelope.is_some())]
        {
            if given {
                errors.add(path, "is for displacements of the end effector, not for joints");
            }
        }
        errors.within("gripper.rate", self.gripper.rate, &ranges::GRIPPER_RATE);
        // An invalid rate is an error of its own.
        let rate_hz = self.command_rate_hz;
        let period_s = if ranges::COMMAND_RATE.contains(rate_hz) { 1.0 / rate_hz } else { 0.02 };
        joint_config::check(errors, raw, Duration::from_secs_f64(period_s))
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
    fn resolve(&self, workspace: Option<Workspace>, joints: Option<JointSpace>) -> ControlConfig {
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
            grippers: self.grippers as usize,
            cameras: self.cameras as usize,
            states: self.states as usize,
            state_timeout: seconds(self.state_timeout_s),
            observation_spread: seconds(self.observation_spread_s),
            execute_steps: u64::from(self.execute_steps),
            ensemble: self.ensemble,
            joints,
            detectors: self.detectors,
            envelope: self.envelope,
        }
    }
}

/// Parameter, value, range.
type Row = (&'static str, fn(&RawControlConfig) -> f64, Range);

const RANGES: &[Row] = &[
    ("command_rate_hz", |c| c.command_rate_hz, ranges::COMMAND_RATE),
    ("observation_timeout_s", |c| c.observation_timeout_s, ranges::OBSERVATION_TIMEOUT),
    ("stamp_future_tolerance_s", |c| c.stamp_future_tolerance_s, ranges::STAMP_FUTURE_TOLERANCE),
    ("stamp_past_tolerance_s", |c| c.stamp_past_tolerance_s, ranges::STAMP_PAST_TOLERANCE),
    ("inference_timeout_s", |c| c.inference_timeout_s, ranges::INFERENCE_TIMEOUT),
    ("clock_jump_tolerance_s", |c| c.clock_jump_tolerance_s, ranges::CLOCK_JUMP_TOLERANCE),
    ("overrun_s", |c| c.overrun_s, ranges::OVERRUN),
    ("pause_s", |c| c.pause_s, ranges::PAUSE),
    ("pose_timeout_s", |c| c.pose_timeout_s, ranges::POSE_TIMEOUT),
    ("subscriber_timeout_s", |c| c.subscriber_timeout_s, ranges::SUBSCRIBER_TIMEOUT),
    ("fault_window_s", |c| c.fault_window_s, ranges::FAULT_WINDOW),
    ("clear_s", |c| c.clear_s, ranges::CLEAR),
    ("rearm_window_s", |c| c.rearm_window_s, ranges::REARM_WINDOW),
    ("unchanged_image.distance", |c| c.unchanged_image.distance, ranges::UNCHANGED_DISTANCE),
    ("unchanged_image.angle", |c| c.unchanged_image.angle, ranges::UNCHANGED_ANGLE),
    ("step_cap.translation", |c| c.step_cap.translation, ranges::STEP_TRANSLATION),
    ("step_cap.rotation", |c| c.step_cap.rotation, ranges::STEP_ROTATION),
    ("detectors.stuck_distance", |c| c.detectors.stuck_distance, ranges::STUCK_DISTANCE),
    ("grippers", |c| f64::from(c.grippers), ranges::GRIPPERS),
    ("cameras", |c| f64::from(c.cameras), ranges::CAMERAS),
    ("states", |c| f64::from(c.states), ranges::STATE_SOURCES),
    ("state_timeout_s", |c| c.state_timeout_s, ranges::STATE_TIMEOUT),
    ("observation_spread_s", |c| c.observation_spread_s, ranges::OBSERVATION_SPREAD),
    ("execute_steps", |c| f64::from(c.execute_steps), ranges::EXECUTE_STEPS),
    ("faults_to_latch", |c| f64::from(c.faults_to_latch), ranges::FAULTS_TO_LATCH),
    ("detectors.constant_steps", |c| f64::from(c.detectors.constant_steps), ranges::CONSTANT_STEPS),
];

const LINEAR: [Range; 3] =
    [ranges::LINEAR_VELOCITY, ranges::LINEAR_ACCELERATION, ranges::LINEAR_JERK];
const ANGULAR: [Range; 3] =
    [ranges::ANGULAR_VELOCITY, ranges::ANGULAR_ACCELERATION, ranges::ANGULAR_JERK];

fn check_motion(
    p: &mut ConfigErrors,
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

fn check_workspace(p: &mut ConfigErrors, raw: &RawWorkspace) -> Option<Workspace> {
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

fn check_gripper(p: &mut ConfigErrors, raw: &RawGripper) {
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
