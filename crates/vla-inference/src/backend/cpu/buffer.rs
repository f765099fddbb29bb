//! Memory of matrices, used again: a network makes and drops matrices of the same few sizes in
//! every layer, and fresh pages cost more than some of the loops that fill them.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Below this many elements the allocator is as good.
const SMALL: usize = 16 << 10;
/// Elements that are kept at most: 256 MB.
const KEPT: usize = 64 << 20;

/// What was dropped and not used again yet.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// A vector that goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` elements of unspecified content.
    pub(super) fn unspecified(len: usize) -> Self {
        let mut vector = if len < SMALL { Vec::new() } else { take(len) };
        vector.resize(len, 0.0);
        Self(vector)
    }
}

/// The smallest free vector for `len` elements that is not much larger.
fn take(len: usize) -> Vec<f32> {
    let Ok(mut free) = FREE.lock() else { return Vec::new() };
    let fits = |vector: &Vec<f32>| (len..=2 * len).contains(&vector.capacity());
    let of_size = free.iter().enumerate().filter(|(_, vector)| fits(vector));
    match of_size.min_by_key(|(_, vector)| vector.capacity()) {
        Some((index, _)) => free.swap_remove(index),
        None => Vec::new(),
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(vector: Vec<f32>) -> Self {
        Self(vector)
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::unspecified(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() < SMALL {
            return;
        }
        let Ok(mut free) = FREE.lock() else { return };
        let kept: usize = free.iter().map(Vec::capacity).sum();
        if kept + self.0.capacity() <= KEPT {
            free.push(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_a_copy_is_of_its_own() {
        // A size that no other test of this process has.
        let len = 1_234_567;
        let mut first = Buffer::unspecified(len);
        first.fill(3.0);
        let copy = first.clone();
        let address = first.as_ptr();
        drop(first);
        let second = Buffer::unspecified(len - 10);
        assert_eq!((second.as_ptr(), second.len()), (address, len - 10));
        assert!(copy.iter().all(|value| *value == 3.0) && copy.len() == len);
        // Not for what is much smaller.
        drop(second);
        assert_ne!(Buffer::unspecified(len / 4).as_ptr(), address);
    }
}
