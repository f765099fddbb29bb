//! `config/policies/*.yaml`: what a checkpoint's numbers mean.

use std::path::Path;

use serde::Deserialize;

use super::image_section::{ImageSection, RawImageSection};
use super::{ConfigFileError, Unknown, choice, need, number, read, refuse_unknown};
use vla_control::ConfigErrors;
use vla_control::action_chunk::ChunkStep;

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

/// What the policy's gripper value of 1 means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polarity {
    /// 1 open, 0 closed: OpenVLA's convention.
    OneIsOpen,
    /// 1 closed, 0 open.
    OneIsClosed,
}

/// The text around the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptStyle {
    /// `In: What action should the robot take to ...?\nOut:`
    Openvla,
    /// The Vicuna-style prompt of `openvla-v01`.
    OpenvlaV01,
}

/// What a checkpoint's numbers mean, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyFile {
    /// For people.
    pub name: String,
    /// The statistics keys this policy file holds for; never empty.
    pub unnorm_keys: Vec<String>,
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
    /// What a gripper value of 1 means.
    pub gripper_polarity: Polarity,
    /// Above it the gripper opens; `None` leaves it to the robot file.
    pub gripper_threshold: Option<f64>,
    /// Steps per second of the training data.
    pub policy_hz: f64,
    /// Steps per chunk.
    pub horizon: usize,
    /// From camera to pixels.
    pub image: ImageSection,
    /// The text around the instruction.
    pub prompt: PromptStyle,
    /// Images per inference.
    pub cameras: usize,
}

#[derive(Debug, Deserialize)]
struct RawPolicyFile {
    name: Option<String>,
    unnorm_keys: Option<Vec<String>>,
    action: Option<RawAction>,
    gripper: Option<RawPolicyGripper>,
    policy_hz: Option<f64>,
    horizon: Option<u32>,
    image: Option<RawImageSection>,
    prompt: Option<String>,
    cameras: Option<u32>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawAction {
    frame: Option<String>,
    rotation: Option<String>,
    composition: Option<String>,
    translation_scale_m: Option<f64>,
    rotation_scale_rad: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawPolicyGripper {
    polarity: Option<String>,
    threshold: Option<f64>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl PolicyFile {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`ConfigFileError`]: unreadable, too large, not YAML, or every rule it breaks.
    pub fn load(path: &Path) -> Result<Self, ConfigFileError> {
        Self::validated(path, read(path)?)
    }

    /// Validates the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`PolicyFile::load`].
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigFileError> {
        let raw = super::parse_yaml(text)
            .map_err(|message| ConfigFileError::Parse { path: path.to_owned(), message })?;
        Self::validated(path, raw)
    }

    fn validated(path: &Path, raw: RawPolicyFile) -> Result<Self, ConfigFileError> {
        raw.validate()
            .map_err(|problems| ConfigFileError::Invalid { path: path.to_owned(), problems })
    }

    /// The statistics key to use: the one asked for, or the only one there is.
    ///
    /// # Errors
    /// [`ConfigErrors`] naming the keys to choose from.
    pub fn choose_key(&self, asked: Option<&str>) -> Result<&str, ConfigErrors> {
        let mut problems = ConfigErrors::default();
        match (asked, self.unnorm_keys.as_slice()) {
            (None, [only]) => return Ok(only),
            (Some(key), keys) => match keys.iter().find(|known| *known == key) {
                Some(known) => return Ok(known),
                None => {
                    problems.add("unnorm_key", format!("`{key}` is none of {}", keys.join(", ")))
                }
            },
            (None, keys) => {
                problems.add("unnorm_key", format!("must be one of {}", keys.join(", ")))
            }
        }
        Err(problems)
    }

    /// What this file asks for and this version does not do.
    #[must_use]
    pub fn unsupported(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.cameras != 1 {
            found.push(format!("needs {} cameras; this node has one", self.cameras));
        }
        // The checkpoint's own config.json decides about the prompt; this file may only confirm it.
        if self.prompt == PromptStyle::OpenvlaV01 {
            found.push("prompt openvla_v01 is not tested against a golden kit; use openvla".into());
        }
        found
    }

    /// One policy step in the checkpoint's units as a step in metres and radians.
    #[must_use]
    pub fn to_step(&self, action: [f64; 7]) -> ChunkStep {
        let [x, y, z, r, p, w, gripper] = action;
        let [x, y, z, r, p, w] = self.scaled([x, y, z, r, p, w]);
        ChunkStep { translation: [x, y, z], rotation: [r, p, w], gripper }
    }

    /// Six numbers in the checkpoint's units in metres and radians.
    #[must_use]
    pub(super) fn scaled(&self, [x, y, z, r, p, w]: [f64; 6]) -> [f64; 6] {
        let (t, a) = (self.translation_scale, self.rotation_scale);
        [x * t, y * t, z * t, r * a, p * a, w * a]
    }
}

impl RawPolicyFile {
    fn validate(self) -> Result<PolicyFile, ConfigErrors> {
        let mut problems = ConfigErrors::default();
        match self.check(&mut problems) {
            Some(policy_file) => problems.into_result(policy_file),
            None => Err(problems),
        }
    }

    /// `None` only after something was noted.
    fn check(self, p: &mut ConfigErrors) -> Option<PolicyFile> {
        refuse_unknown(p, "", &self.unknown);
        let name = need(p, "name", self.name);
        let unnorm_keys = need(p, "unnorm_keys", self.unnorm_keys);
        check_keys(p, unnorm_keys.as_deref().unwrap_or_default());
        let action = self.action.unwrap_or_default();
        refuse_unknown(p, "action", &action.unknown);
        let frame = choice(
            p,
            "action.frame",
            action.frame.as_deref(),
            &[("base", Frame::Base), ("tool", Frame::Tool)],
        );
        let rotations =
            [("rpy_delta", Rotation::RpyDelta), ("rotation_vector", Rotation::RotationVector)];
        let rotation = choice(p, "action.rotation", action.rotation.as_deref(), &rotations);
        let sides = [("left", Composition::Left), ("right", Composition::Right)];
        let composition = choice(p, "action.composition", action.composition.as_deref(), &sides);
        let contradiction = matches!(
            (frame, composition),
            (Some(Frame::Base), Some(Composition::Right))
                | (Some(Frame::Tool), Some(Composition::Left))
        );
        if contradiction {
            p.add(
                "action.composition",
                "a rotation in the base frame composes from the left, one in the tool frame from \
                the right",
            );
        }
        let translation_scale =
            number(p, "action.translation_scale_m", action.translation_scale_m, 1e-6, 10.0, "m");
        let rotation_scale =
            number(p, "action.rotation_scale_rad", action.rotation_scale_rad, 1e-6, 10.0, "rad");
        let gripper = self.gripper.unwrap_or_default();
        refuse_unknown(p, "gripper", &gripper.unknown);
        let polarities =
            [("one_is_open", Polarity::OneIsOpen), ("one_is_closed", Polarity::OneIsClosed)];
        let gripper_polarity =
            choice(p, "gripper.polarity", gripper.polarity.as_deref(), &polarities);
        if let Some(threshold) = gripper.threshold {
            p.range("gripper.threshold", threshold, 0.05, 0.95, "");
        }
        let rate = crate::POLICY_RATE;
        let policy_hz = number(p, "policy_hz", self.policy_hz, rate.min, rate.max, rate.unit);
        let horizon = self.horizon.unwrap_or(1);
        if !(1..=vla_control::action_chunk::HORIZON_MAX as u32).contains(&horizon) {
            p.add(
                "horizon",
                format!("{horizon} is outside 1..{}", vla_control::action_chunk::HORIZON_MAX),
            );
        }
        let image = self.image.unwrap_or_default().check(p);
        let prompts = [("openvla", PromptStyle::Openvla), ("openvla_v01", PromptStyle::OpenvlaV01)];
        let prompt = choice(p, "prompt", self.prompt.as_deref(), &prompts);
        let cameras = need(p, "cameras", self.cameras);
        if let Some(cameras) = cameras
            && !(1..=8).contains(&cameras)
        {
            p.add("cameras", format!("{cameras} is outside 1..8"));
        }
        Some(PolicyFile {
            name: name?,
            unnorm_keys: unnorm_keys?,
            frame: frame?,
            rotation: rotation?,
            composition: composition?,
            translation_scale: translation_scale?,
            rotation_scale: rotation_scale?,
            gripper_polarity: gripper_polarity?,
            gripper_threshold: gripper.threshold,
            policy_hz: policy_hz?,
            horizon: horizon as usize,
            image: image?,
            prompt: prompt?,
            cameras: cameras? as usize,
        })
    }
}

fn check_keys(p: &mut ConfigErrors, keys: &[String]) {
    if keys.is_empty() {
        p.add("unnorm_keys", "must name at least one statistics key of the checkpoint");
    }
    for (i, key) in keys.iter().enumerate() {
        if key.is_empty() || 256 < key.len() {
            p.add(&format!("unnorm_keys[{i}]"), "must have 1 to 256 characters");
        }
        if keys[..i].contains(key) {
            p.add(&format!("unnorm_keys[{i}]"), format!("`{}` is named twice", key.escape_debug()));
        }
    }
}
