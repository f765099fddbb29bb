//! Dimensions of the three networks: from the variants' names, or from `tiny_overrides` in test
//! checkpoints. The strict loader compares all of them with the tensors.

use serde_json::{Map, Value};

use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::{Fields, shown};

/// One Gemma stack: the vision-language model or the action expert.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GemmaConfig {
    /// Width of the residual stream (2048; expert 1024).
    pub width: usize,
    /// Layers (18).
    pub depth: usize,
    /// Width inside the MLP (16384; expert 4096).
    pub mlp_dim: usize,
    /// Query heads (8).
    pub num_heads: usize,
    /// Key/value heads (1).
    pub num_kv_heads: usize,
    /// Columns of a head (256); even.
    pub head_dim: usize,
}

/// The SigLIP tower, in the names of Hugging Face's configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SiglipConfig {
    /// Width of the residual stream (1152).
    pub hidden_size: usize,
    /// Layers, all of which run (27).
    pub num_hidden_layers: usize,
    /// Attention heads (16); divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width inside the MLP (4304).
    pub intermediate_size: usize,
    /// Side of a patch, pixels (14).
    pub patch_size: usize,
}

/// openpi's variants, `models/gemma.py`.
const VARIANTS: [(&str, GemmaConfig); 2] = [
    (
        "gemma_2b",
        GemmaConfig {
            width: 2048,
            depth: 18,
            mlp_dim: 16_384,
            num_heads: 8,
            num_kv_heads: 1,
            head_dim: 256,
        },
    ),
    (
        "gemma_300m",
        GemmaConfig {
            width: 1024,
            depth: 18,
            mlp_dim: 4096,
            num_heads: 8,
            num_kv_heads: 1,
            head_dim: 256,
        },
    ),
];

/// SigLIP So400m/14, the only tower of these models.
const SO400M: SiglipConfig = SiglipConfig {
    hidden_size: 1152,
    num_hidden_layers: 27,
    num_attention_heads: 16,
    intermediate_size: 4304,
    patch_size: 14,
};

/// Dimensions of the vision-language model, the expert and the tower.
pub(super) fn read_dimensions(
    fields: &Fields<'_>,
) -> Result<(GemmaConfig, GemmaConfig, SiglipConfig), CheckpointError> {
    let overrides = fields.object("tiny_overrides")?;
    let vlm = gemma(fields, overrides, "paligemma_variant", "gemma_2b")?;
    let expert = gemma(fields, overrides, "action_expert_variant", "gemma_300m")?;
    let vision = siglip(fields, overrides)?;
    for (name, ours, theirs) in [
        ("depth", vlm.depth, expert.depth),
        ("num_heads", vlm.num_heads, expert.num_heads),
        ("num_kv_heads", vlm.num_kv_heads, expert.num_kv_heads),
        ("head_dim", vlm.head_dim, expert.head_dim),
    ] {
        if ours != theirs {
            let remedy = format!(
                "the expert attends layer by layer to the other model's keys, whose {name} is \
                {ours}; use a checkpoint in which both agree"
            );
            return Err(fields.error("action_expert_variant", format!("{name} {theirs}"), remedy));
        }
    }
    Ok((vlm, expert, vision))
}

/// Rows of the embedding in a test checkpoint.
pub(super) fn overridden_vocabulary(fields: &Fields<'_>) -> Result<Option<usize>, CheckpointError> {
    let Some(overrides) = fields.object("tiny_overrides")? else { return Ok(None) };
    let inner = Fields::new(fields.path, "tiny_overrides.", overrides);
    let rows = inner.size("vocab_size", 0, 1, 1 << 24)?;
    Ok((rows > 0).then_some(rows))
}

fn gemma(
    fields: &Fields<'_>,
    overrides: Option<&Map<String, Value>>,
    key: &str,
    default: &str,
) -> Result<GemmaConfig, CheckpointError> {
    let name = fields.text(key)?.unwrap_or(default);
    // LoRA variants have the same dimensions; their adapters are merged or refused as unknown.
    let plain = name.strip_suffix("_lora").unwrap_or(name);
    let known = VARIANTS.iter().find(|(variant, _)| *variant == plain).map(|(_, known)| known);
    let (known, value) = match (known, overrides.and_then(|overrides| overrides.get(name))) {
        (Some(known), None) => return Ok(known.clone()),
        // A test checkpoint may name a variant of its own.
        (known, Some(value)) => (known.unwrap_or(&VARIANTS[0].1), value),
        (None, None) => {
            let names = VARIANTS.map(|(variant, _)| variant).join(" and ");
            let remedy = format!("this variant is not implemented; {names} are");
            return Err(fields.error(key, quoted(name), remedy));
        }
    };
    let prefix = format!("tiny_overrides.{name}.");
    let inner = inner(fields, &prefix, value)?;
    let heads = inner.size("num_heads", known.num_heads, 1, 1024)?;
    let config = GemmaConfig {
        width: inner.size("width", known.width, 2, 1 << 16)?,
        depth: inner.size("depth", known.depth, 1, 1024)?,
        mlp_dim: inner.size("mlp_dim", known.mlp_dim, 1, 1 << 20)?,
        num_heads: heads,
        num_kv_heads: inner.size("num_kv_heads", known.num_kv_heads, 1, heads)?,
        head_dim: inner.size("head_dim", known.head_dim, 2, 4096)?,
    };
    if !config.num_heads.is_multiple_of(config.num_kv_heads) {
        let remedy = format!("must divide num_heads {heads}; correct one of the two");
        return Err(inner.error("num_kv_heads", config.num_kv_heads, remedy));
    }
    if !config.head_dim.is_multiple_of(2) {
        let remedy = "must be even: the rotary embedding turns pairs; correct it";
        return Err(inner.error("head_dim", config.head_dim, remedy));
    }
    Ok(config)
}

fn siglip(
    fields: &Fields<'_>,
    overrides: Option<&Map<String, Value>>,
) -> Result<SiglipConfig, CheckpointError> {
    let Some(value) = overrides.and_then(|overrides| overrides.get("vision")) else {
        return Ok(SO400M);
    };
    let inner = inner(fields, "tiny_overrides.vision.", value)?;
    let heads = SO400M.num_attention_heads;
    let config = SiglipConfig {
        hidden_size: inner.size("hidden_size", SO400M.hidden_size, 1, 1 << 16)?,
        num_hidden_layers: inner.size("num_hidden_layers", SO400M.num_hidden_layers, 1, 1024)?,
        num_attention_heads: inner.size("num_attention_heads", heads, 1, 1024)?,
        intermediate_size: inner.size("intermediate_size", SO400M.intermediate_size, 1, 1 << 20)?,
        patch_size: inner.size("patch_size", SO400M.patch_size, 1, 1024)?,
    };
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        let remedy = format!("must divide hidden_size {}; correct one", config.hidden_size);
        return Err(inner.error("num_attention_heads", config.num_attention_heads, remedy));
    }
    Ok(config)
}

fn inner<'a>(
    fields: &Fields<'a>,
    prefix: &'a str,
    value: &'a Value,
) -> Result<Fields<'a>, CheckpointError> {
    match value.as_object() {
        Some(map) => Ok(Fields::new(fields.path, prefix, map)),
        None => Err(fields.error("tiny_overrides", shown(value), "must be objects of dimensions")),
    }
}
