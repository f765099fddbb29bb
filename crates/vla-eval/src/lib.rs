//! Judging a policy on recordings: replay, metrics, reports.
//!
//! An [`Episode`](frames::Episode) reads a bag and decodes its images with the node's observation
//! code, on a thread of its own; [`evaluate`] gives them to the policy and writes each answer to
//! the [`journal`]; at the end of the bag the
//! [`recorded`] actions are matched to the frames, [`metrics`] compares, and [`report`], [`table`], [`plots`] and [`html`]
//! say it. [`limits`] replays recorded actions through the control core instead of a policy.
//! Nothing here can reach a publisher.

mod compare;
mod error;
mod frames;
mod gallery;
mod html;
mod journal;
pub mod limits;
mod merge;
mod metrics;
mod pipeline;
mod plots;
mod progress;
mod recorded;
mod report;
mod run;
mod settings;
mod stats;
mod step;
mod table;
mod tokens;
mod write;

pub use compare::{Comparison, compare};
pub use error::EvalError;
pub use merge::merge;
pub use metrics::{DimensionMetrics, GripperMetrics, MetricOptions, Metrics};
pub use recorded::ActionKind;
pub use report::{EpisodeNotes, EpisodeReport, FrameCounts, Report};
pub use run::{Evaluated, RunOptions, evaluate};
pub use settings::{PolicySettings, Settings, Shard};
pub use stats::Percentiles;
pub use step::{Outcome, Paired, Prediction, Recorded, Step, dimension_names};
pub use table::read as read_table;
pub use tokens::{ActionTokens, normalize};
pub use write::write_all;
