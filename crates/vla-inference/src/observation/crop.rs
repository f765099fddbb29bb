//! Centre crop and resize back, byte for byte as TensorFlow.
//!
//! `tf.image.crop_and_resize` of a centred box with a given part of the area, after
//! `convert_image_dtype(float32)` and before `convert_image_dtype(uint8, saturate=True)`, as
//! OpenVLA's evaluations do for checkpoints that were trained with random crops. All in float32:
//! corner-aligned positions on the box, bilinear (horizontal first), and at the end truncation of
//! `v * 255.5`, not rounding. Source: TensorFlow 2.15,
//! `tensorflow/core/kernels/image/crop_and_resize_op.cc` and `python/ops/image_ops_impl.py`.

use super::preparation::{Size, View};

/// Crops images of any size; the result has the input's size.
#[derive(Default)]
pub(super) struct CenterCrop {
    /// Part of the area that is kept.
    area: f32,
    positions_for: Option<Size>,
    horizontal: Vec<Position>,
    vertical: Vec<Position>,
    /// The weights of right neighbours, three times each.
    weights: Vec<f32>,
    /// Left and right neighbours of every output pixel in a row, with a byte behind the last.
    left: Vec<u8>,
    right: Vec<u8>,
    /// Two rows after the horizontal pass.
    rows: [Vec<f32>; 2],
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
            let weights = self.horizontal.iter().map(|position| [position.fraction; 3]);
            self.weights = weights.flatten().collect();
            self.positions_for = Some(image.size);
        }
        let row_bytes = width * 3;
        self.left.resize(row_bytes + 1, 0);
        self.right.resize(row_bytes + 1, 0);
        self.rows.iter_mut().for_each(|row| row.resize(row_bytes, 0.0));
        out.resize(row_bytes * height, 0);
        // The input rows that the two slots hold.
        let mut held = [usize::MAX; 2];
        for (out, position) in out.chunks_exact_mut(row_bytes).zip(&self.vertical) {
            if held[1] == position.lower {
                held.swap(0, 1);
                self.rows.swap(0, 1);
            }
            for (slot, y) in [position.lower, position.upper].into_iter().enumerate() {
                if held[slot] != y {
                    let pixels = &image.pixels[y * row_bytes..];
                    gather(&mut self.left, &mut self.right, pixels, &self.horizontal);
                    blend_columns(&mut self.rows[slot], &self.left, &self.right, &self.weights);
                    held[slot] = y;
                }
            }
            blend_rows(out, &self.rows[0], &self.rows[1], position.fraction);
        }
    }
}

/// The left and right neighbours of every output pixel. Eight bytes are read at once where there
/// are eight: both pixels, since the right one follows the left one, or has no weight.
fn gather(left: &mut [u8], right: &mut [u8], pixels: &[u8], positions: &[Position]) {
    for (x, Position { lower, upper, .. }) in positions.iter().enumerate() {
        let place = x * 3..x * 3 + 4;
        match pixels.get(lower * 3..lower * 3 + 8) {
            Some(eight) => {
                left[place.clone()].copy_from_slice(&eight[..4]);
                right[place].copy_from_slice(&eight[3..7]);
            }
            None => {
                let pixel = |at: usize| &pixels[at * 3..at * 3 + 3];
                left[x * 3..x * 3 + 3].copy_from_slice(pixel(*lower));
                right[x * 3..x * 3 + 3].copy_from_slice(pixel(*upper));
            }
        }
    }
}

/// The horizontal pass of a row, with bytes as float32 from 0 to 1.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn blend_columns(out: &mut [f32], left: &[u8], right: &[u8], weights: &[f32]) {
    let neighbours = left.iter().zip(right).zip(weights);
    for (out, ((left, right), weight)) in out.iter_mut().zip(neighbours) {
        let left = f32::from(*left) * (1.0 / 255.0);
        let right = f32::from(*right) * (1.0 / 255.0);
        *out = left + (right - left) * weight;
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
        *out = truncate_to_byte(value.clamp(0.0, 1.0) * 255.5);
    }
}

/// The integer part of a value from 0 to 255.5, at most 255. (A cast would also care for values
/// that have no place here, and not become vector instructions.)
#[inline(always)]
fn truncate_to_byte(value: f32) -> u8 {
    // Adding 2^23 leaves no fractional bits, so that the addition rounds, by half a unit at most.
    const SHIFT: f32 = 8_388_608.0;
    let rounded = (value + SHIFT) - SHIFT;
    let whole = if rounded > value { rounded - 1.0 } else { rounded };
    (whole + SHIFT).to_bits() as u8
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
    fn truncation_is_exact() {
        for bits in (0..=255.5f32.to_bits()).step_by(997).chain([255.5f32.to_bits()]) {
            let value = f32::from_bits(bits);
            assert_eq!(truncate_to_byte(value), (value as i32).min(255) as u8, "{value}");
        }
        for whole in 0..=255u8 {
            let value = f32::from(whole);
            assert_eq!(truncate_to_byte(value), whole);
            let below = f32::from_bits(value.to_bits().saturating_sub(1));
            assert_eq!(truncate_to_byte(below), whole.saturating_sub(1));
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
