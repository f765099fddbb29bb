//! Flight recorder: a recording contains the inputs and outputs of the steps, and reads back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../vla-control/tests/support/mod.rs"]
mod support;

use std::{collections::BTreeMap, io::Cursor};

use flight_recorder::{Recorder, Recording};
use serde_json::Value;
use support::{MS, World, live};
use vla_control::action_chunk::{ActionChunk, ChunkStep};
use vla_control::time::Instant;
use vla_control::{Requests, StageTimes, State};

const SECOND: u64 = 1000 * MS;

fn recorded_world() -> World {
    let mut world = World::new(live());
    world.recorder = Some(Recorder::new(world.state.config().period()));
    world.tick(20 * MS, Requests { enable: Some(true), ..Requests::default() }).unwrap();
    world
}

fn tick(world: &mut World) -> vla_control::Output {
    world.tick(20 * MS, Requests::default()).unwrap()
}

fn due(world: &World) -> bool {
    world.recorder.as_ref().unwrap().due(Instant::from_nanoseconds(world.now))
}

fn take(world: &mut World) -> Box<Recording> {
    world.recorder.as_mut().unwrap().take().unwrap()
}

/// Messages by topic: log time and content.
fn read(bytes: &[u8]) -> BTreeMap<String, Vec<(u64, Value)>> {
    let mut topics: BTreeMap<String, Vec<(u64, Value)>> = BTreeMap::new();
    for message in mcap::MessageStream::new(bytes).unwrap() {
        let message = message.unwrap();
        let schema = message.channel.schema.as_ref().unwrap();
        assert_eq!(
            (message.channel.message_encoding.as_str(), schema.encoding.as_str()),
            ("json", "jsonschema")
        );
        let schema: Value = serde_json::from_slice(&schema.data).unwrap();
        let value: Value = serde_json::from_slice(&message.data).unwrap();
        // Whatever is written is announced by the schema.
        for key in value.as_object().unwrap().keys() {
            assert!(
                schema["properties"].get(key).is_some(),
                "{} has no {key} in its schema",
                message.channel.topic
            );
        }
        topics.entry(message.channel.topic.clone()).or_default().push((message.log_time, value));
    }
    topics
}

fn written(recording: &Recording) -> BTreeMap<String, Vec<(u64, Value)>> {
    let mut bytes = Cursor::new(Vec::new());
    let messages = recording.write(&mut bytes).unwrap();
    let topics = read(bytes.get_ref());
    assert_eq!(messages, topics.values().map(|list| list.len() as u64).sum::<u64>());
    topics
}

#[test]
fn fault_records_30_s_and_the_stop() {
    let mut world = recorded_world();
    let mut commands = Vec::new();
    for _ in 0..3000 {
        let output = tick(&mut world);
        commands.push((world.ros as u64, output.command));
        assert!(!due(&world));
    }
    world.camera_on = false;
    let mut faulted = None;
    while !due(&world) {
        let output = tick(&mut world);
        commands.push((world.ros as u64, output.command));
        if output.state == State::Holding && faulted.is_none() {
            faulted = Some(world.now);
        }
    }
    assert_eq!(world.now - faulted.unwrap(), 2 * SECOND);
    let end = world.ros as u64;
    let topics = written(&take(&mut world));

    let status = &topics["/vla/status"];
    assert_eq!(status.len(), 1501, "30 s at 50 Hz, both ends");
    assert_eq!((status[0].0, status[1500].0), (end - 30 * SECOND, end));
    assert_eq!(status[1499].1["reason"], "IMAGE_STALE");
    // The rearm window ends with the recording.
    assert_eq!(
        (&status[1499].1["enabled"], &status[1500].1["enabled"]),
        (&true.into(), &false.into())
    );
    assert_eq!(status[1500].1["reason"], "NOT_ENABLED");
    assert_eq!(status[1500].1["at_rest"], true);
    let first_hold = status.iter().find(|(_, value)| value["state"] == "HOLDING").unwrap();
    assert_eq!(end - first_hold.0, 2 * SECOND);
    assert!(
        first_hold.1["detail"]
            .as_str()
            .unwrap()
            .starts_with("IMAGE_STALE: the newest camera image is too old (0.5")
    );

    // Every command of that time, to the bit.
    let recorded: Vec<(u64, f64)> = topics["/vla/command"]
        .iter()
        .map(|(time, value)| (*time, value["linear"]["x"].as_f64().unwrap()))
        .collect();
    let published: Vec<(u64, f64)> = commands
        .iter()
        .filter(|(time, _)| end - 30 * SECOND <= *time)
        .map(|(time, command)| (*time, command.unwrap().twist().linear[0]))
        .collect();
    assert!(recorded == published, "the commands on record are not the published ones");
    assert!(recorded.iter().any(|(_, x)| 0.05 < *x));

    let chunk = &topics["/vla/chunk"].last().unwrap().1;
    assert_eq!(chunk["steps"], serde_json::json!([[0.02, 0.0, 0.0, 0.0, 0.0, 0.02, 1.0]]));
    assert_eq!((&chunk["policy_hz"], &chunk["finite"]), (&Value::from(5.0), &Value::from(true)));
    assert!((chunk["inference_s"].as_f64().unwrap() - 0.1).abs() < 1e-9);
    assert_eq!(topics["/vla/inputs"].len(), 1501);
    assert!(0.5 < topics["/vla/inputs"][1500].1["image_received_ago_s"].as_f64().unwrap());
    let events: String =
        topics["/vla/event"].iter().map(|(_, value)| value["text"].to_string()).collect();
    assert!(events.contains("FaultRaised") && events.contains("CameToRest"));
    assert_eq!(topics["/vla/motion"].len(), 1501);
}

#[test]
fn non_finite_number_is_recorded() {
    let mut world = recorded_world();
    let origin = world.fresh_origin();
    let step = ChunkStep::from_array([0.01, f64::NAN, 0.0, 0.0, 0.0, f64::INFINITY, 1.0]);
    world.forged = Some(ActionChunk::new(origin, 5.0, vec![step]).unwrap());
    assert_eq!(tick(&mut world).state, State::Fault);
    while !due(&world) {
        tick(&mut world);
    }
    let recording = take(&mut world);
    assert_eq!(recording.cause().reason.name(), "NOT_FINITE");
    let topics = written(&recording);
    let chunk = &topics["/vla/chunk"].iter().find(|(_, chunk)| chunk["finite"] == false).unwrap().1;
    assert_eq!(chunk["steps"], serde_json::json!([[0.01, null, 0.0, 0.0, 0.0, null, 1.0]]));
}

#[test]
fn a_chunk_is_recorded_with_its_times() {
    let mut world = recorded_world();
    let origin = world.fresh_origin();
    let step = ChunkStep::from_array([0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let chunk = ActionChunk::new(origin, 5.0, vec![step]).unwrap();
    let stages = StageTimes::new([("network", 0.004), ("server", 0.25)]);
    world.forged = Some(chunk.with_stages(stages));
    tick(&mut world);
    let now = Instant::from_nanoseconds(world.now);
    world.recorder.as_mut().unwrap().request(now);
    let topics = written(&take(&mut world));
    let own = |chunk: &&(u64, Value)| !chunk.1["stages_ms"].as_object().unwrap().is_empty();
    let (at, chunk) = topics["/vla/chunk"].iter().find(own).unwrap();
    assert_eq!(chunk["stages_ms"], serde_json::json!({ "network": 4.0, "server": 250.0 }));
    // One control period, from the image's stamp to the command that follows from it.
    assert!((chunk["image_to_command_s"].as_f64().unwrap() - 0.02).abs() < 1e-9, "{chunk}");
    assert!(topics["/vla/command"].iter().any(|(time, _)| time == at), "no command at {at}");
}

#[test]
fn request_records_at_once() {
    let mut world = recorded_world();
    for _ in 0..100 {
        tick(&mut world);
    }
    let now = Instant::from_nanoseconds(world.now);
    world.recorder.as_mut().unwrap().request(now);
    assert!(due(&world));
    let first = take(&mut world);
    assert_eq!(first.cause().reason.name(), "NONE");
    assert_eq!(written(&first)["/vla/status"].len(), 101);
    assert!(!due(&world));
    for _ in 0..10 {
        tick(&mut world);
    }
    // The spare is with the writer: still due, nothing lost, nothing allocated.
    let recorder = world.recorder.as_mut().unwrap();
    recorder.request(Instant::from_nanoseconds(world.now));
    assert!(recorder.take().is_none());
    assert!(recorder.due(Instant::from_nanoseconds(world.now)));
    recorder.give_back(first);
    assert_eq!(written(&recorder.take().unwrap())["/vla/status"].len(), 10);
}

#[test]
fn files_are_complete_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = recorded_world();
    for round in 0..4 {
        for _ in 0..40 {
            tick(&mut world);
        }
        if round == 3 {
            world.tick(20 * MS, Requests { estop: true, ..Requests::default() }).unwrap();
            while !due(&world) {
                tick(&mut world);
            }
        }
        let now = Instant::from_nanoseconds(world.now);
        world.recorder.as_mut().unwrap().request(now);
        let recording = take(&mut world);
        let saved = recording.save(&folder.path().join("records"), 2).unwrap();
        let bytes = std::fs::read(&saved.path).unwrap();
        assert_eq!(
            read(&bytes).values().map(|list| list.len() as u64).sum::<u64>(),
            saved.messages
        );
        let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
        assert_eq!(summary.stats.unwrap().message_count, saved.messages);
        world.recorder.as_mut().unwrap().give_back(recording);
    }
    let mut names: Vec<String> = std::fs::read_dir(folder.path().join("records"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names[0].starts_with("flight_001700000") && names[0].ends_with("_NONE.mcap"),
        "{names:?}"
    );
    assert!(names[1].ends_with("_ESTOP.mcap"), "{names:?}");
    // A folder that cannot be: an error with its path, no panic.
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let recording = world.recorder.as_mut().unwrap();
    recording.request(Instant::from_nanoseconds(world.now));
    let error = recording.take().unwrap().save(&file, 2).unwrap_err().to_string();
    assert!(error.contains("cannot write the flight record") && error.contains("file"), "{error}");
}

#[test]
fn early_ros_time_does_not_wrap() {
    let mut world = recorded_world();
    world.ros = 5 * MS as i64;
    for _ in 0..50 {
        world.ros -= 20 * MS as i64;
        tick(&mut world);
    }
    let now = Instant::from_nanoseconds(world.now);
    world.recorder.as_mut().unwrap().request(now);
    let topics = written(&take(&mut world));
    assert!(topics["/vla/status"].iter().all(|(time, _)| *time <= 5 * MS));
}
