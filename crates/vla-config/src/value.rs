//! A parameter's value, with the types of `rcl_interfaces/ParameterValue`.

use std::fmt;

/// A value as given, or as shown.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    NotSet,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Float(f64),
    /// A number that the text of a string parameter was read as: the number and the text.
    Number(f64, String),
    /// A string.
    Text(String),
    /// A list of whole numbers; an empty list has this type.
    Integers(Vec<i64>),
    /// A list of floating-point numbers.
    Floats(Vec<f64>),
    /// A type that no parameter has, as text.
    Other(String),
}

impl Value {
    /// A plain or quoted YAML scalar with the type that `rcl_yaml_param_parser` gives it.
    #[must_use]
    pub fn from_scalar(text: &str, quoted: bool) -> Self {
        if quoted {
            return Self::Text(text.to_owned());
        }
        match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Bool(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => return Self::Bool(false),
            _ => {}
        }
        if let Some(integer) = integer(text) {
            return Self::Integer(integer);
        }
        match float(text) {
            Some(number) if text.contains(['.', 'n', 'N', 'i', 'I']) => Self::Float(number),
            // `123e5` is a number for YAML and often a name for the user: the text is kept.
            Some(number) => Self::Number(number, text.to_owned()),
            None => Self::Text(text.to_owned()),
        }
    }
}

/// As C's `strtoll` with base 0: sign, `0x` hexadecimal, leading `0` octal.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign is none of strtoll's numbers.
    if !digits.bytes().next()?.is_ascii_alphanumeric() {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// As C's `strtod`, with YAML's `.inf` and `.nan`.
fn float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    text.parse().ok()
}

impl fmt::Display for Value {
    /// The value as the user may recognise it, bounded, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NotSet => "not set".into(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Number(_, text) => text.clone(),
            Self::Text(value) => format!("'{}'", value.escape_debug()),
            Self::Integers(values) => format!("{values:?}"),
            Self::Floats(values) => format!("{values:?}"),
            Self::Other(text) => text.escape_debug().to_string(),
        };
        if text.chars().count() <= 60 {
            f.write_str(&text)
        } else {
            write!(f, "{}…", text.chars().take(60).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Value::{self, Bool, Float, Integer, Number, Text};

    #[test]
    fn scalars_have_the_types_of_rcl() {
        let text = |text: &str| Text(text.into());
        for (given, wanted) in [
            ("on", Bool(true)),
            ("No", Bool(false)),
            ("tRUE", text("tRUE")),
            ("12", Integer(12)),
            ("-0x1F", Integer(-31)),
            ("010", Integer(8)),
            ("08", Number(8.0, "08".into())),
            ("1.0", Float(1.0)),
            (".5", Float(0.5)),
            ("1e3", Number(1000.0, "1e3".into())),
            ("-.inf", Float(f64::NEG_INFINITY)),
            ("1_000", text("1_000")),
            ("--1", text("--1")),
            ("+-1", text("+-1")),
            ("0x", text("0x")),
            ("null", text("null")),
            ("~", text("~")),
            ("", text("")),
            (
                "9223372036854775808",
                Number(9_223_372_036_854_775_808.0, "9223372036854775808".into()),
            ),
        ] {
            assert_eq!(Value::from_scalar(given, false), wanted, "{given}");
        }
        assert_eq!(Value::from_scalar("12", true), text("12"));
    }
}
