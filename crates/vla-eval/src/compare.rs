//! `openvla eval compare A B`: two checkpoints, devices or precisions on the same frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compare_page::page;
use super::files::{write_file, write_json};
use super::report::Report;
use super::rows::EPISODE_PREFIX;
use super::settings::PolicySettings;
use super::stats::{deviation, mean};
use super::step::{Paired, Prediction, dimension_names};
use super::{EvalError, gallery, table};

/// Two evaluations, frame by frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Folder of the first.
    pub a: PathBuf,
    /// Folder of the second.
    pub b: PathBuf,
    /// Policy of the first.
    pub policy_a: PolicySettings,
    /// Policy of the second.
    pub policy_b: PolicySettings,
    /// Frames for which both have an action.
    pub frames: usize,
    /// Frames for which only one has an action: first, second.
    pub only_in: (usize, usize),
    /// Share of tokens that are the same in both.
    pub token_agreement: Option<f64>,
    /// Share of frames in which all tokens are the same.
    pub action_agreement: Option<f64>,
    /// Mean distance of the two in bins.
    pub bin_distance: Option<f64>,
    /// Per dimension of the action.
    pub dimensions: Vec<DimensionComparison>,
    /// Normalized error against the recorded action, frame by frame.
    pub error: Option<Difference>,
    /// Milliseconds per inference, frame by frame.
    pub latency_ms: Option<Difference>,
    /// The frames in which the two differ most: bag, frame, mean absolute normalized difference.
    pub furthest: Vec<(usize, u64, f64)>,
}

/// One dimension in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DimensionComparison {
    /// Its name.
    pub name: String,
    /// Share of tokens that are the same.
    pub token_agreement: Option<f64>,
    /// Mean absolute difference of the two, physical units.
    pub difference: Option<f64>,
    /// Largest absolute difference of the two, physical units.
    pub difference_max: Option<f64>,
    /// Absolute error against the recorded action, physical units.
    pub error: Option<Difference>,
}

/// Paired difference of a quantity in both, over the same frames; lower is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Frames.
    pub n: usize,
    /// Mean in the first.
    pub mean_a: f64,
    /// Mean in the second.
    pub mean_b: f64,
    /// Mean of second minus first.
    pub mean: f64,
    /// Its standard error, with frames taken as independent; neighbouring frames are correlated.
    pub standard_error: Option<f64>,
    /// 95 % interval of the mean, by the normal distribution.
    pub interval: Option<(f64, f64)>,
    /// Frames in which the first is better, the second is better, both are equal.
    pub better: (usize, usize, usize),
}

impl Difference {
    fn of(pairs: &[(f64, f64)]) -> Option<Difference> {
        let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
        let centre = mean(&differences)?;
        let standard_error =
            deviation(&differences).map(|deviation| deviation / (pairs.len() as f64).sqrt());
        let count = |sign: fn(f64) -> bool| {
            differences.iter().filter(|difference| sign(**difference)).count()
        };
        Some(Difference {
            n: pairs.len(),
            mean_a: mean(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>())?,
            mean_b: mean(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>())?,
            mean: centre,
            standard_error,
            interval: standard_error.map(|error| (centre - 1.96 * error, centre + 1.96 * error)),
            better: (count(|d| d > 0.0), count(|d| d < 0.0), count(|d| d == 0.0)),
        })
    }
}

/// Identity of a frame on any machine: name of the bag, log time, number.
type Key = (String, i64, u64);

/// Compares the evaluations in the folders `a` and `b` and writes `compare.json` and `compare.html`
/// into `out`.
pub fn compare(a: &Path, b: &Path, out: &Path) -> Result<Comparison, EvalError> {
    let (report_a, report_b) = (Report::read(a)?, Report::read(b)?);
    let mismatch =
        |what: String| EvalError::Mismatch { first: a.to_owned(), second: b.to_owned(), what };
    let dimensions = report_a.settings.policy.action_dim;
    if report_b.settings.policy.action_dim != dimensions {
        return Err(mismatch(format!(
            "actions of {dimensions} and {} numbers",
            report_b.settings.policy.action_dim
        )));
    }
    let (pairs_a, pairs_b) = (table::read(a, dimensions)?, table::read(b, dimensions)?);
    let theirs: BTreeMap<Key, &Paired> =
        pairs_b.iter().map(|pair| (key(&report_b, pair), pair)).collect();
    let both: Vec<(&Paired, &Paired)> = pairs_a
        .iter()
        .filter_map(|pair| Some((pair, *theirs.get(&key(&report_a, pair))?)))
        .collect();
    if both.is_empty() {
        return Err(mismatch(
            "they have no frame in common (bag names, log times and frame numbers are compared)"
                .to_owned(),
        ));
    }
    let comparison = sum_up((a, &report_a), (b, &report_b), &both, dimensions);
    std::fs::create_dir_all(out).map_err(EvalError::io("create", out))?;
    write_json(&out.join("compare.json"), &comparison)?;
    let page = page(&comparison, &report_a, &both);
    write_file(&out.join("compare.html"), page.as_bytes())?;
    Ok(comparison)
}

fn key(report: &Report, pair: &Paired) -> Key {
    let bag = report.settings.bags.get(pair.step.bag);
    // Only the folder's name: the same bag may have another path on another machine.
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut name = bag.and_then(|bag| last(bag)).unwrap_or_default();
    if name.starts_with(EPISODE_PREFIX) {
        // Every dataset has such an episode, and its times begin at zero.
        let dataset = bag.and_then(|bag| bag.parent()).and_then(last).unwrap_or_default();
        name = format!("{dataset}/{name}");
    }
    (name, pair.step.log_time, pair.step.frame)
}

fn sum_up(
    a: (&Path, &Report),
    b: (&Path, &Report),
    both: &[(&Paired, &Paired)],
    dimensions: usize,
) -> Comparison {
    let tokens = a.1.action_tokens.or(b.1.action_tokens);
    let acted: Vec<Acted<'_>> =
        both.iter().filter_map(|(x, y)| Some((*x, x.prediction()?, *y, y.prediction()?))).collect();
    let count =
        |test: fn(&(&Paired, &Paired)) -> bool| both.iter().filter(|pair| test(pair)).count();
    let (mut same, mut whole, mut bins) = (Vec::new(), Vec::new(), Vec::new());
    let mut furthest = Vec::new();
    for (pair, x, _, y) in &acted {
        let ids: Vec<(u32, u32)> =
            x.token_ids.iter().copied().zip(y.token_ids.iter().copied()).collect();
        same.extend(ids.iter().map(|(x, y)| f64::from(x == y)));
        whole.extend((!ids.is_empty()).then(|| f64::from(ids.iter().all(|(x, y)| x == y))));
        bins.extend(tokens.iter().flat_map(|tokens| {
            ids.iter().map(|(x, y)| f64::from(tokens.bin(*x).abs_diff(tokens.bin(*y))))
        }));
        let differences: Vec<f64> =
            x.normalized.iter().zip(&y.normalized).map(|(x, y)| (x - y).abs()).collect();
        furthest.extend(
            mean(&differences).map(|difference| (pair.step.bag, pair.step.frame, difference)),
        );
    }
    furthest.sort_by(|x, y| y.2.total_cmp(&x.2));
    furthest.retain(|(_, _, difference)| *difference > 0.0);
    furthest.truncate(gallery::SHOWN);
    let errors: Vec<(f64, f64)> =
        acted.iter().filter_map(|(x, _, y, _)| x.error().zip(y.error())).collect();
    let time =
        |stages: &[(String, f64)]| stages.iter().map(|(_, milliseconds)| milliseconds).sum::<f64>();
    let times: Vec<(f64, f64)> =
        acted.iter().map(|(_, x, _, y)| (time(&x.stages), time(&y.stages))).collect();
    Comparison {
        a: a.0.to_owned(),
        b: b.0.to_owned(),
        policy_a: a.1.settings.policy.clone(),
        policy_b: b.1.settings.policy.clone(),
        frames: acted.len(),
        only_in: (
            count(|(x, y)| x.prediction().is_some() && y.prediction().is_none()),
            count(|(x, y)| x.prediction().is_none() && y.prediction().is_some()),
        ),
        token_agreement: mean(&same),
        action_agreement: mean(&whole),
        bin_distance: mean(&bins),
        dimensions: dimension_names(dimensions)
            .into_iter()
            .enumerate()
            .map(|(i, name)| dimension(i, name, &acted))
            .collect(),
        error: Difference::of(&errors),
        latency_ms: Difference::of(&times),
        furthest,
    }
}

/// A frame for which both have an action: the first, its prediction, the second, its prediction.
type Acted<'a> = (&'a Paired, &'a Prediction, &'a Paired, &'a Prediction);

fn dimension(i: usize, name: String, acted: &[Acted<'_>]) -> DimensionComparison {
    let values: Vec<(f64, f64)> = acted
        .iter()
        .filter_map(|(_, x, _, y)| x.action.get(i).copied().zip(y.action.get(i).copied()))
        .collect();
    let differences: Vec<f64> = values.iter().map(|(x, y)| (x - y).abs()).collect();
    let hits: Vec<f64> = acted
        .iter()
        .filter_map(|(_, x, _, y)| Some(f64::from(x.token_ids.get(i)? == y.token_ids.get(i)?)))
        .collect();
    let errors: Vec<(f64, f64)> = acted
        .iter()
        .filter_map(|(pair, x, _, y)| {
            let recorded = pair.recorded.as_ref()?.action.get(i).copied().flatten()?;
            Some(((x.action.get(i)? - recorded).abs(), (y.action.get(i)? - recorded).abs()))
        })
        .collect();
    DimensionComparison {
        name,
        token_agreement: mean(&hits),
        difference: mean(&differences),
        difference_max: differences.iter().copied().reduce(f64::max),
        error: Difference::of(&errors),
    }
}
