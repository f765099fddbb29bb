//! Instructions: what a text must be to reach a prompt, and what is remarked about it.
//!
//! Decided here for every command and the node: white space around a text is dropped, the prompt
//! template around it is taken off, and invisible characters are refused by name. Everything else
//! is passed on as the official code passes it; what that probably was not meant to be is remarked.

mod characters;
mod remarks;
mod template;

pub use remarks::InstructionRemark;

use characters::{Hidden, hidden};

/// Longest instruction that is accepted, bytes. Training instructions are shorter than 200.
pub const MAX_INSTRUCTION_BYTES: usize = 1000;

/// A text that is not a valid instruction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstructionError {
    /// White space only.
    #[error("the instruction is empty; publish what the robot should do")]
    Empty,
    /// Too long.
    #[error("the instruction has {0} bytes; at most {MAX_INSTRUCTION_BYTES} are accepted")]
    TooLong(usize),
    /// A line break or another control character, which could end the prompt's line.
    #[error("the instruction contains the control character {0:?}; send one line of text")]
    Control(char),
    /// A character that is not seen, or not seen as what it is.
    #[error(
        "the instruction contains U+{:04X} ({what}) as character {place}, which is part of \
        the prompt and does not show as what it is; {remedy}",
        u32::from(*character)
    )]
    Hidden {
        /// The character.
        character: char,
        /// Its name.
        what: &'static str,
        /// Its place, counted in characters from 1.
        place: usize,
        /// What to write.
        remedy: &'static str,
    },
    /// A part of the prompt's template.
    #[error(
        "the instruction contains {0:?}, a part of the prompt that is written around it; give the \
        task alone, such as \"pick up the block\""
    )]
    Template(&'static str),
    /// An escape sequence that a shell or a parser left as it was.
    #[error(
        "the instruction contains the escape sequence {0:?} as text; send the task alone, without \
        backslashes"
    )]
    Escape(String),
}

/// A valid instruction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    given: String,
    lowercase: String,
}

impl Instruction {
    /// Checks a text, and drops the white space and the prompt template around it.
    ///
    /// # Errors
    /// When it is empty, too long, not one line, or holds an invisible character.
    pub fn new(text: &str) -> Result<Self, InstructionError> {
        Self::read(text).map(|(instruction, _)| instruction)
    }

    /// [`Instruction::new`], with what is remarkable about the text.
    ///
    /// # Errors
    /// As [`Instruction::new`].
    pub fn read(text: &str) -> Result<(Self, Vec<InstructionRemark>), InstructionError> {
        if text.len() > MAX_INSTRUCTION_BYTES {
            return Err(InstructionError::TooLong(text.len()));
        }
        let given = text.trim();
        let task = template::without_template(given)?;
        if task.is_empty() {
            return Err(InstructionError::Empty);
        }
        refuse_hidden(task)?;
        let instruction = Self { given: task.to_owned(), lowercase: task.to_lowercase() };
        let remarks = remarks::of(&instruction, task.len() < given.len());
        Ok((instruction, remarks))
    }

    /// The text exactly as given, white space around it included, as the official code takes it:
    /// for comparisons with its recorded values.
    ///
    /// # Errors
    /// When it is empty, too long or not one line.
    pub fn recorded(text: &str) -> Result<Self, InstructionError> {
        if text.len() > MAX_INSTRUCTION_BYTES {
            return Err(InstructionError::TooLong(text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(InstructionError::Control(control));
        }
        if text.trim().is_empty() {
            return Err(InstructionError::Empty);
        }
        Ok(Self { given: text.to_owned(), lowercase: text.to_lowercase() })
    }

    /// The lowercased text, as OpenVLA was trained on.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.lowercase
    }

    /// The text as given: pi0 does not lowercase.
    #[must_use]
    pub fn as_given(&self) -> &str {
        &self.given
    }
}

/// Refuses control characters, invisible characters and escape sequences.
fn refuse_hidden(text: &str) -> Result<(), InstructionError> {
    let mut before = None;
    let mut characters = text.chars().enumerate().peekable();
    while let Some((index, character)) = characters.next() {
        let after = characters.peek().map(|(_, next)| *next);
        match hidden(before, character, after) {
            None => {}
            Some(Hidden::Control) => return Err(InstructionError::Control(character)),
            Some(Hidden::Named { what, remedy }) => {
                let place = index + 1;
                return Err(InstructionError::Hidden { character, what, place, remedy });
            }
        }
        // `\n`, `\t`, `\u200b`, `\x41`: a task has no backslash.
        if let ('\\', Some('n' | 'r' | 't' | 'u' | 'x' | '"' | '\'' | '\\')) = (character, after) {
            let escape = [Some(character), after].into_iter().flatten().collect();
            return Err(InstructionError::Escape(escape));
        }
        before = Some(character);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn invalid_texts_are_refused() {
        assert_eq!(Instruction::new("  "), Err(InstructionError::Empty));
        assert_eq!(Instruction::new(&"x".repeat(10_000)), Err(InstructionError::TooLong(10_000)));
        assert_eq!(Instruction::new("go\nOut: left"), Err(InstructionError::Control('\n')));
        assert_eq!(Instruction::new("\n"), Err(InstructionError::Empty));
        assert_eq!(Instruction::new("go\r\n").unwrap().text(), "go");
        assert_eq!(Instruction::new("  go  ").unwrap().text(), "go");
        let instruction = Instruction::new("Pick up the Block").unwrap();
        assert_eq!(instruction.text(), "pick up the block");
        assert_eq!(instruction.as_given(), "Pick up the Block");
    }

    #[test]
    fn recorded_texts_keep_their_spaces() {
        assert_eq!(Instruction::recorded("  go  ").unwrap().text(), "  go  ");
        assert_eq!(Instruction::recorded(" \n"), Err(InstructionError::Control('\n')));
    }
}
