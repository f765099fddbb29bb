//! The threads of the node and the data they exchange.
//!
//! | thread | work | waits for |
//! |---|---|---|
//! | executor (the caller of [`Runtime`]) | receives messages and requests, publishes state | ROS |
//! | inference | decodes the newest image, runs the policy | `thread::park`, woken by [`Runtime`] |
//! | control | one [`vla_control::step`] per period, publishes its command | its next deadline |
//!
//! All queues between the threads are bounded, most of them newest-wins ([`Mailbox`]). The control
//! loop takes no lock, so no other thread can block it, and it frees no memory: what it receives is
//! sent back and dropped by another thread.

mod added_latency;
mod camera;
mod chunk_progress;
mod control_loop;
mod flight;
mod inference_rate;
mod mailbox;
mod observation;
mod os;
mod shared_state;
mod step_times;
mod transform;
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

pub use added_latency::AddedLatency;
pub use camera::CameraImage;
pub use control_loop::{
    CommandSink, ControlStatus, LoopEvent, Punctuality, Snapshot, StepObserver, TimedEvent,
};
pub use flight::{FlightRecorderHandle, flight_recorder};
pub use inference_rate::longest_pause;
pub use mailbox::Mailbox;
pub use observation::StateSample;
pub use os::{
    NodeClock, Priority, lower_priority, monotonic_now, resident_bytes, signal_is_ignored,
    sleep_until, stop_with_parent, wait_until,
};
pub use transform::{ActionTransform, STEP_WIDTH};
pub use worker::{DecisionReport, LoadRequest, Loaded, Loader, WorkerReport};

use camera::RepeatDetector;
use control_loop::{ControlLoop, ControlLoopIo};
use shared_state::{LatestInputs, PendingRequests, SharedState};
use worker::{Worker, WorkerCommand};

use vla_control::action_chunk::JOINTS_MAX;
use vla_control::time::{Clock, Instant, Stamp};
use vla_control::{
    CAMERAS_MAX, ControlConfig, ControlState, ImageSeen, JointsSeen, Lifecycle, PoseSeen, Requests,
    StateSeen,
};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::Instruction;

/// Capacity of the queue of worker reports; further reports are dropped.
const REPORTS: usize = 16;
/// Capacity of the queue of control events: some ten seconds of the busiest steps. Further events
/// are counted in [`Snapshot::events_lost`].
const EVENTS: usize = 1024;

/// Scheduling of the threads.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    /// `SCHED_FIFO` priority of the control loop, 1..99, used if the system permits it; 0 requests
    /// none.
    pub control_priority: u8,
    /// Niceness of the inference thread and the threads it starts, 0..19.
    pub inference_niceness: i32,
}

impl Default for Threads {
    fn default() -> Self {
        Self { control_priority: 40, inference_niceness: 10 }
    }
}

/// Number of a request; see [`Runtime::answered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Number of a state of the inputs; see [`Runtime::rested_since`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputsSerial(u64);

/// The executor thread's handle of the other threads.
pub struct Runtime {
    shared: Arc<SharedState>,
    clock: Arc<dyn Clock>,
    inputs_writer: triple_buffer::Input<LatestInputs>,
    inputs: LatestInputs,
    repeats: [RepeatDetector; CAMERAS_MAX],
    snapshots: triple_buffer::Output<Option<Snapshot>>,
    events: Receiver<TimedEvent>,
    /// An event taken from the queue that is later than the limit of [`Self::event_until`].
    next_event: Option<TimedEvent>,
    reports: Receiver<WorkerReport>,
    worker_commands: Sender<WorkerCommand>,
    /// Serial of the inputs in which the lifecycle state was set last.
    lifecycle_serial: u64,
    instruction_generation: u64,
    ticket: u64,
    /// Longest time to rest.
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
        let shared = Arc::new(SharedState::default());
        let (inputs_writer, inputs_reader) = triple_buffer::triple_buffer(&LatestInputs::default());
        let (snapshot_writer, snapshots) = triple_buffer::triple_buffer(&None);
        let (event_sender, events) = sync_channel(EVENTS);
        let (report_sender, reports) = sync_channel(REPORTS);
        let (worker_commands, commands_received) = channel();
        let worker = Worker::new(
            Arc::clone(&shared),
            Arc::clone(&clock),
            commands_received,
            report_sender,
            threads.inference_niceness,
        );
        let worker =
            std::thread::Builder::new().name("inference".into()).spawn(move || worker.run())?;
        let io = ControlLoopIo {
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            sink,
            observer,
            latest: inputs_reader,
            snapshots: snapshot_writer,
            events: event_sender,
        };
        let control = ControlLoop::new(io, config);
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control.run(threads.control_priority));
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                let _ = worker_commands.send(WorkerCommand::Stop);
                worker.thread().unpark();
                return Err(error);
            }
        };
        Ok(Self {
            shared,
            clock,
            inputs_writer,
            inputs: LatestInputs::default(),
            repeats: Default::default(),
            snapshots,
            events,
            next_event: None,
            reports,
            worker_commands,
            lifecycle_serial: 0,
            instruction_generation: 0,
            ticket: 0,
            rest_within: rest_within(&config),
            control: Some(control),
            worker: Some(worker),
        })
    }

    /// Passes on an image of a camera, by index, that has just arrived. Only the newest image is
    /// processed. Compares it with the image before it.
    ///
    /// # Panics
    /// For an index from [`CAMERAS_MAX`] on: more cameras are refused with the configuration.
    pub fn set_image(&mut self, camera: usize, stamp: Stamp, bytes: EncodedImage) {
        let (received, ros_received) = (self.clock.steady(), self.clock.ros());
        let bytes = Arc::new(bytes);
        let unchanged_since = self.repeats[camera].since(received, &bytes);
        let seen = ImageSeen { received, stamp, ros_received, unchanged_since };
        self.shared.images[camera].put(CameraImage { seen, bytes });
        if camera == 0 {
            self.shared.arrivals.note(received, seen.taken());
        }
        self.inputs.images[camera] = Some(seen);
        self.publish_inputs();
        self.wake_worker();
    }

    /// The newest image of a camera that was passed on, by index.
    #[must_use]
    pub fn newest_image(&self, camera: usize) -> Option<Arc<EncodedImage>> {
        self.repeats.get(camera).and_then(RepeatDetector::newest)
    }

    /// Sets or clears the instruction; returns whether it changed. Repeating the instruction in
    /// force changes nothing.
    pub fn set_instruction(&mut self, instruction: Option<Instruction>) -> bool {
        let now = self.shared.instruction();
        if now.as_ref().map(|(_, now)| now.as_ref()) == instruction.as_ref() {
            return false;
        }
        let current = instruction.map(|instruction| {
            self.instruction_generation += 1;
            (self.instruction_generation, Arc::new(instruction))
        });
        self.inputs.instruction = current.as_ref().map(|(generation, _)| *generation);
        self.shared.set_instruction(current);
        self.publish_inputs();
        self.wake_worker();
        true
    }

    /// The instruction in force.
    #[must_use]
    pub fn instruction(&self) -> Option<Arc<Instruction>> {
        self.shared.instruction().map(|(_, instruction)| instruction)
    }

    /// Passes on an end-effector position that has just arrived, in metres, measured `delay` ago:
    /// its age and the motion since then count from the measurement.
    pub fn set_ee_pose(&mut self, position: [f64; 3], delay: Duration) {
        let received = self.clock.steady().before(delay);
        self.inputs.ee_pose = Some(PoseSeen { received, position });
        self.publish_inputs();
    }

    /// Passes on the arrival of a message of a state source, by index. `stamp` is that of its
    /// header; `complete` tells whether it has every value that the policy needs of it.
    ///
    /// # Panics
    /// For an index from [`vla_control::STATE_SOURCES_MAX`] on: more are refused with the
    /// configuration.
    pub fn set_state_source(&mut self, source: usize, stamp: Option<Stamp>, complete: bool) {
        let (received, ros_received) = (self.clock.steady(), self.clock.ros());
        let stamp = stamp.unwrap_or(ros_received);
        self.inputs.states[source] = Some(StateSeen { received, stamp, ros_received, complete });
        self.publish_inputs();
    }

    /// Passes on measured positions of control's joints that have just arrived, in its order; NaN
    /// for one that is unknown.
    pub fn set_joints(&mut self, stamp: Stamp, positions: [f64; JOINTS_MAX]) {
        let (received, ros_received) = (self.clock.steady(), self.clock.ros());
        self.inputs.joints = Some(JointsSeen { received, stamp, ros_received, positions });
        self.publish_inputs();
    }

    /// Sets the policy's state, in its order and units, and the positions of control's joints;
    /// `None` while a value is unknown. Its age is that of the sources passed on before.
    pub fn set_state(&mut self, state: Option<(Vec<f64>, Vec<f64>)>) {
        let states = self.inputs.states.iter().flatten().map(StateSeen::taken);
        let joints = self.inputs.joints.iter().map(JointsSeen::taken);
        let taken = states.chain(joints).collect();
        let sample = state.map(|(values, joints)| StateSample { values, joints, taken });
        self.shared.set_state(sample.map(Arc::new));
        self.wake_worker();
    }

    /// Sets whether the command has a subscriber.
    pub fn set_subscribed(&mut self, subscribed: bool) {
        if self.inputs.subscribed != subscribed {
            self.inputs.subscribed = subscribed;
            self.publish_inputs();
        }
    }

    /// Sets the lifecycle state. Leaving `Active` ramps down first: see [`Self::at_rest`].
    pub fn set_lifecycle(&mut self, lifecycle: Lifecycle) {
        self.inputs.lifecycle = lifecycle;
        self.lifecycle_serial = self.inputs.serial + 1;
        self.shared.active.store(lifecycle == Lifecycle::Active, Ordering::Release);
        self.publish_inputs();
        self.wake_worker();
    }

    /// Leaves `Active`, if that is the state, which ramps down.
    pub fn deactivate(&mut self) {
        if self.inputs.lifecycle == Lifecycle::Active {
            self.set_lifecycle(Lifecycle::Inactive);
        }
    }

    fn publish_inputs(&mut self) {
        self.inputs.serial += 1;
        self.inputs_writer.write(self.inputs);
    }

    /// Passes requests to control. Requests that control has not processed yet are merged; of a
    /// request to enable and one to disable, the latter holds.
    pub fn request(&mut self, requests: Requests) -> Ticket {
        self.ticket += 1;
        let mut all = requests;
        if let Some(pending) = self.shared.pending_requests.take() {
            all.enable = match (requests.enable, pending.requests.enable) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (new, old) => new.or(old),
            };
            all.estop |= pending.requests.estop;
            all.reset |= pending.requests.reset;
        }
        self.shared.pending_requests.put(PendingRequests { ticket: self.ticket, requests: all });
        Ticket(self.ticket)
    }

    /// Whether control has processed a request.
    pub fn answered(&mut self, ticket: Ticket) -> bool {
        self.snapshot().is_some_and(|snapshot| ticket.0 <= snapshot.answered)
    }

    /// Whether control has processed the lifecycle state that was set last, and is at rest.
    pub fn at_rest(&mut self) -> bool {
        self.rested_since(InputsSerial(self.lifecycle_serial))
    }

    /// Number of the inputs that were set last.
    #[must_use]
    pub fn inputs_serial(&self) -> InputsSerial {
        InputsSerial(self.inputs.serial)
    }

    /// Whether control has processed these inputs.
    pub fn processed(&mut self, inputs: InputsSerial) -> bool {
        self.snapshot().is_some_and(|snapshot| inputs.0 <= snapshot.inputs)
    }

    /// Whether control has processed these inputs, and is at rest.
    pub fn rested_since(&mut self, inputs: InputsSerial) -> bool {
        self.processed(inputs) && self.snapshot().is_some_and(|snapshot| snapshot.output.at_rest)
    }

    /// Longest time from [`Lifecycle::Inactive`] to [`Self::at_rest`].
    #[must_use]
    pub fn rest_within(&self) -> Duration {
        self.rest_within
    }

    /// Wakes the worker. A wake-up while it is busy is not lost: it looks for work before it parks.
    fn wake_worker(&self) {
        if let Some(worker) = &self.worker {
            worker.thread().unpark();
        }
    }

    /// The newest step's result; `None` before the first.
    pub fn snapshot(&mut self) -> Option<Snapshot> {
        *self.snapshots.read()
    }

    /// The oldest event not fetched yet, unless it is later than `until`. With the time of a
    /// snapshot it returns exactly the events that led to that snapshot.
    pub fn event_until(&mut self, until: Instant) -> Option<TimedEvent> {
        self.next_event = self.next_event.or_else(|| self.events.try_recv().ok());
        self.next_event.take_if(|event| event.at <= until)
    }

    /// The oldest report of the worker not fetched yet.
    pub fn report(&self) -> Option<WorkerReport> {
        self.reports.try_recv().ok()
    }

    /// Images of the first camera that arrived, and those of them that were replaced by a newer one
    /// before use.
    #[must_use]
    pub fn images(&self) -> (u64, u64) {
        let [first, ..] = &self.shared.images;
        (first.received(), first.dropped())
    }

    /// Loads and self-tests a policy on the worker's thread; the result arrives through the
    /// receiver.
    #[must_use]
    pub fn load(&self, request: LoadRequest) -> Receiver<Result<Loaded, String>> {
        let (reply, answer) = channel();
        // If the worker is gone, the receiver is disconnected.
        let _ = self.worker_commands.send(WorkerCommand::Load { request, reply });
        self.wake_worker();
        answer
    }

    /// Frees the policy; confirmed through the receiver, after a running inference.
    #[must_use]
    pub fn unload(&self) -> Receiver<()> {
        let (reply, answer) = channel();
        let _ = self.worker_commands.send(WorkerCommand::Unload { reply });
        self.wake_worker();
        answer
    }

    /// Gives control another configuration and a new state, which inherits a closed latch and the
    /// counts. Only to be called at rest.
    pub fn configure_control(&mut self, config: ControlConfig) {
        drop(self.shared.states_to_free.take());
        self.rest_within = rest_within(&config);
        self.shared.new_state.put(ControlState::new(config));
    }

    /// Names a thread that has ended although it should run: a defect.
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

    /// Ramps down, then joins both threads. Gives a running inference `patience` to end; a worker
    /// still busy then is left to die with the process. Tells whether everything ended in order.
    pub fn shut_down(mut self, patience: Duration) -> bool {
        self.deactivate();
        let rested = os::wait_until(patience, || {
            self.at_rest() || self.control.as_ref().is_none_or(JoinHandle::is_finished)
        });
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.worker_commands.send(WorkerCommand::Stop);
        self.wake_worker();
        let stepped = self.control.take().is_none_or(|control| control.join().is_ok());
        let ended =
            os::wait_until(patience, || self.worker.as_ref().is_none_or(JoinHandle::is_finished));
        if ended && let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        rested && stepped && ended
    }
}

/// Longest time from a request to stop until [`Runtime::at_rest`]: the stop itself, and some
/// periods for the request and the snapshot.
fn rest_within(config: &ControlConfig) -> Duration {
    Duration::from_secs_f64(config.stop_time_s())
        + 10 * config.period()
        + Duration::from_millis(100)
}

impl Drop for Runtime {
    /// Ramps the command to zero without waiting for the policy, also when the executor thread
    /// panicked.
    fn drop(&mut self) {
        if self.control.is_some() {
            self.deactivate();
            os::wait_until(self.rest_within, || {
                self.at_rest() || self.control.as_ref().is_none_or(JoinHandle::is_finished)
            });
        }
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.worker_commands.send(WorkerCommand::Stop);
        self.wake_worker();
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}
