//! Typed reading of configuration fields: absent ones get the official default, and each value is
//! checked against a range.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::CheckpointError;
use crate::text::one_line;

/// The fields of one JSON object and its path, for errors that name the field.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub prefix: &'a str,
    pub map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, prefix: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix, map }
    }

    /// The field's value; JSON's `null` counts as absent, as in the Python that writes these files.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// An error about a field.
    pub(super) fn error(
        &self,
        name: &str,
        value: impl std::fmt::Display,
        remedy: impl std::fmt::Display,
    ) -> CheckpointError {
        CheckpointError::field(self.path, format!("{}{name}", self.prefix), value, remedy)
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> CheckpointError {
        self.error(
            name,
            shown(value),
            format!("must be {wanted}; restore the file from the original checkpoint"),
        )
    }

    /// A whole number between `low` and `high`, or `default` when absent.
    pub(super) fn size(
        &self,
        name: &str,
        default: usize,
        low: usize,
        high: usize,
    ) -> Result<usize, CheckpointError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| self.wrong(name, value, &format!("a whole number from {low} to {high}")))
    }

    /// A finite number between `low` and `high`, or `default` when absent.
    pub(super) fn number(
        &self,
        name: &str,
        default: f64,
        low: f64,
        high: f64,
    ) -> Result<f64, CheckpointError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value
            .as_f64()
            .filter(|number| (low..=high).contains(number))
            .ok_or_else(|| self.wrong(name, value, &format!("a number from {low:e} to {high:e}")))
    }

    /// A truth value, or `default` when absent.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, CheckpointError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    /// A text, when present.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, CheckpointError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a text"))
    }

    /// A list, when present.
    pub(super) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, CheckpointError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_array().map(Some).ok_or_else(|| self.wrong(name, value, "a list"))
    }

    /// An object, when present.
    pub(super) fn object(
        &self,
        name: &str,
    ) -> Result<Option<&'a Map<String, Value>>, CheckpointError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.wrong(name, value, "an object"))
    }

    /// A list of texts, when present.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, CheckpointError> {
        let Some(values) = self.list(name)? else { return Ok(None) };
        let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
        texts.map(Some).ok_or_else(|| {
            self.error(
                name,
                shown_list(values),
                "must be a list of texts; restore the file from the original checkpoint",
            )
        })
    }

    /// Refuses a field whose presence with any other value than `allowed` would change the
    /// arithmetic.
    pub(super) fn only(
        &self,
        name: &str,
        allowed: &Value,
        why: &str,
    ) -> Result<(), CheckpointError> {
        match self.get(name) {
            Some(value) if value != allowed => Err(self.error(name, shown(value), why)),
            _ => Ok(()),
        }
    }
}

/// A JSON value as text for an error, shortened.
pub(super) fn shown(value: &Value) -> String {
    match value {
        // Not printed whole: a large object would be formatted for a line that is cut anyway.
        Value::Array(values) => shown_list(values),
        Value::Object(map) => format!("an object with {} fields", map.len()),
        other => one_line(&other.to_string()),
    }
}

pub(super) fn shown_list(values: &[Value]) -> String {
    const SHOWN: usize = 8;
    let mut parts: Vec<String> = values
        .iter()
        .take(SHOWN)
        .map(|value| match value {
            Value::Array(inner) => format!("[{} values]", inner.len()),
            other => shown(other),
        })
        .collect();
    if values.len() > SHOWN {
        parts.push(format!("… {} in all", values.len()));
    }
    format!("[{}]", parts.join(", "))
}
