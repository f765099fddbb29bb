//! A SentencePiece model gives the ids that the sentencepiece library gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use vla_inference::checkpoint::Tokenizer;

fn folder() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/sentencepiece")).to_owned()
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let tokenizer = Tokenizer::open_file(&folder().join("gemma_like.model"), "").unwrap();
    let cases = std::fs::read(folder().join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode_as_official(text).unwrap(), ids, "{text:?}");
    }
}

/// Every prefix of the file, and every file with one byte changed in its first part, is an error or
/// a tokenizer, never a panic.
#[test]
fn damaged_models_do_not_panic() {
    let bytes = std::fs::read(folder().join("gemma_like.model")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    for keep in (0..bytes.len()).step_by(97) {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        assert!(Tokenizer::open_file(&path, "").is_err(), "{keep} bytes");
    }
    for at in (0..400).step_by(3) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        std::fs::write(&path, &changed).unwrap();
        if let Err(error) = Tokenizer::open_file(&path, "") {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
