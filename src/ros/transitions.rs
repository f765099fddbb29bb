//! The managed lifecycle: its services, and the work of each transition.

use std::{
    sync::Arc,
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
    lifecycle::{Ended, GRAPH, LifecycleStateMachine, State, Transition},
    log::{self, Severity, Throttle},
    shared::Shared,
    subscriptions::Subscriptions,
};
use crate::runtime::{LoadRequest, Loaded};
use vla_control::Lifecycle;
use vla_control::time::Instant;

/// How long `cleanup` waits for a running inference.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the log repeats what an automatic activation waits for.
const WAITING_REPEAT: Duration = Duration::from_secs(30);

/// The work of a transition state.
enum Work {
    /// The worker loads and tests the checkpoint.
    Load { loaded: Receiver<Result<Loaded, String>>, until: Instant },
    /// Control comes to rest.
    Rest { until: Instant },
    /// Control comes to rest, then the worker frees the model.
    RestThenFree { until: Instant },
    /// The worker frees the model.
    Free { freed: Receiver<()>, until: Instant },
}

/// Transitions that the node makes without a lifecycle manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Autostart {
    Done,
    Configure,
    Activate,
}

/// The lifecycle's services and the transition under way.
pub(super) struct LifecycleManager {
    machine: LifecycleStateMachine,
    autostart: Autostart,
    waiting: Throttle,
    work: Option<Work>,
    request: Option<ServiceRequest<ChangeState::Service>>,
    change_state: Inbox<ServiceRequest<ChangeState::Service>>,
    get_state: Inbox<ServiceRequest<GetState::Service>>,
    get_available_states: Inbox<ServiceRequest<GetAvailableStates::Service>>,
    get_available_transitions: Inbox<ServiceRequest<GetAvailableTransitions::Service>>,
    get_transition_graph: Inbox<ServiceRequest<GetAvailableTransitions::Service>>,
    events: r2r::Publisher<msg::TransitionEvent>,
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

impl LifecycleManager {
    pub fn create(node: &mut r2r::Node, autostart: bool) -> Result<Self, NodeError> {
        let events = QosProfile::default().keep_last(10).reliable();
        Ok(Self {
            machine: LifecycleStateMachine::default(),
            autostart: if autostart { Autostart::Configure } else { Autostart::Done },
            waiting: Throttle::default(),
            work: None,
            request: None,
            change_state: serve(node, "~/change_state")?,
            get_state: serve(node, "~/get_state")?,
            get_available_states: serve(node, "~/get_available_states")?,
            get_available_transitions: serve(node, "~/get_available_transitions")?,
            get_transition_graph: serve(node, "~/get_transition_graph")?,
            events: publish(node, "~/transition_event", events)?,
        })
    }

    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// Shuts down from any state, because the process ends: motion comes to rest, and the work
    /// under way is abandoned.
    pub fn begin_shutdown(&mut self, shared: &mut Shared) {
        self.machine.begin(0, "shutdown");
        self.autostart = Autostart::Done;
        self.work = None;
        shared.runtime.deactivate();
    }

    /// Serves requests and continues the transition under way.
    pub fn poll(&mut self, shared: &mut Shared, subscriptions: &Subscriptions) {
        self.answer_queries();
        self.take_transition_requests(shared, subscriptions);
        self.start_by_itself(shared, subscriptions);
        self.continue_work(shared);
    }

    fn answer_queries(&mut self) {
        let current_state = state_message(self.state());
        while let Some(request) = self.get_state.next() {
            answer(request, GetState::Response { current_state: current_state.clone() });
        }
        while let Some(request) = self.get_available_states.next() {
            let available_states = State::ALL.into_iter().map(state_message).collect();
            answer(request, GetAvailableStates::Response { available_states });
        }
        while let Some(request) = self.get_available_transitions.next() {
            let available_transitions = self.machine.available().map(description).collect();
            answer(request, GetAvailableTransitions::Response { available_transitions });
        }
        while let Some(request) = self.get_transition_graph.next() {
            let available_transitions = GRAPH.iter().map(description).collect();
            answer(request, GetAvailableTransitions::Response { available_transitions });
        }
    }

    fn take_transition_requests(&mut self, shared: &mut Shared, subscriptions: &Subscriptions) {
        while let Some(request) = self.change_state.next() {
            let wanted = &request.message.transition;
            if let Some(edge) = self.machine.begin(wanted.id, &wanted.label) {
                self.autostart = Autostart::Done; // a lifecycle manager is at work
                self.begin(shared, subscriptions, edge, Some(request));
            } else {
                let line = format!(
                    "no transition '{}' ({}) from {}",
                    wanted.label,
                    wanted.id,
                    self.state().label()
                );
                log::limited(Severity::Warn, "transition refused", line);
                answer(request, ChangeState::Response { success: false });
            }
        }
    }

    /// Configures, then activates as soon as what activation needs is there.
    fn start_by_itself(&mut self, shared: &mut Shared, subscriptions: &Subscriptions) {
        let label = match (self.autostart, self.state()) {
            (Autostart::Configure, State::Unconfigured) => "configure",
            (Autostart::Activate, State::Inactive) => {
                if let Some(missing) = missing_for_activation(shared, subscriptions) {
                    let now = std::time::Instant::now();
                    if self.waiting.permit("activation", now, WAITING_REPEAT) {
                        log::warn(format!("waiting to activate: {missing}"));
                    }
                    shared.notes.transition = Some(missing);
                    return;
                }
                "activate"
            }
            _ => return,
        };
        if let Some(edge) = self.machine.begin(0, label) {
            self.autostart = Autostart::Activate;
            self.begin(shared, subscriptions, edge, None);
        }
    }

    /// Starts the work of a transition that the state machine has taken.
    fn begin(
        &mut self,
        shared: &mut Shared,
        subscriptions: &Subscriptions,
        edge: &'static Transition,
        request: Option<ServiceRequest<ChangeState::Service>>,
    ) {
        self.publish_transition(shared, edge);
        self.request = request;
        let stop_s = shared.parameters.control.stop_time_s() + 1.0;
        let until = shared.now().after(Duration::from_secs_f64(stop_s));
        match edge.goal {
            State::Configuring => self.load(shared),
            State::Activating => match missing_for_activation(shared, subscriptions) {
                Some(missing) => self.finish(shared, Ended::Failure, Some(missing)),
                None => {
                    shared.notes.transition = None;
                    shared.runtime.set_lifecycle(Lifecycle::Active);
                    self.finish(shared, Ended::Success, None);
                }
            },
            State::Deactivating => {
                shared.runtime.set_lifecycle(Lifecycle::Inactive);
                self.work = Some(Work::Rest { until });
            }
            State::CleaningUp => self.free(shared),
            _ => {
                shared.runtime.set_lifecycle(Lifecycle::Inactive);
                self.work = Some(Work::RestThenFree { until });
            }
        }
    }

    fn load(&mut self, shared: &mut Shared) {
        let latched =
            shared.runtime.snapshot().is_some_and(|snapshot| snapshot.output.state.is_latched());
        if latched {
            let note = "a fault or e-stop is latched; call ~/reset first".into();
            return self.finish(shared, Ended::Failure, Some(note));
        }
        shared.notes.transition = None;
        let parameters = &shared.parameters;
        log::info(match &parameters.remote {
            Some(address) => format!("connecting to {address}"),
            None => format!("loading {} on {}", parameters.checkpoint.display(), parameters.device),
        });
        let cameras = parameters.cameras.iter();
        let loaded = shared.runtime.load(LoadRequest {
            loader: (shared.factory)(parameters),
            transform: parameters.transform(),
            policy_hz: parameters.policy_hz,
            execute: parameters.execute,
            motion_delay: parameters.motion_delay(),
            rate_limit_hz: parameters.inference_rate_hz,
            cameras: cameras.map(|camera| Arc::clone(&camera.name)).collect(),
            needs_state: !(parameters.state.is_empty() && parameters.joints.is_empty()),
        });
        let until = shared.now().after(Duration::from_secs_f64(parameters.load_timeout_s));
        self.work = Some(Work::Load { loaded, until });
    }

    fn free(&mut self, shared: &mut Shared) {
        let until = shared.now().after(CLEANUP_TIMEOUT);
        let freed = shared.runtime.unload();
        self.work = Some(Work::Free { freed, until });
    }

    /// Ends the work under way if it is done or overdue.
    fn continue_work(&mut self, shared: &mut Shared) {
        let now = shared.now();
        let Some(work) = self.work.take() else { return };
        match work {
            Work::Load { loaded, until } => self.continue_load(shared, loaded, until),
            Work::Rest { .. } if shared.runtime.at_rest() => {
                self.finish(shared, Ended::Success, None);
            }
            Work::RestThenFree { .. } if shared.runtime.at_rest() => self.free(shared),
            Work::Rest { until } | Work::RestThenFree { until } if until < now => {
                let note = "the command did not come to zero in time".into();
                self.finish(shared, Ended::Error, Some(note));
            }
            Work::Free { freed, until } => match freed.try_recv() {
                Ok(()) => self.finish(shared, Ended::Success, None),
                Err(TryRecvError::Empty) if now < until => {
                    self.work = Some(Work::Free { freed, until });
                }
                // The end of the process frees the model in any case.
                _ if self.state() == State::ShuttingDown => {
                    self.finish(shared, Ended::Success, None);
                }
                // The command to free it stays in the worker's queue.
                _ => {
                    let note = "an inference is still running; the model is freed when it ends";
                    self.finish(shared, Ended::Error, Some(note.into()));
                }
            },
            waiting => self.work = Some(waiting),
        }
    }

    fn continue_load(
        &mut self,
        shared: &mut Shared,
        loaded: Receiver<Result<Loaded, String>>,
        until: Instant,
    ) {
        match loaded.try_recv() {
            Ok(Ok(loaded)) => self.loaded(shared, loaded),
            Ok(Err(problem)) => self.finish(shared, Ended::Failure, Some(problem)),
            Err(TryRecvError::Empty) if shared.now() < until => {
                self.work = Some(Work::Load { loaded, until });
            }
            // The worker frees the policy when it finds the receiver gone.
            Err(TryRecvError::Empty) => {
                let limit = shared.parameters.load_timeout_s;
                let note = format!("loading took more than load_timeout_s, {limit} s");
                self.finish(shared, Ended::Error, Some(note));
            }
            Err(TryRecvError::Disconnected) => {
                self.finish(shared, Ended::Error, Some("the inference thread is gone".into()));
            }
        }
    }

    fn loaded(&mut self, shared: &mut Shared, loaded: Loaded) {
        let configured = match shared.parameters.with_policy(&loaded) {
            Ok(configured) => configured,
            Err(problem) => return self.finish(shared, Ended::Failure, Some(problem)),
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
        if let Some(origin) = &loaded.origin {
            log::info(format!("policy server {origin}"));
        }
        if let Some(seed) = loaded.seed {
            log::info(format!("the noise of the first chunk has the seed {seed} (parameter seed)"));
        }
        if 0.0 < configured.added_latency_s {
            log::warn(format!(
                "every inference takes {} s longer than it needs (parameter added_latency_s)",
                configured.added_latency_s
            ));
        }
        if configured.joints.is_empty() && loaded.info.envelope.iter().take(6).any(Option::is_none)
        {
            log::warn(
                "the statistics do not cover every pose number (mask false): actions are not held \
                to an envelope",
            );
        }
        if let Some(remark) = &loaded.remark {
            log::warn(format!("self-test on a grey image: {remark}"));
        }
        shared.parameters = configured;
        shared.runtime.configure_control(control);
        shared.policy = Some(loaded.info);
        self.finish(shared, Ended::Success, None);
    }

    /// Ends the work of a transition state, answers its request, and brings the runtime to the
    /// state reached.
    fn finish(&mut self, shared: &mut Shared, ended: Ended, note: Option<String>) {
        let label = self.state().label();
        if let Some(edge) = self.machine.end(ended) {
            self.publish_transition(shared, edge);
        }
        if let Some(note) = note {
            log::limited(Severity::Error, "transition failed", format!("{label}: {note}"));
            shared.notes.transition = Some(note);
        }
        if ended == Ended::Error {
            // Error processing: motion stops and the model is freed; this cannot fail.
            shared.runtime.set_lifecycle(Lifecycle::Inactive);
            drop(shared.runtime.unload());
            if let Some(edge) = self.machine.end(Ended::Success) {
                self.publish_transition(shared, edge);
            }
        }
        let reached = self.state();
        match reached {
            State::Unconfigured => {
                shared.policy = None;
                shared.runtime.set_lifecycle(Lifecycle::Unconfigured);
                if ended != Ended::Success {
                    self.autostart = Autostart::Done;
                    // Do not keep a policy that was loaded and then refused.
                    drop(shared.runtime.unload());
                }
            }
            State::Inactive => shared.runtime.set_lifecycle(Lifecycle::Inactive),
            _ => {}
        }
        log::limited(Severity::Info, "lifecycle", format!("lifecycle: {}", reached.label()));
        if let Some(request) = self.request.take() {
            answer(request, ChangeState::Response { success: ended == Ended::Success });
        }
    }

    fn publish_transition(&self, shared: &Shared, edge: &Transition) {
        let event = msg::TransitionEvent {
            timestamp: u64::try_from(shared.ros_now().nanoseconds()).unwrap_or(0),
            transition: msg::Transition { id: edge.id, label: edge.label.to_owned() },
            start_state: state_message(edge.start),
            goal_state: state_message(edge.goal),
        };
        if let Err(error) = self.events.publish(&event) {
            log::limited(Severity::Warn, "publish", format!("~/transition_event: {error}"));
        }
    }
}

/// Why the node cannot be activated now.
fn missing_for_activation(shared: &Shared, subscriptions: &Subscriptions) -> Option<String> {
    let control = &shared.parameters.control;
    // A dry run moves nothing that a workspace could guard.
    if !control.needs_ee_pose() || control.dry_run() {
        return None;
    }
    let newest = subscriptions.pose_at().map(|at| shared.now().since(at).seconds());
    if newest.is_some_and(|age| age <= shared.parameters.raw_control.pose_timeout_s) {
        return None;
    }
    // Ages by a clock that stands at zero would only mislead.
    if subscriptions.clock_missing() {
        return Some("use_sim_time is true, but no /clock message has arrived".into());
    }
    let pose = shared.notes.pose.as_ref();
    let note = pose.map_or("no fresh ee_pose arrives", |(_, note)| note.as_str());
    Some(format!(
        "a workspace is set, but {note}; publish it or remove workspace.min and workspace.max"
    ))
}
