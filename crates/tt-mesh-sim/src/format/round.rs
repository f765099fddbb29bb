//! Rounding into the formats. The host packs weights, the packer of a Tensix core packs results,
//! and the two differ in ties: the host rounds to even, the packer away from zero, and its BFP4 is
//! a truncated BFP8.

use super::Format;

/// Neighbours that share an exponent: one row of a face.
pub const GROUP: usize = 16;

/// Who rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `tt_metal`'s packing of host arrays.
    Host,
    /// The packer of a Tensix core.
    Device,
}

/// float32 to bfloat16, ties to even.
pub fn bf16_even(value: f32) -> f32 {
    let bits = value.to_bits();
    if !value.is_finite() {
        return value;
    }
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

/// float32 to bfloat16, ties away from zero, denormals flushed.
#[inline(always)]
pub fn bf16_away(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x8000) & 0xffff_0000;
    let exponent = bits & 0x7f80_0000;
    // Selects instead of branches, so that loops over this become vectors. Infinity and NaN pass.
    let rounded = if exponent == 0 { bits & 0x8000_0000 } else { rounded };
    f32::from_bits(if exponent == 0x7f80_0000 { bits } else { rounded })
}

/// Keeps `kept` explicit mantissa bits, towards zero.
#[inline(always)]
pub fn truncate(value: f32, kept: u32) -> f32 {
    f32::from_bits(value.to_bits() & !((1u32 << (23 - kept)) - 1))
}

/// Rounds to `kept` explicit mantissa bits, ties away from zero.
#[inline(always)]
pub fn round_away(value: f32, kept: u32) -> f32 {
    let drop = 23 - kept;
    f32::from_bits(value.to_bits().wrapping_add(1 << (drop - 1)) & !((1u32 << drop) - 1))
}

/// Biased exponent that a group shares: that of its largest magnitude; 0 when all are zero or
/// denormal.
pub fn shared_exponent(group: &[f32]) -> u32 {
    group
        .iter()
        .filter(|value| value.is_finite())
        .map(|value| (value.to_bits() >> 23) & 0xff)
        .max()
        .unwrap_or(0)
}

/// Sign and magnitude of one element under a shared exponent, with `bits` magnitude bits (7 or 3).
pub fn block_element(value: f32, shared: u32, bits: u32, by: By) -> (bool, u32) {
    let word = value.to_bits();
    let exponent = (word >> 23) & 0xff;
    if exponent == 0 || shared == 0 {
        return (false, 0);
    }
    if exponent == 0xff {
        // No such thing as infinity in a block: the largest magnitude stands for it.
        return (word >> 31 == 1, (1 << bits) - 1);
    }
    let mantissa = (word & 0x007f_ffff) | 0x0080_0000;
    let distance = shared - exponent;
    let magnitude = match by {
        By::Host => {
            // The bits shifted out here are lost before rounding: a tie may not have been one.
            let aligned = if distance >= 24 { 0 } else { mantissa >> distance };
            let drop = 24 - bits;
            let (kept, rest, half) =
                (aligned >> drop, aligned & ((1 << drop) - 1), 1 << (drop - 1));
            (kept + u32::from(rest > half || (rest == half && kept & 1 == 1))).min((1 << bits) - 1)
        }
        By::Device => {
            let drop = 17 + distance;
            let eight =
                if drop > 24 { 0 } else { ((mantissa + (1 << (drop - 1))) >> drop).min(127) };
            eight >> (7 - bits)
        }
    };
    // Zero has no sign in a block.
    (magnitude != 0 && word >> 31 == 1, magnitude)
}

/// Value of a block element.
pub fn block_value(negative: bool, magnitude: u32, shared: u32, bits: u32) -> f32 {
    // m * 2^(E - 127 - (bits - 1)); in double precision the scale is exact even where float32 is
    // denormal.
    let value = (f64::from(magnitude) * 2f64.powi(shared as i32 - 127 - (bits as i32 - 1))) as f32;
    if negative { -value } else { value }
}

fn block_round(group: &mut [f32], bits: u32, by: By) {
    let shared = shared_exponent(group);
    let scale = 2f64.powi(shared as i32 - 127 - (bits as i32 - 1));
    for value in group {
        if value.is_finite() {
            let (negative, magnitude) = block_element(*value, shared, bits, by);
            let rounded = (f64::from(magnitude) * scale) as f32;
            *value = if negative { -rounded } else { rounded };
        }
    }
}

/// Rounds rows of `width` elements into `format`. NaN and infinity stay visible.
pub fn round_rows(values: &mut [f32], width: usize, format: Format, by: By) {
    let bits = match format {
        Format::Bf16 => {
            let round = if by == By::Host { bf16_even } else { bf16_away };
            values.iter_mut().for_each(|value| *value = round(*value));
            return;
        }
        Format::Bfp8B => 7,
        Format::Bfp4B => 3,
        _ => return,
    };
    for row in values.chunks_mut(width.max(1)) {
        row.chunks_mut(GROUP).for_each(|group| block_round(group, bits, by));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_differ_between_host_and_device() {
        // 1 + 2^-8 lies between 1 and 1 + 2^-7.
        let tie = 1.0 + 2f32.powi(-8);
        assert_eq!((bf16_even(tie), bf16_away(tie)), (1.0, 1.0 + 2f32.powi(-7)));
        // In BFP8 one is 64 steps of 2^-6: 1 + 2^-7 is half a step above.
        let tie = 1.0 + 2f32.powi(-7);
        assert_eq!(block_element(tie, 127, 7, By::Host), (false, 64));
        assert_eq!(block_element(tie, 127, 7, By::Device), (false, 65));
        // BFP4 of 1.75 - a little: the host rounds to 7 quarters, the packer cuts its BFP8 (111 of
        // 64ths) to 6.
        assert_eq!(block_element(1.74, 127, 3, By::Host), (false, 7));
        assert_eq!(block_element(1.74, 127, 3, By::Device), (false, 6));
    }

    #[test]
    fn the_host_loses_bits_before_it_rounds() {
        // Just above a tie, but the excess is shifted out by the exponent difference: the tie goes
        // to even.
        let small = f32::from_bits(0x3f81_0001); // 1 + 2^-7 + 2^-23
        let shared = 128; // a neighbour in [2, 4)
        // 64.5 + tiny steps of 2^-6, halved by the shared exponent: 32.25 rounds down either way.
        assert_eq!(block_element(small, shared, 7, By::Host), (false, 32));
        let small = f32::from_bits(0x3f82_0001); // 1 + 2^-6 + 2^-23: 32.5 steps and a little
        assert_eq!(block_element(small, shared, 7, By::Host), (false, 32));
        assert_eq!(block_element(small, shared, 7, By::Device), (false, 33));
    }

    #[test]
    fn rounding_up_at_the_top_saturates() {
        assert_eq!(block_element(1.999, 127, 7, By::Host), (false, 127));
        assert_eq!(block_element(1.999, 127, 7, By::Device), (false, 127));
        assert_eq!(block_element(-1.999, 127, 3, By::Host), (true, 7));
    }

    #[test]
    fn zeros_and_denormals_are_zero_without_sign() {
        assert_eq!(block_element(-0.0, 127, 7, By::Host), (false, 0));
        assert_eq!(block_element(f32::MIN_POSITIVE / 2.0, 127, 7, By::Device), (false, 0));
        assert_eq!(block_element(-1e-9, 127, 7, By::Device), (false, 0));
        assert_eq!(bf16_away(-1e-40).to_bits(), (-0.0f32).to_bits());
    }

    proptest! {
        #[test]
        fn rounding_is_close_and_stable(
            values in prop::collection::vec(-1e3f32..1e3, 1..70),
            host in any::<bool>(),
        ) {
            let by = if host { By::Host } else { By::Device };
            let formats = [(Format::Bf16, 0.0), (Format::Bfp8B, 64.0), (Format::Bfp4B, 4.0)];
            for (format, step) in formats {
                let mut once = values.clone();
                round_rows(&mut once, values.len(), format, by);
                let mut twice = once.clone();
                round_rows(&mut twice, values.len(), format, by);
                prop_assert_eq!(&once, &twice);
                for (group, rounded) in values.chunks(GROUP).zip(once.chunks(GROUP)) {
                    let power = 2f32.powi(shared_exponent(group) as i32 - 127);
                    for (a, b) in group.iter().zip(rounded) {
                        // Saturation at the top costs up to one whole step, the packer's BFP4
                        // truncation too.
                        let bound = if step == 0.0 { a.abs() / 256.0 } else { power / step };
                        prop_assert!((a - b).abs() <= bound, "{a} -> {b} in {format:?}");
                    }
                }
            }
        }
    }
}
