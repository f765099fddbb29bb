//! Wormhole meshes in software: a provider of the `tt-metal-sys` ABI without silicon.
//!
//! It keeps what decides whether a program is right on the device: number formats and where they
//! round, operands cut by fidelity, a bf16 or float32 destination, tiles and faces, DRAM that runs
//! out, collectives that round at every hop, traces that keep addresses. It refuses what TT-NN
//! refuses and what silicon would punish later: freed or foreign tensors, data that nothing wrote,
//! ids and positions outside their tables. It has no notion of time.
//!
//! What is exact and what is a model within a tolerance is listed in the README.

mod board;
mod error;
mod ffi;
pub mod format;
mod host;
mod memory;
mod mesh;
mod op;
mod program;
mod trace;

pub use ffi::api;
