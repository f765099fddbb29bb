//! Scaled dot-product attention. Scores and probabilities pass through bf16 circular buffers,
//! whatever the destination holds, as in TT-NN's kernel; that kernel's splitting into chunks is not
//! modelled.

use super::{Compute, float_tile, l1, matmul};
use crate::error::{Result, ensure, refusal};
use crate::format::round::bf16_away;
use crate::format::{Format, Layout, Spec, TILE, Values};

fn check_common(q: &Spec, k: &Spec, v: &Spec) -> Result<()> {
    for (spec, what) in [(q, "q"), (k, "k"), (v, "v")] {
        float_tile(spec, "attention")?;
        ensure!(
            spec.format != Format::F32,
            "attention: {what} must be BF16, BFP8_B or BFP4_B, not {spec}"
        );
        ensure!(spec.dims[0] == 1, "attention: {what} must be [1, H, S, D], not {spec}");
    }
    ensure!(k.dims == v.dims, "attention: k is {k} but v {v}");
    ensure!(q.dims[3] == k.dims[3], "attention: q is {q} but k {k}");
    ensure!(
        q.dims[3].is_multiple_of(TILE),
        "attention: head dimension {} is not a multiple of {TILE}; pad each head with zeros in \
        the weights",
        q.dims[3]
    );
    ensure!(
        q.dims[1].is_multiple_of(k.dims[1]),
        "attention: {} query heads cannot share {} key/value heads",
        q.dims[1],
        k.dims[1]
    );
    Ok(())
}

pub fn check(inputs: &[Spec], causal: bool) -> Result<Vec<Spec>> {
    let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
    check_common(q, k, v)?;
    if causal {
        ensure!(inputs.len() == 3, "attention: causal takes no mask");
        ensure!(
            q.dims[2] == k.dims[2],
            "attention: causal needs as many queries ({}) as keys ({})",
            q.dims[2],
            k.dims[2]
        );
    }
    if let Some(mask) = inputs.get(3) {
        float_tile(mask, "attention: mask")?;
        let [a, heads, rows, columns] = mask.dims;
        ensure!(
            a == 1
                && (heads == 1 || heads == q.dims[1])
                && rows == q.dims[2]
                && columns == k.dims[2],
            "attention: mask {mask} does not fit q {q} and k {k}"
        );
        ensure!(
            mask.format != Format::F32,
            "attention: the mask must be BF16, BFP8_B or BFP4_B, not {mask}"
        );
        // TT-NN would have to pad the mask, and does not.
        for (rows, what) in [(rows, "queries"), (columns, "keys")] {
            let chunk = l1::chunk(rows, true);
            ensure!(
                rows.is_multiple_of(chunk),
                "attention: with a mask TT-NN takes chunks of {chunk} rows, which do not divide \
                {rows} {what}; pad them to a multiple of {TILE} and mask the padding"
            );
        }
    }
    Ok(vec![*q])
}

pub fn check_decode(inputs: &[Spec]) -> Result<Vec<Spec>> {
    let (k, v, position) = (&inputs[1], &inputs[2], &inputs[3]);
    let q = one_row(inputs[0])?;
    check_common(&q, k, v)?;
    check_position(position)?;
    Ok(vec![q])
}

/// A query of one row as [1, H, 1, D]: its heads may be the rows.
fn one_row(q: Spec) -> Result<Spec> {
    let [a, heads, rows, dim] = q.dims;
    ensure!(
        a == 1 && (heads == 1 || rows == 1),
        "attention_decode: q must be one row, [1, H, 1, D] or [1, 1, H, D], not {q}"
    );
    q.with_dims([1, heads * rows, 1, dim])
}

/// A position is one I32 on the device.
pub fn check_position(position: &Spec) -> Result<()> {
    ensure!(
        position.dims == [1; 4]
            && position.format == Format::I32
            && position.layout == Layout::RowMajor,
        "position must be I32 [1, 1, 1, 1] row-major, not {position}"
    );
    Ok(())
}

/// The position as a row of a cache with `rows` rows.
pub fn position(values: &Values, rows: usize) -> Result<usize> {
    let position = values.words().first().copied().unwrap_or(u32::MAX) as i32;
    match usize::try_from(position) {
        Ok(position) if position < rows => Ok(position),
        _ => Err(refusal(
            tt_metal_sys::TTP_INVALID_ARGUMENT,
            format!(
                "position {position} is outside the cache of {rows} rows: on silicon this would \
                write foreign memory; allocate a longer cache"
            ),
        )),
    }
}

pub fn run(
    specs: &[Spec],
    inputs: &[&Values],
    mask: bool,
    causal: bool,
    scale: f32,
    compute: Compute,
) -> Vec<f32> {
    let (q, k) = (specs[0], specs[1]);
    let ([_, heads, rows, dim], [_, groups, keys, _]) = (q.dims, k.dims);
    let mut out = Vec::with_capacity(q.elements());
    for head in 0..heads {
        let group = head / (heads / groups);
        let query = &inputs[0].floats()[head * rows * dim..][..rows * dim];
        let key = &inputs[1].floats()[group * keys * dim..][..keys * dim];
        let value = &inputs[2].floats()[group * keys * dim..][..keys * dim];
        let mask = mask.then(|| {
            let at = if specs[3].dims[1] == 1 { 0 } else { head };
            &inputs[3].floats()[at * rows * keys..][..rows * keys]
        });
        out.extend(one_head(Head { query, key, value, mask, dim, causal, scale }, compute));
    }
    out
}

pub fn decode(
    specs: &[Spec],
    inputs: &[&Values],
    scale: f32,
    compute: Compute,
) -> Result<Vec<f32>> {
    let ([_, heads, rows, dim], [_, groups, keys, _]) = (specs[0].dims, specs[1].dims);
    let heads = heads * rows;
    let used = position(inputs[3], keys)? + 1;
    let mut out = Vec::with_capacity(heads * dim);
    for head in 0..heads {
        let group = head / (heads / groups);
        let query = &inputs[0].floats()[head * dim..][..dim];
        let key = &inputs[1].floats()[group * keys * dim..][..used * dim];
        let value = &inputs[2].floats()[group * keys * dim..][..used * dim];
        out.extend(one_head(
            Head { query, key, value, mask: None, dim, causal: false, scale },
            compute,
        ));
    }
    Ok(out)
}

struct Head<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    mask: Option<&'a [f32]>,
    dim: usize,
    causal: bool,
    scale: f32,
}

fn one_head(head: Head<'_>, compute: Compute) -> Vec<f32> {
    let Head { query, key, value, mask, dim, causal, scale } = head;
    let (rows, keys) = (query.len() / dim, key.len() / dim);
    let mut turned = vec![0.0; key.len()];
    for (row, line) in key.chunks_exact(dim).enumerate() {
        line.iter().enumerate().for_each(|(column, value)| turned[column * keys + row] = *value);
    }
    let mut scores = matmul::multiply(query, &turned, rows, dim, keys, compute);
    let mut sums = Vec::with_capacity(rows);
    for (row, line) in scores.chunks_exact_mut(keys).enumerate() {
        for (column, score) in line.iter_mut().enumerate() {
            let mut value = bf16_away(*score) * scale;
            if let Some(mask) = mask {
                value += mask[row * keys + column];
            }
            if causal && column > row {
                value = f32::NEG_INFINITY;
            }
            *score = value;
        }
        let largest = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // A row that is masked out entirely stays finite: it attends to nothing.
        let largest = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        line.iter_mut().for_each(|score| *score = bf16_away((*score - largest).exp()));
        sums.push(line.iter().sum::<f32>());
    }
    let mut out = matmul::multiply(&scores, value, rows, keys, dim, compute);
    for (line, sum) in out.chunks_exact_mut(dim).zip(sums) {
        let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        line.iter_mut().for_each(|value| *value = compute.dest(*value * inverse));
    }
    out
}
