//! Writes a recording as an MCAP file: JSON messages with JSON schemas, which Foxglove plots
//! without a plugin.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Arrival, Entry, Recording};
use vla_control::action_chunk::{ActionSpace, JointAction};
use vla_control::time::{Instant, Stamp};
use vla_control::{Inference, Source, Twist};

/// Error of writing a recording.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// The file could not be created, renamed or removed.
    #[error(
        "cannot write the flight record {path}: {source}; check the folder, its permissions and \
        its free space"
    )]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The MCAP writer failed.
    #[error("cannot write the flight record {path}: {source}; check the free space")]
    Mcap {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        source: mcap::McapError,
    },
}

/// A written recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Path of the file.
    pub path: PathBuf,
    /// Number of messages.
    pub messages: u64,
}

/// A channel: topic, name of the schema, and its properties.
struct Topic {
    topic: &'static str,
    schema: &'static str,
    properties: fn() -> Value,
}

const STATUS: usize = 0;
const COMMAND: usize = 1;
const MOTION: usize = 2;
const INPUTS: usize = 3;
const EVENT: usize = 4;
const CHUNK: usize = 5;

const TOPICS: [Topic; 6] = [
    Topic { topic: "/vla/status", schema: "openvla_tt.Status", properties: status_properties },
    Topic { topic: "/vla/command", schema: "openvla_tt.Command", properties: command_properties },
    Topic { topic: "/vla/motion", schema: "openvla_tt.Motion", properties: motion_properties },
    Topic { topic: "/vla/inputs", schema: "openvla_tt.Inputs", properties: inputs_properties },
    Topic { topic: "/vla/event", schema: "openvla_tt.Event", properties: event_properties },
    Topic { topic: "/vla/chunk", schema: "openvla_tt.Chunk", properties: chunk_properties },
];

impl Recording {
    /// Writes the recording into `folder` as `flight_<ROS seconds>_<cause>.mcap`, complete or not
    /// at all, and removes the oldest recordings there beyond `keep`, so that repeated faults do
    /// not fill the disk.
    ///
    /// # Errors
    /// [`RecorderError`] with the file's path.
    pub fn save(&self, folder: &Path, keep: usize) -> Result<Saved, RecorderError> {
        let stamp = self.anchor().1.nanoseconds().max(0);
        let name = format!(
            "flight_{:012}.{:03}_{}",
            stamp / 1_000_000_000,
            stamp / 1_000_000 % 1000,
            self.cause.reason.name()
        );
        let path = folder.join(format!("{name}.mcap"));
        let partial = folder.join(format!("{name}.partial"));
        let failed = |source| RecorderError::File { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let file = BufWriter::new(File::create(&partial).map_err(failed)?);
        let messages = self
            .write(file)
            .map_err(|source| RecorderError::Mcap { path: path.clone(), source })?;
        std::fs::rename(&partial, &path).map_err(failed)?;
        prune(folder, keep.max(1)).map_err(failed)?;
        Ok(Saved { path, messages })
    }

    /// Writes the recording to anything that can seek; returns the number of messages.
    ///
    /// # Errors
    /// Those of the MCAP writer.
    pub fn write<W: Write + Seek>(&self, to: W) -> mcap::McapResult<u64> {
        let mut writer = mcap::WriteOptions::new()
            // Not compressed: the node is built without the C libraries for it.
            .compression(None)
            .library("openvla_tt flight recorder")
            .create(to)?;
        let mut channels = [0; TOPICS.len()];
        for (channel, topic) in channels.iter_mut().zip(&TOPICS) {
            let properties = (topic.properties)();
            let schema =
                json!({ "type": "object", "title": topic.schema, "properties": properties });
            let schema =
                writer.add_schema(topic.schema, "jsonschema", schema.to_string().as_bytes())?;
            *channel = writer.add_channel(schema, topic.topic, "json", &BTreeMap::new())?;
        }
        let (anchor, ros) = self.anchor();
        let metadata = BTreeMap::from([
            ("cause".to_owned(), self.cause.to_string()),
            ("crate_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            (
                "clock".to_owned(),
                "log times follow the steady clock, aligned with ROS time at the end of the \
                recording"
                    .to_owned(),
            ),
        ]);
        writer.write_metadata(&mcap::records::Metadata {
            name: "openvla_tt flight record".to_owned(),
            metadata,
        })?;
        let mut messages = 0u32;
        let mut put = |channel: usize, now: Instant, value: Value| -> mcap::McapResult<()> {
            let behind = i64::try_from(anchor.nanoseconds().saturating_sub(now.nanoseconds()))
                .unwrap_or(i64::MAX);
            // Simulated time may be shorter than the recording: earlier log times are zero.
            let log_time = u64::try_from(ros.nanoseconds().saturating_sub(behind)).unwrap_or(0);
            let header = mcap::records::MessageHeader {
                channel_id: channels[channel],
                sequence: messages,
                log_time,
                publish_time: log_time,
            };
            messages += 1;
            writer.write_to_known_channel(&header, value.to_string().as_bytes())
        };
        let oldest = anchor
            .nanoseconds()
            .saturating_sub(u64::try_from(self.length.as_nanos()).unwrap_or(u64::MAX));
        let mut arrivals =
            self.arrivals.iter().filter(|arrival| oldest <= arrival.now.nanoseconds()).peekable();
        for entry in self.entries.iter().filter(|entry| oldest <= entry.now.nanoseconds()) {
            while let Some(arrival) = arrivals.next_if(|arrival| arrival.now <= entry.now) {
                put(CHUNK, arrival.now, self.chunk(arrival))?;
            }
            put(INPUTS, entry.now, inputs(entry))?;
            for event in entry.output.events.iter() {
                put(EVENT, entry.now, json!({ "text": format!("{event:?}") }))?;
            }
            put(MOTION, entry.now, motion(entry))?;
            if let Some(command) = &entry.output.command {
                let mut value = twist(command.twist());
                value["gripper"] = json!(command.gripper());
                if let Some(joints) = command.joints() {
                    value["grippers"] = json!(command.grippers());
                    value["positions"] = json!(joints.positions());
                    value["velocities"] = json!(joints.velocities());
                    value["run"] = json!(joints.run());
                }
                put(COMMAND, entry.now, value)?;
            }
            put(STATUS, entry.now, status(entry))?;
        }
        writer.finish()?;
        Ok(u64::from(messages))
    }

    /// End of the recording on both clocks.
    fn anchor(&self) -> (Instant, Stamp) {
        self.entries
            .iter()
            .last()
            .map_or((Instant::START, Stamp::default()), |entry| (entry.now, entry.ros_now))
    }

    fn chunk(&self, arrival: &Arrival) -> Value {
        let kept: Vec<Vec<f64>> = self.chunk_steps(arrival).collect();
        let finite = kept.iter().flatten().all(|value| value.is_finite());
        json!({
            "generation": arrival.origin.generation,
            "instruction_generation": arrival.origin.instruction_generation,
            "image_stamp_s": seconds(arrival.origin.image_stamp),
            "inference_s": arrival.now.since(arrival.origin.inference_started).seconds(),
            "image_to_command_s": image_to_command(arrival),
            "stages_ms": stages(arrival),
            "steps_begun_at_observation": arrival.origin.steps_begun_at_observation,
            "policy_hz": arrival.policy_hz,
            "space": space(arrival.space),
            "observation_spread_s": arrival.origin.observation_spread.as_secs_f64(),
            // JSON has no NaN: a number that is not finite is null, and `finite` is false.
            "finite": finite,
            "steps": kept,
            "steps_lost": arrival.len - kept.len(),
        })
    }
}

/// Seconds from the image's stamp to the control step that received the chunk, which publishes the
/// first command from it; `None` when the stamp is in the future.
fn image_to_command(arrival: &Arrival) -> Option<f64> {
    Some(arrival.ros_now.seconds_since(arrival.origin.image_stamp)).filter(|s| 0.0 <= *s)
}

/// Milliseconds by the stage's name, as in `~/action`: `network` and `server` of a policy server.
fn stages(arrival: &Arrival) -> Value {
    let stages = arrival.stages.as_slice().iter();
    stages.map(|(name, seconds)| ((*name).to_owned(), json!(seconds * 1e3))).collect()
}

/// Name of an action space, as in the policy file.
const fn space(space: ActionSpace) -> &'static str {
    match space {
        ActionSpace::EndEffector => "end_effector",
        ActionSpace::Joint(JointAction::Velocity) => "joint_velocity",
        ActionSpace::Joint(JointAction::Position) => "joint_position",
    }
}

/// Removes the oldest recordings: their names sort by time.
fn prune(folder: &Path, keep: usize) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map_or(Cow::Borrowed(""), |name| name.to_string_lossy());
        if name.starts_with("flight_") && name.ends_with(".mcap") {
            files.push(path);
        }
    }
    files.sort();
    let surplus = files.len().saturating_sub(keep);
    files[..surplus].iter().try_for_each(std::fs::remove_file)
}

fn seconds(stamp: Stamp) -> f64 {
    stamp.nanoseconds() as f64 * 1e-9
}

fn xyz([x, y, z]: [f64; 3]) -> Value {
    json!({ "x": x, "y": y, "z": z })
}

fn twist(twist: &Twist) -> Value {
    json!({ "linear": xyz(twist.linear), "angular": xyz(twist.angular) })
}

/// A source as text; its name is known to the node only.
fn source(source: Source) -> String {
    match source {
        Source::Camera(index) => format!("camera {index}"),
        Source::State(index) => format!("state {index}"),
        Source::Joints => "joints".to_owned(),
        Source::Joint(index) => format!("joint {index}"),
    }
}

fn status(entry: &Entry) -> Value {
    let output = &entry.output;
    json!({
        "state": output.state.name(),
        "state_code": output.state.code(),
        "reason": output.cause.reason.name(),
        "reason_code": output.cause.reason.code(),
        "source": output.cause.source.map(source),
        "detail": output.cause.to_string(),
        "causes": output.causes.iter().map(|cause| cause.reason.name()).collect::<Vec<_>>(),
        "enabled": output.enabled,
        "resumes_in_s": output.resumes_in_s,
        "enable_withdrawn_in_s": output.enable_withdrawn_in_s,
        "image_age_s": output.image_age_s,
        "steps_begun": output.steps_begun,
        "at_rest": output.at_rest,
        "published": output.command.is_some(),
    })
}

fn motion(entry: &Entry) -> Value {
    let motion = &entry.output.motion;
    let names: Vec<&str> = motion.interventions.iter().map(|which| which.name()).collect();
    json!({
        "desired": twist(&motion.desired),
        "target": twist(&motion.target),
        "limited": twist(&motion.limited),
        "joints": motion.joints.map(|joints| {
            let count = joints.limited.positions().len();
            json!({
                "desired": joints.desired.map(|desired| desired[..count].to_vec()),
                "setpoint": &joints.setpoint[..count],
                "positions": joints.limited.positions(),
                "velocities": joints.limited.velocities(),
            })
        }),
        "seam": motion.seams.last.map(|seam| {
            let (translation, rotation) = (seam.translation, seam.rotation);
            json!({ "translation": translation, "rotation": rotation, "joint": seam.joint })
        }),
        "interventions": names,
    })
}

fn inputs(entry: &Entry) -> Value {
    let (inference_busy_s, preparing_s) = match entry.inference {
        Inference::Busy { since } => (Some(entry.now.since(since).seconds()), None),
        Inference::Preparing { since } => (None, Some(entry.now.since(since).seconds())),
        Inference::Idle | Inference::Dead => (None, None),
    };
    let [image, ..] = entry.images;
    let joints = entry.joints;
    let ages = |taken: &mut dyn Iterator<Item = Option<Instant>>| {
        let ages = taken.map(|taken| taken.map(|taken| entry.now.since(taken).seconds()));
        let mut ages: Vec<Option<f64>> = ages.collect();
        ages.truncate(ages.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        ages
    };
    json!({
        "ros_now_s": seconds(entry.ros_now),
        "steady_now_s": entry.now.nanoseconds() as f64 * 1e-9,
        "lifecycle": format!("{:?}", entry.lifecycle),
        "instruction": entry.instruction,
        "image_stamp_s": image.map(|image| seconds(image.stamp)),
        "image_received_ago_s": image.map(|image| entry.now.since(image.received).seconds()),
        // Duration of the current run of equal images, up to the newest one.
        "image_unchanged_s": image
            .map(|image| image.received.since(image.unchanged_since).seconds()),
        // Of every camera and state source by index; null without a message.
        "camera_ages_s": ages(&mut entry.images.iter().map(|seen| seen.map(|seen| seen.taken()))),
        "state_ages_s": ages(&mut entry.states.iter().map(|seen| seen.map(|seen| seen.taken()))),
        "joints_age_s": joints.map(|seen| entry.now.since(seen.taken()).seconds()),
        // A position that is not finite is null.
        "joint_positions": joints.map(|seen| seen.positions),
        "ee_position": entry.pose.map(|pose| xyz(pose.position)),
        "ee_pose_age_s": entry.pose.map(|pose| entry.now.since(pose.received).seconds()),
        "inference_busy_s": inference_busy_s,
        "preparing_s": preparing_s,
        "inference_dead": entry.inference == Inference::Dead,
        "policy_failure": entry.policy_failure.map(|failure| format!("{failure:?}")),
        "subscribed": entry.subscribed,
        "enable": entry.requests.enable,
        "estop": entry.requests.estop,
        "reset": entry.requests.reset,
    })
}

fn boolean() -> Value {
    json!({ "type": "boolean" })
}

fn integer() -> Value {
    json!({ "type": "integer" })
}

fn number() -> Value {
    json!({ "type": "number" })
}

fn string() -> Value {
    json!({ "type": "string" })
}

/// `schema` or null.
fn nullable(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn vector_schema() -> Value {
    let properties = json!({ "x": number(), "y": number(), "z": number() });
    json!({ "type": "object", "properties": properties })
}

fn twist_schema() -> Value {
    let properties = json!({ "linear": vector_schema(), "angular": vector_schema() });
    json!({ "type": "object", "properties": properties })
}

fn status_properties() -> Value {
    json!({
        "state": string(),
        "state_code": integer(),
        "reason": string(),
        "reason_code": integer(),
        "source": nullable(string()),
        "detail": string(),
        "causes": array(string()),
        "enabled": boolean(),
        "resumes_in_s": nullable(number()),
        "enable_withdrawn_in_s": nullable(number()),
        "image_age_s": nullable(number()),
        "steps_begun": integer(),
        "at_rest": boolean(),
        "published": boolean(),
    })
}

fn command_properties() -> Value {
    json!({
        "linear": vector_schema(),
        "angular": vector_schema(),
        "gripper": nullable(number()),
        "grippers": array(nullable(number())),
        "positions": nullable(array(number())),
        "velocities": array(number()),
        "run": integer(),
    })
}

fn motion_properties() -> Value {
    json!({
        "desired": twist_schema(),
        "target": twist_schema(),
        "limited": twist_schema(),
        "joints": nullable(json!({ "type": "object", "properties": {
            "desired": nullable(array(number())),
            "setpoint": array(number()),
            "positions": array(number()),
            "velocities": array(number()),
        } })),
        "seam": nullable(json!({ "type": "object", "properties": {
            "translation": number(), "rotation": number(), "joint": number(),
        } })),
        "interventions": array(string()),
    })
}

fn inputs_properties() -> Value {
    json!({
        "ros_now_s": number(),
        "steady_now_s": number(),
        "lifecycle": string(),
        "instruction": nullable(integer()),
        "image_stamp_s": nullable(number()),
        "image_received_ago_s": nullable(number()),
        "image_unchanged_s": nullable(number()),
        "camera_ages_s": array(nullable(number())),
        "state_ages_s": array(nullable(number())),
        "joints_age_s": nullable(number()),
        "joint_positions": nullable(array(nullable(number()))),
        "ee_position": nullable(vector_schema()),
        "ee_pose_age_s": nullable(number()),
        "inference_busy_s": nullable(number()),
        "preparing_s": nullable(number()),
        "inference_dead": boolean(),
        "policy_failure": nullable(string()),
        "subscribed": boolean(),
        "enable": nullable(boolean()),
        "estop": boolean(),
        "reset": boolean(),
    })
}

fn event_properties() -> Value {
    json!({ "text": string() })
}

fn chunk_properties() -> Value {
    json!({
        "generation": integer(),
        "instruction_generation": integer(),
        "image_stamp_s": number(),
        "inference_s": number(),
        "image_to_command_s": nullable(number()),
        "stages_ms": json!({ "type": "object", "additionalProperties": number() }),
        "steps_begun_at_observation": integer(),
        "policy_hz": number(),
        "space": string(),
        "observation_spread_s": number(),
        "finite": boolean(),
        "steps_lost": integer(),
        "steps": array(array(nullable(number()))),
    })
}
