//! What is remarked about an instruction that is passed on as it is.

use super::Instruction;
use crate::text::one_line;

/// Something about an instruction that was probably not meant, and that changes what the model
/// reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionRemark {
    /// The prompt template was taken off.
    Unwrapped(String),
    /// It ends with this mark, before which the prompt's own question mark stands.
    EndMark(char),
    /// It is in quotation marks.
    Quoted,
    /// Its words are joined by these instead of spaces.
    Joined(&'static str),
    /// Two spaces follow each other.
    DoubleSpace,
    /// It contains the name of a special token.
    SpecialToken(&'static str),
    /// A letter of another script or form that resembles Latin ones.
    MixedScript(char),
    /// A letter is written as a plain letter and a mark that combines with it.
    Combining(char),
    /// A mark that text programs put in place of a plain one.
    Typographic(char),
    /// It begins as a message, a field of one, or a line of a list.
    Markup(String),
    /// A code that web programs write for a character.
    Encoded(&'static str),
    /// A name in brackets that was to be replaced.
    Placeholder(String),
    /// Letters of UTF-8 that were read in another encoding.
    WrongEncoding(String),
}

impl std::fmt::Display for InstructionRemark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unwrapped(task) => write!(
                f,
                "the prompt template around the instruction was taken off; the task is {:?}",
                one_line(task)
            ),
            Self::EndMark(mark) => write!(
                f,
                "the instruction ends with {mark:?}, so that OpenVLA's prompt has \"{mark}?\"; it \
                is passed on as the official code does, but policies were trained without, and one \
                mark can make them fail: leave it out"
            ),
            Self::Quoted => f.write_str(
                "the instruction is in quotation marks, which are passed on; leave them out",
            ),
            Self::Joined(by) => write!(
                f,
                "the words of the instruction are joined by {by}, which are passed on; write spaces"
            ),
            Self::DoubleSpace => f.write_str(
                "two spaces follow each other in the instruction and are passed on as a word of \
                their own; write one",
            ),
            Self::SpecialToken(token) => {
                write!(f, "{token} in the instruction is read as plain text, not as the token")
            }
            Self::MixedScript(character) => write!(
                f,
                "the instruction has {character:?} (U+{:04X}) within a word of Latin letters, \
                which the model reads as another letter; write the Latin one",
                u32::from(*character)
            ),
            Self::Combining(mark) => write!(
                f,
                "the instruction has a combining mark (U+{:04X}), as file names of some systems \
                have, and the model reads it apart from its letter; write the letter as one \
                character",
                u32::from(*mark)
            ),
            Self::Typographic(mark) => write!(
                f,
                "the instruction has {mark:?} (U+{:04X}), which text programs put in place of a \
                plain mark and which the model reads as another one; write the plain one",
                u32::from(*mark)
            ),
            Self::Markup(what) => write!(
                f,
                "the instruction begins with {what:?}, as a message or a list does; it is passed \
                on: send the text alone"
            ),
            Self::Encoded(code) => write!(
                f,
                "the instruction contains {code:?}, which web programs write for a character; it \
                is passed on: send the character itself"
            ),
            Self::Placeholder(name) => write!(
                f,
                "the instruction contains {name:?}, as a template whose place was not filled in; \
                it is passed on: write what is meant"
            ),
            Self::WrongEncoding(text) => write!(
                f,
                "the instruction contains {text:?}, which is UTF-8 that was read in another \
                encoding; it is passed on: send it as UTF-8"
            ),
        }
    }
}

/// Names of special tokens of the supported models' tokenizers.
const SPECIAL: [&str; 9] =
    ["</s>", "<s>", "<unk>", "<pad>", "<bos>", "<eos>", "<image>", "<|endoftext|>", "<mask>"];
/// Beginnings of texts that hold an instruction somewhere inside, and of lines of lists.
const MARKUP: [&str; 13] = [
    "data:",
    "{",
    "[",
    "instruction:",
    "task:",
    "prompt:",
    "text:",
    "- ",
    "* ",
    "> ",
    "# ",
    "**",
    "\u{2022}",
];
/// Codes of HTML and of addresses.
const CODES: [&str; 8] = ["%20", "&nbsp;", "&amp;", "&quot;", "&apos;", "&lt;", "&gt;", "&#"];

/// What is remarked about an instruction; `unwrapped`: whether a template was taken off.
pub(super) fn of(instruction: &Instruction, unwrapped: bool) -> Vec<InstructionRemark> {
    use InstructionRemark::*;
    let (given, text) = (instruction.as_given(), instruction.text());
    let mut remarks = Vec::new();
    if unwrapped {
        remarks.push(Unwrapped(given.to_owned()));
    }
    if let Some(mark) = text.chars().last().filter(|mark| ".?!,;:…。！？".contains(*mark)) {
        remarks.push(EndMark(mark));
    }
    let quotes = [('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('«', '»'), ('`', '`')];
    let ends = text.chars().next().zip(text.chars().last());
    if ends.is_some_and(|ends| quotes.contains(&ends)) && text.chars().count() > 1 {
        remarks.push(Quoted);
    }
    remarks.extend(joined(given).map(Joined));
    if text.contains("  ") {
        remarks.push(DoubleSpace);
    }
    if let Some(token) = SPECIAL.iter().find(|token| text.contains(**token)) {
        remarks.push(SpecialToken(token));
    }
    let latin = !given.contains(other_script);
    if let Some(character) = given.split_whitespace().find_map(|word| mixed(word, latin)) {
        remarks.push(MixedScript(character));
    } else if let Some(mark) = typographic(given) {
        remarks.push(Typographic(mark));
    }
    if let Some(mark) = given.chars().find(|c| matches!(c, '\u{300}'..='\u{36f}')) {
        remarks.push(Combining(mark));
    }
    if let Some(what) = MARKUP.iter().find(|what| text.starts_with(**what)) {
        remarks.push(Markup((*what).to_owned()));
    } else if let Some(number) = numbered(text) {
        remarks.push(Markup(number.to_owned()));
    } else if let Some(name) = placeholder(given).filter(|name| !is_special(name)) {
        remarks.push(Placeholder(name.to_owned()));
    }
    remarks.extend(CODES.iter().find(|code| text.contains(**code)).map(|code| Encoded(code)));
    remarks.extend(wrong_encoding(given).map(|text| WrongEncoding(text.to_owned())));
    remarks
}

fn is_special(name: &str) -> bool {
    SPECIAL.contains(&name.to_lowercase().as_str())
}

/// What joins the words of a text without spaces.
fn joined(text: &str) -> Option<&'static str> {
    if text.contains(char::is_whitespace) {
        return None;
    }
    let count = |mark: char| text.matches(mark).count();
    let letters: Vec<char> = text.chars().collect();
    let capitals = letters.windows(2).filter(|w| w[0].is_lowercase() && w[1].is_uppercase());
    if count('_') > 0 {
        Some("underscores")
    } else if count('-') > 1 {
        Some("hyphens")
    } else if count('+') > 1 {
        Some("plus signs")
    } else {
        (capitals.count() > 1).then_some("capital letters")
    }
}

/// The number at the beginning of a line of a list.
fn numbered(text: &str) -> Option<&str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.get(digits..)?;
    let marked = rest.starts_with(". ") || rest.starts_with(") ");
    (digits > 0 && marked).then(|| &text[..=digits])
}

/// A name in braces or angle brackets, or behind a dollar sign.
fn placeholder(text: &str) -> Option<&str> {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '|' | '/' | ' ' | '.');
    for (open, close) in [('{', '}'), ('<', '>')] {
        let Some((before, inner)) = text.split_once(open) else { continue };
        if let Some((name, _)) = inner.split_once(close)
            && name.chars().all(is_name)
        {
            return text.get(before.len()..before.len() + name.len() + 2);
        }
    }
    let (before, rest) = text.split_once('$')?;
    let length = rest.find(|c: char| !c.is_ascii_alphabetic() && c != '_').unwrap_or(rest.len());
    (length > 0).then(|| &text[before.len()..=before.len() + length])
}

/// Two letters that UTF-8 becomes when it is read as Latin-1 or Windows-1252.
fn wrong_encoding(text: &str) -> Option<&str> {
    let second =
        |c: char| matches!(c, '\u{80}'..='\u{bf}' | '€' | '™' | 'œ' | '\u{201a}'..='\u{201e}');
    text.char_indices().find_map(|(at, first)| {
        let rest = &text[at + first.len_utf8()..];
        let next = rest.chars().next().filter(|next| second(*next))?;
        matches!(first, '\u{c2}'..='\u{c3}' | '\u{e2}')
            .then(|| &text[at..at + first.len_utf8() + next.len_utf8()])
    })
}

/// A quotation mark, dash or ellipsis that a text program wrote into Latin text; one at an end is
/// remarked as that.
fn typographic(text: &str) -> Option<char> {
    if text.contains(other_script) {
        return None;
    }
    let mut inside = text.chars();
    inside.next();
    inside.next_back();
    let is_mark = |c: &char| {
        matches!(
            c,
            '\u{2010}'
                ..='\u{2014}'
                    | '\u{2018}'
                    | '\u{2019}'
                    | '\u{201c}'
                    | '\u{201d}'
                    | '\u{2026}'
                    | '\u{2032}'
                    | '\u{2212}'
        )
    };
    inside.find(is_mark)
}

/// Whether a letter is of a script in which none of Latin's conventions hold.
fn other_script(c: char) -> bool {
    c.is_alphabetic() && c > '\u{24f}' && !is_form_of_latin(c) && !is_full_width(c)
}

/// Ligatures, and the alphabets of mathematics.
fn is_form_of_latin(c: char) -> bool {
    matches!(c, '\u{fb00}'..='\u{fb06}' | '\u{1d400}'..='\u{1d7ff}')
}

fn is_full_width(c: char) -> bool {
    matches!(c, '\u{ff21}'..='\u{ff5a}')
}

/// The first letter that only resembles a Latin one: Cyrillic, Greek or full-width in a word that
/// also has ASCII letters, full-width in a text of Latin letters alone, a ligature or a letter of
/// mathematics anywhere.
fn mixed(word: &str, latin: bool) -> Option<char> {
    if let Some(letter) = word.chars().find(|c| is_form_of_latin(*c) || latin && is_full_width(*c))
    {
        return Some(letter);
    }
    // The blocks of Greek and Cyrillic follow each other.
    let similar = |c: &char| matches!(c, '\u{370}'..='\u{4ff}') || is_full_width(*c);
    word.chars().any(|c| c.is_ascii_alphabetic()).then(|| word.chars().find(similar)).flatten()
}
