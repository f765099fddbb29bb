//! The inference worker: the thread that owns the policy. No other thread waits for it.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, Sender, SyncSender},
    },
    thread,
    time::Duration,
};

use super::{
    chunk_progress::ChunkProgress,
    inference_rate::InferenceRateLimiter,
    observation::{Collector, Job, Undecodable},
    os,
    shared_state::SharedState,
    transform::ActionTransform,
};
use vla_control::action_chunk::ChunkOrigin;
use vla_control::time::Clock;
use vla_control::{Inference, PolicyFailure, StageTimes};
use vla_inference::observation::{Observation, Place, RgbImage};
use vla_inference::policy::{
    Decision, DraftCounts, Instruction, Policy, PolicyError, PolicyInfo, RemoteError, RemoteFault,
    Restored, ScriptError, Stage,
};

/// Measured inferences of the self-test. One more precedes them: it touches every weight for the
/// first time and is not measured.
const SELF_TEST_RUNS: u32 = 3;

/// Loads a policy. Runs on the worker's thread, so that threads started by the policy inherit its
/// priority.
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Policy>, String> + Send>;

/// A policy to load, and how it is to be used.
pub struct LoadRequest {
    /// Loads it.
    pub loader: Loader,
    /// Converts its numbers.
    pub transform: ActionTransform,
    /// Steps per second that it was trained for.
    pub policy_hz: f64,
    /// Steps of a chunk that begin before the next observation is taken; 1 for single actions.
    pub execute: usize,
    /// Time from the begin of a step to that of the robot's motion.
    pub motion_delay: Duration,
    /// Limit of the inference rate, Hz; 0 for none. When the limit decides the start of an
    /// inference, not the policy, the worker may wait for the next image: an eighth of the limit's
    /// interval and at most 50 ms.
    pub rate_limit_hz: f64,
    /// Names of the cameras, by index; the first one triggers inferences.
    pub cameras: Vec<Arc<str>>,
    /// Whether the policy or the transform needs a state.
    pub needs_state: bool,
}

/// Commands to the worker.
pub(super) enum WorkerCommand {
    Load { request: LoadRequest, reply: Sender<Result<Loaded, String>> },
    Unload { reply: Sender<()> },
    Stop,
}

/// A policy that was loaded and passed the self-test.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Statistics, device and precision.
    pub info: PolicyInfo,
    /// The longest of the measured self-test inferences, seconds.
    pub inference_s: f64,
    /// A remark of the self-test, e.g. that a plain grey image gave no action.
    pub remark: Option<String>,
    /// Seed of the first chunk's noise, for a policy with noise.
    pub seed: Option<u64>,
    /// Where the decisions come from, for a policy on a server.
    pub origin: Option<String>,
}

/// Reports of the worker to the executor thread, in a bounded queue: with newest-wins the reason
/// of a failure would be lost.
#[derive(Debug)]
pub enum WorkerReport {
    /// An inference succeeded.
    Decided(Box<DecisionReport>),
    /// An inference ended with an error.
    Refused {
        /// One line for the operator.
        text: String,
        /// Whether the reason was a token that encodes no action.
        non_action: bool,
        /// What is wrong with the server, for a policy on one.
        remote: Option<RemoteFault>,
    },
    /// The policy can decide again; one line for the log.
    Restored(String),
    /// An image could not be used.
    ImageRefused {
        /// One line for the operator.
        text: String,
        /// Whether the image is well-formed, but of an unsupported encoding or size.
        unsupported: bool,
        /// Index of its camera.
        camera: usize,
    },
    /// The policy was prepared for an instruction, which took time: nothing was inferred.
    Prepared {
        /// How long it took.
        seconds: f64,
    },
    /// The policy panicked; it is not used again.
    Panicked(String),
}

/// A decision with everything that `~/action` contains.
#[derive(Debug)]
pub struct DecisionReport {
    /// The observation it was made from.
    pub origin: ChunkOrigin,
    /// The instruction in the prompt.
    pub instruction: Arc<Instruction>,
    /// The decision; its stages begin with `image`, the decoding.
    pub decision: Decision,
    /// Actions per second this policy was trained for.
    pub policy_hz: f64,
    /// From the image's stamp to the decision, seconds in ROS time; NaN if that is negative.
    pub latency_s: f64,
    /// From the start of the inference (decoding included) to the decision, seconds.
    pub inference_s: f64,
    /// Statistics, device and precision.
    pub info: Arc<PolicyInfo>,
    /// What drafting has saved so far.
    pub draft: DraftCounts,
}

struct Installed {
    policy: Box<dyn Policy>,
    info: Arc<PolicyInfo>,
    transform: ActionTransform,
    policy_hz: f64,
    collector: Collector,
    progress: ChunkProgress,
    /// Generation of the instruction that the policy is prepared for.
    prepared: Option<u64>,
}

pub(super) struct Worker {
    pub shared: Arc<SharedState>,
    pub clock: Arc<dyn Clock>,
    pub worker_commands: Receiver<WorkerCommand>,
    pub reports: SyncSender<WorkerReport>,
    pub niceness: i32,
    installed: Option<Installed>,
    rate_limiter: InferenceRateLimiter,
    generation: u64,
}

impl Worker {
    pub fn new(
        shared: Arc<SharedState>,
        clock: Arc<dyn Clock>,
        worker_commands: Receiver<WorkerCommand>,
        reports: SyncSender<WorkerReport>,
        niceness: i32,
    ) -> Self {
        Self {
            shared,
            clock,
            worker_commands,
            reports,
            niceness,
            installed: None,
            rate_limiter: InferenceRateLimiter::new(0.0),
            generation: 0,
        }
    }

    pub fn run(mut self) {
        os::lower_priority(self.niceness);
        loop {
            while let Ok(order) = self.worker_commands.try_recv() {
                match order {
                    WorkerCommand::Load { request, reply } => {
                        let loaded = self.load(request);
                        if reply.send(loaded).is_err() {
                            // The requester has given up: do not keep the policy.
                            self.unload();
                        }
                    }
                    WorkerCommand::Unload { reply } => {
                        self.unload();
                        let _ = reply.send(());
                    }
                    WorkerCommand::Stop => return,
                }
            }
            if let Some(wait) = self.restore() {
                self.forget_unless_active();
                thread::park_timeout(wait);
                continue;
            }
            let now = self.clock.steady();
            let wait = self.rate_limiter.wait(now, &self.shared.arrivals);
            if wait.is_zero()
                && let Some(job) = self.next_job()
            {
                if self.prepare(&job) {
                    self.rate_limiter.began(now);
                    self.infer(&job);
                }
                continue;
            }
            // Woken by `Runtime::wake_worker`; the timeout of a second is a precaution.
            thread::park_timeout(if wait.is_zero() { Duration::from_secs(1) } else { wait });
        }
    }

    /// Whether to infer at all. If not, nothing of before is used after the next activation.
    fn forget_unless_active(&mut self) -> bool {
        let active = self.shared.active.load(Ordering::Acquire)
            && self.shared.inference() != Inference::Dead;
        if !active && let Some(installed) = &mut self.installed {
            installed.collector.clear();
        }
        active
    }

    /// Lets the policy do what it needs between decisions. Returns how long to wait while it cannot
    /// decide.
    fn restore(&mut self) -> Option<Duration> {
        if self.shared.inference() == Inference::Dead {
            return None;
        }
        let installed = self.installed.as_mut()?;
        let report = match catch_unwind(AssertUnwindSafe(|| installed.policy.restore())) {
            Ok(Restored::Ready) => return None,
            Ok(Restored::Later(time)) => return Some(time.min(Duration::from_secs(1))),
            Ok(Restored::Again(text)) => WorkerReport::Restored(text),
            Ok(Restored::Failed(error)) => {
                self.refused(error);
                return Some(Duration::ZERO);
            }
            Err(panic) => {
                self.shared.set_inference(Inference::Dead);
                WorkerReport::Panicked(panic_text(panic.as_ref()))
            }
        };
        let _ = self.reports.try_send(report);
        None
    }

    fn next_job(&mut self) -> Option<Job> {
        if !self.forget_unless_active() {
            return None;
        }
        let installed = self.installed.as_mut()?;
        let (steps, newest) = (&self.shared.steps, self.shared.arrivals.taken());
        if installed.progress.executes(steps, newest, self.clock.steady()) {
            return None;
        }
        installed.collector.take(&self.shared)
    }

    fn load(&mut self, request: LoadRequest) -> Result<Loaded, String> {
        self.unload();
        let LoadRequest {
            loader,
            transform,
            policy_hz,
            execute,
            motion_delay,
            rate_limit_hz,
            cameras,
            needs_state,
        } = request;
        let (policy, loaded) = catch_unwind(AssertUnwindSafe(|| {
            let mut policy = loader()?;
            let loaded = self_test(policy.as_mut(), transform.width(), self.clock.as_ref())?;
            policy.restart();
            Ok::<_, String>((policy, loaded))
        }))
        .unwrap_or_else(|panic| {
            Err(format!("loading the policy panicked: {}", panic_text(panic.as_ref())))
        })?;
        self.installed = Some(Installed {
            policy,
            info: Arc::new(loaded.info.clone()),
            transform,
            policy_hz,
            collector: Collector::new(cameras, needs_state),
            progress: ChunkProgress::new(policy_hz, execute, motion_delay, loaded.inference_s),
            prepared: None,
        });
        self.rate_limiter = InferenceRateLimiter::new(rate_limit_hz);
        self.shared.set_inference(Inference::Idle);
        Ok(loaded)
    }

    fn unload(&mut self) {
        if let Some(installed) = self.installed.take() {
            // A policy that panicked may panic again while it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(installed)));
        }
        self.shared.set_unable(false);
        drop((self.shared.chunks.take(), self.shared.chunks_to_free.take()));
        self.shared.images.iter().for_each(|mailbox| drop(mailbox.take()));
        self.shared.decode_failed.store(0, Ordering::Release);
        self.shared.set_inference(Inference::Idle);
    }

    /// Prepares the policy for an instruction before its first inference (for every observation
    /// where the state is in the prompt), outside of the deadline of inferences. Returns whether
    /// the job may be inferred: after a preparation that took time its images are old.
    fn prepare(&mut self, job: &Job) -> bool {
        let Some(installed) = self.installed.as_mut() else { return false };
        let (generation, instruction) = &job.instruction;
        let same = installed.prepared.replace(*generation) == Some(*generation);
        if same && !installed.policy.prepares_for_state() {
            return true;
        }
        let started = self.clock.steady();
        self.shared.set_inference(Inference::Preparing { since: started });
        let state = job.state.as_ref().map(|state| state.values.clone());
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            let observation = grey(&installed.info, instruction, state)?;
            installed.policy.prepare_for(&observation).map_err(|error| error.to_string())
        }));
        match prepared {
            // An error will be that of the inference, too, where it is counted and reported.
            Ok(Ok(false) | Err(_)) => true,
            Ok(Ok(true)) => {
                let seconds = self.clock.steady().since(started).seconds();
                let _ = self.reports.try_send(WorkerReport::Prepared { seconds });
                self.shared.set_inference(Inference::Idle);
                false
            }
            Err(panic) => {
                self.shared.set_inference(Inference::Dead);
                let _ = self.reports.try_send(WorkerReport::Panicked(panic_text(panic.as_ref())));
                false
            }
        }
    }

    /// Decodes the images, runs the policy, and passes the result to control and to the executor.
    fn infer(&mut self, job: &Job) {
        let Some(installed) = self.installed.as_mut() else { return };
        let started = self.clock.steady();
        self.generation += 1;
        self.shared.set_inference(Inference::Busy { since: started });
        let steps_begun = installed.progress.begun_at(&self.shared.steps, job.image.seen.taken());
        let playback = installed.progress.playback(&self.shared.steps, steps_begun);
        let (shared, clock) = (&self.shared, &self.clock);
        let result = catch_unwind(AssertUnwindSafe(|| {
            // Cleared before the policy runs, whose duration does not matter here.
            let decodes = |camera: usize| {
                shared.decode_failed.fetch_and(!(1 << camera), Ordering::AcqRel);
            };
            let observation =
                installed.collector.observation(job, playback, decodes).map_err(Failure::Image)?;
            let decoded = clock.steady();
            let decision = installed.policy.act(&observation).map_err(Failure::Policy)?;
            Ok::<_, Failure>((decoded, decision))
        }));
        installed.progress.inferred(self.clock.steady().since(started).seconds());
        let (instruction_generation, instruction) = &job.instruction;
        let (taken, observation_spread) = installed.collector.taken(job);
        let origin = ChunkOrigin {
            generation: self.generation,
            instruction_generation: *instruction_generation,
            image_stamp: job.image.seen.stamp,
            image_taken: taken,
            inference_started: started,
            steps_begun_at_observation: steps_begun,
            observation_spread,
        };
        let report = match result {
            Ok(Ok((decoded, mut decision))) => {
                let milliseconds = decoded.since(started).seconds() * 1e3;
                decision.stages.insert(0, Stage { name: "image", milliseconds });
                self.decided(origin, instruction, decision, job)
            }
            Ok(Err(Failure::Image(undecodable))) => Some(self.undecodable(undecodable)),
            Ok(Err(Failure::Policy(error))) => {
                if matches!(error, PolicyError::Remote(_)) {
                    installed.progress.forget();
                }
                self.refused(error);
                None
            }
            Err(panic) => {
                self.shared.set_inference(Inference::Dead);
                let _ = self.reports.try_send(WorkerReport::Panicked(panic_text(panic.as_ref())));
                return;
            }
        };
        // If the queue is full, the executor thread gets a newer report later.
        if let Some(report) = report {
            let _ = self.reports.try_send(report);
        }
        self.shared.set_inference(Inference::Idle);
    }

    /// Passes a decision to control as a chunk.
    fn decided(
        &mut self,
        origin: ChunkOrigin,
        instruction: &Arc<Instruction>,
        decision: Decision,
        job: &Job,
    ) -> Option<WorkerReport> {
        let installed = self.installed.as_mut()?;
        let finished = self.clock.steady();
        let joints = job.state.as_ref().map_or(&[][..], |state| &state.joints);
        let hz = installed.policy_hz;
        let stages = decision.stages.iter().map(|stage| (stage.name, stage.milliseconds * 1e-3));
        match installed.transform.chunk(origin, hz, &decision.actions, joints) {
            Ok(chunk) => {
                let chunk = chunk.with_stages(StageTimes::new(stages));
                installed.progress.decided(&self.shared.steps, &origin);
                drop(self.shared.chunks_to_free.take());
                self.shared.chunks.put(chunk);
                self.shared.set_unable(false);
                Some(WorkerReport::Decided(Box::new(DecisionReport {
                    origin,
                    instruction: Arc::clone(instruction),
                    decision,
                    policy_hz: installed.policy_hz,
                    latency_s: Some(self.clock.ros().seconds_since(origin.image_stamp))
                        .filter(|s| 0.0 <= *s)
                        .unwrap_or(f64::NAN),
                    inference_s: finished.since(origin.inference_started).seconds(),
                    info: Arc::clone(&installed.info),
                    draft: installed.policy.draft_counts(),
                })))
            }
            Err(text) => {
                self.shared.fail(PolicyFailure::Refused);
                Some(WorkerReport::Refused { text, non_action: false, remote: None })
            }
        }
    }

    /// Not a failure of the policy: the age of the last decodable image grows instead.
    fn undecodable(&self, (camera, error): Undecodable) -> WorkerReport {
        self.shared.decode_failed.fetch_or(1 << camera, Ordering::AcqRel);
        let unsupported = error.concerns_every_image();
        WorkerReport::ImageRefused { text: error.at(Place::Topic), unsupported, camera }
    }

    /// Reports an error of the policy, then fails: the executor has the reason before control's
    /// change of state.
    fn refused(&self, error: PolicyError) {
        let non_action = matches!(error, PolicyError::Codec(_) | PolicyError::EndedEarly { .. });
        let remote = match &error {
            PolicyError::Remote(RemoteError { fault, .. }) => Some(*fault),
            _ => None,
        };
        let text = error.to_string();
        let _ = self.reports.try_send(WorkerReport::Refused { text, non_action, remote });
        // A server that fails is unable until its next valid answer: in between nothing may be
        // enabled.
        match remote {
            Some(_) => self.shared.set_unable(true),
            None if error.is_not_finite() => self.shared.fail(PolicyFailure::NotFinite),
            None => self.shared.fail(PolicyFailure::Refused),
        }
    }
}

enum Failure {
    Image(Undecodable),
    Policy(PolicyError),
}

/// Grey images, with a state or zeros.
fn grey(
    info: &PolicyInfo,
    instruction: &Instruction,
    state: Option<Vec<f64>>,
) -> Result<Observation, String> {
    let image =
        RgbImage::new(224, 224, vec![128; 224 * 224 * 3]).map_err(|error| error.to_string())?;
    let grey = Observation::uniform(&image, instruction, &info.cameras, info.state_dim);
    Ok(Observation { state: state.unwrap_or_else(|| grey.state.clone()), ..grey })
}

/// Runs the policy on grey images and a state of zeros, and measures its duration.
///
/// No action from a grey image is only a remark, as there is nothing to act upon. Numbers that are
/// not finite are an error, and so are steps of another width than the transform takes.
fn self_test(
    policy: &mut dyn Policy,
    width: Option<usize>,
    clock: &dyn Clock,
) -> Result<Loaded, String> {
    let (info, seed) = (policy.info().clone(), policy.next_seed());
    if let Some(width) = width
        && info.action_dim != width
    {
        return Err(format!(
            "actions of '{}' have {} numbers, but without a policy file of joints this node drives \
            an end effector with {width} (dx dy dz droll dpitch dyaw gripper); choose another \
            unnorm_key or name the policy file",
            info.unnorm_key, info.action_dim
        ));
    }
    let instruction = Instruction::new("pick up the block").map_err(|error| error.to_string())?;
    let observation = grey(&info, &instruction, None)?;
    let (mut inference_s, mut remark) = (0.0_f64, None);
    for run in 0..=SELF_TEST_RUNS {
        let started = clock.steady();
        match policy.act(&observation) {
            Ok(decision) if decision.actions.iter().flatten().all(|value| value.is_finite()) => {}
            Ok(_) => {
                return Err(
                    "the self-test's action is not finite; the checkpoint or the number format is \
                    broken"
                        .into(),
                );
            }
            Err(
                error @ (PolicyError::Codec(_)
                | PolicyError::EndedEarly { .. }
                | PolicyError::Remote(RemoteError { out_of_bounds: true, .. })
                | PolicyError::Script(ScriptError::Instruction { .. })),
            ) => remark = Some(error.to_string()),
            Err(error) => return Err(format!("the self-test failed: {error}")),
        }
        if run > 0 {
            inference_s = inference_s.max(clock.steady().since(started).seconds());
        }
    }
    Ok(Loaded { info, inference_s, remark, seed, origin: policy.origin() })
}

/// Message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".into())
}
