//! The ROS 2 node: topics, services, parameters and the managed lifecycle around
//! [`crate::runtime`]. The only module that knows r2r.
//!
//! One thread does everything here: it spins, takes what has come out of r2r's queues at once (they
//! hold ten messages and drop the *newest* when full), hands images and requests to the runtime,
//! and shows its state. It never decodes, infers or waits. Commands are published by the control
//! thread alone, through [`messages::CommandPublishers`].

mod arguments;
mod config;
mod inbox;
mod lifecycle;
mod log;
mod messages;
mod node;
mod parameter_services;
#[cfg(feature = "cli")]
mod replay;
mod requests;
mod status;
mod transitions;

pub use arguments::{run, start};
pub use config::{ImageTransport, ParameterProblems, ResolvedConfig};
#[cfg(feature = "cli")]
pub use replay::{ReplayError, ReplayOptions, Replayed, replay};

use crate::runtime::Loader;
use vla_inference::policy::{MeshChoices, PolicyOptions, PolicySource, load_policy};

/// Makes the loader of the policy that the parameters ask for. The node's own is
/// [`checkpoint_policy`]; a test may bring another.
pub type PolicyFactory = fn(&ResolvedConfig) -> Loader;

/// Loads the checkpoint that the parameters name.
#[must_use]
pub fn checkpoint_policy(parameters: &ResolvedConfig) -> Loader {
    let parameters = parameters.clone();
    Box::new(move || {
        if parameters.checkpoint.as_os_str().is_empty() {
            return Err(
                "no checkpoint is named; set the parameter 'checkpoint' or OPENVLA_WEIGHTS to its \
                folder"
                    .into(),
            );
        }
        load_policy(PolicySource {
            checkpoint: &parameters.checkpoint,
            device: parameters.device,
            precision: parameters.precision.as_ref(),
            threads: parameters.threads,
            mesh: MeshChoices {
                weight_cache: parameters.weight_cache.clone(),
                ..MeshChoices::default()
            },
            options: PolicyOptions {
                unnorm_key: parameters.unnorm_key.clone(),
                decode: parameters.decode,
                draft: parameters.draft,
                ..PolicyOptions::default()
            },
        })
        .map_err(|error| error.to_string())
    })
}

/// Why the node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// ROS refused something.
    #[error("ROS 2: cannot create {what}: {error}")]
    Ros {
        /// What was to be created.
        what: &'static str,
        /// rcl's name for the reason.
        error: r2r::Error,
    },
    /// ROS does not accept the arguments, or does not start.
    #[error("{0}")]
    Arguments(String),
    /// The parameters are unfit.
    #[error("{0}")]
    Parameters(#[from] ParameterProblems),
    /// The system gives no thread or signal handler.
    #[error("cannot start the node's threads: {0}")]
    Threads(#[from] std::io::Error),
    /// A thread of ours has ended.
    #[error("{0}: this is a defect of the node; please report it with the log above")]
    Broken(&'static str),
}
