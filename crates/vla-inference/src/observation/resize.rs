//! Pillow's bicubic resize, byte for byte.
//!
//! Antialiased (the support grows with the reduction), coefficients rounded to 22 fractional bits,
//! horizontal pass first, and values rounded and clipped to u8 between the passes. (Pillow 13 runs
//! the vertical pass first where the height shrinks much more than the width; checkpoints were
//! trained before that.) Source of the arithmetic: Pillow 10.3, `src/libImaging/Resample.c`; the
//! golden kit compares twelve images.
//!
//! Both passes are one loop over groups of [`LANES`] neighbouring bytes, which the compiler turns
//! into vector instructions. In an image the bytes with equal horizontal weights are not neighbours;
//! so rows are first put side by side, ten at a time.

use super::{ImageError, RgbImage, check_side};

/// Fractional bits of a coefficient: 32 minus 8 for the value and 2 for overshoot.
const PRECISION_BITS: u32 = 22;
/// Half the width of the bicubic kernel at scale 1.
const SUPPORT: f64 = 2.0;

/// Bytes that are summed together: two or four vector registers of sums; the other registers are
/// left for addressing.
const LANES: usize = 32;
/// A group of bytes that have the same weights.
type Group = [u8; LANES];
/// Rows of an image that are side by side in a [`Group`], three bytes of each; two lanes are left
/// over.
const ROWS: usize = 10;
/// Bytes of a pixel between the passes; the fourth has no meaning.
const WIDE: usize = 4;

/// Resizes images to a fixed square, aspect ignored; keeps its coefficients and buffers between
/// images.
pub struct Resizer {
    side: usize,
    horizontal: Option<Coefficients>,
    vertical: Option<Coefficients>,
    buffers: Buffers,
}

/// Memory between the stages.
#[derive(Default)]
struct Buffers {
    /// Ten rows of the image side by side, a group for each column.
    columns: Vec<Group>,
    /// The same after the horizontal pass.
    narrow: Vec<Group>,
    /// All rows after the horizontal pass, pixels of [`WIDE`] bytes, each row padded to whole
    /// groups.
    between: Vec<Group>,
    /// The result in the same form.
    done: Vec<Group>,
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
            let values: Vec<f64> = (first..end)
                .map(|x| bicubic((x as f64 - centre + 0.5) * (1.0 / filter_scale)))
                .collect();
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
        Ok(Self { side, horizontal: None, vertical: None, buffers: Buffers::default() })
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
        let groups = (side * WIDE).div_ceil(LANES);
        let Buffers { columns, narrow, between, done } = &mut self.buffers;
        between.resize(height * groups, [0; LANES]);
        let rows = between.chunks_exact_mut(groups).zip(image.pixels.chunks_exact(width * 3));
        if width == side {
            rows.for_each(|(out, row)| widen(out.as_flattened_mut(), row));
        } else {
            let coefficients = refresh(&mut self.horizontal, width, side);
            columns.resize(width, [0; LANES]);
            narrow.resize(side, [0; LANES]);
            for (block, out) in between.chunks_mut(ROWS * groups).enumerate() {
                put_side_by_side(columns, &image.pixels[block * ROWS * width * 3..], width);
                weigh(narrow, columns, coefficients, 1);
                for (place, row) in out.chunks_exact_mut(groups).enumerate() {
                    take_apart(row.as_flattened_mut(), narrow, place);
                }
            }
        }
        let rows = if height == side {
            between
        } else {
            let coefficients = refresh(&mut self.vertical, height, side);
            done.resize(side * groups, [0; LANES]);
            weigh(done, between, coefficients, groups);
            done
        };
        let mut out = vec![0; side * side * 3];
        for (out, row) in out.chunks_exact_mut(side * 3).zip(rows.chunks_exact(groups)) {
            for (pixel, wide) in
                out.as_chunks_mut::<3>().0.iter_mut().zip(row.as_flattened().as_chunks::<WIDE>().0)
            {
                pixel.copy_from_slice(&wide[..3]);
            }
        }
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

/// Spreads pixels of three bytes over four.
fn widen(out: &mut [u8], row: &[u8]) {
    for (out, pixel) in out.as_chunks_mut::<WIDE>().0.iter_mut().zip(row.as_chunks::<3>().0) {
        out[..3].copy_from_slice(pixel);
    }
}

/// Puts the first ten rows of `pixels` side by side, or as many as there are. Lanes without a row
/// keep what they had.
fn put_side_by_side(columns: &mut [Group], pixels: &[u8], width: usize) {
    let row_bytes = width * 3;
    if pixels.len() <= ROWS * row_bytes {
        for (place, row) in pixels.chunks_exact(row_bytes).enumerate() {
            for (column, pixel) in columns.iter_mut().zip(row.as_chunks::<3>().0) {
                column[place * 3..place * 3 + 3].copy_from_slice(pixel);
            }
        }
        return;
    }
    // Four bytes are copied at once, which is faster than three; the next row overwrites the fourth.
    // Another row follows the last of these.
    let rows: [&[u8]; ROWS] =
        std::array::from_fn(|place| &pixels[place * row_bytes..=(place + 1) * row_bytes]);
    for (x, column) in columns.iter_mut().enumerate() {
        for (place, row) in rows.iter().enumerate() {
            column[place * 3..place * 3 + 4].copy_from_slice(&row[x * 3..x * 3 + 4]);
        }
    }
}

/// The row at `place` of those side by side, as pixels of four bytes.
fn take_apart(row: &mut [u8], columns: &[Group], place: usize) {
    for (pixel, column) in row.as_chunks_mut::<WIDE>().0.iter_mut().zip(columns) {
        pixel.copy_from_slice(&column[place * 3..place * 3 + 4]);
    }
}

/// Each row of `out` becomes the weighted sum of some rows of `rows`; a row has `groups` groups.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
fn weigh(out: &mut [Group], rows: &[Group], coefficients: &Coefficients, groups: usize) {
    for (position, out) in out.chunks_exact_mut(groups).enumerate() {
        let (first, weights) = coefficients.taps_of(position);
        let rows = &rows[first * groups..(first + weights.len()) * groups];
        for (place, out) in out.iter_mut().enumerate() {
            let mut sums = [1i32 << (PRECISION_BITS - 1); LANES];
            for (row, weight) in weights.iter().enumerate() {
                let values = &rows[row * groups + place];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += i32::from(*value) * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = clip(sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Pillow's definition, pixel by pixel.
    fn plain(image: &RgbImage, side: usize) -> Vec<u8> {
        let pass = |pixels: &[u8],
                    lines: usize,
                    length: usize,
                    pixel: usize,
                    line: usize,
                    out: &mut dyn FnMut(usize, usize, [u8; 3])| {
            let coefficients = Coefficients::new(length, side);
            for (y, x) in (0..lines).flat_map(|y| (0..side).map(move |x| (y, x))) {
                let (first, weights) = coefficients.taps_of(x);
                let sums = [0, 1, 2].map(|channel| {
                    let value =
                        |tap: usize| i64::from(pixels[y * line + (first + tap) * pixel + channel]);
                    weights
                        .iter()
                        .enumerate()
                        .map(|(tap, &weight)| value(tap) * i64::from(weight))
                        .sum::<i64>()
                });
                out(
                    y,
                    x,
                    sums.map(|sum| {
                        ((sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255) as u8
                    }),
                );
            }
        };
        let (width, height) = (image.width, image.height);
        let mut between = vec![0; height * side * 3];
        if width == side {
            between.copy_from_slice(&image.pixels);
        } else {
            pass(&image.pixels, height, width, 3, width * 3, &mut |y, x, pixel| {
                between[(y * side + x) * 3..][..3].copy_from_slice(&pixel)
            });
        }
        if height == side {
            return between;
        }
        let mut out = vec![0; side * side * 3];
        pass(&between, side, height, side * 3, 3, &mut |x, y, pixel| {
            out[(y * side + x) * 3..][..3].copy_from_slice(&pixel)
        });
        out
    }

    proptest! {
        #[test]
        fn any_size_follows_the_definition(
            sizes in proptest::collection::vec((1usize..70, 1usize..70), 1..4),
            side in 1usize..40,
            seed in any::<u32>(),
        ) {
            let mut resizer = Resizer::new(side).unwrap();
            let mut state = u64::from(seed);
            for (width, height) in sizes {
                let pixels = (0..width * height * 3).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 55) as u8).wrapping_mul(5)
                });
                let image = RgbImage::new(width, height, pixels.collect()).unwrap();
                let (ours, pillow) = (resizer.resize(&image), plain(&image, side));
                prop_assert_eq!(ours, pillow, "{} x {} to {}", width, height, side);
            }
        }
    }

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
                assert!(
                    (sum - (1 << PRECISION_BITS)).unsigned_abs() as usize <= weights.len(),
                    "{input} {position}"
                );
            }
        }
    }
}
