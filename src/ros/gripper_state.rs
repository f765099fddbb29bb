//! The measured opening of each gripper, as the robot file names its source. For the stop condition
//! of a goal and for pictures; control does not use it.

use std::{sync::Arc, time::Duration};

use r2r::{sensor_msgs::msg::JointState, std_msgs::msg::Float64};
use vla_config::{GripperSource, GripperState};
use vla_control::action_chunk::GRIPPERS_MAX;
use vla_control::time::Instant;

use super::{
    NodeError, ResolvedConfig,
    inbox::{Inbox, subscribe},
    qos::SensorQos,
    topics::{Role, TopicMonitor},
};

/// Openings by gripper: 0 closed, 1 open; `None` while unknown or too old.
pub(super) type Openings = [Option<f64>; GRIPPERS_MAX];

struct Measured {
    state: GripperState,
    topic: Option<Inbox<Float64>>,
    /// Arrival and value of the newest message.
    newest: Option<(Instant, f64)>,
}

/// The subscriptions and their newest values.
pub(super) struct GripperStates {
    grippers: Vec<Measured>,
    joint_states: Option<Inbox<JointState>>,
    /// What to do while no opening is known.
    remedy: Arc<str>,
}

impl GripperStates {
    /// Subscribes, and registers each topic for monitoring. A silent one is no problem of the node:
    /// the goal that needs it says so.
    pub fn create(
        node: &mut r2r::Node,
        parameters: &ResolvedConfig,
        sensor: &mut SensorQos<'_>,
        monitor: &mut TopicMonitor,
    ) -> Result<Self, NodeError> {
        let (mut grippers, mut joint_states) = (Vec::new(), None);
        for state in parameters.gripper_states() {
            let topic = match &state.source {
                GripperSource::Topic(topic) => {
                    let (qos, kind) = (sensor.of(topic), "std_msgs/msg/Float64");
                    let inbox = subscribe(node, topic, qos.clone())?;
                    let role = Role::SharedInput;
                    monitor.watch(sensor.names(), "gripper state", topic, kind, role, qos);
                    Some(inbox)
                }
                GripperSource::Joint(_) => {
                    if joint_states.is_none() {
                        let (qos, name) = (sensor.of("joint_states"), "joint_states");
                        joint_states = Some(subscribe(node, name, qos.clone())?);
                        let (kind, role) = ("sensor_msgs/msg/JointState", Role::SharedInput);
                        monitor.watch(sensor.names(), "joint states", name, kind, role, qos);
                    }
                    None
                }
            };
            grippers.push(Measured { state: state.clone(), topic, newest: None });
        }
        let remedy = remedy(grippers.first().map(|gripper: &Measured| &gripper.state)).into();
        Ok(Self { grippers, joint_states, remedy })
    }

    /// Takes all messages that have arrived.
    pub fn take(&mut self, now: Instant) {
        while let Some(message) = self.joint_states.as_mut().and_then(Inbox::next) {
            for gripper in &mut self.grippers {
                let GripperSource::Joint(joint) = &gripper.state.source else { continue };
                if let Some(value) = position(&message, joint) {
                    gripper.newest = Some((now, value));
                }
            }
        }
        for gripper in &mut self.grippers {
            while let Some(message) = gripper.topic.as_mut().and_then(Inbox::next) {
                gripper.newest = Some((now, message.data));
            }
        }
    }

    /// The openings that are known and at most as old as `timeout`.
    pub fn openings(&self, now: Instant, timeout: Duration) -> Openings {
        let mut openings = [None; GRIPPERS_MAX];
        for (slot, gripper) in openings.iter_mut().zip(&self.grippers) {
            let recent = gripper.newest.filter(|(at, _)| !now.since(*at).exceeds(timeout));
            *slot = recent
                .map(|(_, value)| gripper.state.opening(value))
                .filter(|opening| opening.is_finite());
        }
        openings
    }

    /// Why no opening is known; `None` if one is.
    pub fn missing(&self, openings: &Openings) -> Option<Arc<str>> {
        openings.iter().all(Option::is_none).then(|| Arc::clone(&self.remedy))
    }
}

/// What a goal that needs an opening is refused with.
fn remedy(first: Option<&GripperState>) -> String {
    let Some(first) = first else {
        return "stop_when_holding needs the measured opening of a gripper; set gripper.states in \
            the robot file"
            .into();
    };
    let source = match &first.source {
        GripperSource::Joint(joint) => format!("joint {joint} in joint_states"),
        GripperSource::Topic(topic) => format!("topic {topic}"),
    };
    format!(
        "stop_when_holding: no recent opening of the gripper ({source}); start the driver that \
        publishes it, or correct gripper.states in the robot file"
    )
}

/// Position of a joint, if the message has one for each name.
fn position(message: &JointState, joint: &str) -> Option<f64> {
    let index = message.name.iter().position(|name| name == joint)?;
    let complete = message.position.len() == message.name.len();
    message.position.get(index).copied().filter(|_| complete)
}
