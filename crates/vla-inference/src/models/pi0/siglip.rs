//! SigLIP as PaliGemma has it, in Hugging Face's names: pre-norm layers, tanh GELU, all layers,
//! `post_layernorm` applied (`transformers/models/siglip/modeling_siglip.py`).

use super::position::interpolated;
use crate::backend::{
    Activation, Backend, BackendError, HeadShape, LinearSource, TensorParallel, WeightRole,
};
use crate::checkpoint::pi0::SiglipConfig;
use crate::models::{ModelError, Weights};
use crate::tensor::HostTensor;

/// Epsilon of its layer norms.
const EPSILON: f32 = 1e-6;

/// The vision tower of PaliGemma.
pub struct SiglipTower<B: Backend> {
    /// Over `[patches, 3 * patch * patch]`, columns in the order (channel, y, x).
    patch_embedding: B::Linear,
    /// `[patches, hidden]`, interpolated to the grid of the images.
    position_embedding: B::Tensor,
    layers: Vec<Layer<B>>,
    post_layernorm: B::Norm,
    heads: usize,
}

struct Layer<B: Backend> {
    layer_norm1: B::Norm,
    qkv: B::Linear,
    out_proj: B::Linear,
    layer_norm2: B::Norm,
    fc1: B::Linear,
    fc2: B::Linear,
}

impl<B: Backend> SiglipTower<B> {
    /// Loads `vision_model.*` for images of `grid` patches (rows, columns); the file holds
    /// `positions` position embeddings.
    ///
    /// # Errors
    /// When a tensor is missing, misshapen or refused by the device.
    pub fn load(
        backend: &B,
        weights: &Weights<'_>,
        config: &SiglipConfig,
        positions: usize,
        grid: [usize; 2],
    ) -> Result<Self, ModelError> {
        let SiglipConfig { hidden_size: width, patch_size: patch, .. } = *config;
        let embeddings = weights.at("embeddings");
        let convolution = embeddings.at("patch_embedding");
        let patch_embedding = backend.load_linear(LinearSource {
            role: WeightRole::Vision,
            weights: vec![convolution.matrix("weight", &[width, 3, patch, patch], width)?],
            bias: Some(convolution.tensor("bias", &[width])?),
            output_scale: None,
            parallelism: TensorParallel::Replicated,
            few_rows: false,
        })?;
        let stored = embeddings.tensor("position_embedding.weight", &[positions, width])?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(backend, &weights.at("encoder.layers").at(index), config))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            patch_embedding,
            position_embedding: backend.upload(&interpolated(&stored, grid)?)?,
            layers,
            post_layernorm: weights.layer_norm(backend, "post_layernorm", width, EPSILON)?,
            heads: config.num_attention_heads,
        })
    }

    /// Features `[patches, hidden]` of one image, from its patches `[patches, 3 * patch * patch]`
    /// with values from -1 to 1.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward(&self, backend: &B, patches: &B::Tensor) -> Result<B::Tensor, BackendError> {
        let x = backend.linear(patches, &self.patch_embedding, Activation::Identity)?;
        let mut x = backend.add(x, &self.position_embedding)?;
        for layer in &self.layers {
            x = layer.forward(backend, x, self.heads)?;
        }
        backend.layer_norm(&x, &self.post_layernorm)
    }
}

impl<B: Backend> Layer<B> {
    fn load(backend: &B, weights: &Weights<'_>, config: &SiglipConfig) -> Result<Self, ModelError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let shape = HeadShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_attention_heads,
            head_dim: width / config.num_attention_heads,
            rotary: false,
        };
        let linear = |name, parallelism, shape| {
            weights.linear(backend, (WeightRole::Vision, parallelism), name, shape)
        };
        let column = (WeightRole::Vision, TensorParallel::ColumnByHead(shape));
        let qkv = [("q_proj", width), ("k_proj", width), ("v_proj", width)];
        Ok(Self {
            layer_norm1: weights.layer_norm(backend, "layer_norm1", width, EPSILON)?,
            qkv: weights.at("self_attn").stacked_with_bias(backend, column, &qkv, width)?,
            out_proj: linear(
                "self_attn.out_proj",
                TensorParallel::RowByHead(shape),
                [width, width],
            )?,
            layer_norm2: weights.layer_norm(backend, "layer_norm2", width, EPSILON)?,
            fc1: linear("mlp.fc1", TensorParallel::Column, [inner, width])?,
            fc2: linear("mlp.fc2", TensorParallel::Row, [width, inner])?,
        })
    }

    fn forward(&self, backend: &B, x: B::Tensor, heads: usize) -> Result<B::Tensor, BackendError> {
        let normed = backend.layer_norm(&x, &self.layer_norm1)?;
        let qkv = backend.linear(&normed, &self.qkv, Activation::Identity)?;
        let attended = backend.attention(&qkv, heads)?;
        let x =
            backend.add(x, &backend.linear(&attended, &self.out_proj, Activation::Identity)?)?;
        let normed = backend.layer_norm(&x, &self.layer_norm2)?;
        let hidden = backend.linear(&normed, &self.fc1, Activation::GeluTanh)?;
        backend.add(x, &backend.linear(&hidden, &self.fc2, Activation::Identity)?)
    }
}

/// Patches of an image with channels outermost, `[3, height, width]`: `[patches, 3 * patch *
/// patch]`, patches row by row, columns in the order (channel, y, x). Pixels beyond the last whole
/// patch are left out.
///
/// # Errors
/// When the values do not fill the image, or it is smaller than a patch.
pub fn patches_of(
    values: &[f32],
    [height, width]: [usize; 2],
    patch: usize,
) -> Result<HostTensor, BackendError> {
    if patch == 0 || height < patch || width < patch || values.len() != 3 * height * width {
        let detail =
            format!("{} values are not 3 x {height} x {width} in patches of {patch}", values.len());
        return Err(BackendError::Shape { operation: "patches", detail });
    }
    let mut rows = Vec::with_capacity(values.len());
    let (down, across) = (height / patch, width / patch);
    for top in (0..down).map(|row| row * patch) {
        for left in (0..across).map(|column| column * patch) {
            for channel in 0..3 {
                for y in top..top + patch {
                    let start = (channel * height + y) * width + left;
                    rows.extend_from_slice(&values[start..start + patch]);
                }
            }
        }
    }
    Ok(HostTensor::from_f32(&[down * across, 3 * patch * patch], rows)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patches_are_cut_row_by_row_and_the_rest_is_left_out() {
        // 3 x 5 x 7 pixels in patches of 2: two rows of three, the last row and column left out.
        let values: Vec<f32> = (0..3 * 5 * 7).map(|at| at as f32).collect();
        let patches = patches_of(&values, [5, 7], 2).unwrap();
        assert_eq!(patches.shape(), [6, 12]);
        let last = patches.rows(5..6).unwrap().to_f32();
        assert_eq!(last[..4], [18., 19., 25., 26.]);
        assert_eq!(last[4..8], [53., 54., 60., 61.]);
        assert!(patches_of(&values, [5, 7], 6).is_err() && patches_of(&values, [5, 6], 2).is_err());
    }
}
