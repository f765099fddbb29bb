//! Entry points of the fuzz targets for bags. `tests/fuzz_smoke.rs` includes this file and drives
//! the same functions with seeded mutations on stable Rust.
//!
//! Accepted input must satisfy the invariants of its type; a refusal must be one line. Each
//! function returns whether it accepted its input, so that a test can require both outcomes.

use rosbag2_reader::{Bag, BagError, Limits, Selection, fuzz_entry};

use crate::checkpoint_entries::check_text;

/// The bytes as an MCAP file, its payloads as every message. Accepted: at least one message was
/// read.
pub fn fuzz_bag_mcap(bytes: &[u8]) -> bool {
    let (messages, complaint) = fuzz_entry::mcap(bytes);
    if let Some(complaint) = complaint {
        check_text(&complaint);
    }
    messages > 0
}

/// The bytes as a CDR payload. Accepted: they are one of our messages.
pub fn fuzz_bag_payload(bytes: &[u8]) -> bool {
    fuzz_entry::cdr_messages(bytes) > 0
}

/// The bytes as metadata.yaml.
pub fn fuzz_bag_metadata(bytes: &[u8]) -> bool {
    match fuzz_entry::metadata(bytes) {
        Err(line) => check_text(&line),
        Ok(_) => true,
    }
}

/// A bag on disk. First byte: its lowest bit says whether the file beside the database is a
/// rollback journal or a write-ahead log, the next two what the file is called; then the length of
/// the file in 24 bits, the file, and what lies beside it. Accepted: a message was read.
pub fn fuzz_bag_storage(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let length = usize::from(head[1]) | usize::from(head[2]) << 8 | usize::from(head[3]) << 16;
    let (file, beside) = rest.split_at(length.min(rest.len()));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name =
        ["bag_0.db3", "bag_0.mcap", "bag_0", "bag_0.db3.zstd"][usize::from(head[0] >> 1 & 3)];
    let path = folder.path().join(name);
    std::fs::write(&path, file).expect("a file in the temporary folder");
    if !beside.is_empty() {
        let suffix = if head[0] & 1 == 0 { "-journal" } else { "-wal" };
        let path = folder.path().join(format!("{name}{suffix}"));
        std::fs::write(path, beside).expect("a file in the temporary folder");
    }
    let limits = Limits { message_bytes: 1 << 20, temporary_bytes: 1 << 24, ..Limits::default() };
    let read = || -> Result<usize, BagError> {
        let bag = Bag::open_with(&path, limits)?;
        let mut messages = bag.messages(&Selection::topics(0..bag.topics().len()))?;
        let mut count = 0;
        for message in &mut messages {
            fuzz_entry::cdr_messages(&message?.payload);
            count += 1;
        }
        for warning in messages.warnings() {
            check_text(&warning.to_string());
        }
        Ok(count)
    };
    let count = read();
    if let Err(error) = &count {
        check_text(&error.to_string());
    }
    let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(names(), if beside.is_empty() { 1 } else { 2 }, "the user's folder was changed");
    assert!(std::fs::read(&path).is_ok_and(|now| now == file), "the user's file was changed");
    if let Err(error) = Bag::open_with(folder.path(), limits) {
        check_text(&error.to_string());
    }
    count.is_ok_and(|count| count > 0)
}
