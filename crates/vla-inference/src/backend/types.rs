//! Data types of the backend interface: layer sources, shapes, errors.

use crate::tensor::{HostTensor, TensorError};

/// Part of the network that a weight belongs to; selects its number format in a precision policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightRole {
    /// The towers' patch embeddings, attention and MLPs.
    Vision,
    /// The projector between towers and language model.
    Projector,
    /// Query, key, value and output projections of the language model.
    Attention,
    /// Gate, up and down projections of the language model.
    Mlp,
    /// Token embedding table.
    Embedding,
    /// Output head.
    Head,
}

/// Activation function applied after the bias by [`Backend::linear`](super::Backend::linear).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// No activation.
    Identity,
    /// Exact GELU, `x/2 (1 + erf(x/sqrt 2))`.
    Gelu,
    /// Tanh form of GELU, `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: SigLIP's and Gemma's
    /// (`gelu_pytorch_tanh`). It differs from the exact one by up to 5e-4.
    GeluTanh,
    /// `x / (1 + e^-x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

/// Positions that a new row attends to, see
/// [`Backend::cached_attention`](super::Backend::cached_attention).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// The row's own position and all before it.
    Causal,
    /// All positions of the cache before the new rows, and all new rows.
    Bidirectional,
}

/// Head layout of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// Whether queries and keys get a rotary position embedding (RoPE).
    pub rotary: bool,
}

/// Role of a linear layer under tensor parallelism (Megatron-style column- and row-parallel
/// pairs). The model states the role; the backend chooses the placement. A backend with one memory
/// ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TensorParallel {
    /// The whole weight on each chip.
    #[default]
    Replicated,
    /// Column-parallel: the outputs of each stacked weight may be sharded. A
    /// [`TensorParallel::Row`] layer consumes them.
    Column,
    /// Row-parallel: the inputs are sharded like the outputs of the preceding
    /// [`TensorParallel::Column`] layer; partial sums are all-reduced.
    Row,
    /// Column-parallel by whole heads: the outputs are `q | k | v` of an attention.
    ColumnByHead(HeadShape),
    /// Row-parallel by whole heads: the inputs are the output of that attention; partial sums are
    /// all-reduced.
    RowByHead(HeadShape),
}

/// A linear layer as stored in a checkpoint: `y = activation(x W^T + b) * scale`.
#[derive(Clone, Debug)]
pub struct LinearSource {
    /// Part of the network.
    pub role: WeightRole,
    /// Weights `[outputs_i, inputs]`, stacked along the outputs (q, k, v of one attention, gate and
    /// up of one MLP).
    pub weights: Vec<HostTensor>,
    /// Bias over all outputs, or none.
    pub bias: Option<HostTensor>,
    /// Factor per output (LayerScale); a backend may fold it into weight and bias.
    pub output_scale: Option<HostTensor>,
    /// Role under tensor parallelism.
    pub parallelism: TensorParallel,
    /// Whether every pass has a few tiles of rows only, so that an all-reduce may take longer than
    /// the division of the weight saves.
    pub few_rows: bool,
}

/// A layer norm (with bias) or RMS norm (without).
#[derive(Clone, Debug)]
pub struct NormSource {
    /// Gain, one per column.
    pub weight: HostTensor,
    /// Offset, one per column; layer norms only.
    pub bias: Option<HostTensor>,
    /// Added to the variance or mean square. Always explicit, because defaults differ
    /// between libraries.
    pub epsilon: f32,
}

/// Shape of the key/value cache of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheSpec {
    /// Layers of the language model.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of one head; even.
    pub head_dim: usize,
    /// Positions allocated.
    pub capacity: usize,
    /// Base of the rotary embedding, 10000 for Llama 2.
    pub rope_theta: f64,
}

/// An RGB image and its patch size.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// `side * side * 3` bytes, rows top to bottom, channels RGB.
    pub rgb: &'a [u8],
    /// Width and height in pixels.
    pub side: usize,
    /// Width and height of a patch in pixels; divides `side`.
    pub patch: usize,
}

/// Pixel normalisation: `(u8 / 255 - mean) / std` per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Mean per channel, 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, 0..1.
    pub std: [f32; 3],
}

/// A patch embedding: a linear layer over normalised pixels, inputs in the order (channel, y, x).
#[derive(Clone, Debug)]
pub struct PatchEmbeddingSource {
    /// The layer; exactly one weight.
    pub linear: LinearSource,
    /// Normalisation of its input pixels.
    pub normalisation: Normalisation,
}

/// The two largest values of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopTwo {
    /// Column of the largest value; the lowest column wins ties, as in PyTorch.
    pub index: usize,
    /// The largest value.
    pub value: f32,
    /// The second largest value.
    pub second: f32,
}

impl TopTwo {
    /// Largest minus second largest value.
    #[must_use]
    pub fn logit_margin(self) -> f32 {
        self.value - self.second
    }
}

/// Error of a backend operation.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Inconsistent shapes.
    #[error("{operation}: {detail}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// The shapes in words.
        detail: String,
    },
    /// A sequence longer than its KV cache.
    #[error(
        "{operation}: position {position} does not fit a cache of {capacity} positions; shorten \
        the instruction"
    )]
    Capacity {
        /// The operation.
        operation: &'static str,
        /// First position outside the cache.
        position: usize,
        /// Positions of the cache.
        capacity: usize,
    },
    /// A logit is NaN or infinite.
    #[error("{operation}: a value is not finite; the checkpoint or the number format is broken")]
    NotFinite {
        /// The operation.
        operation: &'static str,
    },
    /// A byte buffer whose length does not match its shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device reported an error.
    #[error("{operation}: {detail}")]
    Device {
        /// The operation.
        operation: &'static str,
        /// The device's error text.
        detail: String,
    },
}

/// The two largest values of a row on the host; the lowest column wins ties.
pub(super) fn top_two_of(row: &[f32]) -> Result<TopTwo, BackendError> {
    let mut top = TopTwo { index: 0, value: f32::NEG_INFINITY, second: f32::NEG_INFINITY };
    for (index, &value) in row.iter().enumerate() {
        if !value.is_finite() {
            return Err(BackendError::NotFinite { operation: "top_two" });
        }
        if value > top.value {
            top = TopTwo { index, value, second: top.value };
        } else if value > top.second {
            top.second = value;
        }
    }
    Ok(top)
}
