//! Bags and policies for the tests of evaluation.
#![allow(dead_code)] // each test binary uses its own part

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use byteorder::LittleEndian;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use vla_eval::{PolicySettings, Settings, Shard};
use vla_inference::observation::{Observation, SINGLE_CAMERA};
use vla_inference::policy::{CodecError, Decision, Policy, PolicyError, PolicyInfo, Stage};

pub fn root(path: &str) -> PathBuf {
    // The folder of the workspace: the tests of two packages use this file.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("tests/data").is_dir()).unwrap().join(path)
}

pub fn expected_bag() -> Value {
    serde_json::from_slice(&std::fs::read(root("tests/data/bags/expected.json")).unwrap()).unwrap()
}

pub fn settings(bag: &Path) -> Settings {
    Settings {
        bags: vec![bag.to_owned()],
        image_topic: "/camera/image".into(),
        cameras: Vec::new(),
        state_topics: Vec::new(),
        state_feature: None,
        instruction: None,
        instruction_topic: Some("/instruction".into()),
        action_topic: Some("/vla/action".into()),
        gripper_topic: None,
        action_match: None,
        tolerance_ms: None,
        policy_hz: 5.0,
        every: 1,
        limit: None,
        shard: Shard::default(),
        gripper_threshold: 0.5,
        policy: PolicySettings {
            checkpoint: "scripted".into(),
            server: None,
            unnorm_key: "bridge_orig".into(),
            action_dim: 7,
            device: "cpu".into(),
            precision: "f32".into(),
            image_preparation: "own".into(),
            decode: "full".into(),
        },
    }
}

/// A policy that returns the recorded actions of the fixture's images, selected by their hash.
pub struct Scripted {
    pub answers: BTreeMap<String, (Vec<u32>, Vec<f64>)>,
    pub info: PolicyInfo,
    pub acted: usize,
    /// Raised when `acted` reaches the number.
    pub stop: Option<(usize, Arc<AtomicBool>)>,
    /// Every n-th inference returns a token outside the action range.
    pub fails: usize,
    /// Added to the first token.
    pub shift: u32,
}

pub fn centre(id: u32) -> f64 {
    let edge = |i: u32| if i >= 255 { 1.0 } else { -1.0 + f64::from(i) * (2.0 / 255.0) };
    let bin = (32_000 - id - 1).min(254);
    (edge(bin) + edge(bin + 1)) / 2.0
}

impl Scripted {
    pub fn new() -> Scripted {
        let mut answers = BTreeMap::new();
        for frame in expected_bag()["frames"].as_array().unwrap() {
            let tokens = frame["token_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            let action = frame["action"]
                .as_array()
                .unwrap()
                .iter()
                .map(|value| value.as_f64().unwrap())
                .collect();
            answers.insert(frame["pixels_sha256"].as_str().unwrap().to_owned(), (tokens, action));
        }
        let info = PolicyInfo {
            unnorm_key: "bridge_orig".into(),
            action_dim: 7,
            action_names: Vec::new(),
            horizon: 1,
            cameras: vec![SINGLE_CAMERA.into()],
            state_dim: 0,
            device: "scripted".into(),
            precision: "f32".into(),
            envelope: [vec![Some((-0.05, 0.05)); 6], vec![None]].concat(),
            action_tokens: Some(31_744..32_000),
        };
        Scripted { answers, info, acted: 0, stop: None, fails: 0, shift: 0 }
    }
}

impl Policy for Scripted {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let image = observation.image(SINGLE_CAMERA)?;
        assert_eq!(observation.instruction.text(), "pick up the café cup ☕");
        let hash: String =
            Sha256::digest(image.pixels()).iter().map(|byte| format!("{byte:02x}")).collect();
        let (mut token_ids, action) =
            self.answers.get(&hash).expect("an image that is not in the bag").clone();
        self.acted += 1;
        if let Some((at, flag)) = &self.stop {
            flag.fetch_or(self.acted >= *at, Ordering::Relaxed);
        }
        if self.fails > 0 && self.acted.is_multiple_of(self.fails) {
            return Err(PolicyError::Codec(CodecError {
                id: 29_871,
                text: None,
                dimension: 0,
                range: 31_744..32_000,
            }));
        }
        token_ids[0] = (token_ids[0] + self.shift).min(31_999);
        let normalized = token_ids.iter().map(|&id| centre(id)).collect();
        let margins = (0..7).map(|i| 0.1 * i as f32).collect();
        let stages = vec![
            Stage { name: "preprocess", milliseconds: 0.1 + 0.2 },
            Stage { name: "vision", milliseconds: 1.0 / 3.0 },
        ];
        Ok(Decision {
            token_ids,
            normalized: vec![normalized],
            actions: vec![action],
            logit_margins: margins,
            stages,
            ..Decision::default()
        })
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}

#[derive(Serialize, Clone)]
struct Stamp(i32, u32);
#[derive(Serialize, Clone)]
struct Header(Stamp, String);
#[derive(Serialize)]
struct RawImage<'a>(Header, u32, u32, &'a str, u8, u32, Vec<u8>);
#[derive(Serialize)]
struct Compressed<'a>(Header, &'a str, Vec<u8>);
#[derive(Serialize)]
struct Array(Vec<(String, u32, u32)>, u32, Vec<f64>);

fn stamped(stamp: i64, frame: &str) -> Header {
    let stamp = Stamp((stamp / 1_000_000_000) as i32, (stamp % 1_000_000_000) as u32);
    Header(stamp, frame.into())
}

/// Writes an MCAP bag message by message.
pub struct BagWriter {
    writer: mcap::Writer<std::io::BufWriter<File>>,
    channels: BTreeMap<String, u16>,
}

impl BagWriter {
    pub fn new(path: &Path) -> BagWriter {
        BagWriter::compressing(path, Some(mcap::Compression::Lz4))
    }

    /// `None`: as `ros2 bag record` writes without further options.
    pub fn compressing(path: &Path, compression: Option<mcap::Compression>) -> BagWriter {
        let options = mcap::WriteOptions::new()
            .profile("ros2")
            .compression(compression)
            .chunk_size(Some(1 << 16));
        let writer = options.create(std::io::BufWriter::new(File::create(path).unwrap())).unwrap();
        BagWriter { writer, channels: BTreeMap::new() }
    }

    fn message<T: Serialize>(&mut self, topic: &str, kind: &str, at: i64, value: &T) {
        if !self.channels.contains_key(topic) {
            let schema = self.writer.add_schema(kind, "ros2msg", b"").unwrap();
            let channel = self.writer.add_channel(schema, topic, "cdr", &BTreeMap::new()).unwrap();
            self.channels.insert(topic.to_owned(), channel);
        }
        let mut payload = vec![0, 1, 0, 0];
        payload.extend(cdr_encoding::to_vec::<T, LittleEndian>(value).unwrap());
        let header = mcap::records::MessageHeader {
            channel_id: self.channels[topic],
            sequence: 0,
            log_time: at as u64,
            publish_time: at as u64,
        };
        self.writer.write_to_known_channel(&header, &payload).unwrap();
    }

    pub fn text(&mut self, topic: &str, at: i64, text: &str) {
        self.message(topic, "std_msgs/msg/String", at, &text);
    }

    #[allow(clippy::too_many_arguments)] // the fields of a message
    pub fn image(
        &mut self,
        topic: &str,
        at: i64,
        width: u32,
        height: u32,
        encoding: &str,
        channels: u32,
        data: Vec<u8>,
    ) {
        let header = Header(
            Stamp((at / 1_000_000_000) as i32, (at % 1_000_000_000) as u32),
            "camera".into(),
        );
        self.message(
            topic,
            "sensor_msgs/msg/Image",
            at,
            &RawImage(header, height, width, encoding, 0, width * channels, data),
        );
    }

    /// An image whose stamp is not its log time.
    pub fn image_stamped(
        &mut self,
        topic: &str,
        at: i64,
        stamp: i64,
        (width, height): (u32, u32),
        encoding: &str,
        data: Vec<u8>,
    ) {
        let step = data.len() as u32 / height;
        let image = RawImage(stamped(stamp, "camera"), height, width, encoding, 0, step, data);
        self.message(topic, "sensor_msgs/msg/Image", at, &image);
    }

    pub fn compressed(&mut self, topic: &str, at: i64, format: &str, data: Vec<u8>) {
        let header = Header(
            Stamp((at / 1_000_000_000) as i32, (at % 1_000_000_000) as u32),
            "camera".into(),
        );
        self.message(
            topic,
            "sensor_msgs/msg/CompressedImage",
            at,
            &Compressed(header, format, data),
        );
    }

    pub fn array(&mut self, topic: &str, at: i64, values: &[f64]) {
        self.message(
            topic,
            "std_msgs/msg/Float64MultiArray",
            at,
            &Array(vec![], 0, values.to_vec()),
        );
    }

    pub fn joints(&mut self, topic: &str, at: i64, names: &[&str], positions: &[f64]) {
        let none: [f64; 0] = [];
        let names: Vec<&str> = names.to_vec();
        let joints = (stamped(at, ""), names, positions.to_vec(), none.to_vec(), none.to_vec());
        self.message(topic, "sensor_msgs/msg/JointState", at, &joints);
    }

    pub fn pose(&mut self, topic: &str, at: i64, position: [f64; 3]) {
        let header =
            Header(Stamp((at / 1_000_000_000) as i32, (at % 1_000_000_000) as u32), "base".into());
        self.message(
            topic,
            "geometry_msgs/msg/PoseStamped",
            at,
            &(header, position, [0.0, 0.0, 0.0, 1.0]),
        );
    }

    pub fn twist(&mut self, topic: &str, at: i64, linear: [f64; 3], angular: [f64; 3]) {
        let header =
            Header(Stamp((at / 1_000_000_000) as i32, (at % 1_000_000_000) as u32), "base".into());
        self.message(topic, "geometry_msgs/msg/TwistStamped", at, &(header, linear, angular));
    }

    /// A twist whose stamp is not its log time.
    pub fn twist_stamped(
        &mut self,
        topic: &str,
        at: i64,
        stamp: i64,
        linear: [f64; 3],
        angular: [f64; 3],
    ) {
        let twist = (stamped(stamp, "base"), linear, angular);
        self.message(topic, "geometry_msgs/msg/TwistStamped", at, &twist);
    }

    pub fn number(&mut self, topic: &str, at: i64, value: f64) {
        self.message(topic, "std_msgs/msg/Float64", at, &value);
    }

    pub fn finish(mut self) {
        self.writer.finish().unwrap();
    }
}
