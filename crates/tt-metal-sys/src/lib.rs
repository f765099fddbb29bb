//! The C ABI of a Tenstorrent provider: raw declarations of `include/tt_provider.h` and a loader.
//!
//! Handles are plain numbers and every pointer is borrowed for one call; what a function does is
//! written once, in the header. The safe floor above is the crate `tt-metal`.

mod api;
mod loader;
mod types;

pub use api::{Api, Signature, signatures};
pub use loader::{LoadError, Provider};
pub use types::*;

/// The header, as the shim's build and the drift test see it.
pub const HEADER: &str = include_str!("../include/tt_provider.h");
