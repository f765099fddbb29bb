//! Golden kits of pi0 and pi0.5.

use std::path::Path;

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::Selfcheck;
use vla_inference::backend::Backend;
use vla_inference::golden::pi0::{CaseReport, Pi0Bounds, Pi0CheckError, Pi0Kit, check};
use vla_inference::policy::{Pi0Policy, PolicyLoadError, PolicyOptions, WithBackend, with_backend};

/// The check, generic over the backend.
struct Check<'a> {
    kit: &'a Pi0Kit,
    folder: &'a Path,
    json: bool,
}

impl WithBackend for Check<'_> {
    type Output = Result<Vec<CaseReport>, Pi0CheckError>;

    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        let options = PolicyOptions { precision: precision.to_owned(), ..Default::default() };
        let policy = Pi0Policy::open(backend, self.folder, &options)?;
        Ok(check(self.kit, &policy, Pi0Bounds::of(precision), |case| {
            // A closed pipe ends the program at the summary.
            let _ = if self.json { Ok(()) } else { print(&line(case)) };
        }))
    }
}

/// Runs the kit, prints the result, and fails when a bound is missed.
pub(super) fn run(options: &Selfcheck) -> Result<(), CliError> {
    let kit = Pi0Kit::open(&options.golden)?;
    let folder = options.checkpoint.folder_or(kit.checkpoint())?;
    let device = &options.device;
    if !options.json {
        print(&format!("golden kit: {}", kit.about))?;
    }
    let work = Check { kit: &kit, folder: &folder, json: options.json };
    let reports = with_backend(
        device.device,
        device.precision.as_ref(),
        device.threads,
        &device.mesh(),
        work,
    )??;
    let missed: Vec<String> = reports
        .iter()
        .flat_map(|case| case.missed.iter().map(|miss| format!("{}, {miss}", case.name)))
        .collect();
    let stages = || reports.iter().flat_map(|case| &case.stages);
    let worst = stages().min_by(|a, b| a.agreement.pcc.total_cmp(&b.agreement.pcc));
    let largest = |prefix: &str| {
        let own = stages().filter(|stage| stage.name.starts_with(prefix));
        own.map(|stage| stage.agreement.max_abs).fold(0.0, f64::max)
    };
    if options.json {
        let summary = Summary {
            cases: reports.iter().map(Row::new).collect(),
            worst_stage: worst.map(|stage| stage.name.as_str()),
            lowest_pcc: worst.map(|stage| stage.agreement.pcc),
            missed: &missed,
        };
        print_json(&summary)?;
        return super::result(&missed);
    }
    if let Some(worst) = worst {
        print(&format!(
            "worst stage {}: PCC {:.9}, error {:.2e}; largest error of x {:.2e}, of an action \
            {:.2e}",
            worst.name,
            worst.agreement.pcc,
            worst.agreement.max_abs,
            largest("x."),
            largest("actions")
        ))?;
    }
    for miss in &missed {
        print(&format!("MISSED {miss}"))?;
    }
    if missed.is_empty() {
        print("all bounds met")?;
    }
    super::result(&missed)
}

/// One line for a case: its worst stage, or the first that differs.
fn line(case: &CaseReport) -> String {
    let mut line = format!("{:<16} {}", case.name, case.detail);
    if let Some(first) = case.missed.first() {
        line.push_str(&format!("; DIFFERS FIRST at {first}"));
        return line;
    }
    if let Some(worst) = case.worst() {
        line.push_str(&format!(
            "; {} stages, lowest PCC {:.9} ({}, error {:.1e})",
            case.stages.len(),
            worst.agreement.pcc,
            worst.name,
            worst.agreement.max_abs
        ));
    }
    if !case.growth.is_empty() {
        let errors: Vec<String> = case.growth.iter().map(|error| format!("{error:.1e}")).collect();
        line.push_str(&format!("; error of x by step {}", errors.join(" ")));
    }
    line
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    cases: Vec<Row<'a>>,
    worst_stage: Option<&'a str>,
    lowest_pcc: Option<f64>,
    missed: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    detail: &'a str,
    stages: usize,
    worst_stage: Option<&'a str>,
    lowest_pcc: Option<f64>,
    x_error_by_step: &'a [f64],
    missed: &'a [String],
}

impl<'a> Row<'a> {
    fn new(case: &'a CaseReport) -> Self {
        let worst = case.worst();
        Self {
            name: &case.name,
            detail: &case.detail,
            stages: case.stages.len(),
            worst_stage: worst.map(|stage| stage.name.as_str()),
            lowest_pcc: worst.map(|stage| stage.agreement.pcc),
            x_error_by_step: &case.growth,
            missed: &case.missed,
        }
    }
}
