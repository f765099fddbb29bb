//! A dataset's folder.

use std::path::{Path, PathBuf};

use super::episodes::{self, Episode};
use super::error::DatasetError;
use super::info::{Feature, INFO, Info};
use super::rows::{Rows, Wanted};
use super::tasks;

/// Features that a message names.
const NAMED: usize = 32;

/// An open dataset, whose metadata have been checked.
#[derive(Debug, Clone)]
pub struct Dataset {
    folder: PathBuf,
    info: Info,
    tasks: Vec<String>,
    episodes: Vec<Episode>,
}

/// Whether a folder is a LeRobot dataset of any version.
#[must_use]
pub fn is_dataset(folder: &Path) -> bool {
    folder.join(INFO).is_file()
}

impl Dataset {
    /// Opens a folder. Rows are not read yet.
    ///
    /// # Errors
    /// When it is no dataset of version 3, or its metadata contradict each other.
    pub fn open(folder: impl AsRef<Path>) -> Result<Dataset, DatasetError> {
        let folder = folder.as_ref().to_owned();
        let info = Info::read(&folder)?;
        let tasks = tasks::read(&folder, &info)?;
        let episodes = episodes::read(&folder, &info)?;
        Ok(Dataset { folder, info, tasks, episodes })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `meta/info.json`.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The instructions; a row names one by its place.
    #[must_use]
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// The episodes, by number.
    #[must_use]
    pub fn episodes(&self) -> &[Episode] {
        &self.episodes
    }

    /// The feature of that name.
    ///
    /// # Errors
    /// With the names of all features where there is none.
    pub fn feature(&self, name: &str) -> Result<&Feature, DatasetError> {
        self.info.feature(name).ok_or_else(|| {
            let features = self.info.features.iter().take(NAMED);
            let known: Vec<String> =
                features.map(|f| format!("{} ({} {:?})", f.name, f.dtype, f.shape)).collect();
            DatasetError::NoFeature {
                path: self.folder.clone(),
                feature: name.to_owned(),
                available: known.join(", "),
            }
        })
    }

    /// A feature of pictures.
    ///
    /// # Errors
    /// When it is a video, or no camera.
    pub fn pictures(&self, name: &str) -> Result<&Feature, DatasetError> {
        let feature = self.feature(name)?;
        match feature.dtype.as_str() {
            "image" => Ok(feature),
            "video" => Err(DatasetError::invalid(
                &self.folder,
                format!("the camera '{name}' is stored as video, which is not decoded here"),
                "write the dataset with pictures: tools/lerobot/to_pictures (docs/lerobot.md)",
            )),
            other => Err(DatasetError::invalid(
                &self.folder,
                format!("the feature '{name}' has the type {other}, not image"),
                format!("name a camera: {}", list(self.info.cameras())),
            )),
        }
    }

    /// A feature of one vector per row.
    ///
    /// # Errors
    /// When it has other dimensions or no numbers.
    pub fn vector(&self, name: &str) -> Result<&Feature, DatasetError> {
        let feature = self.feature(name)?;
        let is_number = ["float16", "float32", "float64", "bool"].contains(&feature.dtype.as_str())
            || feature.dtype.starts_with("int")
            || feature.dtype.starts_with("uint");
        if is_number && feature.shape.len() == 1 && 0 < feature.shape[0] {
            return Ok(feature);
        }
        let (dtype, shape) = (&feature.dtype, &feature.shape);
        let vectors = self.info.features.iter().filter(|f| f.shape.len() == 1);
        Err(DatasetError::invalid(
            &self.folder,
            format!("the feature '{name}' is {dtype} {shape:?}, not a vector of numbers"),
            format!("name a vector: {}", list(vectors)),
        ))
    }

    /// Reads the rows of one episode.
    ///
    /// # Errors
    /// When there is no such episode or feature, or the file cannot be read.
    pub fn rows(&self, episode: usize, wanted: &Wanted) -> Result<Rows, DatasetError> {
        let count = self.episodes.len();
        let episode = self.episodes.get(episode).ok_or_else(|| {
            DatasetError::invalid(
                &self.folder,
                format!("there is no episode {episode}"),
                format!("its episodes are 0 to {}", count.saturating_sub(1)),
            )
        })?;
        Rows::open(self, episode, wanted)
    }
}

fn list<'a>(features: impl Iterator<Item = &'a Feature>) -> String {
    let names: Vec<&str> = features.take(NAMED).map(|feature| feature.name.as_str()).collect();
    if names.is_empty() { "it has none".to_owned() } else { names.join(", ") }
}
