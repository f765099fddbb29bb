//! What an observation of several cameras and a state is made of: the newest of each at the image
//! of the first camera, as in the node, where none may be too old beside the others.

use std::sync::Arc;

use super::EvalError;
use super::frames::encoded_image;
use super::settings::Settings;
use rosbag2_reader::messages::{self, Float64, JointState, PoseStamped};
use rosbag2_reader::{Bag, BagError, Message, Topic};
use vla_config::{StateAssembler, StatePart, StateTopic};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::PolicyInfo;

/// How the state is made, and how old a source may be beside the others.
#[derive(Debug, Clone)]
pub struct ObservationRules {
    /// Parts of the state, from the policy file; empty for a policy without state.
    pub state: Vec<StatePart>,
    /// Longest time between the oldest and the newest source, seconds.
    pub spread_s: f64,
    /// Longest time that a joint's reading holds while messages do not name it, seconds.
    pub hold_s: f64,
}

impl Default for ObservationRules {
    /// Without state; times as in the node.
    fn default() -> Self {
        let control = vla_control::RawControlConfig::default();
        let (spread_s, hold_s) = (control.observation_spread_s, control.state_timeout_s);
        Self { state: Vec::new(), spread_s, hold_s }
    }
}

/// Refuses settings that do not give the policy each of its cameras and its state.
pub fn check(
    info: &PolicyInfo,
    settings: &Settings,
    rules: &ObservationRules,
) -> Result<(), EvalError> {
    let usage = |line: String| Err(EvalError::Usage(line));
    let given: Vec<&str> = settings.cameras.iter().map(|(name, _)| name.as_str()).collect();
    let wanted: Vec<&str> = info.cameras.iter().map(|name| &**name).collect();
    let plain = given.is_empty() && wanted.len() == 1;
    if !plain && given != wanted {
        return usage(format!(
            "the policy needs the cameras {}, given are {}; give --camera NAME=TOPIC for each",
            wanted.join(", "),
            if given.is_empty() { "none by name".to_owned() } else { given.join(", ") }
        ));
    }
    // The state of a dataset's rows is compared with the policy's when it is opened.
    let from_rows = settings.bags.iter().all(|bag| super::rows::locate(bag).is_some());
    let width: usize = rules.state.iter().map(StatePart::width).sum();
    if width != info.state_dim && !from_rows {
        return usage(format!(
            "the policy needs a state of {} numbers, the policy file states {width}; give the \
            --policy-file of this checkpoint",
            info.state_dim
        ));
    }
    let names: Vec<String> = topics(rules).iter().map(|topic| topic.name().to_owned()).collect();
    for (name, _) in &settings.state_topics {
        if !names.contains(name) {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return usage(format!(
                "--state-topic names '{name}'; the policy file's state has the topics {known}"
            ));
        }
    }
    Ok(())
}

fn topics(rules: &ObservationRules) -> Vec<StateTopic> {
    StateAssembler::new(&rules.state, &[], rules.hold_s).topics().to_vec()
}

/// The recorded topics beside the first camera's.
pub struct Sources {
    /// Of the cameras after the first.
    cameras: Vec<(Arc<str>, Topic)>,
    /// By index of the assembler's topics.
    state: Vec<Topic>,
    rules: ObservationRules,
}

impl Sources {
    /// Finds the topics; their types are checked.
    pub fn open(
        bag: &Bag,
        settings: &Settings,
        rules: &ObservationRules,
    ) -> Result<Self, BagError> {
        let images = [messages::IMAGE, messages::COMPRESSED_IMAGE];
        let cameras = settings.cameras.iter().skip(1).map(|(name, topic)| {
            Ok((name.as_str().into(), bag.topic_of_type(topic, &images)?.clone()))
        });
        let state = topics(rules).into_iter().map(|topic| {
            let kind = match topic {
                StateTopic::JointStates => messages::JOINT_STATE,
                StateTopic::EePose => messages::POSE_STAMPED,
                StateTopic::Gripper(_) => messages::FLOAT64,
            };
            let renamed = settings.state_topics.iter().find(|(name, _)| name == topic.name());
            let recorded = match renamed {
                Some((_, recorded)) => recorded.clone(),
                None => format!("/{}", topic.name().trim_start_matches('/')),
            };
            bag.topic_of_type(&recorded, &[kind]).cloned()
        });
        Ok(Self {
            cameras: cameras.collect::<Result<_, _>>()?,
            state: state.collect::<Result<_, _>>()?,
            rules: rules.clone(),
        })
    }

    /// Indices of all topics.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.cameras.iter().map(|(_, topic)| topic.index).chain(self.state.iter().map(|t| t.index))
    }

    /// Nothing received yet.
    pub fn newest(&self) -> Newest<'_> {
        Newest {
            sources: self,
            images: vec![None; self.cameras.len()],
            state: StateAssembler::new(&self.rules.state, &[], self.rules.hold_s),
            state_times: vec![None; self.state.len()],
        }
    }
}

/// Stamp and log time, nanoseconds since the epoch.
#[derive(Debug, Clone, Copy)]
struct Times {
    stamp: Option<i64>,
    log: i64,
}

/// The newest message of each source.
pub struct Newest<'a> {
    sources: &'a Sources,
    images: Vec<Option<(Times, EncodedImage)>>,
    state: StateAssembler,
    state_times: Vec<Option<Times>>,
}

/// Images of the cameras after the first, and the state.
pub type Rest = (Vec<EncodedImage>, Vec<f64>);

/// Why there is no observation: the reason by which frames are counted, and details.
pub type Unfit = (&'static str, String);

fn seconds(log_time: i64) -> f64 {
    log_time as f64 * 1e-9
}

impl Newest<'_> {
    /// Takes a message if it is of one of the sources.
    ///
    /// # Errors
    /// When it is not of its type.
    pub fn take(&mut self, message: &Message) -> Result<(), BagError> {
        let log = message.log_time;
        for (place, (_, topic)) in self.images.iter_mut().zip(&self.sources.cameras) {
            // One topic may serve two cameras.
            if topic.index == message.topic {
                let (stamp, image) = encoded_image(message.clone(), topic)?;
                *place = Some((Times { stamp, log }, image));
            }
        }
        for (index, topic) in self.sources.state.iter().enumerate() {
            if topic.index == message.topic {
                let stamp = self.take_state(index, message, topic)?;
                self.state_times[index] = Some(Times { stamp, log });
            }
        }
        Ok(())
    }

    /// Takes a message of the state; returns its stamp.
    fn take_state(
        &mut self,
        index: usize,
        message: &Message,
        topic: &Topic,
    ) -> Result<Option<i64>, BagError> {
        match self.state.topics()[index] {
            StateTopic::JointStates => {
                let joints: JointState = messages::decode(message, topic)?;
                let at = seconds(message.log_time);
                // A message that contradicts itself is passed over, as in the node.
                let _ =
                    self.state.joint_states(at, &joints.name, &joints.position, &joints.velocity);
                Ok(joints.header.stamp.nanoseconds())
            }
            StateTopic::EePose => {
                let PoseStamped { header, pose } = messages::decode(message, topic)?;
                let (p, q) = (pose.position, pose.orientation);
                self.state.ee_pose([p.x, p.y, p.z], [q.x, q.y, q.z, q.w]);
                Ok(header.stamp.nanoseconds())
            }
            StateTopic::Gripper(_) => {
                let value: Float64 = messages::decode(message, topic)?;
                self.state.gripper(index, value.data);
                Ok(None)
            }
        }
    }

    /// What belongs to an image of the first camera.
    ///
    /// # Errors
    /// When a source has no message yet, or they are too far apart.
    pub fn observation(&self, log: i64, stamp: Option<i64>) -> Result<Rest, Unfit> {
        let missing = |what: &str| ("before every source has a message", what.to_owned());
        let mut times = vec![Times { stamp, log }];
        let mut images = Vec::with_capacity(self.images.len());
        for (newest, (name, _)) in self.images.iter().zip(&self.sources.cameras) {
            let (taken, image) =
                newest.as_ref().ok_or_else(|| missing(&format!("camera {name}")))?;
            times.push(*taken);
            images.push(image.clone());
        }
        for (taken, topic) in self.state_times.iter().zip(self.state.topics()) {
            times.push(taken.ok_or_else(|| missing(topic.name()))?);
        }
        let now = seconds(log);
        let state = self.state.values(now).ok_or_else(|| {
            let incomplete = self.state.topics().iter().find(|t| !self.state.complete(t, now));
            let name = incomplete.map_or("state", StateTopic::name);
            ("incomplete state", format!("{name} lacks values, or they are not finite"))
        })?;
        // A stamp is compared with log times only where a message has none of its own.
        let taken = |times: &Times| times.stamp.unwrap_or(times.log);
        let (oldest, newest) =
            times.iter().fold((i64::MAX, i64::MIN), |(a, b), t| (a.min(taken(t)), b.max(taken(t))));
        let apart = newest.saturating_sub(oldest) as f64 * 1e-9;
        if apart > self.sources.rules.spread_s {
            let limit = self.sources.rules.spread_s;
            let line = format!("its sources are {apart:.3} s apart, at most {limit} s are allowed");
            return Err(("sources too far apart", line));
        }
        Ok((images, state))
    }
}
