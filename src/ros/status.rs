//! Publishes `~/action`, `~/status` and `/diagnostics`, and logs the events of control.

use r2r::{
    QosProfile,
    diagnostic_msgs::msg::DiagnosticArray,
    openvla_tt_msgs::msg::{Action, Status},
    std_msgs::msg::Header,
};

use super::{
    NodeError, diagnostics,
    inbox::publish,
    lifecycle,
    log::{self, Severity, Throttle},
    messages::{self, reason_code, text},
    notes::Notes,
    shared::Shared,
    topics::{ProblemKind, TopicProblem},
};
use crate::runtime::{ControlStatus, LoopEvent, Snapshot, WorkerReport};
use std::time::Duration;
use vla_control::time::Instant;
use vla_control::{Event, Intervention, Reason, Seam, Source, State};

/// Statuses kept for late or slow subscribers.
const HISTORY: usize = 20;
/// Detectors whose findings come and go are logged at most once in this time.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Parts of the status that other components own.
pub(super) struct StatusView<'a> {
    pub lifecycle: lifecycle::State,
    pub topics: &'a [TopicProblem],
    /// `use_sim_time` is set and `/clock` is silent.
    pub clock_missing: bool,
}

/// A cause as `~/status` shows it: the constant of `Status.msg` and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedCause {
    pub code: u16,
    pub text: String,
}

/// The part of a status whose change is published at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Essence {
    state: u8,
    reason: u16,
    enabled: bool,
    causes: Vec<u16>,
    /// What the cause is about beyond its reason: why the enabling was withdrawn, and the source.
    about: (u16, Option<Source>),
    instruction: String,
    lifecycle: u8,
    notes: String,
}

/// The publishers of the node's state, and what they published last.
pub(super) struct StatusPublisher {
    node_name: String,
    action: r2r::Publisher<Action>,
    status: r2r::Publisher<Status>,
    diagnostics: r2r::Publisher<DiagnosticArray>,
    last: Option<Essence>,
    newest: Option<Status>,
    /// Time of the last periodic publication.
    last_periodic: Option<Instant>,
    notices: Throttle,
    events_lost: u64,
}

impl StatusPublisher {
    pub fn create(node: &mut r2r::Node, node_name: String) -> Result<Self, NodeError> {
        let reliable = |depth| QosProfile::default().keep_last(depth).reliable();
        Ok(Self {
            node_name,
            action: publish(node, "~/action", reliable(10))?,
            status: publish(node, "~/status", reliable(HISTORY).transient_local())?,
            diagnostics: publish(node, "/diagnostics", reliable(10))?,
            last: None,
            newest: None,
            last_periodic: None,
            notices: Throttle::default(),
            events_lost: 0,
        })
    }

    /// The message that was published last.
    pub fn newest(&self) -> Option<&Status> {
        self.newest.as_ref()
    }

    /// Publishes everything that happened since the last call, in order.
    pub fn poll(&mut self, shared: &mut Shared, view: &StatusView<'_>) {
        self.take_worker_reports(shared);
        let Some(snapshot) = shared.runtime.snapshot() else { return };
        // Exactly the events up to the snapshot, so that the snapshot comes last.
        while let Some(event) = shared.runtime.event_until(snapshot.at) {
            match event.event {
                LoopEvent::StatusChanged(status) => {
                    self.publish_change(shared, view, &snapshot, &status);
                }
                LoopEvent::Control(event) => self.take_event(shared, event),
            }
        }
        if self.events_lost < snapshot.events_lost {
            let lost = snapshot.events_lost - self.events_lost;
            self.events_lost = snapshot.events_lost;
            let line = format!("{lost} events of control were lost: this node gets too little CPU");
            log::limited(Severity::Warn, "events lost", line);
        }
        let status = ControlStatus::from(&snapshot.output);
        let now = shared.now();
        let due = |last: Instant| 1.0 <= now.since(last).seconds();
        if self.last_periodic.is_none_or(due) {
            self.last_periodic = Some(now);
            shared.metrics.command_rate.update(now, snapshot.commands);
            self.publish_periodic(shared, view, &snapshot, &status);
        } else {
            self.publish_change(shared, view, &snapshot, &status);
        }
    }

    /// Publishes `~/status` if it differs from the last one in more than measurements.
    fn publish_change(
        &mut self,
        shared: &Shared,
        view: &StatusView<'_>,
        snapshot: &Snapshot,
        status: &ControlStatus,
    ) {
        let causes = causes(shared, view, status);
        let essence = essence(shared, view, status, &causes);
        if self.last.as_ref() != Some(&essence) {
            self.send(message(shared, snapshot, status, &essence, &causes));
            self.last = Some(essence);
        }
    }

    fn publish_periodic(
        &mut self,
        shared: &Shared,
        view: &StatusView<'_>,
        snapshot: &Snapshot,
        status: &ControlStatus,
    ) {
        let causes = causes(shared, view, status);
        let essence = essence(shared, view, status, &causes);
        let message = message(shared, snapshot, status, &essence, &causes);
        let array = DiagnosticArray {
            header: Header { stamp: messages::time(shared.ros_now()), frame_id: String::new() },
            status: diagnostics::lines(&self.node_name, shared, view, snapshot, &message, &causes),
        };
        if let Err(error) = self.diagnostics.publish(&array) {
            log::limited(Severity::Warn, "publish", format!("/diagnostics: {error}"));
        }
        self.send(message);
        self.last = Some(essence);
    }

    fn send(&mut self, status: Status) {
        if let Err(error) = self.status.publish(&status) {
            log::limited(Severity::Warn, "publish", format!("~/status: {error}"));
        }
        self.newest = Some(status);
    }

    fn take_worker_reports(&mut self, shared: &mut Shared) {
        while let Some(report) = shared.runtime.report() {
            let (notes, metrics) = (&mut shared.notes, &mut shared.metrics);
            match report {
                WorkerReport::Decided(report) => {
                    metrics.inferences += 1;
                    metrics.inference_s = Some(report.inference_s);
                    metrics.inference_times.push(report.inference_s);
                    metrics.latencies.push(report.latency_s);
                    metrics.draft = report.draft;
                    metrics.stages(&report.decision.stages);
                    (notes.image, notes.policy) = (None, None);
                    notes.remark(report.decision.remark.as_deref());
                    let action = messages::action(&report, &shared.parameters.frame_id);
                    if let Err(error) = self.action.publish(&action) {
                        log::limited(Severity::Warn, "publish", format!("~/action: {error}"));
                    }
                }
                WorkerReport::Refused { text, non_action, remote } => {
                    metrics.inferences += 1;
                    notes.image = None;
                    let text = notes.failed(remote, text);
                    Notes::set(&mut notes.policy, non_action, text, "policy");
                }
                WorkerReport::ImageRefused { text, unsupported, camera } => {
                    metrics.images_rejected += 1;
                    let mut text = log::escape(&text);
                    let cameras = &shared.parameters.cameras;
                    if let (2.., Some(camera)) = (cameras.len(), cameras.get(camera)) {
                        text = format!("camera {}: {text}", camera.name);
                    }
                    Notes::set(&mut notes.image, unsupported, text, "image refused");
                }
                WorkerReport::Prepared { seconds } => log::info(format!(
                    "compiled and captured what this instruction needs in {seconds:.1} s, before \
                    its first inference"
                )),
                WorkerReport::Restored(text) => {
                    log::limited(Severity::Info, "policy server", text);
                }
                WorkerReport::Panicked(text) => {
                    let text = format!("it panicked: {text}");
                    Notes::set(&mut notes.policy, false, text, "policy");
                }
            }
        }
    }

    fn take_event(&mut self, shared: &mut Shared, event: Event) {
        match event {
            Event::StateChanged { from, to, cause } => {
                let line = format!("{} -> {}: {cause}", from.name(), to.name());
                let stopped = matches!(to, State::Holding | State::Fault | State::Estopped);
                let severity = if stopped { Severity::Warn } else { Severity::Info };
                log::limited(severity, "state", line);
            }
            Event::CauseChanged { state, cause } => {
                log::debug(format!("{}: {cause}", state.name()));
            }
            Event::EnableWithdrawn { cause } => {
                let line = format!("enabling withdrawn, call ~/enable to move again: {cause}");
                log::limited(Severity::Warn, "enable withdrawn", line);
            }
            Event::ChunkTaken { generation, .. } => shared.metrics.generation = generation,
            Event::ChunkRefused { generation, why } => {
                log::debug(format!("action {generation} refused: {why:?}"));
            }
            Event::FaultRaised { cause, count } => {
                shared.metrics.faults += 1;
                let line = format!("fault {count} within the window: {cause}");
                log::limited(Severity::Warn, "fault", line);
            }
            Event::Latched { cause } => log::error(format!("latched until ~/reset: {cause}")),
            Event::Reset(outcome) => {
                log::limited(Severity::Info, "reset", format!("reset: {outcome:?}"));
            }
            Event::CameToRest { after_s } => {
                log::limited(Severity::Info, "rest", format!("at rest after {after_s:.3} s"));
            }
            Event::Overrun { interval_s } => {
                shared.metrics.overruns += 1;
                let line = format!("{interval_s:.3} s passed between two control steps");
                log::limited(Severity::Warn, "overrun", line);
            }
            Event::Detected(cause) => {
                let now = std::time::Instant::now();
                if self.notices.permit(cause.reason.name(), now, NOTICE_INTERVAL) {
                    log::warn(cause.to_string());
                }
            }
            Event::DetectionCleared(reason) => {
                log::debug(format!("no longer: {}", reason.sentence()))
            }
            Event::Gripper { index, to } => log::debug(format!("gripper {index}: {to}")),
        }
    }
}

/// Everything that prevents motion or needs attention, most important first.
#[allow(clippy::cast_possible_truncation)] // uint16 constants, which bindgen widens
fn causes(shared: &Shared, view: &StatusView<'_>, status: &ControlStatus) -> Vec<NamedCause> {
    let mut causes = Vec::new();
    let mut add = |code: u16, text: String| {
        let cause = NamedCause { code, text };
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    };
    if !status.state.is_latched() {
        match view.lifecycle {
            lifecycle::State::Configuring => {
                add(Status::REASON_LOADING as u16, "LOADING: loading the checkpoint".into());
            }
            lifecycle::State::ShuttingDown | lifecycle::State::Finalized => {
                let text = "SHUTTING_DOWN: the node is about to exit";
                add(Status::REASON_SHUTTING_DOWN as u16, text.into());
            }
            lifecycle::State::Unconfigured => {
                if let Some(note) = &shared.notes.transition {
                    let text = format!("CONFIGURATION_INVALID: {note}");
                    add(Status::REASON_CONFIGURATION_INVALID as u16, text);
                }
            }
            _ => {}
        }
    }
    let clock_missing = (
        Status::REASON_CLOCK_MISSING as u16,
        "CLOCK_MISSING: use_sim_time is true, but no /clock message has arrived".to_owned(),
    );
    for cause in status.causes.iter() {
        let stamps = matches!(cause.reason, Reason::ImageStampFuture | Reason::ImageStampPast);
        if view.clock_missing && stamps {
            add(clock_missing.0, clock_missing.1.clone());
        } else {
            let code = reason_code(cause.reason, shared.notes.hints());
            add(code, shared.cause_text(cause));
        }
    }
    if view.clock_missing {
        add(clock_missing.0, clock_missing.1);
    }
    for problem in view.topics {
        add(topic_code(problem.kind), problem.text.clone());
    }
    if shared.parameters.control.dry_run() {
        add(Reason::DryRun.code(), vla_control::Cause::plain(Reason::DryRun).to_string());
    }
    causes
}

#[allow(clippy::cast_possible_truncation)] // uint16 constants, which bindgen widens
const fn topic_code(kind: ProblemKind) -> u16 {
    match kind {
        ProblemKind::NoPublisher => Status::REASON_TOPIC_NO_PUBLISHER as u16,
        ProblemKind::TypeMismatch => Status::REASON_TOPIC_TYPE_MISMATCH as u16,
        ProblemKind::QosMismatch => Status::REASON_TOPIC_QOS_MISMATCH as u16,
        ProblemKind::ManyPublishers => Status::REASON_TOPIC_MANY_PUBLISHERS as u16,
    }
}

/// The reason: the first cause, unless control gives none for its state.
fn reason(view: &StatusView<'_>, status: &ControlStatus, causes: &[NamedCause]) -> u16 {
    let by_node = !status.state.is_latched()
        && !matches!(view.lifecycle, lifecycle::State::Active | lifecycle::State::Inactive);
    if by_node || status.cause.reason != Reason::None {
        causes.first().map_or(0, |cause| cause.code)
    } else {
        0
    }
}

fn essence(
    shared: &Shared,
    view: &StatusView<'_>,
    status: &ControlStatus,
    causes: &[NamedCause],
) -> Essence {
    Essence {
        state: status.state.code(),
        reason: reason(view, status, causes),
        enabled: view.lifecycle == lifecycle::State::Active && status.enabled(),
        causes: causes.iter().map(|cause| cause.code).collect(),
        about: (status.cause.withdrawn_by.code(), status.cause.source),
        instruction: shared
            .runtime
            .instruction()
            .map_or_else(String::new, |instruction| text(instruction.text())),
        lifecycle: view.lifecycle.id(),
        notes: shared.notes.text(),
    }
}

fn message(
    shared: &Shared,
    snapshot: &Snapshot,
    status: &ControlStatus,
    essence: &Essence,
    causes: &[NamedCause],
) -> Status {
    let (images_received, images_dropped) = shared.runtime.images();
    let metrics = &shared.metrics;
    let reason = causes.iter().find(|cause| cause.code == essence.reason);
    let reason = reason.map_or("", |cause| cause.text.as_str());
    let seams = &snapshot.output.motion.seams;
    let seam = |seam: Seam| [seam.translation, seam.rotation, seam.joint];
    Status {
        header: Header { stamp: messages::time(shared.ros_now()), frame_id: String::new() },
        state: essence.state,
        reason: essence.reason,
        detail: text(&detail(reason, &essence.notes)),
        causes: essence.causes.clone(),
        cause_details: causes.iter().map(|cause| text(&cause.text)).collect(),
        latched: status.state.is_latched(),
        enabled: essence.enabled,
        dry_run: shared.parameters.control.dry_run(),
        resumes_in_s: status.resumes_in_s.unwrap_or(f64::NAN),
        enable_withdrawn_in_s: status.enable_withdrawn_in_s.unwrap_or(f64::NAN),
        instruction: essence.instruction.clone(),
        source: status
            .cause
            .source
            .map_or_else(String::new, |source| shared.parameters.source_name(source)),
        seams: seams.count,
        seam_last: seams.last.map_or([f64::NAN; 3], seam).to_vec(),
        seam_largest: seam(seams.largest).to_vec(),
        image_age_s: snapshot.output.image_age_s.unwrap_or(f64::NAN),
        inference_ms: metrics.inference_s.map_or(f64::NAN, |seconds| seconds * 1e3),
        command_hz: metrics.command_rate.hz,
        generation: metrics.generation,
        images_received,
        images_dropped,
        images_rejected: metrics.images_rejected,
        inferences: metrics.inferences,
        late_results: snapshot.interventions.late_results(),
        faults: metrics.faults,
        overruns: metrics.overruns,
        interventions: snapshot.interventions.as_array().to_vec(),
        intervention_names: Intervention::NAMES.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The reason in words, followed by the notes that it does not contain yet.
fn detail(reason: &str, notes: &str) -> String {
    match (reason, notes) {
        ("", notes) => notes.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, notes) if reason.contains(notes) => reason.to_owned(),
        (reason, notes) => format!("{reason}; {notes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_has_reason_and_notes() {
        assert_eq!(detail("", ""), "");
        assert_eq!(detail("", "image refused: x"), "image refused: x");
        assert_eq!(detail("ESTOP: emergency stop", ""), "ESTOP: emergency stop");
        assert_eq!(detail("CONFIGURATION_INVALID: x", "x"), "CONFIGURATION_INVALID: x");
        assert_eq!(
            detail("ESTOP: emergency stop", "image refused: x"),
            "ESTOP: emergency stop; image refused: x"
        );
    }
}
