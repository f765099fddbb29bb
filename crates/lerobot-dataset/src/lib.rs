//! Reads and writes LeRobotDataset v3 folders without Python: `meta/` (JSON and Parquet), `data/`
//! (Parquet), with the pictures inside the Parquet files.
//!
//! - [`Dataset`]: opens a folder, checks its metadata ([`Info`]) and lists its episodes; [`Rows`]
//!   reads one episode row by row.
//! - [`DatasetWriter`]: writes a folder that LeRobot's own class loads.
//! - `columns`: values of one column of a Parquet file, with their types and counts checked.
//! - `stats`: the statistics of `meta/stats.json` and of the episodes.
//!
//! ```no_run
//! # fn main() -> Result<(), lerobot_dataset::DatasetError> {
//! use lerobot_dataset::{Dataset, Wanted};
//!
//! let dataset = Dataset::open("pick_and_place")?;
//! let wanted = Wanted { vectors: vec!["action".into()], pictures: Vec::new() };
//! for row in dataset.rows(0, &wanted)? {
//!     let row = row?;
//!     println!("{} {:?}", row.timestamp, row.vectors[0]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//! Counts and sizes in the metadata are checked before memory is allocated for them
//! (`limits`). A page of a Parquet file is decompressed whole; the format's 32-bit sizes and the
//! bytes that the file has bound it. Paths in `info.json` cannot leave the folder.
//!
//! # Video
//! Features of type `video` are refused by name when they are asked for (ARCHITECTURE.md,
//! "Decisions").

mod columns;
mod dataset;
mod episodes;
mod error;
mod info;
mod limits;
mod parquet_file;
mod paths;
mod rows;
mod stats;
mod tasks;
mod write;

pub use dataset::{Dataset, is_dataset};
pub use episodes::Episode;
pub use error::DatasetError;
pub use info::{Feature, Info};
pub use limits::MAX_PICTURE_BYTES;
pub use rows::{Row, Rows, Wanted};
pub use write::{DatasetWriter, FeatureSpec, Frame, Number, Picture, Written};
