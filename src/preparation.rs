//! Image preparation as policy files state it, for the node and the command line alike: what a
//! policy file's steps mean, and which checkpoints must not be run without one.

use std::collections::BTreeMap;
use std::path::Path;

use vla_config::{ConfigFileError, ImageOperation, ImageSection, PolicyFile};
use vla_control::ConfigErrors;
use vla_inference::observation::{Operation, Preparation, PreparationError, Size, Step};
use vla_inference::policy::PreparationRule;

/// The policy files that are shipped, by name.
const SHIPPED: &[(&str, &str)] = &[
    ("openvla-7b.yaml", include_str!("../config/policies/openvla-7b.yaml")),
    ("openvla-7b-bridge.yaml", include_str!("../config/policies/openvla-7b-bridge.yaml")),
    (
        "openvla-7b-finetuned-libero.yaml",
        include_str!("../config/policies/openvla-7b-finetuned-libero.yaml"),
    ),
    ("openvla_tiny.yaml", include_str!("../config/policies/openvla_tiny.yaml")),
    ("tabletop.yaml", include_str!("../config/policies/tabletop.yaml")),
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

/// Reads a policy file, if one is named: the rule, and the statistics key to use, which is `asked`
/// or the only one of the file. `None` leaves the choice to the checkpoint.
///
/// # Errors
/// When the file is invalid or `asked` is none of its keys.
pub fn read(
    path: Option<&Path>,
    asked: Option<String>,
) -> Result<(PreparationRule, Option<String>), PreparationFileError> {
    let Some(path) = path else { return Ok((rule(None)?, asked)) };
    let file = PolicyFile::load(path)?;
    let key = match (asked, file.unnorm_keys.as_slice()) {
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
        (Some(key), _) => {
            let wrong = |problems| PreparationFileError::Key { name: file.name.clone(), problems };
            Some(file.choose_key(Some(&key)).map_err(wrong)?.to_owned())
        }
    };
    Ok((rule(Some(&file))?, key))
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
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn keys_are_those_of_the_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies");
        let read = |name: &str, key: Option<&str>| {
            super::read(Some(&folder.join(name)), key.map(str::to_owned)).map(|(_, key)| key)
        };
        assert_eq!(read("openvla-7b.yaml", None).unwrap().unwrap(), "bridge_orig");
        assert_eq!(read("openvla-7b-finetuned-libero.yaml", None).unwrap(), None);
        let libero = read("openvla-7b-finetuned-libero.yaml", Some("libero_10")).unwrap();
        assert_eq!(libero.unwrap(), "libero_10");
        let error = read("openvla-7b.yaml", Some("libero_10")).unwrap_err().to_string();
        assert!(error.contains("`libero_10` is none of bridge_orig"), "{error}");
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
        let expected = cases["cases"].as_array().unwrap().iter().find(|case| {
            case["source"] == 8 && case["pipeline"] == "libero"
        });
        let expected = expected.unwrap()["sha256"].as_str().unwrap();

        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policies");
        let file = folder.join("openvla-7b-finetuned-libero.yaml");
        let node = rule(Some(&PolicyFile::load(&file).unwrap())).unwrap();
        let (program, _) = read(Some(&file), None).unwrap();
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
        let compressed = EncodedImage::Compressed(std::fs::read(&path).unwrap().into());
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
