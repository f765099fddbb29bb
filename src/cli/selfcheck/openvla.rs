//! Golden kits of OpenVLA.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::Selfcheck;
use vla_inference::backend::Backend;
use vla_inference::golden::{Bounds, CaseResult, CheckError, Kit, Report, check};
use vla_inference::policy::{
    OpenVlaPolicy, PolicyLoadError, PolicyOptions, WithBackend, with_backend,
};

/// One line of the table: a stage over all cases.
#[derive(Serialize)]
struct Row {
    stage: String,
    cases: usize,
    pcc: f64,
    max_abs: f64,
    relative_rms: f64,
}

/// The check, generic over the backend.
struct Check<'a> {
    kit: &'a Kit,
    folder: &'a Path,
}

impl WithBackend for Check<'_> {
    type Output = Result<Report, CheckError>;

    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        // The check compares every set of statistics; loading needs one of them.
        let unnorm_key =
            self.kit.cases.first().and_then(|case| case.actions.keys().next().cloned());
        let options =
            PolicyOptions { unnorm_key, precision: precision.to_owned(), ..Default::default() };
        let mut policy = OpenVlaPolicy::open(backend, self.folder, &options)?;
        Ok(check(self.kit, &mut policy, Bounds::of(precision)))
    }
}

/// Runs the kit, prints the result, and fails when a bound is missed.
pub(super) fn run(options: &Selfcheck) -> Result<(), CliError> {
    let kit = Kit::open(&options.golden)?;
    let folder = options.checkpoint.folder_or(kit.checkpoint())?;
    let device = &options.device;
    let work = Check { kit: &kit, folder: &folder };
    let report = with_backend(
        device.device,
        device.precision.as_ref(),
        device.threads,
        &device.mesh(),
        work,
    )??;
    let stages = rows(&report);
    let summary = summary(&report, &stages);
    if options.json {
        print_json(&summary)?;
    } else {
        show(&kit, &report, &summary)?;
    }
    super::result(&report.missed)
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    stages: &'a [Row],
    cases: Vec<CaseSummary<'a>>,
    tokens_equal: usize,
    pixels_equal: usize,
    mean_bin_distance: f64,
    physical_error: f64,
    missed: &'a [String],
}

#[derive(Serialize)]
struct CaseSummary<'a> {
    case: usize,
    pixels_equal: bool,
    tokens: &'a [u32],
    expected: &'a [u32],
    bin_distance: f64,
    physical_error: f64,
}

fn summary<'a>(report: &'a Report, stages: &'a [Row]) -> Summary<'a> {
    let cases = &report.cases;
    let case = |case: &'a CaseResult| CaseSummary {
        case: case.case,
        pixels_equal: case.pixels_equal,
        tokens: &case.tokens,
        expected: &case.expected,
        bin_distance: case.bin_distance,
        physical_error: case.physical_error,
    };
    let distances = cases.iter().map(|case| case.bin_distance).sum::<f64>();
    Summary {
        stages,
        cases: cases.iter().map(case).collect(),
        tokens_equal: cases.iter().filter(|case| case.tokens == case.expected).count(),
        pixels_equal: cases.iter().filter(|case| case.pixels_equal).count(),
        mean_bin_distance: distances / cases.len().max(1) as f64,
        physical_error: cases.iter().map(|case| case.physical_error).fold(0.0, f64::max),
        missed: &report.missed,
    }
}

fn show(kit: &Kit, report: &Report, summary: &Summary<'_>) -> Result<(), CliError> {
    print(&format!("golden kit: {}", kit.about))?;
    print(&format!("{:<28} cases  lowest PCC   largest error", "stage"))?;
    for Row { stage, cases, pcc, max_abs, .. } in summary.stages {
        print(&format!("{stage:<28} {cases:>5}  {pcc:.8}   {max_abs:.3e}"))?;
    }
    let Summary { tokens_equal, pixels_equal, mean_bin_distance, physical_error, .. } = summary;
    let total = summary.cases.len();
    print(&format!("resized pixels exact         {pixels_equal} of {total}"))?;
    print(&format!(
        "tokens equal                 {tokens_equal} of {total}, mean bin distance \
        {mean_bin_distance:.3}"
    ))?;
    print(&format!("physical action              largest error {physical_error:.3e}"))?;
    print(&format!(
        "special cases                {} texts, {} token ids, {} end tokens, 1 trailing space: {} \
        wrong",
        report.texts,
        kit.decode_cases.len(),
        kit.eos_cases.len(),
        report.special.len()
    ))?;
    for missed in &report.missed {
        print(&format!("MISSED {missed}"))?;
    }
    if report.missed.is_empty() { print("all bounds met") } else { Ok(()) }
}

/// Worst values of each stage over all cases, in the order of computation.
fn rows(report: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut index = BTreeMap::new();
    for result in &report.stages {
        let at = *index.entry(result.stage.clone()).or_insert_with(|| {
            rows.push(Row {
                stage: result.stage.clone(),
                cases: 0,
                pcc: f64::INFINITY,
                max_abs: 0.0,
                relative_rms: 0.0,
            });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.cases += 1;
        row.pcc = row.pcc.min(result.agreement.pcc);
        row.max_abs = row.max_abs.max(result.agreement.max_abs);
        row.relative_rms = row.relative_rms.max(result.agreement.relative_rms);
    }
    rows
}
