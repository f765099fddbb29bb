//! Publishers of commands, one for each kind of message that a robot takes.

use r2r::{
    QosProfile,
    builtin_interfaces::msg::{Duration as RosDuration, Time},
    geometry_msgs::msg::{Twist, TwistStamped, Vector3},
    sensor_msgs::msg::JointState,
    std_msgs::msg::{Float64, Float64MultiArray, Header},
    trajectory_msgs::msg::{JointTrajectory, JointTrajectoryPoint},
};

use super::{
    NodeError, ResolvedConfig,
    inbox::publish,
    messages,
    names::Names,
    topics::{Role, TopicMonitor},
};
use crate::runtime::CommandSink;
use vla_config::{CommandOutput, CommandTopics};
use vla_control::time::Stamp;
use vla_control::{Command, JointCommand};

/// Publisher of motion, by message.
#[derive(Clone)]
enum MotionPublisher {
    Twist(r2r::Publisher<TwistStamped>),
    Trajectory(r2r::Publisher<JointTrajectory>),
    Positions(r2r::Publisher<Float64MultiArray>),
    Velocities(r2r::Publisher<Float64MultiArray>),
    JointState(r2r::Publisher<JointState>),
}

/// The publishers of commands. Used on the control thread only.
#[derive(Clone)]
pub(super) struct CommandPublishers {
    motion: MotionPublisher,
    grippers: Vec<r2r::Publisher<Float64>>,
    frame_id: String,
    /// Names of the joints, in control's order.
    joints: Vec<String>,
    /// One control period: the time in which a trajectory's point is to be reached.
    period: std::time::Duration,
}

/// Name of an output's message type.
pub(super) const fn type_name(output: CommandOutput) -> &'static str {
    match output {
        CommandOutput::Twist => "geometry_msgs/msg/TwistStamped",
        CommandOutput::JointTrajectory => "trajectory_msgs/msg/JointTrajectory",
        CommandOutput::JointPositionArray | CommandOutput::JointVelocityArray => {
            "std_msgs/msg/Float64MultiArray"
        }
        CommandOutput::JointState => "sensor_msgs/msg/JointState",
    }
}

impl CommandPublishers {
    /// Creates the publishers, and registers each topic for monitoring.
    pub fn create(
        ros: &mut r2r::Node,
        parameters: &ResolvedConfig,
        names: &Names,
        monitor: &mut TopicMonitor,
    ) -> Result<Self, NodeError> {
        let qos = || QosProfile::default().keep_last(1).reliable();
        let CommandTopics { output, command, grippers } = &parameters.command_topics;
        let purpose = match output {
            CommandOutput::Twist => "twist command",
            _ => "joint command",
        };
        monitor.watch(names, purpose, command, type_name(*output), Role::Output, qos());
        for gripper in grippers {
            let kind = "std_msgs/msg/Float64";
            monitor.watch(names, "gripper command", gripper, kind, Role::Output, qos());
        }
        let motion = match output {
            CommandOutput::Twist => MotionPublisher::Twist(publish(ros, command, qos())?),
            CommandOutput::JointTrajectory => {
                MotionPublisher::Trajectory(publish(ros, command, qos())?)
            }
            CommandOutput::JointPositionArray => {
                MotionPublisher::Positions(publish(ros, command, qos())?)
            }
            CommandOutput::JointVelocityArray => {
                MotionPublisher::Velocities(publish(ros, command, qos())?)
            }
            CommandOutput::JointState => MotionPublisher::JointState(publish(ros, command, qos())?),
        };
        let grippers = grippers.iter().map(|topic| publish(ros, topic, qos()));
        Ok(Self {
            motion,
            grippers: grippers.collect::<Result<_, _>>()?,
            frame_id: parameters.frame_id.clone(),
            joints: parameters.joints.clone(),
            period: parameters.control.period(),
        })
    }

    /// Subscribers of the motion command; an error when the middleware cannot tell.
    pub fn subscribers(&self) -> r2r::Result<usize> {
        match &self.motion {
            MotionPublisher::Twist(publisher) => publisher.get_inter_process_subscription_count(),
            MotionPublisher::Trajectory(publisher) => {
                publisher.get_inter_process_subscription_count()
            }
            MotionPublisher::Positions(publisher) | MotionPublisher::Velocities(publisher) => {
                publisher.get_inter_process_subscription_count()
            }
            MotionPublisher::JointState(publisher) => {
                publisher.get_inter_process_subscription_count()
            }
        }
    }

    fn publish_joints(&self, stamp: Stamp, command: &JointCommand) {
        let velocities = command.velocities().to_vec();
        let positions = command.positions().map(<[f64]>::to_vec);
        let array = |data| Float64MultiArray { data, ..Float64MultiArray::default() };
        // A failure cannot be handled here; the timeout of the robot's controller covers it.
        // Without positions nothing has begun to move: an arm that takes positions holds by itself.
        let _ = match (&self.motion, positions) {
            (MotionPublisher::Velocities(publisher), _) => publisher.publish(&array(velocities)),
            (MotionPublisher::Positions(publisher), Some(positions)) => {
                publisher.publish(&array(positions))
            }
            (MotionPublisher::Trajectory(publisher), Some(positions)) => {
                publisher.publish(&self.trajectory(positions, velocities))
            }
            (MotionPublisher::JointState(publisher), Some(position)) => {
                let header =
                    Header { stamp: messages::time(stamp), frame_id: self.frame_id.clone() };
                let name = self.joints.clone();
                publisher.publish(&JointState {
                    header,
                    name,
                    position,
                    velocity: velocities,
                    effort: Vec::new(),
                })
            }
            _ => Ok(()),
        };
    }

    /// A trajectory of one point. Its stamp is zero, which means now: joint_trajectory_controller
    /// drops a trajectory whose end is in the past when it arrives.
    fn trajectory(&self, positions: Vec<f64>, velocities: Vec<f64>) -> JointTrajectory {
        let zero = Time { sec: 0, nanosec: 0 };
        let point = JointTrajectoryPoint {
            positions,
            velocities,
            time_from_start: RosDuration { sec: 0, nanosec: self.period.subsec_nanos() },
            ..JointTrajectoryPoint::default()
        };
        JointTrajectory {
            header: Header { stamp: zero, frame_id: self.frame_id.clone() },
            joint_names: self.joints.clone(),
            points: vec![point],
        }
    }
}

impl CommandSink for CommandPublishers {
    fn publish(&mut self, stamp: Stamp, command: &Command) {
        match (&self.motion, command.joints()) {
            (MotionPublisher::Twist(publisher), _) => {
                let vector = |[x, y, z]: [f64; 3]| Vector3 { x, y, z };
                let header =
                    Header { stamp: messages::time(stamp), frame_id: self.frame_id.clone() };
                let twist = Twist {
                    linear: vector(command.twist().linear),
                    angular: vector(command.twist().angular),
                };
                let _ = publisher.publish(&TwistStamped { header, twist });
            }
            (_, Some(joints)) => self.publish_joints(stamp, joints),
            (_, None) => {}
        }
        for (publisher, opening) in self.grippers.iter().zip(command.grippers()) {
            if let Some(data) = *opening {
                let _ = publisher.publish(&Float64 { data });
            }
        }
    }
}
