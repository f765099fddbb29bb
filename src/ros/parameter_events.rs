//! `/parameter_events`: each change of a parameter, as every ROS 2 node publishes them, so that
//! others need not poll (rclcpp's `ParameterEventHandler`, rqt_reconfigure, recordings).
//!
//! rclcpp also publishes each parameter as new when it is declared, before any subscriber can be
//! matched; that is left out.

use r2r::{
    Publisher, QosProfile,
    rcl_interfaces::msg::{Parameter, ParameterEvent},
};
use vla_config::TABLE;
use vla_control::time::Stamp;

use super::{
    NodeError, ResolvedConfig, inbox::publish, log, messages::time, parameter_services::message,
};

pub(super) struct ParameterEvents {
    publisher: Publisher<ParameterEvent>,
    /// Fully qualified name of the node.
    node: String,
}

impl ParameterEvents {
    pub fn create(ros: &mut r2r::Node, node: &str) -> Result<Self, NodeError> {
        let publisher = publish(ros, "/parameter_events", QosProfile::parameter_events())?;
        Ok(Self { publisher, node: node.to_owned() })
    }

    /// Publishes the parameters that differ, if any does.
    pub fn changed(&self, before: &ResolvedConfig, after: &ResolvedConfig, now: Stamp) {
        let differ = TABLE.iter().filter(|row| before.get(row.name) != after.get(row.name));
        let changed_parameters: Vec<Parameter> = differ
            .map(|row| Parameter { name: row.name.into(), value: message(after.get(row.name)) })
            .collect();
        if changed_parameters.is_empty() {
            return;
        }
        let (stamp, node) = (time(now), self.node.clone());
        let event = ParameterEvent { stamp, node, changed_parameters, ..ParameterEvent::default() };
        if let Err(error) = self.publisher.publish(&event) {
            log::debug(format!("a parameter event was not published: {error}"));
        }
    }
}
