//! Activations in the words of a tile.

use half::bf16;
use multiversion::multiversion;

use super::Format;
use super::layout::{LANES, widened};
use super::tile::Tile;

/// Largest magnitude of a quantised value.
const LARGEST: f32 = 127.0;
/// Added to quantised activations: `vpdpbusd` takes them unsigned.
pub(super) const ZERO_POINT: i32 = 128;

/// Words of one row for `words` stored words of weights.
pub(super) fn words_per_row(tile: Tile, format: Format, words: usize) -> usize {
    match tile {
        Tile::Floats | Tile::Widening => format.per_word() * words,
        Tile::Pairs | Tile::Bytes => words,
    }
}

/// Writes rows of `inputs` values unchanged as `out`, step by step one word per row. Of two steps
/// per stored word the upper comes first, as in [`widened`].
pub(super) fn pack_exact(rows: &[f32], inputs: usize, per_word: usize, out: &mut [u32]) {
    let count = rows.len() / inputs;
    let upper_first = per_word - 1;
    interleave(bytemuck::cast_slice(rows), inputs, |step, row, word| {
        out[(step ^ upper_first) * count + row] = word;
    });
    if per_word == 2 && inputs % 2 == 1 {
        // The upper half of the last word, which has no input.
        out[(inputs - 1) * count..inputs * count].fill(0);
    }
}

/// Writes rows of `inputs` values as `out`, step by step one word per row; `scales` gets the factor
/// of each row, 1 where values are not quantised.
pub(super) fn pack(
    tile: Tile,
    rows: &[f32],
    inputs: usize,
    words: usize,
    out: &mut [u32],
    scales: &mut [f32],
) {
    let count = scales.len();
    let mut by_row = vec![0u32; count * words];
    let each = rows.chunks_exact(inputs).zip(by_row.chunks_exact_mut(words)).zip(scales);
    for ((values, words), scale) in each {
        *scale = match tile {
            Tile::Bytes => quantise(bytemuck::cast_slice_mut(words), values),
            _ => {
                round(words, values);
                1.0
            }
        };
    }
    let wide = matches!(tile, Tile::Floats | Tile::Widening);
    interleave(&by_row, words, |step, row, word| {
        if wide {
            let out = &mut out[2 * step * count..][..2 * count];
            [out[row], out[count + row]] = widened(word);
        } else {
            out[step * count + row] = word;
        }
    });
}

/// Gives every word of some rows to `put`, with its step and row, in an order that stays within a
/// few cache lines on both sides.
pub(super) fn interleave(by_row: &[u32], words: usize, mut put: impl FnMut(usize, usize, u32)) {
    for start in (0..words).step_by(LANES) {
        let end = words.min(start + LANES);
        for (row, words) in by_row.chunks_exact(words).enumerate() {
            for (step, word) in (start..end).zip(&words[start..end]) {
                put(step, row, *word);
            }
        }
    }
}

/// Pairs of values as bf16, to nearest, ties to even; a missing partner is 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn round(words: &mut [u32], values: &[f32]) {
    let (pairs, rest) = values.as_chunks::<2>();
    for (word, pair) in words.iter_mut().zip(pairs) {
        *word = rounded(pair[0]) | rounded(pair[1]) << 16;
    }
    if let ([last], Some(word)) = (rest, words.last_mut()) {
        *word = rounded(*last);
    }
}

/// Bits of the nearest bf16. NaN stays NaN; what is beyond the largest bf16 becomes infinite.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { nearest }
}

/// Values as unsigned bytes around [`ZERO_POINT`], and the value of one unit. The unit is NaN when
/// a value is not finite, so that the outputs are not finite either.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn quantise(bytes: &mut [u8], values: &[f32]) -> f32 {
    let (unit, inverse) = unit_of(magnitude(values));
    for (byte, value) in bytes.iter_mut().zip(values) {
        // The lowest byte of the sum, two's complement; plus 128 is a flipped sign.
        *byte = nearest(*value, inverse) as u8 ^ 0x80;
    }
    unit
}

/// Largest magnitude; NaN when a value is not finite.
#[inline(always)]
fn magnitude(values: &[f32]) -> f32 {
    // Of fewer lanes the compiler makes gathers along the chunks.
    let mut lanes = [0u32; 64];
    let (chunks, rest) = values.as_chunks::<64>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = (*lane).max(value.abs().to_bits());
        }
    }
    // Without their sign, the bits of floats are ordered like their values; NaN comes last.
    let largest = lanes.into_iter().chain(rest.iter().map(|value| value.abs().to_bits())).max();
    let largest = f32::from_bits(largest.unwrap_or(0));
    if largest.is_finite() { largest } else { f32::NAN }
}

/// Value of one unit for values up to `largest`, and its inverse.
#[inline(always)]
fn unit_of(largest: f32) -> (f32, f32) {
    // Below, the inverse would overflow; such values are 0.
    if largest < 1e-30 { (0.0, 0.0) } else { (largest / LARGEST, LARGEST / largest) }
}

/// The nearest whole number (ties to even) in the lowest byte; `value * inverse` is within
/// -127..=127, or the unit is NaN and the result does not matter.
#[inline(always)]
fn nearest(value: f32, inverse: f32) -> u32 {
    // Of 1.5 * 2^23 plus a small number, the last bit of the significand is worth 1.
    (value * inverse + 12_582_912.0).to_bits()
}

/// Weights of one output as int8, the value of one unit (NaN when a weight is not finite) and the
/// sum of the quantised weights.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn quantise_weights(bytes: &mut [u8], weights: &[f32]) -> (f32, i32) {
    let (unit, inverse) = unit_of(magnitude(weights));
    for (byte, weight) in bytes.iter_mut().zip(weights) {
        *byte = nearest(*weight, inverse) as u8;
    }
    (unit, bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum())
}

/// bf16 weights as words.
pub(super) fn pair(words: &mut [u32], weights: &[bf16]) {
    for (word, pair) in words.iter_mut().zip(weights.chunks(2)) {
        let upper = pair.get(1).map_or(0, |weight| u32::from(weight.to_bits()));
        *word = u32::from(pair[0].to_bits()) | upper << 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_library() {
        let special = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40];
        let values = (0..40_000u32).map(|i| f32::from_bits(i.wrapping_mul(107_374)));
        for value in special.into_iter().chain(values) {
            let want = u32::from(bf16::from_f32(value).to_bits());
            let got = rounded(value);
            assert!(got == want || value.is_nan() && got & 0x7fff > 0x7f80, "{value}: {got:x}");
        }
    }

    #[test]
    fn quantised_values_are_within_half_a_unit() {
        let values: Vec<f32> = (0..37).map(|i| ((i * 29 % 37) as f32 - 18.0) / 7.0).collect();
        let mut bytes = [0u8; 40];
        let unit = quantise(&mut bytes, &values);
        for (value, byte) in values.iter().zip(bytes) {
            let back = unit * (i32::from(byte) - ZERO_POINT) as f32;
            assert!((back - value).abs() <= 0.500_01 * unit, "{value} {back}");
        }
        let mut weights = [0u8; 40];
        let (unit, sum) = quantise_weights(&mut weights, &values);
        let weights = weights.map(|byte| i32::from(byte.cast_signed()));
        for (value, weight) in values.iter().zip(weights) {
            assert!((weight as f32 * unit - value).abs() <= 0.500_01 * unit, "{value} {weight}");
        }
        assert_eq!(sum, weights.iter().sum::<i32>());
        // The largest magnitudes, of either sign, and ties to even.
        let mut bytes = [0u8; 6];
        let unit = quantise(&mut bytes, &[-127.0, 127.0, 0.5, 1.5, -0.5, -2.5]);
        assert_eq!((unit, bytes), (1.0, [1, 255, 128, 130, 128, 126]));
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut words = [0u8; 24];
            let mut values = [1.0f32; 22];
            values[20] = bad;
            assert!(quantise(&mut words, &values).is_nan());
            values[20] = 1.0;
            values[3] = bad;
            assert!(quantise(&mut words, &values).is_nan());
        }
        assert_eq!(quantise(&mut [0; 4], &[0.0, -0.0, 1e-35]), 0.0);
    }
}
