//! `limits.html` with its curves, and the section of `report.html` about the limits.

use std::path::Path;

use maud::{Markup, html};

use super::control_replay::CommandPeriod;
use super::measure::components;
use super::report::{FILE, LimitsReport};
use super::summary::{LimitsSummary, Positions};
use super::text::rows;
use crate::markup::{self, figures, header, number, percent};
use crate::plots::{MotionPoint, Plot, motion};
use crate::{EvalError, Percentiles};

/// Most points of a curve; above it every second one is dropped.
const POINTS: usize = 4000;
/// Episodes that the table lists.
const EPISODES: usize = 500;

/// Desired and commanded velocities over time.
#[derive(Default)]
pub struct Curve {
    points: Vec<MotionPoint>,
    /// One of so many command periods is kept; doubled when the curve is full.
    stride: u64,
    seen: u64,
}

impl Curve {
    pub fn take(&mut self, period: CommandPeriod<'_>) {
        let stride = self.stride.max(1);
        if self.seen.is_multiple_of(stride) {
            self.points.push(MotionPoint {
                time_s: period.time_s,
                desired: components(period.desired),
                commanded: components(period.commanded),
            });
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
            "{}: desired and commanded velocities over seconds; m/s and rad/s",
            bag.display()
        );
        motion(&format!("limits_{index}.png"), &caption, &self.points).map(Some)
    }
}

/// The whole page.
pub fn page(report: &LimitsReport, plots: &[Plot]) -> String {
    markup::page(
        "Recorded actions within limits",
        html! {
            h1 { "Recorded actions within the limits of " (report.robot) }
            p.muted {
                "actions " code { (report.settings.action_topic) }
                ", policy file " (report.policy) ", version " (report.version)
            }
            (markup::notes(&report.incomplete, &report.warnings))
            (tables(report))
            h2 { "Episodes" }
            (episodes(report))
            h2 { "Plots" }
            (figures(plots))
        },
    )
}

/// The section of an evaluation's page about the same bags.
pub fn section(report: &LimitsReport) -> Markup {
    html! {
        h2 { "Recorded actions within the limits of " (report.robot) }
        (tables(report))
        p.muted { "Curves: " a href="limits.html" { "limits.html" } }
    }
}

fn tables(report: &LimitsReport) -> Markup {
    let summary = &report.overall;
    html! {
        (tiles(summary))
        (limits(report))
        (dimensions(summary))
        @if summary.interventions.is_empty() {
            p { "The limits changed nothing." }
        } @else {
            div.wide { table {
                (header(&["intervention", "commands", "actions"]))
                @for count in &summary.interventions {
                    tr { td { (count.name) } td { (count.commands) } td { (count.actions) } }
                }
            } }
        }
        (paths(summary))
        @if let Some(positions) = &summary.positions { (workspace(positions)) }
    }
}

fn tiles(summary: &LimitsSummary) -> Markup {
    let gripper = &summary.gripper;
    markup::tiles([
        ("actions", summary.actions.to_string()),
        ("seconds", format!("{:.1}", summary.seconds)),
        ("clipped, worst dimension", percent(worst_clipped(summary))),
        ("translation deviation, m", number(Some(summary.linear.deviation_max))),
        ("rotation deviation, rad", number(Some(summary.angular.deviation_max))),
        (
            "gripper changes desired, commanded",
            format!("{}, {}", gripper.desired, gripper.commanded),
        ),
    ])
}

fn worst_clipped(summary: &LimitsSummary) -> Option<f64> {
    summary.dimensions.iter().map(|d| d.clipped_share).reduce(f64::max)
}

fn limits(report: &LimitsReport) -> Markup {
    let (summary, limits) = (&report.overall, &report.limits);
    let value =
        |desired: Option<&Percentiles>, pick: fn(&Percentiles) -> f64| number(desired.map(pick));
    html! {
        div.wide { table {
            (header(&[
                "", "desired p50", "desired p95", "desired p99", "desired max", "limit",
                "commanded max",
            ]))
            @for (name, unit, motion, limit) in [
                ("linear", "m", &summary.linear, &limits.linear),
                ("angular", "rad", &summary.angular, &limits.angular),
            ] {
                @for (quantity, desired, limit, commanded) in rows(motion, limit) {
                    tr {
                        td { (name) " " (quantity.0) ", " (unit) "/" (quantity.1) }
                        td { (value(desired, |p| p.p50)) }
                        td { (value(desired, |p| p.p95)) }
                        td { (value(desired, |p| p.p99)) }
                        td.wrong[desired.is_some_and(|desired| desired.max > limit)] {
                            (value(desired, |p| p.max))
                        }
                        td { (number(Some(limit))) }
                        td { (number(Some(commanded))) }
                    }
                }
            }
        } }
    }
}

fn dimensions(summary: &LimitsSummary) -> Markup {
    html! {
        div.wide { table {
            (header(&[
                "dimension, per second", "desired max", "commanded max", "actions clipped", "share",
            ]))
            @for d in &summary.dimensions {
                tr {
                    td { (d.name) }
                    td { (number(Some(d.desired_max))) } td { (number(Some(d.commanded_max))) }
                    td { (d.clipped) } td { (percent(Some(d.clipped_share))) }
                }
            }
        } }
    }
}

fn paths(summary: &LimitsSummary) -> Markup {
    html! {
        div.wide { table {
            (header(&[
                "path", "desired", "commanded", "deviation, max", "deviation at the end",
            ]))
            @for (name, motion) in
                [("translation, m", &summary.linear), ("rotation, rad", &summary.angular)]
            {
                tr {
                    td { (name) }
                    @for value in [
                        motion.desired_path, motion.commanded_path, motion.deviation_max,
                        motion.deviation_end,
                    ] {
                        td { (number(Some(value))) }
                    }
                }
            }
        } }
    }
}

fn workspace(p: &Positions) -> Markup {
    let range = |i: usize| format!("{} to {}", number(Some(p.min[i])), number(Some(p.max[i])));
    html! {
        p {
            (p.n) " poses, x " (range(0)) ", y " (range(1)) ", z " (range(2)) " m; "
            (p.outside) " outside the workspace."
        }
    }
}

fn episodes(report: &LimitsReport) -> Markup {
    html! {
        div.wide { table {
            (header(&[
                "bag", "actions", "seconds", "pauses", "clipped, worst dimension", "deviation, m",
                "deviation, rad",
            ]))
            @for (i, e) in report.episodes.iter().enumerate().take(EPISODES) {
                @let summary = &e.summary;
                tr {
                    td.path { a href=(format!("#limits_{i}.png")) { (e.bag.display()) } }
                    td { (summary.actions) } td { (format!("{:.1}", summary.seconds)) }
                    td { (summary.pauses) } td { (percent(worst_clipped(summary))) }
                    td { (number(Some(summary.linear.deviation_max))) }
                    td { (number(Some(summary.angular.deviation_max))) }
                }
            }
        } }
        @if report.episodes.len() > EPISODES {
            p.muted { "and " (report.episodes.len() - EPISODES) " more in " (FILE) }
        }
    }
}
