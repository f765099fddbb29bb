//! Text from files, messages and other programs, for messages of one line: it can neither forge a
//! line of a log nor flood it, nor move a terminal's cursor.
#![forbid(unsafe_code)]

/// `text` on one line: control characters as escapes, cut after `longest` characters with `…`.
#[must_use]
pub fn one_line(text: &str, longest: usize) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == longest {
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

/// The last line that is not empty, as [`one_line`]: of a Python traceback it names the exception.
#[must_use]
pub fn last_line(text: &str, longest: usize) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    one_line(line.unwrap_or_default(), longest)
}

/// `text` with every run of white space replaced by one space. For messages of libraries that
/// break their lines for readability.
#[must_use]
pub fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\nb\u{2028}\u{7}", 80), "a\\nb\\u{2028}\\u{7}");
        assert_eq!(one_line("\u{1b}[2J'é", 80), "\\u{1b}[2J'é");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("abcde", 4), "abcd…");
    }

    #[test]
    fn a_traceback_is_its_last_line() {
        let text = "Traceback (most recent call last):\n  File \"x\"\nKeyError: 'image'\n\n";
        assert_eq!(last_line(text, 80), "KeyError: 'image'");
        assert_eq!(last_line(" \n", 80), "");
    }

    #[test]
    fn broken_lines_are_joined() {
        assert_eq!(unwrapped(" a\n   b\tc\n"), "a b c");
    }

    proptest! {
        #[test]
        fn any_text_is_one_bounded_line(
            text in "\\PC*|.*|(.|\n|\r|\u{2028}|\u{9b})*",
            longest in 0_usize..99,
        ) {
            for line in [one_line(&text, longest), last_line(&text, longest)] {
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
                prop_assert!(!line.contains(['\u{2028}', '\u{2029}']), "{line:?}");
                // An escape has at most 10 characters.
                prop_assert!(line.chars().count() <= 10 * longest + 1);
            }
        }
    }
}
