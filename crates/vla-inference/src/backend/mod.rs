//! What a network needs of a device: some thirty operations at the granularity of TT-NN, how
//! weights enter, and how work is recorded so that it runs without the host.
//!
//! Activations are matrices: rows are positions (patches, tokens), columns are features. Nothing
//! here knows a model, a checkpoint file or ROS. One conformance suite
//! (`tests/backend_conformance.rs`) runs every operation on every backend against a float64
//! reference.

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

/// How a layer may lie over several chips: what stands around it in the network, not where it must
/// lie. A device with one memory ignores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Split {
    /// Whole on each chip.
    #[default]
    Whole,
    /// The outputs of each stacked weight may be cut; a [`Split::Rows`] layer follows.
    Columns,
    /// The inputs may be cut as a [`Split::Columns`] layer cut its outputs; the chips' results are
    /// added up.
    Rows,
    /// The outputs are the heads `q | k | v` of an attention, which follows; chips take whole
    /// heads.
    Heads(HeadShape),
    /// The inputs are what that attention gave; the chips' results are added up.
    AfterHeads(HeadShape),
}

/// A linear layer as it stands in a checkpoint: `y = activation(x W^T + b) * scale`.
#[derive(Clone, Debug)]
pub struct LinearSource {
    /// What it is for.
    pub role: WeightRole,
    /// Weights `[outputs_i, inputs]`, stacked along the outputs (q, k, v of one attention, gate and
    /// up of one MLP).
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

/// An RGB image and the patches it is cut into.
#[derive(Clone, Copy, Debug)]
pub struct Pixels<'a> {
    /// `side * side * 3` bytes, rows top to bottom, channels RGB.
    pub rgb: &'a [u8],
    /// Width and height in pixels.
    pub side: usize,
    /// Width and height of a patch in pixels; divides `side`.
    pub patch: usize,
}

/// How pixels are normalised: `(u8 / 255 - mean) / std` per channel.
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
    /// The layer; one weight.
    pub linear: LinearSource,
    /// What its pixels are normalised with.
    pub normalisation: Normalisation,
}

/// Where the new rows of a causal attention stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// From this one on.
    At(usize),
    /// One row, where the cache's own count on the device stands: see [`Backend::seek`]. Only so
    /// can a recording be replayed for one token after the other.
    Counted,
}

/// Tokens to be chosen on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerSpec {
    /// How many are kept.
    pub tokens: usize,
    /// Ids that are chosen among: those of the head's outputs.
    pub ids: Range<u32>,
    /// One past the id that stands for bin 0; lower ids stand for higher bins.
    pub end_id: u32,
    /// Bin centres.
    pub centres: Vec<f32>,
}

/// A token that was chosen on the device, and what the device says about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub id: u32,
    /// Centre of its bin, if the device works it out; without meaning for a token that stands for
    /// no action.
    pub centre: Option<f32>,
    /// Its logit minus the second largest, if the device works it out.
    pub margin: Option<f32>,
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
    #[error(
        "{operation}: position {position} does not fit a cache of {capacity} positions; shorten \
        the instruction"
    )]
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
    type Cache: Send + Sync;
    /// A patch embedding ready for use.
    type PatchEmbedding: Send + Sync;
    /// Pixels on the device, of a fixed size.
    type Image: Send + Sync;
    /// Token ids on the device, of a fixed number.
    type Ids: Send + Sync;
    /// Tokens chosen on the device, see [`Backend::choose`].
    type Answer: Send + Sync;
    /// Recorded work, see [`Backend::record`].
    type Recording: Send + Sync;

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
    fn read_cache(
        &self,
        cache: &Self::Cache,
        layer: usize,
    ) -> Result<(HostTensor, HostTensor), BackendError>;

    /// Brings a patch embedding to the device.
    ///
    /// # Errors
    /// As [`Backend::load_linear`].
    fn load_patch_embedding(
        &self,
        source: PatchEmbeddingSource,
    ) -> Result<Self::PatchEmbedding, BackendError>;
    /// Brings an image to the device.
    ///
    /// # Errors
    /// When shapes disagree. So for all operations below.
    fn image(&self, pixels: Pixels<'_>) -> Result<Self::Image, BackendError>;
    /// Puts another image of the same size in its place.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn renew_image(&self, image: &mut Self::Image, rgb: &[u8]) -> Result<(), BackendError>;
    /// Patches of an image, `[patches, 3 * patch * patch]`, columns in the order (channel, y, x) of
    /// a convolution's weight; patches row by row. Values are bytes minus 128, which every format
    /// holds exactly. Valid until the image is renewed.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn cut_patches(&self, image: &Self::Image) -> Result<Self::Tensor, BackendError>;
    /// Embeds such patches: `normalised(x) W^T + b`.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn embed_patches(
        &self,
        x: &Self::Tensor,
        layer: &Self::PatchEmbedding,
    ) -> Result<Self::Tensor, BackendError>;
    /// `activation(x W^T + b) * scale`.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn linear(
        &self,
        x: &Self::Tensor,
        layer: &Self::Linear,
        activation: Activation,
    ) -> Result<Self::Tensor, BackendError>;
    /// Layer norm over the columns.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn layer_norm(&self, x: &Self::Tensor, norm: &Self::Norm)
    -> Result<Self::Tensor, BackendError>;
    /// RMS norm over the columns.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn rms_norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor, BackendError>;
    /// Sum of two matrices of one shape; the first may be overwritten.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// `silu(gate) * up` where `x` is `[rows, gate | up]`.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// Bidirectional attention where `qkv` is `[rows, q | k | v]`, scaled by `1/sqrt(head_dim)`.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn attention(&self, qkv: &Self::Tensor, heads: usize) -> Result<Self::Tensor, BackendError>;
    /// Causal attention of new positions, `qkv` being `[rows, q | k | v]`: rotates q and k by their
    /// positions (pairs `(i, i + head_dim/2)`, the checkpoint's order), appends k and v to `layer`
    /// of the cache from `position` on, and attends over everything up to each row's own position.
    ///
    /// # Errors
    /// As [`Backend::image`], and when the cache is full or `position` would leave a gap.
    fn causal_attention(
        &self,
        qkv: &Self::Tensor,
        cache: &mut Self::Cache,
        layer: usize,
        position: Position,
    ) -> Result<Self::Tensor, BackendError>;
    /// Says where [`Backend::rewind`] sets the cache's count on the device; sets it there.
    ///
    /// # Errors
    /// When the cache has no such position.
    fn seek(&self, cache: &mut Self::Cache, position: usize) -> Result<(), BackendError>;
    /// Sets the cache's count back to where [`Backend::seek`] put it.
    ///
    /// # Errors
    /// When nothing was sought, or the device fails.
    fn rewind(&self, cache: &mut Self::Cache) -> Result<(), BackendError>;
    /// Moves the cache's count on by one.
    ///
    /// # Errors
    /// As [`Backend::rewind`].
    fn advance(&self, cache: &mut Self::Cache) -> Result<(), BackendError>;
    /// Rows of the table.
    ///
    /// # Errors
    /// When an id leaves the table.
    fn embed(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        self.embed_ids(table, &self.ids(ids)?)
    }
    /// Brings token ids to the device.
    ///
    /// # Errors
    /// When the device fails.
    fn ids(&self, ids: &[u32]) -> Result<Self::Ids, BackendError>;
    /// Puts as many other ids in their place. Whoever replays what reads them answers for their
    /// being in the table.
    ///
    /// # Errors
    /// When there are more or fewer.
    fn renew_ids(&self, place: &mut Self::Ids, ids: &[u32]) -> Result<(), BackendError>;
    /// Like [`Backend::embed`].
    ///
    /// # Errors
    /// As [`Backend::embed`].
    fn embed_ids(&self, table: &Self::Table, ids: &Self::Ids)
    -> Result<Self::Tensor, BackendError>;
    /// Matrices of one width, one below the other.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn concat_rows(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError>;
    /// Like [`Backend::concat_rows`], for the input of a causal model: a device whose programs are
    /// compiled per shape may keep more rows than it shows. They follow the last one, so no row
    /// that is shown ever sees them.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn sequence(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError> {
        self.concat_rows(parts)
    }
    /// Matrices of one height, side by side.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn concat_columns(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError>;
    /// Rows `range`.
    ///
    /// # Errors
    /// As [`Backend::image`].
    fn slice_rows(
        &self,
        x: &Self::Tensor,
        range: Range<usize>,
    ) -> Result<Self::Tensor, BackendError>;
    /// The two largest values of each row.
    ///
    /// # Errors
    /// When a value is not finite.
    fn top_two(&self, x: &Self::Tensor) -> Result<Vec<TopTwo>, BackendError>;

    /// Room for tokens that are chosen on the device; `table` has their embeddings.
    ///
    /// # Errors
    /// When the ids leave the table, or memory is short.
    fn new_answer(
        &self,
        spec: AnswerSpec,
        table: &Self::Table,
    ) -> Result<Self::Answer, BackendError>;
    /// Chooses a token on the device: the largest output of `head` for the one row of `x`, the
    /// lowest id of equal ones. It becomes the answer's newest token, the oldest is forgotten, and
    /// nothing comes to the host.
    ///
    /// # Errors
    /// When shapes disagree or the device fails. What is not finite is told by
    /// [`Backend::read_answer`] at the latest.
    fn choose(
        &self,
        x: &Self::Tensor,
        head: &Self::Linear,
        table: &Self::Table,
        answer: &mut Self::Answer,
    ) -> Result<(), BackendError>;
    /// Makes a token that the host names the one whose embedding [`Backend::chosen_row`] gives. Not
    /// for recordings.
    ///
    /// # Errors
    /// When the id leaves the table or the device fails.
    fn tell(
        &self,
        answer: &mut Self::Answer,
        table: &Self::Table,
        id: u32,
    ) -> Result<(), BackendError>;
    /// Embedding of the answer's newest token, `[1, columns]`.
    ///
    /// # Errors
    /// When nothing was chosen.
    fn chosen_row(&self, answer: &Self::Answer) -> Result<Self::Tensor, BackendError>;
    /// The chosen tokens, oldest first: one read.
    ///
    /// # Errors
    /// When a logit was not finite, or the device fails.
    fn read_answer(&self, answer: &Self::Answer) -> Result<Vec<Choice>, BackendError>;

    /// Whether [`Backend::record`] records.
    fn records(&self) -> bool {
        false
    }
    /// Records what `work` asks of the device, without doing it; `None` from a device that cannot.
    /// The same work must have been done once before. Inside nothing can be uploaded or downloaded,
    /// and what it makes holds nothing until the recording is replayed.
    ///
    /// # Errors
    /// When the work fails or does what cannot be recorded.
    fn record(
        &self,
        work: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Option<Self::Recording>, BackendError> {
        let _ = work;
        Ok(None)
    }
    /// Does recorded work again; may return before it is done.
    ///
    /// # Errors
    /// When the device fails.
    fn replay(&self, recording: &Self::Recording) -> Result<(), BackendError>;
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
