//! The KV caches of the mesh: of a sequence, or of blocks of rows.

use super::block_cache::BlockCache;
use super::kv_cache::SequenceCache;
use super::{BackendError, TtBackend, TtTensor, shape_error};
use crate::backend::{CacheSpec, Mask};
use crate::tensor::HostTensor;

/// KV cache of one sequence: keys (after RoPE) and values, on the chips that own the heads.
pub struct TtCache(Kind);

enum Kind {
    /// One row after the other; grows by a token.
    Sequence(SequenceCache),
    /// Blocks that see themselves and those before them.
    Blocks(BlockCache),
}

impl TtCache {
    pub(super) fn new(backend: &TtBackend, spec: CacheSpec) -> Result<Self, BackendError> {
        Ok(Self(Kind::Sequence(SequenceCache::new(backend, spec)?)))
    }

    pub(super) fn blocks(
        backend: &TtBackend,
        spec: CacheSpec,
        rows: &[usize],
    ) -> Result<Self, BackendError> {
        Ok(Self(Kind::Blocks(BlockCache::new(backend, spec, rows)?)))
    }

    /// The cache of a sequence, for the operations on its position counter.
    pub(super) fn sequence(&mut self) -> Result<&mut SequenceCache, BackendError> {
        match &mut self.0 {
            Kind::Sequence(cache) => Ok(cache),
            Kind::Blocks(_) => {
                Err(shape_error("position counter", "a block cache has no counter".into()))
            }
        }
    }

    pub(super) fn set_block_rows(&mut self, rows: &[usize]) -> Result<(), BackendError> {
        match &mut self.0 {
            Kind::Blocks(cache) => cache.set_rows(rows),
            Kind::Sequence(_) => {
                Err(shape_error("set_block_rows", "the cache has no blocks".into()))
            }
        }
    }

    pub(super) fn read(&self, layer: usize) -> Result<(HostTensor, HostTensor), BackendError> {
        match &self.0 {
            Kind::Sequence(cache) => cache.read(layer),
            Kind::Blocks(cache) => cache.read(layer),
        }
    }

    /// Attention of the new rows `position..`.
    pub(super) fn attend(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        position: usize,
        mask: Mask,
    ) -> Result<TtTensor, BackendError> {
        match (&mut self.0, mask) {
            (Kind::Sequence(cache), _) => cache.attend(backend, qkv, layer, position, mask),
            (Kind::Blocks(cache), Mask::Bidirectional) => {
                cache.attend(backend, qkv, layer, position)
            }
            (Kind::Blocks(_), Mask::Causal) => {
                Err(shape_error("cached_attention", "a causal mask over a block cache".into()))
            }
        }
    }

    /// Writes keys and values of the new rows `position..`.
    pub(super) fn write(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError> {
        match &mut self.0 {
            Kind::Sequence(cache) => cache.write(backend, qkv, layer, position),
            Kind::Blocks(cache) => cache.write(backend, qkv, layer, position),
        }
    }
}
