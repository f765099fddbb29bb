//! Messages as the page gets them: JSON, bounded in length. Numbers that are not finite are null.

use std::collections::VecDeque;

use r2r::geometry_msgs::msg::Twist;
use r2r::openvla_tt_msgs::msg::{Action, Status};
use r2r::sensor_msgs::msg::JointState;
use serde_json::{Value, json};
use vla_control::{Reason, State};

use super::reasons::reason;
use crate::ros::messages::text;

/// Most entries of a list that a message may have.
const LISTED: usize = 32;
/// States that are listed.
const STATES: usize = 12;
/// Samples between two ticks, each of them.
const SAMPLES: usize = 64;

fn state_name(code: u8) -> &'static str {
    let known = State::ALL.iter().find(|state| state.code() == code);
    known.map_or("UNKNOWN", |state| state.name())
}

fn cause(code: u16, detail: &str) -> Value {
    let known = reason(code);
    let name = known.map_or("UNKNOWN", |reason| reason.name);
    // The node's sentence begins with the name, which is shown above it.
    let detail =
        detail.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(detail);
    json!({
        "name": name,
        "sentence": known.map_or("", |reason| reason.sentence),
        "remedy": known.map_or("", |reason| reason.remedy.as_str()),
        "detail": text(detail),
    })
}

/// `~/status`.
pub(super) fn status(status: &Status) -> Value {
    let causes = status.causes.iter().zip(&status.cause_details).take(LISTED);
    json!({
        "state": state_name(status.state),
        "reason": cause(status.reason, &status.detail),
        "causes": causes.map(|(code, detail)| cause(*code, detail)).collect::<Vec<_>>(),
        "latched": status.latched,
        "enabled": status.enabled,
        "dry_run": status.dry_run,
        "resumes_in_s": status.resumes_in_s,
        "enable_withdrawn_in_s": status.enable_withdrawn_in_s,
        "instruction": text(&status.instruction),
        "image_age_s": status.image_age_s,
        "inference_ms": status.inference_ms,
        "command_hz": status.command_hz,
        "inferences": status.inferences,
        "faults": status.faults,
    })
}

/// `~/action`: the last decision's times.
pub(super) fn action(action: &Action) -> Value {
    let stages = action.stage_names.iter().zip(&action.stage_ms).take(LISTED);
    let stages = stages.map(|(name, ms)| json!({ "name": text(name), "ms": ms }));
    json!({
        "instruction": text(&action.instruction),
        "latency_s": action.latency_s,
        "device": text(&action.device),
        "precision": text(&action.precision),
        "stages": stages.collect::<Vec<_>>(),
    })
}

/// A velocity of the end effector as the values of its channels.
pub(super) fn twist(twist: &Twist) -> Vec<f64> {
    let (linear, angular) = (&twist.linear, &twist.angular);
    vec![linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
}

/// Joints as the values of their channels.
pub(super) fn joints(message: JointState, velocities: bool) -> Vec<f64> {
    let mut values = if velocities { message.velocity } else { message.position };
    values.truncate(LISTED);
    values
}

/// The motion since the last tick.
#[derive(Default)]
pub(super) struct Samples {
    desired: Vec<(f64, Vec<f64>)>,
    executed: Vec<(f64, Vec<f64>)>,
}

impl Samples {
    /// A sample of the time `at`, seconds since the start of the page.
    pub(super) fn desired(&mut self, at: f64, values: Vec<f64>) {
        if self.desired.len() < SAMPLES {
            self.desired.push((at, values));
        }
    }

    pub(super) fn executed(&mut self, at: f64, values: Vec<f64>) {
        if self.executed.len() < SAMPLES {
            self.executed.push((at, values));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.desired.len() + self.executed.len()
    }

    /// All of them, which are then gone; `None` when there are none.
    pub(super) fn take(&mut self) -> Option<Value> {
        let taken = std::mem::take(self);
        (0 < taken.len()).then(|| json!({ "desired": taken.desired, "executed": taken.executed }))
    }
}

/// The last states, the newest first.
#[derive(Default)]
pub(super) struct Timeline {
    entries: VecDeque<Value>,
    last: Option<(u8, u16)>,
}

impl Timeline {
    /// Whether the state or its reason is another one than before. Waiting for the next action
    /// alternates with motion many times a second and counts as the same.
    pub(super) fn add(&mut self, status: &Status) -> bool {
        let waiting = status.reason == Reason::WaitingForAction.code();
        let reason = if waiting { Reason::None.code() } else { status.reason };
        let now = Some((status.state, reason));
        if self.last == now {
            return false;
        }
        self.last = now;
        let r2r::builtin_interfaces::msg::Time { sec, nanosec } = status.header.stamp;
        self.entries.truncate(STATES - 1);
        self.entries.push_front(json!({
            "at": f64::from(sec) + f64::from(nanosec) * 1e-9,
            "state": state_name(status.state),
            "reason": cause(reason, if waiting { "" } else { &status.detail }),
        }));
        true
    }

    pub(super) fn json(&self) -> Value {
        self.entries.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repeated_states_are_one_entry_and_their_number_is_bounded() {
        let mut timeline = Timeline::default();
        let mut message = Status { state: 3, ..Status::default() };
        assert!(timeline.add(&message) && !timeline.add(&message));
        message.reason = Reason::WaitingForAction.code();
        assert!(!timeline.add(&message), "waiting for an action is motion, too");
        for reason in 0..40 {
            message.reason = 20 + reason;
            assert!(timeline.add(&message));
        }
        let shown = timeline.json();
        assert_eq!(shown.as_array().unwrap().len(), STATES);
        assert_eq!(shown[0]["reason"]["name"], "UNKNOWN");
        assert_eq!(shown[0]["state"], "RUNNING");
    }

    #[test]
    fn numbers_that_are_not_finite_are_null() {
        let detail = "IMAGE_STALE: it is old".to_owned();
        let message = Status { image_age_s: f64::NAN, reason: 21, detail, ..Status::default() };
        let shown = status(&message);
        assert!(shown["image_age_s"].is_null());
        assert_eq!(shown["reason"]["detail"], "it is old");
        assert_eq!(shown["reason"]["name"], "IMAGE_STALE");
        let mut samples = Samples::default();
        samples.executed(0.5, vec![f64::INFINITY, 1.0]);
        assert_eq!(samples.take().unwrap()["executed"], json!([[0.5, [null, 1.0]]]));
        assert!(samples.take().is_none());
    }
}
