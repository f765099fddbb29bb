//! `limits.html`, its curves, and the section of a report in the same folder.

use std::path::Path;

use maud::{Markup, html};

use super::control_replay::Moment;
use super::text::rows;
use super::{FILE, LimitsReport, Sums};
use crate::html::{data, frame, number};
use crate::plots::{Plot, motion};
use crate::{EvalError, Percentiles};

/// Most points of a curve; beyond them every second one is dropped, again and again.
const POINTS: usize = 4000;
/// Bags that the table lists.
const EPISODES: usize = 500;

/// Asked and commanded velocities over time.
#[derive(Default)]
pub struct Curve {
    points: Vec<(f64, [f64; 6], [f64; 6])>,
    stride: u64,
    seen: u64,
}

impl Curve {
    pub fn take(&mut self, moment: Moment<'_>) {
        let stride = self.stride.max(1);
        if self.seen.is_multiple_of(stride) {
            let six = |twist: vla_control::Twist| {
                let ([x, y, z], [r, p, w]) = (twist.linear, twist.angular);
                [x, y, z, r, p, w]
            };
            self.points.push((moment.time_s, six(moment.desired), six(moment.commanded)));
        }
        self.seen += 1;
        if self.points.len() > POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride = stride * 2;
        }
    }

    /// `None` when nothing was replayed.
    pub fn draw(&self, index: usize, bag: &Path) -> Result<Option<Plot>, EvalError> {
        if self.points.is_empty() {
            return Ok(None);
        }
        let caption = format!(
            "{}: velocities asked for and commanded, by second; m/s and rad/s",
            bag.display()
        );
        motion(&format!("limits_{index}.png"), &caption, &self.points).map(Some)
    }
}

/// The whole page.
pub fn page(report: &LimitsReport, plots: &[Plot]) -> String {
    frame(
        "Recorded actions within limits",
        html! {
            h1 { "Recorded actions within the limits of " (report.robot) }
            p.muted { "actions " code { (report.settings.action_topic) } ", policy file " (report.policy_file) ", version " (report.version) }
            @for line in &report.incomplete { div.bad { b { "Incomplete: " } (line) } }
            @for warning in &report.warnings { div.note { (warning) } }
            (tables(report))
            h2 { "Episodes" }
            (episodes(report))
            h2 { "Plots" }
            @for plot in plots { figure id=(plot.file) { img src=(data("image/png", &plot.png)) alt=(plot.caption); figcaption { (plot.caption) } } }
        },
    )
    .into_string()
}

/// What the evaluation's report shows of an `eval limits` run on the same bags in the same folder.
pub fn section(out: &Path, bags: &[std::path::PathBuf]) -> Option<Markup> {
    if !out.join(FILE).exists() {
        return None;
    }
    let report = LimitsReport::read(out).ok().filter(|report| report.settings.bags == bags)?;
    Some(html! {
        h2 { "Recorded actions within the limits of " (report.robot) }
        (tables(&report))
        p.muted { a href="limits.html" { "limits.html" } " has the curves." }
    })
}

fn tables(report: &LimitsReport) -> Markup {
    let sums = &report.overall;
    let limits = &report.limits;
    let value =
        |asked: Option<&Percentiles>, pick: fn(&Percentiles) -> f64| number(asked.map(pick));
    html! {
        div.tiles { @for (name, value) in tiles(sums) { div.tile { b { (value) } span { (name) } } } }
        div.wide { table {
            tr { th { "" } th { "asked p50" } th { "asked p95" } th { "asked p99" } th { "asked max" } th { "limit" } th { "commanded max" } }
            @for (name, unit, motion, limit) in [("linear", "m", &sums.linear, &limits.linear), ("angular", "rad", &sums.angular, &limits.angular)] {
                @for (quantity, asked, limit, commanded) in rows(motion, limit) {
                    tr { td { (name) " " (quantity.0) ", " (unit) "/" (quantity.1) }
                        td { (value(asked, |p| p.p50)) } td { (value(asked, |p| p.p95)) } td { (value(asked, |p| p.p99)) }
                        td.wrong[asked.is_some_and(|asked| asked.max > limit)] { (value(asked, |p| p.max)) }
                        td { (number(Some(limit))) } td { (number(Some(commanded))) } }
                }
            }
        } }
        div.wide { table {
            tr { th { "dimension, per second" } th { "asked max" } th { "commanded max" } th { "actions clipped" } th { "share" } }
            @for d in &sums.dimensions {
                tr { td { (d.name) } td { (number(Some(d.asked_peak))) } td { (number(Some(d.commanded_peak))) } td { (d.clipped) } td { (format!("{:.2} %", d.clipped_share * 100.0)) } }
            }
        } }
        @if sums.interventions.is_empty() { p { "Control changed nothing." } }
        @else { table {
            tr { th { "intervention" } th { "commands" } th { "actions" } }
            @for count in &sums.interventions { tr { td { (count.name) } td { (count.commands) } td { (count.actions) } } }
        } }
        table {
            tr { th { "way" } th { "asked" } th { "commanded" } th { "apart, max" } th { "apart, end" } }
            @for (name, motion) in [("translation, m", &sums.linear), ("rotation, rad", &sums.angular)] {
                tr { td { (name) } td { (number(Some(motion.path_asked))) } td { (number(Some(motion.path_commanded))) } td { (number(Some(motion.offset_max))) } td { (number(Some(motion.offset_end))) } }
            }
        }
        @if let Some(p) = &sums.positions {
            p { (p.n) " poses, x " (number(Some(p.min[0]))) " to " (number(Some(p.max[0]))) ", y " (number(Some(p.min[1]))) " to " (number(Some(p.max[1])))
                ", z " (number(Some(p.min[2]))) " to " (number(Some(p.max[2]))) " m; " (p.outside) " outside the workspace." }
        }
    }
}

fn tiles(sums: &Sums) -> [(&'static str, String); 6] {
    let clipped = sums.dimensions.iter().map(|d| d.clipped_share).fold(0.0, f64::max);
    [
        ("actions", sums.actions.to_string()),
        ("seconds", format!("{:.1}", sums.seconds)),
        ("clipped, worst dimension", format!("{:.2} %", clipped * 100.0)),
        ("translation apart, m", number(Some(sums.linear.offset_max))),
        ("rotation apart, rad", number(Some(sums.angular.offset_max))),
        (
            "gripper changes asked, commanded",
            format!("{}, {}", sums.gripper.asked, sums.gripper.commanded),
        ),
    ]
}

fn episodes(report: &LimitsReport) -> Markup {
    html! {
        div.wide { table {
            tr { th { "bag" } th { "actions" } th { "seconds" } th { "pauses" } th { "clipped, worst dimension" } th { "m apart" } th { "rad apart" } }
            @for (i, e) in report.episodes.iter().enumerate().take(EPISODES) {
                @let clipped = e.sums.dimensions.iter().map(|d| d.clipped_share).fold(0.0, f64::max);
                tr { td { a href=(format!("#limits_{i}.png")) { (e.bag.display()) } } td { (e.sums.actions) } td { (format!("{:.1}", e.sums.seconds)) } td { (e.sums.pauses) }
                    td { (format!("{:.2} %", clipped * 100.0)) } td { (number(Some(e.sums.linear.offset_max))) } td { (number(Some(e.sums.angular.offset_max))) } }
            }
        } }
        @if report.episodes.len() > EPISODES { p.muted { "and " (report.episodes.len() - EPISODES) " more in " (FILE) } }
    }
}
