//! State machine: enabling, faults, latches, reset. It decides whether motion is allowed; `step`
//! does the rest.
//!
//! ```text
//!                    enable(true)                watchdog                    cause gone in time
//!   UNCONFIGURED     IDLE ----------> RUNNING ----------> HOLDING --------------> RUNNING
//!        |            ^  <----------     |                |
//!    INACTIVE --------+  enable(false)   |                +-- rearm_window_s over --> IDLE
//!        activate                        |
//!                                        +-- third fault in 10 s, not finite -> FAULT
//!                                        +-- e-stop (from any state) --------> ESTOPPED
//!   FAULT, ESTOPPED -- reset --> IDLE, not enabled
//! ```
//!
//! # Enabling
//! A request to enable is accepted only when motion can begin: it is refused while latched, not
//! active, while any watchdog fires, without an instruction, and while a withdrawn enabling
//! recovers (see below). Hence motion never begins at some later time because of an earlier
//! request. In a dry run only latches and the lifecycle matter, since no command is published.
//!
//! # Hold and rearm window
//! A *hold* begins with the step that detects a watchdog's cause or the loss of the instruction,
//! and ends when motion resumes. Motion resumes by itself when no watchdog fires, there is an
//! instruction, and, if a watchdog had fired, the robot is at rest and no watchdog has fired for
//! `clear_s`. All of this must be so at most `rearm_window_s` after the hold began; causes that
//! follow one another do not restart the window. Otherwise the enabling is withdrawn. A pause of
//! the process is detected after it, so that its hold begins with the last step before the pause.
//! `clear_s` counts within the window: with 2 s and 0.5 s a cause may last for 1.5 s. After a
//! withdrawal a new request is refused until the robot is at rest and `clear_s` is over.

use super::{
    config::{ControlConfig, FAULTS_MAX},
    events::{EnableOutcome, Event, Events, ResetOutcome},
    inputs::{Inputs, Lifecycle, PolicyFailure},
    outputs::State,
    reason::{Cause, CauseSet, Class, Reason},
};
use crate::time::Instant;
use std::time::Duration;

/// A closed latch.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Latch {
    cause: Cause,
    /// Last time of its cause, e.g. of a repeated e-stop.
    seen: Instant,
}

/// An interruption of enabled motion.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Hold {
    began: Instant,
    /// The cause that began it.
    cause: Cause,
}

/// State between steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateMachine {
    state: State,
    enabled: bool,
    /// Why the last enabling was withdrawn; [`Cause::NONE`] when it was not.
    withdrawn_by: Cause,
    hold: Option<Hold>,
    latch: Option<Latch>,
    /// Times of the last faults that interrupted motion; a ring buffer.
    faults: [Option<Instant>; FAULTS_MAX as usize],
    next_fault: usize,
    /// The last fault that interrupted motion.
    last_fault: Cause,
    /// Start of the interval in which no watchdog has fired.
    clear_since: Option<Instant>,
    /// Whether a watchdog fired since motion was last allowed, so that motion waits for rest and
    /// `clear_s`.
    recovering: bool,
    /// When motion was last allowed, while it is.
    running_since: Option<Instant>,
}

/// Facts about the present step besides the inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepConditions {
    pub(super) now: Instant,
    /// Time since the previous step; `None` in the first.
    pub(super) interval: Option<Duration>,
    /// The watchdogs that fire.
    pub(super) watchdogs: CauseSet,
    /// Whether a chunk contains a number that is not finite.
    pub(super) not_finite: bool,
    /// Whether the last command was exactly zero.
    pub(super) at_rest: bool,
}

/// Result of [`StateMachine::update`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    /// Everything that prevents motion, in order of priority; only `DRY_RUN` while running.
    pub(super) causes: CauseSet,
    pub(super) enable: Option<EnableOutcome>,
    pub(super) reset: Option<ResetOutcome>,
    pub(super) resumes_in_s: Option<f64>,
    pub(super) enable_withdrawn_in_s: Option<f64>,
}

impl StateMachine {
    pub(super) fn new() -> Self {
        Self {
            state: State::Unconfigured,
            enabled: false,
            withdrawn_by: Cause::NONE,
            hold: None,
            latch: None,
            faults: [None; FAULTS_MAX as usize],
            next_fault: 0,
            last_fault: Cause::NONE,
            clear_since: None,
            recovering: false,
            running_since: None,
        }
    }

    /// Copies a closed latch from `old`.
    pub(super) fn inherit(&mut self, old: &Self) {
        if old.latch.is_some() {
            (self.latch, self.state, self.last_fault) = (old.latch, old.state, old.last_fault);
        }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    pub(super) const fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) const fn last_fault(&self) -> &Cause {
        &self.last_fault
    }

    pub(super) const fn running_since(&self) -> Option<Instant> {
        self.running_since
    }

    /// Whether the gripper command stays in force: from enabling to `enable(false)` or
    /// deactivation. Holds, withdrawals and latches keep it, so that nothing is dropped.
    pub(super) fn keeps_gripper(&self) -> bool {
        self.enabled || self.latch.is_some() || self.withdrawn_by.reason != Reason::None
    }

    /// Decides the state of this step.
    pub(super) fn update(
        &mut self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &StepConditions,
        events: &mut Events,
    ) -> Decision {
        self.clear_since = at.watchdogs.is_empty().then(|| self.clear_since.unwrap_or(at.now));
        let active = inputs.lifecycle == Lifecycle::Active;
        if inputs.requests.estop {
            self.latch(at.now, Cause::plain(Reason::Estop), events);
        }
        if active && (at.not_finite || inputs.policy_failure == Some(PolicyFailure::NotFinite)) {
            self.latch(at.now, Cause::plain(Reason::NotFinite), events);
        }
        let reset = inputs.requests.reset.then(|| self.reset(config, inputs, at));
        if let Some(outcome) = reset {
            events.push(Event::Reset(outcome));
        }
        if !active || inputs.requests.enable == Some(false) {
            self.disable();
        }
        // A deactivation ends at rest and with a new start of everything.
        self.recovering &= active;
        self.count_fault(config, at, events);
        let enable = inputs.requests.enable.map(|enable| {
            if !enable {
                return EnableOutcome::Disabled;
            }
            self.enable(self.enable_refusal(config, inputs, at, reset), at.now, events)
        });
        self.update_hold(config, inputs, at, events);
        let causes = self.causes(config, inputs, at);
        self.enter(self.place(config, inputs, at), at.now);
        let (resumes_in_s, enable_withdrawn_in_s) = self.announce(config, inputs, at);
        Decision { causes, enable, reset, resumes_in_s, enable_withdrawn_in_s }
    }

    /// Ends the enabling without a trace: requested, or made irrelevant by latch or lifecycle.
    fn disable(&mut self) {
        // A recovery goes on until the robot is at rest and the cause has been gone for `clear_s`;
        // otherwise disabling and enabling again would skip it.
        (self.enabled, self.hold, self.withdrawn_by) = (false, None, Cause::NONE);
    }

    /// Ends the enabling because of `cause`. The recovery goes on.
    fn withdraw(&mut self, cause: Cause, events: &mut Events) {
        (self.enabled, self.hold, self.withdrawn_by) = (false, None, cause);
        events.push(Event::EnableWithdrawn { cause });
    }

    /// Carries out a request to enable. A refused request also ends an enabling in force: an
    /// operator who was refused must not see motion. An accepted one restarts the window of a hold
    /// that recovers, so that what was accepted is not withdrawn a moment later.
    fn enable(
        &mut self,
        refusal: Option<Cause>,
        now: Instant,
        events: &mut Events,
    ) -> EnableOutcome {
        if let Some(cause) = refusal {
            if self.enabled {
                self.withdraw(cause, events);
            }
            return EnableOutcome::Refused(cause);
        }
        (self.enabled, self.withdrawn_by) = (true, Cause::NONE);
        if let Some(hold) = &mut self.hold {
            hold.began = now;
        }
        EnableOutcome::Enabled
    }

    fn enable_refusal(
        &self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &StepConditions,
        reset: Option<ResetOutcome>,
    ) -> Option<Cause> {
        if let Some(latch) = self.latch {
            return Some(latch.cause);
        }
        match inputs.lifecycle {
            Lifecycle::Unconfigured => return Some(Cause::plain(Reason::NotConfigured)),
            Lifecycle::Inactive => return Some(Cause::plain(Reason::NotActive)),
            Lifecycle::Active => {}
        }
        // After a reset motion must be enabled by a new request; this one was made before it.
        if reset == Some(ResetOutcome::Done) {
            return Some(Cause::plain(Reason::NotEnabled));
        }
        if config.dry_run {
            return None;
        }
        at.watchdogs
            .first()
            .or_else(|| missing_instruction(inputs))
            .or_else(|| self.recovery(config, at).filter(|_| !self.enabled))
    }

    /// Follows a hold, and withdraws the enabling at the end of its window.
    fn update_hold(
        &mut self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &StepConditions,
        events: &mut Events,
    ) {
        if !self.enabled || config.dry_run {
            return;
        }
        let watchdog = at.watchdogs.first();
        self.recovering |= watchdog.is_some();
        let obstacle =
            watchdog.or_else(|| missing_instruction(inputs)).or_else(|| self.recovery(config, at));
        if let Some(cause) = obstacle {
            let began = match cause.reason {
                Reason::ProcessPaused | Reason::ControlOverrun => {
                    at.now.before(at.interval.unwrap_or_default())
                }
                _ => at.now,
            };
            self.hold.get_or_insert(Hold { began, cause });
        }
        let Some(hold) = self.hold else { return };
        let held = at.now.since(hold.began);
        let over = held.exceeds(config.rearm_window)
            || (obstacle.is_some() && config.rearm_window <= held.get());
        if over {
            self.withdraw(hold.cause, events);
        }
    }

    /// Everything that prevents motion, in order of priority.
    fn causes(&self, config: &ControlConfig, inputs: &Inputs<'_>, at: &StepConditions) -> CauseSet {
        let mut causes = CauseSet::default();
        if let Some(latch) = self.latch {
            causes.push(latch.cause);
        }
        match inputs.lifecycle {
            Lifecycle::Active if self.enabled || self.latch.is_some() => {}
            Lifecycle::Active => {
                let by = &self.withdrawn_by;
                causes.push(Cause::not_enabled(by.reason, by.source));
            }
            _ if !at.at_rest => causes.push(Cause::plain(Reason::Deactivating)),
            Lifecycle::Inactive => causes.push(Cause::plain(Reason::NotActive)),
            Lifecycle::Unconfigured => causes.push(Cause::plain(Reason::NotConfigured)),
        }
        at.watchdogs.iter().for_each(|cause| causes.push(*cause));
        if let Some(cause) = missing_instruction(inputs) {
            causes.push(cause);
        }
        if let Some(cause) = self.recovery(config, at).filter(|_| at.watchdogs.is_empty()) {
            causes.push(cause);
        }
        if config.dry_run {
            causes.push(Cause::plain(Reason::DryRun));
        }
        causes
    }

    /// The state that follows from latch, lifecycle, enabling and the causes of a hold.
    fn place(&self, config: &ControlConfig, inputs: &Inputs<'_>, at: &StepConditions) -> State {
        if let Some(latch) = self.latch {
            return if latch.cause.reason == Reason::Estop {
                State::Estopped
            } else {
                State::Fault
            };
        }
        match inputs.lifecycle {
            Lifecycle::Unconfigured | Lifecycle::Inactive if !at.at_rest => State::Holding,
            Lifecycle::Unconfigured => State::Unconfigured,
            Lifecycle::Inactive => State::Inactive,
            Lifecycle::Active if !self.enabled => State::Idle,
            Lifecycle::Active if !at.watchdogs.is_empty() => State::Holding,
            Lifecycle::Active if inputs.instruction.is_none() => State::Idle,
            Lifecycle::Active if self.recovery(config, at).is_some() => State::Holding,
            Lifecycle::Active => State::Running,
        }
    }

    fn enter(&mut self, state: State, now: Instant) {
        if state != State::Running {
            self.running_since = None;
        } else {
            if self.state != State::Running {
                self.running_since = Some(now);
            }
            (self.hold, self.recovering) = (None, false);
        }
        self.state = state;
    }

    /// `RECOVERING` until the robot is at rest and no watchdog has fired for `clear_s`.
    fn recovery(&self, config: &ControlConfig, at: &StepConditions) -> Option<Cause> {
        let clear = self.clear_for(at.now);
        let waits = self.recovering && (!at.at_rest || clear < config.clear);
        waits.then(|| {
            Cause::seconds(Reason::Recovering, clear.as_secs_f64(), config.clear.as_secs_f64())
        })
    }

    /// How long no watchdog has fired.
    fn clear_for(&self, now: Instant) -> Duration {
        self.clear_since.map_or(Duration::ZERO, |since| now.since(since).get())
    }

    /// `resumes_in_s` and `enable_withdrawn_in_s`.
    fn announce(
        &self,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        at: &StepConditions,
    ) -> (Option<f64>, Option<f64>) {
        if !self.enabled || self.state == State::Running {
            return (None, None);
        }
        let gone = at.watchdogs.is_empty() && inputs.instruction.is_some();
        let resumes = gone.then(|| config.clear.saturating_sub(self.clear_for(at.now)));
        // A dry run has no window.
        let window = self
            .hold
            .map(|hold| config.rearm_window.saturating_sub(at.now.since(hold.began).get()));
        match (resumes, window) {
            (Some(wait), window) if window.is_none_or(|left| wait <= left) => {
                (Some(wait.as_secs_f64()), None)
            }
            (_, window) => (None, window.map(|left| left.as_secs_f64())),
        }
    }

    /// Counts a watchdog that interrupts motion; several within the window latch.
    fn count_fault(&mut self, config: &ControlConfig, at: &StepConditions, events: &mut Events) {
        let Some(cause) = at.watchdogs.first() else { return };
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
            let (count, limit) = (f64::from(count), f64::from(config.faults_to_latch));
            let cause = Cause::measured(Reason::RepeatedFaults, count, limit, "faults");
            self.latch(at.now, cause, events);
        }
    }

    /// Closes the latch, or updates the time of its cause. An e-stop replaces any other latch.
    fn latch(&mut self, now: Instant, cause: Cause, events: &mut Events) {
        self.disable();
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
        at: &StepConditions,
    ) -> ResetOutcome {
        let Some(latch) = self.latch else {
            return ResetOutcome::NotLatched;
        };
        if latch.seen == at.now {
            return ResetOutcome::CauseRemains(latch.cause);
        }
        // E-stop and NaN are momentary: gone when not repeated. Repeated faults are gone when no
        // watchdog fires.
        let mut waited = at.now.since(latch.seen).get();
        if latch.cause.reason == Reason::RepeatedFaults && inputs.lifecycle == Lifecycle::Active {
            if let Some(cause) = at.watchdogs.first() {
                return ResetOutcome::CauseRemains(cause);
            }
            waited = waited.min(self.clear_for(at.now));
        }
        if !at.at_rest {
            return ResetOutcome::StillMoving;
        }
        if waited < config.clear {
            return ResetOutcome::TooSoon { remaining_s: (config.clear - waited).as_secs_f64() };
        }
        self.latch = None;
        self.faults = [None; FAULTS_MAX as usize];
        ResetOutcome::Done
    }
}

fn missing_instruction(inputs: &Inputs<'_>) -> Option<Cause> {
    inputs.instruction.is_none().then(|| Cause::plain(Reason::NoInstruction))
}
