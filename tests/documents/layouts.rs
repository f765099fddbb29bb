//! The layout for Foxglove and the configuration for RViz name topics, services and fields that the
//! node and its flight recordings have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{interfaces::declaration, read};

const FOXGLOVE: &str = "config/foxglove/openvla_tt.json";
const RVIZ: &str = "config/rviz/openvla_tt.rviz";
const RECORDER: &str = "crates/flight-recorder/src/write.rs";

/// Fields of a topic.
enum Fields {
    /// Of one of our messages.
    Ours(&'static str),
    /// Of a message of ROS, as far as they are used.
    Ros(&'static [&'static str]),
}
use Fields::{Ours, Ros};

const VECTORS: &[&str] = &[
    "twist.linear.x",
    "twist.linear.y",
    "twist.linear.z",
    "twist.angular.x",
    "twist.angular.y",
    "twist.angular.z",
];

/// Topics of a node `/vla` without a robot file: where the source names them, and their type.
const TOPICS: &[(&str, &str, &str, &str, Fields)] = &[
    ("/vla/status", "src/ros/status.rs", "\"~/status\"", "", Ours("msg/msg/Status.msg")),
    ("/vla/action", "src/ros/status.rs", "\"~/action\"", "", Ours("msg/msg/Action.msg")),
    (
        "/vla/command/twist",
        "src/ros/commands.rs",
        "Publisher<TwistStamped>",
        "TwistStamped",
        Ros(VECTORS),
    ),
    (
        "/vla/command/gripper",
        "crates/vla-config/src/merge.rs",
        "\"~/command/gripper\"",
        "Float64",
        Ros(&["data"]),
    ),
    ("/image", "src/ros/config.rs", "topic: \"image\".into()", "Image", Ros(&[])),
    ("/vla/debug_image", "src/ros/debug_image/mod.rs", "\"~/debug_image\"", "Image", Ros(&[])),
    ("/ee_pose", "src/ros/subscriptions.rs", "\"ee_pose\"", "Pose", Ros(&[])),
    ("/joint_states", "src/ros/subscriptions.rs", "\"joint_states\"", "", Ros(&["position"])),
    ("/diagnostics", "src/ros/status.rs", "/diagnostics", "", Ros(&[])),
];

/// Topics of others: of a robot_state_publisher.
const OTHERS: &[&str] = &["/robot_description"];

fn layout() -> Value {
    serde_json::from_str(&read(FOXGLOVE)).unwrap()
}

/// The texts of a key anywhere in a document.
fn texts(document: &Value, keys: &[&str], found: &mut Vec<String>) {
    match document {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if keys.contains(&key.as_str()) => {
                        found.push(text.clone());
                    }
                    value => texts(value, keys, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

/// Body of a function of the flight recorder.
fn body(source: &str, function: &str) -> String {
    let start = format!("fn {function}() -> Value {{");
    let rest = source.split(&start).nth(1).unwrap_or_else(|| panic!("no {function}"));
    rest.split("\n}").next().unwrap().to_owned()
}

/// Whether a flight recording has a field; `None` where it has not the topic.
fn recorded(topic: &str, field: &[&str]) -> Option<bool> {
    let source = read(RECORDER);
    let of_topic = source.lines().find(|line| line.contains(&format!("topic: \"{topic}\"")))?;
    let function = of_topic.split("properties: ").nth(1).unwrap().split(' ').next().unwrap();
    let schemas = ["twist_schema", "vector_schema"].map(|name| body(&source, name)).concat();
    let (first, rest) = field.split_first().unwrap();
    let own = body(&source, function);
    let has = |text: &str, name: &str| text.contains(&format!("\"{name}\":"));
    Some(has(&own, first) && rest.iter().all(|name| has(&own, name) || has(&schemas, name)))
}

/// Whether the node's topic has a field; `None` where there is no such topic.
fn published(topic: &str, field: &str) -> Option<bool> {
    let (.., fields) = TOPICS.iter().find(|(name, ..)| *name == topic)?;
    Some(match fields {
        Ros(fields) => fields.contains(&field),
        Ours(file) => read(file).lines().any(|line| {
            let name = declaration(line).filter(|(_, value)| value.is_none());
            name.is_some_and(|(name, _)| name.trim_matches('`').ends_with(&format!(" {field}")))
        }),
    })
}

/// What is wrong with a message path, such as `/vla/action.action[0]`.
fn wrong(path: &str) -> Option<String> {
    let mut parts = path.split('.');
    let topic = parts.next().unwrap();
    let field: Vec<&str> = parts.map(|part| part.split('[').next().unwrap()).collect();
    if field.is_empty() {
        return Some(format!("{path} names no field"));
    }
    let found = [published(topic, &field.join(".")), recorded(topic, &field)];
    match found {
        [None, None] => Some(format!("{path}: no such topic")),
        [Some(true), _] | [_, Some(true)] => None,
        _ => Some(format!("{path}: {topic} has no such field")),
    }
}

#[test]
fn the_topics_are_the_sources() {
    for (topic, file, literal, ..) in TOPICS {
        assert!(read(file).contains(literal), "{topic}: {file} has no {literal}");
    }
    let topics = read("crates/vla-config/src/merge.rs");
    assert!(topics.contains("\"~/command/{private}\"") && topics.contains("{ \"twist\" }"));
}

#[test]
fn every_plotted_field_exists() {
    let mut paths = Vec::new();
    texts(&layout(), &["value", "topicPath"], &mut paths);
    // A number is a line of reference.
    paths.retain(|path| path.parse::<f64>().is_err());
    assert!(40 < paths.len(), "{}", paths.len());
    let problems: Vec<String> = paths.iter().filter_map(|path| wrong(path)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn foreign_paths_are_found() {
    assert!(
        wrong("/vla/status.state").is_none() && wrong("/vla/motion.desired.linear.x").is_none()
    );
    assert!(wrong("/vla/status.stat").is_some_and(|text| text.contains("no such field")));
    assert!(wrong("/vla/motion.planned.linear.x").is_some());
    assert!(wrong("/vla/state.x").is_some_and(|text| text.contains("no such topic")));
    assert!(wrong("/vla/status").is_some());
}

#[test]
fn every_topic_and_service_of_a_panel_exists() {
    let (mut topics, mut services) = (Vec::new(), Vec::new());
    texts(&layout(), &["imageTopic", "topicToRender"], &mut topics);
    texts(&layout(), &["serviceName"], &mut services);
    assert!(!topics.is_empty() && !services.is_empty());
    for topic in topics {
        assert!(TOPICS.iter().any(|(name, ..)| *name == topic), "{topic}");
    }
    let requests = read("src/ros/requests.rs");
    for service in services {
        let private = service.replace("/vla/", "~/");
        assert!(requests.contains(&format!("\"{private}\"")), "{service}");
    }
}

#[test]
fn every_panel_has_its_place() {
    fn leaves(node: &Value, found: &mut Vec<String>) {
        match node {
            Value::String(panel) => found.push(panel.clone()),
            node => {
                assert!(["row", "column"].contains(&node["direction"].as_str().unwrap()));
                leaves(&node["first"], found);
                leaves(&node["second"], found);
            }
        }
    }
    let layout = layout();
    let mut placed = Vec::new();
    leaves(&layout["layout"], &mut placed);
    placed.sort();
    let configured: Vec<String> = layout["configById"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert_eq!(placed, configured);
}

#[test]
fn rviz_displays_topics_of_their_type() {
    let text = read(RVIZ);
    let mut seen = 0;
    for display in text.split("- Class: rviz_default_plugins/").skip(1) {
        let (kind, rest) = display.split_once('\n').unwrap();
        let topic = rest.lines().find_map(|line| line.trim().strip_prefix("Value: /"));
        let Some(topic) = topic.map(|topic| format!("/{topic}")) else { continue };
        if OTHERS.contains(&topic.as_str()) {
            continue;
        }
        let row = TOPICS.iter().find(|(name, ..)| *name == topic);
        assert_eq!(row.map(|(_, _, _, kind, _)| *kind), Some(kind), "{topic}");
        seen += 1;
    }
    assert_eq!(seen, 4);
    let frame = text.lines().find_map(|line| line.trim().strip_prefix("Fixed Frame: ")).unwrap();
    assert!(read("docs/parameters.md").contains(&format!("| `frame_id` | string | `{frame}` |")));
}
