//! The inference worker: one thread that owns the policy, and nothing that anybody waits for.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, Sender, SyncSender},
    },
    time::Duration,
};

use super::{camera::CameraImage, inference_rate::Pace, os, shared_state::Desk};
use vla_control::action_chunk::{ActionChunk, ChunkOrigin, ChunkStep};
use vla_control::time::Clock;
use vla_control::{Inference, PolicyFailure};
use vla_inference::observation::{ImageError, RgbImage};
use vla_inference::policy::{
    Decision, DraftCounts, Instruction, Policy, PolicyError, PolicyInfo, Stage,
};

/// How many numbers a step of an end-effector policy has: `dx dy dz droll dpitch dyaw gripper`.
pub const STEP_WIDTH: usize = 7;
/// Inferences of the self-test; the first is not measured: it touches every weight for the first
/// time.
const SELF_TEST_RUNS: u32 = 3;

/// Makes a policy. Runs on the worker's thread, so that threads the policy starts inherit its
/// priority.
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Policy>, String> + Send>;

/// How a step's numbers, in the checkpoint's units, become metres and radians.
pub type Meaning = Arc<dyn Fn([f64; STEP_WIDTH]) -> ChunkStep + Send + Sync>;

/// What the worker is asked to do, besides inferring.
pub(super) enum Order {
    Load {
        loader: Loader,
        meaning: Meaning,
        policy_hz: f64,
        rate_limit_hz: f64,
        reply: Sender<Result<Loaded, String>>,
    },
    Unload {
        reply: Sender<()>,
    },
    Stop,
}

/// A policy that was loaded and answered the self-test.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it is.
    pub info: PolicyInfo,
    /// The longest of the measured self-test inferences, seconds.
    pub inference_s: f64,
    /// What the self-test found worth saying, e.g. that a plain grey image gave no action.
    pub remark: Option<String>,
}

/// What the worker tells the spinning side. Newest-wins would lose the reason of a failure, so this
/// is a bounded queue; what does not fit is counted.
#[derive(Debug)]
pub enum Report {
    /// An inference ended well.
    Decided(Box<DecisionReport>),
    /// An inference ended with an error.
    Refused {
        /// One line for the operator.
        text: String,
        /// Whether a token that stands for no action was the reason.
        non_action: bool,
    },
    /// An image could not be used.
    ImageRefused {
        /// One line for the operator.
        text: String,
        /// Whether the image is well-formed but of a kind that is not handled.
        unsupported: bool,
    },
    /// The policy panicked; it will not be asked again.
    Died(String),
}

/// A decision with everything `~/action` says about it.
#[derive(Debug)]
pub struct DecisionReport {
    /// What it was taken from.
    pub origin: ChunkOrigin,
    /// The instruction asked.
    pub instruction: Arc<Instruction>,
    /// The decision; its stages begin with `image`, the decoding.
    pub decision: Decision,
    /// Actions per second this policy was trained for.
    pub policy_hz: f64,
    /// From the image's stamp to the decision, seconds in ROS time; NaN when the stamp lies ahead.
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
    meaning: Meaning,
    policy_hz: f64,
}

pub(super) struct Worker {
    pub desk: Arc<Desk>,
    pub clock: Arc<dyn Clock>,
    pub orders: Receiver<Order>,
    pub reports: SyncSender<Report>,
    pub niceness: i32,
    installed: Option<Installed>,
    pace: Pace,
    generation: u64,
}

impl Worker {
    pub fn new(
        desk: Arc<Desk>,
        clock: Arc<dyn Clock>,
        orders: Receiver<Order>,
        reports: SyncSender<Report>,
        niceness: i32,
    ) -> Self {
        Self {
            desk,
            clock,
            orders,
            reports,
            niceness,
            installed: None,
            pace: Pace::new(0.0),
            generation: 0,
        }
    }

    pub fn run(mut self) {
        os::step_back(self.niceness);
        loop {
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Load { loader, meaning, policy_hz, rate_limit_hz, reply } => {
                        let loaded = self.load(loader, meaning, policy_hz, rate_limit_hz);
                        if reply.send(loaded).is_err() {
                            // Who asked has given up: a policy that nobody knows of must not stay.
                            self.unload();
                        }
                    }
                    Order::Unload { reply } => {
                        self.unload();
                        let _ = reply.send(());
                    }
                    Order::Stop => return,
                }
            }
            let now = self.clock.steady();
            let wait = self.pace.wait(now, &self.desk.arrivals);
            if wait.is_zero()
                && let Some((image, instruction)) = self.next_job()
            {
                self.pace.began(now);
                self.infer(&image, &instruction);
                continue;
            }
            // Without something to wait for only the bell wakes the worker; the second is for
            // safety's sake.
            self.desk.bell.wait(if wait.is_zero() { Duration::from_secs(1) } else { wait });
        }
    }

    fn next_job(&self) -> Option<Job> {
        if self.installed.is_none()
            || !self.desk.active.load(Ordering::Acquire)
            || self.desk.inference() == Inference::Dead
        {
            return None;
        }
        let instruction = self.desk.instruction()?;
        Some((self.desk.images.take()?, instruction))
    }

    fn load(
        &mut self,
        loader: Loader,
        meaning: Meaning,
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
            Some(Installed { policy, info: Arc::new(loaded.info.clone()), meaning, policy_hz });
        self.pace = Pace::new(rate_limit_hz);
        self.desk.set_inference(Inference::Idle);
        Ok(loaded)
    }

    fn unload(&mut self) {
        if let Some(installed) = self.installed.take() {
            // A policy that panicked may panic again while it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(installed)));
        }
        drop((self.desk.chunks.take(), self.desk.spent.take(), self.desk.images.take()));
        self.desk.blind.store(false, Ordering::Release);
        self.desk.set_inference(Inference::Idle);
    }

    fn infer(
        &mut self,
        image: &CameraImage,
        (instruction_generation, instruction): &(u64, Arc<Instruction>),
    ) {
        let Some(installed) = self.installed.as_mut() else { return };
        let started = self.clock.steady();
        self.generation += 1;
        self.desk.set_inference(Inference::Busy { since: started });
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let rgb = image.bytes.decode().map_err(Failure::Image)?;
            let decoded = self.clock.steady();
            // The camera is fit again, however long the policy takes now.
            self.desk.blind.store(false, Ordering::Release);
            let decision = installed.policy.act(&rgb, instruction).map_err(Failure::Policy)?;
            Ok::<_, Failure>((decoded, decision))
        }));
        let finished = self.clock.steady();
        let origin = ChunkOrigin {
            generation: self.generation,
            instruction_generation: *instruction_generation,
            image_stamp: image.seen.stamp,
            image_taken: image.seen.taken(),
            inference_started: started,
            steps_begun_at_observation: image.steps_begun,
        };
        let report = match answer {
            Ok(Ok((decoded, mut decision))) => {
                let milliseconds = decoded.since(started).seconds() * 1e3;
                decision.stages.insert(0, Stage { name: "image", milliseconds });
                match chunk(origin, installed.policy_hz, &installed.meaning, &decision.action) {
                    Ok(chunk) => {
                        drop(self.desk.spent.take());
                        self.desk.chunks.put(chunk);
                        Report::Decided(Box::new(DecisionReport {
                            origin,
                            instruction: Arc::clone(instruction),
                            decision,
                            policy_hz: installed.policy_hz,
                            latency_s: Some(self.clock.ros().seconds_since(image.seen.stamp))
                                .filter(|s| 0.0 <= *s)
                                .unwrap_or(f64::NAN),
                            inference_s: finished.since(started).seconds(),
                            info: Arc::clone(&installed.info),
                            draft: installed.policy.draft_counts(),
                        }))
                    }
                    Err(error) => {
                        self.desk.fail(PolicyFailure::Refused);
                        Report::Refused { text: error, non_action: false }
                    }
                }
            }
            Ok(Err(Failure::Image(error))) => {
                // No failure of the policy: control goes on with the age of the last image it was
                // shown.
                self.desk.blind.store(true, Ordering::Release);
                let unsupported = matches!(
                    error,
                    ImageError::Encoding(_) | ImageError::Format(_) | ImageError::Side { .. }
                );
                Report::ImageRefused { text: error.to_string(), unsupported }
            }
            Ok(Err(Failure::Policy(error))) => {
                self.desk.fail(if error.is_not_finite() {
                    PolicyFailure::NotFinite
                } else {
                    PolicyFailure::Refused
                });
                let non_action =
                    matches!(error, PolicyError::Codec(_) | PolicyError::EndedEarly { .. });
                Report::Refused { text: error.to_string(), non_action }
            }
            Err(panic) => {
                self.desk.set_inference(Inference::Dead);
                let _ = self.reports.try_send(Report::Died(panic_text(panic.as_ref())));
                return;
            }
        };
        // full: the spinning side is behind, and will get a newer one
        let _ = self.reports.try_send(report);
        self.desk.set_inference(Inference::Idle);
    }
}

enum Failure {
    Image(ImageError),
    Policy(PolicyError),
}

/// A decision's numbers as a chunk. NaN passes: control must see it to latch.
fn chunk(
    origin: ChunkOrigin,
    policy_hz: f64,
    meaning: &Meaning,
    action: &[f64],
) -> Result<ActionChunk, String> {
    if action.is_empty() || !action.len().is_multiple_of(STEP_WIDTH) {
        return Err(format!(
            "the policy returned {} numbers, which are not steps of {STEP_WIDTH}",
            action.len()
        ));
    }
    let steps: Vec<ChunkStep> = action
        .chunks_exact(STEP_WIDTH)
        .map(|step| {
            let mut numbers = [0.0; STEP_WIDTH];
            numbers.copy_from_slice(step);
            meaning(numbers)
        })
        .collect();
    ActionChunk::new(origin, policy_hz, steps).map_err(|error| error.to_string())
}

/// Asks the policy about a grey image: does it answer, and how long does that take?
///
/// That a grey image leads to no action is not held against it (a sentence about nothing may have
/// no continuation); a number that is not finite is, and so is an action a twist cannot be made of.
fn self_test(policy: &mut dyn Policy, clock: &dyn Clock) -> Result<Loaded, String> {
    let info = policy.info().clone();
    if !info.action_dim.is_multiple_of(STEP_WIDTH) || info.action_dim == 0 {
        return Err(format!(
            "actions of '{}' have {} numbers, but this node drives an end effector with \
            {STEP_WIDTH} (dx dy dz droll dpitch dyaw gripper); choose another unnorm_key",
            info.unnorm_key, info.action_dim
        ));
    }
    let image =
        RgbImage::new(224, 224, vec![128; 224 * 224 * 3]).map_err(|error| error.to_string())?;
    let instruction = Instruction::new("pick up the block").map_err(|error| error.to_string())?;
    let (mut inference_s, mut remark) = (0.0_f64, None);
    for run in 0..=SELF_TEST_RUNS {
        let started = clock.steady();
        match policy.act(&image, &instruction) {
            Ok(decision) if decision.action.iter().all(|value| value.is_finite()) => {}
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

/// The message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".into())
}
