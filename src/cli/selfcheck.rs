//! `openvla selfcheck`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::options::{CheckpointArgs, DeviceArgs};
use super::{CliError, print};
use vla_inference::backend::Backend;
use vla_inference::golden::{Bounds, CheckError, Kit, Report, check};
use vla_inference::policy::{
    OpenVlaPolicy, PolicyLoadError, PolicyOptions, WithBackend, with_backend,
};

/// Run a golden kit and compare every stage with the official code's numbers.
#[derive(Args)]
pub(super) struct Selfcheck {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
    /// Folder of the kit; its checkpoint is used unless --checkpoint is given
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
}

/// One line of the table: a stage over all cases.
struct Row {
    stage: String,
    cases: usize,
    pcc: f64,
    max_abs: f64,
}

/// The check on whichever backend.
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
        // Every set of statistics is compared; loading needs one of them.
        let unnorm_key =
            self.kit.cases.first().and_then(|case| case.actions.keys().next().cloned());
        let options =
            PolicyOptions { unnorm_key, precision: precision.to_owned(), ..Default::default() };
        let mut policy = OpenVlaPolicy::open(backend, self.folder, &options)?;
        Ok(check(self.kit, &mut policy, Bounds::of(precision)))
    }
}

impl Selfcheck {
    pub(super) fn run(self) -> Result<(), CliError> {
        let kit = Kit::open(&self.golden)?;
        let folder = self.checkpoint.checkpoint.clone().unwrap_or_else(|| kit.checkpoint());
        let work = Check { kit: &kit, folder: &folder };
        let report = with_backend(
            self.device.device,
            self.device.precision.as_ref(),
            self.device.threads,
            &self.device.mesh(),
            work,
        )??;
        self.show(&kit, &report)?;
        match report.missed.len() {
            0 => Ok(()),
            n => {
                Err(CliError::Bounds(format!("{n} bounds missed, the first: {}", report.missed[0])))
            }
        }
    }

    fn show(&self, kit: &Kit, report: &Report) -> Result<(), CliError> {
        let rows = rows(report);
        let equal = report.cases.iter().filter(|case| case.tokens == case.expected).count();
        let pixels = report.cases.iter().filter(|case| case.pixels_equal).count();
        let mean = report.cases.iter().map(|case| case.bin_distance).sum::<f64>()
            / report.cases.len().max(1) as f64;
        let worst = report.cases.iter().map(|case| case.physical_error).fold(0.0, f64::max);
        if self.json {
            let stages: Vec<_> = rows
                .iter()
                .map(|row| json!({"stage": row.stage, "cases": row.cases, "pcc": row.pcc, "max_abs": row.max_abs}))
                .collect();
            let cases: Vec<_> = report
                .cases
                .iter()
                .map(|case| {
                    json!({"case": case.case, "pixels_equal": case.pixels_equal, "tokens": case.tokens,
                    "expected": case.expected, "bin_distance": case.bin_distance, "physical_error": case.physical_error})
                })
                .collect();
            return print(
                &json!({"stages": stages, "cases": cases, "tokens_equal": equal, "pixels_equal": pixels,
                    "mean_bin_distance": mean, "physical_error": worst, "missed": report.missed})
                .to_string(),
            );
        }
        print(&format!("golden kit: {}", kit.about))?;
        print(&format!("{:<28} cases  lowest PCC   largest error", "stage"))?;
        for row in &rows {
            print(&format!(
                "{:<28} {:>5}  {:.8}   {:.3e}",
                row.stage, row.cases, row.pcc, row.max_abs
            ))?;
        }
        let total = report.cases.len();
        print(&format!("resized pixels exact         {pixels} of {total}"))?;
        print(&format!(
            "tokens equal                 {equal} of {total}, mean bin distance {mean:.3}"
        ))?;
        print(&format!("physical action              largest error {worst:.3e}"))?;
        let failed = report.special.len();
        print(&format!(
            "special cases                {} texts, {} token ids, {} early ends, 1 trailing \
            space: {failed} wrong",
            report.texts,
            kit.decode_cases.len(),
            kit.eos_cases.len()
        ))?;
        for missed in &report.missed {
            print(&format!("MISSED {missed}"))?;
        }
        if report.missed.is_empty() { print("all bounds met") } else { Ok(()) }
    }
}

/// Stages over all cases, worst values, in the order of computation.
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
            });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.cases += 1;
        row.pcc = row.pcc.min(result.agreement.pcc);
        row.max_abs = row.max_abs.max(result.agreement.max_abs);
    }
    rows
}
