//! config.json of an OpenVLA checkpoint, turned once into values that the model can rely on.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::CheckpointError;
use super::fields::{Fields, shown};
use super::llama_config::LlamaConfig;
use super::read::{parse_python_json, read_bounded};
use super::tower_config::{TowerConfig, read_towers};
use crate::text::one_line;

/// Largest config.json read, bytes. The published one, with statistics of 27 data sets, has 170 kB.
pub(super) const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Template of the prompt around an instruction; the texts are in `policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptStyle {
    /// `In: What action should the robot take to {}?\nOut:` (openvla-7b and its fine-tunes).
    Pure,
    /// The Vicuna chat prompt of openvla-v01.
    Vicuna,
}

/// The MLP between vision and language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// Width of the concatenated patch features (2176).
    pub vision_size: usize,
    /// Output width of each linear layer, in order: `[8704, 4096, 4096]` for two towers, `[4096,
    /// 4096]` for one. GELU is applied between them, not after the last.
    pub layers: Vec<usize>,
}

/// An OpenVLA checkpoint's shape and constants, every value in range and consistent with the
/// others.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenVlaConfig {
    /// The vision towers in the order of the pixel channels; one or two, with the same patch grid.
    pub towers: Vec<TowerConfig>,
    /// The projector.
    pub projector: ProjectorConfig,
    /// The language model.
    pub llama: LlamaConfig,
    /// Edges of the action bins (256); there is one bin fewer (255).
    pub action_bins: usize,
    /// One past the highest action token id (32000): `vocab_size -
    /// pad_to_multiple_of`.
    pub action_token_end: usize,
    /// Id that pads prompts (32000); inference never feeds it.
    pub pad_token_id: usize,
    /// Prompt style, from `llm_backbone_id`.
    pub prompt: PromptStyle,
}

impl OpenVlaConfig {
    /// Reads `config.json` of the folder.
    ///
    /// # Errors
    /// When the file is missing or needs what is not implemented or is inconsistent.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("config.json");
        Self::from_json(&path, &read_config(&path)?)
    }

    /// Parses the bytes of a config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`OpenVlaConfig::open`].
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        Self::from_map(path, &parse_python_json(path, bytes)?)
    }

    pub(super) fn from_map(path: &Path, map: &Map<String, Value>) -> Result<Self, CheckpointError> {
        let fields = Fields::new(path, "", map);
        match fields.text("model_type")? {
            Some("openvla") => {}
            Some(other) => {
                return Err(fields.error(
                    "model_type",
                    format!("\"{}\"", one_line(other)),
                    "only \"openvla\" is read here; give the folder of an OpenVLA checkpoint",
                ));
            }
            None => {
                return Err(fields.error(
                    "model_type",
                    "missing",
                    "must be \"openvla\"; give the folder of an OpenVLA checkpoint",
                ));
            }
        }
        fields.only(
            "image_resize_strategy",
            &json!("resize-naive"),
            "only \"resize-naive\" is implemented; use a checkpoint trained with it",
        )?;
        fields.only(
            "quantization_config",
            &Value::Null,
            "quantised weights are not read; use the bfloat16 checkpoint",
        )?;

        let towers = read_towers(&fields)?;
        let empty = Map::new();
        let text =
            Fields::new(path, "text_config.", fields.object("text_config")?.unwrap_or(&empty));
        let llama = LlamaConfig::from_fields(&text)?;
        let projector = projector(&fields, &towers, &llama)?;

        let pad_to = fields.size("pad_to_multiple_of", 64, 0, 65_536)?;
        let action_bins = fields.size("n_action_bins", 256, 2, 65_536)?;
        let Some(action_token_end) =
            llama.vocab_size.checked_sub(pad_to).filter(|&end| end > action_bins)
        else {
            let remedy = format!(
                "leaves no room for {action_bins} action tokens in a vocabulary of {}; restore \
                the file from the original checkpoint",
                llama.vocab_size
            );
            return Err(fields.error("pad_to_multiple_of", pad_to, remedy));
        };
        let config = Self {
            action_bins,
            action_token_end,
            pad_token_id: fields.size("pad_token_id", action_token_end, 0, llama.vocab_size - 1)?,
            prompt: prompt_style(&fields)?,
            towers,
            projector,
            llama,
        };
        if config.llama.max_position_embeddings <= config.patches() {
            let remedy = format!(
                "must be more than the image's {} patches; restore the file from the original \
                checkpoint",
                config.patches()
            );
            return Err(text.error(
                "max_position_embeddings",
                config.llama.max_position_embeddings,
                remedy,
            ));
        }
        Ok(config)
    }

    /// Patch embeddings that one image becomes (256); the towers agree on it.
    pub fn patches(&self) -> usize {
        self.towers.first().map_or(0, TowerConfig::patches)
    }

    /// Channels of the pixel tensor: three per tower.
    pub fn pixel_channels(&self) -> usize {
        3 * self.towers.len()
    }

    /// Side of the square input image, pixels; the towers agree on it.
    pub fn image_size(&self) -> usize {
        self.towers.first().map_or(0, |tower| tower.img_size)
    }
}

/// The bytes of config.json at `path`.
pub(super) fn read_config(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    read_bounded(
        path,
        MAX_CONFIG_BYTES,
        "give the folder of a Hugging Face OpenVLA checkpoint, which has a config.json",
    )
}

fn projector(
    fields: &Fields<'_>,
    towers: &[TowerConfig],
    llama: &LlamaConfig,
) -> Result<ProjectorConfig, CheckpointError> {
    let fused = towers.len() > 1;
    // The class that runs the checkpoint decides by the number of towers alone; another name
    // indicates another checkpoint.
    if let Some(name) = fields.text("arch_specifier")? {
        let expected = if fused { "fused-gelu-mlp" } else { "gelu-mlp" };
        let kind = name.strip_prefix("no-align+").unwrap_or(name);
        if kind != expected {
            let remedy = format!(
                "with {} vision towers only {expected} is implemented; use a checkpoint with that \
                projector",
                towers.len()
            );
            return Err(fields.error("arch_specifier", shown(&json!(name)), remedy));
        }
    }
    let vision_size = towers.iter().map(|tower| tower.embed_dim).sum();
    let hidden = llama.hidden_size;
    let layers = if fused { vec![4 * vision_size, hidden, hidden] } else { vec![hidden, hidden] };
    Ok(ProjectorConfig { vision_size, layers })
}

/// The official evaluation code looks for "v01" in the checkpoint's *path*; a renamed folder would
/// silently get the wrong prompt. The language model that was fine-tuned decides instead: v01 is
/// built on Vicuna, everything after it on plain Llama-2.
fn prompt_style(fields: &Fields<'_>) -> Result<PromptStyle, CheckpointError> {
    match fields.text("llm_backbone_id")? {
        Some("llama2-7b-pure" | "llama2-13b-pure") => Ok(PromptStyle::Pure),
        Some("vicuna-v15-7b" | "vicuna-v15-13b") => Ok(PromptStyle::Vicuna),
        Some(other) => Err(fields.error(
            "llm_backbone_id",
            format!("\"{}\"", one_line(other)),
            "its prompt is not known; use a checkpoint on llama2-*-pure or vicuna-v15-*",
        )),
        None => Err(fields.error(
            "llm_backbone_id",
            "missing",
            "the prompt depends on it; add \"llama2-7b-pure\" (openvla-7b) or \"vicuna-v15-7b\" \
            (openvla-v01)",
        )),
    }
}
