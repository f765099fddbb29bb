//! `~/enable`, `~/estop`, `~/reset`: passed to control, answered when control has processed them.
//! `~/dump`: passed to the flight recorder.

use std::time::Duration;

use r2r::{
    ServiceRequest,
    std_srvs::srv::{SetBool, Trigger},
};

use super::{
    NodeError,
    inbox::{Inbox, answer, serve},
    log::{self, Severity},
    messages::text,
    shared::Shared,
};
use crate::runtime::{FlightRecorderHandle, Snapshot, Ticket};
use vla_control::time::Instant;
use vla_control::{Class, EnableOutcome, Requests, ResetOutcome};

/// Control answers within one period; after this time it is assumed not to run.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time to write a recording.
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);

enum Request {
    Enable(ServiceRequest<SetBool::Service>),
    Estop(ServiceRequest<Trigger::Service>),
    Reset(ServiceRequest<Trigger::Service>),
}

/// A request whose answer is not known yet.
struct PendingReply {
    request: Request,
    ticket: Ticket,
    since: Instant,
}

/// The operator's services.
pub(super) struct RequestHandler {
    enable: Inbox<ServiceRequest<SetBool::Service>>,
    estop: Inbox<ServiceRequest<Trigger::Service>>,
    reset: Inbox<ServiceRequest<Trigger::Service>>,
    dump: Inbox<ServiceRequest<Trigger::Service>>,
    pending: Vec<PendingReply>,
    /// The flight recorder, if it has a folder for its files.
    recorder: Option<FlightRecorderHandle>,
    pending_dumps: Vec<(ServiceRequest<Trigger::Service>, Instant)>,
}

impl RequestHandler {
    pub fn create(
        node: &mut r2r::Node,
        recorder: Option<FlightRecorderHandle>,
    ) -> Result<Self, NodeError> {
        Ok(Self {
            enable: serve(node, "~/enable")?,
            estop: serve(node, "~/estop")?,
            reset: serve(node, "~/reset")?,
            dump: serve(node, "~/dump")?,
            pending: Vec::new(),
            recorder,
            pending_dumps: Vec::new(),
        })
    }

    /// Passes on new requests, and answers those that have been processed.
    pub fn poll(&mut self, shared: &mut Shared) {
        self.take_requests(shared);
        self.answer_requests(shared);
        self.take_dump_requests(shared.now());
        self.answer_dumps(shared.now());
    }

    fn take_requests(&mut self, shared: &mut Shared) {
        // The e-stop first: if both have arrived, enabling must not take effect in between.
        while let Some(request) = self.estop.next() {
            log::limited(Severity::Warn, "estop", "e-stop requested");
            let requests = Requests { estop: true, ..Requests::default() };
            self.request(shared, Request::Estop(request), requests);
        }
        while let Some(request) = self.enable.next() {
            let requests = Requests { enable: Some(request.message.data), ..Requests::default() };
            self.request(shared, Request::Enable(request), requests);
        }
        while let Some(request) = self.reset.next() {
            let requests = Requests { reset: true, ..Requests::default() };
            self.request(shared, Request::Reset(request), requests);
        }
    }

    fn request(&mut self, shared: &mut Shared, request: Request, requests: Requests) {
        let ticket = shared.runtime.request(requests);
        self.pending.push(PendingReply { request, ticket, since: shared.now() });
    }

    fn answer_requests(&mut self, shared: &mut Shared) {
        let now = shared.now();
        for pending in std::mem::take(&mut self.pending) {
            let answered = shared.runtime.answered(pending.ticket);
            let snapshot = shared.runtime.snapshot().filter(|_| answered);
            if snapshot.is_none() && !now.since(pending.since).exceeds(TIMEOUT) {
                self.pending.push(pending);
            } else {
                reply(pending.request, snapshot.as_ref(), shared);
            }
        }
    }

    fn take_dump_requests(&mut self, now: Instant) {
        while let Some(request) = self.dump.next() {
            match &self.recorder {
                Some(recorder) => {
                    recorder.request();
                    self.pending_dumps.push((request, now));
                }
                None => {
                    let message = "no flight recorder: set the parameter record_directory when \
                        starting the node"
                        .into();
                    answer(request, Trigger::Response { success: false, message });
                }
            }
        }
    }

    /// Reports the recordings that were written, requested or not.
    fn answer_dumps(&mut self, now: Instant) {
        while let Some(saved) = self.recorder.as_ref().and_then(FlightRecorderHandle::saved) {
            let (success, message) = match saved {
                Ok(saved) => {
                    (true, format!("{} ({} messages)", saved.path.display(), saved.messages))
                }
                Err(error) => (false, error.to_string()),
            };
            let severity = if success { Severity::Info } else { Severity::Error };
            log::limited(severity, "flight record", format!("flight record: {message}"));
            for (request, _) in self.pending_dumps.drain(..) {
                answer(request, Trigger::Response { success, message: text(&message) });
            }
        }
        for (request, since) in std::mem::take(&mut self.pending_dumps) {
            if now.since(since).exceeds(DUMP_TIMEOUT) {
                let message = "the recording was not written in time".into();
                answer(request, Trigger::Response { success: false, message });
            } else {
                self.pending_dumps.push((request, since));
            }
        }
    }
}

fn reply(request: Request, snapshot: Option<&Snapshot>, shared: &Shared) {
    let silent = || (false, "the control loop does not answer".to_owned());
    match request {
        Request::Enable(request) => {
            let (success, message) = snapshot
                .and_then(|snapshot| snapshot.enable)
                .map_or_else(silent, |outcome| enabled(request.message.data, outcome, shared));
            answer(request, SetBool::Response { success, message: text(&message) });
        }
        Request::Estop(request) => {
            // Always a success: a control loop that does not step does not move the robot either.
            let message = match snapshot {
                Some(_) => "latched; coming to rest",
                None => "latched; the control loop does not answer",
            };
            answer(request, Trigger::Response { success: true, message: message.into() });
        }
        Request::Reset(request) => {
            let (success, message) =
                snapshot.and_then(|snapshot| snapshot.reset).map_or_else(silent, reset);
            answer(request, Trigger::Response { success, message: text(&message) });
        }
    }
}

/// The answer to a request to enable or disable.
fn enabled(wanted: bool, outcome: EnableOutcome, shared: &Shared) -> (bool, String) {
    match outcome {
        EnableOutcome::Disabled if wanted => {
            (false, "a request to disable came at the same time".into())
        }
        EnableOutcome::Disabled => (true, "disabled; coming to rest".into()),
        EnableOutcome::Enabled if !wanted => {
            (false, "a request to enable came after it: motion is enabled".into())
        }
        EnableOutcome::Refused(_) if !wanted => (true, "disabled; coming to rest".into()),
        EnableOutcome::Enabled if shared.parameters.control.dry_run() => {
            (true, "enabled; dry_run is true: no command is published".into())
        }
        EnableOutcome::Enabled => (true, "enabled".into()),
        EnableOutcome::Refused(cause) => {
            let remedy = match cause.reason.class() {
                Class::Latch => "; call ~/reset first",
                Class::Fault => "; call ~/enable again when the cause is gone",
                _ => "",
            };
            (false, format!("not enabled: {}{remedy}", shared.cause_text(&cause)))
        }
    }
}

fn reset(outcome: ResetOutcome) -> (bool, String) {
    match outcome {
        ResetOutcome::Done => (true, "reset; call ~/enable to move again".into()),
        ResetOutcome::NotLatched => (true, "there was no latch".into()),
        ResetOutcome::CauseRemains(cause) => (false, format!("the cause is still there: {cause}")),
        ResetOutcome::StillMoving => (false, "the command has not come to zero yet".into()),
        ResetOutcome::TooSoon { remaining_s } => {
            (false, format!("too soon: wait another {remaining_s:.2} s"))
        }
    }
}
