//! tokenizer.json, read by the `tokenizers` library.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::config::OpenVlaConfig;
use super::error::{CheckpointError, quoted};
use super::read::{parse_json, read_bounded};
use super::special_tokens::SpecialTokens;
use crate::text::one_line;

/// Largest tokenizer.json read, bytes. Llama-2's has 1.8 MB, Gemma's 33 MB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;
/// Longest text encoded, bytes: four bytes for each of the 2048 positions of the model, and more
/// than any instruction.
pub const MAX_TEXT_BYTES: usize = 8192;

/// The empty word, with which OpenVLA's prompts end.
const EMPTY_WORD: &str = "▁";
/// Tokens of Llama-2's vocabulary, whose empty word the official code names by its id.
const LLAMA_2_WORDS: usize = 32_000;
const LLAMA_2_EMPTY_WORD: u32 = 29_871;

/// The text encoder of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Id of the empty word, where the vocabulary has one.
    empty_word: Option<u32>,
    /// Texts of the tokens at the beginning and the end, where tokenizer_config.json names them.
    named: [Option<String>; 2],
    /// Ids before and behind every text, in place of the template of tokenizer.json.
    around: Option<[Option<u32>; 2]>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of the folder, with the special tokens of `tokenizer_config.json`.
    ///
    /// # Errors
    /// When the file is missing or is not one the library can read.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("tokenizer.json");
        let remedy = "a tokenizer.model alone is not read; write it with \
            AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
        let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES, remedy)?;
        Self::from_json(&path, &bytes)?.with_special_tokens(SpecialTokens::open(folder)?)
    }

    /// With the special tokens that tokenizer_config.json says.
    ///
    /// # Errors
    /// When the vocabulary has not the token that every text begins or ends with.
    pub fn with_special_tokens(mut self, special: SpecialTokens) -> Result<Self, CheckpointError> {
        if let Some([begins, ends]) = special.added {
            // The class's own defaults.
            let bos = special.bos.as_deref().unwrap_or("<s>");
            let eos = special.eos.as_deref().unwrap_or("</s>");
            let id = |token: &str, added: bool| {
                if !added {
                    return Ok(None);
                }
                self.id(token).map(Some).ok_or_else(|| CheckpointError::Tokenizer {
                    path: self.path.clone(),
                    detail: format!(
                        "has no token {}, which tokenizer_config.json puts around every text",
                        quoted(token)
                    ),
                    remedy: "use both files of one checkpoint",
                })
            };
            self.around = Some([id(bos, begins)?, id(eos, ends)?]);
        }
        self.named = [special.bos, special.eos];
        Ok(self)
    }

    /// Reads a tokenizer.json, or a SentencePiece model when the name ends in `.model`; `remedy` is
    /// part of the error when there is none.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn open_file(path: &Path, remedy: &'static str) -> Result<Self, CheckpointError> {
        let bytes = read_bounded(path, MAX_TOKENIZER_BYTES, remedy)?;
        if path.extension().is_some_and(|extension| extension == "model") {
            let json = super::sentencepiece::to_tokenizer_json(path, &bytes)?;
            return Self::from_json(path, &json);
        }
        Self::from_json(path, &bytes)
    }

    /// Parses the bytes of a tokenizer.json; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let fail = |detail: String| CheckpointError::Tokenizer {
            path: path.to_owned(),
            detail: one_line(&detail),
            remedy: "restore the file from the original checkpoint",
        };
        // Read as plain JSON first: the library panics on malformed JSON in some places. What
        // encoding does not need is left out: the decoder, and the truncation and padding left over
        // from training, which transformers resets at every call.
        let mut fields: Map<String, Value> = parse_json(path, bytes)?;
        for name in ["decoder", "truncation", "padding"] {
            fields.insert(name.to_owned(), Value::Null);
        }
        if let Some(token) = fields.get("post_processor").and_then(undefined_special_token) {
            return Err(fail(format!(
                "post_processor uses {} without defining it in special_tokens",
                quoted(token)
            )));
        }
        let clean = serde_json::to_vec(&fields).map_err(|error| fail(error.to_string()))?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&clean)).map_err(fail)?;
        // What a user writes is text: without this, `</s>` in it would end the sequence.
        inner.set_encode_special_tokens(true);
        let empty_word = inner.token_to_id(EMPTY_WORD);
        Ok(Self { path: path.to_owned(), inner, empty_word, named: [None, None], around: None })
    }

    /// Token ids of a text, with the special tokens that tokenizer_config.json or the template of
    /// tokenizer.json adds (Llama: BOS in front). Names of special tokens in the text are text.
    ///
    /// # Errors
    /// When the text is longer than [`MAX_TEXT_BYTES`] or the library refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        self.encode_with(&self.inner, text)
    }

    /// [`Tokenizer::encode`] as the official code does it, which takes the name of a special token
    /// in a text for the token. For comparisons with its values; copies the vocabulary.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_as_official(&self, text: &str) -> Result<Vec<u32>, CheckpointError> {
        let mut inner = self.inner.clone();
        inner.set_encode_special_tokens(false);
        self.encode_with(&inner, text)
    }

    /// Whether a text holds the name of a special token.
    #[must_use]
    pub fn names_special_token(&self, text: &str) -> bool {
        let added = self.inner.get_added_tokens_decoder();
        added.values().any(|token| token.special && text.contains(&token.content))
    }

    fn encode_with(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
    ) -> Result<Vec<u32>, CheckpointError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(CheckpointError::TextTooLong { bytes: text.len(), limit: MAX_TEXT_BYTES });
        }
        let template = self.around.is_none();
        let encoding = guarded(|| inner.encode(text, template)).map_err(|detail| {
            CheckpointError::Tokenizer {
                path: self.path.clone(),
                detail: one_line(&detail),
                remedy: "restore the file from the original checkpoint",
            }
        })?;
        let [before, behind] = self.around.unwrap_or_default();
        Ok(before.into_iter().chain(encoding.get_ids().iter().copied()).chain(behind).collect())
    }

    /// [`Tokenizer::encode`] of an OpenVLA prompt: with the empty word at the end. The official
    /// code appends it (id 29871) if the prompt does not end with it, as in training.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, CheckpointError> {
        let mut ids = self.encode(prompt)?;
        if ids.last().copied() != self.empty_word {
            ids.extend(self.empty_word);
        }
        Ok(ids)
    }

    /// The text of a token, as the vocabulary spells it (`▁robot`), for messages.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id of the empty word `▁`, with which OpenVLA's prompts end: 29871 in Llama-2's
    /// vocabulary. An opened checkpoint has one.
    pub fn empty_word(&self) -> Option<u32> {
        self.empty_word
    }

    /// The id of the token that ends a sequence: tokenizer_config.json's, or `</s>`.
    pub fn end_of_sequence(&self) -> Option<u32> {
        self.id(self.named[1].as_deref().unwrap_or("</s>"))
    }

    /// Number of tokens, added ones included (32001 in OpenVLA).
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// One more than the highest token id: the rows that the embedding must have.
    pub fn id_end(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Checks that every id has a row in the embedding, that texts get their BOS, and that there is
    /// the empty word that the prompt must end with; in a vocabulary of Llama-2's size it must have
    /// Llama-2's id. The ids of another model's tokenizer would be valid but
    /// wrong.
    ///
    /// # Errors
    /// The first mismatch.
    pub(super) fn check_fits(&self, config: &OpenVlaConfig) -> Result<(), CheckpointError> {
        let fail = |detail: String| CheckpointError::Tokenizer {
            path: self.path.clone(),
            detail,
            remedy: "use the tokenizer.json of the same checkpoint",
        };
        let (end, rows) = (self.id_end(), config.llama.vocab_size);
        if end > rows {
            return Err(fail(format!(
                "token ids go up to {}, the embedding has {rows} rows",
                end - 1
            )));
        }
        if config.action_token_end == LLAMA_2_WORDS && self.empty_word != Some(LLAMA_2_EMPTY_WORD) {
            let found = self.token(LLAMA_2_EMPTY_WORD).unwrap_or_default();
            return Err(fail(format!(
                "token {LLAMA_2_EMPTY_WORD} is {found:?}, not the empty word {EMPTY_WORD:?} of \
                Llama-2"
            )));
        }
        if self.empty_word.is_none() {
            return Err(fail(format!(
                "the vocabulary has no empty word {EMPTY_WORD:?}, which every prompt ends with"
            )));
        }
        self.check_action_tokens(config)?;
        if self.around.is_some() {
            return Ok(()); // as tokenizer_config.json says, with or without
        }
        let bos = self.id(self.named[0].as_deref().unwrap_or("<s>"));
        let first = self.encode("a")?.first().copied();
        if bos.is_none() || first != bos {
            return Err(fail(format!(
                "a text begins with token {first:?}, not with <s> ({bos:?})"
            )));
        }
        Ok(())
    }
}

impl Tokenizer {
    /// Checks that the action tokens are where training put them: at the end of the vocabulary's
    /// own words, before tokens are added, while inference counts them from the embedding's rows
    /// without padding. A vocabulary that ends before the action tokens leaves them to themselves.
    fn check_action_tokens(&self, config: &OpenVlaConfig) -> Result<(), CheckpointError> {
        let end = config.action_token_end;
        let begin = end - config.action_bins;
        let added = self.inner.get_added_tokens_decoder();
        let added: BTreeMap<usize, &str> =
            added.iter().map(|(&id, token)| (id as usize, token.content.as_str())).collect();
        let words = self.inner.get_vocab(false).into_values().map(|id| id as usize);
        let words_end = words.filter(|id| !added.contains_key(id)).max().map_or(0, |id| id + 1);
        let fail = |detail: String, remedy| {
            Err(CheckpointError::Tokenizer { path: self.path.clone(), detail, remedy })
        };
        if words_end != end && words_end > begin {
            return fail(
                format!(
                    "its words end at id {words_end}, but config.json puts the action tokens at \
                    {begin}..{end} (vocab_size {} less pad_to_multiple_of)",
                    config.llama.vocab_size
                ),
                "every action would be shifted; restore vocab_size, pad_to_multiple_of and weights \
                of one checkpoint",
            );
        }
        if let Some((id, token)) = added.range(begin..end).next() {
            return fail(
                format!("the added token {} has id {id}, an action token's", quoted(token)),
                "use the tokenizer.json of the same checkpoint",
            );
        }
        // Models of latent or learned actions add tokens for them behind the vocabulary.
        let foreign = added.values().find(|token| {
            let token = token.trim_start_matches(['<', '|', '[']).to_lowercase();
            ["act_", "action_", "latent_"].iter().any(|prefix| token.starts_with(prefix))
        });
        match foreign {
            Some(token) => fail(
                format!("has the added token {}", quoted(token)),
                "this is a model with action tokens of its own, not OpenVLA; use a checkpoint of \
                OpenVLA",
            ),
            None => Ok(()),
        }
    }

    /// Checks that every id has one of the `rows` of the embedding, and that a text begins with
    /// `<bos>` and does not end with `<eos>`, as PaliGemma's.
    ///
    /// # Errors
    /// The first mismatch.
    pub(super) fn check_fits_gemma(&self, rows: usize) -> Result<(), CheckpointError> {
        let fail = |detail: String| CheckpointError::Tokenizer {
            path: self.path.clone(),
            detail,
            remedy: "use the tokenizer that the checkpoint was trained with: PaliGemma's, of \
                google/paligemma-3b-pt-224",
        };
        let end = self.id_end();
        if end > rows {
            let last = end - 1;
            return Err(fail(format!("token ids go up to {last}, the embedding has {rows} rows")));
        }
        let ids = self.encode("a")?;
        let bos = self.id("<bos>");
        if bos.is_none() || ids.first().copied() != bos || ids.len() < 2 {
            let first = ids.first();
            return Err(fail(format!(
                "a text begins with token {first:?}, not with <bos> ({bos:?})"
            )));
        }
        if self.id("<eos>").is_some_and(|eos| ids.last() == Some(&eos)) {
            return Err(fail("a text ends with <eos>, which the prompt must not have".into()));
        }
        Ok(())
    }
}

/// The first special token that a template uses and does not define; the library would panic on it
/// at the first text.
fn undefined_special_token(processor: &Value) -> Option<&str> {
    if let Some(list) = processor.get("processors").and_then(Value::as_array) {
        return list.iter().find_map(undefined_special_token);
    }
    let defined = processor.get("special_tokens");
    let pieces =
        ["single", "pair"].into_iter().filter_map(|name| processor.get(name)?.as_array()).flatten();
    let mut used = pieces.filter_map(|piece| piece.get("SpecialToken")?.get("id")?.as_str());
    used.find(|token| defined.and_then(|map| map.get(token)).is_none())
}

/// Calls the tokenizer library and turns a panic into an error: fuzzing found panics on hostile
/// files in two places, both now checked for beforehand, and another must not end the node. Nothing
/// that a panicking call touched is used afterwards.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library cannot handle this file".to_owned()),
    }
}
