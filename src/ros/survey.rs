//! Observes the topics that the node would use, for `openvla doctor`: rate, encoding, QoS, distance
//! of the stamps to now, publishers. Subscribes as the node does; publishes nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use r2r::{
    QosProfile,
    geometry_msgs::msg::PoseStamped,
    qos::{DurabilityPolicy, ReliabilityPolicy},
    rosgraph_msgs::msg::Clock as ClockMessage,
    sensor_msgs::msg::{CompressedImage, Image, JointState},
    std_msgs::msg::Float64,
};

use super::{
    ImageTransport, NodeError, ResolvedConfig,
    commands::type_name,
    inbox::{Inbox, subscribe},
    messages,
    names::Names,
    qos::SensorQos,
    topics::{Publisher, Role, Watched, look},
};
use vla_config::{CommandTopics, Remark, StateAssembler, StateTopic};
use vla_control::time::Stamp;
use vla_inference::observation::EncodedImage;

/// The node that is stood in for.
const NODE: &str = "/vla";
/// Its own name.
const DOCTOR: &str = "openvla_doctor";
/// Longest wait for messages in one turn.
const TURN: Duration = Duration::from_millis(5);
/// Longest wait for another node before topics are observed. Fast DDS repeats the announcement of a
/// participant every 3 s, so that after a lost first one nothing is known for as long.
const DISCOVERY: Duration = Duration::from_secs(4);
/// A stamp so far in the future is another clock's, not jitter, seconds.
const FUTURE_S: f64 = 0.1;

/// How a topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As the node needs it.
    Ok,
    /// The node runs, but not well.
    Warning,
    /// The node cannot use it.
    Error,
}

/// What was found out about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What the topic is for.
    pub purpose: String,
    /// How it is.
    pub verdict: Verdict,
    /// Topic, rate, content, publishers.
    pub value: String,
    /// What to do, unless it is in order.
    pub remedy: String,
}

impl Finding {
    fn new(purpose: &str, verdict: Verdict, value: String, remedy: &str) -> Self {
        Self { purpose: purpose.to_owned(), verdict, value, remedy: remedy.to_owned() }
    }
}

enum Messages {
    Raw(Inbox<Image>),
    Compressed(Inbox<CompressedImage>),
    Joints(Inbox<JointState>),
    Pose(Inbox<PoseStamped>),
    Float(Inbox<Float64>),
}

/// A topic that is subscribed to, and what came from it.
struct Observed {
    watched: Watched,
    messages: Messages,
    /// Oldest stamp that the node accepts, seconds.
    timeout_s: f64,
    /// Rate that the policy needs, Hz.
    wanted_hz: f64,
    count: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Smallest and largest age of a stamp, seconds.
    ages: Option<(f64, f64)>,
    /// What the first message holds.
    content: String,
    /// Why the first message is of no use.
    refused: Option<String>,
}

/// What the observation was made with.
struct Survey {
    config: ResolvedConfig,
    /// Of all joints, those of the state and those commanded.
    assembler: StateAssembler,
    observed: Vec<Observed>,
    /// Simulated time, when the node uses it.
    clock: Option<Inbox<ClockMessage>>,
    clock_time: Option<Stamp>,
    started: Instant,
}

/// Observes for `period` the topics of a node with these arguments.
///
/// # Errors
/// Arguments that the node would refuse, and errors of ROS.
pub fn survey(arguments: &[String], period: Duration) -> Result<Vec<Finding>, NodeError> {
    let (config, remarks) = ResolvedConfig::read(arguments, NODE)?;
    let context = super::arguments::context().map_err(NodeError::Arguments)?;
    let mut ros = r2r::Node::create(context, DOCTOR, "")
        .map_err(|error| NodeError::Ros { what: "the node", error })?;
    let names = Names::new(NODE, arguments.iter().cloned());
    let mut survey = Survey::create(&mut ros, config, &names)?;
    while survey.started.elapsed() < DISCOVERY && is_alone(&ros) {
        ros.spin_once(TURN);
        survey.take();
    }
    let end = Instant::now() + period;
    while Instant::now() < end {
        ros.spin_once(TURN);
        survey.take();
    }
    let mut findings: Vec<Finding> = remarks.into_iter().filter_map(remark).collect();
    findings.extend(survey.without_clock());
    findings.extend(survey.observed.iter().map(|topic| survey.finding(&ros, topic, period)));
    findings.extend(survey.joints());
    findings.extend(survey.commands(&ros, &names));
    Ok(findings)
}

/// Whether no other node publishes anything yet that is known here.
fn is_alone(node: &r2r::Node) -> bool {
    let by_another = |topic: &str| {
        let publishers = node.get_publishers_info_by_topic(topic, false).unwrap_or_default();
        publishers.iter().any(|publisher| publisher.node_name != DOCTOR)
    };
    let topics = node.get_topic_names_and_types().unwrap_or_default();
    !topics.keys().any(|topic| by_another(topic))
}

/// A warning about the configuration.
fn remark(remark: Remark) -> Option<Finding> {
    match remark {
        Remark::Info(_) => None,
        Remark::Warning(text) => {
            Some(Finding::new("configuration", Verdict::Warning, text, "correct the parameters"))
        }
    }
}

impl Survey {
    fn create(
        ros: &mut r2r::Node,
        config: ResolvedConfig,
        names: &Names,
    ) -> Result<Self, NodeError> {
        let assembler = config.state_assembler();
        let mut sensor = SensorQos::new(names, config.qos_overrides());
        let mut observed = Vec::new();
        let mut add = |purpose: &str, topic: &str, kind, role, qos: QosProfile, messages| {
            let state = !purpose.starts_with("camera");
            let (topic, purpose) = (names.resolve(topic), purpose.to_owned());
            observed.push(Observed {
                watched: Watched { purpose, topic, type_name: kind, role, qos },
                messages,
                timeout_s: match state {
                    true => config.raw_control.state_timeout_s,
                    false => config.raw_control.observation_timeout_s,
                },
                wanted_hz: config.policy_hz,
                count: 0,
                first: None,
                last: None,
                ages: None,
                content: String::new(),
                refused: None,
            });
        };
        for camera in &config.cameras {
            let purpose = match config.cameras.len() {
                1 => "camera".to_owned(),
                _ => format!("camera {}", camera.name),
            };
            let (topic, kind) = match config.image_transport {
                ImageTransport::Raw => (camera.topic.clone(), "sensor_msgs/msg/Image"),
                ImageTransport::Compressed => {
                    (format!("{}/compressed", camera.topic), "sensor_msgs/msg/CompressedImage")
                }
            };
            let qos = sensor.of(&topic);
            // r2r has none of this node's remappings: names are resolved here.
            let full = names.resolve(&topic);
            let messages = match config.image_transport {
                ImageTransport::Raw => Messages::Raw(subscribe(ros, &full, qos.clone())?),
                ImageTransport::Compressed => {
                    Messages::Compressed(subscribe(ros, &full, qos.clone())?)
                }
            };
            add(&purpose, &topic, kind, Role::Input, qos, messages);
        }
        let topics = assembler.topics().to_vec();
        if !config.joints.is_empty() || topics.contains(&StateTopic::JointStates) {
            let qos = sensor.of("joint_states");
            let inbox = subscribe(ros, &names.resolve("joint_states"), qos.clone())?;
            let (kind, role) = ("sensor_msgs/msg/JointState", Role::SharedInput);
            add("joint states", "joint_states", kind, role, qos, Messages::Joints(inbox));
        }
        if config.control.needs_ee_pose() || topics.contains(&StateTopic::EePose) {
            let qos = sensor.of("ee_pose");
            let inbox = subscribe(ros, &names.resolve("ee_pose"), qos.clone())?;
            let kind = "geometry_msgs/msg/PoseStamped";
            add("end-effector pose", "ee_pose", kind, Role::Input, qos, Messages::Pose(inbox));
        }
        for topic in topics.iter().filter(|topic| matches!(topic, StateTopic::Gripper(_))) {
            let qos = sensor.of(topic.name());
            let inbox = subscribe(ros, &names.resolve(topic.name()), qos.clone())?;
            let kind = "std_msgs/msg/Float64";
            add("gripper state", topic.name(), kind, Role::Input, qos, Messages::Float(inbox));
        }
        let clock_qos = QosProfile::default().keep_last(1).best_effort();
        let clock = config.use_sim_time.then(|| subscribe(ros, "/clock", clock_qos)).transpose()?;
        let started = Instant::now();
        Ok(Self { config, assembler, observed, clock, clock_time: None, started })
    }

    /// Takes what has arrived.
    fn take(&mut self) {
        while let Some(message) = self.clock.as_mut().and_then(Inbox::next) {
            self.clock_time = Some(messages::stamp(&message.clock));
        }
        let simulated = self.clock.is_some();
        let now = if simulated { self.clock_time } else { system_time() };
        let at = self.started.elapsed().as_secs_f64();
        for topic in &mut self.observed {
            while let Some(stamp) = topic.next(&mut self.assembler, at) {
                topic.arrived(stamp, now);
            }
        }
    }

    fn without_clock(&self) -> Option<Finding> {
        (self.clock.is_some() && self.clock_time.is_none()).then(|| {
            Finding::new(
                "simulated time",
                Verdict::Error,
                "use_sim_time is true, but /clock brings no time".to_owned(),
                "start the simulator, or set use_sim_time to false",
            )
        })
    }

    fn finding(&self, ros: &r2r::Node, topic: &Observed, period: Duration) -> Finding {
        let watched = &topic.watched;
        let (publishers, problem) = look(ros, watched);
        // Several drivers may share joint_states; none is a problem all the same.
        let required = Watched { role: Role::Input, ..watched.clone() };
        let absent = || look(ros, &required).1.filter(|_| publishers.is_empty());
        if let Some(problem) = problem.or_else(absent) {
            let text = problem.text;
            let text = text.strip_prefix(&format!("{}: ", watched.purpose)).unwrap_or(&text);
            let (found, remedy) = text.split_once("; ").unwrap_or((text, "correct the publisher"));
            let found = match topic.count {
                0 => found.to_owned(),
                _ => format!("{found}; {}", topic.summary(&publishers)),
            };
            return Finding::new(&watched.purpose, Verdict::Error, found, remedy);
        }
        topic.judged(&publishers, period)
    }

    /// Joints that no message named, although the publishers are there.
    fn joints(&self) -> Option<Finding> {
        let now = self.started.elapsed().as_secs_f64();
        let joints =
            self.observed.iter().find(|topic| matches!(topic.messages, Messages::Joints(_)))?;
        let unknown = |name: &&String| !self.assembler.position(name, now).is_finite();
        let missing: Vec<&str> =
            self.config.joints.iter().filter(unknown).map(String::as_str).collect();
        let state = !self.assembler.complete(&StateTopic::JointStates, now);
        if joints.count == 0 || (missing.is_empty() && !state) {
            return None;
        }
        let value = match missing.as_slice() {
            [] => {
                "messages arrive, but not every joint of the policy's state is in them".to_owned()
            }
            missing => format!("no position of {}", missing.join(", ")),
        };
        let remedy = "correct the names in the robot file or policy file, or start the driver \
            that publishes them";
        Some(Finding::new("joints", Verdict::Error, value, remedy))
    }

    /// The robot's command topics: what is there besides the node.
    fn commands(&self, ros: &r2r::Node, names: &Names) -> Vec<Finding> {
        let CommandTopics { output, command, grippers } = &self.config.command_topics;
        let known = ros.get_topic_names_and_types().unwrap_or_default();
        let topics = [("command", command, type_name(*output))].into_iter();
        let grippers = grippers.iter().map(|topic| ("gripper command", topic, FLOAT));
        topics
            .chain(grippers)
            .map(|(purpose, topic, kind)| {
                let topic = names.resolve(topic);
                let types = known.get(&topic).map_or(&[][..], Vec::as_slice);
                let qos = QosProfile::default();
                let (role, type_name) = (Role::Output, kind);
                let watched =
                    Watched { purpose: purpose.into(), topic: topic.clone(), type_name, role, qos };
                let publishers = look(ros, &watched).0;
                let (verdict, value, remedy) = commanded(&topic, kind, types, &publishers);
                Finding::new(purpose, verdict, value, remedy)
            })
            .collect()
    }
}

const FLOAT: &str = "std_msgs/msg/Float64";

/// What a command topic's entries in the graph say.
fn commanded(
    topic: &str,
    kind: &str,
    types: &[String],
    publishers: &[Publisher],
) -> (Verdict, String, &'static str) {
    let nodes: Vec<&str> = publishers.iter().map(|publisher| publisher.node.as_str()).collect();
    if let Some(other) = types.iter().find(|name| *name != kind) {
        let remedy = "correct command.output or the topic in the robot file";
        return (Verdict::Error, format!("{topic} is {other}, not {kind}"), remedy);
    }
    match nodes.as_slice() {
        _ if types.is_empty() => (
            Verdict::Warning,
            format!("{topic}: no node subscribes"),
            "start the robot's driver, or correct the topic in the robot file",
        ),
        [] => (Verdict::Ok, format!("{topic}: subscribed, no other publisher"), ""),
        [one] => (
            Verdict::Warning,
            format!("{topic}: published by {one}"),
            "right if that is this node at work; else stop it: only the node may command",
        ),
        several => (
            Verdict::Error,
            format!("{topic}: published by {}", several.join(", ")),
            "only one node may command the robot: stop the others",
        ),
    }
}

impl Observed {
    /// Takes a message; `Some` when there was one, with its stamp if it has any.
    fn next(&mut self, assembler: &mut StateAssembler, at: f64) -> Option<Option<Stamp>> {
        let first = self.count == 0;
        match &mut self.messages {
            Messages::Raw(inbox) => {
                let (stamp, image) = messages::camera_image(inbox.next()?);
                self.image(first, &image);
                Some(Some(stamp))
            }
            Messages::Compressed(inbox) => {
                let (stamp, image) = messages::compressed_image(inbox.next()?);
                self.image(first, &image);
                Some(Some(stamp))
            }
            Messages::Joints(inbox) => {
                let JointState { header, name, position, velocity, .. } = inbox.next()?;
                let taken = assembler.joint_states(at, &name, &position, &velocity);
                if let (true, Err(error)) = (self.refused.is_none(), taken) {
                    self.refused = Some(error.to_string());
                }
                if first {
                    self.content = format!("{} joints", name.len());
                }
                Some(Some(messages::stamp(&header.stamp)))
            }
            Messages::Pose(inbox) => {
                let message = inbox.next()?;
                if first {
                    self.content = format!("in frame '{}'", message.header.frame_id);
                }
                Some(Some(messages::stamp(&message.header.stamp)))
            }
            Messages::Float(inbox) => {
                let message = inbox.next()?;
                self.content = format!("now {}", message.data);
                Some(None)
            }
        }
    }

    fn image(&mut self, first: bool, image: &EncodedImage) {
        if !first {
            return;
        }
        self.content = match image {
            EncodedImage::Raw { width, height, encoding, .. } => {
                format!("{width}x{height} {encoding}")
            }
            EncodedImage::Compressed { format, data } => {
                format!("compressed '{format}', {} bytes", data.len())
            }
        };
        // Decoding says whether the node can use it.
        self.refused = image.decode().err().map(|error| error.to_string());
    }

    fn arrived(&mut self, stamp: Option<Stamp>, now: Option<Stamp>) {
        self.count += 1;
        let at = Instant::now();
        self.first.get_or_insert(at);
        self.last = Some(at);
        if let (Some(stamp), Some(now)) = (stamp, now) {
            let age = now.seconds_since(stamp);
            let (low, high) = self.ages.unwrap_or((age, age));
            self.ages = Some((low.min(age), high.max(age)));
        }
    }

    /// Messages per second between the first and the last.
    fn rate(&self) -> Option<f64> {
        let seconds = self.last?.duration_since(self.first?).as_secs_f64();
        (1 < self.count && 0.0 < seconds).then(|| (self.count - 1) as f64 / seconds)
    }

    /// Topic, content, rate, ages, publishers.
    fn summary(&self, publishers: &[Publisher]) -> String {
        let mut parts = vec![self.watched.topic.clone(), self.content.clone()];
        parts.push(match self.rate() {
            Some(hz) => format!("{hz:.1} Hz"),
            None => format!("{} messages", self.count),
        });
        if let Some((low, high)) = self.ages {
            parts.push(format!("stamps {low:.3}..{high:.3} s old"));
        }
        let nodes = publishers.iter().map(|publisher| {
            let reliability = match publisher.qos.reliability {
                ReliabilityPolicy::Reliable => "reliable",
                _ => "best effort",
            };
            let latched = matches!(publisher.qos.durability, DurabilityPolicy::TransientLocal);
            format!("{} ({reliability}{})", publisher.node, if latched { ", latched" } else { "" })
        });
        parts.push(format!("from {}", nodes.collect::<Vec<_>>().join(", ")));
        parts.retain(|part| !part.is_empty());
        parts.join(", ")
    }

    /// The judgement of a topic on which the graph shows no mistake.
    fn judged(&self, publishers: &[Publisher], period: Duration) -> Finding {
        let purpose = &self.watched.purpose;
        let summary = self.summary(publishers);
        let found = |verdict, remedy: &str| Finding::new(purpose, verdict, summary.clone(), remedy);
        if self.count == 0 {
            let nodes: Vec<&str> = publishers.iter().map(|p| p.node.as_str()).collect();
            let value = format!(
                "{}: no message of {} in {:.0} s",
                self.watched.topic,
                nodes.join(", "),
                period.as_secs_f64()
            );
            let remedy = "look for errors of the driver; of raw images all may be lost without \
                the Fast DDS profile";
            return Finding::new(purpose, Verdict::Error, value, remedy);
        }
        if let Some(reason) = &self.refused {
            return found(Verdict::Error, reason);
        }
        if let Some((low, high)) = self.ages {
            if self.timeout_s < high {
                let remedy = format!(
                    "stamps over {} s are refused: synchronise the clocks (chrony), let the \
                    driver stamp with its own time of capture, or see what delays it",
                    self.timeout_s
                );
                return found(Verdict::Error, &remedy);
            }
            if low < -FUTURE_S {
                return found(Verdict::Error, "stamps in the future: synchronise the clocks");
            }
        }
        match self.rate() {
            None => found(Verdict::Warning, "a single message: the driver is to publish steadily"),
            Some(hz) if hz < 0.9 * self.wanted_hz => {
                let remedy = format!("the policy runs at {} Hz", self.wanted_hz);
                found(Verdict::Warning, &format!("{remedy}: raise the rate of the driver"))
            }
            Some(_) => found(Verdict::Ok, ""),
        }
    }
}

/// The system's time as a stamp.
fn system_time() -> Option<Stamp> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(Stamp::from_ros(i32::try_from(now.as_secs()).ok()?, now.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher(node: &str) -> Publisher {
        let qos = QosProfile::sensor_data();
        Publisher { node: node.into(), type_name: FLOAT.into(), qos }
    }

    #[test]
    fn command_topics_are_judged_by_who_is_there() {
        let of = |types: &[&str], nodes: &[&str]| {
            let types: Vec<String> = types.iter().map(|name| (*name).to_owned()).collect();
            let publishers: Vec<Publisher> = nodes.iter().map(|node| publisher(node)).collect();
            commanded("/gripper", FLOAT, &types, &publishers)
        };
        assert_eq!(of(&[FLOAT], &[]).0, Verdict::Ok);
        let (verdict, value, _) = of(&[], &[]);
        assert!(verdict == Verdict::Warning && value.contains("no node subscribes"), "{value}");
        let (verdict, value, _) = of(&[FLOAT], &["/vla"]);
        assert!(verdict == Verdict::Warning && value.contains("/vla"), "{value}");
        let (verdict, value, _) = of(&[FLOAT], &["/vla", "/joy"]);
        assert!(verdict == Verdict::Error && value.contains("/vla, /joy"), "{value}");
        let (verdict, value, _) = of(&["std_msgs/msg/String"], &[]);
        assert!(verdict == Verdict::Error && value.contains("not std_msgs/msg/Float64"), "{value}");
    }
}
