//! The report in lines for a terminal.

use super::{Bounds, LimitsReport, Motion};
use crate::Percentiles;

/// The report as text.
pub fn lines(report: &LimitsReport) -> Vec<String> {
    let sums = &report.overall;
    let mut lines = vec![format!(
        "{} actions at {} Hz of {} bags, {:.1} s, through the limits of {} at {} commands/s",
        sums.actions,
        report.policy_hz,
        report.episodes.len(),
        sums.seconds,
        report.robot,
        report.command_hz
    )];
    lines.push(format!(
        "{:<28} {:>10} {:>10} {:>10} {:>10}",
        "", "asked p95", "asked max", "limit", "commanded"
    ));
    for (name, unit, motion, limit) in [
        ("linear", "m", &sums.linear, &report.limits.linear),
        ("angular", "rad", &sums.angular, &report.limits.angular),
    ] {
        for (quantity, asked, limit, commanded) in rows(motion, limit) {
            let of = |pick: fn(&Percentiles) -> f64| {
                asked.map_or_else(|| "-".to_owned(), |asked| format!("{:.4}", pick(asked)))
            };
            let label = format!("{name} {} {unit}/{}", quantity.0, quantity.1);
            lines.push(format!(
                "{label:<28} {:>10} {:>10} {limit:>10.4} {commanded:>10.4}",
                of(|p| p.p95),
                of(|p| p.max)
            ));
        }
    }
    lines.push(format!(
        "{:<22} {:>10} {:>10} {:>10}",
        "dimension, per second", "asked max", "commanded", "clipped"
    ));
    for d in &sums.dimensions {
        lines.push(format!(
            "{:<22} {:>10.4} {:>10.4} {:>8.2} %",
            d.name,
            d.asked_peak,
            d.commanded_peak,
            d.clipped_share * 100.0
        ));
    }
    lines.push(format!("{:<22} {:>10} {:>10}", "intervention", "commands", "actions"));
    for count in &sums.interventions {
        lines.push(format!("{:<22} {:>10} {:>10}", count.name, count.commands, count.actions));
    }
    if sums.interventions.is_empty() {
        lines.push("none".to_owned());
    }
    for (name, unit, motion) in [("linear", "m", &sums.linear), ("angular", "rad", &sums.angular)] {
        lines.push(format!(
            "{name} way: asked {:.4} {unit}, commanded {:.4} {unit}; at most {:.4} {unit} apart, \
            {:.4} {unit} at the end",
            motion.path_asked, motion.path_commanded, motion.offset_max, motion.offset_end
        ));
    }
    if sums.gripper.asked > 0 {
        lines.push(format!(
            "gripper: {} changes asked, {} commanded",
            sums.gripper.asked, sums.gripper.commanded
        ));
    }
    if let Some(p) = &sums.positions {
        let corner = |v: [f64; 3]| format!("{:.3} {:.3} {:.3}", v[0], v[1], v[2]);
        lines.push(format!(
            "end effector: {} poses from {} to {} m, {} outside the workspace",
            p.n,
            corner(p.min),
            corner(p.max),
            p.outside
        ));
    }
    lines
}

/// Quantity with its unit of time, what was asked, the limit, the largest command.
pub(super) type Row<'a> = ((&'static str, &'static str), Option<&'a Percentiles>, f64, f64);

/// Velocity, acceleration and jerk.
pub(super) fn rows<'a>(motion: &'a Motion, limit: &Bounds) -> [Row<'a>; 3] {
    [
        (
            ("velocity", "s"),
            motion.asked_velocity.as_ref(),
            limit.velocity,
            motion.commanded.velocity,
        ),
        (
            ("acceleration", "s2"),
            motion.asked_acceleration.as_ref(),
            limit.acceleration,
            motion.commanded.acceleration,
        ),
        (("jerk", "s3"), motion.asked_jerk.as_ref(), limit.jerk, motion.commanded.jerk),
    ]
}
