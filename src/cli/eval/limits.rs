//! `openvla eval limits`: recorded actions through the limits of a robot file.

use std::path::PathBuf;

use clap::Args;

use super::{check_complete, print, print_json, print_warnings};
use vla_eval::EvalError;
use vla_eval::limits::{LimitsSettings, lines, replay};

/// Replay recorded actions through the limits of a robot file, without a policy; writes
/// limits.json and limits.html.
#[derive(Args, Debug)]
pub(super) struct LimitsCommand {
    /// rosbag2 folder, or a .mcap or .db3 file (.zstd allowed); several are several episodes
    #[arg(long, required = true, num_args = 1.., value_name = "DIR|FILE")]
    bag: Vec<PathBuf>,
    /// Recorded actions: TwistStamped, openvla_tt_msgs/Action or Float64MultiArray
    #[arg(long, value_name = "T")]
    action_topic: String,
    /// Recorded gripper command beside TwistStamped: std_msgs/Float64, 0 closed to 1 open
    #[arg(long, value_name = "T")]
    gripper_topic: Option<String>,
    /// Recorded pose of the end effector, geometry_msgs/PoseStamped; without it the workspace
    /// limit is not applied
    #[arg(long, value_name = "T")]
    pose_topic: Option<String>,
    /// The limits: a file as in config/robots/
    #[arg(long, value_name = "FILE")]
    robot_file: PathBuf,
    /// What the actions' numbers mean: a file as in config/policies/
    #[arg(long, value_name = "FILE")]
    policy_file: PathBuf,
    /// Checkpoint folder whose statistics give the envelope; without it no envelope is applied
    #[arg(long, env = "OPENVLA_WEIGHTS", value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Which statistics; needed if the policy file names several
    #[arg(long, value_name = "K", requires = "checkpoint")]
    unnorm_key: Option<String>,
    /// Folder for limits.json, limits.html and plots
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print limits.json on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl LimitsCommand {
    pub(super) fn run(self) -> Result<(), EvalError> {
        let out = self.out;
        let settings = LimitsSettings {
            bags: self.bag,
            action_topic: self.action_topic,
            gripper_topic: self.gripper_topic,
            pose_topic: self.pose_topic,
            robot_file: self.robot_file,
            policy_file: self.policy_file,
            checkpoint: self.checkpoint,
            unnorm_key: self.unnorm_key,
        };
        let report = replay(&settings, &out)?;
        if self.json {
            print_json(&report, &out)?;
        } else {
            print_warnings(&report.warnings);
            for line in lines(&report) {
                print(&line)?;
            }
            print(&format!("{}", out.join("limits.html").display()))?;
        }
        check_complete(&report.incomplete)
    }
}
