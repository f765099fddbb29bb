//! Small files read whole, never more than a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};

use super::error::{CheckpointError, quoted};
use super::python_json::{named_constants, without_mark};

/// The bytes of the regular file at `path`, at most `limit`.
pub(super) fn read_bounded(
    path: &Path,
    limit: u64,
    remedy: &'static str,
) -> Result<Vec<u8>, CheckpointError> {
    let fail = |action, error: &std::io::Error| CheckpointError::io(path, action, error, remedy);
    let metadata = std::fs::metadata(path).map_err(|error| fail("open", &error))?;
    if !metadata.is_file() {
        return Err(fail("open", &std::io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| fail("open", &error))?;
    // One byte above the limit detects a file that is too large, even when it grows during the
    // read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| fail("read", &error))?;
    if bytes.len() as u64 > limit {
        return Err(CheckpointError::TooLarge {
            path: path.to_owned(),
            bytes: metadata.len().max(limit + 1),
            limit,
        });
    }
    Ok(bytes)
}

/// Whether the folder has an entry of this name. A link that leads nowhere counts: reading it must
/// fail rather than fall back to another file (the Hugging Face cache is made of links).
pub(super) fn is_listed(path: &Path) -> bool {
    let metadata = std::fs::symlink_metadata(path);
    !metadata.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Largest small JSON file, bytes.
const MAX_SMALL_JSON_BYTES: u64 = 1 << 20;

/// Reads a JSON file of at most 1 MiB.
///
/// # Errors
/// When it cannot be read, is larger, or is not what `T` describes.
pub fn read_json_file<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let remedy = "restore it from the checkpoint";
    parse_json(path, &read_bounded(path, MAX_SMALL_JSON_BYTES, remedy)?)
}

/// Parses JSON; errors name `path`.
pub(super) fn parse_json<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<T, CheckpointError> {
    serde_json::from_slice(without_mark(bytes)).map_err(|error| {
        CheckpointError::recognised(path, bytes)
            .unwrap_or_else(|| CheckpointError::json(path, &error))
    })
}

/// Parses JSON in which Python may have written NaN and Infinity: they become strings of that name,
/// so that only a field that is read as a number refuses them.
pub(super) fn parse_python_json<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<T, CheckpointError> {
    match serde_json::from_slice(without_mark(bytes)) {
        Ok(value) => Ok(value),
        // Rare, hence not looked for beforehand.
        Err(_) => parse_json(path, &named_constants(bytes)),
    }
}

/// A JSON object in which a key given twice is an error; a plain map would silently keep the last.
#[derive(Debug, Clone)]
pub(super) struct UniqueMap<T>(pub BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

/// A JSON object in the order of its text; a key given twice is an error.
#[derive(Debug, Clone)]
pub(super) struct OrderedMap<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrderedMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OrderedVisitor(PhantomData))
    }
}

struct OrderedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OrderedVisitor<T> {
    type Value = OrderedMap<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedMap<T>, A::Error> {
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        while let Some((key, value)) = map.next_entry::<String, T>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("{} is listed twice", quoted(&key))));
            }
            entries.push((key, value));
        }
        Ok(OrderedMap(entries))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = UniqueMap<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<T>, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, T>()? {
            let text = quoted(&key);
            if entries.insert(key, value).is_some() {
                return Err(A::Error::custom(format!("{text} is listed twice")));
            }
        }
        Ok(UniqueMap(entries))
    }
}
