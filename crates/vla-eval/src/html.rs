//! `report.html`.

use std::path::Path;

use maud::{Markup, html};

use super::limits::{self, LimitsReport};
use super::markup::{self, data_url, figures, header, number, percent};
use super::metrics::{GripperMetrics, Metrics};
use super::plots::Plot;
use super::report::Report;
use super::step::{Outcome, Paired, Prediction, dimension_names};
use super::{Percentiles, gallery};

/// How many episodes the table lists.
const EPISODES: usize = 500;

/// The page. `limits`: result of `eval limits` on the same bags. `out`: the output folder, whose
/// [`gallery`] holds the images.
pub fn page(
    report: &Report,
    pairs: &[Paired],
    plots: &[Plot],
    limits: Option<&LimitsReport>,
    out: &Path,
) -> String {
    markup::page(
        "OpenVLA evaluation",
        html! {
            h1 { "Evaluation of " (report.settings.policy.title()) }
            (settings(report))
            (markup::notes(&report.incomplete, &[]))
            (tiles(report))
            (markup::notes(&[], &report.warnings))
            h2 { "Dimensions" }
            @if report.overall.frames == 0 {
                p.muted { "No frame has a recorded action, so no error can be computed." }
            } @else {
                (dimensions(&report.overall))
            }
            @if let Some(metrics) = &report.overall.gripper { (gripper(metrics)) }
            h2 { "Latency" }
            (latency(report))
            @if !report.failures.is_empty() { (failures(report)) }
            @if let Some(limits) = limits { (limits::section(limits)) }
            h2 { "Episodes" }
            (episodes(report))
            h2 { "Plots" }
            (figures(plots))
            h2 { "Worst frames" }
            p.muted { "Failures first, then by normalized error, then by the smallest logit \
                margin between the two best tokens." }
            @for place in gallery::worst(pairs, gallery::SHOWN) {
                (frame(&pairs[place], report, out))
            }
        },
    )
}

fn settings(report: &Report) -> Markup {
    let (settings, policy) = (&report.settings, &report.settings.policy);
    html! {
        p.muted {
            (policy.device) ", precision " (policy.precision) ", decode " (policy.decode)
            @if let Some(server) = policy.server.as_ref().filter(|it| !it.metadata.is_empty()) {
                ", the server's metadata: " (server.metadata)
            }
            ", image preparation " (policy.image_preparation)
            ", statistics " (policy.unnorm_key) ", images " code { (settings.image_topic) }
            @if let Some(topic) = &settings.action_topic { ", actions " code { (topic) } }
            ", version " (report.version)
        }
    }
}

fn tiles(report: &Report) -> Markup {
    let total = report.latency_ms.get("total");
    let f1 = report.overall.gripper.as_ref().and_then(|gripper| gripper.f1);
    let median = total.map_or_else(|| "-".to_owned(), |total| format!("{:.1}", total.p50));
    markup::tiles([
        ("frames evaluated", report.frames.evaluated.to_string()),
        ("with a recorded action", report.frames.matched.to_string()),
        ("token accuracy", percent(report.overall.token_accuracy)),
        ("bin distance, mean", number(report.overall.bin_distance)),
        ("normalized MAE", number(report.overall.normalized_mae)),
        ("gripper F1", number(f1)),
        ("ms per inference, median", median),
        ("failures", report.frames.failed.to_string()),
    ])
}

fn dimensions(metrics: &Metrics) -> Markup {
    html! {
        div.wide { table {
            (header(&[
                "dimension", "n", "MAE", "RMSE", "bias", "max", "normalized MAE", "correlation",
                "token accuracy", "bin distance", "bin distance, max",
            ]))
            @for d in &metrics.dimensions {
                tr {
                    td { (d.name) } td { (d.n) }
                    @for value in [d.mae, d.rmse, d.bias, d.max, d.normalized_mae, d.correlation] {
                        td { (number(value)) }
                    }
                    td { (percent(d.token_accuracy)) }
                    td { (number(d.bin_distance)) }
                    td { @match d.bin_distance_max { Some(bins) => (bins), None => "-" } }
                }
            }
        } }
        p.muted { "MAE, RMSE, bias and max in physical units per policy period: metres, radians, \
            gripper opening." }
    }
}

fn gripper(gripper: &GripperMetrics) -> Markup {
    html! {
        p {
            "Gripper, open above " (gripper.threshold) ": F1 " (number(gripper.f1))
            ", precision " (number(gripper.precision)) ", recall " (number(gripper.recall)) "; "
            (gripper.true_open) " true open, " (gripper.false_open) " false open, "
            (gripper.false_closed) " false closed, " (gripper.true_closed) " true closed."
        }
    }
}

fn latency(report: &Report) -> Markup {
    html! {
        div.wide { table {
            (header(&["stage, ms", "n", "mean", "p50", "p90", "p95", "p99", "max"]))
            @for (name, p) in stages(report) {
                tr {
                    td { (name) } td { (p.n) }
                    @for value in [p.mean, p.p50, p.p90, p.p95, p.p99, p.max] {
                        td { (format!("{value:.2}")) }
                    }
                }
            }
        } }
    }
}

/// Stages in the order in which they run, their sum last.
fn stages(report: &Report) -> Vec<(&String, &Percentiles)> {
    const ORDER: [&str; 10] = [
        "preprocess",
        "network",
        "server",
        "vision",
        "projector",
        "prefill",
        "prefix",
        "decode",
        "head",
        "denoise",
    ];
    let place = |name: &str| {
        ORDER
            .iter()
            .position(|known| *known == name)
            .unwrap_or(ORDER.len() + usize::from(name == "total"))
    };
    let mut stages: Vec<_> = report.latency_ms.iter().collect();
    stages.sort_by_key(|(name, _)| place(name));
    stages
}

fn failures(report: &Report) -> Markup {
    html! {
        h2 { "Failures" }
        div.wide { table {
            (header(&["reason", "frames"]))
            @for (reason, count) in &report.failures {
                tr { td.path { (reason) } td { (count) } }
            }
        } }
    }
}

fn episodes(report: &Report) -> Markup {
    html! {
        div.wide { table {
            (header(&[
                "bag", "images", "evaluated", "matched", "skipped", "failed", "token accuracy",
                "bin distance", "normalized MAE", "gripper F1",
            ]))
            @for (i, e) in report.episodes.iter().enumerate().take(EPISODES) {
                @let f1 = e.metrics.gripper.as_ref().and_then(|gripper| gripper.f1);
                tr {
                    td.path { a href=(format!("#curves_{i}.png")) { (e.bag.display()) } }
                    td { (e.frames.images) } td { (e.frames.evaluated) } td { (e.frames.matched) }
                    td { (e.frames.skipped.values().sum::<u64>()) } td { (e.frames.failed) }
                    td { (percent(e.metrics.token_accuracy)) }
                    td { (number(e.metrics.bin_distance)) }
                    td { (number(e.metrics.normalized_mae)) } td { (number(f1)) }
                }
            }
        } }
        @if report.episodes.len() > EPISODES {
            p.muted { "and " (report.episodes.len() - EPISODES) " more in report.json" }
        }
    }
}

fn frame(pair: &Paired, report: &Report, out: &Path) -> Markup {
    let step = &pair.step;
    let name = gallery::file(step.bag, step.frame);
    let image = std::fs::read(out.join(gallery::FOLDER).join(name)).ok();
    let bag = report.settings.bags.get(step.bag).map(|bag| bag.display().to_string());
    html! {
        div.step {
            div {
                @match image.filter(|bytes| !bytes.is_empty()) {
                    Some(jpeg) => {
                        img src=(data_url("image/jpeg", &jpeg))
                            alt=(format!("frame {}", step.frame));
                    },
                    None => p.muted { "no image: the bag could not be read again" },
                }
            }
            div {
                p {
                    b { "frame " (step.frame) } " of " (bag.unwrap_or_default())
                    @if let Some(error) = pair.error() {
                        ", normalized error " (number(Some(error)))
                    }
                }
                p {
                    "\u{201c}" (step.instruction) "\u{201d} "
                    span.muted {
                        (step.size.0) "x" (step.size.1) ", log time " (step.log_time) " ns"
                    }
                }
                @match &step.outcome {
                    Outcome::Failure(reason) => div.bad { (reason) },
                    Outcome::Action(prediction) => (action(prediction, pair)),
                }
            }
        }
    }
}

/// Predicted beside recorded values and tokens.
fn action(prediction: &Prediction, pair: &Paired) -> Markup {
    let recorded = pair.recorded.as_ref();
    let value = |i: usize| recorded.and_then(|recorded| recorded.action.get(i).copied().flatten());
    let token =
        |i: usize| recorded.and_then(|recorded| recorded.token_ids.get(i).copied().flatten());
    html! {
        div.wide { table {
            (header(&["", "predicted", "recorded", "token", "recorded token", "logit margin"]))
            @for (i, name) in dimension_names(prediction.action.len()).iter().enumerate() {
                @let (id, recorded_id) = (prediction.token_ids.get(i).copied(), token(i));
                tr {
                    td { (name) }
                    td { (number(prediction.action.get(i).copied())) }
                    td { (number(value(i))) }
                    td.wrong[id.is_some() && recorded_id.is_some() && id != recorded_id] {
                        @if let Some(id) = id { (id) }
                    }
                    td { @if let Some(id) = recorded_id { (id) } }
                    td {
                        @if let Some(margin) = prediction.logit_margins.get(i) {
                            (format!("{margin:.3}"))
                        }
                    }
                }
            }
        } }
    }
}
