//! Validation of the configuration: ranges, relations between values, and the resolved form.

use std::time::Duration;

use super::{
    config::{
        ControlConfig, FAULTS_MAX, MotionLimits, RawControlConfig, RawEnvelope, RawGripper,
        RawMotionLimits, RawWorkspace, TICKS_PER_PERIOD, WINDOW_MAX, Workspace,
    },
    config_error::ConfigErrors,
};

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
