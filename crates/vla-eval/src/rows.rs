//! The frames of an episode of a LeRobot dataset: each row has its images, its state, its task and
//! its action.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frames::{Frame, ReadResult};
use super::recorded::{ActionKind, Track};
use super::{EvalError, Settings};
use lerobot_dataset::{Dataset, Episode, Row, Wanted, is_dataset};
use rosbag2_reader::FileState;
use vla_inference::observation::EncodedImage;
use vla_inference::policy::Instruction;

/// An episode is named as a folder in its dataset that does not exist.
/// The name is unlike that of any bag, so that `compare` can tell datasets apart by it.
pub const EPISODE_PREFIX: &str = "lerobot_episode_";

/// The name of an episode of a dataset, as the settings have it.
#[must_use]
pub fn episode_path(dataset: &Path, number: u64) -> PathBuf {
    dataset.join(format!("{EPISODE_PREFIX}{number:06}"))
}

/// Folder and number of an episode of a dataset; `None` for other paths.
#[must_use]
pub fn locate(path: &Path) -> Option<(PathBuf, usize)> {
    let number = path.file_name()?.to_str()?.strip_prefix(EPISODE_PREFIX)?.parse().ok()?;
    let folder = path.parent()?;
    (!path.exists() && is_dataset(folder)).then(|| (folder.to_owned(), number))
}

/// Datasets by folder, each opened once for all of its episodes.
#[derive(Default)]
pub struct Datasets(BTreeMap<PathBuf, Arc<Dataset>>);

impl Datasets {
    /// Opens a dataset, or returns the open one.
    pub fn open(&mut self, folder: &Path) -> Result<Arc<Dataset>, EvalError> {
        if let Some(open) = self.0.get(folder) {
            return Ok(Arc::clone(open));
        }
        let dataset = Arc::new(Dataset::open(folder)?);
        self.0.insert(folder.to_owned(), Arc::clone(&dataset));
        Ok(dataset)
    }
}

/// Name, size and time of the files of an episode.
pub fn file_states(dataset: &Dataset, number: usize) -> Result<Vec<FileState>, EvalError> {
    let info = dataset.folder().join("meta/info.json");
    let rows = dataset.episodes().get(number).map(|episode| episode.file.clone());
    let state = |path: PathBuf| {
        let found = std::fs::metadata(&path).map_err(EvalError::io("open", &path))?;
        let modified = found.modified().ok();
        let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let name = path.strip_prefix(dataset.folder()).unwrap_or(&path);
        Ok(FileState {
            name: name.display().to_string(),
            bytes: found.len(),
            modified_ns: since.and_then(|time| u64::try_from(time.as_nanos()).ok()),
        })
    };
    std::iter::once(info).chain(rows).map(state).collect()
}

/// An episode of a dataset whose features have been checked.
pub struct RowEpisode {
    /// As the settings name it.
    pub path: PathBuf,
    dataset: Arc<Dataset>,
    number: usize,
    wanted: Wanted,
    /// Places of state and action in the wanted vectors.
    state: Option<usize>,
    action: Option<usize>,
    /// The instruction of the settings, which replaces the task.
    fixed_instruction: Option<Instruction>,
}

impl RowEpisode {
    /// Checks that the dataset has the episode and the features of the settings; `state`: numbers
    /// of the policy's state.
    pub fn open(
        path: &Path,
        dataset: Arc<Dataset>,
        number: usize,
        settings: &Settings,
        state: usize,
    ) -> Result<RowEpisode, EvalError> {
        if number >= dataset.episodes().len() {
            let (folder, count) = (dataset.folder().display(), dataset.episodes().len());
            return Err(EvalError::Usage(format!(
                "{folder} has no episode {number}; its episodes are 0 to {}",
                count.saturating_sub(1)
            )));
        }
        let cameras = settings.cameras.iter().map(|(_, feature)| feature.clone());
        let mut wanted = Wanted { vectors: Vec::new(), pictures: cameras.collect() };
        if wanted.pictures.is_empty() {
            wanted.pictures.push(settings.image_topic.clone());
        }
        for name in &wanted.pictures {
            dataset.pictures(name)?;
        }
        let mut vector = |name: Option<&String>, width: usize, of: &str| match name {
            None => Ok(None),
            Some(name) => {
                let feature = dataset.vector(name)?;
                if feature.shape != [width] {
                    let (folder, has) = (dataset.folder().display(), feature.shape[0]);
                    let names = feature.names.join(", ");
                    return Err(EvalError::Usage(format!(
                        "{folder}: the feature '{name}' has {has} numbers ({names}), the policy's \
                        {of} {width}; name another feature, or evaluate a policy that was trained \
                        on this dataset"
                    )));
                }
                wanted.vectors.push(name.clone());
                Ok(Some(wanted.vectors.len() - 1))
            }
        };
        let state = match (state, &settings.state_feature) {
            (0, _) => None,
            (width, None) => {
                return Err(EvalError::Usage(format!(
                    "the policy needs a state of {width} numbers; name its feature with \
                    --state-feature"
                )));
            }
            (width, name) => vector(name.as_ref(), width, "state")?,
        };
        let action = vector(settings.action_topic.as_ref(), settings.policy.action_dim, "action")?;
        let fixed_instruction =
            settings.instruction.as_deref().map(Instruction::new).transpose()?;
        let path = path.to_owned();
        Ok(RowEpisode { path, dataset, number, wanted, state, action, fixed_instruction })
    }

    fn episode(&self) -> &Episode {
        // Checked when it was opened.
        &self.dataset.episodes()[self.number]
    }

    /// Number of rows.
    pub fn length(&self) -> u64 {
        self.episode().length
    }

    pub fn action_kind(&self) -> Option<ActionKind> {
        self.action.map(|_| ActionKind::Row)
    }

    pub fn file_states(&self) -> Result<Vec<FileState>, EvalError> {
        file_states(&self.dataset, self.number)
    }

    /// As [`super::episode::Episode::read`].
    pub fn read(
        &self,
        index: usize,
        settings: &Settings,
        track: Option<Track>,
        done: &HashSet<u64>,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> ReadResult {
        let mut result = ReadResult::new(track);
        if let Some(Ok((_, remarks))) = settings.instruction.as_deref().map(Instruction::read) {
            result.remark(&self.path, &remarks);
        }
        let tasks: Vec<Result<Instruction, String>> = self
            .dataset
            .tasks()
            .iter()
            .map(|task| Instruction::read(task).map(|read| read.0).map_err(|e| e.to_string()))
            .collect();
        let rows = match self.dataset.rows(self.number, &self.wanted) {
            Ok(rows) => rows,
            Err(error) => {
                result.failure = Some(error.into());
                return result;
            }
        };
        for row in rows {
            match row.map(|row| self.take(row, &tasks, index, settings, done, &mut result)) {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    if !send(frame) {
                        break;
                    }
                }
                Err(error) => {
                    result.failure = Some(EvalError::from(error));
                    break;
                }
            }
        }
        result
    }

    /// The frame of a row, if it is evaluated.
    fn take(
        &self,
        row: Row,
        tasks: &[Result<Instruction, String>],
        index: usize,
        settings: &Settings,
        done: &HashSet<u64>,
        result: &mut ReadResult,
    ) -> Option<Frame> {
        let number = row.frame;
        result.images += 1;
        // By its number, so that no two rows have the same time.
        let log_time = (number as f64 * 1e9 / self.dataset.info().fps).round() as i64;
        result.stamps.add(log_time, None);
        if let (Some(place), Some(track)) = (self.action, result.track.as_mut()) {
            track.push_row(log_time, &row.vectors[place]);
        }
        if !settings.takes(index, number) || done.contains(&number) {
            return None;
        }
        let state = self.state.map_or_else(Vec::new, |place| row.vectors[place].clone());
        if !state.iter().all(|value| value.is_finite()) {
            result.skip(number, "incomplete state", "it has numbers that are not finite");
            return None;
        }
        let instruction = match (&self.fixed_instruction, tasks.get(row.task)) {
            (Some(fixed), _) => fixed.clone(),
            (None, Some(Ok(task))) => task.clone(),
            (None, Some(Err(error))) => {
                result.skip(number, "invalid instruction", error);
                return None;
            }
            // The rows' tasks have been checked.
            (None, None) => return None,
        };
        let image = |data| EncodedImage::Compressed { format: String::new(), data };
        let images = row.pictures.into_iter().map(image).collect();
        Some(Frame { number, log_time, stamp: None, images, state, instruction })
    }
}
