//! Broken checkpoints, made in temporary folders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The golden kit's checkpoint; the tests of the root package include this file too.
pub fn kit() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders
        .map(|folder| folder.join("tests/data/openvla_tiny/ckpt"))
        .find(|kit| kit.is_dir())
        .unwrap()
}

/// The bytes of a safetensors file with this header over `data` zero bytes.
pub fn raw_file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A correct file of bfloat16 zeros.
pub fn file_of(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(
            (*name).to_owned(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    raw_file(&Value::Object(header).to_string(), end)
}

/// A temporary folder with these files.
pub fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// The kit's checkpoint, its files linked rather than copied, with `changed` written over it and
/// `removed` left out.
pub fn kit_with(changed: &[(&str, Vec<u8>)], removed: &[&str]) -> tempfile::TempDir {
    let folder = folder(changed);
    for entry in std::fs::read_dir(kit()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !removed.contains(&name.as_str()) && !changed.iter().any(|(other, _)| *other == name) {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(name)).unwrap();
        }
    }
    folder
}

/// A JSON file of the kit, edited.
pub fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value =
        serde_json::from_slice(&std::fs::read(kit().join(name)).unwrap()).unwrap();
    edit(&mut value);
    serde_json::to_vec(&value).unwrap()
}

/// The error's text, after checking that it is one line and contains every part.
pub fn one_line_with<E: std::fmt::Display>(error: E, parts: &[&str]) -> String {
    let text = error.to_string();
    assert!(!text.contains(['\n', '\r', '\u{2028}']), "more than one line: {text:?}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    text
}
