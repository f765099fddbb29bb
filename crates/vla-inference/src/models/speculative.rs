//! Speculative decoding: the acceptance rule.
//!
//! The draft is the previous action's token ids. It runs along with the prompt, so that one forward
//! pass verifies all of it: row i of the logits gives the greedy token after i drafted ones. The
//! result equals greedy decoding without a draft, whatever the draft.

/// Number of accepted draft tokens: the longest prefix of `draft` that equals the greedy tokens
/// `verified`. `verified[i]` is valid while the first i draft tokens are accepted, so
/// `verified[..=accepted]` are final.
pub fn accepted(draft: &[u32], verified: impl IntoIterator<Item = u32>) -> usize {
    draft.iter().zip(verified).take_while(|&(&draft, verified)| draft == verified).count()
}

/// The draft tokens that can save a decode step of an action of `tokens` tokens: the last token is
/// selected but never fed to the model, so nothing follows it.
pub fn usable(draft: &[u32], tokens: usize) -> &[u32] {
    &draft[..draft.len().min(tokens.saturating_sub(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_longest_common_prefix() {
        assert_eq!(accepted(&[], [7]), 0);
        assert_eq!(accepted(&[1, 2, 3], [1, 2, 3, 4]), 3);
        assert_eq!(accepted(&[1, 9, 3], [1, 2, 3, 4]), 1);
        assert_eq!(accepted(&[9, 2, 3], [1, 2, 3, 4]), 0);
    }

    #[test]
    fn last_token_is_never_drafted() {
        assert_eq!(usable(&[1, 2, 3], 3), [1, 2]);
        assert_eq!(usable(&[1], 3), [1]);
        assert!(usable(&[1], 0).is_empty());
    }
}
