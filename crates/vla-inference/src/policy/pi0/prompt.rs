//! Prompts of pi0 and pi0.5, and the bins of a state in a prompt.

use crate::checkpoint::pi0::{Pi0Kind, StateTokens};

/// Bin of a normalised value: `numpy.digitize(x, linspace(-1, 1, 257)[:-1]) - 1`. Values below the
/// range are -1, which is what the prompt then says; values above it are 255.
#[must_use]
pub fn state_bin(x: f32) -> i32 {
    // Exact: the product with a power of two is not rounded.
    let place = (f64::from(x) * 128.0).floor() + 128.0;
    // NaN, which numpy sorts last, is refused before.
    if place < 0.0 { -1 } else { place.min(255.0) as i32 }
}

/// White space as Python's `str.strip` sees it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The instruction without white space at its ends, underscores and line breaks as spaces.
fn cleaned(instruction: &str) -> String {
    instruction.trim_matches(is_space).replace(['_', '\n'], " ")
}

/// The prompt of an instruction. `state` is the normalised state in its own width; only pi0.5 uses
/// it. `lerobot` selects how pi0's instruction is cleaned: LeRobot takes it as it is.
#[must_use]
pub fn prompt(
    (kind, lerobot): (Pi0Kind, bool),
    instruction: &str,
    state: &[f32],
    (tokens, padded): (StateTokens, usize),
) -> String {
    match (kind, tokens) {
        (Pi0Kind::Pi0, _) if lerobot => {
            let end = if instruction.ends_with('\n') { "" } else { "\n" };
            format!("{instruction}{end}")
        }
        (Pi0Kind::Pi0, _) | (Pi0Kind::Pi05, StateTokens::None) => {
            format!("{}\n", cleaned(instruction))
        }
        (Pi0Kind::Pi05, _) => {
            let width = if tokens == StateTokens::Padded { padded } else { state.len() };
            let value = |at: usize| state_bin(state.get(at).copied().unwrap_or(0.0)).to_string();
            let bins: Vec<String> = (0..width.max(state.len())).map(value).collect();
            format!("Task: {}, State: {};\nAction: ", cleaned(instruction), bins.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_end_where_numpys_do() {
        let cases = [
            (-5.0, -1),
            (-1.000_000_1, -1),
            (-1.0, 0),
            (-0.992_187_6, 0),
            (-0.992_187_5, 1),
            (-1e-30, 127),
            (0.0, 128),
            (0.992_187_4, 254),
            (0.992_187_5, 255),
            (1.0, 255),
            (7.0, 255),
        ];
        for (x, bin) in cases {
            assert_eq!(state_bin(x), bin, "{x}");
        }
    }

    #[test]
    fn prompts_are_those_of_the_reference() {
        let exact = (StateTokens::Exact, 32);
        let pi0 = |text| prompt((Pi0Kind::Pi0, true), text, &[], exact);
        assert_eq!(pi0("open it"), "open it\n");
        assert_eq!(pi0(" Put_the  can\n"), " Put_the  can\n");
        let pi05 = |tokens| prompt((Pi0Kind::Pi05, true), " a_b \n", &[0.0, -3.0], tokens);
        assert_eq!(pi05(exact), "Task: a b, State: 128 -1;\nAction: ");
        assert_eq!(pi05((StateTokens::Padded, 3)), "Task: a b, State: 128 -1 128;\nAction: ");
        assert_eq!(pi05((StateTokens::None, 3)), "a b\n");
        assert_eq!(prompt((Pi0Kind::Pi0, false), " a_b ", &[], exact), "a b\n");
    }
}
