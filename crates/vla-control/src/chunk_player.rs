//! Executes action chunks: one step per policy period; the newest chunk replaces the present one.
//!
//! A new chunk continues at the index that corresponds to the present: its step 0 belongs to the
//! time of its image, when `steps_begun_at_observation` steps had begun. Every step begun since
//! then replaces one of its own, so the start index is *counted*, not estimated from a latency.
//! Steps that were not executed (the older chunk had run out, or motion was on hold) are not
//! skipped.
//!
//! A chunk of one step (OpenVLA) replaces the present chunk at once. A longer one does so at the
//! next step boundary, or at once when no step is active. With `execute_steps` it waits until so
//! many steps of the present chunk have begun, or the present chunk runs out.
//!
//! With temporal ensembling the last chunks are kept, and a step is the weighted mean of what they
//! predict for it (Zhao et al. 2023, ACT, arXiv:2304.13705, section IV-A): weights exp(-decay i),
//! with i = 0 for the oldest chunk that predicts this step. Grippers are taken from the newest
//! chunk, since the mean of open and closed is neither.

use super::{
    config::{ControlConfig, RawEnsemble},
    events::Refusal,
    outputs::{Seam, Seams},
};
use crate::action_chunk::{ActionChunk, ActionSpace, ChunkStep, HORIZON_MAX, WIDTH_MAX};
use crate::time::Instant;
use std::time::Duration;

/// Values of one step: `ChunkStep::to_array`, or joints and grippers.
pub(super) type Row = [f64; WIDTH_MAX];

/// Values of a step in the space of the end effector, the gripper not included.
const END_EFFECTOR: usize = 6;

/// Preallocated copy of a chunk.
#[derive(Debug)]
struct ChunkBuffer {
    /// Row by row.
    values: Box<[f64]>,
    width: usize,
    len: usize,
    generation: u64,
    policy_hz: f64,
    begun_at_observation: u64,
}

impl ChunkBuffer {
    fn new(width: usize) -> Self {
        let values = vec![0.0; HORIZON_MAX * width].into_boxed_slice();
        Self { values, width, len: 0, generation: 0, policy_hz: 1.0, begun_at_observation: 0 }
    }

    fn copy(&mut self, chunk: &ActionChunk) {
        // A chunk holds at most HORIZON_MAX steps of this width: `step` has checked its space. zip
        // makes a larger one harmless.
        self.len = chunk.len().min(HORIZON_MAX);
        let mut slots = self.values.chunks_exact_mut(self.width);
        for (slot, row) in slots.by_ref().zip(chunk.rows()) {
            slot.iter_mut().zip(row).for_each(|(slot, value)| *slot = *value);
        }
        for (slot, step) in self.values.chunks_exact_mut(self.width).zip(chunk.steps()) {
            slot.iter_mut().zip(step.to_array()).for_each(|(slot, value)| *slot = value);
        }
        self.generation = chunk.origin().generation;
        self.policy_hz = chunk.policy_hz();
        self.begun_at_observation = chunk.origin().steps_begun_at_observation;
    }

    fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.width..(index + 1) * self.width]
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
    pub(super) row: Row,
    pub(super) policy_hz: f64,
}

impl ActiveStep {
    /// In the space of the end effector.
    pub(super) fn end_effector(&self) -> ChunkStep {
        let mut values = [0.0; END_EFFECTOR + 1];
        values.copy_from_slice(&self.row[..END_EFFECTOR + 1]);
        ChunkStep::from_array(values)
    }
}

/// Part of the way from one step's joint positions to the next one's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct JointLine {
    pub(super) from: Row,
    pub(super) to: Row,
    /// 0..=1.
    pub(super) part: f64,
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
    space: ActionSpace,
    /// Number of values in a step without the grippers.
    motion_width: usize,
    width: usize,
    ensemble: Option<RawEnsemble>,
    execute_steps: u64,
    /// The chunks kept, a ring buffer: one, or those of the ensemble.
    chunks: Box<[ChunkBuffer]>,
    newest: usize,
    /// Index of the active step in the newest chunk.
    index: Option<usize>,
    step_began: Instant,
    pending: ChunkBuffer,
    has_pending: bool,
    steps_begun: u64,
    /// Count of steps when the newest chunk started.
    started_at: u64,
    /// The last executed step, or where the joints started.
    last_row: Option<Row>,
    seams: Seams,
}

impl ChunkPlayer {
    /// Allocates the buffers, once.
    pub(super) fn new(config: &ControlConfig) -> Self {
        let motion_width = config.joints.as_ref().map_or(END_EFFECTOR, |space| space.count);
        let width = motion_width + config.grippers;
        let kept = config.ensemble.map_or(1, |ensemble| ensemble.chunks as usize);
        Self {
            space: config.action_space(),
            motion_width,
            width,
            ensemble: config.ensemble,
            execute_steps: config.execute_steps,
            chunks: (0..kept).map(|_| ChunkBuffer::new(width)).collect(),
            newest: 0,
            index: None,
            step_began: Instant::START,
            pending: ChunkBuffer::new(width),
            has_pending: false,
            steps_begun: 0,
            started_at: 0,
            last_row: None,
            seams: Seams::default(),
        }
    }

    /// Duration of a step of the newest chunk, seconds.
    pub(super) fn step_s(&self) -> f64 {
        self.current().policy_hz.recip()
    }

    pub(super) const fn steps_begun(&self) -> u64 {
        self.steps_begun
    }

    pub(super) const fn is_active(&self) -> bool {
        self.index.is_some()
    }

    pub(super) const fn seams(&self) -> &Seams {
        &self.seams
    }

    /// Discards all chunks; the counts of steps and seams remain.
    pub(super) fn clear(&mut self) {
        self.index = None;
        self.has_pending = false;
        self.last_row = None;
        self.forget();
    }

    /// The joints start here: what the first step's seam is measured from.
    pub(super) fn start_from(&mut self, positions: &[f64]) {
        let mut row = [0.0; WIDTH_MAX];
        row.iter_mut().zip(positions).for_each(|(slot, value)| *slot = *value);
        self.last_row = Some(row);
    }

    /// Adds a checked chunk; replaces a pending one.
    pub(super) fn offer(&mut self, now: Instant, chunk: &ActionChunk) -> Option<PlayerEvent> {
        self.pending.copy(chunk);
        self.has_pending = true;
        let at_once = self.pending.len == 1 && self.may_switch();
        if self.index.is_none() || at_once { self.switch(now) } else { None }
    }

    /// Advances to `now` and returns the active step. `report` receives the events.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        mut report: impl FnMut(PlayerEvent),
    ) -> Option<ActiveStep> {
        while let Some(index) = self.index {
            let period = self.current().period();
            if now.since(self.step_began).get() < period {
                break;
            }
            let boundary = self.step_began.after(period);
            let ends = self.current().len <= index + 1;
            self.index = None;
            if self.has_pending
                && (ends || self.may_switch())
                && let Some(turn) = self.switch(boundary)
            {
                report(turn);
            }
            if self.index.is_none() {
                if ends {
                    // What older chunks predict is no longer aligned in time after a gap.
                    self.forget();
                    report(PlayerEvent::RanOut);
                } else {
                    self.begin(index + 1, boundary);
                }
            }
        }
        self.index?;
        let mut row = [0.0; WIDTH_MAX];
        self.row_ahead(0, &mut row);
        Some(ActiveStep { row, policy_hz: self.current().policy_hz })
    }

    /// The time of the active step at `at`: how many whole steps ahead of it, and which part of
    /// that step has passed. `None` without an active step.
    pub(super) fn position_at(&self, at: Instant) -> Option<(usize, f64)> {
        let index = self.index?;
        let steps = at.since(self.step_began).seconds() * self.current().policy_hz;
        let left = self.current().len - 1 - index;
        // In the last step the time stands still at its end.
        let whole = (steps as usize).min(left);
        Some((whole, (steps - whole as f64).clamp(0.0, 1.0)))
    }

    /// The positions of a chunk of joint positions at `at`: each step's are reached at its end, on
    /// a straight line from the step before it. The first step's hold during it.
    pub(super) fn line_at(&self, at: Instant) -> Option<JointLine> {
        let (whole, part) = self.position_at(at)?;
        let mut line = JointLine { from: [0.0; WIDTH_MAX], to: [0.0; WIDTH_MAX], part };
        self.row_ahead(whole as i64 - 1, &mut line.from);
        self.row_ahead(whole as i64, &mut line.to);
        Some(line)
    }

    /// The values of the step `ahead` steps after the active one (before it, if negative); those of
    /// the last or first one beyond the ends.
    pub(super) fn row_ahead(&self, ahead: i64, row: &mut Row) {
        let Some(index) = self.index else { return };
        let newest = self.current();
        let ahead = ahead.clamp(-(index as i64), (newest.len - 1 - index) as i64);
        let index = index.saturating_add_signed(ahead as isize);
        row.iter_mut().zip(newest.row(index)).for_each(|(slot, value)| *slot = *value);
        let Some(ensemble) = &self.ensemble else { return };
        // The step's number in the common count of all chunks.
        let number = self.steps_begun.saturating_sub(1).saturating_add_signed(ahead);
        let (mut weight, mut sum) = (1.0, 0.0);
        let mut mean = [0.0; WIDTH_MAX];
        let decay = (-ensemble.decay).exp();
        for age in (0..self.chunks.len()).rev() {
            let slot = (self.newest + self.chunks.len() - age) % self.chunks.len();
            let chunk = &self.chunks[slot];
            let Some(at) = number.checked_sub(chunk.begun_at_observation) else { continue };
            let Some(at) = usize::try_from(at).ok().filter(|at| *at < chunk.len) else { continue };
            let values = &chunk.row(at)[..self.motion_width];
            mean.iter_mut().zip(values).for_each(|(mean, value)| *mean += weight * value);
            sum += weight;
            weight *= decay;
        }
        if 0.0 < sum {
            let motion = &mut row[..self.motion_width];
            for (slot, mean) in motion.iter_mut().zip(mean) {
                // The sum of legal numbers can overflow: then the newest chunk's value stands.
                let mean = mean / sum;
                if mean.is_finite() {
                    *slot = mean;
                }
            }
        }
    }

    /// The grippers' part of a row.
    pub(super) fn grippers<'a>(&self, row: &'a Row) -> &'a [f64] {
        &row[self.motion_width..self.width]
    }

    fn current(&self) -> &ChunkBuffer {
        &self.chunks[self.newest]
    }

    /// Whether enough steps of the present chunk have begun for a newer one to take over.
    fn may_switch(&self) -> bool {
        self.execute_steps <= self.steps_begun - self.started_at
    }

    fn forget(&mut self) {
        self.chunks.iter_mut().for_each(|chunk| chunk.len = 0);
    }

    /// Replaces the current chunk by the pending one, if a step of it is left.
    fn switch(&mut self, at: Instant) -> Option<PlayerEvent> {
        self.has_pending = false;
        let generation = self.pending.generation;
        let first_step = self.pending.first_step(self.steps_begun);
        if self.pending.len <= first_step {
            return Some(PlayerEvent::Refused { generation, why: Refusal::Exhausted });
        }
        let last = self.last_row;
        self.newest = (self.newest + 1) % self.chunks.len();
        std::mem::swap(&mut self.chunks[self.newest], &mut self.pending);
        self.started_at = self.steps_begun;
        self.begin(first_step, at);
        self.measure_seam(last);
        // At most HORIZON_MAX, which fits.
        Some(PlayerEvent::Started { generation, first_step: first_step as u32 })
    }

    fn begin(&mut self, index: usize, at: Instant) {
        self.index = Some(index);
        self.step_began = at;
        self.steps_begun = self.steps_begun.saturating_add(1);
        let mut row = [0.0; WIDTH_MAX];
        self.row_ahead(0, &mut row);
        self.last_row = Some(row);
    }

    /// Compares the last executed step before a switch with the one that has begun.
    fn measure_seam(&mut self, before: Option<Row>) {
        let (Some(before), Some(after)) = (before, self.last_row) else { return };
        let difference = |i: usize| (after[i] - before[i]).abs().min(f64::MAX);
        let norm = |from: usize| {
            let v = [difference(from), difference(from + 1), difference(from + 2)];
            super::vector::norm(v).min(f64::MAX)
        };
        let seam = match self.space {
            ActionSpace::EndEffector => {
                Seam { translation: norm(0), rotation: norm(3), joint: 0.0 }
            }
            ActionSpace::Joint(_) => Seam {
                joint: (0..self.motion_width).map(difference).fold(0.0, f64::max),
                ..Seam::default()
            },
        };
        self.seams.last = Some(seam);
        self.seams.largest = self.seams.largest.max(seam);
        self.seams.count = self.seams.count.saturating_add(1);
    }
}
