//! The state machine: gates, faults, latches, reset. It decides whether the robot may move; `step`
//! does the rest.
//!
//! ```text
//!                    enable(true)                fault                       clear for 0.5 s, at rest
//!   UNCONFIGURED     IDLE ----------> RUNNING ----------> HOLDING ----------------------> RUNNING
//!        |            ^  <----------     |                   |
//!    INACTIVE --------+  enable(false)   +-- third fault in 10 s, not finite --> FAULT ----+
//!        activate                        +-- e-stop (from any state) --------> ESTOPPED ---+-- reset --> IDLE, not enabled
//! ```

use super::{
    config::{ControlConfig, FAULTS_MAX},
    reason::{Cause, Class, Reason},
    types::{Event, Events, Inputs, Lifecycle, PolicyFailure, ResetOutcome, State},
};
use crate::time::Instant;
use std::time::Duration;

/// A closed latch.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Latch {
    cause: Cause,
    /// When its cause was last seen: e-stop pressed again, another number that is not finite.
    seen: Instant,
}

/// The machine's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    pub(super) state: State,
    pub(super) cause: Cause,
    enabled: bool,
    latch: Option<Latch>,
    /// When each of the last faults interrupted motion; a ring.
    faults: [Option<Instant>; FAULTS_MAX as usize],
    next_fault: usize,
    /// The last fault that interrupted motion, for the operator.
    pub(super) last_fault: Cause,
    /// Since when no watchdog has complained.
    clear_since: Option<Instant>,
    /// Whether the present hold began with a fault, so that it ends only at rest and after a time
    /// without cause.
    recovering: bool,
    /// When motion was last allowed, while it is.
    pub(super) running_since: Option<Instant>,
}

/// What the machine looks at in one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) now: Instant,
    /// The first complaint of the watchdogs.
    pub(super) complaint: Option<Cause>,
    /// A number that is not finite came in, in a chunk or as a policy failure.
    pub(super) not_finite: bool,
    /// Whether the last command was exactly zero.
    pub(super) at_rest: bool,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            state: State::Unconfigured,
            cause: Cause::plain(Reason::NotConfigured),
            enabled: false,
            latch: None,
            faults: [None; FAULTS_MAX as usize],
            next_fault: 0,
            last_fault: Cause::NONE,
            clear_since: None,
            recovering: false,
            running_since: None,
        }
    }

    /// Takes over a closed latch.
    pub(super) fn inherit(&mut self, old: &Self) {
        if old.latch.is_some() {
            (self.latch, self.state, self.cause, self.last_fault) =
                (old.latch, old.state, old.cause, old.last_fault);
        }
    }

    /// Decides the state. Returns what became of a reset request.
    pub(super) fn decide(
        &mut self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &Situation,
        events: &mut Events,
    ) -> Option<ResetOutcome> {
        match (at.complaint, self.clear_since) {
            (Some(_), _) => self.clear_since = None,
            (None, None) => self.clear_since = Some(at.now),
            (None, Some(_)) => {}
        }
        if inputs.requests.estop {
            self.latch(at.now, Cause::plain(Reason::Estop), events);
        }
        if inputs.lifecycle == Lifecycle::Active
            && (at.not_finite || inputs.policy_failure == Some(PolicyFailure::NotFinite))
        {
            self.latch(at.now, Cause::plain(Reason::NotFinite), events);
        }
        let reset = inputs.requests.reset.then(|| self.reset(config, inputs, at));
        if let Some(outcome) = reset {
            events.push(Event::Reset(outcome));
        }
        if inputs.lifecycle != Lifecycle::Active {
            self.enabled = false;
        } else if let Some(enable) = inputs.requests.enable {
            // After a reset motion must be asked for anew: an enable that came with it was meant
            // for another moment.
            self.enabled = enable && self.latch.is_none() && reset != Some(ResetOutcome::Done);
        }
        self.count_fault(config, at, events);
        let (state, cause) = self.place(config, inputs, at);
        self.enter(state, cause, at, events);
        reset
    }

    /// Where the machine belongs now.
    fn place(
        &mut self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &Situation,
    ) -> (State, Cause) {
        if let Some(latch) = self.latch {
            let state =
                if latch.cause.reason == Reason::Estop { State::Estopped } else { State::Fault };
            return (state, latch.cause);
        }
        match inputs.lifecycle {
            _ if inputs.lifecycle != Lifecycle::Active && !at.at_rest => {
                (State::Holding, Cause::plain(Reason::Deactivating))
            }
            Lifecycle::Unconfigured => (State::Unconfigured, Cause::plain(Reason::NotConfigured)),
            Lifecycle::Inactive => (State::Inactive, Cause::plain(Reason::NotActive)),
            Lifecycle::Active if !self.enabled => (State::Idle, Cause::plain(Reason::NotEnabled)),
            Lifecycle::Active => self.place_enabled(config, inputs, at),
        }
    }

    fn place_enabled(
        &self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &Situation,
    ) -> (State, Cause) {
        if let Some(complaint) = at.complaint {
            return (State::Holding, complaint);
        }
        if inputs.instruction.is_none() {
            return (State::Holding, Cause::plain(Reason::NoInstruction));
        }
        if self.recovering {
            let clear = self.clear_since.map_or(Duration::ZERO, |since| at.now.since(since).get());
            if !at.at_rest || clear < config.clear {
                return (
                    State::Holding,
                    Cause::seconds(
                        Reason::Recovering,
                        clear.as_secs_f64(),
                        config.clear.as_secs_f64(),
                    ),
                );
            }
        }
        (State::Running, if config.dry_run { Cause::plain(Reason::DryRun) } else { Cause::NONE })
    }

    /// A complaint while running is a fault; enough of them within the window latch.
    fn count_fault(&mut self, config: &ControlConfig, at: &Situation, events: &mut Events) {
        let Some(cause) = at.complaint else { return };
        if self.state != State::Running
            || self.latch.is_some()
            || !self.enabled
            || cause.reason.class() != Class::Fault
        {
            return;
        }
        self.faults[self.next_fault] = Some(at.now);
        self.next_fault = (self.next_fault + 1) % self.faults.len();
        self.last_fault = cause;
        self.recovering = true;
        let recent = |fault: &&Option<Instant>| {
            fault.is_some_and(|when| !at.now.since(when).exceeds(config.fault_window))
        };
        let count = self.faults.iter().filter(recent).count() as u32;
        events.push(Event::FaultRaised { cause, count });
        if config.faults_to_latch <= count {
            let limit = f64::from(config.faults_to_latch);
            self.latch(
                at.now,
                Cause {
                    reason: Reason::RepeatedFaults,
                    value: f64::from(count),
                    limit,
                    unit: "faults",
                },
                events,
            );
        }
    }

    /// Closes the latch, or notes that the cause was seen again. An e-stop takes the place of any
    /// other latch.
    fn latch(&mut self, now: Instant, cause: Cause, events: &mut Events) {
        self.enabled = false;
        match &mut self.latch {
            Some(latch) if latch.cause.reason == cause.reason || cause.reason != Reason::Estop => {
                latch.seen = now;
            }
            slot => {
                *slot = Some(Latch { cause, seen: now });
                events.push(Event::Latched { cause });
            }
        }
    }

    fn reset(
        &mut self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &Situation,
    ) -> ResetOutcome {
        let Some(latch) = self.latch else {
            return ResetOutcome::NotLatched;
        };
        if latch.seen == at.now {
            return ResetOutcome::CauseRemains(latch.cause);
        }
        // E-stop and NaN are moments: they are gone when they are not seen again. Repeated faults
        // are gone when no watchdog complains.
        let mut waited = at.now.since(latch.seen).get();
        if latch.cause.reason == Reason::RepeatedFaults && inputs.lifecycle == Lifecycle::Active {
            if let Some(complaint) = at.complaint {
                return ResetOutcome::CauseRemains(complaint);
            }
            waited = waited
                .min(self.clear_since.map_or(Duration::ZERO, |since| at.now.since(since).get()));
        }
        if !at.at_rest {
            return ResetOutcome::StillMoving;
        }
        if waited < config.clear {
            return ResetOutcome::TooSoon { remaining_s: (config.clear - waited).as_secs_f64() };
        }
        self.latch = None;
        self.recovering = false;
        self.faults = [None; FAULTS_MAX as usize];
        ResetOutcome::Done
    }

    fn enter(&mut self, state: State, cause: Cause, at: &Situation, events: &mut Events) {
        if state == State::Running {
            if self.state != State::Running {
                self.running_since = Some(at.now);
            }
            self.recovering = false;
        } else {
            self.running_since = None;
            if state != State::Holding {
                self.recovering = false;
            }
        }
        if state != self.state {
            events.push(Event::StateChanged { from: self.state, to: state, cause });
        }
        self.state = state;
        self.cause = cause;
    }
}
