//! Options that name recordings, and what belongs together in them.

use std::path::PathBuf;

use clap::Args;

use rosbag2_reader::align::ActionMatch;
use vla_eval::EvalError;

/// Bags and topics.
#[derive(Args, Debug)]
pub(crate) struct BagArgs {
    /// rosbag2 folder, or a .mcap or .db3 file (.zstd allowed); several are several episodes. Of
    /// `eval run` also a LeRobotDataset v3 folder: the topics below are then names of its features
    #[arg(long, required = true, num_args = 1.., value_name = "DIR|FILE")]
    pub(crate) bag: Vec<PathBuf>,
    /// Topic of the camera: sensor_msgs/Image or CompressedImage
    #[arg(long, value_name = "T", conflicts_with = "camera")]
    pub(crate) image_topic: Option<String>,
    /// Topic of each camera of a policy with several, by the policy's name for it
    #[arg(long, value_name = "NAME=T", value_parser = pair)]
    pub(crate) camera: Vec<(String, String)>,
    /// Recorded topic of a part of the state, by the policy file's name for its topic
    /// (joint_states, ee_pose, a gripper's); default: the same name
    #[arg(long, value_name = "NAME=T", value_parser = pair)]
    pub(crate) state_topic: Vec<(String, String)>,
    /// The instruction, if it is not recorded
    #[arg(long, value_name = "TEXT", conflicts_with = "instruction_topic")]
    pub(crate) instruction: Option<String>,
    /// Recorded instruction: std_msgs/String
    #[arg(long, value_name = "T")]
    pub(crate) instruction_topic: Option<String>,
    /// Recorded actions: TwistStamped, openvla_tt_msgs/Action or Float64MultiArray
    #[arg(long, value_name = "T")]
    pub(crate) action_topic: Option<String>,
    /// Recorded gripper command beside TwistStamped: std_msgs/Float64, 0 closed to 1 open
    #[arg(long, value_name = "T")]
    pub(crate) gripper_topic: Option<String>,
}

impl BagArgs {
    /// Refuses options without a camera, which a bag needs.
    ///
    /// # Errors
    /// With the options to give.
    pub(crate) fn need_camera(&self) -> Result<(), EvalError> {
        if self.image_topic.is_some() || !self.camera.is_empty() {
            return Ok(());
        }
        let line = "no camera; give --image-topic T, or --camera NAME=T for each of several";
        Err(EvalError::Usage(line.to_owned()))
    }
}

pub(crate) fn parse_match(text: &str) -> Result<ActionMatch, String> {
    match text {
        "exact" => Ok(ActionMatch::Exact),
        "next" => Ok(ActionMatch::Next),
        "nearest" => Ok(ActionMatch::Nearest),
        "latest" => Ok(ActionMatch::Latest),
        other => Err(format!("'{other}' is not one of exact, next, nearest, latest")),
    }
}

/// `NAME=TOPIC`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, topic)) if !name.is_empty() && !topic.is_empty() => {
            Ok((name.to_owned(), topic.to_owned()))
        }
        _ => Err(format!("'{text}' is not NAME=TOPIC")),
    }
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let value: Option<f64> =
        text.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| format!("'{text}' is not a positive number"))
}
