//! The lines of `/diagnostics`.

use r2r::{diagnostic_msgs::msg::DiagnosticStatus, openvla_tt_msgs::msg::Status};

use super::{
    messages::{Level, diagnostic},
    metrics::Window,
    shared::Shared,
    status::{NamedCause, StatusView},
};
use crate::runtime::Snapshot;
use vla_control::{Reason, State};

/// All lines, from the status that is published at the same time.
pub(super) fn lines(
    node: &str,
    shared: &Shared,
    view: &StatusView<'_>,
    snapshot: &Snapshot,
    status: &Status,
    causes: &[NamedCause],
) -> Vec<DiagnosticStatus> {
    vec![
        state(node, shared, view, snapshot, status, causes),
        camera(node, snapshot, status, causes),
        topics(node, view),
        inference(node, shared, status),
        control(node, shared, snapshot, causes),
    ]
}

/// Whether a cause is about the camera's images.
#[allow(clippy::cast_possible_truncation)] // uint16 constants, which bindgen widens
fn is_of_camera(code: u16) -> bool {
    let core = [
        Reason::ImageMissing,
        Reason::ImageStale,
        Reason::ImageFrozen,
        Reason::ImageStampPast,
        Reason::ImageStampFuture,
        Reason::ImageUnchanged,
    ];
    core.iter().any(|reason| reason.code() == code)
        || [
            Status::REASON_IMAGE_MALFORMED as u16,
            Status::REASON_IMAGE_UNSUPPORTED as u16,
            Status::REASON_CLOCK_MISSING as u16,
        ]
        .contains(&code)
}

/// Whether a cause is a watchdog's: something is wrong, beyond a gate that is closed on purpose.
const fn is_fault(code: u16) -> bool {
    matches!(code, 20..=39 | 100..)
}

fn state(
    node: &str,
    shared: &Shared,
    view: &StatusView<'_>,
    snapshot: &Snapshot,
    status: &Status,
    causes: &[NamedCause],
) -> DiagnosticStatus {
    let state = snapshot.output.state;
    let level = match state {
        State::Fault | State::Estopped => Level::Error,
        _ if shared.notes.transition.is_some() => Level::Error,
        State::Holding => Level::Warn,
        _ if causes.iter().any(|cause| is_fault(cause.code)) => Level::Warn,
        _ => Level::Ok,
    };
    let line = if status.detail.is_empty() { state.name() } else { &status.detail };
    let all: Vec<&str> = causes.iter().map(|cause| cause.text.as_str()).collect();
    let values = [
        ("state", state.name().into()),
        ("lifecycle", view.lifecycle.label().into()),
        ("enabled", status.enabled.to_string()),
        ("dry_run", status.dry_run.to_string()),
        ("faults", shared.metrics.faults.to_string()),
        ("causes", all.join("; ")),
    ];
    diagnostic(node, "State", level, line, &values)
}

fn camera(
    node: &str,
    snapshot: &Snapshot,
    status: &Status,
    causes: &[NamedCause],
) -> DiagnosticStatus {
    let age = snapshot.output.image_age_s;
    let (level, line) = match causes.iter().find(|cause| is_of_camera(cause.code)) {
        Some(cause) => (Level::Error, cause.text.as_str()),
        None if age.is_none() => (Level::Warn, "no image has arrived"),
        None => (Level::Ok, "images arrive and are usable"),
    };
    let values = [
        ("age [s]", age.map_or_else(|| "none".into(), |age| format!("{age:.3}"))),
        ("received", status.images_received.to_string()),
        ("dropped", status.images_dropped.to_string()),
        ("rejected", status.images_rejected.to_string()),
    ];
    diagnostic(node, "Camera", level, line, &values)
}

fn topics(node: &str, view: &StatusView<'_>) -> DiagnosticStatus {
    let problems: Vec<&str> = view.topics.iter().map(|problem| problem.text.as_str()).collect();
    match problems.as_slice() {
        [] => diagnostic(node, "Topics", Level::Ok, "publishers are as expected", &[]),
        problems => diagnostic(node, "Topics", Level::Warn, &problems.join("; "), &[]),
    }
}

fn inference(node: &str, shared: &Shared, status: &Status) -> DiagnosticStatus {
    let metrics = &shared.metrics;
    let (level, line) = match (&shared.notes.policy, &shared.policy) {
        (Some((_, note)), _) => (Level::Error, note.as_str()),
        (None, None) => (Level::Warn, "no checkpoint is loaded"),
        (None, Some(_)) => (Level::Ok, "ready"),
    };
    let milliseconds = |values: &Window, share| format!("{:.1}", values.percentile(share) * 1e3);
    let device = shared.policy.as_ref().map_or_else(String::new, |policy| policy.device.clone());
    let values = [
        ("inferences", metrics.inferences.to_string()),
        ("late results", status.late_results.to_string()),
        ("inference p50 [ms]", milliseconds(&metrics.inference_times, 0.5)),
        ("inference p99 [ms]", milliseconds(&metrics.inference_times, 0.99)),
        ("image to action p50 [ms]", milliseconds(&metrics.latencies, 0.5)),
        ("image to action p99 [ms]", milliseconds(&metrics.latencies, 0.99)),
        (
            "draft tokens accepted",
            format!("{} of {}", metrics.draft.accepted, metrics.draft.drafted),
        ),
        ("device", device),
    ];
    let mut values = Vec::from(values);
    if shared.parameters.remote.is_some() {
        values.extend([
            ("network p50 [ms]", milliseconds(&metrics.network, 0.5)),
            ("network p99 [ms]", milliseconds(&metrics.network, 0.99)),
            ("server p50 [ms]", milliseconds(&metrics.server, 0.5)),
            ("server p99 [ms]", milliseconds(&metrics.server, 0.99)),
        ]);
    }
    diagnostic(node, "Inference", level, line, &values)
}

fn control(
    node: &str,
    shared: &Shared,
    snapshot: &Snapshot,
    causes: &[NamedCause],
) -> DiagnosticStatus {
    let punctuality = snapshot.punctuality;
    let late = |cause: &&NamedCause| {
        [Reason::ControlOverrun, Reason::ProcessPaused]
            .iter()
            .any(|reason| reason.code() == cause.code)
    };
    let (level, line) = match causes.iter().find(late) {
        Some(cause) => (Level::Error, cause.text.as_str()),
        None if 0 < shared.metrics.overruns => (Level::Warn, "steps were late since the start"),
        None => (Level::Ok, "steps on time"),
    };
    let values = [
        ("command rate [Hz]", format!("{:.1}", shared.metrics.command_rate.hz)),
        ("steps", punctuality.steps.to_string()),
        ("missed deadlines", punctuality.missed.to_string()),
        ("worst lateness [ms]", format!("{:.3}", punctuality.worst_s * 1e3)),
        ("overruns", shared.metrics.overruns.to_string()),
        ("events lost", snapshot.events_lost.to_string()),
        ("scheduling", format!("{:?}", snapshot.priority)),
    ];
    diagnostic(node, "Control", level, line, &values)
}
