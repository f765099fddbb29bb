//! Policies with action tokens.

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::Sensitivity;
use vla_inference::golden::{Kit, Sensitivity as Measured, Spread, sensitivity};
use vla_inference::policy::PolicyOptions;

type Row = super::Row<Measured>;

/// Measures the spread of actions, and fails when it is less than the reference's.
pub(super) fn run(options: &Sensitivity) -> Result<(), CliError> {
    let kit = Kit::open(&options.golden)?;
    let folder = options.checkpoint.folder_or(kit.checkpoint())?;
    let (reference, rows) = options.rows(|place| {
        let unnorm_key = kit.cases.first().and_then(|case| case.actions.keys().next().cloned());
        let given = PolicyOptions { unnorm_key, ..Default::default() };
        let mut policy = options.load(&folder, given, place)?;
        Ok(sensitivity(&kit, policy.as_mut(), options.inputs as usize)?)
    })?;
    let insensitive: Vec<String> = rows
        .iter()
        .filter(|row| !row.measured.like(reference.measured))
        .map(|row| format!("{} {}", row.device, row.precision))
        .collect();
    if options.json {
        show_json(&reference, &rows)?
    } else {
        show(&reference, &rows)?
    }
    super::result(&insensitive)
}

fn show(reference: &Row, rows: &[Row]) -> Result<(), CliError> {
    print(
        "device     precision      images: distinct  distance   instructions: distinct  distance",
    )?;
    for row in std::iter::once(reference).chain(rows) {
        let Measured { images, instructions } = row.measured;
        print(&format!(
            "{:<10} {:<12} {:>9} of {:<4} {:>9.2} {:>17} of {:<4} {:>9.2}",
            row.device,
            row.precision,
            images.distinct,
            images.inputs,
            images.distance,
            instructions.distinct,
            instructions.inputs,
            instructions.distance
        ))?;
    }
    print(
        "distinct: different actions among the inputs; distance: mean over pairs of actions, in \
        bins per dimension",
    )
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    reference: RowSummary<'a>,
    rows: Vec<RowSummary<'a>>,
}

#[derive(Serialize)]
struct RowSummary<'a> {
    device: &'a str,
    precision: &'a str,
    images: Spread,
    instructions: Spread,
    like_reference: bool,
}

impl<'a> RowSummary<'a> {
    fn of(row: &'a Row, reference: &Row) -> Self {
        let Measured { images, instructions } = row.measured;
        Self {
            device: &row.device,
            precision: &row.precision,
            images,
            instructions,
            like_reference: row.measured.like(reference.measured),
        }
    }
}

fn show_json(reference: &Row, rows: &[Row]) -> Result<(), CliError> {
    let summary = |row| RowSummary::of(row, reference);
    print_json(&Summary { reference: summary(reference), rows: rows.iter().map(summary).collect() })
}
