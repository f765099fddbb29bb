//! Memory of a thread that each product uses again.

use std::cell::Cell;
use std::thread::LocalKey;

use super::layout::Line;

thread_local! {
    /// Memory that the next product on this thread uses again.
    pub(super) static WORDS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    pub(super) static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    pub(super) static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// `count` elements of unspecified content in the thread's memory.
pub(super) fn reused<T: Copy, R>(
    memory: &'static LocalKey<Cell<Vec<T>>>,
    count: usize,
    fill: T,
    work: impl FnOnce(&mut [T]) -> R,
) -> R {
    // Taken, not borrowed: a worker that waits may start another product.
    let mut vector = memory.take();
    if vector.len() < count {
        vector.resize(count, fill);
    }
    let result = work(&mut vector[..count]);
    memory.set(vector);
    result
}
