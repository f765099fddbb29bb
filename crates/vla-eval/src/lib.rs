//! Evaluation of policies on recordings: replay, metrics, reports.
//!
//! - `frames`, `pipeline`: read a bag and decode its images with the node's observation code, on
//!   threads of their own.
//! - `episode`: a recording, either a bag (`frames`) or an episode of a LeRobot dataset (`rows`).
//! - [`convert`]: bags as a LeRobot dataset, with the frames and actions of an evaluation.
//! - `sources`: several cameras and a state, the newest of each.
//! - [`evaluate`]: runs the policy on each image and appends the result to the `journal`.
//! - `recorded`, `tokens`: match the recorded actions to the frames at the end of a bag, and encode
//!   them as in training.
//! - `clock`, `convention`: whether stamps and recorded actions fit, in words where they do not.
//! - [`Metrics`]: errors of predicted against recorded actions.
//! - [`write_all`]: `report.json`, `actions.csv`, plots and `report.html`.
//! - [`limits`]: replays recorded actions through the control core, without a policy.
//!
//! No part of this crate can publish to a robot.

mod clock;
mod compare;
mod compare_page;
mod convention;
mod convert;
mod episode;
mod error;
mod files;
mod frames;
mod gallery;
mod html;
mod journal;
pub mod limits;
mod markup;
mod merge;
mod metrics;
mod pipeline;
mod plots;
mod progress;
mod recorded;
mod report;
mod rows;
mod run;
mod settings;
mod sources;
mod stats;
mod step;
mod table;
mod tokens;
mod write;

pub use compare::{Comparison, compare};
pub use convert::{Conversion, Converted, convert};
pub use error::EvalError;
pub use frames::encoded_image;
pub use journal::is_complete;
pub use merge::merge;
pub use metrics::{DimensionMetrics, GripperMetrics, MetricOptions, Metrics};
pub use recorded::ActionKind;
pub use report::{EpisodeNotes, EpisodeReport, FrameCounts, Report};
pub use rows::{episode_path, locate as locate_episode};
pub use run::{Evaluated, RunOptions, evaluate, evaluate_from};
pub use settings::{PolicySettings, ServerSettings, Settings, Shard};
pub use sources::ObservationRules;
pub use stats::Percentiles;
pub use step::{Outcome, Paired, Prediction, Recorded, Step, dimension_names};
pub use table::read as read_table;
pub use tokens::{ActionTokens, normalize};
pub use write::write_all;
