//! tokenizer_config.json: which special tokens stand around a text.
//!
//! transformers' `LlamaTokenizerFast` replaces the template in tokenizer.json by one of its own,
//! made of `add_bos_token` (true where absent), `add_eos_token` (false), `bos_token` and
//! `eos_token` of this file. Any other class keeps the template of tokenizer.json.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::fields::{Fields, shown};
use super::read::{is_listed, parse_json, read_bounded};

/// Largest tokenizer_config.json read, bytes. One with a thousand added tokens has 200 kB.
const MAX_BYTES: u64 = 8 << 20;
/// Longest token, bytes.
const MAX_TOKEN_BYTES: usize = 256;

/// What tokenizer_config.json says of special tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Text of the token at the beginning.
    pub bos: Option<String>,
    /// Text of the token at the end.
    pub eos: Option<String>,
    /// Whether texts begin with `bos` and whether they end with `eos`; `None` where the template of
    /// tokenizer.json decides.
    pub added: Option<[bool; 2]>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json` of the folder; without the file nothing is said.
    ///
    /// # Errors
    /// When the file cannot be read, or a field has another type.
    pub(super) fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("tokenizer_config.json");
        if !is_listed(&path) {
            return Ok(Self::default());
        }
        let bytes = read_bounded(&path, MAX_BYTES, "copy it from the original checkpoint")?;
        Self::from_json(&path, &bytes)
    }

    /// Parses the bytes of a tokenizer_config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// As when a checkpoint with this file is opened.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let map: Map<String, Value> = parse_json(path, bytes)?;
        let fields = Fields::new(path, "", &map);
        let class = fields.text("tokenizer_class")?;
        let is_llama = matches!(class, Some("LlamaTokenizer" | "LlamaTokenizerFast"));
        let (bos, eos) = (token(&fields, "bos_token")?, token(&fields, "eos_token")?);
        // Python takes null for false here, as it does not for a field that is absent.
        let flag = |name: &str, absent| match map.get(name) {
            Some(Value::Null) => Ok(false),
            _ => fields.flag(name, absent),
        };
        let added = [flag("add_bos_token", true)?, flag("add_eos_token", false)?];
        if is_llama {
            for (name, token, added) in
                [("bos_token", &bos, added[0]), ("eos_token", &eos, added[1])]
            {
                // The class has a default for either; null is what the file must say to unset it.
                if added && token.is_none() && map.get(name).is_some_and(Value::is_null) {
                    let remedy = format!("add_{name} is true and needs it; restore the file");
                    return Err(fields.error(name, "null", remedy));
                }
            }
        }
        Ok(Self { bos, eos, added: is_llama.then_some(added) })
    }
}

/// A token: its text, or an object with the text as `content`.
fn token(fields: &Fields<'_>, name: &str) -> Result<Option<String>, CheckpointError> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    match text.filter(|text| !text.is_empty() && text.len() <= MAX_TOKEN_BYTES) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            let remedy = "must be a token's text, or an object with it as content; restore the \
                file from the original checkpoint";
            Err(fields.error(name, shown(value), remedy))
        }
    }
}
