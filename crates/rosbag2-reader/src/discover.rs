//! Opens a bag: finds its files, topics and types.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::mcap_file::{self, Found, McapFile};
use super::messages::canonical_type;
use super::metadata::Metadata;
use super::recover::{self, Beside};
use super::{BagError, BagWarning, Limits, Messages, Selection, sniff, sqlite_file, unpack};

/// Number of topics that an error message lists.
const LISTED: usize = 40;

/// A topic of a bag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Index in [`Bag::topics`].
    pub index: usize,
    /// Name, as recorded.
    pub name: String,
    /// Type as `package/msg/Name`.
    pub type_name: String,
    /// Serialization of its messages; only `cdr` can be decoded.
    pub encoding: String,
    /// Number of messages, if the bag states it.
    pub messages: Option<u64>,
}

/// Storage formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Mcap,
    Sqlite,
}

/// One file of a bag.
#[derive(Debug, Clone)]
pub(super) struct BagFile {
    pub path: PathBuf,
    pub kind: Kind,
    /// The decompressed copy of a compressed sqlite file, or the restored copy of one with a
    /// journal.
    pub unpacked: Option<Arc<tempfile::TempPath>>,
}

impl BagFile {
    fn new(path: PathBuf) -> Option<BagFile> {
        let name = path.file_name()?.to_str()?;
        let plain = name.strip_suffix(".zstd").unwrap_or(name);
        let kind = match Path::new(plain).extension()?.to_str()? {
            "mcap" => Kind::Mcap,
            "db3" => Kind::Sqlite,
            _ => return None,
        };
        Some(BagFile { path, kind, unpacked: None })
    }

    pub fn is_packed(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "zstd")
    }

    /// Path of the decompressed storage file.
    pub fn readable(&self) -> &Path {
        self.unpacked.as_ref().map_or(self.path.as_path(), |temporary| temporary)
    }
}

/// Identity of a file version: name, size and modification time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// File name without the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Modification time, nanoseconds since the epoch, if the file system has it.
    pub modified_ns: Option<u64>,
}

/// A recording: a folder of files with the same topics, or a single file.
#[derive(Debug, Clone)]
pub struct Bag {
    path: PathBuf,
    pub(super) files: Vec<BagFile>,
    topics: Vec<Topic>,
    warnings: Vec<BagWarning>,
    pub(super) limits: Limits,
    /// Number of messages stated by `metadata.yaml`.
    pub(super) stated: Option<u64>,
}

impl Bag {
    /// Opens a bag folder or a single `.mcap`, `.db3`, `.mcap.zstd` or `.db3.zstd` file.
    pub fn open(path: impl AsRef<Path>) -> Result<Bag, BagError> {
        Bag::open_with(path, Limits::default())
    }

    /// [`Bag::open`] with other limits.
    pub fn open_with(path: impl AsRef<Path>, limits: Limits) -> Result<Bag, BagError> {
        let path = path.as_ref();
        let kind = std::fs::metadata(path).map_err(BagError::io("open", path))?;
        let (mut files, metadata, mut warnings) = match kind.is_dir() {
            true => folder(path, &limits)?,
            false => (single(path)?, None, Vec::new()),
        };
        for file in &mut files {
            let size =
                std::fs::metadata(&file.path).map_err(BagError::io("open", &file.path))?.len();
            if size == 0 {
                return Err(BagError::Empty { path: file.path.clone(), what: "0 bytes" });
            }
            // What a file is decides, not its name.
            if !file.is_packed() {
                if let Some(found) = sniff::foreign(&file.path) {
                    let (path, found) = (file.path.clone(), found.to_owned());
                    return Err(BagError::NotABag { path, found });
                }
                file.kind = sniff::storage(&file.path).unwrap_or(file.kind);
            }
        }
        let mut bag = Bag {
            path: path.to_owned(),
            files,
            topics: Vec::new(),
            warnings: Vec::new(),
            limits,
            stated: metadata.as_ref().map(|metadata| metadata.message_count),
        };
        bag.discover(metadata.as_ref(), &mut warnings)?;
        bag.warnings = warnings;
        Ok(bag)
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The topics of all files.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Warnings from opening. [`Messages::warnings`] has those from reading as well.
    pub fn warnings(&self) -> &[BagWarning] {
        &self.warnings
    }

    /// Total size of all files on disk, bytes.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .filter_map(|file| std::fs::metadata(&file.path).ok())
            .map(|file| file.len())
            .sum()
    }

    /// Current identity of all files, to detect that a bag was modified.
    pub fn file_states(&self) -> Result<Vec<FileState>, BagError> {
        let state = |file: &BagFile| {
            let found = std::fs::metadata(&file.path).map_err(BagError::io("open", &file.path))?;
            let modified = found
                .modified()
                .ok()
                .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            Ok(FileState {
                name: file.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                bytes: found.len(),
                modified_ns: modified.and_then(|time| u64::try_from(time.as_nanos()).ok()),
            })
        };
        self.files.iter().map(state).collect()
    }

    /// The topic called `name`; the error lists the topics of the bag.
    pub fn topic(&self, name: &str) -> Result<&Topic, BagError> {
        self.topics.iter().find(|topic| topic.name == name).ok_or_else(|| BagError::NoTopic {
            topic: name.to_owned(),
            path: self.path.clone(),
            available: list(self.topics.iter()),
        })
    }

    /// The topic called `name`, which must have one of the types `accepted` and be serialized as
    /// CDR.
    pub fn topic_of_type(&self, name: &str, accepted: &[&str]) -> Result<&Topic, BagError> {
        let topic = self.topic(name)?;
        if !accepted.contains(&topic.type_name.as_str()) {
            return Err(BagError::WrongType {
                topic: name.to_owned(),
                found: topic.type_name.clone(),
                expected: accepted.join(" or "),
                candidates: list(
                    self.topics.iter().filter(|topic| accepted.contains(&topic.type_name.as_str())),
                ),
            });
        }
        if topic.encoding != "cdr" {
            return Err(BagError::Unsupported {
                path: self.path.clone(),
                what: "message encoding",
                value: topic.encoding.clone(),
                supported: "cdr",
            });
        }
        Ok(topic)
    }

    /// Whether a time range can be read without reading everything before it.
    pub fn can_seek(&self) -> bool {
        self.files.iter().all(|file| match file.kind {
            Kind::Sqlite => true,
            Kind::Mcap => {
                !file.is_packed()
                    && matches!(McapFile::open_window(&file.path, &self.limits, 0, 0), Ok(Some(_)))
            }
        })
    }

    /// The messages of the selected topics, in the order of their log time (see
    /// [`Limits::order_window_ns`]).
    pub fn messages(&self, selection: &Selection) -> Result<Messages, BagError> {
        Messages::new(self, selection)
    }

    fn discover(
        &mut self,
        metadata: Option<&Metadata>,
        warnings: &mut Vec<BagWarning>,
    ) -> Result<(), BagError> {
        let limits = self.limits;
        let listed = metadata.filter(|metadata| !metadata.topics.is_empty());
        for at in 0..self.files.len() {
            if self.files[at].kind == Kind::Sqlite && self.files[at].is_packed() {
                let temporary = unpack::to_temporary(&self.files[at].path, &limits)?;
                self.files[at].unpacked = Some(Arc::new(temporary));
            } else if self.files[at].kind == Kind::Sqlite
                && let Some(beside) = Beside::of(&self.files[at].path)
            {
                let path = &self.files[at].path;
                let temporary = recover::to_temporary(path, beside, &limits)?;
                warnings.push(BagWarning::Restored { path: path.clone(), from: beside.words() });
                self.files[at].unpacked = Some(Arc::new(temporary));
            }
            let file = self.files[at].clone();
            let found = match file.kind {
                // Counting scans the table; the metadata has the counts already.
                Kind::Sqlite => {
                    sqlite_file::topics(file.readable(), &file.path, &limits, listed.is_none())?.0
                }
                // The summary at its end cannot be read without decompressing the whole file.
                Kind::Mcap if file.is_packed() && listed.is_some() => Found::new(),
                Kind::Mcap if file.is_packed() => self.scan(&file, warnings)?,
                Kind::Mcap => match mcap_file::summary(&file.path, &limits)? {
                    Ok(found) => found,
                    Err(_) if listed.is_some() => Found::new(),
                    Err(what) => {
                        warnings.push(BagWarning::BadSummary { path: file.path.clone(), what });
                        self.scan(&file, warnings)?
                    }
                },
            };
            self.add(found)?;
        }
        if let Some(metadata) = listed {
            self.add_metadata(metadata)?;
        }
        if !self.topics.is_empty() {
            return Ok(());
        }
        // A file that ends before its first topic is damaged, not empty.
        let cut = warnings.iter().find_map(|warning| match warning {
            BagWarning::Truncated { path, what, .. } => Some((path.clone(), *what)),
            _ => None,
        });
        Err(match cut {
            Some((path, what)) => BagError::Damaged {
                path,
                messages: 0,
                what: format!("it ends in the middle ({what}), before the first topic"),
            },
            None => BagError::Empty { path: self.path.clone(), what: "no topic was recorded" },
        })
    }

    fn scan(&self, file: &BagFile, warnings: &mut Vec<BagWarning>) -> Result<Found, BagError> {
        let (found, warning) = mcap_file::scan(&file.path, &self.limits)?;
        // A truncation after the first topic is reported again when the messages are read.
        if found.is_empty()
            && let Some(warning) = warning
        {
            warnings.push(warning);
        }
        Ok(found)
    }

    /// Adds the topics of one file.
    fn add(&mut self, found: Found) -> Result<(), BagError> {
        for (channel, messages) in found {
            let type_name = canonical_type(&channel.type_name).into_owned();
            match self.topics.iter_mut().find(|topic| topic.name == channel.topic) {
                Some(known) if known.type_name == type_name => {
                    known.messages =
                        known.messages.zip(messages).and_then(|(a, b)| a.checked_add(b));
                }
                Some(known) => {
                    return Err(BagError::ConflictingTypes {
                        path: self.path.clone(),
                        topic: channel.topic,
                        first: known.type_name.clone(),
                        second: type_name,
                    });
                }
                None => self.topics.push(Topic {
                    index: self.topics.len(),
                    name: channel.topic,
                    type_name,
                    encoding: channel.encoding,
                    messages,
                }),
            }
        }
        Ok(())
    }

    /// Adds topics that only the metadata lists, and its counts where the files have none.
    fn add_metadata(&mut self, metadata: &Metadata) -> Result<(), BagError> {
        for listed in &metadata.topics {
            let type_name = canonical_type(&listed.type_name).into_owned();
            match self.topics.iter_mut().find(|topic| topic.name == listed.name) {
                Some(known) if known.type_name == type_name => {
                    known.messages = known.messages.or(Some(listed.messages))
                }
                Some(known) => {
                    return Err(BagError::ConflictingTypes {
                        path: self.path.clone(),
                        topic: listed.name.clone(),
                        first: known.type_name.clone(),
                        second: type_name,
                    });
                }
                None => self.topics.push(Topic {
                    index: self.topics.len(),
                    name: listed.name.clone(),
                    type_name,
                    encoding: listed.encoding.clone(),
                    messages: Some(listed.messages),
                }),
            }
        }
        Ok(())
    }
}

/// `name (type, n messages), ...`
fn list<'a>(topics: impl Iterator<Item = &'a Topic>) -> String {
    let mut parts: Vec<String> = topics
        .map(|topic| match topic.messages {
            Some(messages) => format!("{} ({}, {messages} messages)", topic.name, topic.type_name),
            None => format!("{} ({})", topic.name, topic.type_name),
        })
        .collect();
    let more = parts.len().saturating_sub(LISTED);
    parts.truncate(LISTED);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn single(path: &Path) -> Result<Vec<BagFile>, BagError> {
    if path.file_name().is_some_and(|name| name == "metadata.yaml") {
        let found = "it describes a bag: name its folder".to_owned();
        return Err(BagError::NotABag { path: path.to_owned(), found });
    }
    let by_content = || {
        let kind = sniff::storage(path)?;
        Some(BagFile { path: path.to_owned(), kind, unpacked: None })
    };
    match BagFile::new(path.to_owned()).or_else(by_content) {
        Some(file) => Ok(vec![file]),
        None => {
            let found = sniff::foreign(path).unwrap_or("its name does not end in .mcap or .db3");
            Err(BagError::NotABag { path: path.to_owned(), found: found.to_owned() })
        }
    }
}

type Opened = (Vec<BagFile>, Option<Metadata>, Vec<BagWarning>);

fn folder(path: &Path, limits: &Limits) -> Result<Opened, BagError> {
    let yaml = path.join("metadata.yaml");
    if !yaml.exists() {
        let files = files_in(path, limits)?;
        let warning = BagWarning::MissingMetadata { path: path.to_owned(), files: files.len() };
        return Ok((files, None, vec![warning]));
    }
    let metadata = Metadata::read(&yaml, limits)?;
    if metadata.files.is_empty() {
        return Err(BagError::Empty { path: path.to_owned(), what: "metadata.yaml lists no file" });
    }
    let mut files = Vec::new();
    for name in &metadata.files {
        let mut listed = path.join(name);
        // Some recorder versions list the name without .zstd although the file is compressed.
        if !listed.is_file() {
            listed = path.join(format!("{name}.zstd"));
        }
        if !listed.is_file() {
            return Err(BagError::MissingFile { metadata: yaml, missing: name.clone() });
        }
        let file = BagFile::new(listed).ok_or_else(|| BagError::Unsupported {
            path: yaml.clone(),
            what: "file",
            value: name.clone(),
            supported: ".mcap, .db3, each also with .zstd",
        })?;
        let storage = if file.kind == Kind::Mcap { "mcap" } else { "sqlite3" };
        if !metadata.storage.is_empty() && storage != metadata.storage {
            return Err(BagError::Metadata {
                path: yaml,
                what: format!("storage_identifier is {} but it lists `{name}`", metadata.storage),
            });
        }
        files.push(file);
    }
    Ok((files, Some(metadata), Vec::new()))
}

/// The bag files of a folder without metadata, ordered by the number at the end of their names.
fn files_in(path: &Path, limits: &Limits) -> Result<Vec<BagFile>, BagError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(BagError::io("list", path))? {
        let entry = entry.map_err(BagError::io("list", path))?;
        files.extend(BagFile::new(entry.path()));
        if files.len() > limits.files {
            return Err(BagError::TooLarge {
                path: path.to_owned(),
                what: "the number of files",
                value: files.len() as u64,
                limit: limits.files as u64,
            });
        }
    }
    if files.is_empty() {
        return Err(BagError::NotABag { path: path.to_owned(), found: sniff::folder(path) });
    }
    files.sort_by_cached_key(|file| natural_key(&file.path));
    Ok(files)
}

/// Sort key by which `x_10.mcap` follows `x_9.mcap`.
fn natural_key(path: &Path) -> (String, u64, String) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (prefix, number) = stem.split_at(stem.len() - digits);
    (prefix.to_owned(), number.parse().unwrap_or(0), name.clone())
}
