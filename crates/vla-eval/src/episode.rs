//! A recording of one episode: a bag, or an episode of a LeRobot dataset.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::frames::{BagEpisode, Frame, ReadResult};
use super::recorded::{ActionKind, ActionSpace, Track};
use super::rows::{Datasets, RowEpisode};
use super::sources::ObservationRules;
use super::{EvalError, Settings};
use rosbag2_reader::{Bag, FileState};

/// An episode whose topics or features have been checked.
pub enum Episode {
    /// A bag.
    Bag(Box<BagEpisode>),
    /// Rows of a dataset.
    Rows(RowEpisode),
}

/// Opens the episodes of the settings; `state`: numbers of the policy's state.
pub fn open_all(
    settings: &Settings,
    rules: &ObservationRules,
    state: usize,
) -> Result<Vec<Episode>, EvalError> {
    let mut datasets = Datasets::default();
    let one = |path: &PathBuf| match super::rows::locate(path) {
        Some((folder, number)) => {
            let dataset = datasets.open(&folder)?;
            let episode = RowEpisode::open(path, dataset, number, settings, state)?;
            Ok(Episode::Rows(episode))
        }
        None => Ok(Episode::Bag(Box::new(BagEpisode::open(path, settings, rules)?))),
    };
    settings.bags.iter().map(one).collect()
}

/// The files of recordings, by which a change is noticed.
pub fn file_states(paths: &[PathBuf]) -> Result<Vec<Vec<FileState>>, EvalError> {
    let mut datasets = Datasets::default();
    let one = |path: &PathBuf| match super::rows::locate(path) {
        Some((folder, number)) => {
            let dataset = datasets.open(&folder)?;
            super::rows::file_states(&dataset, number)
        }
        None => Ok(Bag::open(path)?.file_states()?),
    };
    paths.iter().map(one).collect()
}

impl Episode {
    /// The recording as the settings name it.
    pub fn path(&self) -> &Path {
        match self {
            Episode::Bag(episode) => episode.bag.path(),
            Episode::Rows(episode) => &episode.path,
        }
    }

    /// Its files.
    pub fn file_states(&self) -> Result<Vec<FileState>, EvalError> {
        match self {
            Episode::Bag(episode) => Ok(episode.bag.file_states()?),
            Episode::Rows(episode) => episode.file_states(),
        }
    }

    /// Number of images, if the recording states it.
    pub fn images(&self) -> Option<u64> {
        match self {
            Episode::Bag(episode) => episode.images(),
            Episode::Rows(episode) => Some(episode.length()),
        }
    }

    /// Kind of the recorded actions.
    pub fn action_kind(&self) -> Option<ActionKind> {
        match self {
            Episode::Bag(episode) => episode.action_kind(),
            Episode::Rows(episode) => episode.action_kind(),
        }
    }

    /// An empty track for the recorded actions.
    pub fn track(&self, space: &ActionSpace) -> Result<Option<Track>, EvalError> {
        self.action_kind().map(|kind| Track::new(kind, space.clone())).transpose()
    }

    /// Reads the recording to its end, or until `send` returns false. Frames whose number is in
    /// `done` are not sent.
    pub fn read(
        &self,
        index: usize,
        settings: &Settings,
        track: Option<Track>,
        done: &HashSet<u64>,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> ReadResult {
        match self {
            Episode::Bag(episode) => episode.read(index, settings, track, done, send),
            Episode::Rows(episode) => episode.read(index, settings, track, done, send),
        }
    }
}
