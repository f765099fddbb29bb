//! Input and output features of config.json, in their order in the file: the order of the cameras
//! is the order of their tokens.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::shown;
use crate::checkpoint::read::{OrderedMap, parse_json};

/// A camera of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Camera {
    /// Feature, `observation.images.base_0_rgb`.
    pub feature: String,
    /// Height and width in the training data, pixels, for information.
    pub shape: Option<[usize; 2]>,
    /// Whether LeRobot added it to reach the base model's number of cameras
    /// (`empty_cameras`): it never has an image and its tokens are masked out, so that it is
    /// dropped.
    pub empty: bool,
}

/// Features by their type.
#[derive(Clone, Debug, Default)]
pub(super) struct Features {
    pub cameras: Vec<Camera>,
    /// Name and width.
    pub state: Option<(String, usize)>,
    /// Name and width.
    pub action: Option<(String, usize)>,
}

/// Most features accepted.
const MAX_FEATURES: usize = 64;
/// Widest state or action.
const MAX_WIDTH: usize = 1024;

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    input_features: Option<OrderedMap<Value>>,
    #[serde(default)]
    output_features: Option<OrderedMap<Value>>,
}

/// Reads both lists of `bytes`, a config.json.
pub(super) fn read_features(path: &Path, bytes: &[u8]) -> Result<Features, CheckpointError> {
    let listed: Listed = parse_json(path, bytes)?;
    let mut features = Features::default();
    for (list, entries) in
        [("input_features", listed.input_features), ("output_features", listed.output_features)]
    {
        let entries = entries.map(|entries| entries.0).unwrap_or_default();
        if entries.len() > MAX_FEATURES {
            return Err(CheckpointError::field(
                path,
                list,
                format!("{} features", entries.len()),
                format!("at most {MAX_FEATURES} are read"),
            ));
        }
        for (name, value) in entries {
            features.add(path, list, name, &value)?;
        }
    }
    Ok(features)
}

impl Features {
    fn add(
        &mut self,
        path: &Path,
        list: &str,
        name: String,
        value: &Value,
    ) -> Result<(), CheckpointError> {
        let fail = |value: String, remedy: &str| {
            Err(CheckpointError::field(path, format!("{list}.{name}"), value, remedy))
        };
        let shape: Option<Vec<usize>> =
            value.get("shape").and_then(Value::as_array).and_then(|s| {
                s.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
            });
        let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
        let slot = match kind {
            "VISUAL" => {
                let shape = match shape.as_deref() {
                    Some([3, height, width]) => Some([*height, *width]),
                    Some([height, width, 3]) => Some([*height, *width]),
                    _ => None,
                };
                let empty = name.starts_with("observation.images.empty_camera_");
                self.cameras.push(Camera { feature: name, shape, empty });
                return Ok(());
            }
            "STATE" => &mut self.state,
            "ACTION" => &mut self.action,
            _ => {
                return fail(
                    shown(value),
                    "its type must be VISUAL, STATE or ACTION; other inputs are not implemented",
                );
            }
        };
        let width = match shape.as_deref() {
            Some([width]) if (1..=MAX_WIDTH).contains(width) => *width,
            _ => return fail(shown(value), "its shape must be one number from 1 to 1024"),
        };
        if let Some((other, _)) = slot {
            let other = quoted(other);
            return fail(shown(value), &format!("{other} has the same type; only one is read"));
        }
        *slot = Some((name, width));
        Ok(())
    }
}
