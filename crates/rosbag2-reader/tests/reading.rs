//! Bags of independent writers are read exactly; `tools/bags/make_fixtures.py` makes them and their
//! expected content.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use rosbag2_reader::messages::{
    self, Action, CompressedImage, Float64, Float64MultiArray, Image, JointState, PoseStamped,
    Status, Text, TwistStamped,
};
use rosbag2_reader::{Bag, BagWarning, Message, Selection, Topic};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/bags").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn everything(bag: &Bag) -> (Vec<Message>, Vec<BagWarning>) {
    let mut stream = bag.messages(&Selection::topics(0..bag.topics().len())).unwrap();
    let messages = stream.by_ref().map(|message| message.unwrap()).collect();
    (messages, stream.warnings().to_vec())
}

fn of<'a>(
    bag: &'a Bag,
    all: &'a [Message],
    name: &str,
    kind: &str,
) -> (&'a Topic, Vec<&'a Message>) {
    let topic = bag.topic_of_type(name, &[kind]).unwrap();
    (topic, all.iter().filter(|message| message.topic == topic.index).collect())
}

/// Opens the bag, reads all of it and compares every message with `expected.json`.
fn check(name: &str) -> Vec<BagWarning> {
    let expected = expected();
    let bag = Bag::open(fixture(name)).unwrap();
    let topics: BTreeMap<&str, (&str, Option<u64>)> = bag
        .topics()
        .iter()
        .map(|topic| (topic.name.as_str(), (topic.type_name.as_str(), topic.messages)))
        .collect();
    let listed: BTreeMap<&str, (&str, Option<u64>)> = expected["topics"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, topic)| {
            (name.as_str(), (topic["type"].as_str().unwrap(), topic["messages"].as_u64()))
        })
        .collect();
    assert_eq!(topics, listed, "{name}: topics");

    let (all, warnings) = everything(&bag);
    assert!(all.is_sorted_by_key(|message| message.log_time), "{name}: order");
    let frames = expected["frames"].as_array().unwrap();
    let count = |topic: &str, kind: &str| of(&bag, &all, topic, kind).1.len();
    for topic in bag.topics() {
        assert_eq!(
            Some(count(&topic.name, &topic.type_name) as u64),
            topic.messages,
            "{name}: {}",
            topic.name
        );
    }
    let (images, image_messages) = of(&bag, &all, "/camera/image", messages::IMAGE);
    let (files, file_messages) =
        of(&bag, &all, "/camera/image/compressed", messages::COMPRESSED_IMAGE);
    let (arrays, array_messages) = of(&bag, &all, "/action_array", messages::FLOAT64_MULTI_ARRAY);
    let (twists, twist_messages) = of(&bag, &all, "/twist", messages::TWIST_STAMPED);
    let (grippers, gripper_messages) = of(&bag, &all, "/gripper", messages::FLOAT64);
    let (actions, action_messages) = of(&bag, &all, "/vla/action", messages::ACTION);
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!(image_messages[i].log_time, frame["log_time"].as_i64().unwrap());
        let image: Image = messages::decode(image_messages[i], images).unwrap();
        assert_eq!(
            (image.width, image.height, image.step, image.encoding.as_str()),
            (16, 12, 53, "rgb8")
        );
        assert_eq!(image.header.stamp.nanoseconds(), frame["stamp"].as_i64());
        assert_eq!(image.header.frame_id, "camera_optical");
        assert_eq!(sha256(image.data), frame["data_sha256"].as_str().unwrap());

        let file: CompressedImage = messages::decode(file_messages[i], files).unwrap();
        assert_eq!(file.format, "rgb8; png compressed rgb8");
        assert_eq!(sha256(file.data), frame["png_sha256"].as_str().unwrap());

        let action = floats(&frame["action"]);
        let array: Float64MultiArray = messages::decode(array_messages[i], arrays).unwrap();
        assert_eq!(array.data, action);
        assert_eq!((array.layout.dim[0].label.as_str(), array.layout.dim[0].size), ("action", 7));

        let twist: TwistStamped = messages::decode(twist_messages[i], twists).unwrap();
        let (linear, angular) = (twist.twist.linear, twist.twist.angular);
        assert_eq!(
            [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z].to_vec(),
            floats(&frame["twist"])
        );
        let gripper: Float64 = messages::decode(gripper_messages[i], grippers).unwrap();
        assert_eq!(gripper.data, action[6]);

        let ours: Action = messages::decode(action_messages[i], actions).unwrap();
        assert_eq!(ours.generation, i as u64 + 1);
        assert_eq!(
            Some(ours.token_ids.iter().map(|&id| id.into()).collect::<Vec<Value>>().as_slice()),
            frame["token_ids"].as_array().map(Vec::as_slice)
        );
        assert_eq!((ours.normalized, ours.action), (floats(&frame["normalized"]), action));
        assert_eq!(
            (ours.stage_names, ours.stage_ms),
            (vec!["preprocess".to_owned(), "vision".to_owned()], vec![1.5, 2.25])
        );
        assert_eq!((ours.policy_hz, ours.latency_s, ours.logit_margins[6]), (5.0, 0.25, 1.5));
    }

    let (topic, found) = of(&bag, &all, "/instruction", messages::STRING);
    assert_eq!(messages::decode::<Text>(found[0], topic).unwrap().data, "pick up the café cup ☕");
    let (topic, found) = of(&bag, &all, "/ee_pose", messages::POSE_STAMPED);
    let pose: PoseStamped = messages::decode(found[0], topic).unwrap();
    assert_eq!((pose.pose.position.z, pose.pose.orientation.w), (0.3, 0.8));
    let (topic, found) = of(&bag, &all, "/joint_states", messages::JOINT_STATE);
    let joints: JointState = messages::decode(found[0], topic).unwrap();
    assert_eq!(joints.name, ["a", "bb", "ccc"]);
    assert_eq!(
        (joints.position, joints.velocity, joints.effort),
        (vec![0.5, -1.5, 2.5], vec![], vec![1.0])
    );
    let (topic, found) = of(&bag, &all, "/vla/status", messages::STATUS);
    let status: Status = messages::decode(found[0], topic).unwrap();
    assert_eq!(
        (status.state, status.reason, status.enabled, status.command_hz),
        (4, 201, true, 50.0)
    );
    assert_eq!(
        (status.interventions, status.intervention_names),
        (vec![4, 5], vec!["velocity".to_owned(), "jerk".to_owned()])
    );
    warnings
}

#[test]
fn all_storages_yield_the_same_messages() {
    for name in [
        "mcap_plain",
        "mcap_chunk_zstd",
        "mcap_message_zstd",
        "mcap_file_zstd",
        "mcap_big_endian",
        "sqlite_plain",
        "sqlite_version_8",
        "sqlite_message_zstd",
        "sqlite_file_zstd",
        "split_mcap",
        "split_sqlite",
        "lz4.mcap",
        "zstd.mcap",
        "unchunked.mcap",
        "sqlite_plain/sqlite_plain.db3",
        "mcap_plain/mcap_plain.mcap",
        "sqlite_message_zstd/sqlite_message_zstd.db3",
        "mcap_file_zstd/mcap_file_zstd.mcap.zstd",
        "sqlite_file_zstd/sqlite_file_zstd.db3.zstd",
    ] {
        assert_eq!(check(name), [], "{name}");
    }
}

#[test]
fn file_without_summary_is_scanned() {
    let warnings = check("no_summary.mcap");
    assert!(matches!(&warnings[..], [BagWarning::BadSummary { .. }]), "{warnings:?}");
}

#[test]
fn messages_are_sorted_within_the_window() {
    let bag = Bag::open(fixture("unsorted.mcap")).unwrap();
    let (all, warnings) = everything(&bag);
    let late = expected()["unsorted_late"].as_i64().unwrap();
    let place = all.iter().position(|message| message.log_time == late).unwrap();
    assert!(place > 0);
    let others: Vec<i64> =
        all.iter().map(|message| message.log_time).filter(|&time| time != late).collect();
    assert!(others.is_sorted());
    let [BagWarning::Unsorted { count: 1, first_ns, .. }] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert_eq!(*first_ns, late);
}

#[test]
fn time_range_and_topics_are_selected() {
    let start = expected()["start"].as_i64().unwrap();
    for (name, seeks) in [
        ("mcap_plain", true),
        ("lz4.mcap", true),
        ("split_mcap", true),
        ("sqlite_plain", true),
        ("split_sqlite", true),
        ("no_summary.mcap", false),
        ("unchunked.mcap", false),
        ("mcap_file_zstd", false),
    ] {
        let bag = Bag::open(fixture(name)).unwrap();
        assert_eq!(bag.can_seek(), seeks, "{name}");
        let topic = bag.topic("/camera/image").unwrap().index;
        let selection =
            Selection::topics([topic]).between(start + 200_000_000, start + 600_000_000);
        let times: Vec<i64> = bag
            .messages(&selection)
            .unwrap()
            .map(|message| message.unwrap().log_time - start)
            .collect();
        assert_eq!(times, [200_000_000, 400_000_000, 600_000_000], "{name}");
    }
}

#[test]
fn dropping_a_stream_ends_its_thread() {
    let bag = Bag::open(fixture("sqlite_plain")).unwrap();
    let mut stream = bag.messages(&Selection::topics(0..bag.topics().len())).unwrap();
    assert!(stream.next().is_some());
    // The drop joins the thread: a hang here is the failure.
    drop(stream);
}

#[test]
fn old_type_names_are_accepted() {
    assert_eq!(messages::canonical_type("sensor_msgs/Image"), "sensor_msgs/msg/Image");
    assert_eq!(messages::canonical_type("sensor_msgs::msg::dds_::Image_"), "sensor_msgs/msg/Image");
    assert_eq!(messages::canonical_type("sensor_msgs/msg/Image"), "sensor_msgs/msg/Image");
}
