//! `compare.html`.

use std::path::Path;

use maud::{Markup, html};

use super::compare::{Comparison, Difference};
use super::gallery;
use super::markup::{self, data_url, header, number, percent};
use super::report::Report;
use super::settings::PolicySettings;
use super::step::{Paired, Prediction, dimension_names};

/// The page. `both`: the frames of A and B; `report`: that of A.
pub fn page(comparison: &Comparison, report: &Report, both: &[(&Paired, &Paired)]) -> String {
    let only_in = format!("{} / {}", comparison.only_in.0, comparison.only_in.1);
    markup::page(
        "OpenVLA comparison",
        html! {
            h1 { "Comparison on " (comparison.frames) " frames" }
            div.wide { table {
                (header(&["", "evaluation", "checkpoint", "device", "precision", "decode"]))
                (policy("A", &comparison.a, &comparison.policy_a))
                (policy("B", &comparison.b, &comparison.policy_b))
            } }
            (markup::tiles([
                ("token agreement", percent(comparison.token_agreement)),
                ("action agreement", percent(comparison.action_agreement)),
                ("bin distance, mean", number(comparison.bin_distance)),
                ("action only in A / B", only_in),
            ]))
            h2 { "Paired differences, B minus A; lower is better" }
            (differences(comparison))
            p.muted { "The interval takes frames as independent; neighbouring frames of an \
                episode are correlated." }
            h2 { "A against B" }
            (dimensions(comparison))
            h2 { "Frames that differ most" }
            @for (bag, number, difference) in &comparison.furthest {
                @let same = |x: &Paired| x.step.bag == *bag && x.step.frame == *number;
                @if let Some((x, y)) = both.iter().find(|(x, _)| same(x)) {
                    (frame(comparison, report, x, y, *difference))
                }
            }
        },
    )
}

fn policy(name: &str, path: &Path, policy: &PolicySettings) -> Markup {
    html! {
        tr {
            td { (name) } td.path { (path.display()) } td.path { (policy.title()) }
            td { (policy.device) } td { (policy.precision) } td { (policy.decode) }
        }
    }
}

fn differences(comparison: &Comparison) -> Markup {
    html! {
        div.wide { table {
            (header(&[
                "", "n", "A", "B", "difference", "95 % interval", "A better", "B better", "equal",
            ]))
            (difference("normalized error", comparison.error.as_ref()))
            (difference("ms per inference", comparison.latency_ms.as_ref()))
            @for d in &comparison.dimensions {
                (difference(&format!("|error| of {}", d.name), d.error.as_ref()))
            }
        } }
    }
}

fn difference(name: &str, difference: Option<&Difference>) -> Markup {
    html! {
        @if let Some(d) = difference {
            tr {
                td { (name) } td { (d.n) }
                td { (number(Some(d.mean_a))) } td { (number(Some(d.mean_b))) }
                td { (number(Some(d.mean))) }
                td {
                    @if let Some((low, high)) = d.interval {
                        (number(Some(low))) " to " (number(Some(high)))
                    } @else { "-" }
                }
                td { (d.better.0) } td { (d.better.1) } td { (d.better.2) }
            }
        }
    }
}

fn dimensions(comparison: &Comparison) -> Markup {
    html! {
        div.wide { table {
            (header(&["dimension", "token agreement", "mean difference", "largest difference"]))
            @for d in &comparison.dimensions {
                tr {
                    td { (d.name) } td { (percent(d.token_agreement)) }
                    td { (number(d.difference)) } td { (number(d.difference_max)) }
                }
            }
        } }
    }
}

fn frame(
    comparison: &Comparison,
    report: &Report,
    x: &Paired,
    y: &Paired,
    difference: f64,
) -> Markup {
    let name = gallery::file(x.step.bag, x.step.frame);
    let image = std::fs::read(comparison.a.join(gallery::FOLDER).join(name)).ok();
    let bag = report.settings.bags.get(x.step.bag).map(|bag| bag.display().to_string());
    html! {
        div.step {
            div {
                @if let Some(jpeg) = image {
                    img src=(data_url("image/jpeg", &jpeg)) alt=(format!("frame {}", x.step.frame));
                }
            }
            div {
                p {
                    b { "frame " (x.step.frame) } " of " (bag.unwrap_or_default())
                    ", normalized difference " (number(Some(difference)))
                }
                p { "\u{201c}" (x.step.instruction) "\u{201d}" }
                @if let (Some(a), Some(b)) = (x.prediction(), y.prediction()) {
                    (actions(a, b, x))
                }
            }
        }
    }
}

/// Values and tokens of both predictions beside the recorded action.
fn actions(a: &Prediction, b: &Prediction, pair: &Paired) -> Markup {
    let recorded = |i: usize| pair.recorded.as_ref()?.action.get(i).copied().flatten();
    html! {
        div.wide { table {
            (header(&["", "A", "B", "recorded", "token A", "token B"]))
            @for (i, name) in dimension_names(a.action.len()).iter().enumerate() {
                @let (id_a, id_b) = (a.token_ids.get(i), b.token_ids.get(i));
                tr {
                    td { (name) }
                    td { (number(a.action.get(i).copied())) }
                    td { (number(b.action.get(i).copied())) }
                    td { (number(recorded(i))) }
                    td { @if let Some(id) = id_a { (id) } }
                    td.wrong[id_a != id_b] { @if let Some(id) = id_b { (id) } }
                }
            }
        } }
    }
}
