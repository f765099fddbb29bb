//! `openvla sensitivity`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::options::{CheckpointArgs, LoadError, PolicyFileArgs};
use super::{CliError, print, print_json};
use crate::preparation;
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::golden::{Kit, Sensitivity as Measured, Spread, sensitivity};
use vla_inference::policy::{
    Device, Mesh, MeshChoices, PolicyOptions, PolicySource, Precision, load_policy,
};

/// Measure how much actions depend on the image and on the instruction, by device and precision.
#[derive(Args)]
pub(super) struct Sensitivity {
    /// Folder of a golden kit, for its images and instructions; its checkpoint is used unless
    /// --checkpoint is given
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
    /// Images and instructions of the kit to use
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
}

struct Row {
    device: String,
    precision: String,
    measured: Measured,
}

impl Sensitivity {
    pub(super) fn run(self) -> Result<(), CliError> {
        let kit = Kit::open(&self.golden)?;
        let folder = self.checkpoint.folder_or(kit.checkpoint())?;
        let measure = |device: Device, precision: &Precision| -> Result<Row, CliError> {
            let unnorm_key = kit.cases.first().and_then(|case| case.actions.keys().next().cloned());
            let given = PolicyOptions { unnorm_key, ..Default::default() };
            let options = preparation::options(self.policy_file.load()?.as_ref(), given)
                .map_err(LoadError::from)?;
            let mut policy = load_policy(PolicySource {
                checkpoint: &folder,
                device,
                precision: Some(precision),
                threads: self.threads,
                mesh: MeshChoices::default(),
                options,
            })?;
            let measured = sensitivity(&kit, policy.as_mut(), self.inputs as usize)?;
            Ok(Row { device: device.to_string(), precision: precision.to_string(), measured })
        };
        let mut devices = self.device.clone();
        if devices.is_empty() {
            devices = [Mesh::N150, Mesh::N300, Mesh::T3k].map(Device::Simulated).to_vec();
        }
        let precisions = |device: Device| match (self.precision.as_slice(), device) {
            ([], Device::Cpu) => vec!["bf16".to_owned(), "int8".to_owned()],
            ([], _) => PrecisionPolicy::shipped().map(str::to_owned).to_vec(),
            (given, _) => given.to_vec(),
        };
        let reference = measure(Device::Cpu, &Precision::F32)?;
        let mut rows = Vec::new();
        for device in devices {
            for precision in precisions(device) {
                rows.push(measure(device, &Precision::Named(precision))?);
            }
        }
        let insensitive: Vec<String> = rows
            .iter()
            .filter(|row| !row.measured.like(reference.measured))
            .map(|row| format!("{} {}", row.device, row.precision))
            .collect();
        if self.json {
            show_json(&reference, &rows)?
        } else {
            show(&reference, &rows)?
        }
        if insensitive.is_empty() {
            Ok(())
        } else {
            Err(CliError::Insensitive(insensitive.join(", ")))
        }
    }
}

fn show(reference: &Row, rows: &[Row]) -> Result<(), CliError> {
    print(
        "device     precision      images: distinct  distance   instructions: distinct  distance",
    )?;
    for row in std::iter::once(reference).chain(rows) {
        let Measured { images, instructions } = row.measured;
        print(&format!(
            "{:<10} {:<12} {:>9} of {:<4} {:>9.2} {:>17} of {:<4} {:>9.2}",
            row.device,
            row.precision,
            images.distinct,
            images.inputs,
            images.distance,
            instructions.distinct,
            instructions.inputs,
            instructions.distance
        ))?;
    }
    print(
        "distinct: different actions among the inputs; distance: mean over pairs of actions, in \
        bins per dimension",
    )
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    reference: RowSummary<'a>,
    rows: Vec<RowSummary<'a>>,
}

#[derive(Serialize)]
struct RowSummary<'a> {
    device: &'a str,
    precision: &'a str,
    images: Spread,
    instructions: Spread,
    like_reference: bool,
}

impl<'a> RowSummary<'a> {
    fn of(row: &'a Row, reference: &Row) -> Self {
        let Measured { images, instructions } = row.measured;
        Self {
            device: &row.device,
            precision: &row.precision,
            images,
            instructions,
            like_reference: row.measured.like(reference.measured),
        }
    }
}

fn show_json(reference: &Row, rows: &[Row]) -> Result<(), CliError> {
    let summary = |row| RowSummary::of(row, reference);
    print_json(&Summary { reference: summary(reference), rows: rows.iter().map(summary).collect() })
}
