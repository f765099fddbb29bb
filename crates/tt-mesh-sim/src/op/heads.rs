//! Heads: splitting a fused projection, joining them again, and rotating them by position.

use super::{Compute, float_tile};
use crate::error::{Result, ensure};
use crate::format::round::bf16_away;
use crate::format::{Format, Spec, TILE, Values};

/// Heads side by side in the columns must each fill whole tiles.
fn whole_tiles(dim: usize, what: &str) -> Result<()> {
    ensure!(
        dim > 0 && dim.is_multiple_of(TILE),
        "{what}: head dimension {dim} is not a multiple of {TILE}; pad each head with zeros in \
        the weights"
    );
    Ok(())
}

pub fn check_split(x: Spec, q: usize, kv: usize) -> Result<Vec<Spec>> {
    float_tile(&x, "split_heads: qkv")?;
    let [a, b, rows, width] = x.dims;
    let heads = q.saturating_add(kv.saturating_mul(2));
    ensure!(a == 1 && b == 1, "split_heads: qkv must be [1, 1, S, W], not {x}");
    ensure!(
        q > 0 && kv > 0 && q.is_multiple_of(kv) && width.is_multiple_of(heads),
        "split_heads: {width} columns do not hold {q} query and twice {kv} key/value heads"
    );
    let dim = width / heads;
    whole_tiles(dim, "split_heads")?;
    let heads = |count| x.with_dims([1, count, rows, dim]);
    Ok(vec![heads(q)?, heads(kv)?, heads(kv)?])
}

/// One row, whose heads become rows.
pub fn check_split_decode(x: Spec, q: usize, kv: usize) -> Result<Vec<Spec>> {
    ensure!(
        x.dims[2] == 1 && x.format == Format::Bf16,
        "split_heads_decode: qkv must be one row in BF16, not {x}"
    );
    ensure!(q <= TILE, "split_heads_decode: {q} query heads are more than {TILE}");
    let parts = check_split(x, q, kv)?;
    parts.into_iter().map(|part| part.with_dims([1, 1, part.dims[1], part.dims[3]])).collect()
}

pub fn split(spec: Spec, x: &[f32], q: usize, kv: usize) -> Vec<Values> {
    let (rows, width) = (spec.dims[2], spec.dims[3]);
    let dim = width / (q + 2 * kv);
    let part = |first: usize, count: usize| {
        let mut out = Vec::with_capacity(count * rows * dim);
        for head in first..first + count {
            for row in x.chunks_exact(width) {
                out.extend_from_slice(&row[head * dim..(head + 1) * dim]);
            }
        }
        Values::Float(out)
    };
    vec![part(0, q), part(q, kv), part(q + kv, kv)]
}

pub fn check_concat(x: Spec) -> Result<Vec<Spec>> {
    float_tile(&x, "concat_heads: x")?;
    let [a, heads, rows, dim] = x.dims;
    ensure!(a == 1, "concat_heads: x must be [1, H, S, D], not {x}");
    whole_tiles(dim, "concat_heads")?;
    Ok(vec![x.with_dims([1, 1, rows, heads * dim])?])
}

pub fn concat(spec: Spec, x: &[f32]) -> Vec<f32> {
    let [_, heads, rows, dim] = spec.dims;
    let mut out = Vec::with_capacity(x.len());
    for row in 0..rows {
        for head in 0..heads {
            out.extend_from_slice(&x[(head * rows + row) * dim..][..dim]);
        }
    }
    out
}

pub fn check_rope(inputs: &[Spec], half: bool) -> Result<Vec<Spec>> {
    let x = inputs[0];
    for input in inputs {
        float_tile(input, "rope")?;
        ensure!(input.format == Format::Bf16, "rope: x, cosine and sine must be BF16, not {input}");
    }
    let [a, _, rows, dim] = x.dims;
    ensure!(a == 1, "rope: x must be [1, H, S, D], not {x}");
    // TT-NN's split-half kernel exchanges whole tiles; its pair kernel multiplies by a 32x32
    // matrix.
    let multiple = if half { 2 * TILE } else { TILE };
    ensure!(
        dim.is_multiple_of(multiple),
        "rope: head dimension {dim} is not a multiple of {multiple}{}",
        if half { "; use TTP_ROPE_PAIRS with permuted weights" } else { "" }
    );
    for table in &inputs[1..] {
        ensure!(
            matches!(table.dims, [1, 1, given, width] if rows <= given && width == dim)
                && table.dims == inputs[1].dims,
            "rope: cosine and sine must be [1, 1, {rows}, {dim}], or longer, not {table}"
        );
    }
    Ok(vec![x])
}

pub fn rope(specs: &[Spec], inputs: &[&Values], half: bool, compute: Compute) -> Vec<f32> {
    let [_, _, rows, dim] = specs[0].dims;
    let (x, cosine, sine) = (inputs[0].floats(), inputs[1].floats(), inputs[2].floats());
    let mut out = Vec::with_capacity(x.len());
    for (at, head) in x.chunks_exact(dim).enumerate() {
        let row = at % rows;
        let (cosine, sine) = (&cosine[row * dim..][..dim], &sine[row * dim..][..dim]);
        for i in 0..dim {
            let turned = if half {
                if i < dim / 2 { -head[i + dim / 2] } else { head[i - dim / 2] }
            } else if i % 2 == 0 {
                -head[i + 1]
            } else {
                head[i - 1]
            };
            // The two products pass through bf16 circular buffers on their way to the sum. TT-NN
            // gives the larger shares of rows the default bf16 destination for any configuration;
            // since nothing leaves it but through such a buffer, the result is the same.
            out.push(compute.dest(bf16_away(head[i] * cosine[i]) + bf16_away(turned * sine[i])));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::format::Layout;
    use crate::op::Fidelity;
    use proptest::prelude::*;

    proptest! {
        /// TT-NN's first group of cores has a bf16 destination, its second one ours: no bit of the
        /// stored result depends on which group a row is given to.
        #[test]
        fn destination_does_not_change_a_rotation(
            bits in prop::collection::vec(any::<u16>(), 3 * 64),
            half in any::<bool>(),
        ) {
            let finite = |bits: &u16| {
                // Finite bf16 values.
                let value = f32::from_bits(u32::from(*bits) << 16);
                if value.is_finite() { value } else { 1.0 }
            };
            let values: Vec<f32> = bits.iter().map(finite).collect();
            let spec = Spec::new([1, 1, 1, 64], Format::Bf16, Layout::Tile).unwrap();
            let inputs: Vec<Values> =
                values.chunks(64).map(|part| Values::Float(part.to_vec())).collect();
            let inputs: Vec<&Values> = inputs.iter().collect();
            let stored = |fp32_dest| {
                let compute = Compute { fidelity: Fidelity::HiFi4, fp32_dest };
                let turned = rope(&[spec; 3], &inputs, half, compute);
                turned.into_iter().map(|value| bf16_away(value).to_bits()).collect::<Vec<u32>>()
            };
            prop_assert_eq!(stored(true), stored(false));
        }
    }
}
