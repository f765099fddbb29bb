//! Errors of the simulated mesh: a status and one line of text.

use tt_metal_sys as abi;

/// An error.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// `TTP_*`.
    pub status: abi::Status,
    /// One line: what, where, what to do.
    pub text: String,
}

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Refusal>;

/// A refusal with a status.
pub fn refusal(status: abi::Status, text: impl Into<String>) -> Refusal {
    Refusal { status, text: text.into() }
}

/// A value, shape, format or layout that is not allowed.
pub fn invalid(text: impl Into<String>) -> Refusal {
    refusal(abi::TTP_INVALID_ARGUMENT, text)
}

/// Returns `Err(invalid(..))` unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::error::invalid(format!($($text)+)));
        }
    };
}
pub(crate) use ensure;
