//! One goal from its acceptance to its end: what was asked for and what ends it. Pure.

use std::{sync::Arc, time::Duration};

use r2r::openvla_tt_msgs::{action::RunPolicy::Goal, msg::Status};

use super::holding::{Condition, Grippers};
use crate::runtime::{ControlStatus, Snapshot};
use vla_control::action_chunk::GRIPPERS_MAX;
use vla_control::time::Instant;
use vla_control::{Cause, Reason};
use vla_inference::policy::Instruction;

/// Accepted values of `time_limit_s`.
const TIME_LIMIT_S: std::ops::RangeInclusive<f64> = 0.1..=3600.0;
/// Largest coordinate of a box, in metres.
const BOX_LIMIT_M: f64 = 100.0;

/// What a goal asks for, validated.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub instruction: Instruction,
    pub time_limit: Duration,
    /// Request motion to be enabled.
    pub enable: bool,
    pub stop_when_stalled: bool,
    pub stop_on_done: bool,
    /// Corners of the box that ends the goal, in metres.
    pub stop_in_box: Option<([f64; 3], [f64; 3])>,
    pub stop_when_holding: Option<Condition>,
}

/// What the node receives, beside images, that a goal's conditions need.
#[derive(Debug, Clone, Default)]
pub(in crate::ros) struct Sensed {
    /// Recent position of the end effector, in metres.
    pub position: Option<[f64; 3]>,
    /// The node receives `ee_pose`.
    pub poses: bool,
    /// Recent openings of the grippers.
    pub openings: [Option<f64>; GRIPPERS_MAX],
    /// Why no opening is known.
    pub no_opening: Option<Arc<str>>,
}

/// Why a goal did not begin: a constant `REASON_...` of `Status`, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: u16,
    pub detail: String,
}

impl Task {
    /// Validates a goal.
    pub fn read(goal: &Goal, sensed: &Sensed) -> Result<(Self, Vec<String>), Refusal> {
        let refuse = |detail: String| Refusal { reason: 0, detail };
        let (instruction, remarks) = Instruction::read(&goal.instruction).map_err(|error| {
            #[allow(clippy::cast_possible_truncation)] // a uint16 constant
            let reason = Status::REASON_INSTRUCTION_REJECTED as u16;
            Refusal { reason, detail: format!("instruction refused: {error}") }
        })?;
        if !TIME_LIMIT_S.contains(&goal.time_limit_s) {
            let (low, high) = TIME_LIMIT_S.into_inner();
            return Err(refuse(format!(
                "time_limit_s is {}; it must be from {low} to {high}",
                goal.time_limit_s
            )));
        }
        let stop_in_box = goal
            .stop_in_box
            .then(|| corners(&goal.box_min, &goal.box_max, sensed.poses))
            .transpose()
            .map_err(refuse)?;
        let stop_when_holding = goal
            .stop_when_holding
            .then(|| match &sensed.no_opening {
                Some(text) => Err(text.to_string()),
                None => Condition::read(goal.holding_opening, goal.holding_time_s),
            })
            .transpose()
            .map_err(refuse)?;
        let task = Self {
            instruction,
            time_limit: Duration::from_secs_f64(goal.time_limit_s),
            enable: goal.enable,
            stop_when_stalled: goal.stop_when_stalled,
            stop_on_done: goal.stop_on_done,
            stop_in_box,
            stop_when_holding,
        };
        Ok((task, remarks.iter().map(ToString::to_string).collect()))
    }
}

fn corners(min: &[f64], max: &[f64], poses: bool) -> Result<([f64; 3], [f64; 3]), String> {
    if !poses {
        return Err(
            "stop_in_box needs ee_pose, which the node receives only with a workspace or a \
            policy whose state has it; set workspace in the robot file"
                .into(),
        );
    }
    let (Ok(min), Ok(max)) = (<[f64; 3]>::try_from(min), <[f64; 3]>::try_from(max)) else {
        return Err("box_min and box_max must have three numbers each".into());
    };
    for (axis, (low, high)) in ["x", "y", "z"].iter().zip(min.iter().zip(&max)) {
        let bounded = low.abs() <= BOX_LIMIT_M && high.abs() <= BOX_LIMIT_M;
        if !bounded || high <= low {
            return Err(format!(
                "the box is {low} to {high} m in {axis}; box_min must be below box_max, and both \
                 within {BOX_LIMIT_M} m"
            ));
        }
    }
    Ok((min, max))
}

/// How a goal ended; the numbers are those of `RunPolicy`'s result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Outcome {
    Done = 1,
    TimedOut = 2,
    Cancelled = 3,
    Stopped = 4,
    Refused = 5,
    Preempted = 6,
}

/// The end of a goal.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    pub outcome: Outcome,
    /// What stopped it.
    pub cause: Option<Cause>,
    /// What ended it, where there is no cause.
    pub detail: String,
}

impl Ending {
    pub fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, cause: None, detail: detail.into() }
    }

    pub const fn refused(cause: Cause) -> Self {
        Self { outcome: Outcome::Refused, cause: Some(cause), detail: String::new() }
    }

    const fn stopped(cause: Cause) -> Self {
        Self { outcome: Outcome::Stopped, cause: Some(cause), detail: String::new() }
    }
}

/// What a goal is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub now: Instant,
    /// The instruction in force is the goal's.
    pub in_force: bool,
    pub status: &'a ControlStatus,
    /// `true` arrived on `~/done`.
    pub done: bool,
    pub sensed: &'a Sensed,
    /// Published commands of the grippers, 0 closed to 1 open.
    pub grippers: [Option<f64>; GRIPPERS_MAX],
}

/// A goal under way.
#[derive(Debug)]
pub(super) struct Run {
    pub task: Task,
    pub accepted: Instant,
    pub path: Path,
    /// Motion has been enabled during the goal.
    enabled: bool,
    /// The detectors of a stall were silent during the goal: what they find now is of this goal.
    moved: bool,
    grippers: Grippers,
}

impl Run {
    pub fn new(task: Task, accepted: Instant) -> Self {
        let (path, grippers) = (Path::default(), Grippers::default());
        Self { task, accepted, path, enabled: false, moved: false, grippers }
    }

    /// Seconds since the acceptance.
    pub fn elapsed_s(&self, now: Instant) -> f64 {
        now.since(self.accepted).seconds()
    }

    /// What ends the goal now. What stops the robot comes before what completes the task.
    pub fn verdict(&mut self, view: &View<'_>) -> Option<Ending> {
        let causes = &view.status.causes;
        let stall = [Reason::Stuck, Reason::ConstantAction]
            .into_iter()
            .find(|reason| causes.contains(*reason));
        self.moved |= stall.is_none();
        let held = self.task.stop_when_holding.and_then(|condition| {
            self.grippers.update(view.now, &condition, &view.grippers, &view.sensed.openings)
        });
        if !view.in_force {
            let text = "another instruction arrived on the topic";
            return Some(Ending::new(Outcome::Preempted, text));
        }
        let enabled = view.status.enabled();
        if out_of_service(view.status) || (self.enabled && !enabled) {
            return Some(Ending::stopped(view.status.cause));
        }
        self.enabled |= enabled;
        if self.task.stop_on_done && view.done {
            return Some(Ending::new(Outcome::Done, "true arrived on ~/done"));
        }
        if let (true, true, Some(reason)) = (self.task.stop_when_stalled, self.moved, stall) {
            return Some(Ending::new(Outcome::Done, reason.sentence()));
        }
        if let (Some(corners), Some(position)) = (self.task.stop_in_box, view.sensed.position)
            && inside(position, corners)
        {
            let [x, y, z] = position;
            let text = format!("the end effector is in the box, at [{x:.4}, {y:.4}, {z:.4}] m");
            return Some(Ending::new(Outcome::Done, text));
        }
        if let Some(text) = held {
            return Some(Ending::new(Outcome::Done, text));
        }
        let limit = self.task.time_limit;
        view.now.since(self.accepted).exceeds(limit).then(|| {
            let text = if self.enabled {
                format!("the time limit of {} s passed", limit.as_secs_f64())
            } else {
                let limit = limit.as_secs_f64();
                format!("motion was not enabled within {limit} s; call ~/enable, or set `enable`")
            };
            Ending::new(Outcome::TimedOut, text)
        })
    }
}

/// Whether no goal can run: a latch is closed, or the node is not active.
pub(super) fn out_of_service(status: &ControlStatus) -> bool {
    let inactive = [Reason::NotConfigured, Reason::NotActive, Reason::Deactivating];
    status.state.is_latched() || inactive.into_iter().any(|reason| status.causes.contains(reason))
}

fn inside(position: [f64; 3], (min, max): ([f64; 3], [f64; 3])) -> bool {
    (0..3).all(|axis| min[axis] <= position[axis] && position[axis] <= max[axis])
}

/// Length of the commanded path of the end effector, from the velocity of each step.
#[derive(Debug, Default)]
pub(super) struct Path {
    metres: f64,
    last: Option<Instant>,
    in_joints: bool,
}

impl Path {
    /// Adds a step of control.
    pub fn add(&mut self, snapshot: &Snapshot) {
        let motion = &snapshot.output.motion;
        self.in_joints = motion.joints.is_some();
        let speed = motion.limited.linear.iter().map(|v| v * v).sum::<f64>().sqrt();
        self.advance(snapshot.at, speed);
    }

    fn advance(&mut self, at: Instant, speed: f64) {
        if let Some(last) = self.last.replace(at) {
            self.metres += speed * at.since(last).seconds();
        }
    }

    /// In metres; NaN in joint space.
    pub fn metres(&self) -> f64 {
        if self.in_joints { f64::NAN } else { self.metres }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use vla_control::State;

    const NOTHING: Sensed =
        Sensed { position: None, poses: false, openings: [None; GRIPPERS_MAX], no_opening: None };
    const EVERYTHING: Sensed = Sensed { poses: true, ..NOTHING };

    fn at(ms: u64) -> Instant {
        Instant::from_nanoseconds(ms * 1_000_000)
    }

    fn goal() -> Goal {
        Goal {
            instruction: "touch the red block".into(),
            time_limit_s: 10.0,
            box_min: vec![0.0; 3],
            box_max: vec![0.0; 3],
            holding_opening: 0.05,
            holding_time_s: 0.5,
            ..Goal::default()
        }
    }

    fn status(state: State, causes: &[Cause]) -> ControlStatus {
        ControlStatus {
            state,
            cause: causes.first().copied().unwrap_or(Cause::NONE),
            causes: causes.iter().copied().collect(),
            resumes_in_s: None,
            enable_withdrawn_in_s: None,
        }
    }

    fn run(change: impl FnOnce(&mut Goal)) -> Run {
        let mut goal = goal();
        change(&mut goal);
        Run::new(Task::read(&goal, &EVERYTHING).expect("a valid goal").0, at(0))
    }

    fn view(ms: u64, status: &ControlStatus) -> View<'_> {
        let grippers = [None; GRIPPERS_MAX];
        View { now: at(ms), in_force: true, status, done: false, sensed: &NOTHING, grippers }
    }

    fn outcome(ending: Option<Ending>) -> Option<Outcome> {
        ending.map(|ending| ending.outcome)
    }

    #[test]
    fn goals_are_validated() {
        let refused = |change: fn(&mut Goal), poses| {
            let mut goal = goal();
            change(&mut goal);
            let sensed = Sensed { poses, ..NOTHING };
            Task::read(&goal, &sensed).expect_err("must be refused").detail
        };
        assert!(refused(|g| g.instruction = "  ".into(), true).starts_with("instruction refused"));
        for limit in [0.0, -1.0, 3601.0, f64::NAN, f64::INFINITY] {
            let goal = Goal { time_limit_s: limit, ..goal() };
            let refusal = Task::read(&goal, &EVERYTHING).expect_err("must be refused");
            assert!(refusal.detail.contains("from 0.1 to 3600"), "{}", refusal.detail);
        }
        assert!(refused(|g| g.stop_in_box = true, false).contains("ee_pose"));
        assert!(refused(|g| g.stop_in_box = true, true).contains("0 to 0 m in x"));
        let reversed = |g: &mut Goal| {
            (g.stop_in_box, g.box_max) = (true, vec![1.0, 1.0, -0.1]);
        };
        assert!(refused(reversed, true).contains("0 to -0.1 m in z"));
        let endless = |g: &mut Goal| {
            (g.stop_in_box, g.box_max) = (true, vec![1.0, f64::INFINITY, 1.0]);
        };
        assert!(refused(endless, true).contains("in y"));
        let brief = |g: &mut Goal| (g.stop_when_holding, g.holding_time_s) = (true, 0.0);
        assert!(refused(brief, true).contains("holding_time_s is 0"));
        let blind = Sensed { no_opening: Some("no gripper".into()), ..NOTHING };
        let holding = Goal { stop_when_holding: true, ..goal() };
        assert_eq!(Task::read(&holding, &blind).expect_err("refused").detail, "no gripper");
        assert!(Task::read(&goal(), &blind).is_ok(), "not needed");
    }

    #[test]
    fn conditions_end_the_goal() {
        let running = status(State::Running, &[]);
        let mut on_done = run(|g| g.stop_on_done = true);
        assert_eq!(on_done.verdict(&view(10, &running)), None);
        let done = View { done: true, ..view(20, &running) };
        assert_eq!(outcome(on_done.verdict(&done)), Some(Outcome::Done));
        assert_eq!(run(|_| ()).verdict(&done), None, "not asked for");

        let in_box = |g: &mut Goal| {
            (g.stop_in_box, g.box_min, g.box_max) = (true, vec![0.1; 3], vec![0.2; 3]);
        };
        let mut boxed = run(in_box);
        for (position, ends) in
            [(None, false), (Some([0.1, 0.2, 0.15]), true), (Some([0.1, 0.2, 0.21]), false)]
        {
            let sensed = Sensed { position, ..NOTHING };
            let ending = boxed.verdict(&View { sensed: &sensed, ..view(30, &running) });
            assert_eq!(ending.is_some(), ends, "{position:?}");
        }
    }

    #[test]
    fn a_held_object_ends_the_goal() {
        let running = status(State::Running, &[]);
        let mut holding = run(|g| g.stop_when_holding = true);
        let mut ends = |ms: u64, command: f64, opening: f64| {
            let openings = [Some(opening), None, None, None];
            let sensed = Sensed { openings, ..NOTHING };
            let grippers = [Some(command), None, None, None];
            let view = View { sensed: &sensed, grippers, ..view(ms, &running) };
            outcome(holding.verdict(&view))
        };
        assert_eq!(ends(0, 1.0, 0.9), None);
        assert_eq!(ends(100, 0.0, 0.4), None);
        assert_eq!(ends(599, 0.0, 0.4), None);
        assert_eq!(ends(600, 0.0, 0.4), Some(Outcome::Done));
    }

    #[test]
    fn a_stall_counts_if_it_began_during_the_goal() {
        let stalled = status(State::Running, &[Cause::plain(Reason::Stuck)]);
        let running = status(State::Running, &[]);
        let mut run = run(|g| g.stop_when_stalled = true);
        assert_eq!(run.verdict(&view(10, &stalled)), None, "of the goal before");
        assert_eq!(run.verdict(&view(20, &running)), None);
        assert_eq!(outcome(run.verdict(&view(30, &stalled))), Some(Outcome::Done));
    }

    #[test]
    fn what_stops_the_robot_stops_the_goal() {
        let withdrawn = Cause::not_enabled(Reason::ImageStale, None);
        let (running, idle) = (status(State::Running, &[]), status(State::Idle, &[withdrawn]));
        let mut waiting = run(|_| ());
        assert_eq!(waiting.verdict(&view(10, &idle)), None, "waits for ~/enable");
        assert_eq!(waiting.verdict(&view(20, &running)), None);
        let ending = waiting.verdict(&view(30, &idle)).expect("an ending");
        assert_eq!((ending.outcome, ending.cause), (Outcome::Stopped, Some(withdrawn)));

        let latched = status(State::Estopped, &[Cause::plain(Reason::Estop)]);
        let done = View { done: true, ..view(20, &latched) };
        let ending = run(|g| g.stop_on_done = true).verdict(&done);
        assert_eq!(outcome(ending), Some(Outcome::Stopped), "before any condition");

        let held = status(State::Holding, &[Cause::plain(Reason::ImageStale)]);
        assert_eq!(run(|_| ()).verdict(&view(20, &held)), None, "a hold may resume");
    }

    #[test]
    fn other_instructions_and_the_time_limit_end_the_goal() {
        let running = status(State::Running, &[]);
        let other = View { in_force: false, ..view(20, &running) };
        assert_eq!(outcome(run(|_| ()).verdict(&other)), Some(Outcome::Preempted));
        let mut limited = run(|_| ());
        assert_eq!(limited.verdict(&view(10_000, &running)), None);
        let ending = limited.verdict(&view(10_001, &running)).expect("an ending");
        assert_eq!(ending.outcome, Outcome::TimedOut);
        assert_eq!(ending.detail, "the time limit of 10 s passed");
        let idle = status(State::Idle, &[Cause::not_enabled(Reason::None, None)]);
        let ending = run(|_| ()).verdict(&view(10_001, &idle)).expect("an ending");
        assert!(ending.detail.contains("call ~/enable"), "{}", ending.detail);
    }

    #[test]
    fn outcomes_are_those_of_the_interface() {
        let interface = include_str!("../../../msg/action/RunPolicy.action");
        for (name, outcome) in [
            ("DONE", Outcome::Done),
            ("TIMED_OUT", Outcome::TimedOut),
            ("CANCELLED", Outcome::Cancelled),
            ("STOPPED", Outcome::Stopped),
            ("REFUSED", Outcome::Refused),
            ("PREEMPTED", Outcome::Preempted),
        ] {
            let line = format!("uint8 {name} = {}", outcome as u8);
            assert!(interface.contains(&line), "{line}");
        }
    }

    #[test]
    fn path_is_the_integral_of_the_speed() {
        let mut path = Path::default();
        for (ms, speed) in [(0, 9.0), (500, 0.2), (1500, 0.1)] {
            path.advance(at(ms), speed);
        }
        assert!((path.metres() - 0.2).abs() < 1e-12, "{}", path.metres());
    }
}
