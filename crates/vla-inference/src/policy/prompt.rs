//! Prompts of OpenVLA.

use crate::checkpoint::PromptStyle;
use crate::observation::Instruction;

/// System prompt of the Vicuna-style checkpoints (`openvla-v01`).
const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence \
    assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";

/// The prompt for an instruction in a checkpoint's style (`vla-scripts/deploy.py` of the
/// official repository).
#[must_use]
pub fn prompt(style: &PromptStyle, instruction: &Instruction) -> String {
    let question = format!("What action should the robot take to {}?", instruction.text());
    match style {
        PromptStyle::Pure => format!("In: {question}\nOut:"),
        PromptStyle::Vicuna => format!("{VICUNA_SYSTEM} USER: {question} ASSISTANT:"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prompts_match_training() {
        let instruction = Instruction::new("Pick up the Block").unwrap();
        assert_eq!(
            prompt(&PromptStyle::Pure, &instruction),
            "In: What action should the robot take to pick up the block?\nOut:"
        );
        assert!(
            prompt(&PromptStyle::Vicuna, &instruction).ends_with("pick up the block? ASSISTANT:")
        );
    }
}
