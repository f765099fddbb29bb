//! `openvla eval`, `openvla eval merge`, `openvla eval compare`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use rosbag2_reader::align::ActionMatch;
use vla_eval::limits::{self, LimitsSettings};
use vla_eval::{
    EvalError, PolicySettings, Report, RunOptions, Settings, Shard, compare, evaluate, merge,
    write_all,
};
use vla_inference::policy::{
    DecodeMode, Device, MeshChoices, PolicyOptions, PolicySource, Precision, load_policy,
};

/// Judge a checkpoint on recordings: metrics, plots and a report. With --expert: judge a robot
/// file's limits on the recorded actions.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Eval {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    replay: Replay,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Join the shards of one evaluation
    Merge(Merge),
    /// Put two evaluations side by side: checkpoints, devices or precisions
    Compare(Compare),
}

#[derive(Args, Debug)]
struct Replay {
    /// rosbag2 folder, or a .mcap or .db3 file (.zstd allowed); several are several episodes
    #[arg(long, required = true, num_args = 1.., value_name = "DIR|FILE")]
    bag: Vec<PathBuf>,
    /// Topic of the camera: sensor_msgs/Image or CompressedImage
    #[arg(long, required_unless_present = "expert", value_name = "T")]
    image_topic: Option<String>,
    /// What the robot should do
    #[arg(long, value_name = "TEXT", conflicts_with = "instruction_topic")]
    instruction: Option<String>,
    /// Recorded instruction: std_msgs/String
    #[arg(long, value_name = "T")]
    instruction_topic: Option<String>,
    /// Recorded actions: TwistStamped, openvla_tt_msgs/Action or Float64MultiArray
    #[arg(long, value_name = "T")]
    action_topic: Option<String>,
    /// Recorded gripper command beside TwistStamped: std_msgs/Float64, 0 closed to 1 open
    #[arg(long, value_name = "T")]
    gripper_topic: Option<String>,
    /// Which action belongs to an image: exact, next, nearest or latest; default exact for Action,
    /// else next
    #[arg(long = "match", value_name = "HOW", value_parser = parse_match)]
    action_match: Option<ActionMatch>,
    /// How far an action may lie from its image; default one policy period
    #[arg(long, value_name = "MS", value_parser = positive)]
    tolerance_ms: Option<f64>,
    /// Rate of the policy; a recorded twist divided by it is a step
    #[arg(long, default_value = "5", value_name = "HZ", value_parser = positive)]
    policy_hz: f64,
    /// Evaluate every N-th image
    #[arg(long, default_value = "1", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Evaluate at most N images of each bag
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Evaluate part i of n, i from 0 to n - 1; join the parts with `eval merge`
    #[arg(long, default_value = "0/1", value_name = "i/n")]
    shard: Shard,
    /// Above it a gripper counts as open
    #[arg(long, default_value = "0.5", value_name = "X")]
    gripper_threshold: f64,
    /// Folder for report.json, actions.csv, plots and report.html; an interrupted evaluation in it
    /// goes on
    #[arg(long, required = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Begin anew although --out holds an evaluation
    #[arg(long)]
    overwrite: bool,
    /// Checkpoint folder in Hugging Face's layout
    #[arg(long, env = "OPENVLA_WEIGHTS", value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Which statistics to un-normalise with; needed unless the checkpoint has exactly one set
    #[arg(long, value_name = "K")]
    unnorm_key: Option<String>,
    /// full: greedy over the whole vocabulary, as the official code; actions: over the action
    /// tokens only
    #[arg(long, default_value = "full")]
    decode: DecodeMode,
    /// Try the last action's tokens as the next: the same tokens in fewer steps
    #[arg(long)]
    draft: bool,
    /// On a mesh: keep packed weights in this folder; the next start with the same checkpoint, mesh
    /// and precision is quicker
    #[arg(long, value_name = "DIR")]
    weight_cache: Option<PathBuf>,
    /// cpu, sim:n150, sim:n300, sim:t3k, tt:n150, tt:n300 or tt:t3k
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16, mixed, bfp8 or a YAML file; default f32 on the CPU, mixed on a mesh
    #[arg(long)]
    precision: Option<Precision>,
    /// Worker threads of the CPU backend; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    /// Print report.json on stdout and nothing else there
    #[arg(long)]
    json: bool,
    /// No policy: replay the recorded actions through the control core, and say what its limits
    /// change; writes expert.json and limits.html. --checkpoint then only gives the statistics'
    /// envelope
    #[arg(long, requires_all = ["robot_file", "policy_file", "action_topic"], help_heading = "Recorded actions within limits")]
    expert: bool,
    /// The limits: a file as in config/robots/
    #[arg(
        long,
        value_name = "FILE",
        requires = "expert",
        help_heading = "Recorded actions within limits"
    )]
    robot_file: Option<PathBuf>,
    /// What the actions' numbers mean: a file as in config/policies/
    #[arg(
        long,
        value_name = "FILE",
        requires = "expert",
        help_heading = "Recorded actions within limits"
    )]
    policy_file: Option<PathBuf>,
    /// Recorded pose of the end effector, geometry_msgs/PoseStamped; without it the workspace is
    /// not looked at
    #[arg(
        long,
        value_name = "T",
        requires = "expert",
        help_heading = "Recorded actions within limits"
    )]
    pose_topic: Option<String>,
}

#[derive(Args, Debug)]
struct Merge {
    /// Output folders of the shards
    #[arg(required = true, value_name = "DIR")]
    parts: Vec<PathBuf>,
    /// Folder for the joined report
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Join what is there although shards are missing or incomplete
    #[arg(long)]
    partial: bool,
    /// Print report.json on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct Compare {
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

fn parse_match(text: &str) -> Result<ActionMatch, String> {
    match text {
        "exact" => Ok(ActionMatch::Exact),
        "next" => Ok(ActionMatch::Next),
        "nearest" => Ok(ActionMatch::Nearest),
        "latest" => Ok(ActionMatch::Latest),
        other => {
            Err(format!("'{other}' is not a way to match; use exact, next, nearest or latest"))
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let value: Option<f64> =
        text.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| format!("'{text}' is not a positive number"))
}

impl Eval {
    /// Runs it. An incomplete evaluation is an error, after its report is written.
    ///
    /// # Errors
    /// In one line that names the file, the value and the remedy.
    pub fn run(self) -> Result<(), EvalError> {
        match self.command {
            None => self.replay.run(),
            Some(Command::Merge(merge)) => merge.run(),
            Some(Command::Compare(compare)) => compare.run(),
        }
    }
}

impl Replay {
    /// `--expert`
    fn run_expert(&self, out: &std::path::Path) -> Result<(), EvalError> {
        let missing =
            |what: &str| EvalError::Usage(format!("no {what} given; see openvla eval --help"));
        let settings = LimitsSettings {
            bags: self.bag.clone(),
            action_topic: self.action_topic.clone().ok_or_else(|| missing("--action-topic T"))?,
            gripper_topic: self.gripper_topic.clone(),
            pose_topic: self.pose_topic.clone(),
            robot: self.robot_file.clone().ok_or_else(|| missing("--robot-file FILE"))?,
            policy_file: self.policy_file.clone().ok_or_else(|| missing("--policy-file FILE"))?,
            checkpoint: self.checkpoint.clone(),
            unnorm_key: self.unnorm_key.clone(),
        };
        let report = limits::replay(&settings, out)?;
        if self.json {
            print(&serde_json::to_string(&report).map_err(EvalError::result(out))?)?;
        } else {
            for warning in &report.warnings {
                eprintln!("openvla eval: {warning}");
            }
            for line in limits::lines(&report) {
                print(&line)?;
            }
            print(&format!("{}", out.join("limits.html").display()))?;
        }
        match report.incomplete.first() {
            None => Ok(()),
            Some(reason) => Err(EvalError::Usage(format!("incomplete: {reason}"))),
        }
    }

    fn run(self) -> Result<(), EvalError> {
        let missing =
            |what: &str| EvalError::Usage(format!("no {what} given; see openvla eval --help"));
        let out = self.out.clone().ok_or_else(|| missing("--out DIR"))?;
        if self.expert {
            return self.run_expert(&out);
        }
        let image_topic = self.image_topic.clone().ok_or_else(|| missing("--image-topic T"))?;
        let checkpoint = self.checkpoint.clone();
        let checkpoint = checkpoint.ok_or_else(|| {
            EvalError::Usage(
                "no checkpoint given; pass --checkpoint DIR or set OPENVLA_WEIGHTS".to_owned(),
            )
        })?;
        let mut policy = load_policy(PolicySource {
            checkpoint: &checkpoint,
            device: self.device,
            precision: self.precision.as_ref(),
            threads: self.threads,
            mesh: MeshChoices { weight_cache: self.weight_cache.clone(), ..MeshChoices::default() },
            options: PolicyOptions {
                unnorm_key: self.unnorm_key.clone(),
                decode: self.decode,
                draft: self.draft,
                ..PolicyOptions::default()
            },
        })?;
        let info = policy.info();
        let decode = match self.decode {
            DecodeMode::Full => "full",
            DecodeMode::Actions => "actions",
        };
        let settings = Settings {
            bags: self.bag.clone(),
            image_topic,
            instruction: self.instruction.clone(),
            instruction_topic: self.instruction_topic.clone(),
            action_topic: self.action_topic.clone(),
            gripper_topic: self.gripper_topic.clone(),
            action_match: self.action_match,
            tolerance_ms: self.tolerance_ms,
            policy_hz: self.policy_hz,
            every: self.every,
            limit: self.limit,
            shard: self.shard,
            gripper_threshold: self.gripper_threshold,
            policy: PolicySettings {
                checkpoint,
                unnorm_key: info.unnorm_key.clone(),
                action_dim: info.action_dim,
                device: self.device.to_string(),
                precision: info.precision.clone(),
                decode: decode.to_owned(),
            },
        };
        let stop = stop_on_interrupt();
        let options = RunOptions { overwrite: self.overwrite, quiet: self.quiet };
        let evaluated = evaluate(policy.as_mut(), &settings, &out, options, &stop)?;
        let report = &evaluated.report;
        if evaluated.pairs.is_empty() && !evaluated.interrupted {
            return Err(nothing(report));
        }
        write_all(&out, report, &evaluated.pairs)?;
        print_report(report, &out, self.json)?;
        if evaluated.interrupted {
            return Err(EvalError::Interrupted { done: evaluated.pairs.len(), out });
        }
        complete(report)
    }
}

impl Merge {
    fn run(self) -> Result<(), EvalError> {
        let report = merge(&self.parts, &self.out, self.partial)?;
        print_report(&report, &self.out, self.json)
    }
}

impl Compare {
    fn run(self) -> Result<(), EvalError> {
        let comparison = compare(&self.a, &self.b, &self.out)?;
        if self.json {
            return print(
                &serde_json::to_string(&comparison).map_err(EvalError::result(&self.out))?,
            );
        }
        let percent = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
        };
        print(&format!(
            "{} frames: {} of the tokens and {} of the actions are the same",
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

/// A flag that Ctrl-C raises. A second one ends the process as usual.
fn stop_on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    // Without a handler Ctrl-C kills, and the journal still holds every finished frame.
    if let Ok(mut signals) = Signals::new([SIGINT]) {
        std::thread::spawn(move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!(
                    "openvla eval: stopping after this frame; press Ctrl-C again to stop at once"
                );
            }
        });
    }
    stop
}

/// The error for an evaluation without a frame.
fn nothing(report: &Report) -> EvalError {
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

fn complete(report: &Report) -> Result<(), EvalError> {
    match report.incomplete.first() {
        None => Ok(()),
        Some(reason) => Err(EvalError::Usage(format!("incomplete: {reason}"))),
    }
}

fn print_report(report: &Report, out: &std::path::Path, json: bool) -> Result<(), EvalError> {
    if json {
        return print(&serde_json::to_string(report).map_err(EvalError::result(out))?);
    }
    for warning in &report.warnings {
        eprintln!("openvla eval: {warning}");
    }
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.6}"));
    let share = |value: Option<f64>| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} %", value * 100.0))
    };
    print(&format!(
        "{} frames evaluated, {} with a recorded action, {} without an answer",
        report.frames.evaluated, report.frames.matched, report.frames.failed
    ))?;
    if report.overall.frames > 0 {
        print("dimension          MAE        RMSE  bins off  exact tokens")?;
        for d in &report.overall.dimensions {
            print(&format!(
                "{:<9} {:>12} {:>11} {:>9} {:>13}",
                d.name,
                number(d.mae),
                number(d.rmse),
                d.bin_distance.map_or_else(|| "-".to_owned(), |bins| format!("{bins:.2}")),
                share(d.token_accuracy)
            ))?;
        }
        let f1 = report.overall.gripper.as_ref().and_then(|gripper| gripper.f1);
        print(&format!(
            "token accuracy {}, gripper F1 {}",
            share(report.overall.token_accuracy),
            number(f1)
        ))?;
    }
    if let Some(total) = report.latency_ms.get("total") {
        print(&format!(
            "ms per inference: median {:.1}, p95 {:.1}, p99 {:.1}",
            total.p50, total.p95, total.p99
        ))?;
    }
    print(&format!("{}", out.join("report.html").display()))
}

/// A line on stdout; a reader that closed the pipe has what it wanted.
fn print(text: &str) -> Result<(), EvalError> {
    use std::io::Write;
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(EvalError::io("write to", std::path::Path::new("stdout"))(error))
        }
        _ => Ok(()),
    }
}
