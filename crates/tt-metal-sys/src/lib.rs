//! The C ABI of a Tenstorrent provider: raw declarations of `include/tt_provider.h` and a loader.
//!
//! Handles are plain numbers and every pointer is borrowed for one call; functions are
//! documented in the header. The crate `tt-metal` is the safe interface.

mod api;
pub mod boards;
mod loader;
mod types;

pub use api::{Api, Signature, signatures};
pub use loader::{LoadError, Provider};
pub use types::*;

/// Text of the header, for the drift test.
pub const HEADER: &str = include_str!("../include/tt_provider.h");
