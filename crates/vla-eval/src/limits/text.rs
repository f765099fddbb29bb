//! The report as text for a terminal.

use super::report::{Bounds, LimitsReport};
use super::summary::Motion;
use crate::Percentiles;

/// The report as text.
pub fn lines(report: &LimitsReport) -> Vec<String> {
    let summary = &report.overall;
    let mut lines = vec![format!(
        "{} actions at {} Hz of {} bags, {:.1} s, through the limits of {} at {} commands/s",
        summary.actions,
        report.policy_hz,
        report.episodes.len(),
        summary.seconds,
        report.robot,
        report.command_hz
    )];
    lines.push(format!(
        "{:<28} {:>11} {:>11} {:>10} {:>10}",
        "", "desired p95", "desired max", "limit", "commanded"
    ));
    for (name, unit, motion, limit) in [
        ("linear", "m", &summary.linear, &report.limits.linear),
        ("angular", "rad", &summary.angular, &report.limits.angular),
    ] {
        for (quantity, desired, limit, commanded) in rows(motion, limit) {
            let of = |pick: fn(&Percentiles) -> f64| {
                desired.map_or_else(|| "-".to_owned(), |desired| format!("{:.4}", pick(desired)))
            };
            let label = format!("{name} {} {unit}/{}", quantity.0, quantity.1);
            lines.push(format!(
                "{label:<28} {:>11} {:>11} {limit:>10.4} {commanded:>10.4}",
                of(|p| p.p95),
                of(|p| p.max)
            ));
        }
    }
    lines.push(format!(
        "{:<22} {:>11} {:>10} {:>10}",
        "dimension, per second", "desired max", "commanded", "clipped"
    ));
    for d in &summary.dimensions {
        lines.push(format!(
            "{:<22} {:>11.4} {:>10.4} {:>8.2} %",
            d.name,
            d.desired_max,
            d.commanded_max,
            d.clipped_share * 100.0
        ));
    }
    lines.push(format!("{:<22} {:>10} {:>10}", "intervention", "commands", "actions"));
    for count in &summary.interventions {
        lines.push(format!("{:<22} {:>10} {:>10}", count.name, count.commands, count.actions));
    }
    if summary.interventions.is_empty() {
        lines.push("none".to_owned());
    }
    for (name, unit, motion) in
        [("linear", "m", &summary.linear), ("angular", "rad", &summary.angular)]
    {
        lines.push(format!(
            "{name} path: desired {:.4} {unit}, commanded {:.4} {unit}; deviation at most {:.4} \
            {unit}, {:.4} {unit} at the end",
            motion.desired_path, motion.commanded_path, motion.deviation_max, motion.deviation_end
        ));
    }
    if summary.gripper.desired > 0 {
        lines.push(format!(
            "gripper: {} changes desired, {} commanded",
            summary.gripper.desired, summary.gripper.commanded
        ));
    }
    if let Some(p) = &summary.positions {
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

/// Quantity with its unit of time, desired values, limit, largest command.
pub(super) type Row<'a> = ((&'static str, &'static str), Option<&'a Percentiles>, f64, f64);

/// Velocity, acceleration and jerk.
pub(super) fn rows<'a>(motion: &'a Motion, limit: &Bounds) -> [Row<'a>; 3] {
    [
        (
            ("velocity", "s"),
            motion.desired_velocity.as_ref(),
            limit.velocity,
            motion.commanded.velocity,
        ),
        (
            ("acceleration", "s2"),
            motion.desired_acceleration.as_ref(),
            limit.acceleration,
            motion.commanded.acceleration,
        ),
        (("jerk", "s3"), motion.desired_jerk.as_ref(), limit.jerk, motion.commanded.jerk),
    ]
}
