//! JSON as Python's `json` module writes it: also with NaN, Infinity and -Infinity, which are no
//! JSON, and with a byte order mark, which editors put in front.

use std::borrow::Cow;

/// A byte order mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// Python's spellings of numbers that are not finite.
const NOT_FINITE: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// The bytes without a byte order mark.
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// The text with every number that is not finite as a string of its name: no field that is read as
/// a number accepts one, and the error that refuses it shows the name. Borrowed when there is none.
pub(super) fn named_constants(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut named: Vec<u8> = Vec::new();
    let (mut at, mut copied) = (0, 0);
    let mut in_string = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => at += 1, // the next byte is escaped
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let rest = &bytes[at..];
                let found = NOT_FINITE.iter().find(|name| rest.starts_with(name));
                if let Some(name) = found {
                    named.extend_from_slice(&bytes[copied..at]);
                    named.push(b'"');
                    named.extend_from_slice(name);
                    named.push(b'"');
                    at += name.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    named.extend_from_slice(&bytes[copied..]);
    Cow::Owned(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_become_their_names() {
        let named = |text: &'static str| {
            String::from_utf8_lossy(&named_constants(text.as_bytes())).into_owned()
        };
        assert_eq!(named(r#"{"a":[NaN,-Infinity, Infinity]}"#), {
            r#"{"a":["NaN","-Infinity", "Infinity"]}"#
        });
        // Not inside strings, escaped quotes included, and not in numbers.
        for same in [r#"{"NaN":"a \" NaN"}"#, r#"{"a":-1.5,"b":null}"#, "", "\"NaN", "\"\\"] {
            assert_eq!(named(same), same);
        }
        assert!(matches!(named_constants(b"{\"a\":-1}"), Cow::Borrowed(_)));
    }
}
