//! The managed lifecycle: its services, and the work behind each transition.

use std::{
    sync::mpsc::{Receiver, TryRecvError},
    time::Duration,
};

use r2r::{
    QosProfile, ServiceRequest,
    lifecycle_msgs::{
        msg,
        srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState},
    },
};

use super::{
    NodeError,
    inbox::{Inbox, answer, publish, serve},
    lifecycle::{Ended, GRAPH, Machine, State, Transition},
    log,
    node::VlaNode,
};
use crate::runtime::Loaded;
use vla_control::Lifecycle;
use vla_control::time::{Clock, Instant};

/// How long `cleanup` waits for a running inference.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);

/// What a transition state waits for.
pub(super) enum Work {
    /// The worker loads and tests the checkpoint.
    Load { answer: Receiver<Result<Loaded, String>>, until: Instant },
    /// Control comes to rest.
    Rest { until: Instant },
    /// Control comes to rest, then the worker frees the model.
    RestThenFree { until: Instant },
    /// The worker frees the model.
    Free { answer: Receiver<()>, until: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Autostart {
    Done,
    Configure,
    Activate { tried: Option<Instant> },
}

/// The lifecycle's services and what is under way.
pub(super) struct Transitions {
    machine: Machine,
    autostart: Autostart,
    pub work: Option<Work>,
    request: Option<ServiceRequest<ChangeState::Service>>,
    change_state: Inbox<ServiceRequest<ChangeState::Service>>,
    get_state: Inbox<ServiceRequest<GetState::Service>>,
    get_available_states: Inbox<ServiceRequest<GetAvailableStates::Service>>,
    get_available_transitions: Inbox<ServiceRequest<GetAvailableTransitions::Service>>,
    get_transition_graph: Inbox<ServiceRequest<GetAvailableTransitions::Service>>,
    events: r2r::Publisher<msg::TransitionEvent>,
}

impl Transitions {
    pub fn create(node: &mut r2r::Node, autostart: bool) -> Result<Self, NodeError> {
        Ok(Self {
            machine: Machine::default(),
            autostart: if autostart { Autostart::Configure } else { Autostart::Done },
            work: None,
            request: None,
            change_state: serve(node, "~/change_state")?,
            get_state: serve(node, "~/get_state")?,
            get_available_states: serve(node, "~/get_available_states")?,
            get_available_transitions: serve(node, "~/get_available_transitions")?,
            get_transition_graph: serve(node, "~/get_transition_graph")?,
            events: publish(
                node,
                "~/transition_event",
                QosProfile::default().keep_last(10).reliable(),
            )?,
        })
    }

    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// For a process that ends: whatever state it was in.
    pub fn begin_shutdown(&mut self) {
        self.machine.begin(0, "shutdown");
        self.autostart = Autostart::Done;
    }
}

fn state_message(state: State) -> msg::State {
    msg::State { id: state.id(), label: state.label().to_owned() }
}

fn description(edge: &Transition) -> msg::TransitionDescription {
    msg::TransitionDescription {
        transition: msg::Transition { id: edge.id, label: edge.label.to_owned() },
        start_state: state_message(edge.start),
        goal_state: state_message(edge.goal),
    }
}

impl VlaNode {
    pub(super) fn take_transition_requests(&mut self) {
        let transitions = &mut self.transitions;
        let state = transitions.state();
        while let Some(request) = transitions.get_state.next() {
            answer(request, GetState::Response { current_state: state_message(state) });
        }
        while let Some(request) = transitions.get_available_states.next() {
            let available_states = State::ALL.into_iter().map(state_message).collect();
            answer(request, GetAvailableStates::Response { available_states });
        }
        while let Some(request) = transitions.get_available_transitions.next() {
            let available_transitions = transitions.machine.available().map(description).collect();
            answer(request, GetAvailableTransitions::Response { available_transitions });
        }
        while let Some(request) = transitions.get_transition_graph.next() {
            answer(
                request,
                GetAvailableTransitions::Response {
                    available_transitions: GRAPH.iter().map(description).collect(),
                },
            );
        }
        while let Some(request) = self.transitions.change_state.next() {
            let wanted = &request.message.transition;
            if let Some(edge) = self.transitions.machine.begin(wanted.id, &wanted.label) {
                self.transitions.autostart = Autostart::Done; // somebody manages this node
                self.begin(edge, Some(request));
            } else {
                log::warn(format!(
                    "no transition '{}' ({}) from {}",
                    wanted.label,
                    wanted.id,
                    self.transitions.state().label()
                ));
                answer(request, ChangeState::Response { success: false });
            }
        }
        self.start_by_itself();
    }

    fn start_by_itself(&mut self) {
        let now = self.clock.steady();
        let label = match (self.transitions.autostart, self.transitions.state()) {
            (Autostart::Configure, State::Unconfigured) => "configure",
            // What activation needs (the first ee_pose) may come later than the checkpoint.
            (Autostart::Activate { tried }, State::Inactive)
                if tried
                    .is_none_or(|tried| now.since(tried).exceeds(Duration::from_millis(500))) =>
            {
                "activate"
            }
            _ => return,
        };
        if let Some(edge) = self.transitions.machine.begin(0, label) {
            self.transitions.autostart = match self.transitions.autostart {
                Autostart::Configure => Autostart::Activate { tried: None },
                _ => Autostart::Activate { tried: Some(now) },
            };
            self.begin(edge, None);
        }
    }

    /// Starts the work of a transition that the machine has taken.
    fn begin(
        &mut self,
        edge: &'static Transition,
        request: Option<ServiceRequest<ChangeState::Service>>,
    ) {
        self.tell_transition(edge);
        self.transitions.request = request;
        let now = self.clock.steady();
        let until = now.after(Duration::from_secs_f64(self.parameters.control.stop_time_s() + 1.0));
        match edge.goal {
            State::Configuring => {
                if self
                    .runtime
                    .snapshot()
                    .is_some_and(|snapshot| snapshot.output.state.is_latched())
                {
                    return self.finish(
                        Ended::Failure,
                        Some("a fault or e-stop is latched; call ~/reset first".into()),
                    );
                }
                self.facts.note = None;
                log::info(format!(
                    "loading {} on {}",
                    self.parameters.checkpoint.display(),
                    self.parameters.device
                ));
                let loader = (self.factory)(&self.parameters);
                let meaning = self.parameters.transform();
                let answer = self.runtime.load(
                    loader,
                    meaning,
                    self.parameters.policy_hz,
                    self.parameters.inference_rate_hz,
                );
                let until = now.after(Duration::from_secs_f64(self.parameters.load_timeout_s));
                self.work_on(Work::Load { answer, until });
            }
            State::Activating => match self.missing_for_activation() {
                Some(missing) => self.finish(Ended::Failure, Some(missing)),
                None => {
                    self.facts.note = None;
                    self.runtime.set_lifecycle(Lifecycle::Active);
                    self.finish(Ended::Success, None);
                }
            },
            State::Deactivating => {
                self.runtime.set_lifecycle(Lifecycle::Inactive);
                self.work_on(Work::Rest { until });
            }
            State::CleaningUp => self.free(),
            _ => {
                self.runtime.set_lifecycle(Lifecycle::Inactive);
                self.work_on(Work::RestThenFree { until });
            }
        }
    }

    fn missing_for_activation(&self) -> Option<String> {
        if !self.parameters.control.needs_ee_pose() {
            return None;
        }
        let newest = self.pose_at.map(|at| self.clock.steady().since(at).seconds());
        if newest.is_some_and(|age| age <= self.parameters.raw_control.pose_timeout_s) {
            return None;
        }
        let note = self.facts.pose_note.as_deref().unwrap_or("no fresh ee_pose arrives");
        Some(format!(
            "a workspace is set, but {note}; publish it or remove workspace.min and workspace.max"
        ))
    }

    fn free(&mut self) {
        let until = self.clock.steady().after(CLEANUP_PATIENCE);
        let answer = self.runtime.unload();
        self.work_on(Work::Free { answer, until });
    }

    pub(super) fn advance_transition(&mut self) {
        let now = self.clock.steady();
        let Some(work) = self.transitions.work.take() else { return };
        match work {
            Work::Load { answer, until } => match answer.try_recv() {
                Ok(loaded) => self.loaded(loaded),
                Err(TryRecvError::Empty) if now < until => {
                    self.work_on(Work::Load { answer, until })
                }
                // The worker gives the policy up again when it finds that nobody waits for it.
                Err(TryRecvError::Empty) => {
                    let limit = self.parameters.load_timeout_s;
                    self.finish(
                        Ended::Error,
                        Some(format!("loading took more than load_timeout_s, {limit} s")),
                    );
                }
                Err(TryRecvError::Disconnected) => {
                    self.finish(Ended::Error, Some("the inference thread is gone".into()))
                }
            },
            Work::Rest { .. } | Work::RestThenFree { .. } if self.runtime.at_rest() => match work {
                Work::RestThenFree { .. } => self.free(),
                _ => self.finish(Ended::Success, None),
            },
            Work::Rest { until } | Work::RestThenFree { until } if until < now => {
                self.finish(Ended::Error, Some("the command did not come to zero in time".into()));
            }
            Work::Free { answer, until } => match answer.try_recv() {
                Ok(()) => self.finish(Ended::Success, None),
                Err(TryRecvError::Empty) if now < until => {
                    self.work_on(Work::Free { answer, until })
                }
                // A process that ends frees the model in any case.
                _ if self.transitions.state() == State::ShuttingDown => {
                    self.finish(Ended::Success, None)
                }
                // The order to free stays in the worker's queue: it is carried out when the
                // inference ends.
                _ => self.finish(
                    Ended::Error,
                    Some("an inference is still running; the model is freed when it ends".into()),
                ),
            },
            waiting => self.work_on(waiting),
        }
    }

    fn loaded(&mut self, loaded: Result<Loaded, String>) {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(problem) => return self.finish(Ended::Failure, Some(problem)),
        };
        let configured = match self.parameters.with_policy(&loaded) {
            Ok(configured) => configured,
            Err(problem) => return self.finish(Ended::Failure, Some(problem)),
        };
        let control = configured.control;
        log::info(format!(
            "loaded: statistics '{}', {} at {}, self-test {:.1} ms, deadline {:.0} ms",
            loaded.info.unnorm_key,
            loaded.info.device,
            loaded.info.precision,
            loaded.inference_s * 1e3,
            control.inference_timeout().as_secs_f64() * 1e3
        ));
        if loaded.info.envelope.iter().take(6).any(Option::is_none) {
            log::warn(
                "the statistics do not cover every pose number (mask false): actions are not held \
                to an envelope",
            );
        }
        if let Some(remark) = &loaded.remark {
            log::warn(format!("self-test on a grey image: {remark}"));
        }
        self.parameters = configured;
        self.runtime.configure_control(control);
        self.facts.info = Some(loaded.info);
        self.finish(Ended::Success, None);
    }

    /// Ends the work of a transition state, answers who asked for it, and brings the runtime into
    /// the state reached.
    fn finish(&mut self, ended: Ended, note: Option<String>) {
        let label = self.transitions.state().label();
        if let Some(edge) = self.transitions.machine.end(ended) {
            self.tell_transition(edge);
        }
        if let Some(note) = note {
            log::error(format!("{label}: {note}"));
            self.facts.note = Some(note);
        }
        if ended == Ended::Error {
            // Error processing: nothing moves any more and no model is kept; that cannot fail.
            self.runtime.set_lifecycle(Lifecycle::Inactive);
            drop(self.runtime.unload());
            if let Some(edge) = self.transitions.machine.end(Ended::Success) {
                self.tell_transition(edge);
            }
        }
        let reached = self.transitions.state();
        match reached {
            State::Unconfigured => {
                self.facts.info = None;
                self.runtime.set_lifecycle(Lifecycle::Unconfigured);
                if ended != Ended::Success {
                    self.transitions.autostart = Autostart::Done;
                    // A policy that was loaded and then refused is not kept.
                    drop(self.runtime.unload());
                }
            }
            State::Inactive => self.runtime.set_lifecycle(Lifecycle::Inactive),
            _ => {}
        }
        log::info(format!("lifecycle: {}", reached.label()));
        if let Some(request) = self.transitions.request.take() {
            answer(request, ChangeState::Response { success: ended == Ended::Success });
        }
    }

    fn tell_transition(&mut self, edge: &Transition) {
        let event = msg::TransitionEvent {
            timestamp: u64::try_from(self.ros_now().nanoseconds()).unwrap_or(0),
            transition: msg::Transition { id: edge.id, label: edge.label.to_owned() },
            start_state: state_message(edge.start),
            goal_state: state_message(edge.goal),
        };
        if let Err(error) = self.transitions.events.publish(&event) {
            log::warn(format!("~/transition_event: {error}"));
        }
    }
}
