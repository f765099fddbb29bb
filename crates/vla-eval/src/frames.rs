//! Reading the frames of a bag: images with the instruction in force, and the recorded actions.
//! What is read of an episode of either kind: [`Frame`], [`ReadResult`].

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use bytes::Bytes;

use super::EvalError;
use super::clock::StampLog;
use super::recorded::{ActionKind, Track};
use super::settings::Settings;
use super::sources::{Newest, ObservationRules, Sources};
use rosbag2_reader::messages::{self, CompressedImage, Image, Text};
use rosbag2_reader::{Bag, BagError, Message, Selection, Topic};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::{Instruction, InstructionRemark};

/// Types of an image topic.
const IMAGE_TYPES: [&str; 2] = [messages::IMAGE, messages::COMPRESSED_IMAGE];

/// Most warnings of one bag about its instructions.
const MAX_REMARKS: usize = 32;

/// One image of a bag.
pub struct Frame {
    /// Number of the image on its topic, from 0.
    pub number: u64,
    /// Log time, nanoseconds since the epoch.
    pub log_time: i64,
    /// Header stamp, nanoseconds since the epoch.
    pub stamp: Option<i64>,
    /// The image of each camera, not yet decoded; the first is the one numbered.
    pub images: Vec<EncodedImage>,
    /// The state in the policy's order; empty for a policy without.
    pub state: Vec<f64>,
    /// The instruction in force.
    pub instruction: Instruction,
}

/// A bag whose topics have been checked.
pub struct BagEpisode {
    /// The bag.
    pub bag: Bag,
    image: Topic,
    instruction: Option<Topic>,
    action: Option<Topic>,
    gripper: Option<Topic>,
    sources: Sources,
    /// The instruction of the settings, which replaces the recorded one.
    fixed_instruction: Option<Instruction>,
}

/// Result of reading an episode, besides its frames.
pub struct ReadResult {
    /// Images on the topic.
    pub images: u64,
    /// Images of this run's shard that were not evaluated, by reason: their number, and details of
    /// the first.
    pub skipped: BTreeMap<&'static str, (u64, String)>,
    /// Stamps of all images on the topic.
    pub stamps: StampLog,
    /// The recorded actions.
    pub track: Option<Track>,
    /// Warnings about the bag.
    pub warnings: Vec<String>,
    /// Why reading ended early.
    pub failure: Option<EvalError>,
}

impl ReadResult {
    /// Of an episode from which nothing was read yet.
    pub fn new(track: Option<Track>) -> ReadResult {
        ReadResult {
            images: 0,
            skipped: BTreeMap::new(),
            stamps: StampLog::default(),
            track,
            warnings: Vec::new(),
            failure: None,
        }
    }

    /// Warns of what is remarkable about an instruction, of each remark once.
    pub fn remark(&mut self, episode: &Path, remarks: &[InstructionRemark]) {
        for remark in remarks {
            let line = format!("{}: {remark}", episode.display());
            if self.warnings.len() < MAX_REMARKS && !self.warnings.contains(&line) {
                self.warnings.push(line);
            }
        }
    }

    /// Counts an image that is not evaluated, and keeps the details of the first per reason.
    pub fn skip(&mut self, number: u64, reason: &'static str, detail: &str) {
        let entry =
            self.skipped.entry(reason).or_insert_with(|| (0, format!("frame {number}: {detail}")));
        entry.0 += 1;
    }
}

impl BagEpisode {
    /// Opens a bag and checks that it has the topics of the settings with accepted types.
    pub fn open(
        path: &Path,
        settings: &Settings,
        rules: &ObservationRules,
    ) -> Result<BagEpisode, EvalError> {
        let bag = Bag::open(path)?;
        let find = |name: &Option<String>, types: &[&str]| -> Result<Option<Topic>, BagError> {
            name.as_ref().map(|name| bag.topic_of_type(name, types).cloned()).transpose()
        };
        let image = bag.topic_of_type(&settings.image_topic, &IMAGE_TYPES)?.clone();
        let instruction = find(&settings.instruction_topic, &[messages::STRING])?;
        let action = find(&settings.action_topic, &ActionKind::TYPES)?;
        let gripper = find(&settings.gripper_topic, &[messages::FLOAT64])?;
        let fixed_instruction =
            settings.instruction.as_deref().map(Instruction::new).transpose()?;
        if fixed_instruction.is_none() && instruction.is_none() {
            return Err(EvalError::Usage(
                "no instruction: pass --instruction TEXT or --instruction-topic T".to_owned(),
            ));
        }
        let sources = Sources::open(&bag, settings, rules)?;
        Ok(BagEpisode { bag, image, instruction, action, gripper, sources, fixed_instruction })
    }

    /// Number of images on the topic, if the bag states it.
    pub fn images(&self) -> Option<u64> {
        self.image.messages
    }

    /// Type of the recorded actions.
    pub fn action_kind(&self) -> Option<ActionKind> {
        self.action.as_ref().and_then(ActionKind::of)
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
    ) -> ReadResult {
        let mut result = ReadResult::new(track);
        if let Some(Ok((_, remarks))) = settings.instruction.as_deref().map(Instruction::read) {
            result.remark(self.bag.path(), &remarks);
        }
        let newest = self.sources.newest();
        let mut reader =
            Reader { episode: self, index, settings, done, current_instruction: None, newest };
        let topics = [
            Some(&self.image),
            self.instruction.as_ref(),
            self.action.as_ref(),
            self.gripper.as_ref(),
        ];
        let mut indices: Vec<usize> = topics
            .into_iter()
            .flatten()
            .map(|topic| topic.index)
            .chain(self.sources.indices())
            .collect();
        indices.sort_unstable();
        indices.dedup();
        let mut stream = match self.bag.messages(&Selection::topics(indices)) {
            Ok(stream) => stream,
            Err(error) => {
                result.failure = Some(error.into());
                return result;
            }
        };
        for message in stream.by_ref() {
            let taken = message.and_then(|message| reader.take(message, &mut result, send));
            match taken {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    result.failure = Some(error.into());
                    break;
                }
            }
        }
        result.warnings.extend(stream.warnings().iter().map(ToString::to_string));
        if let Some((count, values)) =
            result.track.as_ref().map(|track| track.wrong_size).filter(|(count, _)| *count > 0)
        {
            let (path, topic) =
                (self.bag.path().display(), settings.action_topic.as_deref().unwrap_or_default());
            let wanted = settings.policy.action_dim;
            result.warnings.push(format!(
                "{path}: {count} messages on {topic} do not have \
                {wanted} values (the first has {values}); they are left out"
            ));
        }
        result
    }
}

struct Reader<'a> {
    episode: &'a BagEpisode,
    index: usize,
    settings: &'a Settings,
    done: &'a HashSet<u64>,
    /// The newest recorded instruction, or why it is not valid.
    current_instruction: Option<Result<Instruction, String>>,
    newest: Newest<'a>,
}

impl Reader<'_> {
    fn take(
        &mut self,
        message: Message,
        result: &mut ReadResult,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Result<bool, BagError> {
        let selected = |topic: &Option<Topic>| {
            topic.as_ref().filter(|topic| topic.index == message.topic).cloned()
        };
        self.newest.take(&message)?;
        if message.topic == self.episode.image.index {
            return self.image(message, result, send);
        }
        if let Some(topic) = selected(&self.episode.instruction) {
            let text: Text = messages::decode(&message, &topic)?;
            self.current_instruction = Some(match Instruction::read(&text.data) {
                Ok((instruction, remarks)) => {
                    result.remark(self.episode.bag.path(), &remarks);
                    Ok(instruction)
                }
                Err(error) => Err(error.to_string()),
            });
        }
        if let (Some(topic), Some(track)) = (selected(&self.episode.action), result.track.as_mut())
        {
            track.push(&self.episode.bag, &message, &topic)?;
        }
        if let (Some(topic), Some(track)) = (selected(&self.episode.gripper), result.track.as_mut())
        {
            track.push_gripper(&message, &topic)?;
        }
        Ok(true)
    }

    fn image(
        &mut self,
        message: Message,
        result: &mut ReadResult,
        send: &mut dyn FnMut(Frame) -> bool,
    ) -> Result<bool, BagError> {
        let number = result.images;
        result.images += 1;
        result.stamps.add(message.log_time, messages::leading_stamp(&message.payload));
        if !self.settings.takes(self.index, number) || self.done.contains(&number) {
            return Ok(true);
        }
        let mut skip = |reason, detail: String| result.skip(number, reason, &detail);
        let stamp = messages::leading_stamp(&message.payload);
        let (rest, state) = match self.newest.observation(message.log_time, stamp) {
            Ok(rest) => rest,
            Err((reason, detail)) => {
                skip(reason, detail);
                return Ok(true);
            }
        };
        let instruction = match (&self.episode.fixed_instruction, &self.current_instruction) {
            (Some(fixed), _) => fixed.clone(),
            (None, Some(Ok(current))) => current.clone(),
            (None, Some(Err(error))) => {
                skip("invalid instruction", error.clone());
                return Ok(true);
            }
            (None, None) => {
                skip("before the first instruction", String::new());
                return Ok(true);
            }
        };
        let log_time = message.log_time;
        let (stamp, image) = encoded_image(message, &self.episode.image)?;
        let images = std::iter::once(image).chain(rest).collect();
        Ok(send(Frame { number, log_time, stamp, images, state, instruction }))
    }
}

/// Stamp and image of an image message; the image's bytes are not copied.
pub fn encoded_image(
    message: Message,
    topic: &Topic,
) -> Result<(Option<i64>, EncodedImage), BagError> {
    // The decoder borrows the image's bytes from the payload; their range in it is kept.
    let range_of =
        |part: &[u8]| match part.as_ptr().addr().checked_sub(message.payload.as_ptr().addr()) {
            Some(at) if !part.is_empty() => at..at + part.len(),
            _ => 0..0,
        };
    if topic.type_name == messages::COMPRESSED_IMAGE {
        let image: CompressedImage = messages::decode(&message, topic)?;
        let (stamp, range) = (image.header.stamp.nanoseconds(), range_of(image.data));
        let format = image.format;
        let data = Bytes::from(message.payload).slice(range);
        return Ok((stamp, EncodedImage::Compressed { format, data }));
    }
    let image: Image = messages::decode(&message, topic)?;
    let (stamp, range) = (image.header.stamp.nanoseconds(), range_of(image.data));
    let Image { width, height, encoding, step, .. } = image;
    let data = Bytes::from(message.payload).slice(range);
    Ok((stamp, EncodedImage::Raw { width, height, encoding, step, data }))
}
