//! Reading and writing the files of an output folder.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::EvalError;

/// Replaces a file: a reader sees either the old or the new content, never part of it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    std::fs::write(&part, bytes).map_err(EvalError::io("write", &part))?;
    std::fs::rename(&part, path).map_err(EvalError::io("write", path))
}

/// Writes a value as indented JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let mut text = serde_json::to_string_pretty(value).map_err(EvalError::result(path))?;
    text.push('\n');
    write_file(path, text.as_bytes())
}

/// Reads a JSON report whose key `format` has the value `format`.
pub fn read_report<T: DeserializeOwned>(path: &Path, format: &str) -> Result<T, EvalError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let bytes = std::fs::read(path).map_err(EvalError::io("read", path))?;
    // The format first: a report of another version lacks other keys.
    let head: Head = serde_json::from_slice(&bytes).map_err(EvalError::result(path))?;
    if head.format != format {
        let what = format!("format is `{}`, expected `{format}`", head.format);
        return Err(EvalError::result(path)(what));
    }
    serde_json::from_slice(&bytes).map_err(EvalError::result(path))
}
