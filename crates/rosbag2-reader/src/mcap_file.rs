//! Reads one MCAP file sequentially in bounded memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use mcap::McapError;
use mcap::records::{Record, op};
use mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};
use mcap::sans_io::summary_reader::{SummaryReadEvent, SummaryReader, SummaryReaderOptions};

use super::{BagError, BagWarning, Limits, unpack};

/// Bytes read at once; the parser requests as few as nine.
const READ_AHEAD: usize = 1 << 20;

/// A channel of the file: one publisher's stream on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Channel {
    pub topic: String,
    pub type_name: String,
    pub encoding: String,
}

/// Result of one reading step.
pub(super) enum Step {
    /// A channel record.
    Channel(u16),
    /// A message; the visitor has been called.
    Message,
    /// Another record, or more bytes were read.
    Other,
    /// The end of the file.
    End,
}

/// A file being read.
pub(super) struct McapFile {
    path: PathBuf,
    input: Box<dyn Read + Send>,
    reader: LinearReader,
    schemas: HashMap<u16, String>,
    /// Channels read so far.
    pub channels: HashMap<u16, Channel>,
    messages: u64,
    records: u64,
    /// Why the file ended before its end magic.
    pub warning: Option<BagWarning>,
    limits: Limits,
}

impl McapFile {
    pub fn open(path: &Path, limits: &Limits) -> Result<McapFile, BagError> {
        Ok(McapFile::new(path, unpack::open(path)?, limits))
    }

    /// Reads only the chunks of a plain file that overlap `from..=until`, by the index at its end.
    /// `None` when the file has no such index; then the whole file must be read.
    pub fn open_window(
        path: &Path,
        limits: &Limits,
        from: i64,
        until: i64,
    ) -> Result<Option<McapFile>, BagError> {
        let Ok(summary) = read_summary(path, limits)? else { return Ok(None) };
        let known = summary.stats.as_ref().map(|statistics| u64::from(statistics.chunk_count));
        if summary.chunk_indexes.is_empty() || known != Some(summary.chunk_indexes.len() as u64) {
            return Ok(None);
        }
        let overlaps = |start: u64, end: u64| {
            i64::try_from(start).is_ok_and(|start| start <= until)
                && i64::try_from(end).map_or(true, |end| end >= from)
        };
        let mut ranges: Vec<(u64, u64)> = summary
            .chunk_indexes
            .iter()
            .filter(|chunk| overlaps(chunk.message_start_time, chunk.message_end_time))
            .map(|chunk| (chunk.chunk_start_offset, chunk.chunk_length))
            .collect();
        ranges.sort_unstable();
        let file = File::open(path).map_err(BagError::io("open", path))?;
        let ranges = Ranges { file, left: 0, ranges: ranges.into_iter() };
        let mut window = McapFile::new(path, Box::new(ranges), limits);
        window.reader = LinearReader::new_with_options(
            options(limits).with_skip_start_magic(true).with_skip_end_magic(true),
        );
        window.channels =
            summary.channels.iter().map(|(id, channel)| (*id, Channel::of(channel))).collect();
        Ok(Some(window))
    }

    /// Reads from any source of bytes; `path` is for messages.
    pub fn new(path: &Path, input: Box<dyn Read + Send>, limits: &Limits) -> McapFile {
        McapFile {
            path: path.to_owned(),
            input,
            reader: LinearReader::new_with_options(options(limits)),
            schemas: HashMap::new(),
            channels: HashMap::new(),
            messages: 0,
            records: 0,
            warning: None,
            limits: *limits,
        }
    }

    /// Reads the next record. `visit` gets channel, log time (nanoseconds) and payload of a
    /// message.
    pub fn step(&mut self, visit: &mut dyn FnMut(u16, i64, &[u8])) -> Result<Step, BagError> {
        // A malicious length makes the parser underflow, which panics where overflow is checked.
        // The parser is not used after that.
        let reader = AssertUnwindSafe(&mut self.reader);
        let event = std::panic::catch_unwind(move || {
            let AssertUnwindSafe(reader) = { reader };
            reader.next_event()
        });
        let Ok(event) = event else {
            return Err(self.damaged("a record does not fit into its chunk".to_owned()));
        };
        let Some(event) = event else { return Ok(Step::End) };
        match event {
            Ok(LinearReadEvent::ReadRequest(bytes)) => {
                let room = self.reader.insert(bytes.max(READ_AHEAD));
                let read = match read_some(&mut self.input, room) {
                    Ok(read) => read,
                    // The end of a half-written zstd file.
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return Ok(self.truncated("its zstd frame"));
                    }
                    Err(source) => return Err(BagError::io("read", &self.path)(source)),
                };
                self.reader.notify_read(read);
                Ok(Step::Other)
            }
            Ok(LinearReadEvent::Record { opcode, data }) => {
                self.records += 1;
                match opcode {
                    op::SCHEMA | op::CHANNEL | op::MESSAGE => {}
                    0 => return Ok(self.truncated("zeros follow the last record")),
                    _ => return Ok(Step::Other),
                }
                let record = match mcap::parse_record(opcode, data) {
                    Ok(Record::Message { header, data }) => {
                        let known = self.channels.contains_key(&header.channel_id);
                        return match i64::try_from(header.log_time) {
                            Ok(log_time) if known => {
                                self.messages += 1;
                                visit(header.channel_id, log_time, &data);
                                Ok(Step::Message)
                            }
                            Ok(_) => Err(self.damaged(format!(
                                "a message refers to channel {}, which is not defined",
                                header.channel_id
                            ))),
                            Err(_) => Err(self.damaged(format!(
                                "log time {} ns is out of range",
                                header.log_time
                            ))),
                        };
                    }
                    Ok(record) => record.into_owned(),
                    Err(error) => return Err(self.damaged(describe(&error))),
                };
                self.define(record)
            }
            Err(McapError::UnexpectedEof) => Ok(self.truncated(if self.records == 0 {
                "its first record"
            } else {
                "a chunk, or the end mark"
            })),
            Err(McapError::BadMagic) if self.records > 0 => Ok(self.truncated("its end mark")),
            Err(error) => Err(self.damaged(describe(&error))),
        }
    }

    fn define(&mut self, record: Record<'_>) -> Result<Step, BagError> {
        match record {
            Record::Schema { header, .. } => {
                self.schemas.insert(header.id, header.name);
                Ok(Step::Other)
            }
            Record::Channel(channel) => {
                // Schema 0 means no schema; ROS channels have one.
                let type_name = self.schemas.get(&channel.schema_id).cloned().unwrap_or_default();
                let found =
                    Channel { topic: channel.topic, type_name, encoding: channel.message_encoding };
                match self.channels.get(&channel.id) {
                    Some(known) if *known == found => return Ok(Step::Other),
                    Some(known) => {
                        let what = format!(
                            "channel {} is defined twice, as `{}` and `{}`",
                            channel.id, known.topic, found.topic
                        );
                        return Err(self.damaged(what));
                    }
                    None => {}
                }
                if self.channels.len() >= self.limits.topics {
                    return Err(BagError::TooLarge {
                        path: self.path.clone(),
                        what: "the number of channels",
                        value: self.channels.len() as u64 + 1,
                        limit: self.limits.topics as u64,
                    });
                }
                self.channels.insert(channel.id, found);
                Ok(Step::Channel(channel.id))
            }
            _ => Ok(Step::Other),
        }
    }

    fn truncated(&mut self, what: &'static str) -> Step {
        self.warning =
            Some(BagWarning::Truncated { path: self.path.clone(), what, messages: self.messages });
        Step::End
    }

    fn damaged(&self, what: String) -> BagError {
        BagError::Damaged { path: self.path.clone(), messages: self.messages, what }
    }
}

fn options(limits: &Limits) -> LinearReaderOptions {
    LinearReaderOptions::default()
        .with_validate_chunk_crcs(true)
        .with_record_length_limit(limits.message_bytes)
}

/// Parts of a file as one stream.
struct Ranges {
    file: File,
    left: u64,
    ranges: std::vec::IntoIter<(u64, u64)>,
}

impl Read for Ranges {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let Some((offset, length)) = self.ranges.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(offset))?;
            self.left = length;
        }
        let most = room.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut room[..most])?;
        // An index that points beyond the end of the file ends the stream, not the loop.
        self.left = if read == 0 { 0 } else { self.left - read as u64 };
        Ok(read)
    }
}

impl Channel {
    fn of(channel: &mcap::Channel<'_>) -> Channel {
        Channel {
            topic: channel.topic.clone(),
            type_name: channel
                .schema
                .as_ref()
                .map(|schema| schema.name.clone())
                .unwrap_or_default(),
            encoding: channel.message_encoding.clone(),
        }
    }
}

/// `read` that is retried when a signal interrupts it.
fn read_some(input: &mut dyn Read, room: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match input.read(room) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The library's error with its cause, which its own text omits.
fn describe(error: &McapError) -> String {
    match error {
        McapError::BadMagic => "it does not begin as an MCAP file".to_owned(),
        McapError::Parse(cause) => {
            // binrw prints a backtrace of several lines; the first line with text is used.
            let text = cause.to_string();
            let line =
                text.lines().map(str::trim).find(|line| line.chars().any(char::is_alphabetic));
            format!("a record does not parse ({})", line.unwrap_or("unknown cause"))
        }
        McapError::Io(cause) => format!("a chunk does not decompress ({cause})"),
        other => other.to_string(),
    }
}

/// Topics with their number of messages, if the file states it.
pub(super) type Found = Vec<(Channel, Option<u64>)>;

/// The summary at the end of an uncompressed file, or why it is unusable.
fn read_summary(path: &Path, limits: &Limits) -> Result<Result<mcap::Summary, String>, BagError> {
    let mut file = File::open(path).map_err(BagError::io("open", path))?;
    let size = file.metadata().map_err(BagError::io("read", path))?.len();
    let options = SummaryReaderOptions::default()
        .with_file_size(size)
        .with_record_length_limit(limits.message_bytes);
    let mut reader = SummaryReader::new_with_options(options);
    while let Some(event) = reader.next_event() {
        match event {
            Ok(SummaryReadEvent::ReadRequest(bytes)) => {
                let read = file.read(reader.insert(bytes)).map_err(BagError::io("read", path))?;
                reader.notify_read(read);
            }
            Ok(SummaryReadEvent::SeekRequest(to)) => {
                let at = file.seek(to).map_err(BagError::io("read", path))?;
                reader.notify_seeked(at);
            }
            Err(error) => return Ok(Err(describe(&error))),
        }
    }
    Ok(reader.finish().ok_or_else(|| "the file has none".to_owned()))
}

/// Topics from the summary at the end of an uncompressed file. The inner error: why the file must
/// be read in full instead.
pub(super) fn summary(path: &Path, limits: &Limits) -> Result<Result<Found, String>, BagError> {
    let summary = match read_summary(path, limits)? {
        Ok(summary) => summary,
        Err(what) => return Ok(Err(what)),
    };
    let Some(statistics) = summary.stats else { return Ok(Err("it has no statistics".to_owned())) };
    if summary.channels.is_empty() && statistics.message_count > 0 {
        return Ok(Err("it has no channels".to_owned()));
    }
    let mut found = Found::new();
    // Sorted: the map's order is random, but a topic's index must be the same at every opening.
    let mut channels: Vec<_> = summary.channels.iter().collect();
    channels.sort_by_key(|(id, _)| **id);
    for (id, channel) in channels {
        found.push((
            Channel::of(channel),
            Some(statistics.channel_message_counts.get(id).copied().unwrap_or(0)),
        ));
    }
    Ok(Ok(found))
}

/// Topics by reading the whole file, for files that are unfinished or compressed as a whole.
pub(super) fn scan(path: &Path, limits: &Limits) -> Result<(Found, Option<BagWarning>), BagError> {
    let mut file = McapFile::open(path, limits)?;
    let mut counts: HashMap<u16, u64> = HashMap::new();
    loop {
        match file.step(&mut |channel, _, _| *counts.entry(channel).or_default() += 1) {
            Ok(Step::End) => break,
            Ok(_) => {}
            // Damage after the first channel is reported when the messages are read.
            Err(BagError::Damaged { .. }) if !file.channels.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    let mut channels: Vec<_> = file.channels.into_iter().collect();
    channels.sort_by_key(|(id, _)| *id);
    let found = channels
        .into_iter()
        .map(|(id, channel)| (channel, Some(counts.get(&id).copied().unwrap_or(0))));
    Ok((found.collect(), file.warning))
}
