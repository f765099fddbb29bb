//! The header of a safetensors file: eight bytes of length, that many bytes of JSON, then the
//! tensors without gaps.
//!
//! The `safetensors` crate reads it ([`SafeTensors::read_metadata`]); dtypes, shapes and offsets
//! are the crate's. Before the crate sees a header, [`parse_header`] makes the checks that version 0.8
//! lacks:
//!
//! * A name that occurs twice: the crate deserializes into a `HashMap`, so the last entry wins.
//! * Offsets within the file: the crate adds the last offset to the header's length unchecked,
//!   which wraps around in release builds and panics in debug builds.
//! * Numbers of tensors and dimensions, lengths of names: the crate's `#[serde(flatten)]` buffers
//!   the whole header first, about 32 bytes for two bytes of JSON.
//! * Unknown keys of an entry, which the crate ignores.
//!
//! After the crate has refused a header, [`explain`] names the tensor and the values: the crate's
//! errors do so for one kind of error only (`InvalidOffset`, without the values).

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::value::Error as NameError;
use serde::de::{Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::error::quoted;
use crate::text::one_line;

/// Number format of a stored tensor, spelled as in the header.
pub use safetensors::Dtype as StoredType;

/// Longest header that the format allows, bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors accepted in one file; a 70-billion-parameter model has fewer than two thousand.
pub const MAX_TENSORS: usize = 65_536;
/// Most dimensions accepted of one tensor.
pub const MAX_RANK: usize = 8;
/// Longest tensor name accepted, bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// Bytes of the length field in front of the header.
const LENGTH_BYTES: usize = 8;

/// One tensor of a header, checked: `range` is inside the file and holds exactly the shape's
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

/// Why a header is refused. One line, with the tensor and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages describe the fields
pub enum HeaderProblem {
    #[error("{file} bytes long, a safetensors file has at least 10")]
    TooShort { file: u64 },
    #[error("the header claims {length} bytes, the format allows at most {MAX_HEADER_BYTES}")]
    HeaderTooLong { length: u64 },
    #[error("the header claims {length} bytes, the whole file has only {file}")]
    HeaderBeyondFile { length: u64, file: u64 },
    #[error("the header is not the JSON of the safetensors format: {detail}")]
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
        "tensor {} has data_offsets [{begin}, {end}], the end is before the begin",
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
        "tensor {} begins at byte {begin} of the data, where tensor {} (up to byte {end}) is",
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
    #[error("the safetensors library refuses the header: {detail}")]
    Refused { detail: String },
}

/// Length of the JSON header of a safetensors file, bytes.
///
/// # Errors
/// When the file is too short to be a safetensors file or the length is more than the format or the
/// file allows.
pub fn header_length(file: &[u8]) -> Result<usize, HeaderProblem> {
    let file_bytes = file.len() as u64;
    let Some(prefix) = file.first_chunk().filter(|_| file.len() >= LENGTH_BYTES + 2) else {
        return Err(HeaderProblem::TooShort { file: file_bytes });
    };
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER_BYTES {
        return Err(HeaderProblem::HeaderTooLong { length });
    }
    if length > file_bytes - LENGTH_BYTES as u64 {
        return Err(HeaderProblem::HeaderBeyondFile { length, file: file_bytes });
    }
    usize::try_from(length).map_err(|_| HeaderProblem::HeaderTooLong { length })
}

/// Reads and checks the header of `file`, a whole safetensors file. Entries are in the order of
/// their data.
///
/// After `Ok`, every range is inside the file, has exactly `shape product * element size` bytes,
/// and the ranges cover the data without overlap or hole.
///
/// # Errors
/// The first problem found.
pub fn parse_header(file: &[u8]) -> Result<Vec<TensorEntry>, HeaderProblem> {
    let length = header_length(file)?;
    let (header, data) = file[LENGTH_BYTES..].split_at(length);
    let data = data.len() as u64;
    let listed: Listed = serde_json::from_slice(header)
        .map_err(|error| HeaderProblem::Json { detail: one_line(&error.to_string()) })?;
    let mut claims = Vec::with_capacity(listed.0.len());
    for (name, tensor) in listed.0 {
        claims.push(check_bounds(name, tensor, data)?);
    }
    let (_, metadata) =
        SafeTensors::read_metadata(file).map_err(|error| explain(claims, data, &error))?;
    let start = LENGTH_BYTES + length;
    let entry = |name: String| {
        let tensor = metadata.info(&name)?;
        let (begin, end) = tensor.data_offsets;
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        Some(TensorEntry { name, dtype, shape, range: start + begin..start + end })
    };
    Ok(metadata.offset_keys().into_iter().filter_map(entry).collect())
}

/// What a header states about one tensor, within this module's bounds but not yet consistent.
struct Claim {
    name: String,
    dtype: StoredType,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
}

fn check_bounds(name: String, listed: ListedTensor, data: u64) -> Result<Claim, HeaderProblem> {
    let dtype: Result<StoredType, NameError> =
        StoredType::deserialize(listed.dtype.as_str().into_deserializer());
    let Ok(dtype) = dtype else {
        return Err(HeaderProblem::UnknownDtype { tensor: name, dtype: listed.dtype });
    };
    let Shape { dimensions: shape, rank } = listed.shape;
    if rank > MAX_RANK {
        return Err(HeaderProblem::Rank { tensor: name, rank });
    }
    let (begin, end) = listed.data_offsets;
    if end < begin {
        return Err(HeaderProblem::Backwards { tensor: name, begin, end });
    }
    if end > data {
        return Err(HeaderProblem::BeyondFile { tensor: name, end, data });
    }
    Ok(Claim { name, dtype, shape, begin, end })
}

/// Finds the tensor for which the crate refused the header with `error`.
fn explain(
    mut claims: Vec<Claim>,
    data: u64,
    error: &safetensors::SafeTensorError,
) -> HeaderProblem {
    if let Some(problem) = claims.iter().find_map(size_problem) {
        return problem;
    }
    claims.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    cover_problem(&claims, data)
        .unwrap_or_else(|| HeaderProblem::Refused { detail: one_line(&error.to_string()) })
}

/// Whether the shape needs another number of bytes than the offsets hold.
fn size_problem(claim: &Claim) -> Option<HeaderProblem> {
    let Claim { name, dtype, shape, begin, end } = claim;
    let (tensor, dtype, shape) = (name.clone(), *dtype, shape.clone());
    let bits = shape
        .iter()
        .try_fold(dtype.bitsize() as u64, |product, &dimension| product.checked_mul(dimension));
    let Some(needed) = bits.map(|bits| bits.div_ceil(8)) else {
        return Some(HeaderProblem::Overflow { tensor, shape, dtype });
    };
    let (begin, end) = (*begin, *end);
    (needed != end - begin).then_some(HeaderProblem::SizeMismatch {
        tensor,
        shape,
        dtype,
        needed,
        begin,
        end,
    })
}

/// Whether the claims, sorted by place, do not follow each other from byte 0 to byte `data`.
fn cover_problem(claims: &[Claim], data: u64) -> Option<HeaderProblem> {
    let mut expected = 0;
    let mut previous = "";
    for Claim { name, begin, end, .. } in claims {
        let (tensor, begin) = (name.clone(), *begin);
        if begin < expected {
            let other = previous.to_owned();
            return Some(HeaderProblem::Overlap { tensor, begin, other, end: expected });
        }
        if begin > expected {
            return Some(HeaderProblem::Hole { tensor, begin, expected });
        }
        expected = *end;
        previous = name;
    }
    (expected != data).then_some(HeaderProblem::Trailing { end: expected, data })
}

/// An entry of the header as listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedTensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// A shape; dimensions after the first [`MAX_RANK`] are counted but not stored.
struct Shape {
    dimensions: Vec<u64>,
    rank: usize,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Shape { dimensions: Vec::new(), rank: 0 };
        while let Some(dimension) = seq.next_element()? {
            shape.rank += 1;
            if shape.rank <= MAX_RANK {
                shape.dimensions.push(dimension);
            }
        }
        Ok(shape)
    }
}

/// The entries in file order. A map type would drop the first of two entries with one name.
struct Listed(Vec<(String, ListedTensor)>);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListedVisitor)
    }
}

struct ListedVisitor;

impl<'de> Visitor<'de> for ListedVisitor {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        let mut tensors: Vec<(String, ListedTensor)> = Vec::new();
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
                map.next_value::<BTreeMap<String, String>>()?;
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
        Ok(Listed(tensors))
    }
}
