//! State shared by the executor thread, the inference worker and the control loop.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use super::{
    camera::CameraImage, inference_rate::Arrivals, mailbox::Mailbox, observation::StateSample,
    step_times::StepTimes,
};
use vla_control::action_chunk::ActionChunk;
use vla_control::time::Instant;
use vla_control::{
    CAMERAS_MAX, ControlState, ImageSeen, Inference, JointsSeen, Lifecycle, PolicyFailure,
    PoseSeen, Requests, STATE_SOURCES_MAX, StateSeen,
};
use vla_inference::policy::Instruction;

/// Level-triggered inputs of the control step. Written by the executor thread only.
#[derive(Debug, Clone, Copy)]
pub(super) struct LatestInputs {
    /// Incremented with every write; a [`super::Snapshot`] names the write it was computed from.
    pub serial: u64,
    pub lifecycle: Lifecycle,
    pub instruction: Option<u64>,
    pub images: [Option<ImageSeen>; CAMERAS_MAX],
    pub states: [Option<StateSeen>; STATE_SOURCES_MAX],
    pub joints: Option<JointsSeen>,
    pub ee_pose: Option<PoseSeen>,
    pub subscribed: bool,
}

impl Default for LatestInputs {
    fn default() -> Self {
        Self {
            serial: 0,
            lifecycle: Lifecycle::Unconfigured,
            instruction: None,
            images: [None; CAMERAS_MAX],
            states: [None; STATE_SOURCES_MAX],
            joints: None,
            ee_pose: None,
            subscribed: true,
        }
    }
}

/// Requests not yet processed by control, and the ticket of the newest of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PendingRequests {
    pub ticket: u64,
    pub requests: Requests,
}

/// The instruction in force and its generation.
pub(super) type CurrentInstruction = Option<(u64, Arc<Instruction>)>;

/// Each field is newest-wins and lock-free, except the instruction and the state: their mutexes are
/// shared by the executor thread and the worker only, never by the control loop.
#[derive(Default)]
pub(super) struct SharedState {
    /// Executor -> worker, by camera.
    pub images: [Mailbox<CameraImage>; CAMERAS_MAX],
    /// Executor -> worker: the policy's state; `None` while a value of it is unknown.
    state: Mutex<Option<Arc<StateSample>>>,
    /// Executor -> worker: arrival times of the first camera's images.
    pub arrivals: Arrivals,
    /// Executor -> worker.
    instruction: Mutex<CurrentInstruction>,
    /// Executor -> worker: whether to infer at all.
    pub active: AtomicBool,
    /// Worker -> control.
    pub chunks: Mailbox<ActionChunk>,
    /// Control -> worker: chunks for the worker to drop, so that control never frees memory.
    pub chunks_to_free: Mailbox<ActionChunk>,
    /// Worker -> control: code of a [`PolicyFailure`], 0 for none.
    failure: AtomicU8,
    /// Worker -> control: the policy cannot decide, from a failure to the next decision.
    unable: AtomicBool,
    /// Worker -> control: 0 idle, `DEAD`, else the start of the inference plus one, or of a
    /// preparation with the bit `PREPARING`.
    inference: AtomicU64,
    /// Worker -> control: a bit for each camera whose last image could not be decoded.
    pub decode_failed: AtomicU8,
    /// Executor -> control.
    pub pending_requests: Mailbox<PendingRequests>,
    /// Executor -> control: a state made from a new configuration.
    pub new_state: Mailbox<ControlState>,
    /// Control -> executor: replaced states for the executor to drop.
    pub states_to_free: Mailbox<ControlState>,
    /// Control -> worker: policy steps begun so far.
    pub steps: StepTimes,
    /// Ends the control loop.
    pub stop: AtomicBool,
}

const DEAD: u64 = u64::MAX;
/// The clock reaches this bit after 292 years.
const PREPARING: u64 = 1 << 63;

impl SharedState {
    pub fn instruction(&self) -> CurrentInstruction {
        self.instruction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_instruction(&self, instruction: CurrentInstruction) {
        *self.instruction.lock().unwrap_or_else(PoisonError::into_inner) = instruction;
    }

    pub fn state(&self) -> Option<Arc<StateSample>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_state(&self, state: Option<Arc<StateSample>>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Records a failure; of several between two control steps the worst is kept.
    pub fn fail(&self, failure: PolicyFailure) {
        let code = match failure {
            PolicyFailure::Refused => 1,
            PolicyFailure::NotFinite => 2,
        };
        self.failure.fetch_max(code, Ordering::AcqRel);
    }

    /// Sets whether the policy cannot decide: a failure in every step of control, until it can.
    pub fn set_unable(&self, unable: bool) {
        self.unable.store(unable, Ordering::Release);
    }

    /// The worst failure since the last call.
    pub fn take_failure(&self) -> Option<PolicyFailure> {
        let lasting = u8::from(self.unable.load(Ordering::Acquire));
        match self.failure.swap(0, Ordering::AcqRel).max(lasting) {
            0 => None,
            1 => Some(PolicyFailure::Refused),
            _ => Some(PolicyFailure::NotFinite),
        }
    }

    pub fn set_inference(&self, inference: Inference) {
        let begun = |since: Instant| since.nanoseconds().saturating_add(1).min(PREPARING - 2);
        let code = match inference {
            Inference::Idle => 0,
            Inference::Busy { since } => begun(since),
            Inference::Preparing { since } => PREPARING | begun(since),
            Inference::Dead => DEAD,
        };
        self.inference.store(code, Ordering::Release);
    }

    pub fn inference(&self) -> Inference {
        match self.inference.load(Ordering::Acquire) {
            0 => Inference::Idle,
            DEAD => Inference::Dead,
            code => {
                let since = Instant::from_nanoseconds((code & !PREPARING) - 1);
                match code & PREPARING {
                    0 => Inference::Busy { since },
                    _ => Inference::Preparing { since },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_failure_is_returned_once() {
        let shared = SharedState::default();
        shared.fail(PolicyFailure::NotFinite);
        shared.fail(PolicyFailure::Refused);
        assert_eq!(shared.take_failure(), Some(PolicyFailure::NotFinite));
        assert_eq!(shared.take_failure(), None);
        shared.fail(PolicyFailure::Refused);
        assert_eq!(shared.take_failure(), Some(PolicyFailure::Refused));
    }

    #[test]
    fn inability_lasts() {
        let shared = SharedState::default();
        shared.set_unable(true);
        shared.fail(PolicyFailure::NotFinite);
        let expected = [PolicyFailure::NotFinite, PolicyFailure::Refused, PolicyFailure::Refused];
        assert_eq!([(); 3].map(|()| shared.take_failure()), expected.map(Some));
        shared.set_unable(false);
        assert_eq!(shared.take_failure(), None);
    }

    #[test]
    fn inference_state_survives_its_encoding() {
        let shared = SharedState::default();
        for inference in [
            Inference::Idle,
            Inference::Dead,
            Inference::Busy { since: Instant::START },
            Inference::Busy { since: Instant::from_nanoseconds(77) },
            Inference::Preparing { since: Instant::START },
            Inference::Preparing { since: Instant::from_nanoseconds(77) },
        ] {
            shared.set_inference(inference);
            assert_eq!(shared.inference(), inference);
        }
    }
}
