//! Tiles in AVX-512: a block of rows times one panel of weights.
//!
//! An accumulator holds 16 outputs of one row: with 14 rows there are 28 of them, two vectors of
//! weights and one broadcast activation in the 32 registers.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_and_si512, _mm512_castsi512_ps,
    _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_store_si512, _mm512_storeu_ps, _mm512_storeu_si512,
};

use super::layout::{FEW_ROWS, LANES, Line, MAX_ROWS, PANEL};

/// Lines between a product with few rows and what it requests from memory: 4 KB.
const LINES_AHEAD: usize = 64;

/// A tile for each number of rows, and the entry that checks the sizes and selects one.
macro_rules! tile {
    (
        $(#[$doc:meta])*
        $entry:ident, $tile:ident, $features:literal, $sum:ty, words $words:literal,
        $zero:ident, $load:ident, $store:ident, $product:ident
    ) => {
        /// # Safety
        /// As the entry, which has checked the sizes.
        #[target_feature(enable = $features)]
        unsafe fn $tile<const ROWS: usize>(a: &[u32], b: &[Line], c: &mut [$sum], first: bool) {
            let mut sums = [[$zero(); 2]; ROWS];
            let c = c.as_mut_ptr();
            if !first {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: `c` holds ROWS * PANEL sums.
                        *sum = unsafe { $load(c.add(row * PANEL + half * LANES).cast()) };
                    }
                }
            }
            let (a, b, steps) = (a.as_ptr(), b.as_ptr(), b.len() / 2);
            for step in 0..steps {
                // SAFETY: `b` holds two lines, `a` ROWS times $words words for each step; a line
                // is aligned to its size.
                unsafe {
                    if ROWS <= FEW_ROWS {
                        // Beyond the end is no error of a prefetch: it is the next panel.
                        let ahead = b.wrapping_add(2 * step + LINES_AHEAD);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(1).cast());
                    }
                    let a = a.add(step * ROWS * $words);
                    let line = |half| _mm512_load_si512(b.add(2 * step + half).cast());
                    $product(&mut sums, a, [line(0), line(1)]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (half, sum) in sums.iter().enumerate() {
                    // SAFETY: `c` holds ROWS * PANEL sums.
                    unsafe { $store(c.add(row * PANEL + half * LANES).cast(), *sum) };
                }
            }
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// The processor has this function's features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $entry(
            rows: usize,
            a: &[u32],
            b: &[Line],
            c: &mut [$sum],
            first: bool,
        ) {
            assert!(rows <= MAX_ROWS && b.len() % 2 == 0, "{rows} rows, {} lines", b.len());
            assert!(a.len() == rows * (b.len() / 2) * $words, "activations of another length");
            assert!(c.len() == rows * PANEL, "sums of another size");
            // SAFETY: the sizes were checked just above; the features are the caller's promise.
            unsafe {
                match rows {
                    1 => $tile::<1>(a, b, c, first),
                    2 => $tile::<2>(a, b, c, first),
                    3 => $tile::<3>(a, b, c, first),
                    4 => $tile::<4>(a, b, c, first),
                    5 => $tile::<5>(a, b, c, first),
                    6 => $tile::<6>(a, b, c, first),
                    7 => $tile::<7>(a, b, c, first),
                    8 => $tile::<8>(a, b, c, first),
                    9 => $tile::<9>(a, b, c, first),
                    10 => $tile::<10>(a, b, c, first),
                    11 => $tile::<11>(a, b, c, first),
                    12 => $tile::<12>(a, b, c, first),
                    13 => $tile::<13>(a, b, c, first),
                    14 => $tile::<14>(a, b, c, first),
                    _ => {}
                }
            }
        }
    };
}

tile!(
    /// float32 words: `c (+)= a b` by fused multiply-add.
    floats, floats_tile, "avx512f", f32, words 1,
    _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, floats_step
);
tile!(
    /// bf16 words of weights, float32 words of activations (two per step): the weights are widened
    /// in registers, which costs less than a scratch for few rows.
    widening, widening_tile, "avx512f", f32, words 2,
    _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, widening_step
);
tile!(
    /// bf16 words: pairs of products by `vdpbf16ps`.
    pairs, pairs_tile, "avx512f,avx512bf16", f32, words 1,
    _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, pairs_step
);
tile!(
    /// int8 words of weights, unsigned bytes of activations: four products by `vpdpbusd`. Sums are
    /// exact up to 66 000 inputs.
    bytes, bytes_tile, "avx512f,avx512vnni", i32, words 1,
    _mm512_setzero_si512, _mm512_loadu_si512, _mm512_storeu_si512, bytes_step
);

/// Lines of bf16 pairs as twice the lines of float32, the upper halves first. (The compiler makes
/// scatters of the portable loop, which are ten times slower.)
///
/// # Safety
/// The processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn widen(out: &mut [Line], stored: &[Line]) {
    let mask = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for (out, stored) in out.chunks_exact_mut(4).zip(stored.chunks_exact(2)) {
        for half in 0..2 {
            // SAFETY: a line is 64 bytes, aligned to its size.
            let pairs = unsafe { _mm512_load_si512((&raw const stored[half]).cast()) };
            let (upper, lower) = (_mm512_and_si512(pairs, mask), _mm512_slli_epi32::<16>(pairs));
            // SAFETY: as above.
            unsafe {
                _mm512_store_si512((&raw mut out[half]).cast(), upper);
                _mm512_store_si512((&raw mut out[2 + half]).cast(), lower);
            }
        }
    }
}

/// # Safety
/// `a` points to `ROWS` words; the same for every step below.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn floats_step<const ROWS: usize>(
    sums: &mut [[__m512; 2]; ROWS],
    a: *const u32,
    b: [__m512i; 2],
) {
    let b = [_mm512_castsi512_ps(b[0]), _mm512_castsi512_ps(b[1])];
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller vouches for ROWS words.
        let a = _mm512_castsi512_ps(_mm512_set1_epi32(unsafe { *a.add(row) }.cast_signed()));
        sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
        sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
    }
}

/// # Safety
/// `a` points to twice `ROWS` words.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn widening_step<const ROWS: usize>(
    sums: &mut [[__m512; 2]; ROWS],
    a: *const u32,
    b: [__m512i; 2],
) {
    // The order of `layout::widened`.
    let mask = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let upper = [_mm512_and_si512(b[0], mask), _mm512_and_si512(b[1], mask)];
    let lower = [_mm512_slli_epi32::<16>(b[0]), _mm512_slli_epi32::<16>(b[1])];
    // SAFETY: the caller vouches for twice ROWS words.
    unsafe {
        floats_step(sums, a, upper);
        floats_step(sums, a.add(ROWS), lower);
    }
}

/// # Safety
/// See [`floats_step`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs_step<const ROWS: usize>(
    sums: &mut [[__m512; 2]; ROWS],
    a: *const u32,
    b: [__m512i; 2],
) {
    // SAFETY: the types differ in name only: 512 bits without invalid values.
    let pairs = |x: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
    let b = [pairs(b[0]), pairs(b[1])];
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller vouches for ROWS words.
        let a = pairs(_mm512_set1_epi32(unsafe { *a.add(row) }.cast_signed()));
        sums[0] = _mm512_dpbf16_ps(sums[0], a, b[0]);
        sums[1] = _mm512_dpbf16_ps(sums[1], a, b[1]);
    }
}

/// # Safety
/// See [`floats_step`].
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn bytes_step<const ROWS: usize>(
    sums: &mut [[__m512i; 2]; ROWS],
    a: *const u32,
    b: [__m512i; 2],
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller vouches for ROWS words.
        let a = _mm512_set1_epi32(unsafe { *a.add(row) }.cast_signed());
        sums[0] = _mm512_dpbusd_epi32(sums[0], a, b[0]);
        sums[1] = _mm512_dpbusd_epi32(sums[1], a, b[1]);
    }
}
