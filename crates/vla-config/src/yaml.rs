//! Bounded reading of YAML files, with errors of one line.

use std::{io::Read as _, path::Path};

use serde::de::DeserializeOwned;

use super::ConfigFileError;

/// Longest reason of a parser that is passed on, characters: it may quote the file.
pub(crate) const LONGEST_REASON: usize = 1000;

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// [`ConfigFileError::Read`] or [`ConfigFileError::TooLarge`].
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, ConfigFileError> {
    let failed = |source| ConfigFileError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    // One byte more than allowed reveals a file that is too large, also one without a size (a
    // pipe).
    let bytes = file.take(limit + 1).read_to_string(&mut text).map_err(failed)? as u64;
    if limit < bytes {
        return Err(ConfigFileError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    Ok(text)
}

/// Reads a YAML file into a raw form.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, ConfigFileError> {
    let text = read_text(path, limit)?;
    parse(&text).map_err(|message| ConfigFileError::Parse { path: path.to_owned(), message })
}

/// Parses a YAML document.
///
/// # Errors
/// One line: line, column, the parser's reason and the text of that line.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut budget = serde_saphyr::budget::Budget::default();
    // Configuration files are small: far less than the parser's defaults is enough.
    budget.max_events = 20_000;
    budget.max_aliases = 100;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let reason = foreign_text::one_line(&reason, LONGEST_REASON);
        let line = error.location().and_then(|location| {
            text.lines().nth(usize::try_from(location.line()).ok()?.checked_sub(1)?)
        });
        match line.map(str::trim).filter(|line| !line.is_empty()) {
            Some(line) => format!("{reason}, in `{}`", shortened(line)),
            None => reason,
        }
    })
}

fn shortened(line: &str) -> String {
    let printable = line.chars().take(60).flat_map(char::escape_debug).collect::<String>();
    if line.chars().count() <= 60 { printable } else { format!("{printable}...") }
}
