//! Action tokens to physical values: bins of [-1, 1], then un-normalisation by the data set's
//! percentiles.
//!
//! After `prismatic/vla/action_tokenizer.py` and `modeling_prismatic.py` of the official
//! repository. They clip any token id to a bin, so that a wrong token becomes a valid motion; here
//! an id outside the action tokens is an error.

use std::ops::Range;

use crate::checkpoint::{ActionStats, OpenVlaConfig};

/// A token that stands for no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "token {id}{} at action dimension {dimension} is no action token (ids {}..={}); nothing is \
    published for it",
    text.as_ref().map(|text| format!(" ({text:?})")).unwrap_or_default(),
    range.start,
    range.end.saturating_sub(1)
)]
pub struct CodecError {
    /// The token.
    pub id: u32,
    /// Its text, if the tokenizer has one.
    pub text: Option<String>,
    /// Action dimension, from 0.
    pub dimension: usize,
    /// Ids that stand for actions.
    pub range: Range<u32>,
}

/// `np.linspace(-1, 1, edges)[i]`
#[must_use]
pub fn bin_edge(i: usize, edges: usize) -> f64 {
    if i + 1 >= edges { 1.0 } else { -1.0 + i as f64 * (2.0 / (edges - 1) as f64) }
}

/// Maps token ids to normalized actions, and normalized to physical ones.
#[derive(Clone, Debug)]
pub struct ActionCodec {
    ids: Range<u32>,
    centres: Vec<f64>,
    stats: ActionStats,
}

impl ActionCodec {
    /// The codec of a checkpoint for one set of normalisation statistics.
    #[must_use]
    pub fn new(config: &OpenVlaConfig, stats: ActionStats) -> Self {
        let bins = config.action_bins;
        let end = config.action_token_end;
        Self {
            // Both are bounded by the vocabulary when config.json is read, far below u32::MAX.
            ids: (end - bins) as u32..end as u32,
            centres: (0..bins - 1)
                .map(|i| (bin_edge(i, bins) + bin_edge(i + 1, bins)) / 2.0)
                .collect(),
            stats,
        }
    }

    /// Numbers per action.
    #[must_use]
    pub fn action_dim(&self) -> usize {
        self.stats.dim()
    }

    /// Token ids that stand for actions.
    #[must_use]
    pub fn ids(&self) -> Range<u32> {
        self.ids.clone()
    }

    /// Bin centres, -1..1, bin 0 (highest id) first.
    #[must_use]
    pub fn centres(&self) -> &[f64] {
        &self.centres
    }

    /// The statistics.
    #[must_use]
    pub fn stats(&self) -> &ActionStats {
        &self.stats
    }

    /// Bin of a token: `clip(end - id - 1, 0, bins - 2)`, so that the two lowest ids share the last
    /// bin.
    ///
    /// # Errors
    /// When the id stands for no action.
    pub fn bin(&self, id: u32, dimension: usize) -> Result<usize, CodecError> {
        if !self.ids.contains(&id) {
            return Err(CodecError { id, text: None, dimension, range: self.ids.clone() });
        }
        Ok(((self.ids.end - id - 1) as usize).min(self.centres.len() - 1))
    }

    /// Bin centres, -1..1.
    ///
    /// # Errors
    /// When an id stands for no action.
    pub fn normalized(&self, ids: &[u32]) -> Result<Vec<f64>, CodecError> {
        ids.iter()
            .enumerate()
            .map(|(dimension, &id)| Ok(self.centres[self.bin(id, dimension)?]))
            .collect()
    }

    /// Physical values: `0.5 (a + 1) (q99 - q01) + q01` where the mask is true, the normalized
    /// value elsewhere.
    #[must_use]
    pub fn unnormalize(&self, normalized: &[f64]) -> Vec<f64> {
        let ActionStats { q01, q99, mask, .. } = &self.stats;
        normalized
            .iter()
            .zip(q01.iter().zip(q99).zip(mask))
            .map(
                |(&a, ((&low, &high), &masked))| {
                    if masked { 0.5 * (a + 1.0) * (high - low) + low } else { a }
                },
            )
            .collect()
    }
}
