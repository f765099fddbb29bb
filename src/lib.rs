//! Vision-language-action policies on real robots, from ROS 2, on Tenstorrent hardware.
//!
//! See ARCHITECTURE.md for the way of the data through the modules.

pub mod backend;
pub mod bag;
pub mod checkpoint;
pub mod chunk;
pub mod cli;
pub mod contract;
pub mod control;
pub mod eval;
pub mod golden;
pub mod models;
pub mod observation;
pub mod plan;
pub mod policy;
pub mod recorder;
#[cfg(feature = "ros")]
pub mod ros;
pub mod runtime;
pub mod tensor;
pub mod time;
pub mod units;
