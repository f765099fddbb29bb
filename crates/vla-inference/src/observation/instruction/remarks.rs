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
    /// Its words are joined by underscores.
    Underscores,
    /// Two spaces follow each other.
    DoubleSpace,
    /// It contains the name of a special token.
    SpecialToken(&'static str),
    /// A word mixes Latin letters with similar ones of another script.
    MixedScript(char),
    /// A letter is written as a plain letter and a mark that combines with it.
    Combining(char),
    /// It begins as a message or a field of one.
    Markup(&'static str),
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
            Self::Underscores => f.write_str(
                "the words of the instruction are joined by underscores, which are passed on; \
                write spaces",
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
            Self::Markup(what) => write!(
                f,
                "the instruction begins with {what:?}, as a message does; it is passed on: send \
                the text alone"
            ),
        }
    }
}

/// Names of special tokens of the supported models' tokenizers.
const SPECIAL: [&str; 9] =
    ["</s>", "<s>", "<unk>", "<pad>", "<bos>", "<eos>", "<image>", "<|endoftext|>", "<mask>"];
/// Beginnings of texts that hold an instruction somewhere inside.
const MARKUP: [&str; 5] = ["data:", "{", "[", "instruction:", "task:"];

/// What is remarked about an instruction; `unwrapped`: whether a template was taken off.
pub(super) fn of(instruction: &Instruction, unwrapped: bool) -> Vec<InstructionRemark> {
    use InstructionRemark::*;
    let (given, text) = (instruction.as_given(), instruction.text());
    let mut remarks = Vec::new();
    if unwrapped {
        remarks.push(Unwrapped(given.to_owned()));
    }
    if let Some(mark) = text.chars().last().filter(|mark| ".?!,;:。！？".contains(*mark)) {
        remarks.push(EndMark(mark));
    }
    let quotes = [('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('«', '»'), ('`', '`')];
    let ends = text.chars().next().zip(text.chars().last());
    if ends.is_some_and(|ends| quotes.contains(&ends)) && text.chars().count() > 1 {
        remarks.push(Quoted);
    }
    if text.contains('_') && !text.contains(' ') {
        remarks.push(Underscores);
    }
    if text.contains("  ") {
        remarks.push(DoubleSpace);
    }
    if let Some(token) = SPECIAL.iter().find(|token| text.contains(**token)) {
        remarks.push(SpecialToken(token));
    }
    if let Some(character) = given.split_whitespace().find_map(mixed) {
        remarks.push(MixedScript(character));
    }
    if let Some(mark) = given.chars().find(|c| matches!(c, '\u{300}'..='\u{36f}')) {
        remarks.push(Combining(mark));
    }
    if let Some(what) = MARKUP.iter().find(|what| text.starts_with(**what)) {
        remarks.push(Markup(what));
    }
    remarks
}

/// The first Cyrillic, Greek or full-width letter of a word that also has ASCII letters.
fn mixed(word: &str) -> Option<char> {
    // The blocks of Greek and Cyrillic follow each other.
    let similar = |c: &char| matches!(c, '\u{370}'..='\u{4ff}' | '\u{ff21}'..='\u{ff5a}');
    word.chars().any(|c| c.is_ascii_alphabetic()).then(|| word.chars().find(similar)).flatten()
}
