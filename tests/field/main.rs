//! What people really bring: inputs made after public bug reports, and others of the same kinds.
//! Each has a name, which docs/field.md lists with its source and what is said to it.
//!
//! `OPENVLA_FIELD_PROGRAM=/path/to/openvla cargo test --test field -- --nocapture` runs the inputs
//! through another program, an older version for instance, and prints what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../crates/vla-eval/tests/support/mod.rs"]
mod eval_support;

mod bags;
#[path = "../../crates/vla-inference/tests/checkpoint_support/mod.rs"]
mod checkpoint_support;
mod media;
mod pictures;

mod checkpoints;
mod folders;
mod instructions;
mod paths;
mod program;
mod weights;
