//! JSON with arrays as the package json_numpy writes them, `{"__numpy__": base64, "dtype": "|u1",
//! "shape": [480, 640, 3]}`: the form of OpenVLA's `POST /act`.

use std::cell::Cell;

use base64::Engine as _;
use serde::de::DeserializeSeed;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::tree::{Marks, Seed};
use crate::{Limits, NdArray, Value, WireError, shown};

/// How a request's body was encoded, and therefore how its answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// An object.
    Single,
    /// `{"encoded": "..."}` with the object's JSON as text, for clients that cannot patch their JSON
    /// encoder. The answer is a JSON text that holds JSON.
    Double,
}

/// Decodes JSON.
///
/// # Errors
/// [`WireError`] for what is no JSON, or no array where an array is announced.
pub fn decode(json: &[u8], limits: &Limits) -> Result<Value, WireError> {
    let left = Cell::new(0);
    let malformed = |error: serde_json::Error| WireError::Malformed {
        format: "JSON",
        reason: error.to_string(),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let seed = Seed::new(&left, limits, Marks::Json);
    let value = seed.deserialize(&mut deserializer).map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    Ok(value)
}

/// Decodes the body of a request: its fields and how they were encoded.
///
/// # Errors
/// [`WireError`] for what [`decode`] refuses, and for fields beside `encoded`.
pub fn decode_request(
    body: &[u8],
    limits: &Limits,
) -> Result<(Vec<(String, Value)>, Encoding), WireError> {
    let mut fields = decode(body, limits)?.into_fields("JSON")?;
    let Some(place) = fields.iter().position(|(name, _)| name == "encoded") else {
        return Ok((fields, Encoding::Single));
    };
    if let Some((other, _)) = fields.iter().find(|(name, _)| name != "encoded") {
        return Err(WireError::Malformed {
            format: "JSON",
            reason: format!("the field '{}' beside 'encoded'; put it into that text", shown(other)),
        });
    }
    let inner = fields.swap_remove(place).1.into_text("encoded")?;
    Ok((decode(inner.as_bytes(), limits)?.into_fields("JSON")?, Encoding::Double))
}

/// Decodes the answer of a server, of either encoding.
///
/// # Errors
/// [`WireError::ServerError`] for the text "error", which OpenVLA's server sends with status 200.
pub fn decode_answer(body: &[u8], limits: &Limits) -> Result<Value, WireError> {
    match decode(body, limits)? {
        Value::Text(text) if text.trim_start().starts_with(['{', '[']) => {
            decode(text.as_bytes(), limits)
        }
        Value::Text(text) => Err(WireError::ServerError(shown(&text))),
        value => Ok(value),
    }
}

/// Encodes as JSON; with [`Encoding::Double`] as a JSON text that holds it.
///
/// # Errors
/// [`WireError`] for a number outside of an array that is not finite, and for bytes.
pub fn encode(value: &Value, encoding: Encoding) -> Result<Vec<u8>, WireError> {
    let failed = |error: serde_json::Error| WireError::Malformed {
        format: "JSON",
        reason: error.to_string(),
    };
    let json = serde_json::to_string(&Json(value)).map_err(failed)?;
    match encoding {
        Encoding::Single => Ok(json.into_bytes()),
        Encoding::Double => serde_json::to_vec(&json).map_err(failed),
    }
}

/// Encodes a request of these fields, [`Encoding::Double`] as `{"encoded": "..."}`.
///
/// # Errors
/// As [`encode`].
pub fn encode_request(value: &Value, encoding: Encoding) -> Result<Vec<u8>, WireError> {
    match encoding {
        Encoding::Single => encode(value, encoding),
        Encoding::Double => {
            let inner = String::from_utf8(encode(value, Encoding::Single)?);
            let inner = Value::Text(inner.unwrap_or_default()); // serde_json writes UTF-8
            encode(&crate::value::object([("encoded", inner)]), Encoding::Single)
        }
    }
}

struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Nil => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i128(*value),
            Value::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::Float(value) => Err(S::Error::custom(WireError::NotFinite(*value))),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(_) | Value::File(..) => {
                Err(S::Error::custom("JSON has no bytes; send an array of dtype |u1"))
            }
            Value::Array(array) => json_array(array, serializer),
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&Json(value))?;
                }
                list.end()
            }
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, &Json(value))?;
                }
                map.end()
            }
        }
    }
}

fn json_array<S: Serializer>(array: &NdArray, serializer: S) -> Result<S::Ok, S::Error> {
    let data = base64::engine::general_purpose::STANDARD.encode(array.data());
    let mut map = serializer.serialize_map(Some(3))?;
    map.serialize_entry("__numpy__", &data)?;
    map.serialize_entry("dtype", &array.dtype().to_string())?;
    map.serialize_entry("shape", array.shape())?;
    map.end()
}
