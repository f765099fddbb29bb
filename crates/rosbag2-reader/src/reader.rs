//! Iterates over the messages of a bag.

use std::collections::HashMap;

use super::discover::{Bag, BagFile, Kind, Topic};
use super::mcap_file::{Channel, McapFile, Step};
use super::messages::canonical_type;
use super::order::Order;
use super::sqlite_file::{self, SqliteFile};
use super::{BagError, BagWarning, Limits, unpack};

/// Which messages to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Indices in [`Bag::topics`].
    pub topics: Vec<usize>,
    /// Earliest log time, nanoseconds since the epoch.
    pub from: i64,
    /// Latest log time, nanoseconds since the epoch, inclusive.
    pub until: i64,
}

impl Selection {
    /// All messages of the topics with these indices in [`Bag::topics`].
    pub fn topics(topics: impl IntoIterator<Item = usize>) -> Selection {
        Selection { topics: topics.into_iter().collect(), from: i64::MIN, until: i64::MAX }
    }

    /// Only messages with a log time in `from..=until`, nanoseconds since the epoch.
    pub fn between(mut self, from: i64, until: i64) -> Selection {
        (self.from, self.until) = (from, until);
        self
    }
}

/// A serialized message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Index of the topic in [`Bag::topics`].
    pub topic: usize,
    /// When the recorder received it, nanoseconds since the epoch.
    pub log_time: i64,
    /// CDR with its header of four bytes, decompressed.
    pub payload: Vec<u8>,
}

/// The file being read.
enum Open {
    Mcap {
        file: Box<McapFile>,
        /// Channel to topic; `None` for channels that are not selected.
        topics: HashMap<u16, Option<usize>>,
    },
    Sqlite {
        file: SqliteFile,
        /// Row identifier of the topic to topic.
        topics: HashMap<i64, usize>,
    },
}

/// An iterator over messages. After an error it ends, with everything before the damage delivered.
pub struct Messages {
    path: std::path::PathBuf,
    files: std::vec::IntoIter<BagFile>,
    topics: Vec<Topic>,
    selection: Selection,
    limits: Limits,
    open: Option<Open>,
    order: Order,
    failure: Option<BagError>,
    exhausted: bool,
    warnings: Vec<BagWarning>,
    read: u64,
    expected: Option<u64>,
}

impl Messages {
    pub(super) fn new(bag: &Bag, selection: &Selection) -> Result<Messages, BagError> {
        // Only the count of a bag read in full can be compared with the metadata.
        let all = selection.from == i64::MIN
            && selection.until == i64::MAX
            && selection.topics.len() == bag.topics().len();
        Ok(Messages {
            path: bag.path().to_owned(),
            files: bag.files.clone().into_iter(),
            topics: bag.topics().to_vec(),
            selection: selection.clone(),
            limits: bag.limits,
            open: None,
            order: Order::new(&bag.limits),
            failure: None,
            exhausted: false,
            warnings: bag.warnings().to_vec(),
            read: 0,
            expected: bag.stated.filter(|_| all),
        })
    }

    /// Warnings so far; complete once the iterator has ended.
    pub fn warnings(&self) -> &[BagWarning] {
        &self.warnings
    }

    /// Reads one message from storage into the sorting window. `false` at the end.
    fn fill(&mut self) -> Result<bool, BagError> {
        loop {
            let Some(open) = self.open.as_mut() else {
                let Some(file) = self.files.next() else { return Ok(false) };
                self.open = Some(self.open_file(&file)?);
                continue;
            };
            let message = match open {
                Open::Mcap { file, topics } => {
                    let selection = &self.selection;
                    let mut found = None;
                    let step = file.step(&mut |channel, log_time, payload| {
                        let wanted = topics.get(&channel).copied().flatten();
                        if let Some(topic) = wanted
                            .filter(|_| (selection.from..=selection.until).contains(&log_time))
                        {
                            found = Some(Message { topic, log_time, payload: payload.to_vec() });
                        }
                    })?;
                    match step {
                        Step::Channel(id) => {
                            let wanted = file
                                .channels
                                .get(&id)
                                .and_then(|channel| wanted(&self.topics, selection, channel));
                            topics.insert(id, wanted);
                        }
                        Step::End => {
                            self.warnings.extend(file.warning.take());
                            self.open = None;
                        }
                        Step::Message | Step::Other => {}
                    }
                    found
                }
                Open::Sqlite { file, topics } => match file.next() {
                    Some(row) => {
                        let row = row?;
                        topics.get(&row.topic).map(|&topic| Message {
                            topic,
                            log_time: row.log_time,
                            payload: row.payload,
                        })
                    }
                    None => {
                        self.open = None;
                        None
                    }
                },
            };
            if let Some(message) = message {
                let message = self.decompressed(message)?;
                self.read += 1;
                self.order.push(message);
                return Ok(true);
            }
        }
    }

    fn open_file(&self, file: &BagFile) -> Result<Open, BagError> {
        match file.kind {
            Kind::Mcap => {
                let Selection { from, until, .. } = self.selection;
                let window = match (from, until) {
                    (i64::MIN, i64::MAX) => None,
                    _ if file.is_packed() => None,
                    _ => McapFile::open_window(&file.path, &self.limits, from, until)?,
                };
                let open = match window {
                    Some(window) => window,
                    None => McapFile::open(&file.path, &self.limits)?,
                };
                let topics = open
                    .channels
                    .iter()
                    .map(|(id, channel)| (*id, wanted(&self.topics, &self.selection, channel)));
                Ok(Open::Mcap { topics: topics.collect(), file: Box::new(open) })
            }
            Kind::Sqlite => {
                let (found, rows) =
                    sqlite_file::topics(file.readable(), &file.path, &self.limits, false)?;
                let mut topics = HashMap::new();
                for ((channel, _), row) in found.iter().zip(rows) {
                    let known = self.topics.iter().find(|topic| topic.name == channel.topic);
                    if let Some(topic) =
                        known.filter(|topic| self.selection.topics.contains(&topic.index))
                    {
                        topics.insert(row, topic.index);
                    }
                }
                let rows = topics.keys().copied().collect();
                let Selection { from, until, .. } = self.selection;
                let file =
                    SqliteFile::open(file.readable(), &file.path, &self.limits, rows, from, until)?;
                Ok(Open::Sqlite { file, topics })
            }
        }
    }

    /// Decompresses a message. The zstd frame itself is recognised, as metadata may be missing.
    fn decompressed(&self, mut message: Message) -> Result<Message, BagError> {
        if unpack::is_zstd(&message.payload) {
            message.payload =
                unpack::message(&message.payload, self.limits.message_bytes).map_err(|what| {
                    BagError::Damaged { path: self.path.clone(), messages: self.read, what }
                })?;
        }
        Ok(message)
    }

    /// Adds the warnings that need the whole bag; a second call adds nothing.
    fn finish(&mut self) {
        let disorder = std::mem::take(&mut self.order.disorder);
        if disorder.count > 0 {
            self.warnings.push(BagWarning::Unsorted {
                path: self.path.clone(),
                count: disorder.count,
                first_ns: disorder.first_ns,
                worst_ms: disorder.worst_ns / 1_000_000,
            });
        }
        let stated = self.expected.take();
        if let Some(stated) = stated.filter(|stated| *stated != self.read && self.failure.is_none())
        {
            self.warnings.push(BagWarning::CountDiffers {
                path: self.path.clone(),
                stated,
                found: self.read,
            });
        }
    }
}

/// The topic of a channel, if it is selected.
fn wanted(topics: &[Topic], selection: &Selection, channel: &Channel) -> Option<usize> {
    let kind = canonical_type(&channel.type_name);
    let topic =
        topics.iter().find(|topic| topic.name == channel.topic && topic.type_name == kind)?;
    Some(topic.index).filter(|index| selection.topics.contains(index))
}

impl Iterator for Messages {
    type Item = Result<Message, BagError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(message) = self.order.pop_ready() {
                return Some(Ok(message));
            }
            if self.exhausted {
                return match self.order.pop() {
                    Some(message) => Some(Ok(message)),
                    None => {
                        self.finish();
                        self.failure.take().map(Err)
                    }
                };
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => self.exhausted = true,
                Err(error) => {
                    self.failure = Some(error);
                    self.exhausted = true;
                }
            }
        }
    }
}
