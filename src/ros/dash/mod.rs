//! `openvla dash`: the operator page over the node's topics and services. A process of its own;
//! the node runs the same with or without it.
//!
//! This thread spins ROS and writes what is shown to the [`Board`]; `vla_serve::dash` serves it on
//! threads of its own, and sends requests through [`link::Link`] without waiting for this one.

mod cameras;
mod link;
mod reasons;
mod settings;
mod shown;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use r2r::QosProfile;
use r2r::geometry_msgs::msg::TwistStamped;
use r2r::openvla_tt_msgs::msg::{Action, Status};
use r2r::sensor_msgs::msg::JointState;
use serde_json::json;
use vla_serve::ServeError;
use vla_serve::dash::{Board, BoundDash};

use super::NodeError;
use super::inbox::{Inbox, subscribe};
use super::names::Names;
use cameras::Cameras;
use link::Link;
use settings::SettingsReader;
use shown::{Samples, Timeline};

/// Longest wait for messages in one turn.
const TURN: Duration = Duration::from_millis(10);
/// Interval of what is sent to the page regularly.
const TICK: Duration = Duration::from_millis(100);
/// Interval of looks at the graph, the node's parameters and the recordings.
const LOOK: Duration = Duration::from_secs(1);
/// The node publishes its motion every 50 ms: after this time without anything it counts as lost.
const LOST: Duration = Duration::from_millis(700);

/// Which node, and which topics.
#[derive(Debug, Clone)]
pub struct DashOptions {
    /// Fully qualified name of the node.
    pub node: String,
    /// Topics of cameras; empty: those of the node's policy file.
    pub cameras: Vec<String>,
    /// Remapping rules of the node, `FROM:=TO`.
    pub remaps: Vec<String>,
}

/// Errors that end the page.
#[derive(Debug, thiserror::Error)]
pub enum DashError {
    /// An error of rcl.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An error of the server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The server's thread panicked.
    #[error("the thread of the server ended unexpectedly; its last line on stderr says why")]
    Broken,
}

/// Serves the page until a signal ends it. `ready` is called when browsers can connect.
///
/// # Errors
/// Errors of rcl, and a server that does not start.
pub fn dash(
    options: &DashOptions,
    bound: BoundDash,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), DashError> {
    let context = super::arguments::context().map_err(NodeError::Arguments)?;
    let mut ros = r2r::Node::create(context, "openvla_dash", "")
        .map_err(|error| NodeError::Ros { what: "the node", error })?;
    let rules = options.remaps.iter().flat_map(|rule| ["-r".to_owned(), rule.clone()]);
    let names = Names::new(&options.node, ["--ros-args".to_owned()].into_iter().chain(rules));
    let link = Arc::new(Link::create(&mut ros, &names)?);
    let board = Arc::new(Board::default());
    let mut page = Page::create(&mut ros, names, options, Arc::clone(&board))?;
    let server = thread::Builder::new()
        .name("dash-server".into())
        .spawn(move || bound.run(board, link, |_| ready()))
        .map_err(NodeError::Threads)?;
    while !server.is_finished() {
        ros.spin_once(TURN);
        page.turn(&mut ros)?;
    }
    server.join().map_err(|_| DashError::Broken)??;
    Ok(())
}

/// The motion's messages, by what the arm is commanded with; known when the node is there.
enum Motion {
    Unknown,
    Twist([Inbox<TwistStamped>; 2]),
    Joints([Inbox<JointState>; 2]),
}

/// What came from the node, and when the last of it came.
struct Page {
    names: Names,
    board: Arc<Board>,
    status: Inbox<Status>,
    action: Inbox<Action>,
    motion: Motion,
    samples: Samples,
    timeline: Timeline,
    cameras: Cameras,
    settings: SettingsReader,
    started: Instant,
    heard: Option<Instant>,
    alive: bool,
    ticked: Instant,
    looked: Option<Instant>,
}

impl Page {
    fn create(
        ros: &mut r2r::Node,
        names: Names,
        options: &DashOptions,
        board: Arc<Board>,
    ) -> Result<Self, NodeError> {
        let qos = || QosProfile::default().reliable();
        let past = qos().keep_last(20).transient_local();
        let status = subscribe(ros, &names.resolve("~/status"), past)?;
        let action = subscribe(ros, &names.resolve("~/action"), qos().keep_last(10))?;
        let settings = SettingsReader::create(ros, &options.node, &names)?;
        let topics = options.cameras.iter().map(|topic| names.resolve(topic)).collect();
        let cameras = Cameras::new(topics, Arc::clone(&board))?;
        let started = Instant::now();
        Ok(Self {
            names,
            board,
            status,
            action,
            motion: Motion::Unknown,
            samples: Samples::default(),
            timeline: Timeline::default(),
            cameras,
            settings,
            started,
            heard: None,
            alive: false,
            ticked: started,
            looked: None,
        })
    }

    /// Shows what has arrived.
    fn turn(&mut self, ros: &mut r2r::Node) -> Result<(), NodeError> {
        let now = Instant::now();
        let at = now.duration_since(self.started).as_secs_f64();
        while let Some(status) = self.status.next() {
            if self.timeline.add(&status) {
                self.board.show("timeline", &self.timeline.json().to_string(), true);
            }
            self.board.show("status", &shown::status(&status).to_string(), true);
            self.heard = Some(now);
        }
        while let Some(action) = self.action.next() {
            self.board.show("action", &shown::action(&action).to_string(), true);
        }
        if self.take_motion(at) {
            self.heard = Some(now);
        }
        self.cameras.take(now);
        if self.looked.is_none_or(|looked| LOOK <= now - looked) {
            self.looked = Some(now);
            self.look(ros)?;
        }
        if self.settings.take() {
            self.show_settings();
        }
        let alive = self.heard.is_some_and(|heard| now - heard < LOST);
        if TICK <= now - self.ticked || alive != self.alive {
            (self.ticked, self.alive) = (now, alive);
            if let Some(samples) = self.samples.take() {
                self.board.show("motion", &samples.to_string(), false);
            }
            let silent_s = self.heard.map(|heard| (now - heard).as_secs_f64());
            let cameras = self.cameras.ages(now);
            let tick = json!({ "t": at, "alive": alive, "silent_s": silent_s, "cameras": cameras });
            self.board.show("tick", &tick.to_string(), false);
        }
        Ok(())
    }

    /// Collects the motion's messages; whether there were any.
    fn take_motion(&mut self, at: f64) -> bool {
        let before = self.samples.len();
        match &mut self.motion {
            Motion::Unknown => {}
            Motion::Twist([desired, executed]) => {
                while let Some(message) = desired.next() {
                    self.samples.desired(at, shown::twist(&message.twist));
                }
                while let Some(message) = executed.next() {
                    self.samples.executed(at, shown::twist(&message.twist));
                }
            }
            Motion::Joints([desired, executed]) => {
                let velocities = self.settings.is_velocity();
                while let Some(message) = desired.next() {
                    self.samples.desired(at, shown::joints(message, velocities));
                }
                while let Some(message) = executed.next() {
                    self.samples.executed(at, shown::joints(message, velocities));
                }
            }
        }
        before < self.samples.len()
    }

    /// Looks at the graph for topics whose type is not known beforehand.
    fn look(&mut self, ros: &mut r2r::Node) -> Result<(), NodeError> {
        let topics = ros.get_topic_names_and_types().unwrap_or_default();
        let motion =
            ["desired", "executed"].map(|kind| self.names.resolve(&format!("~/motion/{kind}")));
        let kind = topics.get(&motion[1]).and_then(|types| types.first()).map(String::as_str);
        let qos = || QosProfile::default().reliable().keep_last(20);
        if let (Motion::Unknown, Some(kind)) = (&self.motion, kind) {
            let [desired, executed] = &motion;
            self.motion = match kind {
                "geometry_msgs/msg/TwistStamped" => Motion::Twist([
                    subscribe(ros, desired, qos())?,
                    subscribe(ros, executed, qos())?,
                ]),
                "sensor_msgs/msg/JointState" => Motion::Joints([
                    subscribe(ros, desired, qos())?,
                    subscribe(ros, executed, qos())?,
                ]),
                _ => Motion::Unknown,
            };
        }
        if self.alive {
            self.settings.request();
        }
        self.cameras.look(ros, &topics, self.settings.cameras(&self.names))?;
        self.show_settings();
        self.board.show("records", &self.settings.records().to_string(), true);
        Ok(())
    }

    fn show_settings(&self) {
        let joints = matches!(self.motion, Motion::Joints(_));
        let shown = json!({
            "node": self.settings.node(),
            "channels": self.settings.channels(joints),
            "note": self.settings.note(),
            "cameras": self.cameras.json(),
        });
        self.board.show("settings", &shown.to_string(), true);
    }
}
