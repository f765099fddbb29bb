//! Errors of a configuration, reported all at once.

use std::fmt;

use foreign_text::one_line;

use super::ranges::Range;

/// Longest path and message of an error, characters: names and values are a user's.
const LONGEST_PATH: usize = 200;
const LONGEST_MESSAGE: usize = 16_000;

/// An invalid value in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the parameter, dotted: `limits.linear.velocity`.
    pub path: String,
    /// The value as given, and the rule it violates.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All errors of a configuration; not empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} problem{} in the configuration: ",
            self.0.len(),
            if self.0.len() == 1 { "" } else { "s" }
        )?;
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl ConfigErrors {
    /// Adds an error.
    pub fn add(&mut self, path: &str, message: impl Into<String>) {
        let path = one_line(path, LONGEST_PATH);
        let message = one_line(&message.into(), LONGEST_MESSAGE);
        self.0.push(ConfigError { path, message });
    }

    /// Adds an error unless `value` is within `low..=high` (NaN is not). `unit` is for the message.
    pub fn range(&mut self, path: &str, value: f64, low: f64, high: f64, unit: &str) {
        if !(low <= value && value <= high) {
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            self.add(path, format!("{value}{unit} is outside {low}..{high}{unit}"));
        }
    }

    /// Adds an error unless `value` is within a parameter's range.
    pub fn within(&mut self, path: &str, value: f64, range: &Range) {
        self.range(path, value, range.min, range.max, range.unit);
    }

    /// `value`, or the errors.
    ///
    /// # Errors
    /// `self`, unless it is empty.
    pub fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line() {
        let mut errors = ConfigErrors::default();
        errors.add("a\nb", format!("`\u{2028}\u{7}` {}", "x".repeat(20_000)));
        let line = errors.to_string();
        assert!(line.contains("a\\nb: `\\u{2028}\\u{7}` xx"), "{line}");
        assert!(line.chars().count() < 17_000 && line.ends_with('…'));
    }
}
