//! Golden kits: cases made by the official code, and how near ours comes to them.
//!
//! Layout of a kit: `ckpt/` (a checkpoint), `cases.json`, `images/`, `resized/`,
//! `tensors/caseNN.safetensors`, `tokenizer_cases.json`; see `tests/data/openvla_tiny/README.md`.

mod check;
mod kit;
mod sensitivity;

pub use check::{Bounds, CaseResult, CheckError, Report, StageResult, check};
pub use kit::{Case, Kit, KitError, TokenizerCase};
pub use sensitivity::{Sensitivity, Spread, sensitivity};
