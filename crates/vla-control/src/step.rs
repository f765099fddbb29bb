//! One step of control: look, decide, play, shape, limit.

use super::{
    chunk_player::{Player, Turn},
    command_limits::{self, Driven, Whereabouts},
    config::ControlConfig,
    gripper::Gripper,
    jerk_limiter::Profile,
    reason::{Cause, Intervention, InterventionCounts, InterventionSet, Reason},
    stall_detector::Detectors,
    state_machine::{Machine, Situation},
    types::{Command, Event, Events, Inputs, Lifecycle, Output, Refusal, State, Twist, Verdict},
    vector::scale,
    watchdog::{Around, Watchdogs},
};
use crate::action_chunk::{ActionChunk, ChunkStep};
use crate::time::Instant;

/// Everything control remembers. Made once per activation of the node's parameters; making it is
/// the only time control allocates.
#[derive(Debug)]
pub struct ControlState {
    config: ControlConfig,
    machine: Machine,
    watchdogs: Watchdogs,
    player: Player,
    gripper: Gripper,
    detectors: Detectors,
    linear: Profile,
    angular: Profile,
    counts: InterventionCounts,
    last_step: Option<Instant>,
    last_sample: Option<Instant>,
    last_twist: Twist,
    /// The pose in use: when it was received, and what was driven since.
    pose: Option<(Instant, Driven)>,
    last_reckoning: Option<Instant>,
    last_result: Option<Instant>,
    newest_generation: Option<u64>,
    /// The instruction the player's chunk answers.
    instruction: Option<u64>,
    /// When the stop under way began.
    stop_began: Option<Instant>,
    told: (State, Reason),
}

impl ControlState {
    /// Unconfigured and at rest.
    #[must_use]
    pub fn new(config: ControlConfig) -> Self {
        Self {
            machine: Machine::new(),
            watchdogs: Watchdogs::default(),
            player: Player::new(),
            gripper: Gripper::default(),
            detectors: Detectors::default(),
            linear: Profile::new(&config.linear, config.period),
            angular: Profile::new(&config.angular, config.period),
            counts: InterventionCounts::default(),
            last_step: None,
            last_sample: None,
            last_twist: Twist::ZERO,
            pose: None,
            last_reckoning: None,
            last_result: None,
            newest_generation: None,
            instruction: None,
            stop_began: None,
            told: (State::Unconfigured, Reason::NotConfigured),
            config,
        }
    }

    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// In how many steps each intervention happened.
    #[must_use]
    pub const fn interventions(&self) -> &InterventionCounts {
        &self.counts
    }

    /// The last fault that interrupted motion: what lies behind `REPEATED_FAULTS`.
    #[must_use]
    pub const fn last_fault(&self) -> &Cause {
        &self.machine.last_fault
    }

    /// Takes over from a state that is at rest what must outlive a change of configuration: a
    /// closed latch, and the counts, which are never reset. An e-stop that comes while a checkpoint
    /// is loaded is still there afterwards.
    pub fn inherit(&mut self, old: &Self) {
        self.machine.inherit(&old.machine);
        self.counts = old.counts;
    }

    fn at_rest(&self) -> bool {
        self.linear.at_rest() && self.angular.at_rest()
    }
}

/// One step of control at `now` on the steady clock, which is also the time at which the returned
/// command is published.
///
/// Allocates nothing, blocks on nothing, and holds for any inputs: numbers that are not finite,
/// times that go backwards, chunks from anywhere. A step that comes less than half a period after
/// the last command decides the state, but returns no command.
pub fn step(now: Instant, state: &mut ControlState, inputs: &Inputs<'_>) -> Output {
    let mut events = Events::default();
    let mut done = InterventionSet::EMPTY;

    let was_at_rest = state.at_rest();
    let finite = inputs.chunk.is_none_or(|chunk| chunk.steps().iter().all(ChunkStep::is_finite));
    let complaint = state.look(now, inputs, &mut events);
    let situation = Situation { now, complaint, not_finite: !finite, at_rest: was_at_rest };
    let reset = state.machine.decide(&state.config, inputs, &situation, &mut events);

    state.reckon(now, inputs);
    state.prepare(now, inputs, &mut events);
    if let Some(chunk) = inputs.chunk {
        state.hear(now, inputs, chunk, finite, &mut done, &mut events);
    }
    let (wished, target) = state.aim(now, inputs, &mut done, &mut events);

    let due = state.is_due(now);
    if due {
        state.limit(now, &target, &mut done);
    }
    let at_rest = state.at_rest();
    state.tell_rest(now, at_rest, &mut events);
    for intervention in done.iter() {
        state.counts.add(intervention);
    }

    let streaming = inputs.lifecycle == Lifecycle::Active || !was_at_rest;
    let publish = due && streaming && !state.config.dry_run;
    let cause = state.cause();
    let told = (state.machine.state, cause.reason);
    let changed = told != std::mem::replace(&mut state.told, told);
    Output {
        command: publish.then(|| Command::new(state.last_twist, state.gripper.command())),
        state: state.machine.state,
        cause,
        verdict: Verdict { wished, target, limited: state.last_twist, interventions: done },
        events,
        reset,
        steps_begun: state.player.steps_begun(),
        at_rest,
        image_age_s: state.watchdogs.image_age_s(now),
        changed,
    }
}

impl ControlState {
    /// The watchdogs' first complaint.
    fn look(&mut self, now: Instant, inputs: &Inputs<'_>, events: &mut Events) -> Option<Cause> {
        let interval = self.last_step.map(|last| now.since(last).get());
        self.last_step = Some(self.last_step.map_or(now, |last| last.max(now)));
        if inputs.chunk.is_some() || inputs.policy_failure.is_some() {
            self.last_result = Some(now);
        }
        if let Some(interval) = interval.filter(|interval| self.config.overrun < *interval) {
            events.push(Event::Overrun { interval_s: interval.as_secs_f64() });
        }
        let around = Around {
            interval,
            running_since: self.machine.running_since,
            last_result: self.last_result,
            twist: self.last_twist,
        };
        self.watchdogs.look(now, &self.config, inputs, &around)
    }

    /// Adds up what was driven since the pose in use was received.
    fn reckon(&mut self, now: Instant, inputs: &Inputs<'_>) {
        let moved = |since: Instant| scale(self.last_twist.linear, now.since(since).seconds());
        self.pose = match (inputs.ee_pose, self.pose) {
            (None, _) => None,
            (Some(pose), Some((received, driven))) if received == pose.received => {
                let last = self.last_reckoning.unwrap_or(now);
                Some((received, driven.and(moved(last))))
            }
            (Some(pose), _) => Some((pose.received, Driven::default().and(moved(pose.received)))),
        };
        self.last_reckoning = Some(now);
    }

    /// Forgets what must not move the robot any more.
    fn prepare(&mut self, now: Instant, inputs: &Inputs<'_>, events: &mut Events) {
        let running = self.machine.state == State::Running;
        if !running || self.instruction != inputs.instruction {
            self.player.clear();
            self.detectors.forget(events);
            self.instruction = inputs.instruction;
        }
        // What the policy said about the gripper holds for one enabled run: activation must not
        // close fingers on a hand. A fault keeps the grip, so that nothing is dropped.
        let keeps_grip = running
            || matches!(self.machine.state, State::Holding | State::Fault | State::Estopped);
        if !keeps_grip || inputs.lifecycle != Lifecycle::Active {
            self.gripper = Gripper::default();
        }
        if running {
            self.stop_began = None;
        } else if self.stop_began.is_none() && !self.at_rest() {
            self.stop_began = Some(now);
        }
    }

    /// A chunk arrived: into the player, or refused by name.
    fn hear(
        &mut self,
        now: Instant,
        inputs: &Inputs<'_>,
        chunk: &ActionChunk,
        finite: bool,
        done: &mut InterventionSet,
        events: &mut Events,
    ) {
        let generation = chunk.origin().generation;
        let verdict = self.admit(now, inputs, chunk, finite);
        self.newest_generation = self.newest_generation.max(Some(generation));
        match verdict {
            Err(why) => refuse(generation, why, done, events),
            Ok(()) => {
                if let Some(first) = chunk.steps().first() {
                    let position = inputs
                        .ee_pose
                        .map(|pose| pose.position)
                        .filter(|p| p.iter().all(|x| x.is_finite()));
                    self.detectors.hear(first, position, &self.config.detectors, events);
                }
                if let Some(turn) = self.player.offer(now, chunk) {
                    turned(turn, done, events);
                }
            }
        }
    }

    /// Whether a chunk may move the robot. The order of the questions is the order in which an
    /// operator would ask them.
    fn admit(
        &self,
        now: Instant,
        inputs: &Inputs<'_>,
        chunk: &ActionChunk,
        finite: bool,
    ) -> Result<(), Refusal> {
        let origin = chunk.origin();
        if !finite {
            return Err(Refusal::NotFinite);
        }
        // Asked before whether motion is allowed: a result that missed its deadline has usually
        // ended the motion itself.
        if now.since(origin.inference_started).exceeds(self.config.inference_timeout) {
            return Err(Refusal::LateResult);
        }
        let Some(running_since) = self.machine.running_since else {
            return Err(Refusal::NotAllowed);
        };
        if Some(origin.instruction_generation) != inputs.instruction {
            return Err(Refusal::OldInstruction);
        }
        if self.newest_generation.is_some_and(|newest| origin.generation <= newest) {
            return Err(Refusal::OutOfOrder);
        }
        let too_old = origin
            .inference_started
            .since(origin.image_taken)
            .exceeds(self.config.observation_timeout);
        if too_old || origin.inference_started < running_since {
            return Err(Refusal::OldObservation);
        }
        Ok(())
    }

    /// What the policy wishes now, and what to aim at for it.
    fn aim(
        &mut self,
        now: Instant,
        inputs: &Inputs<'_>,
        done: &mut InterventionSet,
        events: &mut Events,
    ) -> (Twist, Twist) {
        let Some(playing) = self.player.play(now, |turn| turned(turn, done, events)) else {
            return (Twist::ZERO, Twist::ZERO);
        };
        if let Some(to) = self.gripper.hear(now, playing.step.gripper, &self.config.gripper, done) {
            events.push(Event::Gripper { to });
        }
        let wished = command_limits::wish(&playing.step, playing.policy_hz);
        let (translation, rotation) = command_limits::bound_step(&self.config, &playing.step, done);
        let bounded = ChunkStep { translation, rotation, gripper: 0.0 };
        let mut target = command_limits::wish(&bounded, playing.policy_hz);
        if let (Some(area), Some(pose), Some((_, driven))) =
            (&self.config.workspace, &inputs.ee_pose, self.pose)
        {
            let arm = Whereabouts {
                position: pose.position,
                driven,
                moving: self.last_twist.linear,
                under_way: self.linear.under_way(),
            };
            let factor = command_limits::guard_workspace(&self.config, area, &arm, target.linear);
            if factor < 1.0 {
                done.insert(Intervention::Workspace);
                target.linear = target.linear.map(|x| x * factor);
            }
        }
        (wished, command_limits::cap_velocity(&self.config, target, done))
    }

    /// Whether enough time has passed since the last command for another. See `profile`: the
    /// promise of the stop needs half a period.
    fn is_due(&self, now: Instant) -> bool {
        self.last_sample.is_none_or(|last| self.config.period / 2 <= now.since(last).get())
    }

    fn limit(&mut self, now: Instant, target: &Twist, done: &mut InterventionSet) {
        let linear = self.linear.sample(now, target.linear);
        let angular = self.angular.sample(now, target.angular);
        self.last_sample = Some(now);
        self.last_twist = Twist { linear: linear.velocity, angular: angular.velocity };
        if linear.by_acceleration || angular.by_acceleration {
            done.insert(Intervention::Acceleration);
        }
        if linear.by_jerk || angular.by_jerk {
            done.insert(Intervention::Jerk);
        }
    }

    fn tell_rest(&mut self, now: Instant, at_rest: bool, events: &mut Events) {
        if let Some(began) = self.stop_began.filter(|_| at_rest) {
            self.stop_began = None;
            events.push(Event::CameToRest { after_s: now.since(began).seconds() });
        }
    }

    /// The machine's cause, or what else there is to say while running.
    fn cause(&self) -> Cause {
        let machine = self.machine.cause;
        if machine.reason != Reason::None {
            machine
        } else if !self.player.is_playing() {
            Cause::plain(Reason::WaitingForAction)
        } else {
            self.detectors.noticed().map_or(machine, Cause::plain)
        }
    }
}

fn refuse(generation: u64, why: Refusal, done: &mut InterventionSet, events: &mut Events) {
    done.insert(match why {
        Refusal::NotFinite => Intervention::NotFinite,
        Refusal::OldInstruction => Intervention::OldInstruction,
        Refusal::OutOfOrder => Intervention::OutOfOrder,
        Refusal::LateResult => Intervention::LateResult,
        Refusal::OldObservation => Intervention::OldObservation,
        Refusal::Exhausted => Intervention::Exhausted,
        Refusal::NotAllowed => Intervention::NotAllowed,
    });
    events.push(Event::ChunkRefused { generation, why });
}

fn turned(turn: Turn, done: &mut InterventionSet, events: &mut Events) {
    match turn {
        Turn::Taken { generation, first_step } => {
            events.push(Event::ChunkTaken { generation, first_step })
        }
        Turn::Refused { generation, why } => refuse(generation, why, done, events),
        Turn::RanOut => done.insert(Intervention::RampDown),
    }
}
