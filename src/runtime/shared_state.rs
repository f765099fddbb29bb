//! What the spinning side, the inference worker and the control loop hand to each other.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use super::{
    camera::CameraImage,
    inference_rate::Arrivals,
    mailbox::{Bell, Mailbox},
};
use vla_control::action_chunk::ActionChunk;
use vla_control::time::Instant;
use vla_control::{
    ControlState, ImageSeen, Inference, Lifecycle, PolicyFailure, PoseSeen, Requests,
};
use vla_inference::policy::Instruction;

/// What control must see in every step, written by the spinning side alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    /// Counts writings, so that a reader can say which one it acted upon.
    pub serial: u64,
    pub lifecycle: Lifecycle,
    pub instruction: Option<u64>,
    pub image: Option<ImageSeen>,
    pub ee_pose: Option<PoseSeen>,
    pub subscribed: bool,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            serial: 0,
            lifecycle: Lifecycle::Unconfigured,
            instruction: None,
            image: None,
            ee_pose: None,
            subscribed: true,
        }
    }
}

/// Requests that control has not seen yet, and the number of the last of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub ticket: u64,
    pub requests: Requests,
}

/// The instruction in force and its generation.
pub(super) type Told = Option<(u64, Arc<Instruction>)>;

/// Everything is either newest-wins and lock-free, or (the instruction and the bell) between the
/// spinning side and the worker only.
#[derive(Default)]
pub(super) struct Desk {
    /// Spinning side -> worker.
    pub images: Mailbox<CameraImage>,
    /// Spinning side -> worker: when they arrived.
    pub arrivals: Arrivals,
    /// Spinning side -> worker.
    instruction: Mutex<Told>,
    /// Spinning side -> worker: whether to infer at all.
    pub active: AtomicBool,
    /// Rung when the worker has something to do.
    pub bell: Bell,
    /// Worker -> control.
    pub chunks: Mailbox<ActionChunk>,
    /// Control -> worker: chunks to be freed, so that control frees nothing.
    pub spent: Mailbox<ActionChunk>,
    /// Worker -> control.
    failure: AtomicU8,
    /// Worker -> control: 0 idle, `DEAD`, else the start of the inference plus one.
    inference: AtomicU64,
    /// Worker -> control: the last image could not be decoded.
    pub blind: AtomicBool,
    /// Spinning side -> control.
    pub asked: Mailbox<Asked>,
    /// Spinning side -> control: a new configuration.
    pub control: Mailbox<ControlState>,
    /// Control -> spinning side: the state it had before, to be freed.
    pub retired: Mailbox<ControlState>,
    /// Control -> spinning side: policy steps begun so far.
    pub steps_begun: AtomicU64,
    /// Whether the control loop shall end.
    pub stop: AtomicBool,
}

const DEAD: u64 = u64::MAX;

impl Desk {
    pub fn instruction(&self) -> Told {
        self.instruction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_instruction(&self, told: Told) {
        *self.instruction.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Notes a failure; the worst since control last looked stays.
    pub fn fail(&self, failure: PolicyFailure) {
        let code = match failure {
            PolicyFailure::Refused => 1,
            PolicyFailure::NotFinite => 2,
        };
        self.failure.fetch_max(code, Ordering::AcqRel);
    }

    /// The worst failure since the last call.
    pub fn take_failure(&self) -> Option<PolicyFailure> {
        match self.failure.swap(0, Ordering::AcqRel) {
            0 => None,
            1 => Some(PolicyFailure::Refused),
            _ => Some(PolicyFailure::NotFinite),
        }
    }

    pub fn set_inference(&self, inference: Inference) {
        let code = match inference {
            Inference::Idle => 0,
            Inference::Busy { since } => since.nanoseconds().saturating_add(1).min(DEAD - 1),
            Inference::Dead => DEAD,
        };
        self.inference.store(code, Ordering::Release);
    }

    pub fn inference(&self) -> Inference {
        match self.inference.load(Ordering::Acquire) {
            0 => Inference::Idle,
            DEAD => Inference::Dead,
            since => Inference::Busy { since: Instant::from_nanoseconds(since - 1) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_failure_wins_and_is_told_once() {
        let desk = Desk::default();
        desk.fail(PolicyFailure::NotFinite);
        desk.fail(PolicyFailure::Refused);
        assert_eq!(desk.take_failure(), Some(PolicyFailure::NotFinite));
        assert_eq!(desk.take_failure(), None);
        desk.fail(PolicyFailure::Refused);
        assert_eq!(desk.take_failure(), Some(PolicyFailure::Refused));
    }

    #[test]
    fn what_the_worker_does_survives_its_encoding() {
        let desk = Desk::default();
        for inference in [
            Inference::Idle,
            Inference::Dead,
            Inference::Busy { since: Instant::START },
            Inference::Busy { since: Instant::from_nanoseconds(77) },
        ] {
            desk.set_inference(inference);
            assert_eq!(desk.inference(), inference);
        }
    }
}
