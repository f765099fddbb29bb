//! Conversions between our types and ROS messages.

use r2r::{
    builtin_interfaces::msg::Time,
    diagnostic_msgs::msg::{DiagnosticStatus, KeyValue},
    openvla_tt_msgs::msg::{Action, Status},
    sensor_msgs::msg::{CompressedImage, Image},
    std_msgs::msg::Header,
};

use vla_inference::observation::EncodedImage;
use vla_inference::policy::RemoteFault;

use crate::runtime::DecisionReport;
use vla_control::Reason;
use vla_control::time::Stamp;

/// A stamp as a message field.
#[must_use]
pub fn time(stamp: Stamp) -> Time {
    let (sec, nanosec) = stamp.to_ros();
    Time { sec, nanosec }
}

/// A message's stamp.
#[must_use]
pub fn stamp(time: &Time) -> Stamp {
    Stamp::from_ros(time.sec, time.nanosec)
}

/// Text for a message's string field: without zero bytes, on which r2r panics, and of a bounded
/// length.
#[must_use]
pub fn text(words: &str) -> String {
    const LONGEST: usize = 2000;
    words.chars().filter(|c| *c != '\0').take(LONGEST).collect()
}

/// A camera image and its stamp.
#[must_use]
pub fn camera_image(message: Image) -> (Stamp, EncodedImage) {
    let Image { header, width, height, encoding, step, data, .. } = message;
    (stamp(&header.stamp), EncodedImage::Raw { width, height, encoding, step, data: data.into() })
}

/// A compressed camera image and its stamp.
#[must_use]
pub fn compressed_image(message: CompressedImage) -> (Stamp, EncodedImage) {
    let CompressedImage { header, format, data } = message;
    (stamp(&header.stamp), EncodedImage::Compressed { format, data: data.into() })
}

/// `~/action`.
#[must_use]
// Milliseconds need no double precision; a chunk has at most 256 steps.
#[allow(clippy::cast_possible_truncation)]
pub fn action(report: &DecisionReport, frame_id: &str) -> Action {
    let decision = &report.decision;
    Action {
        header: Header { stamp: time(report.origin.image_stamp), frame_id: frame_id.to_owned() },
        generation: report.origin.generation,
        instruction: text(report.instruction.text()),
        unnorm_key: text(&report.info.unnorm_key),
        horizon: decision.actions.len() as u32,
        dimension: decision.actions.first().map_or(0, Vec::len) as u32,
        token_ids: decision.token_ids.clone(),
        logit_margins: decision.logit_margins.clone(),
        normalized: decision.normalized.concat(),
        action: decision.actions.concat(),
        seed: decision.seed.into_iter().collect(),
        policy_hz: report.policy_hz,
        device: text(&report.info.device),
        precision: text(&report.info.precision),
        latency_s: report.latency_s,
        stage_names: decision.stages.iter().map(|stage| stage.name.to_owned()).collect(),
        stage_ms: decision.stages.iter().map(|stage| stage.milliseconds as f32).collect(),
    }
}

/// Details of the last refused image, instruction, pose or result; they make a general cause exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// The newest image was refused; true if its encoding or size is not supported, false if it is
    /// inconsistent.
    pub image_refused: Option<bool>,
    /// The last instruction was refused for another reason than being empty.
    pub instruction_refused: bool,
    /// The last failure of the policy was a token that encodes no action.
    pub non_action_token: bool,
    /// What is wrong with the policy server, when that was the last failure.
    pub remote: Option<RemoteFault>,
    /// The newest `ee_pose` is in another frame than the workspace, or not finite.
    pub pose_refused: bool,
}

/// The constant of `Status.msg` for a cause: control's number, or a more exact one if known.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // uint16 constants, which bindgen widens.
pub fn reason_code(reason: Reason, hints: Hints) -> u16 {
    match reason {
        Reason::NoInstruction if hints.instruction_refused => {
            Status::REASON_INSTRUCTION_REJECTED as u16
        }
        Reason::ImageMissing | Reason::ImageStale if hints.image_refused == Some(true) => {
            Status::REASON_IMAGE_UNSUPPORTED as u16
        }
        Reason::ImageMissing | Reason::ImageStale if hints.image_refused == Some(false) => {
            Status::REASON_IMAGE_MALFORMED as u16
        }
        Reason::InferenceFailed => match hints.remote {
            Some(RemoteFault::Gone) => Status::REASON_REMOTE_GONE as u16,
            Some(RemoteFault::Refused) => Status::REASON_REMOTE_REFUSED as u16,
            Some(RemoteFault::Late) => Status::REASON_REMOTE_LATE as u16,
            Some(RemoteFault::Malformed) => Status::REASON_REMOTE_MALFORMED as u16,
            None if hints.non_action_token => Status::REASON_NON_ACTION_TOKEN as u16,
            None => reason.code(),
        },
        Reason::EePoseStale if hints.pose_refused => Status::REASON_EE_POSE_INVALID as u16,
        reason => reason.code(),
    }
}

/// Severity of a line of `/diagnostics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In order.
    Ok,
    /// Works, but needs attention.
    Warn,
    /// Does not work.
    Error,
}

/// One line of `/diagnostics` (REP-107: `node: Component`).
#[must_use]
pub fn diagnostic(
    node: &str,
    component: &str,
    level: Level,
    message: &str,
    values: &[(&str, String)],
) -> DiagnosticStatus {
    DiagnosticStatus {
        level: level as u8,
        name: format!("{node}: {component}"),
        message: text(message),
        hardware_id: String::new(),
        values: values
            .iter()
            .map(|(key, value)| KeyValue { key: (*key).to_owned(), value: text(value) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_make_the_cause_exact() {
        let malformed = Hints { image_refused: Some(false), ..Hints::default() };
        assert_eq!(
            reason_code(Reason::ImageStale, malformed),
            Status::REASON_IMAGE_MALFORMED as u16
        );
        let unsupported = Hints { image_refused: Some(true), ..Hints::default() };
        assert_eq!(
            reason_code(Reason::ImageMissing, unsupported),
            Status::REASON_IMAGE_UNSUPPORTED as u16
        );
        assert_eq!(reason_code(Reason::Estop, malformed), Status::REASON_ESTOP as u16);
    }

    #[test]
    fn states_match_the_message() {
        use vla_control::State;
        let constants = [
            Status::UNCONFIGURED as u8,
            Status::INACTIVE as u8,
            Status::IDLE as u8,
            Status::RUNNING as u8,
            Status::HOLDING as u8,
            Status::FAULT as u8,
            Status::ESTOPPED as u8,
        ];
        assert!(State::ALL.iter().map(|state| state.code()).eq(constants));
    }

    #[test]
    fn text_has_no_zero_bytes() {
        assert_eq!(text("a\0b"), "ab");
        assert_eq!(text(&"x".repeat(5000)).len(), 2000);
    }
}
