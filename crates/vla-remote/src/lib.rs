//! A policy on a server, as a [`Policy`](vla_inference::policy::Policy): openpi's websocket and
//! OpenVLA's `POST /act`.
//!
//! Everything here blocks, on the inference worker's thread, and within deadlines: connecting, the
//! silence within an answer, and the whole answer. An answer reaches the caller only if it is the
//! one to the last request, with the shape, the type and the bounds that the policy file states
//! ([`Contract`]); anything else is one of four faults
//! ([`RemoteFault`](vla_inference::policy::RemoteFault)).
//!
//! openpi's wire has no number in a request or an answer. The order alone tells which belong
//! together, therefore nothing is sent on a connection on which something went wrong: it is closed,
//! and [`Policy::restore`](vla_inference::policy::Policy::restore) opens another one.

mod act;
mod address;
mod contract;
mod deadline_stream;
mod key;
mod openpi;
mod persistent;
mod policy;
mod server_timing;
mod trouble;

pub use address::{AddressError, Protocol, RemoteAddress};
pub use contract::{Answers, Contract, StateRun};
pub use key::{ApiKey, KeyError};
pub use persistent::PersistentPolicy;
pub use policy::{Deadlines, RemotePolicy, Settings};

/// Longest answer that is read, bytes: 256 steps of 64 numbers have 128 KiB.
pub const ANSWER_MAX: usize = 4 << 20;
