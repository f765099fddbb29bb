//! Writes a dataset: rows one by one, `meta/info.json` at the end, so that an interrupted
//! conversion is no dataset.

mod columns;
mod meta;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use self::columns::{Column, TableFile, Values};
use self::meta::EpisodeTable;
use super::error::DatasetError;
use super::limits::{MAX_PICTURE_BYTES, MAX_TASK_BYTES};
use super::paths::{DATA_PATH, Template};
use super::stats::{self, Pixels, Stats};

/// Bytes of a data file after which the next episode begins another one, as LeRobot's default.
const FILE_BYTES: usize = 100 << 20;
/// Bytes of pictures that wait in memory before they are written.
const PENDING_BYTES: usize = 64 << 20;
/// Files of a folder, as LeRobot's default.
const CHUNK_FILES: u64 = 1000;
/// The columns that every dataset has, after its own.
const COUNTERS: [&str; 4] = ["frame_index", "episode_index", "index", "task_index"];

/// Precision of the numbers of a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// `float32`, what policies are trained with.
    F32,
    /// `float64`, without loss.
    F64,
}

/// A vector of every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSpec {
    /// Its name, such as `action`.
    pub name: String,
    /// A name for each of its numbers.
    pub names: Vec<String>,
    /// Their precision.
    pub number: Number,
}

/// A picture of a camera.
#[derive(Debug, Clone)]
pub struct Picture<'a> {
    /// A PNG or JPEG file, which is stored as it is.
    pub bytes: Bytes,
    /// `png` or `jpg`.
    pub extension: &'static str,
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// Its pixels, RGB, for the statistics.
    pub rgb: &'a [u8],
}

/// A row to write.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    /// The instruction.
    pub task: &'a str,
    /// Of each vector, in the order of the specification.
    pub vectors: Vec<&'a [f64]>,
    /// Of each camera, in the order of the specification.
    pub pictures: Vec<Picture<'a>>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Episodes.
    pub episodes: u64,
    /// Rows.
    pub frames: u64,
    /// Different tasks.
    pub tasks: u64,
}

/// A dataset that is being written.
pub struct DatasetWriter {
    folder: PathBuf,
    fps: u32,
    robot_type: Option<String>,
    vectors: Vec<FeatureSpec>,
    cameras: Vec<Camera>,
    tasks: Vec<String>,
    task_places: HashMap<String, u64>,
    /// Rows that are not written yet: pictures, vectors, time and counters.
    columns: Vec<Column>,
    pending: usize,
    file: Option<(TableFile, PathBuf)>,
    /// Number of the file in use, counted over all chunks.
    file_number: u64,
    current: Current,
    table: EpisodeTable,
    whole: Vec<Option<Stats>>,
    frames: u64,
}

struct Camera {
    name: String,
    /// Width and height, once there was a picture.
    size: Option<(usize, usize)>,
}

/// The episode that is being written.
struct Current {
    frames: u64,
    /// Numbers of all vectors, then time and counters.
    values: Vec<Vec<f64>>,
    pixels: Vec<Pixels>,
    /// Places of its tasks, in the order of their appearance.
    tasks: Vec<u64>,
}

impl Current {
    fn new(vectors: usize, cameras: usize) -> Current {
        Current {
            frames: 0,
            values: vec![Vec::new(); vectors + 1 + COUNTERS.len()],
            pixels: vec![Pixels::new(); cameras],
            tasks: Vec::new(),
        }
    }
}

impl DatasetWriter {
    /// Starts a dataset in a folder that is empty or does not exist.
    ///
    /// # Errors
    /// When the folder has content, or a name is used twice.
    pub fn create(
        folder: &Path,
        fps: u32,
        robot_type: Option<String>,
        vectors: Vec<FeatureSpec>,
        cameras: Vec<String>,
    ) -> Result<DatasetWriter, DatasetError> {
        let occupied = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if occupied || folder.is_file() {
            let remedy = "choose another --out, or remove it first";
            return Err(DatasetError::invalid(folder, "it exists and is not empty", remedy));
        }
        let mut names: Vec<&str> = vectors.iter().map(|vector| vector.name.as_str()).collect();
        names.extend(cameras.iter().map(String::as_str));
        names.extend(COUNTERS.iter().chain(&["timestamp", "task"]));
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let what = format!("the feature '{}' would be there twice", pair[0]);
            return Err(DatasetError::invalid(folder, what, "give each another name"));
        }
        if let Some(name) = names.iter().find(|name| name.contains('/') || name.is_empty()) {
            let what = format!("'{name}' cannot be the name of a feature");
            return Err(DatasetError::invalid(folder, what, "use letters, digits, dots and _"));
        }
        std::fs::create_dir_all(folder).map_err(DatasetError::io("create", folder))?;
        let columns = data_columns(&vectors, &cameras);
        let current = Current::new(vectors.len(), cameras.len());
        let count = cameras.len() + vectors.len() + 1 + COUNTERS.len();
        let cameras: Vec<Camera> =
            cameras.into_iter().map(|name| Camera { name, size: None }).collect();
        Ok(DatasetWriter {
            folder: folder.to_owned(),
            fps,
            robot_type,
            vectors,
            cameras,
            tasks: Vec::new(),
            task_places: HashMap::new(),
            columns,
            pending: 0,
            file: None,
            file_number: 0,
            current,
            table: EpisodeTable::default(),
            whole: vec![None; count],
            frames: 0,
        })
    }

    /// Adds a row to the current episode.
    ///
    /// # Errors
    /// When it does not fit the rows before it, or cannot be written.
    pub fn add(&mut self, frame: &Frame<'_>) -> Result<(), DatasetError> {
        self.check(frame)?;
        let task = self.task(frame.task);
        if !self.current.tasks.contains(&task) {
            self.current.tasks.push(task);
        }
        let place = self.current.frames;
        let episode = self.table.len();
        // As LeRobot: a row's time is its number by the rate.
        let time = place as f64 / f64::from(self.fps);
        let mut columns = self.columns.iter_mut();
        for ((picture, pixels), camera) in
            frame.pictures.iter().zip(&mut self.current.pixels).zip(&mut self.cameras)
        {
            camera.size = Some((picture.width, picture.height));
            pixels.add(picture.width, picture.height, picture.rgb);
            self.pending += picture.bytes.len();
            if let Some(column) = columns.next() {
                let name = format!("frame-{place:06}.{}", picture.extension);
                column.picture(picture.bytes.clone(), &name);
            }
        }
        let counters = [place, episode, self.frames, task];
        let last = std::iter::once(time).chain(counters.map(|count| count as f64));
        let numbers = frame.vectors.iter().map(|vector| vector.to_vec());
        let numbers = numbers.chain(last.map(|value| vec![value]));
        for (values, row) in self.current.values.iter_mut().zip(numbers) {
            values.extend(row);
        }
        // In this order: `zip` takes from its first iterator first.
        for (vector, column) in frame.vectors.iter().zip(columns.by_ref()) {
            column.numbers(vector, &[vector.len()]);
            self.pending += vector.len() * 8;
        }
        if let Some(column) = columns.next() {
            column.numbers(&[time], &[1]);
        }
        columns.zip(counters).for_each(|(column, count)| column.int(count));
        self.current.frames += 1;
        self.frames += 1;
        if PENDING_BYTES <= self.pending { self.flush() } else { Ok(()) }
    }

    fn check(&self, frame: &Frame<'_>) -> Result<(), DatasetError> {
        let wrong = |what: String, remedy: &str| {
            Err(DatasetError::invalid(&self.folder, format!("row {}: {what}", self.frames), remedy))
        };
        if MAX_TASK_BYTES < frame.task.len() {
            return wrong("the instruction is too long".to_owned(), "shorten it");
        }
        for (spec, vector) in self.vectors.iter().zip(&frame.vectors) {
            let (has, needs) = (vector.len(), spec.names.len());
            if has != needs {
                let what = format!("{} has {has} numbers, {needs} in other rows", spec.name);
                return wrong(what, "convert recordings of one kind together");
            }
        }
        for (camera, picture) in self.cameras.iter().zip(&frame.pictures) {
            let size = (picture.width, picture.height);
            if let Some(before) = camera.size.filter(|before| *before != size) {
                let what = format!(
                    "the picture of {} is {}x{}, before {}x{}",
                    camera.name, size.0, size.1, before.0, before.1
                );
                return wrong(what, "convert recordings of one size together");
            }
            if MAX_PICTURE_BYTES < picture.bytes.len() {
                return wrong(format!("the picture of {} is too large", camera.name), "shrink it");
            }
        }
        Ok(())
    }

    /// Number of a task; a new one gets the next.
    fn task(&mut self, text: &str) -> u64 {
        if let Some(place) = self.task_places.get(text) {
            return *place;
        }
        let place = self.tasks.len() as u64;
        self.tasks.push(text.to_owned());
        self.task_places.insert(text.to_owned(), place);
        place
    }

    /// Ends the current episode; without rows it is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end_episode(&mut self) -> Result<(), DatasetError> {
        if self.current.frames == 0 {
            return Ok(());
        }
        self.flush()?;
        let fresh = Current::new(self.vectors.len(), self.cameras.len());
        let episode = std::mem::replace(&mut self.current, fresh);
        let pictures = episode.pixels.iter().map(Pixels::stats);
        let widths = self.vectors.iter().map(|vector| vector.names.len());
        let widths = widths.chain([1; 1 + COUNTERS.len()]);
        let numbers =
            episode.values.iter().zip(widths).map(|(values, w)| stats::of_rows(values, w));
        let own: Vec<Stats> = pictures.chain(numbers).collect();
        for (whole, own) in self.whole.iter_mut().zip(&own) {
            stats::join(whole, own);
        }
        let names = self.feature_names();
        let tasks: Vec<&str> = episode
            .tasks
            .iter()
            .filter_map(|t| self.tasks.get(*t as usize))
            .map(|t| &**t)
            .collect();
        let place = (self.file_number / CHUNK_FILES, self.file_number % CHUNK_FILES);
        let until = self.frames;
        self.table.add(
            &self.folder,
            meta::Entry { tasks, place, from: until - episode.frames, until },
            names.iter().map(String::as_str).zip(&own),
            self.cameras.len(),
        )?;
        if self.file.as_ref().is_some_and(|(file, _)| FILE_BYTES <= file.bytes()) {
            self.close_file()?;
        }
        Ok(())
    }

    /// Names of all features in the order of the columns.
    fn feature_names(&self) -> Vec<String> {
        let cameras = self.cameras.iter().map(|camera| camera.name.clone());
        let vectors = self.vectors.iter().map(|vector| vector.name.clone());
        let others = ["timestamp"].into_iter().chain(COUNTERS).map(str::to_owned);
        cameras.chain(vectors).chain(others).collect()
    }

    /// Writes the pending rows. An episode is in one file, in one or more row groups.
    fn flush(&mut self) -> Result<(), DatasetError> {
        let (file, path) = match &mut self.file {
            Some(open) => open,
            none => {
                // The template is this crate's own.
                let template = Template::parse(DATA_PATH)
                    .map_err(|what| DatasetError::damaged(&self.folder, what))?;
                let number = self.file_number;
                let path =
                    self.folder.join(template.fill(number / CHUNK_FILES, number % CHUNK_FILES));
                none.insert((TableFile::create(&path, &self.columns, None)?, path))
            }
        };
        file.write(path, &mut self.columns)?;
        self.pending = 0;
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), DatasetError> {
        if let Some((file, path)) = self.file.take() {
            file.close(&path)?;
            self.file_number += 1;
        }
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Ends the episode and writes `meta/`.
    ///
    /// # Errors
    /// When there is no row, or it cannot be written.
    pub fn finish(mut self) -> Result<Written, DatasetError> {
        self.end_episode()?;
        if self.frames == 0 {
            let remedy = "see the warnings for why";
            return Err(DatasetError::invalid(&self.folder, "no row was written", remedy));
        }
        self.close_file()?;
        meta::tasks(&self.folder, &self.tasks)?;
        let episodes = self.table.len();
        std::mem::take(&mut self.table).finish(&self.folder)?;
        let names = self.feature_names();
        let whole = names.iter().map(String::as_str).zip(self.whole.iter().flatten());
        meta::stats(&self.folder, whole, self.cameras.len())?;
        let written = Written { episodes, frames: self.frames, tasks: self.tasks.len() as u64 };
        self.info(&written)?;
        Ok(written)
    }

    fn info(&self, written: &Written) -> Result<(), DatasetError> {
        let mut features = serde_json::Map::new();
        for vector in &self.vectors {
            let dtype = if vector.number == Number::F32 { "float32" } else { "float64" };
            features.insert(
                vector.name.clone(),
                serde_json::json!({
                    "dtype": dtype, "shape": [vector.names.len()], "names": vector.names,
                }),
            );
        }
        for camera in &self.cameras {
            let (width, height) = camera.size.unwrap_or_default();
            features.insert(
                camera.name.clone(),
                serde_json::json!({
                    "dtype": "image",
                    "shape": [height, width, 3],
                    "names": ["height", "width", "channels"],
                }),
            );
        }
        let plain = |dtype: &str| serde_json::json!({"dtype": dtype, "shape": [1], "names": null});
        features.insert("timestamp".to_owned(), plain("float32"));
        features.extend(COUNTERS.iter().map(|name| ((*name).to_owned(), plain("int64"))));
        let info = serde_json::json!({
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": written.episodes,
            "total_frames": written.frames,
            "total_tasks": written.tasks,
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": format!("0:{}", written.episodes)},
            "data_path": DATA_PATH,
            "video_path": null,
            "features": features,
        });
        meta::json(&self.folder.join(super::info::INFO), &info)
    }
}

/// Pictures, vectors, time and counters.
fn data_columns(vectors: &[FeatureSpec], cameras: &[String]) -> Vec<Column> {
    let pictures =
        cameras.iter().map(|name| Column::new(name, 0, Values::Picture(Vec::new(), Vec::new())));
    let numbers = vectors.iter().map(|vector| {
        let values = match vector.number {
            Number::F32 => Values::Float(Vec::new()),
            Number::F64 => Values::Double(Vec::new()),
        };
        // LeRobot stores a vector of one number as the number.
        Column::new(&vector.name, usize::from(vector.names.len() != 1), values)
    });
    let time = std::iter::once(Column::new("timestamp", 0, Values::Float(Vec::new())));
    let counters = COUNTERS.iter().map(|name| Column::new(*name, 0, Values::Int(Vec::new())));
    pictures.chain(numbers).chain(time).chain(counters).collect()
}
