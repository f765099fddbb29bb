//! Traced decoding: inputs with a fixed address, a position counter and a token buffer on the
//! device, and the capture and execution of traces over them.

use std::ops::Range;

use super::{Backend, BackendError};
use crate::tensor::HostTensor;

/// Size and token range of a token buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBufferSpec {
    /// Tokens kept; appending to a full buffer drops the oldest.
    pub tokens: usize,
    /// Token ids of the head's outputs; argmax selects among them.
    pub ids: Range<u32>,
    /// One past the id of bin 0; lower ids stand for higher bins.
    pub end_id: u32,
    /// Bin centres, -1..1, bin 0 first.
    pub centres: Vec<f32>,
}

/// A greedily selected token, with what the device computed besides its id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GreedyToken {
    /// Token id.
    pub id: u32,
    /// Centre of its bin, if computed on the device; meaningless for an id that stands for no
    /// action.
    pub centre: Option<f32>,
    /// Largest minus second largest logit, if computed on the device.
    pub logit_margin: Option<f32>,
}

/// A backend that captures device work as a trace and executes it again without the host.
///
/// A trace reads and writes fixed addresses. Its inputs are therefore overwritten in place
/// ([`TraceBackend::write_image`], [`TraceBackend::write_ids`]), and what changes from one decode
/// step to the next, position and token, stays on the device.
///
/// # Errors
/// As for [`Backend`].
#[allow(clippy::missing_errors_doc)]
pub trait TraceBackend: Backend {
    /// Token ids on the device; their number is fixed.
    type TokenIds: Send + Sync;
    /// Tokens selected on the device.
    type TokenBuffer: Send + Sync;
    /// Captured work.
    type Trace: Send + Sync;

    /// Overwrites an image with another of the same size.
    fn write_image(&self, image: &mut Self::Image, rgb: &[u8]) -> Result<(), BackendError>;
    /// Overwrites an uploaded matrix with another of the same shape.
    fn write_matrix(
        &self,
        place: &mut Self::Tensor,
        values: &HostTensor,
    ) -> Result<(), BackendError>;
    /// Copies token ids to the device.
    fn upload_ids(&self, ids: &[u32]) -> Result<Self::TokenIds, BackendError>;
    /// Overwrites token ids with as many others. A trace that reads them does not check that they
    /// are in the table; the caller does.
    fn write_ids(&self, place: &mut Self::TokenIds, ids: &[u32]) -> Result<(), BackendError>;
    /// Like [`Backend::embed`], for ids on the device.
    fn embed_ids(
        &self,
        table: &Self::Table,
        ids: &Self::TokenIds,
    ) -> Result<Self::Tensor, BackendError>;

    /// Rows of a matrix that ids on the device name: what a trace selects then depends on the ids
    /// written last.
    ///
    /// # Errors
    /// When an id is outside the matrix.
    fn select_rows(
        &self,
        x: &Self::Tensor,
        rows: &Self::TokenIds,
    ) -> Result<Self::Tensor, BackendError>;

    /// Rows that a causal sequence of `rows` positions takes, padding included: see
    /// [`Backend::concat_sequence`].
    fn sequence_rows(&self, rows: usize) -> usize;
    /// Rows that a block of `rows` positions takes, padding included: see
    /// [`Backend::new_block_cache`].
    fn block_rows(&self, rows: usize) -> usize;
    /// Sets the positions in use of each block of a block cache, at most as many as fit where the
    /// cache was allocated for. Positions of later blocks follow; a trace over the cache leaves out
    /// the rows after them from then on. Not allowed while a trace is captured.
    ///
    /// # Errors
    /// [`BackendError::Capacity`] for a block that has no room.
    fn set_block_rows(&self, cache: &mut Self::Cache, rows: &[usize]) -> Result<(), BackendError>;
    /// `x += y * factor` in float32 and in place; `x` and `factor` come from
    /// [`Backend::upload_block_f32`], all three have one shape. The product is rounded before the
    /// sum, as on the host.
    fn add_scaled(
        &self,
        x: &mut Self::Tensor,
        y: &Self::Tensor,
        factor: &Self::Tensor,
    ) -> Result<(), BackendError>;

    /// Sets the KV cache's position counter, and the position that
    /// [`TraceBackend::reset_position`] restores. Not allowed while a trace is captured; after the
    /// first call both are overwritten in place, for traces that read them.
    ///
    /// # Errors
    /// [`BackendError::Capacity`] for a position outside the cache.
    fn set_position(&self, cache: &mut Self::Cache, position: usize) -> Result<(), BackendError>;
    /// Overwrites the position counter only. Not allowed while a trace is captured.
    ///
    /// # Errors
    /// As [`TraceBackend::set_position`], and before its first call.
    fn move_position(&self, cache: &mut Self::Cache, position: usize) -> Result<(), BackendError>;
    /// Restores the position given to [`TraceBackend::set_position`].
    fn reset_position(&self, cache: &mut Self::Cache) -> Result<(), BackendError>;
    /// Increments the position counter.
    fn advance_position(&self, cache: &mut Self::Cache) -> Result<(), BackendError>;
    /// [`Backend::cached_attention`], causal, of one row at the position counter.
    fn causal_attention_at_counter(
        &self,
        qkv: &Self::Tensor,
        cache: &mut Self::Cache,
        layer: usize,
    ) -> Result<Self::Tensor, BackendError>;

    /// Allocates a token buffer; `table` holds the token embeddings.
    fn new_token_buffer(
        &self,
        spec: TokenBufferSpec,
        table: &Self::Table,
    ) -> Result<Self::TokenBuffer, BackendError>;
    /// Appends the id of the largest output of `head` for the one row of `x` (the lowest id wins
    /// ties). Nothing is copied to the host.
    ///
    /// # Errors
    /// A logit that is not finite is reported here or by [`TraceBackend::read_tokens`].
    fn argmax_append(
        &self,
        x: &Self::Tensor,
        head: &Self::Linear,
        table: &Self::Table,
        buffer: &mut Self::TokenBuffer,
    ) -> Result<(), BackendError>;
    /// Makes [`TraceBackend::last_embedding`] that of the one id.
    fn set_last_token(
        &self,
        buffer: &mut Self::TokenBuffer,
        table: &Self::Table,
        id: &Self::TokenIds,
    ) -> Result<(), BackendError>;
    /// Embedding of the newest token, `[1, columns]`.
    fn last_embedding(&self, buffer: &Self::TokenBuffer) -> Result<Self::Tensor, BackendError>;
    /// The tokens of the buffer, oldest first: one read.
    ///
    /// # Errors
    /// [`BackendError::NotFinite`] when a logit was NaN or infinite.
    fn read_tokens(&self, buffer: &Self::TokenBuffer) -> Result<Vec<GreedyToken>, BackendError>;

    /// Captures the device operations of `work` without running them. The same operations must
    /// have run once before, so that their programs are compiled. `work` must not upload or
    /// download; tensors it creates hold no data until the trace is executed.
    fn capture_trace(
        &self,
        work: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Self::Trace, BackendError>;
    /// Executes a trace; may return before the device has finished.
    fn execute_trace(&self, trace: &Self::Trace) -> Result<(), BackendError>;
}
