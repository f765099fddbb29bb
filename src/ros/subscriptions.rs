//! The subscriptions of the node.

use std::time::Duration;

use r2r::{
    QosProfile,
    geometry_msgs::msg::PoseStamped,
    rosgraph_msgs::msg::Clock as ClockMessage,
    sensor_msgs::msg::{CompressedImage, Image, JointState},
    std_msgs::msg::Float64,
};

use super::{
    CameraTopic, ImageTransport, NodeError, ResolvedConfig,
    gripper_state::GripperStates,
    inbox::{Inbox, subscribe},
    instruction::InstructionSubscription,
    log::{self, Severity},
    messages,
    names::Names,
    qos::SensorQos,
    run_policy::Sensed,
    shared::Shared,
    topics::{Role, TopicMonitor},
};
use vla_config::{StateAssembler, StateTopic};
use vla_control::action_chunk::JOINTS_MAX;
use vla_control::time::{Instant, Stamp};
use vla_inference::observation::EncodedImage;
use vla_inference::policy::{Instruction, InstructionError};

enum Images {
    Raw(Inbox<Image>),
    Compressed(Inbox<CompressedImage>),
}

impl Images {
    /// Subscribes to a camera's images, and registers the topic for monitoring.
    fn create(
        node: &mut r2r::Node,
        parameters: &ResolvedConfig,
        camera: &CameraTopic,
        sensor: &mut SensorQos<'_>,
        monitor: &mut TopicMonitor,
    ) -> Result<Self, NodeError> {
        let purpose = match parameters.cameras.len() {
            1 => "camera".to_owned(),
            _ => format!("camera {}", camera.name),
        };
        let raw = parameters.image_transport == ImageTransport::Raw;
        let topic = if raw { camera.topic.clone() } else { format!("{}/compressed", camera.topic) };
        let qos = sensor.of(&topic);
        let (kind, images) = if raw {
            let images = Images::Raw(subscribe(node, &topic, qos.clone())?);
            ("sensor_msgs/msg/Image", images)
        } else {
            let images = Images::Compressed(subscribe(node, &topic, qos.clone())?);
            ("sensor_msgs/msg/CompressedImage", images)
        };
        monitor.watch(sensor.names(), purpose, &topic, kind, Role::Input, qos);
        Ok(images)
    }

    fn next(&mut self) -> Option<(Stamp, EncodedImage)> {
        match self {
            Self::Raw(inbox) => inbox.next().map(messages::camera_image),
            Self::Compressed(inbox) => inbox.next().map(messages::compressed_image),
        }
    }
}

/// The subscriptions of the policy's state and of the commanded joints.
struct StateSubscriptions {
    assembler: StateAssembler,
    joint_states: Option<Inbox<JointState>>,
    /// By index of the assembler's topics.
    grippers: Vec<(usize, Inbox<Float64>)>,
    /// Names of the commanded joints.
    joints: Vec<String>,
    /// The state has constants only, which no message brings, and is not set yet.
    constant: bool,
}

/// The subscriptions, and what is kept of their messages.
pub(super) struct Subscriptions {
    /// By camera.
    images: Vec<Images>,
    /// By camera: whether its first image was looked at for remarks.
    looked_at: Vec<bool>,
    state: StateSubscriptions,
    gripper_states: GripperStates,
    instruction: InstructionSubscription,
    ee_pose: Option<Inbox<PoseStamped>>,
    clock: Option<Inbox<ClockMessage>>,
    clock_received: bool,
    /// Arrival of the newest end-effector pose that guards the workspace.
    pose_at: Option<Instant>,
    /// Its position, in metres.
    position: Option<[f64; 3]>,
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
        let mut sensor = SensorQos::new(names, parameters.qos_overrides());
        let cameras = parameters.cameras.iter();
        let images = cameras
            .map(|camera| Images::create(node, parameters, camera, &mut sensor, monitor))
            .collect::<Result<_, _>>()?;
        let state = StateSubscriptions::create(node, parameters, &mut sensor, monitor)?;
        let gripper_states = GripperStates::create(node, parameters, &mut sensor, monitor)?;
        let instruction = InstructionSubscription::create(node, "instruction")?;
        let (string, any) = ("std_msgs/msg/String", QosProfile::sensor_data());
        monitor.watch(names, "instruction", "instruction", string, Role::SharedInput, any);
        let of_state = state.assembler.topics().contains(&StateTopic::EePose);
        let mut ee_pose = None;
        if parameters.control.needs_ee_pose() || of_state {
            let (qos, pose) = (sensor.of("ee_pose"), "geometry_msgs/msg/PoseStamped");
            ee_pose = Some(subscribe(node, "ee_pose", qos.clone())?);
            monitor.watch(names, "end-effector pose", "ee_pose", pose, Role::Input, qos);
        }
        for line in sensor.without_effect() {
            log::warn(line);
        }
        let clock_qos = || QosProfile::default().keep_last(1).best_effort();
        let clock =
            parameters.use_sim_time.then(|| subscribe(node, "/clock", clock_qos())).transpose()?;
        if clock.is_some() {
            let kind = "rosgraph_msgs/msg/Clock";
            monitor.watch(names, "simulated time", "/clock", kind, Role::Input, clock_qos());
        }
        Ok(Self {
            looked_at: vec![false; parameters.cameras.len()],
            images,
            state,
            gripper_states,
            instruction,
            ee_pose,
            clock,
            clock_received: false,
            pose_at: None,
            position: None,
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

    /// What the conditions of a goal need.
    pub fn sensed(&self, shared: &Shared) -> Sensed {
        let control = &shared.parameters.raw_control;
        let timeout = Duration::from_secs_f64(control.state_timeout_s.max(0.0));
        let openings = self.gripper_states.openings(shared.now(), timeout);
        Sensed {
            position: self.recent_position(shared),
            poses: self.ee_pose.is_some(),
            no_opening: self.gripper_states.missing(&openings),
            openings,
        }
    }

    /// The end effector's position in metres, unless it is too old to guard the workspace.
    fn recent_position(&self, shared: &Shared) -> Option<[f64; 3]> {
        let age = shared.now().since(self.pose_at?).seconds();
        self.position.filter(|_| age <= shared.parameters.raw_control.pose_timeout_s)
    }

    /// Passes on all messages that have arrived.
    pub fn take(&mut self, shared: &mut Shared) {
        while let Some(message) = self.clock.as_mut().and_then(Inbox::next) {
            self.clock_received = true;
            shared.clock.set_simulated(messages::stamp(&message.clock));
        }
        self.state.take(shared);
        self.gripper_states.take(shared.now());
        for (camera, images) in self.images.iter_mut().enumerate() {
            while let Some((stamp, bytes)) = images.next() {
                if !std::mem::replace(&mut self.looked_at[camera], true)
                    && let Some(remark) = bytes.remark()
                {
                    let name = &shared.parameters.cameras[camera].name;
                    log::limited(
                        Severity::Warn,
                        "image remark",
                        format!("camera {name}: {remark}"),
                    );
                }
                shared.runtime.set_image(camera, stamp, bytes);
            }
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
            (self.pose_at, self.position) = (Some(shared.now()), Some(position));
        }
        // Control stops at once on a position that is not finite.
        if problem.is_none() || !finite {
            let delay = Duration::try_from_secs_f64(age).unwrap_or_default(); // not negative
            shared.runtime.set_ee_pose(position, delay);
        }
        let orientation = &message.pose.orientation;
        let orientation = [orientation.x, orientation.y, orientation.z, orientation.w];
        self.state.ee_pose(shared, stamp, (position, orientation), problem.is_none());
        shared.notes.pose = problem;
    }
}

impl StateSubscriptions {
    fn create(
        node: &mut r2r::Node,
        parameters: &ResolvedConfig,
        sensor: &mut SensorQos<'_>,
        monitor: &mut TopicMonitor,
    ) -> Result<Self, NodeError> {
        let names = sensor.names();
        let assembler = parameters.state_assembler();
        let joints = parameters.joints.clone();
        let topics = assembler.topics();
        let needs_joints = !joints.is_empty() || topics.contains(&StateTopic::JointStates);
        let mut joint_states = None;
        if needs_joints {
            // Several drivers may share the topic.
            let (kind, role) = ("sensor_msgs/msg/JointState", Role::SharedInput);
            let qos = sensor.of("joint_states");
            joint_states = Some(subscribe(node, "joint_states", qos.clone())?);
            monitor.watch(names, "joint states", "joint_states", kind, role, qos);
        }
        let mut grippers = Vec::new();
        for (index, topic) in topics.iter().enumerate() {
            let StateTopic::Gripper(topic) = topic else { continue };
            let (qos, kind) = (sensor.of(topic), "std_msgs/msg/Float64");
            grippers.push((index, subscribe(node, topic, qos.clone())?));
            monitor.watch(names, "gripper state", topic, kind, Role::Input, qos);
        }
        let constant = topics.is_empty() && assembler.values(0.0).is_some_and(|v| !v.is_empty());
        Ok(Self { assembler, joint_states, grippers, joints, constant })
    }

    /// Passes on all messages that have arrived.
    fn take(&mut self, shared: &mut Shared) {
        // The parameter may change while the node is inactive.
        self.assembler.set_hold(shared.parameters.raw_control.state_timeout_s);
        let mut changed = std::mem::take(&mut self.constant);
        while let Some(message) = self.joint_states.as_mut().and_then(Inbox::next) {
            changed = true;
            self.take_joints(shared, &message);
        }
        for (index, inbox) in &mut self.grippers {
            while let Some(message) = inbox.next() {
                changed = true;
                self.assembler.gripper(*index, message.data);
                shared.runtime.set_state_source(*index, None, message.data.is_finite());
            }
        }
        if changed {
            self.set_state(shared);
        }
    }

    fn take_joints(&mut self, shared: &mut Shared, message: &JointState) {
        let (now, stamp) = (seconds(shared.now()), messages::stamp(&message.header.stamp));
        let JointState { name, position, velocity, .. } = message;
        let taken = self.assembler.joint_states(now, name, position, velocity);
        let index = self.assembler.topics().iter().position(|t| *t == StateTopic::JointStates);
        let complete = taken.is_ok() && self.assembler.complete(&StateTopic::JointStates, now);
        if let Some(index) = index {
            shared.runtime.set_state_source(index, Some(stamp), complete);
        }
        if !self.joints.is_empty() {
            let mut positions = [f64::NAN; JOINTS_MAX];
            if taken.is_ok() {
                for (slot, joint) in positions.iter_mut().zip(&self.joints) {
                    *slot = self.assembler.position(joint, now);
                }
            }
            shared.runtime.set_joints(stamp, positions);
        }
        let problem = taken.err().map(|error| log::escape(&error.to_string()));
        if let Some(text) =
            problem.as_ref().filter(|text| shared.notes.state.as_ref() != Some(text))
        {
            log::limited(Severity::Warn, "state", text.clone());
        }
        shared.notes.state = problem;
    }

    /// Takes a pose for the state. `fit`: it is in the right frame and recent.
    fn ee_pose(
        &mut self,
        shared: &mut Shared,
        stamp: Stamp,
        (position, orientation): ([f64; 3], [f64; 4]),
        fit: bool,
    ) {
        let index = self.assembler.topics().iter().position(|topic| *topic == StateTopic::EePose);
        let Some(index) = index else { return };
        if fit {
            self.assembler.ee_pose(position, orientation);
        }
        let now = seconds(shared.now());
        let complete = fit && self.assembler.complete(&StateTopic::EePose, now);
        shared.runtime.set_state_source(index, Some(stamp), complete);
        self.set_state(shared);
    }

    fn set_state(&self, shared: &mut Shared) {
        let now = seconds(shared.now());
        let joints = self.joints.iter().map(|joint| self.assembler.position(joint, now));
        let joints: Vec<f64> = joints.collect();
        let values = self.assembler.values(now);
        let known = values.filter(|_| joints.iter().all(|position| position.is_finite()));
        shared.runtime.set_state(known.map(|values| (values, joints)));
    }
}

/// Seconds on the steady clock since its origin.
fn seconds(now: Instant) -> f64 {
    now.nanoseconds() as f64 * 1e-9
}

fn take_instruction(shared: &mut Shared, text: &str) {
    shared.notes.instruction = None;
    let mut remarks = Vec::new();
    let instruction = match Instruction::read(text) {
        Ok((instruction, found)) => {
            remarks = found;
            Some(instruction)
        }
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
        for remark in remarks {
            log::limited(Severity::Warn, "instruction remark", remark.to_string());
        }
    }
}
