//! The tiles without intrinsics, compiled for AVX2, AVX-512 and NEON and selected at run time: the
//! same sums in the same order as [`avx512`](super::avx512), so the same bits.

use multiversion::multiversion;

use super::layout::{LANES, Line, PANEL, widened};

/// Rows that are done together: their sums of one line fit the registers of AVX2 and NEON.
const ROWS: usize = 4;
/// Steps of int8 products whose float32 sum is exact: 128 * 4 * 255 * 127 is below 2^24.
const EXACT_STEPS: usize = 128;

/// float32 words: `c (+)= a b`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn floats(rows: usize, a: &[u32], b: &[Line], c: &mut [f32], first: bool) {
    assert!(a.len() == rows * (b.len() / 2) && c.len() == rows * PANEL, "sizes of a tile");
    for start in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - start);
        for half in 0..2 {
            let mut sums = load(c, start, count, half, first);
            for (step, b) in b.chunks_exact(2).enumerate() {
                let a = &a[step * rows + start..][..count];
                for (sums, a) in sums.iter_mut().zip(a) {
                    add_products(sums, *a, &b[half].0);
                }
            }
            store(c, start, count, half, &sums);
        }
    }
}

/// bf16 words of weights, float32 words of activations, two per step.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn widening(rows: usize, a: &[u32], b: &[Line], c: &mut [f32], first: bool) {
    assert!(a.len() == rows * b.len() && c.len() == rows * PANEL, "sizes of a tile");
    for start in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - start);
        for half in 0..2 {
            let mut sums = load(c, start, count, half, first);
            for (step, b) in b.chunks_exact(2).enumerate() {
                for part in 0..2 {
                    let wide = b[half].0.map(|word| widened(word)[part]);
                    let a = &a[(2 * step + part) * rows + start..][..count];
                    for (sums, a) in sums.iter_mut().zip(a) {
                        add_products(sums, *a, &wide);
                    }
                }
            }
            store(c, start, count, half, &sums);
        }
    }
}

/// int8 words of weights, unsigned bytes of activations. float32 adds whole numbers below 2^24
/// exactly, and every processor multiplies and adds them fast.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn bytes(rows: usize, a: &[u32], b: &[Line], c: &mut [i32], first: bool) {
    assert!(a.len() == rows * (b.len() / 2) && c.len() == rows * PANEL, "sizes of a tile");
    if first {
        c.fill(0);
    }
    for start in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - start);
        for half in 0..2 {
            for (pass, b) in b.chunks(2 * EXACT_STEPS).enumerate() {
                let mut sums = [[0.0f32; LANES]; ROWS];
                for (step, b) in b.chunks_exact(2).enumerate() {
                    let a = &a[(pass * EXACT_STEPS + step) * rows + start..][..count];
                    for byte in 0..4 {
                        let wide = b[half].0.map(|word| signed_byte(word, byte).to_bits());
                        for (sums, a) in sums.iter_mut().zip(a) {
                            let a = ((a >> (8 * byte)) & 0xff) as f32;
                            add_products(sums, a.to_bits(), &wide);
                        }
                    }
                }
                for (row, sums) in sums[..count].iter().enumerate() {
                    let c = &mut c[(start + row) * PANEL + half * LANES..][..LANES];
                    for (c, sum) in c.iter_mut().zip(sums) {
                        *c += *sum as i32; // exact: a whole number below 2^24
                    }
                }
            }
        }
    }
}

/// Lines of bf16 pairs as twice the lines of float32, the upper halves first.
#[multiversion(targets("x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn widen(out: &mut [Line], stored: &[Line]) {
    for (out, stored) in out.chunks_exact_mut(4).zip(stored.chunks_exact(2)) {
        for half in 0..2 {
            for lane in 0..LANES {
                [out[half].0[lane], out[2 + half].0[lane]] = widened(stored[half].0[lane]);
            }
        }
    }
}

#[inline(always)]
fn signed_byte(word: u32, byte: u32) -> f32 {
    ((word << (24 - 8 * byte)).cast_signed() >> 24) as f32
}

#[inline(always)]
fn add_products(sums: &mut [f32; LANES], a: u32, b: &[u32; LANES]) {
    let a = f32::from_bits(a);
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum = a.mul_add(f32::from_bits(*b), *sum);
    }
}

#[inline(always)]
fn load(c: &[f32], start: usize, count: usize, half: usize, first: bool) -> [[f32; LANES]; ROWS] {
    let mut sums = [[0.0; LANES]; ROWS];
    if !first {
        for (row, sums) in sums[..count].iter_mut().enumerate() {
            sums.copy_from_slice(&c[(start + row) * PANEL + half * LANES..][..LANES]);
        }
    }
    sums
}

#[inline(always)]
fn store(c: &mut [f32], start: usize, count: usize, half: usize, sums: &[[f32; LANES]; ROWS]) {
    for (row, sums) in sums[..count].iter().enumerate() {
        c[(start + row) * PANEL + half * LANES..][..LANES].copy_from_slice(sums);
    }
}
