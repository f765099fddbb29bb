//! Each hazard by itself: reaction, time to stop, reported cause, and recovery.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{MS, World, live, norm};
use vla_control::action_chunk::{ActionChunk, ChunkOrigin, ChunkStep};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    Cause, ControlState, EnableOutcome, Event, ImageSeen, Inference, Inputs, Intervention,
    Lifecycle, Output, PolicyFailure, PoseSeen, RawControlConfig, RawUnchangedImage, RawWorkspace,
    Reason, Refusal, Requests, ResetOutcome, State, step,
};

const PERIOD: u64 = 20 * MS;

fn enable() -> Requests {
    Requests { enable: Some(true), ..Requests::default() }
}

fn estop() -> Requests {
    Requests { estop: true, ..Requests::default() }
}

fn reset() -> Requests {
    Requests { reset: true, ..Requests::default() }
}

fn tick(world: &mut World) -> Output {
    world.tick(PERIOD, Requests::default()).unwrap()
}

fn ask(world: &mut World, requests: Requests) -> Output {
    world.tick(PERIOD, requests).unwrap()
}

/// A world whose arm moves at 0.1 m/s.
fn moving(raw: RawControlConfig) -> World {
    let mut world = World::running(raw);
    world.until(100, |output| 0.099 < norm(output.motion.limited.linear));
    world
}

fn came_to_rest(output: &Output) -> Option<f64> {
    output.events.iter().find_map(|event| match event {
        Event::CameToRest { after_s } => Some(*after_s),
        _ => None,
    })
}

fn refusal(output: &Output) -> Option<Refusal> {
    output.events.iter().find_map(|event| match event {
        Event::ChunkRefused { why, .. } => Some(*why),
        _ => None,
    })
}

/// Steps until the robot is at rest; the first state and reason outside of `Running`, and the
/// seconds from there to rest.
fn stop(world: &mut World, requests: Requests) -> (State, Reason, f64) {
    let mut first = None;
    let mut requests = Some(requests);
    for _ in 0..200 {
        let output = ask(world, requests.take().unwrap_or_default());
        if output.state != State::Running && first.is_none() {
            first = Some((output.state, output.cause.reason));
        }
        if let Some(after_s) = came_to_rest(&output) {
            assert!(output.command.is_none_or(|command| command.twist().is_zero()));
            let (state, reason) = first.unwrap();
            return (state, reason, after_s);
        }
        // The cause was noticed when the last chunk had already run out and been ramped down.
        if let Some((state, reason)) = first.filter(|_| output.at_rest) {
            return (state, reason, 0.0);
        }
    }
    panic!("never came to rest: {:?}", world.output)
}

fn guarded() -> RawControlConfig {
    RawControlConfig {
        workspace: Some(RawWorkspace { min: [-5.0; 3], max: [5.0; 3], margin: 0.02 }),
        ..live()
    }
}

fn pose(world: &World, position: [f64; 3]) -> Option<PoseSeen> {
    Some(PoseSeen { received: Instant::from_nanoseconds(world.now), position })
}

#[test]
fn each_hazard_stops_in_time() {
    type Act = fn(&mut World) -> Requests;
    let hazards: &[(&str, Act, State, Reason)] = &[
        (
            "camera killed",
            |w| {
                w.camera_on = false;
                Requests::default()
            },
            State::Holding,
            Reason::ImageStale,
        ),
        (
            "camera frozen",
            |w| {
                w.camera_frozen = true;
                Requests::default()
            },
            State::Holding,
            Reason::ImageFrozen,
        ),
        (
            "equal images, new stamps",
            |w| {
                w.camera_unchanged = true;
                Requests::default()
            },
            State::Holding,
            Reason::ImageUnchanged,
        ),
        (
            "stamps 2 s old",
            |w| {
                w.camera_skew_ns = -2_000_000_000;
                Requests::default()
            },
            State::Holding,
            Reason::ImageStampPast,
        ),
        (
            "stamps 1 s ahead",
            |w| {
                w.camera_skew_ns = 1_000_000_000;
                Requests::default()
            },
            State::Holding,
            Reason::ImageStampFuture,
        ),
        (
            "inference blocked",
            |w| {
                w.policy.blocked = true;
                Requests::default()
            },
            State::Holding,
            Reason::InferenceTimeout,
        ),
        (
            "inference dead",
            |w| {
                w.worker_dead = true;
                Requests::default()
            },
            State::Holding,
            Reason::InferenceDead,
        ),
        (
            "no action token",
            |w| {
                w.failure = Some(PolicyFailure::Refused);
                Requests::default()
            },
            State::Holding,
            Reason::InferenceFailed,
        ),
        (
            "policy not finite",
            |w| {
                w.failure = Some(PolicyFailure::NotFinite);
                Requests::default()
            },
            State::Fault,
            Reason::NotFinite,
        ),
        (
            "NaN in a chunk",
            |w| {
                w.policy.steps[0].rotation[2] = f64::NAN;
                Requests::default()
            },
            State::Fault,
            Reason::NotFinite,
        ),
        (
            "subscriber gone",
            |w| {
                w.subscribed = false;
                Requests::default()
            },
            State::Holding,
            Reason::SubscriberGone,
        ),
        (
            "ROS time back 1 s",
            |w| {
                w.ros -= 1_000_000_000;
                Requests::default()
            },
            State::Holding,
            Reason::ClockJumpedBack,
        ),
        (
            "instruction withdrawn",
            |w| {
                w.instruction = None;
                Requests::default()
            },
            State::Idle,
            Reason::NoInstruction,
        ),
        (
            "disabled",
            |_| Requests { enable: Some(false), ..Requests::default() },
            State::Idle,
            Reason::NotEnabled,
        ),
        (
            "deactivated",
            |w| {
                w.lifecycle = Lifecycle::Inactive;
                Requests::default()
            },
            State::Holding,
            Reason::Deactivating,
        ),
        (
            "cleaned up in motion",
            |w| {
                w.lifecycle = Lifecycle::Unconfigured;
                Requests::default()
            },
            State::Holding,
            Reason::Deactivating,
        ),
        ("e-stop", |_| estop(), State::Estopped, Reason::Estop),
    ];
    let promise = live().validate().unwrap().stop_time_s() + 0.02;
    println!("{:<24}{:<14}{:<22}{:>16}", "hazard", "state", "reason", "time to stop");
    for (name, act, state, reason) in hazards {
        let mut world = moving(live());
        let requests = act(&mut world);
        let (got_state, got_reason, after_s) = stop(&mut world, requests);
        println!(
            "{name:<24}{:<14}{:<22}{:>13.0} ms",
            got_state.name(),
            got_reason.name(),
            after_s * 1e3
        );
        assert_eq!((got_state, got_reason), (*state, *reason), "{name}");
        assert!(after_s <= promise, "{name}: {after_s} s, promised {promise} s");
    }
}

#[test]
fn workspace_requires_a_fresh_pose() {
    let mut world = World::new(guarded());
    tick(&mut world);
    let refused = Some(EnableOutcome::Refused(Cause::plain(Reason::EePoseStale)));
    assert_eq!(ask(&mut world, enable()).enable, refused);
    for bad in [f64::NAN, f64::INFINITY] {
        world.pose = pose(&world, [0.0, bad, 0.0]);
        assert_eq!(ask(&mut world, enable()).enable, refused);
        assert!(tick(&mut world).causes.contains(Reason::EePoseStale));
    }
    world.pose = pose(&world, [0.0; 3]);
    assert_eq!(ask(&mut world, enable()).state, State::Running);
    let at = world.now;
    let output = world.until(100, |output| output.state != State::Running);
    assert_eq!(output.cause.reason, Reason::EePoseStale);
    // Received 20 ms before its first step: 0.5 s is allowed, the next step is one too many.
    assert_eq!(world.now - at, 500 * MS);
}

#[test]
fn watchdogs_fire_at_their_limit() {
    type Act = fn(&mut World);
    let cases: &[(&str, Act, u64, Reason)] = &[
        // The last image arrived in the step before: 0.5 s later it is still good, one step later
        // no more.
        ("image", |w| w.camera_on = false, 520, Reason::ImageStale),
        ("frozen", |w| w.camera_frozen = true, 520, Reason::ImageFrozen),
        ("subscriber", |w| w.subscribed = false, 240, Reason::SubscriberGone),
    ];
    for (name, act, after_ms, reason) in cases {
        let mut world = moving(live());
        // Its inference always finishes at once, so that no other watchdog interferes.
        world.policy.takes_ns = 0;
        act(&mut world);
        let from = world.now;
        let output = world.until(100, |output| output.state != State::Running);
        assert_eq!(output.cause.reason, *reason, "{name}");
        assert_eq!((world.now - from) / MS, *after_ms, "{name}");
    }
}

#[test]
fn image_age_starts_at_its_stamp() {
    // The delay is that on arrival, whatever ROS time does after the last image (slow, fast,
    // stopped, small jumps).
    for (skew_ms, ros_rate, after_ms) in [
        (0, 1.0, 520),
        (-300, 1.0, 220),
        (-300, 0.1, 220),
        (-300, 10.0, 220),
        (-300, 0.0, 220),
        (-480, 1.0, 40),
        (-500, 1.0, 20),
        // A stamp ahead of ROS time makes no image younger than its arrival.
        (90, 1.0, 520),
    ] {
        let mut world = World::new(live());
        world.policy.takes_ns = 0;
        world.camera_skew_ns = skew_ms * MS as i64;
        assert_eq!(ask(&mut world, enable()).state, State::Running, "{skew_ms}");
        let output = tick(&mut world);
        assert_eq!(output.image_age_s, Some((-skew_ms).max(0) as f64 * 1e-3), "{skew_ms}");
        world.camera_on = false;
        world.ros_rate = ros_rate;
        let from = world.now;
        let output = world.until(100, |output| output.state != State::Running);
        assert_eq!(output.cause.reason, Reason::ImageStale, "{skew_ms}");
        assert_eq!((world.now - from) / MS, after_ms, "{skew_ms} ms at {ros_rate}x");
        assert!((output.image_age_s.unwrap() - output.cause.value).abs() < 1e-12);
        assert_eq!(
            (world.now - from) / MS,
            ((output.cause.value * 1e3).round() as i64 + skew_ms.min(0)) as u64
        );
    }
    // A delay that the stamps' tolerance allows can still be more than an image's age may be.
    let mut world = World::running(RawControlConfig { observation_timeout_s: 0.3, ..live() });
    world.camera_skew_ns = -400 * MS as i64;
    let output = tick(&mut world);
    assert_eq!(
        (output.state, output.cause.reason, output.cause.limit),
        (State::Holding, Reason::ImageStale, 0.3)
    );
}

/// Commands on, with limits that no sum of whole control periods hits exactly.
fn short_path_limits() -> RawControlConfig {
    RawControlConfig {
        unchanged_image: RawUnchangedImage { distance: 0.051, angle: 0.255 },
        ..live()
    }
}

/// A world that runs at the full speed of this step.
fn at_speed(raw: RawControlConfig, step: [f64; 7]) -> World {
    let mut world = World::new(raw);
    world.policy.steps = vec![ChunkStep::from_array(step)];
    world.policy.takes_ns = 60 * MS;
    ask(&mut world, enable());
    for _ in 0..100 {
        assert_eq!(tick(&mut world).state, State::Running);
    }
    world
}

/// Steps until the robot is stopped: after how many milliseconds, and why.
fn stopped_after(world: &mut World) -> (u64, Cause) {
    let from = world.now;
    let output = world.until(200, |output| output.state != State::Running);
    ((world.now - from) / MS, output.cause)
}

#[test]
fn frozen_image_fires_at_its_limit() {
    // 0.1 m/s is 2 mm per step, 0.5 rad/s is 0.01 rad: half a step beyond the limit after 26 of
    // them.
    for (step, most, limit, unit) in [
        ([0.0, 0.012, 0.016, 0.0, 0.0, 0.01, 1.0], 0.053, 0.051, "m"),
        ([0.0, 0.0, 0.0, 0.06, 0.0, -0.08, 1.0], 0.265, 0.255, "rad"),
        ([0.01, 0.0, 0.0, 0.06, 0.0, -0.08, 1.0], 0.265, 0.255, "rad"),
    ] {
        let mut world = at_speed(short_path_limits(), step);
        world.camera_unchanged = true;
        let (after_ms, cause) = stopped_after(&mut world);
        assert_eq!(
            (after_ms, cause.reason, cause.limit, cause.unit),
            (520, Reason::ImageUnchanged, limit, unit)
        );
        assert!(limit < cause.value && cause.value < most, "{cause}");
    }
}

#[test]
fn unchanged_image_is_no_fault_at_rest() {
    // The policy wants no motion; motion is not enabled; a dry run executes no motion.
    for (speed, enabled, dry_run) in [(0.0, true, false), (0.02, false, false), (0.02, true, true)]
    {
        let mut world = World::new(RawControlConfig { dry_run, ..short_path_limits() });
        world.policy.steps = vec![ChunkStep::from_array([speed, 0.0, 0.0, 0.0, 0.0, speed, 1.0])];
        world.camera_unchanged = true;
        ask(&mut world, Requests { enable: Some(enabled), ..Requests::default() });
        for _ in 0..1000 {
            let output = tick(&mut world);
            assert_eq!(
                output.state,
                if enabled { State::Running } else { State::Idle },
                "{}",
                output.cause
            );
        }
        assert_eq!(0.05 < norm(world.output.unwrap().motion.limited.linear), dry_run);
    }
}

#[test]
fn slow_camera_is_not_frozen() {
    // 10 cm from image to image, twice the limit, and each differs from the one before.
    let mut world = World::new(short_path_limits());
    world.policy.steps = vec![ChunkStep::from_array([0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])];
    world.policy.takes_ns = 60 * MS;
    world.camera_period_ns = 400 * MS;
    ask(&mut world, enable());
    for _ in 0..500 {
        assert_eq!(tick(&mut world).state, State::Running, "{}", world.output.unwrap().cause);
    }
    // The robot stops with the first repeated image, and not sooner.
    world.until(100, |output| output.image_age_s == Some(0.0));
    world.camera_unchanged = true;
    let (after_ms, cause) = stopped_after(&mut world);
    assert_eq!((after_ms, cause.reason), (400, Reason::ImageUnchanged));
    assert!((cause.value - 0.1).abs() < 1e-6, "{cause}");
}

#[test]
fn only_a_new_image_ends_the_hold() {
    let raw = RawControlConfig { rearm_window_s: 60.0, ..short_path_limits() };
    let mut world = at_speed(raw, [0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    world.camera_unchanged = true;
    stopped_after(&mut world);
    for _ in 0..500 {
        let output = tick(&mut world);
        assert_eq!((output.state, output.cause.reason), (State::Holding, Reason::ImageUnchanged));
    }
    world.camera_unchanged = false;
    assert_eq!(tick(&mut world).cause.reason, Reason::Recovering);
    let from = world.now;
    world.until(100, |output| output.state == State::Running);
    assert_eq!((world.now - from) / MS, 500);
    // Earlier motion does not count any more.
    for _ in 0..100 {
        assert_eq!(tick(&mut world).state, State::Running);
    }
    // Enabling again does not repair the camera.
    world.camera_unchanged = true;
    stopped_after(&mut world);
    ask(&mut world, Requests { enable: Some(false), ..Requests::default() });
    let output = ask(&mut world, enable());
    assert!(matches!(output.enable, Some(EnableOutcome::Refused(cause))
            if cause.reason == Reason::ImageUnchanged));
    assert_eq!(output.state, State::Idle);
}

#[test]
fn deactivation_resets_the_frozen_image_path() {
    let mut world = at_speed(short_path_limits(), [0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    world.camera_unchanged = true;
    stopped_after(&mut world);
    world.lifecycle = Lifecycle::Inactive;
    world.until(100, |output| output.state == State::Inactive);
    world.lifecycle = Lifecycle::Active;
    assert_eq!(ask(&mut world, enable()).state, State::Running);
    // The camera still repeats one image: the limit applies again, from rest.
    let (after_ms, cause) = stopped_after(&mut world);
    assert_eq!(cause.reason, Reason::ImageUnchanged);
    assert!(520 < after_ms && after_ms < 1000, "{after_ms} ms");
}

#[test]
fn result_of_an_old_image_is_refused() {
    let mut world = World::running(live());
    world.policy.takes_ns = u64::MAX / 2;
    let seen = |world: &World, behind_ms: i64| ImageSeen {
        received: Instant::from_nanoseconds(world.now),
        stamp: Stamp::from_nanoseconds(world.ros - behind_ms * MS as i64),
        ros_received: Stamp::from_nanoseconds(world.ros),
        unchanged_since: Instant::from_nanoseconds(world.now),
    };
    let fresh = seen(&world, 500);
    assert_eq!(forge(&mut world, |o| o.image_taken = fresh.taken()), None);
    let old = seen(&world, 501);
    assert_eq!(forge(&mut world, |o| o.image_taken = old.taken()), Some(Refusal::OldObservation));
    let ahead = seen(&world, -2000);
    assert_eq!(ahead.taken(), ahead.received);
}

#[test]
fn blocked_inference_fires_at_its_deadline() {
    let mut world = moving(RawControlConfig { inference_timeout_s: 1.0, ..live() });
    world.policy.blocked = true;
    let output = world.until(100, |output| output.state != State::Running);
    assert_eq!((output.cause.reason, output.cause.limit), (Reason::InferenceTimeout, 1.0));
    assert!(1.0 < output.cause.value && output.cause.value <= 1.021, "{}", output.cause);
    // The late result is dropped; only a result begun after the recovery moves the robot.
    world.policy.blocked = false;
    let output = world.until(200, |output| output.state == State::Running);
    assert!(output.motion.target.is_zero());
    let output = world.until(200, |output| !output.motion.target.is_zero());
    assert_eq!(output.state, State::Running);
}

#[test]
fn preparation_has_a_deadline_of_its_own() {
    let mut world = moving(RawControlConfig { inference_timeout_s: 1.0, ..live() });
    // A new instruction, whose programs are compiled for a minute: the robot stands, without a
    // fault, and the first result moves it.
    world.instruction = Some(2);
    world.preparing = Some(Instant::from_nanoseconds(world.now));
    for _ in 0..3000 {
        let output = tick(&mut world);
        assert_eq!(output.state, State::Running, "{}", output.cause);
        assert_eq!((output.cause.reason, output.cause.limit), (Reason::Preparing, 120.0));
    }
    assert!(tick(&mut world).motion.target.is_zero());
    world.preparing = None;
    assert_eq!(tick(&mut world).cause.reason, Reason::WaitingForAction);
    let output =
        world.until(50, |output| output.state != State::Running || !output.motion.target.is_zero());
    assert_eq!(output.state, State::Running, "{}", output.cause);
    // The inference after it has its own deadline, and so has the preparation.
    world.policy.blocked = true;
    let output = world.until(100, |output| output.state != State::Running);
    assert_eq!((output.cause.reason, output.cause.limit), (Reason::InferenceTimeout, 1.0));
    let mut world = moving(live());
    world.instruction = Some(2);
    world.preparing = Some(Instant::from_nanoseconds(world.now));
    let output = world.until(6100, |output| output.state != State::Running);
    assert_eq!((output.cause.reason, output.cause.limit), (Reason::InferenceTimeout, 120.0));
}

#[test]
fn idle_worker_fires() {
    let mut world = World::running(live());
    // It never finishes an inference, while the camera works.
    world.policy.takes_ns = u64::MAX / 2;
    let output = world.until(100, |output| output.state != State::Running);
    assert_eq!(output.cause.reason, Reason::InferenceTimeout);
}

#[test]
fn hold_ends_after_clear_s() {
    let mut world = moving(live());
    world.camera_on = false;
    world.until(100, |output| output.state == State::Holding);
    world.until(100, |output| output.at_rest);
    world.camera_on = true;
    let from = world.now;
    let output = tick(&mut world);
    assert_eq!((output.state, output.cause.reason), (State::Holding, Reason::Recovering));
    world.until(100, |output| output.state == State::Running);
    assert_eq!((world.now - from) / MS, 520);
    let generation_before = world.output.unwrap();
    assert!(generation_before.motion.target.is_zero());
    world.until(100, |output| {
        output.events.iter().any(|event| matches!(event, Event::ChunkTaken { .. }))
    });
}

#[test]
fn returning_cause_restarts_clear_s() {
    let mut world = moving(live());
    world.ros -= 1_000_000_000;
    tick(&mut world);
    for _ in 0..20 {
        tick(&mut world);
    }
    world.ros -= 1_000_000_000;
    let output = tick(&mut world);
    assert_eq!((output.state, output.cause.reason), (State::Holding, Reason::ClockJumpedBack));
    let from = world.now;
    world.until(100, |output| output.state == State::Running);
    assert_eq!((world.now - from) / MS, 520);
}

fn fault_and_recover(world: &mut World) -> Output {
    world.ros -= 1_000_000_000;
    let output = tick(world);
    if output.state == State::Holding {
        world.until(200, |output| output.state == State::Running);
    }
    output
}

#[test]
fn third_fault_latches() {
    let mut world = moving(live());
    for _ in 0..2 {
        assert_eq!(fault_and_recover(&mut world).state, State::Holding);
    }
    let output = fault_and_recover(&mut world);
    assert_eq!((output.state, output.cause.reason), (State::Fault, Reason::RepeatedFaults));
    assert_eq!((output.cause.value, output.cause.limit), (3.0, 3.0));
    assert_eq!(world.state.last_fault().reason, Reason::ClockJumpedBack);
    // It stays latched, also for a request to enable.
    for _ in 0..100 {
        assert_eq!(ask(&mut world, enable()).state, State::Fault);
    }
}

#[test]
fn faults_leave_the_window() {
    let mut world = moving(live());
    for round in 0..6 {
        assert_eq!(fault_and_recover(&mut world).state, State::Holding, "round {round}");
        for _ in 0..260 {
            tick(&mut world);
        }
    }
}

#[test]
fn operator_actions_are_no_faults() {
    let mut world = moving(live());
    for _ in 0..5 {
        world.instruction = None;
        assert_eq!(tick(&mut world).cause.reason, Reason::NoInstruction);
        world.instruction = Some(1);
        assert_eq!(tick(&mut world).state, State::Running);
        ask(&mut world, Requests { enable: Some(false), ..Requests::default() });
        assert_eq!(ask(&mut world, enable()).state, State::Running);
    }
}

#[test]
fn reset_requires_rest_and_clear_s() {
    let mut world = moving(live());
    ask(&mut world, estop());
    assert_eq!(ask(&mut world, reset()).reset, Some(ResetOutcome::StillMoving));
    world.until(100, |output| output.at_rest);
    ask(&mut world, estop());
    // The same step brings the cause again: not this time.
    let both = Requests { estop: true, reset: true, enable: None };
    assert!(matches!(ask(&mut world, both).reset, Some(ResetOutcome::CauseRemains(cause))
            if cause.reason == Reason::Estop));
    let Some(ResetOutcome::TooSoon { remaining_s }) = ask(&mut world, reset()).reset else {
        panic!("too soon")
    };
    assert!((remaining_s - 0.48).abs() < 1e-9);
    for _ in 0..23 {
        assert_eq!(tick(&mut world).state, State::Estopped);
    }
    let output = ask(&mut world, reset());
    assert_eq!((output.reset, output.state), (Some(ResetOutcome::Done), State::Idle));
    // A reset starts nothing.
    for _ in 0..50 {
        assert!(tick(&mut world).command.unwrap().twist().is_zero());
    }
    assert_eq!(ask(&mut world, reset()).reset, Some(ResetOutcome::NotLatched));
    assert_eq!(ask(&mut world, enable()).state, State::Running);
    world.until(100, |output| !output.command.unwrap().twist().is_zero());
}

#[test]
fn reset_requires_silent_watchdogs() {
    let mut world = moving(live());
    for _ in 0..3 {
        fault_and_recover(&mut world);
    }
    world.camera_on = false;
    for _ in 0..100 {
        tick(&mut world);
    }
    let outcome = ask(&mut world, reset()).reset;
    assert!(
        matches!(outcome, Some(ResetOutcome::CauseRemains(cause))
            if cause.reason == Reason::ImageStale),
        "{outcome:?}"
    );
    world.camera_on = true;
    assert!(matches!(ask(&mut world, reset()).reset, Some(ResetOutcome::TooSoon { .. })));
    for _ in 0..25 {
        tick(&mut world);
    }
    assert_eq!(ask(&mut world, reset()).reset, Some(ResetOutcome::Done));
    // The count began anew.
    ask(&mut world, enable());
    assert_eq!(fault_and_recover(&mut world).state, State::Holding);
}

#[test]
fn estop_works_in_every_state() {
    let mut world = World::new(live());
    world.lifecycle = Lifecycle::Unconfigured;
    assert_eq!(ask(&mut world, estop()).state, State::Estopped);
    let mut world = moving(live());
    world.failure = Some(PolicyFailure::NotFinite);
    assert_eq!(tick(&mut world).state, State::Fault);
    assert_eq!(ask(&mut world, estop()).state, State::Estopped);
    world.failure = Some(PolicyFailure::NotFinite);
    assert_eq!(tick(&mut world).state, State::Estopped);
    // The latch outlives deactivation and cleanup.
    world.lifecycle = Lifecycle::Unconfigured;
    assert_eq!(tick(&mut world).state, State::Estopped);
    world.lifecycle = Lifecycle::Active;
    assert_eq!(ask(&mut world, enable()).state, State::Estopped);
}

#[test]
fn nothing_moves_with_a_closed_gate() {
    for (dry_run, lifecycle, enabled) in [
        (true, Lifecycle::Active, true),
        (false, Lifecycle::Inactive, true),
        (false, Lifecycle::Unconfigured, true),
        (false, Lifecycle::Active, false),
    ] {
        let mut world = World::new(RawControlConfig { dry_run, ..live() });
        world.lifecycle = lifecycle;
        ask(&mut world, Requests { enable: Some(enabled), ..Requests::default() });
        for _ in 0..100 {
            let output = tick(&mut world);
            match output.command {
                Some(command) => {
                    assert!(command.twist().is_zero() && lifecycle == Lifecycle::Active && !dry_run)
                }
                None => assert!(dry_run || lifecycle != Lifecycle::Active),
            }
            // The shadow of a dry run moves, so that it can be watched.
            if dry_run {
                assert_eq!((output.state, output.cause.reason), (State::Running, Reason::DryRun));
            }
        }
        let shadow = norm(world.output.unwrap().motion.limited.linear);
        assert_eq!(0.05 < shadow, dry_run, "{shadow}");
    }
}

#[test]
fn enable_before_activation_is_refused() {
    let mut world = World::new(live());
    world.lifecycle = Lifecycle::Inactive;
    let output = ask(&mut world, enable());
    let refused = EnableOutcome::Refused(Cause::plain(Reason::NotActive));
    assert_eq!((output.state, output.enable), (State::Inactive, Some(refused)));
    world.lifecycle = Lifecycle::Active;
    assert_eq!(tick(&mut world).state, State::Idle);
}

#[test]
fn deactivation_ramps_down_first() {
    let mut world = moving(live());
    world.lifecycle = Lifecycle::Inactive;
    let mut last = None;
    let output = world.until(100, |output| {
        last = output.command.or(last);
        output.at_rest
    });
    assert!(last.unwrap().twist().is_zero(), "the last command must be zero");
    assert_eq!(output.state, State::Holding);
    for _ in 0..50 {
        let output = tick(&mut world);
        assert_eq!((output.state, output.command), (State::Inactive, None));
    }
}

#[test]
fn pause_never_resumes_an_old_command() {
    for (pause_ms, reason) in [
        (101, Reason::ControlOverrun),
        (499, Reason::ControlOverrun),
        (500, Reason::ProcessPaused),
        (1400, Reason::ProcessPaused),
    ] {
        let mut world = moving(live());
        let before = norm(world.output.unwrap().motion.limited.linear);
        let output = world.tick(pause_ms * MS, Requests::default()).unwrap();
        assert_eq!((output.state, output.cause.reason), (State::Holding, reason), "{pause_ms}");
        let after = norm(output.command.unwrap().twist().linear);
        assert!(after < before, "{pause_ms}: {after}");
        // After a pause as long as the stop there is nothing left of it.
        if 350 <= pause_ms {
            assert_eq!(after, 0.0, "{pause_ms}");
        }
        let output = world.until(100, |output| output.state == State::Running);
        assert!(output.motion.target.is_zero());
    }
    // A pause beyond the window needs a new request to enable.
    for pause_ms in [2000, 3_600_000] {
        let mut world = moving(live());
        let output = world.tick(pause_ms * MS, Requests::default()).unwrap();
        assert_eq!((output.state, output.cause.reason), (State::Idle, Reason::NotEnabled));
        assert_eq!(output.cause.withdrawn_by, Reason::ProcessPaused, "{pause_ms}");
        assert!(output.command.unwrap().twist().is_zero());
    }
    // A late step within the limit is no fault.
    let mut world = moving(live());
    assert_eq!(world.tick(100 * MS, Requests::default()).unwrap().state, State::Running);
}

#[test]
fn watchdogs_ignore_simulated_time() {
    for rate in [0.1, 1.0, 10.0] {
        let mut world = moving(live());
        world.ros_rate = rate;
        // 30 images per simulated second.
        world.camera_period_ns = (1e9 / 30.0 / rate) as u64;
        for _ in 0..500 {
            assert_eq!(
                tick(&mut world).state,
                State::Running,
                "at {rate}x: {}",
                world.output.unwrap().cause
            );
        }
    }
    // Paused: ROS time stops, no image comes; the steady clock goes on.
    let mut world = moving(live());
    world.ros_runs = false;
    world.camera_on = false;
    let (state, reason, _) = stop(&mut world, Requests::default());
    assert_eq!((state, reason), (State::Holding, Reason::ImageStale));
}

#[test]
fn small_ros_time_corrections_add_up() {
    let mut world = moving(live());
    world.ros -= 90 * MS as i64;
    assert_eq!(tick(&mut world).state, State::Running);
    world.ros -= 60 * MS as i64;
    let output = tick(&mut world);
    assert_eq!((output.state, output.cause.reason), (State::Holding, Reason::ClockJumpedBack));
}

#[test]
fn step_lasts_one_policy_period() {
    let mut world = World::running(live());
    world.policy.takes_ns = u64::MAX / 2;
    let origin = world.fresh_origin();
    let step = ChunkStep::from_array([0.02, -0.01, 0.0, 0.0, 0.0, 0.04, 1.0]);
    world.forged = Some(ActionChunk::new(origin, 5.0, vec![step]).unwrap());
    let mut held = 0;
    let mut output = tick(&mut world);
    while !output.motion.target.is_zero() {
        let expected = [0.1, -0.05, 0.0];
        for (got, expected) in output.motion.target.linear.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12);
        }
        assert!((output.motion.target.angular[2] - 0.2).abs() < 1e-12);
        held += 1;
        output = tick(&mut world);
    }
    assert_eq!(held, 10, "5 Hz is ten control periods of 20 ms");
    assert!(output.motion.interventions.contains(Intervention::RampDown));
    assert_eq!(world.state.interventions().get(Intervention::RampDown), 1);
    // 0.1 m/s at 1 m/s2, and the window of the jerk limit.
    let from = world.now;
    world.until(100, |output| output.at_rest);
    assert!(world.now - from <= 220 * MS);
    assert_eq!(world.output.unwrap().state, State::Running);
}

#[test]
fn direction_from_rest_is_kept() {
    let mut world = World::running(live());
    world.policy.steps = vec![ChunkStep::from_array([0.3, -0.2, 0.1, 0.05, 0.4, -0.02, 1.0])];
    world.until(100, |output| !output.motion.target.is_zero());
    for _ in 0..50 {
        let output = tick(&mut world);
        let v = output.command.unwrap().twist().linear;
        let length = norm(v);
        let expected = [0.3, -0.2, 0.1].map(|x: f64| x / 0.14f64.sqrt());
        for (got, expected) in v.iter().zip(expected) {
            assert!((got / length - expected).abs() < 1e-6);
        }
        let w = output.motion.target.angular;
        let scale = output.motion.target.linear[0] / 0.3;
        assert!((w[1] - 0.4 * scale).abs() < 1e-12, "rotation shrinks with translation");
    }
    let top = norm(world.output.unwrap().command.unwrap().twist().linear);
    let done = world.output.unwrap().motion.interventions;
    assert!(done.contains(Intervention::StepCap));
    assert!(0.0 < top && top <= 0.25);
}

#[test]
fn zero_stays_exactly_zero() {
    let mut world = World::running(live());
    world.policy.steps = vec![ChunkStep::from_array([0.0, -0.0, 0.0, 0.0, 0.0, 0.0, 1.0])];
    for _ in 0..200 {
        assert!(tick(&mut world).command.unwrap().twist().is_zero());
    }
    assert!(world.output.unwrap().at_rest);
}

#[test]
fn newer_chunk_continues_in_time() {
    // 8 steps of 100 ms, distinguished by their speed; an inference takes 250 ms.
    let mut world = World::running(live());
    world.policy.hz = 10.0;
    world.policy.steps = (0..8)
        .map(|i| ChunkStep::from_array([0.001 * f64::from(i + 1), 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
        .collect();
    world.policy.takes_ns = 250 * MS;
    let mut firsts = Vec::new();
    let mut begun_before = 0;
    for _ in 0..300 {
        let output = tick(&mut world);
        for event in output.events.iter() {
            if let Event::ChunkTaken { first_step, .. } = event {
                firsts.push(*first_step);
                let expected = 0.01 * f64::from(first_step + 1);
                assert!(
                    (output.motion.target.linear[0] - expected).abs() < 1e-12,
                    "step {first_step}"
                );
            }
        }
        assert!(output.steps_begun <= begun_before + 1);
        begun_before = output.steps_begun;
    }
    // The first finds nothing played; each later one finds the steps begun during its inference
    // played, two or three of them.
    assert_eq!(firsts[0], 0);
    assert!(firsts[1..].iter().all(|first| (2..=3).contains(first)), "{firsts:?}");
    assert!(15 < firsts.len());
}

#[test]
fn only_executed_steps_are_skipped() {
    // A chunk lasts 80 ms, an answer takes 400 ms. The image of every second answer is taken just
    // before its predecessor begins, so that all its steps have been played when it comes; that of
    // the others is taken when nothing plays, so that nothing of it may be skipped.
    let mut world = World::running(live());
    world.policy.hz = 50.0;
    world.policy.steps = vec![ChunkStep::from_array([0.001, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]); 4];
    world.policy.takes_ns = 400 * MS;
    let mut results = Vec::new();
    for _ in 0..200 {
        for event in tick(&mut world).events.iter() {
            match event {
                Event::ChunkTaken { first_step, .. } => results.push(Ok(*first_step)),
                Event::ChunkRefused { why, .. } => results.push(Err(*why)),
                _ => {}
            }
        }
    }
    // The first answer still comes from the default policy of this world: one step, no past.
    let expected = [Ok(0), Err(Refusal::Exhausted)];
    let later = &results[1..];
    assert!(5 < later.len());
    assert!(
        later.chunks(2).all(|pair| pair == &expected[..pair.len()])
            || later[1..].chunks(2).all(|pair| pair == &expected[..pair.len()]),
        "{results:?}"
    );
}

fn forge(world: &mut World, change: impl FnOnce(&mut ChunkOrigin)) -> Option<Refusal> {
    let mut origin = world.fresh_origin();
    // It is passed in the next step, one period after the origin.
    change(&mut origin);
    world.forged = Some(
        ActionChunk::new(
            origin,
            5.0,
            vec![ChunkStep::from_array([0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])],
        )
        .unwrap(),
    );
    refusal(&tick(world))
}

#[test]
fn chunks_are_refused_by_reason() {
    let mut world = World::running(live());
    world.policy.takes_ns = u64::MAX / 2;
    // An inference of the world's own would run into its deadline: this test brings its own results
    // often enough.
    assert_eq!(forge(&mut world, |_| {}), None);
    assert_eq!(forge(&mut world, |o| o.instruction_generation = 0), Some(Refusal::OldInstruction));
    assert_eq!(forge(&mut world, |o| o.generation = 1), Some(Refusal::OutOfOrder));
    assert_eq!(
        forge(&mut world, |o| o.image_taken = Instant::START),
        Some(Refusal::OldObservation)
    );
    assert_eq!(
        forge(&mut world, |o| o.inference_started = Instant::START),
        Some(Refusal::LateResult)
    );
    let counts = world.state.interventions();
    for which in [
        Intervention::OldInstruction,
        Intervention::OutOfOrder,
        Intervention::OldObservation,
        Intervention::LateResult,
    ] {
        assert_eq!(counts.get(which), 1, "{}", which.name());
    }
    assert_eq!(counts.late_results(), 4);
    ask(&mut world, Requests { enable: Some(false), ..Requests::default() });
    assert_eq!(forge(&mut world, |_| {}), Some(Refusal::NotAllowed));
    // A result begun before motion was allowed is refused even though its image is fresh.
    let mut origin = world.fresh_origin();
    ask(&mut world, enable());
    origin.generation += 10;
    world.forged = Some(ActionChunk::new(origin, 5.0, vec![ChunkStep::default()]).unwrap());
    assert_eq!(refusal(&tick(&mut world)), Some(Refusal::OldObservation));
}

#[test]
fn changed_instruction_stops_old_motion() {
    let mut world = moving(live());
    world.instruction = Some(2);
    let output = tick(&mut world);
    assert!(output.motion.target.is_zero());
    assert_eq!((output.state, output.cause.reason), (State::Running, Reason::WaitingForAction));
    let mut refused = refusal(&output);
    world.until(20, |output| {
        refused = refused.or(refusal(output));
        !output.motion.target.is_zero()
    });
    assert_eq!(
        refused,
        Some(Refusal::OldInstruction),
        "the answer under way belonged to the old instruction"
    );
}

#[test]
fn early_step_handles_requests() {
    let mut world = moving(live());
    let output = world.tick(9 * MS, estop()).unwrap();
    assert_eq!((output.command, output.state), (None, State::Estopped));
    assert!(world.tick(MS, Requests::default()).unwrap().command.is_some());
    // A clock that did not advance between two steps.
    assert!(world.tick(0, Requests::default()).unwrap().command.is_none());
}

#[test]
fn gripper_holds_in_a_fault() {
    let mut world = World::running(live());
    assert_eq!(world.output.unwrap().command.unwrap().gripper(), None);
    world.policy.steps[0].gripper = 0.0;
    world.until(100, |output| output.command.unwrap().gripper() == Some(0.0));
    world.policy.steps[0].gripper = 1.0;
    world.failure = Some(PolicyFailure::Refused);
    for _ in 0..20 {
        assert_eq!(tick(&mut world).command.unwrap().gripper(), Some(0.0));
    }
    world.until(200, |output| output.command.unwrap().gripper() == Some(1.0));
}

#[test]
fn stalls_are_reported_only() {
    let noticed = |output: &Output, reason| {
        output
            .events
            .iter()
            .any(|event| matches!(event, Event::Detected(cause) if cause.reason == reason))
    };
    let mut world = World::running(live());
    let mut taken = 0;
    let output = world.until(200, |output| {
        taken +=
            output.events.iter().filter(|event| matches!(event, Event::ChunkTaken { .. })).count();
        noticed(output, Reason::ConstantAction)
    });
    assert_eq!(taken, 10);
    assert_eq!((output.state, output.cause.reason), (State::Running, Reason::ConstantAction));
    // Without a pose a stuck robot cannot be detected.
    for _ in 0..100 {
        assert!(!noticed(&tick(&mut world), Reason::Stuck));
    }
    // Another action ends it.
    world.policy.steps[0].translation[1] = 0.001;
    world.until(100, |output| {
        output
            .events
            .iter()
            .any(|event| matches!(event, Event::DetectionCleared(Reason::ConstantAction)))
    });

    let mut world = World::running(live());
    let mut followed = World::running(live());
    let mut x = 0.0;
    let mut seen = false;
    for _ in 0..200 {
        world.pose = pose(&world, [0.3, 0.0, 0.1]);
        seen |= noticed(&tick(&mut world), Reason::Stuck);
        followed.pose = pose(&followed, [x, 0.0, 0.1]);
        x += 0.0005;
        assert!(!noticed(&tick(&mut followed), Reason::Stuck));
    }
    assert!(seen);
    assert_eq!(world.output.unwrap().cause.reason, Reason::Stuck);
    assert!(!world.output.unwrap().command.unwrap().twist().is_zero());
}

#[test]
fn each_change_is_one_event() {
    let mut world = World::new(live());
    world.lifecycle = Lifecycle::Unconfigured;
    assert!(tick(&mut world).events.is_empty());
    let change = |output: &Output| {
        let mut changes = output.events.iter().filter_map(|event| match event {
            Event::StateChanged { from, to, cause } => Some((*from, *to, cause.reason)),
            Event::CauseChanged { state, cause } => Some((*state, *state, cause.reason)),
            _ => None,
        });
        let first = changes.next();
        assert_eq!(changes.next(), None);
        first
    };
    for (lifecycle, from, to, reason) in [
        (Lifecycle::Inactive, State::Unconfigured, State::Inactive, Reason::NotActive),
        (Lifecycle::Active, State::Inactive, State::Idle, Reason::NotEnabled),
    ] {
        world.lifecycle = lifecycle;
        assert_eq!(change(&tick(&mut world)), Some((from, to, reason)));
        assert_eq!(change(&tick(&mut world)), None);
    }
    let waiting = (State::Idle, State::Running, Reason::WaitingForAction);
    assert_eq!(change(&ask(&mut world, enable())), Some(waiting));
    let output = world.until(50, |output| change(output).is_some());
    assert_eq!(change(&output), Some((State::Running, State::Running, Reason::None)));
    // Causes that follow one another within a state.
    world.camera_on = false;
    world.until(50, |output| output.cause.reason == Reason::ImageStale);
    world.worker_dead = true;
    let dead = (State::Holding, State::Holding, Reason::InferenceDead);
    assert_eq!(change(&tick(&mut world)), Some(dead));
}

#[test]
fn no_fault_in_the_step_of_a_disable() {
    for requests in [Requests { enable: Some(false), ..Requests::default() }, estop()] {
        let mut world = moving(live());
        world.ros -= 1_000_000_000;
        let output = ask(&mut world, requests);
        assert!(
            !output.events.iter().any(|event| matches!(event, Event::FaultRaised { .. })),
            "{:?}",
            output.events
        );
        assert_eq!(world.state.last_fault().reason, Reason::None);
    }
}

#[test]
fn reset_ignores_other_causes() {
    // An e-stop's cause is the button, not the camera that is off as well.
    let mut world = moving(live());
    ask(&mut world, estop());
    world.camera_on = false;
    for _ in 0..60 {
        tick(&mut world);
    }
    assert_eq!(ask(&mut world, reset()).reset, Some(ResetOutcome::Done));
    // Watchdogs over an active node say nothing about one that is inactive.
    let mut world = moving(live());
    for _ in 0..3 {
        fault_and_recover(&mut world);
    }
    world.camera_on = false;
    world.lifecycle = Lifecycle::Inactive;
    for _ in 0..60 {
        tick(&mut world);
    }
    assert_eq!(ask(&mut world, reset()).reset, Some(ResetOutcome::Done));
}

#[test]
fn interruption_clears_detections() {
    let mut world = World::running(live());
    world.until(200, |output| output.cause.reason == Reason::ConstantAction);
    world.ros -= 1_000_000_000;
    let output = tick(&mut world);
    assert!(
        output
            .events
            .iter()
            .any(|event| matches!(event, Event::DetectionCleared(Reason::ConstantAction)))
    );
    world.until(200, |output| output.state == State::Running);
    // The count begins anew: the same action again is not at once a repetition.
    let output = world.until(200, |output| {
        output.events.iter().any(|event| matches!(event, Event::ChunkTaken { .. }))
    });
    assert_eq!(output.cause.reason, Reason::None);
}

#[test]
fn latch_survives_reconfiguration() {
    let mut world = World::new(live());
    world.lifecycle = Lifecycle::Unconfigured;
    assert_eq!(ask(&mut world, estop()).state, State::Estopped);
    // A checkpoint has been loaded meanwhile: the runtime puts a fresh state in place of the old
    // one.
    let mut fresh = ControlState::new(live().validate().unwrap());
    fresh.inherit(&world.state);
    world.state = fresh;
    world.lifecycle = Lifecycle::Active;
    assert_eq!(tick(&mut world).state, State::Estopped);
    assert_eq!(ask(&mut world, enable()).state, State::Estopped);
    // Without a latch there is nothing to take over but the counts.
    let mut old = moving(live());
    ask(&mut old, Requests { enable: Some(false), ..Requests::default() });
    old.until(100, |output| output.at_rest);
    assert_ne!(old.state.interventions().get(Intervention::Acceleration), 0);
    let mut fresh = ControlState::new(live().validate().unwrap());
    fresh.inherit(&old.state);
    let output = step(Instant::from_nanoseconds(1), &mut fresh, &Inputs::default());
    assert_eq!(output.state, State::Unconfigured);
    assert_eq!(fresh.interventions(), old.state.interventions());
    // The history of states continues across the change.
    assert!(matches!(
        output.events.iter().collect::<Vec<_>>()[..],
        [Event::StateChanged { from: State::Idle, to: State::Unconfigured, .. }]
    ));
}

/// Control without a world: one fresh image per step; the test sets the other inputs.
struct Bare {
    state: ControlState,
    now: u64,
}

impl Bare {
    fn running(raw: RawControlConfig) -> Self {
        let mut bare = Self { state: ControlState::new(raw.validate().unwrap()), now: 1000 * MS };
        let output = bare.step(20 * MS, |inputs| inputs.requests = enable());
        assert_eq!(output.state, State::Running);
        bare
    }

    fn step<'a>(&mut self, dt: u64, change: impl FnOnce(&mut Inputs<'a>)) -> Output {
        self.now += dt;
        let now = Instant::from_nanoseconds(self.now);
        let stamp = Stamp::from_nanoseconds(self.now as i64);
        let image =
            Some(ImageSeen { received: now, stamp, ros_received: stamp, unchanged_since: now });
        let mut inputs = Inputs {
            ros_now: stamp,
            lifecycle: Lifecycle::Active,
            instruction: Some(1),
            // Leaked: it must live as long as what `change` adds.
            images: vec![image].leak(),
            ..Inputs::default()
        };
        change(&mut inputs);
        step(now, &mut self.state, &inputs)
    }

    fn chunk(&self, generation: u64) -> ActionChunk {
        let now = Instant::from_nanoseconds(self.now + 20 * MS);
        let origin = ChunkOrigin {
            generation,
            instruction_generation: 1,
            image_taken: now,
            inference_started: now,
            ..ChunkOrigin::default()
        };
        ActionChunk::new(
            origin,
            5.0,
            vec![ChunkStep::from_array([0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])],
        )
        .unwrap()
    }
}

#[test]
fn any_result_resets_the_idle_timeout() {
    // 0.5 s for the inference and 0.5 s for the next image. With a result every 51 steps the step
    // before it comes after exactly 1 s: just in time.
    for (every, kind, reason) in [
        (51, "taken", None),
        (52, "taken", Some(Reason::InferenceTimeout)),
        (51, "refused", Some(Reason::InferenceFailed)),
        (52, "refused", Some(Reason::InferenceTimeout)),
    ] {
        let mut bare = Bare::running(live());
        let mut first = None;
        for i in 1..=4 * every {
            let chunk = bare.chunk(i);
            let output = bare.step(20 * MS, |inputs| {
                inputs.inference = Inference::Idle;
                if i % every == 0 && kind == "taken" {
                    inputs.chunk = Some(&chunk);
                } else if i % every == 0 {
                    inputs.policy_failure = Some(PolicyFailure::Refused);
                }
            });
            let interrupted = Some(output.cause.reason).filter(|_| output.state == State::Holding);
            first = first.or(interrupted);
        }
        assert_eq!(first, reason, "{kind} every {every} steps");
    }
}

#[test]
fn late_steps_are_reported() {
    let interval = |output: &Output| {
        output.events.iter().find_map(|event| match event {
            Event::Overrun { interval_s } => Some(*interval_s),
            _ => None,
        })
    };
    let mut bare = Bare::running(live());
    for (dt, expected) in [
        (20 * MS, None),
        (100 * MS, None),
        (100 * MS + 1, Some(0.100_000_001)),
        (700 * MS, Some(0.7)),
    ] {
        assert_eq!(interval(&bare.step(dt, |_| {})), expected, "{dt}");
    }
}

#[test]
fn watchdog_limits_are_inclusive() {
    let run = |raw: RawControlConfig, change: &dyn Fn(&mut Inputs<'_>)| {
        let mut bare = Bare::running(raw);
        let output = bare.step(20 * MS, |inputs| change(inputs));
        (output.state, output.cause)
    };
    let stamp = |inputs: &mut Inputs<'_>, ahead_ns: i64| {
        let mut image = inputs.images[0].unwrap();
        image.stamp = Stamp::from_nanoseconds(image.stamp.nanoseconds() + ahead_ns);
        inputs.images = vec![Some(image)].leak();
    };
    let ns = 1_000_000_000 / 8;
    let raw = RawControlConfig {
        clock_jump_tolerance_s: 0.125,
        stamp_future_tolerance_s: 0.125,
        stamp_past_tolerance_s: 0.125,
        ..live()
    };
    for (ahead, reason) in [
        (ns, Reason::None),
        (ns + 1, Reason::ImageStampFuture),
        (-ns, Reason::None),
        (-ns - 1, Reason::ImageStampPast),
    ] {
        let (state, cause) = run(raw, &|inputs| stamp(inputs, ahead));
        if reason == Reason::None {
            assert_eq!(state, State::Running, "{ahead}");
        } else {
            assert_eq!((state, cause.reason, cause.limit), (State::Holding, reason, 0.125));
            assert!((cause.value - 0.125).abs() < 1e-8, "the value is a distance: {}", cause.value);
        }
    }
    // The step before was at 1020 ms of ROS time.
    let back_to = |ns: i64| {
        move |inputs: &mut Inputs<'_>| inputs.ros_now = Stamp::from_nanoseconds(1_020_000_000 - ns)
    };
    assert_eq!(run(raw, &back_to(ns)).0, State::Running);
    assert_eq!(run(raw, &back_to(ns + 1)).1.reason, Reason::ClockJumpedBack);
    // A command that is not published needs no subscriber.
    for (dry_run, state) in [(true, State::Running), (false, State::Holding)] {
        let mut bare = Bare::running(RawControlConfig { dry_run, ..live() });
        let mut output = bare.step(20 * MS, |inputs| inputs.subscribed = false);
        for _ in 0..20 {
            output = bare.step(20 * MS, |inputs| inputs.subscribed = false);
        }
        assert_eq!(output.state, state, "dry_run {dry_run}");
    }
}

#[test]
fn interventions_of_one_group_are_reported() {
    for axis in [0, 4] {
        let mut world = World::new(guarded());
        let mut step = [0.0; 7];
        step[axis] = 0.02;
        world.policy.steps = vec![ChunkStep::from_array(step)];
        world.pose = pose(&world, [0.0; 3]);
        ask(&mut world, enable());
        let mut seen = Vec::new();
        for _ in 0..60 {
            world.pose = pose(&world, [0.0; 3]);
            seen.extend(tick(&mut world).motion.interventions.iter());
        }
        for (which, expected) in [
            (Intervention::Acceleration, true),
            (Intervention::Jerk, true),
            (Intervention::Workspace, false),
            (Intervention::Velocity, false),
            (Intervention::StepCap, false),
            (Intervention::Envelope, false),
        ] {
            assert_eq!(seen.contains(&which), expected, "axis {axis}: {}", which.name());
        }
    }
}

#[test]
fn time_to_rest_starts_at_the_cause() {
    let mut world = moving(live());
    let mut steps = 0;
    // Disabled, then withdrawn, then stopped while it comes to rest: one stop, counted from the
    // first.
    let mut output = ask(&mut world, Requests { enable: Some(false), ..Requests::default() });
    let from = world.now;
    while came_to_rest(&output).is_none() {
        steps += 1;
        output = ask(&mut world, if steps == 3 { estop() } else { Requests::default() });
        assert!(steps < 100);
    }
    assert_eq!(came_to_rest(&output), Some((world.now - from) as f64 * 1e-9));
    // At rest there is nothing to come to rest from.
    for _ in 0..20 {
        assert_eq!(came_to_rest(&ask(&mut world, estop())), None);
    }
    // Nor is what ran out by itself, and was at rest before the cause came, a stop.
    let mut world = moving(live());
    world.policy.takes_ns = u64::MAX / 2;
    world.until(100, |output| output.at_rest);
    for _ in 0..20 {
        assert_eq!(came_to_rest(&ask(&mut world, estop())), None);
    }
    // A stop that was called off is forgotten: the next one is counted from its own cause.
    let mut world = moving(live());
    ask(&mut world, Requests { enable: Some(false), ..Requests::default() });
    ask(&mut world, enable());
    world.until(100, |output| 0.099 < norm(output.motion.limited.linear));
    let mut output = ask(&mut world, estop());
    let from = world.now;
    while came_to_rest(&output).is_none() {
        output = tick(&mut world);
    }
    assert_eq!(came_to_rest(&output), Some((world.now - from) as f64 * 1e-9));
}

#[test]
fn gripper_command_ends_with_the_enabling() {
    let mut world = moving(live());
    assert!(
        world
            .until(200, |output| output.command.is_some_and(|command| command.gripper().is_some()))
            .command
            .is_some()
    );
    world.lifecycle = Lifecycle::Inactive;
    world.until(200, |output| output.at_rest);
    world.lifecycle = Lifecycle::Active;
    for _ in 0..20 {
        let output = tick(&mut world);
        assert_eq!((output.state, output.command.unwrap().gripper()), (State::Idle, None));
    }
}

#[test]
fn enable_with_reset_is_refused() {
    let mut world = moving(live());
    ask(&mut world, estop());
    world.until(200, |output| output.at_rest);
    for _ in 0..50 {
        tick(&mut world);
    }
    let both = Requests { enable: Some(true), reset: true, ..Requests::default() };
    let output = ask(&mut world, both);
    assert_eq!((output.reset, output.state), (Some(ResetOutcome::Done), State::Idle));
    assert!(matches!(output.enable, Some(EnableOutcome::Refused(_))));
    assert_eq!(tick(&mut world).state, State::Idle);
    assert_eq!(ask(&mut world, enable()).state, State::Running);
}
