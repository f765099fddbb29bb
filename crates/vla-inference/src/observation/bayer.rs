//! Bayer images as OpenCV's bilinear demosaicing converts them, byte for byte.
//!
//! A missing colour is the rounded mean of its two or four nearest samples; the outermost rows and
//! columns are those next to them, which is what cv_bridge and image_proc give. Source: OpenCV 4.9,
//! `modules/imgproc/src/demosaicing.cpp` (`Bayer2RGB_`).

use super::interleave::interleave;

/// Colours of the first two pixels of the first row, then of the second: 0 red, 1 green, 2 blue.
pub(super) type Pattern = [[usize; 2]; 2];

/// Smallest side of an image that can be demosaiced, pixels.
pub(super) const MIN_SIDE: usize = 3;

/// The pixels, `width * height * 3` bytes. `data` has `height` rows of `width` bytes, `step` bytes
/// apart; both sides are at least [`MIN_SIDE`].
pub(super) fn to_rgb(
    pattern: Pattern,
    (width, height): (usize, usize),
    step: usize,
    data: &[u8],
) -> Vec<u8> {
    let row = |y: usize| &data[y * step..y * step + width];
    // All bits where a row has a sample that is not green, for both parities.
    let masks: [Vec<u8>; 2] =
        [0, 1].map(|first| (1..width - 1).map(|x| if x % 2 == first { 255 } else { 0 }).collect());
    let [mut own, mut green, mut other] = [0, 1, 2].map(|_| vec![0; width - 2]);
    let mut pixels = vec![0; 3 * width];
    let mut out = Vec::with_capacity(3 * width * height);
    for y in 1..height - 1 {
        // Colour of the row's samples that are not green, and the place of its first one.
        let colours = pattern[y % 2];
        let first = usize::from(colours[0] == 1);
        let rows = [row(y - 1), row(y), row(y + 1)];
        inner_row(rows, &masks[first], &mut own, &mut green, &mut other);
        let inner = &mut pixels[3..3 * width - 3];
        match colours[first] {
            0 => interleave(&own, &green, &other, inner),
            _ => interleave(&other, &green, &own, inner),
        }
        pixels.copy_within(3..6, 0);
        pixels.copy_within(3 * width - 6..3 * width - 3, 3 * width - 3);
        let copies = 1 + usize::from(y == 1) + usize::from(y == height - 2);
        (0..copies).for_each(|_| out.extend_from_slice(&pixels));
    }
    out
}

/// A row without its ends: the colour of its own samples that are not green, green, and the other
/// colour. Every mean is computed for every pixel, and the mask selects, so that all pixels do the
/// same.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn inner_row(
    [above, row, below]: [&[u8]; 3],
    mask: &[u8],
    own: &mut [u8],
    green: &mut [u8],
    other: &mut [u8],
) {
    let count = mask.len();
    let [a0, a1, a2] = [&above[..count], &above[1..count + 1], &above[2..count + 2]];
    let [r0, r1, r2] = [&row[..count], &row[1..count + 1], &row[2..count + 2]];
    let [b0, b1, b2] = [&below[..count], &below[1..count + 1], &below[2..count + 2]];
    let two = |a: u8, b: u8| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    let four = |a: u8, b: u8, c: u8, d: u8| {
        ((u16::from(a) + u16::from(b) + u16::from(c) + u16::from(d) + 2) >> 2) as u8
    };
    let (own, green, other) = (&mut own[..count], &mut green[..count], &mut other[..count]);
    for i in 0..count {
        let select = |sample: u8, green: u8| (sample & mask[i]) | (green & !mask[i]);
        own[i] = select(r1[i], two(r0[i], r2[i]));
        green[i] = select(four(a1[i], r0[i], r2[i], b1[i]), r1[i]);
        other[i] = select(four(a0[i], a2[i], b0[i], b2[i]), two(a1[i], b1[i]));
    }
}
