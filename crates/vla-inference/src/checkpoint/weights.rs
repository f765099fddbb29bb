//! All the weights of a checkpoint folder, from one file or several shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{CheckpointError, quoted};
use super::index::WeightIndex;
use super::location::no_folder;
use super::other_folder::entries;
use super::read::{is_listed, read_bounded};
use super::shard::{MappedTensor, SafetensorsFile};

/// The file of an unsharded checkpoint.
const SINGLE: &str = "model.safetensors";
/// The index of a sharded one.
const INDEX: &str = "model.safetensors.index.json";
/// Largest index file read, bytes. The one of a 7-billion-parameter model has 80 kB.
const MAX_INDEX_BYTES: u64 = 32 << 20;

/// The mapped weights of one checkpoint folder.
///
/// Every header was checked when it was opened, and the index agrees with the shards in both
/// directions. Opening reads only headers; the weights are read from disk as they are used.
#[derive(Debug, Clone)]
pub struct WeightFiles {
    folder: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Tensor name to position in `files`.
    places: BTreeMap<String, usize>,
    bytes: u64,
}

impl WeightFiles {
    /// Opens `model.safetensors.index.json` and its shards, or `model.safetensors`.
    ///
    /// An index beside a `model.safetensors` that it does not name is an error, since
    /// it is unclear which of the two is current.
    ///
    /// # Errors
    /// When a file is missing or is damaged, or the index and the shards disagree.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        let (index, single) = (folder.join(INDEX), folder.join(SINGLE));
        if is_listed(&index) {
            return Self::open_sharded(folder, &index, &single);
        }
        let file = SafetensorsFile::open(&single).map_err(|error| match error {
            CheckpointError::Missing { path, .. } => {
                CheckpointError::Missing { path, remedy: without_weights(folder) }
            }
            other => other,
        })?;
        let places = file.names().map(|name| (name.to_owned(), 0)).collect();
        Ok(Self::new(folder, vec![file], places))
    }

    fn open_sharded(folder: &Path, path: &Path, single: &Path) -> Result<Self, CheckpointError> {
        let bytes =
            read_bounded(path, MAX_INDEX_BYTES, "copy the index from the original checkpoint")?;
        let index = WeightIndex::from_json(path, &bytes)?;
        if is_listed(single) && !index.files().contains(SINGLE) {
            return Err(index.problem(
                "the folder also holds model.safetensors, which the index does not name".to_owned(),
                "remove whichever of the two is stale",
            ));
        }
        let mut files = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for name in index.files() {
            let shard = folder.join(name);
            if !is_listed(&shard) {
                let remedy = if is_unfinished(folder) {
                    "the download did not finish (.cache/huggingface holds an .incomplete file); \
                    run hf download again to download the missing shard"
                } else {
                    "download the missing shard into the same folder"
                };
                return Err(index.problem(
                    format!("shard {} is named here but is not in the folder", quoted(name)),
                    remedy,
                ));
            }
            let file = SafetensorsFile::open(&shard)?;
            for tensor in file.names() {
                let listed = index.file_of(tensor);
                if listed != Some(name) {
                    let listed = listed.map_or("does not list it".to_owned(), |other| {
                        format!("lists {}", quoted(other))
                    });
                    return Err(index.problem(
                        format!(
                            "tensor {} is in shard {}, the index {listed}",
                            quoted(tensor),
                            quoted(name)
                        ),
                        "index and shards come from different saves, download both again",
                    ));
                }
                places.insert(tensor.to_owned(), files.len());
            }
            files.push(file);
        }
        if let Some((tensor, shard)) =
            index.entries().find(|(tensor, _)| !places.contains_key(*tensor))
        {
            return Err(index.problem(
                format!(
                    "tensor {} is listed in shard {}, which does not hold it",
                    quoted(tensor),
                    quoted(shard)
                ),
                "index and shards come from different saves, download both again",
            ));
        }
        Ok(Self::new(folder, files, places))
    }

    fn new(folder: &Path, files: Vec<SafetensorsFile>, places: BTreeMap<String, usize>) -> Self {
        let mut weights = Self { folder: folder.to_owned(), files, places, bytes: 0 };
        weights.bytes = weights.tensors().map(|tensor| tensor.bytes().len() as u64).sum();
        weights
    }

    /// The checkpoint folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files, in name order.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = MappedTensor> {
        self.names().filter_map(|name| self.tensor(name).ok())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all tensors together, headers not counted.
    pub fn total_bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the checkpoint holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The tensor of this name, whatever its shape and format.
    ///
    /// # Errors
    /// When no shard holds it.
    pub fn tensor(&self, name: &str) -> Result<MappedTensor, CheckpointError> {
        match self.places.get(name).and_then(|&place| self.files.get(place)) {
            Some(file) => file.tensor(name),
            None => Err(CheckpointError::MissingTensor {
                path: self.folder.clone(),
                tensor: name.to_owned(),
                hint: "config.json calls for it; use config.json and weights of one checkpoint, \
                    merged if it was fine-tuned with LoRA",
            }),
        }
    }

    /// The weight of this name with exactly this shape, in BF16, F16 or F32.
    ///
    /// # Errors
    /// When it is missing, or its shape or format is another.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<MappedTensor, CheckpointError> {
        self.tensor(name)?.with_shape(shape)?.with_weight_dtype()
    }

    /// Requests read-ahead of all weights, so that the first inference does not wait for the disk
    /// page by page.
    pub fn prefetch(&self) {
        self.files.iter().for_each(SafetensorsFile::prefetch);
    }

    /// Whether the mapped files still are what they were when opened; a replacement by renaming
    /// passes, since the map keeps the old file.
    ///
    /// # Errors
    /// When a file was rewritten in place: the weights in use may be a mixture.
    pub fn verify_unchanged(&self) -> Result<(), CheckpointError> {
        self.files.iter().try_for_each(SafetensorsFile::verify_unchanged)
    }
}

/// What to do about a folder without `model.safetensors` and without an index: by the weights that
/// it holds instead.
fn without_weights(folder: &Path) -> &'static str {
    let names = entries(folder);
    let any = |test: fn(&str) -> bool| names.iter().any(|name| test(name));
    if any(|name| name.starts_with("model-") && name.ends_with(".safetensors")) {
        "shards lie here without model.safetensors.index.json, which names them; copy it from the \
        original checkpoint"
    } else if any(|name| name.starts_with("pytorch_model") || name.starts_with("consolidated.")) {
        "this folder holds pickled PyTorch weights, which are not read; save it with \
        save_pretrained(safe_serialization=True)"
    } else if any(|name| name.ends_with(".gguf")) {
        "this folder holds quantised weights (GGUF), which are not read; use the bfloat16 \
        *.safetensors files"
    } else if any(|name| name.ends_with(".msgpack") || name.ends_with(".h5")) {
        "this folder holds weights of JAX or TensorFlow, which are not read; save it from PyTorch \
        with save_pretrained"
    } else if is_unfinished(folder) {
        "the download did not finish (.cache/huggingface holds an .incomplete file); run hf \
        download again"
    } else {
        "and no model.safetensors.index.json beside it; download the weights (git lfs pull, or hf \
        download) into this folder"
    }
}

/// Whether `hf download --local-dir` left a file of which a part is missing.
fn is_unfinished(folder: &Path) -> bool {
    let parts = entries(&folder.join(".cache").join("huggingface").join("download"));
    parts.iter().any(|name| name.ends_with(".incomplete"))
}
