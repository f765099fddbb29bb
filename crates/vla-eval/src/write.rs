//! Everything that an evaluation leaves in its output folder.

use std::path::Path;

use super::report::{Report, write_whole};
use super::step::Paired;
use super::{EvalError, gallery, html, plots, table};

/// Episodes whose curves are drawn; the others stand in the tables.
const CURVES: usize = 50;

/// Writes `actions.csv`, the plots, the worst frames, `report.html` and, last, `report.json`.
pub fn write_all(out: &Path, report: &Report, pairs: &[Paired]) -> Result<(), EvalError> {
    std::fs::create_dir_all(out).map_err(EvalError::io("create", out))?;
    table::write(out, pairs, report.settings.policy.action_dim)?;
    let drawn = plots::all(report, pairs, CURVES)?;
    for plot in &drawn {
        write_whole(&out.join(&plot.file), &plot.png)?;
    }
    gallery::collect(out, &report.settings, pairs, &gallery::worst(pairs, gallery::SHOWN))?;
    let page = html::page(report, pairs, &drawn, out);
    write_whole(&out.join("report.html"), page.as_bytes())?;
    report.write(out)
}
