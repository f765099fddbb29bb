//! The header of a safetensors file: eight bytes of length, that many bytes of JSON, then the
//! tensors without gaps.
//!
//! Parsed here and not by the `safetensors` crate for three reasons. Its errors do not name the
//! tensor (`invalid shape, data type, or offset for tensor`), it lets a tensor listed twice pass
//! (the last one wins), and it adds the last offset to the header's length unchecked, so a header
//! whose offsets end near 2^64 wraps round to the true file size. Tests compare the two parsers:
//! what is accepted here, the crate accepts with the same result.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::error::{one_line, quoted};

/// Longest header that the format allows, bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors believed in one file; a 70-billion-parameter model has fewer than two thousand.
pub const MAX_TENSORS: usize = 65_536;
/// Most dimensions believed of one tensor.
pub const MAX_RANK: usize = 8;
/// Longest tensor name believed, bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// Bytes of the length field in front of the header.
const LENGTH_BYTES: u64 = 8;

/// A number format that safetensors can store, in its own spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are the format's
pub enum StoredType {
    F64,
    F32,
    F16,
    Bf16,
    F8E4m3,
    F8E5m2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl StoredType {
    const ALL: [(Self, &'static str, usize); 15] = [
        (Self::F64, "F64", 8),
        (Self::F32, "F32", 4),
        (Self::F16, "F16", 2),
        (Self::Bf16, "BF16", 2),
        (Self::F8E4m3, "F8_E4M3", 1),
        (Self::F8E5m2, "F8_E5M2", 1),
        (Self::I64, "I64", 8),
        (Self::I32, "I32", 4),
        (Self::I16, "I16", 2),
        (Self::I8, "I8", 1),
        (Self::U64, "U64", 8),
        (Self::U32, "U32", 4),
        (Self::U16, "U16", 2),
        (Self::U8, "U8", 1),
        (Self::Bool, "BOOL", 1),
    ];

    /// The format with this spelling in a header.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|entry| entry.1 == name).map(|entry| entry.0)
    }

    fn row(self) -> (Self, &'static str, usize) {
        // Every variant is in ALL; the fallback only spares a panic path.
        Self::ALL.iter().copied().find(|entry| entry.0 == self).unwrap_or((self, "?", 1))
    }

    /// The spelling in a header: `BF16`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        self.row().2
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor of a header, checked: `range` lies inside the file and holds exactly the shape's
/// elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name, as in the PyTorch state dict.
    pub name: String,
    /// Number format.
    pub dtype: StoredType,
    /// Row-major shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// First byte and the byte after the last, counted from the start of the file.
    pub range: Range<usize>,
}

/// Why a header cannot be believed. One line, with the tensor and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say what the fields are
pub enum HeaderProblem {
    #[error("{file} bytes long, a safetensors file has at least 10")]
    TooShort { file: u64 },
    #[error("the header claims {length} bytes, the format allows at most {MAX_HEADER_BYTES}")]
    HeaderTooLong { length: u64 },
    #[error("the header claims {length} bytes, the whole file has only {file}")]
    HeaderBeyondFile { length: u64, file: u64 },
    #[error("the header is not the JSON that the format asks for: {detail}")]
    Json { detail: String },
    #[error("tensor {} has the unknown dtype {}", quoted(tensor), quoted(dtype))]
    UnknownDtype { tensor: String, dtype: String },
    #[error("tensor {} has {rank} dimensions, at most {MAX_RANK} are read", quoted(tensor))]
    Rank { tensor: String, rank: usize },
    #[error(
        "tensor {} has shape {shape:?} of {dtype}, more bytes than can be counted",
        quoted(tensor)
    )]
    Overflow { tensor: String, shape: Vec<u64>, dtype: StoredType },
    #[error(
        "tensor {} has data_offsets [{begin}, {end}], the end lies before the begin",
        quoted(tensor)
    )]
    Backwards { tensor: String, begin: u64, end: u64 },
    #[error("tensor {} ends at byte {end} of the data, the file holds only {data}", quoted(tensor))]
    BeyondFile { tensor: String, end: u64, data: u64 },
    #[error("tensor {} with shape {shape:?} of {dtype} needs {needed} bytes, its data_offsets \
        [{begin}, {end}] hold {}", quoted(tensor), end - begin)]
    SizeMismatch {
        tensor: String,
        shape: Vec<u64>,
        dtype: StoredType,
        needed: u64,
        begin: u64,
        end: u64,
    },
    #[error(
        "tensor {} begins at byte {begin} of the data, where tensor {} (up to byte {end}) lies",
        quoted(tensor),
        quoted(other)
    )]
    Overlap { tensor: String, begin: u64, other: String, end: u64 },
    #[error(
        "tensor {} begins at byte {begin} of the data, bytes from {expected} on belong to no \
        tensor",
        quoted(tensor)
    )]
    Hole { tensor: String, begin: u64, expected: u64 },
    #[error("the tensors end at byte {end} of the data, the file holds {data}")]
    Trailing { end: u64, data: u64 },
}

/// Length of the JSON header, bytes, from the first eight bytes of a file of `file_bytes` bytes.
///
/// # Errors
/// When the file is too short to be a safetensors file or the length is more than the format or the
/// file allows.
pub fn header_length(bytes: &[u8], file_bytes: u64) -> Result<usize, HeaderProblem> {
    let Some(prefix) = bytes.first_chunk::<8>().filter(|_| file_bytes >= LENGTH_BYTES + 2) else {
        return Err(HeaderProblem::TooShort { file: file_bytes });
    };
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER_BYTES {
        return Err(HeaderProblem::HeaderTooLong { length });
    }
    if length > file_bytes - LENGTH_BYTES {
        return Err(HeaderProblem::HeaderBeyondFile { length, file: file_bytes });
    }
    usize::try_from(length).map_err(|_| HeaderProblem::HeaderTooLong { length })
}

/// Parses and checks the header of a file of `file_bytes` bytes, of which `bytes` are the beginning
/// (at least the length field and the header). Entries come back in the order of their data.
///
/// After `Ok`, every range lies inside the file, has exactly `shape product * element size` bytes,
/// and the ranges cover the data without overlap or hole.
///
/// # Errors
/// The first thing found wrong.
pub fn parse_header(bytes: &[u8], file_bytes: u64) -> Result<Vec<TensorEntry>, HeaderProblem> {
    let length = header_length(bytes, file_bytes)?;
    let start = LENGTH_BYTES as usize + length;
    let Some(json) = bytes.get(LENGTH_BYTES as usize..start) else {
        return Err(HeaderProblem::HeaderBeyondFile {
            length: length as u64,
            file: bytes.len() as u64,
        });
    };
    let raw: RawHeader = serde_json::from_slice(json)
        .map_err(|error| HeaderProblem::Json { detail: one_line(&error.to_string()) })?;
    let data = file_bytes - start as u64;

    let mut entries = Vec::with_capacity(raw.0.len());
    for (name, tensor) in raw.0 {
        entries.push(check_entry(name, tensor, data)?);
    }
    entries.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    check_cover(&entries, data)?;

    let place = |offset: u64| {
        usize::try_from(offset + start as u64)
            .map_err(|_| HeaderProblem::TooShort { file: file_bytes })
    };
    entries
        .into_iter()
        .map(|entry| {
            Ok(TensorEntry {
                range: place(entry.begin)?..place(entry.end)?,
                name: entry.name,
                dtype: entry.dtype,
                shape: entry.shape,
            })
        })
        .collect()
}

struct CheckedEntry {
    name: String,
    dtype: StoredType,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

fn check_entry(name: String, raw: RawTensor, data: u64) -> Result<CheckedEntry, HeaderProblem> {
    let Some(dtype) = StoredType::from_name(&raw.dtype) else {
        return Err(HeaderProblem::UnknownDtype { tensor: name, dtype: raw.dtype });
    };
    if raw.shape.len() > MAX_RANK {
        return Err(HeaderProblem::Rank { tensor: name, rank: raw.shape.len() });
    }
    let (begin, end) = raw.data_offsets;
    if end < begin {
        return Err(HeaderProblem::Backwards { tensor: name, begin, end });
    }
    if end > data {
        return Err(HeaderProblem::BeyondFile { tensor: name, end, data });
    }
    let needed = raw
        .shape
        .iter()
        .try_fold(dtype.bytes() as u64, |product, &dimension| product.checked_mul(dimension));
    let shape: Result<Vec<usize>, _> =
        raw.shape.iter().map(|&dimension| usize::try_from(dimension)).collect();
    let (Some(needed), Ok(shape)) = (needed, shape) else {
        return Err(HeaderProblem::Overflow { tensor: name, shape: raw.shape, dtype });
    };
    if needed != end - begin {
        return Err(HeaderProblem::SizeMismatch {
            tensor: name,
            shape: raw.shape,
            dtype,
            needed,
            begin,
            end,
        });
    }
    Ok(CheckedEntry { name, dtype, shape, begin, end })
}

/// The entries, sorted by place, must follow each other from byte 0 to byte `data`.
fn check_cover(entries: &[CheckedEntry], data: u64) -> Result<(), HeaderProblem> {
    let mut expected = 0;
    let mut previous = "";
    for entry in entries {
        if entry.begin < expected {
            return Err(HeaderProblem::Overlap {
                tensor: entry.name.clone(),
                begin: entry.begin,
                other: previous.to_owned(),
                end: expected,
            });
        }
        if entry.begin > expected {
            return Err(HeaderProblem::Hole {
                tensor: entry.name.clone(),
                begin: entry.begin,
                expected,
            });
        }
        expected = entry.end;
        previous = &entry.name;
    }
    if expected != data {
        return Err(HeaderProblem::Trailing { end: expected, data });
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The JSON object in file order. Read with our own visitor because a map type would swallow a name
/// listed twice.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors: Vec<(String, RawTensor)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES {
                return Err(A::Error::custom(format!(
                    "a tensor name of {} bytes, at most {MAX_NAME_BYTES} are read",
                    name.len()
                )));
            }
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor {} is listed twice", quoted(&name))));
            }
            if name == "__metadata__" {
                map.next_value::<std::collections::BTreeMap<String, String>>()?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let tensor = map
                .next_value()
                .map_err(|error| A::Error::custom(format!("tensor {}: {error}", quoted(&name))))?;
            tensors.push((name, tensor));
        }
        Ok(RawHeader(tensors))
    }
}
