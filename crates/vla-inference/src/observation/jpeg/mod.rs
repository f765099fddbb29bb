//! TensorFlow's JPEG round trip, byte for byte, without a JPEG.
//!
//! `tf.image.encode_jpeg` with its defaults (baseline, quality 95, 4:2:0) and then
//! `tf.io.decode_image`, as OpenVLA's evaluations do because the training data went through it.
//! Entropy coding is lossless, so that only the integer arithmetic around it remains: colour
//! conversion, chroma reduction, accurate DCT, quantisation, and on the way back the *fast* inverse
//! DCT, which TensorFlow chooses and no general decoder uses, in 16 bits that wrap as
//! libjpeg-turbo's SSE2 code does. Source: TensorFlow 2.15 with libjpeg-turbo 2.1.4 on x86-64
//! (`jccolor.c`, `jcsample.c`, `jfdctint.c`, `jcdctmgr.c`, `jddctmgr.c`, `jidctfst-sse2.asm`,
//! `jdsample.c`, `jdcolor.c`).

mod blocks;
mod colour;
mod sampling;

use self::blocks::{BLOCK_COLUMNS, Quantisation};
use super::preparation::View;

/// Annex K of ITU-T T.81, luminance.
const LUMA: [u8; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
/// Annex K of ITU-T T.81, chrominance.
const CHROMA: [u8; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// The round trip for images of any size; keeps its buffers between images.
pub(super) struct JpegRoundTrip {
    luma: Quantisation,
    chroma: Quantisation,
    planes: [Plane; 3],
    /// Chroma of two rows in full resolution, on the way in.
    full: [Vec<u8>; 4],
    /// Chroma of a row in full resolution, on the way out.
    smooth: [Vec<u8>; 2],
    /// Vertically interpolated chroma.
    between: Vec<u16>,
}

/// Samples of one component, rows padded to whole groups of blocks.
#[derive(Default)]
struct Plane {
    stride: usize,
    rows: usize,
    samples: Vec<u8>,
}

impl Plane {
    fn resize(&mut self, width: usize, height: usize) {
        self.stride = width.next_multiple_of(BLOCK_COLUMNS);
        self.rows = height.next_multiple_of(8);
        self.samples.resize(self.stride * self.rows, 0);
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..(y + 1) * self.stride]
    }

    fn row_mut(&mut self, y: usize) -> &mut [u8] {
        &mut self.samples[y * self.stride..(y + 1) * self.stride]
    }

    /// Repeats the last of `height` rows down to the end.
    fn repeat_last_row(&mut self, height: usize) {
        let last = (height - 1) * self.stride;
        for y in height..self.rows {
            self.samples.copy_within(last..last + self.stride, y * self.stride);
        }
    }
}

impl JpegRoundTrip {
    pub(super) fn new() -> Self {
        Self {
            luma: Quantisation::at_quality_95(&LUMA),
            chroma: Quantisation::at_quality_95(&CHROMA),
            planes: Default::default(),
            full: Default::default(),
            smooth: Default::default(),
            between: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) {
        self.encode_colour(image);
        let [luma, blue, red] = &mut self.planes;
        blocks::round_trip(&mut luma.samples, luma.stride, &self.luma);
        blocks::round_trip(&mut blue.samples, blue.stride, &self.chroma);
        blocks::round_trip(&mut red.samples, red.stride, &self.chroma);
        self.decode_colour(image, out);
    }

    /// Fills the three planes.
    fn encode_colour(&mut self, image: View<'_>) {
        let (width, height) = (image.size.width, image.size.height);
        let half = (width.div_ceil(2), height.div_ceil(2));
        // Chroma is reduced from columns that are repeated up to a multiple of 16.
        let padded = width.next_multiple_of(16);
        let [luma, blue, red] = &mut self.planes;
        luma.resize(width, height);
        blue.resize(half.0, half.1);
        red.resize(half.0, half.1);
        self.full.iter_mut().for_each(|row| row.resize(padded, 0));
        let mut rows = image.pixels.chunks_exact(width * 3);
        for y in 0..half.1 {
            let [upper_blue, upper_red, lower_blue, lower_red] = &mut self.full;
            if let Some(pixels) = rows.next() {
                colour::from_rgb(pixels, luma.row_mut(2 * y), upper_blue, upper_red);
            }
            match rows.next() {
                Some(pixels) => {
                    colour::from_rgb(pixels, luma.row_mut(2 * y + 1), lower_blue, lower_red);
                }
                None => {
                    lower_blue.copy_from_slice(upper_blue);
                    lower_red.copy_from_slice(upper_red);
                }
            }
            for row in [&mut *upper_blue, upper_red, lower_blue, lower_red] {
                repeat_last(row, width);
            }
            sampling::halve(upper_blue, lower_blue, blue.row_mut(y));
            sampling::halve(upper_red, lower_red, red.row_mut(y));
        }
        for y in 0..height {
            let row = luma.row_mut(y);
            let end = width.next_multiple_of(8);
            repeat_last(&mut row[..end], width);
        }
        luma.repeat_last_row(height);
        blue.repeat_last_row(half.1);
        red.repeat_last_row(half.1);
    }

    /// The planes as RGB.
    fn decode_colour(&mut self, image: View<'_>, out: &mut Vec<u8>) {
        let (width, height) = (image.size.width, image.size.height);
        let half = (width.div_ceil(2), height.div_ceil(2));
        out.resize(width * height * 3, 0);
        self.smooth.iter_mut().for_each(|row| row.resize(2 * half.0, 0));
        self.between.resize(half.0, 0);
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
            let near = y / 2;
            let far = if y % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(half.1 - 1) };
            for (plane, row) in self.planes[1..].iter().zip(&mut self.smooth) {
                let near = &plane.row(near)[..half.0];
                if half.0 > 2 {
                    let far = &plane.row(far)[..half.0];
                    sampling::double(near, far, &mut self.between, row);
                } else {
                    sampling::repeat(near, row);
                }
            }
            let [blue, red] = &self.smooth;
            colour::to_rgb(&self.planes[0].row(y)[..width], blue, red, out);
        }
    }
}

/// Repeats the last of `used` values up to the end.
fn repeat_last(row: &mut [u8], used: usize) {
    let last = row[used - 1];
    row[used..].fill(last);
}

#[cfg(test)]
mod tests;
