//! Wire formats of policy servers and their clients, without sockets.
//!
//! - [`json_numpy`]: OpenVLA's `POST /act`, single and double encoding;
//! - [`msgpack`]: openpi's websocket, and vla-eval's with text in place of byte keys;
//! - [`picture`]: arrays that are pictures, as each protocol has them.
//!
//! A message is decoded into a [`Value`] within [`Limits`]; arrays of NumPy become [`NdArray`].
//! What comes from outside can only give an error: nothing here panics, memory is bounded by the
//! length of the message and [`Limits`].

pub mod array;
pub mod json_numpy;
pub mod msgpack;
pub mod picture;
mod tree;
pub mod value;

pub use array::{Dtype, NdArray};
pub use value::{Limits, Value};

/// Why a message cannot be read or written. One line each.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WireError {
    /// The message is not in the format.
    #[error("not a {format} message: {reason}")]
    Malformed {
        /// `JSON` or `msgpack`.
        format: &'static str,
        /// What is wrong, and where.
        reason: String,
    },
    /// The message is not an object of fields.
    #[error("the {format} message is {found}; an object (Python: dict) of fields is expected")]
    NoObject {
        /// `JSON` or `msgpack`.
        format: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A field of the message has another type than the protocol says.
    #[error("field '{field}' is {found}; {wanted} is expected")]
    Type {
        /// The field.
        field: String,
        /// What it is.
        found: String,
        /// What is expected.
        wanted: &'static str,
    },
    /// An array that is no array.
    #[error("{0}")]
    Array(String),
    /// An array that is no picture.
    #[error("{0}")]
    Picture(String),
    /// A number that JSON cannot hold.
    #[error("JSON has no number for {0}; send it as an array")]
    NotFinite(f64),
    /// OpenVLA's server answers a failed request with the text "error" and status 200.
    #[error("the server answered \"{0}\" in place of an action; its log has the reason")]
    ServerError(String),
}

/// `text` for an error message.
fn shown(text: &str) -> String {
    foreign_text::one_line(text, 64)
}
