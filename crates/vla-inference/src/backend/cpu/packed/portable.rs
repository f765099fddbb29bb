//! The tiles without intrinsics, compiled for AVX2, AVX-512 and NEON and selected at run time: the
//! same sums in the same order as [`avx512`](super::avx512), so the same bits.

use multiversion::multiversion;

use super::layout::{LANES, Line, PANEL, widened};

/// Rows that are done together: their sums of one line fit the registers of AVX2 (12 of 16) and
/// of NEON.
const ROWS: usize = 6;
/// Steps of int8 products whose float32 sum is exact: 128 * 4 * 255 * 127 is below 2^24.
const EXACT_STEPS: usize = 128;

/// Calls a function of a constant number of rows for all rows of a block, [`ROWS`] at a time.
macro_rules! by_rows {
    ($rows:expr, $part:ident, $arguments:tt) => {
        for start in (0..$rows).step_by(ROWS) {
            match $rows - start {
                1 => by_rows!(@call $part, 1, start, $arguments),
                2 => by_rows!(@call $part, 2, start, $arguments),
                3 => by_rows!(@call $part, 3, start, $arguments),
                4 => by_rows!(@call $part, 4, start, $arguments),
                5 => by_rows!(@call $part, 5, start, $arguments),
                _ => by_rows!(@call $part, ROWS, start, $arguments),
            }
        }
    };
    (@call $part:ident, $count:expr, $start:ident, ($($argument:expr),*)) => {
        $part::<{ $count }>($start, $($argument),*)
    };
}

/// float32 words: `c (+)= a b`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn floats(rows: usize, a: &[u32], b: &[Line], c: &mut [f32], first: bool) {
    assert!(a.len() == rows * (b.len() / 2) && c.len() == rows * PANEL, "sizes of a tile");
    if rows == 1 {
        return one_row::<1>(a, b, c, first, |word, _| f32::from_bits(word));
    }
    by_rows!(rows, floats_of, (rows, a, b, c, first));
}

/// bf16 words of weights, float32 words of activations, two per step.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn widening(rows: usize, a: &[u32], b: &[Line], c: &mut [f32], first: bool) {
    assert!(a.len() == rows * b.len() && c.len() == rows * PANEL, "sizes of a tile");
    if rows == 1 {
        return one_row::<2>(a, b, c, first, |word, step| f32::from_bits(widened(word)[step]));
    }
    by_rows!(rows, widening_of, (rows, a, b, c, first));
}

/// int8 words of weights, unsigned bytes of activations. float32 adds whole numbers below 2^24
/// exactly, and every processor multiplies and adds them fast.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn bytes(rows: usize, a: &[u32], b: &[Line], c: &mut [i32], first: bool) {
    assert!(a.len() == rows * (b.len() / 2) && c.len() == rows * PANEL, "sizes of a tile");
    if first {
        c.fill(0);
    }
    by_rows!(rows, bytes_of, (rows, a, b, c));
}

/// Both lines of a panel in one pass: a product with one row is bound by reading them.
#[inline(always)]
fn one_row<const STEPS: usize>(
    a: &[u32],
    b: &[Line],
    c: &mut [f32],
    first: bool,
    weight: impl Fn(u32, usize) -> f32,
) {
    // Two variables: an array of both would not stay in registers.
    let mut low: [[f32; LANES]; 1] = load(c, 0, 0, first);
    let mut high: [[f32; LANES]; 1] = load(c, 0, 1, first);
    for (a, b) in a.chunks_exact(STEPS).zip(b.chunks_exact(2)) {
        for step in 0..STEPS {
            add_products(&mut low, &a[step..], |lane| weight(b[0].0[lane], step));
            add_products(&mut high, &a[step..], |lane| weight(b[1].0[lane], step));
        }
    }
    store(c, 0, 0, &low);
    store(c, 0, 1, &high);
}

#[inline(always)]
fn floats_of<const COUNT: usize>(
    start: usize,
    rows: usize,
    a: &[u32],
    b: &[Line],
    c: &mut [f32],
    first: bool,
) {
    for half in 0..2 {
        let mut sums: [[f32; LANES]; COUNT] = load(c, start, half, first);
        for (a, b) in a.chunks_exact(rows).zip(b.chunks_exact(2)) {
            add_products(&mut sums, &a[start..], |lane| f32::from_bits(b[half].0[lane]));
        }
        store(c, start, half, &sums);
    }
}

#[inline(always)]
fn widening_of<const COUNT: usize>(
    start: usize,
    rows: usize,
    a: &[u32],
    b: &[Line],
    c: &mut [f32],
    first: bool,
) {
    for half in 0..2 {
        let mut sums: [[f32; LANES]; COUNT] = load(c, start, half, first);
        for (a, b) in a.chunks_exact(2 * rows).zip(b.chunks_exact(2)) {
            let words = &b[half].0;
            add_products(&mut sums, &a[start..], |lane| f32::from_bits(widened(words[lane])[0]));
            let a = &a[rows + start..];
            add_products(&mut sums, a, |lane| f32::from_bits(widened(words[lane])[1]));
        }
        store(c, start, half, &sums);
    }
}

#[inline(always)]
fn bytes_of<const COUNT: usize>(start: usize, rows: usize, a: &[u32], b: &[Line], c: &mut [i32]) {
    for half in 0..2 {
        for (a, b) in a.chunks(EXACT_STEPS * rows).zip(b.chunks(2 * EXACT_STEPS)) {
            let mut sums = [[0.0f32; LANES]; COUNT];
            for (a, b) in a.chunks_exact(rows).zip(b.chunks_exact(2)) {
                for byte in 0..4 {
                    let mut values = [0; COUNT];
                    for (value, word) in values.iter_mut().zip(&a[start..]) {
                        *value = ((word >> (8 * byte)) as u8 as f32).to_bits();
                    }
                    let words = &b[half].0;
                    add_products(&mut sums, &values, |lane| {
                        ((words[lane] << (24 - 8 * byte)).cast_signed() >> 24) as f32
                    });
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let c = &mut c[(start + row) * PANEL + half * LANES..][..LANES];
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c += *sum as i32; // exact: a whole number below 2^24
                }
            }
        }
    }
}

/// One input of each row times the weights of one line.
#[inline(always)]
fn add_products<const COUNT: usize>(
    sums: &mut [[f32; LANES]; COUNT],
    a: &[u32],
    weight: impl Fn(usize) -> f32,
) {
    let a: [u32; COUNT] = std::array::from_fn(|row| a[row]);
    let mut weights = [0.0; LANES];
    for (lane, value) in weights.iter_mut().enumerate() {
        *value = weight(lane);
    }
    for (sums, a) in sums.iter_mut().zip(a) {
        let a = f32::from_bits(a);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = a.mul_add(weight, *sum);
        }
    }
}

#[inline(always)]
fn load<const COUNT: usize>(
    c: &[f32],
    start: usize,
    half: usize,
    first: bool,
) -> [[f32; LANES]; COUNT] {
    let mut sums = [[0.0; LANES]; COUNT];
    if !first {
        for (row, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&c[(start + row) * PANEL + half * LANES..][..LANES]);
        }
    }
    sums
}

#[inline(always)]
fn store<const COUNT: usize>(
    c: &mut [f32],
    start: usize,
    half: usize,
    sums: &[[f32; LANES]; COUNT],
) {
    for (row, sums) in sums.iter().enumerate() {
        c[(start + row) * PANEL + half * LANES..][..LANES].copy_from_slice(sums);
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
