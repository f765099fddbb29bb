//! The frames of a bag, read ahead of the policy on a thread of their own.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use super::EvalError;
use super::recorded::{ActionKind, ActionSpace, Track};
use super::settings::Settings;
use rosbag2_reader::messages::{self, CompressedImage, Image, Text};
use rosbag2_reader::{Bag, BagError, Message, Selection, Topic};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::Instruction;

/// Types that a topic of images may have.
const IMAGES: [&str; 2] = [messages::IMAGE, messages::COMPRESSED_IMAGE];

/// A frame as it was recorded.
pub struct Frame {
    /// Which image of the topic, counted from 0.
    pub number: u64,
    /// Log time, nanoseconds since the epoch.
    pub log_time: i64,
    /// Header stamp, nanoseconds since the epoch.
    pub stamp: Option<i64>,
    /// The image, not decoded yet.
    pub image: EncodedImage,
    /// The instruction that was in force.
    pub instruction: Instruction,
}

/// An episode: a bag with its topics checked.
pub struct Episode {
    /// The bag.
    pub bag: Bag,
    image: Topic,
    instruction: Option<Topic>,
    action: Option<Topic>,
    gripper: Option<Topic>,
    fixed: Option<Instruction>,
}

/// What reading an episode to its end has brought, besides frames.
pub struct Ending {
    /// Images on the topic.
    pub images: u64,
    /// Images of this run's share that were not evaluated, by reason: how many, and the first with
    /// its details.
    pub skipped: BTreeMap<&'static str, (u64, String)>,
    /// The recorded actions.
    pub track: Option<Track>,
    /// What should be known.
    pub warnings: Vec<String>,
    /// Why the bag ended early.
    pub failure: Option<BagError>,
}

impl Ending {
    /// Counts an image that is not evaluated, and keeps the first of its kind.
    pub fn skip(&mut self, number: u64, reason: &'static str, detail: &str) {
        let entry =
            self.skipped.entry(reason).or_insert_with(|| (0, format!("frame {number}: {detail}")));
        entry.0 += 1;
    }
}

impl Episode {
    /// Opens a bag and checks that it has what the settings ask for.
    pub fn open(path: &std::path::Path, settings: &Settings) -> Result<Episode, EvalError> {
        let bag = Bag::open(path)?;
        let find = |name: &Option<String>, types: &[&str]| -> Result<Option<Topic>, BagError> {
            name.as_ref().map(|name| bag.topic_of_type(name, types).cloned()).transpose()
        };
        let image = bag.topic_of_type(&settings.image_topic, &IMAGES)?.clone();
        let instruction = find(&settings.instruction_topic, &[messages::STRING])?;
        let action = find(&settings.action_topic, &ActionKind::TYPES)?;
        let gripper = find(&settings.gripper_topic, &[messages::FLOAT64])?;
        let fixed = settings.instruction.as_deref().map(Instruction::new).transpose()?;
        if fixed.is_none() && instruction.is_none() {
            return Err(EvalError::Usage(
                "no instruction: pass --instruction TEXT or --instruction-topic T".to_owned(),
            ));
        }
        Ok(Episode { bag, image, instruction, action, gripper, fixed })
    }

    /// Images on the topic, where the bag says so.
    pub fn images(&self) -> Option<u64> {
        self.image.messages
    }

    /// How the recorded actions are written down.
    pub fn action_kind(&self) -> Option<ActionKind> {
        self.action.as_ref().and_then(ActionKind::of)
    }

    /// An empty track for the recorded actions.
    pub fn track(&self, space: &ActionSpace) -> Result<Option<Track>, EvalError> {
        self.action_kind().map(|kind| Track::new(kind, space.clone())).transpose()
    }

    /// Reads the bag to its end, or until `send` returns false. Frames whose number is in `done`
    /// are not decoded.
    pub fn read(
        &self,
        index: usize,
        settings: &Settings,
        track: Option<Track>,
        done: &HashSet<u64>,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Ending {
        let mut ending = Ending {
            images: 0,
            skipped: BTreeMap::new(),
            track,
            warnings: Vec::new(),
            failure: None,
        };
        let mut reader = Reader { episode: self, index, settings, done, held: None };
        let topics = [
            Some(&self.image),
            self.instruction.as_ref(),
            self.action.as_ref(),
            self.gripper.as_ref(),
        ];
        let mut stream = match self
            .bag
            .messages(&Selection::topics(topics.into_iter().flatten().map(|topic| topic.index)))
        {
            Ok(stream) => stream,
            Err(error) => {
                ending.failure = Some(error);
                return ending;
            }
        };
        for message in stream.by_ref() {
            let taken = message.and_then(|message| reader.take(message, &mut ending, send));
            match taken {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    ending.failure = Some(error);
                    break;
                }
            }
        }
        ending.warnings = stream.warnings().iter().map(ToString::to_string).collect();
        if let Some((count, values)) =
            ending.track.as_ref().map(|track| track.misfits).filter(|(count, _)| *count > 0)
        {
            let (path, topic) =
                (self.bag.path().display(), settings.action_topic.as_deref().unwrap_or_default());
            let wanted = settings.policy.action_dim;
            ending.warnings.push(format!(
                "{path}: {count} messages on {topic} do not have \
                {wanted} values (the first has {values}); they are left out"
            ));
        }
        ending
    }
}

struct Reader<'a> {
    episode: &'a Episode,
    index: usize,
    settings: &'a Settings,
    done: &'a HashSet<u64>,
    /// The newest recorded instruction, or why it is none.
    held: Option<Result<Instruction, String>>,
}

impl Reader<'_> {
    fn take(
        &mut self,
        message: Message,
        ending: &mut Ending,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Result<bool, BagError> {
        let is = |topic: &Option<Topic>| {
            topic.as_ref().filter(|topic| topic.index == message.topic).cloned()
        };
        if message.topic == self.episode.image.index {
            return self.image(message, ending, send);
        }
        if let Some(topic) = is(&self.episode.instruction) {
            let text: Text = messages::decode(&message, &topic)?;
            self.held = Some(Instruction::new(&text.data).map_err(|error| error.to_string()));
        }
        if let (Some(topic), Some(track)) = (is(&self.episode.action), ending.track.as_mut()) {
            track.push(&self.episode.bag, &message, &topic)?;
        }
        if let (Some(topic), Some(track)) = (is(&self.episode.gripper), ending.track.as_mut()) {
            track.push_gripper(&message, &topic)?;
        }
        Ok(true)
    }

    fn image(
        &mut self,
        message: Message,
        ending: &mut Ending,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Result<bool, BagError> {
        let number = ending.images;
        ending.images += 1;
        if !self.settings.takes(self.index, number) || self.done.contains(&number) {
            return Ok(true);
        }
        let mut skip = |reason, detail: String| ending.skip(number, reason, &detail);
        let instruction = match (&self.episode.fixed, &self.held) {
            (Some(fixed), _) => fixed.clone(),
            (None, Some(Ok(held))) => held.clone(),
            (None, Some(Err(error))) => {
                skip("unfit instruction", error.clone());
                return Ok(true);
            }
            (None, None) => {
                skip("before the first instruction", String::new());
                return Ok(true);
            }
        };
        let log_time = message.log_time;
        let (stamp, image) = encoded_image(message, &self.episode.image)?;
        Ok(send(Frame { number, log_time, stamp, image, instruction }))
    }
}

/// An image message: its stamp, and its bytes without a copy.
pub fn encoded_image(
    message: Message,
    topic: &Topic,
) -> Result<(Option<i64>, EncodedImage), BagError> {
    // The decoder borrows the image's bytes from the payload. Their offset in it is kept, so that
    // the bytes are not copied.
    let place =
        |part: &[u8]| match part.as_ptr().addr().checked_sub(message.payload.as_ptr().addr()) {
            Some(at) if !part.is_empty() => at..at + part.len(),
            _ => 0..0,
        };
    if topic.type_name == messages::COMPRESSED_IMAGE {
        let image: CompressedImage = messages::decode(&message, topic)?;
        let (stamp, range) = (image.header.stamp.nanoseconds(), place(image.data));
        let data = Bytes::from(message.payload).slice(range);
        return Ok((stamp, EncodedImage::Compressed(data)));
    }
    let image: Image = messages::decode(&message, topic)?;
    let (stamp, range) = (image.header.stamp.nanoseconds(), place(image.data));
    let Image { width, height, encoding, step, .. } = image;
    let data = Bytes::from(message.payload).slice(range);
    Ok((stamp, EncodedImage::Raw { width, height, encoding, step, data }))
}
