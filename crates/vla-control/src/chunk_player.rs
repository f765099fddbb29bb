//! Executes action chunks: one step per policy period; the newest chunk replaces the present one.
//!
//! A new chunk continues at the index that corresponds to the present: its step 0 belongs to the
//! time of its image, when `steps_begun_at_observation` steps had begun. Every step begun since
//! then replaces one of its own, so the start index is *counted*, not estimated from a latency.
//! Steps that were not executed (the older chunk had run out, or motion was on hold) are not
//! skipped.
//!
//! A chunk of one step (OpenVLA) replaces the present chunk at once. A longer one does so at the
//! next step boundary, or at once when no step is active.

use super::events::Refusal;
use crate::action_chunk::{ActionChunk, ChunkStep, HORIZON_MAX};
use crate::time::Instant;
use std::time::Duration;

/// Preallocated copy of a chunk.
#[derive(Debug)]
struct ChunkBuffer {
    steps: Box<[ChunkStep]>,
    len: usize,
    generation: u64,
    policy_hz: f64,
    begun_at_observation: u64,
}

impl ChunkBuffer {
    fn new() -> Self {
        let steps = vec![ChunkStep::default(); HORIZON_MAX].into_boxed_slice();
        Self { steps, len: 0, generation: 0, policy_hz: 1.0, begun_at_observation: 0 }
    }

    fn copy(&mut self, chunk: &ActionChunk) {
        // A chunk holds at most HORIZON_MAX steps by construction; zip makes a longer one harmless.
        self.len = 0;
        for (slot, step) in self.steps.iter_mut().zip(chunk.steps()) {
            *slot = *step;
            self.len += 1;
        }
        self.generation = chunk.origin().generation;
        self.policy_hz = chunk.policy_hz();
        self.begun_at_observation = chunk.origin().steps_begun_at_observation;
    }

    /// Start index when `begun` steps have begun so far.
    fn first_step(&self, begun: u64) -> usize {
        if self.len == 1 {
            return 0;
        }
        usize::try_from(begun.saturating_sub(self.begun_at_observation)).unwrap_or(usize::MAX)
    }

    /// Saturates at 584 years.
    fn period(&self) -> Duration {
        Duration::from_nanos((1e9 / self.policy_hz) as u64)
    }
}

/// The active step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ActiveStep {
    pub(super) step: ChunkStep,
    pub(super) policy_hz: f64,
}

/// Events of the player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlayerEvent {
    /// A chunk started at this index.
    Started { generation: u64, first_step: u32 },
    /// A pending chunk had no step left at the step boundary.
    Refused { generation: u64, why: Refusal },
    /// The last step ended without a successor.
    RanOut,
}

#[derive(Debug)]
pub(super) struct ChunkPlayer {
    current: ChunkBuffer,
    /// Index of the active step.
    index: Option<usize>,
    step_began: Instant,
    pending: ChunkBuffer,
    has_pending: bool,
    steps_begun: u64,
}

impl ChunkPlayer {
    /// Allocates both buffers, once.
    pub(super) fn new() -> Self {
        Self {
            current: ChunkBuffer::new(),
            index: None,
            step_began: Instant::START,
            pending: ChunkBuffer::new(),
            has_pending: false,
            steps_begun: 0,
        }
    }

    pub(super) const fn steps_begun(&self) -> u64 {
        self.steps_begun
    }

    pub(super) const fn is_active(&self) -> bool {
        self.index.is_some()
    }

    /// Discards all chunks; the count of steps begun remains.
    pub(super) fn clear(&mut self) {
        self.index = None;
        self.has_pending = false;
    }

    /// Adds a checked chunk; replaces a pending one.
    pub(super) fn offer(&mut self, now: Instant, chunk: &ActionChunk) -> Option<PlayerEvent> {
        self.pending.copy(chunk);
        self.has_pending = true;
        if self.index.is_none() || self.pending.len == 1 { self.switch(now) } else { None }
    }

    /// Advances to `now` and returns the active step. `report` receives the events.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        mut report: impl FnMut(PlayerEvent),
    ) -> Option<ActiveStep> {
        while let Some(index) = self.index {
            let period = self.current.period();
            if now.since(self.step_began).get() < period {
                break;
            }
            let boundary = self.step_began.after(period);
            self.index = None;
            if self.has_pending
                && let Some(turn) = self.switch(boundary)
            {
                report(turn);
            }
            if self.index.is_none() {
                if index + 1 < self.current.len {
                    self.begin(index + 1, boundary);
                } else {
                    report(PlayerEvent::RanOut);
                }
            }
        }
        let index = self.index?;
        Some(ActiveStep { step: self.current.steps[index], policy_hz: self.current.policy_hz })
    }

    /// Replaces the current chunk by the pending one, if a step of it is left.
    fn switch(&mut self, at: Instant) -> Option<PlayerEvent> {
        self.has_pending = false;
        let generation = self.pending.generation;
        let first_step = self.pending.first_step(self.steps_begun);
        if self.pending.len <= first_step {
            return Some(PlayerEvent::Refused { generation, why: Refusal::Exhausted });
        }
        std::mem::swap(&mut self.current, &mut self.pending);
        self.begin(first_step, at);
        // At most HORIZON_MAX, which fits.
        Some(PlayerEvent::Started { generation, first_step: first_step as u32 })
    }

    fn begin(&mut self, index: usize, at: Instant) {
        self.index = Some(index);
        self.step_began = at;
        self.steps_begun = self.steps_begun.saturating_add(1);
    }
}
