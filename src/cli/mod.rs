//! The `openvla` command line. Exit status: 0 done, 1 the request failed, 2 wrong usage. Errors are
//! one line on stderr.

mod bench;
mod convert;
#[cfg(feature = "serve")]
mod dash;
mod doctor;
pub mod eval;
mod inspect;
pub(crate) mod options;
mod plan;
mod predict;
mod recordings;
mod replay;
mod selfcheck;
mod sensitivity;
#[cfg(feature = "serve")]
mod serve;
mod stdout;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use vla_inference::policy::Instruction;
use vla_inference::text::unwrapped;

/// Vision-language-action policies on Tenstorrent meshes and CPUs.
#[derive(Parser)]
#[command(name = "openvla", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One action, or one chunk of actions, from images and an instruction
    Predict(predict::Predict),
    /// Contents of a checkpoint folder, and whether it is complete
    Inspect(inspect::Inspect),
    /// Run a golden kit and compare every stage with the official code's values
    Selfcheck(selfcheck::Selfcheck),
    /// Time every stage of an inference
    Bench(bench::Bench),
    /// Predict a model's memory and speed on a mesh, from its config.json alone
    Plan(plan::Plan),
    /// Measure how much actions depend on images, instruction and state, by device and precision
    Sensitivity(sensitivity::Sensitivity),
    /// Check this machine, its Tenstorrent devices, the ROS environment and the topics of a robot
    Doctor(doctor::Doctor),
    /// Publish a bag's observations on ROS 2, to run the node on recorded data
    Replay(replay::Replay),
    /// Evaluate a checkpoint, or a robot file's limits, on recordings
    Eval(eval::Eval),
    /// Convert bags to a LeRobotDataset v3, to train on recorded demonstrations
    Convert(Box<convert::Convert>),
    /// Serve a policy to clients of OpenVLA's server (POST /act), openpi and vla-eval
    #[cfg(feature = "serve")]
    Serve(serve::Serve),
    /// Operator page of a running node, in the browser
    #[cfg(feature = "serve")]
    Dash(dash::Dash),
}

/// Error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
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
    #[error(transparent)]
    LoadPolicy(#[from] options::LoadError),
    #[error(transparent)]
    CheckpointPath(#[from] options::CheckpointPathError),
    #[error(transparent)]
    Kit(#[from] vla_inference::golden::KitError),
    #[error(transparent)]
    Check(#[from] vla_inference::golden::CheckError),
    #[error(transparent)]
    Pi0Check(#[from] vla_inference::golden::pi0::Pi0CheckError),
    #[error(
        "actions depend on the inputs otherwise than those of the float32 reference: {0}; use a \
        more precise format"
    )]
    Insensitive(String),
    #[error(
        "{}: not a golden kit of a model; give one of OpenVLA, OpenVLA-OFT, pi0 or pi0.5",
        .0.display()
    )]
    NoSensitivity(PathBuf),
    #[error("selfcheck: {0}")]
    Bounds(String),
    #[error("{}: {reason}; give the path of a checkpoint's config.json", path.display())]
    Config { path: PathBuf, reason: String },
    #[error("plan: --{option} {value} does not fit {}, {kind}; {remedy}", path.display())]
    PlanOption {
        option: String,
        value: u32,
        path: PathBuf,
        kind: &'static str,
        remedy: &'static str,
    },
    #[error(
        "{precision} does not fit {mesh}: {needed:.2} GiB per chip of {capacity:.2}, \
        {shortfall:.2} GiB too many; use a smaller precision (bfp8) or more chips"
    )]
    NoRoom { mesh: String, precision: String, needed: f64, capacity: f64, shortfall: f64 },
    #[error("{0} of {1} checks failed; each error's line says what to do")]
    Doctor(usize, usize),
    #[cfg(not(feature = "ros"))]
    #[error(
        "this build has no ROS 2; build it with `tools/ros/run cargo build --release --features \
        ros --bin openvla`"
    )]
    NoRos,
    #[cfg(feature = "ros")]
    #[error(transparent)]
    Replay(#[from] crate::ros::ReplayError),
    #[cfg(feature = "serve")]
    #[error("serve: {0}")]
    Serve(#[from] vla_serve::ServeError),
    #[cfg(all(feature = "serve", feature = "ros"))]
    #[error("dash: {0}")]
    DashServer(vla_serve::ServeError),
    #[cfg(all(feature = "serve", feature = "ros"))]
    #[error("dash: {0}")]
    Dash(#[from] crate::ros::DashError),
    #[cfg(feature = "serve")]
    #[error(
        "serve: --rtc {0} continues the chunk before, which belongs to one robot; leave it out"
    )]
    Continuation(&'static str),
    #[cfg(feature = "serve")]
    #[error(
        "serve: --done-by-client {given}: the image preparation of '{file}' does not begin with \
        that; its steps are {stated}"
    )]
    ImageSteps { given: String, file: String, stated: String },
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    stdout::keep();
    let result = match cli.command {
        Command::Predict(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Selfcheck(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Sensitivity(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Eval(command) => command.run().map_err(CliError::from),
        Command::Convert(command) => command.run(),
        #[cfg(feature = "serve")]
        Command::Serve(command) => command.run(),
        #[cfg(feature = "serve")]
        Command::Dash(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe may close it early, as `head` does.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("openvla: {}", unwrapped(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// The instruction of an option; what is remarkable about it goes to stderr.
fn instruction(text: &str) -> Result<Instruction, CliError> {
    let (instruction, remarks) = Instruction::read(text)?;
    for remark in remarks {
        eprintln!("openvla: {remark}");
    }
    Ok(instruction)
}

/// Prints a line to stdout; unlike `println!` a closed pipe is an error, not a panic.
fn print(text: &str) -> Result<(), CliError> {
    Ok(stdout::write_line(text)?)
}

/// Prints `value` as one line of JSON to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    print(&serde_json::to_string(value).map_err(std::io::Error::from)?)
}
