//! Pillow's bicubic resize, byte for byte.
//!
//! Antialiased (the support grows with the reduction), coefficients rounded to 22 fractional bits, horizontal pass
//! first, and values rounded and clipped to u8 between the passes. Source of the arithmetic: Pillow 10.3,
//! `src/libImaging/Resample.c`; the golden kit holds twelve images as witnesses.

use super::{ImageError, RgbImage, check_side};

/// Fractional bits of a coefficient: 32 minus 8 for the value and 2 for overshoot.
const PRECISION_BITS: u32 = 22;
/// Half the width of the bicubic kernel at scale 1.
const SUPPORT: f64 = 2.0;

/// Resizes images to a fixed square, aspect ignored; keeps its coefficients and buffers between images.
pub struct Resizer {
    side: usize,
    horizontal: Option<Coefficients>,
    vertical: Option<Coefficients>,
    between: Vec<u8>,
}

/// For each output position, the first input position and the weights.
struct Coefficients {
    input: usize,
    bounds: Vec<(usize, usize)>,
    taps: usize,
    weights: Vec<i32>,
}

/// Keys' bicubic kernel with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

impl Coefficients {
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let taps = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(output);
        let mut weights = vec![0; output * taps];
        for (position, weights) in weights.chunks_exact_mut(taps).enumerate() {
            let centre = (position as f64 + 0.5) * scale;
            // Truncation towards zero, as a C cast does.
            let first = ((centre - support + 0.5) as isize).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            let values: Vec<f64> =
                (first..end).map(|x| bicubic((x as f64 - centre + 0.5) * (1.0 / filter_scale))).collect();
            let sum: f64 = values.iter().sum();
            for (weight, value) in weights.iter_mut().zip(values) {
                let value = if sum == 0.0 { value } else { value / sum };
                let scaled = value * f64::from(1 << PRECISION_BITS);
                *weight = (scaled + if value < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            bounds.push((first, end - first));
        }
        Self { input, bounds, taps, weights }
    }

    fn taps_of(&self, position: usize) -> (usize, &[i32]) {
        let (first, count) = self.bounds[position];
        (first, &self.weights[position * self.taps..position * self.taps + count])
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

impl Resizer {
    /// A resizer to `side * side` pixels.
    ///
    /// # Errors
    /// When the side is zero or larger than [`super::MAX_SIDE`].
    pub fn new(side: usize) -> Result<Self, ImageError> {
        check_side(side, side)?;
        Ok(Self { side, horizontal: None, vertical: None, between: Vec::new() })
    }

    /// Width and height of the result, pixels.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// The image as `side * side * 3` bytes.
    pub fn resize(&mut self, image: &RgbImage) -> Vec<u8> {
        let side = self.side;
        let (width, height) = (image.width, image.height);
        let source = if width == side {
            &image.pixels
        } else {
            let coefficients = refresh(&mut self.horizontal, width, side);
            self.between.resize(height * side * 3, 0);
            horizontal_pass(&mut self.between, &image.pixels, coefficients, width, side);
            &self.between
        };
        if height == side {
            return source.clone();
        }
        let coefficients = refresh(&mut self.vertical, height, side);
        let mut out = vec![0; side * side * 3];
        vertical_pass(&mut out, source, coefficients, side * 3);
        out
    }
}

fn refresh(slot: &mut Option<Coefficients>, input: usize, output: usize) -> &Coefficients {
    match slot {
        Some(coefficients) if coefficients.input == input => {}
        _ => *slot = None,
    }
    slot.get_or_insert_with(|| Coefficients::new(input, output))
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn horizontal_pass(out: &mut [u8], image: &[u8], coefficients: &Coefficients, width: usize, side: usize) {
    for (out, row) in out.chunks_exact_mut(side * 3).zip(image.chunks_exact(width * 3)) {
        for (position, out) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (first, weights) = coefficients.taps_of(position);
            let mut sums = [1i32 << (PRECISION_BITS - 1); 3];
            let pixels = row[first * 3..].as_chunks::<3>().0;
            for (pixel, weight) in pixels.iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            *out = sums.map(clip);
        }
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn vertical_pass(out: &mut [u8], image: &[u8], coefficients: &Coefficients, row_bytes: usize) {
    let mut sums = vec![0i32; row_bytes];
    for (position, out) in out.chunks_exact_mut(row_bytes).enumerate() {
        let (first, weights) = coefficients.taps_of(position);
        sums.fill(1 << (PRECISION_BITS - 1));
        for (row, weight) in image[first * row_bytes..].chunks_exact(row_bytes).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = clip(*sum);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_constant_image_stays_constant() {
        let mut resizer = Resizer::new(8).unwrap();
        for (width, height) in [(1, 1), (8, 8), (3, 50), (17, 8), (640, 480)] {
            let image = RgbImage::new(width, height, [7, 130, 255].repeat(width * height)).unwrap();
            assert_eq!(resizer.resize(&image), [7, 130, 255].repeat(64), "{width} x {height}");
        }
    }

    #[test]
    fn weights_sum_to_one_within_rounding() {
        for input in [1, 5, 223, 224, 225, 1920, 8192] {
            let coefficients = Coefficients::new(input, 224);
            for position in 0..224 {
                let (_, weights) = coefficients.taps_of(position);
                let sum: i32 = weights.iter().sum();
                assert!((sum - (1 << PRECISION_BITS)).unsigned_abs() as usize <= weights.len(), "{input} {position}");
            }
        }
    }
}
