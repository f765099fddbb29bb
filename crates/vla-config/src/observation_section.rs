//! Sections `cameras` and `state` of a policy file: what a decision is made from.

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use vla_control::ConfigErrors;
use vla_control::ranges;

use super::action_section::joint_names;
use super::{Unknown, choice, need, refuse_unknown, topic_name};

/// Most cameras of a policy.
pub const CAMERAS_MAX: usize = 8;
/// Most entries of the state.
pub const STATE_SOURCES_MAX: usize = 16;

/// A camera of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// Name by which the checkpoint knows it.
    pub name: String,
    /// Topic of its images (the compressed one below it, `TOPIC/compressed`); `None` for a camera
    /// that the robot does not have, which the policy must then be able to do without.
    pub topic: Option<String>,
}

/// Where a part of the state comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum StateSource {
    /// Positions of joints by name, from `joint_states`: radians or metres.
    JointPosition(Vec<String>),
    /// Velocities of joints by name, from `joint_states`: per second.
    JointVelocity(Vec<String>),
    /// `x y z` of `ee_pose`, metres.
    EePosition,
    /// Orientation of `ee_pose` as a rotation vector (axis times angle, 0 to pi), radians.
    EeRotationVector,
    /// Orientation of `ee_pose` as roll, pitch, yaw about fixed axes (REP 103), radians.
    EeRpy,
    /// Orientation of `ee_pose` as a quaternion `x y z w`, `w >= 0`.
    EeQuaternion,
    /// A gripper's opening from a topic of `std_msgs/Float64`.
    Gripper {
        /// The topic.
        topic: String,
    },
    /// The same numbers always, where the data set had a filler.
    Constant(Vec<f64>),
}

/// A part of the state: a source, and how its numbers become the data set's.
#[derive(Debug, Clone, PartialEq)]
pub struct StatePart {
    /// Where the numbers come from.
    pub source: StateSource,
    /// Factor of each number.
    pub scale: f64,
    /// Added to each number after the factor.
    pub offset: f64,
}

impl StatePart {
    /// How many numbers it has.
    #[must_use]
    pub fn width(&self) -> usize {
        match &self.source {
            StateSource::JointPosition(joints) | StateSource::JointVelocity(joints) => joints.len(),
            StateSource::EePosition | StateSource::EeRotationVector | StateSource::EeRpy => 3,
            StateSource::EeQuaternion => 4,
            StateSource::Gripper { .. } => 1,
            StateSource::Constant(values) => values.len(),
        }
    }
}

/// `cameras` is a list; a number was the form of earlier versions.
#[derive(Debug)]
pub(super) enum RawCameras {
    List(Vec<RawCamera>),
    Count(u64),
}

impl<'de> Deserialize<'de> for RawCameras {
    // Not an untagged enum, whose errors would not say what is wrong with the list.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RawCameras;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of cameras, each with name and topic")
            }

            fn visit_u64<E>(self, count: u64) -> Result<Self::Value, E> {
                Ok(RawCameras::Count(count))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(RawCameras::List)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct RawCamera {
    name: Option<String>,
    topic: Option<String>,
    absent: Option<bool>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawStatePart {
    from: Option<String>,
    joints: Option<Vec<String>>,
    topic: Option<String>,
    values: Option<Vec<f64>>,
    scale: Option<f64>,
    offset: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// `None` only after something was noted.
pub(super) fn check_cameras(p: &mut ConfigErrors, raw: Option<RawCameras>) -> Option<Vec<Camera>> {
    let list = match need(p, "cameras", raw)? {
        RawCameras::List(list) => list,
        RawCameras::Count(count) => {
            p.add(
                "cameras",
                format!(
                    "is the number {count}; list the cameras in the checkpoint's order, each with \
                    name and topic: [{{name: image, topic: image}}]"
                ),
            );
            return None;
        }
    };
    if list.is_empty() || CAMERAS_MAX < list.len() {
        p.add("cameras", format!("has {} entries; 1 to {CAMERAS_MAX} are allowed", list.len()));
    }
    let mut cameras: Vec<Camera> = Vec::new();
    for (i, raw) in list.into_iter().enumerate() {
        let place = |key: &str| format!("cameras[{i}].{key}");
        refuse_unknown(p, &format!("cameras[{i}]"), &raw.unknown);
        let absent = raw.absent.unwrap_or(false);
        if absent && raw.topic.is_some() {
            p.add(&place("absent"), "is true beside a topic; remove one of the two");
        }
        let Some(name) = need(p, &place("name"), raw.name) else { continue };
        if name.is_empty() || 255 < name.len() || name.chars().any(char::is_control) {
            p.add(&place("name"), "must have 1 to 255 printable characters");
        }
        if cameras.iter().any(|camera| camera.name == name) {
            p.add(&place("name"), format!("`{}` is named twice", name.escape_debug()));
        }
        let topic = if absent {
            None
        } else {
            let Some(topic) = topic_name(p, &place("topic"), raw.topic) else { continue };
            if cameras.iter().any(|camera| camera.topic.as_ref() == Some(&topic)) {
                p.add(&place("topic"), format!("`{topic}` is another camera's too"));
            }
            Some(topic)
        };
        cameras.push(Camera { name, topic });
    }
    if !cameras.is_empty() && cameras.iter().all(|camera| camera.topic.is_none()) {
        p.add("cameras", "are all absent; at least one is needed");
    }
    Some(cameras)
}

#[derive(Clone, Copy)]
enum From {
    JointPosition,
    JointVelocity,
    EePosition,
    EeRotationVector,
    EeRpy,
    EeQuaternion,
    Gripper,
    Constant,
}

pub(super) fn check_state(p: &mut ConfigErrors, raw: Vec<RawStatePart>) -> Vec<StatePart> {
    if STATE_SOURCES_MAX < raw.len() {
        p.add("state", format!("has {} parts; at most {STATE_SOURCES_MAX}", raw.len()));
    }
    raw.into_iter().enumerate().filter_map(|(i, part)| check_part(p, i, part)).collect()
}

fn check_part(p: &mut ConfigErrors, i: usize, raw: RawStatePart) -> Option<StatePart> {
    let place = |key: &str| format!("state[{i}].{key}");
    refuse_unknown(p, &format!("state[{i}]"), &raw.unknown);
    let sources = [
        ("joint_position", From::JointPosition),
        ("joint_velocity", From::JointVelocity),
        ("ee_position", From::EePosition),
        ("ee_rotation_vector", From::EeRotationVector),
        ("ee_rpy", From::EeRpy),
        ("ee_quaternion", From::EeQuaternion),
        ("gripper", From::Gripper),
        ("constant", From::Constant),
    ];
    let from = choice(p, &place("from"), raw.from.as_deref(), &sources)?;
    let takes = |key: &str| match from {
        From::JointPosition | From::JointVelocity => key == "joints",
        From::Gripper => key == "topic",
        From::Constant => key == "values",
        _ => false,
    };
    for (key, given) in [
        ("joints", raw.joints.is_some()),
        ("topic", raw.topic.is_some()),
        ("values", raw.values.is_some()),
    ] {
        if given && !takes(key) {
            p.add(&place(key), "means nothing for this source; remove it");
        }
    }
    let (scale, offset) = (raw.scale.unwrap_or(1.0), raw.offset.unwrap_or(0.0));
    p.range(&place("scale"), scale, -1e4, 1e4, "");
    p.range(&place("offset"), offset, -1e4, 1e4, "");
    let source = match from {
        From::JointPosition => {
            StateSource::JointPosition(joint_names(p, &place("joints"), raw.joints)?)
        }
        From::JointVelocity => {
            StateSource::JointVelocity(joint_names(p, &place("joints"), raw.joints)?)
        }
        From::EePosition => StateSource::EePosition,
        From::EeRotationVector => StateSource::EeRotationVector,
        From::EeRpy => StateSource::EeRpy,
        From::EeQuaternion => StateSource::EeQuaternion,
        From::Gripper => StateSource::Gripper { topic: topic_name(p, &place("topic"), raw.topic)? },
        From::Constant => {
            let values = need(p, &place("values"), raw.values)?;
            if values.is_empty() || 64 < values.len() || !values.iter().all(|v| v.is_finite()) {
                p.add(&place("values"), "must be 1 to 64 finite numbers");
            }
            StateSource::Constant(values)
        }
    };
    Some(StatePart { source, scale, offset })
}

/// The spread between the stamps of one observation's sources: a number in range, if given.
pub(super) fn check_spread(p: &mut ConfigErrors, spread: Option<f64>) -> Option<f64> {
    let range = ranges::OBSERVATION_TIMEOUT;
    if let Some(spread) = spread {
        p.range("observation_spread_s", spread, range.min, range.max, range.unit);
    }
    spread
}
