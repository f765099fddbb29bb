//! `openvla eval compare A B`: two checkpoints, devices or precisions on the same frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::html::{data, frame, number};
use super::report::{Report, write_whole};
use super::settings::PolicySettings;
use super::stats::{deviation, mean};
use super::step::{Paired, dimension_names};
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
    pub alone: (usize, usize),
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

/// A quantity of the same frames in both, lower being better.
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
    /// Its standard error, frames taken as independent; neighbouring frames are not quite.
    pub standard_error: Option<f64>,
    /// 95 % interval of the mean, by the normal distribution.
    pub interval: Option<(f64, f64)>,
    /// Frames in which the first is better, the second is better, neither is.
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

/// A frame's identity across machines: name of the bag, log time, number.
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
    let path = out.join("compare.json");
    let mut text = serde_json::to_string_pretty(&comparison).map_err(EvalError::result(&path))?;
    text.push('\n');
    write_whole(&path, text.as_bytes())?;
    let page = page(&comparison, &report_a, &both);
    write_whole(&out.join("compare.html"), page.into_string().as_bytes())?;
    Ok(comparison)
}

fn key(report: &Report, pair: &Paired) -> Key {
    let bag = report.settings.bags.get(pair.step.bag);
    // The folder's name: the same bag may lie elsewhere on another machine.
    let name = bag.and_then(|bag| bag.file_name()).map(|name| name.to_string_lossy().into_owned());
    (name.unwrap_or_default(), pair.step.log_time, pair.step.frame)
}

fn sum_up(
    a: (&Path, &Report),
    b: (&Path, &Report),
    both: &[(&Paired, &Paired)],
    dimensions: usize,
) -> Comparison {
    let tokens = a.1.tokens.or(b.1.tokens);
    let acted: Vec<_> =
        both.iter().filter_map(|(x, y)| Some((*x, x.prediction()?, *y, y.prediction()?))).collect();
    let alone =
        |this: fn(&(&Paired, &Paired)) -> bool| both.iter().filter(|pair| this(pair)).count();
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
    let dimension = |(i, name): (usize, String)| {
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
    };
    Comparison {
        a: a.0.to_owned(),
        b: b.0.to_owned(),
        policy_a: a.1.settings.policy.clone(),
        policy_b: b.1.settings.policy.clone(),
        frames: acted.len(),
        alone: (
            alone(|(x, y)| x.prediction().is_some() && y.prediction().is_none()),
            alone(|(x, y)| x.prediction().is_none() && y.prediction().is_some()),
        ),
        token_agreement: mean(&same),
        action_agreement: mean(&whole),
        bin_distance: mean(&bins),
        dimensions: dimension_names(dimensions).into_iter().enumerate().map(dimension).collect(),
        error: Difference::of(&errors),
        latency_ms: Difference::of(&times),
        furthest,
    }
}

fn page(comparison: &Comparison, report: &Report, both: &[(&Paired, &Paired)]) -> Markup {
    let percent = |value: Option<f64>| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
    };
    let policy = |name: &str, path: &Path, policy: &PolicySettings| {
        html! { tr { td { (name) } td { (path.display()) } td { (policy.checkpoint.display()) } td { (policy.device) } td { (policy.precision) } td { (policy.decode) } } }
    };
    frame(
        "OpenVLA comparison",
        html! {
            h1 { "Comparison on " (comparison.frames) " frames" }
            table {
                tr { th { "" } th { "evaluation" } th { "checkpoint" } th { "device" } th { "precision" } th { "decode" } }
                (policy("A", &comparison.a, &comparison.policy_a)) (policy("B", &comparison.b, &comparison.policy_b))
            }
            div.tiles {
                @for (name, value) in [
                    ("same tokens", percent(comparison.token_agreement)), ("same actions", percent(comparison.action_agreement)),
                    ("bins apart, mean", number(comparison.bin_distance)),
                    ("action only in A / B", format!("{} / {}", comparison.alone.0, comparison.alone.1)),
                ] { div.tile { b { (value) } span { (name) } } }
            }
            h2 { "Paired differences, B minus A; lower is better" }
            div.wide { table {
                tr { th { "" } th { "n" } th { "A" } th { "B" } th { "difference" } th { "95 % interval" } th { "A better" } th { "B better" } th { "equal" } }
                (difference("normalized error", comparison.error.as_ref())) (difference("ms per inference", comparison.latency_ms.as_ref()))
                @for d in &comparison.dimensions { (difference(&format!("|error| of {}", d.name), d.error.as_ref())) }
            } }
            p.muted { "The interval takes frames as independent, which neighbouring frames of an \
                episode are not quite." }
            h2 { "A against B" }
            table {
                tr { th { "dimension" } th { "same tokens" } th { "mean difference" } th { "largest difference" } }
                @for d in &comparison.dimensions { tr { td { (d.name) } td { (percent(d.token_agreement)) } td { (number(d.difference)) } td { (number(d.difference_max)) } } }
            }
            h2 { "Frames that differ most" }
            @for (bag, number, difference) in &comparison.furthest {
                @if let Some((x, y)) = both.iter().find(|(x, _)| x.step.bag == *bag && x.step.frame == *number) { (furthest(comparison, report, x, y, *difference)) }
            }
        },
    )
}

fn difference(name: &str, difference: Option<&Difference>) -> Markup {
    html! { @if let Some(d) = difference {
        tr { td { (name) } td { (d.n) } td { (number(Some(d.mean_a))) } td { (number(Some(d.mean_b))) } td { (number(Some(d.mean))) }
            td { @if let Some((low, high)) = d.interval { (number(Some(low))) " to " (number(Some(high))) } @else { "-" } }
            td { (d.better.0) } td { (d.better.1) } td { (d.better.2) } }
    } }
}

fn furthest(
    comparison: &Comparison,
    report: &Report,
    x: &Paired,
    y: &Paired,
    apart: f64,
) -> Markup {
    let name = gallery::file(x.step.bag, x.step.frame);
    let picture = std::fs::read(comparison.a.join(gallery::FOLDER).join(name)).ok();
    let bag = report
        .settings
        .bags
        .get(x.step.bag)
        .map(|bag| bag.display().to_string())
        .unwrap_or_default();
    html! {
        div.step {
            div { @if let Some(jpeg) = picture { img src=(data("image/jpeg", &jpeg)) alt=(format!("frame {}", x.step.frame)); } }
            div {
                p { b { "frame " (x.step.frame) } " of " (bag) ", " (number(Some(apart))) " apart (normalized)" }
                p { "\u{201c}" (x.step.instruction) "\u{201d}" }
                @if let (Some(p), Some(q)) = (x.prediction(), y.prediction()) {
                    table {
                        tr { th { "" } th { "A" } th { "B" } th { "recorded" } th { "token A" } th { "token B" } }
                        @for (i, name) in dimension_names(p.action.len()).iter().enumerate() {
                            tr { td { (name) } td { (number(p.action.get(i).copied())) } td { (number(q.action.get(i).copied())) }
                                td { (number(x.recorded.as_ref().and_then(|recorded| recorded.action.get(i).copied().flatten()))) }
                                td { @if let Some(id) = p.token_ids.get(i) { (id) } } td.wrong[p.token_ids.get(i) != q.token_ids.get(i)] { @if let Some(id) = q.token_ids.get(i) { (id) } } }
                        }
                    }
                }
            }
        }
    }
}
