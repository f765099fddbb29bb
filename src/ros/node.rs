//! Putting the node together, and its one loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use r2r::{
    QosProfile, ServiceRequest,
    geometry_msgs::msg::PoseStamped,
    rosgraph_msgs::msg::Clock as ClockMessage,
    sensor_msgs::msg::{CompressedImage, Image},
    std_srvs::srv::{SetBool, Trigger},
};

use super::{
    ImageTransport, NodeError, PolicyFactory, ResolvedConfig,
    inbox::{Inbox, publish, serve, subscribe},
    lifecycle::State,
    log,
    messages::{self, CommandPublishers},
    parameter_services::ParameterServices,
    requests::Waiting,
    status::Facts,
    transitions::{Transitions, Work},
};
use crate::runtime::{FlightDesk, NodeClock, Runtime, flight_recorder, wait_until};
use vla_config::{LifecycleState, Remark};
use vla_control::time::{Clock, Instant, Stamp};
use vla_inference::policy::{Instruction, InstructionError};

/// The longest the loop sleeps when no message comes: a change of state is told this much later at
/// worst.
const NAP: Duration = Duration::from_millis(5);

/// Flight records that stay in their folder; the oldest go first.
const RECORDS_KEPT: usize = 50;

enum Images {
    Raw(Inbox<Image>),
    Compressed(Inbox<CompressedImage>),
}

/// What is received.
struct Inboxes {
    images: Images,
    instruction: Inbox<r2r::std_msgs::msg::String>,
    ee_pose: Option<Inbox<PoseStamped>>,
    clock: Option<Inbox<ClockMessage>>,
    enable: Inbox<ServiceRequest<SetBool::Service>>,
    estop: Inbox<ServiceRequest<Trigger::Service>>,
    reset: Inbox<ServiceRequest<Trigger::Service>>,
    dump: Inbox<ServiceRequest<Trigger::Service>>,
}

/// What is sent, besides commands.
pub(super) struct Outboxes {
    pub action: r2r::Publisher<r2r::openvla_tt_msgs::msg::Action>,
    pub status: r2r::Publisher<r2r::openvla_tt_msgs::msg::Status>,
    pub diagnostics: r2r::Publisher<r2r::diagnostic_msgs::msg::DiagnosticArray>,
    twist: r2r::Publisher<r2r::geometry_msgs::msg::TwistStamped>,
}

/// The node.
pub struct VlaNode {
    ros: r2r::Node,
    pub(super) name: String,
    pub(super) clock: NodeClock,
    pub(super) parameters: ResolvedConfig,
    pub(super) factory: PolicyFactory,
    pub(super) runtime: Runtime,
    inboxes: Inboxes,
    pub(super) outboxes: Outboxes,
    parameter_services: ParameterServices,
    pub(super) transitions: Transitions,
    pub(super) waiting: Vec<Waiting>,
    /// The flight recorder, when there is a folder for its files.
    pub(super) flight: Option<FlightDesk>,
    /// Who waits for a recording.
    pub(super) dumps: Vec<(ServiceRequest<Trigger::Service>, Instant)>,
    pub(super) facts: Facts,
    /// Whether an end-effector pose has arrived that may guard the workspace, and when.
    pub(super) pose_at: Option<Instant>,
    /// The stamp of the newest end-effector pose, fit or not.
    pose_stamp: Option<Stamp>,
    stop: Arc<AtomicBool>,
}

impl VlaNode {
    /// Creates everything; nothing runs but the control loop, which holds still.
    pub(super) fn create(
        context: r2r::Context,
        factory: PolicyFactory,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, NodeError> {
        let failed = |what| move |error| NodeError::Ros { what, error };
        let mut ros = r2r::Node::create(context, "vla", "").map_err(failed("the node"))?;
        let name = ros.fully_qualified_name().map_err(failed("the node"))?;
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let (parameters, remarks) = ResolvedConfig::read(&arguments, &name)?;
        for remark in remarks {
            match remark {
                Remark::Info(text) => log::info(text),
                Remark::Warning(text) => log::warn(text),
            }
        }
        let node = &mut ros;
        let reliable = || QosProfile::default().keep_last(1).reliable();
        let outboxes = Outboxes {
            action: publish(node, "~/action", QosProfile::default().keep_last(10).reliable())?,
            status: publish(node, "~/status", reliable().transient_local())?,
            diagnostics: publish(
                node,
                "/diagnostics",
                QosProfile::default().keep_last(10).reliable(),
            )?,
            twist: publish(node, &parameters.command_topics.twist, reliable())?,
        };
        let commands = CommandPublishers {
            twist: outboxes.twist.clone(),
            gripper: publish(node, &parameters.command_topics.gripper, reliable())?,
            frame_id: parameters.frame_id.clone(),
        };
        let sensor = QosProfile::sensor_data;
        let images = match parameters.image_transport {
            ImageTransport::Raw => Images::Raw(subscribe(node, "image", sensor())?),
            ImageTransport::Compressed => {
                Images::Compressed(subscribe(node, "image/compressed", sensor())?)
            }
        };
        let inboxes = Inboxes {
            images,
            instruction: subscribe(node, "instruction", reliable().transient_local())?,
            ee_pose: parameters
                .control
                .needs_ee_pose()
                .then(|| subscribe(node, "ee_pose", sensor()))
                .transpose()?,
            clock: parameters
                .use_sim_time
                .then(|| {
                    subscribe(node, "/clock", QosProfile::default().keep_last(1).best_effort())
                })
                .transpose()?,
            enable: serve(node, "~/enable")?,
            estop: serve(node, "~/estop")?,
            reset: serve(node, "~/reset")?,
            dump: serve(node, "~/dump")?,
        };
        let transitions = Transitions::create(node, parameters.autostart)?;
        let parameter_services = ParameterServices::create(node)?;
        let clock = NodeClock::new(parameters.use_sim_time);
        let flight = parameters
            .record_directory
            .clone()
            .map(|folder| flight_recorder(parameters.control.period(), folder, RECORDS_KEPT))
            .transpose()?;
        let (observer, flight) = flight.unzip();
        let runtime = Runtime::start(
            Arc::new(clock.clone()),
            parameters.control,
            Box::new(commands),
            observer,
            parameters.scheduling,
        )?;
        Ok(Self {
            ros,
            name,
            clock,
            parameters,
            factory,
            runtime,
            inboxes,
            outboxes,
            parameter_services,
            transitions,
            waiting: Vec::new(),
            flight,
            dumps: Vec::new(),
            facts: Facts::default(),
            pose_at: None,
            pose_stamp: None,
            stop,
        })
    }

    /// Runs until SIGINT or SIGTERM, then comes to rest and ends.
    pub(super) fn spin(mut self) -> Result<(), NodeError> {
        log::info(format!(
            "{}: {} on {}, {}; waiting to be {}",
            self.name,
            self.parameters.checkpoint.display(),
            self.parameters.device,
            if self.parameters.control.dry_run() {
                "dry run: commands stay silent"
            } else {
                "commands will be published"
            },
            if self.parameters.autostart { "started by itself" } else { "configured" },
        ));
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.stop.load(Ordering::Acquire) {
            outcome = self.turn();
        }
        // Whatever ended the loop: the robot comes to rest before the stream ends.
        if let Err(error) = &outcome {
            log::error(error.to_string());
        }
        self.end().and(outcome)
    }

    /// One turn: what has arrived, what has been asked, what has changed.
    fn turn(&mut self) -> Result<(), NodeError> {
        self.ros.spin_once(NAP);
        self.take_messages();
        self.take_requests();
        self.answer_requests();
        self.serve_dumps();
        self.take_transition_requests();
        self.advance_transition();
        self.serve_parameters();
        self.take_reports();
        self.tell();
        match self.runtime.broken() {
            Some(what) => Err(NodeError::Broken(what)),
            None => Ok(()),
        }
    }

    fn take_messages(&mut self) {
        if let Some(clock) = &mut self.inboxes.clock {
            while let Some(message) = clock.next() {
                self.clock.set_simulated(messages::stamp(&message.clock));
            }
        }
        loop {
            let image = match &mut self.inboxes.images {
                Images::Raw(inbox) => inbox.next().map(messages::camera_image),
                Images::Compressed(inbox) => inbox.next().map(messages::compressed_image),
            };
            let Some((stamp, bytes)) = image else { break };
            self.runtime.offer_image(stamp, bytes);
        }
        while let Some(message) = self.inboxes.instruction.next() {
            self.take_instruction(&message.data);
        }
        while let Some(message) = self.inboxes.ee_pose.as_mut().and_then(Inbox::next) {
            self.take_pose(&message);
        }
        // Under dry_run nobody need listen.
        let listened = self.parameters.control.dry_run()
            || self
                .outboxes
                .twist
                .get_inter_process_subscription_count()
                .map_or(true, |subscribers| 0 < subscribers);
        self.runtime.set_subscribed(listened);
    }

    /// A pose guards the workspace only when it is new: in the right frame, with another stamp than
    /// the last, and recent by that stamp.
    fn take_pose(&mut self, message: &PoseStamped) {
        let stamp = messages::stamp(&message.header.stamp);
        let age = self.clock.ros().seconds_since(stamp);
        let timeout = self.parameters.raw_control.pose_timeout_s;
        let problem = if message.header.frame_id != self.parameters.frame_id {
            Some(format!(
                "ee_pose is in frame '{}', but the workspace in '{}'",
                message.header.frame_id, self.parameters.frame_id
            ))
        } else if self.pose_stamp == Some(stamp) {
            Some("ee_pose arrives, but its stamp does not change".into())
        } else if timeout < age.abs() {
            Some(format!(
                "the stamp of ee_pose is {age:.3} s old, at most {timeout} s are accepted"
            ))
        } else {
            None
        };
        self.pose_stamp = Some(stamp);
        if problem.is_none() {
            let position = &message.pose.position;
            self.runtime.set_ee_pose([position.x, position.y, position.z]);
            self.pose_at = Some(self.clock.steady());
        }
        self.facts.pose_note = problem;
    }

    fn take_instruction(&mut self, text: &str) {
        self.facts.instruction_note = None;
        let instruction = match Instruction::new(text) {
            Ok(instruction) => Some(instruction),
            Err(error) => {
                // An instruction that cannot be understood must not leave the last one in force.
                if error != InstructionError::Empty {
                    log::warn(format!("instruction refused: {error}"));
                    self.facts.instruction_note = Some(error.to_string());
                }
                None
            }
        };
        if self.runtime.set_instruction(instruction)
            && let Some(instruction) = self.runtime.instruction()
        {
            log::info(format!("instruction: {}", instruction.text()));
        }
    }

    fn serve_parameters(&mut self) {
        let state = match self.transitions.state() {
            State::Unconfigured => LifecycleState::Unconfigured,
            State::Inactive if self.runtime.at_rest() => LifecycleState::Inactive,
            _ => LifecycleState::Other,
        };
        if let Some(changed) = self.parameter_services.serve(&self.parameters, state) {
            if state == LifecycleState::Inactive {
                self.runtime.configure_control(changed.control);
            }
            self.parameters = changed;
        }
    }

    /// Comes to rest, says so, and ends the threads.
    fn end(mut self) -> Result<(), NodeError> {
        log::info("stopping: coming to rest");
        self.transitions.begin_shutdown();
        self.facts.note = Some("the node was told to stop".into());
        self.set_inactive();
        let patience = Duration::from_secs_f64(self.parameters.control.stop_time_s() + 1.0);
        let rested = wait_until(patience, || {
            self.ros.spin_once(Duration::from_millis(1));
            self.tell();
            self.runtime.at_rest()
        });
        if !rested {
            log::error("the command did not come to zero in time; the stream ends here");
        }
        self.tell();
        if self.runtime.shut_down(Duration::from_secs(2)) {
            log::info("stopped");
        } else {
            log::warn("stopped; the policy was still busy and ends with the process");
        }
        Ok(())
    }

    /// Leaves the active state, whatever the node is doing.
    pub(super) fn set_inactive(&mut self) {
        if self.transitions.work.is_some() {
            self.transitions.work = None;
        }
        self.runtime.set_lifecycle(vla_control::Lifecycle::Inactive);
    }

    /// Sets the work of the transition under way.
    pub(super) fn work_on(&mut self, work: Work) {
        self.transitions.work = Some(work);
    }

    /// Now, as a message field.
    pub(super) fn ros_now(&self) -> Stamp {
        self.clock.ros()
    }
}

/// A flag that SIGINT and SIGTERM raise. A second signal ends the process at once.
pub(super) fn stop_signals() -> Result<Arc<AtomicBool>, std::io::Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag down and only raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

impl VlaNode {
    pub(super) fn next_enable(&mut self) -> Option<ServiceRequest<SetBool::Service>> {
        self.inboxes.enable.next()
    }

    pub(super) fn next_estop(&mut self) -> Option<ServiceRequest<Trigger::Service>> {
        self.inboxes.estop.next()
    }

    pub(super) fn next_dump(&mut self) -> Option<ServiceRequest<Trigger::Service>> {
        self.inboxes.dump.next()
    }

    pub(super) fn next_reset(&mut self) -> Option<ServiceRequest<Trigger::Service>> {
        self.inboxes.reset.next()
    }
}
