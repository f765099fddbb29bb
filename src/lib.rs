//! Vision-language-action policies on real robots, from ROS 2, on Tenstorrent hardware.
//!
//! This crate is the ROS 2 node ([`ros`]), its threads ([`runtime`]) and the command line
//! ([`cli`]), with the image preparation of policy files ([`preparation`]) for both and what they
//! say of a policy server ([`remote`]); control, inference, recordings and evaluation are crates of
//! their own. See ARCHITECTURE.md.

#[cfg(feature = "cli")]
pub mod cli;
pub mod preparation;
pub mod remote;
#[cfg(feature = "ros")]
pub mod ros;
pub mod runtime;
#[cfg(any(feature = "cli", feature = "ros"))]
mod shared_memory;
