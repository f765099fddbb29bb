//! What a path is that is no bag, and the way from there.

use std::io::Read;
use std::path::Path;

use super::discover::Kind;

/// Bytes of a file that are looked at.
const LOOKED_AT: u64 = 64;

/// Bags of a folder that a message names.
const NAMED: usize = 8;

/// Entries of a folder that are looked at.
const ENTRIES: usize = 10_000;

/// First bytes of a file; empty when it cannot be read.
fn start(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(LOOKED_AT).read_to_end(&mut bytes);
    }
    bytes
}

/// The storage of a file by its first bytes.
pub(super) fn storage(path: &Path) -> Option<Kind> {
    let start = start(path);
    if start.starts_with(b"\x89MCAP0\r\n") {
        Some(Kind::Mcap)
    } else if start.starts_with(b"SQLite format 3\0") {
        Some(Kind::Sqlite)
    } else {
        None
    }
}

/// What a file is that is no bag file, whatever its name; `None` when that is not known.
pub(super) fn foreign(path: &Path) -> Option<&'static str> {
    let start = start(path);
    let is = |with: &[u8]| start.starts_with(with);
    Some(if is(b"#ROSBAG V") {
        "it is a ROS 1 bag: convert it with `rosbags-convert --src FILE.bag --dst FOLDER` (pip \
        install rosbags)"
    } else if is(b"version https://git-lfs") {
        "it is a Git LFS pointer: run `git lfs pull` to fetch the file itself"
    } else if is(b"<!DOCTYPE") || is(b"<!doctype") || is(b"<html") || is(b"<HTML") {
        "it is an HTML page: the download failed, fetch it again"
    } else if is(b"\x89HDF\r\n\x1a\n") {
        "it is an HDF5 file: convert its episodes to rosbag2"
    } else if is(b"PAR1") {
        "it is a Parquet file, such as of a LeRobot data set: give the data set's folder to \
        `openvla eval run`"
    } else if is(b"PK\x03\x04") {
        "it is a zip archive: unpack it and name the folder in it"
    } else if is(b"\x1f\x8b") {
        "it is compressed with gzip: unpack it with `gunzip` or `tar xzf`"
    } else if is(b"\xfd7zXZ\0") {
        "it is compressed with xz: unpack it with `unxz` or `tar xJf`"
    } else if is(b"\x04\x22\x4d\x18") {
        "it is compressed with lz4: unpack it with `unlz4`"
    } else if is(b"\x28\xb5\x2f\xfd") {
        "it is compressed with zstd: its name must end in .mcap.zstd or .db3.zstd"
    } else {
        return None;
    })
}

/// What a folder without bag files is.
pub(super) fn folder(path: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(path)
        .map(|entries| {
            let names = entries.take(ENTRIES).flatten();
            names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    let ends = |ending: &str| names.iter().find(|name| name.ends_with(ending));
    if names.is_empty() {
        return "the folder is empty".to_owned();
    }
    if path.join("meta/info.json").is_file() {
        return "it is a LeRobot data set, which `openvla eval run` reads: give a bag here"
            .to_owned();
    }
    if path.join("dataset_info.json").is_file() || ends(".tfrecord").is_some() {
        return "it is a TensorFlow data set (RLDS): convert its episodes to rosbag2".to_owned();
    }
    if let Some(name) = ends(".bag") {
        return format!(
            "it has ROS 1 bags ({name}): convert each with `rosbags-convert --src {name} --dst \
            FOLDER` (pip install rosbags)"
        );
    }
    if let Some(name) = ends(".hdf5").or_else(|| ends(".h5")) {
        return format!("it has HDF5 files ({name}): convert its episodes to rosbag2");
    }
    let mut bags: Vec<&String> = names.iter().filter(|name| is_bag(&path.join(name))).collect();
    bags.sort();
    match bags.as_slice() {
        [] => "it has no .mcap or .db3 file".to_owned(),
        [only] => format!("the bag is the folder {only} in it: name {}", path.join(only).display()),
        several => {
            let mut shown: Vec<&str> =
                several.iter().take(NAMED).map(|name| name.as_str()).collect();
            if several.len() > NAMED {
                shown.push("...");
            }
            format!(
                "it is a folder of {} bags ({}): name each, such as {}/*",
                several.len(),
                shown.join(", "),
                path.display()
            )
        }
    }
}

/// Whether a folder in it is a bag.
fn is_bag(path: &Path) -> bool {
    if !path.is_dir() {
        return false;
    }
    path.join("metadata.yaml").is_file()
        || std::fs::read_dir(path).is_ok_and(|entries| {
            entries.take(ENTRIES).flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let plain = name.strip_suffix(".zstd").unwrap_or(&name);
                plain.ends_with(".mcap") || plain.ends_with(".db3")
            })
        })
}
