//! Sections `action` and `gripper` of a policy file: what the numbers of a step mean.

use serde::Deserialize;
use vla_control::ConfigErrors;
use vla_control::action_chunk::ChunkStep;

use super::{Unknown, choice, need, number, refuse_unknown};

/// Most joints and grippers of an action.
pub const ACTION_COLUMNS_MAX: usize = 64;

/// In which frame an action's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// The robot's base frame.
    Base,
    /// The end effector's own frame.
    Tool,
}

/// How three rotation numbers are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Roll, pitch, yaw of one step. Taken to first order as a rotation vector: for a step of
    /// length `r` the difference is below `r^2 / 2` (0.1 degrees for the largest Bridge step of
    /// 0.06 rad), as in the controllers the data was recorded with.
    RpyDelta,
    /// A rotation vector (axis times angle).
    RotationVector,
}

/// On which side a step's rotation is composed with the present orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Composition {
    /// `R' = dR R`: about the base frame's axes.
    Left,
    /// `R' = R dR`: about the tool's own axes.
    Right,
}

/// Displacement of the end effector in one policy step: `dx dy dz`, three rotation numbers, and the
/// gripper.
#[derive(Debug, Clone, PartialEq)]
pub struct EndEffectorDelta {
    /// In which frame the action is.
    pub frame: Frame,
    /// How its rotation is to be read.
    pub rotation: Rotation,
    /// On which side its rotation is composed.
    pub composition: Composition,
    /// Metres per unit of translation. 1 when the statistics are in metres.
    pub translation_scale: f64,
    /// Radians per unit of rotation.
    pub rotation_scale: f64,
}

/// What a joint's number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JointQuantity {
    /// Position at the end of the step, radians or metres.
    Position,
    /// Position at the end of the step minus the state's at observation time.
    RelativePosition,
    /// Velocity during the step, per second.
    Velocity,
}

/// Positions or velocities of named joints, and grippers.
#[derive(Debug, Clone, PartialEq)]
pub struct JointAction {
    /// What the joints' numbers are.
    pub quantity: JointQuantity,
    /// Names of the step's numbers in the policy's order, grippers among them.
    pub columns: Vec<String>,
    /// Which of the columns are grippers, in their order.
    pub grippers: Vec<usize>,
    /// Radians (metres, for a sliding joint) per unit of a joint's number.
    pub scale: f64,
}

impl JointAction {
    /// Columns of the joints, in their order.
    pub fn joints(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.columns.len()).filter(|column| !self.grippers.contains(column))
    }
}

/// What a step of the policy is.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Displacement of the end effector.
    EndEffector(EndEffectorDelta),
    /// Positions or velocities of joints.
    Joints(JointAction),
}

impl Action {
    /// The displacement, where it is one.
    #[must_use]
    pub fn end_effector(&self) -> Option<&EndEffectorDelta> {
        match self {
            Self::EndEffector(action) => Some(action),
            Self::Joints(_) => None,
        }
    }

    /// The joints, where it commands joints.
    #[must_use]
    pub fn joints(&self) -> Option<&JointAction> {
        match self {
            Self::Joints(action) => Some(action),
            Self::EndEffector(_) => None,
        }
    }

    /// Whether the numbers are in the tool's frame.
    #[must_use]
    pub fn in_tool_frame(&self) -> bool {
        self.end_effector().is_some_and(|action| action.frame == Frame::Tool)
    }

    /// Numbers per step.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::EndEffector(_) => crate::STEP_WIDTH,
            Self::Joints(action) => action.columns.len(),
        }
    }
}

impl EndEffectorDelta {
    /// Six numbers in the checkpoint's units in metres and radians.
    #[must_use]
    pub fn scaled(&self, [x, y, z, r, p, w]: [f64; 6]) -> [f64; 6] {
        let (t, a) = (self.translation_scale, self.rotation_scale);
        [x * t, y * t, z * t, r * a, p * a, w * a]
    }
}

/// What the policy's gripper values mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyGripper {
    /// The policy's value for closed.
    pub closed: f64,
    /// The policy's value for open.
    pub open: f64,
    /// Above it, on the scale 0 closed to 1 open, the gripper opens; `None` leaves it to the robot
    /// file.
    pub threshold: Option<f64>,
    /// Whether every value between closed and open is commanded, instead of one of the two.
    pub continuous: bool,
}

impl PolicyGripper {
    /// Whether the policy's 1 means closed and its 0 open: the parameter `gripper.invert`.
    #[must_use]
    pub fn inverted(&self) -> bool {
        (self.closed, self.open) == (1.0, 0.0)
    }

    /// The policy's value on the scale 0 closed to 1 open; beyond it for values beyond.
    #[must_use]
    pub fn opening(&self, value: f64) -> f64 {
        (value - self.closed) / (self.open - self.closed)
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawAction {
    space: Option<String>,
    frame: Option<String>,
    rotation: Option<String>,
    composition: Option<String>,
    translation_scale_m: Option<f64>,
    rotation_scale_rad: Option<f64>,
    joints: Option<Vec<String>>,
    grippers: Option<Vec<String>>,
    relative: Option<bool>,
    scale: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawPolicyGripper {
    polarity: Option<String>,
    closed: Option<f64>,
    open: Option<f64>,
    threshold: Option<f64>,
    continuous: Option<bool>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    EndEffectorDelta,
    JointPosition,
    JointVelocity,
}

/// `None` only after something was noted.
pub(super) fn check_action(p: &mut ConfigErrors, raw: RawAction) -> Option<Action> {
    refuse_unknown(p, "action", &raw.unknown);
    let spaces = [
        ("end_effector", Space::EndEffectorDelta),
        ("joint_position", Space::JointPosition),
        ("joint_velocity", Space::JointVelocity),
    ];
    let space = match raw.space.as_deref() {
        None => Space::EndEffectorDelta,
        given => choice(p, "action.space", given, &spaces)?,
    };
    match space {
        Space::EndEffectorDelta => check_end_effector(p, raw).map(Action::EndEffector),
        _ => check_joints(p, space == Space::JointPosition, raw).map(Action::Joints),
    }
}

/// Refuses keys that mean nothing in the action space of the file.
fn refuse_foreign(p: &mut ConfigErrors, keys: &[(&str, bool)], space: &str) {
    for (key, _) in keys.iter().filter(|(_, given)| *given) {
        p.add(&format!("action.{key}"), format!("means nothing in the space {space}; remove it"));
    }
}

fn check_end_effector(p: &mut ConfigErrors, raw: RawAction) -> Option<EndEffectorDelta> {
    let foreign = [
        ("joints", raw.joints.is_some()),
        ("grippers", raw.grippers.is_some()),
        ("relative", raw.relative.is_some()),
        ("scale", raw.scale.is_some()),
    ];
    refuse_foreign(p, &foreign, "end_effector");
    let frames = [("base", Frame::Base), ("tool", Frame::Tool)];
    let frame = choice(p, "action.frame", raw.frame.as_deref(), &frames);
    let rotations =
        [("rpy_delta", Rotation::RpyDelta), ("rotation_vector", Rotation::RotationVector)];
    let rotation = choice(p, "action.rotation", raw.rotation.as_deref(), &rotations);
    let sides = [("left", Composition::Left), ("right", Composition::Right)];
    let composition = choice(p, "action.composition", raw.composition.as_deref(), &sides);
    let contradiction = matches!(
        (frame, composition),
        (Some(Frame::Base), Some(Composition::Right))
            | (Some(Frame::Tool), Some(Composition::Left))
    );
    if contradiction {
        p.add(
            "action.composition",
            "a rotation in the base frame composes from the left, one in the tool frame from the \
            right",
        );
    }
    let translation_scale =
        number(p, "action.translation_scale_m", raw.translation_scale_m, 1e-6, 10.0, "m");
    let rotation_scale =
        number(p, "action.rotation_scale_rad", raw.rotation_scale_rad, 1e-6, 10.0, "rad");
    Some(EndEffectorDelta {
        frame: frame?,
        rotation: rotation?,
        composition: composition?,
        translation_scale: translation_scale?,
        rotation_scale: rotation_scale?,
    })
}

fn check_joints(p: &mut ConfigErrors, position: bool, raw: RawAction) -> Option<JointAction> {
    let foreign = [
        ("frame", raw.frame.is_some()),
        ("rotation", raw.rotation.is_some()),
        ("composition", raw.composition.is_some()),
        ("translation_scale_m", raw.translation_scale_m.is_some()),
        ("rotation_scale_rad", raw.rotation_scale_rad.is_some()),
        ("relative", raw.relative.is_some() && !position),
    ];
    refuse_foreign(p, &foreign, if position { "joint_position" } else { "joint_velocity" });
    let columns = joint_names(p, "action.joints", raw.joints);
    // What a joint's number is relative to moves the arm by radians: it has no default.
    let relative = if position { need(p, "action.relative", raw.relative) } else { Some(false) };
    let scale = raw.scale.unwrap_or(1.0);
    p.range("action.scale", scale, 1e-6, 1e3, "rad");
    let columns = columns?;
    let mut grippers = Vec::new();
    for name in raw.grippers.unwrap_or_default() {
        match columns.iter().position(|column| *column == name) {
            Some(column) if grippers.contains(&column) => {
                p.add("action.grippers", format!("`{}` is named twice", name.escape_debug()));
            }
            Some(column) => grippers.push(column),
            None => p.add(
                "action.grippers",
                format!("`{}` is none of action.joints", name.escape_debug()),
            ),
        }
    }
    grippers.sort_unstable();
    if grippers.len() == columns.len() {
        p.add("action.joints", "names no joint that is not a gripper");
    }
    let quantity = match (position, relative?) {
        (true, false) => JointQuantity::Position,
        (true, true) => JointQuantity::RelativePosition,
        (false, _) => JointQuantity::Velocity,
    };
    Some(JointAction { quantity, columns, grippers, scale })
}

/// Names of joints: at least one, each once, as URDF has them.
pub(super) fn joint_names(
    p: &mut ConfigErrors,
    place: &str,
    names: Option<Vec<String>>,
) -> Option<Vec<String>> {
    let names = need(p, place, names)?;
    if names.is_empty() || ACTION_COLUMNS_MAX < names.len() {
        p.add(place, format!("has {} names; 1 to {ACTION_COLUMNS_MAX} are allowed", names.len()));
    }
    for (i, name) in names.iter().enumerate() {
        check_joint_name(p, &format!("{place}[{i}]"), name);
        if names[..i].contains(name) {
            p.add(&format!("{place}[{i}]"), format!("`{}` is named twice", name.escape_debug()));
        }
    }
    Some(names)
}

/// A joint's name: 1 to 255 printable characters.
pub(super) fn check_joint_name(p: &mut ConfigErrors, place: &str, name: &str) {
    if name.is_empty() || 255 < name.len() || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(40).collect();
        p.add(place, format!("`{}` is not a joint name", shown.escape_debug()));
    }
}

/// `None` only after something was noted.
pub(super) fn check_gripper(
    p: &mut ConfigErrors,
    raw: RawPolicyGripper,
    action: Option<&Action>,
) -> Option<PolicyGripper> {
    refuse_unknown(p, "gripper", &raw.unknown);
    if let Some(threshold) = raw.threshold {
        p.range("gripper.threshold", threshold, 0.05, 0.95, "");
    }
    // An arm without a gripper needs no convention.
    let none = action.and_then(Action::joints).is_some_and(|joints| joints.grippers.is_empty());
    let polarities = [("one_is_open", (0.0, 1.0)), ("one_is_closed", (1.0, 0.0))];
    let ends = match (raw.polarity.as_deref(), raw.closed, raw.open) {
        (None, None, None) if none => Some((0.0, 1.0)),
        (given, None, None) => choice(p, "gripper.polarity", given, &polarities),
        (None, Some(closed), Some(open)) => {
            p.range("gripper.closed", closed, -1e3, 1e3, "");
            p.range("gripper.open", open, -1e3, 1e3, "");
            if (open - closed).abs() < 1e-6 {
                p.add("gripper.open", format!("{open} is gripper.closed too; they must differ"));
            }
            Some((closed, open))
        }
        (Some(_), ..) => {
            p.add("gripper.polarity", "is given beside closed and open; give one of the two");
            None
        }
        _ => {
            p.add("gripper", "has only one of closed and open; give both, or polarity");
            None
        }
    };
    let (closed, open) = ends?;
    let continuous = raw.continuous.unwrap_or(false);
    Some(PolicyGripper { closed, open, threshold: raw.threshold, continuous })
}

/// One step of an end-effector policy in metres and radians; the gripper on the scale 0 closed to 1
/// open, or the reverse where `gripper.invert` turns it round in control.
pub(super) fn end_effector_step(
    action: &EndEffectorDelta,
    gripper: &PolicyGripper,
    [x, y, z, r, p, w, value]: [f64; 7],
) -> ChunkStep {
    let [x, y, z, r, p, w] = action.scaled([x, y, z, r, p, w]);
    let gripper = if gripper.inverted() { value } else { gripper.opening(value) };
    ChunkStep { translation: [x, y, z], rotation: [r, p, w], gripper }
}
