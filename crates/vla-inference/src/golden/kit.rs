//! Reading a golden kit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::{SafetensorsFile, StoredType};
use crate::observation::{self, RgbImage};
use crate::tensor::HostTensor;

/// Largest JSON file of a kit, bytes.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// A kit that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}; use a complete golden kit", path.display())]
pub struct KitError {
    /// File or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// One case of `cases.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Number of the case.
    pub id: usize,
    /// Image, relative to the kit.
    pub image: PathBuf,
    /// Instruction as a user would give it.
    pub instruction: String,
    /// Prompt around it.
    pub prompt: String,
    /// Token ids of the prompt.
    pub input_ids: Vec<u32>,
    /// Token ids as fed to the model.
    pub input_ids_fed: Vec<u32>,
    /// The resized image, relative to the kit.
    pub resized_rgb: PathBuf,
    /// The official code's tokens in float32.
    pub generated_ids: Vec<u32>,
    /// Its bin centres.
    pub normalized_action: Vec<f64>,
    /// Its physical actions, by statistics.
    pub actions: BTreeMap<String, Vec<f64>>,
    /// Largest logits per step.
    pub top5_per_step: Vec<Top>,
}

/// Largest logits of a step.
#[derive(Clone, Debug, Deserialize)]
pub struct Top {
    /// First minus second.
    pub margin: f64,
}

/// A case repeated with one of its action tokens as the end token.
#[derive(Clone, Debug, Deserialize)]
pub struct EosCase {
    /// Number of the case it derives from.
    pub case: usize,
    /// The end token.
    pub eos_token_id: u32,
    /// The official code's physical action. After an early end it is made of the last tokens of
    /// prompt and answer together.
    pub action: Vec<f64>,
}

/// The case whose prompt ends with a space.
#[derive(Clone, Debug, Deserialize)]
pub struct TrailingSpaceCase {
    /// The whole prompt.
    pub prompt: String,
    /// Image, relative to the kit.
    pub image: PathBuf,
    /// Token ids of the prompt, which already end with the empty word.
    pub input_ids: Vec<u32>,
    /// Physical action under one of the kit's statistics.
    pub action: Vec<f64>,
}

/// A token id and its bin.
#[derive(Clone, Debug, Deserialize)]
pub struct DecodeCase {
    /// Token id.
    pub id: u32,
    /// Bin the official code clips it to.
    pub bin_index: usize,
    /// Centre of that bin.
    pub normalized: f64,
}

#[derive(Deserialize)]
struct Cases {
    about: String,
    cases: Vec<Case>,
    decode_cases: Vec<DecodeCase>,
    eos_cases: Vec<EosCase>,
    trailing_space_case: TrailingSpaceCase,
}

/// A text and its token ids.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenizerCase {
    /// Text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A golden kit, read by [`Kit::open`].
pub struct Kit {
    folder: PathBuf,
    /// How it was made.
    pub about: String,
    /// All cases.
    pub cases: Vec<Case>,
    /// Token ids and bins.
    pub decode_cases: Vec<DecodeCase>,
    /// Cases with an action token as the end token.
    pub eos_cases: Vec<EosCase>,
    /// The case whose prompt ends with a space.
    pub trailing_space_case: TrailingSpaceCase,
    /// Texts and ids.
    pub tokenizer_cases: Vec<TokenizerCase>,
}

impl Kit {
    /// Reads the kit in `folder`.
    ///
    /// # Errors
    /// When a file is missing or is not a kit's.
    pub fn open(folder: &Path) -> Result<Self, KitError> {
        let cases: Cases = json(&folder.join("cases.json"))?;
        let tokenizer_cases = json(&folder.join("tokenizer_cases.json"))?;
        if cases.cases.is_empty() {
            return Err(KitError {
                path: folder.join("cases.json"),
                reason: "holds no case".into(),
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
            about: cases.about,
            cases: cases.cases,
            decode_cases: cases.decode_cases,
            eos_cases: cases.eos_cases,
            trailing_space_case: cases.trailing_space_case,
            tokenizer_cases,
        })
    }

    /// The checkpoint folder.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("ckpt")
    }

    /// An image of the kit.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, path: &Path) -> Result<RgbImage, KitError> {
        image(&self.folder, path)
    }

    /// The intermediate tensors of a case; `None` when the kit has none for it.
    ///
    /// # Errors
    /// When the file is broken.
    pub fn tensors(&self, case: usize) -> Result<Option<BTreeMap<String, HostTensor>>, KitError> {
        read_tensors(&self.folder.join(format!("tensors/case{case:02}.safetensors")))
    }
}

/// An image of a kit.
pub(super) fn image(folder: &Path, path: &Path) -> Result<RgbImage, KitError> {
    let path = folder.join(path);
    observation::open(&path)
        .map_err(|error| KitError { path: path.clone(), reason: error.to_string() })
}

/// The float tensors of a file; `None` when there is no such file.
pub(super) fn read_tensors(path: &Path) -> Result<Option<BTreeMap<String, HostTensor>>, KitError> {
    if !path.exists() {
        return Ok(None);
    }
    let failed = |reason: String| KitError { path: path.to_owned(), reason };
    let file = SafetensorsFile::open(path).map_err(|error| failed(error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let tensor = file.tensor(name).map_err(|error| failed(error.to_string()))?;
        // Masks and positions beside the values.
        let floats = [StoredType::F32, StoredType::F64, StoredType::F16, StoredType::BF16];
        if !floats.contains(&tensor.dtype()) {
            continue;
        }
        let values = tensor.to_f32_vec().map_err(|error| failed(error.to_string()))?;
        let tensor = HostTensor::from_f32(tensor.shape(), values)
            .map_err(|error| failed(error.to_string()))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(Some(tensors))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, KitError> {
    let failed = |reason: String| KitError { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_JSON_BYTES {
        return Err(failed(format!("{size} bytes; at most {MAX_JSON_BYTES} are read")));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}
