//! The ROS 2 node: topics, services, parameters and the managed lifecycle around
//! [`crate::runtime`]. Only this module uses r2r.
//!
//! Everything here runs on the executor thread: it spins, empties the queues of r2r at once (they
//! hold ten messages and drop the *newest* when full), passes images and requests to the runtime,
//! and publishes the state. It never decodes images, infers or waits. Only the control thread
//! publishes commands, through [`commands::CommandPublishers`].
//!
//! [`node`] creates the components and calls each of them once per turn. A component owns its
//! state; what several of them need is in [`shared::Shared`].

mod arguments;
mod commands;
mod config;
#[cfg(feature = "serve")]
mod dash;
mod debug_image;
mod diagnostics;
mod gripper_state;
mod inbox;
mod instruction;
mod lifecycle;
mod log;
mod messages;
mod metrics;
mod motion;
mod names;
mod node;
mod notes;
mod parameter_events;
mod parameter_services;
mod qos;
#[cfg(feature = "cli")]
mod replay;
mod requests;
mod run_policy;
mod shared;
mod signals;
mod status;
mod subscriptions;
#[cfg(feature = "cli")]
mod survey;
mod topics;
mod transitions;

pub use arguments::{run, start};
pub use config::{CameraTopic, ImageTransport, ParameterProblems, ResolvedConfig};
#[cfg(feature = "serve")]
pub use dash::{DashError, DashOptions, dash};
#[cfg(feature = "cli")]
pub use replay::{ReplayError, ReplayOptions, Replayed, replay};
#[cfg(feature = "cli")]
pub use survey::{Finding, Verdict, survey};

use crate::runtime::{AddedLatency, Loader};
use vla_inference::policy::pi0::fresh_seed;
use vla_inference::policy::{FlowOptions, MeshChoices, PolicyOptions, PolicySource, load_policy};
use vla_remote::{ApiKey, RemoteAddress, RemotePolicy, Settings};

/// Makes the loader of the policy that the parameters describe: [`checkpoint_policy`], or another
/// in tests.
pub type PolicyFactory = fn(&ResolvedConfig) -> Loader;

/// Loads the checkpoint named by the parameters, or connects to their policy server.
#[must_use]
pub fn checkpoint_policy(parameters: &ResolvedConfig) -> Loader {
    let parameters = parameters.clone();
    if let Some(address) = parameters.remote.clone() {
        return Box::new(move || {
            let policy = remote_policy(&parameters, address)?;
            Ok(AddedLatency::to(Box::new(policy), parameters.added_latency_s))
        });
    }
    Box::new(move || {
        if parameters.checkpoint.as_os_str().is_empty() {
            return Err(
                "no checkpoint is named; set the parameter 'checkpoint' or OPENVLA_WEIGHTS to its \
                folder, or 'remote' to a policy server"
                    .into(),
            );
        }
        let given = PolicyOptions {
            unnorm_key: parameters.unnorm_key.clone(),
            decode: parameters.decode,
            draft: parameters.draft,
            flow: FlowOptions {
                seed: Some(parameters.seed.unwrap_or_else(drawn_seed)),
                ..FlowOptions::default()
            },
            ..PolicyOptions::default()
        };
        let options = crate::preparation::options(parameters.policy_file(), given)
            .map_err(|error| error.to_string())?;
        let policy = load_policy(PolicySource {
            checkpoint: &parameters.checkpoint,
            device: parameters.device,
            precision: parameters.precision.as_ref(),
            threads: parameters.threads,
            mesh: MeshChoices {
                weight_cache: parameters.weight_cache.clone(),
                ..MeshChoices::default()
            },
            options,
        })
        .map_err(|error| error.to_string())?;
        Ok(AddedLatency::to(policy, parameters.added_latency_s))
    })
}

/// Connects to the policy server.
fn remote_policy(
    parameters: &ResolvedConfig,
    address: RemoteAddress,
) -> Result<RemotePolicy, String> {
    let key = parameters.remote_key_file.as_deref().map(ApiKey::load).transpose();
    let unnorm_key = parameters.unnorm_key.clone().unwrap_or_default();
    let contract = match parameters.policy_file() {
        Some(file) => crate::remote::contract(file, address.protocol, &unnorm_key)
            .map_err(|error| format!("the policy file's image steps: {error}"))?,
        None => None,
    };
    // The merge of parameters and files has refused it.
    let contract = contract.ok_or("the policy file has no section remote")?;
    let settings = Settings {
        address,
        key: key.map_err(|error| error.to_string())?,
        deadlines: parameters.remote_deadlines,
        contract,
        unnorm_key,
    };
    RemotePolicy::open(settings).map_err(|error| error.to_string())
}

/// A seed that no earlier run had and that the parameter `seed` can repeat.
fn drawn_seed() -> u64 {
    (fresh_seed() >> 11).max(1)
}

/// Errors that end the node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An error of rcl.
    #[error("ROS 2: cannot create {what}: {error}")]
    Ros {
        /// The entity to be created.
        what: &'static str,
        /// rcl's error.
        error: r2r::Error,
    },
    /// rcl refused the arguments or did not start.
    #[error("{0}")]
    Arguments(String),
    /// The parameters are invalid.
    #[error("{0}")]
    Parameters(#[from] ParameterProblems),
    /// The system refused a thread or signal handler.
    #[error("cannot start the node's threads: {0}")]
    Threads(#[from] std::io::Error),
    /// A thread of the node ended unexpectedly.
    #[error("{0}: this is a defect of the node; please report it with the log above")]
    Broken(&'static str),
}
