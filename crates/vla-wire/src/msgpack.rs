//! msgpack with arrays as openpi-client packs them, `{b"__ndarray__": True, b"data": ..., b"dtype":
//! "<f4", b"shape": [10, 7]}`. vla-eval's form has text in place of the byte keys and may hold
//! picture files.

use std::cell::Cell;

use rmp::encode;
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny};

use crate::tree::{Marks, Seed};
use crate::{Limits, NdArray, Value, WireError};

/// How the names in an array's map are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As bytes: openpi.
    Bytes,
    /// As text: vla-eval.
    Text,
}

/// Decodes a message of either form.
///
/// # Errors
/// [`WireError`] for what is no msgpack, or no array where an array is announced.
pub fn decode(message: &[u8], limits: &Limits) -> Result<Value, WireError> {
    let malformed = |reason: String| WireError::Malformed { format: "msgpack", reason };
    let left = Cell::new(0);
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(message);
    // Our own bound gives the reason; this one ends what passes by it.
    deserializer.set_max_depth(limits.depth + 2);
    let seed = Seed::new(&left, limits, Marks::Msgpack);
    let value =
        seed.deserialize(&mut deserializer).map_err(|error| malformed(error.to_string()))?;
    // The end of the bytes is where a second value has not even a first byte.
    match IgnoredAny::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(malformed("bytes after its end".into())),
    }
}

/// Encodes a message.
///
/// # Errors
/// [`WireError`] for what msgpack cannot hold: integers of more than 64 bits, more than 4 GiB.
pub fn encode(value: &Value, names: Names) -> Result<Vec<u8>, WireError> {
    let mut message = Vec::new();
    write(&mut message, value, names)?;
    Ok(message)
}

fn write(out: &mut Vec<u8>, value: &Value, names: Names) -> Result<(), WireError> {
    match value {
        Value::Nil => encode::write_nil(out).map_err(failed),
        Value::Bool(value) => encode::write_bool(out, *value).map_err(failed),
        Value::Int(value) => write_int(out, *value),
        Value::Float(value) => encode::write_f64(out, *value).map_err(failed),
        Value::Text(text) => write_text(out, text),
        Value::Bytes(bytes) => write_bytes(out, bytes),
        Value::Array(array) => write_array(out, array, names),
        Value::File(format, data) => {
            encode::write_map_len(out, 3).map_err(failed)?;
            write_text(out, "__image__")?;
            encode::write_bool(out, true).map_err(failed)?;
            write_text(out, "format")?;
            write_text(out, format)?;
            write_text(out, "data")?;
            write_bytes(out, data)
        }
        Value::List(values) => {
            encode::write_array_len(out, length(values.len())?).map_err(failed)?;
            values.iter().try_for_each(|value| write(out, value, names))
        }
        Value::Object(fields) => {
            encode::write_map_len(out, length(fields.len())?).map_err(failed)?;
            fields.iter().try_for_each(|(name, value)| {
                write_text(out, name)?;
                write(out, value, names)
            })
        }
    }
}

fn write_array(out: &mut Vec<u8>, array: &NdArray, names: Names) -> Result<(), WireError> {
    let name = |out: &mut Vec<u8>, name: &str| match names {
        Names::Bytes => write_bytes(out, name.as_bytes()),
        Names::Text => write_text(out, name),
    };
    encode::write_map_len(out, 4).map_err(failed)?;
    name(out, "__ndarray__")?;
    encode::write_bool(out, true).map_err(failed)?;
    name(out, "data")?;
    write_bytes(out, array.data())?;
    name(out, "dtype")?;
    write_text(out, &array.dtype().to_string())?;
    name(out, "shape")?;
    encode::write_array_len(out, length(array.shape().len())?).map_err(failed)?;
    array.shape().iter().try_for_each(|axis| write_int(out, *axis as i128))
}

fn write_int(out: &mut Vec<u8>, value: i128) -> Result<(), WireError> {
    if let Ok(value) = u64::try_from(value) {
        encode::write_uint(out, value).map_err(failed)?;
    } else if let Ok(value) = i64::try_from(value) {
        encode::write_sint(out, value).map_err(failed)?;
    } else {
        return Err(failed("an integer of more than 64 bits"));
    }
    Ok(())
}

fn write_text(out: &mut Vec<u8>, text: &str) -> Result<(), WireError> {
    encode::write_str_len(out, length(text.len())?).map_err(failed)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), WireError> {
    encode::write_bin_len(out, length(bytes.len())?).map_err(failed)?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn length(length: usize) -> Result<u32, WireError> {
    u32::try_from(length).map_err(|_| failed(format!("{length} bytes or values; 2^32 - 1 fit")))
}

fn failed(reason: impl std::fmt::Display) -> WireError {
    WireError::Malformed { format: "msgpack", reason: reason.to_string() }
}
