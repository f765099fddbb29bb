//! What went wrong with a server, before its address is added.

use vla_inference::policy::{RemoteError, RemoteFault};
use vla_wire::WireError;

use crate::RemoteAddress;

/// Longest text of a server in a message, characters.
const SHOWN_MAX: usize = 200;

/// What went wrong.
#[derive(Debug, PartialEq)]
pub(crate) struct Trouble {
    pub fault: RemoteFault,
    pub what: String,
    pub out_of_bounds: bool,
}

impl Trouble {
    fn new(fault: RemoteFault, what: impl Into<String>) -> Self {
        Self { fault, what: what.into(), out_of_bounds: false }
    }

    pub fn gone(what: impl Into<String>) -> Self {
        Self::new(RemoteFault::Gone, what)
    }

    pub fn refused(what: impl Into<String>) -> Self {
        Self::new(RemoteFault::Refused, what)
    }

    pub fn late(what: impl Into<String>) -> Self {
        Self::new(RemoteFault::Late, what)
    }

    pub fn malformed(what: impl Into<String>) -> Self {
        Self::new(RemoteFault::Malformed, what)
    }

    pub fn out_of_bounds(what: String) -> Self {
        Self { out_of_bounds: true, ..Self::malformed(what) }
    }

    pub fn at(self, address: &RemoteAddress) -> RemoteError {
        let Self { fault, what, out_of_bounds } = self;
        RemoteError { fault, address: address.to_string(), what, out_of_bounds }
    }
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        match error {
            WireError::ServerError(_) => Self::refused(error.to_string()),
            _ => Self::malformed(format!("its answer cannot be read: {error}")),
        }
    }
}

/// A server's text in one line: the last one that is not empty, which is the error of a Python
/// traceback.
pub(crate) fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let shown: String = line.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if line.chars().nth(SHOWN_MAX).is_some() { format!("{shown}...") } else { shown }
}

/// A text in one line of at most so many of its characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = text.chars().take(most).map(plain).collect();
    if text.chars().nth(most).is_some() { format!("{shown}...") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_is_its_last_line() {
        let text = "Traceback (most recent call last):\n  File \"x\"\nKeyError: 'image'\n\n";
        assert_eq!(last_line(text), "KeyError: \\'image\\'");
        assert_eq!(last_line(""), "");
        assert!(last_line(&"x".repeat(100_000)).len() < SHOWN_MAX + 4);
        assert!(!last_line("a\u{1b}[2Jb").contains('\u{1b}'));
    }
}
