//! Characters that a person does not see, or sees as another one.

/// Why a character does not belong into an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// A control character.
    Control,
    /// A character with a name.
    Named {
        /// Its name in words.
        what: &'static str,
        /// What to write instead.
        remedy: &'static str,
    },
}

const REMOVE: &str = "remove it";
const SPACE: &str = "write an ordinary space";

/// Why `character`, with its neighbours, does not belong into an instruction.
pub(super) fn hidden(before: Option<char>, character: char, after: Option<char>) -> Option<Hidden> {
    if character.is_ascii() {
        return character.is_control().then_some(Hidden::Control);
    }
    // Persian, the Indic scripts and emoji need joiners between letters; Latin text never does.
    let is_foreign = |neighbour: Option<char>| neighbour.is_some_and(|c| !c.is_ascii());
    let joins = is_foreign(before) && is_foreign(after);
    let (what, remedy) = match character {
        '\u{200c}' | '\u{200d}' if joins => return None,
        '\u{200b}' => ("zero width space", REMOVE),
        '\u{200c}' => ("zero width non-joiner", REMOVE),
        '\u{200d}' => ("zero width joiner", REMOVE),
        '\u{2060}' => ("word joiner", REMOVE),
        '\u{feff}' => ("byte order mark", REMOVE),
        '\u{00ad}' => ("soft hyphen", REMOVE),
        '\u{034f}' => ("combining grapheme joiner", REMOVE),
        '\u{061c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => ("mark of the direction of writing", REMOVE),
        '\u{2061}'..='\u{2065}' | '\u{206a}'..='\u{206f}' => ("invisible operator", REMOVE),
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => ("Hangul filler", REMOVE),
        '\u{180b}'..='\u{180e}' => ("Mongolian separator", REMOVE),
        '\u{fff9}'..='\u{fffb}' => ("interlinear annotation", REMOVE),
        '\u{e0000}'..='\u{e007f}' => ("tag character", REMOVE),
        '\u{2028}' => ("line separator", "send one line of text"),
        '\u{2029}' => ("paragraph separator", "send one line of text"),
        // Beside a digit of a keycap they belong to an emoji, as behind every character of one.
        '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => match before {
            Some('0'..='9' | '#' | '*') => return None,
            before if is_foreign(before) => return None,
            _ => ("variation selector", REMOVE),
        },
        '\u{17b4}' | '\u{17b5}' => ("invisible vowel", REMOVE),
        '\u{fffc}' => ("place of an object that was not copied", REMOVE),
        '\u{fffd}' => ("replacement character: the text was damaged", "send it as UTF-8"),
        '\u{2581}' => ("the tokenizer's mark of a space", SPACE),
        '\u{2800}' => ("empty braille pattern", SPACE),
        '\u{00a0}' | '\u{202f}' => ("no-break space", SPACE),
        '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}' => ("private use", REMOVE),
        // U+3000 is the ordinary space of Chinese and Japanese text.
        '\u{3000}' if joins => return None,
        other if other.is_whitespace() => ("space of another width", SPACE),
        other if other.is_control() => return Some(Hidden::Control),
        _ => return None,
    };
    Some(Hidden::Named { what, remedy })
}
