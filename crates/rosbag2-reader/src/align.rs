//! Matching of recorded instructions and actions to images. Times are nanoseconds since the epoch.
//!
//! The rules:
//! - **Clock.** Header stamps are compared when both messages carry one; otherwise the log times of
//!   both. A stamp is never compared with a log time.
//! - **Instruction.** The newest one whose log time is not after the image's log time, as in the
//!   node. Images before the first instruction have none.
//! - **Action.** By [`ActionMatch`], within a tolerance. One action may match several images.
//! - Of equal distances, the message recorded first is chosen.

use serde::{Deserialize, Serialize};

/// How the recorded action of an image is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionMatch {
    /// The one with exactly the image's stamp, for actions that carry the stamp of their image.
    Exact,
    /// The first one at or after the image, as a teleoperator reacts to an image.
    Next,
    /// The one nearest in time.
    Nearest,
    /// The newest one at or before the image.
    Latest,
}

/// Index in `actions` (ascending) of the action for an image at time `image`, at most `tolerance`
/// away.
pub fn match_action(
    actions: &[i64],
    image: i64,
    how: ActionMatch,
    tolerance: i64,
) -> Option<usize> {
    // The first action at or after the image, and the first of the newest time before it.
    let after = actions.partition_point(|&time| time < image);
    let before =
        after.checked_sub(1).map(|last| actions.partition_point(|&time| time < actions[last]));
    let distance = |place: usize| actions[place].abs_diff(image);
    let next = Some(after).filter(|&place| place < actions.len());
    let exact = next.filter(|&place| actions[place] == image);
    let chosen = match how {
        ActionMatch::Exact => exact,
        ActionMatch::Next => next,
        ActionMatch::Latest => exact.or(before),
        ActionMatch::Nearest => match (before, next) {
            (Some(before), Some(next)) if distance(next) < distance(before) => Some(next),
            (Some(before), _) => Some(before),
            (None, next) => next,
        },
    };
    chosen.filter(|&place| distance(place) <= tolerance.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::ActionMatch::{Exact, Latest, Nearest, Next};
    use super::*;

    #[test]
    fn chooses_by_policy_and_tolerance() {
        let actions = [10, 20, 20, 30];
        for (image, how, tolerance, expected) in [
            (20, Exact, 0, Some(1)),
            (21, Exact, 100, None),
            (11, Next, 9, Some(1)),
            (11, Next, 8, None),
            (20, Next, 0, Some(1)),
            (31, Next, 100, None),
            (29, Latest, 9, Some(1)),
            (29, Latest, 8, None),
            (30, Latest, 0, Some(3)),
            (9, Latest, 100, None),
            (14, Nearest, 4, Some(0)),
            (15, Nearest, 5, Some(0)),
            (16, Nearest, 4, Some(1)),
            (1, Nearest, 9, Some(0)),
            (99, Nearest, 69, Some(3)),
            (99, Nearest, 68, None),
        ] {
            assert_eq!(
                match_action(&actions, image, how, tolerance),
                expected,
                "{image} {how:?} {tolerance}"
            );
        }
        assert_eq!(match_action(&[], 5, Nearest, 100), None);
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        assert_eq!(match_action(&[i64::MIN, i64::MAX], 0, Nearest, i64::MAX), Some(1));
        assert_eq!(match_action(&[i64::MIN], i64::MAX, Latest, i64::MAX), None);
    }
}
