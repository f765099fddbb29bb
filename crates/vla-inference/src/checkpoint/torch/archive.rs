//! The container: a ZIP archive whose entries are all stored uncompressed, below one folder.

use std::collections::BTreeMap;
use std::ops::Range;

use rawzip::{CompressionMethod, ZipArchive};

use super::TorchProblem;
use crate::checkpoint::error::quoted;
use crate::checkpoint::header::MAX_TENSORS;
use crate::text::one_line;

/// Most entries accepted: the tensors' storages and some small files beside them.
const MAX_ENTRIES: usize = MAX_TENSORS + 64;
/// Longest `data.pkl` accepted, bytes. The vision backbone of the published checkpoints, with 1500
/// names, has less than one megabyte.
const MAX_PICKLE_BYTES: usize = 8 << 20;
/// Longest name of an entry accepted, bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The entries of an archive: in the file, apart from each other, named once.
pub(super) struct Archive<'a> {
    file: &'a [u8],
    /// By name below the archive's folder.
    entries: BTreeMap<String, Entry>,
    pickle: Range<usize>,
}

struct Entry {
    range: Range<usize>,
    /// CRC-32 of the bytes; 0 when it was not computed.
    checksum: u32,
}

fn refuse<T>(detail: impl Into<String>) -> Result<T, TorchProblem> {
    Err(TorchProblem::Archive { detail: one_line(&detail.into()) })
}

impl<'a> Archive<'a> {
    pub(super) fn open(file: &'a [u8]) -> Result<Self, TorchProblem> {
        if file.starts_with(b"version https://git-lfs") {
            return refuse("it is a git-lfs pointer, fetch the file itself (git lfs pull)");
        }
        if !file.starts_with(b"PK\x03\x04") {
            return refuse("it does not begin as a ZIP archive (torch before 1.6 wrote others)");
        }
        let damaged = |error: rawzip::Error| TorchProblem::Archive {
            detail: one_line(&format!("broken ZIP archive: {error}")),
        };
        let archive = ZipArchive::from_slice(file).map_err(damaged)?;
        if archive.end_offset() != file.len() as u64 {
            return refuse("bytes follow the archive");
        }
        let mut listed: BTreeMap<String, Entry> = BTreeMap::new();
        let mut spans = Vec::new();
        let mut records = archive.entries();
        while let Some(record) = records.next_entry().map_err(damaged)? {
            if listed.len() == MAX_ENTRIES {
                return refuse(format!("more than {MAX_ENTRIES} entries"));
            }
            let path = record.file_path();
            let name = match std::str::from_utf8(path.as_bytes()) {
                Ok(name) if name.len() <= MAX_NAME_BYTES => name,
                _ => return refuse("an entry's name is too long or not UTF-8"),
            };
            // A compressed entry could grow without bound, and could not be used in place.
            if record.compression_method() != CompressionMethod::STORE
                || record.compressed_size_hint() != record.uncompressed_size_hint()
                || record.flags().is_encrypted()
            {
                return refuse(format!("entry {} is compressed or encrypted", quoted(name)));
            }
            let entry = archive.get_entry(record.wayfinder()).map_err(damaged)?;
            if entry.local_header().file_path().as_bytes() != path.as_bytes() {
                return refuse(format!("entry {} has another name in its place", quoted(name)));
            }
            let (begin, end) = entry.compressed_data_range();
            // Within the file, whose length is a usize.
            let range = begin as usize..end as usize;
            spans.push((record.local_header_offset(), end));
            let entry = Entry { range, checksum: record.crc32() };
            if listed.insert(name.to_owned(), entry).is_some() {
                return refuse(format!("entry {} is listed twice", quoted(name)));
            }
        }
        // Entries that share bytes are how a small archive unpacks to a large one.
        spans.sort_unstable();
        if spans.windows(2).any(|pair| matches!(pair, [(_, end), (next, _)] if next < end)) {
            return refuse("two entries share bytes");
        }
        Self::with_root(file, listed)
    }

    /// Finds the folder of `data.pkl` and cuts it off the names.
    fn with_root(file: &'a [u8], listed: BTreeMap<String, Entry>) -> Result<Self, TorchProblem> {
        let mut roots = listed.keys().filter_map(|name| {
            let root = name.strip_suffix("data.pkl")?;
            (root.ends_with('/') && root.matches('/').count() == 1).then(|| root.to_owned())
        });
        let (Some(root), None) = (roots.next(), roots.next()) else {
            return refuse("it has not exactly one FOLDER/data.pkl");
        };
        let entries: BTreeMap<String, Entry> = listed
            .into_iter()
            .filter_map(|(name, entry)| Some((name.strip_prefix(&root)?.to_owned(), entry)))
            .collect();
        let Some(pickle) = entries.get("data.pkl").map(|entry| entry.range.clone()) else {
            return refuse("it has no data.pkl");
        };
        if pickle.len() > MAX_PICKLE_BYTES {
            return refuse(format!(
                "data.pkl has {} bytes, at most {MAX_PICKLE_BYTES} are read",
                pickle.len()
            ));
        }
        let archive = Self { file, entries, pickle };
        let order = archive.entries.get("byteorder").map(|entry| archive.bytes(entry));
        match order {
            None | Some(b"little") => Ok(archive),
            Some(_) => refuse("its byte order is not \"little\""),
        }
    }

    fn bytes(&self, entry: &Entry) -> &'a [u8] {
        self.file.get(entry.range.clone()).unwrap_or_default()
    }

    /// The bytes of `data.pkl`.
    pub(super) fn pickle(&self) -> &'a [u8] {
        self.file.get(self.pickle.clone()).unwrap_or_default()
    }

    /// Place of a storage in the file.
    pub(super) fn storage(&self, key: &str) -> Option<Range<usize>> {
        self.entries.get(&format!("data/{key}")).map(|entry| entry.range.clone())
    }

    /// Compares every entry's bytes with their checksum, where there is one.
    pub(super) fn verify(&self) -> Result<(), TorchProblem> {
        for (name, entry) in &self.entries {
            if entry.checksum != 0 && rawzip::crc32(self.bytes(entry)) != entry.checksum {
                return refuse(format!("the checksum of {} is wrong", quoted(name)));
            }
        }
        Ok(())
    }
}
