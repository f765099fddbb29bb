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
    camera::CameraImage, inference_rate::InferenceRateLimiter, os, shared_state::SharedState,
};
use vla_control::action_chunk::{ActionChunk, ChunkOrigin, ChunkStep};
use vla_control::time::Clock;
use vla_control::{Inference, PolicyFailure};
use vla_inference::observation::{ImageError, Observation, RgbImage};
use vla_inference::policy::{
    Decision, DraftCounts, Instruction, Policy, PolicyError, PolicyInfo, Stage,
};

/// Numbers per step of an end-effector policy: `dx dy dz droll dpitch dyaw gripper`.
pub const STEP_WIDTH: usize = 7;
/// Measured inferences of the self-test. One more precedes them: it touches every weight for the
/// first time and is not measured.
const SELF_TEST_RUNS: u32 = 3;

/// Loads a policy. Runs on the worker's thread, so that threads started by the policy inherit its
/// priority.
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Policy>, String> + Send>;

/// Converts a step's numbers from the checkpoint's units to metres and radians.
pub type ActionTransform = Arc<dyn Fn([f64; STEP_WIDTH]) -> ChunkStep + Send + Sync>;

/// Commands to the worker.
pub(super) enum WorkerCommand {
    Load {
        loader: Loader,
        transform: ActionTransform,
        policy_hz: f64,
        rate_limit_hz: f64,
        reply: Sender<Result<Loaded, String>>,
    },
    Unload {
        reply: Sender<()>,
    },
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
    },
    /// An image could not be used.
    ImageRefused {
        /// One line for the operator.
        text: String,
        /// Whether the image is well-formed, but of an unsupported encoding or size.
        unsupported: bool,
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

/// An image and the instruction in force, with its generation.
type Job = (Box<CameraImage>, (u64, Arc<Instruction>));

struct Installed {
    policy: Box<dyn Policy>,
    info: Arc<PolicyInfo>,
    transform: ActionTransform,
    policy_hz: f64,
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
                    WorkerCommand::Load { loader, transform, policy_hz, rate_limit_hz, reply } => {
                        let loaded = self.load(loader, transform, policy_hz, rate_limit_hz);
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
            let now = self.clock.steady();
            let wait = self.rate_limiter.wait(now, &self.shared.arrivals);
            if wait.is_zero()
                && let Some((image, instruction)) = self.next_job()
            {
                self.rate_limiter.began(now);
                self.infer(&image, &instruction);
                continue;
            }
            // Woken by `Runtime::wake_worker`; the timeout of a second is a precaution.
            thread::park_timeout(if wait.is_zero() { Duration::from_secs(1) } else { wait });
        }
    }

    fn next_job(&self) -> Option<Job> {
        if self.installed.is_none()
            || !self.shared.active.load(Ordering::Acquire)
            || self.shared.inference() == Inference::Dead
        {
            return None;
        }
        let instruction = self.shared.instruction()?;
        Some((self.shared.images.take()?, instruction))
    }

    fn load(
        &mut self,
        loader: Loader,
        transform: ActionTransform,
        policy_hz: f64,
        rate_limit_hz: f64,
    ) -> Result<Loaded, String> {
        self.unload();
        let (policy, loaded) = catch_unwind(AssertUnwindSafe(|| {
            let mut policy = loader()?;
            let loaded = self_test(policy.as_mut(), self.clock.as_ref())?;
            Ok::<_, String>((policy, loaded))
        }))
        .unwrap_or_else(|panic| {
            Err(format!("loading the policy panicked: {}", panic_text(panic.as_ref())))
        })?;
        self.installed =
            Some(Installed { policy, info: Arc::new(loaded.info.clone()), transform, policy_hz });
        self.rate_limiter = InferenceRateLimiter::new(rate_limit_hz);
        self.shared.set_inference(Inference::Idle);
        Ok(loaded)
    }

    fn unload(&mut self) {
        if let Some(installed) = self.installed.take() {
            // A policy that panicked may panic again while it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(installed)));
        }
        drop((
            self.shared.chunks.take(),
            self.shared.chunks_to_free.take(),
            self.shared.images.take(),
        ));
        self.shared.decode_failed.store(false, Ordering::Release);
        self.shared.set_inference(Inference::Idle);
    }

    /// Decodes the image, runs the policy, and passes the result to control and to the executor.
    fn infer(
        &mut self,
        image: &CameraImage,
        (instruction_generation, instruction): &(u64, Arc<Instruction>),
    ) {
        let Some(installed) = self.installed.as_mut() else { return };
        let started = self.clock.steady();
        self.generation += 1;
        self.shared.set_inference(Inference::Busy { since: started });
        let result = catch_unwind(AssertUnwindSafe(|| {
            let rgb = image.bytes.decode().map_err(Failure::Image)?;
            let decoded = self.clock.steady();
            // Cleared before the policy runs, whose duration does not matter here.
            self.shared.decode_failed.store(false, Ordering::Release);
            let observation = Observation::single(&rgb, instruction);
            let decision = installed.policy.act(&observation).map_err(Failure::Policy)?;
            Ok::<_, Failure>((decoded, decision))
        }));
        let origin = ChunkOrigin {
            generation: self.generation,
            instruction_generation: *instruction_generation,
            image_stamp: image.seen.stamp,
            image_taken: image.seen.taken(),
            inference_started: started,
            steps_begun_at_observation: image.steps_begun,
            observation_spread: Duration::ZERO,
        };
        let report = match result {
            Ok(Ok((decoded, mut decision))) => {
                let milliseconds = decoded.since(started).seconds() * 1e3;
                decision.stages.insert(0, Stage { name: "image", milliseconds });
                self.decided(origin, instruction, decision)
            }
            Ok(Err(failure)) => Some(self.failed(failure)),
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
        &self,
        origin: ChunkOrigin,
        instruction: &Arc<Instruction>,
        decision: Decision,
    ) -> Option<WorkerReport> {
        let installed = self.installed.as_ref()?;
        let finished = self.clock.steady();
        match chunk(origin, installed.policy_hz, &installed.transform, &decision.actions) {
            Ok(chunk) => {
                drop(self.shared.chunks_to_free.take());
                self.shared.chunks.put(chunk);
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
                Some(WorkerReport::Refused { text, non_action: false })
            }
        }
    }

    fn failed(&self, failure: Failure) -> WorkerReport {
        match failure {
            Failure::Image(error) => {
                // Not a failure of the policy: the age of the last decodable image grows instead.
                self.shared.decode_failed.store(true, Ordering::Release);
                let unsupported = matches!(
                    error,
                    ImageError::Encoding(_) | ImageError::Format(_) | ImageError::Side { .. }
                );
                WorkerReport::ImageRefused { text: error.to_string(), unsupported }
            }
            Failure::Policy(error) => {
                self.shared.fail(if error.is_not_finite() {
                    PolicyFailure::NotFinite
                } else {
                    PolicyFailure::Refused
                });
                let non_action =
                    matches!(error, PolicyError::Codec(_) | PolicyError::EndedEarly { .. });
                WorkerReport::Refused { text: error.to_string(), non_action }
            }
        }
    }
}

enum Failure {
    Image(ImageError),
    Policy(PolicyError),
}

/// Converts a decision to a chunk. NaN is passed on: control latches on it.
fn chunk(
    origin: ChunkOrigin,
    policy_hz: f64,
    transform: &ActionTransform,
    actions: &[Vec<f64>],
) -> Result<ActionChunk, String> {
    let step = |action: &Vec<f64>| match <[f64; STEP_WIDTH]>::try_from(action.as_slice()) {
        Ok(numbers) => Ok(transform(numbers)),
        Err(_) => Err(format!(
            "the policy returned a step of {} numbers; this node drives an end effector with \
            {STEP_WIDTH}",
            action.len()
        )),
    };
    let steps = actions.iter().map(step).collect::<Result<Vec<ChunkStep>, _>>()?;
    ActionChunk::new(origin, policy_hz, steps).map_err(|error| error.to_string())
}

/// Runs the policy on a grey image and measures its duration.
///
/// No action from a grey image is only a remark, as there is nothing to act upon. Numbers that are
/// not finite are an error, and so are actions that are not end-effector steps.
fn self_test(policy: &mut dyn Policy, clock: &dyn Clock) -> Result<Loaded, String> {
    let info = policy.info().clone();
    if info.action_dim != STEP_WIDTH {
        return Err(format!(
            "actions of '{}' have {} numbers, but this node drives an end effector with \
            {STEP_WIDTH} (dx dy dz droll dpitch dyaw gripper); choose another unnorm_key",
            info.unnorm_key, info.action_dim
        ));
    }
    let image =
        RgbImage::new(224, 224, vec![128; 224 * 224 * 3]).map_err(|error| error.to_string())?;
    let instruction = Instruction::new("pick up the block").map_err(|error| error.to_string())?;
    let observation = Observation::single(&image, &instruction);
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
            Err(error @ (PolicyError::Codec(_) | PolicyError::EndedEarly { .. })) => {
                remark = Some(error.to_string())
            }
            Err(error) => return Err(format!("the self-test failed: {error}")),
        }
        if run > 0 {
            inference_s = inference_s.max(clock.steady().since(started).seconds());
        }
    }
    Ok(Loaded { info, inference_s, remark })
}

/// Message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".into())
}
