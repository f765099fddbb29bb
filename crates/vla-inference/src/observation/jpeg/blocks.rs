//! Blocks of 8 x 8 samples: DCT, quantisation and the fast inverse DCT, sixteen blocks at once.
//!
//! Values are held by their place in the block, with the blocks as lanes, so that every butterfly
//! is a loop over lanes.

/// Blocks that are transformed together.
const LANES: usize = 16;
/// Columns of as many blocks; rows are padded to a multiple.
pub(super) const BLOCK_COLUMNS: usize = 8 * LANES;

/// Fractional bits of the DCT's constants.
const CONST_BITS: u32 = 13;
/// Bits kept between its passes.
const PASS1_BITS: u32 = 2;

/// Scale factors of the AAN inverse DCT: `cos(k pi / 16) * sqrt(2)`, 1 for k = 0.
const AAN: [f64; 8] = [
    1.0,
    1.387_039_845,
    1.306_562_965,
    1.175_875_602,
    1.0,
    0.785_694_958,
    0.541_196_100,
    0.275_899_379,
];

/// Divisors of one component, and the multipliers of its inverse DCT, by place in the block.
pub(super) struct Quantisation {
    divisors: [Divisor; 64],
    multipliers: [i16; 64],
}

/// Division by eight times a quantisation step, rounded half up, as a multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Divisor {
    half: u32,
    factor: u32,
    shift: u32,
}

impl Divisor {
    /// For `8 * step`, steps to 255: exact for magnitudes to 2^13, and a DCT of bytes has no more.
    pub(super) fn new(step: u16) -> Self {
        let divisor = 8 * u32::from(step);
        // The factor is 2^shift / divisor rounded up. A dividend below 2^14 times its error, at
        // most `divisor`, stays below 2^shift, so that the quotient is exact.
        let shift = 15 + divisor.ilog2();
        Self { half: divisor / 2, factor: (1 << shift) / divisor + 1, shift }
    }

    #[inline(always)]
    pub(super) fn divide(self, value: i32) -> i16 {
        let magnitude = ((value.unsigned_abs() + self.half) * self.factor) >> self.shift;
        if value < 0 { -(magnitude as i32) as i16 } else { magnitude as i16 }
    }
}

/// The quantisation steps of a standard table, as libjpeg scales it at quality 95.
pub(super) fn steps_at_quality_95(table: &[u8; 64]) -> [u16; 64] {
    table.map(|value| ((u16::from(value) * 10 + 50) / 100).clamp(1, 255))
}

impl Quantisation {
    /// From a standard table, at quality 95.
    pub(super) fn at_quality_95(table: &[u8; 64]) -> Self {
        let steps = steps_at_quality_95(table);
        let multiplier = |place: usize| {
            let scale = (16384.0 * AAN[place / 8] * AAN[place % 8] + 0.5) as i32;
            ((i32::from(steps[place]) * scale + 2048) >> 12) as i16
        };
        Self { divisors: steps.map(Divisor::new), multipliers: std::array::from_fn(multiplier) }
    }
}

/// Replaces every block of a plane by what is left of it. Rows are a multiple of
/// [`BLOCK_COLUMNS`] long, their number a multiple of 8.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vbmi",
    "x86_64+avx2",
    "aarch64+neon"
))]
pub(super) fn round_trip(samples: &mut [u8], stride: usize, quantisation: &Quantisation) {
    for rows in samples.chunks_exact_mut(8 * stride) {
        for start in (0..stride).step_by(BLOCK_COLUMNS) {
            let mut values = [[0; LANES]; 64];
            for (y, row) in rows.chunks_exact(stride).enumerate() {
                let row = &row[start..start + BLOCK_COLUMNS];
                for x in 0..8 {
                    let values = &mut values[y * 8 + x];
                    for (lane, value) in values.iter_mut().enumerate() {
                        *value = i32::from(row[lane * 8 + x]) - 128;
                    }
                }
            }
            forward(&mut values);
            let mut coefficients = [[0; LANES]; 64];
            for (place, out) in coefficients.iter_mut().enumerate() {
                let divisor = quantisation.divisors[place];
                let multiplier = quantisation.multipliers[place];
                for (out, value) in out.iter_mut().zip(&values[place]) {
                    *out = divisor.divide(*value).wrapping_mul(multiplier);
                }
            }
            inverse(&mut coefficients);
            for (y, row) in rows.chunks_exact_mut(stride).enumerate() {
                let row = &mut row[start..start + BLOCK_COLUMNS];
                for x in 0..8 {
                    for (lane, value) in coefficients[y * 8 + x].iter().enumerate() {
                        row[lane * 8 + x] = ((value >> 5).clamp(-128, 127) + 128) as u8;
                    }
                }
            }
        }
    }
}

/// The accurate integer DCT, times 8 (libjpeg's `jfdctint`): rows, then columns.
#[inline(always)]
fn forward(values: &mut [[i32; LANES]; 64]) {
    for y in 0..8 {
        let places = std::array::from_fn(|i| y * 8 + i);
        forward_pass(values, places, CONST_BITS - PASS1_BITS, |sum| sum << PASS1_BITS);
    }
    for x in 0..8 {
        let places = std::array::from_fn(|i| i * 8 + x);
        let descale = |sum| (sum + (1 << (PASS1_BITS - 1))) >> PASS1_BITS;
        forward_pass(values, places, CONST_BITS + PASS1_BITS, descale);
    }
}

// A lane is the same place in eight rows.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn forward_pass(
    values: &mut [[i32; LANES]; 64],
    at: [usize; 8],
    bits: u32,
    scale: impl Fn(i32) -> i32,
) {
    let round = 1 << (bits - 1);
    for lane in 0..LANES {
        let d: [i32; 8] = std::array::from_fn(|i| values[at[i]][lane]);
        let (t0, t7) = (d[0] + d[7], d[0] - d[7]);
        let (t1, t6) = (d[1] + d[6], d[1] - d[6]);
        let (t2, t5) = (d[2] + d[5], d[2] - d[5]);
        let (t3, t4) = (d[3] + d[4], d[3] - d[4]);
        let (a, e) = (t0 + t3, t0 - t3);
        let (b, c) = (t1 + t2, t1 - t2);
        let z = 4_433 * (c + e) + round;
        let z5 = 9_633 * (t4 + t6 + t5 + t7) + round;
        let z1 = -7_373 * (t4 + t7);
        let z2 = -20_995 * (t5 + t6);
        let z3 = z5 - 16_069 * (t4 + t6);
        let z4 = z5 - 3_196 * (t5 + t7);
        values[at[0]][lane] = scale(a + b);
        values[at[4]][lane] = scale(a - b);
        values[at[2]][lane] = (z + 6_270 * e) >> bits;
        values[at[6]][lane] = (z - 15_137 * c) >> bits;
        values[at[7]][lane] = (2_446 * t4 + z1 + z3) >> bits;
        values[at[5]][lane] = (16_819 * t5 + z2 + z4) >> bits;
        values[at[3]][lane] = (25_172 * t6 + z2 + z3) >> bits;
        values[at[1]][lane] = (12_299 * t7 + z1 + z4) >> bits;
    }
}

/// The fast integer inverse DCT (AAN, libjpeg's `jidctfst`) in wrapping 16 bits: columns, then
/// rows.
#[inline(always)]
fn inverse(values: &mut [[i16; LANES]; 64]) {
    for x in 0..8 {
        inverse_pass(values, std::array::from_fn(|i| i * 8 + x));
    }
    for y in 0..8 {
        inverse_pass(values, std::array::from_fn(|i| y * 8 + i));
    }
}

/// `value * k / 256` without rounding, as SSE2's high half of `4 value * 64 k`.
#[inline(always)]
fn times<const K: i32>(value: i16) -> i16 {
    high::<K>(value.wrapping_mul(4))
}

/// The high half of `value * 64 k`.
#[inline(always)]
fn high<const K: i32>(value: i16) -> i16 {
    ((i32::from(value) * (64 * K)) >> 16) as i16
}

// As in the forward pass.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn inverse_pass(values: &mut [[i16; LANES]; 64], at: [usize; 8]) {
    let add = i16::wrapping_add;
    let sub = i16::wrapping_sub;
    for lane in 0..LANES {
        let d: [i16; 8] = std::array::from_fn(|i| values[at[i]][lane]);
        let (a, b) = (add(d[0], d[4]), sub(d[0], d[4]));
        let e = add(d[2], d[6]);
        let f = sub(times::<362>(sub(d[2], d[6])), e);
        let (t0, t3) = (add(a, e), sub(a, e));
        let (t1, t2) = (add(b, f), sub(b, f));
        let (z13, z10) = (add(d[5], d[3]), sub(d[5], d[3]));
        let (z11, z12) = (add(d[1], d[7]), sub(d[1], d[7]));
        let t7 = add(z11, z13);
        let z5 = high::<473>(add(z10.wrapping_mul(4), z12.wrapping_mul(4)));
        let t6 = sub(add(sub(times::<-413>(z10), z10), z5), t7);
        let t5 = sub(times::<362>(sub(z11, z13)), t6);
        let t4 = add(sub(times::<277>(z12), z5), t5);
        values[at[0]][lane] = add(t0, t7);
        values[at[7]][lane] = sub(t0, t7);
        values[at[1]][lane] = add(t1, t6);
        values[at[6]][lane] = sub(t1, t6);
        values[at[2]][lane] = add(t2, t5);
        values[at[5]][lane] = sub(t2, t5);
        values[at[3]][lane] = sub(t3, t4);
        values[at[4]][lane] = add(t3, t4);
    }
}
