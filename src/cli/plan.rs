//! `openvla plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{CliError, print, print_json};
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::checkpoint::pi0::{Pi0Config, Pi0Kind};
use vla_inference::checkpoint::{OpenVlaConfig, sign_of_oft};
use vla_inference::plan::rates::Span;
use vla_inference::plan::{
    ACTION_ROWS, Assumptions, Flow, GIB, OnePass, PUBLISHED, Plan as Planned,
};
use vla_inference::policy::{DecodeMode, Mesh};

/// Largest config.json read, bytes; the published one has 170 kB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Predict a model's memory and speed on a mesh, from its config.json alone.
#[derive(Args)]
pub(super) struct Plan {
    /// The checkpoint's config.json; no weight is read
    #[arg(long, value_name = "CONFIG.json")]
    config: PathBuf,
    /// n150, n300, t3k (Wormhole), p150, p300, quietbox or loudbox (Blackhole)
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
    /// With --chunk, or for pi0: images of one observation [default: 1; pi0: the checkpoint's
    /// cameras]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    images: Option<u32>,
    /// For pi0: token ids of the prompt, with pi0.5's state among them [default: 20; pi0.5: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    text: Option<u32>,
    /// For pi0: Euler steps [default: the checkpoint's, 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,
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
    Mesh::named(&text.to_ascii_lowercase())
        .ok_or_else(|| format!("mesh '{text}' is not known; use one of {}", Mesh::names("")))
}

impl Plan {
    /// A plan of OpenVLA or OpenVLA-OFT.
    fn tokens(&self, bytes: &[u8], policy: PrecisionPolicy) -> Result<Planned, CliError> {
        let options = [("text", self.text), ("steps", self.steps)];
        self.refuse(&options, ("OpenVLA", "leave it out: it is for pi0 and pi0.5"))?;
        if self.chunk.is_none() {
            let what = ("OpenVLA with one image", "give --chunk for OpenVLA-OFT");
            self.refuse(&[("images", self.images)], what)?;
            // Its config.json is OpenVLA's: only what lies beside it tells.
            let folder = self.config.parent().and_then(|folder| sign_of_oft(folder).ok());
            if let Some(sign) = folder.flatten() {
                eprintln!(
                    "openvla plan: {} is of OpenVLA-OFT, by {sign}, and this is the plan of \
                    OpenVLA's answer token by token: give --chunk, --images and --state-dim",
                    self.config.display()
                );
            }
        }
        let config = OpenVlaConfig::from_json(&self.config, bytes)?;
        let mut assumptions = match self.chunk {
            Some(chunk) => {
                let (action_dim, state_dim) = (self.action_dim as usize, self.state_dim as usize);
                let pass = OnePass { chunk: chunk as usize, action_dim, state_dim };
                Assumptions::one_pass(&config, self.images.unwrap_or(1) as usize, pass)
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
        Ok(Planned::new(&config, self.mesh, policy, assumptions))
    }

    /// A plan of pi0 or pi0.5.
    fn flow(&self, bytes: &[u8], policy: PrecisionPolicy) -> Result<Planned, CliError> {
        let options = [("positions", self.positions), ("chunk", self.chunk)];
        self.refuse(&options, ("pi0 or pi0.5", "give --images and --text"))?;
        let config = Pi0Config::from_json(&self.config, bytes)?;
        let text = if config.kind == Pi0Kind::Pi0 { 20 } else { 64 };
        let number = |given: Option<u32>, default| given.map_or(default, |given| given as usize);
        let flow = Flow {
            cameras: number(self.images, config.real_cameras().count().max(1)),
            text: number(self.text, text),
            steps: number(self.steps, config.num_inference_steps),
        };
        let assumptions = Assumptions::flow(&config, flow);
        Ok(Planned::flow(&config, self.mesh, policy, assumptions, flow))
    }

    /// Refuses options that do not fit the checkpoint.
    fn refuse(
        &self,
        options: &[(&str, Option<u32>)],
        (kind, remedy): (&'static str, &'static str),
    ) -> Result<(), CliError> {
        match options.iter().find_map(|(name, given)| given.map(|given| (name, given))) {
            None => Ok(()),
            Some((option, value)) => Err(CliError::PlanOption {
                option: (*option).to_string(),
                value,
                path: self.config.clone(),
                kind,
                remedy,
            }),
        }
    }

    pub(super) fn run(self) -> Result<(), CliError> {
        let failed = |reason: String| CliError::Config { path: self.config.clone(), reason };
        let size =
            std::fs::metadata(&self.config).map_err(|error| failed(error.to_string()))?.len();
        if size > MAX_CONFIG_BYTES {
            return Err(failed(format!("{size} bytes; at most {MAX_CONFIG_BYTES} are read")));
        }
        let bytes = std::fs::read(&self.config).map_err(|error| failed(error.to_string()))?;
        let policy = PrecisionPolicy::load(&self.precision)
            .map_err(vla_inference::policy::PolicyLoadError::from)?;
        let plan = match kind(&bytes).as_deref() {
            Some("pi0" | "pi05") => self.flow(&bytes, policy)?,
            _ => self.tokens(&bytes, policy)?,
        };
        if self.json {
            show_json(&plan)?
        } else {
            show(&plan)?
        }
        match plan.memory.shortfall() {
            None => Ok(()),
            Some(bytes) => Err(CliError::NoRoom {
                mesh: plan.mesh.to_string(),
                precision: plan.policy.name.clone(),
                needed: plan.memory.total() as f64 / GIB,
                capacity: plan.memory.capacity as f64 / GIB,
                shortfall: bytes as f64 / GIB,
            }),
        }
    }
}

/// The `type` of a LeRobot config.json.
fn kind(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Kind {
        r#type: String,
    }
    serde_json::from_slice::<Kind>(bytes).ok().map(|kind| kind.r#type)
}

fn show(plan: &Planned) -> Result<(), CliError> {
    let chips = plan.mesh.chips();
    print(&format!(
        "{}: {chips} chip{}, precision {}",
        plan.mesh,
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
        "\nstage         times     GFLOP   MB read   MB sent   flop ms    mem ms    ccl ms  \
        roofline   ops predicted ms (of one chip, one pass)",
    )?;
    for stage in &plan.stages {
        let (operations, predicted) = (stage.operations, stage.predicted);
        print(&format!(
            "{:<13} {:>5} {:>9.1} {:>9.1} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>5} {:>6.1} \
            ({:.1} to {:.1})",
            stage.name,
            stage.count,
            stage.flop / 1e9,
            stage.bytes / 1e6,
            stage.sent / 1e6,
            stage.flop_ms,
            stage.memory_ms,
            stage.collective_ms,
            stage.ms(),
            operations.launches + operations.within,
            predicted.likely,
            predicted.low,
            predicted.high
        ))?;
    }
    let answer = match (plan.assumptions.one_pass, plan.assumptions.flow) {
        (Some(pass), _) => format!("chunk of {}", pass.chunk),
        (None, Some(_)) => "chunk".to_owned(),
        (None, None) => "action".to_owned(),
    };
    let predicted = plan.predicted();
    print(&format!(
        "predicted: {:.0} ms per {answer} ({:.0} to {:.0}), {:.1} Hz ({:.1} to {:.1}), from \
        published figures of comparable models",
        predicted.likely,
        predicted.low,
        predicted.high,
        plan.hz(),
        1e3 / predicted.high,
        1e3 / predicted.low
    ))?;
    print(&format!(
        "roofline: {:.1} ms per {answer}; {} operations captured, {} of TT-NN",
        plan.total_ms(),
        plan.launches(),
        plan.operations()
    ))?;
    if plan.assumptions.flow.is_some() {
        for (board, ms, source) in PUBLISHED {
            print(&format!(
                "published: {ms:.1} ms per chunk of pi0, two cameras, on {board} ({source})"
            ))?;
        }
    }
    print("\nassumed (nothing here was measured on silicon):")?;
    for line in plan.assumptions.lines(&plan.policy, plan.mesh) {
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
    /// By the roofline.
    roofline_ms: f64,
    predicted_ms: Bounds,
    /// Expected.
    hz: f64,
    /// As the backend captures them.
    launches: usize,
    /// Of TT-NN.
    operations: usize,
    assumptions: Vec<String>,
}

#[derive(Serialize)]
struct StageSummary<'a> {
    name: &'a str,
    count: usize,
    launches: usize,
    operations: usize,
    flop: f64,
    bytes: f64,
    sent: f64,
    flop_ms: f64,
    memory_ms: f64,
    collective_ms: f64,
    roofline_ms: f64,
    predicted_ms: Bounds,
}

/// Milliseconds.
#[derive(Serialize)]
struct Bounds {
    low: f64,
    likely: f64,
    high: f64,
}

impl From<Span> for Bounds {
    fn from(Span { low, likely, high }: Span) -> Self {
        Self { low, likely, high }
    }
}

fn show_json(plan: &Planned) -> Result<(), CliError> {
    print_json(&Summary {
        mesh: plan.mesh.to_string(),
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
                launches: stage.operations.launches,
                operations: stage.operations.launches + stage.operations.within,
                flop: stage.flop,
                bytes: stage.bytes,
                sent: stage.sent,
                flop_ms: stage.flop_ms,
                memory_ms: stage.memory_ms,
                collective_ms: stage.collective_ms,
                roofline_ms: stage.ms(),
                predicted_ms: stage.predicted.into(),
            })
            .collect(),
        roofline_ms: plan.total_ms(),
        predicted_ms: plan.predicted().into(),
        hz: plan.hz(),
        launches: plan.launches(),
        operations: plan.operations(),
        assumptions: plan.assumptions.lines(&plan.policy, plan.mesh),
    })
}
