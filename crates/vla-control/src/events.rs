//! Events of one control step, for logs, counters and `~/status`.

use super::{
    outputs::State,
    reason::{Cause, Reason},
};

/// Why a chunk was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It contains a number that is not finite.
    NotFinite,
    /// It answers an earlier instruction.
    OldInstruction,
    /// A newer chunk was accepted before.
    OutOfOrder,
    /// Inference exceeded its deadline.
    LateResult,
    /// Its image was too old, or captured before motion was allowed.
    OldObservation,
    /// All of its steps are in the past.
    Exhausted,
    /// Motion is not allowed.
    NotAllowed,
    /// It is in another action space, or for another number of joints or grippers, than
    /// configured.
    OtherSpace,
}

/// Result of a reset request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResetOutcome {
    /// The latch is open. Motion must be enabled again.
    Done,
    /// There was no latch. Nothing changed.
    NotLatched,
    /// The cause is still present.
    CauseRemains(Cause),
    /// The robot is not at rest yet.
    StillMoving,
    /// Too soon after the latch, or after its cause went away.
    TooSoon {
        /// Seconds left to wait.
        remaining_s: f64,
    },
}

/// Result of an enable request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EnableOutcome {
    /// Motion is enabled and begins with the next action.
    Enabled,
    /// Motion is disabled, as requested.
    Disabled,
    /// The request to enable was refused for this cause, and motion is not enabled now.
    Refused(Cause),
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The state changed.
    StateChanged {
        /// Before.
        from: State,
        /// After.
        to: State,
        /// Cause of the new state.
        cause: Cause,
    },
    /// The cause changed while the state stayed the same. At most one `StateChanged` or
    /// `CauseChanged` per step; together they are the complete history of
    /// [`Output::state`](crate::Output::state) and, of `Output::cause`, the reason, its source and
    /// the reason for a withdrawal.
    CauseChanged {
        /// The present state.
        state: State,
        /// The new cause.
        cause: Cause,
    },
    /// Motion had been enabled and is not any more: a hold lasted for `rearm_window_s`, or a
    /// further request to enable was refused. `~/enable` must be called again.
    EnableWithdrawn {
        /// The cause that began the hold, or for which the request was refused.
        cause: Cause,
    },
    /// A chunk was accepted and starts at `first_step`.
    ChunkTaken {
        /// Its generation.
        generation: u64,
        /// Index of the first step that will be executed: above zero when steps of the older chunk
        /// were executed since its image.
        first_step: u32,
    },
    /// A chunk was refused.
    ChunkRefused {
        /// Its generation.
        generation: u64,
        /// The reason.
        why: Refusal,
    },
    /// A fault interrupted motion; `count` faults are within the window now.
    FaultRaised {
        /// The fault.
        cause: Cause,
        /// Number of faults within the window, this one included.
        count: u32,
    },
    /// A latch closed.
    Latched {
        /// The cause.
        cause: Cause,
    },
    /// A reset was requested.
    Reset(ResetOutcome),
    /// The robot came to rest after a stop that began `after_s` ago.
    CameToRest {
        /// Seconds from the step that detected the cause to the first zero command.
        after_s: f64,
    },
    /// The interval between two steps exceeded its limit.
    Overrun {
        /// Seconds between the two.
        interval_s: f64,
    },
    /// A detector fired; reported only, motion is not affected.
    Detected(Cause),
    /// The condition of a detector no longer holds.
    DetectionCleared(Reason),
    /// A gripper command changed between open and closed. A continuous gripper emits none.
    Gripper {
        /// Index of the gripper.
        index: u8,
        /// 0 closed, 1 open.
        to: f64,
    },
}

/// Capacity of [`Events`]; further events of the same step are counted, not kept. A step emits at
/// most 20.
pub const EVENTS_MAX: usize = 24;

/// The events of one step, in a fixed array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Events {
    list: [Option<Event>; EVENTS_MAX],
    len: usize,
    lost: u32,
}

impl Default for Events {
    fn default() -> Self {
        Self { list: [None; EVENTS_MAX], len: 0, lost: 0 }
    }
}

impl Events {
    /// In the order of occurrence.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.list.iter().flatten()
    }

    /// Number of events that exceeded the capacity.
    #[must_use]
    pub const fn lost(&self) -> u32 {
        self.lost
    }

    /// Whether there is no event.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, event: Event) {
        if let Some(slot) = self.list.get_mut(self.len) {
            *slot = Some(event);
            self.len += 1;
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_capacity_are_counted() {
        let mut events = Events::default();
        assert!(events.is_empty() && events.iter().next().is_none());
        for i in 0..EVENTS_MAX + 3 {
            assert_eq!(events.lost(), i.saturating_sub(EVENTS_MAX) as u32);
            events.push(Event::Gripper { index: 0, to: i as f64 });
            assert!(!events.is_empty());
        }
        assert_eq!(events.lost(), 3);
        let kept: Vec<f64> = events
            .iter()
            .map(|event| if let Event::Gripper { to, .. } = event { *to } else { -1.0 })
            .collect();
        assert_eq!(kept, (0..EVENTS_MAX).map(|i| i as f64).collect::<Vec<_>>());
        assert_ne!(
            Event::DetectionCleared(Reason::Stuck),
            Event::DetectionCleared(Reason::ConstantAction)
        );
    }
}
