//! The files below `meta/`.

use std::path::{Path, PathBuf};

use parquet::file::metadata::KeyValue;
use serde_json::{Value, json};

use super::columns::{Column, TableFile, Values};
use crate::error::DatasetError;
use crate::stats::Stats;
use crate::tasks::TASKS;

/// The table of episodes.
const EPISODES_FILE: &str = "meta/episodes/chunk-000/file-000.parquet";
const STATS_FILE: &str = "meta/stats.json";
/// Episodes that wait in memory before they are written.
const PENDING: u64 = 64;

/// An episode's row, without its statistics.
pub struct Entry<'a> {
    pub tasks: Vec<&'a str>,
    /// Chunk and file with its rows.
    pub place: (u64, u64),
    pub from: u64,
    pub until: u64,
}

/// The table of episodes, written in groups of rows.
#[derive(Default)]
pub struct EpisodeTable {
    columns: Vec<Column>,
    file: Option<(TableFile, PathBuf)>,
    rows: u64,
    pending: u64,
}

impl EpisodeTable {
    /// Number of episodes.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Adds an episode; the first `pictures` of its statistics are those of cameras.
    pub fn add<'a>(
        &mut self,
        folder: &Path,
        entry: Entry<'_>,
        stats: impl Iterator<Item = (&'a str, &'a Stats)>,
        pictures: usize,
    ) -> Result<(), DatasetError> {
        let stats: Vec<(&str, &Stats)> = stats.collect();
        if self.columns.is_empty() {
            self.columns = columns(&stats, pictures);
        }
        let (chunk, file) = entry.place;
        let (from, until) = (entry.from, entry.until);
        let mut columns = self.columns.iter_mut();
        let mut ints = |row: u64| {
            if let Some(column) = columns.next() {
                column.int(row);
            }
        };
        for value in [self.rows, until - from, chunk, file, from, until, 0, 0] {
            ints(value);
        }
        if let Some(column) = columns.next() {
            column.texts(&entry.tasks);
        }
        for (place, (_, own)) in stats.iter().enumerate() {
            for ((_, values), column) in own.named().into_iter().zip(columns.by_ref()) {
                let width = values.len();
                if place < pictures {
                    column.numbers(values, &[width, 1, 1]);
                } else {
                    column.numbers(values, &[width]);
                }
            }
            if let Some(column) = columns.next() {
                column.ints(&[own.count]);
            }
        }
        self.rows += 1;
        self.pending += 1;
        if PENDING <= self.pending { self.flush(folder) } else { Ok(()) }
    }

    fn flush(&mut self, folder: &Path) -> Result<(), DatasetError> {
        let (file, path) = match &mut self.file {
            Some(open) => open,
            none => {
                let path = folder.join(EPISODES_FILE);
                none.insert((TableFile::create(&path, &self.columns, None)?, path))
            }
        };
        self.pending = 0;
        file.write(path, &mut self.columns)
    }

    /// Writes the rest.
    pub fn finish(mut self, folder: &Path) -> Result<(), DatasetError> {
        if 0 < self.pending {
            self.flush(folder)?;
        }
        match self.file.take() {
            Some((file, path)) => file.close(&path),
            None => Ok(()),
        }
    }
}

fn columns(stats: &[(&str, &Stats)], pictures: usize) -> Vec<Column> {
    let names = [
        "episode_index",
        "length",
        "data/chunk_index",
        "data/file_index",
        "dataset_from_index",
        "dataset_to_index",
        "meta/episodes/chunk_index",
        "meta/episodes/file_index",
    ];
    let ints = names.iter().map(|name| Column::new(*name, 0, Values::Int(Vec::new())));
    let mut columns: Vec<Column> = ints.collect();
    columns.push(Column::new("tasks", 1, Values::Text(Vec::new())));
    for (place, (feature, own)) in stats.iter().enumerate() {
        let depth = if place < pictures { 3 } else { 1 };
        for (name, _) in own.named() {
            let name = format!("stats/{feature}/{name}");
            columns.push(Column::new(name, depth, Values::Double(Vec::new())));
        }
        let name = format!("stats/{feature}/count");
        columns.push(Column::new(name, 1, Values::Int(Vec::new())));
    }
    columns
}

/// The tasks with their numbers. LeRobot reads them with pandas, whose index is the text.
pub fn tasks(folder: &Path, tasks: &[String]) -> Result<(), DatasetError> {
    let path = folder.join(TASKS);
    let column = |name: &str, pandas: &str, numpy: &str| {
        json!({
            "name": name, "field_name": name, "pandas_type": pandas, "numpy_type": numpy,
            "metadata": null,
        })
    };
    let pandas = json!({
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            column("task_index", "int64", "int64"),
            column("task", "unicode", "object"),
        ],
        "creator": {"library": "openvla_tt", "version": env!("CARGO_PKG_VERSION")},
        "pandas_version": "2.0.0",
    });
    let key = KeyValue::new("pandas".to_owned(), pandas.to_string());
    let mut columns = [
        Column::new("task_index", 0, Values::Int(Vec::new())),
        Column::new("task", 0, Values::Text(Vec::new())),
    ];
    for (number, task) in tasks.iter().enumerate() {
        columns[0].int(number as u64);
        columns[1].texts(&[task]);
    }
    let mut file = TableFile::create(&path, &columns, Some(vec![key]))?;
    file.write(&path, &mut columns)?;
    file.close(&path)
}

/// The statistics of the whole dataset.
pub fn stats<'a>(
    folder: &Path,
    stats: impl Iterator<Item = (&'a str, &'a Stats)>,
    pictures: usize,
) -> Result<(), DatasetError> {
    let all = stats.enumerate();
    let map = all.map(|(place, (name, own))| (name.to_owned(), own.json(place < pictures)));
    json(&folder.join(STATS_FILE), &Value::Object(map.collect()))
}

/// Writes JSON as LeRobot does, with four spaces.
pub fn json(path: &Path, value: &Value) -> Result<(), DatasetError> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer)
        .map_err(|error| DatasetError::damaged(path, error.to_string()))?;
    std::fs::write(path, text).map_err(DatasetError::io("write", path))
}
