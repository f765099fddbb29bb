//! Threads: the inference worker and the control loop, and what stands between them.
//!
//! | thread | does | waits for |
//! |---|---|---|
//! | spinning side (the caller of [`Runtime`]) | takes messages and requests in, shows state | nothing here |
//! | inference | decodes the newest image, asks the policy | a bell |
//! | control | one [`vla_control::step`] per period, publishes its command | its next deadline, nothing else |
//!
//! Between them everything is newest-wins and bounded: see [`Mailbox`]. Neither side can slow the
//! control loop down by holding a lock, because it takes none; it is not slowed down by memory
//! either, because what it receives is freed elsewhere.

mod camera;
mod control_loop;
mod flight;
mod inference_rate;
mod mailbox;
mod os;
mod shared_state;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, Sender, channel, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use camera::CameraImage;
pub use control_loop::{CommandSink, Happened, Punctuality, Snapshot, StepObserver};
pub use flight::{FlightDesk, flight_recorder};
pub use inference_rate::longest_pause;
pub use mailbox::{Bell, Mailbox};
pub use os::{NodeClock, Priority, monotonic_now, resident_bytes, sleep_until, wait_until};
pub use worker::{DecisionReport, Loaded, Loader, Meaning, Report, STEP_WIDTH};

use camera::Repetition;
use control_loop::{ControlLoop, Ends};
use shared_state::{Asked, Desk, Levels};
use worker::{Order, Worker};

use vla_control::time::{Clock, Stamp};
use vla_control::{ControlConfig, ControlState, ImageSeen, Lifecycle, PoseSeen, Requests};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::Instruction;

/// Reports that wait for the spinning side; more are dropped.
const REPORTS: usize = 16;
/// Events that wait for the spinning side; more are counted and dropped.
const EVENTS: usize = 256;

/// Choices about threads.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    /// `SCHED_FIFO` priority of the control loop, 1..99; 0 does not ask. Taken only where
    /// permitted.
    pub control_priority: u8,
    /// Niceness of the inference thread and the threads it starts, 0..19.
    pub inference_niceness: i32,
}

impl Default for Threads {
    fn default() -> Self {
        Self { control_priority: 40, inference_niceness: 10 }
    }
}

/// A request's receipt; see [`Runtime::answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The running threads, seen from the spinning side.
pub struct Runtime {
    desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
    levels: triple_buffer::Input<Levels>,
    level: Levels,
    repetition: Repetition,
    snapshots: triple_buffer::Output<Option<Snapshot>>,
    events: Receiver<Happened>,
    reports: Receiver<Report>,
    orders: Sender<Order>,
    instruction_generation: u64,
    ticket: u64,
    /// How long coming to rest may take.
    rest_within: Duration,
    control: Option<JoinHandle<()>>,
    worker: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts both threads. Nothing moves until a policy is loaded, the lifecycle is active and
    /// motion is enabled.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        clock: Arc<dyn Clock>,
        config: ControlConfig,
        sink: Box<dyn CommandSink>,
        observer: Option<Box<dyn StepObserver>>,
        threads: Threads,
    ) -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let (levels, levels_seen) = triple_buffer::triple_buffer(&Levels::default());
        let (snapshots_told, snapshots) = triple_buffer::triple_buffer(&None);
        let (events_told, events) = sync_channel(EVENTS);
        let (reports_told, reports) = sync_channel(REPORTS);
        let (orders, orders_taken) = channel();
        let worker = Worker::new(
            Arc::clone(&desk),
            Arc::clone(&clock),
            orders_taken,
            reports_told,
            threads.inference_niceness,
        );
        let worker =
            std::thread::Builder::new().name("inference".into()).spawn(move || worker.run())?;
        let ends = Ends {
            desk: Arc::clone(&desk),
            clock: Arc::clone(&clock),
            sink,
            observer,
            levels: levels_seen,
            snapshots: snapshots_told,
            events: events_told,
        };
        let control = ControlLoop::new(ends, config);
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control.run(threads.control_priority));
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                let _ = orders.send(Order::Stop);
                desk.bell.ring();
                return Err(error);
            }
        };
        Ok(Self {
            desk,
            clock,
            levels,
            level: Levels::default(),
            repetition: Repetition::default(),
            snapshots,
            events,
            reports,
            orders,
            instruction_generation: 0,
            ticket: 0,
            rest_within: rest_within(&config),
            control: Some(control),
            worker: Some(worker),
        })
    }

    /// Hands over an image that has just arrived. Only the newest is ever looked at; that it equals
    /// the one before it is noticed here.
    pub fn offer_image(&mut self, stamp: Stamp, bytes: EncodedImage) {
        let (received, ros_received) = (self.clock.steady(), self.clock.ros());
        let bytes = Arc::new(bytes);
        let unchanged_since = self.repetition.since(received, &bytes);
        let seen = ImageSeen { received, stamp, ros_received, unchanged_since };
        let steps_begun = self.desk.steps_begun.load(Ordering::Acquire);
        self.desk.images.put(CameraImage { seen, steps_begun, bytes });
        self.desk.arrivals.note(received);
        self.level.image = Some(seen);
        self.publish_levels();
        self.desk.bell.ring();
    }

    /// Sets or clears the instruction. Repeating the one in force changes nothing; tells whether it
    /// changed.
    pub fn set_instruction(&mut self, instruction: Option<Instruction>) -> bool {
        let now = self.desk.instruction();
        if now.as_ref().map(|(_, now)| now.as_ref()) == instruction.as_ref() {
            return false;
        }
        let told = instruction.map(|instruction| {
            self.instruction_generation += 1;
            (self.instruction_generation, Arc::new(instruction))
        });
        self.level.instruction = told.as_ref().map(|(generation, _)| *generation);
        self.desk.set_instruction(told);
        self.publish_levels();
        self.desk.bell.ring();
        true
    }

    /// The instruction in force.
    #[must_use]
    pub fn instruction(&self) -> Option<Arc<Instruction>> {
        self.desk.instruction().map(|(_, instruction)| instruction)
    }

    /// The end effector's pose has arrived; metres.
    pub fn set_ee_pose(&mut self, position: [f64; 3]) {
        self.level.ee_pose = Some(PoseSeen { received: self.clock.steady(), position });
        self.publish_levels();
    }

    /// Whether anybody subscribes to the command.
    pub fn set_subscribed(&mut self, subscribed: bool) {
        if self.level.subscribed != subscribed {
            self.level.subscribed = subscribed;
            self.publish_levels();
        }
    }

    /// Sets the lifecycle state. Leaving `Active` ramps down first: see [`Self::at_rest`].
    pub fn set_lifecycle(&mut self, lifecycle: Lifecycle) {
        self.level.lifecycle = lifecycle;
        self.desk.active.store(lifecycle == Lifecycle::Active, Ordering::Release);
        self.publish_levels();
        self.desk.bell.ring();
    }

    fn publish_levels(&mut self) {
        self.level.serial += 1;
        self.levels.write(self.level);
    }

    /// Passes requests to control; several that it has not seen yet become one.
    pub fn request(&mut self, requests: Requests) -> Ticket {
        self.ticket += 1;
        let mut all = requests;
        if let Some(waiting) = self.desk.asked.take() {
            all.enable = requests.enable.or(waiting.requests.enable);
            all.estop |= waiting.requests.estop;
            all.reset |= waiting.requests.reset;
        }
        self.desk.asked.put(Asked { ticket: self.ticket, requests: all });
        Ticket(self.ticket)
    }

    /// Whether control has acted upon a request.
    pub fn answered(&mut self, ticket: Ticket) -> bool {
        self.snapshot().is_some_and(|snapshot| ticket.0 <= snapshot.answered)
    }

    /// Whether control has acted upon everything that was set here, and is at rest.
    pub fn at_rest(&mut self) -> bool {
        let serial = self.level.serial;
        self.snapshot().is_some_and(|snapshot| serial <= snapshot.levels && snapshot.output.at_rest)
    }

    /// The last step's result; `None` before the first.
    pub fn snapshot(&mut self) -> Option<Snapshot> {
        *self.snapshots.read()
    }

    /// The oldest event not fetched yet.
    pub fn event(&self) -> Option<Happened> {
        self.events.try_recv().ok()
    }

    /// The oldest of the worker's reports not fetched yet.
    pub fn report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Images that arrived, and those of them that nobody looked at because a newer one came.
    #[must_use]
    pub fn images(&self) -> (u64, u64) {
        (self.desk.images.received(), self.desk.images.dropped())
    }

    /// Loads a policy on the worker's thread and tests it there; the answer comes through the
    /// receiver. `meaning` turns its numbers into metres and radians; `rate_limit_hz` bounds how
    /// often it is asked, 0 does not. Where that limit and not the policy decides, the next image
    /// may be waited for, an eighth of the limit's interval and at most 50 ms.
    #[must_use]
    pub fn load(
        &self,
        loader: Loader,
        meaning: Meaning,
        policy_hz: f64,
        rate_limit_hz: f64,
    ) -> Receiver<Result<Loaded, String>> {
        let (reply, answer) = channel();
        // a worker that is gone answers nothing
        let _ = self.orders.send(Order::Load { loader, meaning, policy_hz, rate_limit_hz, reply });
        self.desk.bell.ring();
        answer
    }

    /// Frees the policy; the answer comes through the receiver, after a running inference.
    #[must_use]
    pub fn unload(&self) -> Receiver<()> {
        let (reply, answer) = channel();
        let _ = self.orders.send(Order::Unload { reply });
        self.desk.bell.ring();
        answer
    }

    /// Gives control another configuration and a fresh state, which keeps a closed latch and the
    /// counts. The caller makes sure that it is at rest.
    pub fn configure_control(&mut self, config: ControlConfig) {
        drop(self.desk.retired.take());
        self.rest_within = rest_within(&config);
        self.desk.control.put(ControlState::new(config));
    }

    /// Whether a thread has ended that should not have: a defect.
    #[must_use]
    pub fn broken(&self) -> Option<&'static str> {
        if self.control.as_ref().is_none_or(JoinHandle::is_finished) {
            return Some("the control thread ended");
        }
        self.worker
            .as_ref()
            .is_none_or(JoinHandle::is_finished)
            .then_some("the inference thread ended")
    }

    /// Ramps down, then ends both threads. Gives a running inference `patience` to end; a worker
    /// still busy then is left to die with the process. Tells whether everything ended in order.
    pub fn shut_down(mut self, patience: Duration) -> bool {
        self.set_lifecycle(Lifecycle::Inactive);
        let rested = os::wait_until(patience, || {
            self.at_rest() || self.control.as_ref().is_none_or(JoinHandle::is_finished)
        });
        self.desk.stop.store(true, Ordering::Release);
        let _ = self.orders.send(Order::Stop);
        self.desk.bell.ring();
        let stepped = self.control.take().is_none_or(|control| control.join().is_ok());
        let ended =
            os::wait_until(patience, || self.worker.as_ref().is_none_or(JoinHandle::is_finished));
        if ended && let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        rested && stepped && ended
    }
}

/// The promised time to stop, and some periods until the loop has seen the wish and told the
/// result.
fn rest_within(config: &ControlConfig) -> Duration {
    Duration::from_secs_f64(config.stop_time_s())
        + 10 * config.period()
        + Duration::from_millis(100)
}

impl Drop for Runtime {
    /// Ramps down too, without waiting for the policy: whatever went wrong on the spinning side,
    /// the stream ends at zero.
    fn drop(&mut self) {
        if self.control.is_some() {
            self.set_lifecycle(Lifecycle::Inactive);
            os::wait_until(self.rest_within, || {
                self.at_rest() || self.control.as_ref().is_none_or(JoinHandle::is_finished)
            });
        }
        self.desk.stop.store(true, Ordering::Release);
        let _ = self.orders.send(Order::Stop);
        self.desk.bell.ring();
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}
