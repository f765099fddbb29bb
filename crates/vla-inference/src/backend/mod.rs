//! Device interface of the networks: eager operations at the granularity of TT-NN
//! ([`Backend`]), and traced decoding on a device that can replay captured work
//! ([`TraceBackend`]).
//!
//! Activations are matrices: rows are positions (patches or tokens), columns are features. This
//! module depends on no model, checkpoint file or ROS type. One conformance suite
//! (`tests/backend_conformance.rs`) compares every operation of every backend with a float64
//! reference.
//!
//! | implementation | traits |
//! |---|---|
//! | [`cpu::CpuBackend`]: float32 on the host, the reference of all tests | [`Backend`] |
//! | [`tt::TtBackend`]: 1, 2 or 8 Wormhole chips, simulated or silicon | both |
//!
//! # Terms
//!
//! - **Eager**: each operation is launched by the host.
//! - **Trace**: device operations captured once ([`TraceBackend::capture_trace`], TT-NN's
//!   `begin_trace_capture`) and executed again without the host
//!   ([`TraceBackend::execute_trace`], TT-NN's `execute_trace`).
//! - **Token buffer**: the newest tokens on the device, selected there by argmax, with the
//!   embedding of the last one ([`TraceBackend::argmax_append`]).
//! - **KV cache**: rotated keys and values of one sequence, per layer ([`Backend::new_cache`]).
//! - **Block cache**: a KV cache whose rows are computed in blocks that see themselves and the
//!   blocks before them ([`Backend::new_block_cache`]).
//! - **Position counter**: the next row of the KV cache, counted on the device so that one trace
//!   serves every decode step ([`TraceBackend::set_position`]).
//! - **Tensor parallel**: a layer's weight divided over the chips by outputs (column-parallel) or
//!   by inputs with an all-reduce of the partial sums (row-parallel), see [`TensorParallel`].
//! - **Sharding**: the physical distribution of a matrix's columns over the chips
//!   (`tt/sharding.rs`).
//! - **Resharding**: a change of sharding between two layers; none occurs in the supported models.
//! - **Logit margin**: largest minus second largest logit of one token.
//! - **LayerScale**: a learned factor per output of a vision block
//!   ([`LinearSource::output_scale`]).

pub mod cpu;
mod patches;
pub mod precision;
mod trace;
pub mod tt;
mod types;

use std::ops::Range;

use crate::tensor::HostTensor;
pub use trace::{GreedyToken, TokenBufferSpec, TraceBackend};
use types::top_two_of;
pub use types::{
    Activation, BackendError, CacheSpec, HeadShape, LinearSource, Mask, NormSource, Normalisation,
    PatchEmbeddingSource, Pixels, TensorParallel, TopTwo, WeightRole,
};

/// Eager operations of a device.
///
/// # Errors
/// Every operation returns [`BackendError::Shape`] for shapes that do not fit together and
/// [`BackendError::Device`] for a failure of the device; further errors are named at the method.
#[allow(clippy::missing_errors_doc)]
pub trait Backend: Send + Sync {
    /// Activations `[rows, columns]`.
    type Tensor: Send + Sync;
    /// A loaded linear layer.
    type Linear: Send + Sync;
    /// A loaded layer norm or RMS norm.
    type Norm: Send + Sync;
    /// A loaded embedding table `[vocabulary, columns]`.
    type Table: Send + Sync;
    /// KV cache of one sequence.
    type Cache: Send + Sync;
    /// A loaded patch embedding.
    type PatchEmbedding: Send + Sync;
    /// An RGB image on the device.
    type Image: Send + Sync;

    /// Device and number formats in words, for logs and reports.
    fn name(&self) -> String;

    /// Runs `work` on the backend's own threads where it has any (the CPU's worker pool).
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Loads a linear layer.
    fn load_linear(&self, source: LinearSource) -> Result<Self::Linear, BackendError>;
    /// Loads a layer norm or RMS norm.
    fn load_norm(&self, source: NormSource) -> Result<Self::Norm, BackendError>;
    /// Loads an embedding table `[vocabulary, columns]`.
    fn load_table(&self, table: HostTensor) -> Result<Self::Table, BackendError>;
    /// Loads a patch embedding.
    fn load_patch_embedding(
        &self,
        source: PatchEmbeddingSource,
    ) -> Result<Self::PatchEmbedding, BackendError>;
    /// Copies a matrix `[rows, columns]` to the device.
    fn upload(&self, tensor: &HostTensor) -> Result<Self::Tensor, BackendError>;
    /// Rows and columns of a matrix.
    fn shape(&self, tensor: &Self::Tensor) -> [usize; 2];
    /// Copies a matrix to the host, as float32.
    fn download(&self, tensor: &Self::Tensor) -> Result<HostTensor, BackendError>;
    /// Allocates an empty KV cache.
    fn new_cache(&self, spec: CacheSpec) -> Result<Self::Cache, BackendError>;
    /// Allocates a KV cache for a sequence in blocks of `rows` positions each, which
    /// [`Backend::cached_attention`] with [`Mask::Bidirectional`] and [`Backend::write_cache`] fill
    /// one block at a time: a row sees its own block and those before it. `spec.capacity` is not
    /// read. A device that compiles programs per shape may store each block at a boundary of its
    /// own, with padding rows that nothing sees; the rows of a block then come from
    /// [`Backend::upload_block`] or [`Backend::concat_sequence`].
    fn new_block_cache(
        &self,
        spec: CacheSpec,
        rows: &[usize],
    ) -> Result<Self::Cache, BackendError> {
        self.new_cache(CacheSpec { capacity: rows.iter().sum(), ..spec })
    }
    /// Copies the rows of a block to the device, see [`Backend::new_block_cache`].
    fn upload_block(&self, rows: &HostTensor) -> Result<Self::Tensor, BackendError> {
        self.upload(rows)
    }
    /// Like [`Backend::upload_block`], without rounding: for a state that is integrated.
    fn upload_block_f32(&self, rows: &HostTensor) -> Result<Self::Tensor, BackendError> {
        self.upload(rows)
    }
    /// Keys (after RoPE, in the checkpoint's column order) and values of one layer, each
    /// `[kv_heads, positions, head_dim]`. For tests and `selfcheck`.
    fn read_cache(
        &self,
        cache: &Self::Cache,
        layer: usize,
    ) -> Result<(HostTensor, HostTensor), BackendError>;
    /// Copies an image to the device.
    fn upload_image(&self, pixels: Pixels<'_>) -> Result<Self::Image, BackendError>;
    /// Patches of an image, `[patches, 3 * patch * patch]`: patches row by row, columns in the
    /// order (channel, y, x) of a convolution weight. Values are bytes minus 128, which every
    /// number format represents exactly.
    fn cut_patches(&self, image: &Self::Image) -> Result<Self::Tensor, BackendError>;
    /// Embeds the result of [`Backend::cut_patches`]: `normalised(x) W^T + b`, `[patches,
    /// outputs]`.
    fn embed_patches(
        &self,
        x: &Self::Tensor,
        layer: &Self::PatchEmbedding,
    ) -> Result<Self::Tensor, BackendError>;
    /// `activation(x W^T + b) * scale`, `[rows, inputs]` to `[rows, outputs]`.
    fn linear(
        &self,
        x: &Self::Tensor,
        layer: &Self::Linear,
        activation: Activation,
    ) -> Result<Self::Tensor, BackendError>;
    /// Layer norm over the columns.
    fn layer_norm(&self, x: &Self::Tensor, norm: &Self::Norm)
    -> Result<Self::Tensor, BackendError>;
    /// RMS norm over the columns.
    fn rms_norm(&self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor, BackendError>;
    /// Sum of two matrices of the same shape; may reuse the first one's memory.
    fn add(&self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// `x * factor + offset`; `factor` and `offset` have the shape of `x`, or one row that serves
    /// every row of `x`: scale and shift of adaptive norms and FiLM, gated residuals, Euler steps.
    fn multiply_add(
        &self,
        x: &Self::Tensor,
        factor: &Self::Tensor,
        offset: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError>;
    /// `silu(gate) * up` for `x` = `[rows, gate | up]`.
    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// `gelu_tanh(gate) * up` for `x` = `[rows, gate | up]`, see [`Activation::GeluTanh`].
    fn gelu_tanh_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// Bidirectional attention for `qkv` = `[rows, q | k | v]`, scores scaled by
    /// `1/sqrt(head_dim)`.
    fn attention(&self, qkv: &Self::Tensor, heads: usize) -> Result<Self::Tensor, BackendError>;
    /// Attention of the new positions `position..position + rows`, `qkv` = `[rows, q | k | v]`.
    /// Rotates q and k (pairs `(i, i + head_dim/2)`, the checkpoint's order), writes k and v to
    /// `layer` of the KV cache, and attends each row to the positions that `mask` names. Positions
    /// after the last new row are dropped, so that rows of a fixed position can be repeated over
    /// one prefix.
    ///
    /// # Errors
    /// [`BackendError::Capacity`] for a full cache; also when `position` would leave a gap.
    fn cached_attention(
        &self,
        qkv: &Self::Tensor,
        cache: &mut Self::Cache,
        layer: usize,
        position: usize,
        mask: Mask,
    ) -> Result<Self::Tensor, BackendError>;
    /// What [`Backend::cached_attention`] writes to the KV cache, without the attention: for a
    /// layer of which only keys and values are needed.
    ///
    /// # Errors
    /// As [`Backend::cached_attention`].
    fn write_cache(
        &self,
        qkv: &Self::Tensor,
        cache: &mut Self::Cache,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError>;
    /// Rows `ids` of an embedding table, `[ids, columns]`.
    ///
    /// # Errors
    /// When an id is outside the table.
    fn embed(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError>;
    /// Concatenates matrices of the same width along the rows.
    fn concat_rows(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError>;
    /// Like [`Backend::concat_rows`], for the input of a causal model or a block of a block cache.
    /// A device that compiles programs per shape may append padding rows; no visible row attends
    /// to them.
    fn concat_sequence(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError> {
        self.concat_rows(parts)
    }
    /// Concatenates matrices of the same height along the columns.
    fn concat_columns(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor, BackendError>;
    /// Rows `range` of a matrix.
    fn slice_rows(
        &self,
        x: &Self::Tensor,
        range: Range<usize>,
    ) -> Result<Self::Tensor, BackendError>;
    /// The same elements, row by row, as `rows` rows.
    fn reshape_rows(&self, x: &Self::Tensor, rows: usize) -> Result<Self::Tensor, BackendError>;
    /// The two largest values of each row.
    ///
    /// # Errors
    /// [`BackendError::NotFinite`] when a value is NaN or infinite.
    fn top_two(&self, x: &Self::Tensor) -> Result<Vec<TopTwo>, BackendError>;
}
