//! Sorts messages by log time within a short window.
//!
//! Recorders write in the order of arrival, which differs slightly from the order of log time, by
//! which `ros2 bag play` sorts. A window bounds the memory; messages that are out of order by more
//! are delivered in file order and counted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Limits, Message};

/// A message in the heap: earliest log time first, then the order of arrival.
struct Waiting {
    arrival: u64,
    message: Message,
}

impl Waiting {
    fn key(&self) -> (i64, u64) {
        (self.message.log_time, self.arrival)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Messages that could not be sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Disorder {
    pub count: u64,
    pub first_ns: i64,
    pub worst_ns: i64,
}

/// The window.
pub(super) struct Order {
    waiting: BinaryHeap<Reverse<Waiting>>,
    window_ns: i64,
    bytes_limit: usize,
    bytes: usize,
    arrivals: u64,
    newest: i64,
    delivered: i64,
    pub disorder: Disorder,
}

impl Order {
    pub fn new(limits: &Limits) -> Order {
        Order {
            waiting: BinaryHeap::new(),
            window_ns: limits.order_window_ns,
            bytes_limit: limits.order_bytes,
            bytes: 0,
            arrivals: 0,
            newest: i64::MIN,
            delivered: i64::MIN,
            disorder: Disorder::default(),
        }
    }

    /// Adds a message in file order.
    pub fn push(&mut self, message: Message) {
        self.bytes += message.payload.len();
        self.newest = self.newest.max(message.log_time);
        self.arrivals += 1;
        self.waiting.push(Reverse(Waiting { arrival: self.arrivals, message }));
    }

    /// The next message, once the window is full.
    pub fn pop_ready(&mut self) -> Option<Message> {
        let oldest = &self.waiting.peek()?.0.message;
        let waited = self.newest.saturating_sub(oldest.log_time);
        if waited > self.window_ns || self.bytes > self.bytes_limit {
            return self.pop();
        }
        None
    }

    /// The next message regardless of the window, for the end of the bag.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.waiting.pop()?.0.message;
        self.bytes -= message.payload.len();
        if message.log_time < self.delivered {
            let back = self.delivered.saturating_sub(message.log_time);
            if self.disorder.count == 0 {
                self.disorder.first_ns = message.log_time;
            }
            self.disorder.count += 1;
            self.disorder.worst_ns = self.disorder.worst_ns.max(back);
        }
        self.delivered = self.delivered.max(message.log_time);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(times: &[i64], limits: &Limits) -> (Vec<i64>, Disorder) {
        let mut order = Order::new(limits);
        let mut out = Vec::new();
        for &log_time in times {
            order.push(Message { topic: 0, log_time, payload: vec![0; 10] });
            while let Some(message) = order.pop_ready() {
                out.push(message.log_time);
            }
        }
        while let Some(message) = order.pop() {
            out.push(message.log_time);
        }
        (out, order.disorder)
    }

    #[test]
    fn sorts_within_the_window() {
        let limits = Limits { order_window_ns: 10, ..Limits::default() };
        let (out, disorder) = run(&[5, 3, 8, 1, 30, 2, 31], &limits);
        assert_eq!(out, [1, 3, 5, 8, 2, 30, 31]);
        assert_eq!(disorder, Disorder { count: 1, first_ns: 2, worst_ns: 6 });
    }

    #[test]
    fn bytes_bound_the_window() {
        let mut order = Order::new(&Limits { order_bytes: 25, ..Limits::default() });
        for topic in 0..3 {
            order.push(Message { topic, log_time: 7, payload: vec![0; 10] });
        }
        // 30 bytes of at most 25: the first message is delivered although no time has passed.
        assert_eq!(order.pop_ready().map(|message| message.topic), Some(0));
        assert_eq!(order.pop_ready(), None);
        assert_eq!(order.pop().map(|message| message.topic), Some(1));
    }
}
