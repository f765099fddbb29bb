//! tokenizer.json, read by its own library.

use std::path::{Path, PathBuf};

use super::config::OpenVlaConfig;
use super::error::{CheckpointError, one_line};
use super::read::read_bounded;

/// Largest tokenizer.json read, bytes. Llama-2's has 1.8 MB, Gemma's 33 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Longest text encoded, bytes: four bytes for each of the 2048 positions of the model, and more than any instruction.
pub const MAX_TEXT_BYTES: usize = 8192;

/// Llama-2's id of the empty word `▁`, after which OpenVLA answers.
pub const EMPTY_WORD: u32 = 29_871;

/// The text encoder of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of the folder.
    ///
    /// # Errors
    /// When the file is missing or is not one the library can read.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("tokenizer.json");
        let remedy = "a tokenizer.model alone is not read; write it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
        let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES, remedy)?;
        Self::from_json(&path, &bytes)
    }

    /// Parses the bytes of a tokenizer.json; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let fail = |error: &dyn std::fmt::Display, remedy| CheckpointError::Tokenizer {
            path: path.to_owned(),
            detail: one_line(&error.to_string()),
            remedy,
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| fail(&error, "restore the file from the original checkpoint"))?;
        // Saved truncation and padding are left over from training; transformers resets both at every call.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| fail(&error, "restore the file from the original checkpoint"))?;
        Ok(Self { path: path.to_owned(), inner })
    }

    /// Token ids of a text, with the special tokens that tokenizer.json adds (Llama: BOS in front).
    ///
    /// # Errors
    /// When the text is longer than [`MAX_TEXT_BYTES`] or the library refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(CheckpointError::TextTooLong { bytes: text.len(), limit: MAX_TEXT_BYTES });
        }
        let encoding = self.inner.encode(text, true).map_err(|error| CheckpointError::Tokenizer {
            path: self.path.clone(),
            detail: one_line(&error.to_string()),
            remedy: "restore the file from the original checkpoint",
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of a token, as the vocabulary spells it (`▁robot`), for messages.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included (32001 in OpenVLA).
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// One more than the highest token id: what the embedding must have rows for.
    pub fn id_end(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Checks that every id has a row in the embedding, that texts get their BOS, and that token 29871 is the empty word that
    /// the prompt must end with. A tokenizer of another model would otherwise feed the policy plausible nonsense.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn check_fits(&self, config: &OpenVlaConfig) -> Result<(), CheckpointError> {
        let fail = |detail: String| CheckpointError::Tokenizer {
            path: self.path.clone(),
            detail,
            remedy: "use the tokenizer.json of the same checkpoint",
        };
        let (end, rows) = (self.id_end(), config.llama.vocab_size);
        if end > rows {
            return Err(fail(format!("token ids go up to {}, the embedding has {rows} rows", end - 1)));
        }
        let empty = self.token(EMPTY_WORD);
        if empty.as_deref() != Some("▁") {
            return Err(fail(format!(
                "token {EMPTY_WORD} is {:?}, not the empty word \"▁\" of Llama-2",
                empty.unwrap_or_default()
            )));
        }
        let bos = self.id("<s>");
        let first = self.encode("a")?.first().copied();
        if bos.is_none() || first != bos {
            return Err(fail(format!("a text begins with token {first:?}, not with <s> ({bos:?})")));
        }
        Ok(())
    }
}
