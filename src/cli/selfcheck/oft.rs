//! Golden kits of OpenVLA-OFT.

use std::path::Path;

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::Selfcheck;
use vla_inference::backend::Backend;
use vla_inference::golden::{CheckError, OftCaseResult, OftKit, OftReport, check_oft};
use vla_inference::policy::{PolicyLoadError, WithBackend, with_backend};

/// The check, generic over the backend.
struct Check<'a> {
    kit: &'a OftKit,
    folder: &'a Path,
}

impl WithBackend for Check<'_> {
    type Output = Result<OftReport, CheckError>;

    fn run<B: Backend + 'static>(
        self,
        backend: B,
        precision: &str,
    ) -> Result<Self::Output, PolicyLoadError> {
        Ok(check_oft(self.kit, backend, self.folder, precision))
    }
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    cases: &'a [OftCaseResult],
    missed: &'a [String],
}

/// Runs the kit, prints one line for each case, and fails when a bound is missed.
pub(super) fn run(options: &Selfcheck) -> Result<(), CliError> {
    let kit = OftKit::open(&options.golden)?;
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
    let missed = report.missed();
    if options.json {
        print_json(&Summary { cases: &report.cases, missed: &missed })?;
    } else {
        print(&format!("golden kit: {}", kit.about))?;
        for case in &report.cases {
            print(&case.to_string())?;
        }
        if missed.is_empty() {
            print("all bounds met")?;
        }
    }
    super::result(&missed)
}
