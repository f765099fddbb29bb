//! What a checkpoint's numbers mean, and what a robot may do: two small YAML files that must agree
//! before anything moves.
//!
//! * [`PolicyFile`] (`config/policies/*.yaml`): statistics key, frame, rotation, units, gripper,
//!   rate, image preparation, prompt, cameras.
//! * [`RobotFile`] (`config/robots/*.yaml`): frames, topics, limits, workspace, gripper.
//! * [`join`] puts both together into control's configuration, or says why they do not fit.
//!
//! Each file is read once into a raw form in which everything is optional and nothing is believed,
//! then validated as a whole. What moves a robot has no default: a missing frame or rotation
//! convention is a problem, not a guess. Every problem is listed at once.

mod policy_file;
mod robot_file;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use policy_file::{
    Camera, Composition, Frame, ImagePreparation, Polarity, PolicyFile, PromptStyle, Resize,
    Rotation,
};
pub use robot_file::{CommandTopics, RobotFile, RobotWorkspace};

use vla_control::{ConfigErrors, RawControlConfig, RawEnvelope};

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
    /// It is too large to be what it should be.
    #[error(
        "{path} has {bytes} bytes, more than the {FILE_BYTES_MAX} a policy file may have; is it \
        the right file?"
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is no YAML, or a value has the wrong type.
    #[error("{path} is not valid: {message}; see config/ for examples")]
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

/// Keys a raw form does not know: collected so that all of them can be named.
type Unknown = BTreeMap<String, serde_yaml::Value>;

/// Reads a file of bounded size and parses it into a raw form.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigFileError> {
    use std::io::Read as _;
    let failed = |source| ConfigFileError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    // One byte more than allowed tells a file that is too large, even one whose size cannot be
    // asked (a pipe).
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)? as u64;
    if FILE_BYTES_MAX < bytes {
        return Err(ConfigFileError::TooLarge { path: path.to_owned(), bytes });
    }
    parse(&text).map_err(|message| ConfigFileError::Parse { path: path.to_owned(), message })
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}

/// Notes every key that nobody knows.
fn refuse_unknown(problems: &mut ConfigErrors, place: &str, unknown: &Unknown) {
    for key in unknown.keys() {
        problems.add(&join_place(place, key), "unknown key; remove it or correct its spelling");
    }
}

fn join_place(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

/// A value that must be said.
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

/// A number that must be said and lie in a range.
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

/// A name of a ROS topic or frame: not empty, bounded, only the letters ROS allows.
fn ros_name(problems: &mut ConfigErrors, place: &str, value: Option<String>) -> Option<String> {
    let value = need(problems, place, value)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '~');
    if value.is_empty() || 255 < value.len() || !value.chars().all(legal) {
        problems.add(
            place,
            format!("`{}` is not a ROS name (letters, digits, _, / and ~)", value.escape_debug()),
        );
    }
    Some(value)
}

/// Puts a policy file, a robot and the checkpoint's statistics together. `base` carries the node's
/// parameters; what the files say replaces what it says.
///
/// `q01` and `q99` are the action statistics of the chosen `unnorm_key` in the checkpoint's own
/// units, in its own order.
///
/// # Errors
/// [`ConfigErrors`] with everything that does not fit, and everything that control refuses.
pub fn join(
    policy_file: &PolicyFile,
    robot: &RobotFile,
    statistics: Option<(&[f64], &[f64])>,
    base: &RawControlConfig,
) -> Result<RawControlConfig, ConfigErrors> {
    let mut problems = ConfigErrors::default();
    if policy_file.frame == Frame::Tool && robot.workspace.is_some() {
        problems.add(
            "workspace",
            "the action is in the tool frame, but the box is in the base \
            frame: this cannot be guarded; remove the box or use a checkpoint with base-frame \
            actions",
        );
    }
    if robot.command.rate_hz < policy_file.policy_hz {
        problems.add(
            "command.rate_hz",
            format!(
                "{} Hz is slower than the policy's {} Hz",
                robot.command.rate_hz, policy_file.policy_hz
            ),
        );
    }
    let envelope = statistics.and_then(|(q01, q99)| envelope(&mut problems, policy_file, q01, q99));
    let mut raw = RawControlConfig {
        command_rate_hz: robot.command.rate_hz,
        limits: robot.limits,
        step_cap: robot.step_cap,
        workspace: robot.workspace.as_ref().map(|workspace| workspace.area),
        gripper: robot.gripper,
        envelope,
        ..*base
    };
    raw.gripper.invert = policy_file.gripper_polarity == Polarity::OneIsClosed;
    if let Some(threshold) = policy_file.gripper_threshold {
        raw.gripper.threshold = threshold;
    }
    if let Err(more) = raw.validate() {
        problems.0.extend(more.0);
    }
    problems.into_result(raw)
}

/// The statistics' envelope in metres and radians.
fn envelope(
    problems: &mut ConfigErrors,
    policy_file: &PolicyFile,
    q01: &[f64],
    q99: &[f64],
) -> Option<RawEnvelope> {
    let (Some(low), Some(high), true, true) =
        (q01.first_chunk::<6>(), q99.first_chunk::<6>(), q01.len() == 7, q99.len() == 7)
    else {
        problems.add(
            "unnorm_key",
            format!(
                "its statistics have {} and {} dimensions; an end-effector action has 7",
                q01.len(),
                q99.len()
            ),
        );
        return None;
    };
    Some(RawEnvelope { q01: policy_file.scaled(*low), q99: policy_file.scaled(*high) })
}
