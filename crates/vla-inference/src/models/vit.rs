//! Vision transformers of timm: DINOv2 with registers and LayerScale, and SigLIP.
//!
//! Pre-norm blocks, fused qkv with bias, exact GELU, layer norm epsilon 1e-6. OpenVLA takes the
//! output of the second-to-last block without the final norm (`get_intermediate_layers(n={depth -
//! 2})` in `prismatic/extern/hf/modeling_prismatic.py`), so the last block is neither loaded nor
//! run.

use super::{ModelError, Probe, Weights};
use crate::backend::{
    Activation, Backend, BackendError, HeadShape, LinearSource, Normalisation,
    PatchEmbeddingSource, TensorParallel, WeightRole,
};
use crate::checkpoint::{TowerConfig, TowerFamily};

/// Name of a tower in the golden kit and in probes.
pub(super) fn family_name(family: TowerFamily) -> &'static str {
    match family {
        TowerFamily::Dinov2 => "dino",
        TowerFamily::Siglip => "siglip",
    }
}

/// What an instruction does to one block's features (FiLM): `x * factor + offset` between attention
/// and MLP. Both are `[1, width]`.
pub struct Modulation<B: Backend> {
    /// One plus the learned scale.
    pub factor: B::Tensor,
    /// The learned shift.
    pub offset: B::Tensor,
}

/// The modulations of all towers for one instruction: by tower, then by block.
pub struct Conditioning<B: Backend>(pub Vec<Vec<Modulation<B>>>);

/// A tower without its last block.
pub struct VisionTower<B: Backend> {
    config: TowerConfig,
    patch_embed: B::PatchEmbedding,
    pos_embed: B::Tensor,
    /// Class token and registers `[1 + registers, width]`.
    prefix: Option<B::Tensor>,
    blocks: Vec<Block<B>>,
}

struct Block<B: Backend> {
    norm1: B::Norm,
    qkv: B::Linear,
    /// With LayerScale `ls1`, if any.
    proj: B::Linear,
    norm2: B::Norm,
    fc1: B::Linear,
    /// With LayerScale `ls2`, if any.
    fc2: B::Linear,
}

impl<B: Backend> VisionTower<B> {
    /// Loads a tower; `weights` is its prefix in the checkpoint.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        weights: &Weights<'_>,
        config: TowerConfig,
        normalisation: Normalisation,
    ) -> Result<Self, ModelError> {
        let TowerConfig { embed_dim: width, patch_size: patch, .. } = config;
        let convolution = weights.at("patch_embed.proj");
        let linear = LinearSource {
            role: WeightRole::Vision,
            weights: vec![convolution.matrix("weight", &[width, 3, patch, patch], width)?],
            bias: Some(convolution.tensor("bias", &[width])?),
            output_scale: None,
            parallelism: TensorParallel::Replicated,
            few_rows: false,
        };
        let patch_embed =
            backend.load_patch_embedding(PatchEmbeddingSource { linear, normalisation })?;
        let rows = |name: &str, rows: usize| -> Result<B::Tensor, ModelError> {
            Ok(backend.upload(&weights.matrix(name, &[1, rows, width], rows)?)?)
        };
        // The class token, then the registers.
        let prefix = match config.prefix_tokens.checked_sub(1) {
            None => None,
            Some(0) => Some(rows("cls_token", 1)?),
            Some(registers) => Some(
                backend.concat_rows(&[&rows("cls_token", 1)?, &rows("reg_token", registers)?])?,
            ),
        };
        let blocks = (0..config.used_blocks())
            .map(|index| Block::load(backend, &weights.at("blocks").at(index), &config))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            patch_embed,
            pos_embed: rows("pos_embed", config.patches())?,
            prefix,
            blocks,
            config,
        })
    }

    /// Shape and constants.
    #[must_use]
    pub fn config(&self) -> &TowerConfig {
        &self.config
    }

    /// Patch features `[patches, embed_dim]` from [`Backend::cut_patches`] of a resized image.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(
        &self,
        backend: &B,
        patches: &B::Tensor,
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        self.modulated(backend, patches, &[], probe)
    }

    /// [`VisionTower::forward`] with the modulation of each block, or none at all.
    ///
    /// # Errors
    /// When the number of modulations is another than that of blocks, or the device fails.
    pub fn modulated(
        &self,
        backend: &B,
        patches: &B::Tensor,
        film: &[Modulation<B>],
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        if !film.is_empty() && film.len() != self.blocks.len() {
            let detail = format!("{} modulations for {} blocks", film.len(), self.blocks.len());
            return Err(BackendError::Shape { operation: "vision tower", detail });
        }
        let name = family_name(self.config.family);
        let x = backend.embed_patches(patches, &self.patch_embed)?;
        probe.observe(&format!("{name}.patch_embed"), &x)?;
        // The position embedding belongs to the patches only; prefix tokens have none.
        let x = backend.add(x, &self.pos_embed)?;
        // Appended here, prepended in timm: bidirectional attention is invariant to the order, and
        // the patches stay aligned to tiles.
        let mut x = match &self.prefix {
            Some(prefix) => backend.concat_rows(&[&x, prefix])?,
            None => x,
        };
        probe.observe(&format!("{name}.embedded"), &x)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(backend, x, self.config.num_heads, film.get(index))?;
            if probe.every_layer() {
                probe.observe(&format!("{name}.block{index}.out"), &x)?;
            }
        }
        let features = match self.config.prefix_tokens {
            0 => x,
            _ => backend.slice_rows(&x, 0..self.config.patches())?,
        };
        probe.observe(&format!("patch_features.{name}"), &features)?;
        Ok(features)
    }
}

impl<B: Backend> Block<B> {
    fn load(backend: &B, weights: &Weights<'_>, config: &TowerConfig) -> Result<Self, ModelError> {
        let &TowerConfig { embed_dim: width, mlp_hidden, .. } = config;
        let epsilon = config.norm_eps as f32;
        let scale = |name: &str| {
            let scaled = config.layer_scale();
            scaled.then(|| weights.at(name).tensor("scale_factor", &[width])).transpose()
        };
        let heads = HeadShape {
            heads: config.num_heads,
            kv_heads: config.num_heads,
            head_dim: config.head_dim(),
            rotary: false,
        };
        let linear = |name, parallelism, shape| {
            weights.linear(backend, (WeightRole::Vision, parallelism), name, shape)
        };
        let scaled = |name, parallelism, shape, scale| {
            weights.scaled_linear(backend, (WeightRole::Vision, parallelism), name, shape, scale)
        };
        Ok(Self {
            norm1: weights.layer_norm(backend, "norm1", width, epsilon)?,
            qkv: linear("attn.qkv", TensorParallel::ColumnByHead(heads), [3 * width, width])?,
            proj: scaled(
                "attn.proj",
                TensorParallel::RowByHead(heads),
                [width, width],
                scale("ls1")?,
            )?,
            norm2: weights.layer_norm(backend, "norm2", width, epsilon)?,
            fc1: linear("mlp.fc1", TensorParallel::Column, [mlp_hidden, width])?,
            fc2: scaled("mlp.fc2", TensorParallel::Row, [width, mlp_hidden], scale("ls2")?)?,
        })
    }

    fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        heads: usize,
        film: Option<&Modulation<B>>,
    ) -> Result<B::Tensor, BackendError> {
        let normed = backend.layer_norm(&x, &self.norm1)?;
        let qkv = backend.linear(&normed, &self.qkv, Activation::Identity)?;
        let attended = backend.attention(&qkv, heads)?;
        let x = backend.add(x, &backend.linear(&attended, &self.proj, Activation::Identity)?)?;
        let x = match film {
            Some(Modulation { factor, offset }) => backend.multiply_add(&x, factor, offset)?,
            None => x,
        };
        let normed = backend.layer_norm(&x, &self.norm2)?;
        let hidden = backend.linear(&normed, &self.fc1, Activation::Gelu)?;
        backend.add(x, &backend.linear(&hidden, &self.fc2, Activation::Identity)?)
    }
}
