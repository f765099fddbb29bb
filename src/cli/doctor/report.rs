//! What a check found, and how it is printed.

use foreign_text::{one_line, unwrapped};
use serde::Serialize;

use crate::cli::{CliError, print, print_json};

/// Longest value or remedy printed, characters: names in a graph and variables come from outside.
const LONGEST: usize = 600;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// In order.
    Ok,
    /// Works, but slower, less safely or not as tested.
    Warning,
    /// Does not work.
    Error,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) value: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, value, None)
    }

    pub(crate) fn warning(
        name: impl Into<String>,
        value: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(name, Level::Warning, value, Some(remedy.into()))
    }

    pub(crate) fn error(
        name: impl Into<String>,
        value: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(name, Level::Error, value, Some(remedy.into()))
    }

    fn new(
        name: impl Into<String>,
        level: Level,
        value: impl Into<String>,
        remedy: Option<String>,
    ) -> Self {
        let (name, value) = (printable(&name.into()), printable(&value.into()));
        Self { name, level, value, remedy: remedy.map(|remedy| printable(&remedy)) }
    }

    /// The line for people.
    fn line(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let remedy = self.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        format!("{level:<8}{:<22}{}{remedy}", self.name, self.value)
    }
}

/// On one line, of a bounded length.
fn printable(text: &str) -> String {
    one_line(&unwrapped(text), LONGEST)
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    checks: &'a [Check],
    ok: usize,
    warnings: usize,
    errors: usize,
}

/// The checks as they are made: people see each at once, JSON is one object at the end.
pub(super) struct Report {
    json: bool,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, checks: Vec::new() }
    }

    pub(super) fn add(&mut self, checks: impl IntoIterator<Item = Check>) -> Result<(), CliError> {
        for check in checks {
            if !self.json {
                print(&check.line())?;
            }
            self.checks.push(check);
        }
        Ok(())
    }

    /// Prints the sum.
    ///
    /// # Errors
    /// When a check failed.
    pub(super) fn finish(self) -> Result<(), CliError> {
        let count = |level| self.checks.iter().filter(|check| check.level == level).count();
        let (ok, warnings, errors) = (count(Level::Ok), count(Level::Warning), count(Level::Error));
        if self.json {
            print_json(&Summary { checks: &self.checks, ok, warnings, errors })?;
        } else {
            print(&format!("{ok} ok, {warnings} warnings, {errors} errors"))?;
        }
        if 0 < errors {
            return Err(CliError::Doctor(errors, self.checks.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_bounded_line() {
        let check = Check::error("a b", "x\n\u{1b}[31my", format!("do {}", "z".repeat(2000)));
        let line = check.line();
        let start = "error   a b                   x \\u{1b}[31my; do zzz";
        assert!(line.starts_with(start), "{line}");
        assert!(line.chars().count() < 1300 && !line.chars().any(char::is_control));
        assert_eq!(Check::ok("a", "b").line(), "ok      a                     b");
    }
}
