//! A place for one message, in which the newest wins.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::atomic::AtomicCell;

/// Holds at most one message. Putting replaces what was not taken yet; neither side ever waits for
/// the other.
///
/// The slot is one pointer, exchanged in a single atomic operation: a thread that is suspended
/// anywhere in here keeps nobody waiting. Memory is bounded by one message, whatever the sender's
/// rate.
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
    /// Leaves a message and counts the one it replaces as dropped.
    pub fn put(&self, message: T) {
        self.received.fetch_add(1, Ordering::Relaxed);
        if self.slot.swap(Some(Box::new(message))).is_some() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts back what was taken, without counting it. Whoever calls it must be the only one who
    /// puts.
    pub fn put_back(&self, message: Box<T>) {
        self.slot.store(Some(message));
    }

    /// The newest message, once.
    #[must_use]
    pub fn take(&self) -> Option<Box<T>> {
        self.slot.take()
    }

    /// How many were put.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How many were replaced before anybody looked at them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Wakes a thread that has nothing to do. Rung by whoever left something for it; never touched by
/// the control loop.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<bool>,
    woken: Condvar,
}

impl Bell {
    /// Wakes the waiting thread, or keeps the next wait from waiting.
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_one();
    }

    /// Returns when the bell was rung since the last wait, or after `longest`.
    pub fn wait(&self, longest: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) = self
            .woken
            .wait_timeout_while(rung, longest, |rung| !*rung)
            .unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    #[test]
    fn the_newest_wins_and_the_others_are_counted() {
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
    fn the_slot_needs_no_lock() {
        assert!(AtomicCell::<Option<Box<[u64; 100]>>>::is_lock_free());
    }

    #[test]
    fn nothing_is_lost_or_seen_twice_between_threads() {
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

    #[test]
    fn a_bell_rung_before_the_wait_is_heard() {
        let bell = Bell::default();
        bell.ring();
        let before = std::time::Instant::now();
        bell.wait(Duration::from_secs(60));
        assert!(before.elapsed() < Duration::from_secs(30));
        bell.wait(Duration::from_millis(1)); // heard once only: this one runs out
    }
}
