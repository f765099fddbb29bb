//! Vision-language-action policies on real robots, from ROS 2, on Tenstorrent hardware.
//!
//! The modules stand in the order in which the data passes them: see ARCHITECTURE.md.

pub mod backend;
pub mod bag;
pub mod checkpoint;
pub mod chunk;
pub mod cli;
pub mod control;
pub mod eval;
pub mod golden;
pub mod models;
pub mod observation;
pub mod plan;
pub mod policy;
pub mod tensor;
pub mod time;
pub mod units;
