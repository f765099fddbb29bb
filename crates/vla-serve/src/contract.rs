//! What the policy needs, and the names under which clients send it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vla_inference::policy::PolicyInfo;

use crate::ServeError;

/// What the policy file adds to the policy.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Name of the policy file.
    pub policy: Option<String>,
    /// Further names of a camera: its topic in the policy file.
    pub cameras: BTreeMap<String, Vec<String>>,
    /// What the last number of an action means, where that is a gripper.
    pub gripper: Option<Gripper>,
    /// Steps of a chunk that are executed before the next observation; all of them if not given.
    pub execute: Option<usize>,
}

/// A gripper's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gripper {
    /// Closed.
    pub closed: f64,
    /// Open.
    pub open: f64,
}

/// Names in the protocols and their example clients of cameras that policies of openpi and of
/// OpenVLA-OFT have: libero, DROID and ALOHA in openpi's `src/openpi/policies`, the evaluation
/// scripts of OpenVLA-OFT.
const KNOWN: &[(&str, &[&str])] = &[
    ("image", &["full_image", "agentview"]),
    ("full", &["image", "agentview", "cam_high"]),
    ("wrist", &["wrist_image", "wrist_image_left"]),
    ("left_wrist", &["cam_left_wrist"]),
    ("right_wrist", &["cam_right_wrist"]),
    ("base_0_rgb", &["image", "full_image", "agentview", "exterior_image_1_left", "cam_high"]),
    (
        "left_wrist_0_rgb",
        &["wrist_image", "wrist_image_left", "left_wrist_image", "cam_left_wrist", "wrist"],
    ),
    ("right_wrist_0_rgb", &["right_wrist_image", "cam_right_wrist"]),
];

/// What the official servers leave aside when the policy does not take it: pictures and numbers
/// that their clients always send.
const LEFT_ASIDE: &[&str] = &[
    "cam_high",
    "cam_low",
    "cam_left_wrist",
    "cam_right_wrist",
    "wrist_image",
    "wrist_image_left",
    "left_wrist_image",
    "right_wrist_image",
    "controller_states",
];

/// What the policy needs.
#[derive(Clone, Debug)]
pub struct Contract {
    /// Cameras in the model's order.
    pub cameras: Vec<Arc<str>>,
    /// Every name of a camera, and its place in `cameras`.
    names: BTreeMap<String, usize>,
    /// Numbers of the state; 0 for a policy without state.
    pub state_dim: usize,
    /// Key of the statistics.
    pub unnorm_key: String,
    /// Numbers of an action.
    pub action_dim: usize,
    /// Steps of an answer.
    pub horizon: usize,
    /// Those of them that a client without chunks gets before the next inference, 1 to `horizon`.
    pub execute: usize,
    /// Name of the policy file, device and precision.
    pub policy: Option<String>,
    /// Device and number formats.
    pub device: String,
    /// Values of the gripper, as the policy file has them.
    pub gripper: Option<Gripper>,
}

impl Contract {
    /// The contract of a policy.
    ///
    /// # Errors
    /// When a name that the policy file gives stands for two cameras.
    pub fn new(info: &PolicyInfo, names: Names) -> Result<Self, ServeError> {
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for (place, camera) in info.cameras.iter().enumerate() {
            known.insert(camera.to_string(), place);
        }
        // The policy file's names come before those of the protocols.
        for (place, camera) in info.cameras.iter().enumerate() {
            for name in names.cameras.get(&**camera).into_iter().flatten() {
                match known.insert(name.clone(), place) {
                    Some(other) if other != place => {
                        return Err(ServeError::Name {
                            name: name.clone(),
                            first: info.cameras[other].to_string(),
                            second: camera.to_string(),
                        });
                    }
                    _ => {}
                }
            }
        }
        for (name, place) in usual(&info.cameras) {
            known.entry(name).or_insert(place);
        }
        Ok(Self {
            cameras: info.cameras.clone(),
            names: known,
            state_dim: info.state_dim,
            unnorm_key: info.unnorm_key.clone(),
            action_dim: info.action_dim,
            horizon: info.horizon,
            execute: names.execute.unwrap_or(info.horizon).min(info.horizon).max(1),
            policy: names.policy,
            device: info.device.clone(),
            gripper: names.gripper,
        })
    }

    /// The camera of a field's short name.
    pub(crate) fn camera(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Whether a field that the policy does not take is left aside.
    pub(crate) fn leaves_aside(name: &str) -> bool {
        LEFT_ASIDE.contains(&name)
    }

    /// The names of a camera, for messages.
    pub(crate) fn names_of(&self, camera: usize) -> Vec<&str> {
        let names = self.names.iter().filter(|(_, place)| **place == camera);
        names.map(|(name, _)| name.as_str()).collect()
    }
}

/// The protocols' names of these cameras, without those that would stand for two of them.
fn usual(cameras: &[Arc<str>]) -> Vec<(String, usize)> {
    let mut names = Vec::new();
    for (place, camera) in cameras.iter().enumerate() {
        let known = KNOWN.iter().find(|(name, _)| *name == &**camera);
        let known = known.into_iter().flat_map(|(_, names)| names.iter());
        let mut own: BTreeSet<String> = known.map(|name| (*name).to_owned()).collect();
        own.insert(format!("{camera}_image"));
        // The only camera has the name that both protocols have for the first one.
        if cameras.len() == 1 {
            own.extend(["image", "full_image"].map(str::to_owned));
        }
        names.extend(own.into_iter().map(|name| (name, place)));
    }
    let twice: BTreeSet<String> = names
        .iter()
        .filter(|(name, place)| names.iter().any(|other| other.0 == *name && other.1 != *place))
        .map(|(name, _)| name.clone())
        .collect();
    names.retain(|(name, _)| !twice.contains(name));
    names
}

/// The last part of a field's name: `observation/image`, `observation.images.front` and
/// `images/cam_high` are `image`, `front` and `cam_high`.
pub(crate) fn short(field: &str) -> &str {
    let mut rest = field;
    while let Some(shorter) = ["observation/", "observation.", "images/", "images."]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
    {
        rest = shorter;
    }
    rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn info(cameras: &[&str], state_dim: usize) -> PolicyInfo {
        PolicyInfo {
            unnorm_key: "bridge_orig".into(),
            action_dim: 7,
            action_names: vec![],
            horizon: 1,
            cameras: cameras.iter().map(|name| (*name).into()).collect(),
            state_dim,
            device: "cpu".into(),
            precision: "f32".into(),
            envelope: vec![None; 7],
            action_tokens: None,
        }
    }

    fn contract(cameras: &[&str]) -> Contract {
        Contract::new(&info(cameras, 0), Names::default()).unwrap()
    }

    #[test]
    fn names_of_fields() {
        for (field, name) in [
            ("observation/image", "image"),
            ("observation.images.front", "front"),
            ("images/cam_high", "cam_high"),
            ("observation/images/top", "top"),
            ("state", "state"),
            ("observation", "observation"),
        ] {
            assert_eq!(short(field), name);
        }
    }

    #[test]
    fn names_of_cameras() {
        let one = contract(&["image"]);
        assert_eq!((one.camera("image"), one.camera("full_image")), (Some(0), Some(0)));
        let droid = contract(&["base_0_rgb", "left_wrist_0_rgb"]);
        assert_eq!(droid.camera("exterior_image_1_left"), Some(0));
        assert_eq!(droid.camera("wrist_image_left"), Some(1));
        let aloha = contract(&["full", "left_wrist", "right_wrist"]);
        assert_eq!(aloha.camera("left_wrist_image"), Some(1));
        assert_eq!(aloha.camera("cam_right_wrist"), Some(2));
        assert_eq!(aloha.camera("cam_low"), None);
        // `image` would stand for both.
        let both = contract(&["full", "base_0_rgb"]);
        assert_eq!(both.camera("image"), None);
        assert_eq!((both.camera("full"), both.camera("full_image")), (Some(0), None));
    }

    #[test]
    fn the_policy_files_names_come_first() {
        let info = info(&["full", "wrist"], 0);
        let cameras = BTreeMap::from([("wrist".into(), vec!["image".into()])]);
        let contract = Contract::new(&info, Names { cameras, ..Names::default() }).unwrap();
        assert_eq!((contract.camera("image"), contract.camera("full")), (Some(1), Some(0)));
        let cameras = BTreeMap::from([("wrist".into(), vec!["full".into()])]);
        let error = Contract::new(&info, Names { cameras, ..Names::default() }).unwrap_err();
        assert!(error.to_string().contains("'full' stands for two cameras"), "{error}");
    }
}
