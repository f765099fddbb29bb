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
    shared_state::{Desk, Levels},
};
use vla_control::time::{Clock, Instant, Stamp};
use vla_control::{
    Command, ControlConfig, ControlState, Event, ImageSeen, Inputs, InterventionCounts, Output,
    Requests, ResetOutcome, step,
};

/// Where commands go. Only [`vla_control`] can make a [`Command`], so nothing else can be
/// published.
pub trait CommandSink: Send {
    /// Publishes, now. Must neither wait nor fail loudly: the loop has no time for either.
    fn publish(&mut self, stamp: Stamp, command: &Command);
}

/// Sees every step; the flight recorder does. Must not wait.
pub trait StepObserver: Send {
    /// Called after each step and its publication.
    fn observe(&mut self, now: Instant, inputs: &Inputs<'_>, output: &Output);
}

/// How punctual the loop is, since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Punctuality {
    /// Steps made.
    pub steps: u64,
    /// Deadlines missed by more than a whole period, so that a step was left out.
    pub missed: u64,
    /// How much later than its deadline the loop woke at worst, seconds.
    pub worst_s: f64,
}

/// What the loop shows to the outside after each step.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    /// The step's result.
    pub output: Output,
    /// Interventions so far.
    pub interventions: InterventionCounts,
    /// Commands published so far.
    pub commands: u64,
    /// The writing of the levels this step acted upon.
    pub(super) levels: u64,
    /// The last request that was seen, and what became of the reset in it.
    pub(super) answered: u64,
    /// What became of the last reset request.
    pub reset: Option<ResetOutcome>,
    /// Punctuality of the loop.
    pub punctuality: Punctuality,
    /// Events that nobody fetched in time.
    pub events_lost: u64,
    /// How the thread is scheduled.
    pub priority: Priority,
}

/// An event and when it happened.
#[derive(Debug, Clone, Copy)]
pub struct Happened {
    /// On the steady clock.
    pub at: Instant,
    /// What.
    pub event: Event,
}

pub(super) struct ControlLoop {
    desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
    sink: Box<dyn CommandSink>,
    observer: Option<Box<dyn StepObserver>>,
    levels: triple_buffer::Output<Levels>,
    snapshots: triple_buffer::Input<Option<Snapshot>>,
    events: SyncSender<Happened>,
    state: Box<ControlState>,
    period: Duration,
    /// The newest image whose bytes were not found to be broken.
    image: Option<ImageSeen>,
    commands: u64,
    answered: u64,
    reset: Option<ResetOutcome>,
    punctuality: Punctuality,
    events_lost: u64,
    priority: Priority,
}

/// What connects a loop with the rest.
pub(super) struct Ends {
    pub desk: Arc<Desk>,
    pub clock: Arc<dyn Clock>,
    pub sink: Box<dyn CommandSink>,
    pub observer: Option<Box<dyn StepObserver>>,
    pub levels: triple_buffer::Output<Levels>,
    pub snapshots: triple_buffer::Input<Option<Snapshot>>,
    pub events: SyncSender<Happened>,
}

impl ControlLoop {
    pub fn new(ends: Ends, config: ControlConfig) -> Self {
        let Ends { desk, clock, sink, observer, levels, snapshots, events } = ends;
        Self {
            desk,
            clock,
            sink,
            observer,
            levels,
            snapshots,
            events,
            period: config.period(),
            state: Box::new(ControlState::new(config)),
            image: None,
            commands: 0,
            answered: 0,
            reset: None,
            punctuality: Punctuality::default(),
            events_lost: 0,
            priority: Priority::Ordinary,
        }
    }

    /// Steps at a fixed rate until told to stop.
    pub fn run(mut self, real_time_priority: u8) {
        self.priority = os::real_time(real_time_priority);
        let mut deadline = self.clock.steady();
        while !self.desk.stop.load(Ordering::Acquire) {
            os::sleep_until(deadline);
            let woken = self.clock.steady();
            self.punctuality.steps += 1;
            self.punctuality.worst_s =
                self.punctuality.worst_s.max(woken.since(deadline).seconds());
            self.tick();
            deadline = deadline.after(self.period);
            // Missed periods are left out, never made up for: a burst of commands would be worse
            // than a gap.
            if deadline.since(woken).get().is_zero() && woken.since(deadline).get() > Duration::ZERO
            {
                self.punctuality.missed += 1;
                deadline = woken.after(self.period);
            }
        }
    }

    /// One step: look at the desk, step, publish, tell.
    pub fn tick(&mut self) {
        if let Some(mut state) = self.desk.control.take() {
            // A latch outlives a change of configuration, also one that closed while a checkpoint
            // was being loaded; and counts are never reset.
            state.inherit(&self.state);
            self.period = state.config().period();
            self.desk.retired.put_back(std::mem::replace(&mut self.state, state));
        }
        let levels = *self.levels.read();
        // While the newest image cannot be decoded, newer ones count for nothing: their age goes on
        // from the last one that was believed.
        if !self.desk.blind.load(Ordering::Acquire) || self.image.is_none() {
            self.image = levels.image;
        }
        let asked = self.desk.asked.take();
        let chunk = self.desk.chunks.take();
        let (inference, policy_failure) = (self.desk.inference(), self.desk.take_failure());
        let (ros_now, now) = both(self.clock.as_ref());
        let inputs = Inputs {
            ros_now,
            lifecycle: levels.lifecycle,
            requests: asked.as_ref().map_or(Requests::default(), |asked| asked.requests),
            instruction: levels.instruction,
            image: self.image,
            ee_pose: levels.ee_pose,
            chunk: chunk.as_deref(),
            inference,
            policy_failure,
            subscribed: levels.subscribed,
        };
        let output = step(now, &mut self.state, &inputs);
        if let Some(command) = &output.command {
            self.sink.publish(ros_now, command);
            self.commands += 1;
        }
        if let Some(observer) = &mut self.observer {
            observer.observe(now, &inputs, &output);
        }
        self.tell(now, &levels, asked.map(|asked| asked.ticket), &output);
        if let Some(chunk) = chunk {
            self.desk.spent.put_back(chunk);
        }
    }

    fn tell(&mut self, now: Instant, levels: &Levels, ticket: Option<u64>, output: &Output) {
        self.desk.steps_begun.store(output.steps_begun, Ordering::Release);
        for event in output.events.iter() {
            if let Err(TrySendError::Full(_)) =
                self.events.try_send(Happened { at: now, event: *event })
            {
                self.events_lost += 1;
            }
        }
        if let Some(ticket) = ticket {
            self.answered = ticket;
            if output.reset.is_some() {
                self.reset = output.reset;
            }
        }
        *self.snapshots.input_buffer_mut() = Some(Snapshot {
            output: *output,
            interventions: *self.state.interventions(),
            commands: self.commands,
            levels: levels.serial,
            answered: self.answered,
            reset: self.reset,
            punctuality: self.punctuality,
            events_lost: self.events_lost,
            priority: self.priority,
        });
        self.snapshots.publish();
    }
}

/// Both clocks at one moment: a command's stamp is what a driver or a judge has of the time that
/// the limits were kept over. A thread that is suspended between the two readings would tell a
/// shorter or longer period than it kept, so they are taken again, a few times, while they lie
/// apart.
fn both(clock: &dyn Clock) -> (Stamp, Instant) {
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
