//! Bayer images as OpenCV's bilinear demosaicing converts them, byte for byte.
//!
//! A missing colour is the rounded mean of its two or four nearest samples; the outermost rows and
//! columns are those next to them, which is what cv_bridge and image_proc give. Source: OpenCV 4.9,
//! `modules/imgproc/src/demosaicing.cpp` (`Bayer2RGB_`).

/// Colours of the first two pixels of the first row, then of the second: 0 red, 1 green, 2 blue.
pub(super) type Pattern = [[usize; 2]; 2];

/// Smallest side of an image that can be demosaiced, pixels.
pub(super) const MIN_SIDE: usize = 3;

/// The pixels of `width * height * 3` bytes. `data` has `height` rows of `width` bytes, `step`
/// bytes apart; both sides are at least [`MIN_SIDE`].
pub(super) fn to_rgb(
    pattern: Pattern,
    (width, height): (usize, usize),
    step: usize,
    data: &[u8],
    out: &mut [u8],
) {
    let row = |y: usize| &data[y * step..y * step + width];
    let row_bytes = width * 3;
    // All bits where a row has a sample that is not green, for both parities.
    let masks: [Vec<u8>; 2] =
        [0, 1].map(|first| (1..width - 1).map(|x| if x % 2 == first { 255 } else { 0 }).collect());
    for y in 1..height - 1 {
        let out = &mut out[y * row_bytes..(y + 1) * row_bytes];
        // Colour of the row's samples that are not green, and the place of its first one.
        let colours = pattern[y % 2];
        let first = usize::from(colours[0] == 1);
        let rows = [row(y - 1), row(y), row(y + 1)];
        let inner = &mut out[3..row_bytes - 3];
        if colours[first] == 0 {
            red_row(rows, &masks[first], inner);
        } else {
            blue_row(rows, &masks[first], inner);
        }
        out.copy_within(3..6, 0);
        out.copy_within(row_bytes - 6..row_bytes - 3, row_bytes - 3);
    }
    out.copy_within(row_bytes..2 * row_bytes, 0);
    let last = (height - 1) * row_bytes;
    out.copy_within(last - row_bytes..last, last);
}

/// A row with red samples, without its ends.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn red_row(rows: [&[u8]; 3], mask: &[u8], out: &mut [u8]) {
    inner_row(rows, mask, out, |own, green, other| [own, green, other]);
}

/// A row with blue samples, without its ends.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn blue_row(rows: [&[u8]; 3], mask: &[u8], out: &mut [u8]) {
    inner_row(rows, mask, out, |own, green, other| [other, green, own]);
}

/// Every mean is computed for every pixel, and the mask selects, so that all pixels do the same.
#[inline(always)]
fn inner_row(
    [above, row, below]: [&[u8]; 3],
    mask: &[u8],
    out: &mut [u8],
    order: impl Fn(u8, u8, u8) -> [u8; 3],
) {
    let count = mask.len();
    let [a0, a1, a2] = [&above[..count], &above[1..count + 1], &above[2..count + 2]];
    let [r0, r1, r2] = [&row[..count], &row[1..count + 1], &row[2..count + 2]];
    let [b0, b1, b2] = [&below[..count], &below[1..count + 1], &below[2..count + 2]];
    let two = |a: u8, b: u8| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    let four = |a: u8, b: u8, c: u8, d: u8| {
        ((u16::from(a) + u16::from(b) + u16::from(c) + u16::from(d) + 2) >> 2) as u8
    };
    let pixels = &mut out.as_chunks_mut::<3>().0[..count];
    for i in 0..count {
        let select = |sample: u8, green: u8| (sample & mask[i]) | (green & !mask[i]);
        pixels[i] = order(
            select(r1[i], two(r0[i], r2[i])),
            select(four(a1[i], r0[i], r2[i], b1[i]), r1[i]),
            select(four(a0[i], a2[i], b0[i], b2[i]), two(a1[i], b1[i])),
        );
    }
}
