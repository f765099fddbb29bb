//! `openvla replay`: publishes a bag's messages, at the recorded rate or another, with `/clock` on
//! request.
//!
//! Payloads are published byte for byte as they were recorded, without decoding. Without a list of
//! topics only observations are published: replaying a recorded command would move a robot.
//! The first image of each topic is looked at: what the node will refuse, or what the image says
//! about itself, is noted once.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use r2r::{PublisherUntyped, QosProfile, rosgraph_msgs::msg::Clock};

use super::{NodeError, arguments::context, inbox::publish, messages::time, signals::StopSignals};
use rosbag2_reader::{Bag, BagError, Message, Selection, Topic, messages};
use vla_control::time::Stamp;
use vla_eval::encoded_image;
use vla_inference::observation::Place;

/// Longest sleep, and thereby the longest delay until a signal takes effect.
const NAP: Duration = Duration::from_millis(20);
/// How long the node stays after the last message, so that reliable messages are delivered.
const LINGER: Duration = Duration::from_millis(500);

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Bag folder or file.
    pub bag: PathBuf,
    /// Seconds of the recording per second; positive.
    pub rate: f64,
    /// Topics to publish, as recorded; empty: every observation.
    pub topics: Vec<String>,
    /// Recorded topic that becomes `image`, or `image/compressed` when its type is
    /// `CompressedImage`.
    pub image_topic: Option<String>,
    /// Recorded topic that becomes `instruction`.
    pub instruction_topic: Option<String>,
    /// Recorded topic and the name to publish it under.
    pub remaps: Vec<(String, String)>,
    /// Rate of `/clock` on the machine's clock, Hz; `None`: no `/clock`.
    pub clock_hz: Option<f64>,
    /// Begin again at the end. Time then jumps back.
    pub repeat: bool,
    /// Longest wait for subscribers of images and texts before the first message.
    pub wait: Duration,
}

/// What was replayed.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Recorded topic, published topic, messages.
    pub topics: Vec<(String, String, u64)>,
    /// From the first to the last message, seconds on the machine's clock.
    pub seconds: f64,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

/// Errors that end a replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The bag cannot be read.
    #[error(transparent)]
    Bag(#[from] BagError),
    /// An error of rcl.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A selected topic cannot be published.
    #[error("topic `{topic}` cannot be published as `{name}` ({type_name}): {error}")]
    Topic {
        /// As recorded.
        topic: String,
        /// As it was to be published.
        name: String,
        /// Its type.
        type_name: String,
        /// The error of rcl or r2r.
        error: r2r::Error,
    },
    /// Nothing would be published.
    #[error("{bag} has no observation to replay; name topics with --topics, it has: {available}")]
    Nothing {
        /// The bag.
        bag: PathBuf,
        /// Topics and types.
        available: String,
    },
    /// A payload without a valid encapsulation header.
    #[error("message at {log_time} ns on `{topic}` is not CDR; everything before it was published")]
    Payload {
        /// The topic.
        topic: String,
        /// Log time, nanoseconds since the epoch.
        log_time: i64,
    },
}

/// A topic and its publisher.
struct Outlet {
    index: usize,
    recorded: String,
    name: String,
    /// The topic while its first image is to be looked at.
    unseen: Option<Topic>,
    /// Whether replay waits for its subscriber.
    awaited: bool,
    publisher: PublisherUntyped,
    sent: u64,
}

impl Outlet {
    fn create(
        ros: &mut r2r::Node,
        options: &ReplayOptions,
        topic: &Topic,
    ) -> Result<Self, ReplayError> {
        let name = published_name(options, topic);
        let publisher = ros
            .create_publisher_untyped(&name, &topic.type_name, quality(topic))
            .map_err(|error| ReplayError::Topic {
                topic: topic.name.clone(),
                name: name.clone(),
                type_name: topic.type_name.clone(),
                error,
            })?;
        let awaited = [messages::IMAGE, messages::COMPRESSED_IMAGE, messages::STRING]
            .contains(&&*topic.type_name);
        let images = [messages::IMAGE, messages::COMPRESSED_IMAGE].contains(&&*topic.type_name);
        let unseen = images.then(|| topic.clone());
        let (index, recorded) = (topic.index, topic.name.clone());
        Ok(Self { index, recorded, name, unseen, awaited, publisher, sent: 0 })
    }
}

/// Types of observations and instructions. Others may command a robot.
fn is_observation(type_name: &str) -> bool {
    type_name.starts_with("sensor_msgs/msg/")
        || [messages::STRING, messages::POSE_STAMPED].contains(&type_name)
}

/// The name under which a recorded topic is published.
fn published_name(options: &ReplayOptions, topic: &Topic) -> String {
    if let Some((_, name)) = options.remaps.iter().find(|(from, _)| *from == topic.name) {
        name.clone()
    } else if options.image_topic.as_deref() == Some(&topic.name) {
        if topic.type_name == messages::COMPRESSED_IMAGE { "image/compressed" } else { "image" }
            .to_owned()
    } else if options.instruction_topic.as_deref() == Some(&topic.name) {
        "instruction".to_owned()
    } else {
        topic.name.clone()
    }
}

/// The topics to publish; a name that the bag lacks or a type that does not fit is an error that
/// lists what exists.
fn chosen<'a>(bag: &'a Bag, options: &ReplayOptions) -> Result<Vec<&'a Topic>, BagError> {
    if let Some(name) = &options.image_topic {
        bag.topic_of_type(name, &[messages::IMAGE, messages::COMPRESSED_IMAGE])?;
    }
    if let Some(name) = &options.instruction_topic {
        bag.topic_of_type(name, &[messages::STRING])?;
    }
    for (name, _) in &options.remaps {
        bag.topic(name)?;
    }
    if options.topics.is_empty() {
        // A topic that is renamed is selected.
        let renamed = |topic: &Topic| options.remaps.iter().any(|(from, _)| *from == topic.name);
        let wanted = |topic: &&Topic| {
            topic.encoding == "cdr" && (is_observation(&topic.type_name) || renamed(topic))
        };
        return Ok(bag.topics().iter().filter(wanted).collect());
    }
    let named = options.topics.iter().chain(&options.image_topic).chain(&options.instruction_topic);
    let mut topics = Vec::new();
    for name in named {
        let kind = bag.topic(name)?.type_name.clone();
        topics.push(bag.topic_of_type(name, &[&kind])?);
    }
    topics.sort_by_key(|topic| topic.index);
    topics.dedup_by_key(|topic| topic.index);
    Ok(topics)
}

/// QoS of a publisher. Reliable matches every subscriber; texts are latched for late subscribers.
fn quality(topic: &Topic) -> QosProfile {
    if topic.type_name == messages::STRING {
        QosProfile::default().keep_last(1).reliable().transient_local()
    } else {
        QosProfile::default().keep_last(10).reliable()
    }
}

/// Maps recorded time to machine time.
struct PlaybackClock {
    begun: Instant,
    first_ns: i64,
    rate: f64,
}

impl PlaybackClock {
    /// Time until a message with this log time is due; zero when it is late.
    fn left(&self, log_time: i64) -> Duration {
        let due_s = log_time.saturating_sub(self.first_ns) as f64 * 1e-9 / self.rate;
        let left_s = (due_s - self.begun.elapsed().as_secs_f64()).clamp(0.0, 1e6);
        Duration::from_secs_f64(left_s)
    }

    /// Recorded time now, nanoseconds since the epoch.
    #[allow(clippy::cast_possible_truncation)] // A float beyond i64 becomes its nearest end.
    fn now_ns(&self) -> i64 {
        let passed = self.begun.elapsed().as_nanos() as f64 * self.rate;
        self.first_ns.saturating_add(passed as i64)
    }
}

/// Publisher of `/clock`.
struct ClockOutlet {
    publisher: r2r::Publisher<Clock>,
    period: Duration,
    next: Instant,
}

impl ClockOutlet {
    fn create(ros: &mut r2r::Node, hz: f64) -> Result<Self, NodeError> {
        Ok(Self {
            publisher: publish(ros, "/clock", QosProfile::default().keep_last(1).reliable())?,
            period: Duration::from_secs_f64(1.0 / hz.clamp(1.0, 1000.0)),
            next: Instant::now(),
        })
    }

    fn tick(&mut self, ns: i64) -> Result<(), NodeError> {
        self.next = Instant::now() + self.period;
        let message = Clock { clock: time(Stamp::from_nanoseconds(ns)) };
        self.publisher
            .publish(&message)
            .map_err(|error| NodeError::Ros { what: "a message on /clock", error })
    }
}

/// Sleeps, ticking the clock, until a message is due. `false` when a signal came.
fn wait_for(
    playback: &PlaybackClock,
    log_time: i64,
    clock: &mut Option<ClockOutlet>,
    stop: &AtomicBool,
) -> Result<bool, NodeError> {
    loop {
        if stop.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut left = playback.left(log_time);
        if left.is_zero() {
            return Ok(true);
        }
        if let Some(clock) = clock {
            let now = Instant::now();
            if clock.next <= now {
                // Not beyond the message, which would otherwise be late for its subscribers.
                clock.tick(playback.now_ns().min(log_time))?;
            }
            left = left.min(clock.next.saturating_duration_since(now));
        }
        sleep(left.min(NAP));
    }
}

/// Publishes the bag until its end or a signal. `note` receives messages for the user, one line
/// each.
///
/// # Errors
/// A bag that cannot be read, a topic that it lacks, and errors of rcl.
pub fn replay(
    options: &ReplayOptions,
    note: &mut dyn FnMut(&str),
) -> Result<Replayed, ReplayError> {
    let bag = Bag::open(&options.bag)?;
    bag.warnings().iter().for_each(|warning| note(&warning.to_string()));
    let topics = selected(&bag, options, note)?;
    let context = context().map_err(NodeError::Arguments)?;
    let mut ros = r2r::Node::create(context, "replay", "")
        .map_err(|error| NodeError::Ros { what: "the node", error })?;
    let stop = StopSignals::install().map_err(NodeError::Threads)?;
    let mut outlets = Vec::new();
    for topic in topics {
        outlets.push(Outlet::create(&mut ros, options, topic)?);
    }
    let clock = options.clock_hz.map(|hz| ClockOutlet::create(&mut ros, hz)).transpose()?;
    await_subscribers(&outlets, options.wait, stop.flag(), note);

    let begun = Instant::now();
    let mut player = Player { bag: &bag, outlets, clock, stop: stop.flag(), last: begun };
    let mut interrupted = false;
    loop {
        let before = player.sent();
        interrupted |= !player.play(options.rate, note)?;
        // A pass without a message would be repeated at full speed for ever.
        if interrupted || !options.repeat || player.sent() == before {
            break;
        }
    }
    let seconds = player.last.duration_since(begun).as_secs_f64();
    let topics = player.outlets.into_iter();
    let topics = topics.map(|outlet| (outlet.recorded, outlet.name, outlet.sent)).collect();
    Ok(Replayed { topics, seconds, interrupted })
}

/// The topics to publish; reports those left out.
fn selected<'a>(
    bag: &'a Bag,
    options: &ReplayOptions,
    note: &mut dyn FnMut(&str),
) -> Result<Vec<&'a Topic>, ReplayError> {
    let topics = chosen(bag, options)?;
    let left_out: Vec<_> = bag
        .topics()
        .iter()
        .filter(|topic| topics.iter().all(|chosen| chosen.index != topic.index))
        .collect();
    if topics.is_empty() {
        let available = left_out
            .iter()
            .map(|topic| format!("{} ({})", topic.name, topic.type_name))
            .collect::<Vec<_>>();
        return Err(ReplayError::Nothing {
            bag: options.bag.clone(),
            available: available.join(", "),
        });
    }
    if options.topics.is_empty() && !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(|topic| topic.name.as_str()).collect();
        note(&format!(
            "left out, as they are no observations (--topics publishes them): {}",
            names.join(", ")
        ));
    }
    Ok(topics)
}

/// Plays a bag on its outlets.
struct Player<'a> {
    bag: &'a Bag,
    outlets: Vec<Outlet>,
    clock: Option<ClockOutlet>,
    stop: &'a AtomicBool,
    /// Time of the last message sent.
    last: Instant,
}

impl Player<'_> {
    fn sent(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.sent).sum()
    }

    /// Plays the bag once; `false` when a signal came.
    fn play(&mut self, rate: f64, note: &mut dyn FnMut(&str)) -> Result<bool, ReplayError> {
        let selection = Selection::topics(self.outlets.iter().map(|outlet| outlet.index));
        let mut stream = self.bag.messages(&selection)?;
        let mut playback: Option<PlaybackClock> = None;
        for message in &mut stream {
            let message = message?;
            let playback = playback.get_or_insert_with(|| PlaybackClock {
                begun: Instant::now(),
                first_ns: message.log_time,
                rate,
            });
            if !wait_for(playback, message.log_time, &mut self.clock, self.stop)? {
                return Ok(false);
            }
            if let Some(clock) = &mut self.clock {
                // Also for a message that is late the clock has reached its time.
                clock.tick(playback.now_ns().max(message.log_time))?;
            }
            send(&mut self.outlets, &message)?;
            look(&mut self.outlets, message, note);
            self.last = Instant::now();
        }
        let warnings = stream.warnings().iter().skip(self.bag.warnings().len());
        warnings.for_each(|warning| note(&warning.to_string()));
        match &playback {
            Some(playback) => self.linger(playback.now_ns()),
            None => Ok(true),
        }
    }

    /// Waits until the last messages have been delivered; `false` when a signal came.
    fn linger(&mut self, end_ns: i64) -> Result<bool, ReplayError> {
        let tail = PlaybackClock { begun: Instant::now(), first_ns: end_ns, rate: 1.0 };
        let linger_ns = i64::try_from(LINGER.as_nanos()).unwrap_or(0);
        Ok(wait_for(&tail, end_ns.saturating_add(linger_ns), &mut self.clock, self.stop)?)
    }
}

/// Publishes a message on its topic.
fn send(outlets: &mut [Outlet], message: &Message) -> Result<(), ReplayError> {
    let Some(outlet) = outlets.iter_mut().find(|outlet| outlet.index == message.topic) else {
        return Ok(());
    };
    // Representation identifiers of plain CDR, big and little endian; the middleware trusts them.
    if !matches!(message.payload.as_slice(), [0, 0 | 1, _, _, ..]) {
        return Err(ReplayError::Payload {
            topic: outlet.recorded.clone(),
            log_time: message.log_time,
        });
    }
    outlet
        .publisher
        .publish_raw(&message.payload)
        .map_err(|error| NodeError::Ros { what: "a message", error })?;
    outlet.sent += 1;
    Ok(())
}

/// Notes what is wrong with the first image of a topic, or remarkable about it. After it was
/// published: decoding takes time.
fn look(outlets: &mut [Outlet], message: Message, note: &mut dyn FnMut(&str)) {
    let Some(topic) = outlets
        .iter_mut()
        .find(|outlet| outlet.index == message.topic)
        .and_then(|outlet| outlet.unseen.take())
    else {
        return;
    };
    if let Some(line) = about(message, &topic) {
        note(&line);
    }
}

/// What there is to say about an image message.
fn about(message: Message, topic: &Topic) -> Option<String> {
    let image = match encoded_image(message, topic) {
        Ok((_, image)) => image,
        Err(error) => return Some(error.to_string()),
    };
    match image.decode() {
        Err(error) => {
            Some(format!("{}: the node refuses this: {}", topic.name, error.at(Place::Recording)))
        }
        Ok(_) => image.remark().map(|remark| format!("{}: {remark}", topic.name)),
    }
}

/// Waits until images and texts have subscribers, so that they miss nothing.
fn await_subscribers(
    outlets: &[Outlet],
    patience: Duration,
    stop: &AtomicBool,
    note: &mut dyn FnMut(&str),
) {
    let begun = Instant::now();
    let lonely = |outlet: &&Outlet| {
        outlet.awaited
            && outlet
                .publisher
                .get_inter_process_subscription_count()
                .is_ok_and(|subscribers| subscribers == 0)
    };
    while outlets.iter().any(|outlet| lonely(&outlet))
        && begun.elapsed() < patience
        && !stop.load(Ordering::Acquire)
    {
        sleep(NAP);
    }
    let names: Vec<_> = outlets.iter().filter(lonely).map(|outlet| outlet.name.as_str()).collect();
    if !names.is_empty() && !patience.is_zero() {
        note(&format!(
            "no subscriber to {} after {} s; replaying",
            names.join(", "),
            patience.as_secs_f64()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_image_is_looked_at() {
        let image = |encoding: &str| {
            let mut payload = vec![0, 1, 0, 0];
            let words = |payload: &mut Vec<u8>, values: &[u32]| {
                values.iter().for_each(|v| payload.extend(v.to_le_bytes()));
            };
            words(&mut payload, &[1, 0, 1, 0, 1, 2]); // stamp, empty frame, height, width
            words(&mut payload, &[encoding.len() as u32 + 1]);
            payload.extend(encoding.bytes().chain([0, 0]));
            while !(payload.len() - 4).is_multiple_of(4) {
                payload.push(0);
            }
            words(&mut payload, &[6, 6]);
            payload.extend([7; 6]);
            Message { topic: 0, log_time: 0, payload }
        };
        let topic = Topic {
            index: 0,
            name: "/camera".into(),
            type_name: messages::IMAGE.into(),
            encoding: "cdr".into(),
            messages: None,
        };
        assert_eq!(about(image("rgb8"), &topic), None);
        let line = about(image("16UC1"), &topic).unwrap_or_default();
        assert!(line.starts_with("/camera: the node refuses this: this is a depth"), "{line}");
    }

    #[test]
    fn commands_are_no_observations() {
        for kind in [
            messages::IMAGE,
            messages::COMPRESSED_IMAGE,
            messages::STRING,
            messages::JOINT_STATE,
            messages::POSE_STAMPED,
        ] {
            assert!(is_observation(kind), "{kind}");
        }
        for kind in [
            messages::TWIST_STAMPED,
            messages::FLOAT64,
            messages::FLOAT64_MULTI_ARRAY,
            messages::ACTION,
            messages::STATUS,
        ] {
            assert!(!is_observation(kind), "{kind}");
        }
    }

    #[test]
    fn the_pace_holds_for_any_stamp() {
        let playback = PlaybackClock { begun: Instant::now(), first_ns: 0, rate: 0.5 };
        let left = playback.left(1_000_000_000).as_secs_f64();
        assert!((1.9..=2.0).contains(&left), "one recorded second takes two: {left}");
        assert_eq!(playback.left(i64::MIN), Duration::ZERO);
        assert!(playback.left(i64::MAX) > Duration::from_secs(1000));
        assert!((0..1_000_000_000).contains(&playback.now_ns()));
        assert_eq!(PlaybackClock { first_ns: i64::MAX, ..playback }.now_ns(), i64::MAX);
    }
}
