//! From a recorded physical action back to what training made of it: normalized values, bins and
//! tokens.
//!
//! The inverse of the policy's codec, as in the official training code
//! (`prismatic/vla/datasets/rlds/utils`, `ACTION_PROPRIO_NORMALIZATION_TYPE.BOUNDS_Q99`, and
//! `action_tokenizer.py`): `clip(2 (x - q01) / (q99 - q01 + 1e-8) - 1, -1, 1)`, then `digitize`
//! over `linspace(-1, 1, 256)`, then `vocabulary - digit`.

use serde::{Deserialize, Serialize};

/// Bins of OpenVLA's action tokenizer: 256 edges, 255 centres.
pub const BINS: u32 = 256;

/// The action tokens at the end of a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionTokens {
    /// One above the highest action token; 32000 for Llama-2.
    pub end: u32,
}

impl ActionTokens {
    /// What a prediction says of its codec: an id and the bin centre it stands for. `None` for
    /// policies without tokens, and while every value lies in the last bin, which two ids share.
    pub fn of(token_ids: &[u32], normalized: &[f64]) -> Option<ActionTokens> {
        let pairs = token_ids.iter().zip(normalized);
        let mut bins = pairs
            .map(|(&id, &centre)| (id, ((centre + 1.0) * f64::from(BINS - 1) / 2.0 - 0.5).round()));
        let (id, bin) = bins.find(|(_, bin)| (0.0..f64::from(BINS - 2)).contains(bin))?;
        // The bin was just checked to lie in 0..254.
        Some(ActionTokens { end: id.checked_add(bin as u32 + 1)? })
    }

    /// The token that training would make of a normalized value.
    pub fn encode(self, normalized: f64) -> u32 {
        self.end.saturating_sub(digit(normalized))
    }

    /// The bin of a token, 0 (-1) to 254 (+1).
    pub fn bin(self, id: u32) -> u32 {
        self.end.saturating_sub(id).saturating_sub(1).min(BINS - 2)
    }
}

/// `np.digitize(np.clip(x, -1, 1), np.linspace(-1, 1, 256))`: how many edges are not above the
/// value, 1 to 256.
fn digit(normalized: f64) -> u32 {
    let value = normalized.clamp(-1.0, 1.0);
    // A guess by division, then corrected with the edges as numpy computes them.
    let mut digit = ((value + 1.0) / 2.0 * f64::from(BINS - 1)).floor() as u32 + 1;
    while digit < BINS && edge(digit) <= value {
        digit += 1;
    }
    while digit > 1 && edge(digit - 1) > value {
        digit -= 1;
    }
    digit
}

/// `np.linspace(-1, 1, 256)[i]`
fn edge(i: u32) -> f64 {
    if i + 1 >= BINS { 1.0 } else { -1.0 + f64::from(i) * (2.0 / f64::from(BINS - 1)) }
}

/// The normalized value of a physical one. `range` is q01 and q99, or `None` where the value passes
/// through.
pub fn normalize(physical: f64, range: Option<(f64, f64)>) -> f64 {
    let value = match range {
        Some((low, high)) => 2.0 * (physical - low) / (high - low + 1e-8) - 1.0,
        None => physical,
    };
    value.clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_bin_centre_comes_back_as_its_token() {
        let tokens = ActionTokens { end: 32_000 };
        for bin in 0..255 {
            let centre = (edge(bin) + edge(bin + 1)) / 2.0;
            let id = tokens.encode(centre);
            assert_eq!(id, 32_000 - bin - 1);
            assert_eq!(tokens.bin(id), bin);
        }
    }

    #[test]
    fn a_prediction_tells_where_the_tokens_end() {
        let centre = |bin| (edge(bin) + edge(bin + 1)) / 2.0;
        for bin in 0..254 {
            assert_eq!(
                ActionTokens::of(&[32_000 - bin - 1], &[centre(bin)]),
                Some(ActionTokens { end: 32_000 })
            );
        }
        assert_eq!(ActionTokens::of(&[31_744], &[centre(254)]), None);
        assert_eq!(
            ActionTokens::of(&[31_744, 31_999], &[centre(254), centre(0)]),
            Some(ActionTokens { end: 32_000 })
        );
        assert_eq!(ActionTokens::of(&[], &[0.5]), None);
    }

    #[test]
    fn edges_belong_to_the_bin_above_and_the_outside_is_clipped() {
        let tokens = ActionTokens { end: 32_000 };
        for i in 0..256 {
            assert_eq!(tokens.encode(edge(i)), 32_000 - i - 1, "edge {i}");
        }
        assert_eq!((tokens.encode(-7.0), tokens.encode(7.0)), (31_999, 31_744));
        assert_eq!((tokens.bin(31_744), tokens.bin(31_745), tokens.bin(31_999)), (254, 254, 0));
        // Wrong tokens of other recordings do not overflow.
        assert_eq!((tokens.bin(40_000), tokens.bin(0)), (0, 254));
    }

    #[test]
    fn normalizing_passes_grippers_through_and_survives_an_empty_range() {
        assert_eq!(normalize(0.25, None), 0.25);
        assert_eq!(normalize(3.0, Some((3.0, 3.0))), -1.0);
        assert!((normalize(1.0, Some((0.0, 2.0)))).abs() < 1e-8);
        assert_eq!(normalize(9.0, Some((0.0, 2.0))), 1.0);
    }
}
