//! `qos_overrides.<topic>.<subscription|publisher>.<policy>`: parameters that change the QoS of a
//! topic, as rclcpp and rclpy declare them (design document "QoS - external configurability").

use super::{Origin, Value};

/// Longest queue that may be requested, messages.
const DEPTH_MAX: i64 = 1000;

/// One changed policy of one subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct QosOverride {
    /// Fully qualified topic name after remapping.
    pub topic: String,
    /// What is changed.
    pub policy: QosPolicy,
    /// Where it was given.
    pub origin: Origin,
}

/// A policy, and its new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosPolicy {
    /// `reliability`: `reliable` or `best_effort`.
    Reliable(bool),
    /// `durability`: `transient_local` or `volatile`.
    TransientLocal(bool),
    /// `depth` of the queue, messages.
    Depth(usize),
}

/// Why a parameter of this kind is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QosProblem {
    /// It has no effect on this node.
    NoEffect(String),
    /// It is wrong.
    Invalid(String),
}

/// Reads a parameter whose name starts with `qos_overrides.`; `rest` is what follows that.
///
/// # Errors
/// See [`QosProblem`].
pub(super) fn parse(rest: &str, value: &Value, origin: Origin) -> Result<QosOverride, QosProblem> {
    let invalid = |what: String| Err(QosProblem::Invalid(what));
    let mut parts = rest.rsplitn(3, '.');
    let (policy, entity, topic) = (parts.next(), parts.next(), parts.next());
    let (Some(policy), Some(entity), Some(topic)) = (policy, entity, topic) else {
        return invalid("is not of the form qos_overrides.<topic>.subscription.<policy>".into());
    };
    if !topic.starts_with('/') {
        return invalid(format!(
            "'{}' must be the full name of the topic, from the first / on and after remapping",
            topic.escape_debug()
        ));
    }
    if entity != "subscription" {
        return Err(QosProblem::NoEffect(
            "only the subscriptions of cameras and state can be overridden: the QoS of commands, \
            status and services is part of what SAFETY.md promises"
                .into(),
        ));
    }
    let policy = match (policy, value) {
        ("depth", Value::Integer(depth)) if (1..=DEPTH_MAX).contains(depth) => {
            QosPolicy::Depth(usize::try_from(*depth).unwrap_or(1))
        }
        ("depth", other) => {
            return invalid(format!("is {other}, but must be an integer in 1..{DEPTH_MAX}"));
        }
        ("reliability", Value::Text(word)) if word == "reliable" => QosPolicy::Reliable(true),
        ("reliability", Value::Text(word)) if word == "best_effort" => QosPolicy::Reliable(false),
        ("reliability", other) => {
            return invalid(format!("is {other}, but must be reliable or best_effort"));
        }
        ("durability", Value::Text(word)) if word == "transient_local" => {
            QosPolicy::TransientLocal(true)
        }
        ("durability", Value::Text(word)) if word == "volatile" => QosPolicy::TransientLocal(false),
        ("durability", other) => {
            return invalid(format!("is {other}, but must be volatile or transient_local"));
        }
        (other, _) => {
            return Err(QosProblem::NoEffect(format!(
                "'{}' is not overridden; depth, reliability and durability are",
                other.escape_debug()
            )));
        }
    };
    Ok(QosOverride { topic: topic.to_owned(), policy, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_or_refused() {
        let read = |rest: &str, value: Value| parse(rest, &value, Origin::CommandLine);
        let text = |word: &str| Value::Text(word.into());
        let policy = |rest: &str, value| read(rest, value).map(|found| found.policy);
        let camera = "/robot/image.subscription.";
        for (name, value, wanted) in [
            ("reliability", text("reliable"), QosPolicy::Reliable(true)),
            ("reliability", text("best_effort"), QosPolicy::Reliable(false)),
            ("durability", text("transient_local"), QosPolicy::TransientLocal(true)),
            ("durability", text("volatile"), QosPolicy::TransientLocal(false)),
            ("depth", Value::Integer(20), QosPolicy::Depth(20)),
        ] {
            assert_eq!(policy(&format!("{camera}{name}"), value), Ok(wanted), "{name}");
        }
        for (rest, value) in [
            ("/image.subscription.depth", Value::Integer(0)),
            ("/image.subscription.depth", Value::Integer(1001)),
            ("/image.subscription.depth", Value::Float(2.0)),
            ("/image.subscription.reliability", text("dependable")),
            ("/image.subscription.durability", Value::Bool(true)),
            ("image.subscription.depth", Value::Integer(2)),
            ("depth", Value::Integer(2)),
            ("", Value::NotSet),
        ] {
            let outcome = read(rest, value);
            assert!(matches!(outcome, Err(QosProblem::Invalid(_))), "{rest}: {outcome:?}");
        }
        for (rest, value) in [
            ("/image.publisher.depth", Value::Integer(2)),
            ("/image.subscription.deadline", Value::Integer(2)),
        ] {
            let outcome = read(rest, value);
            assert!(matches!(outcome, Err(QosProblem::NoEffect(_))), "{rest}: {outcome:?}");
        }
    }
}
