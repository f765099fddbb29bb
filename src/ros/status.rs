//! What the node says about itself: `~/action`, `~/status`, `/diagnostics`, and the log.

use std::collections::VecDeque;

use r2r::{
    diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus},
    openvla_tt_msgs::msg::Status,
    std_msgs::msg::Header,
};

use super::{
    lifecycle, log,
    messages::{self, Hints, Level, diagnostic, reason_code, text},
    node::VlaNode,
};
use crate::runtime::{Report, Snapshot};
use vla_control::time::{Clock, Instant};
use vla_control::{Cause, Event, Intervention, Reason, State};
use vla_inference::policy::{DraftCounts, PolicyInfo};

/// Latencies kept for the percentiles of `/diagnostics`.
const LATENCIES: usize = 200;

/// What has happened so far and is not known to control.
#[derive(Default)]
pub(super) struct Facts {
    /// What the loaded policy is.
    pub info: Option<PolicyInfo>,
    /// Why the last transition failed.
    pub note: Option<String>,
    pub instruction_note: Option<String>,
    pub pose_note: Option<String>,
    image_note: Option<(bool, String)>,
    policy_note: Option<(bool, String)>,
    inferences: u64,
    rejected: u64,
    faults: u64,
    overruns: u64,
    generation: u64,
    inference_s: Option<f64>,
    inference_times: VecDeque<f64>,
    latencies: VecDeque<f64>,
    draft: DraftCounts,
    told: Option<Told>,
    told_at: Option<Instant>,
    command_hz: f64,
    second: Option<(Instant, u64)>,
}

/// What must differ for `~/status` to be published before its second is over.
#[derive(PartialEq, Clone)]
struct Told {
    state: u8,
    reason: u16,
    latched: bool,
    enabled: bool,
    instruction: String,
    lifecycle: u8,
    notes: String,
}

impl Facts {
    fn hints(&self) -> Hints {
        Hints {
            image_refused: self.image_note.as_ref().map(|(unsupported, _)| *unsupported),
            instruction_refused: self.instruction_note.is_some(),
            non_action_token: self.policy_note.as_ref().is_some_and(|(non_action, _)| *non_action),
            pose_refused: self.pose_note.is_some(),
        }
    }

    /// The notes that go behind the cause in `detail`.
    fn notes(&self) -> String {
        let mut notes = String::new();
        let all = [
            ("", self.note.as_ref()),
            ("instruction refused: ", self.instruction_note.as_ref()),
            ("image refused: ", self.image_note.as_ref().map(|(_, text)| text)),
            ("policy: ", self.policy_note.as_ref().map(|(_, text)| text)),
            ("", self.pose_note.as_ref()),
        ];
        for (what, note) in all {
            if let Some(note) = note {
                notes.push_str(if notes.is_empty() { "" } else { "; " });
                notes.push_str(what);
                notes.push_str(note);
            }
        }
        notes
    }

    fn keep(kept: &mut VecDeque<f64>, value: f64) {
        if kept.len() == LATENCIES {
            kept.pop_front();
        }
        kept.push_back(value);
    }
}

/// The value below which the given share lies; NaN for none.
fn percentile(values: &VecDeque<f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    // an index into a short list
    let index = (share * sorted.len() as f64) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

impl VlaNode {
    /// Takes what the worker and control report.
    pub(super) fn take_reports(&mut self) {
        while let Some(report) = self.runtime.report() {
            match report {
                Report::Decided(report) => {
                    let facts = &mut self.facts;
                    facts.inferences += 1;
                    facts.inference_s = Some(report.inference_s);
                    Facts::keep(&mut facts.inference_times, report.inference_s);
                    Facts::keep(&mut facts.latencies, report.latency_s);
                    facts.draft = report.draft;
                    (facts.image_note, facts.policy_note) = (None, None);
                    if let Err(error) = self
                        .outboxes
                        .action
                        .publish(&messages::action(&report, &self.parameters.frame_id))
                    {
                        log::warn(format!("~/action: {error}"));
                    }
                }
                Report::Refused { text, non_action } => {
                    self.facts.inferences += 1;
                    self.facts.image_note = None;
                    note(&mut self.facts.policy_note, non_action, text, "policy");
                }
                Report::ImageRefused { text, unsupported } => {
                    self.facts.rejected += 1;
                    note(&mut self.facts.image_note, unsupported, text, "image refused");
                }
                Report::Died(text) => note(
                    &mut self.facts.policy_note,
                    false,
                    format!("it panicked: {text}"),
                    "policy",
                ),
            }
        }
        while let Some(happened) = self.runtime.event() {
            self.take_event(happened.event);
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::StateChanged { from, to, cause } => {
                let line = format!("{} -> {}: {cause}", from.name(), to.name());
                if matches!(to, State::Holding | State::Fault | State::Estopped) {
                    log::warn(line)
                } else {
                    log::info(line)
                }
            }
            Event::CauseChanged { state, cause } => {
                log::debug(format!("{}: {cause}", state.name()));
            }
            Event::EnableWithdrawn { cause } => {
                log::warn(format!("enabling withdrawn, call ~/enable to move again: {cause}"));
            }
            Event::ChunkTaken { generation, .. } => self.facts.generation = generation,
            Event::ChunkRefused { generation, why } => {
                log::debug(format!("action {generation} refused: {why:?}"))
            }
            Event::FaultRaised { cause, count } => {
                self.facts.faults += 1;
                log::warn(format!("fault {count} within the window: {cause}"));
            }
            Event::Latched { cause } => log::error(format!("latched until ~/reset: {cause}")),
            Event::Reset(outcome) => log::info(format!("reset: {outcome:?}")),
            Event::CameToRest { after_s } => log::info(format!("at rest after {after_s:.3} s")),
            Event::Overrun { interval_s } => {
                self.facts.overruns += 1;
                log::warn(format!("control stood still for {interval_s:.3} s"));
            }
            Event::Detected(cause) => log::warn(cause.to_string()),
            Event::DetectionCleared(reason) => {
                log::info(format!("no longer: {}", reason.sentence()))
            }
            Event::Gripper { to } => log::debug(format!("gripper: {to}")),
        }
    }

    /// Publishes `~/status` when something has changed or a second has passed, `/diagnostics` once
    /// per second.
    pub(super) fn tell(&mut self) {
        let Some(snapshot) = self.runtime.snapshot() else { return };
        let now = self.clock.steady();
        let second_over = self.facts.told_at.is_none_or(|told| 1.0 <= now.since(told).seconds());
        let told = self.to_tell(&snapshot);
        if !second_over && self.facts.told.as_ref() == Some(&told) {
            return;
        }
        if second_over {
            let (since, before) = self.facts.second.unwrap_or((now, snapshot.commands));
            #[allow(clippy::cast_precision_loss)] // commands of about one second
            let commands = (snapshot.commands - before) as f64;
            self.facts.command_hz =
                if since < now { commands / now.since(since).seconds() } else { 0.0 };
            self.facts.second = Some((now, snapshot.commands));
            self.facts.told_at = Some(now);
        }
        let status = self.status(&snapshot, &told);
        if let Err(error) = self.outboxes.status.publish(&status) {
            log::warn(format!("~/status: {error}"));
        }
        if second_over {
            let array = DiagnosticArray {
                header: Header { stamp: messages::time(self.ros_now()), frame_id: String::new() },
                status: self.diagnostics(&snapshot, &status),
            };
            if let Err(error) = self.outboxes.diagnostics.publish(&array) {
                log::warn(format!("/diagnostics: {error}"));
            }
        }
        self.facts.told = Some(told);
    }

    #[allow(clippy::cast_possible_truncation)] // uint16 constants, which bindgen widens
    fn to_tell(&self, snapshot: &Snapshot) -> Told {
        let (state, cause) = (snapshot.output.state, snapshot.output.cause);
        let at = self.transitions.state();
        let reason = match at {
            _ if state.is_latched() => reason_code(cause.reason, self.facts.hints()),
            lifecycle::State::Configuring => Status::REASON_LOADING as u16,
            lifecycle::State::ShuttingDown | lifecycle::State::Finalized => {
                Status::REASON_SHUTTING_DOWN as u16
            }
            lifecycle::State::Unconfigured if self.facts.note.is_some() => {
                Status::REASON_CONFIGURATION_INVALID as u16
            }
            _ => reason_code(cause.reason, self.facts.hints()),
        };
        Told {
            state: state.code(),
            reason,
            latched: state.is_latched(),
            enabled: at == lifecycle::State::Active
                && !state.is_latched()
                && !matches!(
                    cause.reason,
                    Reason::NotEnabled
                        | Reason::NotActive
                        | Reason::NotConfigured
                        | Reason::Deactivating
                ),
            instruction: self
                .runtime
                .instruction()
                .map_or_else(String::new, |instruction| text(instruction.text())),
            lifecycle: at.id(),
            notes: self.facts.notes(),
        }
    }

    fn status(&self, snapshot: &Snapshot, told: &Told) -> Status {
        let (images_received, images_dropped) = self.runtime.images();
        Status {
            header: Header { stamp: messages::time(self.ros_now()), frame_id: String::new() },
            state: told.state,
            reason: told.reason,
            detail: text(&detail(&snapshot.output.cause, &told.notes)),
            latched: told.latched,
            enabled: told.enabled,
            dry_run: self.parameters.control.dry_run(),
            instruction: told.instruction.clone(),
            image_age_s: snapshot.output.image_age_s.unwrap_or(f64::NAN),
            inference_ms: self.facts.inference_s.map_or(f64::NAN, |seconds| seconds * 1e3),
            command_hz: self.facts.command_hz,
            generation: self.facts.generation,
            images_received,
            images_dropped,
            images_rejected: self.facts.rejected,
            inferences: self.facts.inferences,
            late_results: snapshot.interventions.late_results(),
            faults: self.facts.faults,
            overruns: self.facts.overruns,
            interventions: snapshot.interventions.as_array().to_vec(),
            intervention_names: Intervention::NAMES.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn diagnostics(&self, snapshot: &Snapshot, status: &Status) -> Vec<DiagnosticStatus> {
        let (facts, node) = (&self.facts, self.name.as_str());
        let state = snapshot.output.state;
        let state_level = match state {
            State::Fault | State::Estopped => Level::Error,
            State::Holding => Level::Warn,
            _ if facts.note.is_some() => Level::Error,
            _ => Level::Ok,
        };
        let state_line = if status.detail.is_empty() { state.name() } else { &status.detail };
        let age = snapshot.output.image_age_s;
        let (camera_level, camera_line) = match (&facts.image_note, age) {
            (Some((_, note)), _) => (Level::Error, note.as_str()),
            (None, None) => (Level::Warn, "no image yet"),
            (None, Some(age)) if self.parameters.raw_control.observation_timeout_s < age => {
                (Level::Error, "no fresh image")
            }
            _ if snapshot.output.cause.reason == Reason::ImageUnchanged => {
                (Level::Error, "the picture does not change though the tool was driven")
            }
            _ => (Level::Ok, "images arrive"),
        };
        let (policy_level, policy_line) = match (&facts.policy_note, &facts.info) {
            (Some((_, note)), _) => (Level::Error, note.as_str()),
            (None, None) => (Level::Warn, "no checkpoint is loaded"),
            (None, Some(_)) => (Level::Ok, "ready"),
        };
        let punctuality = snapshot.punctuality;
        let milliseconds =
            |values: &VecDeque<f64>, share| format!("{:.1}", percentile(values, share) * 1e3);
        vec![
            diagnostic(
                node,
                "State",
                state_level,
                state_line,
                &[
                    ("state", state.name().into()),
                    ("lifecycle", self.transitions.state().label().into()),
                    ("dry_run", status.dry_run.to_string()),
                    ("faults", facts.faults.to_string()),
                ],
            ),
            diagnostic(
                node,
                "Camera",
                camera_level,
                camera_line,
                &[
                    ("age [s]", age.map_or_else(|| "none".into(), |age| format!("{age:.3}"))),
                    ("received", status.images_received.to_string()),
                    ("dropped", status.images_dropped.to_string()),
                    ("rejected", status.images_rejected.to_string()),
                ],
            ),
            diagnostic(
                node,
                "Inference",
                policy_level,
                policy_line,
                &[
                    ("inferences", facts.inferences.to_string()),
                    ("late results", status.late_results.to_string()),
                    ("inference p50 [ms]", milliseconds(&facts.inference_times, 0.5)),
                    ("inference p99 [ms]", milliseconds(&facts.inference_times, 0.99)),
                    ("image to action p50 [ms]", milliseconds(&facts.latencies, 0.5)),
                    ("image to action p99 [ms]", milliseconds(&facts.latencies, 0.99)),
                    (
                        "drafted tokens accepted",
                        format!("{} of {}", facts.draft.accepted, facts.draft.drafted),
                    ),
                    (
                        "device",
                        facts.info.as_ref().map_or_else(String::new, |info| info.device.clone()),
                    ),
                ],
            ),
            diagnostic(
                node,
                "Control",
                if facts.overruns == 0 { Level::Ok } else { Level::Warn },
                "stepping",
                &[
                    ("command rate [Hz]", format!("{:.1}", facts.command_hz)),
                    ("steps", punctuality.steps.to_string()),
                    ("missed deadlines", punctuality.missed.to_string()),
                    ("worst lateness [ms]", format!("{:.3}", punctuality.worst_s * 1e3)),
                    ("overruns", facts.overruns.to_string()),
                    ("scheduling", format!("{:?}", snapshot.priority)),
                ],
            ),
        ]
    }
}

/// Keeps a note; logs it when it is new, so that a camera that is always wrong does not fill the
/// log.
fn note(place: &mut Option<(bool, String)>, flag: bool, text: String, what: &str) {
    if place.as_ref().is_none_or(|(_, old)| *old != text) {
        log::warn(format!("{what}: {text}"));
    }
    *place = Some((flag, text));
}

/// The cause in words, and what is known besides.
fn detail(cause: &Cause, notes: &str) -> String {
    match (cause.reason, notes) {
        (Reason::None, notes) => notes.to_owned(),
        (_, "") => cause.to_string(),
        (_, notes) => format!("{cause}; {notes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_none() {
        assert!(percentile(&VecDeque::new(), 0.5).is_nan());
        let values: VecDeque<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 0.5), percentile(&values, 0.99), percentile(&values, 1.0)),
            (51.0, 100.0, 100.0)
        );
    }

    #[test]
    fn a_detail_says_cause_and_notes() {
        assert_eq!(detail(&Cause::NONE, ""), "");
        assert_eq!(detail(&Cause::plain(Reason::Estop), ""), "ESTOP: emergency stop");
        assert_eq!(
            detail(&Cause::plain(Reason::Estop), "image refused: x"),
            "ESTOP: emergency stop; image refused: x"
        );
    }
}
