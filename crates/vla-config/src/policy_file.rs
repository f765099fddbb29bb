//! `config/policies/*.yaml`: what a checkpoint's numbers mean.

use std::path::Path;

use serde::Deserialize;

use super::action_section::{
    Action, JointQuantity, PolicyGripper, RawAction, RawPolicyGripper, check_action, check_gripper,
    end_effector_step,
};
use super::image_section::{ImageSection, RawImageSection};
use super::model_sections::{
    Continuation, FlowSection, OftSection, RawFlow, RawOft, check_flow, check_oft,
};
use super::observation_section::{
    Camera, RawCameras, RawStatePart, StatePart, StateSource, check_cameras, check_spread,
    check_state,
};
use super::remote_section::{Fits, RawRemote, RemoteSection, check_remote};
use super::{ConfigFileError, Unknown, choice, need, number, read, refuse_unknown};
use vla_control::action_chunk::ChunkStep;
use vla_control::{ConfigErrors, RawEnsemble, ranges};

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
    /// What the numbers of a step mean.
    pub action: Action,
    /// What the gripper's values mean.
    pub gripper: PolicyGripper,
    /// Steps per second of the training data.
    pub policy_hz: f64,
    /// Steps per chunk.
    pub horizon: usize,
    /// Steps of a chunk that are executed before the next inference begins; at most the horizon.
    pub execute: usize,
    /// Temporal ensembling of overlapping chunks.
    pub ensemble: Option<RawEnsemble>,
    /// From camera to pixels.
    pub image: ImageSection,
    /// The text around the instruction.
    pub prompt: PromptStyle,
    /// The cameras, in the checkpoint's order.
    pub cameras: Vec<Camera>,
    /// The parts of the state, in the checkpoint's order; empty for a policy without state.
    pub state: Vec<StatePart>,
    /// Longest time between the oldest and the newest source of an observation, seconds.
    pub observation_spread_s: Option<f64>,
    /// What only a checkpoint of OpenVLA-OFT needs.
    pub oft: Option<OftSection>,
    /// What only a checkpoint of pi0 or pi0.5 needs.
    pub flow: FlowSection,
    /// What a policy server's requests and answers mean; such a file is for a server alone.
    pub remote: Option<RemoteSection>,
}

#[derive(Debug, Deserialize)]
struct RawPolicyFile {
    name: Option<String>,
    unnorm_keys: Option<Vec<String>>,
    action: Option<RawAction>,
    gripper: Option<RawPolicyGripper>,
    policy_hz: Option<f64>,
    horizon: Option<u32>,
    execute: Option<u32>,
    ensemble: Option<RawEnsemble>,
    image: Option<RawImageSection>,
    prompt: Option<String>,
    cameras: Option<RawCameras>,
    #[serde(default)]
    state: Vec<RawStatePart>,
    observation_spread_s: Option<f64>,
    oft: Option<RawOft>,
    flow: Option<RawFlow>,
    remote: Option<RawRemote>,
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
        // The checkpoint's own config.json decides about the prompt; this file may only confirm it.
        if self.prompt == PromptStyle::OpenvlaV01 {
            found.push("prompt openvla_v01 is not tested against a golden kit; use openvla".into());
        }
        found
    }

    /// One step of an end-effector policy, in metres and radians, the gripper on the scale 0 closed
    /// to 1 open; `None` for a policy of joints.
    #[must_use]
    pub fn to_step(&self, action: [f64; 7]) -> Option<ChunkStep> {
        Some(end_effector_step(self.action.end_effector()?, &self.gripper, action))
    }

    /// Numbers of the state.
    #[must_use]
    pub fn state_dim(&self) -> usize {
        self.state.iter().map(StatePart::width).sum()
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
        let action = check_action(p, self.action.unwrap_or_default());
        let gripper = check_gripper(p, self.gripper.unwrap_or_default(), action.as_ref());
        let rate = crate::POLICY_RATE;
        let policy_hz = number(p, "policy_hz", self.policy_hz, rate.min, rate.max, rate.unit);
        let horizon = self.horizon.unwrap_or(1);
        if !(1..=vla_control::action_chunk::HORIZON_MAX as u32).contains(&horizon) {
            p.add(
                "horizon",
                format!("{horizon} is outside 1..{}", vla_control::action_chunk::HORIZON_MAX),
            );
        }
        let execute = self.execute.unwrap_or(horizon);
        if !(1..=horizon.max(1)).contains(&execute) {
            p.add("execute", format!("{execute} is outside 1..{horizon}, the horizon"));
        }
        let image = self.image.unwrap_or_default().check(p);
        let prompts = [("openvla", PromptStyle::Openvla), ("openvla_v01", PromptStyle::OpenvlaV01)];
        // Only OpenVLA has a choice; other policies have one prompt.
        let prompt = match self.prompt.as_deref() {
            None => Some(PromptStyle::Openvla),
            given => choice(p, "prompt", given, &prompts),
        };
        let cameras = check_cameras(p, self.cameras);
        let state = check_state(p, self.state);
        let spread = check_spread(p, self.observation_spread_s);
        check_relative(p, action.as_ref(), &state);
        if self.remote.is_some() {
            let given = [
                ("oft", self.oft.is_some()),
                ("flow", self.flow.is_some()),
                ("prompt", self.prompt.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                p.add(key, "means nothing for a policy server (section remote); remove it");
            }
        }
        let oft = self.oft.and_then(|raw| check_oft(p, raw));
        let flow = self.flow.and_then(|raw| check_flow(p, raw)).unwrap_or_default();
        let fits = Fits {
            cameras: cameras.as_deref().unwrap_or_default(),
            state: state.iter().map(StatePart::width).sum(),
            width: action.as_ref().map_or(0, Action::width),
        };
        let remote = self.remote.and_then(|raw| check_remote(p, raw, &fits));
        if let Some(ensemble) = &self.ensemble {
            check_ensemble(p, ensemble, execute < horizon, &flow);
        }
        Some(PolicyFile {
            name: name?,
            unnorm_keys: unnorm_keys?,
            action: action?,
            gripper: gripper?,
            policy_hz: policy_hz?,
            horizon: horizon as usize,
            execute: execute as usize,
            ensemble: self.ensemble,
            image: image?,
            prompt: prompt?,
            cameras: cameras?,
            state,
            observation_spread_s: spread,
            oft,
            flow,
            remote,
        })
    }
}

/// Positions relative to the state need those joints in the state.
fn check_relative(p: &mut ConfigErrors, action: Option<&Action>, state: &[StatePart]) {
    let Some(joints) = action.and_then(Action::joints) else { return };
    if joints.quantity != JointQuantity::RelativePosition {
        return;
    }
    for column in joints.joints() {
        let name = &joints.columns[column];
        let known = state.iter().any(|part| match &part.source {
            StateSource::JointPosition(names) => names.contains(name),
            _ => false,
        });
        if !known {
            p.add(
                "action.relative",
                format!(
                    "is true, but the state has no position of joint `{}`; add it to state",
                    name.escape_debug()
                ),
            );
        }
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

fn check_ensemble(
    p: &mut ConfigErrors,
    ensemble: &RawEnsemble,
    chunks_overlap: bool,
    flow: &FlowSection,
) {
    p.within("ensemble.decay", ensemble.decay, &ranges::ENSEMBLE_DECAY);
    p.within("ensemble.chunks", f64::from(ensemble.chunks), &ranges::ENSEMBLE_CHUNKS);
    if !chunks_overlap {
        let message = "averages nothing: chunks overlap only when execute is below the horizon";
        p.add("ensemble", message);
    }
    if flow.continuation != Continuation::None {
        let message = "and flow.real_time_chunking exclude each other: the mean of several chunks \
            is not the chunk that the next one continues";
        p.add("ensemble", message);
    }
}
