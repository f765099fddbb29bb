//! Samples in another order: loops over bytes alone, which the compiler turns into shuffles of
//! whole registers.

/// The samples of three planes one after the other, for as many as `out` has pixels.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn interleave(first: &[u8], second: &[u8], third: &[u8], out: &mut [u8]) {
    let planes = first.iter().zip(second.iter().zip(third));
    for (pixel, (a, (b, c))) in out.as_chunks_mut::<3>().0.iter_mut().zip(planes) {
        *pixel = [*a, *b, *c];
    }
}

/// Pixels of `BYTES` bytes, of which those at `FIRST`, 1 and `THIRD` are red, green and blue.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn choose<const BYTES: usize, const FIRST: usize, const THIRD: usize>(
    row: &[u8],
    out: &mut [u8],
) {
    let pixels = row.as_chunks::<BYTES>().0;
    for (out, pixel) in out.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
        *out = [pixel[FIRST], pixel[1], pixel[THIRD]];
    }
}
