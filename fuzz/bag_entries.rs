//! Entry points of the fuzz targets for bags. `tests/fuzz_smoke.rs` includes this file and drives
//! the same functions with seeded mutations on stable Rust.
//!
//! Accepted input must satisfy the invariants of its type; a refusal must be one line. Each function
//! returns whether it accepted its input, so that a test can require both outcomes.

use rosbag2_reader::fuzz_entry;

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
