//! zstd compression of single messages and of whole files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{BagError, Limits};

/// First bytes of a zstd frame. A CDR payload begins with 0x00, so the two are distinct.
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether `payload` is a zstd frame.
pub(super) fn is_zstd(payload: &[u8]) -> bool {
    payload.starts_with(&FRAME)
}

/// Decompresses a message. The size stated in the frame allocates at most `limit` bytes.
pub(super) fn message(payload: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let decoder =
        zstd::stream::read::Decoder::with_buffer(payload).map_err(|error| error.to_string())?;
    let mut plain = Vec::new();
    // One byte more than allowed distinguishes a message at the limit from a larger one.
    let taken = decoder.take(limit as u64 + 1).read_to_end(&mut plain);
    taken.map_err(|error| format!("zstd message does not decompress: {error}"))?;
    if plain.len() > limit {
        return Err(format!("zstd message decompresses to more than the limit of {limit} bytes"));
    }
    Ok(plain)
}

/// Opens a file for reading, decompressed if it is zstd-compressed.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>, BagError> {
    let file = File::open(path).map_err(BagError::io("open", path))?;
    if path.extension().is_some_and(|extension| extension == "zstd") {
        let decoder =
            zstd::stream::read::Decoder::new(file).map_err(BagError::io("decompress", path))?;
        return Ok(Box::new(decoder));
    }
    // Without a buffer: the parser reads large blocks.
    Ok(Box::new(file))
}

/// Decompresses a file to a temporary one, which is removed when the returned value is dropped.
pub(super) fn to_temporary(path: &Path, limits: &Limits) -> Result<tempfile::TempPath, BagError> {
    let mut temporary = tempfile::Builder::new()
        .prefix("rosbag2-reader-")
        .suffix(".db3")
        .tempfile()
        .map_err(BagError::io("make a temporary file for", path))?;
    let mut plain = open(path)?.take(limits.temporary_bytes + 1);
    let written = std::io::copy(&mut plain, temporary.as_file_mut())
        .map_err(BagError::io("decompress", path))?;
    if written > limits.temporary_bytes {
        return Err(BagError::TooLarge {
            path: path.to_owned(),
            what: "its decompressed size in bytes",
            value: written,
            limit: limits.temporary_bytes,
        });
    }
    Ok(temporary.into_temp_path())
}
