//! `~/motion/desired` and `~/motion/executed`: the motion before and after the limits, for
//! displays, also in a dry run.
//!
//! A display that subscribed to the command itself would count as the subscriber that the
//! subscriber watchdog requires, and hide that the arm's driver is gone. Published on the executor
//! thread from control's newest snapshot, below the control rate; nobody has to subscribe.

use std::time::Duration;

use r2r::{
    QosProfile,
    geometry_msgs::msg::{Twist as TwistMessage, TwistStamped, Vector3},
    sensor_msgs::msg::JointState,
    std_msgs::msg::Header,
};
use vla_control::action_chunk::JointAction;
use vla_control::time::Instant;
use vla_control::{MotionReport, Twist};

use super::{NodeError, ResolvedConfig, inbox::publish, log, messages, shared::Shared};

/// Interval of publication.
const INTERVAL: Duration = Duration::from_millis(50);

/// The publishers, by what the arm is commanded with.
enum Publishers {
    Twist([r2r::Publisher<TwistStamped>; 2]),
    Joints([r2r::Publisher<JointState>; 2]),
}

/// Publishes the motion of control's newest step.
pub(super) struct MotionPublisher {
    publishers: Publishers,
    last: Option<Instant>,
}

impl MotionPublisher {
    pub fn create(ros: &mut r2r::Node, parameters: &ResolvedConfig) -> Result<Self, NodeError> {
        let qos = || QosProfile::default().keep_last(10).reliable();
        let (desired, executed) = ("~/motion/desired", "~/motion/executed");
        let publishers = if parameters.joints.is_empty() {
            Publishers::Twist([publish(ros, desired, qos())?, publish(ros, executed, qos())?])
        } else {
            Publishers::Joints([publish(ros, desired, qos())?, publish(ros, executed, qos())?])
        };
        Ok(Self { publishers, last: None })
    }

    /// Publishes when it is due.
    pub fn poll(&mut self, shared: &mut Shared) {
        let now = shared.now();
        if self.last.is_some_and(|last| !now.since(last).exceeds(INTERVAL)) {
            return;
        }
        self.last = Some(now);
        let Some(snapshot) = shared.runtime.snapshot() else { return };
        let motion = &snapshot.output.motion;
        let header = Header {
            stamp: messages::time(shared.ros_now()),
            frame_id: shared.parameters.frame_id.clone(),
        };
        let published = match &self.publishers {
            Publishers::Twist([desired, executed]) => desired
                .publish(&twist(&header, &motion.desired))
                .and_then(|()| executed.publish(&twist(&header, &motion.limited))),
            Publishers::Joints([desired, executed]) => {
                let [wanted, done] = joints(&header, motion, &shared.parameters);
                desired.publish(&wanted).and_then(|()| executed.publish(&done))
            }
        };
        if let Err(error) = published {
            log::limited(log::Severity::Warn, "publish", format!("~/motion: {error}"));
        }
    }
}

fn twist(header: &Header, twist: &Twist) -> TwistStamped {
    let vector = |[x, y, z]: [f64; 3]| Vector3 { x, y, z };
    let (linear, angular) = (vector(twist.linear), vector(twist.angular));
    TwistStamped { header: header.clone(), twist: TwistMessage { linear, angular } }
}

/// Desired and executed; the desired one is empty while there is no step to execute, and has
/// positions or velocities, as the policy.
fn joints(header: &Header, motion: &MotionReport, parameters: &ResolvedConfig) -> [JointState; 2] {
    let message = |position: Vec<f64>, velocity: Vec<f64>| JointState {
        header: header.clone(),
        name: parameters.joints.clone(),
        position,
        velocity,
        effort: Vec::new(),
    };
    let Some(report) = &motion.joints else {
        return [message(vec![], vec![]), message(vec![], vec![])];
    };
    let limited = &report.limited;
    let count = limited.positions().len();
    let values = report.desired.map_or_else(Vec::new, |desired| desired[..count].to_vec());
    let velocity = parameters.control.joints().map(|space| space.action());
    let desired = match velocity {
        Some(JointAction::Velocity) => message(vec![], values),
        _ => message(values, vec![]),
    };
    [desired, message(limited.positions().to_vec(), limited.velocities().to_vec())]
}
