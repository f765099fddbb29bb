//! Centre crop and resize back, byte for byte as TensorFlow.
//!
//! `tf.image.crop_and_resize` of a centred box with a given part of the area, after
//! `convert_image_dtype(float32)` and before `convert_image_dtype(uint8, saturate=True)`, as
//! OpenVLA's evaluations do for checkpoints that were trained with random crops. All in float32:
//! corner-aligned positions on the box, bilinear (horizontal first), and at the end truncation of
//! `v * 255.5`, not rounding. Source: TensorFlow 2.15,
//! `tensorflow/core/kernels/image/crop_and_resize_op.cc` and `python/ops/image_ops_impl.py`.

use super::columns::{FloatGroup, Group, LANES, ROWS, put_side_by_side, take_floats_apart};
use super::preparation::{Size, View};

/// Crops images of any size; the result has the input's size.
#[derive(Default)]
pub(super) struct CenterCrop {
    /// Part of the area that is kept.
    area: f32,
    positions_for: Option<Size>,
    horizontal: Vec<Position>,
    vertical: Vec<Position>,
    columns: Vec<Group>,
    between: Vec<FloatGroup>,
    /// All rows after the horizontal pass, each one value longer than its pixels.
    rows: Vec<f32>,
}

/// Two neighbouring input positions and the weight of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Position {
    lower: usize,
    upper: usize,
    fraction: f32,
}

/// Where the output positions of an axis of `length` lie in the input, pixels.
pub(super) fn positions(length: usize, area: f32) -> Vec<f32> {
    let side = area.sqrt();
    let start = (1.0 - side) / 2.0;
    let end = start + side;
    let last = length as f32 - 1.0;
    if length == 1 {
        return vec![0.5 * (start + end) * last];
    }
    let scale = (end - start) * last / last;
    // Rounding must not carry the last position over the edge when nearly everything is kept.
    (0..length).map(|i| (start * last + i as f32 * scale).min(last)).collect()
}

impl CenterCrop {
    pub(super) fn new(area: f32) -> Self {
        Self { area, ..Self::default() }
    }

    fn plan(&self, length: usize) -> Vec<Position> {
        let split = |position: f32| {
            let lower = position.floor();
            Position {
                lower: lower as usize,
                upper: position.ceil() as usize,
                fraction: position - lower,
            }
        };
        positions(length, self.area).into_iter().map(split).collect()
    }

    pub(super) fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) {
        let Size { width, height } = image.size;
        if self.positions_for != Some(image.size) {
            self.horizontal = self.plan(width);
            self.vertical = self.plan(height);
            self.positions_for = Some(image.size);
        }
        let row_bytes = width * 3;
        let stride = row_bytes + 1;
        self.columns.resize(width, [0; LANES]);
        self.between.resize(width, [0.0; LANES]);
        self.rows.resize(height * stride, 0.0);
        for (block, rows) in self.rows.chunks_mut(ROWS * stride).enumerate() {
            let pixels = &image.pixels[block * ROWS * row_bytes..];
            put_side_by_side(&mut self.columns, pixels, width);
            blend_columns(&mut self.between, &self.columns, &self.horizontal);
            for (place, row) in rows.chunks_exact_mut(stride).enumerate() {
                take_floats_apart(row, &self.between, place);
            }
        }
        out.resize(row_bytes * height, 0);
        for (out, position) in out.chunks_exact_mut(row_bytes).zip(&self.vertical) {
            let row = |y: usize| &self.rows[y * stride..y * stride + row_bytes];
            blend_rows(out, row(position.lower), row(position.upper), position.fraction);
        }
    }
}

/// The horizontal pass, with bytes as float32 from 0 to 1.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn blend_columns(out: &mut [FloatGroup], columns: &[Group], positions: &[Position]) {
    for (out, position) in out.iter_mut().zip(positions) {
        let (lower, upper) = (&columns[position.lower], &columns[position.upper]);
        for (out, (lower, upper)) in out.iter_mut().zip(lower.iter().zip(upper)) {
            let lower = f32::from(*lower) * (1.0 / 255.0);
            let upper = f32::from(*upper) * (1.0 / 255.0);
            *out = lower + (upper - lower) * position.fraction;
        }
    }
}

/// A row of the vertical pass, as bytes.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn blend_rows(out: &mut [u8], lower: &[f32], upper: &[f32], fraction: f32) {
    for (out, (lower, upper)) in out.iter_mut().zip(lower.iter().zip(upper)) {
        let value = lower + (upper - lower) * fraction;
        // 255.5 is beyond a byte: truncated and clipped at once.
        *out = ((value.clamp(0.0, 1.0) * 255.5) as i32).min(255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, pixel by pixel.
    fn plain(size: Size, pixels: &[u8], area: f32) -> Vec<u8> {
        let (across, down) = (positions(size.width, area), positions(size.height, area));
        let mut out = Vec::new();
        for (y, x) in down.iter().flat_map(|y| across.iter().map(move |x| (*y, *x))) {
            for channel in 0..3 {
                let at = |x: f32, y: f32| {
                    let index = (y as usize * size.width + x as usize) * 3 + channel;
                    f32::from(pixels[index]) * (1.0 / 255.0)
                };
                let (left, right, fx) = (x.floor(), x.ceil(), x - x.floor());
                let (above, below, fy) = (y.floor(), y.ceil(), y - y.floor());
                let top = at(left, above) + (at(right, above) - at(left, above)) * fx;
                let bottom = at(left, below) + (at(right, below) - at(left, below)) * fx;
                let value = (top + (bottom - top) * fy).clamp(0.0, 1.0);
                out.push((value * 255.5).trunc().min(255.0) as u8);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_size_follows_the_definition(
            sizes in proptest::collection::vec((1usize..70, 1usize..70), 1..4),
            area in prop_oneof![Just(0.9f32), Just(1.0), 0.01f32..1.0],
            seed in any::<u64>(),
        ) {
            let mut crop = CenterCrop::new(area);
            let (mut out, mut state) = (Vec::new(), seed);
            for (width, height) in sizes {
                let pixels: Vec<u8> = (0..width * height * 3).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                }).collect();
                let view = View { size: Size { width, height }, pixels: &pixels };
                crop.apply(view, &mut out);
                prop_assert!(out == plain(view.size, &pixels, area), "{} {}", view.size, area);
            }
        }
    }

    #[test]
    fn positions_stay_inside() {
        for area in [0.01, 0.5, 0.9, 0.999_999_9, 1.0] {
            for length in 1..2000 {
                let last = length as f32 - 1.0;
                let inside = |position: &f32| (0.0..=last).contains(position);
                assert!(positions(length, area).iter().all(inside), "{length} {area}");
            }
        }
    }
}
