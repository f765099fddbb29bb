//! Section `joints` of a robot file: limits of each joint, partly from a URDF.

use std::path::Path;

use serde::Deserialize;
use vla_control::ConfigErrors;
use vla_control::ranges::Range;

use super::action_section::{ACTION_COLUMNS_MAX, check_joint_name};
use super::urdf::{self, UrdfJoint};
use super::{Unknown, need, number, refuse_unknown};

const VELOCITY: Range = Range::new(1e-3, 20.0, "rad/s");
const ACCELERATION: Range = Range::new(1e-2, 200.0, "rad/s2");
const JERK: Range = Range::new(1e-1, 1e5, "rad/s3");
/// Positions: some revolutions, or metres of a sliding joint.
const POSITION: Range = Range::new(-100.0, 100.0, "rad");

const MARGIN: Range = Range::new(0.0, 1.0, "rad");
const TRACKING_ERROR: Range = Range::new(1e-3, 3.0, "rad");

/// A joint of the robot and its limits; radians, or metres for a sliding joint.
#[derive(Debug, Clone, PartialEq)]
pub struct RobotJoint {
    /// Name, as in the URDF and in `joint_states`.
    pub name: String,
    /// Lowest and highest position; `None` for a joint that turns without end.
    pub position: Option<[f64; 2]>,
    /// Largest velocity, per second.
    pub velocity: f64,
    /// Largest acceleration, per second squared.
    pub acceleration: f64,
    /// Largest jerk, per second cubed.
    pub jerk: f64,
    /// Kept free inside both ends of the range; `None` for the default.
    pub margin: Option<f64>,
    /// Largest distance between the commanded and the measured position; `None` for the default.
    pub tracking_error: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawJoint {
    name: Option<String>,
    position: Option<[f64; 2]>,
    continuous: Option<bool>,
    velocity: Option<f64>,
    acceleration: Option<f64>,
    jerk: Option<f64>,
    margin: Option<f64>,
    tracking_error: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// The joints; what a file leaves out comes from the URDF named by `from_urdf`, whose path is
/// relative to `folder`.
pub(super) fn check_joints(
    p: &mut ConfigErrors,
    raw: Vec<RawJoint>,
    from_urdf: Option<String>,
    folder: &Path,
) -> Vec<RobotJoint> {
    if ACTION_COLUMNS_MAX < raw.len() {
        p.add("joints", format!("has {} joints; at most {ACTION_COLUMNS_MAX}", raw.len()));
        return Vec::new();
    }
    let described = match from_urdf.map(|path| urdf::joints(&folder.join(path))) {
        None => None,
        Some(Ok(described)) => Some(described),
        Some(Err(message)) => {
            p.add("from_urdf", message);
            return Vec::new();
        }
    };
    let mut joints: Vec<RobotJoint> = Vec::new();
    for (i, raw) in raw.into_iter().enumerate() {
        let Some(joint) = check_joint(p, i, raw, described.as_deref()) else { continue };
        if joints.iter().any(|other| other.name == joint.name) {
            let name = joint.name.escape_debug();
            p.add(&format!("joints[{i}].name"), format!("`{name}` is named twice"));
        }
        joints.push(joint);
    }
    joints
}

fn check_joint(
    p: &mut ConfigErrors,
    i: usize,
    raw: RawJoint,
    described: Option<&[UrdfJoint]>,
) -> Option<RobotJoint> {
    let place = |key: &str| format!("joints[{i}].{key}");
    refuse_unknown(p, &format!("joints[{i}]"), &raw.unknown);
    let name = need(p, &place("name"), raw.name)?;
    check_joint_name(p, &place("name"), &name);
    let found = described.and_then(|all| all.iter().find(|joint| joint.name == name));
    if described.is_some() && found.is_none() {
        let shown = name.escape_debug();
        p.add(&place("name"), format!("`{shown}` is no moving joint of the URDF"));
        return None;
    }
    let position = check_position(p, &place, raw.position, raw.continuous, found);
    let velocity = raw.velocity.or(found.and_then(|joint| joint.velocity));
    if let (Some(given), Some(limit)) = (raw.velocity, found.and_then(|joint| joint.velocity))
        && limit < given
    {
        p.add(&place("velocity"), format!("{given} rad/s is more than {limit} rad/s of the URDF"));
    }
    let within = |p: &mut ConfigErrors, key: &str, value, range: &Range| {
        number(p, &place(key), value, range.min, range.max, range.unit)
    };
    let velocity = within(p, "velocity", velocity, &VELOCITY);
    let acceleration = within(p, "acceleration", raw.acceleration, &ACCELERATION);
    let jerk = within(p, "jerk", raw.jerk, &JERK);
    for (key, value, range) in
        [("margin", raw.margin, &MARGIN), ("tracking_error", raw.tracking_error, &TRACKING_ERROR)]
    {
        if let Some(value) = value {
            p.range(&place(key), value, range.min, range.max, range.unit);
        }
    }
    Some(RobotJoint {
        name,
        position: position?,
        velocity: velocity?,
        acceleration: acceleration?,
        jerk: jerk?,
        margin: raw.margin,
        tracking_error: raw.tracking_error,
    })
}

/// The joint's range; `Some(None)` for a joint without one, `None` after a problem was noted.
fn check_position(
    p: &mut ConfigErrors,
    place: &impl Fn(&str) -> String,
    given: Option<[f64; 2]>,
    continuous: Option<bool>,
    found: Option<&UrdfJoint>,
) -> Option<Option<[f64; 2]>> {
    let of_urdf = found.and_then(|joint| joint.position);
    match (given, continuous.unwrap_or(false)) {
        (Some(_), true) => {
            p.add(&place("continuous"), "is true beside a position range; remove one of the two");
            None
        }
        (None, true) if of_urdf.is_some() => {
            p.add(&place("continuous"), "is true, but the URDF gives the joint a range");
            None
        }
        (None, true) => Some(None),
        (None, false) => match found {
            Some(joint) if joint.continuous => Some(None),
            _ => need(p, &place("position"), of_urdf).map(Some),
        },
        (Some([low, high]), false) => {
            for value in [low, high] {
                p.range(&place("position"), value, POSITION.min, POSITION.max, POSITION.unit);
            }
            if low >= high {
                p.add(&place("position"), format!("[{low}, {high}] is empty; give [min, max]"));
            }
            if let Some([lowest, highest]) = of_urdf
                && (low < lowest || highest < high)
            {
                p.add(
                    &place("position"),
                    format!("[{low}, {high}] exceeds [{lowest}, {highest}] of the URDF"),
                );
            }
            Some(Some([low, high]))
        }
    }
}
