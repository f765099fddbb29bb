//! `metadata.yaml` of rosbag2, versions 1 to 9: which files, which topics, which compression.

use std::path::Path;

use serde::Deserialize;

use super::{BagError, Limits};

/// The parts of `metadata.yaml` that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// `sqlite3` or `mcap`; empty when the files say it (`ros2 bag reindex` of Humble).
    pub storage: String,
    /// File names inside the bag's folder, in recording order.
    pub files: Vec<String>,
    /// Topics with their types and counts.
    pub topics: Vec<MetadataTopic>,
    /// Messages in all files.
    pub message_count: u64,
}

/// A topic according to `metadata.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetadataTopic {
    pub name: String,
    pub type_name: String,
    pub encoding: String,
    pub messages: u64,
}

#[derive(Deserialize)]
struct Document {
    rosbag2_bagfile_information: Information,
}

#[derive(Deserialize)]
struct Information {
    #[serde(default)]
    storage_identifier: String,
    #[serde(default)]
    relative_file_paths: Vec<String>,
    #[serde(default)]
    message_count: u64,
    #[serde(default)]
    topics_with_message_count: Vec<TopicWithCount>,
    #[serde(default)]
    compression_format: String,
    #[serde(default)]
    compression_mode: String,
}

#[derive(Deserialize)]
struct TopicWithCount {
    topic_metadata: TopicMetadata,
    #[serde(default)]
    message_count: u64,
}

#[derive(Deserialize)]
struct TopicMetadata {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    #[serde(default)]
    serialization_format: String,
}

impl Metadata {
    /// Reads and checks `path`.
    pub fn read(path: &Path, limits: &Limits) -> Result<Metadata, BagError> {
        let size = std::fs::metadata(path).map_err(BagError::io("read", path))?.len();
        if size > limits.metadata_bytes {
            return Err(BagError::TooLarge {
                path: path.to_owned(),
                what: "the file's size in bytes",
                value: size,
                limit: limits.metadata_bytes,
            });
        }
        let bytes = std::fs::read(path).map_err(BagError::io("read", path))?;
        Metadata::parse(&bytes, path, limits)
    }

    /// Parses the bytes of a `metadata.yaml`; `path` is for error messages.
    pub fn parse(bytes: &[u8], path: &Path, limits: &Limits) -> Result<Metadata, BagError> {
        let wrong = |what: String| BagError::Metadata { path: path.to_owned(), what };
        let mut options = serde_saphyr::Options::default();
        options.with_snippet = false; // errors of one line
        if let Some(budget) = &mut options.budget {
            // A large bag's file has more lines than the parser's default; its size is bounded.
            budget.max_events = 8_000_000;
        }
        let document: Document = serde_saphyr::from_slice_with_options(bytes, options)
            .map_err(|error| wrong(format!("not rosbag2 metadata ({error})")))?;
        let information = document.rosbag2_bagfile_information;
        check_count(
            path,
            "the number of files",
            information.relative_file_paths.len(),
            limits.files,
        )?;
        check_count(
            path,
            "the number of topics",
            information.topics_with_message_count.len(),
            limits.topics,
        )?;
        if !matches!(information.storage_identifier.as_str(), "" | "sqlite3" | "mcap") {
            return Err(BagError::Unsupported {
                path: path.to_owned(),
                what: "storage",
                value: information.storage_identifier,
                supported: "mcap, sqlite3",
            });
        }
        // rosbag2 writes the mode in either case, and an empty string for none.
        let mode = information.compression_mode.to_ascii_lowercase();
        if matches!(mode.as_str(), "file" | "message") && information.compression_format != "zstd" {
            return Err(BagError::Unsupported {
                path: path.to_owned(),
                what: "compression",
                value: information.compression_format,
                supported: "zstd",
            });
        }
        let mut files = Vec::with_capacity(information.relative_file_paths.len());
        for listed in information.relative_file_paths {
            // Only the last component is used: old bags list `bag/bag_0.db3`, hostile ones
            // `../../etc/passwd`.
            let name = Path::new(&listed).file_name().and_then(|name| name.to_str());
            files.push(
                name.ok_or_else(|| wrong(format!("`{listed}` is not a file name")))?.to_owned(),
            );
        }
        let topics = information
            .topics_with_message_count
            .into_iter()
            .map(|topic| MetadataTopic {
                name: topic.topic_metadata.name,
                type_name: topic.topic_metadata.type_name,
                encoding: topic.topic_metadata.serialization_format,
                messages: topic.message_count,
            })
            .collect();
        Ok(Metadata {
            storage: information.storage_identifier,
            files,
            topics,
            message_count: information.message_count,
        })
    }
}

fn check_count(
    path: &Path,
    what: &'static str,
    value: usize,
    limit: usize,
) -> Result<(), BagError> {
    if value <= limit {
        return Ok(());
    }
    Err(BagError::TooLarge {
        path: path.to_owned(),
        what,
        value: value as u64,
        limit: limit as u64,
    })
}
