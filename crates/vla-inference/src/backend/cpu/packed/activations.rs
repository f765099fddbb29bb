//! Activations in the words of a tile.

use half::bf16;
use multiversion::multiversion;

use super::layout::widened;
use super::tile::Tile;

/// Largest magnitude of a quantised value.
const LARGEST: f32 = 127.0;
/// Added to quantised activations: `vpdpbusd` takes them unsigned.
pub(super) const ZERO_POINT: i32 = 128;

/// Words of one row for `words` stored words of weights.
pub(super) fn words_per_row(tile: Tile, words: usize) -> usize {
    match tile {
        Tile::Floats | Tile::Widening => 2 * words,
        Tile::Pairs | Tile::Bytes => words,
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
    let mut row_words = vec![0u32; words];
    for (row, (values, scale)) in rows.chunks_exact(inputs).zip(scales).enumerate() {
        *scale = match tile {
            Tile::Bytes => quantise(&mut row_words, values),
            _ => {
                round(&mut row_words, values);
                1.0
            }
        };
        match tile {
            Tile::Floats | Tile::Widening => {
                for (out, word) in out.chunks_exact_mut(2 * count).zip(&row_words) {
                    [out[row], out[count + row]] = widened(*word);
                }
            }
            Tile::Pairs | Tile::Bytes => {
                for (out, word) in out.chunks_exact_mut(count).zip(&row_words) {
                    out[row] = *word;
                }
            }
        }
    }
}

/// Pairs of values as bf16, to nearest, ties to even; a missing partner is 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn round(words: &mut [u32], values: &[f32]) {
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

/// Four values per word as unsigned bytes around [`ZERO_POINT`], and the value of one unit. The unit
/// is NaN when a value is not finite, so that the outputs are not finite either.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn quantise(words: &mut [u32], values: &[f32]) -> f32 {
    let largest = magnitude(values);
    let (unit, inverse) = unit_of(largest);
    let byte = |value: f32| (nearest(value, inverse) + ZERO_POINT).cast_unsigned();
    let (fours, rest) = values.as_chunks::<4>();
    for (word, four) in words.iter_mut().zip(fours) {
        *word = byte(four[0]) | byte(four[1]) << 8 | byte(four[2]) << 16 | byte(four[3]) << 24;
    }
    if let (false, Some(word)) = (rest.is_empty(), words.last_mut()) {
        // Weights beside missing values are 0.
        *word = rest.iter().rev().fold(0, |word, value| word << 8 | byte(*value));
    }
    unit
}

/// Largest magnitude; NaN when a value is not finite.
#[inline(always)]
fn magnitude(values: &[f32]) -> f32 {
    let mut lanes = [0u32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
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

#[inline(always)]
fn nearest(value: f32, inverse: f32) -> i32 {
    // The cast of NaN is 0; the clamp keeps a rounded-up quotient within the range.
    (value * inverse).round_ties_even().clamp(-LARGEST, LARGEST) as i32
}

/// Weights of one output as int8, the value of one unit (NaN when a weight is not finite) and the
/// sum of the quantised weights.
pub(super) fn quantise_weights(out: &mut [i8], weights: &[f32]) -> (f32, i32) {
    let (unit, inverse) = unit_of(magnitude(weights));
    let mut sum = 0;
    for (out, weight) in out.iter_mut().zip(weights) {
        let quantised = nearest(*weight, inverse);
        *out = quantised as i8; // within -127..=127
        sum += quantised;
    }
    (unit, sum)
}

/// Bits of a weight as bf16.
pub(super) fn weight_bits(weight: f32) -> u16 {
    bf16::from_f32(weight).to_bits()
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
        let mut words = [0u32; 10];
        let unit = quantise(&mut words, &values);
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        for (value, byte) in values.iter().zip(bytes) {
            let back = unit * (i32::from(byte) - ZERO_POINT) as f32;
            assert!((back - value).abs() <= 0.500_01 * unit, "{value} {back}");
        }
        let mut weights = [0i8; 37];
        let (unit, sum) = quantise_weights(&mut weights, &values);
        assert!(
            weights
                .iter()
                .zip(&values)
                .all(|(w, v)| { (f32::from(*w) * unit - v).abs() <= 0.500_01 * unit })
        );
        assert_eq!(sum, weights.iter().map(|w| i32::from(*w)).sum::<i32>());
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut words = [0u32; 6];
            let mut values = [1.0f32; 22];
            values[20] = bad;
            assert!(quantise(&mut words, &values).is_nan());
            values[20] = 1.0;
            values[3] = bad;
            assert!(quantise(&mut words, &values).is_nan());
        }
        assert_eq!(quantise(&mut [0; 1], &[0.0, -0.0, 1e-35]), 0.0);
    }
}
