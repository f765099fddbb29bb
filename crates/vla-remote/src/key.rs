//! The API key of a server: read from a file, never shown.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest key, bytes.
const KEY_MAX: u64 = 4096;

/// An API key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// A file that holds no key.
#[derive(Debug, thiserror::Error)]
#[error("remote_key_file {}: {reason}", .path.display())]
pub struct KeyError {
    path: PathBuf,
    reason: String,
}

impl ApiKey {
    /// Reads a file that has the key alone, with or without white space around it.
    ///
    /// # Errors
    /// When the file cannot be read or is no key; the error does not contain its text.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let wrong = |reason: String| KeyError { path: path.to_owned(), reason };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(KEY_MAX + 1).read_to_string(&mut text))
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let key = text.trim();
        if key.is_empty() || KEY_MAX < text.len() as u64 {
            return Err(wrong(format!("has no key of 1 to {KEY_MAX} bytes")));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("has characters that no header can carry; it holds one key".into()));
        }
        Ok(Self(key.to_owned()))
    }

    /// Value of the header `Authorization`.
    pub(crate) fn authorization(&self) -> String {
        format!("Api-Key {}", self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "s3cret\n").unwrap();
        let key = ApiKey::load(&path).unwrap();
        assert_eq!(key.authorization(), "Api-Key s3cret");
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        for bad in ["", " \n", "s3cret\nX: y", "s3crét", &"s3cret".repeat(1000)] {
            std::fs::write(&path, bad).unwrap();
            let error = ApiKey::load(&path).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cr"), "{error}");
        }
        assert!(ApiKey::load(&folder.path().join("none")).is_err());
    }
}
