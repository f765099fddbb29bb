//! SentencePiece models (`tokenizer.model`), turned into the tokenizer.json that Hugging Face's
//! converter makes of Gemma's: the tokenizer itself stays the `tokenizers` library's.
//!
//! The file is a protocol buffer, `sentencepiece_model.proto` of google/sentencepiece. Three
//! messages and a dozen fields are needed, so that they are read here, each length checked before
//! anything is reserved, instead of by generated code. Only byte-pair models without a dummy prefix
//! and without a character map are accepted: Gemma's and PaliGemma's. Llama's has other rules.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::error::CheckpointError;

/// Largest model read, bytes. PaliGemma's has 4.3 MB.
const MAX_BYTES: usize = 32 << 20;
/// Most pieces; PaliGemma has 257 152.
const MAX_PIECES: usize = 1 << 20;
/// Longest piece, bytes.
const MAX_PIECE_BYTES: usize = 256;

/// The type of a piece, as in the proto.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Control,
    UserDefined,
    /// Unknown token, byte, unused.
    Other,
}

struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

#[derive(Default)]
struct Model {
    pieces: Vec<Piece>,
    /// `trainer_spec.model_type`: 1 unigram (the default), 2 byte pairs.
    model_type: Option<u64>,
    byte_fallback: bool,
    char_map: bool,
    add_dummy_prefix: Option<bool>,
    remove_extra_whitespaces: Option<bool>,
    escape_whitespaces: Option<bool>,
}

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

/// Reads a message field by field.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// Number and value of the next field; `Err` for bytes that are no message.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, ()> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint().ok_or(())?;
        let field = match key & 7 {
            0 => Field::Number(self.varint().ok_or(())?),
            1 => {
                self.take(8).ok_or(())?;
                Field::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint().ok_or(())?).map_err(|_| ())?;
                Field::Bytes(self.take(length).ok_or(())?)
            }
            5 => {
                let bytes = self.take(4).and_then(|bytes| bytes.first_chunk().copied());
                Field::Fixed32(bytes.ok_or(())?)
            }
            _ => return Err(()),
        };
        Ok(Some((key >> 3, field)))
    }
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let broken = |()| "not a SentencePiece model, or cut off".to_owned();
        let mut model = Self::default();
        let mut message = Message(bytes);
        while let Some((number, field)) = message.next().map_err(broken)? {
            let Field::Bytes(inner) = field else { continue };
            let mut inner = Message(inner);
            if number == 1 {
                if model.pieces.len() == MAX_PIECES {
                    return Err(format!("more than {MAX_PIECES} pieces"));
                }
                model.pieces.push(piece(inner)?);
                continue;
            }
            while let Some((field, value)) = inner.next().map_err(broken)? {
                match (number, field, value) {
                    (2, 3, Field::Number(value)) => model.model_type = Some(value),
                    (2, 35, Field::Number(value)) => model.byte_fallback = value != 0,
                    (3, 2, Field::Bytes(map)) => model.char_map = !map.is_empty(),
                    (3, 3, Field::Number(value)) => model.add_dummy_prefix = Some(value != 0),
                    (3, 4, Field::Number(value)) => {
                        model.remove_extra_whitespaces = Some(value != 0);
                    }
                    (3, 5, Field::Number(value)) => model.escape_whitespaces = Some(value != 0),
                    _ => {}
                }
            }
        }
        Ok(model)
    }

    /// Checks that the rules are Gemma's; absent fields have the proto's defaults.
    fn check(&self) -> Result<(), String> {
        let refuse = |what: &str| {
            Err(format!("{what}; only models like Gemma's are read (byte pairs, no prefix)"))
        };
        if self.pieces.is_empty() {
            return Err("no pieces".to_owned());
        }
        match self.model_type.unwrap_or(1) {
            2 => {}
            other => return refuse(&format!("model_type is {other}, not 2 (byte pairs)")),
        }
        if self.add_dummy_prefix.unwrap_or(true) {
            return refuse("add_dummy_prefix is true");
        }
        if self.remove_extra_whitespaces.unwrap_or(true) {
            return refuse("remove_extra_whitespaces is true");
        }
        if !self.escape_whitespaces.unwrap_or(true) || self.char_map || !self.byte_fallback {
            return refuse("its normalisation or byte fallback is another");
        }
        let has = |text: &str| self.pieces.iter().any(|piece| piece.text == text);
        if !has("<bos>") || !has("<unk>") {
            return refuse("it has no <bos> or no <unk>");
        }
        Ok(())
    }

    /// Pairs of pieces that form a piece, the best first, in the order of Hugging Face's
    /// `generate_merges`.
    fn merges<'a>(&'a self, ids: &HashMap<&'a str, usize>) -> Vec<(&'a str, &'a str)> {
        let mut all: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.kind != Kind::Control) {
            let mut own = Vec::new();
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(a), Some(b)) = (ids.get(left), ids.get(right)) {
                    own.push((*a, *b, left, right));
                }
            }
            own.sort_by_key(|(a, b, ..)| (*a, *b));
            all.extend(own.into_iter().map(|(_, _, left, right)| {
                (piece.score, left.chars().count(), right.chars().count(), left, right)
            }));
        }
        // Stable, as Python's sort is with `reverse=True`.
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
        all.into_iter().map(|(.., left, right)| (left, right)).collect()
    }

    fn to_json(&self) -> Result<Value, String> {
        let mut ids = HashMap::with_capacity(self.pieces.len());
        for (id, piece) in self.pieces.iter().enumerate() {
            if ids.insert(piece.text.as_str(), id).is_some() {
                return Err(format!("piece {:?} occurs twice", piece.text));
            }
        }
        let bos = ids.get("<bos>").copied().unwrap_or_default();
        let added: Vec<Value> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| {
                matches!(piece.kind, Kind::Control | Kind::UserDefined) || piece.text == "<unk>"
            })
            .map(|(id, piece)| {
                json!({"id": id, "content": piece.text, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false,
                    "special": piece.kind != Kind::UserDefined})
            })
            .collect();
        Ok(json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "pre_tokenizer": null,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}},
            },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>",
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false,
                "vocab": ids, "merges": self.merges(&ids),
            },
        }))
    }
}

fn piece(mut message: Message<'_>) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    while let Some((number, value)) =
        message.next().map_err(|()| "a piece is cut off".to_owned())?
    {
        match (number, value) {
            (1, Field::Bytes(text)) if text.len() <= MAX_PIECE_BYTES => {
                piece.text = std::str::from_utf8(text)
                    .map_err(|_| "a piece is not UTF-8".to_owned())?
                    .to_owned();
            }
            (1, Field::Bytes(text)) => {
                return Err(format!("a piece of {} bytes", text.len()));
            }
            (2, Field::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    _ => Kind::Other,
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// The bytes of an equivalent tokenizer.json; `path` is only named in errors.
pub(super) fn to_tokenizer_json(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, CheckpointError> {
    let fail = |detail: String| CheckpointError::Tokenizer {
        path: path.to_owned(),
        detail: crate::text::one_line(&detail),
        remedy: "give PaliGemma's tokenizer.json or paligemma_tokenizer.model",
    };
    if bytes.len() > MAX_BYTES {
        return Err(CheckpointError::TooLarge {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            limit: MAX_BYTES as u64,
        });
    }
    let model = Model::read(bytes).map_err(fail)?;
    model.check().map_err(fail)?;
    let json = model.to_json().map_err(fail)?;
    serde_json::to_vec(&json).map_err(|error| fail(error.to_string()))
}
