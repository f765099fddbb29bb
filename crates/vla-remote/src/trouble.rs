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
    foreign_text::last_line(text, SHOWN_MAX)
}
