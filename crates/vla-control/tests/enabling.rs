//! Enabling, holds and the rearm window: motion begins with an accepted request, or resumes shortly
//! after a hold; never at some later time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{MS, World, live, norm};
use vla_control::time::Instant;
use vla_control::{
    EnableOutcome, Event, Lifecycle, Output, PoseSeen, RawControlConfig, RawWorkspace, Reason,
    Requests, State,
};

const STEP: u64 = 20 * MS;
const ENABLE: Requests = Requests { enable: Some(true), estop: false, reset: false };
const DISABLE: Requests = Requests { enable: Some(false), estop: false, reset: false };
const NONE: Requests = Requests { enable: None, estop: false, reset: false };

fn tick(world: &mut World) -> Output {
    world.tick(STEP, NONE).unwrap()
}

fn request(world: &mut World, requests: Requests) -> Output {
    world.tick(STEP, requests).unwrap()
}

/// Steps for `seconds`; the output of each.
fn run(world: &mut World, seconds: f64) -> Vec<Output> {
    (0..(seconds / 0.02).round() as usize).map(|_| tick(world)).collect()
}

/// A world whose arm moves at 0.1 m/s.
fn moving(raw: RawControlConfig) -> World {
    let mut world = World::running(raw);
    world.until(100, |output| 0.099 < norm(output.motion.limited.linear));
    world
}

/// Takes the camera away for `seconds` after the watchdog has fired.
fn hold(world: &mut World, seconds: f64) {
    world.camera_on = false;
    world.until(100, |output| output.state == State::Holding);
    run(world, seconds);
    world.camera_on = true;
}

fn refused(output: &Output) -> Option<Reason> {
    match output.enable {
        Some(EnableOutcome::Refused(cause)) => Some(cause.reason),
        _ => None,
    }
}

fn reasons(output: &Output) -> Vec<Reason> {
    output.causes.iter().map(|cause| cause.reason).collect()
}

fn withdrawal(output: &Output) -> Option<Reason> {
    output.events.iter().find_map(|event| match event {
        Event::EnableWithdrawn { cause } => Some(cause.reason),
        _ => None,
    })
}

#[test]
fn long_hold_needs_a_new_enable() {
    let mut world = moving(live());
    hold(&mut world, 30.0);
    let output = run(&mut world, 30.0).pop().unwrap();
    assert_eq!((output.state, output.cause.reason), (State::Idle, Reason::NotEnabled));
    assert_eq!(output.cause.withdrawn_by, Reason::ImageStale);
    assert_eq!(reasons(&output), [Reason::NotEnabled]);
    assert!(output.at_rest && !output.enabled);
    assert_eq!(request(&mut world, ENABLE).state, State::Running);
    world.until(100, |output| 0.099 < norm(output.motion.limited.linear));
}

#[test]
fn short_hold_resumes_by_itself() {
    let mut world = moving(live());
    hold(&mut world, 1.0);
    let output = world.until(100, |output| output.state == State::Running);
    assert!(output.enabled);
    world.until(100, |output| 0.099 < norm(output.motion.limited.linear));
    assert_eq!((world.judge.resumed, world.judge.withdrawn), (1, 0));
}

#[test]
fn clear_s_counts_within_the_window() {
    // The hold begins with the first step without a fresh image; 0.5 s must remain for clear_s.
    for (held_s, resumes) in [(1.46, true), (1.48, true), (1.5, false)] {
        let mut world = moving(live());
        hold(&mut world, held_s);
        let resumed = run(&mut world, 3.0).iter().any(|output| output.state == State::Running);
        assert_eq!(resumed, resumes, "{held_s} s");
    }
}

#[test]
fn window_ends_after_rearm_window_s() {
    for (window_s, steps) in [(0.0, 0), (0.5, 25), (2.0, 100), (60.0, 3000)] {
        let mut world = moving(RawControlConfig { rearm_window_s: window_s, ..live() });
        world.camera_on = false;
        let mut held = 0;
        let output = loop {
            let output = tick(&mut world);
            if let Some(reason) = withdrawal(&output) {
                assert_eq!(reason, Reason::ImageStale);
                break output;
            }
            held += u32::from(output.state == State::Holding);
        };
        assert_eq!(held, steps, "{window_s} s");
        assert_eq!((output.state, output.cause.withdrawn_by), (State::Idle, Reason::ImageStale));
        // The stop goes on to its end.
        world.until(50, |output| output.at_rest);
    }
}

#[test]
fn causes_in_a_row_do_not_restart_the_window() {
    let mut world = moving(live());
    world.ros -= 1_000_000_000;
    assert_eq!(tick(&mut world).state, State::Holding);
    for _ in 0..4 {
        run(&mut world, 0.4);
        world.ros -= 1_000_000_000;
        assert_eq!(tick(&mut world).cause.reason, Reason::ClockJumpedBack);
    }
    let output = run(&mut world, 3.0).pop().unwrap();
    assert_eq!((output.state, output.cause.withdrawn_by), (State::Idle, Reason::ClockJumpedBack));
}

#[test]
fn resumption_and_withdrawal_are_announced() {
    let mut world = moving(live());
    assert_eq!(
        (tick(&mut world).resumes_in_s, tick(&mut world).enable_withdrawn_in_s),
        (None, None)
    );
    world.camera_on = false;
    let output = world.until(100, |output| output.state == State::Holding);
    assert_eq!((output.resumes_in_s, output.enable_withdrawn_in_s), (None, Some(2.0)));
    let output = run(&mut world, 1.0).pop().unwrap();
    assert!((output.enable_withdrawn_in_s.unwrap() - 1.0).abs() < 1e-9);
    world.camera_on = true;
    let mut announced = Vec::new();
    let output = loop {
        let output = tick(&mut world);
        if output.state == State::Running {
            break output;
        }
        assert_eq!(output.enable_withdrawn_in_s, None);
        announced.push(output.resumes_in_s.unwrap());
    };
    assert_eq!((output.resumes_in_s, output.enable_withdrawn_in_s), (None, None));
    for (i, resumes_in_s) in announced.iter().rev().enumerate() {
        assert!((resumes_in_s - 0.02 * (i + 1) as f64).abs() < 1e-9, "{announced:?}");
    }
    assert_eq!(announced.len(), 25);
    // Too late for clear_s: only the withdrawal is announced.
    let mut world = moving(live());
    hold(&mut world, 1.6);
    let output = tick(&mut world);
    assert_eq!((output.cause.reason, output.resumes_in_s), (Reason::Recovering, None));
    assert!((output.enable_withdrawn_in_s.unwrap() - 0.38).abs() < 1e-9);
}

#[test]
fn enable_is_refused_while_a_watchdog_fires() {
    type Change = fn(&mut World);
    let cases: [(Change, Reason); 6] = [
        (|w| w.camera_on = false, Reason::ImageMissing),
        (|w| w.camera_skew_ns = -2_000_000_000, Reason::ImageStampPast),
        (|w| w.worker_dead = true, Reason::InferenceDead),
        (|w| w.subscribed = false, Reason::SubscriberGone),
        (|w| w.instruction = None, Reason::NoInstruction),
        (|w| w.pose = None, Reason::EePoseStale),
    ];
    let area = RawWorkspace { min: [-5.0; 3], max: [5.0; 3], margin: 0.02 };
    for (change, reason) in cases {
        let mut world = World::new(RawControlConfig { workspace: Some(area), ..live() });
        world.pose =
            Some(PoseSeen { received: Instant::from_nanoseconds(u64::MAX), position: [0.0; 3] });
        change(&mut world);
        run(&mut world, 0.5);
        let output = request(&mut world, ENABLE);
        assert_eq!(refused(&output), Some(reason));
        assert_eq!((output.state, output.cause.reason), (State::Idle, Reason::NotEnabled));
        assert!(reasons(&output).contains(&reason), "{:?}", output.causes);
        // Nothing moves when everything is there 10 s later.
        run(&mut world, 10.0);
        world.camera_on = true;
        world.camera_skew_ns = 0;
        world.worker_dead = false;
        world.subscribed = true;
        world.instruction = Some(1);
        world.pose =
            Some(PoseSeen { received: Instant::from_nanoseconds(u64::MAX), position: [0.0; 3] });
        for output in run(&mut world, 10.0) {
            assert!(output.command.unwrap().twist().is_zero(), "{}", reason.name());
        }
        assert_eq!(request(&mut world, ENABLE).enable, Some(EnableOutcome::Enabled));
    }
}

#[test]
fn enable_is_refused_without_lifecycle_or_with_a_latch() {
    let mut world = World::new(live());
    for (lifecycle, reason) in
        [(Lifecycle::Unconfigured, Reason::NotConfigured), (Lifecycle::Inactive, Reason::NotActive)]
    {
        world.lifecycle = lifecycle;
        assert_eq!(refused(&request(&mut world, ENABLE)), Some(reason));
    }
    world.lifecycle = Lifecycle::Active;
    assert_eq!(request(&mut world, DISABLE).enable, Some(EnableOutcome::Disabled));
    request(&mut world, Requests { estop: true, ..NONE });
    assert_eq!(refused(&request(&mut world, ENABLE)), Some(Reason::Estop));
    assert_eq!(tick(&mut world).enable, None);
}

#[test]
fn refused_enable_ends_a_hold() {
    let mut world = moving(live());
    world.camera_on = false;
    world.until(100, |output| output.state == State::Holding);
    let output = request(&mut world, ENABLE);
    assert_eq!(refused(&output), Some(Reason::ImageStale));
    assert_eq!(withdrawal(&output), Some(Reason::ImageStale));
    assert_eq!((output.state, output.enabled), (State::Idle, false));
    world.camera_on = true;
    assert!(run(&mut world, 3.0).iter().all(|output| output.state == State::Idle));
}

#[test]
fn enable_waits_for_clear_s_after_a_withdrawal() {
    let mut world = moving(live());
    hold(&mut world, 5.0);
    assert_eq!(refused(&request(&mut world, ENABLE)), Some(Reason::Recovering));
    assert_eq!(world.output.unwrap().cause.reason, Reason::NotEnabled);
    run(&mut world, 0.48);
    assert_eq!(request(&mut world, ENABLE).enable, Some(EnableOutcome::Enabled));
    assert_eq!(world.state(), State::Running);
}

#[test]
fn enable_while_recovering_changes_nothing() {
    let mut world = moving(live());
    hold(&mut world, 1.0);
    let output = request(&mut world, ENABLE);
    assert_eq!((output.enable, output.state), (Some(EnableOutcome::Enabled), State::Holding));
    let from = world.now;
    world.until(100, |output| output.state == State::Running);
    assert_eq!((world.now - from) / MS, 500);
}

#[test]
fn disabling_does_not_shorten_a_recovery() {
    let mut world = moving(live());
    hold(&mut world, 0.0);
    world.until(100, |output| output.cause.reason == Reason::Recovering);
    request(&mut world, DISABLE);
    let output = request(&mut world, ENABLE);
    assert_eq!((refused(&output), output.state), (Some(Reason::Recovering), State::Idle));
    run(&mut world, 0.5);
    assert_eq!(request(&mut world, ENABLE).state, State::Running);
}

#[test]
fn accepted_enable_is_not_withdrawn_a_moment_later() {
    let mut world = moving(live());
    // 1.7 s of the window of 2 s are over when the cause is gone; `clear_s` is 0.5 s.
    hold(&mut world, 1.7);
    let output = request(&mut world, ENABLE);
    assert_eq!((output.enable, output.state), (Some(EnableOutcome::Enabled), State::Holding));
    world.until(40, |output| output.state == State::Running);
}

#[test]
fn withdrawn_instruction_needs_a_new_enable() {
    let mut world = moving(live());
    world.instruction = None;
    let output = tick(&mut world);
    assert_eq!((output.state, output.cause.reason), (State::Idle, Reason::NoInstruction));
    assert_eq!((output.enabled, output.enable_withdrawn_in_s), (true, Some(2.0)));
    // Within the window a new instruction resumes.
    run(&mut world, 1.9);
    world.instruction = Some(2);
    assert_eq!(tick(&mut world).state, State::Running);
    world.until(100, |output| 0.099 < norm(output.motion.limited.linear));
    // After it a new instruction does not.
    world.instruction = None;
    let output = run(&mut world, 2.04).pop().unwrap();
    assert_eq!((output.state, output.cause.withdrawn_by), (State::Idle, Reason::NoInstruction));
    assert_eq!(reasons(&output), [Reason::NotEnabled, Reason::NoInstruction]);
    world.instruction = Some(3);
    let outputs = run(&mut world, 10.0);
    assert!(outputs.iter().all(|output| output.state == State::Idle));
    assert!(
        outputs.iter().all(|output| output.command.unwrap().twist().is_zero() || !output.at_rest)
    );
    // A changed instruction while running continues.
    assert_eq!(request(&mut world, ENABLE).state, State::Running);
    world.instruction = Some(4);
    assert_eq!(tick(&mut world).state, State::Running);
}

#[test]
fn dry_run_is_enabled_as_ever() {
    let mut world = World::new(RawControlConfig { dry_run: true, ..live() });
    world.camera_on = false;
    world.instruction = None;
    let output = request(&mut world, ENABLE);
    assert_eq!(output.enable, Some(EnableOutcome::Enabled));
    assert_eq!(reasons(&output), [Reason::ImageMissing, Reason::NoInstruction, Reason::DryRun]);
    let output = run(&mut world, 30.0).pop().unwrap();
    assert_eq!((output.state, output.enabled), (State::Holding, true));
    world.camera_on = true;
    world.instruction = Some(1);
    let output = tick(&mut world);
    assert_eq!((output.state, output.cause.reason), (State::Running, Reason::DryRun));
    assert_eq!(output.command, None);
}

#[test]
fn gripper_is_kept_over_a_withdrawal() {
    let mut world = moving(live());
    world.policy.steps[0].gripper = 0.0;
    world.until(100, |output| output.command.unwrap().gripper() == Some(0.0));
    hold(&mut world, 5.0);
    let outputs = run(&mut world, 1.0);
    assert!(outputs.iter().all(|output| output.command.unwrap().gripper() == Some(0.0)));
    assert_eq!(request(&mut world, DISABLE).command.unwrap().gripper(), None);
}

#[test]
fn all_causes_are_listed_in_order() {
    let area = RawWorkspace { min: [-5.0; 3], max: [5.0; 3], margin: 0.02 };
    let mut world = World::new(RawControlConfig { workspace: Some(area), ..live() });
    world.camera_on = false;
    world.instruction = None;
    world.subscribed = false;
    let output = run(&mut world, 1.0).pop().unwrap();
    assert_eq!(
        reasons(&output),
        [
            Reason::NotEnabled,
            Reason::ImageMissing,
            Reason::SubscriberGone,
            Reason::EePoseStale,
            Reason::NoInstruction
        ]
    );
    world.lifecycle = Lifecycle::Inactive;
    world.worker_dead = true;
    let output = request(&mut world, Requests { estop: true, ..NONE });
    assert_eq!(
        reasons(&output),
        [
            Reason::Estop,
            Reason::NotActive,
            Reason::InferenceDead,
            Reason::ImageMissing,
            Reason::EePoseStale,
            Reason::NoInstruction
        ]
    );
}

#[test]
fn workspace_limit_is_reported() {
    let area = RawWorkspace { min: [-0.1; 3], max: [0.66; 3], margin: 0.02 };
    let mut world = World::new(RawControlConfig { workspace: Some(area), ..live() });
    let place = |world: &mut World, x: f64| {
        let received = Instant::from_nanoseconds(world.now + STEP);
        world.pose = Some(PoseSeen { received, position: [x, 0.0, 0.1] });
    };
    place(&mut world, 2.0);
    request(&mut world, ENABLE);
    let mut output = world.output.unwrap();
    for _ in 0..100 {
        place(&mut world, 2.0);
        output = tick(&mut world);
        assert!(norm(output.command.unwrap().twist().linear) == 0.0);
    }
    assert_eq!((output.state, output.cause.reason), (State::Running, Reason::WorkspaceLimit));
    assert_eq!((output.cause.value, output.cause.limit, output.cause.unit), (2.0, 0.64, "m in x"));
    // Inside nothing is reported.
    for _ in 0..20 {
        place(&mut world, 0.2);
        output = tick(&mut world);
    }
    assert!(!output.causes.contains(Reason::WorkspaceLimit), "{:?}", output.causes);
    assert!(0.0 < norm(output.command.unwrap().twist().linear));
}
