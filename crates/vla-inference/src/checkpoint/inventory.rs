//! Contents of a checkpoint compared with what its configuration needs: the figures of `openvla
//! inspect`.

use std::collections::{BTreeMap, BTreeSet};

use super::constant::refuse_constant_weights;
use super::error::CheckpointError;
use super::expected::ExpectedTensor;
use super::weights::WeightFiles;

/// Tensors and parameters of one part of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Group {
    /// First two parts of the names: `vision_backbone.featurizer`.
    pub name: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub parameters: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A tensor whose shape is not the one expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape that the configuration implies.
    pub expected: Vec<usize>,
}

/// The summary of a checkpoint's weights. All lists are sorted by name except `groups`, which is in
/// the order of the files' sorted names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Number of tensors in the files.
    pub tensors: usize,
    /// Number of elements.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// The same by part of the model.
    pub groups: Vec<Group>,
    /// Number of tensors by number format.
    pub dtypes: BTreeMap<String, usize>,
    /// Needed by inference and in no file.
    pub missing: Vec<String>,
    /// In the files with a shape that the configuration contradicts.
    pub misshapen: Vec<Misshapen>,
    /// In the files, known, and never read by inference.
    pub unused: Vec<String>,
    /// Elements of `unused` together.
    pub unused_parameters: u64,
    /// In the files and unknown.
    pub unexpected: Vec<String>,
}

impl Inventory {
    /// Compares `weights` with the tensors that a model expects.
    pub fn new(weights: &WeightFiles, expected: &[ExpectedTensor]) -> Self {
        let mut inventory =
            Self { tensors: weights.len(), bytes: weights.total_bytes(), ..Self::default() };
        let known: BTreeMap<&str, &ExpectedTensor> =
            expected.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for tensor in weights.tensors() {
            let (name, parameters) = (tensor.name(), tensor.elements() as u64);
            let group = groups.entry(group_of(name)).or_default();
            group.tensors += 1;
            group.parameters += parameters;
            group.bytes += tensor.bytes().len() as u64;
            inventory.parameters += parameters;
            *inventory.dtypes.entry(tensor.dtype().to_string()).or_default() += 1;
            match known.get(name) {
                None => inventory.unexpected.push(name.to_owned()),
                Some(expected) => {
                    if expected.shape != tensor.shape() {
                        let (found, expected) = (tensor.shape().to_vec(), expected.shape.clone());
                        inventory.misshapen.push(Misshapen {
                            name: name.to_owned(),
                            found,
                            expected,
                        });
                    }
                    if !expected.used {
                        inventory.unused.push(name.to_owned());
                        inventory.unused_parameters += parameters;
                    }
                }
            }
        }
        inventory.groups =
            groups.into_iter().map(|(name, group)| Group { name, ..group }).collect();
        let missing: BTreeSet<&str> = known
            .values()
            .filter(|tensor| tensor.used && !weights.contains(&tensor.name))
            .map(|tensor| tensor.name.as_str())
            .collect();
        inventory.missing = missing.into_iter().map(str::to_owned).collect();
        inventory
    }
}

impl WeightFiles {
    /// Checks that every used tensor of `expected` is there with its shape and a weight format, and
    /// that no weight matrix is constant, before any is loaded: a 15 GB checkpoint must not fail at
    /// its last layer.
    ///
    /// # Errors
    /// The first tensor that is missing or wrong.
    pub fn check(&self, expected: &[ExpectedTensor]) -> Result<(), CheckpointError> {
        expected
            .iter()
            .filter(|tensor| tensor.used)
            .try_for_each(|tensor| self.expect(&tensor.name, &tensor.shape).map(drop))?;
        refuse_constant_weights(expected, |name| self.tensor(name).ok())
    }
}

fn group_of(name: &str) -> String {
    name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}
