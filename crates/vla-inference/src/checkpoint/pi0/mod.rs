//! Checkpoints of pi0 and pi0.5: LeRobot folders (0.4 and later) and the converted form of openpi.
//!
//! | item | what it is |
//! |---|---|
//! | [`Pi0Checkpoint`] | a whole folder, opened and cross-checked |
//! | [`Pi0Config`] | config.json: model, dimensions, cameras, chunk, time |
//! | [`Processors`] | what LeRobot's pipelines do around the model |
//! | [`Normalizer`] | one feature's statistics with its formula |
//! | [`ActionMapping`] | the action as it is, or relative to the state |
//!
//! Sources: huggingface/lerobot at 7427f31 (`policies/pi0`, `policies/pi05`, `processor`),
//! Physical-Intelligence/openpi at 15a9616.

mod config;
mod dimensions;
mod expected;
mod features;
mod folder;
mod keys;
mod mapping;
mod normalizer;
mod openpi;
mod pipeline;
mod processors;
mod source;
mod statistics;

pub use config::{Pi0Config, Pi0Kind, RtcConfig};
pub use dimensions::{GemmaConfig, SiglipConfig};
pub use features::Camera;
pub use folder::Pi0Checkpoint;
pub(super) use folder::kind_of;
pub use mapping::ActionMapping;
pub use normalizer::{NormMode, Normalizer, Origin};
pub use processors::Processors;
pub use source::{Pi0Source, Resize, StateTokens};
