//! `~/enable`, `~/estop`, `~/reset`: passed to control, answered when control has acted.

use std::time::Duration;

use r2r::{
    ServiceRequest,
    std_srvs::srv::{SetBool, Trigger},
};

use super::{inbox::answer, log, messages::text, node::VlaNode};
use crate::runtime::{FlightDesk, Snapshot, Ticket};
use vla_control::time::{Clock, Instant};
use vla_control::{Requests, ResetOutcome, State};

/// Control acts within one period; longer than this means that it does not act at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writing half a minute takes far less.
const DUMP_PATIENCE: Duration = Duration::from_secs(10);

enum Request {
    Enable(ServiceRequest<SetBool::Service>),
    Estop(ServiceRequest<Trigger::Service>),
    Reset(ServiceRequest<Trigger::Service>),
}

/// A request whose answer is not known yet.
pub(super) struct Waiting {
    request: Request,
    ticket: Ticket,
    since: Instant,
}

impl VlaNode {
    pub(super) fn take_requests(&mut self) {
        // The e-stop first: when both wait, nothing must be enabled in between.
        while let Some(request) = self.next_estop() {
            log::warn("e-stop requested");
            self.ask(Request::Estop(request), Requests { estop: true, ..Requests::default() });
        }
        while let Some(request) = self.next_enable() {
            let enable = request.message.data;
            self.ask(
                Request::Enable(request),
                Requests { enable: Some(enable), ..Requests::default() },
            );
        }
        while let Some(request) = self.next_reset() {
            self.ask(Request::Reset(request), Requests { reset: true, ..Requests::default() });
        }
    }

    /// `~/dump`, and the recordings that were written, asked for or not.
    pub(super) fn serve_dumps(&mut self) {
        let now = self.clock.steady();
        while let Some(request) = self.next_dump() {
            match &self.flight {
                Some(flight) => {
                    flight.ask();
                    self.dumps.push((request, now));
                }
                None => {
                    let message =
                        "no flight recorder: set the parameter record_directory when starting the \
                        node"
                            .into();
                    answer(request, Trigger::Response { success: false, message });
                }
            }
        }
        while let Some(saved) = self.flight.as_ref().and_then(FlightDesk::saved) {
            let (success, message) = match saved {
                Ok(saved) => {
                    (true, format!("{} ({} messages)", saved.path.display(), saved.messages))
                }
                Err(error) => (false, error.to_string()),
            };
            if success {
                log::info(format!("flight record: {message}"))
            } else {
                log::error(format!("flight record: {message}"))
            }
            for (request, _) in self.dumps.drain(..) {
                answer(request, Trigger::Response { success, message: text(&message) });
            }
        }
        let late = |since: Instant| now.since(since).exceeds(DUMP_PATIENCE);
        for (request, since) in std::mem::take(&mut self.dumps) {
            if late(since) {
                answer(
                    request,
                    Trigger::Response {
                        success: false,
                        message: "the recording was not written in time".into(),
                    },
                );
            } else {
                self.dumps.push((request, since));
            }
        }
    }

    fn ask(&mut self, request: Request, requests: Requests) {
        let ticket = self.runtime.request(requests);
        self.waiting.push(Waiting { request, ticket, since: self.clock.steady() });
    }

    pub(super) fn answer_requests(&mut self) {
        let now = self.clock.steady();
        for waiting in std::mem::take(&mut self.waiting) {
            let answered = self.runtime.answered(waiting.ticket);
            let snapshot = self.runtime.snapshot().filter(|_| answered);
            if snapshot.is_none() && !now.since(waiting.since).exceeds(PATIENCE) {
                self.waiting.push(waiting);
                continue;
            }
            self.reply(waiting.request, snapshot.as_ref());
        }
    }

    fn reply(&self, request: Request, snapshot: Option<&Snapshot>) {
        let silent = || (false, "the control loop does not answer".to_owned());
        match request {
            Request::Enable(request) => {
                let (success, message) = snapshot
                    .map_or_else(silent, |snapshot| self.enabled(request.message.data, snapshot));
                answer(request, SetBool::Response { success, message: text(&message) });
            }
            Request::Estop(request) => {
                // It always succeeds: what does not step does not move either.
                let message = snapshot
                    .map_or(
                        "latched; the control loop does not answer",
                        |_| "latched; coming to rest",
                    )
                    .into();
                answer(request, Trigger::Response { success: true, message });
            }
            Request::Reset(request) => {
                let (success, message) =
                    snapshot.and_then(|snapshot| snapshot.reset).map_or_else(silent, reset);
                answer(request, Trigger::Response { success, message: text(&message) });
            }
        }
    }

    fn enabled(&self, wanted: bool, snapshot: &Snapshot) -> (bool, String) {
        let (state, cause) = (snapshot.output.state, snapshot.output.cause);
        if !wanted {
            return (true, "disabled; coming to rest".into());
        }
        match state {
            State::Unconfigured => (false, "the node is not configured".into()),
            State::Inactive => (false, "the node is not active".into()),
            state if state.is_latched() => (false, format!("{cause}; call ~/reset first")),
            State::Holding => (true, format!("enabled, but {cause}")),
            _ if self.parameters.control.dry_run() => {
                (true, "enabled; dry_run is true: commands stay silent".into())
            }
            _ => (true, "enabled".into()),
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
