//! Attention on the mesh: heads over the chips, rotary embedding in the checkpoint's order, a cache
//! on each chip.
//!
//! `ROPE_HALF` turns pairs (i, i + d/2) as Hugging Face does, so no weight is permuted. Heads whose
//! halves do not fill tiles (test models) are padded half by half, see [`super::form`].

use tt_metal::{Combine, Distribution, Format, HostArray, Layout, RopeOrder, Tensor};

use super::sharding::{Form, LocalHeads, PADDING, column_of_head, head_spread, local_heads};
use super::{BackendError, TtBackend, TtTensor, bucket, device, shape_error};
use crate::backend::{CacheSpec, HeadShape, Position};
use crate::tensor::HostTensor;

/// What masks a score: far below any score, and still finite in bf16.
const HIDDEN: f32 = -1e30;

/// Keys (after RoPE) and values of one sequence, on the chips that own the heads.
pub struct TtCache {
    spec: CacheSpec,
    shape: HeadShape,
    spread: usize,
    local: LocalHeads,
    layers: Vec<Layer>,
    /// Cosine and sine per position, `[1, 1, rows, width]`.
    cosine: Tensor,
    sine: Tensor,
    /// Rows of the tables for the positions of the current pass: all layers turn by the same
    /// angles.
    turn: Option<Turn>,
    count: Option<Count>,
}

/// A position that the device counts by itself.
struct Count {
    /// Where counting begins: I32 and U32 `[1, 1, 1, 1]`.
    begin: [Tensor; 2],
    /// Where it stands.
    at: [Tensor; 2],
    /// Cosine and sine, row-major, for looking rows up.
    tables: [Tensor; 2],
    /// The host's copy of both numbers; only the first is true while recordings are replayed.
    host: (usize, usize),
    /// Angles of the current row.
    turn: Option<Turn>,
}

struct Layer {
    keys: Tensor,
    values: Tensor,
    filled: usize,
}

/// Angles, and the position on the device, of one pass.
#[derive(Clone)]
struct Turn {
    position: usize,
    rows: usize,
    cosine: Tensor,
    sine: Tensor,
    /// I32 `[1, 1, 1, 1]` for each row.
    positions: Vec<Tensor>,
    /// What each row may not see, when the pass continues a sequence with several rows.
    mask: Option<Tensor>,
}

impl TtCache {
    pub(super) fn new(backend: &TtBackend, spec: CacheSpec) -> Result<Self, BackendError> {
        const OPERATION: &str = "new_cache";
        let CacheSpec { heads, kv_heads, head_dim, capacity, rope_theta, .. } = spec;
        if kv_heads == 0
            || !heads.is_multiple_of(kv_heads)
            || head_dim == 0
            || !head_dim.is_multiple_of(2)
        {
            let detail =
                format!("{heads} heads over {kv_heads} key/value heads of {head_dim} columns");
            return Err(shape_error(OPERATION, detail));
        }
        let shape = HeadShape { heads, kv_heads, head_dim, rotary: true };
        let spread = head_spread(shape, backend.mesh.chips());
        let local = local_heads(shape, spread);
        let rows = bucket(capacity.max(1));
        // As the reference does it: inverse frequencies and angles are rounded to float32.
        let pairs = head_dim / 2;
        let frequency = |i: usize| 1.0 / (rope_theta as f32).powf((2 * i) as f32 / head_dim as f32);
        let angles: Vec<Option<usize>> = (0..local.width)
            .map(|at| column_of_head(shape, local.width, at).map(|column| column % pairs))
            .collect();
        let table = |of: fn(f32) -> f32| {
            let value = |row: usize, pair: Option<usize>| {
                pair.map_or(0.0, |i| of(row as f32 * frequency(i)))
            };
            let values: Vec<f32> = (0..rows)
                .flat_map(|row| angles.iter().map(move |&pair| value(row, pair)))
                .collect();
            let array = HostArray::f32(&values, [1, 1, rows, local.width]);
            backend
                .mesh
                .upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile)
                .map_err(device(OPERATION))
        };
        let side = || {
            let dims = [1, local.groups, rows, local.width];
            backend.mesh.empty(dims, backend.formats.cache, Layout::Tile).map_err(device(OPERATION))
        };
        let layers = (0..spec.layers)
            .map(|_| Ok(Layer { keys: side()?, values: side()?, filled: 0 }))
            .collect::<Result<_, BackendError>>()?;
        let (cosine, sine) = (table(f32::cos)?, table(f32::sin)?);
        Ok(Self { spec, shape, spread, local, layers, cosine, sine, turn: None, count: None })
    }

    pub(super) fn seek(
        &mut self,
        backend: &TtBackend,
        position: usize,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "seek";
        let capacity = self.spec.capacity;
        if position > capacity {
            return Err(BackendError::Capacity { operation: OPERATION, position, capacity });
        }
        let failed = device(OPERATION);
        // Positions of a cache were counted against its capacity, which both types hold.
        let (signed, unsigned) = ([position as i32], [position as u32]);
        let arrays = [
            (HostArray::i32(&signed, [1; 4]), Format::I32),
            (HostArray::u32(&unsigned, [1; 4]), Format::U32),
        ];
        let place = || -> Result<[Tensor; 2], BackendError> {
            let [a, b] = arrays.map(|(array, format)| {
                backend
                    .mesh
                    .upload(array, Distribution::Replicate, format, Layout::RowMajor)
                    .map_err(failed)
            });
            Ok([a?, b?])
        };
        let row_major =
            |table: &Tensor| table.convert(Format::Bf16, Layout::RowMajor).map_err(failed);
        self.count = Some(Count {
            begin: place()?,
            at: place()?,
            tables: [row_major(&self.cosine)?, row_major(&self.sine)?],
            host: (position, position),
            turn: None,
        });
        Ok(())
    }

    fn count(&mut self) -> Result<&mut Count, BackendError> {
        self.count
            .as_mut()
            .ok_or_else(|| shape_error("counted position", "no position was sought".into()))
    }

    pub(super) fn rewind(&mut self) -> Result<(), BackendError> {
        let count = self.count()?;
        for (begin, at) in count.begin.iter().zip(&count.at) {
            begin.copy_to(at).map_err(device("rewind"))?;
        }
        (count.host.1, count.turn) = (count.host.0, None);
        Ok(())
    }

    pub(super) fn advance(&mut self) -> Result<(), BackendError> {
        let count = self.count()?;
        for at in &count.at {
            at.increment(1).map_err(device("advance"))?;
        }
        (count.host.1, count.turn) = (count.host.1 + 1, None);
        Ok(())
    }

    /// Angles of the row where the device's count stands.
    fn counted_turn(&mut self) -> Result<Turn, BackendError> {
        let count = self.count()?;
        if let Some(turn) = &count.turn {
            return Ok(turn.clone());
        }
        let [place, row] = &count.at;
        let [cosine, sine] = [0, 1].map(|i| {
            count.tables[i].embedding(row, Layout::Tile).map_err(device("causal_attention"))
        });
        let turn = Turn {
            position: count.host.1,
            rows: 1,
            cosine: cosine?,
            sine: sine?,
            positions: vec![place.clone()],
            mask: None,
        };
        count.turn = Some(turn.clone());
        Ok(turn)
    }

    pub(super) fn read(&self, layer: usize) -> Result<(HostTensor, HostTensor), BackendError> {
        const OPERATION: &str = "read_cache";
        let CacheSpec { kv_heads, head_dim, layers, .. } = self.spec;
        let layer = self
            .layers
            .get(layer)
            .ok_or_else(|| shape_error(OPERATION, format!("layer {layer} of {layers}")))?;
        let LocalHeads { groups, width, .. } = self.local;
        let filled = layer.filled;
        let side = |cache: &Tensor| -> Result<HostTensor, BackendError> {
            let mut values = vec![0.0; kv_heads * filled * head_dim];
            if filled == 0 {
                return Ok(HostTensor::from_f32(&[kv_heads, 0, head_dim], values)?);
            }
            // Only rows that were written can be read.
            let rows =
                cache.slice([0; 4], [1, groups, filled, width]).map_err(device(OPERATION))?;
            for chip in 0..self.spread {
                let shard = rows.read_f32(chip).map_err(device(OPERATION))?;
                for (at, value) in shard.into_iter().enumerate() {
                    let (head, row) = (chip * groups + at / (filled * width), at / width % filled);
                    if let (true, Some(column)) =
                        (head < kv_heads, column_of_head(self.shape, width, at % width))
                    {
                        values[(head * filled + row) * head_dim + column] = value;
                    }
                }
            }
            Ok(HostTensor::from_f32(&[kv_heads, filled, head_dim], values)?)
        };
        Ok((side(&layer.keys)?, side(&layer.values)?))
    }

    /// Angles and positions of `rows` physical rows from `position` on, of which `shown` are real.
    fn turn(
        &mut self,
        backend: &TtBackend,
        position: usize,
        rows: usize,
    ) -> Result<Turn, BackendError> {
        const OPERATION: &str = "causal_attention";
        if let Some(turn) =
            self.turn.as_ref().filter(|turn| (turn.position, turn.rows) == (position, rows))
        {
            return Ok(turn.clone());
        }
        let width = self.local.width;
        let cut = |table: &Tensor| {
            table
                .slice([0, 0, position, 0], [1, 1, position + rows, width])
                .map_err(device(OPERATION))
        };
        let mut turn = Turn {
            position,
            rows,
            cosine: cut(&self.cosine)?,
            sine: cut(&self.sine)?,
            positions: Vec::new(),
            mask: None,
        };
        if position > 0 || rows == 1 {
            for row in position..position + rows {
                // Rows of a cache were counted against its capacity, which an i32 holds.
                let array = [row as i32];
                let place = backend.mesh.upload(
                    HostArray::i32(&array, [1; 4]),
                    Distribution::Replicate,
                    Format::I32,
                    Layout::RowMajor,
                );
                turn.positions.push(place.map_err(device(OPERATION))?);
            }
        }
        if position > 0 && rows > 1 {
            let past = position + rows;
            let hidden = |row: usize, key: usize| if key <= position + row { 0.0 } else { HIDDEN };
            let values: Vec<f32> =
                (0..rows).flat_map(|row| (0..past).map(move |key| hidden(row, key))).collect();
            let array = HostArray::f32(&values, [1, 1, rows, past]);
            let mask =
                backend.mesh.upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile);
            turn.mask = Some(mask.map_err(device(OPERATION))?);
        }
        self.turn = Some(turn.clone());
        Ok(turn)
    }

    pub(super) fn attend(
        &mut self,
        backend: &TtBackend,
        qkv: &TtTensor,
        layer: usize,
        position: Position,
    ) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "causal_attention";
        let (position, counted) = match position {
            Position::At(position) => (position, false),
            Position::Counted if qkv.rows == 1 => (self.count()?.host.1, true),
            Position::Counted => {
                return Err(shape_error(OPERATION, format!("{} counted rows", qkv.rows)));
            }
        };
        let CacheSpec { heads, kv_heads, head_dim, capacity, layers, .. } = self.spec;
        if qkv.columns != (heads + 2 * kv_heads) * head_dim || qkv.rows == 0 {
            let detail = format!(
                "[{}, {}] for {heads} + 2 x {kv_heads} heads of {head_dim}",
                qkv.rows, qkv.columns
            );
            return Err(shape_error(OPERATION, detail));
        }
        let filled = self
            .layers
            .get(layer)
            .ok_or_else(|| shape_error(OPERATION, format!("layer {layer} of {layers}")))?
            .filled;
        if position > filled {
            let detail = format!("position {position} leaves a gap after {filled}");
            return Err(shape_error(OPERATION, detail));
        }
        if position + qkv.rows > capacity {
            return Err(BackendError::Capacity {
                operation: OPERATION,
                position: capacity,
                capacity,
            });
        }
        let form = Form::Heads { shape: self.shape, spread: self.spread };
        let laid = backend.in_form(qkv, form)?;
        // A first pass may bring rows that nobody sees; a later one would write them over its
        // successors' places.
        let laid = if position == 0 && !counted { laid } else { backend.shown(&laid)? };
        let rows = laid.physical_rows();
        let turn = if counted { self.counted_turn()? } else { self.turn(backend, position, rows)? };
        let failed = device(OPERATION);
        let compute = backend.attention_compute();
        let [q, k, v] = laid
            .one(OPERATION)?
            .split_heads(self.local.queries, self.local.groups)
            .map_err(failed)?;
        let turned = |x: &Tensor| {
            x.rope(&turn.cosine, &turn.sine, RopeOrder::Half, backend.exact())
                .map_err(device(OPERATION))
        };
        let (q, k) = (turned(&q)?, turned(&k)?);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let Layer { keys, values, filled } = &mut self.layers[layer];
        let out = if position == 0 && rows > 1 && !counted {
            keys.cache_fill(&k).map_err(device(OPERATION))?;
            values.cache_fill(&v).map_err(device(OPERATION))?;
            q.attention(&k, &v, None, true, scale, compute)
        } else {
            for (row, place) in turn.positions.iter().enumerate() {
                for (cache, new) in [(&*keys, &k), (&*values, &v)] {
                    let line = if rows == 1 {
                        new.clone()
                    } else {
                        let [_, groups, _, width] = new.dims();
                        new.slice([0, 0, row, 0], [1, groups, row + 1, width])
                            .map_err(device(OPERATION))?
                    };
                    cache.cache_update(&line, place).map_err(device(OPERATION))?;
                }
            }
            match (&turn.mask, turn.positions.first()) {
                (Some(mask), _) => {
                    let past = |cache: &Tensor| {
                        let [_, groups, _, width] = cache.dims();
                        cache
                            .slice([0; 4], [1, groups, position + rows, width])
                            .map_err(device(OPERATION))
                    };
                    q.attention(&past(keys)?, &past(values)?, Some(mask), false, scale, compute)
                }
                (None, Some(place)) => q.attention_decode(keys, values, place, scale, compute),
                (None, None) => return Err(shape_error(OPERATION, "no position was made".into())),
            }
        };
        *filled = position + qkv.rows;
        let out = out.and_then(|out| out.concat_heads()).map_err(device(OPERATION))?;
        Ok(TtTensor {
            parts: vec![out],
            form: Form::AfterHeads { shape: self.shape, spread: self.spread },
            rows: qkv.rows,
            columns: heads * head_dim,
        })
    }
}

/// Bidirectional attention over all rows.
pub(super) fn bidirectional(
    backend: &TtBackend,
    qkv: &TtTensor,
    heads: usize,
) -> Result<TtTensor, BackendError> {
    const OPERATION: &str = "attention";
    if heads == 0 || !qkv.columns.is_multiple_of(3 * heads) || qkv.columns == 0 {
        return Err(shape_error(OPERATION, format!("{} columns for {heads} heads", qkv.columns)));
    }
    let head_dim = qkv.columns / (3 * heads);
    let shape = HeadShape { heads, kv_heads: heads, head_dim, rotary: false };
    // As the layer before laid them; anything else is the same on every chip.
    let spread = match qkv.form {
        Form::Heads { shape: laid, spread } if laid == shape => spread,
        _ => 1,
    };
    let laid = backend.shown(&backend.in_form(qkv, Form::Heads { shape, spread })?)?;
    let local = local_heads(shape, spread);
    let [q, k, v] =
        laid.one(OPERATION)?.split_heads(local.queries, local.groups).map_err(device(OPERATION))?;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let out = q
        .attention(&k, &v, None, false, scale, backend.attention_compute())
        .and_then(|out| out.concat_heads())
        .map_err(device(OPERATION))?;
    Ok(TtTensor {
        parts: vec![out],
        form: Form::AfterHeads { shape, spread },
        rows: qkv.rows,
        columns: heads * head_dim,
    })
}

/// `silu(gate) * up`.
pub(super) fn silu_mul(backend: &TtBackend, x: &TtTensor) -> Result<TtTensor, BackendError> {
    const OPERATION: &str = "silu_mul";
    if !x.columns.is_multiple_of(2) {
        return Err(shape_error(OPERATION, format!("{} columns are not gate | up", x.columns)));
    }
    let half = x.columns / 2;
    let (form, gate, up) = match (x.form, x.parts.as_slice()) {
        (Form::Columns { parts: 2, each, spread, run }, [gate, up]) => {
            (Form::Columns { parts: 1, each, spread, run }, gate.clone(), up.clone())
        }
        _ => {
            let x = backend.in_form(x, Form::Whole)?;
            let (x, rows) = (x.one(OPERATION)?, x.physical_rows());
            let cut = |from: usize| {
                x.slice([0, 0, 0, from], [1, 1, rows, from + half]).map_err(device(OPERATION))
            };
            (Form::Whole, cut(0)?, cut(half)?)
        }
    };
    let out = gate
        .combine(&up, Combine::Mul, tt_metal::Activation::Silu, backend.formats.hidden)
        .map_err(device(OPERATION))?;
    Ok(TtTensor { parts: vec![out], form, rows: x.rows, columns: half })
}

/// Logical columns out of one physical tensor's, chip parts side by side.
pub(super) fn logical(values: &[f32], map: &[u32], rows: usize, out: &mut [f32], columns: usize) {
    for row in 0..rows {
        for (value, &column) in values[row * map.len()..(row + 1) * map.len()].iter().zip(map) {
            if column != PADDING {
                out[row * columns + column as usize] = *value;
            }
        }
    }
}
