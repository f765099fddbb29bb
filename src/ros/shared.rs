//! What the components of the node share on the executor thread.

use super::{PolicyFactory, ResolvedConfig, metrics::NodeMetrics, notes::Notes};
use crate::runtime::{NodeClock, Runtime};
use vla_control::time::{Clock, Instant, Stamp};
use vla_control::{Cause, Reason, Source};
use vla_inference::policy::PolicyInfo;

/// Passed to each component's methods; a component's own state is in the component.
pub(super) struct Shared {
    pub clock: NodeClock,
    pub runtime: Runtime,
    /// Parameters and files, merged and validated.
    pub parameters: ResolvedConfig,
    /// Makes the loader of the policy.
    pub factory: PolicyFactory,
    /// The loaded policy.
    pub policy: Option<PolicyInfo>,
    /// Fully qualified name of the topic of the instruction.
    pub instruction_topic: String,
    pub notes: Notes,
    pub metrics: NodeMetrics,
}

impl Shared {
    /// Now on the steady clock.
    pub fn now(&self) -> Instant {
        self.clock.steady()
    }

    /// Now in ROS time.
    pub fn ros_now(&self) -> Stamp {
        self.clock.ros()
    }

    /// A cause in words, with the name of its source where there are several.
    pub fn cause_text(&self, cause: &Cause) -> String {
        let parameters = &self.parameters;
        if let (Some((_, text)), Reason::InferenceFailed) = (&self.notes.remote, cause.reason) {
            return text.clone();
        }
        match (cause.source, cause.reason) {
            (Some(Source::Camera(_)), _) if parameters.cameras.len() == 1 => cause.to_string(),
            (Some(source), _) => cause.named(&parameters.source_name(source)).to_string(),
            (None, Reason::NoInstruction) => format!("{cause} on {}", self.instruction_topic),
            (None, _) => cause.to_string(),
        }
    }
}
