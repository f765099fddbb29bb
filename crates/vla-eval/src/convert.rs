//! Bags as a LeRobot dataset: rows are the frames that an evaluation of the same bags would have,
//! each with the recorded action that it would compare.
//!
//! A bag is read twice: for the times and the actions, and for the images.

mod pictures;
mod plan;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pipeline::{self, Decoded, Source};
use super::sources::ObservationRules;
use super::{EvalError, Settings, dimension_names, episode};
use lerobot_dataset::{DatasetWriter, FeatureSpec, Frame, Number, Written};
use pictures::stored;
use vla_config::{StatePart, StateSource};
use vla_inference::observation::SINGLE_CAMERA;

/// What is converted, and how.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// Bags, topics, matching and `every`, as for an evaluation; its policy has no meaning here.
    pub settings: Settings,
    /// How the state is made; without parts the dataset has none.
    pub rules: ObservationRules,
    /// Names of the actions' numbers; empty for those of their number.
    pub action_names: Vec<String>,
    /// Rows per second; else the bags'.
    pub fps: Option<u32>,
    /// Longest time between two rows of one episode, seconds.
    pub longest_gap_s: f64,
    /// Precision of actions and state.
    pub number: Number,
    /// Name of the robot.
    pub robot_type: Option<String>,
}

/// What was converted.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// Episodes, rows and tasks.
    pub written: Written,
    /// Rows per second.
    pub fps: u32,
    /// Frames that are no rows, by reason.
    pub left_out: Vec<(String, u64)>,
    /// Remarks on the bags.
    pub warnings: Vec<String>,
}

/// Writes the bags of `conversion` to a new folder. `stop` ends it without a result.
///
/// # Errors
/// When a bag cannot be read to its end, has no row, or the folder is not empty.
pub fn convert(
    conversion: &Conversion,
    out: &Path,
    stop: &AtomicBool,
) -> Result<Converted, EvalError> {
    let mut conversion = conversion.clone();
    if let Some(path) =
        conversion.settings.bags.iter().find(|bag| super::rows::locate(bag).is_some())
    {
        let path = path.display();
        return Err(EvalError::Usage(format!("{path} is a LeRobot dataset already; give a bag")));
    }
    conversion.settings.policy.action_dim = plan::action_width(&conversion.settings)?;
    let state: usize = conversion.rules.state.iter().map(StatePart::width).sum();
    let episodes = episode::open_all(&conversion.settings, &conversion.rules, state)?;
    let mut planned = plan::plan(&conversion, &episodes, stop)?;
    let fps = plan::rate(&conversion, &mut planned)?;
    let mut writer = start(&conversion, out, fps)?;
    let mut left_out: BTreeMap<String, u64> = BTreeMap::new();
    let mut warnings = planned.warnings;
    for (bag, (episode, rows)) in episodes.iter().zip(&planned.bags).enumerate() {
        let source = Source {
            episode,
            bag,
            settings: &conversion.settings,
            track: None,
            done: &rows.left_out,
            stop,
        };
        let result = pipeline::run(source, &mut |decoded| {
            let number = decoded.frame.number;
            if rows.begins.contains(&number) {
                writer.end_episode()?;
            }
            if let Some(reason) = write(&mut writer, &decoded, &rows.actions)? {
                let count = left_out.entry("invalid image".to_owned()).or_default();
                *count += 1;
                if *count == 1 {
                    let path = episode.path().display();
                    warnings.push(format!("{path}: frame {number}: {reason}"));
                }
            }
            Ok(!stop.load(Ordering::Relaxed))
        })?;
        if let Some(error) = result.failure {
            return Err(error);
        }
        if stop.load(Ordering::Relaxed) {
            return Err(EvalError::Usage(format!(
                "interrupted; {} is incomplete and no dataset, remove it",
                out.display()
            )));
        }
        for (reason, count) in &rows.skipped {
            *left_out.entry(reason.clone()).or_default() += count;
        }
        writer.end_episode()?;
    }
    let written = writer.finish()?;
    Ok(Converted { written, fps, left_out: left_out.into_iter().collect(), warnings })
}

/// Starts the dataset: its features from the settings.
fn start(conversion: &Conversion, out: &Path, fps: u32) -> Result<DatasetWriter, EvalError> {
    let Conversion { settings, rules, number, .. } = conversion;
    let names = settings.cameras.iter().map(|(name, _)| name.as_str());
    let mut cameras: Vec<String> = names.map(camera_feature).collect();
    if cameras.is_empty() {
        cameras.push(camera_feature(SINGLE_CAMERA));
    }
    let mut vectors = Vec::new();
    let state: Vec<String> = rules.state.iter().flat_map(state_names).collect();
    if !state.is_empty() {
        let name = "observation.state".to_owned();
        vectors.push(FeatureSpec { name, names: state, number: *number });
    }
    let width = settings.policy.action_dim;
    let names = if conversion.action_names.len() == width {
        conversion.action_names.clone()
    } else {
        dimension_names(width)
    };
    vectors.push(FeatureSpec { name: "action".to_owned(), names, number: *number });
    let robot = conversion.robot_type.clone();
    Ok(DatasetWriter::create(out, fps, robot, vectors, cameras)?)
}

/// The feature of a camera, as LeRobot names it.
fn camera_feature(name: &str) -> String {
    if name.starts_with("observation.") {
        return name.to_owned();
    }
    format!("observation.images.{}", name.trim_matches('/').replace('/', "_"))
}

/// A name for each number of a part of the state.
fn state_names(part: &StatePart) -> Vec<String> {
    let each = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match &part.source {
        StateSource::JointPosition(joints) => {
            joints.iter().map(|joint| format!("{joint}.pos")).collect()
        }
        StateSource::JointVelocity(joints) => {
            joints.iter().map(|joint| format!("{joint}.vel")).collect()
        }
        StateSource::EePosition => each(&["ee.x", "ee.y", "ee.z"]),
        StateSource::EeRotationVector => each(&["ee.wx", "ee.wy", "ee.wz"]),
        StateSource::EeRpy => each(&["ee.roll", "ee.pitch", "ee.yaw"]),
        StateSource::EeQuaternion => each(&["ee.qx", "ee.qy", "ee.qz", "ee.qw"]),
        StateSource::Gripper { topic } => vec![format!("{}.pos", topic.trim_matches('/'))],
        StateSource::Constant(values) => {
            (0..values.len()).map(|i| format!("constant{i}")).collect()
        }
    }
}

/// Writes a frame as a row, or says why it is none.
fn write(
    writer: &mut DatasetWriter,
    decoded: &Decoded,
    actions: &HashMap<u64, Vec<f64>>,
) -> Result<Option<String>, EvalError> {
    let Decoded { frame, images } = decoded;
    let images = match images {
        Ok(images) => images,
        Err((_, error)) => return Ok(Some(error.to_string())),
    };
    // The frames without an action were not read.
    let Some(action) = actions.get(&frame.number) else { return Ok(None) };
    let mut pictures = Vec::with_capacity(images.len());
    for (encoded, image) in frame.images.iter().zip(images) {
        pictures.push(stored(encoded, image)?);
    }
    let mut vectors: Vec<&[f64]> = Vec::new();
    if !frame.state.is_empty() {
        vectors.push(&frame.state);
    }
    vectors.push(action);
    writer.add(&Frame { task: frame.instruction.text(), vectors, pictures })?;
    Ok(None)
}
