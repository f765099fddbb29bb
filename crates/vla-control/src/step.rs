//! One control step: watchdogs, state machine, chunk execution, limits.

mod chunks;

use super::{
    chunk_player::{ActiveStep, ChunkPlayer, PlayerEvent},
    command_limits::{self, ExecutedDistance, PoseEstimate},
    config::ControlConfig,
    events::{Event, Events},
    gripper::Gripper,
    inputs::{Inference, Inputs, Lifecycle},
    jerk_limiter::JerkLimiter,
    joint_config::JointOutput,
    joint_motion::JointMotion,
    outputs::{Command, CommandMotion, JointCommand, MotionReport, Output, State, Twist},
    reason::{Cause, CauseSet, Intervention, InterventionCounts, InterventionSet, Reason, Source},
    stall_detector::StallDetector,
    state_machine::{StateMachine, StepConditions},
    vector::{ZERO, scale},
    watchdog::{PREPARATION_TIMEOUT, WatchdogContext, Watchdogs},
};
use crate::action_chunk::{ActionChunk, ChunkStep, GRIPPERS_MAX};
use crate::time::Instant;
use chunks::record_player_event;

/// State of control between steps. Made once per configuration; this is the only place where
/// control allocates.
#[derive(Debug)]
pub struct ControlState {
    config: ControlConfig,
    machine: StateMachine,
    watchdogs: Watchdogs,
    player: ChunkPlayer,
    grippers: [Gripper; GRIPPERS_MAX],
    stall: StallDetector,
    linear: JerkLimiter,
    angular: JerkLimiter,
    /// In joint space; the limiters of the end effector are at rest then.
    joints: Option<JointMotion>,
    counts: InterventionCounts,
    last_step: Option<Instant>,
    last_sample: Option<Instant>,
    last_twist: Twist,
    /// Arrival of the newest pose, and the distance executed since.
    pose: Option<(Instant, ExecutedDistance)>,
    pose_updated: Option<Instant>,
    last_result: Option<Instant>,
    newest_generation: Option<u64>,
    /// Instruction of the chunk in the player.
    instruction: Option<u64>,
    /// Start of the stop in progress.
    stop_began: Option<Instant>,
    /// State and cause of the last `StateChanged` or `CauseChanged`.
    reported: Reported,
}

/// What a `StateChanged` or `CauseChanged` reports: state, reason, reason of a withdrawal, source.
type Reported = (State, Reason, Reason, Option<Source>);

impl ControlState {
    /// Unconfigured and at rest.
    #[must_use]
    pub fn new(config: ControlConfig) -> Self {
        Self {
            machine: StateMachine::new(),
            watchdogs: Watchdogs::default(),
            player: ChunkPlayer::new(&config),
            grippers: [Gripper::default(); GRIPPERS_MAX],
            stall: StallDetector::default(),
            linear: JerkLimiter::new(&config.linear, config.period),
            angular: JerkLimiter::new(&config.angular, config.period),
            joints: config.joints.as_ref().map(JointMotion::new),
            counts: InterventionCounts::default(),
            last_step: None,
            last_sample: None,
            last_twist: Twist::ZERO,
            pose: None,
            pose_updated: None,
            last_result: None,
            newest_generation: None,
            instruction: None,
            stop_began: None,
            reported: (State::Unconfigured, Reason::NotConfigured, Reason::None, None),
            config,
        }
    }

    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &ControlConfig {
        &self.config
    }

    /// Number of steps in which each intervention occurred.
    #[must_use]
    pub const fn interventions(&self) -> &InterventionCounts {
        &self.counts
    }

    /// The last fault that interrupted motion, e.g. the last of those that led to
    /// `REPEATED_FAULTS`.
    #[must_use]
    pub const fn last_fault(&self) -> &Cause {
        self.machine.last_fault()
    }

    /// Copies what must survive a change of configuration from a state that is at rest: a closed
    /// latch, the counts, and the last reported state, so that the events remain a complete
    /// history. An e-stop during the loading of a checkpoint is therefore still in force
    /// afterwards.
    pub fn inherit(&mut self, old: &Self) {
        self.machine.inherit(&old.machine);
        self.counts = old.counts;
        self.reported = old.reported;
        if let (Some(joints), Some(old)) = (&mut self.joints, &old.joints) {
            joints.inherit(old);
        }
    }

    fn at_rest(&self) -> bool {
        let joints = self.joints.as_ref().is_none_or(JointMotion::at_rest);
        joints && self.linear.at_rest() && self.angular.at_rest()
    }
}

/// One step of control at `now` on the steady clock, which is also the publication time of the
/// returned command.
///
/// Does not allocate or block, and accepts any input: numbers that are not finite, times that go
/// backwards, any chunk. A step less than half a period after the last command updates the state,
/// but returns no command.
pub fn step(now: Instant, state: &mut ControlState, inputs: &Inputs<'_>) -> Output {
    let mut events = Events::default();
    let mut done = InterventionSet::EMPTY;

    let was_at_rest = state.at_rest();
    let finite = inputs.chunk.is_none_or(ActionChunk::is_finite);
    let conditions = state.check_watchdogs(now, inputs, finite, &mut events);
    let decision = state.machine.update(&state.config, inputs, &conditions, &mut events);

    state.update_pose_estimate(now, inputs);
    state.clear_outdated(now, inputs, &mut events);
    let running = state.machine.state() == State::Running;
    if let Some(joints) = &mut state.joints {
        joints.update(now, running, inputs.joints, &mut state.player);
        joints.note_reference(now, &state.player);
    }
    if let Some(chunk) = inputs.chunk {
        state.accept_chunk(now, inputs, chunk, finite, &mut done, &mut events);
    }
    let active = state.advance(now, &mut done, &mut events);
    let due = state.is_due(now);
    let desired = if state.joints.is_some() {
        state.drive_joints(now, active.as_ref(), due, &mut done)
    } else {
        let desired = state.compute_target(inputs, active.as_ref(), &mut done);
        if due {
            state.apply_limits(now, &desired.target, &mut done);
        }
        desired
    };
    let at_rest = state.at_rest();
    state.report_rest(now, at_rest, &mut events);
    done.iter().for_each(|intervention| state.counts.add(intervention));

    let mut causes = decision.causes;
    state.add_running_causes(now, inputs.inference, desired.blocked_by, &mut causes);
    let cause = causes.first().unwrap_or(Cause::NONE);
    state.report_change(cause, &mut events);

    let streaming = inputs.lifecycle == Lifecycle::Active || !was_at_rest;
    let publish = due && streaming && !state.config.dry_run;
    let joints = state.joints.as_ref();
    let row = active.as_ref().map(|active| &active.row);
    Output {
        command: if publish { state.command() } else { None },
        state: state.machine.state(),
        cause,
        causes,
        enabled: state.machine.is_enabled(),
        motion: MotionReport {
            desired: desired.desired,
            target: desired.target,
            limited: state.last_twist,
            joints: joints.map(|joints| joints.report(row)),
            seams: *state.player.seams(),
            interventions: done,
        },
        events,
        enable: decision.enable,
        reset: decision.reset,
        resumes_in_s: decision.resumes_in_s,
        enable_withdrawn_in_s: decision.enable_withdrawn_in_s,
        steps_begun: state.player.steps_begun(),
        at_rest,
        image_age_s: state.watchdogs.image_age_s(now, &state.config),
    }
}

/// Result of [`ControlState::compute_target`].
#[derive(Debug, Clone, Copy, Default)]
struct Target {
    desired: Twist,
    target: Twist,
    /// `WORKSPACE_LIMIT` when the workspace stops the desired translation; what a joint's position
    /// limit stops.
    blocked_by: Option<Cause>,
}

impl ControlState {
    fn check_watchdogs(
        &mut self,
        now: Instant,
        inputs: &Inputs<'_>,
        finite: bool,
        events: &mut Events,
    ) -> StepConditions {
        let interval = self.last_step.map(|last| now.since(last).get());
        self.last_step = Some(self.last_step.map_or(now, |last| last.max(now)));
        if inputs.chunk.is_some() || inputs.policy_failure.is_some() {
            self.last_result = Some(now);
        }
        if let Some(interval) = interval.filter(|interval| self.config.overrun < *interval) {
            events.push(Event::Overrun { interval_s: interval.as_secs_f64() });
        }
        let context = WatchdogContext {
            interval,
            running_since: self.machine.running_since(),
            last_result: self.last_result,
            twist: self.joints.as_ref().map_or(self.last_twist, |joints| Twist {
                linear: ZERO,
                angular: [joints.fastest(), 0.0, 0.0],
            }),
            tracking: self
                .joints
                .as_mut()
                .filter(|_| !self.config.dry_run)
                .and_then(|joints| joints.check_tracking(inputs.joints)),
        };
        StepConditions {
            now,
            interval,
            watchdogs: self.watchdogs.check(now, &self.config, inputs, &context),
            not_finite: !finite,
            at_rest: self.at_rest(),
        }
    }

    /// Integrates the commanded velocity since the arrival of the newest pose.
    fn update_pose_estimate(&mut self, now: Instant, inputs: &Inputs<'_>) {
        let moved = |since: Instant| scale(self.last_twist.linear, now.since(since).seconds());
        self.pose = match (inputs.ee_pose, self.pose) {
            (None, _) => None,
            (Some(pose), Some((received, executed))) if received == pose.received => {
                let last = self.pose_updated.unwrap_or(now);
                Some((received, executed.plus(moved(last))))
            }
            (Some(pose), _) => {
                let executed = ExecutedDistance::default().plus(moved(pose.received));
                Some((pose.received, executed))
            }
        };
        self.pose_updated = Some(now);
    }

    /// Discards chunks, detections and gripper commands that must not have an effect any more.
    fn clear_outdated(&mut self, now: Instant, inputs: &Inputs<'_>, events: &mut Events) {
        let running = self.machine.state() == State::Running;
        if !running || self.instruction != inputs.instruction {
            self.player.clear();
            self.stall.reset(events);
            self.instruction = inputs.instruction;
        }
        // A gripper command must not outlive its enabling: activation must not close fingers on a
        // hand.
        if !self.machine.keeps_gripper() || inputs.lifecycle != Lifecycle::Active {
            self.grippers = [Gripper::default(); GRIPPERS_MAX];
        }
        if running {
            self.stop_began = None;
        } else if self.stop_began.is_none() && !self.at_rest() {
            self.stop_began = Some(now);
        }
    }

    /// A chunk may have begun.
    fn chunk_begins(&mut self, now: Instant, event: PlayerEvent) {
        if let (PlayerEvent::Started { .. }, Some(joints)) = (event, &mut self.joints) {
            joints.begin_chunk(now, &self.player);
        }
    }

    /// Advances the chunks to `now` and the grippers with them; returns the active step.
    fn advance(
        &mut self,
        now: Instant,
        done: &mut InterventionSet,
        events: &mut Events,
    ) -> Option<ActiveStep> {
        let mut started = None;
        let active = self.player.advance(now, |event| {
            if let PlayerEvent::Started { .. } = event {
                started = Some(event);
            }
            record_player_event(event, done, events);
        });
        if let Some(event) = started {
            self.chunk_begins(now, event);
        }
        let active = active?;
        let values = self.player.grippers(&active.row).iter().zip(&mut self.grippers);
        for (index, (value, gripper)) in values.enumerate() {
            if let Some(to) = gripper.update(now, *value, &self.config.gripper, done) {
                events.push(Event::Gripper { index: index as u8, to });
            }
        }
        Some(active)
    }

    /// Joint space: moves the joints towards the active step within every limit.
    fn drive_joints(
        &mut self,
        now: Instant,
        active: Option<&ActiveStep>,
        due: bool,
        done: &mut InterventionSet,
    ) -> Target {
        let Some(joints) = &mut self.joints else { return Target::default() };
        let row = active.map(|active| &active.row);
        if due {
            joints.drive(now, &self.player, row, done);
            self.last_sample = Some(now);
        }
        Target { blocked_by: joints.limiting(row, done), ..Target::default() }
    }

    /// The command of this step. An arm that is commanded by positions gets none without a run: its
    /// own controller holds it where it is, and no old position is sent.
    fn command(&self) -> Option<Command> {
        let grippers = self.grippers.map(|gripper| gripper.command());
        let motion = match (&self.joints, &self.config.joints) {
            (Some(joints), Some(space)) => {
                let anchored = joints.is_running();
                if !anchored && space.output == JointOutput::Position {
                    return None;
                }
                let (state, run) = (*joints.state(), joints.run());
                CommandMotion::Joints(JointCommand { state, run, anchored })
            }
            _ => CommandMotion::Twist(self.last_twist),
        };
        Some(Command::new(motion, grippers))
    }

    /// End effector: the desired velocity of the present step, and the target after the limits on
    /// steps, workspace and velocity.
    fn compute_target(
        &self,
        inputs: &Inputs<'_>,
        active: Option<&ActiveStep>,
        done: &mut InterventionSet,
    ) -> Target {
        let Some(active) = active else { return Target::default() };
        let step = active.end_effector();
        let desired = command_limits::desired_twist(&step, active.policy_hz);
        let (translation, rotation) = command_limits::limit_step(&self.config, &step, done);
        let bounded = ChunkStep { translation, rotation, gripper: 0.0 };
        let mut target = command_limits::desired_twist(&bounded, active.policy_hz);
        let mut blocked_by = None;
        if let (Some(area), Some(pose), Some((_, executed))) =
            (&self.config.workspace, &inputs.ee_pose, self.pose)
        {
            let estimate = PoseEstimate {
                position: pose.position,
                executed,
                commanded: self.last_twist.linear,
                unfiltered: self.linear.unfiltered(),
            };
            let limit =
                command_limits::limit_to_workspace(&self.config, area, &estimate, target.linear);
            if limit.factor < 1.0 {
                done.insert(Intervention::Workspace);
                blocked_by = limit.blocking_cause().filter(|_| target.linear != ZERO);
                target.linear = scale(target.linear, limit.factor);
            }
        }
        let target = command_limits::limit_velocity(&self.config, target, done);
        Target { desired, target, blocked_by }
    }

    /// Whether enough time has passed since the last command for another: the bound on the stop
    /// time requires half a period (see `jerk_limiter`).
    fn is_due(&self, now: Instant) -> bool {
        self.last_sample.is_none_or(|last| self.config.period / 2 <= now.since(last).get())
    }

    /// Moves the command towards the target within the acceleration and jerk limits.
    fn apply_limits(&mut self, now: Instant, target: &Twist, done: &mut InterventionSet) {
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

    fn report_rest(&mut self, now: Instant, at_rest: bool, events: &mut Events) {
        if let Some(began) = self.stop_began.filter(|_| at_rest) {
            self.stop_began = None;
            events.push(Event::CameToRest { after_s: now.since(began).seconds() });
        }
    }

    /// Adds the causes that apply while motion is allowed.
    fn add_running_causes(
        &self,
        now: Instant,
        inference: Inference,
        blocked_by: Option<Cause>,
        causes: &mut CauseSet,
    ) {
        if self.machine.state() != State::Running {
            return;
        }
        if let Some(cause) = blocked_by {
            causes.push(cause);
        }
        if !self.player.is_active() {
            causes.push(match inference {
                Inference::Preparing { since } => {
                    let limit = PREPARATION_TIMEOUT.as_secs_f64();
                    Cause::seconds(Reason::Preparing, now.since(since).seconds(), limit)
                }
                _ => Cause::plain(Reason::WaitingForAction),
            });
        } else if let Some(reason) = self.stall.detected() {
            causes.push(Cause::plain(reason));
        }
    }

    /// Emits a change of state or cause.
    fn report_change(&mut self, cause: Cause, events: &mut Events) {
        let state = self.machine.state();
        let next = (state, cause.reason, cause.withdrawn_by, cause.source);
        let previous = std::mem::replace(&mut self.reported, next);
        if previous.0 != state {
            events.push(Event::StateChanged { from: previous.0, to: state, cause });
        } else if previous != next {
            events.push(Event::CauseChanged { state, cause });
        }
    }
}
