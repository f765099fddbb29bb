//! Attention: bidirectional for the towers, with a key/value cache for the language model.

use rayon::prelude::*;

use super::matmul::{self, Strided};
use super::{BackendError, CacheSpec, CpuTensor, Mask, loops, shape_error};
use crate::tensor::HostTensor;

/// A strided view of a matrix, for the GEMM.
#[derive(Clone, Copy)]
struct View<'a> {
    values: &'a [f32],
    /// Elements between rows.
    stride: usize,
    rows: usize,
    columns: usize,
}

impl View<'_> {
    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.stride + self.columns <= self.values.len()
    }
}

/// `out = scale * a b^T`, or `a b` when `transposed` is false; `out` is contiguous.
fn matmul(out: &mut [f32], a: View<'_>, b: View<'_>, transposed: bool, scale: f32) {
    let (n, row, column) =
        if transposed { (b.rows, 1, b.stride) } else { (b.columns, b.stride, 1) };
    let k = a.columns;
    assert!(
        a.fits() && b.fits() && out.len() >= a.rows * n,
        "attention views leave their matrices"
    );
    assert!(
        k == if transposed { b.columns } else { b.rows },
        "attention views do not fit together"
    );
    // SAFETY: the views were checked against their slices just above, `out` holds rows * n floats
    // and is borrowed mutably, so it overlaps neither source.
    unsafe {
        matmul::multiply(
            [a.rows, n, k],
            Strided { start: out.as_mut_ptr(), row: n, column: 1 },
            Strided { start: a.values.as_ptr(), row: a.stride, column: 1 },
            Strided { start: b.values.as_ptr(), row, column },
            scale,
        );
    }
}

/// Rows of `[rows, heads * head_dim]` from heads computed one by one.
fn gather_heads(heads: &[Vec<f32>], rows: usize, head_dim: usize) -> CpuTensor {
    let mut values = Vec::with_capacity(rows * heads.len() * head_dim);
    for row in 0..rows {
        for head in heads {
            values.extend_from_slice(&head[row * head_dim..(row + 1) * head_dim]);
        }
    }
    CpuTensor::new(rows, heads.len() * head_dim, values)
}

/// Bidirectional attention; `qkv` is `[rows, q | k | v]`.
pub(super) fn bidirectional(qkv: &CpuTensor, heads: usize) -> Result<CpuTensor, BackendError> {
    if heads == 0 || !qkv.columns.is_multiple_of(3 * heads) {
        return Err(shape_error("attention", format!("{} columns for {heads} heads", qkv.columns)));
    }
    let (rows, width) = (qkv.rows, qkv.columns / 3);
    let head_dim = width / heads;
    let view = |offset: usize| View {
        values: &qkv.values[offset..],
        stride: qkv.columns,
        rows,
        columns: head_dim,
    };
    if rows == 0 || head_dim == 0 {
        return Ok(CpuTensor::unspecified(rows, width));
    }
    let outputs: Vec<Vec<f32>> = (0..heads)
        .into_par_iter()
        .map(|head| {
            let column = head * head_dim;
            let mut weights = vec![0.0; rows * rows];
            matmul(
                &mut weights,
                view(column),
                view(width + column),
                true,
                1.0 / (head_dim as f32).sqrt(),
            );
            weights.chunks_exact_mut(rows).for_each(loops::softmax);
            let mut out = vec![0.0; rows * head_dim];
            let weights = View { values: &weights, stride: rows, rows, columns: rows };
            matmul(&mut out, weights, view(2 * width + column), false, 1.0);
            out
        })
        .collect();
    Ok(gather_heads(&outputs, rows, head_dim))
}

/// Keys (after RoPE) and values of one sequence.
pub struct CpuCache {
    spec: CacheSpec,
    layers: Vec<Layer>,
    /// Cosine and sine of `position * theta^(-2i / head_dim)`, `[capacity, head_dim / 2]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// One layer, `[kv_heads, capacity, head_dim]` each.
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
    filled: usize,
}

impl CpuCache {
    pub(super) fn new(spec: CacheSpec) -> Result<Self, BackendError> {
        let CacheSpec { layers, heads, kv_heads, head_dim, capacity, rope_theta } = spec;
        if kv_heads == 0
            || !heads.is_multiple_of(kv_heads)
            || head_dim == 0
            || !head_dim.is_multiple_of(2)
        {
            let detail =
                format!("{heads} heads over {kv_heads} key/value heads of {head_dim} columns");
            return Err(shape_error("new_cache", detail));
        }
        let pairs = head_dim / 2;
        // As the reference does it: inverse frequencies and angles are rounded to float32.
        let frequency = |i: usize| 1.0 / (rope_theta as f32).powf((2 * i) as f32 / head_dim as f32);
        let angles: Vec<f32> = (0..capacity * pairs)
            .map(|index| (index / pairs) as f32 * frequency(index % pairs))
            .collect();
        let size = kv_heads * capacity * head_dim;
        let layer = |_| Layer { keys: vec![0.0; size], values: vec![0.0; size], filled: 0 };
        Ok(Self {
            spec,
            layers: (0..layers).map(layer).collect(),
            cos: angles.iter().map(|angle| angle.cos()).collect(),
            sin: angles.iter().map(|angle| angle.sin()).collect(),
        })
    }

    pub(super) fn read(&self, layer: usize) -> Result<(HostTensor, HostTensor), BackendError> {
        let CacheSpec { kv_heads, head_dim, capacity, layers, .. } = self.spec;
        let layer = self
            .layers
            .get(layer)
            .ok_or_else(|| shape_error("read_cache", format!("layer {layer} of {layers}")))?;
        let filled = |all: &[f32]| {
            let heads = all
                .chunks_exact(capacity * head_dim)
                .flat_map(|head| &head[..layer.filled * head_dim]);
            HostTensor::from_f32(&[kv_heads, layer.filled, head_dim], heads.copied().collect())
        };
        Ok((filled(&layer.keys)?, filled(&layer.values)?))
    }

    /// Rotates and stores the keys and stores the values of `qkv` = `[rows, q | k | v]`.
    pub(super) fn write(
        &mut self,
        operation: &'static str,
        qkv: &CpuTensor,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError> {
        let CacheSpec { heads, kv_heads, head_dim, capacity, layers, .. } = self.spec;
        if qkv.columns != (heads + 2 * kv_heads) * head_dim || qkv.rows == 0 {
            let detail = format!(
                "[{}, {}] for {heads} + 2 x {kv_heads} heads of {head_dim}",
                qkv.rows, qkv.columns
            );
            return Err(shape_error(operation, detail));
        }
        let end = position + qkv.rows;
        if end > capacity {
            return Err(BackendError::Capacity { operation, position: end - 1, capacity });
        }
        let (cos, sin) = (&self.cos, &self.sin);
        let Some(layer) = self.layers.get_mut(layer) else {
            return Err(shape_error(operation, format!("layer {layer} of {layers}")));
        };
        if position > layer.filled {
            let detail = format!("position {position} would leave a gap after {}", layer.filled);
            return Err(shape_error(operation, detail));
        }
        layer.filled = end;
        let head_size = capacity * head_dim;
        layer
            .keys
            .par_chunks_exact_mut(head_size)
            .zip(layer.values.par_chunks_exact_mut(head_size))
            .enumerate()
            .for_each(|(head, (keys, values))| {
                let new = position * head_dim..end * head_dim;
                let rows = keys[new.clone()]
                    .chunks_exact_mut(head_dim)
                    .zip(values[new].chunks_exact_mut(head_dim));
                for (row, (key, value)) in rows.enumerate() {
                    let column = (heads + head) * head_dim;
                    let angle = angle(cos, sin, position + row, head_dim);
                    rotate(key, &qkv.row(row)[column..column + head_dim], angle);
                    let column = (heads + kv_heads + head) * head_dim;
                    value.copy_from_slice(&qkv.row(row)[column..column + head_dim]);
                }
            });
        Ok(())
    }

    pub(super) fn attend(
        &mut self,
        qkv: &CpuTensor,
        layer: usize,
        position: usize,
        mask: Mask,
    ) -> Result<CpuTensor, BackendError> {
        self.write("cached_attention", qkv, layer, position)?;
        let CacheSpec { heads, kv_heads, head_dim, capacity, .. } = self.spec;
        let (head_size, end) = (capacity * head_dim, position + qkv.rows);
        let Layer { keys, values, .. } = &self.layers[layer];
        let scale = 1.0 / (head_dim as f32).sqrt();
        let outputs: Vec<Vec<f32>> = (0..heads)
            .into_par_iter()
            .map(|head| {
                let start = head / (heads / kv_heads) * head_size;
                let mut queries = vec![0.0; qkv.rows * head_dim];
                for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
                    let x = &qkv.row(row)[head * head_dim..(head + 1) * head_dim];
                    rotate(query, x, angle(&self.cos, &self.sin, position + row, head_dim));
                }
                let keys = &keys[start..start + end * head_dim];
                let values = &values[start..start + end * head_dim];
                if qkv.rows == 1 {
                    attend_one(&queries, keys, values, scale)
                } else {
                    let visible = |row| match mask {
                        Mask::Causal => position + row + 1,
                        Mask::Bidirectional => end,
                    };
                    attend_many(&queries, keys, values, visible, scale, head_dim)
                }
            })
            .collect();
        Ok(gather_heads(&outputs, qkv.rows, head_dim))
    }
}

/// Cosine and sine of a position's angles.
fn angle<'a>(
    cos: &'a [f32],
    sin: &'a [f32],
    position: usize,
    head_dim: usize,
) -> (&'a [f32], &'a [f32]) {
    let range = position * head_dim / 2..(position + 1) * head_dim / 2;
    (&cos[range.clone()], &sin[range])
}

/// Rotates pairs `(i, i + head_dim / 2)` by their angle: the order of Hugging Face checkpoints.
fn rotate(out: &mut [f32], x: &[f32], (cos, sin): (&[f32], &[f32])) {
    let half = cos.len();
    for i in 0..half {
        out[i] = x[i] * cos[i] - x[i + half] * sin[i];
        out[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
    }
}

fn attend_one(query: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f32> {
    let head_dim = query.len();
    let mut weights: Vec<f32> =
        keys.chunks_exact(head_dim).map(|key| loops::dot(query, key) * scale).collect();
    loops::softmax(&mut weights);
    let mut out = vec![0.0; head_dim];
    for (value, weight) in values.chunks_exact(head_dim).zip(weights) {
        loops::add_scaled(&mut out, value, weight);
    }
    out
}

fn attend_many(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    visible: impl Fn(usize) -> usize,
    scale: f32,
    head_dim: usize,
) -> Vec<f32> {
    let view = |values, rows, columns| View { values, stride: columns, rows, columns };
    let (rows, past) = (queries.len() / head_dim, keys.len() / head_dim);
    let mut weights = vec![0.0; rows * past];
    matmul(&mut weights, view(queries, rows, head_dim), view(keys, past, head_dim), true, scale);
    for (row, weights) in weights.chunks_exact_mut(past).enumerate() {
        let (seen, future) = weights.split_at_mut(visible(row));
        loops::softmax(seen);
        future.fill(0.0);
    }
    let mut out = vec![0.0; rows * head_dim];
    matmul(&mut out, view(&weights, rows, past), view(values, past, head_dim), false, 1.0);
    out
}
