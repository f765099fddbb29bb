//! `openvla eval merge`: joins the shards of one evaluation.

use std::path::PathBuf;

use clap::Args;

use super::print_report;
use vla_eval::{EvalError, merge};

/// Join the shards of one evaluation.
#[derive(Args, Debug)]
pub(super) struct Merge {
    /// Output folders of the shards
    #[arg(required = true, value_name = "DIR")]
    parts: Vec<PathBuf>,
    /// Folder for the joined report
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Join the given shards although others are missing or incomplete
    #[arg(long)]
    partial: bool,
    /// Print report.json on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl Merge {
    pub(super) fn run(self) -> Result<(), EvalError> {
        let report = merge(&self.parts, &self.out, self.partial)?;
        print_report(&report, &self.out, self.json)
    }
}
