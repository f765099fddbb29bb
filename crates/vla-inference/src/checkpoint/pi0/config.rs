//! config.json of a LeRobot pi0 or pi0.5 checkpoint.

use std::path::Path;

use serde_json::{Map, Value};

use super::dimensions::{GemmaConfig, SiglipConfig, overridden_vocabulary, read_dimensions};
use super::features::{Camera, read_features};
use super::keys::{refuse_other_forms, unknown};
use super::normalizer::NormMode;
use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::Fields;
use crate::checkpoint::read::parse_json;

/// The two models: pi0 has a state token and plain norms, pi0.5 the state in its prompt and norms
/// that depend on the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Pi0Kind {
    /// Black et al., "pi0: A Vision-Language-Action Flow Model for General Robot Control", 2024.
    Pi0,
    /// Physical Intelligence, "pi0.5: a Vision-Language-Action Model with Open-World
    /// Generalization", 2025.
    Pi05,
}

impl std::fmt::Display for Pi0Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pi0 => "pi0",
            Self::Pi05 => "pi05",
        })
    }
}

/// Real-time chunking as `rtc_config` states it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RtcConfig {
    /// Rows of a chunk that are guided by the previous one (10).
    pub execution_horizon: usize,
    /// `LINEAR`, `EXP`, `ONES` or `ZEROS`.
    pub prefix_attention_schedule: String,
    /// Upper bound of the guidance weight (10).
    pub max_guidance_weight: f64,
}

impl Default for RtcConfig {
    fn default() -> Self {
        Self {
            execution_horizon: 10,
            prefix_attention_schedule: "LINEAR".to_owned(),
            max_guidance_weight: 10.0,
        }
    }
}

/// A checkpoint's shape and constants, every value in range.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Pi0Config {
    /// Which of the two models.
    pub kind: Pi0Kind,
    /// The vision-language model's Gemma stack.
    pub vlm: GemmaConfig,
    /// The action expert.
    pub expert: GemmaConfig,
    /// The vision tower.
    pub vision: SiglipConfig,
    /// Rows of the token embedding, where config.json states it; otherwise the tensor decides.
    pub vocab_size: Option<usize>,
    /// Steps of a chunk (50).
    pub chunk_size: usize,
    /// Steps executed before the next inference (50; fine-tunes on LIBERO 10).
    pub n_action_steps: usize,
    /// Width to which the state is padded (32).
    pub max_state_dim: usize,
    /// Width of the action inside the model (32).
    pub max_action_dim: usize,
    /// Name of the state's feature and its width in the data set.
    pub state: (String, usize),
    /// Name of the action's feature and its width in the data set.
    pub action: (String, usize),
    /// Euler steps (10).
    pub num_inference_steps: usize,
    /// Shortest period of the time embedding (0.004).
    pub min_period: f64,
    /// Longest period of the time embedding (4).
    pub max_period: f64,
    /// Height and width of the tower's input, pixels.
    pub image_resolution: [usize; 2],
    /// Cameras in the order of the file.
    pub cameras: Vec<Camera>,
    /// Most text tokens (48; pi0.5 200).
    pub tokenizer_max_length: usize,
    /// Normalisation of state and action as config.json states it; the processors' wins.
    pub norm_map: [Option<NormMode>; 2],
    /// Whether actions are relative to the state.
    pub use_relative_actions: bool,
    /// Names of the action's dimensions, if the checkpoint has them.
    pub action_names: Option<Vec<String>>,
    /// Real-time chunking.
    pub rtc: RtcConfig,
    /// Longest delay the checkpoint was trained to continue from; 0 when it was not.
    pub rtc_training_max_delay: usize,
    /// Keys that this reader does not know.
    pub unknown: Vec<String>,
}

impl Pi0Config {
    /// Parses the bytes of a LeRobot config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// When a value is out of range, contradicts another, or needs what is not implemented.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let map: Map<String, Value> = parse_json(path, bytes)?;
        let fields = Fields::new(path, "", &map);
        let kind = kind(&fields)?;
        refuse_other_forms(&fields)?;
        let features = read_features(path, bytes)?;
        let (vlm, expert, vision) = read_dimensions(&fields)?;
        let chunk_size = fields.size("chunk_size", 50, 1, 4096)?;
        let max_state_dim = fields.size("max_state_dim", 32, 1, 1024)?;
        let max_action_dim = fields.size("max_action_dim", 32, 1, 1024)?;
        let default_text = if kind == Pi0Kind::Pi0 { 48 } else { 200 };
        let or = |feature: Option<(String, usize)>, name: &str, width| {
            feature.unwrap_or_else(|| (name.to_owned(), width))
        };
        let config = Self {
            kind,
            vlm,
            expert,
            vision,
            vocab_size: overridden_vocabulary(&fields)?,
            chunk_size,
            n_action_steps: fields.size("n_action_steps", chunk_size, 1, chunk_size)?,
            max_state_dim,
            max_action_dim,
            state: or(features.state, "observation.state", max_state_dim),
            action: or(features.action, "action", max_action_dim),
            num_inference_steps: fields.size("num_inference_steps", 10, 1, 1000)?,
            min_period: fields.number("min_period", 4e-3, 1e-9, 1e9)?,
            max_period: fields.number("max_period", 4.0, 1e-9, 1e9)?,
            image_resolution: resolution(&fields)?,
            cameras: features.cameras,
            tokenizer_max_length: fields.size("tokenizer_max_length", default_text, 1, 8192)?,
            norm_map: norm_map(&fields)?,
            use_relative_actions: fields.flag("use_relative_actions", false)?,
            action_names: names(&fields, "action_feature_names")?,
            rtc: rtc(&fields, chunk_size)?,
            rtc_training_max_delay: fields.size("rtc_training_max_delay", 0, 0, chunk_size)?,
            unknown: unknown(&map),
        };
        config.check(&fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields<'_>) -> Result<(), CheckpointError> {
        for (name, width, padded) in [
            ("input_features", self.state.1, self.max_state_dim),
            ("output_features", self.action.1, self.max_action_dim),
        ] {
            if width > padded {
                let remedy = format!(
                    "the model holds {padded} dimensions; restore the file from the original \
                    checkpoint"
                );
                return Err(fields.error(name, format!("{width} wide"), remedy));
            }
        }
        if self.cameras.iter().all(|camera| camera.empty) {
            let remedy = "no camera is listed; restore the file from the original checkpoint";
            return Err(fields.error("input_features", "without VISUAL features", remedy));
        }
        for (name, side) in
            [("height", self.image_resolution[0]), ("width", self.image_resolution[1])]
        {
            if side < self.vision.patch_size {
                let remedy =
                    format!("its {name} must be at least a patch of {}", self.vision.patch_size);
                return Err(fields.error("image_resolution", side, remedy));
            }
        }
        if !self.expert.width.is_multiple_of(2) || self.expert.width < 4 {
            let remedy = "the time embedding needs an even width of at least 4";
            return Err(fields.error("action_expert_variant", self.expert.width, remedy));
        }
        if self.min_period > self.max_period {
            let remedy = format!("must not be below min_period {}", self.min_period);
            return Err(fields.error("max_period", self.max_period, remedy));
        }
        Ok(())
    }

    /// Rows and columns of an image's patches. Pixels beyond the last whole patch are left out, as
    /// by the convolution (384 pixels are 27 patches of 14).
    #[must_use]
    pub fn grid(&self) -> [usize; 2] {
        self.image_resolution.map(|side| side / self.vision.patch_size)
    }

    /// Patches of one camera image.
    #[must_use]
    pub fn patches(&self) -> usize {
        self.grid().iter().product()
    }

    /// Cameras that can have an image.
    pub fn real_cameras(&self) -> impl Iterator<Item = &Camera> {
        self.cameras.iter().filter(|camera| !camera.empty)
    }
}

fn kind(fields: &Fields<'_>) -> Result<Pi0Kind, CheckpointError> {
    match fields.text("type")? {
        Some("pi0") => Ok(Pi0Kind::Pi0),
        Some("pi05") => Ok(Pi0Kind::Pi05),
        Some(other) => Err(fields.error(
            "type",
            quoted(other),
            "this model is not implemented; pi0 and pi05 are",
        )),
        None => Err(fields.error("type", "missing", "give a checkpoint of type pi0 or pi05")),
    }
}

fn resolution(fields: &Fields<'_>) -> Result<[usize; 2], CheckpointError> {
    let Some(values) = fields.list("image_resolution")? else { return Ok([224, 224]) };
    let sides: Option<Vec<usize>> = values
        .iter()
        .map(|value| value.as_u64().and_then(|side| usize::try_from(side).ok()))
        .collect();
    match sides.as_deref() {
        Some([height, width]) if (1..=2048).contains(height) && (1..=2048).contains(width) => {
            Ok([*height, *width])
        }
        _ => Err(fields.error(
            "image_resolution",
            crate::checkpoint::fields::shown_list(values),
            "must be two sides from 1 to 2048 pixels, height first",
        )),
    }
}

/// Modes of STATE and ACTION; VISUAL must be IDENTITY.
pub(super) fn modes(
    fields: &Fields<'_>,
    name: &str,
) -> Result<[Option<NormMode>; 2], CheckpointError> {
    let Some(map) = fields.object(name)? else { return Ok([None; 2]) };
    let prefix = format!("{}{name}.", fields.prefix);
    let inner = Fields::new(fields.path, &prefix, map);
    if let Some(mode) = inner.text("VISUAL")?
        && mode != "IDENTITY"
    {
        let remedy = "images are scaled to -1..1 only; another normalisation is not implemented";
        return Err(inner.error("VISUAL", quoted(mode), remedy));
    }
    let mode = |key| inner.text(key)?.map(|text| NormMode::named(&inner, key, text)).transpose();
    Ok([mode("STATE")?, mode("ACTION")?])
}

fn norm_map(fields: &Fields<'_>) -> Result<[Option<NormMode>; 2], CheckpointError> {
    modes(fields, "normalization_mapping")
}

/// A list of names, when present.
pub(super) fn names(
    fields: &Fields<'_>,
    key: &str,
) -> Result<Option<Vec<String>>, CheckpointError> {
    Ok(fields.texts(key)?.map(|names| names.into_iter().map(str::to_owned).collect()))
}

fn rtc(fields: &Fields<'_>, chunk_size: usize) -> Result<RtcConfig, CheckpointError> {
    let Some(map) = fields.object("rtc_config")? else { return Ok(RtcConfig::default()) };
    let inner = Fields::new(fields.path, "rtc_config.", map);
    let default = RtcConfig::default();
    let schedule = inner.text("prefix_attention_schedule")?.unwrap_or("LINEAR");
    if !["LINEAR", "EXP", "ONES", "ZEROS"].contains(&schedule.to_uppercase().as_str()) {
        let remedy = "must be LINEAR, EXP, ONES or ZEROS";
        return Err(inner.error("prefix_attention_schedule", quoted(schedule), remedy));
    }
    Ok(RtcConfig {
        execution_horizon: inner.size(
            "execution_horizon",
            default.execution_horizon.min(chunk_size),
            1,
            4096,
        )?,
        prefix_attention_schedule: schedule.to_uppercase(),
        max_guidance_weight: inner.number(
            "max_guidance_weight",
            default.max_guidance_weight,
            0.0,
            1e6,
        )?,
    })
}
