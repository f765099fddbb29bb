//! The prompt's template around a task. People paste whole prompts, and recordings hold them; put
//! into the template again, the question would be asked about itself.

use super::InstructionError;

/// The question of OpenVLA's prompts, before and behind the task.
const QUESTION: &str = "what action should the robot take to";
/// What stands before the question in the two styles of prompt, and behind its question mark.
const BEFORE: [&str; 3] = ["in:", "user:", "human:"];
const BEHIND: [&str; 3] = ["</s>", "out:", "assistant:"];

/// The task in a text that may be a whole prompt.
///
/// # Errors
/// When the text holds a part of the template that is not around all of it.
pub(super) fn without_template(text: &str) -> Result<&str, InstructionError> {
    let mut task = text;
    let mut question = task;
    // The Vicuna style has a system prompt first: what follows its `USER:` is taken.
    if let Some(at) = find(question, "user: what action") {
        question = &question[at..];
    }
    for part in BEFORE {
        question = without_prefix(question, part).unwrap_or(question);
    }
    if let Some(inner) = without_prefix(question, QUESTION) {
        let mut inner = inner.trim_end();
        for part in BEHIND {
            inner = without_suffix(inner, part).map_or(inner, str::trim_end);
        }
        task = inner.strip_suffix('?').unwrap_or(inner).trim();
    }
    let parts = [("In:", "in:"), ("USER:", "user:")];
    if let Some((shown, _)) = parts.iter().find(|(_, part)| without_prefix(task, part).is_some()) {
        return Err(InstructionError::Template(shown));
    }
    let parts = [("Out:", "out:"), ("ASSISTANT:", "assistant:")];
    if let Some((shown, _)) = parts.iter().find(|(_, part)| without_suffix(task, part).is_some()) {
        return Err(InstructionError::Template(shown));
    }
    match find(task, QUESTION) {
        Some(_) => Err(InstructionError::Template("What action should the robot take to")),
        None => Ok(task),
    }
}

/// Where `part`, ASCII in lower case, begins in the text in any case.
fn find(text: &str, part: &str) -> Option<usize> {
    // ASCII letters keep their length in lower case, so that places in both texts agree.
    text.to_ascii_lowercase().find(part)
}

/// What follows `part` at the beginning of the text, in any case, without white space before it.
fn without_prefix<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let head = text.get(..part.len())?;
    head.eq_ignore_ascii_case(part).then(|| text[part.len()..].trim_start())
}

/// What stands before `part` at the end of the text, in any case.
fn without_suffix<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let at = text.len().checked_sub(part.len())?;
    let tail = text.get(at..)?;
    tail.eq_ignore_ascii_case(part).then(|| &text[..at])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_template_is_taken_off_once() {
        for text in [
            "In: What action should the robot take to pick up the block?",
            "In: What action should the robot take to pick up the block?\nOut:",
            "in: what action should the robot take to pick up the block?\nOut: ",
            "What action should the robot take to pick up the block?",
            "What action should the robot take to  pick up the block ?",
            "A chat between a curious user and an artificial intelligence assistant. The \
            assistant gives helpful answers. USER: What action should the robot take to pick up \
            the block? ASSISTANT:",
            "pick up the block",
        ] {
            assert_eq!(without_template(text).unwrap(), "pick up the block", "{text}");
        }
        for (text, part) in [
            ("In: pick up the block", "In:"),
            ("pick up the block\nOut:", "Out:"),
            ("please: what action should the robot take to go?", "What action"),
            (
                "In: What action should the robot take to what action should the robot take to go?",
                "What action",
            ),
        ] {
            let error = without_template(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        // Words of the template that are no part of it.
        for text in ["put it in: the bowl", "inform the user", "ü", "Ünder", ""] {
            assert_eq!(without_template(text).unwrap(), text);
        }
    }
}
