//! The fixed-rate loop around [`vla_control::step`]: the only place that publishes a command.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use super::{
    os::{self, Priority},
    shared_state::{LatestInputs, SharedState},
};
use vla_control::time::{Clock, Instant, Stamp};
use vla_control::{
    CAMERAS_MAX, Cause, CauseSet, Command, ControlConfig, ControlState, EnableOutcome, Event,
    ImageSeen, Inputs, InterventionCounts, Output, Reason, Requests, ResetOutcome, Source, State,
    step,
};

/// Publisher of commands. Only [`vla_control`] can make a [`Command`], so nothing else can be
/// published.
pub trait CommandSink: Send {
    /// Publishes immediately. Must neither block nor panic: it runs on the control thread.
    fn publish(&mut self, stamp: Stamp, command: &Command);
}

/// Observer of every step, e.g. the flight recorder. Must not block.
pub trait StepObserver: Send {
    /// Called after each step and its publication.
    fn observe(&mut self, now: Instant, inputs: &Inputs<'_>, output: &Output);
}

/// Timing of the loop since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Punctuality {
    /// Steps made.
    pub steps: u64,
    /// Deadlines missed by more than a whole period, so that a step was skipped.
    pub missed: u64,
    /// Largest delay between a deadline and the wake-up, seconds.
    pub worst_s: f64,
}

/// State of the loop after a step, for the executor thread.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    /// Time of the step. Events of this step and of those before it have the same time or an
    /// earlier one.
    pub at: Instant,
    /// The step's result.
    pub output: Output,
    /// Interventions so far.
    pub interventions: InterventionCounts,
    /// Commands published so far.
    pub commands: u64,
    /// Serial number of the [`LatestInputs`] this step used.
    pub(super) inputs: u64,
    /// Ticket of the newest processed request.
    pub(super) answered: u64,
    /// Outcome of the newest request to enable or disable.
    pub enable: Option<EnableOutcome>,
    /// Outcome of the newest reset request.
    pub reset: Option<ResetOutcome>,
    /// Punctuality of the loop.
    pub punctuality: Punctuality,
    /// Events lost because the executor thread did not fetch them in time.
    pub events_lost: u64,
    /// Scheduling of the thread.
    pub priority: Priority,
}

/// What the control loop reports to the executor thread, in order.
// Sent through a preallocated queue: boxing the large variant would allocate in the control loop.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, Copy)]
pub enum LoopEvent {
    /// The state or its cause changed. Sent before the events of the same step.
    StatusChanged(ControlStatus),
    /// An event of the control core.
    Control(Event),
}

/// The part of an [`Output`] that `~/status` shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ControlStatus {
    /// State after the step.
    pub state: State,
    /// Cause of that state.
    pub cause: Cause,
    /// Everything that prevents motion, most important first.
    pub causes: CauseSet,
    /// Time until motion resumes by itself, seconds.
    pub resumes_in_s: Option<f64>,
    /// Time until the enabling is withdrawn, seconds.
    pub enable_withdrawn_in_s: Option<f64>,
}

impl ControlStatus {
    /// Whether motion is enabled.
    #[must_use]
    pub fn enabled(&self) -> bool {
        let disabled =
            [Reason::NotConfigured, Reason::NotActive, Reason::NotEnabled, Reason::Deactivating];
        !self.state.is_latched() && !disabled.into_iter().any(|reason| self.causes.contains(reason))
    }
}

impl From<&Output> for ControlStatus {
    fn from(output: &Output) -> Self {
        Self {
            state: output.state,
            cause: output.cause,
            causes: output.causes,
            resumes_in_s: output.resumes_in_s,
            enable_withdrawn_in_s: output.enable_withdrawn_in_s,
        }
    }
}

/// An event and the time of its step.
#[derive(Debug, Clone, Copy)]
pub struct TimedEvent {
    /// On the steady clock.
    pub at: Instant,
    /// The event.
    pub event: LoopEvent,
}

pub(super) struct ControlLoop {
    shared: Arc<SharedState>,
    clock: Arc<dyn Clock>,
    sink: Box<dyn CommandSink>,
    observer: Option<Box<dyn StepObserver>>,
    latest: triple_buffer::Output<LatestInputs>,
    snapshots: triple_buffer::Input<Option<Snapshot>>,
    events: SyncSender<TimedEvent>,
    state: Box<ControlState>,
    period: Duration,
    /// The newest image of each camera that is not known to be undecodable.
    images: [Option<ImageSeen>; CAMERAS_MAX],
    commands: u64,
    answered: u64,
    enable: Option<EnableOutcome>,
    reset: Option<ResetOutcome>,
    punctuality: Punctuality,
    events_lost: u64,
    /// What a change of the previous step's status was reported by.
    reported: Option<(State, Reason, Reason, Option<Source>)>,
    priority: Priority,
}

/// Connections of the loop.
pub(super) struct ControlLoopIo {
    pub shared: Arc<SharedState>,
    pub clock: Arc<dyn Clock>,
    pub sink: Box<dyn CommandSink>,
    pub observer: Option<Box<dyn StepObserver>>,
    pub latest: triple_buffer::Output<LatestInputs>,
    pub snapshots: triple_buffer::Input<Option<Snapshot>>,
    pub events: SyncSender<TimedEvent>,
}

impl ControlLoop {
    pub fn new(io: ControlLoopIo, config: ControlConfig) -> Self {
        let ControlLoopIo { shared, clock, sink, observer, latest, snapshots, events } = io;
        Self {
            shared,
            clock,
            sink,
            observer,
            latest,
            snapshots,
            events,
            period: config.period(),
            state: Box::new(ControlState::new(config)),
            images: [None; CAMERAS_MAX],
            commands: 0,
            answered: 0,
            enable: None,
            reset: None,
            punctuality: Punctuality::default(),
            events_lost: 0,
            reported: None,
            priority: Priority::Ordinary,
        }
    }

    /// Steps at a fixed rate until [`SharedState::stop`] is set.
    pub fn run(mut self, real_time_priority: u8) {
        self.priority = os::request_real_time(real_time_priority);
        let mut deadline = self.clock.steady();
        while !self.shared.stop.load(Ordering::Acquire) {
            os::sleep_until(deadline);
            let woken = self.clock.steady();
            self.punctuality.steps += 1;
            self.punctuality.worst_s =
                self.punctuality.worst_s.max(woken.since(deadline).seconds());
            self.tick();
            deadline = deadline.after(self.period);
            // Missed periods are skipped, not made up for: a burst of commands is worse than a gap.
            if deadline.since(woken).get().is_zero() && woken.since(deadline).get() > Duration::ZERO
            {
                self.punctuality.missed += 1;
                deadline = woken.after(self.period);
            }
        }
    }

    /// One step: read the inputs, step, publish, report.
    pub fn tick(&mut self) {
        if let Some(mut state) = self.shared.new_state.take() {
            // A latch survives a change of configuration, also one that closed while a checkpoint
            // was loading. Counts are never reset.
            state.inherit(&self.state);
            self.period = state.config().period();
            self.shared.states_to_free.put_back(std::mem::replace(&mut self.state, state));
        }
        let latest = *self.latest.read();
        // While images cannot be decoded, new arrivals are ignored: the image age continues from
        // the last image that was not known to be undecodable.
        let decode_failed = self.shared.decode_failed.load(Ordering::Acquire);
        for (camera, (image, newest)) in self.images.iter_mut().zip(latest.images).enumerate() {
            if decode_failed & (1 << camera) == 0 || image.is_none() {
                *image = newest;
            }
        }
        let pending = self.shared.pending_requests.take();
        let chunk = self.shared.chunks.take();
        let (inference, policy_failure) = (self.shared.inference(), self.shared.take_failure());
        let (ros_now, now) = read_clocks(self.clock.as_ref());
        let inputs = Inputs {
            ros_now,
            lifecycle: latest.lifecycle,
            requests: pending.as_ref().map_or(Requests::default(), |pending| pending.requests),
            instruction: latest.instruction,
            images: &self.images,
            states: &latest.states,
            joints: latest.joints.as_ref(),
            ee_pose: latest.ee_pose,
            chunk: chunk.as_deref(),
            inference,
            policy_failure,
            subscribed: latest.subscribed,
        };
        let output = step(now, &mut self.state, &inputs);
        if let Some(command) = &output.command {
            self.sink.publish(ros_now, command);
            self.commands += 1;
        }
        if let Some(observer) = &mut self.observer {
            observer.observe(now, &inputs, &output);
        }
        self.report(now, latest.serial, pending.map(|pending| pending.ticket), &output);
        if let Some(chunk) = chunk {
            self.shared.chunks_to_free.put_back(chunk);
        }
    }

    /// Sends the events, then the snapshot: a reader of the snapshot finds its events queued.
    fn report(&mut self, now: Instant, inputs: u64, ticket: Option<u64>, output: &Output) {
        self.shared.steps.note(output.steps_begun, now);
        let Cause { reason, withdrawn_by, source, .. } = output.cause;
        let status = (output.state, reason, withdrawn_by, source);
        if self.reported.replace(status) != Some(status) {
            self.send(now, LoopEvent::StatusChanged(output.into()));
        }
        for event in output.events.iter() {
            self.send(now, LoopEvent::Control(*event));
        }
        self.events_lost += u64::from(output.events.lost());
        if let Some(ticket) = ticket {
            self.answered = ticket;
            self.enable = output.enable.or(self.enable);
            self.reset = output.reset.or(self.reset);
        }
        *self.snapshots.input_buffer_mut() = Some(Snapshot {
            at: now,
            output: *output,
            interventions: *self.state.interventions(),
            commands: self.commands,
            inputs,
            answered: self.answered,
            enable: self.enable,
            reset: self.reset,
            punctuality: self.punctuality,
            events_lost: self.events_lost,
            priority: self.priority,
        });
        self.snapshots.publish();
    }

    fn send(&mut self, at: Instant, event: LoopEvent) {
        if let Err(TrySendError::Full(_)) = self.events.try_send(TimedEvent { at, event }) {
            self.events_lost += 1;
        }
    }
}

/// Reads both clocks as close together as possible: the stamp of a command must belong to the
/// steady time that the limits are computed with. If the thread is suspended between the readings,
/// the interval between two stamps would differ from the interval used by the limits; therefore the
/// clocks are read again, up to three times, while the readings are more than 1 us apart.
fn read_clocks(clock: &dyn Clock) -> (Stamp, Instant) {
    const TOGETHER: Duration = Duration::from_micros(1);
    let read = || {
        let (before, ros, now) = (clock.steady(), clock.ros(), clock.steady());
        (now.since(before).get(), ros, now)
    };
    let mut best = read();
    for _ in 0..3 {
        if best.0 <= TOGETHER {
            break;
        }
        let again = read();
        if again.0 < best.0 {
            best = again;
        }
    }
    (best.1, best.2)
}
