//! `openvla selfcheck`: a golden kit is run and compared with the values of the official code.

mod image_preparation;
mod oft;
mod openvla;
mod pi0;

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use super::options::{CheckpointArgs, DeviceArgs};
use vla_inference::checkpoint::CheckpointKind;
use vla_inference::golden::KitKind;

/// Run a golden kit and compare every stage with the official code's values.
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

impl Selfcheck {
    pub(super) fn run(self) -> Result<(), CliError> {
        match KitKind::of(&self.golden)? {
            KitKind::Policy(CheckpointKind::OpenVla) => openvla::run(&self),
            KitKind::Policy(CheckpointKind::OpenVlaOft) => oft::run(&self),
            KitKind::Policy(CheckpointKind::Pi0 | CheckpointKind::Pi05) => pi0::run(&self),
            KitKind::ImagePreparation => image_preparation::run(&self),
            kind @ KitKind::Policy(CheckpointKind::Scripted) => Err(CliError::Bounds(format!(
                "{}: a kit of the kind {kind:?}, which is not implemented",
                self.golden.display()
            ))),
        }
    }
}

/// An error that names the first of the missed bounds, if there is one.
fn result(missed: &[String]) -> Result<(), CliError> {
    match missed {
        [] => Ok(()),
        [first, ..] => {
            Err(CliError::Bounds(format!("{} bounds missed, the first: {first}", missed.len())))
        }
    }
}
