//! A lock-free slot for one message: newest wins.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::atomic::AtomicCell;

/// Holds at most one message; a new message replaces one that was not taken yet.
///
/// The slot is one pointer, exchanged in a single atomic operation: a thread suspended anywhere in
/// these functions blocks no other thread. Memory is bounded by one message, independent of the
/// sender's rate.
pub struct Mailbox<T> {
    slot: AtomicCell<Option<Box<T>>>,
    received: AtomicU64,
    dropped: AtomicU64,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            slot: AtomicCell::new(None),
            received: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }
}

impl<T> Mailbox<T> {
    /// Stores a message and counts the one it replaces as dropped.
    pub fn put(&self, message: T) {
        self.received.fetch_add(1, Ordering::Relaxed);
        if self.slot.swap(Some(Box::new(message))).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stores a message that was allocated elsewhere, without counting it. Only for mailboxes with
    /// a single writer.
    pub fn put_back(&self, message: Box<T>) {
        self.slot.store(Some(message));
    }

    /// Takes the newest message.
    #[must_use]
    pub fn take(&self) -> Option<Box<T>> {
        self.slot.take()
    }

    /// Number of messages stored.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Number of messages replaced before they were taken.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    #[test]
    fn newest_wins_and_others_are_counted() {
        let mailbox = Mailbox::default();
        for i in 0..10 {
            mailbox.put(i);
        }
        assert_eq!(mailbox.take().as_deref(), Some(&9));
        assert!(mailbox.take().is_none());
        assert_eq!((mailbox.received(), mailbox.dropped()), (10, 9));
        mailbox.put_back(Box::new(3));
        assert_eq!((mailbox.take().as_deref(), mailbox.received()), (Some(&3), 10));
    }

    #[test]
    fn slot_is_lock_free() {
        assert!(AtomicCell::<Option<Box<[u64; 100]>>>::is_lock_free());
    }

    #[test]
    fn nothing_is_lost_or_seen_twice() {
        static ALIVE: AtomicUsize = AtomicUsize::new(0);
        struct Counted(u64);
        impl Counted {
            fn new(value: u64) -> Self {
                ALIVE.fetch_add(1, Ordering::SeqCst);
                Self(value)
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                ALIVE.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let mailbox = Arc::new(Mailbox::default());
        let sender = {
            let mailbox = Arc::clone(&mailbox);
            std::thread::spawn(move || (1..=20_000).for_each(|i| mailbox.put(Counted::new(i))))
        };
        let (mut last, mut taken) = (0, 0);
        while last < 20_000 {
            if let Some(message) = mailbox.take() {
                assert!(last < message.0, "messages come in order");
                last = message.0;
                taken += 1;
            }
        }
        sender.join().unwrap();
        assert_eq!(taken + mailbox.dropped(), 20_000);
        drop(mailbox);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
    }
}
