//! A whole OpenVLA folder, opened and cross-checked.

use std::path::{Path, PathBuf};

use super::config::{OpenVlaConfig, read_config};
use super::error::{CheckpointError, quoted};
use super::inventory::Inventory;
use super::location::no_folder;
use super::norm_stats::NormStats;
use super::oft::{sign_in_tensors, sign_of_oft};
use super::preprocessor::PreprocessorConfig;
use super::siblings::{refuse_adapter_file, refuse_unread};
use super::tokenizer::Tokenizer;
use super::weights::WeightFiles;

/// Everything in an OpenVLA checkpoint folder. Every needed tensor is present with the right shape,
/// and the files are consistent.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// config.json.
    pub config: OpenVlaConfig,
    /// Action statistics.
    pub norm_stats: NormStats,
    /// preprocessor_config.json.
    pub preprocessor: PreprocessorConfig,
    /// tokenizer.json.
    pub tokenizer: Tokenizer,
    /// The mapped weights.
    pub weights: WeightFiles,
}

impl Checkpoint {
    /// Opens the folder and checks its parts against each other. Reads the small files, the
    /// shards' headers and a few elements of each weight matrix.
    ///
    /// # Errors
    /// The first missing, broken or inconsistent part; any sign that the folder is OpenVLA-OFT's.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if folder.is_dir()
            && let Some(sign) = sign_of_oft(folder)?
        {
            return Err(not_plain(folder, sign));
        }
        let checkpoint = Self::open_unchecked(folder)?;
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Checks that the tensors are those that the configuration needs and no others, and that their
    /// data arrived.
    ///
    /// # Errors
    /// The first tensor that is missing, wrong, constant, or another model's.
    pub fn check(&self) -> Result<(), CheckpointError> {
        if let Some(name) = sign_in_tensors(self.weights.names()) {
            return Err(not_plain(&self.folder, format!("tensor {}", quoted(name))));
        }
        let expected = self.config.expected_tensors();
        refuse_unread(&self.weights, &expected)?;
        self.weights.check(&expected)
    }

    /// Like [`Checkpoint::open`], also for the folder of an OpenVLA-OFT checkpoint, and without
    /// comparing the tensors with the configuration, so that `inspect` can list all that is
    /// missing.
    ///
    /// # Errors
    /// The first missing, broken or inconsistent file.
    pub fn open_unchecked(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        refuse_adapter_file(folder)?;
        let path = folder.join("config.json");
        let bytes = read_config(&path)?;
        let config = OpenVlaConfig::from_json(&path, &bytes)?;
        let norm_stats = NormStats::open_with_config(folder, &path, &bytes)?;
        let preprocessor = PreprocessorConfig::open(folder, &config)?;
        let tokenizer = Tokenizer::open(folder)?;
        tokenizer.check_fits(&config)?;
        let weights = WeightFiles::open(folder)?;
        Ok(Self { folder: folder.to_owned(), config, norm_stats, preprocessor, tokenizer, weights })
    }

    /// The figures of `openvla inspect`.
    pub fn inventory(&self) -> Inventory {
        Inventory::new(&self.weights, &self.config.expected_tensors())
    }
}

/// A folder with signs of OpenVLA-OFT, given where plain OpenVLA is wanted.
fn not_plain(folder: &Path, sign: String) -> CheckpointError {
    CheckpointError::field(
        folder,
        "the checkpoint",
        format!("OpenVLA-OFT ({sign})"),
        "as plain OpenVLA its tokens would mean nothing; use a policy file for OpenVLA-OFT",
    )
}
