//! Reading, checking and describing a row of the table.

use vla_control::ranges::Range;

use super::{
    Value, Values,
    table::{Parameter, Rule, Slot, TABLE, Type},
};

/// The parameter whose name is most like a wrong one, if any is at all like it.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    if 100 < name.len() {
        return None;
    }
    TABLE
        .iter()
        .map(|parameter| (strsim::levenshtein(name, parameter.name), parameter.name))
        .min()
        .filter(|(distance, nearest)| *distance <= 1 + nearest.len() / 4)
        .map(|(_, nearest)| nearest)
}

impl Parameter {
    /// The value of this parameter among `values`.
    #[must_use]
    pub fn get(&self, values: &Values) -> Value {
        let mut values = values.clone();
        match &self.slot {
            Slot::Bool(at) => Value::Bool(*at(&mut values)),
            Slot::Integer(at) => Value::Integer(*at(&mut values)),
            Slot::Count(at) => Value::Integer(i64::from(*at(&mut values))),
            Slot::Float(at) => Value::Float(*at(&mut values)),
            Slot::Text(at) | Slot::Path(at) => Value::Text(at(&mut values).clone()),
            Slot::Corner(at) => {
                Value::Floats(at(&mut values).map_or_else(Vec::new, |corner| corner.to_vec()))
            }
        }
    }

    /// Sets this parameter after checking type, range and words.
    ///
    /// # Errors
    /// What is wrong with the value, to be read after the parameter's name.
    pub fn set(&self, values: &mut Values, value: &Value) -> Result<(), String> {
        let wrong = |wanted: &str| Err(format!("is {value}, but must be {wanted}"));
        match (&self.slot, value) {
            (Slot::Bool(at), Value::Bool(value)) => *at(values) = *value,
            (Slot::Bool(_), _) => return wrong("true or false"),
            (Slot::Integer(_) | Slot::Count(_), Value::Integer(integer)) => {
                #[allow(clippy::cast_precision_loss)]
                self.check_number(*integer as f64)?;
                match &self.slot {
                    Slot::Integer(at) => *at(values) = *integer,
                    Slot::Count(at) => *at(values) = u32::try_from(*integer).unwrap_or(u32::MAX),
                    _ => {}
                }
            }
            (
                Slot::Integer(_) | Slot::Count(_),
                Value::Float(number) | Value::Number(number, _),
            ) => {
                let hint = if number.fract() == 0.0 {
                    format!("; write {number:.0}")
                } else {
                    String::new()
                };
                return Err(format!(
                    "is {number:?}, a floating-point number, but must be an integer{hint}"
                ));
            }
            (Slot::Integer(_) | Slot::Count(_), _) => return wrong("an integer"),
            (Slot::Float(at), _) => {
                let number = match value {
                    Value::Float(number) | Value::Number(number, _) => *number,
                    // `50` in a YAML file or on the command line is an integer and means 50.0.
                    #[allow(clippy::cast_precision_loss)]
                    Value::Integer(integer) => *integer as f64,
                    _ => return wrong("a number"),
                };
                self.check_number(number)?;
                *at(values) = number;
            }
            (Slot::Text(at), Value::Text(text)) => {
                self.check_text(text)?;
                text.clone_into(at(values));
            }
            (Slot::Path(at), Value::Text(text)) => {
                self.check_text(text)?;
                let path = super::expand_path(text, std::env::var("HOME").ok().as_deref())
                    .map_err(|reason| format!("{value}: {reason}"))?;
                *at(values) = path;
            }
            (
                Slot::Text(_) | Slot::Path(_),
                Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Number(..),
            ) => {
                return Err(format!(
                    "is {value}, which YAML does not read as a string; put it in quotes: \
                    {}:=\"'{value}'\"",
                    self.name
                ));
            }
            (Slot::Text(_) | Slot::Path(_), _) => return wrong("a string"),
            (Slot::Corner(at), _) => {
                let numbers: Vec<f64> = match value {
                    Value::Floats(numbers) => numbers.clone(),
                    #[allow(clippy::cast_precision_loss)]
                    Value::Integers(integers) => integers.iter().map(|x| *x as f64).collect(),
                    _ => return wrong("a list of three numbers, [x, y, z]"),
                };
                let corner = match <[f64; 3]>::try_from(numbers.as_slice()) {
                    Ok(corner) => Some(corner),
                    Err(_) if numbers.is_empty() => None,
                    Err(_) => return wrong("a list of three numbers, [x, y, z]"),
                };
                corner.into_iter().flatten().try_for_each(|x| self.check_number(x))?;
                *at(values) = corner;
            }
        }
        Ok(())
    }

    fn check_number(&self, value: f64) -> Result<(), String> {
        let Some(range) = self.range else { return Ok(()) };
        let unset = self.unset.is_some() && value == 0.0;
        if range.contains(value) || unset {
            return Ok(());
        }
        let unit = if range.unit.is_empty() { String::new() } else { format!(" {}", range.unit) };
        let zero = if self.unset.is_some() && 0.0 < range.min { ", and not 0" } else { "" };
        Err(format!("{value}{unit} is outside {}..{}{unit}{zero}", range.min, range.max))
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        if text.contains('\0') {
            return Err("contains a zero byte".into());
        }
        if !self.choices.is_empty() && !self.choices.contains(&text) {
            let text = text.escape_debug();
            return Err(format!("'{text}' is not known; use {}", self.choices.join(" or ")));
        }
        Ok(())
    }

    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> Type {
        match self.slot {
            Slot::Bool(_) => Type::Bool,
            Slot::Integer(_) | Slot::Count(_) => Type::Integer,
            Slot::Float(_) => Type::Double,
            Slot::Text(_) | Slot::Path(_) => Type::Text,
            Slot::Corner(_) => Type::Doubles,
        }
    }

    /// Range of the numbers that may be given, the one for "not set" included.
    #[must_use]
    pub fn bounds(&self) -> Option<(f64, f64)> {
        let Range { min, max, .. } = self.range?;
        let unset = self.unset.is_some() && self.kind() != Type::Doubles;
        Some((if unset { min.min(0.0) } else { min }, max))
    }

    /// Meaning, unit, range and what an unset value means, in one line.
    #[must_use]
    pub fn description(&self) -> String {
        let mut text = self.text.to_owned();
        if let Some(range) = self.range {
            let unit = if range.unit.is_empty() { "" } else { "Unit: " };
            let space = if range.unit.is_empty() { "" } else { "; " };
            text += &format!(" {unit}{}{space}{}..{}.", range.unit, range.min, range.max);
        }
        if let Some(unset) = self.unset {
            let value = match self.kind() {
                Type::Integer | Type::Double => "0",
                Type::Doubles => "[]",
                _ => "Empty",
            };
            text += &format!(" {value} = {unset}.");
        }
        match self.rule {
            Rule::Own => {}
            Rule::AtMost => text += " At most the file's value, where a file has one.",
            Rule::AtLeast => text += " At least the file's value, where a file has one.",
            Rule::Equal => text += " Equal to the file's value, where a file has one.",
        }
        text
    }

    /// Whether a value leaves the decision to a file or to the node.
    #[must_use]
    pub fn is_unset(&self, value: &Value) -> bool {
        self.unset.is_some()
            && match value {
                Value::Float(number) | Value::Number(number, _) => *number == 0.0,
                Value::Integer(number) => *number == 0,
                Value::Text(text) => text.is_empty(),
                Value::Floats(list) => list.is_empty(),
                Value::Integers(list) => list.is_empty(),
                _ => false,
            }
    }
}
