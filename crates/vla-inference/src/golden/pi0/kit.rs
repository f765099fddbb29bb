//! Reading a kit of LeRobot's pi0 or pi0.5.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::golden::kit::{KitError, json, read_tensors};
use crate::golden::reaction::Inputs;
use crate::observation::{self, RgbImage};
use crate::tensor::HostTensor;

/// JSON's `null` as the default: Python writes it for what a case does not have.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One case of `cases.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Pi0Case {
    /// Number of the case.
    pub id: usize,
    /// Image of each feature that has one, by the model's name, relative to the kit.
    pub present: BTreeMap<String, PathBuf>,
    /// Instruction as a user would give it.
    pub instruction: String,
    /// The prompt.
    pub prompt: String,
    /// Token ids with padding.
    pub input_ids: Vec<u32>,
    /// 1 for each id that is no padding.
    pub attention_mask: Vec<u8>,
    /// Raw state.
    pub state: Vec<f64>,
    /// Normalised state.
    pub state_normalised: Vec<f64>,
    /// Bins of the state in pi0.5's prompt.
    #[serde(default)]
    pub state_bins: Vec<i32>,
    /// Euler steps.
    pub num_steps: usize,
    /// Normalised actions, `[chunk][max_action_dim]`.
    pub actions_normalised: Vec<Vec<f64>>,
    /// Physical actions, `[chunk][action_dim]`.
    pub actions: Vec<Vec<f64>>,
}

impl RtcCase {
    /// Guided rows.
    #[must_use]
    pub fn horizon(&self) -> usize {
        self.execution_horizon.or(self.config_execution_horizon).unwrap_or(10)
    }
}

impl Pi0Case {
    /// Token ids without padding.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        let pairs = self.input_ids.iter().zip(&self.attention_mask);
        pairs.filter(|(_, mask)| **mask != 0).map(|(id, _)| *id).collect()
    }
}

/// A resized image as `cases.json` describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Resized {
    /// SHA-256 of its float32 values, channels outermost.
    pub sha256_f32_chw: Option<String>,
}

/// A text of `tokenizer_cases.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct PromptCase {
    /// Instruction.
    pub instruction: String,
    /// Its prompt.
    pub prompt: String,
    /// All ids.
    pub ids: Vec<u32>,
    /// Ids as fed, cut at the longest prompt.
    pub fed: Vec<u32>,
    /// Whether they were cut.
    pub truncated: bool,
}

/// A value and its bin.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct BinCase {
    /// Normalised value.
    pub x: f64,
    /// Its bin.
    pub bin: i32,
}

/// A case of real-time chunking.
#[derive(Clone, Debug, Deserialize)]
pub struct RtcCase {
    /// Number of the case.
    pub id: usize,
    /// The case whose images, state, text and noise it has.
    pub base_case: usize,
    /// Steps executed while the inference runs.
    pub inference_delay: usize,
    /// Guided rows, where the call states them; the guided mode only.
    #[serde(default, deserialize_with = "or_default")]
    pub execution_horizon: Option<usize>,
    /// Guided rows otherwise.
    #[serde(default, deserialize_with = "or_default")]
    pub config_execution_horizon: Option<usize>,
    /// `LINEAR`, `EXP`, `ONES` or `ZEROS`; the guided mode only.
    #[serde(default, deserialize_with = "or_default")]
    pub schedule: String,
    /// Largest weight of the correction; the guided mode only.
    #[serde(default, deserialize_with = "or_default")]
    pub max_guidance_weight: f32,
    /// Whether the rollout engine fits the rest to the horizon first.
    #[serde(default, deserialize_with = "or_default")]
    pub padded_by_engine: bool,
    /// Weight of each row; the guided mode only.
    #[serde(default, deserialize_with = "or_default")]
    pub weights: Vec<f64>,
    /// Weight of the correction at each step; the guided mode only.
    #[serde(default, deserialize_with = "or_default")]
    pub guidance_weight: Vec<f64>,
    /// Euler steps.
    pub num_steps: usize,
    /// Rows of the previous chunk that are left.
    pub left_over_rows: usize,
    /// Their columns.
    pub left_over_columns: usize,
    /// Tensors, relative to the kit; none for a case that is refused.
    pub tensors: Option<PathBuf>,
    /// Physical actions.
    #[serde(default, deserialize_with = "or_default")]
    pub actions: Vec<Vec<f64>>,
    /// The refusal, if it is refused.
    pub error: Option<String>,
    /// Where a refused value is.
    pub note: Option<String>,
}

/// Weights of a previous chunk's rows.
#[derive(Clone, Debug, Deserialize)]
pub struct WeightCase {
    /// Schedule.
    pub schedule: String,
    /// First row whose weight may fall.
    pub start: usize,
    /// First row without weight.
    pub end: usize,
    /// Rows.
    pub total: usize,
    /// The weights.
    pub weights: Vec<f64>,
}

/// `rtc.json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RtcCases {
    /// Guided mode.
    pub cases: Vec<RtcCase>,
    /// The weights alone.
    pub prefix_weights: Vec<WeightCase>,
    /// Trained mode.
    #[serde(default)]
    pub trained: Vec<RtcCase>,
    /// Longest delay of the trained mode.
    #[serde(default)]
    pub rtc_training_max_delay: usize,
}

/// A case of relative actions.
#[derive(Clone, Debug, Deserialize)]
pub struct RelativeCase {
    /// The case whose normalised actions it has.
    pub case: usize,
    /// Names of the dimensions.
    pub action_names: Option<Vec<String>>,
    /// Words of names that stay absolute.
    pub exclude_joints: Vec<String>,
    /// Which dimensions are relative.
    pub mask: Vec<bool>,
    /// Raw state.
    pub state: Vec<f64>,
    /// Physical actions.
    pub actions: Vec<Vec<f64>>,
    /// First row of `actions` that is left over.
    pub rtc_left_over_absolute_rows_from: usize,
    /// A later raw state.
    pub rtc_current_state: Vec<f64>,
    /// The rest in the model's space as seen from that state.
    pub rtc_left_over_model_space: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Cases {
    about: String,
    cases: Vec<Pi0Case>,
    #[serde(default)]
    resize: BTreeMap<String, Resized>,
}

#[derive(Deserialize)]
struct List<T> {
    cases: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { cases: Vec::new() }
    }
}

/// A golden kit, read by [`Pi0Kit::open`].
pub struct Pi0Kit {
    folder: PathBuf,
    /// How it was made.
    pub about: String,
    /// All cases.
    pub cases: Vec<Pi0Case>,
    /// Resized images, by the name of their source without its ending.
    pub resize: BTreeMap<String, Resized>,
    /// Texts.
    pub prompts: Vec<PromptCase>,
    /// Bins of a state.
    pub bins: Vec<BinCase>,
    /// Real-time chunking.
    pub rtc: RtcCases,
    /// Relative actions.
    pub relative: Vec<RelativeCase>,
}

impl Pi0Kit {
    /// Reads the kit in `folder`. Only `cases.json` must be there; the other files are read where
    /// there are some.
    ///
    /// # Errors
    /// When a file is not a kit's.
    pub fn open(folder: &Path) -> Result<Self, KitError> {
        fn optional<T: serde::de::DeserializeOwned + Default>(path: &Path) -> Result<T, KitError> {
            if path.exists() { json(path) } else { Ok(T::default()) }
        }
        let cases: Cases = json(&folder.join("cases.json"))?;
        if cases.cases.is_empty() {
            let reason = "holds no case".into();
            return Err(KitError { path: folder.join("cases.json"), reason });
        }
        let list = |name: &str| folder.join(name);
        Ok(Self {
            about: cases.about,
            cases: cases.cases,
            resize: cases.resize,
            prompts: optional(&list("tokenizer_cases.json"))?,
            bins: optional::<List<_>>(&list("state_bins.json"))?.cases,
            rtc: optional(&list("rtc.json"))?,
            relative: optional::<List<_>>(&list("relative.json"))?.cases,
            folder: folder.to_owned(),
        })
    }

    /// The checkpoint folder.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join("ckpt")
    }

    /// Path of a file or folder of the kit, if it is there.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        path.exists().then_some(path)
    }

    /// An image of the kit; `path` starts at the kit's folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, file: &Path) -> Result<RgbImage, KitError> {
        let path = self.folder.join(file);
        observation::open(&path)
            .map_err(|error| KitError { path: path.clone(), reason: error.to_string() })
    }

    /// Up to `count` values of each input of a policy.
    ///
    /// # Errors
    /// When an image cannot be read or an instruction cannot be given.
    pub fn inputs(&self, count: usize) -> Result<Inputs, KitError> {
        let files: BTreeSet<&PathBuf> =
            self.cases.iter().flat_map(|case| case.present.values()).collect();
        let images = files.into_iter().take(count).map(|file| self.image(file));
        let instructions = self.cases.iter().map(|case| case.instruction.as_str()).collect();
        let states = self.cases.iter().map(|case| case.state.clone()).collect();
        Inputs::of_kit(&self.folder, images.collect::<Result<_, _>>()?, instructions, states, count)
    }

    /// Tensors of a file of the kit; none when it has no such file.
    ///
    /// # Errors
    /// When the file is broken.
    pub fn tensors(&self, file: &Path) -> Result<BTreeMap<String, HostTensor>, KitError> {
        Ok(read_tensors(&self.folder.join(file))?.unwrap_or_default())
    }

    /// Intermediate tensors of a case.
    ///
    /// # Errors
    /// When the file is broken.
    pub fn case_tensors(&self, case: usize) -> Result<BTreeMap<String, HostTensor>, KitError> {
        self.tensors(Path::new(&format!("tensors/case{case:02}.safetensors")))
    }
}
