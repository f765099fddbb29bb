//! Decoding of both formats into a [`Value`]: one visitor, two deserializers.

use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::{Dtype, Limits, NdArray, Value, WireError, shown};

/// Which marks an array has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// `__numpy__` with base64.
    Json,
    /// `__ndarray__`, `__npgeneric__` and vla-eval's `__image__`, with bytes.
    Msgpack,
}

/// Decodes one value; counts values down to none.
#[derive(Clone, Copy)]
pub(crate) struct Seed<'a> {
    left: &'a Cell<usize>,
    limits: &'a Limits,
    depth: usize,
    marks: Marks,
}

impl<'a> Seed<'a> {
    pub(crate) fn new(left: &'a Cell<usize>, limits: &'a Limits, marks: Marks) -> Self {
        left.set(limits.values);
        Self { left, limits, depth: 0, marks }
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == self.limits.depth {
            let depth = self.limits.depth;
            return Err(E::custom(format!("more than {depth} objects and lists in one another")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            let values = self.limits.values;
            return Err(D::Error::custom(format!(
                "more than {values} values; send numbers as an array of NumPy"
            )));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, bytes, a list or an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.to_owned()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = values.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut fields: Vec<(String, Value)> = Vec::new();
        while let Some(name) = entries.next_key_seed(Name)? {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("the field '{}' comes twice", shown(&name))));
            }
            if fields.len() == self.limits.fields {
                let most = self.limits.fields;
                return Err(A::Error::custom(format!("an object of more than {most} fields")));
            }
            let value = entries.next_value_seed(inner)?;
            fields.push((name, value));
        }
        marked(fields, self.marks).map_err(A::Error::custom)
    }
}

/// The name of a field: text, or bytes of it.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<String, E> {
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| E::custom("the name of a field is not UTF-8"))
    }
}

/// An object, or the array that it stands for.
fn marked(mut fields: Vec<(String, Value)>, marks: Marks) -> Result<Value, WireError> {
    let has = |mark: &str| fields.iter().any(|(name, _)| name == mark);
    match marks {
        Marks::Json if has("__numpy__") => {
            let text = take(&mut fields, "__numpy__")?.into_text("__numpy__")?;
            let data = base64::engine::general_purpose::STANDARD.decode(text);
            let data = data.map_err(|error| {
                WireError::Array(format!("'__numpy__' of an array is not base64: {error}"))
            })?;
            Ok(array(&mut fields, data)?.into())
        }
        Marks::Msgpack if has("__ndarray__") => {
            let data = bytes(&mut fields)?;
            Ok(array(&mut fields, data)?.into())
        }
        // A scalar of NumPy: msgpack holds its value.
        Marks::Msgpack if has("__npgeneric__") => match take(&mut fields, "data")? {
            value @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_)) => {
                Ok(value)
            }
            other => Err(WireError::Array(format!(
                "'data' of a scalar of NumPy is {}; a number is expected",
                other.kind()
            ))),
        },
        Marks::Msgpack if has("__image__") => {
            let format = take(&mut fields, "format")?.into_text("format")?;
            let data = bytes(&mut fields)?;
            match format.as_str() {
                "raw" => Ok(array(&mut fields, data)?.into()),
                _ => Ok(Value::File(format, data)),
            }
        }
        _ => Ok(Value::Object(fields)),
    }
}

fn take(fields: &mut Vec<(String, Value)>, name: &str) -> Result<Value, WireError> {
    let place = fields.iter().position(|(field, _)| field == name);
    let missing = || WireError::Array(format!("an array of NumPy without '{name}'"));
    Ok(fields.swap_remove(place.ok_or_else(missing)?).1)
}

fn bytes(fields: &mut Vec<(String, Value)>) -> Result<Vec<u8>, WireError> {
    match take(fields, "data")? {
        Value::Bytes(data) => Ok(data),
        other => Err(WireError::Array(format!(
            "'data' of an array is {}; bytes are expected",
            other.kind()
        ))),
    }
}

fn array(fields: &mut Vec<(String, Value)>, data: Vec<u8>) -> Result<NdArray, WireError> {
    let Value::Text(dtype) = take(fields, "dtype")? else {
        return Err(WireError::Array("an array of structures; send plain numbers".into()));
    };
    let dtype = Dtype::parse(&dtype)?;
    let Value::List(axes) = take(fields, "shape")? else {
        return Err(WireError::Array("'shape' of an array is no list".into()));
    };
    let length = |axis: &Value| match axis {
        Value::Int(length) => usize::try_from(*length).ok(),
        _ => None,
    };
    let shape = axes.iter().map(length).collect::<Option<Vec<_>>>();
    let wrong = || WireError::Array("'shape' of an array is no list of lengths".into());
    NdArray::new(dtype, shape.ok_or_else(wrong)?, data)
}
