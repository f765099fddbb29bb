//! Recorded physical actions as training represents them: normalized values, bins and tokens.
//!
//! The inverse of the policy's codec, as in the official training code
//! (`prismatic/vla/datasets/rlds/utils`, `ACTION_PROPRIO_NORMALIZATION_TYPE.BOUNDS_Q99`, and
//! `action_tokenizer.py`): `clip(2 (x - q01) / (q99 - q01 + 1e-8) - 1, -1, 1)`, then `digitize`
//! over `linspace(-1, 1, 256)`, then `end - digit`.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use vla_inference::policy::bin_edge;

/// The token ids that encode actions, from [`PolicyInfo::action_tokens`]. There are as many bin
/// edges as ids and one bin fewer.
///
/// [`PolicyInfo::action_tokens`]: vla_inference::policy::PolicyInfo::action_tokens
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionTokens {
    /// Lowest action token id; 31744 for OpenVLA.
    pub start: u32,
    /// One above the highest action token id; 32000 for OpenVLA.
    pub end: u32,
}

impl ActionTokens {
    /// `None` for a range of fewer than two ids, which defines no bin.
    pub fn new(ids: &Range<u32>) -> Option<ActionTokens> {
        let Range { start, end } = *ids;
        (end.checked_sub(start)? >= 2).then_some(ActionTokens { start, end })
    }

    /// Number of bin edges.
    fn edges(self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// The token of a normalized value.
    pub fn encode(self, normalized: f64) -> u32 {
        self.end.saturating_sub(self.digit(normalized))
    }

    /// The bin of a token: 0 (-1) for the highest id; the two lowest ids share the last bin (+1).
    pub fn bin(self, id: u32) -> u32 {
        self.end.saturating_sub(id).saturating_sub(1).min(self.edges().saturating_sub(2))
    }

    /// `np.digitize(np.clip(x, -1, 1), np.linspace(-1, 1, edges))`: the number of edges that are
    /// not above the value, 1 to `edges`.
    fn digit(self, normalized: f64) -> u32 {
        let (edges, value) = (self.edges(), normalized.clamp(-1.0, 1.0));
        let edge = |i: u32| bin_edge(i as usize, edges as usize);
        // An estimate by division, then corrected with the edges as numpy computes them.
        let mut digit = ((value + 1.0) / 2.0 * f64::from(edges - 1)).floor() as u32 + 1;
        while digit < edges && edge(digit) <= value {
            digit += 1;
        }
        while digit > 1 && edge(digit - 1) > value {
            digit -= 1;
        }
        digit
    }
}

/// The normalized value of a physical one. `range`: q01 and q99, or `None` where the value passes
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

    const TOKENS: ActionTokens = ActionTokens { start: 31_744, end: 32_000 };

    fn edge(i: u32) -> f64 {
        bin_edge(i as usize, 256)
    }

    #[test]
    fn bin_centre_encodes_to_its_token() {
        for bin in 0..255 {
            let centre = (edge(bin) + edge(bin + 1)) / 2.0;
            let id = TOKENS.encode(centre);
            assert_eq!(id, 32_000 - bin - 1);
            assert_eq!(TOKENS.bin(id), bin);
        }
    }

    #[test]
    fn range_without_a_bin_is_none() {
        assert_eq!(ActionTokens::new(&(31_744..32_000)), Some(TOKENS));
        for (start, end) in [(5, 5), (5, 6), (6, 5)] {
            assert_eq!(ActionTokens::new(&Range { start, end }), None);
        }
        // A vocabulary with other bins.
        let few = ActionTokens::new(&(10..13)).unwrap();
        assert_eq!((few.encode(-1.0), few.encode(0.0), few.encode(1.0)), (12, 11, 10));
        assert_eq!((few.bin(12), few.bin(11), few.bin(10)), (0, 1, 1));
    }

    #[test]
    fn edges_belong_to_the_bin_above() {
        for i in 0..256 {
            assert_eq!(TOKENS.encode(edge(i)), 32_000 - i - 1, "edge {i}");
        }
        // Values outside -1..1 are clipped.
        assert_eq!((TOKENS.encode(-7.0), TOKENS.encode(7.0)), (31_999, 31_744));
        assert_eq!((TOKENS.bin(31_744), TOKENS.bin(31_745), TOKENS.bin(31_999)), (254, 254, 0));
        // Ids outside the range, from other recordings, do not overflow.
        assert_eq!((TOKENS.bin(40_000), TOKENS.bin(0)), (0, 254));
    }

    #[test]
    fn normalize_passes_grippers_through() {
        assert_eq!(normalize(0.25, None), 0.25);
        assert_eq!(normalize(3.0, Some((3.0, 3.0))), -1.0);
        assert!((normalize(1.0, Some((0.0, 2.0)))).abs() < 1e-8);
        assert_eq!(normalize(9.0, Some((0.0, 2.0))), 1.0);
    }
}
