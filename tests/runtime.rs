//! The threads together: a scripted policy and recorded commands, no ROS, the real clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod runtime_support;

use std::{
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant as Wall},
};

use openvla_tt::runtime::{
    AddedLatency, LoopEvent, NodeClock, Runtime, Snapshot, Threads, WorkerReport,
};
use runtime_support::{FORWARD, Recorded, Scripted, request};
use vla_control::time::{Clock, Instant};
use vla_control::{
    Command, ControlConfig, EnableOutcome, Intervention, Lifecycle, RawControlConfig, Reason,
    Requests, ResetOutcome, State,
};
use vla_inference::observation::{EncodedImage, Observation};
use vla_inference::policy::{Decision, Instruction, Policy, PolicyError, PolicyInfo};

struct Rig {
    runtime: Runtime,
    recorded: Recorded,
    clock: NodeClock,
    camera: Camera,
    camera_period: Duration,
    last_image: Wall,
    pictures: u8,
    reports: Vec<WorkerReport>,
}

#[derive(Clone, Copy, PartialEq)]
enum Camera {
    Off,
    Good,
    /// One picture, again and again, with new stamps.
    Repeating,
    Broken,
}

fn config() -> ControlConfig {
    // These tests run side by side on few cores: an interval that a robot's controller must not
    // have is no failure here, and a hold may last longer.
    RawControlConfig {
        dry_run: false,
        expected_inference_s: 0.1,
        overrun_s: 0.4,
        // On a busy machine a hold may last longer than the default window.
        rearm_window_s: 20.0,
        ..RawControlConfig::default()
    }
    .validate()
    .unwrap()
}

/// A picture that differs from others in its last byte, as the noise of a camera makes it.
fn pixels(last: u8) -> EncodedImage {
    let mut data = vec![7; 8 * 24];
    data[8 * 24 - 1] = last;
    EncodedImage::Raw { width: 8, height: 8, encoding: "rgb8".into(), step: 24, data: data.into() }
}

impl Rig {
    fn new() -> Self {
        let (recorded, clock) = (Recorded::default(), NodeClock::new(false));
        let runtime = Runtime::start(
            Arc::new(clock.clone()),
            config(),
            Box::new(recorded.clone()),
            None,
            Threads::default(),
        )
        .unwrap();
        let (camera, last_image, reports) = (Camera::Good, Wall::now(), Vec::new());
        let camera_period = Duration::from_millis(30);
        Self { runtime, recorded, clock, camera, camera_period, last_image, pictures: 0, reports }
    }

    fn running(policy: Box<dyn Policy>) -> Self {
        let mut rig = Self::new();
        rig.load(policy).unwrap();
        rig.activate();
        rig.until("running", |snapshot| {
            snapshot.output.state == State::Running && !twist_is_zero(snapshot)
        });
        rig
    }

    fn load(&mut self, policy: Box<dyn Policy>) -> Result<(), String> {
        self.load_limited(policy, 0.0)
    }

    fn load_limited(&mut self, policy: Box<dyn Policy>, rate_limit_hz: f64) -> Result<(), String> {
        let answer = self.runtime.load(request(Box::new(move || Ok(policy)), rate_limit_hz));
        let loaded = answer.recv_timeout(Duration::from_secs(10)).unwrap();
        loaded.map(|loaded| assert_eq!(loaded.info.unnorm_key, "test"))
    }

    fn activate(&mut self) {
        self.runtime.set_instruction(Some(Instruction::new("go on").unwrap()));
        self.runtime.set_lifecycle(Lifecycle::Active);
        self.until("idle", |snapshot| snapshot.output.state == State::Idle);
        self.enable();
    }

    /// Enables motion as soon as no watchdog prevents it.
    fn enable(&mut self) {
        let end = Wall::now() + Duration::from_secs(10);
        loop {
            self.film();
            self.ask(Requests { enable: Some(true), ..Requests::default() });
            let outcome = self.runtime.snapshot().unwrap().enable;
            if outcome == Some(EnableOutcome::Enabled) {
                return;
            }
            assert!(Wall::now() < end, "{outcome:?}");
        }
    }

    fn ask(&mut self, requests: Requests) -> Option<ResetOutcome> {
        let ticket = self.runtime.request(requests);
        for _ in 0..2000 {
            if self.runtime.answered(ticket) {
                return self.runtime.snapshot().unwrap().reset;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("control does not answer")
    }

    /// Serves the camera until the condition holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Snapshot) -> bool) -> Snapshot {
        let end = Wall::now() + Duration::from_secs(20);
        loop {
            self.film();
            while let Some(report) = self.runtime.report() {
                self.reports.push(report);
            }
            if let Some(snapshot) = self.runtime.snapshot()
                && holds(&snapshot)
            {
                return snapshot;
            }
            let last = self
                .runtime
                .snapshot()
                .map(|s| (s.output.state, s.output.cause, s.output.image_age_s));
            assert!(
                Wall::now() < end,
                "waited in vain until {what}; last {last:?}; {:?}",
                self.reports.last()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn film(&mut self) {
        if self.camera == Camera::Off || self.last_image.elapsed() < self.camera_period {
            return;
        }
        // At the camera's rate, unless this machine has been away.
        let due = self.last_image + self.camera_period;
        self.last_image = if due.elapsed() < self.camera_period { due } else { Wall::now() };
        self.pictures = self.pictures.wrapping_add(u8::from(self.camera != Camera::Repeating));
        let bytes = match self.camera {
            Camera::Broken => EncodedImage::Compressed {
                format: "jpeg".into(),
                data: vec![0xff, 0xd8, 0xff, 0xe0, 0, self.pictures].into(),
            },
            _ => pixels(self.pictures),
        };
        self.runtime.set_image(0, self.clock.ros(), bytes);
    }

    fn commands(&self) -> Vec<(Instant, Command)> {
        self.recorded.0.lock().unwrap().clone()
    }
}

fn twist_is_zero(snapshot: &Snapshot) -> bool {
    snapshot.output.motion.limited.is_zero()
}

fn stopped(snapshot: &Snapshot) -> bool {
    twist_is_zero(snapshot) && snapshot.output.at_rest
}

#[test]
fn commands_stop_without_images() {
    let mut rig = Rig::running(Scripted::forward());
    rig.until("full speed", |snapshot| {
        (snapshot.output.motion.limited.linear[0] - 0.1).abs() < 1e-9
    });
    rig.camera = Camera::Off;
    let lost = Wall::now();
    let snapshot = rig.until("stale", |snapshot| {
        snapshot.output.cause.reason == Reason::ImageStale && stopped(snapshot)
    });
    assert!(
        lost.elapsed() < Duration::from_secs_f64(0.5 + config().stop_time_s() + 0.2),
        "{:?}",
        lost.elapsed()
    );
    assert_eq!(snapshot.output.state, State::Holding);
    let commands = rig.commands();
    assert!(commands.len() > 20);
    assert!(commands.last().unwrap().1.twist().is_zero());
    for pair in commands.windows(2) {
        let change = pair[1].1.twist().linear[0] - pair[0].1.twist().linear[0];
        assert!(change.abs() < 1.0 * 0.02 * 1.6, "acceleration limit: {change}");
    }
    // It comes back by itself when the camera does.
    rig.camera = Camera::Good;
    rig.until("running again", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
}

#[test]
fn flood_of_images_is_not_queued() {
    let (seen, looked_at) = mpsc::channel();
    let mut rig = Rig::running(Scripted::new(move |image, _| {
        std::thread::sleep(Duration::from_millis(20));
        let _ = seen.send(image.pixels()[0]);
        Ok(FORWARD.to_vec())
    }));
    rig.camera = Camera::Off;
    while looked_at.try_recv().is_ok() {}
    for i in 0..3000_u32 {
        let mut data = vec![if i == 2999 { 255 } else { 9 }; 640 * 480 * 3];
        data[640 * 480 * 3 - 1] = (i % 251) as u8;
        rig.runtime.set_image(
            0,
            rig.clock.ros(),
            EncodedImage::Raw {
                width: 640,
                height: 480,
                encoding: "rgb8".into(),
                step: 1920,
                data: data.into(),
            },
        );
    }
    // The newest one is looked at, soon.
    let end = Wall::now() + Duration::from_secs(5);
    while looked_at
        .recv_timeout(end.saturating_duration_since(Wall::now()))
        .expect("the newest image is looked at")
        != 255
    {}
    let (received, dropped) = rig.runtime.images();
    assert!(received >= 3000 && dropped > 2000, "{received} received, {dropped} dropped");
}

#[test]
fn panicking_policy_stops_the_robot() {
    let mut calls = 0;
    let mut rig = Rig::running(Scripted::new(move |_, _| {
        calls += 1;
        assert!(calls < 30, "injected panic");
        Ok(FORWARD.to_vec())
    }));
    let snapshot = rig.until("dead", |snapshot| {
        snapshot.output.cause.reason == Reason::InferenceDead && stopped(snapshot)
    });
    assert!(
        matches!(snapshot.output.state, State::Holding | State::Fault),
        "{:?}",
        snapshot.output.state
    );
    assert!(rig.reports.iter().any(
        |report| matches!(report, WorkerReport::Panicked(text) if text.contains("injected panic"))
    ));
    assert!(rig.runtime.broken().is_none());
    rig.runtime.set_lifecycle(Lifecycle::Inactive);
    rig.runtime.unload().recv_timeout(Duration::from_secs(5)).unwrap();
    rig.load(Scripted::forward()).unwrap();
    rig.runtime.set_lifecycle(Lifecycle::Active);
    rig.until("idle", |snapshot| snapshot.output.state != State::Inactive);
    if rig.runtime.snapshot().unwrap().output.state.is_latched() {
        rig.until("reset", |_| true);
        let end = Wall::now() + Duration::from_secs(5);
        while rig.ask(Requests { reset: true, ..Requests::default() }) != Some(ResetOutcome::Done) {
            assert!(Wall::now() < end);
            rig.film();
        }
    }
    rig.enable();
    rig.until("running", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
}

#[test]
fn preparation_for_an_instruction_holds_the_robot_without_a_fault() {
    let (release, released) = mpsc::channel::<()>();
    let (entered, preparing) = mpsc::channel::<()>();
    let policy = Scripted::forward().preparing(move |instruction| {
        let long = instruction.text() == "something else";
        if long {
            entered.send(()).unwrap();
            released.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        Ok(long)
    });
    let mut rig = Rig::running(policy);
    rig.runtime.set_instruction(Some(Instruction::new("something else").unwrap()));
    let mut begun = false;
    rig.until("preparing, at rest", |snapshot| {
        begun |= preparing.try_recv().is_ok();
        begun && snapshot.output.state == State::Running && snapshot.output.at_rest
    });
    // Far longer than an inference and an image may take.
    let first = rig.runtime.snapshot().unwrap().punctuality.steps;
    rig.until("150 steps", |snapshot| {
        assert_eq!(snapshot.output.state, State::Running, "{}", snapshot.output.cause);
        assert!(twist_is_zero(snapshot));
        first + 150 < snapshot.punctuality.steps
    });
    release.send(()).unwrap();
    rig.until("moving under the new instruction", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
    let prepared =
        rig.reports.iter().filter(|report| matches!(report, WorkerReport::Prepared { .. }));
    assert_eq!(prepared.count(), 1);
}

#[test]
fn blocked_inference_stops_the_robot() {
    let (block, blocked) = mpsc::channel::<()>();
    let mut calls = 0;
    let mut rig = Rig::running(Scripted::new(move |_, _| {
        calls += 1;
        if calls == 25 {
            let _ = blocked.recv_timeout(Duration::from_secs(10));
        }
        Ok(FORWARD.to_vec())
    }));
    let snapshot = rig.until("timeout", |snapshot| {
        snapshot.output.cause.reason == Reason::InferenceTimeout && stopped(snapshot)
    });
    assert_eq!(snapshot.output.state, State::Holding);
    let before = snapshot.commands;
    rig.until("the stream goes on", |snapshot| before + 10 < snapshot.commands);
    block.send(()).unwrap();
    let snapshot = rig.until("late", |snapshot| 0 < snapshot.interventions.late_results());
    assert!(twist_is_zero(&snapshot) || snapshot.output.state == State::Running);
    rig.until("running again", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
}

#[test]
fn estop_latches_until_reset() {
    let mut rig = Rig::running(Scripted::forward());
    rig.ask(Requests { estop: true, ..Requests::default() });
    let snapshot = rig.until("estopped", stopped);
    assert_eq!(
        (snapshot.output.state, snapshot.output.cause.reason),
        (State::Estopped, Reason::Estop)
    );
    rig.ask(Requests { enable: Some(true), ..Requests::default() });
    assert_eq!(rig.runtime.snapshot().unwrap().output.state, State::Estopped);
    let end = Wall::now() + Duration::from_secs(5);
    let mut refusals = Vec::new();
    loop {
        match rig.ask(Requests { reset: true, ..Requests::default() }) {
            Some(ResetOutcome::Done) => break,
            other => refusals.push(other),
        }
        assert!(Wall::now() < end, "{refusals:?}");
        rig.film();
    }
    assert!(
        refusals.iter().any(|outcome| matches!(outcome, Some(ResetOutcome::TooSoon { .. }))),
        "{refusals:?}"
    );
    let snapshot = rig.until("idle", |snapshot| snapshot.output.state == State::Idle);
    assert!(twist_is_zero(&snapshot));
}

#[test]
fn new_configuration_resets_no_counter() {
    let mut rig = Rig::running(Scripted::forward());
    rig.runtime.set_lifecycle(Lifecycle::Inactive);
    let before = rig
        .until("at rest", |snapshot| snapshot.output.state == State::Inactive && stopped(snapshot));
    assert!(
        0 < before.output.steps_begun && 0 < before.interventions.get(Intervention::Acceleration)
    );
    rig.runtime.configure_control(config());
    // The steps begun are the new state's own; they tell that it is in force.
    let after = rig.until("the new configuration", |snapshot| snapshot.output.steps_begun == 0);
    assert_eq!(after.output.state, State::Inactive);
    for which in Intervention::ALL {
        assert!(
            before.interventions.get(*which) <= after.interventions.get(*which),
            "{}",
            which.name()
        );
    }
}

#[test]
fn estop_survives_loading() {
    let mut rig = Rig::new();
    rig.until("stepping", |snapshot| snapshot.output.state == State::Unconfigured);
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let slow = Box::new(move || {
        may_go_on.recv().unwrap();
        Ok(Scripted::forward() as Box<dyn Policy>)
    });
    let loaded = rig.runtime.load(request(slow, 0.0));
    rig.ask(Requests { estop: true, ..Requests::default() });
    go_on.send(()).unwrap();
    loaded.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    // What the node does when a checkpoint has been loaded.
    rig.runtime.configure_control(config());
    rig.runtime.set_lifecycle(Lifecycle::Inactive);
    rig.runtime.set_instruction(Some(Instruction::new("go on").unwrap()));
    rig.runtime.set_lifecycle(Lifecycle::Active);
    for _ in 0..20 {
        rig.ask(Requests { enable: Some(true), ..Requests::default() });
        let snapshot = rig.runtime.snapshot().unwrap();
        assert_eq!(
            (snapshot.output.state, snapshot.output.cause.reason),
            (State::Estopped, Reason::Estop)
        );
        assert!(twist_is_zero(&snapshot));
        rig.film();
    }
    let end = Wall::now() + Duration::from_secs(5);
    while rig.ask(Requests { reset: true, ..Requests::default() }) != Some(ResetOutcome::Done) {
        assert!(Wall::now() < end);
        rig.film();
    }
    rig.until("idle", |snapshot| snapshot.output.state == State::Idle);
    rig.enable();
    rig.until("running", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
}

#[test]
fn dropped_runtime_ramps_down() {
    let mut rig = Rig::running(Scripted::forward());
    rig.until("full speed", |snapshot| {
        (snapshot.output.motion.limited.linear[0] - 0.1).abs() < 1e-9
    });
    let recorded = rig.recorded.clone();
    drop(rig);
    let commands = recorded.0.lock().unwrap().clone();
    assert!(commands.last().unwrap().1.twist().is_zero());
    assert!(commands[commands.len() - 3].1.twist().linear[0] < 0.1, "it came down in steps");
}

#[test]
fn abandoned_load_leaves_no_policy() {
    let mut rig = Rig::new();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let inferences = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&inferences);
    let slow = Box::new(move || {
        may_go_on.recv().unwrap();
        Ok(Scripted::new(move |_, _| {
            *counted.lock().unwrap() += 1;
            Ok(FORWARD.to_vec())
        }) as Box<dyn Policy>)
    });
    drop(rig.runtime.load(request(slow, 1e-20)));
    go_on.send(()).unwrap();
    rig.runtime.unload().recv_timeout(Duration::from_secs(5)).unwrap();
    let after_the_self_test = *inferences.lock().unwrap();
    rig.runtime.set_instruction(Some(Instruction::new("go on").unwrap()));
    rig.runtime.set_lifecycle(Lifecycle::Active);
    let before = rig.runtime.snapshot().map_or(0, |snapshot| snapshot.punctuality.steps);
    rig.until("ten more steps", |snapshot| before + 10 < snapshot.punctuality.steps);
    assert_eq!(*inferences.lock().unwrap(), after_the_self_test);
}

#[test]
fn rate_limit_uses_new_images() {
    let mut rig = Rig::new();
    // Its images come just after an inference may begin: a limit alone would take the one before.
    rig.camera_period = Duration::from_micros(100_500);
    rig.load_limited(Scripted::forward(), 5.0).unwrap();
    rig.activate();
    rig.until("running", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
    rig.reports.clear();
    let begin = Wall::now();
    while rig.reports.iter().filter(|report| matches!(report, WorkerReport::Decided(_))).count()
        < 12
    {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", rig.reports.last());
        rig.until("running", |snapshot| snapshot.output.state == State::Running);
    }
    let decided: Vec<_> = rig
        .reports
        .iter()
        .filter_map(|report| {
            if let WorkerReport::Decided(decision) = report { Some(decision.origin) } else { None }
        })
        .collect();
    // On a busy machine time passes between the decision to start and the recorded start.
    let all = decided[11].inference_started.since(decided[0].inference_started).seconds();
    assert!(11.0 * 0.2 - 0.1 < all, "twelve in {all} s");
    let old = decided
        .iter()
        .filter(|origin| 0.05 < origin.inference_started.since(origin.image_taken).seconds())
        .count();
    assert!(
        old <= 4,
        "{old} of {} images were older than half a camera interval: {decided:?}",
        decided.len()
    );
}

#[test]
fn result_for_an_earlier_instruction_is_dropped() {
    let (started, has_started) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let mut rig = Rig::running(Scripted::new(move |_, instruction| {
        if instruction.text() == "wait" {
            started.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
        Ok(FORWARD.to_vec())
    }));
    rig.runtime.set_instruction(Some(Instruction::new("wait").unwrap()));
    rig.until("inference started", |_| has_started.try_recv().is_ok());
    assert!(rig.runtime.set_instruction(Some(Instruction::new("something else").unwrap())));
    assert!(
        !rig.runtime.set_instruction(Some(Instruction::new("something else\n").unwrap())),
        "the same to the policy"
    );
    go_on.send(()).unwrap();
    rig.until("dropped", |snapshot| snapshot.interventions.get(Intervention::OldInstruction) == 1);
    rig.runtime.set_instruction(None);
    rig.until("no instruction", |snapshot| {
        snapshot.output.cause.reason == Reason::NoInstruction && stopped(snapshot)
    });
}

#[test]
fn broken_images_count_as_none() {
    let mut rig = Rig::running(Scripted::forward());
    rig.camera = Camera::Broken;
    rig.until("stale", |snapshot| {
        snapshot.output.cause.reason == Reason::ImageStale && stopped(snapshot)
    });
    assert!(rig.reports.iter().any(
        |report| matches!(report, WorkerReport::ImageRefused { text, .. } if text.contains("JPEG"))
    ));
    rig.camera = Camera::Good;
    rig.until("running again", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
}

#[test]
fn repeated_images_stop_a_driven_robot() {
    let mut rig = Rig::running(Scripted::forward());
    // Two seconds at 0.1 m/s, four times the limit, with a camera whose pictures differ in one
    // byte.
    let begun = rig.commands().len() as u64;
    rig.until("two seconds of motion", |snapshot| {
        assert_ne!(
            snapshot.output.cause.reason,
            Reason::ImageUnchanged,
            "{}",
            snapshot.output.cause
        );
        begun + 100 < snapshot.commands
    });
    let from = rig.commands().len();
    rig.camera = Camera::Repeating;
    let snapshot = rig.until("unchanged", |snapshot| {
        snapshot.output.cause.reason == Reason::ImageUnchanged && stopped(snapshot)
    });
    assert_eq!((snapshot.output.state, snapshot.output.cause.limit), (State::Holding, 0.05));
    let commands = rig.commands();
    let driven: f64 = commands[from..]
        .windows(2)
        .map(|pair| pair[0].1.twist().linear[0] * pair[1].0.since(pair[0].0).seconds())
        .sum();
    // The limit, what is driven until the next image and the next step, and the stop; two such
    // intervals more for a busy machine.
    assert!(0.04 < driven && driven < 0.05 + 0.1 * 3.0 * (0.03 + 0.02 + 0.2), "{driven} m");
    // At rest it stays so, and another picture ends it.
    let before = snapshot.commands;
    let snapshot = rig.until("half a second at rest", |snapshot| before + 25 < snapshot.commands);
    assert_eq!(
        (snapshot.output.state, snapshot.output.cause.reason),
        (State::Holding, Reason::ImageUnchanged)
    );
    rig.camera = Camera::Good;
    rig.until("running again", |snapshot| {
        snapshot.output.state == State::Running && !twist_is_zero(snapshot)
    });
}

#[test]
fn busy_executor_misses_no_change() {
    let mut rig = Rig::running(Scripted::forward());
    let until = rig.runtime.snapshot().unwrap().at;
    while rig.runtime.event_until(until).is_some() {}
    // Changes that happen while nothing is fetched, each too short for a look at the snapshot.
    rig.ask(Requests { enable: Some(false), ..Requests::default() });
    rig.ask(Requests { enable: Some(true), ..Requests::default() });
    rig.ask(Requests { estop: true, ..Requests::default() });
    let snapshot = rig.until("estopped", stopped);
    let mut changes = Vec::new();
    while let Some(event) = rig.runtime.event_until(snapshot.at) {
        assert!(event.at <= snapshot.at);
        if let LoopEvent::StatusChanged(status) = event.event {
            changes.push((status.state, status.cause.reason));
        }
    }
    let idle = changes.iter().position(|change| *change == (State::Idle, Reason::NotEnabled));
    let estopped = changes.iter().position(|change| *change == (State::Estopped, Reason::Estop));
    assert!(idle < estopped && idle.is_some(), "{changes:?}");
    // The changes end in the snapshot, and none of them is repeated.
    let newest = (snapshot.output.state, snapshot.output.cause.reason);
    assert_eq!(changes.last(), Some(&newest));
    assert!(changes.windows(2).all(|pair| pair[0] != pair[1]), "{changes:?}");
    assert_eq!(snapshot.events_lost, 0);
}

#[test]
fn nan_latches() {
    let mut calls = 0;
    let mut rig = Rig::running(Scripted::new(move |_, _| {
        calls += 1;
        let mut action = FORWARD.to_vec();
        if calls == 30 {
            action[3] = f64::NAN;
        }
        Ok(action)
    }));
    let snapshot =
        rig.until("latched", |snapshot| snapshot.output.state == State::Fault && stopped(snapshot));
    assert_eq!(snapshot.output.cause.reason, Reason::NotFinite);
    assert!(
        rig.commands().iter().all(|(_, command)| command
            .twist()
            .angular
            .iter()
            .all(|v| v.is_finite()))
    );
}

#[test]
fn unsuitable_policies_are_refused() {
    let mut rig = Rig::new();
    let error = rig.load(Scripted::new(|_, _| Ok(vec![f64::NAN; 7]))).unwrap_err();
    assert!(error.contains("not finite"), "{error}");
    let error = rig.load(Scripted::new(|_, _| panic!("no device"))).unwrap_err();
    assert!(error.contains("no device"), "{error}");
    let missing = Box::new(|| Err("/no/such/folder: not found".into()));
    let answer = rig.runtime.load(request(missing, 0.0));
    assert_eq!(
        answer.recv_timeout(Duration::from_secs(5)).unwrap().unwrap_err(),
        "/no/such/folder: not found"
    );
    let mut five = Scripted::forward();
    five.info.action_dim = 5;
    let error = rig.load(five).unwrap_err();
    assert!(error.contains("5 numbers"), "{error}");
    rig.load(Scripted::forward()).unwrap();
}

/// A policy with noise, whose seed is the number of its chunks since it was loaded or restarted.
struct Noisy(Box<Scripted>, u64);

impl Policy for Noisy {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        self.1 += 1;
        Ok(Decision { seed: Some(self.1 - 1), ..self.0.act(observation)? })
    }

    fn info(&self) -> &PolicyInfo {
        self.0.info()
    }

    fn restart(&mut self) {
        self.1 = 0;
    }

    fn next_seed(&self) -> Option<u64> {
        Some(self.1)
    }
}

#[test]
fn the_self_test_takes_no_noise() {
    let mut rig = Rig::new();
    let policy = AddedLatency::to(Box::new(Noisy(Scripted::forward(), 0)), 1e-3);
    let answer = rig.runtime.load(request(Box::new(move || Ok(policy)), 0.0));
    let loaded = answer.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    assert_eq!(loaded.seed, Some(0));
    assert!(1e-3 <= loaded.inference_s);
    rig.activate();
    let first = |rig: &Rig| {
        rig.reports.iter().find_map(|report| match report {
            WorkerReport::Decided(report) => Some(report.decision.clone()),
            _ => None,
        })
    };
    let end = Wall::now() + Duration::from_secs(20);
    while first(&rig).is_none() {
        assert!(Wall::now() < end, "no decision");
        rig.until("a snapshot", |_| true);
    }
    let decision = first(&rig).unwrap();
    assert_eq!(decision.seed, Some(0));
    assert_eq!(decision.stages.last().unwrap().name, "added");
}

#[test]
fn shutdown_ramps_down_first() {
    let mut rig = Rig::running(Scripted::forward());
    rig.until("full speed", |snapshot| {
        (snapshot.output.motion.limited.linear[0] - 0.1).abs() < 1e-9
    });
    let recorded = rig.recorded.clone();
    assert!(rig.runtime.shut_down(Duration::from_secs(5)));
    let commands = recorded.0.lock().unwrap().clone();
    assert!(commands.last().unwrap().1.twist().is_zero());
    let before_last: f64 = commands[commands.len() - 3].1.twist().linear[0];
    assert!(before_last < 0.1, "it came down in steps");
}

#[test]
fn shutdown_does_not_wait_for_a_stuck_policy() {
    let (_keep, blocked) = mpsc::channel::<()>();
    let mut calls = 0;
    let mut rig = Rig::running(Scripted::new(move |_, _| {
        calls += 1;
        if calls == 25 {
            let _ = blocked.recv();
        }
        Ok(FORWARD.to_vec())
    }));
    rig.until("stuck", |snapshot| snapshot.output.cause.reason == Reason::InferenceTimeout);
    let start = Wall::now();
    assert!(!rig.runtime.shut_down(Duration::from_secs(2)));
    assert!(start.elapsed() < Duration::from_secs(10));
}
