//! `openvla eval compare`: two evaluations frame by frame.

use std::path::PathBuf;

use clap::Args;

use super::{percent, print, print_json};
use vla_eval::{EvalError, compare};

/// Compare two evaluations of the same bags.
#[derive(Args, Debug)]
pub(super) struct Compare {
    /// Output folder of one evaluation
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Output folder of the other
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Folder for compare.json and compare.html
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print compare.json on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(super) fn run(self) -> Result<(), EvalError> {
        let comparison = compare(&self.a, &self.b, &self.out)?;
        if self.json {
            return print_json(&comparison, &self.out);
        }
        print(&format!(
            "{} frames: token agreement {}, action agreement {}",
            comparison.frames,
            percent(comparison.token_agreement),
            percent(comparison.action_agreement)
        ))?;
        for (name, difference) in
            [("normalized error", &comparison.error), ("ms per inference", &comparison.latency_ms)]
        {
            if let Some(d) = difference {
                let interval = d.interval.map_or_else(String::new, |(low, high)| {
                    format!(" (95 %: {low:.5} to {high:.5})")
                });
                print(&format!(
                    "{name}: A {:.5}, B {:.5}, B - A {:.5}{interval}",
                    d.mean_a, d.mean_b, d.mean
                ))?;
            }
        }
        print(&format!("{}", self.out.join("compare.html").display()))
    }
}
