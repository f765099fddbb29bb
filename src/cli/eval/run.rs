//! `openvla eval run`: a policy on recorded images.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use super::datasets::{DatasetArgs, names_dataset};
use super::remote::RemoteArgs;
use super::{check_complete, print_report, shards};
use crate::cli::options::{CheckpointArgs, DecodeArgs, DeviceArgs, LoadError, PolicyFileArgs};
use crate::cli::recordings::{BagArgs, parse_match, positive};
use crate::preparation;
use rosbag2_reader::align::ActionMatch;
use vla_config::PolicyFile;
use vla_eval::{
    EvalError, Evaluated, ObservationRules, PolicySettings, Report, RunOptions, ServerSettings,
    Settings, Shard, evaluate_from, is_complete, write_all,
};
use vla_inference::policy::{ContinuationMode, DecodeMode, Policy, PolicyInfo};

/// Environment variable with the checkpoint's folder.
const CHECKPOINT_VARIABLE: &str = "OPENVLA_WEIGHTS";

/// Seed of every frame's noise unless another is given.
const SEED: u64 = 0;

/// Rate of a policy unless another is given, hertz.
pub(crate) const POLICY_HZ: f64 = 5.0;

/// Run a policy on recorded images: metrics, plots and a report.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    bags: BagArgs,
    #[command(flatten)]
    dataset: DatasetArgs,
    #[command(flatten)]
    frames: FrameArgs,
    /// The gripper is open above this value
    #[arg(long, default_value = "0.5", value_name = "X")]
    gripper_threshold: f64,
    /// Folder for report.json, actions.csv, plots and report.html; an interrupted evaluation in it
    /// is resumed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Start again although --out contains an evaluation
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    policy_file: PolicyFileArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Evaluate the parts that standard input names, `i/n` in a line each, with a policy that is
    /// loaded once; each goes into the folder i in --out, and complete ones are left as they are.
    /// Prints a line of JSON on stdout for each
    #[arg(long, conflicts_with_all = ["shard", "json", "overwrite"])]
    shards_on_stdin: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    /// Print report.json on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// Which frames are evaluated, and which recorded action belongs to a frame.
#[derive(Args, Debug)]
struct FrameArgs {
    /// Which action belongs to an image: exact, next, nearest or latest; default exact for Action,
    /// else next
    #[arg(long = "match", value_name = "HOW", value_parser = parse_match)]
    action_match: Option<ActionMatch>,
    /// Largest time between image and action; default one policy period
    #[arg(long, value_name = "MS", value_parser = positive)]
    tolerance_ms: Option<f64>,
    /// Rate of the policy; a recorded twist divided by it is a step [default: 5; of a dataset its
    /// fps]
    #[arg(long, value_name = "HZ", value_parser = positive)]
    policy_hz: Option<f64>,
    /// Evaluate every N-th image
    #[arg(
        long,
        default_value = "1",
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    every: u64,
    /// Evaluate at most N images of each bag
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Evaluate part i of n, i from 0 to n - 1; join the parts with `openvla eval merge`
    #[arg(long, default_value = "0/1", value_name = "i/n")]
    shard: Shard,
}

/// The cameras in the policy's order, where each is given once; else as given.
fn in_order(mut given: Vec<(String, String)>, info: &PolicyInfo) -> Vec<(String, String)> {
    let place = |name: &str| info.cameras.iter().position(|camera| **camera == *name);
    given.sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
    given
}

impl Run {
    pub(super) fn run(self: Box<Self>) -> Result<(), EvalError> {
        let file = self.policy_file.load()?;
        let preparation = preparation::rule(file.as_ref()).map_err(LoadError::from)?;
        let mut rules = ObservationRules::default();
        if let Some(file) = &file {
            rules.spread_s = file.observation_spread_s.unwrap_or(rules.spread_s);
            rules.state.clone_from(&file.state);
        }
        // Before the policy is loaded, which takes longer.
        if !self.bags.bag.iter().any(|path| names_dataset(path)) {
            self.bags.need_camera()?;
        }
        let (mut policy, from) = self.policy(file.as_ref())?;
        let mut settings = self.settings(from, policy.info(), preparation.to_string());
        if let Some(seed) = policy.next_seed() {
            let stated = file.as_ref().and_then(|file| file.flow.euler_steps);
            let steps = self.decode.flow.steps.map(|steps| steps as u64).or(stated.map(u64::from));
            let steps = steps.map_or("the checkpoint's".to_owned(), |steps| steps.to_string());
            settings.policy.decode = format!("flow, {steps} Euler steps, seed {seed}");
        }
        self.dataset.apply(&mut settings, policy.info(), self.frames.policy_hz)?;
        let stop = stop_on_interrupt();
        let options = RunOptions { overwrite: self.overwrite, quiet: self.quiet };
        if !self.shards_on_stdin {
            let out = self.out.as_path();
            let evaluated = evaluate_from(policy.as_mut(), &settings, &rules, out, options, &stop)?;
            write(&evaluated, out)?;
            print_report(&evaluated.report, out, self.json)?;
            return outcome(evaluated, out);
        }
        shards::run(&stop, |shard| {
            let out = self.out.join(shard.index.to_string());
            let settings = Settings { shard, ..settings.clone() };
            if is_complete(&out, &settings) {
                return Ok(Report::read(&out)?.frames.evaluated);
            }
            // As for a run of its own: the first seed, and no chunk to continue.
            policy.restart();
            let evaluated =
                evaluate_from(policy.as_mut(), &settings, &rules, &out, options, &stop)?;
            write(&evaluated, &out)?;
            let frames = evaluated.report.frames.evaluated;
            outcome(evaluated, &out).map(|()| frames)
        })
    }

    /// The checkpoint's policy, loaded, or the server's.
    fn policy(
        &self,
        file: Option<&PolicyFile>,
    ) -> Result<(Box<dyn Policy>, PolicyOrigin), EvalError> {
        // The environment's checkpoint is for the commands without a server.
        let environments = std::env::var_os(CHECKPOINT_VARIABLE).map(PathBuf::from);
        let given = self.checkpoint.checkpoint.is_some();
        if self.remote.is_given() && given && self.checkpoint.checkpoint != environments {
            let line = "--remote evaluates a server's policy, --checkpoint one that is run here; \
                        remove one";
            return Err(EvalError::Usage(line.to_owned()));
        }
        if let Some((policy, server)) = self.remote.open(file, self.decode.unnorm_key.as_deref())? {
            return Ok((policy, PolicyOrigin::Server(server)));
        }
        let folder =
            self.checkpoint.folder().map_err(|error| EvalError::Usage(error.to_string()))?;
        let mut decode = self.decode.clone();
        if decode.flow.rtc != ContinuationMode::None {
            let line = "--rtc continues the chunk that a robot is executing; an evaluation asks \
                        for every frame alone: leave it out";
            return Err(EvalError::Usage(line.to_owned()));
        }
        decode.flow.seed.get_or_insert(SEED);
        let policy = self.device.load_with(&folder, decode, file)?;
        Ok((policy, PolicyOrigin::Checkpoint(folder)))
    }

    fn settings(
        &self,
        from: PolicyOrigin,
        info: &PolicyInfo,
        image_preparation: String,
    ) -> Settings {
        let (checkpoint, server) = match from {
            PolicyOrigin::Checkpoint(folder) => (folder, None),
            PolicyOrigin::Server(server) => (PathBuf::new(), Some(server)),
        };
        let (bags, frames) = (&self.bags, &self.frames);
        let decode = match (&server, self.decode.decode) {
            (Some(_), _) => "the server's",
            (None, DecodeMode::Full) => "full",
            (None, DecodeMode::Actions) => "actions",
        };
        let device = match &server {
            Some(server) => server.address.clone(),
            None => self.device.device.to_string(),
        };
        let cameras = in_order(bags.camera.clone(), info);
        let first = cameras.first().map(|(_, topic)| topic.clone());
        Settings {
            bags: bags.bag.clone(),
            image_topic: bags.image_topic.clone().or(first).unwrap_or_default(),
            cameras,
            state_topics: bags.state_topic.clone(),
            state_feature: None,
            instruction: bags.instruction.clone(),
            instruction_topic: bags.instruction_topic.clone(),
            action_topic: bags.action_topic.clone(),
            gripper_topic: bags.gripper_topic.clone(),
            action_match: frames.action_match,
            tolerance_ms: frames.tolerance_ms,
            policy_hz: frames.policy_hz.unwrap_or(POLICY_HZ),
            every: frames.every,
            limit: frames.limit,
            shard: frames.shard,
            gripper_threshold: self.gripper_threshold,
            policy: PolicySettings {
                checkpoint,
                server,
                unnorm_key: info.unnorm_key.clone(),
                action_dim: info.action_dim,
                device,
                precision: info.precision.clone(),
                image_preparation,
                decode: decode.to_owned(),
            },
        }
    }
}

/// Where a policy comes from.
enum PolicyOrigin {
    Checkpoint(PathBuf),
    Server(ServerSettings),
}

/// Writes the report of an evaluation.
fn write(evaluated: &Evaluated, out: &Path) -> Result<(), EvalError> {
    if evaluated.pairs.is_empty() && !evaluated.interrupted {
        return Err(nothing_evaluated(&evaluated.report));
    }
    write_all(out, &evaluated.report, &evaluated.pairs)
}

/// What is missing from an evaluation, as an error.
fn outcome(evaluated: Evaluated, out: &Path) -> Result<(), EvalError> {
    if evaluated.interrupted {
        return Err(EvalError::Interrupted { done: evaluated.pairs.len(), out: out.to_owned() });
    }
    check_complete(&evaluated.report.incomplete)?;
    match evaluated.unmatched {
        Some(why) => Err(EvalError::Unmatched(why)),
        None => Ok(()),
    }
}

/// A flag that Ctrl-C sets. A second Ctrl-C ends the process at once.
pub(crate) fn stop_on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    // Without a handler Ctrl-C ends the process; the journal holds every finished frame.
    if let Ok(mut signals) = Signals::new([SIGINT]) {
        std::thread::spawn(move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("openvla: stopping after this frame; press Ctrl-C again to stop at once");
            }
        });
    }
    stop
}

/// The error for an evaluation without a frame.
fn nothing_evaluated(report: &Report) -> EvalError {
    let skipped: Vec<String> =
        report.frames.skipped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let why = match (report.incomplete.first(), report.frames.images) {
        (Some(reason), _) => reason.clone(),
        (None, 0) => "the topic has no image".to_owned(),
        (None, images) if skipped.is_empty() => {
            format!("--every, --limit and --shard leave none of {images} images")
        }
        (None, images) => {
            format!("of {images} images {}; {}", skipped.join(", "), report.warnings.join("; "))
        }
    };
    EvalError::Nothing { topic: report.settings.image_topic.clone(), why }
}
