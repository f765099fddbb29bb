//! OpenCV's `INTER_AREA` for reductions, byte for byte.
//!
//! The mean of the source pixels that an output pixel covers, as SimplerEnv's wrapper of OpenVLA
//! resizes. Source of the arithmetic: OpenCV 4.9, `modules/imgproc/src/resize.cpp`
//! (`computeResizeAreaTab`, `ResizeArea_Invoker`, `ResizeAreaFast_Invoker`). Enlarging is another
//! algorithm there and is refused.

use super::ImageError;
use super::columns::{
    FloatGroup, Group, LANES, ROWS, Taps, put_side_by_side, round_to_byte, take_floats_apart,
    weigh_bytes,
};
use super::preparation::{Size, View};

/// Reduces images to a fixed size; keeps its weights and buffers between images.
#[derive(Default)]
pub(super) struct AreaResize {
    size: Size,
    weights_for: Option<Size>,
    horizontal: Taps,
    vertical: Taps,
    columns: Vec<Group>,
    narrow: Vec<FloatGroup>,
    /// All rows after the horizontal pass, each one value longer than its pixels.
    rows: Vec<f32>,
    sums: Vec<f32>,
    counts: Vec<u32>,
}

/// The weights of `input` positions to `output`, fewer.
fn taps(input: usize, output: usize) -> Taps {
    let scale = 1.0 / (output as f64 / input as f64);
    let mut taps = Taps::with_stride(output, scale.ceil() as usize + 2);
    let mut weights = Vec::with_capacity(taps.stride);
    for position in 0..output {
        let start = position as f64 * scale;
        let end = start + scale;
        let cell = scale.min(input as f64 - start);
        let last = (end.floor() as usize).min(input - 1);
        let first = (start.ceil() as usize).min(last);
        weights.clear();
        let mut from = first;
        if first as f64 - start > 1e-3 {
            from = first - 1;
            weights.push(((first as f64 - start) / cell) as f32);
        }
        weights.extend((first..last).map(|_| (1.0 / cell) as f32));
        if end - last as f64 > 1e-3 {
            weights.push(((end - last as f64).min(1.0).min(cell) / cell) as f32);
        }
        taps.push(from, &weights);
    }
    taps
}

impl AreaResize {
    pub(super) fn new(size: Size) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) -> Result<(), ImageError> {
        let Size { width, height } = self.size;
        if image.size.width < width || image.size.height < height {
            return Err(ImageError::Enlarge { from: image.size, to: self.size });
        }
        out.resize(width * height * 3, 0);
        if image.size.width.is_multiple_of(width) && image.size.height.is_multiple_of(height) {
            self.whole(image, out);
        } else {
            self.weighted(image, out);
        }
        Ok(())
    }

    /// Both sides are whole multiples: integer sums.
    fn whole(&mut self, image: View<'_>, out: &mut [u8]) {
        let across = image.size.width / self.size.width;
        let down = image.size.height / self.size.height;
        let row_bytes = image.size.width * 3;
        let rows_of = image.pixels.chunks_exact(row_bytes * down);
        for (out, rows) in out.chunks_exact_mut(self.size.width * 3).zip(rows_of) {
            self.counts.clear();
            self.counts.resize(row_bytes, 0);
            for row in rows.chunks_exact(row_bytes) {
                for (sum, value) in self.counts.iter_mut().zip(row) {
                    *sum += u32::from(*value);
                }
            }
            let cells = self.counts.chunks_exact(across * 3);
            for (out, cell) in out.as_chunks_mut::<3>().0.iter_mut().zip(cells) {
                let mut sums = [0_u64; 3];
                for pixel in cell.as_chunks::<3>().0 {
                    sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u64::from(*value));
                }
                *out = sums.map(|sum| mean(sum, across, down));
            }
        }
    }

    fn weighted(&mut self, image: View<'_>, out: &mut [u8]) {
        let Size { width, height } = self.size;
        if self.weights_for != Some(image.size) {
            self.horizontal = taps(image.size.width, width);
            self.vertical = taps(image.size.height, height);
            self.weights_for = Some(image.size);
        }
        let stride = width * 3 + 1;
        self.columns.resize(image.size.width, [0; LANES]);
        self.narrow.resize(width, [0.0; LANES]);
        self.rows.resize(image.size.height * stride, 0.0);
        for (block, rows) in self.rows.chunks_mut(ROWS * stride).enumerate() {
            let pixels = &image.pixels[block * ROWS * image.size.width * 3..];
            put_side_by_side(&mut self.columns, pixels, image.size.width);
            weigh_bytes(&mut self.narrow, &self.columns, &self.horizontal);
            for (place, row) in rows.chunks_exact_mut(stride).enumerate() {
                take_floats_apart(row, &self.narrow, place);
            }
        }
        self.sums.resize(width * 3, 0.0);
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
            let (first, weights) = self.vertical.of(y);
            add_rows(out, &mut self.sums, &self.rows[first * stride..], weights);
        }
    }
}

/// The rounded mean of `across * down` values.
fn mean(sum: u64, across: usize, down: usize) -> u8 {
    if (across, down) == (2, 2) {
        // OpenCV has its own loop for halves, which rounds half up.
        return ((sum + 2) >> 2) as u8;
    }
    round_to_byte(sum as f32 * (1.0 / (across * down) as f32))
}

/// A row of the vertical pass, rounded; `sums` is scratch. Rows are one value longer than `out`.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn add_rows(out: &mut [u8], sums: &mut [f32], rows: &[f32], weights: &[f32]) {
    sums.fill(0.0);
    for (row, weight) in rows.chunks_exact(out.len() + 1).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value * weight;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = round_to_byte(*sum);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// The definition, pixel by pixel: horizontal sums of every row, then vertical ones.
    fn plain(from: Size, to: Size, pixels: &[u8]) -> Vec<u8> {
        let (across, down) = (taps(from.width, to.width), taps(from.height, to.height));
        let value = |y: usize, x: usize, channel: usize| pixels[(y * from.width + x) * 3 + channel];
        let (whole_x, whole_y) =
            (from.width.is_multiple_of(to.width), from.height.is_multiple_of(to.height));
        let mut out = Vec::new();
        for (y, x) in (0..to.height).flat_map(|y| (0..to.width).map(move |x| (y, x))) {
            for channel in 0..3 {
                if whole_x && whole_y {
                    let (nx, ny) = (from.width / to.width, from.height / to.height);
                    let places = (0..ny).flat_map(|j| (0..nx).map(move |i| (j, i)));
                    let sum: u32 = places
                        .map(|(j, i)| u32::from(value(y * ny + j, x * nx + i, channel)))
                        .sum();
                    let mean = sum as f32 * (1.0 / (nx * ny) as f32);
                    let half = (nx, ny) == (2, 2);
                    out.push(
                        if half { (sum + 2) >> 2 } else { mean.round_ties_even() as u32 } as u8
                    );
                    continue;
                }
                let (mut sum, (top, heights)) = (0.0, down.of(y));
                for (j, height) in heights.iter().enumerate() {
                    let (mut row, (left, widths)) = (0.0, across.of(x));
                    for (i, width) in widths.iter().enumerate() {
                        row += f32::from(value(top + j, left + i, channel)) * width;
                    }
                    sum += row * height;
                }
                out.push(f32::round_ties_even(sum).clamp(0.0, 255.0) as u8);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_reduction_follows_the_definition(
            (width, height) in (1usize..30, 1usize..30),
            more in proptest::collection::vec((0usize..40, 0usize..40, 1usize..4), 1..4),
            seed in any::<u64>(),
        ) {
            let to = Size { width, height };
            let mut area = AreaResize::new(to);
            let (mut out, mut state) = (Vec::new(), seed);
            for (x, y, times) in more {
                // Whole multiples are their own loop: one size in four.
                let whole = seed.is_multiple_of(4);
                let grown = |side, more| if whole { side * times } else { side + more };
                let from = Size { width: grown(width, x), height: grown(height, y) };
                let pixels: Vec<u8> = (0..from.width * from.height * 3).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                }).collect();
                area.apply(View { size: from, pixels: &pixels }, &mut out).unwrap();
                prop_assert!(out == plain(from, to, &pixels), "{} to {}", from, to);
            }
        }
    }
}
