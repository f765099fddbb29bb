//! Simulated Wormhole and Blackhole meshes: a provider of the `tt-metal-sys` ABI without silicon.
//!
//! Modelled: number formats and their rounding, truncation of operands by fidelity, a bf16 or
//! float32 destination, tiles and faces, DRAM capacity, L1 of matmuls and attention, rounding of
//! collectives at every hop, traces over fixed addresses. Refused: the uses that TT-NN refuses, and
//! those that are undefined on silicon (freed or foreign tensors, reads of unwritten data, ids and
//! positions outside their tables). Time is not modelled, unless a test asks for a cost per launch
//! ([`clock`]).
//!
//! What is exact and what is a model within a tolerance is listed in the README.

mod board;
pub mod clock;
mod error;
mod ffi;
pub mod format;
mod host;
mod memory;
mod mesh;
mod op;
mod program;
pub mod record;
mod trace;

pub use ffi::api;
