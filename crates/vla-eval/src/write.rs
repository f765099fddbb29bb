//! Writes the output folder of an evaluation.

use std::path::Path;

use super::files::write_file;
use super::limits::LimitsReport;
use super::report::Report;
use super::step::Paired;
use super::{EvalError, gallery, html, plots, table};

/// Episodes whose curves are plotted; the tables list the others too.
const PLOTTED_EPISODES: usize = 50;

/// Writes `actions.csv`, the plots, the images of the worst frames, `report.html` and, last,
/// `report.json`.
pub fn write_all(out: &Path, report: &Report, pairs: &[Paired]) -> Result<(), EvalError> {
    std::fs::create_dir_all(out).map_err(EvalError::io("create", out))?;
    table::write(out, pairs, report.settings.policy.action_dim)?;
    let plots = plots::all(report, pairs, PLOTTED_EPISODES)?;
    for plot in &plots {
        write_file(&out.join(&plot.file), &plot.png)?;
    }
    gallery::collect(out, &report.settings, pairs, &gallery::worst(pairs, gallery::SHOWN))?;
    let limits = LimitsReport::of_bags(out, &report.settings.bags);
    let page = html::page(report, pairs, &plots, limits.as_ref(), out);
    write_file(&out.join("report.html"), page.as_bytes())?;
    report.write(out)
}
