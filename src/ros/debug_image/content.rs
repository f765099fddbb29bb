//! What a picture shows, collected on the executor thread: pointers to images, texts and numbers.

use std::{f64::consts::PI, sync::Arc};

use r2r::openvla_tt_msgs::msg::Status;
use vla_control::action_chunk::JointAction;
use vla_control::{ControlConfig, JointReport, MotionReport, State};
use vla_inference::observation::EncodedImage;

use crate::ros::shared::Shared;

/// A camera's newest image, if one has arrived.
pub(super) struct CameraView {
    pub name: Arc<str>,
    pub image: Option<Arc<EncodedImage>>,
}

/// One number of the motion, between its limits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub name: String,
    pub unit: &'static str,
    /// Of the policy, before any limit; `None` without a step to execute.
    pub desired: Option<f64>,
    /// After every limit.
    pub executed: f64,
    pub low: f64,
    pub high: f64,
}

/// What a picture shows.
pub(super) struct Content {
    pub cameras: Vec<CameraView>,
    pub instruction: String,
    pub state: Option<State>,
    pub detail: String,
    /// Ages, durations and rates, in words.
    pub times: String,
    pub stages: String,
    pub rows: Vec<Row>,
}

impl Content {
    /// Copies no image.
    pub fn collect(shared: &mut Shared, status: &Status) -> Self {
        let snapshot = shared.runtime.snapshot();
        let parameters = &shared.parameters;
        let view = |(index, camera): (usize, &crate::ros::CameraTopic)| CameraView {
            name: Arc::clone(&camera.name),
            image: shared.runtime.newest_image(index),
        };
        let age = snapshot.as_ref().and_then(|snapshot| snapshot.output.image_age_s);
        let motion = snapshot.as_ref().map(|snapshot| &snapshot.output.motion);
        let stages = shared.metrics.last_stages.iter();
        let stages = stages.map(|stage| format!("{} {:.1}", stage.name, stage.milliseconds));
        Self {
            cameras: parameters.cameras.iter().enumerate().map(view).collect(),
            instruction: status.instruction.clone(),
            state: State::ALL.into_iter().find(|state| state.code() == status.state),
            detail: status.detail.clone(),
            times: times(status, age),
            stages: stages.collect::<Vec<_>>().join(", "),
            rows: motion.map_or_else(Vec::new, |motion| {
                rows(motion, &parameters.control, &parameters.joints)
            }),
        }
    }
}

fn times(status: &Status, age_s: Option<f64>) -> String {
    let number = |value: f64, unit: &str, places: usize| {
        if value.is_finite() { format!("{value:.places$} {unit}") } else { "-".into() }
    };
    let gates = match (status.dry_run, status.enabled) {
        (true, _) => "dry run",
        (_, true) => "enabled",
        (_, false) => "not enabled",
    };
    format!(
        "image {} old, inference {}, commands {}, decision {}, {gates}",
        number(age_s.unwrap_or(f64::NAN), "s", 2),
        number(status.inference_ms, "ms", 0),
        number(status.command_hz, "Hz", 0),
        status.generation,
    )
}

fn rows(motion: &MotionReport, control: &ControlConfig, joints: &[String]) -> Vec<Row> {
    if let Some(report) = &motion.joints {
        return joint_rows(report, control, joints);
    }
    let groups = [
        (
            ["x", "y", "z"],
            "m/s",
            control.linear().velocity(),
            [motion.desired.linear, motion.limited.linear],
        ),
        (
            ["rx", "ry", "rz"],
            "rad/s",
            control.angular().velocity(),
            [motion.desired.angular, motion.limited.angular],
        ),
    ];
    let mut rows = Vec::new();
    for (names, unit, limit, [desired, executed]) in groups {
        for (axis, name) in names.into_iter().enumerate() {
            let (desired, executed) = (Some(desired[axis]), executed[axis]);
            let (low, high) = (-limit, limit);
            rows.push(Row { name: name.into(), unit, desired, executed, low, high });
        }
    }
    rows
}

/// Positions, or velocities where the policy gives these.
fn joint_rows(report: &JointReport, control: &ControlConfig, joints: &[String]) -> Vec<Row> {
    let Some(space) = control.joints() else { return Vec::new() };
    let by_velocity = space.action() == JointAction::Velocity;
    let row = |(joint, name): (usize, &String)| {
        let [velocity, ..] = space.motion_limits(joint);
        let executed = match by_velocity {
            true => report.limited.velocities().get(joint),
            false => report.limited.positions().get(joint),
        };
        let ([low, high], unit) = match (by_velocity, space.position_limits(joint)) {
            (true, _) => ([-velocity, velocity], "/s"),
            (false, [low, high]) if low.is_finite() && high.is_finite() => ([low, high], ""),
            (false, _) => ([-PI, PI], ""), // a joint without a range
        };
        let desired = report.desired.map(|desired| desired[joint]);
        Some(Row { name: name.clone(), unit, desired, executed: *executed?, low, high })
    };
    joints.iter().take(space.count()).enumerate().filter_map(row).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use vla_control::{RawControlConfig, Twist};

    #[test]
    fn times_that_are_unknown_are_dashes() {
        let unknown = Status { inference_ms: f64::NAN, dry_run: true, ..Status::default() };
        let text = times(&unknown, None);
        assert!(text.contains("image - old, inference -, "), "{text}");
        assert!(text.ends_with("dry run"), "{text}");
        let known = Status { inference_ms: 231.4, enabled: true, ..Status::default() };
        let text = times(&known, Some(0.123));
        assert!(text.contains("image 0.12 s old, inference 231 ms"), "{text}");
        assert!(text.ends_with("enabled") && !text.ends_with("not enabled"), "{text}");
    }

    #[test]
    fn twists_have_a_row_per_axis_with_its_limits() {
        let config = RawControlConfig::default().validate().unwrap();
        let twist = |x| Twist { linear: [x, 0.0, 0.0], angular: [0.0, 0.0, x] };
        let motion =
            MotionReport { desired: twist(0.4), limited: twist(0.25), ..MotionReport::default() };
        let rows = rows(&motion, &config, &[]);
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["x", "y", "z", "rx", "ry", "rz"]);
        let limit = config.linear().velocity();
        let first = &rows[0];
        assert_eq!((first.desired, first.executed), (Some(0.4), 0.25));
        assert_eq!((first.low, first.high, first.unit), (-limit, limit, "m/s"));
        assert_eq!(rows[5].high, config.angular().velocity());
    }
}
