//! Foreign text in messages of one line.

/// Longest excerpt of foreign text in a message, characters.
const EXCERPT: usize = 400;

/// `text` on one line: control characters escaped, cut after 400 characters with `…`. For text
/// from files, messages and libraries, so that it can neither forge nor flood a log.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == EXCERPT {
            line.push('…');
            break;
        }
        // U+2028 and U+2029 end a line in many viewers although they are not control characters.
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// `text` with every run of white space replaced by one space. For messages of libraries that
/// break their lines for readability.
#[must_use]
pub fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_cut_or_joined() {
        assert_eq!(one_line("a\nb\u{2028}\u{7}"), "a\\nb\\u{2028}\\u{7}");
        assert_eq!(one_line(&"x".repeat(401)).chars().count(), EXCERPT + 1);
        assert_eq!(unwrapped(" a\n  b\r\n"), "a b");
    }
}
