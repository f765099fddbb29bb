//! `openvla convert`: bags as a LeRobotDataset v3.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};

use super::eval::run::{POLICY_HZ, stop_on_interrupt};
use super::options::PolicyFileArgs;
use super::recordings::{BagArgs, parse_match, positive};
use super::{CliError, print, print_json};
use lerobot_dataset::Number;
use rosbag2_reader::align::ActionMatch;
use vla_eval::{Conversion, Converted, ObservationRules, PolicySettings, Settings, Shard, convert};

/// Convert bags to a LeRobotDataset v3: a row for each image with a recorded action.
#[derive(Args, Debug)]
pub(super) struct Convert {
    #[command(flatten)]
    bags: BagArgs,
    #[command(flatten)]
    policy_file: PolicyFileArgs,
    /// Which action belongs to an image: exact, next, nearest or latest; default exact for Action,
    /// else next
    #[arg(long = "match", value_name = "HOW", value_parser = parse_match)]
    action_match: Option<ActionMatch>,
    /// Largest time between image and action; default one policy period
    #[arg(long, value_name = "MS", value_parser = positive)]
    tolerance_ms: Option<f64>,
    /// Rate of the actions; a recorded twist divided by it is a step [default: the policy file's,
    /// else 5]
    #[arg(long, value_name = "HZ", value_parser = positive)]
    policy_hz: Option<f64>,
    /// Every N-th image becomes a row
    #[arg(
        long,
        default_value = "1",
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    every: u64,
    /// Rows per second of the dataset; default: the rate of the images with an action
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    fps: Option<u32>,
    /// A longer time between two rows begins another episode
    #[arg(long, default_value = "1", value_name = "S", value_parser = positive)]
    longest_gap_s: f64,
    /// Precision of actions and state: float32 for training, float64 without loss
    #[arg(long, default_value = "float32", value_name = "TYPE")]
    dtype: Dtype,
    /// Name of the robot in the dataset
    #[arg(long, value_name = "NAME")]
    robot_type: Option<String>,
    /// Folder for the dataset; new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the numbers as JSON on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// Precision of numbers.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    Float32,
    Float64,
}

impl Convert {
    pub(super) fn run(self: Box<Self>) -> Result<(), CliError> {
        self.bags.need_camera()?;
        let file = self.policy_file.load()?;
        let mut rules = ObservationRules::default();
        let mut action_names = Vec::new();
        let mut rate = POLICY_HZ;
        if let Some(file) = &file {
            rules.spread_s = file.observation_spread_s.unwrap_or(rules.spread_s);
            rules.state.clone_from(&file.state);
            rate = file.policy_hz;
            let joints = file.action.joints();
            action_names = joints.map(|joints| joints.columns.clone()).unwrap_or_default();
        }
        let stop = stop_on_interrupt();
        let conversion = Conversion {
            settings: self.settings(self.policy_hz.unwrap_or(rate)),
            rules,
            action_names,
            fps: self.fps,
            longest_gap_s: self.longest_gap_s,
            number: match self.dtype {
                Dtype::Float32 => Number::F32,
                Dtype::Float64 => Number::F64,
            },
            robot_type: self.robot_type.clone(),
        };
        let stop: &AtomicBool = &stop;
        let converted = convert(&conversion, &self.out, stop)?;
        self.report(&converted)
    }

    fn settings(&self, policy_hz: f64) -> Settings {
        let bags = &self.bags;
        let first = bags.camera.first().map(|(_, topic)| topic.clone());
        Settings {
            bags: bags.bag.clone(),
            image_topic: bags.image_topic.clone().or(first).unwrap_or_default(),
            cameras: bags.camera.clone(),
            state_topics: bags.state_topic.clone(),
            state_feature: None,
            instruction: bags.instruction.clone(),
            instruction_topic: bags.instruction_topic.clone(),
            action_topic: bags.action_topic.clone(),
            gripper_topic: bags.gripper_topic.clone(),
            action_match: self.action_match,
            tolerance_ms: self.tolerance_ms,
            policy_hz,
            every: self.every,
            limit: None,
            shard: Shard::default(),
            gripper_threshold: 0.5,
            // There is none.
            policy: PolicySettings {
                checkpoint: PathBuf::new(),
                server: None,
                unnorm_key: String::new(),
                action_dim: 0,
                device: String::new(),
                precision: String::new(),
                image_preparation: String::new(),
                decode: String::new(),
            },
        }
    }

    fn report(&self, converted: &Converted) -> Result<(), CliError> {
        let Converted { written, fps, left_out, warnings } = converted;
        for warning in warnings {
            eprintln!("openvla convert: {warning}");
        }
        if self.json {
            let left_out: serde_json::Map<String, serde_json::Value> =
                left_out.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
            return print_json(&serde_json::json!({
                "out": self.out, "episodes": written.episodes, "frames": written.frames,
                "tasks": written.tasks, "fps": fps, "left_out": left_out, "warnings": warnings,
            }));
        }
        let of = |count: u64, one: &str| {
            if count == 1 { format!("{count} {one}") } else { format!("{count} {one}s") }
        };
        print(&format!(
            "{}, {}, {} at {fps} Hz",
            of(written.episodes, "episode"),
            of(written.frames, "row"),
            of(written.tasks, "task")
        ))?;
        for (reason, count) in left_out {
            print(&format!("left out: {count} images, {reason}"))?;
        }
        print(&format!("{}", self.out.display()))
    }
}
