//! The node: creates the components and runs the executor.

use std::{sync::Arc, time::Duration};

use r2r::{QosProfile, rcl_interfaces::msg::Log};

use super::{
    NodeError, PolicyFactory, ResolvedConfig,
    commands::CommandPublishers,
    debug_image::DebugImages,
    inbox::publish,
    lifecycle::State,
    log,
    metrics::NodeMetrics,
    motion::MotionPublisher,
    names::Names,
    notes::Notes,
    parameter_events::ParameterEvents,
    parameter_services::ParameterServices,
    requests::RequestHandler,
    run_policy::{RunPolicyServer, Sensed},
    shared::Shared,
    signals::StopSignals,
    status::{StatusPublisher, StatusView},
    subscriptions::Subscriptions,
    topics::TopicMonitor,
    transitions::LifecycleManager,
};
use crate::runtime::{NodeClock, Runtime, flight_recorder, wait_until};
use crate::shared_memory;
use vla_config::{LifecycleState, Remark};
use vla_control::time::Clock;

/// Longest wait for a message, and thereby the longest delay until a change of state is published.
const SPIN_TIMEOUT: Duration = Duration::from_millis(5);

/// Flight records kept in their folder; the oldest are deleted first.
const RECORDS_KEPT: usize = 50;

/// The node. Each component owns its state; [`Shared`] is passed to those that need it.
pub struct VlaNode {
    name: String,
    shared: Shared,
    subscriptions: Subscriptions,
    topics: TopicMonitor,
    requests: RequestHandler,
    run_policy: RunPolicyServer,
    lifecycle: LifecycleManager,
    parameter_services: ParameterServices,
    parameter_events: ParameterEvents,
    status: StatusPublisher,
    motion: MotionPublisher,
    debug_images: DebugImages,
    /// Asked for its subscribers; control has a clone that publishes.
    commands: CommandPublishers,
    stop: StopSignals,
    /// Last, because dropping it ends the publishers: [`Runtime`] in `shared` is dropped before it
    /// and ramps the command down, also after a panic.
    ros: r2r::Node,
}

impl VlaNode {
    /// Creates all components. Nothing moves: the control loop runs, but the node is unconfigured.
    pub(super) fn create(
        context: r2r::Context,
        factory: PolicyFactory,
        stop: StopSignals,
    ) -> Result<Self, NodeError> {
        let failed = |what| move |error| NodeError::Ros { what, error };
        let freed = shared_memory::remove_abandoned_segments();
        let mut ros = r2r::Node::create(context, "vla", "").map_err(failed("the node"))?;
        let name = ros.fully_qualified_name().map_err(failed("the node"))?;
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let (parameters, remarks) = ResolvedConfig::read(&arguments, &name)?;
        let clock = NodeClock::new(parameters.use_sim_time);
        init_log(&mut ros, &clock)?;
        for remark in remarks {
            match remark {
                Remark::Info(text) => log::info(text),
                Remark::Warning(text) => log::warn(text),
            }
        }
        if 0 < freed {
            log::info(format!("freed {freed} bytes of shared memory left by killed processes"));
        }
        let names = Names::new(&name, std::env::args());
        let mut topics = TopicMonitor::new(clock.steady());
        let commands = CommandPublishers::create(&mut ros, &parameters, &names, &mut topics)?;
        let subscriptions = Subscriptions::create(&mut ros, &parameters, &names, &mut topics)?;
        let (observer, recorder) = parameters
            .record_directory
            .clone()
            .map(|folder| flight_recorder(parameters.control.period(), folder, RECORDS_KEPT))
            .transpose()?
            .unzip();
        let requests = RequestHandler::create(&mut ros, recorder)?;
        let run_policy = RunPolicyServer::create(&mut ros)?;
        let lifecycle = LifecycleManager::create(&mut ros, parameters.autostart)?;
        let parameter_services = ParameterServices::create(&mut ros)?;
        let parameter_events = ParameterEvents::create(&mut ros, &name)?;
        let status = StatusPublisher::create(&mut ros, name.clone())?;
        let motion = MotionPublisher::create(&mut ros, &parameters)?;
        let debug_images = DebugImages::create(&mut ros, &parameters)?;
        let runtime = Runtime::start(
            Arc::new(clock.clone()),
            parameters.control,
            Box::new(commands.clone()),
            observer,
            parameters.scheduling,
        )?;
        let shared = Shared {
            clock,
            runtime,
            parameters,
            factory,
            policy: None,
            instruction_topic: names.resolve("instruction"),
            notes: Notes::default(),
            metrics: NodeMetrics::default(),
        };
        Ok(Self {
            ros,
            name,
            shared,
            subscriptions,
            topics,
            requests,
            run_policy,
            lifecycle,
            parameter_services,
            parameter_events,
            status,
            motion,
            debug_images,
            commands,
            stop,
        })
    }

    /// Runs until a signal requests the end, then comes to rest and returns.
    pub(super) fn spin(mut self) -> Result<(), NodeError> {
        let parameters = &self.shared.parameters;
        let checkpoint = &parameters.checkpoint;
        log::info(format!(
            "{}: {} on {}, {}; waiting to be {}",
            self.name,
            if let Some(address) = &parameters.remote {
                address.to_string()
            } else if checkpoint.as_os_str().is_empty() {
                "no checkpoint is named".into()
            } else {
                checkpoint.display().to_string()
            },
            parameters.device,
            if parameters.control.dry_run() {
                "dry run: no command is published"
            } else {
                "commands will be published"
            },
            if parameters.autostart { "configured automatically" } else { "configured" },
        ));
        let mut outcome = Ok(());
        while outcome.is_ok() && !self.stop.requested() {
            outcome = self.spin_once();
        }
        // Also after an error the robot comes to rest before the command stream ends.
        if let Err(error) = &outcome {
            log::error(error.to_string());
        }
        self.end();
        outcome
    }

    /// Processes what has arrived and publishes what has changed.
    fn spin_once(&mut self) -> Result<(), NodeError> {
        self.ros.spin_once(SPIN_TIMEOUT);
        let shared = &mut self.shared;
        self.subscriptions.take(shared);
        shared.runtime.set_subscribed(is_subscribed(&self.commands, &shared.parameters));
        self.requests.poll(shared);
        self.run_policy.poll(shared, &self.subscriptions.sensed(shared));
        self.lifecycle.poll(shared, &self.subscriptions);
        self.serve_parameters();
        self.topics.check(&self.ros, self.shared.now());
        self.stop.set_stop_time(self.shared.runtime.rest_within());
        self.publish_status();
        self.motion.poll(&mut self.shared);
        self.debug_images.poll(&mut self.shared, self.status.newest());
        match self.shared.runtime.broken() {
            Some(what) => Err(NodeError::Broken(what)),
            None => Ok(()),
        }
    }

    fn publish_status(&mut self) {
        let view = StatusView {
            lifecycle: self.lifecycle.state(),
            topics: self.topics.problems(),
            clock_missing: self.subscriptions.clock_missing(),
        };
        self.status.poll(&mut self.shared, &view);
    }

    fn serve_parameters(&mut self) {
        let shared = &mut self.shared;
        let state = match self.lifecycle.state() {
            State::Unconfigured => LifecycleState::Unconfigured,
            // A change while inactive replaces control's configuration, which needs rest: requests
            // wait until the ramp is over (at most the stop time).
            State::Inactive if !shared.runtime.at_rest() => return,
            State::Inactive => LifecycleState::Inactive,
            _ => LifecycleState::Other,
        };
        if let Some(changed) = self.parameter_services.serve(&shared.parameters, state) {
            if state == LifecycleState::Inactive {
                shared.runtime.configure_control(changed.control);
            }
            self.parameter_events.changed(&shared.parameters, &changed, shared.ros_now());
            shared.parameters = changed;
        }
    }

    /// Ramps down, publishes that, and ends the threads.
    fn end(mut self) {
        log::info("stopping: coming to rest");
        self.shared.notes.transition = Some("the node is stopping".into());
        self.run_policy.shut_down(&mut self.shared);
        self.lifecycle.begin_shutdown(&mut self.shared);
        let longest = self.shared.runtime.rest_within() + Duration::from_secs(1);
        let rested = wait_until(longest, || {
            self.ros.spin_once(Duration::from_millis(1));
            self.run_policy.poll(&mut self.shared, &Sensed::default());
            self.publish_status();
            self.shared.runtime.at_rest()
        });
        if !rested {
            log::error("the command did not come to zero in time; the command stream ends here");
        }
        self.publish_status();
        if self.shared.runtime.shut_down(Duration::from_secs(2)) {
            log::info("stopped");
        } else {
            log::warn("stopped; the policy was still busy and ends with the process");
        }
    }
}

/// Names the logger after the node and connects it with `/rosout`.
fn init_log(ros: &mut r2r::Node, clock: &NodeClock) -> Result<(), NodeError> {
    let qos = QosProfile::default().keep_last(1000).reliable().transient_local();
    let rosout = publish::<Log>(ros, "/rosout", qos)?;
    let name = ros.logger().to_owned();
    log::init(&name, rosout, clock.clone());
    Ok(())
}

/// Whether the command has a subscriber. In a dry run none is needed; if the middleware cannot
/// tell, one is assumed.
fn is_subscribed(commands: &CommandPublishers, parameters: &ResolvedConfig) -> bool {
    parameters.control.dry_run() || commands.subscribers().map_or(true, |count| 0 < count)
}
