//! Section `gripper` of a robot file: the threshold of its command, and where its opening is
//! measured.

use serde::Deserialize;

use super::{Unknown, need, refuse_unknown, topic_name};
use vla_control::action_chunk::GRIPPERS_MAX;
use vla_control::ranges;
use vla_control::{ConfigErrors, RawGripper};

/// What a gripper's opening is measured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GripperSource {
    /// Position of a joint in `joint_states`.
    Joint(String),
    /// A topic of `std_msgs/Float64`.
    Topic(String),
}

/// Where a gripper's opening is measured, and which values mean closed and open.
#[derive(Debug, Clone, PartialEq)]
pub struct GripperState {
    /// The source.
    pub source: GripperSource,
    /// Its value when the gripper is closed on nothing.
    pub closed: f64,
    /// Its value when the gripper is open.
    pub open: f64,
}

impl GripperState {
    /// A measured value on the scale 0 closed to 1 open.
    #[must_use]
    pub fn opening(&self, value: f64) -> f64 {
        (value - self.closed) / (self.open - self.closed)
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawRobotGripper {
    threshold: Option<f64>,
    hysteresis: Option<f64>,
    min_dwell_s: Option<f64>,
    states: Option<Vec<RawGripperState>>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Deserialize)]
struct RawGripperState {
    joint: Option<String>,
    topic: Option<String>,
    closed: Option<f64>,
    open: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// `grippers`: how many the file commands, if that is known.
pub(super) fn check_gripper(
    p: &mut ConfigErrors,
    raw: RawRobotGripper,
    grippers: Option<usize>,
) -> (RawGripper, Vec<GripperState>) {
    refuse_unknown(p, "gripper", &raw.unknown);
    let default = RawGripper::default();
    for (place, value, range) in [
        ("gripper.threshold", raw.threshold, &ranges::GRIPPER_THRESHOLD),
        ("gripper.hysteresis", raw.hysteresis, &ranges::GRIPPER_HYSTERESIS),
        ("gripper.min_dwell_s", raw.min_dwell_s, &ranges::GRIPPER_MIN_DWELL),
    ] {
        if let Some(value) = value {
            p.within(place, value, range);
        }
    }
    let gripper = RawGripper {
        threshold: raw.threshold.unwrap_or(default.threshold),
        hysteresis: raw.hysteresis.unwrap_or(default.hysteresis),
        min_dwell_s: raw.min_dwell_s.unwrap_or(default.min_dwell_s),
        invert: false,
        ..default
    };
    (gripper, check_states(p, raw.states.unwrap_or_default(), grippers))
}

fn check_states(
    p: &mut ConfigErrors,
    raw: Vec<RawGripperState>,
    grippers: Option<usize>,
) -> Vec<GripperState> {
    let expected = grippers.unwrap_or(raw.len()).min(GRIPPERS_MAX);
    if !raw.is_empty() && raw.len() != expected {
        let given = raw.len();
        p.add(
            "gripper.states",
            format!(
                "has {given} entries, but command names {expected} grippers; give one for each"
            ),
        );
    }
    let states = raw.into_iter().enumerate();
    states.filter_map(|(i, raw)| check_state(p, &format!("gripper.states[{i}]"), raw)).collect()
}

/// `None` only after something was noted.
fn check_state(p: &mut ConfigErrors, place: &str, raw: RawGripperState) -> Option<GripperState> {
    refuse_unknown(p, place, &raw.unknown);
    let source = match (raw.joint, raw.topic) {
        (Some(joint), None) => {
            if joint.is_empty() || 255 < joint.len() || joint.chars().any(char::is_control) {
                p.add(&format!("{place}.joint"), "must have 1 to 255 printable characters");
            }
            Some(GripperSource::Joint(joint))
        }
        (None, topic @ Some(_)) => {
            topic_name(p, &format!("{place}.topic"), topic).map(GripperSource::Topic)
        }
        (joint, _) => {
            let what = if joint.is_some() { "has both of" } else { "has neither of" };
            p.add(place, format!("{what} joint and topic; give one of the two"));
            None
        }
    };
    let mut value = |key: &str, value: Option<f64>| {
        let place = format!("{place}.{key}");
        let value = need(p, &place, value)?;
        p.range(&place, value, -1e4, 1e4, "");
        Some(value)
    };
    let (closed, open) = (value("closed", raw.closed), value("open", raw.open));
    let (source, closed, open) = (source?, closed?, open?);
    if (open - closed).abs() < 1e-6 {
        p.add(
            &format!("{place}.open"),
            format!("{open} is closed too; they must differ by at least 1e-6"),
        );
    }
    Some(GripperState { source, closed, open })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_values_become_openings() {
        let state =
            |closed, open| GripperState { source: GripperSource::Joint("j".into()), closed, open };
        assert_eq!(state(0.0, 0.04).opening(0.01), 0.25);
        assert_eq!(state(0.8, 0.0).opening(0.8), 0.0, "a joint that grows while closing");
        assert_eq!(state(0.8, 0.0).opening(0.4), 0.5);
    }
}
