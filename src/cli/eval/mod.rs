//! `openvla eval run | limits | compare | merge`.

mod compare;
mod datasets;
mod limits;
mod merge;
mod remote;
pub(crate) mod run;
mod shards;

use std::path::Path;

use clap::{Args, Subcommand};

use vla_eval::{EvalError, Report};

/// Evaluate a checkpoint, or a robot file's limits, on recordings.
#[derive(Args, Debug)]
#[command(override_usage = "openvla eval <run|limits|compare|merge> [OPTIONS]")]
pub struct Eval {
    #[command(subcommand)]
    command: Command,
    // Only refuses: options without a subcommand are the form of earlier versions.
    #[arg(
        hide = true,
        value_name = "COMMAND",
        allow_hyphen_values = true,
        trailing_var_arg = true,
        num_args = 0..,
        value_parser = refuse
    )]
    not_a_command: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a policy on recorded images: metrics, plots and a report
    Run(Box<run::Run>),
    /// Replay recorded actions through the limits of a robot file: what they would change
    Limits(limits::LimitsCommand),
    /// Compare two evaluations of the same bags: checkpoints, devices or precisions
    Compare(compare::Compare),
    /// Join the shards of one evaluation
    Merge(merge::Merge),
}

impl Eval {
    /// Runs the command. An incomplete evaluation is an error, after its report is written.
    ///
    /// # Errors
    /// In one line that names the file, the value and the remedy.
    pub fn run(self) -> Result<(), EvalError> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Limits(limits) => limits.run(),
            Command::Compare(compare) => compare.run(),
            Command::Merge(merge) => merge.run(),
        }
    }
}

/// The error for anything else in the place of a command.
fn refuse(_: &str) -> Result<String, String> {
    Err("use `openvla eval run` for a policy, `openvla eval limits` for recorded actions (before: \
        --expert), or `openvla eval compare` or `merge`"
        .to_owned())
}

/// An error when something is missing from a result.
fn check_complete(incomplete: &[String]) -> Result<(), EvalError> {
    match incomplete.first() {
        None => Ok(()),
        Some(reason) => Err(EvalError::Usage(format!("incomplete: {reason}"))),
    }
}

fn print_warnings(warnings: &[String]) {
    for warning in warnings {
        eprintln!("openvla eval: {warning}");
    }
}

/// Prints a report as one line of JSON.
fn print_json(report: &impl serde::Serialize, out: &Path) -> Result<(), EvalError> {
    print(&serde_json::to_string(report).map_err(EvalError::result(out))?)
}

/// Prints an evaluation's report, as JSON or as a table.
fn print_report(report: &Report, out: &Path, json: bool) -> Result<(), EvalError> {
    if json {
        return print_json(report, out);
    }
    print_warnings(&report.warnings);
    print(&format!(
        "{} frames evaluated, {} with a recorded action, {} failures",
        report.frames.evaluated, report.frames.matched, report.frames.failed
    ))?;
    if report.overall.frames > 0 {
        print("dimension          MAE        RMSE  bin dist.  token acc.")?;
        for d in &report.overall.dimensions {
            print(&format!(
                "{:<9} {:>12} {:>11} {:>10} {:>11}",
                d.name,
                number(d.mae),
                number(d.rmse),
                d.bin_distance.map_or_else(|| "-".to_owned(), |bins| format!("{bins:.2}")),
                percent(d.token_accuracy)
            ))?;
        }
        let f1 = report.overall.gripper.as_ref().and_then(|gripper| gripper.f1);
        print(&format!(
            "token accuracy {}, gripper F1 {}",
            percent(report.overall.token_accuracy),
            number(f1)
        ))?;
    }
    if let Some(total) = report.latency_ms.get("total") {
        print(&format!(
            "ms per inference: median {:.1}, p95 {:.1}, p99 {:.1}",
            total.p50, total.p95, total.p99
        ))?;
    }
    print(&format!("{}", out.join("report.html").display()))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.6}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
}

/// Prints a line on stdout. A closed pipe is not an error.
fn print(text: &str) -> Result<(), EvalError> {
    match super::stdout::write_line(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(EvalError::io("write to", Path::new("stdout"))(error))
        }
        _ => Ok(()),
    }
}
