//! Flight recorder: keeps the inputs and outputs of the last 30 s of control steps, and writes them
//! as an MCAP file after a fault.
//!
//! The control loop calls [`Recorder::record`] after each step; it copies into preallocated memory.
//! When [`Recorder::due`] (a fault or latch occurred and its stop is recorded, or a recording was
//! requested), the loop calls [`Recorder::take`], which swaps the full buffers for empty ones, and
//! sends the [`Recording`] to another thread. That thread writes it ([`Recording::save`]) and sends
//! it back to be reused ([`Recorder::give_back`]). So the loop never allocates, frees or waits.
//!
//! ```ignore
//! recorder.record(now, &inputs, &output);
//! if recorder.due(now) && let Some(recording) = recorder.take() { to_writer.try_send(recording); }
//! if let Ok(recording) = from_writer.try_recv() { recorder.give_back(recording); }
//! ```

mod write;

use std::{collections::VecDeque, time::Duration};

pub use write::{RecorderError, Saved};

use vla_control::action_chunk::{ActionChunk, ActionSpace, ChunkOrigin};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    CAMERAS_MAX, Cause, Event, ImageSeen, Inference, Inputs, JointsSeen, Lifecycle, Output,
    PolicyFailure, PoseSeen, Reason, Requests, STATE_SOURCES_MAX, StageTimes, StateSeen,
};

/// Length of a recording.
pub const LENGTH: Duration = Duration::from_secs(30);
/// Time from a fault to the end of its recording, so that the stop is recorded too.
pub const POST_TRIGGER: Duration = Duration::from_secs(2);
/// Number of chunks kept, and of their numbers in total: 30 s of 50 steps of 16 numbers at 10 Hz.
const CHUNKS: usize = 2048;
const CHUNK_VALUES: usize = 256 * 1024;

/// One step of control.
#[derive(Debug, Clone, Copy)]
struct Entry {
    now: Instant,
    ros_now: Stamp,
    lifecycle: Lifecycle,
    requests: Requests,
    instruction: Option<u64>,
    images: [Option<ImageSeen>; CAMERAS_MAX],
    states: [Option<StateSeen>; STATE_SOURCES_MAX],
    joints: Option<JointsSeen>,
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
    ros_now: Stamp,
    origin: ChunkOrigin,
    stages: StageTimes,
    policy_hz: f64,
    space: ActionSpace,
    /// Index of its first number, counted since the recording began; the last [`CHUNK_VALUES`] are
    /// kept.
    first: usize,
    /// Numbers per step, and steps.
    width: usize,
    len: usize,
}

/// The first entries of `from`, in a fixed array.
fn fixed<T: Copy, const N: usize>(from: &[Option<T>]) -> [Option<T>; N] {
    let mut entries = [None; N];
    entries.iter_mut().zip(from).for_each(|(slot, entry)| *slot = *entry);
    entries
}

/// Appends to a preallocated queue; drops the oldest element at `capacity`. Returns whether one was
/// dropped.
fn push<T>(queue: &mut VecDeque<T>, capacity: usize, element: T) -> bool {
    let full = capacity <= queue.len();
    if full {
        queue.pop_front();
    }
    queue.push_back(element);
    full
}

/// A recording and the cause of writing it.
#[derive(Debug)]
pub struct Recording {
    /// The last control steps, at most `entries_max`.
    entries: VecDeque<Entry>,
    entries_max: usize,
    /// The last [`CHUNKS`] chunks.
    arrivals: VecDeque<Arrival>,
    /// Their last [`CHUNK_VALUES`] numbers.
    values: VecDeque<f64>,
    /// How many were dropped from the front of `values`.
    values_dropped: usize,
    cause: Cause,
    /// Time before its end that is written.
    length: Duration,
}

impl Recording {
    fn new(period: Duration, length: Duration) -> Self {
        // Some room for early steps in addition to the regular ones.
        let steps = length.as_nanos() / period.as_nanos().max(1);
        let entries_max =
            usize::try_from(steps + steps / 8 + 16).unwrap_or(usize::MAX).min(64 * 1024);
        Self {
            entries: VecDeque::with_capacity(entries_max),
            entries_max,
            arrivals: VecDeque::with_capacity(CHUNKS),
            values: VecDeque::with_capacity(CHUNK_VALUES),
            values_dropped: 0,
            cause: Cause::NONE,
            length,
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.arrivals.clear();
        self.values.clear();
        self.values_dropped = 0;
        self.cause = Cause::NONE;
    }

    /// The fault or latch that triggered it; [`Reason::None`] for a requested recording.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        &self.cause
    }

    fn push_chunk(&mut self, now: Instant, ros_now: Stamp, chunk: &ActionChunk) {
        let (first, len) = (self.values_dropped + self.values.len(), chunk.len());
        let steps = chunk.steps().iter().flat_map(|step| step.to_array());
        for value in steps.chain(chunk.rows().flatten().copied()) {
            self.values_dropped += usize::from(push(&mut self.values, CHUNK_VALUES, value));
        }
        let values = self.values_dropped + self.values.len() - first;
        let arrival = Arrival {
            now,
            ros_now,
            origin: *chunk.origin(),
            stages: *chunk.stages(),
            policy_hz: chunk.policy_hz(),
            space: chunk.space(),
            first,
            width: values / len,
            len,
        };
        push(&mut self.arrivals, CHUNKS, arrival);
    }

    /// The steps of a chunk that are still kept whole.
    fn chunk_steps(&self, arrival: &Arrival) -> impl Iterator<Item = Vec<f64>> {
        let starts = (0..arrival.len).map(|step| arrival.first + step * arrival.width);
        starts.filter_map(|start| {
            let start = start.checked_sub(self.values_dropped)?;
            let end = start + arrival.width;
            (end <= self.values.len()).then(|| self.values.range(start..end).copied().collect())
        })
    }
}

/// Records the last [`LENGTH`] of control.
#[derive(Debug)]
pub struct Recorder {
    current: Box<Recording>,
    spare: Option<Box<Recording>>,
    /// Cause and due time of the next recording.
    pending: Option<(Cause, Instant)>,
}

impl Recorder {
    /// Allocates both recordings, once. `period` is the control period.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Self::with_length(period, LENGTH)
    }

    /// As [`new`](Self::new), with another length.
    #[must_use]
    pub fn with_length(period: Duration, length: Duration) -> Self {
        Self {
            current: Box::new(Recording::new(period, length)),
            spare: Some(Box::new(Recording::new(period, length))),
            pending: None,
        }
    }

    /// Records one control step. Does not allocate.
    pub fn record(&mut self, now: Instant, inputs: &Inputs<'_>, output: &Output) {
        if let Some(chunk) = inputs.chunk {
            self.current.push_chunk(now, inputs.ros_now, chunk);
        }
        let entry = Entry {
            now,
            ros_now: inputs.ros_now,
            lifecycle: inputs.lifecycle,
            requests: inputs.requests,
            instruction: inputs.instruction,
            images: fixed(inputs.images),
            states: fixed(inputs.states),
            joints: inputs.joints.copied(),
            pose: inputs.ee_pose,
            inference: inputs.inference,
            policy_failure: inputs.policy_failure,
            subscribed: inputs.subscribed,
            output: *output,
        };
        push(&mut self.current.entries, self.current.entries_max, entry);
        for event in output.events.iter() {
            match event {
                // The first cause names the recording; a latch that follows is on the same one.
                Event::FaultRaised { cause, .. } | Event::Latched { cause }
                    if self.pending.is_none() =>
                {
                    self.pending = Some((*cause, now.after(POST_TRIGGER)));
                }
                _ => {}
            }
        }
    }

    /// Requests a recording: due at once.
    pub fn request(&mut self, now: Instant) {
        let cause = self.pending.map_or(Cause::NONE, |(cause, _)| cause);
        self.pending = Some((cause, now));
    }

    /// Whether it is time to [`take`](Self::take) the recording.
    #[must_use]
    pub fn due(&self, now: Instant) -> bool {
        self.pending.is_some_and(|(_, when)| when <= now)
    }

    /// Takes the recording and continues with an empty one. `None`, and still due, while the other
    /// one has not been returned.
    pub fn take(&mut self) -> Option<Box<Recording>> {
        let spare = self.spare.take()?;
        let mut recording = std::mem::replace(&mut self.current, spare);
        recording.cause =
            self.pending.take().map_or(Cause::plain(Reason::None), |(cause, _)| cause);
        Some(recording)
    }

    /// Returns a written recording for reuse.
    pub fn give_back(&mut self, mut recording: Box<Recording>) {
        recording.clear();
        self.spare = Some(recording);
    }
}
