//! Everything read from a checkpoint folder, as Hugging Face stores it. All input is
//! bounded and validated here, once; users of this module rely on it.
//!
//! | item | what it is |
//! |---|---|
//! | [`CheckpointKind`] | which policy a folder holds |
//! | [`Checkpoint`] | a whole OpenVLA folder, opened and cross-checked |
//! | [`WeightFiles`] | the mapped weights: `open(dir)`, `.tensor(name)`, `.expect(name, shape)` |
//! | [`MappedTensor`] | one tensor in place: `.shape()`, `.dtype()`, `.bytes()`, `.to_f32_vec()` |
//! | [`SafetensorsFile`] | one such file alone (golden tensors): `open(path)`, `.tensor(name)` |
//! | [`OpenVlaConfig`] | config.json, with [`LlamaConfig`], [`TowerConfig`], [`ProjectorConfig`] |
//! | [`NormStats`], [`ActionStats`] | un-normalisation statistics: `.select(unnorm_key)` |
//! | [`PreprocessorConfig`] | preprocessor_config.json: size, mean and std per tower |
//! | [`ExpectedTensor`] | a tensor that the configuration needs: `config.expected_tensors()` |
//! | [`Inventory`] | summary of the weights, compared with the expected tensors |
//! | [`Tokenizer`] | tokenizer.json: `.encode(text)` |
//! | [`CheckpointError`] | every error of this module, one line each |

mod config;
mod error;
mod expected;
mod fields;
mod folder;
mod header;
mod index;
mod inventory;
mod kind;
mod llama_config;
mod map;
mod norm_stats;
mod preprocessor;
mod read;
mod shard;
mod tokenizer;
mod tower_config;
mod weights;

pub use config::{OpenVlaConfig, ProjectorConfig, PromptStyle};
pub use error::CheckpointError;
pub use expected::ExpectedTensor;
pub use folder::Checkpoint;
pub use header::{
    HeaderProblem, MAX_HEADER_BYTES, StoredType, TensorEntry, header_length, parse_header,
};
pub use index::WeightIndex;
pub use inventory::{Group, Inventory, Misshapen};
pub use kind::CheckpointKind;
pub use llama_config::LlamaConfig;
pub use norm_stats::{ActionStats, MAX_ACTION_DIM, NormStats};
pub use preprocessor::{PreprocessorConfig, TowerPixels};
pub use shard::{MappedTensor, SafetensorsFile};
pub use tokenizer::{MAX_TEXT_BYTES, Tokenizer};
pub use tower_config::{TowerConfig, TowerFamily};
pub use weights::WeightFiles;
