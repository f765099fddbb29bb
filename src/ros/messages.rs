//! Between our types and ROS messages.

use r2r::{
    builtin_interfaces::msg::Time,
    diagnostic_msgs::msg::{DiagnosticStatus, KeyValue},
    geometry_msgs::msg::{Twist, TwistStamped, Vector3},
    openvla_tt_msgs::msg::{Action, Status},
    sensor_msgs::msg::{CompressedImage, Image},
    std_msgs::msg::{Float64, Header},
};

use vla_inference::observation::EncodedImage;

use crate::runtime::{CommandSink, DecisionReport, STEP_WIDTH};
use vla_control::time::Stamp;
use vla_control::{Command, Reason};

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

/// Text for a message's string field: r2r panics on zero bytes, and nobody wants to read more than
/// a page.
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
    (stamp(&message.header.stamp), EncodedImage::Compressed(message.data.into()))
}

/// Publishes commands. Lives on the control thread; r2r's publishers may be used from any thread.
pub struct CommandPublishers {
    /// `~/command/twist`.
    pub twist: r2r::Publisher<TwistStamped>,
    /// `~/command/gripper`.
    pub gripper: r2r::Publisher<Float64>,
    /// Frame of the twist.
    pub frame_id: String,
}

impl CommandSink for CommandPublishers {
    fn publish(&mut self, stamp: Stamp, command: &Command) {
        let vector = |[x, y, z]: [f64; 3]| Vector3 { x, y, z };
        let header = Header { stamp: time(stamp), frame_id: self.frame_id.clone() };
        let twist = Twist {
            linear: vector(command.twist().linear),
            angular: vector(command.twist().angular),
        };
        // Nothing sensible can be done here about a publisher that fails; the robot's own timeout
        // is for that.
        let _ = self.twist.publish(&TwistStamped { header, twist });
        if let Some(data) = command.gripper() {
            let _ = self.gripper.publish(&Float64 { data });
        }
    }
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
        horizon: (decision.action.len() / STEP_WIDTH) as u32,
        dimension: STEP_WIDTH as u32,
        token_ids: decision.token_ids.clone(),
        margins: decision.logit_margins.clone(),
        normalized: decision.normalized.clone(),
        action: decision.action.clone(),
        policy_hz: report.policy_hz,
        device: text(&report.info.device),
        precision: text(&report.info.precision),
        latency_s: report.latency_s,
        stage_names: decision.stages.iter().map(|stage| stage.name.to_owned()).collect(),
        stage_ms: decision.stages.iter().map(|stage| stage.milliseconds as f32).collect(),
    }
}

/// What the last unfit image, instruction or answer was unfit for; it makes a general cause exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// The newest image was refused; true when its encoding is unknown or its size out of bounds,
    /// false when it contradicts itself.
    pub image_refused: Option<bool>,
    /// The last instruction was refused for another reason than being empty.
    pub instruction_refused: bool,
    /// The last refusal of the policy was a token that is no action.
    pub non_action_token: bool,
    /// The end effector's poses come in another frame than the workspace.
    pub pose_refused: bool,
}

/// The constant of `Status.msg` for a cause: control's own number, or a more exact one where it is
/// known.
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
        Reason::InferenceFailed if hints.non_action_token => Status::REASON_NON_ACTION_TOKEN as u16,
        Reason::EePoseStale if hints.pose_refused => Status::REASON_EE_POSE_INVALID as u16,
        reason => reason.code(),
    }
}

/// How bad a line of `/diagnostics` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
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
    fn what_was_refused_makes_the_cause_exact() {
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
    fn states_are_those_of_the_message() {
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
    fn a_command_field_never_carries_a_zero_byte() {
        assert_eq!(text("a\0b"), "ab");
        assert_eq!(text(&"x".repeat(5000)).len(), 2000);
    }
}
