//! `meta/episodes`: where the rows of each episode lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::columns::Vectors;
use super::error::DatasetError;
use super::info::Info;
use super::limits::{MAX_FILES, MAX_META_BYTES};
use super::parquet_file::ParquetFile;

/// Where they lie in the folder.
pub const EPISODES: &str = "meta/episodes";

/// Rows that are read at once.
const BATCH: usize = 1024;

/// An episode and the place of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// Its number, from 0.
    pub index: u64,
    /// Number of rows.
    pub length: u64,
    /// The file with its rows.
    pub file: PathBuf,
    /// Its first row in that file.
    pub first_row: u64,
}

/// A row of the table.
struct Entry {
    index: u64,
    length: u64,
    file: (u64, u64),
    from: u64,
}

/// Reads the table of episodes.
pub fn read(folder: &Path, info: &Info) -> Result<Vec<Episode>, DatasetError> {
    let base = folder.join(EPISODES);
    if !base.is_dir() {
        let remedy = "finish the recording (LeRobot's `finalize()`), or copy the dataset again";
        return Err(DatasetError::invalid(folder, "it has no meta/episodes", remedy));
    }
    let mut entries = Vec::new();
    for path in files(&base)? {
        let file = ParquetFile::open(&path, MAX_META_BYTES)?;
        let total = file.rows() + entries.len() as u64;
        if info.total_episodes < total {
            let what = format!("{total} episodes, info.json states {}", info.total_episodes);
            return Err(DatasetError::damaged(&path, what));
        }
        for (group, rows) in file.groups().into_iter().enumerate() {
            group_of(&file, group, rows as usize, &mut entries)?;
        }
    }
    if entries.len() as u64 != info.total_episodes {
        let what = format!("{} episodes, info.json states {}", entries.len(), info.total_episodes);
        return Err(DatasetError::damaged(&base, what));
    }
    entries.sort_by_key(|entry| entry.index);
    place(folder, &base, info, &entries)
}

/// The files of the table in the order of their names.
fn files(base: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, DatasetError> {
        let entries = std::fs::read_dir(folder).map_err(DatasetError::io("list", folder))?;
        let mut paths: Vec<PathBuf> =
            entries.flatten().take(MAX_FILES + 1).map(|entry| entry.path()).collect();
        DatasetError::limit(folder, "files", paths.len() as u64, MAX_FILES as u64)?;
        paths.sort();
        Ok(paths)
    };
    let mut found = Vec::new();
    for chunk in list(base)?.into_iter().filter(|path| path.is_dir()) {
        let is_table = |path: &PathBuf| path.extension().is_some_and(|end| end == "parquet");
        found.extend(list(&chunk)?.into_iter().filter(is_table));
        DatasetError::limit(base, "files", found.len() as u64, MAX_FILES as u64)?;
    }
    Ok(found)
}

fn group_of(
    file: &ParquetFile,
    group: usize,
    rows: usize,
    entries: &mut Vec<Entry>,
) -> Result<(), DatasetError> {
    let open = |name: &str| Vectors::open(file, group, name, 1);
    let mut columns = [
        open("episode_index")?,
        open("length")?,
        open("data/chunk_index")?,
        open("data/file_index")?,
        open("dataset_from_index")?,
        open("dataset_to_index")?,
    ];
    let mut left = rows;
    while 0 < left {
        let count = left.min(BATCH);
        let mut read = Vec::with_capacity(columns.len());
        for column in &mut columns {
            read.push(column.counts(count)?);
        }
        for (row, &index) in read[0].iter().enumerate() {
            let [length, chunk, number, from, to] = [1, 2, 3, 4, 5].map(|column| read[column][row]);
            if from.checked_add(length) != Some(to) {
                let what = format!("episode {index} has {length} rows, but is {from} to {to}");
                return Err(DatasetError::damaged(&file.path, what));
            }
            entries.push(Entry { index, length, file: (chunk, number), from });
        }
        left -= count;
    }
    Ok(())
}

/// Finds the first row of each episode in its file: files hold consecutive episodes.
fn place(
    folder: &Path,
    base: &Path,
    info: &Info,
    entries: &[Entry],
) -> Result<Vec<Episode>, DatasetError> {
    let mut starts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut next = 0_u64;
    for (number, entry) in entries.iter().enumerate() {
        if entry.index != number as u64 {
            let what = format!("there is no episode {number}, or it is there twice");
            return Err(DatasetError::damaged(base, what));
        }
        if entry.from != next {
            let what = format!(
                "episode {number} begins at row {}, the one before ends at {next}",
                entry.from
            );
            return Err(DatasetError::damaged(base, what));
        }
        next = entry.from.saturating_add(entry.length);
        let start = starts.entry(entry.file).or_insert(entry.from);
        *start = (*start).min(entry.from);
    }
    if next != info.total_frames {
        let what = format!("{next} rows, info.json states {}", info.total_frames);
        return Err(DatasetError::damaged(base, what));
    }
    let one = |entry: &Entry| Episode {
        index: entry.index,
        length: entry.length,
        file: folder.join(info.data_path.fill(entry.file.0, entry.file.1)),
        first_row: entry.from - starts.get(&entry.file).copied().unwrap_or(entry.from),
    };
    Ok(entries.iter().map(one).collect())
}
