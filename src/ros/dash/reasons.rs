//! Names, sentences and remedies of `Status.msg`'s reasons, from the message's own comments.

use std::collections::BTreeMap;
use std::sync::LazyLock;

const MESSAGE: &str = include_str!("../../../msg/msg/Status.msg");

/// What `Status.msg` says about a reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReasonText {
    /// Without `REASON_`.
    pub name: &'static str,
    pub sentence: &'static str,
    /// Empty when the message has none.
    pub remedy: String,
}

static REASONS: LazyLock<BTreeMap<u16, ReasonText>> = LazyLock::new(|| parse(MESSAGE));

/// A reason by its number; `None` for one that this program does not know.
pub(super) fn reason(code: u16) -> Option<&'static ReasonText> {
    REASONS.get(&code)
}

/// Lines `uint16 REASON_NAME = N # sentence`, each followed by its remedy: comments indented by
/// five blanks, of which the first begins with `Remedy: `.
fn parse(message: &'static str) -> BTreeMap<u16, ReasonText> {
    let mut reasons = BTreeMap::new();
    let mut last = None;
    for line in message.lines() {
        if let Some((code, text)) = constant(line) {
            last = Some(code);
            reasons.insert(code, text);
        } else if let (Some(words), Some(code)) = (line.strip_prefix("#     "), last) {
            if let Some(ReasonText { remedy, .. }) = reasons.get_mut(&code) {
                let words = words.strip_prefix("Remedy: ").unwrap_or(words);
                *remedy = [remedy.trim_end(), words].join(" ").trim_start().to_owned();
            }
        } else {
            last = None;
        }
    }
    reasons
}

fn constant(line: &'static str) -> Option<(u16, ReasonText)> {
    let (name, rest) = line.strip_prefix("uint16 REASON_")?.split_once(" = ")?;
    let (code, sentence) = rest.split_once('#').unwrap_or((rest, ""));
    let text = ReasonText { name, sentence: sentence.trim(), remedy: String::new() };
    Some((code.trim().parse().ok()?, text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_constant_is_read() {
        let constants = MESSAGE.lines().filter(|line| line.starts_with("uint16 REASON_")).count();
        assert_eq!(parse(MESSAGE).len(), constants);
        assert!(constants > 50);
        for reason in vla_control::Reason::ALL {
            assert_eq!(super::reason(reason.code()).unwrap().name, reason.name());
        }
        assert_eq!(reason(40).unwrap().sentence, "emergency stop");
        assert_eq!(reason(9999), None);
    }

    #[test]
    fn remedies_follow_their_reason() {
        let parsed = parse(
            "uint16 REASON_A = 1  # it is a\n#     Remedy: do b,\n#     then c.\n# - others\n\
            #     not of a\nuint16 REASON_D = 2\nuint16 reason\n",
        );
        let a = ReasonText { name: "A", sentence: "it is a", remedy: "do b, then c.".into() };
        assert_eq!(parsed[&1], a);
        assert_eq!(parsed[&2].remedy, "");
    }
}
