//! A simulated environment of `control` (camera, policy, operator, clock), and a judge that checks
//! every output.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod joints;

use flight_recorder::Recorder;
use joints::{Arm, JointJudge};
use vla_control::action_chunk::{ActionChunk, ActionSpace, ChunkOrigin, ChunkStep, WIDTH_MAX};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    Cause, ControlConfig, ControlState, EnableOutcome, Event, ImageSeen, Inference, Inputs,
    Lifecycle, MotionLimits, Output, PolicyFailure, PoseSeen, RawControlConfig, Reason, Requests,
    Source, State, StateSeen, step,
};

pub const MS: u64 = 1_000_000;

/// The defaults of the node, with commands on.
pub fn live() -> RawControlConfig {
    RawControlConfig { dry_run: false, ..RawControlConfig::default() }
}

pub fn norm(v: [f64; 3]) -> f64 {
    (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt()
}

pub fn sub(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// How many cases a property runs: `in_test` by default, OPENVLA_SOAK_CASES when set.
pub fn cases(in_test: u32) -> u32 {
    match std::env::var("OPENVLA_SOAK_CASES") {
        Ok(text) => text.parse().expect("OPENVLA_SOAK_CASES must be a number of cases"),
        Err(_) => in_test,
    }
}

/// Finite differences of one axis group over the published commands.
#[derive(Debug, Clone)]
struct Differences {
    limits: MotionLimits,
    last: Option<(u64, [f64; 3])>,
    /// The last acceleration and the interval it was taken over.
    acceleration: Option<([f64; 3], f64)>,
}

impl Differences {
    /// Forward differences with the measured intervals: `|v|`, `|dv| / dt`, and the second divided
    /// difference `2 |f[t0, t1, t2]|`.
    fn check(&mut self, now: u64, v: [f64; 3]) -> Result<(), String> {
        let limits = self.limits;
        if v.iter().any(|x| !x.is_finite()) {
            return Err(format!("velocity {v:?} is not finite"));
        }
        if limits.velocity() < norm(v) {
            return Err(format!("velocity {} above {}", norm(v), limits.velocity()));
        }
        if let Some((then, before)) = self.last {
            let dt = (now - then) as f64 * 1e-9;
            let a = sub(v, before).map(|x| x / dt);
            // Our own division rounds too: two units in the last place of the velocity over the
            // interval.
            let slack = 4.0 * f64::EPSILON * limits.velocity() / dt;
            if limits.acceleration() + slack < norm(a) {
                return Err(format!(
                    "acceleration {} above {} over {dt} s",
                    norm(a),
                    limits.acceleration()
                ));
            }
            if let Some((a_before, dt_before)) = self.acceleration {
                let centre = 0.5 * (dt + dt_before);
                let jerk = norm(sub(a, a_before)) / centre;
                let slack = 8.0 * f64::EPSILON * limits.velocity() / (dt.min(dt_before) * centre);
                if limits.jerk() + slack < jerk {
                    return Err(format!(
                        "jerk {jerk} above {} over {dt_before} and {dt} s",
                        limits.jerk()
                    ));
                }
            }
            self.acceleration = Some((a, dt));
        }
        self.last = Some((now, v));
        Ok(())
    }
}

/// Checks every output for all invariants.
#[derive(Debug, Clone)]
pub struct Judge {
    pub joints: Option<JointJudge>,
    linear: Differences,
    angular: Differences,
    stop_time_ns: u64,
    period_ns: u64,
    rearm_window_ns: u64,
    dry_run: bool,
    last_published: Option<u64>,
    /// When a command was first given outside of `Running`.
    stopping_since: Option<u64>,
    /// The longest time after the detection of a cause at which a command was not yet zero.
    pub longest_stop_ns: u64,
    stop_open: bool,
    latched: bool,
    /// State and cause according to the events so far.
    reported: (State, Reason, Reason, Option<Source>),
    enabled: bool,
    /// First step of the present interruption, while enabled.
    held_since: Option<u64>,
    pub commands: u64,
    pub stops: u64,
    /// Motion that resumed by itself.
    pub resumed: u64,
    /// Enablings that were withdrawn.
    pub withdrawn: u64,
}

impl Judge {
    pub fn new(config: &ControlConfig) -> Self {
        let nanoseconds = |span: std::time::Duration| u64::try_from(span.as_nanos()).unwrap();
        Self {
            joints: config.joints().map(|space| JointJudge::new(space, config.period())),
            linear: Differences { limits: *config.linear(), last: None, acceleration: None },
            angular: Differences { limits: *config.angular(), last: None, acceleration: None },
            stop_time_ns: (config.stop_time_s() * 1e9).round() as u64,
            period_ns: nanoseconds(config.period()),
            rearm_window_ns: nanoseconds(config.rearm_window()),
            dry_run: config.dry_run(),
            last_published: None,
            stopping_since: None,
            longest_stop_ns: 0,
            stop_open: false,
            latched: false,
            reported: (State::Unconfigured, Reason::NotConfigured, Reason::None, None),
            enabled: false,
            held_since: None,
            commands: 0,
            stops: 0,
            resumed: 0,
            withdrawn: 0,
        }
    }

    pub fn check(
        &mut self,
        now: u64,
        output: &Output,
        reset_or_enable: bool,
    ) -> Result<(), String> {
        if self.latched && !output.state.is_latched() && !reset_or_enable {
            return Err(format!("left a latch for {:?} without a reset", output.state));
        }
        self.latched = output.state.is_latched();
        self.check_events(output)?;
        self.check_enabling(now, output)?;
        let moving_allowed = output.state == State::Running;
        if !moving_allowed && !output.motion.target.is_zero() {
            return Err(format!("aims at {:?} in {:?}", output.motion.target, output.state));
        }
        let Some(command) = output.command else {
            return Ok(());
        };
        self.commands += 1;
        let twist = *command.twist();
        let continuous = self.joints.is_some();
        let legal = |g: f64| g == 0.0 || g == 1.0 || (continuous && (0.0..=1.0).contains(&g));
        if command.grippers().iter().flatten().any(|g| !legal(*g)) {
            return Err(format!("grippers {:?}", command.grippers()));
        }
        // A joint that turns on its way to rest has the velocity zero once, so that rest is more
        // than that.
        let still = match command.joints() {
            None => twist.is_zero(),
            Some(joints) => {
                let zero = joints.velocities().iter().all(|velocity| *velocity == 0.0);
                if output.at_rest && !zero {
                    return Err(format!("moves at rest: {:?}", command.motion()));
                }
                output.at_rest
            }
        };
        if let Some(last) = self.last_published.filter(|last| now < last + self.period_ns / 2) {
            return Err(format!("two commands within {} ns", now - last));
        }
        self.linear.check(now, twist.linear).map_err(|e| format!("linear {e}"))?;
        self.angular.check(now, twist.angular).map_err(|e| format!("angular {e}"))?;
        self.check_stop(now, still, moving_allowed)
            .map_err(|error| format!("{error}: {:?}", command.motion()))?;
        self.last_published = Some(now);
        Ok(())
    }

    /// The events are the complete history of state and cause; the cause is the first of all.
    fn check_events(&mut self, output: &Output) -> Result<(), String> {
        if output.events.lost() != 0 {
            return Err(format!("{} events lost: {:?}", output.events.lost(), output.events));
        }
        if output.cause != output.causes.first().unwrap_or(Cause::NONE) {
            return Err(format!("{:?} is not the first of {:?}", output.cause, output.causes));
        }
        let Cause { reason, withdrawn_by, source, .. } = output.cause;
        let now = (output.state, reason, withdrawn_by, source);
        let changes: Vec<Event> = output
            .events
            .iter()
            .filter(|e| matches!(e, Event::StateChanged { .. } | Event::CauseChanged { .. }))
            .copied()
            .collect();
        let (from, cause) = (self.reported.0, output.cause);
        let expected = if from != output.state {
            vec![Event::StateChanged { from, to: output.state, cause }]
        } else if self.reported != now {
            vec![Event::CauseChanged { state: output.state, cause }]
        } else {
            vec![]
        };
        self.reported = now;
        if changes == expected {
            return Ok(());
        }
        Err(format!("emitted {changes:?} instead of {expected:?}"))
    }

    /// Motion begins in the step of an accepted request, or resumes within the window of a hold.
    fn check_enabling(&mut self, now: u64, output: &Output) -> Result<(), String> {
        let accepted = output.enable == Some(EnableOutcome::Enabled);
        let withdrawn = output
            .events
            .iter()
            .filter(|event| matches!(event, Event::EnableWithdrawn { .. }))
            .count() as u64;
        self.withdrawn += withdrawn;
        if output.enabled && !self.enabled && !accepted {
            return Err("enabled without a request".into());
        }
        let refused = matches!(output.enable, Some(EnableOutcome::Refused(_)));
        if output.enabled && (refused || output.enable == Some(EnableOutcome::Disabled)) {
            return Err(format!("enabled in spite of {:?}", output.enable));
        }
        if output.state == State::Running && !output.enabled {
            return Err("running without being enabled".into());
        }
        if (output.resumes_in_s.is_some() && output.enable_withdrawn_in_s.is_some())
            || (output.resumes_in_s.or(output.enable_withdrawn_in_s).is_some()
                && (!output.enabled || output.state == State::Running))
        {
            return Err(format!("announces too much: {output:?}"));
        }
        let newly = accepted && !self.enabled;
        self.enabled = output.enabled;
        if self.dry_run {
            return Ok(());
        }
        if newly && output.state != State::Running {
            return Err(format!("an accepted request leads to {:?}", output.state));
        }
        // A request that is accepted during a hold restarts its window.
        if accepted && self.held_since.is_some() && output.state != State::Running {
            self.held_since = Some(now);
        }
        if output.state == State::Running {
            // An accepted request starts motion by itself, in whatever step it comes.
            if let Some(since) = self.held_since.take().filter(|_| !accepted) {
                self.resumed += 1;
                if self.rearm_window_ns < now - since {
                    return Err(format!("resumes {} ms after a hold began", (now - since) / MS));
                }
            }
        } else if output.enabled {
            let since = *self.held_since.get_or_insert(now);
            if self.rearm_window_ns <= now - since {
                return Err(format!("still enabled {} ms after a hold began", (now - since) / MS));
            }
        } else {
            self.held_since = None;
        }
        Ok(())
    }

    /// From the publication of the step that detects the cause pass at most v/a + a/j, then every
    /// command is exactly zero.
    fn check_stop(&mut self, now: u64, still: bool, moving_allowed: bool) -> Result<(), String> {
        if moving_allowed {
            self.stopping_since = None;
            self.stop_open = false;
            return Ok(());
        }
        let since = *self.stopping_since.get_or_insert_with(|| {
            self.stop_open = true;
            now
        });
        let age = now - since;
        if !still {
            self.longest_stop_ns = self.longest_stop_ns.max(age);
        }
        if still {
            if self.stop_open {
                self.stop_open = false;
                self.stops += u64::from(0 < age);
            }
        } else if self.stop_time_ns < age {
            return Err(format!(
                "still moving {} ms after the stop began, promised {} ms",
                age / MS,
                self.stop_time_ns / MS
            ));
        } else if !self.stop_open {
            return Err("moved again without being allowed to".into());
        }
        Ok(())
    }
}

/// Scripted results of the policy.
#[derive(Debug, Clone)]
pub struct Policy {
    pub steps: Vec<ChunkStep>,
    /// The steps in joint space: joints, then grippers.
    pub rows: Vec<Vec<f64>>,
    pub hz: f64,
    /// How long inference takes.
    pub takes_ns: u64,
    pub blocked: bool,
}

/// A camera or state source besides the first camera: a message before every control step.
#[derive(Debug, Clone, Copy)]
pub struct SourceSim {
    pub on: bool,
    /// The stamp stays equal.
    pub frozen: bool,
    /// The bytes of an image stay equal.
    pub unchanged: bool,
    /// Whether a state's message is complete.
    pub complete: bool,
    pub skew_ns: i64,
    seen: Option<ImageSeen>,
}

impl SourceSim {
    pub const fn new() -> Self {
        Self { on: true, frozen: false, unchanged: false, complete: true, skew_ns: 0, seen: None }
    }

    /// Works again. What it has sent remains.
    pub fn heal(&mut self) {
        *self = Self { seen: self.seen, ..Self::new() };
    }

    fn send(&mut self, now: Instant, ros_now: Stamp) -> Option<ImageSeen> {
        if self.on {
            let stamp = match self.seen {
                Some(seen) if self.frozen => seen.stamp,
                _ => Stamp::from_nanoseconds(ros_now.nanoseconds() + self.skew_ns),
            };
            let unchanged_since = match self.seen {
                Some(seen) if self.unchanged => seen.unchanged_since,
                _ => now,
            };
            self.seen =
                Some(ImageSeen { received: now, stamp, ros_received: ros_now, unchanged_since });
        }
        self.seen
    }
}

/// Camera, policy and operator around a `ControlState`.
#[derive(Debug)]
pub struct World {
    pub state: ControlState,
    pub judge: Judge,
    pub now: u64,
    pub ros: i64,
    pub ros_runs: bool,
    /// Seconds of ROS time per second.
    pub ros_rate: f64,
    /// Zero: an image before every control step.
    pub camera_period_ns: u64,
    next_image: u64,
    pub camera_on: bool,
    /// The stamp stays equal.
    pub camera_frozen: bool,
    /// The image bytes stay equal, whatever the stamp.
    pub camera_unchanged: bool,
    pub camera_skew_ns: i64,
    image: Option<ImageSeen>,
    /// Cameras 1 and on.
    pub cameras: Vec<SourceSim>,
    pub states: Vec<SourceSim>,
    /// The arm in joint space.
    pub arm: Option<Arm>,
    pub pose: Option<PoseSeen>,
    pub lifecycle: Lifecycle,
    pub instruction: Option<u64>,
    pub subscribed: bool,
    pub worker_dead: bool,
    /// Since when the worker prepares for an instruction.
    pub preparing: Option<Instant>,
    pub policy: Policy,
    pub failure: Option<PolicyFailure>,
    inference: Option<(u64, ChunkOrigin, Policy)>,
    generation: u64,
    steps_begun: u64,
    pub output: Option<Output>,
    /// A chunk to pass in the next step in place of the policy's own.
    pub forged: Option<ActionChunk>,
    pub recorder: Option<Recorder>,
}

impl World {
    pub fn new(raw: RawControlConfig) -> Self {
        let config = raw.validate().unwrap();
        Self {
            state: ControlState::new(config),
            judge: Judge::new(&config),
            now: 1000 * MS,
            ros: 1_700_000_000_000_000_000,
            ros_runs: true,
            ros_rate: 1.0,
            camera_period_ns: 0,
            next_image: 0,
            camera_on: true,
            camera_frozen: false,
            camera_unchanged: false,
            camera_skew_ns: 0,
            image: None,
            cameras: vec![SourceSim::new(); config.counts()[0] - 1],
            states: vec![SourceSim::new(); config.counts()[1]],
            arm: config.joints().map(Arm::new),
            pose: None,
            lifecycle: Lifecycle::Active,
            instruction: Some(1),
            subscribed: true,
            worker_dead: false,
            preparing: None,
            policy: Policy {
                steps: vec![ChunkStep::from_array([0.02, 0.0, 0.0, 0.0, 0.0, 0.02, 1.0])],
                rows: vec![vec![0.0; WIDTH_MAX]],
                hz: 5.0,
                takes_ns: 100 * MS,
                blocked: false,
            },
            failure: None,
            inference: None,
            generation: 0,
            steps_begun: 0,
            output: None,
            forged: None,
            recorder: None,
        }
    }

    /// A world that has been enabled and runs.
    pub fn running(raw: RawControlConfig) -> Self {
        let mut world = Self::new(raw);
        world.tick(20 * MS, Requests::default()).unwrap();
        world.tick(20 * MS, Requests { enable: Some(true), ..Requests::default() }).unwrap();
        assert_eq!(world.state(), State::Running, "{:?}", world.output.unwrap().cause);
        world
    }

    pub fn state(&self) -> State {
        self.output.map_or(State::Unconfigured, |output| output.state)
    }

    /// One control step `dt` after the last one.
    pub fn tick(&mut self, dt: u64, requests: Requests) -> Result<Output, String> {
        self.now += dt;
        if self.ros_runs {
            self.ros += (dt as f64 * self.ros_rate) as i64;
        }
        let now = Instant::from_nanoseconds(self.now);
        let ros_now = Stamp::from_nanoseconds(self.ros);
        self.look(now, ros_now);
        let mut images = vec![self.image];
        images.extend(self.cameras.iter_mut().map(|camera| camera.send(now, ros_now)));
        let states: Vec<_> =
            self.states.iter_mut().map(|state| state_seen(state, now, ros_now)).collect();
        let joints = self.arm.as_mut().and_then(|arm| arm.measure(dt, now, ros_now));
        let mut chunk = self.infer(now);
        if self.forged.is_some() {
            chunk = self.forged.take();
        }
        let inference = match &self.inference {
            _ if self.worker_dead => Inference::Dead,
            _ if self.preparing.is_some() => {
                Inference::Preparing { since: self.preparing.unwrap_or(now) }
            }
            Some((_, origin, ..)) => Inference::Busy { since: origin.inference_started },
            None => Inference::Idle,
        };
        let inputs = Inputs {
            ros_now,
            lifecycle: self.lifecycle,
            requests,
            instruction: self.instruction,
            images: &images,
            states: &states,
            joints: joints.as_ref(),
            ee_pose: self.pose,
            chunk: chunk.as_ref(),
            inference,
            policy_failure: self.failure.take(),
            subscribed: self.subscribed,
        };
        let output = step(now, &mut self.state, &inputs);
        if let Some(recorder) = &mut self.recorder {
            recorder.record(now, &inputs, &output);
        }
        self.steps_begun = output.steps_begun;
        self.output = Some(output);
        if let Some(arm) = &mut self.arm {
            arm.take(&output);
        }
        self.judge.check(self.now, &output, requests.reset || requests.enable.is_some())?;
        if let Some(judge) = &mut self.judge.joints {
            judge.check(self.now, &output, joints.as_ref())?;
        }
        Ok(output)
    }

    /// Steps of 20 ms until `done` or for `most` steps.
    pub fn until(&mut self, most: usize, mut done: impl FnMut(&Output) -> bool) -> Output {
        for _ in 0..most {
            let output = self.tick(20 * MS, Requests::default()).unwrap();
            if done(&output) {
                return output;
            }
        }
        panic!("not within {most} steps; last: {:?}", self.output)
    }

    fn look(&mut self, now: Instant, ros_now: Stamp) {
        if !self.camera_on || self.now < self.next_image {
            return;
        }
        self.next_image = self.now + self.camera_period_ns;
        let stamp = match self.image {
            Some(image) if self.camera_frozen => image.stamp,
            _ => Stamp::from_nanoseconds(ros_now.nanoseconds() + self.camera_skew_ns),
        };
        let unchanged_since = match self.image {
            Some(image) if self.camera_unchanged => image.unchanged_since,
            _ => now,
        };
        self.image =
            Some(ImageSeen { received: now, stamp, ros_received: ros_now, unchanged_since });
    }

    /// The worker: finishes what is due, begins when idle.
    fn infer(&mut self, now: Instant) -> Option<ActionChunk> {
        if self.worker_dead || self.preparing.is_some() {
            self.inference = None;
            return None;
        }
        let due = !self.policy.blocked
            && self.inference.as_ref().is_some_and(|(due, ..)| *due <= self.now);
        let finished = if due { self.inference.take() } else { None };
        if let (None, Some(image), Some(instruction)) =
            (&self.inference, self.image, self.instruction)
        {
            self.generation += 1;
            let origin = ChunkOrigin {
                generation: self.generation,
                instruction_generation: instruction,
                image_stamp: image.stamp,
                image_taken: image.taken(),
                inference_started: now,
                steps_begun_at_observation: self.steps_begun,
                ..ChunkOrigin::default()
            };
            self.inference = Some((self.now + self.policy.takes_ns, origin, self.policy.clone()));
        }
        finished.map(|(_, origin, policy)| self.chunk(origin, &policy))
    }

    /// The policy's answer.
    pub fn chunk(&self, origin: ChunkOrigin, policy: &Policy) -> ActionChunk {
        match self.state.config().action_space() {
            ActionSpace::EndEffector => {
                ActionChunk::new(origin, policy.hz, policy.steps.clone()).unwrap()
            }
            ActionSpace::Joint(action) => {
                let joints = self.state.config().joints().unwrap().count();
                let shape = [joints, self.state.config().counts()[2]];
                let width = shape[0] + shape[1];
                let values: Vec<f64> =
                    policy.rows.iter().flat_map(|row| row[..width].to_vec()).collect();
                ActionChunk::joints(origin, policy.hz, action, shape, values).unwrap()
            }
        }
    }

    /// An origin that passes every check now.
    pub fn fresh_origin(&mut self) -> ChunkOrigin {
        self.generation += 1;
        ChunkOrigin {
            generation: self.generation,
            instruction_generation: self.instruction.unwrap_or(0),
            image_stamp: Stamp::from_nanoseconds(self.ros),
            image_taken: Instant::from_nanoseconds(self.now),
            inference_started: Instant::from_nanoseconds(self.now),
            steps_begun_at_observation: self.steps_begun,
            ..ChunkOrigin::default()
        }
    }
}

fn state_seen(source: &mut SourceSim, now: Instant, ros_now: Stamp) -> Option<StateSeen> {
    let complete = source.complete;
    source.send(now, ros_now).map(|seen| StateSeen {
        received: seen.received,
        stamp: seen.stamp,
        ros_received: seen.ros_received,
        complete,
    })
}
