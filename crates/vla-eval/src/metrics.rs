//! Errors of predicted against recorded actions. `docs/evaluation.md` defines every number;
//! `tools/eval/make_expected.py` computes the same with numpy.

use serde::{Deserialize, Serialize};

use super::stats::{correlation, mean};
use super::step::{Paired, dimension_names};
use super::tokens::ActionTokens;

/// Errors of a set of frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Frames that have both a prediction and a recorded action.
    pub frames: usize,
    /// Per dimension of the action.
    pub dimensions: Vec<DimensionMetrics>,
    /// Mean absolute error over all normalized values.
    pub normalized_mae: Option<f64>,
    /// Share of tokens equal to the recorded ones: `action_accuracy` in the training's log.
    pub token_accuracy: Option<f64>,
    /// Share of frames in which every recorded token was predicted.
    pub action_accuracy: Option<f64>,
    /// Mean distance in bins over all tokens.
    pub bin_distance: Option<f64>,
    /// The gripper as an open/closed decision, for actions that have one.
    pub gripper: Option<GripperMetrics>,
}

/// Errors of one dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DimensionMetrics {
    /// Its name.
    pub name: String,
    /// Frames in which it was recorded.
    pub n: usize,
    /// Mean absolute error, physical units.
    pub mae: Option<f64>,
    /// Root of the mean squared error, physical units.
    pub rmse: Option<f64>,
    /// Mean of predicted minus recorded, physical units.
    pub bias: Option<f64>,
    /// Largest absolute error, physical units.
    pub max: Option<f64>,
    /// Mean absolute error of the normalized values.
    pub normalized_mae: Option<f64>,
    /// Pearson's correlation of predicted and recorded.
    pub correlation: Option<f64>,
    /// Share of tokens equal to the recorded ones.
    pub token_accuracy: Option<f64>,
    /// Mean distance in bins.
    pub bin_distance: Option<f64>,
    /// Largest distance in bins.
    pub bin_distance_max: Option<u32>,
}

/// The gripper as a binary classification; open is the positive class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GripperMetrics {
    /// The gripper is open above this value.
    pub threshold: f64,
    /// Open, and predicted open.
    pub true_open: usize,
    /// Closed, but predicted open.
    pub false_open: usize,
    /// Open, but predicted closed.
    pub false_closed: usize,
    /// Closed, and predicted closed.
    pub true_closed: usize,
    /// Share of predicted openings that were recorded.
    pub precision: Option<f64>,
    /// Share of recorded openings that were predicted.
    pub recall: Option<f64>,
    /// Harmonic mean of the two; `None` while nothing is open on either side.
    pub f1: Option<f64>,
    /// Share of correct decisions.
    pub accuracy: Option<f64>,
}

/// Parameters of the metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricOptions {
    /// The policy's action tokens, if it has any.
    pub action_tokens: Option<ActionTokens>,
    /// The gripper is open above this value.
    pub gripper_threshold: f64,
}

/// Predicted and recorded values of one dimension.
#[derive(Default)]
struct Column {
    physical: Vec<(f64, f64)>,
    normalized: Vec<(f64, f64)>,
    tokens: Vec<(u32, u32)>,
}

impl Metrics {
    /// Over the frames of `pairs` that have both a prediction and a recorded action. `dimensions`:
    /// numbers per action.
    pub fn of<'a>(
        pairs: impl IntoIterator<Item = &'a Paired>,
        dimensions: usize,
        options: MetricOptions,
    ) -> Metrics {
        let mut columns: Vec<Column> = (0..dimensions).map(|_| Column::default()).collect();
        let (mut frames, mut whole) = (0, Vec::new());
        for (predicted, recorded) in pairs.into_iter().filter_map(Paired::both) {
            frames += 1;
            let mut all_equal = None;
            for (i, column) in columns.iter_mut().enumerate() {
                let at = |values: &[Option<f64>]| values.get(i).copied().flatten();
                column.physical.extend(predicted.action.get(i).copied().zip(at(&recorded.action)));
                column
                    .normalized
                    .extend(predicted.normalized.get(i).copied().zip(at(&recorded.normalized)));
                let ids = predicted
                    .token_ids
                    .get(i)
                    .copied()
                    .zip(recorded.token_ids.get(i).copied().flatten());
                if let Some(ids) = ids {
                    all_equal = Some(all_equal.unwrap_or(true) && ids.0 == ids.1);
                    column.tokens.push(ids);
                }
            }
            whole.extend(all_equal.map(f64::from));
        }
        let tokens = options.action_tokens;
        let names = dimension_names(dimensions);
        let all = |f: &dyn Fn(&Column) -> Vec<f64>| {
            mean(&columns.iter().flat_map(f).collect::<Vec<f64>>())
        };
        Metrics {
            frames,
            normalized_mae: all(&|column| absolute(&column.normalized)),
            token_accuracy: all(&|column| hits(&column.tokens)),
            action_accuracy: mean(&whole),
            bin_distance: all(&|column| distances(&column.tokens, tokens)),
            gripper: (dimensions == 7)
                .then(|| gripper(&columns[6].physical, options.gripper_threshold))
                .flatten(),
            dimensions: columns
                .iter()
                .zip(names)
                .map(|(column, name)| dimension(column, name, tokens))
                .collect(),
        }
    }
}

fn absolute(pairs: &[(f64, f64)]) -> Vec<f64> {
    pairs.iter().map(|(predicted, recorded)| (predicted - recorded).abs()).collect()
}

fn hits(ids: &[(u32, u32)]) -> Vec<f64> {
    ids.iter().map(|(predicted, recorded)| f64::from(predicted == recorded)).collect()
}

fn distances(ids: &[(u32, u32)], tokens: Option<ActionTokens>) -> Vec<f64> {
    let Some(tokens) = tokens else { return Vec::new() };
    ids.iter().map(|&(a, b)| f64::from(tokens.bin(a).abs_diff(tokens.bin(b)))).collect()
}

fn dimension(column: &Column, name: String, tokens: Option<ActionTokens>) -> DimensionMetrics {
    let errors = absolute(&column.physical);
    let squares: Vec<f64> = errors.iter().map(|error| error * error).collect();
    let signed: Vec<f64> =
        column.physical.iter().map(|(predicted, recorded)| predicted - recorded).collect();
    let bins = distances(&column.tokens, tokens);
    DimensionMetrics {
        name,
        n: errors.len(),
        mae: mean(&errors),
        rmse: mean(&squares).map(f64::sqrt),
        bias: mean(&signed),
        max: errors.iter().copied().reduce(f64::max),
        normalized_mae: mean(&absolute(&column.normalized)),
        correlation: correlation(&column.physical),
        token_accuracy: mean(&hits(&column.tokens)),
        bin_distance: mean(&bins),
        bin_distance_max: bins.iter().copied().reduce(f64::max).map(|bins| bins as u32),
    }
}

fn gripper(pairs: &[(f64, f64)], threshold: f64) -> Option<GripperMetrics> {
    if pairs.is_empty() {
        return None;
    }
    let count = |predicted_open: bool, recorded_open: bool| {
        pairs
            .iter()
            .filter(|(p, r)| {
                (*p > threshold) == predicted_open && (*r > threshold) == recorded_open
            })
            .count()
    };
    let (true_open, false_open) = (count(true, true), count(true, false));
    let (false_closed, true_closed) = (count(false, true), count(false, false));
    let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
    Some(GripperMetrics {
        threshold,
        true_open,
        false_open,
        false_closed,
        true_closed,
        precision: share(true_open, true_open + false_open),
        recall: share(true_open, true_open + false_closed),
        f1: share(2 * true_open, 2 * true_open + false_open + false_closed),
        accuracy: share(true_open + true_closed, pairs.len()),
    })
}
