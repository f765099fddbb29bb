//! Rotation by 180 degrees: `image[::-1, ::-1]`, as the LIBERO evaluations do with the simulator's
//! images.

use super::preparation::View;

/// The pixels in reverse order.
pub(super) fn rotate_180(image: View<'_>, out: &mut Vec<u8>) {
    out.resize(image.pixels.len(), 0);
    let done = reverse_64(out, image.pixels);
    let rest = image.pixels.len() - done;
    reverse_16(&mut out[done..], &image.pixels[..rest]);
}

/// Reverses blocks of whole pixels and one byte, and returns the number of bytes that are done.
/// The byte before a block's pixels is written behind them, where the next block overwrites it.
#[inline(always)]
fn reverse_blocks<const BLOCK: usize>(
    out: &mut [u8],
    pixels: &[u8],
    reversed: impl Fn([u8; BLOCK]) -> [u8; BLOCK],
) -> usize {
    let (mut done, mut end) = (0, pixels.len());
    while let (Some(source), Some(out)) =
        (pixels[..end].last_chunk::<BLOCK>(), out[done..].first_chunk_mut::<BLOCK>())
    {
        *out = reversed(*source);
        done += BLOCK - 1;
        end -= BLOCK - 1;
    }
    done
}

/// Blocks of 21 pixels, where one instruction shuffles a register of 64 bytes; else none.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx512vbmi"))]
fn reverse_64(out: &mut [u8], pixels: &[u8]) -> usize {
    if !multiversion::target::selected_target!().supports_feature_str("avx512vbmi") {
        return 0;
    }
    // In this form the compiler finds the shuffle.
    reverse_blocks(out, pixels, |s: [u8; 64]| {
        let mut out = [s[0]; 64];
        let mut i = 0;
        while i < 63 {
            (out[i], out[i + 1], out[i + 2]) = (s[61 - i], s[62 - i], s[63 - i]);
            i += 3;
        }
        out
    })
}

/// Blocks of five pixels, and the rest.
#[multiversion::multiversion(targets("x86_64+avx2", "x86_64+ssse3", "aarch64+neon"))]
fn reverse_16(out: &mut [u8], pixels: &[u8]) {
    let done = reverse_blocks(out, pixels, |s: [u8; 16]| {
        [
            s[13], s[14], s[15], s[10], s[11], s[12], s[7], s[8], s[9], s[4], s[5], s[6], s[1],
            s[2], s[3], s[0],
        ]
    });
    let rest = pixels[..pixels.len() - done].as_chunks::<3>().0.iter().rev();
    for (out, pixel) in out[done..].as_chunks_mut::<3>().0.iter_mut().zip(rest) {
        *out = *pixel;
    }
}

#[cfg(test)]
mod tests {
    use super::super::preparation::{Size, View};
    use super::*;

    #[test]
    fn every_size_is_reversed() {
        for (width, height) in
            [(1, 1), (5, 3), (16, 1), (17, 4), (21, 1), (22, 1), (31, 33), (64, 48)]
        {
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
