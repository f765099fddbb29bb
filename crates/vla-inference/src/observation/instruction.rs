//! Instructions.

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
}

/// A valid instruction. Line breaks at the end, which shells, YAML blocks and speech nodes add, are
/// removed. Leading and trailing spaces are kept, as in the official code: they change the token
/// ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    given: String,
    lowercase: String,
}

impl Instruction {
    /// Checks a text.
    ///
    /// # Errors
    /// When it is empty, too long or not one line.
    pub fn new(text: &str) -> Result<Self, InstructionError> {
        if text.len() > MAX_INSTRUCTION_BYTES {
            return Err(InstructionError::TooLong(text.len()));
        }
        let text = text.trim_end_matches(['\r', '\n']);
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
        assert_eq!(Instruction::new("  go  ").unwrap().text(), "  go  ");
        let instruction = Instruction::new("Pick up the Block").unwrap();
        assert_eq!(instruction.text(), "pick up the block");
        assert_eq!(instruction.as_given(), "Pick up the Block");
    }
}
