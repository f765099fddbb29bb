//! Rows of an image side by side, so that values with equal horizontal weights are neighbours and
//! one loop over them becomes vector instructions.

/// Values that are weighted together: two or four vector registers of sums; the other registers
/// are left for addressing.
pub(super) const LANES: usize = 32;
/// Rows that are side by side in a [`Group`], three values of each; two lanes are left over.
pub(super) const ROWS: usize = 10;
/// Bytes that have the same weights.
pub(super) type Group = [u8; LANES];
/// The same with float values.
pub(super) type FloatGroup = [f32; LANES];

/// Puts the first ten rows of `pixels` side by side, or as many as there are. Lanes without a row
/// keep what they had.
pub(super) fn put_side_by_side(columns: &mut [Group], pixels: &[u8], width: usize) {
    let row_bytes = width * 3;
    if pixels.len() <= ROWS * row_bytes {
        for (place, row) in pixels.chunks_exact(row_bytes).enumerate() {
            for (column, pixel) in columns.iter_mut().zip(row.as_chunks::<3>().0) {
                column[place * 3..place * 3 + 3].copy_from_slice(pixel);
            }
        }
        return;
    }
    // Four bytes are copied at once, which is faster than three; the next row overwrites the
    // fourth. Another row follows the last of these.
    let rows: [&[u8]; ROWS] =
        std::array::from_fn(|place| &pixels[place * row_bytes..=(place + 1) * row_bytes]);
    for (x, column) in columns.iter_mut().enumerate() {
        for (place, row) in rows.iter().enumerate() {
            column[place * 3..place * 3 + 4].copy_from_slice(&row[x * 3..x * 3 + 4]);
        }
    }
}

/// Puts float rows side by side. A row is `stride` values long, at least one more than its pixels.
pub(super) fn put_floats_side_by_side(columns: &mut [FloatGroup], rows: &[f32], stride: usize) {
    let mut slices = [&rows[..0]; ROWS];
    let mut used = 0;
    for (slice, row) in slices.iter_mut().zip(rows.chunks_exact(stride)) {
        *slice = row;
        used += 1;
    }
    for (x, column) in columns.iter_mut().enumerate() {
        for (place, row) in slices[..used].iter().enumerate() {
            column[place * 3..place * 3 + 4].copy_from_slice(&row[x * 3..x * 3 + 4]);
        }
    }
}

/// The float row at `place` of those side by side. `row` has one value more than its pixels.
pub(super) fn take_floats_apart(row: &mut [f32], columns: &[FloatGroup], place: usize) {
    for (x, column) in columns.iter().enumerate() {
        row[x * 3..x * 3 + 4].copy_from_slice(&column[place * 3..place * 3 + 4]);
    }
}

/// The row at `place` of those side by side, three bytes a pixel.
pub(super) fn take_pixels_apart(row: &mut [u8], columns: &[Group], place: usize) {
    for (pixel, column) in row.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
        pixel.copy_from_slice(&column[place * 3..place * 3 + 3]);
    }
}

/// Weights of a one-dimensional resampling in float32: for each output position, the first input
/// position and the weights from there on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Taps {
    /// First input position and number of weights, for each output position.
    pub(super) bounds: Vec<(usize, usize)>,
    /// Places for weights of one output position.
    pub(super) stride: usize,
    /// `bounds.len() * stride` weights; the rest of each place is zero.
    pub(super) weights: Vec<f32>,
}

impl Taps {
    /// Room for `output` positions with at most `stride` weights each.
    pub(super) fn with_stride(output: usize, stride: usize) -> Self {
        Self {
            bounds: Vec::with_capacity(output),
            stride,
            weights: Vec::with_capacity(output * stride),
        }
    }

    /// Adds an output position. At most `stride` weights.
    pub(super) fn push(&mut self, first: usize, weights: &[f32]) {
        self.bounds.push((first, weights.len()));
        self.weights.extend_from_slice(weights);
        self.weights.resize(self.bounds.len() * self.stride, 0.0);
    }

    /// First input position and weights of an output position.
    #[inline(always)]
    pub(super) fn of(&self, position: usize) -> (usize, &[f32]) {
        let (first, count) = self.bounds[position];
        (first, &self.weights[position * self.stride..position * self.stride + count])
    }
}

/// Weighted sums of float columns. Each product is rounded before it is added, in tap order: a
/// fused multiply-add would change bits.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn weigh_floats(out: &mut [FloatGroup], columns: &[FloatGroup], taps: &Taps) {
    for (position, out) in out.iter_mut().enumerate() {
        let (first, weights) = taps.of(position);
        let mut sums = [0.0; LANES];
        for (column, weight) in columns[first..first + weights.len()].iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(column) {
                *sum += value * weight;
            }
        }
        *out = sums;
    }
}

/// [`weigh_floats`] of byte columns.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn weigh_bytes(out: &mut [FloatGroup], columns: &[Group], taps: &Taps) {
    for (position, out) in out.iter_mut().enumerate() {
        let (first, weights) = taps.of(position);
        let mut sums = [0.0; LANES];
        for (column, weight) in columns[first..first + weights.len()].iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(column) {
                *sum += f32::from(*value) * weight;
            }
        }
        *out = sums;
    }
}

/// Rounds to the nearest integer, ties to even, and clips to a byte.
#[inline(always)]
pub(super) fn round_to_byte(value: f32) -> u8 {
    // Adding 1.5 * 2^23 leaves no fractional bits, so that the addition itself rounds; the integer
    // is then in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    (value.clamp(0.0, 255.0) + SHIFT).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_clipped() {
        for (value, byte) in [
            (-3.0, 0),
            (-0.0, 0),
            (0.5, 0),
            (0.500_000_06, 1),
            (1.5, 2),
            (2.5, 2),
            (254.5, 254),
            (254.50002, 255),
            (255.5, 255),
            (1e9, 255),
        ] {
            assert_eq!(round_to_byte(value), byte, "{value}");
        }
        for tenths in -20..2600 {
            let value = tenths as f32 / 10.0;
            assert_eq!(round_to_byte(value), value.round_ties_even() as u8, "{value}");
        }
    }
}
