//! `meta/info.json`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::DatasetError;
use super::limits::{
    MAX_EPISODES, MAX_FEATURES, MAX_FPS, MAX_INFO_BYTES, MAX_NAME, MAX_ROWS, MAX_WIDTH,
};
use super::paths::Template;

/// Where it lies in the folder.
pub const INFO: &str = "meta/info.json";

/// A column of the dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// `float32`, `int64`, `image`, `video`, ...
    pub dtype: String,
    /// Sizes of its dimensions.
    pub shape: Vec<usize>,
    /// Names of the numbers of a vector; empty where the dataset names none.
    pub names: Vec<String>,
}

/// What `meta/info.json` says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// Rows per second.
    pub fps: f64,
    /// Name of the robot.
    pub robot_type: Option<String>,
    /// Number of episodes.
    pub total_episodes: u64,
    /// Number of rows.
    pub total_frames: u64,
    /// Number of tasks.
    pub total_tasks: u64,
    /// All columns, by name.
    pub features: Vec<Feature>,
    pub(crate) data_path: Template,
}

#[derive(Deserialize)]
struct Raw {
    codebase_version: Option<String>,
    fps: Option<f64>,
    robot_type: Option<String>,
    total_episodes: Option<u64>,
    total_frames: Option<u64>,
    total_tasks: Option<u64>,
    data_path: Option<String>,
    features: Option<BTreeMap<String, RawFeature>>,
}

#[derive(Deserialize)]
struct RawFeature {
    dtype: String,
    shape: Vec<usize>,
    #[serde(default)]
    names: Value,
}

impl Info {
    /// Reads and checks the file of a dataset's folder.
    ///
    /// # Errors
    /// When it is missing, of another version, or contradicts itself.
    pub fn read(folder: &Path) -> Result<Info, DatasetError> {
        let path = folder.join(INFO);
        if !path.is_file() {
            return Err(DatasetError::invalid(
                folder,
                "it has no meta/info.json, so it is no LeRobot dataset",
                "give the folder that contains meta/ and data/",
            ));
        }
        let file = std::fs::File::open(&path).map_err(DatasetError::io("open", &path))?;
        let mut text = Vec::new();
        file.take(MAX_INFO_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(DatasetError::io("read", &path))?;
        DatasetError::limit(&path, "its size", text.len() as u64, MAX_INFO_BYTES)?;
        Info::parse(&path, &text)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Info, DatasetError> {
        let wrong = |what: String| DatasetError::damaged(path, what);
        // The version first: other versions have other keys.
        let value: Value =
            serde_json::from_slice(text).map_err(|error| wrong(format!("not JSON: {error}")))?;
        version(path, value.get("codebase_version"))?;
        let raw: Raw = serde_json::from_value(value)
            .map_err(|error| wrong(format!("not as LeRobot writes it: {error}")))?;
        let _ = raw.codebase_version;
        let need = |key: &str| wrong(format!("the key {key} is missing"));
        let fps = raw.fps.ok_or_else(|| need("fps"))?;
        if !(fps.is_finite() && 0.0 < fps && fps <= MAX_FPS) {
            return Err(wrong(format!("fps is {fps}, not above 0 and at most {MAX_FPS}")));
        }
        let features = raw.features.ok_or_else(|| need("features"))?;
        DatasetError::limit(path, "features", features.len() as u64, MAX_FEATURES as u64)?;
        let features = features
            .into_iter()
            .map(|(name, raw)| feature(path, name, raw))
            .collect::<Result<Vec<_>, _>>()?;
        let total_episodes = raw.total_episodes.ok_or_else(|| need("total_episodes"))?;
        let total_frames = raw.total_frames.ok_or_else(|| need("total_frames"))?;
        let total_tasks = raw.total_tasks.ok_or_else(|| need("total_tasks"))?;
        DatasetError::limit(path, "total_episodes", total_episodes, MAX_EPISODES)?;
        DatasetError::limit(path, "total_frames", total_frames, MAX_ROWS)?;
        DatasetError::limit(path, "total_tasks", total_tasks, MAX_EPISODES)?;
        let template = raw.data_path.ok_or_else(|| need("data_path"))?;
        let data_path = Template::parse(&template)
            .map_err(|what| wrong(format!("data_path '{}' {what}", template.escape_debug())))?;
        Ok(Info {
            fps,
            robot_type: raw.robot_type,
            total_episodes,
            total_frames,
            total_tasks,
            features,
            data_path,
        })
    }

    /// The feature of that name.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<&Feature> {
        self.features.iter().find(|feature| feature.name == name)
    }

    /// Names of the cameras' features, stored as pictures or as video.
    pub fn cameras(&self) -> impl Iterator<Item = &Feature> {
        self.features.iter().filter(|f| matches!(f.dtype.as_str(), "image" | "video"))
    }
}

/// Refuses other versions of the format, each with the way from there.
fn version(path: &Path, found: Option<&Value>) -> Result<(), DatasetError> {
    let Some(found) = found else {
        return Err(DatasetError::damaged(path, "the key codebase_version is missing"));
    };
    let text = found.as_str().unwrap_or_default().trim_start_matches('v');
    let mut parts = text.split('.').map(str::parse::<u64>);
    let (major, minor) = (parts.next(), parts.next());
    let what = format!("codebase_version is {found}, v3.0 is read");
    match (major, minor) {
        (Some(Ok(3)), _) => Ok(()),
        (Some(Ok(2)), Some(Ok(1))) => Err(DatasetError::invalid(
            path,
            what,
            "convert it with LeRobot: `python -m lerobot.scripts.convert_dataset_v21_to_v30 \
            --repo-id=NAME --root=FOLDER`",
        )),
        (Some(Ok(major)), _) if major < 3 => Err(DatasetError::invalid(
            path,
            what,
            "convert it to v2.1 with the LeRobot release of that version, then with its \
            convert_dataset_v21_to_v30",
        )),
        (Some(Ok(_)), _) => Err(DatasetError::invalid(
            path,
            what,
            "it was written by a newer LeRobot: write it with a release that has v3.0",
        )),
        _ => Err(DatasetError::damaged(path, what)),
    }
}

fn feature(path: &Path, name: String, raw: RawFeature) -> Result<Feature, DatasetError> {
    let wrong = |what: String| DatasetError::damaged(path, what);
    if name.is_empty() || MAX_NAME < name.len() || name.chars().any(char::is_control) {
        return Err(wrong(format!(
            "the name of a feature is empty, longer than {MAX_NAME} or has control characters: \
            '{}'",
            name.chars().take(32).collect::<String>().escape_debug()
        )));
    }
    let elements = raw.shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
    let is_picture = matches!(raw.dtype.as_str(), "image" | "video");
    let limit = if is_picture { usize::MAX } else { MAX_WIDTH };
    if 8 < raw.shape.len() || elements.is_none_or(|count| limit < count) {
        return Err(wrong(format!("the shape of {name} is {:?}, too large", raw.shape)));
    }
    Ok(Feature { name, dtype: raw.dtype, names: names(&raw.names), shape: raw.shape })
}

/// Names of a vector's numbers: a list, or a list under one key as `{"motors": [...]}`.
fn names(value: &Value) -> Vec<String> {
    let list = match value {
        Value::Array(list) => Some(list),
        Value::Object(map) if map.len() == 1 => map.values().next().and_then(Value::as_array),
        _ => None,
    };
    let texts = list.into_iter().flatten().take(MAX_WIDTH).filter_map(Value::as_str);
    texts.map(|text| text.chars().take(MAX_NAME).collect()).collect()
}
