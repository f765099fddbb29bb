//! Entry points of the fuzz targets: each function must return for any bytes.

use std::path::Path;

use super::mcap_file::{McapFile, Step};
use super::metadata::Metadata;
use super::{Limits, cdr, messages, unpack};

/// Limits small enough for a fuzzer to reach.
fn limits() -> Limits {
    Limits { message_bytes: 1 << 20, ..Limits::default() }
}

/// An MCAP file, with every payload decoded as every message. Returns the number of messages, and
/// why it ended early.
pub fn mcap(bytes: &[u8]) -> (u64, Option<String>) {
    let mut file = McapFile::new(
        Path::new("fuzz.mcap"),
        Box::new(std::io::Cursor::new(bytes.to_vec())),
        &limits(),
    );
    let mut messages = 0;
    loop {
        let step = file.step(&mut |_, _, payload| {
            messages += 1;
            cdr_messages(payload);
        });
        match step {
            Ok(Step::End) => return (messages, file.warning.map(|warning| warning.to_string())),
            Ok(_) => {}
            Err(error) => return (messages, Some(error.to_string())),
        }
    }
}

/// A payload, decoded as every message. Returns the number of types that it decodes as.
pub fn cdr_messages(payload: &[u8]) -> usize {
    let unpacked;
    let payload = if unpack::is_zstd(payload) {
        unpacked = unpack::message(payload, limits().message_bytes).unwrap_or_default();
        &unpacked
    } else {
        payload
    };
    [
        cdr::decode::<messages::Image>(payload).is_ok(),
        cdr::decode::<messages::CompressedImage>(payload).is_ok(),
        cdr::decode::<messages::JointState>(payload).is_ok(),
        cdr::decode::<messages::Text>(payload).is_ok(),
        cdr::decode::<messages::Float64>(payload).is_ok(),
        cdr::decode::<messages::Float64MultiArray>(payload).is_ok(),
        cdr::decode::<messages::TwistStamped>(payload).is_ok(),
        cdr::decode::<messages::PoseStamped>(payload).is_ok(),
        cdr::decode::<messages::Action>(payload).is_ok(),
        cdr::decode::<messages::Status>(payload).is_ok(),
    ]
    .into_iter()
    .filter(|fits| *fits)
    .count()
}

/// A `metadata.yaml`. Returns the number of files that it lists, or the error.
pub fn metadata(bytes: &[u8]) -> Result<usize, String> {
    let parsed = Metadata::parse(bytes, Path::new("metadata.yaml"), &limits());
    parsed.map(|metadata| metadata.files.len()).map_err(|error| error.to_string())
}
