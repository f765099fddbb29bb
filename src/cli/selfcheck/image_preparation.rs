//! Golden kits of image preparation.

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::Selfcheck;
use vla_inference::golden::image_preparation::{CaseReport, check};

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    cases: Vec<CaseSummary<'a>>,
    cases_equal: usize,
    steps: usize,
    missed: &'a [String],
}

#[derive(Serialize)]
struct CaseSummary<'a> {
    case: &'a str,
    steps: &'a [String],
    equal: bool,
}

impl<'a> CaseSummary<'a> {
    fn new(case: &'a CaseReport) -> Self {
        let CaseReport { name, steps, missed } = case;
        Self { case: name, steps, equal: missed.is_empty() }
    }
}

/// Runs the kit, prints a line for each case, and fails when a byte differs.
pub(super) fn run(options: &Selfcheck) -> Result<(), CliError> {
    let report = check(&options.golden)?;
    let equal = report.cases.iter().filter(|case| case.missed.is_empty()).count();
    if options.json {
        print_json(&Summary {
            cases: report.cases.iter().map(CaseSummary::new).collect(),
            cases_equal: equal,
            steps: report.steps,
            missed: &report.missed,
        })?;
        return super::result(&report.missed);
    }
    for case in &report.cases {
        let steps = if case.steps.is_empty() { "no step".into() } else { case.steps.join(", ") };
        let verdict = match case.missed.as_slice() {
            [] => "equal".to_owned(),
            missed => missed.join("; "),
        };
        print(&format!("{:<40} {steps}: {verdict}", case.name))?;
    }
    print(&format!(
        "{} cases, {} steps: {equal} cases equal in every byte",
        report.cases.len(),
        report.steps
    ))?;
    super::result(&report.missed)
}
