//! Configuration of the node: the table of parameters, what was given for them, the policy file
//! and the robot file, and their merging into one validated whole.
//!
//! * [`TABLE`]: every parameter with type, range, unit, text and the time at which it may change.
//! * [`read_arguments`]: `--ros-args` and ROS parameter files, with the rules of rcl and rclcpp.
//! * [`PolicyFile`] (`config/policies/*.yaml`): statistics keys, frame, rotation, units, gripper,
//!   rate, image preparation, prompt.
//! * [`RobotFile`] (`config/robots/*.yaml`): topics, frames, limits, workspace, gripper.
//! * [`resolve`] merges all of them and validates once; the result, [`Resolved`], does not change.
//!
//! What is given holds: a value that a user gave is applied where it is as strict as the file's or
//! stricter, and refused with both values where it is not; a lower acceleration or jerk is
//! stricter only while the longest stop takes no longer than with the robot file. What moves a
//! robot has no default in a file: a missing frame or rotation convention is a problem, not a
//! guess. Every problem is listed at once.

mod action_section;
mod config_files;
mod document;
mod given;
mod gripper_section;
mod image_section;
mod joint_layout;
mod joints_section;
mod merge;
mod model_sections;
mod observation_section;
mod parameter;
mod parameter_file;
mod policy_file;
mod qos_overrides;
mod remap_rule;
mod remote_section;
mod resolved;
mod robot_file;
mod state_assembly;
mod table;
mod urdf;
mod value;
mod values;
mod yaml;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use action_section::{
    Action, Composition, EndEffectorDelta, Frame, JointAction, JointQuantity, PolicyGripper,
    Rotation,
};
pub use config_files::Files;
pub use document::{PARAMETERS_MD, help, markdown};
pub use given::{Arguments, Given, GivenValue, Origin, Remark, read_arguments, unknown};
pub use gripper_section::{GripperSource, GripperState};
pub use image_section::{ImageOperation, ImageSection, ImageStep};
pub use joint_layout::JointLayout;
pub use joints_section::RobotJoint;
pub use merge::{join, resolve, resolve_with};
pub use model_sections::{Continuation, FlowSection, OftBounds, OftSection, StateInPrompt};
pub use observation_section::{Camera, StatePart, StateSource};
pub use parameter::nearest;
pub use parameter_file::{
    PARAMETER_FILE_BYTES_MAX, Section, applies, parse_sections, parse_value, read_parameter_file,
};
pub use policy_file::{PolicyFile, PromptStyle};
pub use qos_overrides::{QosOverride, QosPolicy, QosProblem};
pub use remap_rule::parse_remap_rule;
pub use remote_section::{RemoteAnswers, RemoteSection, RemoteState};
pub use resolved::{CommandTopics, LifecycleState, Measured, Resolved, STEP_WIDTH};
pub use robot_file::{CommandOutput, EndEffectorLimits, RobotCommand, RobotFile, RobotWorkspace};
pub use state_assembly::{StateAssembler, StateMessageError, StateTopic};
pub use table::{Change, POLICY_RATE, Parameter, Rule, TABLE, Type, parameter};
pub use value::Value;
pub use values::{Values, expand_path, named_on_the_hub};
pub use yaml::parse as parse_yaml;

use vla_control::ConfigErrors;

/// The largest policy file or robot file read, in bytes. Real ones have about two thousand.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a policy file or robot file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It could not be read.
    #[error("cannot read {path}: {source}; check the path and its permissions")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a pipe, a device or a folder. rcl reads a parameter file first, and a pipe is empty
    /// afterwards.
    #[error("{path} is not a regular file; write the parameters to a file and name that")]
    NotRegular {
        /// Which file.
        path: PathBuf,
    },
    /// It is too large to be what it should be.
    #[error("{path} has {bytes} bytes, more than the {limit} allowed; is it the right file?")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size, or what was read of it.
        bytes: u64,
        /// The largest size read.
        limit: u64,
    },
    /// It is no YAML, or a value has the wrong type.
    #[error("{path} is not valid: {message}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// Its values break rules.
    #[error("{path}: {problems}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// All of them.
        problems: ConfigErrors,
    },
}

/// Keys a raw form does not have: collected so that all of them can be named.
type Unknown = BTreeMap<String, serde::de::IgnoredAny>;

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigFileError> {
    yaml::read(path, FILE_BYTES_MAX)
}

/// Reports unknown keys.
fn refuse_unknown(problems: &mut ConfigErrors, place: &str, unknown: &Unknown) {
    for key in unknown.keys() {
        problems.add(&join_place(place, key), "unknown key; remove it or correct its spelling");
    }
}

fn join_place(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

/// A value that must be given.
fn need<T>(problems: &mut ConfigErrors, place: &str, value: Option<T>) -> Option<T> {
    if value.is_none() {
        problems.add(place, "missing; it has no default");
    }
    value
}

/// A word out of a list.
fn choice<T: Copy>(
    problems: &mut ConfigErrors,
    place: &str,
    word: Option<&str>,
    choices: &[(&str, T)],
) -> Option<T> {
    let word = need(problems, place, word)?;
    let found = choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        problems.add(place, format!("`{word}` is none of {}", names.join(", ")));
    }
    found
}

/// A number that must be given and lie in a range.
fn number(
    problems: &mut ConfigErrors,
    place: &str,
    value: Option<f64>,
    low: f64,
    high: f64,
    unit: &str,
) -> Option<f64> {
    let value = need(problems, place, value)?;
    problems.range(place, value, low, high, unit);
    Some(value)
}

/// The name of a TF frame: not empty, bounded, the characters that tf2 frames are made of.
fn frame_name(problems: &mut ConfigErrors, place: &str, value: Option<String>) -> Option<String> {
    let value = need(problems, place, value)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/');
    if value.is_empty() || 255 < value.len() || !value.chars().all(legal) {
        problems.add(
            place,
            format!("`{}` is not a frame name (letters, digits, _ and /)", value.escape_debug()),
        );
    }
    Some(value)
}

/// The name of a ROS topic: absolute, relative or private, by the rules of rcl.
fn topic_name(problems: &mut ConfigErrors, place: &str, value: Option<String>) -> Option<String> {
    let value = need(problems, place, value)?;
    let levels = value.strip_prefix("~/").or(value.strip_prefix('/')).unwrap_or(&value);
    let legal = |level: &str| {
        level.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && level.chars().next().is_some_and(|first| !first.is_ascii_digit())
    };
    if 255 < value.len() || !levels.split('/').all(legal) {
        problems.add(
            place,
            format!(
                "`{}` is not a topic name: levels of letters, digits and _, none empty or \
                beginning with a digit, after /, ~/ or nothing",
                value.escape_debug()
            ),
        );
    }
    Some(value)
}
