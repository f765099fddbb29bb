//! Decodes CDR payloads with their encapsulation header of four bytes.

use byteorder::{BigEndian, LittleEndian};
use serde::Deserialize;

/// Why a payload does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdrError {
    /// Shorter than the header.
    #[error("{0} bytes; a CDR payload has a header of 4 bytes")]
    Short(usize),
    /// An encapsulation that ROS 2 does not write.
    #[error("encapsulation 0x{0:04x} is not plain CDR (0x0000 big endian, 0x0001 little endian)")]
    Encapsulation(u16),
    /// The bytes end before the message, a length exceeds them, or a string is no UTF-8.
    #[error("{0}")]
    Decode(String),
    /// More bytes than the message has.
    #[error("{0} bytes are left after the message; it was recorded with another definition")]
    Trailing(usize),
}

/// Padding that middlewares append: up to a multiple of four, some to eight.
const PADDING: usize = 7;

/// Decodes a serialized ROS 2 message. Strings are copied, byte sequences are borrowed from
/// `payload`.
///
/// Lengths in the payload never cause an allocation larger than the payload.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, CdrError> {
    let (header, body) = payload.split_first_chunk::<4>().ok_or(CdrError::Short(payload.len()))?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let decoded = match kind {
        0 => cdr_encoding::from_bytes::<T, BigEndian>(body),
        1 => cdr_encoding::from_bytes::<T, LittleEndian>(body),
        other => return Err(CdrError::Encapsulation(other)),
    };
    let (message, used) = decoded.map_err(|error| CdrError::Decode(error.to_string()))?;
    match body.len().saturating_sub(used) {
        left if left > PADDING => Err(CdrError::Trailing(left)),
        _ => Ok(message),
    }
}
