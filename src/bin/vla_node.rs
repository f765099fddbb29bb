//! The ROS 2 node. `vla_node --help` says what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    openvla_tt::ros::run(openvla_tt::ros::checkpoint_policy)
}
