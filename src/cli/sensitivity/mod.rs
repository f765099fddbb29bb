//! `openvla sensitivity`.

mod chunks;
mod tokens;

use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use super::options::{CheckpointArgs, FlowArgs, LoadError, PolicyFileArgs};
use crate::preparation;
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::checkpoint::CheckpointKind;
use vla_inference::golden::{KitKind, OftKit, pi0::Pi0Kit};
use vla_inference::policy::{
    Device, Mesh, MeshChoices, Policy, PolicyOptions, PolicySource, Precision, load_oft_kit_policy,
    load_policy,
};

/// Measure how much actions depend on the images, the instruction and the state, by device and
/// precision, beside the float32 reference.
///
/// One input at a time is replaced by another of the kit. For action chunks (pi0, pi0.5,
/// OpenVLA-OFT) every chunk starts from the same noise, and the device's chunk must change as the
/// reference's does: by at least half as much, with an error smaller than the change, and with a
/// correlation of at least 0.71. For action tokens (OpenVLA) the answers must differ about as much
/// as the reference's.
#[derive(Args)]
pub(super) struct Sensitivity {
    /// Folder of a golden kit of OpenVLA, OpenVLA-OFT, pi0 or pi0.5, for its images, instructions
    /// and states; its checkpoint is used unless --checkpoint is given
    #[arg(long, value_name = "DIR")]
    golden: PathBuf,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    policy_file: PolicyFileArgs,
    /// Devices; default sim:n150, sim:n300 and sim:t3k. The float32 reference always runs on the
    /// CPU
    #[arg(long, value_delimiter = ',', value_name = "DEVICE")]
    device: Vec<Device>,
    /// Precisions; default bf16, mixed and bfp8 on a mesh, bf16 and int8 on the CPU
    #[arg(long, value_delimiter = ',', value_name = "P")]
    precision: Vec<String>,
    /// Images, instructions and states of the kit to use
    #[arg(
        long,
        default_value_t = 4,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(2..=100)
    )]
    inputs: u32,
    /// Worker threads of the CPU backend; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flow: FlowArgs,
}

/// What was measured on one device in one precision.
struct Row<T> {
    device: String,
    precision: String,
    measured: T,
}

impl Sensitivity {
    pub(super) fn run(self) -> Result<(), CliError> {
        let kit = KitKind::of(&self.golden)?;
        match kit {
            KitKind::Policy(CheckpointKind::OpenVla) => tokens::run(&self),
            KitKind::Policy(CheckpointKind::OpenVlaOft) => {
                let kit = OftKit::open(&self.golden)?;
                let inputs = kit.inputs(self.inputs as usize)?;
                chunks::run(&self, (&kit.checkpoint(), kit.options()?), &inputs)
            }
            KitKind::Policy(CheckpointKind::Pi0 | CheckpointKind::Pi05) => {
                let kit = Pi0Kit::open(&self.golden)?;
                let inputs = kit.inputs(self.inputs as usize)?;
                chunks::run(&self, (&kit.checkpoint(), PolicyOptions::default()), &inputs)
            }
            KitKind::ImagePreparation | KitKind::Policy(CheckpointKind::Scripted) => {
                Err(CliError::NoSensitivity(self.golden))
            }
        }
    }

    /// Loads a policy; `given` is what the kit says of its checkpoint.
    fn load(
        &self,
        folder: &Path,
        given: PolicyOptions,
        (device, precision): (Device, &Precision),
    ) -> Result<Box<dyn Policy>, CliError> {
        let source = |options| PolicySource {
            checkpoint: folder,
            device,
            precision: Some(precision),
            threads: self.threads,
            mesh: MeshChoices::default(),
            options,
        };
        Ok(match (self.policy_file.load()?, &given.oft) {
            (None, Some(_)) => load_oft_kit_policy(source(given))?,
            (file, _) => {
                let options =
                    preparation::options(file.as_ref(), given).map_err(LoadError::from)?;
                load_policy(source(options))?
            }
        })
    }

    /// Measures the reference, then every device in every precision.
    fn rows<T>(
        &self,
        mut measure: impl FnMut((Device, &Precision)) -> Result<T, CliError>,
    ) -> Result<(Row<T>, Vec<Row<T>>), CliError> {
        let mut devices = self.device.clone();
        if devices.is_empty() {
            devices = [Mesh::N150, Mesh::N300, Mesh::T3k].map(Device::Simulated).to_vec();
        }
        let precisions = |device: Device| match (self.precision.as_slice(), device) {
            ([], Device::Cpu) => vec!["bf16".to_owned(), "int8".to_owned()],
            ([], _) => PrecisionPolicy::shipped().map(str::to_owned).to_vec(),
            (given, _) => given.to_vec(),
        };
        let mut row = |device: Device, precision: Precision| -> Result<Row<T>, CliError> {
            let measured = measure((device, &precision))?;
            Ok(Row { device: device.to_string(), precision: precision.to_string(), measured })
        };
        let reference = row(Device::Cpu, Precision::F32)?;
        let mut rows = Vec::new();
        for device in devices {
            for precision in precisions(device) {
                rows.push(row(device, Precision::Named(precision))?);
            }
        }
        Ok((reference, rows))
    }
}

/// An error that names the devices and precisions that depend too little on an input.
fn result(insensitive: &[String]) -> Result<(), CliError> {
    if insensitive.is_empty() { Ok(()) } else { Err(CliError::Insensitive(insensitive.join(", "))) }
}
