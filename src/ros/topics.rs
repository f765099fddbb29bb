//! Watches the ROS graph for mistakes on the topics of this node: no publisher, another message
//! type, incompatible QoS, several publishers.

use std::time::Duration;

use r2r::{
    QosProfile,
    qos::{DurabilityPolicy, ReliabilityPolicy},
};
use vla_control::time::Instant;

use super::{
    log::{self, Throttle},
    names::Names,
};

/// Interval of the checks; a query of the local discovery data takes microseconds.
const INTERVAL: Duration = Duration::from_secs(1);
/// Discovery takes about that long: before, absence means nothing.
const DISCOVERY: Duration = Duration::from_secs(2);
/// How often the log repeats a problem.
const REPEAT: Duration = Duration::from_secs(60);
/// Topics listed as alternatives.
const LISTED: usize = 5;

/// How a topic is meant to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Subscribed, from exactly one publisher.
    Input,
    /// Subscribed, from any number of publishers; none is an ordinary state.
    SharedInput,
    /// Published by this node alone.
    Output,
}

/// A topic to be watched.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// What the topic is for, in messages.
    pub purpose: String,
    /// Fully qualified name after remapping.
    pub topic: String,
    /// Message type, `package/msg/Name`.
    pub type_name: &'static str,
    pub role: Role,
    /// The subscription's QoS.
    pub qos: QosProfile,
}

/// Kind of a problem; `Status.msg` has a constant for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProblemKind {
    NoPublisher,
    TypeMismatch,
    QosMismatch,
    ManyPublishers,
}

/// A problem of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicProblem {
    pub purpose: String,
    pub kind: ProblemKind,
    /// One sentence with the topic's full name and a remedy.
    pub text: String,
}

/// A publisher as the graph shows it.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    pub node: String,
    pub type_name: String,
    pub qos: QosProfile,
}

/// The watched topics and their problems at the last check.
pub(super) struct TopicMonitor {
    topics: Vec<Watched>,
    problems: Vec<TopicProblem>,
    started: Instant,
    checked: Option<Instant>,
    throttle: Throttle,
}

impl TopicMonitor {
    pub fn new(now: Instant) -> Self {
        Self {
            topics: Vec::new(),
            problems: Vec::new(),
            started: now,
            checked: None,
            throttle: Throttle::default(),
        }
    }

    /// Adds a topic by its name in the source, before remapping.
    pub fn watch(
        &mut self,
        names: &Names,
        purpose: impl Into<String>,
        name: &str,
        type_name: &'static str,
        role: Role,
        qos: QosProfile,
    ) {
        let topic = names.resolve(name);
        self.topics.push(Watched { purpose: purpose.into(), topic, type_name, role, qos });
    }

    /// The problems found by the last check.
    pub fn problems(&self) -> &[TopicProblem] {
        &self.problems
    }

    /// Checks all topics, once per interval.
    pub fn check(&mut self, node: &r2r::Node, now: Instant) {
        let due = self.checked.is_none_or(|checked| now.since(checked).exceeds(INTERVAL));
        if !due || !now.since(self.started).exceeds(DISCOVERY) {
            return;
        }
        self.checked = Some(now);
        self.problems.clear();
        for topic in &self.topics {
            self.problems.extend(look(node, topic).1);
        }
        for problem in &self.problems {
            if self.throttle.permit(&problem.text, std::time::Instant::now(), REPEAT) {
                log::warn(&problem.text);
            }
        }
    }
}

/// The publishers of a topic, and its problem, if there is one.
pub(super) fn look(node: &r2r::Node, topic: &Watched) -> (Vec<Publisher>, Option<TopicProblem>) {
    let Ok(found) = node.get_publishers_info_by_topic(&topic.topic, false) else {
        return (Vec::new(), None);
    };
    let publishers = found.into_iter().map(|info| Publisher {
        node: join_name(&info.node_namespace, &info.node_name),
        type_name: info.topic_type,
        qos: info.qos_profile,
    });
    let publishers: Vec<_> = publishers.collect();
    let alternatives = |kind: &str| published_topics(node, kind, &topic.topic);
    let problem = problem(topic, &publishers, alternatives);
    (publishers, problem)
}

fn join_name(namespace: &str, name: &str) -> String {
    format!("{}/{name}", namespace.trim_end_matches('/'))
}

/// Other topics on which messages of that type are published.
fn published_topics(node: &r2r::Node, type_name: &str, except: &str) -> Vec<String> {
    let mut topics: Vec<String> = node
        .get_topic_names_and_types()
        .unwrap_or_default()
        .into_iter()
        .filter(|(topic, types)| topic != except && types.iter().any(|name| name == type_name))
        .map(|(topic, _)| topic)
        .filter(|topic| {
            node.get_publishers_info_by_topic(topic, false)
                .is_ok_and(|publishers| !publishers.is_empty())
        })
        .collect();
    topics.sort();
    topics
}

/// The problem of a topic with these publishers, if there is one. `alternatives` finds the topics
/// of a message type that others publish.
fn problem(
    topic: &Watched,
    publishers: &[Publisher],
    alternatives: impl Fn(&str) -> Vec<String>,
) -> Option<TopicProblem> {
    let (right, wrong): (Vec<&Publisher>, Vec<&Publisher>) =
        publishers.iter().partition(|publisher| publisher.type_name == topic.type_name);
    let (kind, text) = match topic.role {
        // This node is one of the publishers.
        Role::Output => several(topic, &right, "only this node may command the robot")?,
        _ if right.is_empty() && !wrong.is_empty() => {
            (ProblemKind::TypeMismatch, wrong_type(topic, &wrong))
        }
        Role::Input if right.is_empty() => (ProblemKind::NoPublisher, absent(topic, alternatives)),
        Role::Input => {
            incompatible(topic, &right).or_else(|| several(topic, &right, "stop all but one"))?
        }
        Role::SharedInput => incompatible(topic, &right)?,
    };
    Some(TopicProblem { purpose: topic.purpose.clone(), kind, text })
}

fn nodes(publishers: &[&Publisher]) -> String {
    let names: Vec<_> = publishers.iter().map(|publisher| publisher.node.as_str()).collect();
    names.join(", ")
}

fn several(
    topic: &Watched,
    publishers: &[&Publisher],
    remedy: &str,
) -> Option<(ProblemKind, String)> {
    let Watched { purpose, topic, .. } = topic;
    let (count, names) = (publishers.len(), nodes(publishers));
    let text = format!("{purpose}: {count} nodes publish on {topic}: {names}; {remedy}");
    (1 < count).then_some((ProblemKind::ManyPublishers, text))
}

fn wrong_type(topic: &Watched, publishers: &[&Publisher]) -> String {
    let Watched { purpose, topic, type_name, .. } = topic;
    let published = publishers.first().map_or("", |publisher| &publisher.type_name);
    let (names, hint) = (nodes(publishers), transport_hint(purpose, published));
    format!("{purpose}: {topic} is published as {published} by {names}, not {type_name}{hint}")
}

fn absent(topic: &Watched, alternatives: impl Fn(&str) -> Vec<String>) -> String {
    let Watched { purpose, topic, type_name, .. } = topic;
    let listed = |kind: &str| {
        let topics = alternatives(kind);
        match topics.len() {
            0 => None,
            n if n <= LISTED => Some(format!("{kind} is published on {}", topics.join(", "))),
            n => Some(format!(
                "{kind} is published on {} and {} more topics",
                topics[..LISTED].join(", "),
                n - LISTED
            )),
        }
    };
    // A camera may publish its images in the other form only.
    let other = || {
        let form = other_form(type_name)?;
        listed(form).map(|found| format!("{found}{}", transport_hint(purpose, form)))
    };
    let found = listed(type_name)
        .or_else(other)
        .unwrap_or_else(|| format!("no topic of type {type_name} is published"));
    format!("{purpose}: no node publishes on {topic}; {found}")
}

/// Raw for compressed images, and the other way round.
fn other_form(type_name: &str) -> Option<&'static str> {
    match type_name {
        "sensor_msgs/msg/Image" => Some("sensor_msgs/msg/CompressedImage"),
        "sensor_msgs/msg/CompressedImage" => Some("sensor_msgs/msg/Image"),
        _ => None,
    }
}

/// All publishers of the right type are incompatible with the subscription.
fn incompatible(topic: &Watched, publishers: &[&Publisher]) -> Option<(ProblemKind, String)> {
    let why = mismatch(&topic.qos, &publishers.first()?.qos)?;
    let all = publishers.iter().all(|publisher| mismatch(&topic.qos, &publisher.qos).is_some());
    let Watched { purpose, topic, .. } = topic;
    let text = format!("{purpose}: {topic} is published by {} with {why}", nodes(publishers));
    all.then_some((ProblemKind::QosMismatch, text))
}

/// The parameter that selects the other image type.
fn transport_hint(purpose: &str, published: &str) -> &'static str {
    match (purpose.split(' ').next().unwrap_or(purpose), published) {
        ("camera", "sensor_msgs/msg/CompressedImage") => {
            "; set image_transport to compressed and remap image/compressed to it"
        }
        ("camera", "sensor_msgs/msg/Image") => "; set image_transport to raw and remap image to it",
        _ => "",
    }
}

/// Why a publisher with this QoS does not match a subscription, in words.
fn mismatch(requested: &QosProfile, offered: &QosProfile) -> Option<&'static str> {
    if matches!(requested.reliability, ReliabilityPolicy::Reliable)
        && matches!(offered.reliability, ReliabilityPolicy::BestEffort)
    {
        return Some("best-effort reliability, but reliable is requested");
    }
    if matches!(requested.durability, DurabilityPolicy::TransientLocal)
        && matches!(offered.durability, DurabilityPolicy::Volatile)
    {
        return Some("volatile durability, but transient local is requested");
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const IMAGE: &str = "sensor_msgs/msg/Image";

    fn camera(role: Role, qos: QosProfile) -> Watched {
        let topic = "/robot1/image".into();
        Watched { purpose: "camera".into(), topic, type_name: IMAGE, role, qos }
    }

    fn publisher(node: &str, type_name: &str) -> Publisher {
        let qos = QosProfile::sensor_data();
        Publisher { node: node.into(), type_name: type_name.into(), qos }
    }

    fn found(publishers: &[Publisher], role: Role) -> Option<(ProblemKind, String)> {
        let others = |_: &str| vec!["/cam/image_raw".to_owned()];
        problem(&camera(role, QosProfile::sensor_data()), publishers, others)
            .map(|problem| (problem.kind, problem.text))
    }

    #[test]
    fn a_single_fitting_publisher_is_no_problem() {
        for role in [Role::Input, Role::SharedInput, Role::Output] {
            assert_eq!(found(&[publisher("/cam", IMAGE)], role), None);
        }
    }

    #[test]
    fn absence_names_topic_and_alternatives() {
        let (kind, text) = found(&[], Role::Input).unwrap();
        assert_eq!(kind, ProblemKind::NoPublisher);
        assert!(text.contains("/robot1/image;") && text.contains("/cam/image_raw"), "{text}");
        assert_eq!(found(&[], Role::SharedInput), None);
        let camera = camera(Role::Input, QosProfile::sensor_data());
        let compressed = |kind: &str| match kind {
            "sensor_msgs/msg/CompressedImage" => vec!["/cam/compressed".to_owned()],
            _ => Vec::new(),
        };
        let text = problem(&camera, &[], compressed).unwrap().text;
        assert!(text.contains("on /cam/compressed; set image_transport to compressed"), "{text}");
        let text = problem(&camera, &[], |_: &str| Vec::new()).unwrap().text;
        assert!(text.ends_with("no topic of type sensor_msgs/msg/Image is published"), "{text}");
    }

    #[test]
    fn another_type_names_the_remedy() {
        let compressed = publisher("/cam", "sensor_msgs/msg/CompressedImage");
        let (kind, text) = found(&[compressed], Role::Input).unwrap();
        assert_eq!(kind, ProblemKind::TypeMismatch);
        assert!(text.contains("by /cam") && text.contains("image_transport"), "{text}");
    }

    #[test]
    fn second_publishers_are_named() {
        let two = [publisher("/a", IMAGE), publisher("/b", IMAGE)];
        for role in [Role::Input, Role::Output] {
            let (kind, text) = found(&two, role).unwrap();
            assert!(kind == ProblemKind::ManyPublishers && text.contains("/a, /b"), "{text}");
        }
        assert_eq!(found(&two, Role::SharedInput), None);
    }

    #[test]
    fn incompatible_qos_is_named() {
        let offered = [publisher("/cam", IMAGE)];
        let reliable = camera(Role::Input, QosProfile::default().reliable());
        let problem = problem(&reliable, &offered, |_: &str| Vec::new()).unwrap();
        assert_eq!(problem.kind, ProblemKind::QosMismatch);
        assert!(problem.text.contains("best-effort"), "{}", problem.text);
    }
}
