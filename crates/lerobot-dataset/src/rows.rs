//! The rows of one episode.

use bytes::Bytes;

use super::columns::{Strings, Vectors};
use super::dataset::Dataset;
use super::episodes::Episode;
use super::error::DatasetError;
use super::limits::MAX_PICTURE_BYTES;
use super::parquet_file::ParquetFile;

/// Rows that are read at once.
const BATCH: u64 = 16;
/// Distance of two timestamps from a period, as a share of it.
const TOLERANCE: f64 = 0.25;

/// The features to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Vectors of numbers.
    pub vectors: Vec<String>,
    /// Pictures.
    pub pictures: Vec<String>,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its number in the episode, from 0.
    pub frame: u64,
    /// Seconds since the episode's begin.
    pub timestamp: f64,
    /// Place of its task in [`Dataset::tasks`].
    pub task: usize,
    /// Numbers of each wanted vector.
    pub vectors: Vec<Vec<f64>>,
    /// A PNG or JPEG file of each wanted camera.
    pub pictures: Vec<Bytes>,
}

/// The columns of the current row group.
struct Group {
    /// Rows left in it that belong to the episode.
    left: u64,
    episode: Vectors,
    frame: Vectors,
    timestamp: Vectors,
    task: Vectors,
    vectors: Vec<(Vectors, usize)>,
    pictures: Vec<Strings>,
}

/// Iterates over the rows of an episode. After an error it ends.
pub struct Rows {
    file: ParquetFile,
    episode: Episode,
    wanted: Vec<(String, usize)>,
    cameras: Vec<String>,
    fps: f64,
    tasks: usize,
    /// Next row group, and the rows before it in the file.
    next: (usize, u64),
    group: Option<Group>,
    ready: std::vec::IntoIter<Row>,
    delivered: u64,
    last: Option<f64>,
    ended: bool,
}

impl Rows {
    pub(super) fn open(
        dataset: &Dataset,
        episode: &Episode,
        wanted: &Wanted,
    ) -> Result<Rows, DatasetError> {
        let vectors = wanted.vectors.iter().map(|name| {
            let feature = dataset.vector(name)?;
            Ok((name.clone(), feature.shape[0]))
        });
        let vectors = vectors.collect::<Result<Vec<_>, DatasetError>>()?;
        for name in &wanted.pictures {
            dataset.pictures(name)?;
        }
        let file = ParquetFile::open(&episode.file, u64::MAX)?;
        let end = episode.first_row.saturating_add(episode.length);
        if file.rows() < end {
            let (index, rows) = (episode.index, file.rows());
            let what = format!("episode {index} ends at row {end}, the file has {rows}");
            return Err(DatasetError::damaged(&episode.file, what));
        }
        Ok(Rows {
            file,
            episode: episode.clone(),
            wanted: vectors,
            cameras: wanted.pictures.clone(),
            fps: dataset.info().fps,
            tasks: dataset.tasks().len(),
            next: (0, 0),
            group: None,
            ready: Vec::new().into_iter(),
            delivered: 0,
            last: None,
            ended: false,
        })
    }

    /// Opens the next row group with rows of the episode; `false` when there is none.
    fn open_group(&mut self) -> Result<bool, DatasetError> {
        let groups = self.file.groups();
        let (first, end) =
            (self.episode.first_row, self.episode.first_row.saturating_add(self.episode.length));
        while let Some(&rows) = groups.get(self.next.0) {
            let (number, before) = self.next;
            self.next = (number + 1, before.saturating_add(rows));
            let from = first.max(before) - before;
            let until = end.min(before.saturating_add(rows)).saturating_sub(before);
            if until <= from {
                continue;
            }
            let file = &self.file;
            let open = |name: &str| Vectors::open(file, number, name, 1);
            let mut group = Group {
                left: until - from,
                episode: open("episode_index")?,
                frame: open("frame_index")?,
                timestamp: open("timestamp")?,
                task: open("task_index")?,
                vectors: Vec::new(),
                pictures: Vec::new(),
            };
            for (name, width) in &self.wanted {
                group.vectors.push((Vectors::open(file, number, name, *width)?, *width));
            }
            for name in &self.cameras {
                let limit = MAX_PICTURE_BYTES;
                group.pictures.push(Strings::open(file, number, name, Some("bytes"), limit)?);
            }
            group.skip(from)?;
            self.group = Some(group);
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads the next rows; `false` at the end.
    fn fill(&mut self) -> Result<bool, DatasetError> {
        if self.group.as_ref().is_none_or(|group| group.left == 0) && !self.open_group()? {
            return Ok(false);
        }
        let Some(group) = self.group.as_mut() else { return Ok(false) };
        let rows = group.read()?;
        for (number, row) in &rows {
            self.check(*number, row)?;
            self.delivered += 1;
            self.last = Some(row.timestamp);
        }
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        self.ready = rows.into_iter();
        Ok(true)
    }

    /// Checks a row against its place; `number`: of the episode that it states.
    fn check(&self, number: u64, row: &Row) -> Result<(), DatasetError> {
        let Episode { index, .. } = self.episode;
        let wrong =
            |what: String| Err(DatasetError::damaged(&self.file.path, format!("row {what}")));
        let place = self.delivered;
        if number != index {
            return wrong(format!("{place} of episode {index} states episode {number}"));
        }
        if row.frame != place {
            let frame = row.frame;
            return wrong(format!("{place} of episode {index} has the frame_index {frame}"));
        }
        if self.tasks <= row.task {
            let (task, tasks) = (row.task, self.tasks);
            return wrong(format!(
                "{place} of episode {index} has the task_index {task}, there are {tasks} tasks"
            ));
        }
        if !row.timestamp.is_finite() || row.timestamp.abs() > 1e9 {
            return wrong(format!("{place} of episode {index} has the time {}", row.timestamp));
        }
        let Some(last) = self.last else { return Ok(()) };
        let (step, period) = (row.timestamp - last, 1.0 / self.fps);
        // Timestamps are float32: after days their steps are coarse.
        let coarse = f64::from(f32::EPSILON) * row.timestamp.abs();
        if (step - period).abs() <= TOLERANCE * period + coarse {
            return Ok(());
        }
        Err(DatasetError::invalid(
            &self.file.path,
            format!(
                "row {place} of episode {index} is {step:.6} s after the one before, fps {} in \
                info.json means {period:.6} s",
                self.fps
            ),
            "correct fps, or record the dataset again at one rate",
        ))
    }
}

impl Group {
    fn skip(&mut self, rows: u64) -> Result<(), DatasetError> {
        for column in [&mut self.episode, &mut self.frame, &mut self.timestamp, &mut self.task] {
            column.skip(rows)?;
        }
        for (column, _) in &mut self.vectors {
            column.skip(rows)?;
        }
        for column in &mut self.pictures {
            column.skip(rows)?;
        }
        Ok(())
    }

    /// The next rows, each with the number of its episode.
    fn read(&mut self) -> Result<Vec<(u64, Row)>, DatasetError> {
        // At most BATCH.
        let count = self.left.min(BATCH) as usize;
        let episodes = self.episode.counts(count)?;
        let frames = self.frame.counts(count)?;
        let times = self.timestamp.read(count)?;
        let tasks = self.task.counts(count)?;
        let mut rows: Vec<(u64, Row)> = (0..count)
            .map(|i| {
                let row = Row {
                    frame: frames[i],
                    timestamp: times[i],
                    task: usize::try_from(tasks[i]).unwrap_or(usize::MAX),
                    vectors: Vec::with_capacity(self.vectors.len()),
                    pictures: Vec::with_capacity(self.pictures.len()),
                };
                (episodes[i], row)
            })
            .collect();
        for (column, width) in &mut self.vectors {
            let values = column.read(count)?;
            for ((_, row), vector) in rows.iter_mut().zip(values.chunks(*width)) {
                row.vectors.push(vector.to_vec());
            }
        }
        for column in &mut self.pictures {
            for ((_, row), bytes) in rows.iter_mut().zip(column.read(count)?) {
                row.pictures.push(bytes);
            }
        }
        self.left -= count as u64;
        Ok(rows)
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.next() {
                return Some(Ok(row));
            }
            if self.ended {
                return None;
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
