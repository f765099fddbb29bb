//! `*.pt` files of `torch.save`: named tensors, read in place without Python.
//!
//! Such a file is a ZIP archive of uncompressed entries. `data.pkl` is a pickle, a program for a
//! stack machine that can call any Python function; `data/0`, `data/1`, ... are the numbers. Here
//! the program is interpreted by a machine that knows the two functions of a saved state dict
//! (`collections.OrderedDict`, `torch._utils._rebuild_tensor_v2`) and the storage types, and builds
//! names, shapes and places only. Every other function is refused by its name. Nothing is ever
//! called.
//!
//! The crate `rawzip` reads the archive over the mapped bytes. `pytorch-reader` was considered: it
//! also reads three older containers, decompresses, takes a call to an unknown function for an
//! opaque value instead of refusing the file, and copies the tensors, where the weights of all
//! other files are used in place.

mod archive;
mod machine;

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{CheckpointError, quoted};
use super::header::{MAX_TENSORS, TensorEntry};
use super::map::MappedFile;
use super::shard::{MappedTensor, TensorTable};
use archive::Archive;
use machine::PickledTensor;

/// Why a `.pt` file is refused. One line, with the place and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages describe the fields
pub enum TorchProblem {
    #[error("not a file that torch.save writes: {detail}; download it again")]
    Archive { detail: String },
    #[error(
        "byte {at} of data.pkl calls {}: only tensors are read, and nothing is executed; do not \
        use this file, or save the module's state_dict() alone",
        quoted(name)
    )]
    Code { at: usize, name: String },
    #[error(
        "byte {at} of data.pkl: {detail}; save the module's state_dict() with torch.save and its \
        defaults"
    )]
    Pickle { at: usize, detail: String },
    #[error("tensor {}: {detail}; download the file again", quoted(tensor))]
    Tensor { tensor: String, detail: String },
}

/// Reads the structure of `file`, a whole `.pt` file. Entries are sorted by name.
///
/// After `Ok`, every range is inside the file and holds exactly the elements of its shape,
/// contiguous in row-major order. Two names may share a range (tied weights).
///
/// # Errors
/// The first problem found. Checksums are not compared: see [`TorchFile::open`].
pub fn parse_torch(file: &[u8]) -> Result<Vec<TensorEntry>, TorchProblem> {
    let archive = Archive::open(file)?;
    let mut tensors = BTreeMap::new();
    for tensor in machine::run(archive.pickle())? {
        let name = tensor.name.clone();
        let entry = place(&archive, tensor)
            .map_err(|detail| TorchProblem::Tensor { tensor: name.clone(), detail })?;
        if tensors.insert(name.clone(), entry).is_some() {
            let detail = "listed twice".to_owned();
            return Err(TorchProblem::Tensor { tensor: name, detail });
        }
    }
    Ok(tensors.into_values().collect())
}

/// The names and shapes in a pickle alone, for the fuzz target: mutations of a whole archive
/// seldom reach it.
///
/// # Errors
/// As [`parse_torch`].
pub fn parse_torch_pickle(pickle: &[u8]) -> Result<Vec<(String, Vec<usize>)>, TorchProblem> {
    let tensors = machine::run(pickle)?;
    Ok(tensors.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect())
}

/// Finds the bytes of a tensor; an error says in words what does not fit.
fn place(archive: &Archive<'_>, tensor: PickledTensor) -> Result<TensorEntry, String> {
    let PickledTensor { name, storage, offset, shape, strides } = tensor;
    let Some(range) = archive.storage(&storage.key) else {
        return Err(format!("its storage data/{} is not in the archive", storage.key));
    };
    let width = storage.dtype.bitsize() / 8;
    if storage.elements.checked_mul(width) != Some(range.len()) {
        return Err(format!(
            "its storage is declared as {} elements of {}, data/{} has {} bytes",
            storage.elements,
            storage.dtype,
            storage.key,
            range.len()
        ));
    }
    let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let Some(end) = elements.and_then(|elements| offset.checked_add(elements)) else {
        return Err(format!("shape {shape:?} has more elements than can be counted"));
    };
    if end > storage.elements {
        return Err(format!(
            "shape {shape:?} from element {offset} on needs {end} elements, its storage has {}",
            storage.elements
        ));
    }
    // The stride of a dimension of one element is never used, and torch leaves anything there.
    let mut expected = 1usize;
    for (&size, &stride) in shape.iter().zip(&strides).rev() {
        if size > 1 && stride != expected && end > offset {
            return Err(format!(
                "shape {shape:?} with strides {strides:?} is a view that is not contiguous, which \
                is not read: save it with contiguous()"
            ));
        }
        expected = expected.saturating_mul(size.max(1));
    }
    // Both are at most the storage's elements, whose bytes are in the file.
    let range = range.start + offset * width..range.start + end * width;
    Ok(TensorEntry { name, dtype: storage.dtype, shape, range })
}

/// One mapped `*.pt` file whose structure and checksums have been checked.
#[derive(Debug, Clone)]
pub struct TorchFile {
    table: TensorTable,
}

impl TorchFile {
    /// Maps the file, checks its structure and compares the checksums of its entries, which reads
    /// it once: unlike a safetensors file it may have been written over piece by piece.
    ///
    /// # Errors
    /// When the file is missing, not a regular file, damaged, or holds anything but tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = MappedFile::open(path, "copy the file from the original checkpoint")?;
        // A zip archive is right, and of a pickle alone the parser says more.
        let foreign = (!file.bytes().starts_with(b"PK") && !file.bytes().starts_with(b"\x80"))
            .then(|| CheckpointError::recognised(path, file.bytes()))
            .flatten();
        if let Some(error) = foreign {
            return Err(error);
        }
        let failed = |problem| CheckpointError::Torch { path: path.to_owned(), problem };
        let entries = parse_torch(file.bytes()).map_err(failed)?;
        Archive::open(file.bytes()).and_then(|archive| archive.verify()).map_err(failed)?;
        debug_assert!(entries.len() <= MAX_TENSORS);
        Ok(Self { table: TensorTable::new(file, entries) })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.table.path()
    }

    /// Tensor names as stored, sorted.
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

    /// See [`WeightFiles::verify_unchanged`](super::WeightFiles::verify_unchanged).
    pub fn verify_unchanged(&self) -> Result<(), CheckpointError> {
        self.table.verify_unchanged()
    }
}
