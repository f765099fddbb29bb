//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::{CheckpointError, quoted};
use super::header::MAX_TENSORS;
use super::read::{UniqueMap, parse_json};
use crate::text::one_line;

/// Most shards accepted of one checkpoint.
const MAX_SHARDS: usize = 4096;

/// The parsed index: tensor name to shard file name, every file name checked to be a plain name in
/// the same folder.
#[derive(Debug, Clone)]
pub struct WeightIndex {
    path: PathBuf,
    shards: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawIndex {
    // `metadata.total_size` is not read: tools that merge or prune tensors leave stale totals; the
    // shards have the true sizes.
    weight_map: UniqueMap<String>,
}

impl WeightIndex {
    /// Parses the bytes of an index file; `path` is only named in errors.
    ///
    /// # Errors
    /// When the JSON is not an index, names nothing, lists a tensor twice, or names a file outside
    /// the folder.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let raw: RawIndex = parse_json(path, bytes)?;
        let index = Self { path: path.to_owned(), shards: raw.weight_map.0 };
        if index.shards.is_empty() {
            return Err(index.problem(
                "weight_map is empty".to_owned(),
                "copy the index from the original checkpoint",
            ));
        }
        if index.shards.len() > MAX_TENSORS {
            let detail =
                format!("weight_map names {} tensors, more than {MAX_TENSORS}", index.shards.len());
            return Err(index.problem(detail, "this is no checkpoint for this program"));
        }
        for (tensor, file) in &index.shards {
            if !is_plain_name(file) {
                let detail = format!(
                    "tensor {} is listed in {}, outside the checkpoint folder",
                    quoted(tensor),
                    quoted(file)
                );
                return Err(index.problem(
                    detail,
                    "do not use this checkpoint, or correct the file name in weight_map",
                ));
            }
        }
        let files = index.files().len();
        if files > MAX_SHARDS {
            return Err(index.problem(
                format!("weight_map names {files} shards, more than {MAX_SHARDS}"),
                "this is no checkpoint for this program",
            ));
        }
        Ok(index)
    }

    /// The shard files named, each once, sorted.
    pub fn files(&self) -> BTreeSet<&str> {
        self.shards.values().map(String::as_str).collect()
    }

    /// Tensor name and shard file name of every entry, sorted by tensor.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.shards.iter().map(|(tensor, file)| (tensor.as_str(), file.as_str()))
    }

    /// The shard listed for `tensor`.
    pub fn file_of(&self, tensor: &str) -> Option<&str> {
        self.shards.get(tensor).map(String::as_str)
    }

    pub(super) fn problem(&self, detail: String, remedy: &'static str) -> CheckpointError {
        CheckpointError::Index { path: self.path.clone(), detail: one_line(&detail), remedy }
    }
}

/// One normal path component and nothing else, under Unix's rules and Windows's.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let (first, second) = (components.next(), components.next());
    matches!((first, second), (Some(Component::Normal(part)), None) if part == name)
        && name.len() <= 255
        && !name.contains(['/', '\\', ':', '\0'])
}
