//! Foreign text in messages of one line.

pub use foreign_text::unwrapped;

/// Longest excerpt of foreign text in a message, characters.
const EXCERPT: usize = 400;

/// `text` on one line, cut after 400 characters.
#[must_use]
pub fn one_line(text: &str) -> String {
    foreign_text::one_line(text, EXCERPT)
}
