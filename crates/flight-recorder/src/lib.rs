//! The flight recorder: the last half minute of what control saw, decided and said, written as an
//! MCAP file when something went wrong.
//!
//! The control loop calls [`Recorder::record`] after each step: a copy into memory allocated
//! beforehand, nothing else. When [`Recorder::due`] says so (a fault or a latch happened and its
//! stop is on record too, or somebody asked), the loop calls [`Recorder::take`], which swaps the
//! full ring for an empty one, and hands the [`Recording`] to another thread. That thread writes it
//! ([`Recording::save`]) and gives it back ([`Recorder::give_back`]), so that the loop never
//! allocates, frees or waits.
//!
//! ```ignore
//! recorder.record(now, &inputs, &output);
//! if recorder.due(now) && let Some(recording) = recorder.take() { to_writer.try_send(recording); }
//! if let Ok(recording) = from_writer.try_recv() { recorder.give_back(recording); }
//! ```

mod write;

use std::time::Duration;

pub use write::{RecorderError, Saved};

use vla_control::action_chunk::{ChunkOrigin, ChunkStep};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    Cause, Event, ImageSeen, Inference, Inputs, Lifecycle, Output, PolicyFailure, PoseSeen, Reason,
    Requests,
};

/// How much is kept.
pub const LENGTH: Duration = Duration::from_secs(30);
/// How long after a fault the recording goes on, so that the stop is on it.
pub const AFTERMATH: Duration = Duration::from_secs(2);
/// How many chunks are kept, and how many steps of them all together.
const CHUNKS: usize = 2048;
const CHUNK_STEPS: usize = 16 * 1024;

/// One step of control.
#[derive(Debug, Clone, Copy)]
struct Entry {
    now: Instant,
    ros_now: Stamp,
    lifecycle: Lifecycle,
    requests: Requests,
    instruction: Option<u64>,
    image: Option<ImageSeen>,
    pose: Option<PoseSeen>,
    inference: Inference,
    policy_failure: Option<PolicyFailure>,
    subscribed: bool,
    output: Output,
}

/// One chunk that arrived.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    now: Instant,
    origin: ChunkOrigin,
    policy_hz: f64,
    /// Index of its first step, counted since the ring was empty; the ring keeps the last
    /// [`CHUNK_STEPS`].
    first: usize,
    len: usize,
}

/// A ring that keeps the last `capacity` things, in memory allocated once.
#[derive(Debug)]
struct Ring<T> {
    things: Vec<T>,
    capacity: usize,
    /// How many were ever put in.
    count: usize,
}

impl<T: Copy> Ring<T> {
    fn new(capacity: usize) -> Self {
        Self { things: Vec::with_capacity(capacity), capacity, count: 0 }
    }

    fn push(&mut self, thing: T) {
        if self.things.len() < self.capacity {
            self.things.push(thing);
        } else {
            self.things[self.count % self.capacity] = thing;
        }
        self.count += 1;
    }

    /// The oldest first.
    fn iter(&self) -> impl Iterator<Item = &T> {
        let turn = if self.things.len() < self.capacity { 0 } else { self.count % self.capacity };
        let (newer, older) = self.things.split_at(turn);
        older.iter().chain(newer)
    }

    /// The thing put in as number `index`, while it is kept.
    fn get(&self, index: usize) -> Option<&T> {
        let kept = index < self.count && self.count - index <= self.things.len();
        if kept { self.things.get(index % self.capacity) } else { None }
    }

    fn clear(&mut self) {
        self.things.clear();
        self.count = 0;
    }
}

/// What was recorded, with the reason why it is to be written.
#[derive(Debug)]
pub struct Recording {
    entries: Ring<Entry>,
    arrivals: Ring<Arrival>,
    steps: Ring<ChunkStep>,
    cause: Cause,
    /// How much before its end is written.
    length: Duration,
}

impl Recording {
    fn new(period: Duration, length: Duration) -> Self {
        // Early steps come on top of the regular ones; a few of them must not push the oldest out.
        let steps = length.as_nanos() / period.as_nanos().max(1);
        let capacity = usize::try_from(steps + steps / 8 + 16).unwrap_or(usize::MAX).min(64 * 1024);
        Self {
            entries: Ring::new(capacity),
            arrivals: Ring::new(CHUNKS),
            steps: Ring::new(CHUNK_STEPS),
            cause: Cause::NONE,
            length,
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.arrivals.clear();
        self.steps.clear();
        self.cause = Cause::NONE;
    }

    /// Why it was taken; [`Reason::None`] when somebody asked.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        &self.cause
    }
}

/// Keeps the last [`LENGTH`] of control.
#[derive(Debug)]
pub struct Recorder {
    current: Box<Recording>,
    spare: Option<Box<Recording>>,
    /// Why and when the recording is to be taken.
    pending: Option<(Cause, Instant)>,
}

impl Recorder {
    /// Allocates both recordings, once. `period` is control's.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Self::with_length(period, LENGTH)
    }

    /// As [`new`](Self::new), keeping another length.
    #[must_use]
    pub fn with_length(period: Duration, length: Duration) -> Self {
        Self {
            current: Box::new(Recording::new(period, length)),
            spare: Some(Box::new(Recording::new(period, length))),
            pending: None,
        }
    }

    /// Keeps one step of control. Allocates nothing.
    pub fn record(&mut self, now: Instant, inputs: &Inputs<'_>, output: &Output) {
        if let Some(chunk) = inputs.chunk {
            let first = self.current.steps.count;
            for step in chunk.steps() {
                self.current.steps.push(*step);
            }
            let (origin, policy_hz) = (*chunk.origin(), chunk.policy_hz());
            self.current.arrivals.push(Arrival {
                now,
                origin,
                policy_hz,
                first,
                len: chunk.steps().len(),
            });
        }
        self.current.entries.push(Entry {
            now,
            ros_now: inputs.ros_now,
            lifecycle: inputs.lifecycle,
            requests: inputs.requests,
            instruction: inputs.instruction,
            image: inputs.image,
            pose: inputs.ee_pose,
            inference: inputs.inference,
            policy_failure: inputs.policy_failure,
            subscribed: inputs.subscribed,
            output: *output,
        });
        for event in output.events.iter() {
            match event {
                // The first cause is the one to be written; a latch that follows it from the same
                // trouble is on the same recording.
                Event::FaultRaised { cause, .. } | Event::Latched { cause }
                    if self.pending.is_none() =>
                {
                    self.pending = Some((*cause, now.after(AFTERMATH)));
                }
                _ => {}
            }
        }
    }

    /// Somebody asked for a recording: due at once.
    pub fn request(&mut self, now: Instant) {
        let cause = self.pending.map_or(Cause::NONE, |(cause, _)| cause);
        self.pending = Some((cause, now));
    }

    /// Whether it is time to [`take`](Self::take) the recording.
    #[must_use]
    pub fn due(&self, now: Instant) -> bool {
        self.pending.is_some_and(|(_, when)| when <= now)
    }

    /// Takes the recording and goes on with an empty one. `None`, and still due, while the other
    /// one has not been given back.
    pub fn take(&mut self) -> Option<Box<Recording>> {
        let spare = self.spare.take()?;
        let mut recording = std::mem::replace(&mut self.current, spare);
        recording.cause =
            self.pending.take().map_or(Cause::plain(Reason::None), |(cause, _)| cause);
        Some(recording)
    }

    /// Returns a recording that has been written, to be used again.
    pub fn give_back(&mut self, mut recording: Box<Recording>) {
        recording.clear();
        self.spare = Some(recording);
    }
}
