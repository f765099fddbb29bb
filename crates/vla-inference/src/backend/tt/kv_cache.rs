//! KV cache of a sequence on the mesh and the attention over it: heads sharded over the chips,
//! rotary embedding in the checkpoint's column order.
//!
//! TT-NN's rotary embedding rotates pairs (i, i + d/2) as Hugging Face does, so no weight is
//! permuted. Heads whose halves do not fill tiles (test models) are padded half by half, see
//! [`super::sharding`].

use std::ops::Range;

use tt_metal::{Distribution, Format, HostArray, Layout, RopeOrder, Tensor};

use super::division::one_key_head;
use super::sharding::{LocalHeads, Sharding, TILE, cache_shards, column_of_head, local_heads};
use super::{BackendError, TtBackend, TtTensor, bucket, device, shape_error};
use crate::backend::{CacheSpec, HeadShape, Mask};
use crate::tensor::HostTensor;

pub(super) const ATTENTION: &str = "cached_attention";
/// Added to a masked score: far below any score, and finite in bf16.
pub(super) const MASKED: f32 = -1e30;

/// KV cache of one sequence: keys (after RoPE) and values, on the chips that own the heads.
pub(super) struct SequenceCache {
    spec: CacheSpec,
    shape: HeadShape,
    num_shards: usize,
    local: LocalHeads,
    layers: Vec<Layer>,
    /// Cosine and sine per position, BF16 tiles `[1, 1, rows, width]`.
    cosine: Tensor,
    sine: Tensor,
    /// Angles of the current pass; all layers share them.
    angles: Vec<RotaryAngles>,
    counter: Option<PositionCounter>,
}

/// The position of the next row, kept on the device.
struct PositionCounter {
    /// Restored by `reset_position`.
    start: [Tensor; 2],
    /// Current position: I32 for the cache update, U32 [`ANGLE_ROWS`] times for the table lookup.
    current: [Tensor; 2],
    /// Cosine and sine row-major, for a lookup by position.
    tables: [Tensor; 2],
    /// Host copy of start and current position; `current` is stale after a trace was executed, and
    /// only eager operations read it.
    host: (usize, usize),
    /// Angles of the current row.
    angles: Option<RotaryAngles>,
}

impl PositionCounter {
    /// Overwrites one pair of positions in place.
    fn write(
        &self,
        operation: &'static str,
        [signed, unsigned]: &[Tensor; 2],
        position: usize,
    ) -> Result<(), BackendError> {
        let (words, failed) = (position_words(position), device(operation));
        let replicate = Distribution::Replicate;
        signed.write(HostArray::i32(&words.0, [1; 4]), replicate).map_err(failed)?;
        let dims = [1, 1, 1, ANGLE_ROWS];
        unsigned.write(HostArray::u32(&words.1, dims), replicate).map_err(failed)
    }
}

/// Equal rows of angles at the position counter: the heads of a decoded row are rows.
const ANGLE_ROWS: usize = TILE;

/// A position in both integer types; a capacity fits them.
fn position_words(position: usize) -> ([i32; 1], [u32; ANGLE_ROWS]) {
    ([position as i32], [position as u32; ANGLE_ROWS])
}

/// One layer's cache on a chip, `[1, groups, rows, width]` each.
struct Layer {
    keys: Tensor,
    values: Tensor,
    /// Positions written.
    len: usize,
}

/// Rotary angles of one pass, with its positions on the device.
#[derive(Clone)]
struct RotaryAngles {
    position: usize,
    rows: usize,
    cosine: Tensor,
    sine: Tensor,
    /// I32 `[1, 1, 1, 1]` for each row; empty for a first pass of several rows.
    positions: Vec<Tensor>,
    attended: Mask,
    /// Added to the scores when a causal pass continues a sequence with several rows, see
    /// [`causal_mask`].
    mask: Option<Tensor>,
}

/// Position of the first new row.
#[derive(Clone, Copy)]
enum Start {
    At(usize),
    /// Value of the position counter, as last known to the host.
    Counter(usize),
}

impl SequenceCache {
    pub(super) fn new(backend: &TtBackend, spec: CacheSpec) -> Result<Self, BackendError> {
        const OPERATION: &str = "new_cache";
        let (shape, capacity) = (head_shape(&spec)?, spec.capacity);
        let num_shards = cache_shards(shape, backend.mesh.chips());
        let local = local_heads(shape, num_shards);
        let rows = bucket(capacity.max(1));
        let side = || {
            let dims = [1, local.groups, rows, local.width];
            backend.mesh.empty(dims, backend.formats.cache, Layout::Tile).map_err(device(OPERATION))
        };
        let layers = (0..spec.layers)
            .map(|_| Ok(Layer { keys: side()?, values: side()?, len: 0 }))
            .collect::<Result<_, BackendError>>()?;
        let [cosine, sine] = [f32::cos, f32::sin].map(|of| {
            let values = rotary_table(&spec, shape, local.width, 0..rows, of);
            let array = HostArray::f32(&values, [1, 1, rows, local.width]);
            backend
                .mesh
                .upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile)
                .map_err(device(OPERATION))
        });
        let (cosine, sine) = (cosine?, sine?);
        Ok(Self {
            spec,
            shape,
            num_shards,
            local,
            layers,
            cosine,
            sine,
            angles: Vec::new(),
            counter: None,
        })
    }

    pub(super) fn set_position(
        &mut self,
        backend: &TtBackend,
        position: usize,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "set_position";
        self.check_position(OPERATION, position)?;
        if let Some(counter) = &mut self.counter {
            counter.host = (position, position);
            counter.angles = None;
            counter.write(OPERATION, &counter.start, position)?;
            return counter.write(OPERATION, &counter.current, position);
        }
        let failed = device(OPERATION);
        let upload = || -> Result<[Tensor; 2], BackendError> {
            let (signed, unsigned) = position_words(position);
            let [a, b] = [
                (HostArray::i32(&signed, [1; 4]), Format::I32),
                (HostArray::u32(&unsigned, [1, 1, 1, ANGLE_ROWS]), Format::U32),
            ]
            .map(|(array, format)| {
                backend
                    .mesh
                    .upload(array, Distribution::Replicate, format, Layout::RowMajor)
                    .map_err(failed)
            });
            Ok([a?, b?])
        };
        let row_major =
            |table: &Tensor| table.convert(Format::Bf16, Layout::RowMajor).map_err(failed);
        self.counter = Some(PositionCounter {
            start: upload()?,
            current: upload()?,
            tables: [row_major(&self.cosine)?, row_major(&self.sine)?],
            host: (position, position),
            angles: None,
        });
        Ok(())
    }

    pub(super) fn move_position(&mut self, position: usize) -> Result<(), BackendError> {
        const OPERATION: &str = "move_position";
        self.check_position(OPERATION, position)?;
        let counter = self.counter()?;
        (counter.host.1, counter.angles) = (position, None);
        counter.write(OPERATION, &counter.current, position)
    }

    fn check_position(&self, operation: &'static str, position: usize) -> Result<(), BackendError> {
        let capacity = self.spec.capacity;
        if position > capacity {
            return Err(BackendError::Capacity { operation, position, capacity });
        }
        Ok(())
    }

    fn counter(&mut self) -> Result<&mut PositionCounter, BackendError> {
        self.counter
            .as_mut()
            .ok_or_else(|| shape_error("position counter", "set_position was not called".into()))
    }

    pub(super) fn reset_position(&mut self) -> Result<(), BackendError> {
        let counter = self.counter()?;
        for (start, current) in counter.start.iter().zip(&counter.current) {
            start.copy_to(current).map_err(device("reset_position"))?;
        }
        (counter.host.1, counter.angles) = (counter.host.0, None);
        Ok(())
    }

    pub(super) fn advance_position(&mut self) -> Result<(), BackendError> {
        let counter = self.counter()?;
        for current in &counter.current {
            current.increment(1).map_err(device("advance_position"))?;
        }
        (counter.host.1, counter.angles) = (counter.host.1 + 1, None);
        Ok(())
    }

    /// Angles of the row at the position counter, looked up on the device.
    fn angles_at_counter(&mut self) -> Result<RotaryAngles, BackendError> {
        let counter = self.counter()?;
        if let Some(angles) = &counter.angles {
            return Ok(angles.clone());
        }
        let [position, row] = &counter.current;
        let [cosine, sine] = [0, 1]
            .map(|i| counter.tables[i].embedding(row, Layout::Tile).map_err(device(ATTENTION)));
        let angles = RotaryAngles {
            position: counter.host.1,
            rows: 1,
            cosine: cosine?,
            sine: sine?,
            positions: vec![position.clone()],
            attended: Mask::Causal,
            mask: None,
        };
        counter.angles = Some(angles.clone());
        Ok(angles)
    }

    pub(super) fn read(&self, layer: usize) -> Result<(HostTensor, HostTensor), BackendError> {
        const OPERATION: &str = "read_cache";
        let CacheSpec { kv_heads, head_dim, layers, .. } = self.spec;
        let layer = self
            .layers
            .get(layer)
            .ok_or_else(|| shape_error(OPERATION, format!("layer {layer} of {layers}")))?;
        let LocalHeads { groups, width, .. } = self.local;
        let written = layer.len;
        let side = |cache: &Tensor| -> Result<HostTensor, BackendError> {
            let mut values = vec![0.0; kv_heads * written * head_dim];
            if written == 0 {
                return Ok(HostTensor::from_f32(&[kv_heads, 0, head_dim], values)?);
            }
            // Only rows that were written can be read.
            let rows =
                cache.slice([0; 4], [1, groups, written, width]).map_err(device(OPERATION))?;
            for chip in 0..self.num_shards {
                let shard = rows.read_f32(chip).map_err(device(OPERATION))?;
                for (at, value) in shard.into_iter().enumerate() {
                    let head = chip * groups + at / (written * width);
                    let row = at / width % written;
                    if let (true, Some(column)) =
                        (head < kv_heads, column_of_head(self.shape, width, at % width))
                    {
                        values[(head * written + row) * head_dim + column] = value;
                    }
                }
            }
            Ok(HostTensor::from_f32(&[kv_heads, written, head_dim], values)?)
        };
        Ok((side(&layer.keys)?, side(&layer.values)?))
    }

    /// Angles, positions and mask of `rows` physical rows from `position` on.
    fn angles_at(
        &mut self,
        backend: &TtBackend,
        position: usize,
        rows: usize,
        attended: Mask,
    ) -> Result<RotaryAngles, BackendError> {
        let known = self.angles.iter().find(|known| {
            (known.position, known.rows, known.attended) == (position, rows, attended)
        });
        if let Some(angles) = known {
            return Ok(angles.clone());
        }
        let width = self.local.width;
        let cut = |table: &Tensor| {
            table
                .slice([0, 0, position, 0], [1, 1, position + rows, width])
                .map_err(device(ATTENTION))
        };
        let mut angles = RotaryAngles {
            position,
            rows,
            cosine: cut(&self.cosine)?,
            sine: cut(&self.sine)?,
            positions: Vec::new(),
            attended,
            mask: None,
        };
        if position > 0 || rows == 1 {
            for row in position..position + rows {
                // A capacity fits an i32.
                let array = [row as i32];
                let place = backend.mesh.upload(
                    HostArray::i32(&array, [1; 4]),
                    Distribution::Replicate,
                    Format::I32,
                    Layout::RowMajor,
                );
                angles.positions.push(place.map_err(device(ATTENTION))?);
            }
        }
        if position > 0 && rows > 1 && attended == Mask::Causal {
            angles.mask = Some(causal_mask(backend, position, rows)?);
        }
        // Those of first passes stay: traces of several lengths read them.
        self.angles.retain(|kept| kept.position == 0);
        self.angles.push(angles.clone());
        Ok(angles)
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
        self.attend_from(backend, qkv, layer, Start::At(position), mask)
    }

    /// Writes keys and values of the new rows `position..`.
    pub(super) fn write(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError> {
        let start = Start::At(position);
        let ([_, k, v], angles) = self.rotated(backend, qkv, layer, start, Mask::Bidirectional)?;
        let written = &self.layers[layer];
        if position == 0 && angles.rows > 1 {
            written.fill([&k, &v])?;
        } else {
            written.update([&k, &v], &angles.positions)?;
        }
        self.layers[layer].len = position + qkv.rows;
        Ok(())
    }

    /// Causal attention of one new row at the position counter.
    pub(super) fn attend_at_counter(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
    ) -> Result<TtTensor, BackendError> {
        if qkv.rows != 1 {
            return Err(shape_error(
                ATTENTION,
                format!("{} rows at the position counter", qkv.rows),
            ));
        }
        let position = self.counter()?.host.1;
        self.attend_from(backend, qkv, layer, Start::Counter(position), Mask::Causal)
    }

    /// Heads of q, k and v, q and k rotated, and the angles of the new rows.
    fn rotated(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        start: Start,
        mask: Mask,
    ) -> Result<([Tensor; 3], RotaryAngles), BackendError> {
        let (Start::At(position) | Start::Counter(position)) = start;
        self.check(qkv, layer, position)?;
        let num_shards = head_shards_of(qkv, self.shape, self.num_shards);
        let sharding = Sharding::QkvHeads { shape: self.shape, num_shards };
        let sharded = backend.reshard(qkv, sharding)?;
        // Padding rows of a first causal pass are overwritten by later passes; a later pass must
        // not write any, because they would land on the positions after it, and a bidirectional
        // pass would attend to them.
        let sharded = match (start, mask) {
            (Start::At(0), Mask::Causal) => sharded,
            _ => backend.without_padding_rows(&sharded)?,
        };
        let angles = match start {
            Start::At(_) => self.angles_at(backend, position, sharded.physical_rows(), mask)?,
            Start::Counter(_) => self.angles_at_counter()?,
        };
        let LocalHeads { queries, groups, .. } = local_heads(self.shape, num_shards);
        let fused = sharded.one(ATTENTION)?;
        let split = match heads_are_rows(start, queries) {
            true => fused.split_heads_decode(queries, groups),
            false => fused.split_heads(queries, groups),
        };
        let [q, k, v] = split.map_err(device(ATTENTION))?;
        let rotate = |x: &Tensor| {
            x.rope(&angles.cosine, &angles.sine, RopeOrder::Half, backend.exact())
                .map_err(device(ATTENTION))
        };
        Ok(([rotate(&q)?, rotate(&k)?, v], angles))
    }

    fn attend_from(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        start: Start,
        mask: Mask,
    ) -> Result<TtTensor, BackendError> {
        let (Start::At(position) | Start::Counter(position)) = start;
        let num_shards = head_shards_of(qkv, self.shape, self.num_shards);
        let ([q, k, v], angles) = self.rotated(backend, qkv, layer, start, mask)?;
        let head_dim = self.spec.head_dim;
        let out = self.layers[layer].attend(backend, [&q, &k, &v], &angles, start, head_dim)?;
        self.layers[layer].len = position + qkv.rows;
        let out = out.concat_heads().map_err(device(ATTENTION))?;
        Ok(TtTensor {
            parts: vec![out],
            sharding: Sharding::OutputHeads { shape: self.shape, num_shards },
            rows: qkv.rows,
            columns: self.spec.heads * head_dim,
        })
    }

    fn check(&self, qkv: &TtTensor, layer: usize, position: usize) -> Result<(), BackendError> {
        let CacheSpec { heads, kv_heads, head_dim, capacity, layers, .. } = self.spec;
        if qkv.columns != (heads + 2 * kv_heads) * head_dim || qkv.rows == 0 {
            let detail = format!(
                "[{}, {}] for {heads} + 2 x {kv_heads} heads of {head_dim}",
                qkv.rows, qkv.columns
            );
            return Err(shape_error(ATTENTION, detail));
        }
        let Some(Layer { len, .. }) = self.layers.get(layer) else {
            return Err(shape_error(ATTENTION, format!("layer {layer} of {layers}")));
        };
        if position > *len {
            let detail = format!("position {position} leaves a gap after {len}");
            return Err(shape_error(ATTENTION, detail));
        }
        if position + qkv.rows > capacity {
            return Err(BackendError::Capacity {
                operation: ATTENTION,
                position: capacity,
                capacity,
            });
        }
        Ok(())
    }
}

impl Layer {
    /// Writes the new keys and values and attends; heads `[1, heads, rows, width]` in and out.
    fn attend(
        &self,
        backend: &TtBackend,
        [q, k, v]: [&Tensor; 3],
        angles: &RotaryAngles,
        start: Start,
        head_dim: usize,
    ) -> Result<Tensor, BackendError> {
        let Self { keys, values, .. } = self;
        let failed = device(ATTENTION);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let compute = backend.attention_compute();
        if matches!(start, Start::At(0)) && angles.rows > 1 {
            self.fill([k, v])?;
            let causal = angles.attended == Mask::Causal;
            return q.attention(k, v, None, causal, scale, compute).map_err(failed);
        }
        match (start, q.dims(), angles.positions.first()) {
            // Heads as rows.
            (Start::Counter(_), [1, 1, _, _], Some(position)) => {
                Tensor::update_pair([keys, values], [k, v], position).map_err(failed)?;
            }
            _ => self.update([k, v], &angles.positions)?,
        }
        if angles.rows > 1 {
            let past = angles.position + angles.rows;
            let written = |cache: &Tensor| {
                let [_, groups, _, width] = cache.dims();
                cache.slice([0; 4], [1, groups, past, width]).map_err(failed)
            };
            let (keys, values) = (written(keys)?, written(values)?);
            let Some(mask) = &angles.mask else {
                return q.attention(&keys, &values, None, false, scale, compute).map_err(failed);
            };
            // With a mask TT-NN takes whole tiles of rows and keys only.
            let [_, heads, rows, width] = q.dims();
            let [_, _, padded_rows, padded_keys] = mask.dims();
            let pad = |x: &Tensor, rows| padded(backend, x, rows).map_err(failed);
            let (q, keys) = (pad(q, padded_rows)?, pad(&keys, padded_keys)?);
            let values = pad(&values, padded_keys)?;
            let out = q.attention(&keys, &values, Some(mask), false, scale, compute);
            let out = out.map_err(failed)?;
            return match padded_rows == rows {
                true => Ok(out),
                false => out.slice([0; 4], [1, heads, rows, width]).map_err(failed),
            };
        }
        let Some(position) = angles.positions.first() else {
            return Err(shape_error(ATTENTION, "no position was uploaded".into()));
        };
        q.attention_decode(keys, values, position, scale, compute).map_err(failed)
    }

    /// Writes the first rows.
    fn fill(&self, [k, v]: [&Tensor; 2]) -> Result<(), BackendError> {
        self.keys.cache_fill(k).map_err(device(ATTENTION))?;
        self.values.cache_fill(v).map_err(device(ATTENTION))
    }

    /// Writes row by row at the given positions.
    fn update(&self, [k, v]: [&Tensor; 2], positions: &[Tensor]) -> Result<(), BackendError> {
        for (row, position) in positions.iter().enumerate() {
            for (cache, new) in [(&self.keys, k), (&self.values, v)] {
                let line = if positions.len() == 1 {
                    new.clone()
                } else {
                    let [_, groups, _, width] = new.dims();
                    new.slice([0, 0, row, 0], [1, groups, row + 1, width])
                        .map_err(device(ATTENTION))?
                };
                cache.cache_update(&line, position).map_err(device(ATTENTION))?;
            }
        }
        Ok(())
    }
}

/// Number of chips over which the heads of `qkv` are sharded: as the cache's are, or, where one key
/// head is on every chip, as its layer divided the queries.
pub(super) fn head_shards_of(qkv: &TtTensor, shape: HeadShape, cache_shards: usize) -> usize {
    match qkv.sharding {
        Sharding::QkvHeads { shape: given, num_shards }
            if given == shape && one_key_head(shape) =>
        {
            num_shards
        }
        _ => cache_shards,
    }
}

/// Whether the heads of a new row are rows, as the operations for decoding take them; they are
/// where the positions come from the counter, and fill at most one tile.
fn heads_are_rows(start: Start, queries: usize) -> bool {
    matches!(start, Start::Counter(_)) && queries <= ANGLE_ROWS
}

/// Cosine or sine of the angles of `positions`, `[positions, width]` with columns as in a padded
/// head; inverse frequencies and angles are rounded to float32, as in the reference.
pub(super) fn rotary_table(
    spec: &CacheSpec,
    shape: HeadShape,
    width: usize,
    positions: Range<usize>,
    of: fn(f32) -> f32,
) -> Vec<f32> {
    let CacheSpec { head_dim, rope_theta, .. } = *spec;
    let pairs = head_dim / 2;
    let frequency = |i: usize| 1.0 / (rope_theta as f32).powf((2 * i) as f32 / head_dim as f32);
    let columns: Vec<Option<usize>> = (0..width)
        .map(|at| column_of_head(shape, width, at).map(|column| column % pairs))
        .collect();
    let value =
        |row: usize, pair: Option<usize>| pair.map_or(0.0, |i| of(row as f32 * frequency(i)));
    positions.flat_map(|row| columns.iter().map(move |&pair| value(row, pair))).collect()
}

/// Heads of a cache.
pub(super) fn head_shape(spec: &CacheSpec) -> Result<HeadShape, BackendError> {
    let CacheSpec { heads, kv_heads, head_dim, .. } = *spec;
    if kv_heads == 0
        || !heads.is_multiple_of(kv_heads)
        || head_dim == 0
        || !head_dim.is_multiple_of(2)
    {
        let detail = format!("{heads} heads over {kv_heads} key/value heads of {head_dim} columns");
        return Err(shape_error("new_cache", detail));
    }
    Ok(HeadShape { heads, kv_heads, head_dim, rotary: true })
}

/// `x` = `[1, heads, have, width]` with rows of zeros up to `rows`.
fn padded(backend: &TtBackend, x: &Tensor, rows: usize) -> tt_metal::Result<Tensor> {
    let [a, heads, have, width] = x.dims();
    if have == rows {
        return Ok(x.clone());
    }
    let zeros = backend.mesh.zeros([a, heads, rows - have, width], x.format(), Layout::Tile)?;
    Tensor::concat(&[x, &zeros], 2)
}

/// Mask of `rows` new rows from `position` on, BF16 tiles `[1, 1, rows, position + rows]`, both
/// padded to tiles: padded keys are hidden, padded rows attend to what the last row does.
fn causal_mask(backend: &TtBackend, position: usize, rows: usize) -> Result<Tensor, BackendError> {
    let last = position + rows - 1;
    let (rows, past) = (rows.next_multiple_of(TILE), (last + 1).next_multiple_of(TILE));
    let score =
        |row: usize, key: usize| if key <= (position + row).min(last) { 0.0 } else { MASKED };
    let values: Vec<f32> =
        (0..rows).flat_map(|row| (0..past).map(move |key| score(row, key))).collect();
    let array = HostArray::f32(&values, [1, 1, rows, past]);
    backend
        .mesh
        .upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile)
        .map_err(device(ATTENTION))
}
