//! The vision towers, identified by their timm names: head counts and MLP ratios cannot be read from
//! tensor shapes.

use serde_json::Value;

use super::error::CheckpointError;
use super::fields::{Fields, shown};
use crate::text::one_line;

/// Tower architecture; the two differ in tensors and arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum TowerFamily {
    /// DINOv2 with class token, four registers and LayerScale.
    Dinov2,
    /// SigLIP: no prefix tokens, no LayerScale, an attention pool that inference never uses.
    Siglip,
}

/// Shape and constants of one vision transformer.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TowerConfig {
    /// Prefix of its tensor names: `vision_backbone.featurizer`.
    pub prefix: &'static str,
    /// The timm model's name, as in `timm_model_ids`.
    pub timm_id: &'static str,
    /// Architecture.
    pub family: TowerFamily,
    /// Width of the residual stream (1024 or 1152).
    pub embed_dim: usize,
    /// Blocks in the checkpoint (24 or 27). The model runs all but the last.
    pub depth: usize,
    /// Attention heads; divides `embed_dim` (16).
    pub num_heads: usize,
    /// Width inside the MLP (4096 or 4304).
    pub mlp_hidden: usize,
    /// Side of a patch, pixels (14).
    pub patch_size: usize,
    /// Side of the square input image, pixels (224).
    pub img_size: usize,
    /// Class and register tokens in front of the patches (5 or 0); they are dropped from the
    /// output.
    pub prefix_tokens: usize,
    /// Epsilon of LayerNorm (1e-6).
    pub norm_eps: f64,
}

impl TowerConfig {
    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.img_size / self.patch_size
    }

    /// Patches of an image; `grid` squared (256).
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads
    }

    /// Blocks that inference runs: the features are the second-to-last block's output.
    pub fn used_blocks(&self) -> usize {
        self.depth - 1
    }

    /// Whether the residual branches are scaled (`ls1`, `ls2`).
    pub fn layer_scale(&self) -> bool {
        self.family == TowerFamily::Dinov2
    }
}

struct Known {
    timm_id: &'static str,
    family: TowerFamily,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    /// `mlp_hidden = floor(embed_dim * mlp_ratio)`, as timm computes it.
    mlp_ratio: f64,
    prefix_tokens: usize,
}

const KNOWN: [Known; 2] = [
    Known {
        timm_id: "vit_large_patch14_reg4_dinov2.lvd142m",
        family: TowerFamily::Dinov2,
        embed_dim: 1024,
        depth: 24,
        num_heads: 16,
        mlp_ratio: 4.0,
        prefix_tokens: 5,
    },
    Known {
        timm_id: "vit_so400m_patch14_siglip_224",
        family: TowerFamily::Siglip,
        embed_dim: 1152,
        depth: 27,
        num_heads: 16,
        mlp_ratio: 3.7362,
        prefix_tokens: 0,
    },
];

/// `vision_backbone_id` to timm names, for configurations without `timm_model_ids`.
const BACKBONES: [(&str, &[&str]); 3] = [
    (
        "dinosiglip-vit-so-224px",
        &["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    ),
    ("siglip-vit-so400m", &["vit_so400m_patch14_siglip_224"]),
    ("dinov2-vit-l", &["vit_large_patch14_reg4_dinov2.lvd142m"]),
];

/// Side of a patch of every known tower, pixels.
const PATCH: usize = 14;
/// Tensor name prefixes of the towers in the checkpoint, in channel order.
const PREFIXES: [&str; 2] = ["vision_backbone.featurizer", "vision_backbone.fused_featurizer"];

/// Reads the towers in the order of the pixel channels.
pub(super) fn read_towers(fields: &Fields<'_>) -> Result<Vec<TowerConfig>, CheckpointError> {
    let ids = timm_ids(fields)?;
    let sizes = image_sizes(fields, ids.len())?;
    if let Some(values) = fields.list("timm_override_act_layers")?
        && let Some(value) = values.iter().find(|value| !value.is_null())
    {
        return Err(fields.error(
            "timm_override_act_layers",
            shown(value),
            "another activation than GELU is not implemented; use a checkpoint with null here",
        ));
    }
    let overrides = fields.list("tiny_timm_overrides")?;
    if let Some(overrides) = overrides
        && overrides.len() != ids.len()
    {
        return Err(fields.error(
            "tiny_timm_overrides",
            format!("a list of {}", overrides.len()),
            format!("must have one entry for each of the {} timm_model_ids", ids.len()),
        ));
    }
    let mut towers = Vec::new();
    for (position, ((id, image_size), prefix)) in ids.iter().zip(sizes).zip(PREFIXES).enumerate() {
        let Some(known) = KNOWN.iter().find(|known| known.timm_id == *id) else {
            let names: Vec<&str> = KNOWN.iter().map(|known| known.timm_id).collect();
            return Err(fields.error(
                "timm_model_ids",
                format!("\"{}\"", one_line(id)),
                format!(
                    "this vision tower is not implemented; use a checkpoint with {}",
                    names.join(" and ")
                ),
            ));
        };
        let (width, depth, heads) = match overrides.and_then(|list| list.get(position)) {
            Some(value) => overridden(fields, position, value, known)?,
            None => (known.embed_dim, known.depth, known.num_heads),
        };
        towers.push(TowerConfig {
            prefix,
            timm_id: known.timm_id,
            family: known.family,
            embed_dim: width,
            depth,
            num_heads: heads,
            // Exact for every width in range: the product is far below 2^53.
            mlp_hidden: (width as f64 * known.mlp_ratio) as usize,
            patch_size: PATCH,
            img_size: image_size,
            prefix_tokens: known.prefix_tokens,
            norm_eps: 1e-6,
        });
    }
    Ok(towers)
}

fn timm_ids<'a>(fields: &Fields<'a>) -> Result<Vec<&'a str>, CheckpointError> {
    let ids = match fields.texts("timm_model_ids")? {
        Some(ids) => ids,
        None => {
            let names: Vec<&str> = BACKBONES.iter().map(|backbone| backbone.0).collect();
            let wanted = format!("set it to one of {}, or give timm_model_ids", names.join(", "));
            let Some(id) = fields.text("vision_backbone_id")? else {
                return Err(fields.error("vision_backbone_id", "missing", wanted));
            };
            match BACKBONES.iter().find(|backbone| backbone.0 == id) {
                Some(backbone) => backbone.1.to_vec(),
                None => {
                    return Err(fields.error(
                        "vision_backbone_id",
                        format!("\"{}\"", one_line(id)),
                        wanted,
                    ));
                }
            }
        }
    };
    let fused = fields.flag("use_fused_vision_backbone", ids.len() == 2)?;
    let expected = if fused { 2 } else { 1 };
    if ids.len() != expected {
        let remedy = format!(
            "use_fused_vision_backbone {fused} needs {expected} timm_model_ids; restore the file \
            from the original checkpoint"
        );
        return Err(fields.error("timm_model_ids", format!("a list of {}", ids.len()), remedy));
    }
    Ok(ids)
}

fn image_sizes(fields: &Fields<'_>, towers: usize) -> Result<Vec<usize>, CheckpointError> {
    let Some(values) = fields.list("image_sizes")? else { return Ok(vec![224; towers]) };
    let sizes: Option<Vec<usize>> = values
        .iter()
        .map(|value| value.as_u64().and_then(|size| usize::try_from(size).ok()))
        .collect();
    let valid = sizes.as_ref().is_some_and(|sizes| {
        sizes.len() == towers
            && sizes
                .iter()
                .all(|&size| (PATCH..=1022).contains(&size) && size.is_multiple_of(PATCH))
            && sizes.windows(2).all(|pair| matches!(pair, [a, b] if a == b))
    });
    match sizes {
        Some(sizes) if valid => Ok(sizes),
        _ => Err(fields.error(
            "image_sizes",
            super::fields::shown_list(values),
            format!(
                "must be {towers} equal multiples of {PATCH} up to 1022; restore the file from \
                the original checkpoint"
            ),
        )),
    }
}

/// Width, depth and heads of a small test checkpoint's tower.
fn overridden(
    fields: &Fields<'_>,
    position: usize,
    value: &Value,
    known: &Known,
) -> Result<(usize, usize, usize), CheckpointError> {
    let prefix = format!("{}tiny_timm_overrides[{position}].", fields.prefix);
    let Some(map) = value.as_object() else {
        return Err(fields.error(
            "tiny_timm_overrides",
            shown(value),
            "must be a list of {embed_dim, depth, num_heads}",
        ));
    };
    let inner = Fields::new(fields.path, &prefix, map);
    if let Some(name) =
        map.keys().find(|name| !["embed_dim", "depth", "num_heads"].contains(&name.as_str()))
    {
        return Err(inner.error(
            name,
            "not a known override",
            "use embed_dim, depth and num_heads only",
        ));
    }
    let width = inner.size("embed_dim", known.embed_dim, 1, 16_384)?;
    let depth = inner.size("depth", known.depth, 2, 256)?;
    let heads = inner.size("num_heads", known.num_heads, 1, 256)?;
    if !width.is_multiple_of(heads) {
        return Err(inner.error(
            "num_heads",
            heads,
            format!("must divide embed_dim {width}; correct one of the two"),
        ));
    }
    Ok((width, depth, heads))
}
