//! What a network needs of a device: some twenty operations at the granularity of TT-NN, and how weights enter.
//!
//! Activations are matrices: rows are positions (patches, tokens), columns are features. Nothing here knows a model,
//! a checkpoint file or ROS. One conformance suite (`tests/backend_conformance.rs`) runs every operation on every
//! backend against a float64 reference.

pub mod cpu;
mod patches;
pub mod precision;
pub mod tt;

use std::ops::Range;

use crate::tensor::{HostTensor, TensorError};

/// What a weight is for; a precision policy chooses number formats by it.
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

/// Applied after the bias of a [`Backend::linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    Identity,
    /// Exact GELU, `x/2 (1 + erf(x/sqrt 2))`.
    Gelu,
}

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of one head.
    pub head_dim: usize,
    /// Whether a rotary embedding turns queries and keys.
    pub rotary: bool,
}

/// How a layer may lie over several chips: what stands around it in the network, not where it must lie. A device with one
/// memory ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Split {
    /// Whole on each chip.
    #[default]
    Whole,
    /// The outputs of each stacked weight may be cut; a [`Split::Rows`] layer follows.
    Columns,
    /// The inputs may be cut as a [`Split::Columns`] layer cut its outputs; the chips' results are added up.
    Rows,
    /// The outputs are the heads `q | k | v` of an attention, which follows; chips take whole heads.
    Heads(HeadShape),
    /// The inputs are what that attention gave; the chips' results are added up.
    AfterHeads(HeadShape),
}

/// A linear layer as it stands in a checkpoint: `y = activation(x W^T + b) * scale`.
#[derive(Clone, Debug)]
pub struct LinearSource {
    /// What it is for.
    pub role: WeightRole,
    /// Weights `[outputs_i, inputs]`, stacked along the outputs (q, k, v of one attention, gate and up of one MLP).
    pub weights: Vec<HostTensor>,
    /// Bias over all outputs, or none.
    pub bias: Option<HostTensor>,
    /// Factor per output (LayerScale); a backend may fold it into weight and bias.
    pub output_scale: Option<HostTensor>,
    /// How it may lie over several chips.
    pub split: Split,
}

/// A layer norm (with bias) or RMS norm (without).
#[derive(Clone, Debug)]
pub struct NormSource {
    /// Gain per column.
    pub weight: HostTensor,
    /// Offset per column; layer norms only.
    pub bias: Option<HostTensor>,
    /// Added to the variance or mean square. Always explicit: defaults differ between libraries.
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
    /// Positions it can hold.
    pub capacity: usize,
    /// Base of the rotary embedding, 10000 for Llama 2.
    pub rope_theta: f64,
}

/// An RGB image and how to normalise it: `(u8 / 255 - mean) / std` per channel, in float32.
#[derive(Clone, Copy, Debug)]
pub struct PatchSource<'a> {
    /// `side * side * 3` bytes, rows top to bottom, channels RGB.
    pub rgb: &'a [u8],
    /// Width and height in pixels.
    pub side: usize,
    /// Width and height of a patch in pixels; divides `side`.
    pub patch: usize,
    /// Mean per channel, 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, 0..1.
    pub std: [f32; 3],
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
    /// Distance between the first and the second.
    #[must_use]
    pub fn margin(self) -> f32 {
        self.value - self.second
    }
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Shapes that do not fit together.
    #[error("{operation}: {detail}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// Both shapes in words.
        detail: String,
    },
    /// A sequence longer than its cache.
    #[error("{operation}: position {position} does not fit a cache of {capacity} positions; shorten the instruction")]
    Capacity {
        /// The operation.
        operation: &'static str,
        /// First position that does not fit.
        position: usize,
        /// Positions of the cache.
        capacity: usize,
    },
    /// A value that is not finite where an answer is taken from.
    #[error("{operation}: a value is not finite; the checkpoint or the number format is broken")]
    NotFinite {
        /// The operation.
        operation: &'static str,
    },
    /// Bytes that do not fill their shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device refused: its own words.
    #[error("{operation}: {detail}")]
    Device {
        /// The operation.
        operation: &'static str,
        /// The device's error text.
        detail: String,
    },
}

/// A device that can run a network.
pub trait Backend: Send + Sync {
    /// Activations `[rows, columns]`.
    type Tensor: Send + Sync;
    /// A linear layer ready for use.
    type Linear: Send + Sync;
    /// A norm ready for use.
    type Norm: Send + Sync;
    /// An embedding table ready for use.
    type Table: Send + Sync;
    /// Keys and values of one sequence.
    type Cache: Send;

    /// Device and number formats in words, for logs and reports.
    fn name(&self) -> String;

    /// Runs `work` where the operations run fastest (inside the worker pool, for example).
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Brings a linear layer to the device.
    ///
    /// # Errors
    /// When shapes disagree or memory is short. So for all `load_*`.
    fn load_linear(&self, source: LinearSource) -> Result<Self::Linear, BackendError>;
    /// Brings a norm to the device.
    ///
    /// # Errors
    /// As [`Backend::load_linear`].
    fn load_norm(&self, source: NormSource) -> Result<Self::Norm, BackendError>;
    /// Brings an embedding table `[vocabulary, columns]` to the device.
    ///
    /// # Errors
    /// As [`Backend::load_linear`].
    fn load_table(&self, table: HostTensor) -> Result<Self::Table, BackendError>;
    /// Brings a matrix `[rows, columns]` to the device.
    ///
    /// # Errors
    /// As [`Backend::load_linear`].
    fn upload(&self, tensor: &HostTensor) -> Result<Self::Tensor, BackendError>;
    /// Rows and columns.
    fn shape(&self, tensor: &Self::Tensor) -> [usize; 2];
    /// Brings a matrix back, as float32.
    ///
    /// # Errors
    /// When the device fails.
    fn download(&self, tensor: &Self::Tensor) -> Result<HostTensor, BackendError>;
    /// An empty cache.
    ///
    /// # Errors
    /// When memory is short or the shape is impossible.
    fn new_cache(&self, spec: CacheSpec) -> Result<Self::Cache, BackendError>;
    /// Keys (after RoPE, in the checkpoint's order of columns) and values of one layer, each
    /// `[kv_heads, positions, head_dim]`. For tests and `selfcheck`.
    ///
    /// # Errors
    /// When the layer does not exist or the device fails.
    fn read_cache(&self, cache: &Self::Cache, layer: usize) -> Result<(HostTensor, HostTensor), BackendError>;

    /// Patches of an image, `[patches, 3 * patch * patch]`, columns in the order (channel, y, x) of a convolution's
    /// weight; patches row by row.
    ///
    /// # Errors
    /// When shapes disagree. So for all operations below.
    fn patches(&self, source: PatchSource<'_>) -> Result<Self::Tensor, BackendError>;
    /// `activation(x W^T + b) * scale`.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn linear(
        &self,
        x: &Self::Tensor,
        layer: &Self::Linear,
        activation: Activation,
    ) -> Result<Self::Tensor, BackendError>;
    /// Layer norm over the columns.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn layer_norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor, BackendError>;
    /// RMS norm over the columns.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn rms_norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor, BackendError>;
    /// Sum of two matrices of one shape; the first may be overwritten.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// `silu(gate) * up` where `x` is `[rows, gate | up]`.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// Bidirectional attention where `qkv` is `[rows, q | k | v]`, scaled by `1/sqrt(head_dim)`.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn attention(&self, qkv: &Self::Tensor, heads: usize) -> Result<Self::Tensor, BackendError>;
    /// Causal attention of new positions, `qkv` being `[rows, q | k | v]`: rotates q and k by their positions (pairs
    /// `(i, i + head_dim/2)`, the checkpoint's order), appends k and v to `layer` of the cache from `position` on, and
    /// attends over everything up to each row's own position.
    ///
    /// # Errors
    /// As [`Backend::patches`], and when the cache is full or `position` would leave a gap.
    fn causal_attention(
        &self,
        qkv: &Self::Tensor,
        cache: &mut Self::Cache,
        layer: usize,
        position: usize,
    ) -> Result<Self::Tensor, BackendError>;
    /// Rows of the table.
    ///
    /// # Errors
    /// When an id leaves the table.
    fn embed(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError>;
    /// Matrices of one width, one below the other.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn concat_rows(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError>;
    /// Like [`Backend::concat_rows`], for the input of a causal model: a device whose programs are compiled per shape may
    /// keep more rows than it shows. They follow the last one, so no row that is shown ever sees them.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn sequence(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError> {
        self.concat_rows(parts)
    }
    /// Matrices of one height, side by side.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn concat_columns(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError>;
    /// Rows `range`.
    ///
    /// # Errors
    /// As [`Backend::patches`].
    fn slice_rows(&self, x: &Self::Tensor, range: Range<usize>) -> Result<Self::Tensor, BackendError>;
    /// The two largest values of each row.
    ///
    /// # Errors
    /// When a value is not finite.
    fn top_two(&self, x: &Self::Tensor) -> Result<Vec<TopTwo>, BackendError>;
}

/// The two largest values of a row on the host.
fn top_two_of(row: &[f32]) -> Result<TopTwo, BackendError> {
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
