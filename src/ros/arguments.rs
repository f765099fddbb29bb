//! The command line of the node: `--help` for humans, everything else is ROS's.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use super::{NodeError, PolicyFactory, node::VlaNode, signals::StopSignals};

const USAGE: &str = "\
vla_node: a vision-language-action policy as a ROS 2 node: camera images and an instruction in,
safe end-effector commands out.

usage: vla_node [--ros-args -p PARAMETER:=VALUE ... -r FROM:=TO ... --params-file FILE]

  vla_node --ros-args -p checkpoint:=DIR -p unnorm_key:=bridge_orig -p autostart:=true
  infers and reports (~/action, ~/status) but commands nothing, because dry_run is true. Before
  anything moves: dry_run false, the node active (a lifecycle manager, or autostart), and a call
  of ~/enable.

subscribes   image (or image/compressed), instruction, ee_pose (when a workspace is set)
publishes    ~/command/twist and ~/command/gripper, or the topics of robot_file; ~/action,
             ~/status, ~/motion/desired, ~/motion/executed, /diagnostics
services     ~/enable, ~/estop, ~/reset, and those of a managed (lifecycle) node
exit status  0 stopped as asked, 1 failed while running, 2 wrong arguments or parameters

parameters (name, default, meaning):
";

fn usage() -> String {
    format!("{USAGE}{}", vla_config::help())
}

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Run,
    Help,
    Version,
    Wrong(String),
}

/// Looks at the arguments outside of `--ros-args ... [--]`.
fn asked(arguments: impl Iterator<Item = std::ffi::OsString>) -> Asked {
    let mut of_ros = false;
    for argument in arguments {
        let Some(argument) = argument.to_str() else {
            return Asked::Wrong(format!("argument '{}' is not UTF-8", argument.to_string_lossy()));
        };
        match argument {
            "--ros-args" => of_ros = true,
            "--" => of_ros = false,
            _ if of_ros => {}
            "--help" | "-h" => return Asked::Help,
            "--version" | "-V" => return Asked::Version,
            other => {
                return Asked::Wrong(format!(
                    "unknown argument '{other}'; parameters go after --ros-args, see vla_node \
                    --help"
                ));
            }
        }
    }
    Asked::Run
}

/// Runs the node until a signal ends it.
#[must_use]
pub fn run(factory: PolicyFactory) -> ExitCode {
    match asked(std::env::args_os().skip(1)) {
        Asked::Help => {
            print!("{}", usage());
            return ExitCode::SUCCESS;
        }
        Asked::Version => {
            println!("vla_node {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Asked::Wrong(what) => return refused(&what),
        Asked::Run => {}
    }
    match start(factory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (NodeError::Parameters(_) | NodeError::Arguments(_))) => {
            refused(&error.to_string())
        }
        Err(error) => {
            eprintln!("vla_node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the node with the ROS arguments of this process, whatever else there may be among them.
///
/// # Errors
/// Arguments or parameters that ROS or the node refuses, and failures while running.
pub fn start(factory: PolicyFactory) -> Result<(), NodeError> {
    // First of all, so that a signal while ROS starts is an orderly stop too.
    let stop = StopSignals::install()?;
    stop.follow_parent().map_err(NodeError::Arguments)?;
    let context = context().map_err(NodeError::Arguments)?;
    VlaNode::create(context, factory, stop).and_then(VlaNode::spin)
}

fn refused(what: &str) -> ExitCode {
    eprintln!("vla_node: {what}");
    ExitCode::from(2)
}

/// The ROS context. r2r panics on arguments that rcl does not accept; that becomes one line.
pub(super) fn context() -> Result<r2r::Context, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let created = catch_unwind(AssertUnwindSafe(r2r::Context::create));
    std::panic::set_hook(hook);
    match created {
        Ok(Ok(context)) => Ok(context),
        Ok(Err(error)) => {
            Err(format!("ROS 2 does not start: {error}; is its environment sourced?"))
        }
        Err(panic) => {
            let words = panic
                .downcast_ref::<String>()
                .map_or("ROS 2 does not accept the arguments", String::as_str);
            Err(words.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(arguments: &[&str]) -> Asked {
        asked(arguments.iter().map(std::ffi::OsString::from))
    }

    #[test]
    fn arguments_of_ros_are_left_to_ros() {
        assert_eq!(given(&[]), Asked::Run);
        assert_eq!(given(&["--ros-args", "-p", "x:=1", "--help", "--"]), Asked::Run);
        assert_eq!(given(&["--ros-args", "--", "-h"]), Asked::Help);
        assert_eq!(given(&["--version"]), Asked::Version);
        let Asked::Wrong(text) = given(&["checkpoint:=x"]) else { unreachable!("it was refused") };
        assert!(text.contains("'checkpoint:=x'"), "{text}");
    }

    #[test]
    fn help_names_every_parameter() {
        let text = usage();
        assert!(
            vla_config::TABLE.iter().all(|row| text.contains(row.name) && text.contains(row.text))
        );
    }
}
