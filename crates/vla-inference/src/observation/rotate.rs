//! Rotation by 180 degrees: `image[::-1, ::-1]`, as the LIBERO evaluations do with the simulator's
//! images.

use super::preparation::View;

/// The pixels in reverse order.
pub(super) fn rotate_180(image: View<'_>, out: &mut Vec<u8>) {
    out.resize(image.pixels.len(), 0);
    reverse(out, image.pixels);
}

/// Five pixels and a byte, which the compiler reverses with one shuffle of a vector register.
const BLOCK: usize = 16;
const BYTES: usize = 15;

#[multiversion::multiversion(targets("x86_64+avx2", "x86_64+ssse3", "aarch64+neon"))]
fn reverse(out: &mut [u8], pixels: &[u8]) {
    let (mut done, mut end) = (0, pixels.len());
    // The byte before the pixels is written behind them, where the next block overwrites it.
    while done + BLOCK <= out.len() && BLOCK <= end {
        let (Some(source), Some(out)) = (
            pixels[end - BLOCK..end].first_chunk::<BLOCK>(),
            out[done..done + BLOCK].first_chunk_mut::<BLOCK>(),
        ) else {
            break;
        };
        let s = *source;
        *out = [
            s[13], s[14], s[15], s[10], s[11], s[12], s[7], s[8], s[9], s[4], s[5], s[6], s[1],
            s[2], s[3], s[0],
        ];
        done += BYTES;
        end -= BYTES;
    }
    let rest = out[done..].as_chunks_mut::<3>().0.iter_mut();
    for (out, pixel) in rest.zip(pixels[..end].as_chunks::<3>().0.iter().rev()) {
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
