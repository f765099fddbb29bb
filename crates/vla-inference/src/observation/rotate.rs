//! Rotation by 180 degrees: `image[::-1, ::-1]`, as the LIBERO evaluations do with the simulator's
//! images.

use super::preparation::View;

/// The pixels in reverse order.
pub(super) fn rotate_180(image: View<'_>, out: &mut Vec<u8>) {
    out.resize(image.pixels.len(), 0);
    reverse(out, image.pixels);
}

/// Pixels that are reversed at once; their bytes are a multiple of a vector register's.
const PIXELS: usize = 16;
const BYTES: usize = PIXELS * 3;

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn reverse(out: &mut [u8], pixels: &[u8]) {
    let (blocks, rest) = out.as_chunks_mut::<BYTES>();
    let (first, sources) = pixels.as_rchunks::<BYTES>();
    for (out, source) in blocks.iter_mut().zip(sources.iter().rev()) {
        *out = std::array::from_fn(|place| source[BYTES - 3 - place / 3 * 3 + place % 3]);
    }
    let rest = rest.as_chunks_mut::<3>().0.iter_mut();
    for (out, pixel) in rest.zip(first.as_chunks::<3>().0.iter().rev()) {
        *out = *pixel;
    }
}

#[cfg(test)]
mod tests {
    use super::super::preparation::{Size, View};
    use super::*;

    #[test]
    fn every_size_is_reversed() {
        for (width, height) in [(1, 1), (5, 3), (16, 1), (17, 4), (31, 33), (64, 48)] {
            let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i * 31 % 251) as u8).collect();
            let view = View { size: Size { width, height }, pixels: &pixels };
            let mut out = vec![9; 4];
            rotate_180(view, &mut out);
            let plain: Vec<u8> =
                pixels.chunks(3).rev().flat_map(|pixel| pixel.iter().copied()).collect();
            assert_eq!(out, plain, "{width} x {height}");
        }
    }
}
