//! Plays chunks: one step per policy period, the newest chunk next.
//!
//! A newer chunk continues where the older one got to: it was computed from an image taken when
//! `steps_begun_at_observation` steps had begun, and its step 0 is meant for that moment. Every
//! step begun since then has taken the place of one of its own, so it starts at the index
//! *counted*, never at one guessed from a latency. Steps that were not played (because the older
//! chunk had run out, or the robot held) are not skipped.
//!
//! A chunk of one step (OpenVLA) has no past to align with: it takes over at once. A longer one
//! takes over at the next step boundary, or at once when nothing plays.

use super::types::Refusal;
use crate::action_chunk::{ActionChunk, ChunkStep, HORIZON_MAX};
use crate::time::Instant;
use std::time::Duration;

/// A chunk copied into memory that was allocated beforehand.
#[derive(Debug)]
struct Track {
    steps: Box<[ChunkStep]>,
    len: usize,
    generation: u64,
    policy_hz: f64,
    begun_at_observation: u64,
}

impl Track {
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

    /// The index to start at when `begun` steps have begun by now.
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

/// What is played now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Playing {
    /// The step.
    pub(super) step: ChunkStep,
    /// Its rate.
    pub(super) policy_hz: f64,
    /// Whether it began in this very control step.
    pub(super) began: bool,
}

/// What happened to chunks while the player moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A chunk began to play at this index.
    Taken { generation: u64, first_step: u32 },
    /// A waiting chunk had no step left when its turn came.
    Refused { generation: u64, why: Refusal },
    /// The last step ended and nothing was there to follow.
    RanOut,
}

#[derive(Debug)]
pub(super) struct Player {
    current: Track,
    /// Index of the step that plays; `None` when nothing plays.
    index: Option<usize>,
    step_began: Instant,
    began_now: bool,
    waiting: Track,
    has_waiting: bool,
    steps_begun: u64,
}

impl Player {
    /// Allocates both tracks, once.
    pub(super) fn new() -> Self {
        Self {
            current: Track::new(),
            index: None,
            step_began: Instant::START,
            began_now: false,
            waiting: Track::new(),
            has_waiting: false,
            steps_begun: 0,
        }
    }

    pub(super) const fn steps_begun(&self) -> u64 {
        self.steps_begun
    }

    pub(super) const fn is_playing(&self) -> bool {
        self.index.is_some()
    }

    /// Forgets every chunk. Steps begun stay counted.
    pub(super) fn clear(&mut self) {
        self.index = None;
        self.has_waiting = false;
    }

    /// Takes a chunk that passed every other check. It replaces one that still waits.
    pub(super) fn offer(&mut self, now: Instant, chunk: &ActionChunk) -> Option<Turn> {
        self.waiting.copy(chunk);
        self.has_waiting = true;
        if self.index.is_none() || self.waiting.len == 1 { self.switch(now) } else { None }
    }

    /// Moves on to `now`. `report` hears what happened to chunks.
    pub(super) fn play(&mut self, now: Instant, mut report: impl FnMut(Turn)) -> Option<Playing> {
        while let Some(index) = self.index {
            let period = self.current.period();
            if now.since(self.step_began).get() < period {
                break;
            }
            let boundary = self.step_began.after(period);
            self.index = None;
            if self.has_waiting
                && let Some(turn) = self.switch(boundary)
            {
                report(turn);
            }
            if self.index.is_none() {
                if index + 1 < self.current.len {
                    self.begin(index + 1, boundary);
                } else {
                    report(Turn::RanOut);
                }
            }
        }
        let began = std::mem::take(&mut self.began_now);
        let index = self.index?;
        Some(Playing { step: self.current.steps[index], policy_hz: self.current.policy_hz, began })
    }

    /// Puts the waiting chunk in the place of the current one, if a step of it lies ahead.
    fn switch(&mut self, at: Instant) -> Option<Turn> {
        self.has_waiting = false;
        let generation = self.waiting.generation;
        let first_step = self.waiting.first_step(self.steps_begun);
        if self.waiting.len <= first_step {
            return Some(Turn::Refused { generation, why: Refusal::Exhausted });
        }
        std::mem::swap(&mut self.current, &mut self.waiting);
        self.begin(first_step, at);
        // At most HORIZON_MAX, which fits.
        Some(Turn::Taken { generation, first_step: first_step as u32 })
    }

    fn begin(&mut self, index: usize, at: Instant) {
        self.index = Some(index);
        self.step_began = at;
        self.began_now = true;
        self.steps_begun = self.steps_begun.saturating_add(1);
    }
}
