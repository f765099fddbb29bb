//! The subscriptions of the node.

use std::time::Duration;

use r2r::{
    QosProfile,
    geometry_msgs::msg::PoseStamped,
    rosgraph_msgs::msg::Clock as ClockMessage,
    sensor_msgs::msg::{CompressedImage, Image},
};

use super::{
    ImageTransport, NodeError, ResolvedConfig,
    inbox::{Inbox, subscribe},
    instruction::InstructionSubscription,
    log::{self, Severity},
    messages,
    names::Names,
    shared::Shared,
    topics::{Role, TopicMonitor},
};
use vla_control::time::{Instant, Stamp};
use vla_inference::policy::{Instruction, InstructionError};

enum Images {
    Raw(Inbox<Image>),
    Compressed(Inbox<CompressedImage>),
}

/// Topic, purpose and type of the image subscription.
const fn image_topic(transport: ImageTransport) -> (&'static str, &'static str) {
    match transport {
        ImageTransport::Raw => ("image", "sensor_msgs/msg/Image"),
        ImageTransport::Compressed => ("image/compressed", "sensor_msgs/msg/CompressedImage"),
    }
}

/// The subscriptions, and what is kept of their messages.
pub(super) struct Subscriptions {
    images: Images,
    instruction: InstructionSubscription,
    ee_pose: Option<Inbox<PoseStamped>>,
    clock: Option<Inbox<ClockMessage>>,
    clock_received: bool,
    /// Arrival of the newest end-effector pose that guards the workspace.
    pose_at: Option<Instant>,
    /// The stamp of the newest end-effector pose, accepted or not.
    pose_stamp: Option<Stamp>,
}

impl Subscriptions {
    /// Subscribes, and registers each topic for monitoring.
    pub fn create(
        node: &mut r2r::Node,
        parameters: &ResolvedConfig,
        names: &Names,
        monitor: &mut TopicMonitor,
    ) -> Result<Self, NodeError> {
        let sensor = QosProfile::sensor_data;
        let (topic, type_name) = image_topic(parameters.image_transport);
        let images = match parameters.image_transport {
            ImageTransport::Raw => Images::Raw(subscribe(node, topic, sensor())?),
            ImageTransport::Compressed => Images::Compressed(subscribe(node, topic, sensor())?),
        };
        monitor.watch(names, "camera", topic, type_name, Role::Input, sensor());
        let instruction = InstructionSubscription::create(node, "instruction")?;
        let (string, any) = ("std_msgs/msg/String", sensor());
        monitor.watch(names, "instruction", "instruction", string, Role::SharedInput, any);
        let ee_pose = parameters
            .control
            .needs_ee_pose()
            .then(|| subscribe(node, "ee_pose", sensor()))
            .transpose()?;
        if ee_pose.is_some() {
            let pose = "geometry_msgs/msg/PoseStamped";
            monitor.watch(names, "end-effector pose", "ee_pose", pose, Role::Input, sensor());
        }
        let clock_qos = || QosProfile::default().keep_last(1).best_effort();
        let clock =
            parameters.use_sim_time.then(|| subscribe(node, "/clock", clock_qos())).transpose()?;
        if clock.is_some() {
            let kind = "rosgraph_msgs/msg/Clock";
            monitor.watch(names, "simulated time", "/clock", kind, Role::Input, clock_qos());
        }
        Ok(Self {
            images,
            instruction,
            ee_pose,
            clock,
            clock_received: false,
            pose_at: None,
            pose_stamp: None,
        })
    }

    /// Whether `use_sim_time` is set and `/clock` is silent.
    pub fn clock_missing(&self) -> bool {
        self.clock.is_some() && !self.clock_received
    }

    /// Arrival of the newest end-effector pose that guards the workspace.
    pub fn pose_at(&self) -> Option<Instant> {
        self.pose_at
    }

    /// Passes on all messages that have arrived.
    pub fn take(&mut self, shared: &mut Shared) {
        while let Some(message) = self.clock.as_mut().and_then(Inbox::next) {
            self.clock_received = true;
            shared.clock.set_simulated(messages::stamp(&message.clock));
        }
        loop {
            let image = match &mut self.images {
                Images::Raw(inbox) => inbox.next().map(messages::camera_image),
                Images::Compressed(inbox) => inbox.next().map(messages::compressed_image),
            };
            let Some((stamp, bytes)) = image else { break };
            shared.runtime.set_image(stamp, bytes);
        }
        while let Some(text) = self.instruction.next(shared.now()) {
            take_instruction(shared, &text);
        }
        while let Some(message) = self.ee_pose.as_mut().and_then(Inbox::next) {
            self.take_pose(shared, &message);
        }
    }

    /// A pose guards the workspace only if it is finite, in the right frame, has another stamp than
    /// the one before, and is recent by that stamp.
    fn take_pose(&mut self, shared: &mut Shared, message: &PoseStamped) {
        let stamp = messages::stamp(&message.header.stamp);
        let age = shared.ros_now().seconds_since(stamp);
        let timeout = shared.parameters.raw_control.pose_timeout_s;
        let position = &message.pose.position;
        let position = [position.x, position.y, position.z];
        let finite = position.iter().all(|value| value.is_finite());
        let problem = if message.header.frame_id != shared.parameters.frame_id {
            Some((
                true,
                format!(
                    "ee_pose is in frame '{}', but the workspace in '{}'",
                    log::escape(&message.header.frame_id),
                    shared.parameters.frame_id
                ),
            ))
        } else if !finite {
            Some((true, format!("the position of ee_pose, {position:?}, is not finite")))
        } else if self.pose_stamp == Some(stamp) {
            Some((false, "ee_pose arrives, but its stamp does not change".into()))
        } else if timeout < age.abs() {
            let text =
                format!("the stamp of ee_pose is {age:.1} s old, at most {timeout} s are accepted");
            Some((false, text))
        } else {
            None
        };
        self.pose_stamp = Some(stamp);
        if problem.is_none() {
            self.pose_at = Some(shared.now());
        }
        // Control stops at once on a position that is not finite.
        if problem.is_none() || !finite {
            let delay = Duration::try_from_secs_f64(age).unwrap_or_default(); // not negative
            shared.runtime.set_ee_pose(position, delay);
        }
        shared.notes.pose = problem;
    }
}

fn take_instruction(shared: &mut Shared, text: &str) {
    shared.notes.instruction = None;
    let instruction = match Instruction::new(text) {
        Ok(instruction) => Some(instruction),
        Err(error) => {
            // A refused instruction clears the one in force: the operator wanted another one.
            if error != InstructionError::Empty {
                let line = format!("instruction refused: {error}");
                log::limited(Severity::Warn, "instruction refused", line);
                shared.notes.instruction = Some(error.to_string());
            }
            None
        }
    };
    if shared.runtime.set_instruction(instruction) {
        let line = match shared.runtime.instruction() {
            Some(instruction) => format!("instruction: {}", instruction.text()),
            None => "instruction: none".to_owned(),
        };
        log::limited(Severity::Info, "instruction", line);
    }
}
