//! Golden kits: cases recorded with the official code, and their comparison with a policy.
//!
//! Layout of a kit: `ckpt/` (a checkpoint), `cases.json`, `images/`, `resized/`,
//! `tensors/caseNN.safetensors`, `tokenizer_cases.json`; see `tests/data/openvla_tiny/README.md`.

mod check;
pub mod image_preparation;
mod kind;
mod kit;
mod oft;
pub mod pi0;
mod reaction;
mod sensitivity;

pub use check::{Bounds, CaseResult, CheckError, Report, StageResult, check};
pub use kind::KitKind;
pub use kit::{Case, EosCase, Kit, KitError, TokenizerCase, TrailingSpaceCase};
pub use oft::{OftBounds, OftCaseResult, OftKit, OftReport, OftStage, check_oft, check_oft_with};
pub use reaction::{Answers, Change, Inputs, Reaction};
pub use sensitivity::{Sensitivity, Spread, sensitivity};
