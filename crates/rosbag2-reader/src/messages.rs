//! ROS message types, field for field as in their `.msg` files.

use std::borrow::Cow;

use serde::Deserialize;

use super::{BagError, Message, Topic, cdr};

/// `sensor_msgs/msg/Image`
pub const IMAGE: &str = "sensor_msgs/msg/Image";
/// `sensor_msgs/msg/CompressedImage`
pub const COMPRESSED_IMAGE: &str = "sensor_msgs/msg/CompressedImage";
/// `sensor_msgs/msg/JointState`
pub const JOINT_STATE: &str = "sensor_msgs/msg/JointState";
/// `std_msgs/msg/String`
pub const STRING: &str = "std_msgs/msg/String";
/// `std_msgs/msg/Float64`
pub const FLOAT64: &str = "std_msgs/msg/Float64";
/// `std_msgs/msg/Float64MultiArray`
pub const FLOAT64_MULTI_ARRAY: &str = "std_msgs/msg/Float64MultiArray";
/// `geometry_msgs/msg/TwistStamped`
pub const TWIST_STAMPED: &str = "geometry_msgs/msg/TwistStamped";
/// `geometry_msgs/msg/PoseStamped`
pub const POSE_STAMPED: &str = "geometry_msgs/msg/PoseStamped";
/// `openvla_tt_msgs/msg/Action`
pub const ACTION: &str = "openvla_tt_msgs/msg/Action";
/// `openvla_tt_msgs/msg/Status`
pub const STATUS: &str = "openvla_tt_msgs/msg/Status";

/// Decodes `message` of `topic` as `T`. The caller has checked the topic's type
/// ([`super::Bag::topic_of_type`]).
pub fn decode<'a, T: Deserialize<'a>>(message: &'a Message, topic: &Topic) -> Result<T, BagError> {
    cdr::decode(&message.payload).map_err(|source| BagError::Payload {
        topic: topic.name.clone(),
        type_name: topic.type_name.clone(),
        log_time: message.log_time,
        source,
    })
}

/// `builtin_interfaces/msg/Time`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Time {
    /// Seconds since the epoch.
    pub sec: i32,
    /// Nanoseconds, below 1 000 000 000 in a valid message.
    pub nanosec: u32,
}

impl Time {
    /// Nanoseconds since the epoch; `None` for the zero stamp, which means "not stamped".
    pub fn nanoseconds(self) -> Option<i64> {
        if self == Time::default() {
            return None;
        }
        // 2^31 s are 2.1e18 ns and fit.
        Some(i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec))
    }
}

/// Stamp of a payload that begins with a header, in nanoseconds since the epoch; the rest is not
/// looked at. `None` for the zero stamp, and for payloads too short or not CDR.
pub fn leading_stamp(payload: &[u8]) -> Option<i64> {
    let (&[0, order @ (0 | 1), _, _, s0, s1, s2, s3, n0, n1, n2, n3], _) =
        payload.split_first_chunk::<12>()?
    else {
        return None;
    };
    let (sec, nanosec) = ([s0, s1, s2, s3], [n0, n1, n2, n3]);
    let time = match order {
        0 => Time { sec: i32::from_be_bytes(sec), nanosec: u32::from_be_bytes(nanosec) },
        _ => Time { sec: i32::from_le_bytes(sec), nanosec: u32::from_le_bytes(nanosec) },
    };
    time.nanoseconds()
}

/// `std_msgs/msg/Header`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Header {
    /// When the data was taken.
    pub stamp: Time,
    /// The coordinate frame of the data.
    pub frame_id: String,
}

/// `sensor_msgs/msg/Image`; the pixels are borrowed from the payload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Image<'a> {
    /// Acquisition time and optical frame.
    pub header: Header,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// `rgb8`, `bgr8`, ...
    pub encoding: String,
    /// Not 0 when multi-byte channels are big endian.
    pub is_bigendian: u8,
    /// Bytes from one row to the next.
    pub step: u32,
    /// `step * height` bytes.
    #[serde(borrow)]
    pub data: &'a [u8],
}

/// `sensor_msgs/msg/CompressedImage`; the data are borrowed from the payload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CompressedImage<'a> {
    /// Acquisition time and optical frame.
    pub header: Header,
    /// `jpeg`, `png`, or image_transport's longer `rgb8; jpeg compressed bgr8`.
    pub format: String,
    /// A JPEG or PNG file.
    #[serde(borrow)]
    pub data: &'a [u8],
}

/// `std_msgs/msg/String`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Text {
    /// The text.
    pub data: String,
}

/// `std_msgs/msg/Float64`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Float64 {
    /// The number.
    pub data: f64,
}

/// `std_msgs/msg/Float64MultiArray`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Float64MultiArray {
    /// Layout of the numbers.
    pub layout: MultiArrayLayout,
    /// The numbers.
    pub data: Vec<f64>,
}

/// `std_msgs/msg/MultiArrayLayout`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MultiArrayLayout {
    /// Outermost first.
    pub dim: Vec<MultiArrayDimension>,
    /// Offset of the first valid element.
    pub data_offset: u32,
}

/// `std_msgs/msg/MultiArrayDimension`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct MultiArrayDimension {
    /// Name of the dimension.
    pub label: String,
    /// Elements along it.
    pub size: u32,
    /// Elements from one to the next.
    pub stride: u32,
}

/// `geometry_msgs/msg/Vector3`, `Point`
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
pub struct Vector3 {
    /// Forward.
    pub x: f64,
    /// Left.
    pub y: f64,
    /// Up.
    pub z: f64,
}

/// `geometry_msgs/msg/Quaternion`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Quaternion {
    /// First imaginary part.
    pub x: f64,
    /// Second imaginary part.
    pub y: f64,
    /// Third imaginary part.
    pub z: f64,
    /// Real part.
    pub w: f64,
}

/// `geometry_msgs/msg/Twist`
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
pub struct Twist {
    /// Metres per second.
    pub linear: Vector3,
    /// Radians per second.
    pub angular: Vector3,
}

/// `geometry_msgs/msg/TwistStamped`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TwistStamped {
    /// Time and frame of the command.
    pub header: Header,
    /// The command.
    pub twist: Twist,
}

/// `geometry_msgs/msg/Pose`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Pose {
    /// Metres.
    pub position: Vector3,
    /// Unit quaternion.
    pub orientation: Quaternion,
}

/// `geometry_msgs/msg/PoseStamped`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PoseStamped {
    /// Time and frame of the pose.
    pub header: Header,
    /// The pose.
    pub pose: Pose,
}

/// `sensor_msgs/msg/JointState`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct JointState {
    /// Time of the reading.
    pub header: Header,
    /// Joint names; the arrays below are empty or as long.
    pub name: Vec<String>,
    /// Radians or metres.
    pub position: Vec<f64>,
    /// Radians or metres per second.
    pub velocity: Vec<f64>,
    /// Newton metres or newtons.
    pub effort: Vec<f64>,
}

/// A type name in the form `package/msg/Name`; old recordings have `sensor_msgs/Image` or
/// `sensor_msgs::msg::dds_::Image_`.
pub fn canonical_type(name: &str) -> Cow<'_, str> {
    if let Some((package, rest)) = name.split_once("::msg::dds_::") {
        return format!("{package}/msg/{}", rest.trim_end_matches('_')).into();
    }
    match name.split_once('/') {
        Some((package, rest)) if !rest.contains('/') => format!("{package}/msg/{rest}").into(),
        _ => name.into(),
    }
}

/// `openvla_tt_msgs/msg/Action`: one inference of a policy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Action {
    /// Stamp of the image; frame of `action`.
    pub header: Header,
    /// Number of the inference.
    pub generation: u64,
    /// The instruction in the prompt.
    pub instruction: String,
    /// Dataset statistics by which `normalized` was un-normalized.
    pub unnorm_key: String,
    /// Steps of the chunk.
    pub horizon: u32,
    /// Numbers per step.
    pub dimension: u32,
    /// Tokens in decoding order; empty for policies without action tokens.
    pub token_ids: Vec<u32>,
    /// Logit of the chosen token minus that of the runner-up.
    pub logit_margins: Vec<f32>,
    /// `horizon * dimension` numbers, -1 to 1 between the statistics' q01 and q99.
    pub normalized: Vec<f64>,
    /// `horizon * dimension` numbers in physical units per policy period.
    pub action: Vec<f64>,
    /// Rate of the steps, hertz.
    pub policy_hz: f64,
    /// Device.
    pub device: String,
    /// Name of the precision policy.
    pub precision: String,
    /// Seconds from the image's stamp to the end of the inference.
    pub latency_s: f64,
    /// Names of the stages.
    pub stage_names: Vec<String>,
    /// Milliseconds of each stage.
    pub stage_ms: Vec<f32>,
}

/// `openvla_tt_msgs/msg/Status`: state of the node and its cause.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Status {
    /// Stamp of publication.
    pub header: Header,
    /// State, by the constants of the message.
    pub state: u8,
    /// Reason, by the constants of the message.
    pub reason: u16,
    /// Description of the reason.
    pub detail: String,
    /// Whether only a reset clears it.
    pub latched: bool,
    /// Whether motion is enabled.
    pub enabled: bool,
    /// Whether commands are not published.
    pub dry_run: bool,
    /// The instruction in force.
    pub instruction: String,
    /// Seconds.
    pub image_age_s: f64,
    /// Milliseconds.
    pub inference_ms: f64,
    /// Hertz.
    pub command_hz: f64,
    /// Newest inference in use by control.
    pub generation: u64,
    /// Images received.
    pub images_received: u64,
    /// Images replaced by newer ones before inference.
    pub images_dropped: u64,
    /// Invalid images.
    pub images_rejected: u64,
    /// Finished inferences.
    pub inferences: u64,
    /// Results that arrived too late.
    pub late_results: u64,
    /// Faults of any kind.
    pub faults: u64,
    /// Late control periods.
    pub overruns: u64,
    /// How often each limit changed a command.
    pub interventions: Vec<u64>,
    /// The limits' names.
    pub intervention_names: Vec<String>,
}
