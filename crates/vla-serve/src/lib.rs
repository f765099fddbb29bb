//! A policy behind the wire protocols that clients of others already speak:
//!
//! | path | protocol |
//! |---|---|
//! | `POST /act` | OpenVLA's and OpenVLA-OFT's server: JSON with arrays of json_numpy |
//! | `/` | openpi's websocket: msgpack |
//! | `/vla-eval` | vla-eval's model server: a websocket with msgpack |
//! | `/healthz`, `/health` | 200 while requests are taken |
//! | `/metrics` | Prometheus |
//!
//! One thread infers; a queue holds what waits for it ([`engine`]). Everything a client sends is
//! bounded in bytes, pixels and time. See docs/serving.md.
//!
//! [`dash`] is another server with the same bounds: the operator page of the node.

mod act;
mod body;
mod contract;
pub mod dash;
mod engine;
mod error;
mod guard;
mod listener;
mod metrics;
mod observation;
mod openpi;
mod options;
mod server;
mod session;
mod vla_eval;

pub use contract::{Contract, Gripper, Names};
pub use error::ServeError;
pub use listener::Stop;
pub use options::{ApiKey, Limits, Options};
pub use server::{Bound, Ending};
