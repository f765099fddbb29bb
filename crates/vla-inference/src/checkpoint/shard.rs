//! One safetensors file and the tensors in it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};

use super::error::CheckpointError;
use super::header::{StoredType, TensorEntry, parse_header};
use super::map::MappedFile;

#[cfg(target_endian = "big")]
compile_error!(
    "safetensors data is little-endian and is used in place; this machine would need a copy"
);

/// Named tensors in one mapped file.
#[derive(Debug, Clone)]
pub(super) struct TensorTable {
    file: Arc<MappedFile>,
    tensors: BTreeMap<String, Slot>,
}

#[derive(Debug, Clone)]
struct Slot {
    dtype: StoredType,
    shape: Arc<[usize]>,
    range: Range<usize>,
}

impl TensorTable {
    /// The tensors of `entries`, whose ranges were checked against the file.
    pub(super) fn new(file: MappedFile, entries: Vec<TensorEntry>) -> Self {
        let tensors = entries
            .into_iter()
            .map(|TensorEntry { name, dtype, shape, range }| {
                (name, Slot { dtype, shape: shape.into(), range })
            })
            .collect();
        Self { file: Arc::new(file), tensors }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn tensor(&self, name: &str) -> Result<MappedTensor, CheckpointError> {
        let Some((name, slot)) = self.tensors.get_key_value(name) else {
            return Err(CheckpointError::MissingTensor {
                path: self.path().to_owned(),
                tensor: name.to_owned(),
                hint: "the file is not the one this needs, or it is incomplete; take it from the \
                    original checkpoint again",
            });
        };
        Ok(MappedTensor {
            file: Arc::clone(&self.file),
            name: name.as_str().into(),
            dtype: slot.dtype,
            shape: Arc::clone(&slot.shape),
            range: slot.range.clone(),
        })
    }

    pub(super) fn verify_unchanged(&self) -> Result<(), CheckpointError> {
        self.file.verify_unchanged()
    }
}

/// One mapped `*.safetensors` file whose header has been checked (see [`parse_header`]).
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    table: TensorTable,
}

/// What to do when a weight file is not there.
const MISSING_FILE: &str = "copy the file from the original checkpoint into the folder";

impl SafetensorsFile {
    /// Maps the file and checks its header. Reads only the header's pages.
    ///
    /// # Errors
    /// When the file is missing, not a regular file, or its header is invalid.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = MappedFile::open(path, MISSING_FILE)?;
        let entries = parse_header(file.bytes()).map_err(|problem| {
            CheckpointError::recognised(path, file.bytes())
                .unwrap_or_else(|| CheckpointError::Header { path: path.to_owned(), problem })
        })?;
        Ok(Self { table: TensorTable::new(file, entries) })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.table.path()
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.table.names()
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// When the file does not hold it.
    pub fn tensor(&self, name: &str) -> Result<MappedTensor, CheckpointError> {
        self.table.tensor(name)
    }

    /// Requests read-ahead of the whole file.
    pub fn prefetch(&self) {
        let file = &self.table.file;
        file.prefetch(0..file.bytes().len());
    }

    /// See [`WeightFiles::verify_unchanged`](super::WeightFiles::verify_unchanged).
    pub fn verify_unchanged(&self) -> Result<(), CheckpointError> {
        self.table.verify_unchanged()
    }
}

/// A tensor inside a mapped file. Cheap to clone; keeps the map alive, so it may outlive
/// [`SafetensorsFile`] and
/// [`WeightFiles`](super::WeightFiles) and travel between threads.
///
/// Invariant, from [`parse_header`]: `range` is inside the map and holds exactly `shape product *
/// element size` bytes.
#[derive(Debug, Clone)]
pub struct MappedTensor {
    file: Arc<MappedFile>,
    name: Arc<str>,
    dtype: StoredType,
    shape: Arc<[usize]>,
    range: Range<usize>,
}

impl MappedTensor {
    /// Name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Number format in the file.
    pub fn dtype(&self) -> StoredType {
        self.dtype
    }

    /// Row-major shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The raw little-endian bytes, in place.
    pub fn bytes(&self) -> &[u8] {
        self.file.bytes().get(self.range.clone()).unwrap_or_default()
    }

    /// Requests read-ahead of this tensor.
    pub fn prefetch(&self) {
        self.file.prefetch(self.range.clone());
    }

    /// Gives back the memory of this tensor's pages until the next access.
    pub fn release(&self) {
        self.file.release(self.range.clone());
    }

    /// The elements in place, when they are bfloat16.
    ///
    /// # Errors
    /// When the tensor has another format, or begins at an odd byte.
    pub fn as_bf16(&self) -> Result<&[bf16], CheckpointError> {
        self.cast(StoredType::BF16)
    }

    /// The elements in place, when they are float32.
    ///
    /// # Errors
    /// When the tensor has another format, or is not aligned to 4 bytes.
    pub fn as_f32(&self) -> Result<&[f32], CheckpointError> {
        self.cast(StoredType::F32)
    }

    /// The elements in place, when they are int64.
    ///
    /// # Errors
    /// When the tensor has another format, or is not aligned to 8 bytes.
    pub fn as_i64(&self) -> Result<&[i64], CheckpointError> {
        self.cast(StoredType::I64)
    }

    /// A float32 copy of a tensor in any of BF16, F16, F32, F64; works for any alignment.
    ///
    /// # Errors
    /// When the tensor holds no floating-point numbers that are read.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.bytes();
        Ok(match self.dtype {
            StoredType::BF16 => {
                bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect()
            }
            StoredType::F16 => {
                bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
            }
            StoredType::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            StoredType::F64 => {
                bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect()
            }
            _ => return Err(self.wrong_dtype("BF16, F16, F32 or F64")),
        })
    }

    /// A bfloat16 copy of a tensor in any of BF16, F16, F32; exact for BF16, rounded to nearest
    /// even otherwise.
    ///
    /// # Errors
    /// When the tensor holds no floating-point numbers that are read.
    pub fn to_bf16_vec(&self) -> Result<Vec<bf16>, CheckpointError> {
        let bytes = self.bytes();
        Ok(match self.dtype {
            StoredType::BF16 => {
                bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b)).collect()
            }
            StoredType::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| bf16::from_f32(f16::from_le_bytes(b).to_f32()))
                .collect(),
            StoredType::F32 => {
                bytes.as_chunks().0.iter().map(|&b| bf16::from_f32(f32::from_le_bytes(b))).collect()
            }
            _ => return Err(self.wrong_dtype("BF16, F16 or F32")),
        })
    }

    /// `self`, when it has this shape.
    ///
    /// # Errors
    /// When the shape differs.
    pub fn with_shape(self, expected: &[usize]) -> Result<Self, CheckpointError> {
        if self.shape() == expected {
            return Ok(self);
        }
        Err(CheckpointError::WrongShape {
            path: self.path().to_owned(),
            tensor: self.name().to_owned(),
            found: self.shape().to_vec(),
            expected: expected.to_vec(),
        })
    }

    /// `self`, when it is a weight: BF16, F16 or F32.
    ///
    /// # Errors
    /// When it has another format, as quantised checkpoints do.
    pub fn with_weight_dtype(self) -> Result<Self, CheckpointError> {
        match self.dtype {
            StoredType::BF16 | StoredType::F16 | StoredType::F32 => Ok(self),
            _ => Err(self.wrong_dtype("BF16, F16 or F32")),
        }
    }

    fn wrong_dtype(&self, expected: impl fmt::Display) -> CheckpointError {
        CheckpointError::WrongDtype {
            path: self.path().to_owned(),
            tensor: self.name().to_owned(),
            found: self.dtype,
            expected: expected.to_string(),
        }
    }

    fn cast<T: bytemuck::AnyBitPattern>(&self, dtype: StoredType) -> Result<&[T], CheckpointError> {
        if self.dtype != dtype {
            return Err(self.wrong_dtype(dtype));
        }
        // The length is a multiple of the element by the invariant, so only the alignment can be
        // wrong.
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| CheckpointError::Unaligned {
            path: self.path().to_owned(),
            tensor: self.name().to_owned(),
            offset: self.range.start,
            align: align_of::<T>(),
        })
    }
}
