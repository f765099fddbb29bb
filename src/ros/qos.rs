//! QoS of the subscriptions of cameras and state: best effort and volatile, as
//! `rclcpp::SensorDataQoS`, unless a `qos_overrides` parameter changes it.

use r2r::QosProfile;
use vla_config::{QosOverride, QosPolicy};

use super::names::Names;

/// The overrides that were given, and the topics asked for so far.
pub(super) struct SensorQos<'a> {
    names: &'a Names,
    overrides: &'a [QosOverride],
    topics: Vec<String>,
}

impl<'a> SensorQos<'a> {
    pub fn new(names: &'a Names, overrides: &'a [QosOverride]) -> Self {
        Self { names, overrides, topics: Vec::new() }
    }

    /// The names that topics are resolved with.
    pub fn names(&self) -> &'a Names {
        self.names
    }

    /// QoS of the subscription to a topic, by its name in the source, before remapping.
    pub fn of(&mut self, name: &str) -> QosProfile {
        let topic = self.names.resolve(name);
        let changes = self.overrides.iter().filter(|change| change.topic == topic);
        let qos = changes.fold(QosProfile::sensor_data(), |qos, change| match change.policy {
            QosPolicy::Reliable(true) => qos.reliable(),
            QosPolicy::Reliable(false) => qos.best_effort(),
            QosPolicy::TransientLocal(true) => qos.transient_local(),
            QosPolicy::TransientLocal(false) => qos.volatile(),
            QosPolicy::Depth(depth) => qos.keep_last(depth),
        });
        self.topics.push(topic);
        qos
    }

    /// One line for each override of another topic than those of [`SensorQos::of`].
    pub fn without_effect(&self) -> Vec<String> {
        let mut topics: Vec<&str> = Vec::new();
        for change in self.overrides {
            if !self.topics.contains(&change.topic) && !topics.contains(&change.topic.as_str()) {
                topics.push(&change.topic);
            }
        }
        let line = |topic: &&str| {
            format!(
                "qos_overrides.{topic}.subscription has no effect: the QoS can be changed of {}",
                self.topics.join(", ")
            )
        };
        topics.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use r2r::qos::{DurabilityPolicy, HistoryPolicy, ReliabilityPolicy};
    use vla_config::Origin;

    use super::*;

    fn change(topic: &str, policy: QosPolicy) -> QosOverride {
        QosOverride { topic: topic.into(), policy, origin: Origin::CommandLine }
    }

    #[test]
    fn overrides_change_their_topic_alone() {
        let names = Names::new("/r1/vla", ["--ros-args", "-r", "image:=/cam"].map(str::to_owned));
        let overrides = [
            change("/cam", QosPolicy::Reliable(false)),
            change("/cam", QosPolicy::Reliable(true)),
            change("/cam", QosPolicy::Depth(2)),
            change("/r1/ee_pose", QosPolicy::TransientLocal(true)),
            change("/image", QosPolicy::Depth(9)),
            change("/image", QosPolicy::Reliable(true)),
        ];
        let mut qos = SensorQos::new(&names, &overrides);
        let camera = qos.of("image");
        assert_eq!(
            (camera.reliability, camera.durability, camera.depth),
            (ReliabilityPolicy::Reliable, DurabilityPolicy::Volatile, 2)
        );
        let pose = qos.of("ee_pose");
        assert_eq!(
            (pose.reliability, pose.durability, pose.history),
            (
                ReliabilityPolicy::BestEffort,
                DurabilityPolicy::TransientLocal,
                HistoryPolicy::KeepLast
            )
        );
        assert_eq!(qos.of("joint_states"), QosProfile::sensor_data());
        let lines = qos.without_effect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("qos_overrides./image.subscription has no effect"));
        assert!(lines[0].ends_with("/cam, /r1/ee_pose, /r1/joint_states"), "{}", lines[0]);
    }
}
