//! Inner loops, written to be vectorised by the compiler, compiled per instruction set and selected
//! at run time.
//!
//! `mul_add` is a fused multiply-add on all of the targets below; elsewhere it is slow but correct.

use half::bf16;
use multiversion::multiversion;

/// Lanes of the explicit accumulators: one AVX-512 register, two AVX ones, four NEON ones.
const LANES: usize = 16;

/// `e^x` for float32 with a relative error below 2e-7: reduction to `2^n e^r`, `|r| <= ln2/2`, then
/// the Taylor polynomial of degree 7 (remainder 5e-9).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    // Below -87.3 the result is subnormal and flushes to the smallest normal, which is as good as
    // zero here.
    let x = x.clamp(-87.3, 88.7);
    // Of 1.5 * 2^23 plus a small number, the last bit of the significand is worth 1: this rounds to
    // the nearest even, and the bits are the integer (a cast saturates, lane by lane).
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let integer = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).cast_signed();
    // ln 2 split in a part with trailing zeros (the product with n is exact) and the rest.
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
    let mut p = 1.0f32 / 5040.0;
    p = p.mul_add(r, 1.0 / 720.0);
    p = p.mul_add(r, 1.0 / 120.0);
    p = p.mul_add(r, 1.0 / 24.0);
    p = p.mul_add(r, 1.0 / 6.0);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    // n is at most 128: split the scaling so that 2^128 does not overflow the exponent field.
    let half = integer >> 1;
    let power = |n: i32| f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23);
    p * power(half) * power(integer.wrapping_sub(half))
}

/// `erf(x)` for float32 with an absolute error below 4e-7: `x P(x^2) / Q(x^2)` on |x| <= 3.92,
/// beyond which erf is 1 to within float32. Coefficients: weighted rational least squares (Lawson),
/// relative error 1.8e-9 before rounding.
#[inline(always)]
fn erf(x: f32) -> f32 {
    #[allow(clippy::approx_constant)] // a fitted coefficient that happens to lie near 2/sqrt(pi)
    const P: [f32; 7] = [
        1.128_379_2,
        0.185_135_26,
        0.054_244_01,
        0.003_838_625_5,
        0.000_376_760_3,
        4.609_271_4e-6,
        -1.279_999e-8,
    ];
    const Q: [f32; 6] =
        [1.0, 0.497_405_26, 0.113_873_78, 0.015_430_058, 0.001_301_527_4, 6.239_953e-5];
    let x = x.clamp(-3.92, 3.92);
    let t = x * x;
    let p = P.iter().rev().fold(0.0, |sum: f32, &c| sum.mul_add(t, c));
    let q = Q.iter().rev().fold(0.0, |sum: f32, &c| sum.mul_add(t, c));
    x * p / q
}

/// Widens bf16 to float32.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn widen(out: &mut [f32], stored: &[bf16]) {
    for (out, value) in out.iter_mut().zip(stored) {
        *out = f32::from_bits(u32::from(value.to_bits()) << 16);
    }
}

/// `x += y`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn add_in_place(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `out = silu(gate) * up`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn silu_mul(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Tanh form of GELU: `x/2 (1 + tanh u)` is `x / (1 + e^(-2u))`.
#[inline(always)]
fn gelu_tanh_of(x: f32) -> f32 {
    use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
    const TWICE_SQRT_2_OVER_PI: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    let u = TWICE_SQRT_2_OVER_PI * (x * x * x).mul_add(0.044_715, x);
    x / (1.0 + exp(-u))
}

/// Tanh form of GELU in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_tanh(x: &mut [f32]) {
    for x in x {
        *x = gelu_tanh_of(*x);
    }
}

/// SiLU in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn silu(x: &mut [f32]) {
    for x in x {
        *x /= 1.0 + exp(-*x);
    }
}

/// `out = gelu_tanh(gate) * up`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_tanh_mul(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gelu_tanh_of(gate) * up;
    }
}

/// `out = x * factor + offset`, element by element.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn multiply_add(out: &mut [f32], x: &[f32], factor: &[f32], offset: &[f32]) {
    for (((out, x), factor), offset) in out.iter_mut().zip(x).zip(factor).zip(offset) {
        *out = x.mul_add(*factor, *offset);
    }
}

/// Exact GELU in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu(x: &mut [f32]) {
    for x in x {
        *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// Softmax in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn softmax(x: &mut [f32]) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (max, &x) in max.iter_mut().zip(chunk) {
            *max = if x > *max { x } else { *max };
        }
    }
    let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, x) in sum.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    let mut total: f32 = sum.iter().sum();
    for x in rest {
        *x = exp(*x - max);
        total += *x;
    }
    let scale = 1.0 / total;
    for x in x {
        *x *= scale;
    }
}

/// Sum of the values.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Sum of the squares of `x - centre`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn square_sum(x: &[f32], centre: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            let d = x - centre;
            *lane = d.mul_add(d, *lane);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| (x - centre) * (x - centre)).sum::<f32>()
}

/// `out = (x - centre) * factor * gain + offset` per column.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn normalise(
    out: &mut [f32],
    x: &[f32],
    centre: f32,
    factor: f32,
    gain: &[f32],
    offset: &[f32],
) {
    for (((out, x), gain), offset) in out.iter_mut().zip(x).zip(gain).zip(offset) {
        *out = ((x - centre) * factor).mul_add(*gain, *offset);
    }
}

/// `out = x * factor * gain` per column.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn scale(out: &mut [f32], x: &[f32], factor: f32, gain: &[f32]) {
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * factor * gain;
    }
}

/// `x *= gain` per column.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn multiply_in_place(x: &mut [f32], gain: &[f32]) {
    for (x, gain) in x.iter_mut().zip(gain) {
        *x *= gain;
    }
}

/// `out += factor * x`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.mul_add(factor, *out);
    }
}

/// Dot product of two float32 vectors.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let n = x.len().min(y.len());
    let (x, y) = (&x[..n], &y[..n]);
    let mut lanes = [0.0f32; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = x.mul_add(*y, *lane);
        }
    }
    lanes.iter().sum::<f32>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// Dot products of consecutive bf16 rows with one float32 vector: a matrix-vector product that
/// streams the weights once.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn rows_dot(out: &mut [f32], rows: &[bf16], x: &[f32]) {
    const UNROLL: usize = 4 * LANES;
    let columns = x.len();
    for (out, row) in out.iter_mut().zip(rows.chunks_exact(columns.max(1))) {
        let mut lanes = [0.0f32; UNROLL];
        let ((rows, row_rest), (xs, x_rest)) = (row.as_chunks::<UNROLL>(), x.as_chunks::<UNROLL>());
        for (row, x) in rows.iter().zip(xs) {
            for ((lane, w), x) in lanes.iter_mut().zip(row).zip(x) {
                *lane = f32::from_bits(u32::from(w.to_bits()) << 16).mul_add(*x, *lane);
            }
        }
        let rest: f32 = row_rest.iter().zip(x_rest).map(|(w, x)| w.to_f32() * x).sum();
        *out = lanes.iter().sum::<f32>() + rest;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_or_so() {
        let mut worst = 0.0f64;
        for i in -8_700..8_870 {
            let x = i as f32 * 0.01 + 0.003;
            let reference = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - reference).abs() / reference);
        }
        assert!(worst < 2e-7, "{worst}");
    }

    #[test]
    fn gelu_matches_an_integral_of_the_normal_density() {
        // An independent erf: composite Simpson of 2/sqrt(pi) e^(-t^2), in float64.
        let erf_reference = |x: f64| {
            let n = 2000;
            let h = x / f64::from(n);
            let f = |t: f64| (-t * t).exp();
            let sum: f64 = (0..=n)
                .map(|i| {
                    f(f64::from(i) * h)
                        * if i == 0 || i == n {
                            1.
                        } else if i % 2 == 1 {
                            4.
                        } else {
                            2.
                        }
                })
                .sum();
            sum * h / 3. * 2. / std::f64::consts::PI.sqrt()
        };
        for i in -800..=800 {
            let x = f64::from(i) * 0.01;
            let mut got = [x as f32];
            gelu(&mut got);
            let want = 0.5 * x * (1. + erf_reference(x / 2f64.sqrt()));
            assert!((f64::from(got[0]) - want).abs() < 1e-6, "{x}: {} {want}", got[0]);
        }
    }

    #[test]
    fn tanh_gelu_and_silu_match_their_definitions() {
        for i in -1200..=1200 {
            let x = f64::from(i) * 0.01;
            let (mut gelu, mut sigmoid) = ([x as f32], [x as f32]);
            gelu_tanh(&mut gelu);
            silu(&mut sigmoid);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let want = 0.5 * x * (1.0 + u.tanh());
            // An error of the exponential is relative to the result.
            let bound = 6e-7 * x.abs().max(1.0);
            assert!((f64::from(gelu[0]) - want).abs() < bound, "{x}: {} {want}", gelu[0]);
            let want = x / (1.0 + (-x).exp());
            assert!((f64::from(sigmoid[0]) - want).abs() < bound, "{x}: {} {want}", sigmoid[0]);
        }
    }

    #[test]
    fn softmax_sums_to_one_and_survives_large_values() {
        let mut x: Vec<f32> = (0..37).map(|i| (i as f32) * 5.0 - 60.0).collect();
        softmax(&mut x);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(x.is_sorted());
    }

    #[test]
    fn dots_agree_with_float64() {
        let x: Vec<f32> = (0..203).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        let w: Vec<bf16> =
            (0..203 * 3).map(|i| bf16::from_f32(((i * 53 % 89) as f32 - 44.0) / 13.0)).collect();
        let mut out = [0.0; 3];
        rows_dot(&mut out, &w, &x);
        for (row, out) in out.iter().enumerate() {
            let want: f64 = x
                .iter()
                .zip(&w[row * 203..])
                .map(|(x, w)| f64::from(*x) * f64::from(w.to_f32()))
                .sum();
            assert!((f64::from(*out) - want).abs() < 1e-4);
            let wide: Vec<f32> = w[row * 203..(row + 1) * 203].iter().map(|w| w.to_f32()).collect();
            assert!((f64::from(dot(&x, &wide)) - want).abs() < 1e-4);
        }
    }
}
