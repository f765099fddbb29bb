//! Pillow's bicubic and bilinear resize, byte for byte.
//!
//! Antialiased (the support grows with the reduction), coefficients rounded to 22 fractional bits,
//! horizontal pass first, and values rounded and clipped to u8 between the passes. (Pillow 13 runs
//! the vertical pass first where the height shrinks much more than the width; checkpoints were
//! trained before that.) Source of the arithmetic: Pillow 10.3, `src/libImaging/Resample.c`; the
//! golden kit compares twelve images.
//!
//! Both passes are one loop over groups of [`LANES`] neighbouring bytes, which the compiler turns
//! into vector instructions. In an image the bytes with equal horizontal weights are not
//! neighbours; so rows are first put side by side, ten at a time.

use super::columns::{Group, LANES, ROWS, put_side_by_side};
use super::preparation::{Size, View};
use super::{ImageError, RgbImage};

/// Fractional bits of a coefficient: 32 minus 8 for the value and 2 for overshoot.
const PRECISION_BITS: u32 = 22;
/// Bytes of a pixel between the passes; the fourth has no meaning.
const WIDE: usize = 4;

/// Interpolation kernel of [`Resizer`], as in Pillow's `Image.Resampling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Keys' cubic with a = -0.5.
    Bicubic,
    /// Triangle.
    Bilinear,
}

impl Filter {
    /// Half the width of the kernel at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => bicubic(x),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
        }
    }
}

/// Resizes images to a fixed size, aspect ignored; keeps its coefficients and buffers between
/// images.
pub struct Resizer {
    filter: Filter,
    size: Size,
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
    fn new(filter: Filter, input: usize, output: usize) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let taps = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(output);
        let mut weights = vec![0; output * taps];
        for (position, weights) in weights.chunks_exact_mut(taps).enumerate() {
            let centre = (position as f64 + 0.5) * scale;
            // Truncation towards zero, as a C cast does.
            let first = ((centre - support + 0.5) as isize).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            let values: Vec<f64> = (first..end)
                .map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / filter_scale)))
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
    /// A bicubic resizer to `side * side` pixels.
    ///
    /// # Errors
    /// When the side is zero or larger than [`super::MAX_SIDE`].
    pub fn new(side: usize) -> Result<Self, ImageError> {
        Self::with_filter(Filter::Bicubic, Size { width: side, height: side })
    }

    /// A resizer to `size` with the kernel `filter`.
    ///
    /// # Errors
    /// When a side is zero or larger than [`super::MAX_SIDE`].
    pub fn with_filter(filter: Filter, size: Size) -> Result<Self, ImageError> {
        size.check()?;
        Ok(Self { filter, size, horizontal: None, vertical: None, buffers: Buffers::default() })
    }

    /// Width and height of the result, pixels.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// The image as `height * width * 3` bytes.
    pub fn resize(&mut self, image: &RgbImage) -> Vec<u8> {
        let mut out = Vec::new();
        self.apply(image.view(), &mut out);
        out
    }

    /// [`Resizer::resize`] into a buffer that is used again.
    pub(super) fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) {
        out.resize(self.size.width * self.size.height * 3, 0);
        let row_bytes = self.size.width * 3;
        self.apply_rows(image, out.chunks_exact_mut(row_bytes));
    }

    /// [`Resizer::resize`] into rows of `width * 3` bytes, as many as the result's height.
    pub(super) fn apply_rows<'a>(
        &mut self,
        image: View<'_>,
        out: impl Iterator<Item = &'a mut [u8]>,
    ) {
        let Size { width, height } = self.size;
        let source = image.size;
        let groups = (width * WIDE).div_ceil(LANES);
        let Buffers { columns, narrow, between, done } = &mut self.buffers;
        between.resize(source.height * groups, [0; LANES]);
        if source.width == width {
            let rows = image.pixels.chunks_exact(width * 3);
            let between = between.chunks_exact_mut(groups).zip(rows);
            between.for_each(|(out, row)| widen(out.as_flattened_mut(), row));
        } else {
            let coefficients = refresh(&mut self.horizontal, self.filter, source.width, width);
            columns.resize(source.width, [0; LANES]);
            narrow.resize(width, [0; LANES]);
            for (block, out) in between.chunks_mut(ROWS * groups).enumerate() {
                let pixels = &image.pixels[block * ROWS * source.width * 3..];
                put_side_by_side(columns, pixels, source.width);
                weigh(narrow, columns, coefficients, 1);
                for (place, row) in out.chunks_exact_mut(groups).enumerate() {
                    take_apart(row.as_flattened_mut(), narrow, place);
                }
            }
        }
        let rows = if source.height == height {
            between
        } else {
            let coefficients = refresh(&mut self.vertical, self.filter, source.height, height);
            done.resize(height * groups, [0; LANES]);
            weigh(done, between, coefficients, groups);
            done
        };
        for (out, row) in out.zip(rows.chunks_exact(groups)) {
            for (pixel, wide) in
                out.as_chunks_mut::<3>().0.iter_mut().zip(row.as_flattened().as_chunks::<WIDE>().0)
            {
                pixel.copy_from_slice(&wide[..3]);
            }
        }
    }
}

fn refresh(
    slot: &mut Option<Coefficients>,
    filter: Filter,
    input: usize,
    output: usize,
) -> &Coefficients {
    match slot {
        Some(coefficients) if coefficients.input == input => {}
        _ => *slot = None,
    }
    slot.get_or_insert_with(|| Coefficients::new(filter, input, output))
}

/// Spreads pixels of three bytes over four.
fn widen(out: &mut [u8], row: &[u8]) {
    for (out, pixel) in out.as_chunks_mut::<WIDE>().0.iter_mut().zip(row.as_chunks::<3>().0) {
        out[..3].copy_from_slice(pixel);
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
mod tests;
