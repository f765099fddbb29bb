//! The `openvla` command line. Exit status: 0 done, 1 the request failed, 2 wrong usage. Errors are
//! one line on stderr.

mod bench;
pub mod eval;
mod inspect;
mod plan;
mod predict;
mod replay;
mod selfcheck;
mod sensitivity;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use vla_inference::backend::tt::Kernels;
use vla_inference::policy::{
    DecodeMode, Device, MeshChoices, Policy, PolicyOptions, PolicySource, Precision, load_policy,
};

/// Vision-language-action policies on Tenstorrent meshes and CPUs.
#[derive(Parser)]
#[command(name = "openvla", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One action from one image and one instruction
    Predict(predict::Predict),
    /// What a checkpoint folder holds, and whether it is complete
    Inspect(inspect::Inspect),
    /// Run a golden kit and compare every stage with the official code's numbers
    Selfcheck(selfcheck::Selfcheck),
    /// Time every stage of an inference
    Bench(bench::Bench),
    /// What a model would need of a mesh and how fast it would be, from its config.json alone
    Plan(plan::Plan),
    /// Whether answers depend on the image and on the instruction, on every device and in every
    /// precision
    Sensitivity(sensitivity::Sensitivity),
    /// Publish a bag's observations on ROS 2 again, for a live run of the node on recorded data
    Replay(replay::Replay),
    /// Judge a checkpoint on recordings: metrics, plots and a report
    Eval(Box<crate::cli::eval::Eval>),
}

/// Options that most commands share.
#[derive(Args, Clone, Debug)]
struct Common {
    /// Checkpoint folder in Hugging Face's layout
    #[arg(long, env = "OPENVLA_WEIGHTS", value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// cpu, sim:n150, sim:n300, sim:t3k, tt:n150, tt:n300 or tt:t3k
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16, mixed, bfp8 or a YAML file; default f32 on the CPU, mixed on a mesh
    #[arg(long)]
    precision: Option<Precision>,
    /// Worker threads of the CPU backend; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// On a mesh: custom (our own kernels) or ttnn (TT-NN's operations) cut patches and choose
    /// tokens
    #[arg(long, default_value = "custom")]
    kernels: Kernels,
    /// On a mesh: keep packed weights in this folder; the next start with the same checkpoint, mesh
    /// and precision is quicker
    #[arg(long, value_name = "DIR")]
    weight_cache: Option<PathBuf>,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// Options of commands that ask a policy.
#[derive(Args, Clone, Debug)]
struct Asking {
    /// Which statistics to un-normalise with; needed unless the checkpoint has exactly one set
    #[arg(long, value_name = "K")]
    unnorm_key: Option<String>,
    /// full: greedy over the whole vocabulary, as the official code; actions: over the action
    /// tokens only, which a checkpoint with random weights needs
    #[arg(long, default_value = "full")]
    decode: DecodeMode,
    /// Try the last action's tokens as the next: the same tokens in fewer steps
    #[arg(long)]
    draft: bool,
    /// On a mesh: do every operation from the host instead of replaying a recording
    #[arg(long)]
    eager: bool,
}

/// What can go wrong in a command.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Policy(#[from] vla_inference::policy::PolicyError),
    #[error(transparent)]
    Eval(#[from] vla_eval::EvalError),
    #[error(transparent)]
    Checkpoint(#[from] vla_inference::checkpoint::CheckpointError),
    #[error(transparent)]
    Image(#[from] vla_inference::observation::ImageError),
    #[error(transparent)]
    Instruction(#[from] vla_inference::policy::InstructionError),
    #[error(transparent)]
    Backend(#[from] vla_inference::backend::BackendError),
    #[error(transparent)]
    Load(#[from] vla_inference::policy::PolicyLoadError),
    #[error("no checkpoint given; pass --checkpoint DIR or set OPENVLA_WEIGHTS")]
    NoCheckpoint,
    #[error(transparent)]
    Kit(#[from] vla_inference::golden::KitError),
    #[error(transparent)]
    Check(#[from] vla_inference::golden::CheckError),
    #[error(
        "answers depend less on image or instruction than the float32 reference's: {0}; use a \
        finer precision"
    )]
    Insensitive(String),
    #[error("selfcheck: {0}")]
    Bounds(String),
    #[error("{}: {reason}; give the path of a checkpoint's config.json", path.display())]
    Config { path: PathBuf, reason: String },
    #[error(
        "{precision} does not fit {mesh}: {needed:.2} GiB per chip of {capacity:.2}, \
        {shortfall:.2} GiB too many; use a smaller precision (bfp8) or more chips"
    )]
    NoRoom { mesh: String, precision: String, needed: f64, capacity: f64, shortfall: f64 },
    #[cfg(not(feature = "ros"))]
    #[error(
        "this build has no ROS 2; build it with `tools/ros/run cargo build --release --features \
        ros --bin openvla`"
    )]
    NoRos,
    #[cfg(feature = "ros")]
    #[error(transparent)]
    Replay(#[from] crate::ros::ReplayError),
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Common {
    fn checkpoint(&self) -> Result<&PathBuf, CliError> {
        self.checkpoint.as_ref().ok_or(CliError::NoCheckpoint)
    }

    fn mesh(&self) -> MeshChoices {
        MeshChoices { kernels: self.kernels, weight_cache: self.weight_cache.clone() }
    }

    fn policy(&self, asking: Asking) -> Result<Box<dyn Policy>, CliError> {
        let Asking { unnorm_key, decode, draft, eager } = asking;
        Ok(load_policy(PolicySource {
            checkpoint: self.checkpoint()?,
            device: self.device,
            precision: self.precision.as_ref(),
            threads: self.threads,
            mesh: self.mesh(),
            options: PolicyOptions { unnorm_key, decode, draft, eager, ..Default::default() },
        })?)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Predict(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Selfcheck(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Sensitivity(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Eval(command) => command.run().map_err(CliError::from),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that closed the pipe has what it wanted.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("openvla: {}", one_line(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Errors of libraries may span lines; users get one.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Prints a line to stdout; unlike `println!` a closed pipe is an error, not a panic.
fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(())
}
