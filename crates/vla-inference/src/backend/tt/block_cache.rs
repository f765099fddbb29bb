//! KV cache of blocks of rows on the mesh: a row sees its own block and those before it.
//!
//! Every block starts at a tile, so that a trace serves any number of positions up to the block's
//! padded size: what depends on that number, rotary angles and masks, are tensors that the host
//! renews. The order of keys does not matter to attention. The last block therefore comes first
//! in memory, where TT-NN's `fill_cache` overwrites it in place at every Euler step of pi0; an
//! earlier block is written behind zeros in place of the blocks after it, which it forgets anyway.

use std::ops::Range;

use tt_metal::{Distribution, Format, HostArray, Layout, RopeOrder, Tensor};

use super::kv_cache::{ATTENTION, MASKED, head_shape, head_shards_of, rotary_table};
use super::sharding::{LocalHeads, Sharding, TILE, cache_shards, column_of_head, local_heads};
use super::{BackendError, TtBackend, TtTensor, device, shape_error};
use crate::backend::{CacheSpec, HeadShape};
use crate::tensor::HostTensor;

/// KV cache of blocks.
pub(super) struct BlockCache {
    spec: CacheSpec,
    shape: HeadShape,
    num_shards: usize,
    local: LocalHeads,
    /// In the order of their positions.
    blocks: Vec<Block>,
    layers: Vec<Layer>,
}

struct Block {
    /// Where it is.
    place: Place,
    /// Cosine and sine of its positions, BF16 tiles `[1, 1, capacity, width]`.
    angles: [Tensor; 2],
    /// Added to the scores, BF16 tiles `[1, 1, capacity, keys]`.
    mask: Tensor,
    /// For the rows before it in memory, BF16 tiles `[1, groups, offset, width]`.
    zeros: Option<Tensor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Positions in use.
    rows: usize,
    /// Rows in memory: whole tiles.
    capacity: usize,
    /// First of them.
    offset: usize,
}

/// One layer on a chip, `[1, groups, rows of all blocks, width]` each.
struct Layer {
    keys: Tensor,
    values: Tensor,
    /// Blocks written.
    written: usize,
}

/// Places of blocks with the given positions; the last one starts at row 0.
fn places(rows: &[usize]) -> Vec<Place> {
    let mut offset = 0;
    let mut places: Vec<Place> = rows
        .iter()
        .rev()
        .map(|&rows| {
            let place = Place { rows, capacity: rows.next_multiple_of(TILE), offset };
            offset += place.capacity;
            place
        })
        .collect();
    places.reverse();
    places
}

/// Rows of all blocks in memory.
fn total(places: &[Place]) -> usize {
    places.iter().map(|place| place.capacity).sum()
}

/// Scores added for every row of block `index`: `[capacity, keys]`. The first block sees its own
/// rows, which are its keys; a later one has the whole cache as keys.
fn mask_values(places: &[Place], index: usize) -> Vec<f32> {
    let own = places[index];
    let line: Vec<f32> = if index == 0 {
        (0..own.capacity).map(|key| if key < own.rows { 0.0 } else { MASKED }).collect()
    } else {
        let mut line = vec![MASKED; total(places)];
        for place in &places[..=index] {
            line[place.offset..place.offset + place.rows].fill(0.0);
        }
        line
    };
    line.repeat(own.capacity)
}

/// Position of a block's first row.
fn first_position(places: &[Place], index: usize) -> usize {
    places[..index].iter().map(|place| place.rows).sum()
}

impl BlockCache {
    pub(super) fn new(
        backend: &TtBackend,
        spec: CacheSpec,
        rows: &[usize],
    ) -> Result<Self, BackendError> {
        const OPERATION: &str = "new_block_cache";
        let shape = head_shape(&spec)?;
        if rows.is_empty() || rows.contains(&0) {
            return Err(shape_error(OPERATION, format!("blocks of {rows:?} rows")));
        }
        let num_shards = cache_shards(shape, backend.mesh.chips());
        let local = local_heads(shape, num_shards);
        let places = places(rows);
        let of_heads = |rows| [1, local.groups, rows, local.width];
        let side = || {
            backend
                .mesh
                .empty(of_heads(total(&places)), backend.formats.cache, Layout::Tile)
                .map_err(device(OPERATION))
        };
        let layers = (0..spec.layers)
            .map(|_| Ok(Layer { keys: side()?, values: side()?, written: 0 }))
            .collect::<Result<_, BackendError>>()?;
        let block = |index: usize| -> Result<Block, BackendError> {
            let place = places[index];
            let upload = |values: &[f32]| {
                let columns = values.len() / place.capacity;
                backend.upload_tiles(values, place.capacity, columns, Format::Bf16)
            };
            let [cosine, sine] = angles(&spec, shape, local.width, &places, index);
            let zeros = (place.offset > 0)
                .then(|| backend.mesh.zeros(of_heads(place.offset), Format::Bf16, Layout::Tile));
            Ok(Block {
                place,
                angles: [upload(&cosine)?, upload(&sine)?],
                mask: upload(&mask_values(&places, index))?,
                zeros: zeros.transpose().map_err(device(OPERATION))?,
            })
        };
        let blocks = (0..places.len()).map(block).collect::<Result<_, _>>()?;
        Ok(Self { spec, shape, num_shards, local, blocks, layers })
    }

    fn places(&self) -> Vec<Place> {
        self.blocks.iter().map(|block| block.place).collect()
    }

    /// Sets the positions in use, and renews the angles and masks that change with them.
    pub(super) fn set_rows(&mut self, rows: &[usize]) -> Result<(), BackendError> {
        const OPERATION: &str = "set_block_rows";
        let old = self.places();
        if rows.len() != old.len() || rows.contains(&0) {
            let detail = format!("{rows:?} rows for {} blocks", old.len());
            return Err(shape_error(OPERATION, detail));
        }
        let mut new = old.clone();
        for (place, &rows) in new.iter_mut().zip(rows) {
            if rows > place.capacity {
                let (position, capacity) = (rows, place.capacity);
                return Err(BackendError::Capacity { operation: OPERATION, position, capacity });
            }
            place.rows = rows;
        }
        for index in 0..new.len() {
            let write = |tensor: &Tensor, values: &[f32]| {
                tensor
                    .write(HostArray::f32(values, tensor.dims()), Distribution::Replicate)
                    .map_err(device(OPERATION))
            };
            let block = &mut self.blocks[index];
            if first_position(&old, index) != first_position(&new, index) {
                let values = angles(&self.spec, self.shape, self.local.width, &new, index);
                for (tensor, values) in block.angles.iter().zip(&values) {
                    write(tensor, values)?;
                }
            }
            if old[..=index] != new[..=index] {
                write(&block.mask, &mask_values(&new, index))?;
            }
            block.place = new[index];
        }
        Ok(())
    }

    /// The block that starts at `position`, for its rows with or without padding.
    fn block_at(
        &self,
        qkv: &TtTensor,
        layer: usize,
        position: usize,
    ) -> Result<usize, BackendError> {
        let CacheSpec { heads, kv_heads, head_dim, layers, .. } = self.spec;
        let places = self.places();
        let starts = |index: &usize| first_position(&places, *index) == position;
        let Some(index) = (0..places.len()).find(starts) else {
            return Err(shape_error(ATTENTION, format!("no block starts at {position}")));
        };
        let Place { rows, capacity, .. } = places[index];
        if qkv.columns != (heads + 2 * kv_heads) * head_dim
            || ![rows, capacity].contains(&qkv.rows)
            || qkv.physical_rows() != capacity
        {
            let detail = format!(
                "[{}, {}] in {} rows for {heads} + 2 x {kv_heads} heads of {head_dim} and a block \
                of {rows} in {capacity} rows",
                qkv.rows,
                qkv.columns,
                qkv.physical_rows()
            );
            return Err(shape_error(ATTENTION, detail));
        }
        match self.layers.get(layer) {
            None => Err(shape_error(ATTENTION, format!("layer {layer} of {layers}"))),
            Some(layer) if layer.written < index => {
                let detail = format!("position {position} leaves a gap");
                Err(shape_error(ATTENTION, detail))
            }
            Some(_) => Ok(index),
        }
    }

    /// Heads of q, k and v, q and k rotated; keys and values are written.
    fn written(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        index: usize,
    ) -> Result<[Tensor; 3], BackendError> {
        let failed = device(ATTENTION);
        let num_shards = head_shards_of(qkv, self.shape, self.num_shards);
        let sharding = Sharding::QkvHeads { shape: self.shape, num_shards };
        let sharded = backend.reshard(qkv, sharding)?;
        let LocalHeads { queries, groups, .. } = local_heads(self.shape, num_shards);
        let [q, k, v] = sharded.one(ATTENTION)?.split_heads(queries, groups).map_err(failed)?;
        let Block { angles: [cosine, sine], zeros, .. } = &self.blocks[index];
        let rotate =
            |x: &Tensor| x.rope(cosine, sine, RopeOrder::Half, backend.exact()).map_err(failed);
        let (q, k) = (rotate(&q)?, rotate(&k)?);
        let layer = &mut self.layers[layer];
        for (cache, new) in [(&layer.keys, &k), (&layer.values, &v)] {
            match zeros {
                None => cache.cache_fill(new),
                Some(zeros) => {
                    Tensor::concat(&[zeros, new], 2).and_then(|rows| cache.cache_fill(&rows))
                }
            }
            .map_err(failed)?;
        }
        layer.written = index + 1;
        Ok([q, k, v])
    }

    /// Attention of the block that starts at `position`.
    pub(super) fn attend(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        position: usize,
    ) -> Result<TtTensor, BackendError> {
        let index = self.block_at(qkv, layer, position)?;
        let num_shards = head_shards_of(qkv, self.shape, self.num_shards);
        let [q, k, v] = self.written(backend, qkv, layer, index)?;
        let Layer { keys, values, .. } = &self.layers[layer];
        let (keys, values) = if index == 0 { (&k, &v) } else { (keys, values) };
        let scale = 1.0 / (self.spec.head_dim as f32).sqrt();
        let mask = Some(&self.blocks[index].mask);
        let out = q
            .attention(keys, values, mask, false, scale, backend.attention_compute())
            .and_then(|out| out.concat_heads())
            .map_err(device(ATTENTION))?;
        Ok(TtTensor {
            parts: vec![out],
            sharding: Sharding::OutputHeads { shape: self.shape, num_shards },
            rows: qkv.rows,
            columns: self.spec.heads * self.spec.head_dim,
        })
    }

    /// Writes keys and values of the block that starts at `position`.
    pub(super) fn write(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError> {
        let index = self.block_at(qkv, layer, position)?;
        self.written(backend, qkv, layer, index).map(|_| ())
    }

    /// Keys and values of the positions written, `[kv_heads, positions, head_dim]`.
    pub(super) fn read(&self, layer: usize) -> Result<(HostTensor, HostTensor), BackendError> {
        let layers = self.spec.layers;
        let layer = self
            .layers
            .get(layer)
            .ok_or_else(|| shape_error("read_cache", format!("layer {layer} of {layers}")))?;
        let places = &self.places()[..layer.written];
        let side = |cache: &Tensor| -> Result<HostTensor, BackendError> {
            let CacheSpec { kv_heads, head_dim, .. } = self.spec;
            let positions = first_position(places, places.len());
            let mut values = vec![0.0; kv_heads * positions * head_dim];
            for (index, place) in places.iter().enumerate() {
                let first = first_position(places, index);
                let into = (values.as_mut_slice(), positions, first);
                self.read_rows(cache, place.offset..place.offset + place.rows, into)?;
            }
            Ok(HostTensor::from_f32(&[kv_heads, positions, head_dim], values)?)
        };
        Ok((side(&layer.keys)?, side(&layer.values)?))
    }

    /// Reads rows of every head to the positions from `first` on of `values`.
    fn read_rows(
        &self,
        cache: &Tensor,
        rows: Range<usize>,
        (values, positions, first): (&mut [f32], usize, usize),
    ) -> Result<(), BackendError> {
        let failed = device("read_cache");
        let CacheSpec { kv_heads, head_dim, .. } = self.spec;
        let LocalHeads { groups, width, .. } = self.local;
        let count = rows.len();
        let rows =
            cache.slice([0, 0, rows.start, 0], [1, groups, rows.end, width]).map_err(failed)?;
        for chip in 0..self.num_shards {
            for (at, value) in rows.read_f32(chip).map_err(failed)?.into_iter().enumerate() {
                let head = chip * groups + at / (count * width);
                let position = first + at / width % count;
                if let (true, Some(column)) =
                    (head < kv_heads, column_of_head(self.shape, width, at % width))
                {
                    values[(head * positions + position) * head_dim + column] = value;
                }
            }
        }
        Ok(())
    }
}

/// Cosine and sine of a block's positions, padding included.
fn angles(
    spec: &CacheSpec,
    shape: HeadShape,
    width: usize,
    places: &[Place],
    index: usize,
) -> [Vec<f32>; 2] {
    let first = first_position(places, index);
    let positions = first..first + places[index].capacity;
    [f32::cos, f32::sin].map(|of| rotary_table(spec, shape, width, positions.clone(), of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_blocks_come_first_in_memory() {
        let places = places(&[37, 1, 50]);
        let wanted = [(37, 64, 96), (1, 32, 64), (50, 64, 0)];
        assert_eq!(places, wanted.map(|(rows, capacity, offset)| Place { rows, capacity, offset }));
        assert_eq!((total(&places), first_position(&places, 2)), (160, 38));
    }

    #[test]
    fn masks_show_the_own_block_and_those_before() {
        let places = places(&[33, 1, 2]);
        let seen = |index: usize| -> Vec<usize> {
            let values = mask_values(&places, index);
            let keys = values.len() / places[index].capacity;
            assert_eq!(values[..keys], values[values.len() - keys..]);
            (0..keys).filter(|&key| values[key] == 0.0).collect()
        };
        assert_eq!(seen(0), (0..33).collect::<Vec<_>>());
        assert_eq!(seen(1), [&[32][..], &(64..97).collect::<Vec<_>>()].concat());
        assert_eq!(seen(2), [&[0, 1, 32][..], &(64..97).collect::<Vec<_>>()].concat());
    }
}
