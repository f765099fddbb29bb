//! Receives instructions from publishers of every QoS.
//!
//! No single subscription matches all of them: one that requests reliable delivery is incompatible
//! with best-effort publishers (rosbridge, some bags), one that requests transient-local durability
//! with volatile publishers (`ros2 topic pub`), and a volatile one does not get the last message of
//! a latched publisher. There are therefore three subscriptions, and copies of the same message are
//! dropped.

use std::{collections::VecDeque, time::Duration};

use r2r::{QosProfile, std_msgs::msg::String as StringMessage};
use vla_control::time::Instant;

use super::{
    NodeError,
    inbox::{Inbox, subscribe},
};

/// Copies of a message arrive within this time.
const COPIES: Duration = Duration::from_secs(1);
/// Depth of each subscription. Messages older than these are superseded anyway.
const DEPTH: usize = 5;
/// Most recent messages kept for comparison.
const RECENT: usize = 32;

/// The subscriptions to `instruction`.
pub(super) struct InstructionSubscription {
    inboxes: [Inbox<StringMessage>; 3],
    copies: CopyFilter,
}

impl InstructionSubscription {
    pub fn create(node: &mut r2r::Node, topic: &str) -> Result<Self, NodeError> {
        let qos = || QosProfile::default().keep_last(DEPTH);
        Ok(Self {
            inboxes: [
                subscribe(node, topic, qos().reliable().transient_local())?,
                subscribe(node, topic, qos().reliable().volatile())?,
                subscribe(node, topic, qos().best_effort().volatile())?,
            ],
            copies: CopyFilter::default(),
        })
    }

    /// The next message that is no copy of an earlier one.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        for (source, inbox) in self.inboxes.iter_mut().enumerate() {
            while let Some(message) = inbox.next() {
                if self.copies.is_new(now, source, &message.data) {
                    return Some(message.data);
                }
            }
        }
        None
    }
}

/// Recognises copies of one message from several sources, in any interleaving.
#[derive(Debug, Default)]
struct CopyFilter(VecDeque<Recent>);

#[derive(Debug)]
struct Recent {
    text: String,
    at: Instant,
    /// Bit set of the sources that have delivered it.
    sources: u8,
}

impl CopyFilter {
    /// Whether the text is a new message. A copy is the oldest recent message with the same text
    /// that this source has not delivered yet, unless the source has delivered a later one: within
    /// a source the order is that of the publisher, so the message is newer than all of those.
    fn is_new(&mut self, now: Instant, source: usize, text: &str) -> bool {
        while self.0.front().is_some_and(|oldest| now.since(oldest.at).exceeds(COPIES)) {
            self.0.pop_front();
        }
        let bit = 1_u8 << source;
        let after_last = self.0.iter().rposition(|recent| recent.sources & bit != 0);
        let candidates = self.0.iter_mut().skip(after_last.map_or(0, |last| last + 1));
        if let Some(recent) = candidates.into_iter().find(|recent| recent.text == text) {
            recent.sources |= bit;
            return false;
        }
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(Recent { text: text.to_owned(), at: now, sources: bit });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_nanoseconds(ms * 1_000_000)
    }

    /// Which of these (source, text) are new, all within the time of copies.
    fn new(messages: &[(usize, &str)]) -> Vec<bool> {
        let mut copies = CopyFilter::default();
        messages.iter().map(|&(source, text)| copies.is_new(at(0), source, text)).collect()
    }

    #[test]
    fn the_last_message_of_a_publisher_holds() {
        // A latched publisher's history arrives after its newest message arrived live.
        assert_eq!(new(&[(2, "new"), (0, "old"), (0, "new")]), [true; 3]);
        // A withdrawal by one publisher after another publisher's instruction, in one turn.
        assert_eq!(new(&[(0, ""), (1, "go"), (1, "")]), [true; 3]);
        // A source that lost a message still recognises the copy of the next.
        let lost = [(0, "a"), (0, "b"), (2, "b"), (0, "a"), (2, "a")];
        assert_eq!(new(&lost), [true, true, false, true, false]);
    }

    #[test]
    fn copies_are_dropped_in_any_order() {
        for order in [
            [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "b")],
            [(2, "a"), (0, "a"), (1, "a"), (1, "b"), (2, "b"), (0, "b")],
            [(1, "a"), (0, "a"), (0, "b"), (2, "a"), (2, "b"), (1, "b")],
        ] {
            let mut filter = CopyFilter::default();
            let new: Vec<_> = order
                .iter()
                .filter(|(source, text)| filter.is_new(at(5), *source, text))
                .map(|(_, text)| *text)
                .collect();
            assert_eq!(new, ["a", "b"], "{order:?}");
        }
    }

    #[test]
    fn a_repeated_instruction_is_new() {
        let mut filter = CopyFilter::default();
        let mut new = |ms, source, text| filter.is_new(at(ms), source, text);
        assert!(new(0, 2, "a") && new(1, 2, "b") && new(2, 2, "a"), "best effort only");
        assert!(new(10_000, 0, "a"));
        // Another publisher, whose message only source 1 delivers, long after.
        assert!(new(20_000, 1, "a"));
    }
}
