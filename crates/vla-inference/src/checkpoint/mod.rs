//! Everything read from a checkpoint folder, as Hugging Face stores it. All input is
//! bounded and validated here, once; users of this module rely on it.
//!
//! | item | what it is |
//! |---|---|
//! | [`locate`] | the folder that a given path means |
//! | [`CheckpointKind`] | which policy a folder holds |
//! | [`Checkpoint`] | a whole OpenVLA folder, opened and cross-checked |
//! | [`WeightFiles`] | the mapped weights: `open(dir)`, `.tensor(name)`, `.expect(name, shape)` |
//! | [`MappedTensor`] | one tensor in place: `.shape()`, `.dtype()`, `.bytes()`, `.to_f32_vec()` |
//! | [`TorchFile`] | one `*.pt` file, its tensors in place: `open(path)`, `.tensor(name)` |
//! | [`SafetensorsFile`] | one such file alone (golden tensors): `open(path)`, `.tensor(name)` |
//! | [`OpenVlaConfig`] | config.json, with [`LlamaConfig`], [`TowerConfig`], [`ProjectorConfig`] |
//! | [`OftCheckpoint`] | a whole OpenVLA-OFT folder; [`sign_of_oft`]: whether a folder is one |
//! | [`NormStats`], [`ActionStats`] | un-normalisation statistics: `.select(unnorm_key)` |
//! | [`PreprocessorConfig`] | preprocessor_config.json: size, mean and std per tower |
//! | [`ExpectedTensor`] | a tensor that the configuration needs: `config.expected_tensors()` |
//! | [`Inventory`] | summary of the weights, compared with the expected tensors |
//! | [`pi0`] | folders of pi0 and pi0.5 |
//! | [`Tokenizer`] | tokenizer.json: `.encode(text)`; [`SpecialTokens`]: tokenizer_config.json |
//! | [`CheckpointError`] | every error of this module, one line each |

mod config;
mod constant;
mod error;
mod expected;
mod fields;
mod folder;
mod foreign;
mod header;
mod index;
mod inventory;
mod kind;
mod llama_config;
mod location;
mod map;
mod norm_stats;
mod oft;
mod other_folder;
pub mod pi0;
mod preprocessor;
mod python_json;
mod read;
mod sentencepiece;
mod shard;
mod siblings;
mod special_tokens;
mod tokenizer;
mod torch;
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
pub use location::locate;
pub use norm_stats::{ActionStats, BoundsKind, MAX_ACTION_DIM, NormStats, StatsOf, ValueBounds};
pub use oft::{OftCheckpoint, OftComponent, OftHead, OftProprio, OftVision, sign_of_oft};
pub use preprocessor::{PreprocessorConfig, TowerPixels};
pub use read::read_json_file;
pub use shard::{MappedTensor, SafetensorsFile};
pub use special_tokens::SpecialTokens;
pub use tokenizer::{MAX_TEXT_BYTES, Tokenizer};
pub use torch::{TorchFile, TorchProblem, parse_torch, parse_torch_pickle};
pub use tower_config::{TowerConfig, TowerFamily};
pub use weights::WeightFiles;
