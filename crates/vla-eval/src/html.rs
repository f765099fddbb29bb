//! `report.html`: one file with everything in it, that opens anywhere and loads nothing.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::metrics::Metrics;
use super::plots::Plot;
use super::report::Report;
use super::step::{Outcome, Paired, dimension_names};
use super::{gallery, limits};

const STYLE: &str = "
body{font:15px/1.45 system-ui,'Segoe UI',Roboto,sans-serif;color:#222;max-width:1060px;margin:24px auto;padding:0 16px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:19px;margin:34px 0 8px;border-bottom:1px solid #ddd;padding-bottom:3px}
table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
th{font-weight:600;background:#f6f6f6}th:first-child,td:first-child{text-align:left}img{max-width:100%;display:block}
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}.tile{background:#f6f7f9;border-radius:6px;padding:10px 16px;min-width:120px}
.tile b{display:block;font-size:22px}.tile span{color:#666;font-size:13px}.bad{background:#fdecea;border-left:4px solid #c0392b;padding:8px 12px;margin:8px 0}
.note{background:#fff8e1;border-left:4px solid #e0a800;padding:6px 12px;margin:6px 0}.step{display:grid;grid-template-columns:minmax(0,330px) minmax(0,1fr);gap:18px;margin:18px 0;padding-top:14px;border-top:1px solid #eee}
.step td,.step th{padding:1px 8px;font-size:13px}.muted{color:#777;font-size:13px}.wrong{color:#c0392b}figure{margin:14px 0}figcaption{color:#666;font-size:13px}
code{background:#f3f3f3;padding:1px 4px;border-radius:3px}.wide{overflow-x:auto}
";

/// How many episodes the table lists.
const EPISODES: usize = 500;

/// Writes a page. `out`: where the images of [`gallery`] are.
pub fn page(report: &Report, pairs: &[Paired], plots: &[Plot], out: &Path) -> String {
    let settings = &report.settings;
    let policy = &settings.policy;
    let markup = frame(
        "OpenVLA evaluation",
        html! {
            h1 { "Evaluation of " (policy.checkpoint.display()) }
            p.muted {
                (policy.device) ", precision " (policy.precision) ", decode " (policy.decode) ", statistics " (policy.unnorm_key)
                ", images " code { (settings.image_topic) }
                @if let Some(topic) = &settings.action_topic { ", actions " code { (topic) } }
                ", version " (report.version)
            }
            @for line in &report.incomplete { div.bad { b { "Incomplete: " } (line) } }
            (tiles(report))
            @for warning in &report.warnings { div.note { (warning) } }
            h2 { "Dimensions" }
            @if report.overall.frames == 0 { p.muted { "No frame has a recorded action beside it, \
                so there is no error to show." } }
            @else { (dimensions(&report.overall)) }
            @if let Some(gripper) = &report.overall.gripper {
                p { "Gripper as open above " (gripper.threshold) ": F1 " (number(gripper.f1)) ", precision " (number(gripper.precision))
                    ", recall " (number(gripper.recall)) "; " (gripper.true_open) " right openings, " (gripper.false_open)
                    " wrong ones, " (gripper.false_closed) " missed, " (gripper.true_closed) " right closings." }
            }
            h2 { "Time" }
            (latency(report))
            @if !report.failures.is_empty() {
                h2 { "Answers that were no action" }
                table { tr { th { "reason" } th { "frames" } }
                    @for (reason, count) in &report.failures { tr { td { (reason) } td { (count) } } } }
            }
            @if let Some(section) = limits::section(out, &settings.bags) { (section) }
            h2 { "Episodes" }
            (episodes(report))
            h2 { "Plots" }
            @for plot in plots { figure id=(plot.file) { img src=(data("image/png", &plot.png)) alt=(plot.caption); figcaption { (plot.caption) } } }
            h2 { "Worst steps" }
            p.muted { "Failures first, then by normalized error, then by the smallest margin \
                between the two best tokens." }
            @for place in gallery::worst(pairs, gallery::SHOWN) { (step(&pairs[place], report, out)) }
        },
    );
    markup.into_string()
}

/// The page around a body.
pub fn frame(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

/// A file inside the page.
pub fn data(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes))
}

/// A number or a dash.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) if value.abs() >= 1e-3 && value.abs() < 1e5 => format!("{value:.4}"),
        Some(value) => format!("{value:.2e}"),
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
}

fn tiles(report: &Report) -> Markup {
    let total = report.latency_ms.get("total");
    let values = [
        ("frames evaluated", report.frames.evaluated.to_string()),
        ("with a recorded action", report.frames.matched.to_string()),
        ("exact tokens", percent(report.overall.token_accuracy)),
        ("bins off, mean", number(report.overall.bin_distance)),
        ("normalized error", number(report.overall.normalized_mae)),
        ("gripper F1", number(report.overall.gripper.as_ref().and_then(|gripper| gripper.f1))),
        (
            "ms per inference, median",
            total.map_or_else(|| "-".to_owned(), |total| format!("{:.1}", total.p50)),
        ),
        ("failures", report.frames.failed.to_string()),
    ];
    html! { div.tiles { @for (name, value) in values { div.tile { b { (value) } span { (name) } } } } }
}

fn dimensions(metrics: &Metrics) -> Markup {
    html! {
        div.wide { table {
            tr { th { "dimension" } th { "n" } th { "MAE" } th { "RMSE" } th { "bias" } th { "max" } th { "normalized MAE" }
                th { "correlation" } th { "exact tokens" } th { "bins off" } th { "bins off, max" } }
            @for d in &metrics.dimensions {
                tr { td { (d.name) } td { (d.n) } td { (number(d.mae)) } td { (number(d.rmse)) } td { (number(d.bias)) } td { (number(d.max)) }
                    td { (number(d.normalized_mae)) } td { (number(d.correlation)) } td { (percent(d.token_accuracy)) }
                    td { (number(d.bin_distance)) } td { @match d.bin_distance_max { Some(bins) => (bins), None => "-" } } }
            }
        } }
        p.muted { "MAE, RMSE, bias and max in physical units per policy period: metres, radians, \
            gripper opening." }
    }
}

fn latency(report: &Report) -> Markup {
    html! {
        table {
            tr { th { "stage, ms" } th { "n" } th { "mean" } th { "p50" } th { "p90" } th { "p95" } th { "p99" } th { "max" } }
            @for (name, p) in in_order(report) {
                tr { td { (name) } td { (p.n) } @for value in [p.mean, p.p50, p.p90, p.p95, p.p99, p.max] { td { (format!("{value:.2}")) } } }
            }
        }
    }
}

/// Stages in the order in which they run, their sum last.
fn in_order(report: &Report) -> Vec<(&String, &super::Percentiles)> {
    const ORDER: [&str; 5] = ["preprocess", "vision", "projector", "prefill", "decode"];
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

fn episodes(report: &Report) -> Markup {
    html! {
        div.wide { table {
            tr { th { "bag" } th { "images" } th { "evaluated" } th { "matched" } th { "skipped" } th { "failed" } th { "exact tokens" }
                th { "bins off" } th { "normalized MAE" } th { "gripper F1" } }
            @for (i, e) in report.episodes.iter().enumerate().take(EPISODES) {
                tr { td { a href=(format!("#curves_{i}.png")) { (e.bag.display()) } } td { (e.frames.images) } td { (e.frames.evaluated) } td { (e.frames.matched) }
                    td { (e.frames.skipped.values().sum::<u64>()) } td { (e.frames.failed) } td { (percent(e.metrics.token_accuracy)) }
                    td { (number(e.metrics.bin_distance)) } td { (number(e.metrics.normalized_mae)) }
                    td { (number(e.metrics.gripper.as_ref().and_then(|gripper| gripper.f1))) } }
            }
        } }
        @if report.episodes.len() > EPISODES { p.muted { "and " (report.episodes.len() - EPISODES) " more in report.json" } }
    }
}

fn step(pair: &Paired, report: &Report, out: &Path) -> Markup {
    let step = &pair.step;
    let picture =
        std::fs::read(out.join(gallery::FOLDER).join(gallery::file(step.bag, step.frame))).ok();
    let bag =
        report.settings.bags.get(step.bag).map(|bag| bag.display().to_string()).unwrap_or_default();
    html! {
        div.step {
            div {
                @match picture.filter(|bytes| !bytes.is_empty()) {
                    Some(jpeg) => img src=(data("image/jpeg", &jpeg)) alt=(format!("frame {}", step.frame));,
                    None => p.muted { "the image could not be read again" },
                }
            }
            div {
                p { b { "frame " (step.frame) } " of " (bag) @if let Some(error) = pair.error() { ", normalized error " (number(Some(error))) } }
                p { "\u{201c}" (step.instruction) "\u{201d} " span.muted { (step.size.0) "x" (step.size.1) ", log time " (step.log_time) " ns" } }
                @match &step.outcome {
                    Outcome::Failure(reason) => div.bad { (reason) },
                    Outcome::Action(prediction) => table {
                        tr { th { "" } th { "predicted" } th { "recorded" } th { "token" } th { "recorded token" } th { "margin" } }
                        @for (i, name) in dimension_names(prediction.action.len()).iter().enumerate() {
                            @let recorded = pair.recorded.as_ref();
                            @let (id, was) = (prediction.token_ids.get(i), recorded.and_then(|recorded| recorded.token_ids.get(i).copied().flatten()));
                            tr { td { (name) } td { (number(prediction.action.get(i).copied())) }
                                td { (number(recorded.and_then(|recorded| recorded.action.get(i).copied().flatten()))) }
                                td.wrong[id.is_some() && was.is_some() && id.copied() != was] { @if let Some(id) = id { (id) } }
                                td { @if let Some(was) = was { (was) } } td { @if let Some(margin) = prediction.margins.get(i) { (format!("{margin:.3}")) } } }
                        }
                    },
                }
            }
        }
    }
}
