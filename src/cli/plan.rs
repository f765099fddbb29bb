//! `openvla plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{CliError, print, print_json};
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::checkpoint::OpenVlaConfig;
use vla_inference::plan::{ACTION_ROWS, Assumptions, GIB, OnePass, Plan as Planned};
use vla_inference::policy::{DecodeMode, Device, DeviceError, Mesh};

/// Largest config.json read, bytes; the published one has 170 kB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Predict a model's memory and speed on a mesh, from its config.json alone.
#[derive(Args)]
pub(super) struct Plan {
    /// The checkpoint's config.json; no weight is read
    #[arg(long, value_name = "CONFIG.json")]
    config: PathBuf,
    /// n150, n300 or t3k
    #[arg(long, env = "MESH_DEVICE", value_parser = mesh)]
    mesh: Mesh,
    /// bf16, mixed, bfp8 or a YAML file
    #[arg(long, default_value = "mixed")]
    precision: String,
    /// Positions of the prompt with its image; default the image's patches plus 20
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2048))]
    positions: Option<u32>,
    /// Steps of a chunk that are answered in one pass: the checkpoint is OpenVLA-OFT's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    chunk: Option<u32>,
    /// With --chunk: images of one observation
    #[arg(long, value_name = "N", default_value_t = 1, requires = "chunk",
        value_parser = clap::value_parser!(u32).range(1..=8))]
    images: u32,
    /// With --chunk: numbers per step
    #[arg(long, value_name = "N", default_value_t = 7, requires = "chunk",
        value_parser = clap::value_parser!(u32).range(1..=256))]
    action_dim: u32,
    /// With --chunk: numbers of the robot's state, 0 for none
    #[arg(long, value_name = "N", default_value_t = 0, requires = "chunk",
        value_parser = clap::value_parser!(u32).range(0..=256))]
    state_dim: u32,
    /// Tokens of the argmax: full computes the whole language model head
    #[arg(long, default_value = "actions")]
    decode: DecodeMode,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

fn mesh(text: &str) -> Result<Mesh, String> {
    match format!("sim:{}", text.to_ascii_lowercase()).parse() {
        Ok(Device::Simulated(mesh)) => Ok(mesh),
        Ok(_)
        | Err(
            DeviceError::Unknown(_) | DeviceError::MeshPrecision(_) | DeviceError::HostPrecision(_),
        ) => Err(format!("mesh '{text}' is not known; use n150, n300 or t3k")),
    }
}

impl Plan {
    pub(super) fn run(self) -> Result<(), CliError> {
        let failed = |reason: String| CliError::Config { path: self.config.clone(), reason };
        let size =
            std::fs::metadata(&self.config).map_err(|error| failed(error.to_string()))?.len();
        if size > MAX_CONFIG_BYTES {
            return Err(failed(format!("{size} bytes; at most {MAX_CONFIG_BYTES} are read")));
        }
        let bytes = std::fs::read(&self.config).map_err(|error| failed(error.to_string()))?;
        let config = OpenVlaConfig::from_json(&self.config, &bytes)?;
        let policy = PrecisionPolicy::load(&self.precision)
            .map_err(vla_inference::policy::PolicyLoadError::from)?;
        let mut assumptions = match self.chunk {
            Some(chunk) => {
                let (action_dim, state_dim) = (self.action_dim as usize, self.state_dim as usize);
                let pass = OnePass { chunk: chunk as usize, action_dim, state_dim };
                Assumptions::one_pass(&config, self.images as usize, pass)
            }
            None => Assumptions::standard(&config),
        };
        if let Some(positions) = self.positions {
            assumptions.positions = positions as usize;
        }
        assumptions.head_rows = match self.decode {
            DecodeMode::Full => config.llama.vocab_size,
            DecodeMode::Actions => ACTION_ROWS,
        };
        let plan = Planned::new(&config, self.mesh, policy, assumptions);
        if self.json {
            show_json(&plan)?
        } else {
            show(&plan)?
        }
        match plan.memory.shortfall() {
            None => Ok(()),
            Some(bytes) => Err(CliError::NoRoom {
                mesh: name(plan.mesh),
                precision: plan.policy.name.clone(),
                needed: plan.memory.total() as f64 / GIB,
                capacity: plan.memory.capacity as f64 / GIB,
                shortfall: bytes as f64 / GIB,
            }),
        }
    }
}

fn name(mesh: Mesh) -> String {
    Device::Simulated(mesh).to_string().trim_start_matches("sim:").to_owned()
}

fn show(plan: &Planned) -> Result<(), CliError> {
    let chips = plan.mesh.chips();
    print(&format!(
        "{}: {chips} chip{}, precision {}",
        name(plan.mesh),
        if chips == 1 { "" } else { "s" },
        plan.policy.name
    ))?;
    print("\nmemory of one chip            GiB")?;
    for (what, bytes) in &plan.memory.items {
        print(&format!("  {what:<36} {:>7.3}", *bytes as f64 / GIB))?;
    }
    let (total, capacity) = (plan.memory.total() as f64 / GIB, plan.memory.capacity as f64 / GIB);
    print(&format!("  {:<36} {total:>7.3} of {capacity:.3}", "total"))?;
    print(
        "\nstage         times     GFLOP   MB read   MB sent   flop ms    mem ms    ccl ms        \
        ms   (of one chip, one pass)",
    )?;
    for stage in &plan.stages {
        print(&format!(
            "{:<13} {:>5} {:>9.1} {:>9.1} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
            stage.name,
            stage.count,
            stage.flop / 1e9,
            stage.bytes / 1e6,
            stage.sent / 1e6,
            stage.flop_ms,
            stage.memory_ms,
            stage.collective_ms,
            stage.ms()
        ))?;
    }
    let answer = match plan.assumptions.one_pass {
        Some(pass) => format!("chunk of {}", pass.chunk),
        None => "action".to_owned(),
    };
    print(&format!("predicted: {:.1} ms per {answer}, {:.2} Hz", plan.total_ms(), plan.hz()))?;
    print("\nassumed (nothing here was measured on silicon):")?;
    for line in plan.assumptions.lines(&plan.policy, chips) {
        print(&format!("  {line}"))?;
    }
    Ok(())
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    mesh: String,
    chips: usize,
    precision: &'a str,
    memory_bytes: BTreeMap<&'a str, u64>,
    memory_total_bytes: u64,
    memory_capacity_bytes: u64,
    shortfall_gib: Option<f64>,
    stages: Vec<StageSummary<'a>>,
    total_ms: f64,
    hz: f64,
    assumptions: Vec<String>,
}

#[derive(Serialize)]
struct StageSummary<'a> {
    name: &'a str,
    count: usize,
    flop: f64,
    bytes: f64,
    sent: f64,
    flop_ms: f64,
    memory_ms: f64,
    collective_ms: f64,
    ms: f64,
}

fn show_json(plan: &Planned) -> Result<(), CliError> {
    print_json(&Summary {
        mesh: name(plan.mesh),
        chips: plan.mesh.chips(),
        precision: &plan.policy.name,
        memory_bytes: plan.memory.items.iter().map(|(what, n)| (what.as_str(), *n)).collect(),
        memory_total_bytes: plan.memory.total(),
        memory_capacity_bytes: plan.memory.capacity,
        shortfall_gib: plan.memory.shortfall().map(|bytes| bytes as f64 / GIB),
        stages: plan
            .stages
            .iter()
            .map(|stage| StageSummary {
                name: stage.name,
                count: stage.count,
                flop: stage.flop,
                bytes: stage.bytes,
                sent: stage.sent,
                flop_ms: stage.flop_ms,
                memory_ms: stage.memory_ms,
                collective_ms: stage.collective_ms,
                ms: stage.ms(),
            })
            .collect(),
        total_ms: plan.total_ms(),
        hz: plan.hz(),
        assumptions: plan.assumptions.lines(&plan.policy, plan.mesh.chips()),
    })
}
