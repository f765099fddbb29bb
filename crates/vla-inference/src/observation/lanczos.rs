//! TensorFlow's antialiased lanczos3 resize, byte for byte.
//!
//! `tf.image.resize(image, size, method="lanczos3", antialias=True)`, then rounded and cast to
//! uint8, as the official LIBERO and Bridge evaluations of OpenVLA do. All in float32, in the order
//! of TensorFlow 2.15's kernel `ScaleAndTranslate`
//! (`tensorflow/core/kernels/image/scale_and_translate_op.cc`): weights per axis, vertical pass
//! first and not rounded, then the horizontal pass. The aspect ratio is ignored.

use super::columns::{
    FloatGroup, Group, LANES, ROWS, Taps, put_floats_side_by_side, round_to_byte,
    take_pixels_apart, weigh_floats,
};
use super::preparation::{Size, View};

/// The kernel's half width at scale 1.
const RADIUS: f32 = 3.0;
/// TensorFlow writes 3.14159265359, which is the same float32.
const PI: f32 = std::f32::consts::PI;

/// Resizes to a fixed size; keeps its weights and buffers between images.
#[derive(Default)]
pub(super) struct Lanczos3 {
    size: Size,
    weights_for: Option<Size>,
    horizontal: Taps,
    vertical: Taps,
    /// Ten rows after the vertical pass, each one value longer than its pixels.
    rows: Vec<f32>,
    columns: Vec<FloatGroup>,
    narrow: Vec<FloatGroup>,
    bytes: Vec<Group>,
}

/// The Lanczos kernel with a = 3, evaluated as TensorFlow does. `f32::sin` is the C library's
/// `sinf`, whose last bit matters: glibc's gives TensorFlow's weights.
fn kernel(x: f32) -> f32 {
    let x = x.abs();
    if x > RADIUS {
        return 0.0;
    }
    if x <= 1e-3 {
        return 1.0;
    }
    RADIUS * (PI * x).sin() * (PI * x / RADIUS).sin() / (PI * PI * x * x)
}

/// The weights of `input` positions to `output`.
pub(super) fn taps(input: usize, output: usize) -> Taps {
    let scale = output as f32 / input as f32;
    let inverse = 1.0 / scale;
    let kernel_scale = inverse.max(1.0);
    let reach = RADIUS * kernel_scale;
    let inverse_kernel_scale = 1.0 / kernel_scale;
    let mut taps = Taps::with_stride(output, 2 * reach.ceil() as usize + 1);
    let mut weights = Vec::with_capacity(taps.stride);
    for position in 0..output {
        let sample = (position as f32 + 0.5) * inverse;
        let first = ((sample - reach - 0.5).ceil() as isize).max(0);
        let last = ((sample + reach - 0.5).floor() as isize).min(input as isize - 1);
        weights.clear();
        let mut sum = 0.0;
        for place in first..=last {
            let distance = (place as f32 + 0.5 - sample).abs();
            let weight = kernel(distance * inverse_kernel_scale);
            sum += weight;
            weights.push(weight);
        }
        let inverse_sum = 1.0 / sum;
        weights.iter_mut().for_each(|weight| *weight *= inverse_sum);
        taps.push(first as usize, &weights);
    }
    taps
}

impl Lanczos3 {
    pub(super) fn new(size: Size) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) {
        let Size { width, height } = self.size;
        if image.size == self.size {
            // The weights of the neighbours are below 1e-7: rounding gives the input back.
            out.clear();
            out.extend_from_slice(image.pixels);
            return;
        }
        if self.weights_for != Some(image.size) {
            self.horizontal = taps(image.size.width, width);
            self.vertical = taps(image.size.height, height);
            self.weights_for = Some(image.size);
        }
        let row_bytes = image.size.width * 3;
        let stride = row_bytes + 1;
        self.rows.resize(stride * ROWS, 0.0);
        self.columns.resize(image.size.width, [0.0; LANES]);
        self.narrow.resize(width, [0.0; LANES]);
        self.bytes.resize(width, [0; LANES]);
        out.resize(width * height * 3, 0);
        for (block, out) in out.chunks_mut(ROWS * width * 3).enumerate() {
            let count = out.len() / (width * 3);
            for (place, row) in self.rows.chunks_exact_mut(stride).take(count).enumerate() {
                let (first, weights) = self.vertical.of(block * ROWS + place);
                weigh_rows(&mut row[..row_bytes], &image.pixels[first * row_bytes..], weights);
            }
            put_floats_side_by_side(&mut self.columns, &self.rows, stride);
            weigh_floats(&mut self.narrow, &self.columns, &self.horizontal);
            round_all(&mut self.bytes, &self.narrow);
            for (place, row) in out.chunks_exact_mut(width * 3).enumerate() {
                take_pixels_apart(row, &self.bytes, place);
            }
        }
    }

    /// The result before rounding, `height * width * 3` values; for tests.
    #[cfg(test)]
    fn floats(&self, image: View<'_>) -> Vec<f32> {
        let Size { width, height } = self.size;
        let (across, down) = (taps(image.size.width, width), taps(image.size.height, height));
        let row_bytes = image.size.width * 3;
        let mut row = vec![0.0; row_bytes];
        let mut out = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let (first, weights) = down.of(y);
            for (place, value) in row.iter_mut().enumerate() {
                *value = 0.0;
                for (tap, weight) in weights.iter().enumerate() {
                    *value += f32::from(image.pixels[(first + tap) * row_bytes + place]) * weight;
                }
            }
            for x in 0..width {
                let (first, weights) = across.of(x);
                for channel in 0..3 {
                    let mut sum = 0.0;
                    for (tap, weight) in weights.iter().enumerate() {
                        sum += row[(first + tap) * 3 + channel] * weight;
                    }
                    out.push(sum);
                }
            }
        }
        out
    }
}

/// One row of the vertical pass: `pixels` begins at the first row that has a weight.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn weigh_rows(out: &mut [f32], pixels: &[u8], weights: &[f32]) {
    const BLOCK: usize = 2 * LANES;
    let row_bytes = out.len();
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    let rest_start = blocks.len() * BLOCK;
    for (block, out) in blocks.iter_mut().enumerate() {
        let mut sums = [0.0; BLOCK];
        for (tap, weight) in weights.iter().enumerate() {
            let start = tap * row_bytes + block * BLOCK;
            for (sum, value) in sums.iter_mut().zip(&pixels[start..start + BLOCK]) {
                *sum += f32::from(*value) * weight;
            }
        }
        *out = sums;
    }
    rest.fill(0.0);
    for (tap, weight) in weights.iter().enumerate() {
        for (sum, value) in rest.iter_mut().zip(&pixels[tap * row_bytes + rest_start..]) {
            *sum += f32::from(*value) * weight;
        }
    }
}

#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn round_all(out: &mut [Group], values: &[FloatGroup]) {
    for (out, values) in out.iter_mut().zip(values) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = round_to_byte(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::super::{crop, file, jpeg::JpegRoundTrip};
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    fn kit(name: &str) -> std::path::PathBuf {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/image_preparation");
        Path::new(data).join(name)
    }

    fn words(file: &SafeTensors<'_>, name: &str) -> Vec<[u8; 4]> {
        file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec()
    }

    #[test]
    fn weights_and_positions_are_tensorflows_bit_for_bit() {
        let bytes = std::fs::read(kit("weights.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for input in [17, 243, 256, 321, 480, 640, 720, 1280] {
            let ours = taps(input, 224);
            let words = |what: &str| words(&file, &format!("{input}.{what}"));
            let whole = |what| words(what).into_iter().map(|w| i32::from_le_bytes(w) as usize);
            let bounds: Vec<_> = whole("start").zip(whole("count")).collect();
            assert_eq!(ours.bounds, bounds, "{input}");
            let expected: Vec<f32> = words("weight").into_iter().map(f32::from_le_bytes).collect();
            let stride = expected.len() / 224;
            for (position, expected) in expected.chunks(stride).enumerate() {
                let (_, weights) = ours.of(position);
                assert_eq!(weights, &expected[..weights.len()], "{input} {position}");
            }
        }
        let positions = words(&file, "crop.position").into_iter().map(f32::from_le_bytes);
        assert_eq!(crop::positions(224, 0.9), positions.collect::<Vec<_>>());
    }

    #[test]
    fn floats_before_rounding_are_tensorflows() {
        let bytes = std::fs::read(kit("floats.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let source = file::open(&kit("images/08_odd_321x243.png")).unwrap();
        let mut decoded = Vec::new();
        JpegRoundTrip::new().apply(source.view(), &mut decoded);
        let view = View { size: source.size(), pixels: &decoded };
        let ours = Lanczos3::new(Size::square(224)).floats(view);
        let expected = words(&file, "08.lanczos3").into_iter().map(f32::from_le_bytes);
        assert!(ours.iter().copied().eq(expected));
    }

    proptest! {
        #[test]
        fn any_size_follows_the_definition(
            sizes in proptest::collection::vec((1usize..70, 1usize..70), 1..4),
            (width, height) in (1usize..40, 1usize..40),
            seed in any::<u64>(),
        ) {
            let mut lanczos = Lanczos3::new(Size { width, height });
            let (mut out, mut state) = (Vec::new(), seed);
            for (width, height) in sizes {
                let pixels: Vec<u8> = (0..width * height * 3).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 55) as u8).wrapping_mul(5)
                }).collect();
                let view = View { size: Size { width, height }, pixels: &pixels };
                lanczos.apply(view, &mut out);
                let plain: Vec<u8> = lanczos
                    .floats(view)
                    .into_iter()
                    .map(|value| value.round_ties_even().clamp(0.0, 255.0) as u8)
                    .collect();
                prop_assert!(out == plain, "{} x {} to {}", width, height, lanczos.size());
            }
        }
    }
}
