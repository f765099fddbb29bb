//! The goals of an action server, independent of ROS: statuses, cancellation, kept results.
//!
//! Protocol: <https://design.ros2.org/articles/actions.html>; numbers: `action_msgs`.

use std::time::Duration;

use vla_control::time::{Instant, Stamp};

/// Ended goals whose result is kept for clients that ask late.
const KEPT: usize = 32;
/// How long a result is kept.
const KEPT_FOR: Duration = Duration::from_secs(900);

/// A client's number of a goal: a UUID.
pub(super) type GoalId = [u8; 16];

/// Status of a goal, with the number in `action_msgs/GoalStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum GoalStatus {
    Executing = 2,
    Canceling = 3,
    Succeeded = 4,
    Canceled = 5,
    Aborted = 6,
}

impl GoalStatus {
    /// Number of a goal that the server does not have.
    pub const UNKNOWN: i8 = 0;

    pub const fn code(self) -> i8 {
        self as i8
    }

    const fn is_active(self) -> bool {
        matches!(self, Self::Executing | Self::Canceling)
    }
}

/// A goal that was accepted.
#[derive(Debug)]
pub(super) struct GoalRecord<R> {
    pub id: GoalId,
    /// ROS time of the acceptance.
    pub accepted: Stamp,
    pub status: GoalStatus,
    /// When it ended, and its result.
    ended: Option<(Instant, R)>,
}

/// Answer to a request for cancellation, with the number in `action_msgs/CancelGoal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum CancelAnswer {
    Accepted = 0,
    Rejected = 1,
    UnknownGoal = 2,
    GoalEnded = 3,
}

/// Which goals a client asks to cancel.
#[derive(Debug, Clone, Copy)]
pub(super) struct CancelFilter {
    /// This goal, unless zero.
    pub id: GoalId,
    /// Every goal accepted up to this time, unless zero. Both zero: every goal.
    pub until: Stamp,
}

/// The active goal and the newest of those that have ended.
#[derive(Debug)]
pub(super) struct Goals<R>(Vec<GoalRecord<R>>);

impl<R> Default for Goals<R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<R> Goals<R> {
    /// In the order of acceptance.
    pub fn iter(&self) -> impl Iterator<Item = &GoalRecord<R>> {
        self.0.iter()
    }

    pub fn contains(&self, id: &GoalId) -> bool {
        self.0.iter().any(|goal| goal.id == *id)
    }

    /// Adds a goal, which executes at once.
    pub fn accept(&mut self, id: GoalId, accepted: Stamp) {
        self.0.push(GoalRecord { id, accepted, status: GoalStatus::Executing, ended: None });
    }

    /// Ends a goal.
    pub fn end(&mut self, id: &GoalId, status: GoalStatus, now: Instant, result: R) {
        if let Some(goal) = self.0.iter_mut().find(|goal| goal.id == *id) {
            (goal.status, goal.ended) = (status, Some((now, result)));
        }
    }

    /// The result of a goal that has ended.
    pub fn result(&self, id: &GoalId) -> Option<(GoalStatus, &R)> {
        let goal = self.0.iter().find(|goal| goal.id == *id)?;
        goal.ended.as_ref().map(|(_, result)| (goal.status, result))
    }

    /// Marks the goals that the filter selects as being cancelled and returns them.
    pub fn cancel(&mut self, filter: &CancelFilter) -> (CancelAnswer, Vec<(GoalId, Stamp)>) {
        let (by_id, by_time) = (filter.id != GoalId::default(), filter.until != Stamp::default());
        let mut cancelled = Vec::new();
        for goal in self.0.iter_mut().filter(|goal| goal.status.is_active()) {
            let selected = (by_id && goal.id == filter.id)
                || (by_time && goal.accepted <= filter.until)
                || (!by_id && !by_time);
            if selected {
                goal.status = GoalStatus::Canceling;
                cancelled.push((goal.id, goal.accepted));
            }
        }
        let answer = if !cancelled.is_empty() {
            CancelAnswer::Accepted
        } else if by_id && !by_time {
            match self.contains(&filter.id) {
                true => CancelAnswer::GoalEnded,
                false => CancelAnswer::UnknownGoal,
            }
        } else {
            CancelAnswer::Rejected
        };
        (answer, cancelled)
    }

    /// Forgets results that are old or too many; returns whether any was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        let old = |goal: &GoalRecord<R>| {
            goal.ended.as_ref().is_some_and(|(at, _)| now.since(*at).exceeds(KEPT_FOR))
        };
        self.0.retain(|goal| !old(goal));
        let mut surplus = self.0.iter().filter(|goal| goal.ended.is_some()).count();
        self.0.retain(|goal| {
            let drop = goal.ended.is_some() && KEPT < surplus;
            surplus -= usize::from(drop);
            !drop
        });
        self.0.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(number: u8) -> GoalId {
        let mut id = [0; 16];
        id[15] = number;
        id
    }

    fn second(s: i32) -> Stamp {
        Stamp::from_ros(s, 0)
    }

    fn at(s: u64) -> Instant {
        Instant::from_nanoseconds(s * 1_000_000_000)
    }

    /// Goal 1 has ended, goals 2 and 3 execute; accepted at 1, 2 and 3 s.
    fn three() -> Goals<&'static str> {
        let mut goals = Goals::default();
        for number in 1..=3 {
            goals.accept(id(number), second(number.into()));
        }
        goals.end(&id(1), GoalStatus::Succeeded, at(1), "one");
        goals
    }

    fn cancelled(goal: u8, until: i32) -> (CancelAnswer, Vec<u8>) {
        let (answer, ids) = three().cancel(&CancelFilter { id: id(goal), until: second(until) });
        (answer, ids.iter().map(|(id, _)| id[15]).collect())
    }

    #[test]
    fn cancellation_selects_as_action_msgs_says() {
        assert_eq!(cancelled(0, 0), (CancelAnswer::Accepted, vec![2, 3]));
        assert_eq!(cancelled(3, 0), (CancelAnswer::Accepted, vec![3]));
        assert_eq!(cancelled(0, 2), (CancelAnswer::Accepted, vec![2]));
        assert_eq!(cancelled(3, 2), (CancelAnswer::Accepted, vec![2, 3]));
        assert_eq!(cancelled(1, 0), (CancelAnswer::GoalEnded, vec![]));
        assert_eq!(cancelled(9, 0), (CancelAnswer::UnknownGoal, vec![]));
        assert_eq!(cancelled(0, 1), (CancelAnswer::Rejected, vec![]));
    }

    #[test]
    fn results_are_kept_for_a_time_and_up_to_a_number() {
        let mut goals = three();
        assert_eq!(goals.result(&id(1)), Some((GoalStatus::Succeeded, &"one")));
        assert_eq!(goals.result(&id(2)), None);
        assert!(!goals.expire(at(901)));
        assert!(goals.expire(at(902)));
        assert!(!goals.contains(&id(1)) && goals.contains(&id(2)), "active goals stay");
        for number in 10..=50 {
            goals.accept(id(number), second(10));
            goals.end(&id(number), GoalStatus::Aborted, at(902), "");
        }
        assert!(goals.expire(at(902)));
        assert_eq!(goals.iter().count(), KEPT + 2);
        assert!(!goals.contains(&id(18)) && goals.contains(&id(19)), "the newest stay");
    }
}
