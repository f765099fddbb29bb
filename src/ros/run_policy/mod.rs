//! The action server `~/run_policy` (`openvla_tt_msgs/action/RunPolicy`): one instruction at a
//! time, from its goal to its result.
//!
//! A goal sets and withdraws the instruction and may request motion to be enabled, by the same ways
//! as the topic `instruction` and `~/enable`; everything that limits or stops motion is unchanged.
//!
//! The three services and two topics of an action are served here, not by r2r's action server: that
//! of r2r 0.9.7 never calls `rcl_action_expire_goals`, so that ten seconds after the first result
//! its timer makes every spin return at once, and it leaves cancelled goals unfinished.

mod goals;
mod holding;
mod run;

use std::time::Duration;

use r2r::{
    QosProfile, ServiceRequest,
    action_msgs::{
        msg::{GoalInfo, GoalStatus as GoalStatusMessage, GoalStatusArray},
        srv::CancelGoal,
    },
    openvla_tt_msgs::action::RunPolicy::{
        Feedback, FeedbackMessage, GetResult, Result as RunResult, SendGoal,
    },
    std_msgs::msg::Bool,
    unique_identifier_msgs::msg::UUID,
};

pub(super) use self::run::Sensed;
use self::{
    goals::{CancelFilter, GoalId, GoalStatus, Goals},
    run::{Ending, Outcome, Refusal, Run, Task, View, out_of_service},
};
use super::{
    NodeError,
    inbox::{Inbox, answer, publish, serve, subscribe},
    log::{self, Severity},
    messages::{self, reason_code, text},
    shared::Shared,
};
use crate::runtime::{ControlStatus, InputsSerial, Snapshot, Ticket};
use vla_control::action_chunk::GRIPPERS_MAX;
use vla_control::time::{Instant, Stamp};
use vla_control::{Cause, EnableOutcome, Reason, Requests};

/// Name of the action.
const NAME: &str = "~/run_policy";
/// Time between two messages of feedback without a change.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(500);
/// A refusal that is due to the moment is tried again for this long, beyond `clear_s`.
const ENABLE_PATIENCE: Duration = Duration::from_secs(1);
/// Unanswered requests for a result; of more the oldest is dropped.
const RESULT_REQUESTS: usize = 64;

/// What happens to the active goal.
enum Phase {
    /// Control has not processed the instruction, nor all that came before the goal.
    Accepted { serial: InputsSerial },
    /// Motion was requested to be enabled.
    Enabling { ticket: Ticket, until: Instant },
    /// The policy acts.
    Running,
    /// It has ended; the command comes to rest.
    Ending { ending: Ending, at: Instant, serial: InputsSerial, until: Instant, moving: bool },
}

/// The goal that is neither refused nor answered yet.
struct Active {
    id: GoalId,
    run: Run,
    phase: Phase,
    cancelled: bool,
    /// Counters at the acceptance.
    inferences: u64,
    steps: u64,
    /// State, reason and time of the last feedback.
    published: Option<((u8, u16), Instant)>,
}

/// The action server.
pub(super) struct RunPolicyServer {
    goal_requests: Inbox<ServiceRequest<SendGoal::Service>>,
    cancel_requests: Inbox<ServiceRequest<CancelGoal::Service>>,
    result_requests: Inbox<ServiceRequest<GetResult::Service>>,
    /// Requests for results of goals that have not ended.
    waiting: Vec<(GoalId, ServiceRequest<GetResult::Service>)>,
    done: Inbox<Bool>,
    feedback: r2r::Publisher<FeedbackMessage>,
    status: r2r::Publisher<GoalStatusArray>,
    goals: Goals<RunResult>,
    active: Option<Active>,
}

impl RunPolicyServer {
    pub fn create(node: &mut r2r::Node) -> Result<Self, NodeError> {
        let part = |name: &str| format!("{NAME}/_action/{name}");
        let reliable = |depth| QosProfile::default().keep_last(depth).reliable();
        Ok(Self {
            goal_requests: serve(node, &part("send_goal"))?,
            cancel_requests: serve(node, &part("cancel_goal"))?,
            result_requests: serve(node, &part("get_result"))?,
            waiting: Vec::new(),
            done: subscribe(node, "~/done", QosProfile::default().keep_last(5).reliable())?,
            feedback: publish(node, &part("feedback"), reliable(10))?,
            status: publish(node, &part("status"), reliable(1).transient_local())?,
            goals: Goals::default(),
            active: None,
        })
    }

    /// Serves requests and continues the active goal.
    pub fn poll(&mut self, shared: &mut Shared, sensed: &Sensed) {
        let mut done = false;
        while let Some(message) = self.done.next() {
            done |= message.data;
        }
        self.take_cancellations();
        while let Some(request) = self.goal_requests.next() {
            self.take_goal(shared, request, sensed);
        }
        self.advance(shared, sensed, done);
        self.take_result_requests();
        if self.goals.expire(shared.now()) {
            self.publish_status();
        }
    }

    /// Ends the active goal because the node ends; its result is sent at rest.
    pub fn shut_down(&mut self, shared: &mut Shared) {
        let Some(mut active) = self.active.take() else { return };
        if !matches!(active.phase, Phase::Ending { .. }) {
            let ending = Ending::new(Outcome::Stopped, "SHUTTING_DOWN: the node is about to exit");
            active.phase = end(shared, &active.run, ending);
        }
        self.active = Some(active);
    }

    fn take_goal(
        &mut self,
        shared: &mut Shared,
        request: ServiceRequest<SendGoal::Service>,
        sensed: &Sensed,
    ) {
        let id = identifier(&request.message.goal_id);
        let stamp = shared.ros_now();
        let known = id.is_none_or(|id| self.goals.contains(&id));
        let goal = request.message.goal.clone();
        answer(request, SendGoal::Response { accepted: !known, stamp: messages::time(stamp) });
        // A goal is rejected only for an identifier that is malformed or in use: a rejection has no
        // text, the result of a refused goal has.
        let (Some(id), false) = (id, known) else { return };
        self.goals.accept(id, stamp);
        let task = Task::read(&goal, sensed).and_then(|task| match &self.active {
            Some(_) if !goal.preempt => Err(Refusal {
                reason: 0,
                detail: "another goal is running; cancel it, or set `preempt`".into(),
            }),
            _ => Ok(task),
        });
        match task {
            Ok((task, remarks)) => {
                for remark in remarks {
                    log::limited(Severity::Warn, "instruction remark", remark);
                }
                self.preempt(shared);
                self.begin(shared, id, task);
            }
            Err(refusal) => {
                let line = format!("goal refused: {}", refusal.detail);
                log::limited(Severity::Warn, "goal", line);
                let result = refused(refusal);
                self.conclude(id, GoalStatus::Aborted, shared.now(), result);
            }
        }
        self.publish_status();
    }

    /// Ends the active goal without waiting for rest, in favour of a new one.
    fn preempt(&mut self, shared: &mut Shared) {
        let Some(active) = self.active.take() else { return };
        let now = shared.now();
        let (ending, at) = match &active.phase {
            Phase::Ending { ending, at, .. } => (ending.clone(), *at),
            _ => (Ending::new(Outcome::Preempted, "another goal took its place"), now),
        };
        self.finish(shared, &active, &ending, at, f64::NAN);
    }

    fn begin(&mut self, shared: &mut Shared, id: GoalId, task: Task) {
        let now = shared.now();
        log::info(format!("goal: {}", log::escape(task.instruction.text())));
        shared.notes.instruction = None;
        shared.runtime.set_instruction(Some(task.instruction.clone()));
        let snapshot = shared.runtime.snapshot();
        let phase = Phase::Accepted { serial: shared.runtime.inputs_serial() };
        self.active = Some(Active {
            id,
            run: Run::new(task, now),
            phase,
            cancelled: false,
            inferences: shared.metrics.inferences,
            steps: snapshot.map_or(0, |snapshot| snapshot.output.steps_begun),
            published: None,
        });
    }

    fn take_cancellations(&mut self) {
        while let Some(request) = self.cancel_requests.next() {
            let GoalInfo { goal_id, stamp } = &request.message.goal_info;
            let filter = CancelFilter {
                id: identifier(goal_id).unwrap_or_default(),
                until: messages::stamp(stamp),
            };
            let (code, cancelled) = self.goals.cancel(&filter);
            if let Some(active) = &mut self.active {
                active.cancelled |= cancelled.iter().any(|(id, _)| *id == active.id);
            }
            let goals_canceling = cancelled.iter().map(|(id, at)| goal_info(id, *at)).collect();
            answer(request, CancelGoal::Response { return_code: code as i8, goals_canceling });
            self.publish_status();
        }
    }

    fn advance(&mut self, shared: &mut Shared, sensed: &Sensed, done: bool) {
        let Some(snapshot) = shared.runtime.snapshot() else { return };
        let Some(mut active) = self.active.take() else { return };
        let now = shared.now();
        let status = ControlStatus::from(&snapshot.output);
        active.run.path.add(&snapshot);
        if let Phase::Accepted { serial } = active.phase
            && !shared.runtime.processed(serial)
        {
            self.active = Some(active);
            return;
        }
        if let Phase::Ending { ending, at, serial, until, moving } = &active.phase {
            let rested = shared.runtime.rested_since(*serial);
            if !rested && now < *until {
                self.active = Some(active);
                return;
            }
            let to_rest = match (rested, moving) {
                (true, true) => snapshot.at.since(*at).seconds(),
                (true, false) => 0.0,
                (false, _) => f64::NAN,
            };
            let (ending, at) = (ending.clone(), *at);
            self.finish(shared, &active, &ending, at, to_rest);
            return;
        }
        let instruction = shared.runtime.instruction();
        let view = View {
            now,
            in_force: instruction.is_some_and(|now| *now == active.run.task.instruction),
            status: &status,
            done,
            sensed,
            grippers: snapshot
                .output
                .command
                .map_or([None; GRIPPERS_MAX], |command| *command.grippers()),
        };
        let ending = if active.cancelled {
            Some(Ending::new(Outcome::Cancelled, "cancelled by a client"))
        } else if let Phase::Accepted { .. } = active.phase {
            accepted(shared, &mut active, &status)
        } else {
            enabling(shared, &mut active).or_else(|| active.run.verdict(&view))
        };
        match ending {
            Some(ending) if ending.outcome == Outcome::Preempted => {
                self.finish(shared, &active, &ending, now, f64::NAN);
            }
            Some(ending) => {
                active.phase = end(shared, &active.run, ending);
                self.active = Some(active);
            }
            None => {
                self.publish_feedback(shared, &mut active, &snapshot, &status);
                self.active = Some(active);
            }
        }
    }

    /// Sends the result of a goal that began.
    fn finish(
        &mut self,
        shared: &Shared,
        active: &Active,
        ending: &Ending,
        at: Instant,
        time_to_rest_s: f64,
    ) {
        let (reason, detail) = explain(shared, ending);
        let result = RunResult {
            outcome: ending.outcome as u8,
            reason,
            detail: text(&detail),
            elapsed_s: at.since(active.run.accepted).seconds(),
            time_to_rest_s,
            path_m: active.run.path.metres(),
            inferences: shared.metrics.inferences - active.inferences,
        };
        let status = match ending.outcome {
            Outcome::Done => GoalStatus::Succeeded,
            Outcome::Cancelled => GoalStatus::Canceled,
            _ => GoalStatus::Aborted,
        };
        log::info(format!("goal ended: {detail}"));
        self.conclude(active.id, status, shared.now(), result);
    }

    fn conclude(&mut self, id: GoalId, status: GoalStatus, now: Instant, result: RunResult) {
        self.goals.end(&id, status, now, result.clone());
        let waiting = std::mem::take(&mut self.waiting);
        let (ready, waiting) = waiting.into_iter().partition(|(of, _)| *of == id);
        self.waiting = waiting;
        for (_, request) in ready {
            let response = GetResult::Response { status: status.code(), result: result.clone() };
            answer(request, response);
        }
        self.publish_status();
    }

    fn take_result_requests(&mut self) {
        while let Some(request) = self.result_requests.next() {
            let id = identifier(&request.message.goal_id);
            let known = id.filter(|id| self.goals.contains(id));
            let ended = known.and_then(|id| self.goals.result(&id));
            match (known, ended) {
                (_, Some((status, result))) => {
                    let (status, result) = (status.code(), result.clone());
                    answer(request, GetResult::Response { status, result });
                }
                (Some(id), None) => {
                    if self.waiting.len() == RESULT_REQUESTS {
                        self.waiting.remove(0);
                    }
                    self.waiting.push((id, request));
                }
                (None, None) => {
                    let (status, result) = (GoalStatus::UNKNOWN, RunResult::default());
                    answer(request, GetResult::Response { status, result });
                }
            }
        }
    }

    fn publish_feedback(
        &self,
        shared: &Shared,
        active: &mut Active,
        snapshot: &Snapshot,
        status: &ControlStatus,
    ) {
        let (now, reason) = (shared.now(), status.cause.reason);
        let state = (status.state.code(), reason_code(reason, shared.notes.hints()));
        let due = |(published, at): (_, Instant)| {
            published != state || now.since(at).exceeds(FEEDBACK_INTERVAL)
        };
        if !active.published.is_none_or(due) {
            return;
        }
        active.published = Some((state, now));
        let cause = Some(&status.cause).filter(|cause| cause.reason != Reason::None);
        let feedback = Feedback {
            state: state.0,
            reason: state.1,
            detail: cause.map_or_else(String::new, |cause| text(&shared.cause_text(cause))),
            elapsed_s: active.run.elapsed_s(now),
            path_m: active.run.path.metres(),
            inferences: shared.metrics.inferences - active.inferences,
            generation: shared.metrics.generation,
            // The count starts anew with a new configuration.
            steps: snapshot.output.steps_begun.saturating_sub(active.steps),
        };
        let message = FeedbackMessage { goal_id: UUID { uuid: active.id.to_vec() }, feedback };
        if let Err(error) = self.feedback.publish(&message) {
            log::limited(Severity::Warn, "publish", format!("{NAME} feedback: {error}"));
        }
    }

    fn publish_status(&self) {
        let status_list = self
            .goals
            .iter()
            .map(|goal| GoalStatusMessage {
                goal_info: goal_info(&goal.id, goal.accepted),
                status: goal.status.code(),
            })
            .collect();
        if let Err(error) = self.status.publish(&GoalStatusArray { status_list }) {
            log::limited(Severity::Warn, "publish", format!("{NAME} status: {error}"));
        }
    }
}

/// Begins the goal with the first step that has its instruction; a latch, or a node that is not
/// active, refuses it.
fn accepted(shared: &mut Shared, active: &mut Active, status: &ControlStatus) -> Option<Ending> {
    if out_of_service(status) {
        return Some(Ending::refused(status.cause));
    }
    active.phase = if active.run.task.enable && !status.enabled() {
        let clear = Duration::from_secs_f64(shared.parameters.raw_control.clear_s.max(0.0));
        let until = shared.now().after(clear + ENABLE_PATIENCE);
        Phase::Enabling { ticket: enable(shared), until }
    } else {
        Phase::Running
    };
    None
}

/// Follows the request to enable motion; a refusal ends the goal.
fn enabling(shared: &mut Shared, active: &mut Active) -> Option<Ending> {
    let Phase::Enabling { ticket, until } = active.phase else { return None };
    if !shared.runtime.answered(ticket) {
        return None;
    }
    let cause = match shared.runtime.snapshot().and_then(|snapshot| snapshot.enable)? {
        EnableOutcome::Enabled => {
            active.phase = Phase::Running;
            return None;
        }
        EnableOutcome::Disabled => Cause::not_enabled(Reason::None, None),
        // From the last hold.
        EnableOutcome::Refused(cause)
            if cause.reason == Reason::Recovering && shared.now() < until =>
        {
            active.phase = Phase::Enabling { ticket: enable(shared), until };
            return None;
        }
        EnableOutcome::Refused(cause) => cause,
    };
    Some(Ending::refused(cause))
}

fn enable(shared: &mut Shared) -> Ticket {
    shared.runtime.request(Requests { enable: Some(true), ..Requests::default() })
}

/// Withdraws the goal's instruction, which brings the command to rest.
fn end(shared: &mut Shared, run: &Run, ending: Ending) -> Phase {
    let in_force = shared.runtime.instruction().is_some_and(|now| *now == run.task.instruction);
    if in_force {
        shared.runtime.set_instruction(None);
    }
    let at = shared.now();
    let moving = shared.runtime.snapshot().is_some_and(|snapshot| !snapshot.output.at_rest);
    let until = at.after(shared.runtime.rest_within() + Duration::from_secs(1));
    Phase::Ending { ending, at, serial: shared.runtime.inputs_serial(), until, moving }
}

/// The reason and the sentence of a result.
fn explain(shared: &Shared, ending: &Ending) -> (u16, String) {
    let Some(cause) = &ending.cause else { return (0, ending.detail.clone()) };
    let reason = match (cause.reason, cause.withdrawn_by) {
        (Reason::NotEnabled, by) if by != Reason::None => by,
        (reason, _) => reason,
    };
    (reason_code(reason, shared.notes.hints()), shared.cause_text(cause))
}

fn refused(refusal: Refusal) -> RunResult {
    RunResult {
        outcome: Outcome::Refused as u8,
        reason: refusal.reason,
        detail: text(&refusal.detail),
        elapsed_s: 0.0,
        time_to_rest_s: f64::NAN,
        path_m: 0.0,
        inferences: 0,
    }
}

fn identifier(uuid: &UUID) -> Option<GoalId> {
    GoalId::try_from(uuid.uuid.as_slice()).ok()
}

fn goal_info(id: &GoalId, accepted: Stamp) -> GoalInfo {
    GoalInfo { goal_id: UUID { uuid: id.to_vec() }, stamp: messages::time(accepted) }
}
