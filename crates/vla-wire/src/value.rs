//! A decoded message: a tree of values whose arrays of NumPy are arrays.

use crate::{NdArray, WireError, shown};

/// Bounds of a message beyond its length, which is the caller's to bound.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Values of the whole tree; an array of NumPy is one.
    pub values: usize,
    /// Fields of one object.
    pub fields: usize,
    /// Objects and lists in one another.
    pub depth: usize,
}

impl Default for Limits {
    /// More than any observation or chunk of actions: 500 steps of 32 numbers as plain lists.
    fn default() -> Self {
        Self { values: 20_000, fields: 256, depth: 16 }
    }
}

/// A value of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// JSON's `null`, Python's `None`.
    Nil,
    /// True or false.
    Bool(bool),
    /// An integer of 64 bits, with or without sign.
    Int(i128),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes; JSON has none.
    Bytes(Vec<u8>),
    /// An array of NumPy.
    Array(NdArray),
    /// A picture file in vla-eval's form: its format (`jpeg`, `png`) and its bytes.
    File(String, Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// An object's fields, in their order on the wire; names are unique.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// What this is, for an error message.
    #[must_use]
    pub fn described(&self) -> String {
        match self {
            Self::Nil => "null".into(),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) => format!("the text '{}'", shown(text)),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Array(array) => {
                format!("an array of shape {:?} and dtype {}", array.shape(), array.dtype())
            }
            Self::File(format, bytes) => {
                format!("a {} file of {} bytes", shown(format), bytes.len())
            }
            Self::List(values) => format!("a list of {} values", values.len()),
            Self::Object(fields) => format!("an object of {} fields", fields.len()),
        }
    }

    /// What kind of value this is.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "null",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Bytes(_) | Self::File(..) => "bytes",
            Self::Array(_) => "an array",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The fields of an object.
    ///
    /// # Errors
    /// When it is none.
    pub fn into_fields(self, format: &'static str) -> Result<Vec<(String, Value)>, WireError> {
        match self {
            Self::Object(fields) => Ok(fields),
            other => Err(WireError::NoObject { format, found: other.kind() }),
        }
    }

    /// A field of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// The text of field `field`; bytes in UTF-8 are text too, as openpi's server takes them.
    ///
    /// # Errors
    /// When it is no text.
    pub fn into_text(self, field: &str) -> Result<String, WireError> {
        let found = self.described();
        let wrong =
            || WireError::Type { field: shown(field), found: found.clone(), wanted: "a text" };
        match self {
            Self::Text(text) => Ok(text),
            Self::Bytes(bytes) => String::from_utf8(bytes).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    /// The numbers of field `field`: a number, an array of at most one axis longer than 1, or a
    /// list of numbers.
    ///
    /// # Errors
    /// When it is something else.
    pub fn numbers(&self, field: &str) -> Result<Vec<f64>, WireError> {
        let wrong = || WireError::Type {
            field: shown(field),
            found: self.described(),
            wanted: "a vector of numbers",
        };
        match self {
            Self::Int(value) => Ok(vec![*value as f64]),
            Self::Float(value) => Ok(vec![*value]),
            Self::Array(array) if array.shape().iter().filter(|axis| **axis != 1).count() <= 1 => {
                array.numbers().ok_or_else(wrong)
            }
            Self::List(values) => values
                .iter()
                .map(|value| match value {
                    Self::Int(value) => Ok(*value as f64),
                    Self::Float(value) => Ok(*value),
                    Self::Array(array) if array.shape().is_empty() => {
                        array.numbers().and_then(|one| one.first().copied()).ok_or_else(wrong)
                    }
                    _ => Err(wrong()),
                })
                .collect(),
            _ => Err(wrong()),
        }
    }

    /// The rows of a chunk of actions in field `field`: an array of one axis (one row) or two, or a
    /// list of vectors or of numbers.
    ///
    /// # Errors
    /// When it is something else, or rows differ in length.
    pub fn rows(&self, field: &str) -> Result<Vec<Vec<f64>>, WireError> {
        let wrong = || WireError::Type {
            field: shown(field),
            found: self.described(),
            wanted: "an array [steps, numbers], or a list of such rows,",
        };
        let rows = match self {
            Self::Array(array) => {
                let numbers = array.numbers().ok_or_else(wrong)?;
                match array.shape() {
                    [_] => vec![numbers],
                    [_, columns] if *columns > 0 => {
                        numbers.chunks_exact(*columns).map(<[f64]>::to_vec).collect()
                    }
                    _ => return Err(wrong()),
                }
            }
            Self::List(values) if matches!(values.first(), Some(Self::Int(_) | Self::Float(_))) => {
                vec![self.numbers(field)?]
            }
            Self::List(values) => {
                values.iter().map(|row| row.numbers(field)).collect::<Result<_, _>>()?
            }
            _ => return Err(wrong()),
        };
        let same = rows.windows(2).all(|pair| pair[0].len() == pair[1].len());
        if same { Ok(rows) } else { Err(wrong()) }
    }
}

impl From<NdArray> for Value {
    fn from(array: NdArray) -> Self {
        Self::Array(array)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// An object of these fields.
#[must_use]
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
}
