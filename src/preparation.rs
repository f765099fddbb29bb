//! What a policy file means for loading a checkpoint, for the node and the command line alike:
//! image preparation, what OpenVLA-OFT, pi0 and pi0.5 need, and which checkpoints must not be run
//! without one.

use std::collections::BTreeMap;
use std::path::Path;

use vla_config::{
    ConfigFileError, Continuation, ImageOperation, ImageSection, OftBounds, PolicyFile,
    StateInPrompt,
};
use vla_control::ConfigErrors;
use vla_inference::checkpoint::BoundsKind;
use vla_inference::checkpoint::pi0::StateTokens;
use vla_inference::observation::{Operation, Preparation, PreparationError, Size, Step};
use vla_inference::policy::{
    ContinuationMode, FlowOptions, OftContract, PolicyOptions, PreparationRule,
};

/// The policy files that are shipped, by name.
const SHIPPED: &[(&str, &str)] = &[
    ("act-openvla-bridge.yaml", include_str!("../config/policies/act-openvla-bridge.yaml")),
    ("lerobot-so101.yaml", include_str!("../config/policies/lerobot-so101.yaml")),
    ("openvla-7b-bridge.yaml", include_str!("../config/policies/openvla-7b-bridge.yaml")),
    (
        "openvla-7b-finetuned-libero.yaml",
        include_str!("../config/policies/openvla-7b-finetuned-libero.yaml"),
    ),
    ("openvla-7b.yaml", include_str!("../config/policies/openvla-7b.yaml")),
    ("openvla-oft-aloha.yaml", include_str!("../config/policies/openvla-oft-aloha.yaml")),
    ("openvla-oft-libero.yaml", include_str!("../config/policies/openvla-oft-libero.yaml")),
    ("openvla_tiny.yaml", include_str!("../config/policies/openvla_tiny.yaml")),
    ("openpi-droid.yaml", include_str!("../config/policies/openpi-droid.yaml")),
    ("pi0-droid.yaml", include_str!("../config/policies/pi0-droid.yaml")),
    ("tabletop.yaml", include_str!("../config/policies/tabletop.yaml")),
    ("tabletop_oft.yaml", include_str!("../config/policies/tabletop_oft.yaml")),
    ("tabletop_pi05.yaml", include_str!("../config/policies/tabletop_pi05.yaml")),
    ("tabletop_remote.yaml", include_str!("../config/policies/tabletop_remote.yaml")),
    (
        "tabletop_scripted_end_effector.yaml",
        include_str!("../config/policies/tabletop_scripted_end_effector.yaml"),
    ),
    (
        "tabletop_scripted_joint_position.yaml",
        include_str!("../config/policies/tabletop_scripted_joint_position.yaml"),
    ),
    (
        "tabletop_scripted_joint_velocity.yaml",
        include_str!("../config/policies/tabletop_scripted_joint_velocity.yaml"),
    ),
];

/// Why a policy file gives no image preparation.
#[derive(Debug, thiserror::Error)]
pub enum PreparationFileError {
    /// The file is unreadable or invalid.
    #[error(transparent)]
    File(#[from] ConfigFileError),
    /// Its steps are no preparation.
    #[error("the policy file's image steps: {0}")]
    Steps(#[from] PreparationError),
    /// Two statements about the same.
    #[error("the policy file '{0}' states the image steps; leave out --resize")]
    ResizeTwice(String),
    /// A policy server's file for a checkpoint.
    #[error(
        "the policy file '{0}' is for a policy server (section remote): its image steps leave out \
        what the server does itself; name the checkpoint's own policy file"
    )]
    OfAServer(String),
    /// The statistics asked for are none of the file's.
    #[error("the policy file '{name}': {problems}")]
    Key {
        /// Name of the policy file.
        name: String,
        /// What is wrong.
        problems: ConfigErrors,
    },
}

/// The preparation that a policy file's image section states.
///
/// # Errors
/// [`PreparationError`] for steps that the file's own rules do not cover.
pub fn of(section: &ImageSection) -> Result<Preparation, PreparationError> {
    let square = |side: u32| Size::square(side as usize);
    let steps = section.steps.iter().map(|step| {
        let operation = match step.operation {
            ImageOperation::Rotate180 => Operation::Rotate180,
            ImageOperation::Jpeg => Operation::Jpeg,
            ImageOperation::Bicubic(side) => Operation::Bicubic(square(side)),
            ImageOperation::Bilinear(side) => Operation::Bilinear(square(side)),
            ImageOperation::BilinearPad(side) => Operation::BilinearPad(square(side)),
            ImageOperation::TorchBilinearPad(side) => Operation::TorchBilinearPad(square(side)),
            ImageOperation::Lanczos3(side) => Operation::Lanczos3(square(side)),
            ImageOperation::Area(side) => Operation::Area(square(side)),
            // TensorFlow takes it as float32.
            ImageOperation::CenterCrop(area) => Operation::CenterCrop(area as f32),
        };
        Step { operation, unless_size: step.unless_size.map(square) }
    });
    Preparation::new(steps.collect())
}

/// The rule by which a policy prepares its images: the policy file's, or without one the
/// checkpoint's own processor, except for statistics that [`needing_a_policy_file`] names.
///
/// # Errors
/// When the steps are no preparation, or a shipped file is invalid, which a test excludes.
pub fn rule(file: Option<&PolicyFile>) -> Result<PreparationRule, PreparationFileError> {
    Ok(match file {
        Some(file) => PreparationRule::Stated {
            preparation: of(&file.image)?,
            keys: file.unnorm_keys.clone(),
        },
        None => PreparationRule::Own { others: needing_a_policy_file()? },
    })
}

/// Options of loading a policy with what the policy file says: image preparation, statistics key,
/// contract of OpenVLA-OFT, and what the folders of pi0 and pi0.5 leave open. What is given
/// otherwise goes first.
///
/// # Errors
/// When the key given is none of the file's, or the file and an option both state the resizing.
pub fn options(
    file: Option<&PolicyFile>,
    given: PolicyOptions,
) -> Result<PolicyOptions, PreparationFileError> {
    if let Some(file) = file.filter(|file| file.remote.is_some()) {
        return Err(PreparationFileError::OfAServer(file.name.clone()));
    }
    let preparation = rule(file)?;
    let Some(file) = file else { return Ok(PolicyOptions { preparation, ..given }) };
    if given.flow.resize.is_some() {
        return Err(PreparationFileError::ResizeTwice(file.name.clone()));
    }
    let unnorm_key = match (given.unnorm_key, file.unnorm_keys.as_slice()) {
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
        (Some(key), _) => {
            let wrong = |problems| PreparationFileError::Key { name: file.name.clone(), problems };
            Some(file.choose_key(Some(&key)).map_err(wrong)?.to_owned())
        }
    };
    let oft = match given.oft {
        Some(contract) => Some(contract),
        None => oft(file)?,
    };
    let flow = flow(file, given.flow);
    Ok(PolicyOptions { preparation, unnorm_key, oft, flow, ..given })
}

/// The contract of OpenVLA-OFT that a policy file states, if it does.
fn oft(file: &PolicyFile) -> Result<Option<OftContract>, PreparationError> {
    let Some(section) = file.oft else { return Ok(None) };
    let cameras = file.cameras.iter().filter(|camera| camera.topic.is_some());
    Ok(Some(OftContract {
        cameras: cameras.map(|camera| camera.name.as_str().into()).collect(),
        preparation: of(&file.image)?,
        chunk: file.horizon,
        bounds: match section.bounds {
            OftBounds::Quantiles => BoundsKind::Quantiles,
            OftBounds::Extremes => BoundsKind::Extremes,
        },
        state: !file.state.is_empty(),
        discrete: section.discrete,
        // Where the folder has them, the checkpoint was trained with them.
        film: true,
    }))
}

/// What is given, and the policy file's values for what is not.
fn flow(file: &PolicyFile, given: FlowOptions) -> FlowOptions {
    let section = &file.flow;
    let absent = file.cameras.iter().filter(|camera| camera.topic.is_none());
    let mut absent_cameras = given.absent_cameras;
    absent_cameras.extend(absent.map(|camera| camera.name.clone()));
    let continuation = match (given.continuation, section.continuation) {
        (ContinuationMode::None, Continuation::Guided) => {
            ContinuationMode::Guided { horizon: None, schedule: None, max_weight: None }
        }
        (ContinuationMode::None, Continuation::Trained) => ContinuationMode::Trained,
        (given, _) => given,
    };
    let state_tokens = section.state_in_prompt.map(|form| match form {
        StateInPrompt::Exact => StateTokens::Exact,
        StateInPrompt::Padded => StateTokens::Padded,
        StateInPrompt::None => StateTokens::None,
    });
    FlowOptions {
        tokenizer: given.tokenizer.or(section.tokenizer.as_deref().map(Into::into)),
        statistics: given.statistics.or(section.statistics.as_deref().map(Into::into)),
        state_tokens: given.state_tokens.or(state_tokens),
        horizon: given.horizon.or(Some(file.horizon)),
        steps: given.steps.or(section.euler_steps.map(|steps| steps as usize)),
        absent_cameras,
        continuation,
        ..given
    }
}

/// Reads a policy file, if one is named.
///
/// # Errors
/// When the file is invalid.
pub fn load(path: Option<&Path>) -> Result<Option<PolicyFile>, PreparationFileError> {
    Ok(path.map(PolicyFile::load).transpose()?)
}

/// Statistics keys that are known to need another image preparation than the checkpoint's own
/// processor, and the shipped policy file that states it: those that no shipped file uses with a
/// plain bicubic resize.
///
/// # Errors
/// When a shipped file is invalid, which a test excludes.
pub fn needing_a_policy_file() -> Result<BTreeMap<String, String>, PreparationFileError> {
    let mut others = BTreeMap::new();
    let mut plain = Vec::new();
    for (name, text) in SHIPPED {
        let file = PolicyFile::from_text(Path::new(name), text)?;
        if file.remote.is_some() {
            continue; // its steps are only a part of the preparation
        }
        let steps = file.image.steps.iter().map(|step| step.operation).collect::<Vec<_>>();
        if matches!(steps[..], [ImageOperation::Bicubic(_)]) {
            plain.extend(file.unnorm_keys);
        } else {
            for key in file.unnorm_keys {
                others.entry(key).or_insert_with(|| (*name).to_owned());
            }
        }
    }
    others.retain(|key, _| !plain.contains(key));
    Ok(others)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use vla_inference::golden::image_preparation::pipeline;

    fn shipped(name: &str) -> PolicyFile {
        let (_, text) = SHIPPED.iter().find(|(known, _)| *known == name).unwrap();
        PolicyFile::from_text(Path::new(name), text).unwrap()
    }

    #[test]
    fn every_shipped_file_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut listed: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        files.sort();
        listed.sort_unstable();
        assert_eq!(files, listed);
    }

    #[test]
    fn files_state_the_official_pipelines() {
        for (file, name) in
            [("openvla-7b-finetuned-libero.yaml", "libero"), ("openvla-7b-bridge.yaml", "bridge")]
        {
            let stated = of(&shipped(file).image).unwrap();
            assert_eq!(stated, pipeline(name, 224).unwrap(), "{file}");
        }
        let plain = of(&shipped("openvla-7b.yaml").image).unwrap();
        assert_eq!(plain, Preparation::plain(224).unwrap());
    }

    #[test]
    fn contracts_of_openvla_oft() {
        let contract = |name| oft(&shipped(name)).unwrap();
        assert!(contract("openvla-7b.yaml").is_none());
        let libero = contract("openvla-oft-libero.yaml").unwrap();
        let cameras: Vec<&str> = libero.cameras.iter().map(|camera| &**camera).collect();
        assert_eq!(cameras, ["full", "wrist"]);
        assert_eq!((libero.chunk, libero.bounds), (8, BoundsKind::Quantiles));
        assert!(libero.state && !libero.discrete);
        assert_eq!(libero.preparation, pipeline("oft_libero", 224).unwrap());
        let aloha = contract("openvla-oft-aloha.yaml").unwrap();
        assert_eq!((aloha.cameras.len(), aloha.chunk), (3, 25));
        assert_eq!(aloha.bounds, BoundsKind::Extremes);
        assert_eq!(aloha.preparation, pipeline("oft_aloha", 224).unwrap());
    }

    #[test]
    fn known_checkpoints_need_their_file() {
        let others = needing_a_policy_file().unwrap();
        for key in ["libero_spatial", "libero_object", "libero_goal", "libero_10"] {
            assert_eq!(others[key], "openvla-7b-finetuned-libero.yaml");
        }
        // The base model's own example resizes with bicubic.
        assert!(!others.contains_key("bridge_orig") && !others.contains_key("tabletop"));
        let own = Preparation::plain(224).unwrap();
        let error = rule(None).unwrap().for_statistics("libero_10", own.clone()).unwrap_err();
        assert!(error.to_string().contains("openvla-7b-finetuned-libero.yaml"), "{error}");
        assert_eq!(rule(None).unwrap().for_statistics("bridge_orig", own.clone()), Ok(own.clone()));

        let libero = rule(Some(&shipped("openvla-7b-finetuned-libero.yaml"))).unwrap();
        let stated = libero.for_statistics("libero_10", own.clone()).unwrap();
        assert_eq!(stated, pipeline("libero", 224).unwrap());
        let error = libero.for_statistics("bridge_orig", own).unwrap_err().to_string();
        assert!(error.contains("'bridge_orig'") && error.contains("libero_goal"), "{error}");
    }

    fn loaded(name: &str, given: PolicyOptions) -> Result<PolicyOptions, PreparationFileError> {
        options(Some(&shipped(name)), given)
    }

    #[test]
    fn keys_are_those_of_the_file() {
        let read = |name: &str, key: Option<&str>| {
            let given = PolicyOptions { unnorm_key: key.map(str::to_owned), ..Default::default() };
            loaded(name, given).map(|options| options.unnorm_key)
        };
        assert_eq!(read("openvla-7b.yaml", None).unwrap().unwrap(), "bridge_orig");
        assert_eq!(read("openvla-7b-finetuned-libero.yaml", None).unwrap(), None);
        let libero = read("openvla-7b-finetuned-libero.yaml", Some("libero_10")).unwrap();
        assert_eq!(libero.unwrap(), "libero_10");
        let error = read("openvla-7b.yaml", Some("libero_10")).unwrap_err().to_string();
        assert!(error.contains("`libero_10` is none of bridge_orig"), "{error}");
    }

    #[test]
    fn flow_options_are_completed_by_the_file() {
        let options = loaded("pi0-droid.yaml", PolicyOptions::default()).unwrap();
        assert_eq!(options.flow.absent_cameras, ["right_wrist_0_rgb"]);
        assert_eq!(options.flow.state_tokens, Some(StateTokens::Exact));
        assert_eq!(options.flow.horizon, Some(15));
        let openpi = vec![Operation::BilinearPad(Size::square(224)).into()];
        let PreparationRule::Stated { preparation, .. } = options.preparation else {
            panic!("not stated");
        };
        assert_eq!(preparation, Preparation::new(openpi).unwrap());
        let given = FlowOptions { steps: Some(3), horizon: Some(10), ..Default::default() };
        let given = PolicyOptions { flow: given, ..Default::default() };
        let flow = loaded("pi0-droid.yaml", given).unwrap().flow;
        assert_eq!((flow.steps, flow.horizon), (Some(3), Some(10)));
        let resize = "pil_bilinear_pad".parse().ok();
        let given = FlowOptions { resize, ..Default::default() };
        let given = PolicyOptions { flow: given, ..Default::default() };
        let error = loaded("pi0-droid.yaml", given).unwrap_err().to_string();
        assert!(error.contains("leave out --resize"), "{error}");
    }

    /// The node decodes messages, `predict` opens files, `eval` reads messages of bags: the same
    /// policy file gives the same pixels, those of the official evaluation.
    #[test]
    fn live_and_offline_pixels_are_equal() {
        use vla_inference::observation::{self, EncodedImage, Preparer};
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/image_preparation");
        let cases: serde_json::Value =
            serde_json::from_slice(&std::fs::read(data.join("cases.json")).unwrap()).unwrap();
        let path = data.join("images/08_odd_321x243.png");
        let expected = cases["cases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|case| case["source"] == 8 && case["pipeline"] == "libero");
        let expected = expected.unwrap()["sha256"].as_str().unwrap();

        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies");
        let file = folder.join("openvla-7b-finetuned-libero.yaml");
        let node = rule(Some(&PolicyFile::load(&file).unwrap())).unwrap();
        let program = rule(load(Some(&file)).unwrap().as_ref()).unwrap();
        let own = Preparation::plain(224).unwrap();
        let pixels = |rule: &PreparationRule, image: &observation::RgbImage| {
            let preparation = rule.for_statistics("libero_10", own.clone()).unwrap();
            Preparer::new(preparation).unwrap().rgb(image).unwrap()
        };
        let opened = observation::open(&path).unwrap();
        let raw = EncodedImage::Raw {
            width: opened.width() as u32,
            height: opened.height() as u32,
            encoding: "rgb8".into(),
            step: opened.width() as u32 * 3,
            data: opened.pixels().to_vec().into(),
        };
        let compressed = EncodedImage::Compressed {
            format: "png".into(),
            data: std::fs::read(&path).unwrap().into(),
        };
        let offline = pixels(&program, &opened);
        for message in [raw, compressed] {
            assert!(pixels(&node, &message.decode().unwrap()) == offline);
        }
        let hash: String = <sha2::Sha256 as sha2::Digest>::digest(offline.pixels())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hash, expected);
    }
}
