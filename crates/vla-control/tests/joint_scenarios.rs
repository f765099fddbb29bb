//! Joint space and several sources: where motion starts, what stops it, what is reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::joints::{Arm, JOINT, joint_config};
use support::{MS, World, live};
use vla_control::action_chunk::{ActionChunk, ChunkStep, JointAction};
use vla_control::{
    EnableOutcome, Event, Intervention, JointOutput, Lifecycle, Output, RawControlConfig,
    RawEnsemble, RawGripper, RawJoint, Reason, Refusal, Requests, Source, State,
};

const STEP: u64 = 20 * MS;
const ENABLE: Requests = Requests { enable: Some(true), estop: false, reset: false };
const DISABLE: Requests = Requests { enable: Some(false), estop: false, reset: false };
const NONE: Requests = Requests { enable: None, estop: false, reset: false };

/// Two cameras and two state sources, three joints by position.
fn sources() -> RawControlConfig {
    let raw = joint_config(JointAction::Position, JointOutput::Position, &[JOINT; 3]);
    RawControlConfig { cameras: 2, states: 2, ..raw }
}

fn arm(world: &mut World) -> &mut Arm {
    world.arm.as_mut().unwrap()
}

fn tick(world: &mut World) -> Output {
    world.tick(STEP, NONE).unwrap()
}

/// Sets what the policy answers from now on, as one step of joints and a gripper.
fn answer(world: &mut World, joints: &[f64]) {
    let mut row = joints.to_vec();
    row.resize(joints.len() + 4, 0.9);
    world.policy.rows = vec![row];
}

/// An enabled world whose arm starts at `from` and goes to `to`.
fn moving(raw: RawControlConfig, from: &[f64], to: &[f64]) -> World {
    let mut world = World::new(raw);
    arm(&mut world).positions = from.to_vec();
    world.policy.takes_ns = 60 * MS;
    answer(&mut world, to);
    tick(&mut world);
    let output = world.tick(STEP, ENABLE).unwrap();
    assert_eq!(output.state, State::Running, "{}", output.cause);
    world
}

fn positions(output: &Output) -> Vec<f64> {
    output.command.unwrap().joints().unwrap().positions().unwrap().to_vec()
}

fn velocities(output: &Output) -> Vec<f64> {
    output.command.unwrap().joints().unwrap().velocities().to_vec()
}

fn run(world: &mut World, seconds: f64) -> Output {
    for _ in 0..(seconds / 0.02).round() as usize {
        tick(world);
    }
    world.output.unwrap()
}

#[test]
fn joints_go_where_the_policy_wants() {
    for output in [JointOutput::Position, JointOutput::Velocity] {
        let raw = joint_config(JointAction::Position, output, &[JOINT; 3]);
        let mut world = moving(raw, &[0.5, -0.5, 0.0], &[1.0, -1.0, 0.25]);
        let end = run(&mut world, 4.0);
        for (x, target) in arm(&mut world).positions.iter().zip([1.0, -1.0, 0.25]) {
            assert!((x - target).abs() < 1e-6, "{output:?}: {x} {target}");
        }
        assert!(velocities(&end).iter().all(|velocity| velocity.abs() < 1e-6));
    }
    for output in [JointOutput::Position, JointOutput::Velocity] {
        let raw = joint_config(JointAction::Velocity, output, &[JOINT; 3]);
        let mut world = moving(raw, &[0.0; 3], &[0.2, -0.1, 0.0]);
        let end = run(&mut world, 2.0);
        for (velocity, target) in velocities(&end).iter().zip([0.2, -0.1, 0.0]) {
            assert!((velocity - target).abs() < 1e-9, "{output:?}: {velocity} {target}");
        }
    }
}

#[test]
fn nothing_is_commanded_before_a_start() {
    let mut world = World::new(sources());
    arm(&mut world).positions = vec![0.3; 3];
    for _ in 0..50 {
        assert_eq!(tick(&mut world).command, None);
    }
    let output = world.tick(STEP, ENABLE).unwrap();
    assert_eq!(positions(&output), [0.3; 3]);
    // With velocities zero is a command like any other, as in the space of the end effector.
    let raw = joint_config(JointAction::Position, JointOutput::Velocity, &[JOINT; 3]);
    let mut world = World::new(raw);
    let command = tick(&mut world).command.unwrap();
    assert_eq!(command.joints().unwrap().positions(), None);
    assert_eq!(command.joints().unwrap().velocities(), [0.0; 3]);
}

#[test]
fn motion_starts_at_the_measured_position() {
    let mut world = moving(sources(), &[0.0; 3], &[0.2, 0.2, 0.2]);
    let before = run(&mut world, 3.0);
    assert!(positions(&before).iter().all(|x| (x - 0.2).abs() < 1e-9));
    // A hold; meanwhile somebody moves the arm. The old command is never sent again.
    world.cameras[0].on = false;
    world.until(100, |output| output.state == State::Holding);
    world.until(100, |output| output.command.is_none());
    arm(&mut world).positions = vec![-0.4, 0.2, 0.9];
    world.cameras[0].on = true;
    let resumed = world.until(200, |output| output.state == State::Running);
    for (x, measured) in positions(&resumed).iter().zip([-0.4, 0.2, 0.9]) {
        assert!((x - measured).abs() < 1e-9, "{x}");
    }
    let runs = |output: &Output| output.command.unwrap().joints().unwrap().run();
    assert_eq!((runs(&before), runs(&resumed)), (1, 2));
    // The same after disabling and enabling.
    world.tick(STEP, DISABLE).unwrap();
    world.until(100, |output| output.command.is_none());
    arm(&mut world).positions = vec![1.0; 3];
    tick(&mut world);
    let output = world.tick(STEP, ENABLE).unwrap();
    assert!(positions(&output).iter().all(|x| (x - 1.0).abs() < 1e-9));
    assert_eq!(runs(&output), 3);
}

#[test]
fn motion_does_not_start_at_a_position_measured_on_the_way() {
    let mut world = moving(sources(), &[-1.5, 0.0, 0.0], &[1.5, 0.0, 0.0]);
    run(&mut world, 1.0);
    // The last measurement is of the motion; the next one comes after the new start.
    arm(&mut world).source.on = false;
    world.tick(STEP, DISABLE).unwrap();
    let rest = world.until(30, |output| output.at_rest);
    let (ends_at, measured) = (positions(&rest)[0], arm(&mut world).positions[0]);
    tick(&mut world);
    let output = world.tick(STEP, ENABLE).unwrap();
    assert_eq!((output.state, output.command), (State::Running, None));
    arm(&mut world).source.on = true;
    assert!((positions(&tick(&mut world))[0] - ends_at).abs() < 1e-3, "{ends_at} {measured}");
}

#[test]
fn an_arm_outside_of_its_limits_moves_inwards_only() {
    for (target, ends_at) in [(2.5, 2.15), (2.15, 2.15), (2.1, 2.1), (0.0, 0.0), (-9.0, -1.98)] {
        let mut world = moving(sources(), &[2.15, 0.0, 0.0], &[target, 0.5, 0.0]);
        let output = tick(&mut world);
        let cause = output.causes.iter().find(|cause| cause.reason == Reason::JointOutside);
        let cause = cause.unwrap_or_else(|| panic!("{target}: {:?}", output.causes));
        assert_eq!(cause.source, Some(Source::Joint(0)));
        assert_eq!((cause.value, cause.limit), (2.15, 1.98));
        let mut before = 2.15;
        for _ in 0..400 {
            let x = positions(&tick(&mut world))[0];
            assert!(x <= before + 1e-12, "{target}: {x} after {before}");
            before = x;
        }
        assert!((before - ends_at).abs() < 1e-9, "{target}: {before}");
        let outside = world.output.unwrap().causes.contains(Reason::JointOutside);
        assert_eq!(outside, 1.98 < ends_at, "{target}");
        // The other joints were not kept back.
        assert!((positions(&world.output.unwrap())[1] - 0.5).abs() < 1e-9);
    }
}

#[test]
fn a_position_limit_is_named() {
    let mut world = moving(sources(), &[0.0; 3], &[0.0, -7.0, 0.5]);
    let output = run(&mut world, 6.0);
    assert_eq!(output.cause.reason, Reason::JointLimit);
    assert_eq!(output.cause.source, Some(Source::Joint(1)));
    assert_eq!((output.cause.value, output.cause.limit), (-7.0, -1.98));
    assert!(output.motion.interventions.contains(Intervention::JointLimit));
    assert!((positions(&output)[1] + 1.98).abs() < 1e-8);
    // By velocity: the joint at its limit stops alone.
    for output in [JointOutput::Position, JointOutput::Velocity] {
        let raw = joint_config(JointAction::Velocity, output, &[JOINT; 3]);
        let mut world = moving(raw, &[1.5, 0.0, 0.0], &[0.3, 0.1, 0.0]);
        let output = run(&mut world, 4.0);
        assert_eq!(output.cause.reason, Reason::JointLimit);
        assert_eq!(output.cause.source, Some(Source::Joint(0)));
        // An arm by velocity keeps each of them for a period, which the margin covers.
        assert!((1.98 - 1e-6..1.99).contains(&positions(&output)[0]));
        assert!((velocities(&output)[1] - 0.1).abs() < 1e-9);
        // Away from it, the limit is of no interest.
        answer(&mut world, &[-0.3, 0.1, 0.0]);
        let output = run(&mut world, 2.0);
        assert!(!output.causes.contains(Reason::JointLimit), "{:?}", output.causes);
        assert!((velocities(&output)[0] + 0.3).abs() < 1e-9);
    }
}

#[test]
fn a_joint_that_does_not_follow_is_a_fault() {
    let mut world = moving(sources(), &[0.0; 3], &[0.0, 1.5, 0.0]);
    run(&mut world, 0.5);
    arm(&mut world).stuck = true;
    let output = world.until(100, |output| output.state == State::Holding);
    assert_eq!(output.cause.reason, Reason::TrackingError);
    assert_eq!(output.cause.source, Some(Source::Joint(1)));
    assert!(0.2 < output.cause.value && output.cause.value < 0.23, "{}", output.cause);
    world.until(25, |output| output.at_rest);
    // In a dry run no arm follows.
    let raw = RawControlConfig { dry_run: true, ..sources() };
    let mut world = moving(raw, &[0.0; 3], &[0.0, 1.5, 0.0]);
    let output = run(&mut world, 3.0);
    assert_eq!(output.state, State::Running);
    assert!((output.motion.joints.unwrap().limited.positions()[1] - 1.5).abs() < 1e-9);
}

#[test]
fn a_velocity_driven_arm_reaches_its_target_in_spite_of_drift() {
    for gain in [0.9, 1.1] {
        let raw = joint_config(JointAction::Position, JointOutput::Velocity, &[JOINT; 3]);
        let mut world = moving(raw, &[0.0; 3], &[1.0, -1.5, 0.3]);
        arm(&mut world).gain = gain;
        run(&mut world, 5.0);
        for (x, target) in arm(&mut world).positions.iter().zip([1.0, -1.5, 0.3]) {
            assert!((x - target).abs() < 1e-6, "gain {gain}: {x} {target}");
        }
    }
}

/// A change of the world, and the reason and source of the cause that follows.
type Fault = (&'static str, fn(&mut World), Reason, Option<Source>);

const FAULTS: &[Fault] = &[
    ("camera 0 off", |w| w.camera_on = false, Reason::ImageStale, Some(Source::Camera(0))),
    ("camera 1 off", |w| w.cameras[0].on = false, Reason::ImageStale, Some(Source::Camera(1))),
    (
        "camera 1 frozen",
        |w| w.cameras[0].frozen = true,
        Reason::ImageFrozen,
        Some(Source::Camera(1)),
    ),
    (
        "camera 1 repeats",
        |w| w.cameras[0].unchanged = true,
        Reason::ImageUnchanged,
        Some(Source::Camera(1)),
    ),
    (
        "camera 1 behind",
        |w| w.cameras[0].skew_ns = -600 * MS as i64,
        Reason::ImageStampPast,
        Some(Source::Camera(1)),
    ),
    (
        "camera 1 ahead",
        |w| w.cameras[0].skew_ns = 200 * MS as i64,
        Reason::ImageStampFuture,
        Some(Source::Camera(1)),
    ),
    ("state 0 off", |w| w.states[0].on = false, Reason::StateStale, Some(Source::State(0))),
    ("state 1 off", |w| w.states[1].on = false, Reason::StateStale, Some(Source::State(1))),
    ("state 1 frozen", |w| w.states[1].frozen = true, Reason::StateStale, Some(Source::State(1))),
    (
        "state 1 incomplete",
        |w| w.states[1].complete = false,
        Reason::StateInvalid,
        Some(Source::State(1)),
    ),
    (
        "state 1 behind",
        |w| w.states[1].skew_ns = -600 * MS as i64,
        Reason::StateStamp,
        Some(Source::State(1)),
    ),
    (
        "state 1 ahead",
        |w| w.states[1].skew_ns = 200 * MS as i64,
        Reason::StateStamp,
        Some(Source::State(1)),
    ),
    (
        "state 1 apart",
        |w| w.states[1].skew_ns = -450 * MS as i64,
        Reason::ObservationSpread,
        Some(Source::State(1)),
    ),
    ("joints off", |w| arm(w).source.on = false, Reason::StateStale, Some(Source::Joints)),
    ("joints frozen", |w| arm(w).source.frozen = true, Reason::StateStale, Some(Source::Joints)),
    (
        "joints behind",
        |w| arm(w).source.skew_ns = -600 * MS as i64,
        Reason::StateStamp,
        Some(Source::Joints),
    ),
    ("joint 2 missing", |w| arm(w).missing = Some(2), Reason::StateInvalid, Some(Source::Joint(2))),
    ("arm stuck", |w| arm(w).stuck = true, Reason::TrackingError, Some(Source::Joint(0))),
];

#[test]
fn every_source_has_its_watchdogs() {
    for (name, change, reason, source) in FAULTS {
        // A source that is late is apart from the others, too: only where that is the fault.
        let apart = *reason == Reason::ObservationSpread;
        let observation_spread_s = if apart { 0.4 } else { 60.0 };
        let raw = RawControlConfig { observation_spread_s, ..sources() };
        let mut world = moving(raw, &[-1.9, 0.0, 0.0], &[1.9, 0.0, 0.0]);
        run(&mut world, 0.4);
        change(&mut world);
        let mut waited = 0;
        let output = loop {
            let output = tick(&mut world);
            waited += 1;
            if output.state == State::Holding {
                break output;
            }
            assert!(waited < 60, "{name}: still {:?}", output.state);
        };
        let cause = output.causes.iter().find(|cause| cause.reason == *reason);
        let cause = cause.unwrap_or_else(|| panic!("{name}: {:?}", output.causes));
        assert_eq!(cause.source, *source, "{name}");
        let raised = output.events.iter().any(|event| matches!(event, Event::FaultRaised { .. }));
        assert!(raised, "{name}");
        // The judge checks the stop; it is complete, and enabling is refused.
        world.until(30, |output| output.at_rest);
        tick(&mut world);
        let refused = world.tick(STEP, ENABLE).unwrap().enable;
        let still_broken = !matches!(reason, Reason::TrackingError);
        assert_eq!(matches!(refused, Some(EnableOutcome::Refused(_))), still_broken, "{name}");
    }
}

#[test]
fn a_source_that_never_sent_refuses_enabling() {
    let silent: &[Fault] = &[
        ("camera 1", |w| w.cameras[0].on = false, Reason::ImageMissing, Some(Source::Camera(1))),
        ("state 0", |w| w.states[0].on = false, Reason::StateMissing, Some(Source::State(0))),
        ("joints", |w| arm(w).source.on = false, Reason::StateMissing, Some(Source::Joints)),
        ("NaN", |w| arm(w).positions[1] = f64::NAN, Reason::StateInvalid, Some(Source::Joint(1))),
        // In degrees: to start there would be a command to go there.
        ("57", |w| arm(w).positions[2] = 57.3, Reason::StateInvalid, Some(Source::Joint(2))),
        ("1e300", |w| arm(w).positions[0] = -1e300, Reason::StateInvalid, Some(Source::Joint(0))),
    ];
    for (name, change, reason, source) in silent {
        let mut world = World::new(sources());
        change(&mut world);
        tick(&mut world);
        let output = world.tick(STEP, ENABLE).unwrap();
        let Some(EnableOutcome::Refused(cause)) = output.enable else {
            panic!("{name}: {:?}", output.enable)
        };
        assert_eq!((cause.reason, cause.source), (*reason, *source), "{name}");
        assert_eq!(output.command, None, "{name}");
    }
}

#[test]
fn a_withdrawal_names_the_source() {
    let mut world = moving(sources(), &[0.0; 3], &[0.5; 3]);
    world.cameras[0].on = false;
    let output = world.until(400, |output| output.cause.reason == Reason::NotEnabled);
    assert_eq!(output.cause.withdrawn_by, Reason::ImageStale);
    assert_eq!(output.cause.source, Some(Source::Camera(1)));
}

#[test]
fn a_change_of_the_source_is_an_event() {
    let mut world = moving(sources(), &[0.0; 3], &[0.5; 3]);
    world.states[0].on = false;
    world.until(100, |output| output.cause.source == Some(Source::State(0)));
    world.states[0].on = true;
    world.states[1].complete = false;
    let output = tick(&mut world);
    assert_eq!(output.cause.source, Some(Source::State(1)));
    // The judge compares every change; this one is of the reason too. The next one is not.
    world.states[0].complete = false;
    let output = tick(&mut world);
    assert_eq!(output.cause.source, Some(Source::State(0)));
    let changed = output.events.iter().any(|event| {
        matches!(event, Event::CauseChanged { cause, .. }
            if cause.source == Some(Source::State(0)))
    });
    assert!(changed, "{:?}", output.events);
}

#[test]
fn a_result_in_another_space_is_refused() {
    let origin = |world: &mut World| world.fresh_origin();
    let mut world = moving(sources(), &[0.0; 3], &[0.1; 3]);
    world.policy.blocked = true;
    run(&mut world, 0.1);
    for shape in [[2, 1], [3, 0], [4, 1]] {
        let origin = origin(&mut world);
        let values = vec![0.0; shape[0] + shape[1]];
        let chunk = ActionChunk::joints(origin, 5.0, JointAction::Position, shape, values);
        world.forged = Some(chunk.unwrap());
        assert_eq!(refusal(&tick(&mut world)), Some(Refusal::OtherSpace), "{shape:?}");
    }
    let velocity =
        ActionChunk::joints(origin(&mut world), 5.0, JointAction::Velocity, [3, 1], vec![0.0; 4]);
    world.forged = Some(velocity.unwrap());
    assert_eq!(refusal(&tick(&mut world)), Some(Refusal::OtherSpace));
    let step = vec![ChunkStep::default()];
    world.forged = Some(ActionChunk::new(origin(&mut world), 5.0, step).unwrap());
    assert_eq!(refusal(&tick(&mut world)), Some(Refusal::OtherSpace));
    let mut world = World::running(live());
    let chunk =
        ActionChunk::joints(origin(&mut world), 5.0, JointAction::Velocity, [6, 1], vec![0.0; 7]);
    world.forged = Some(chunk.unwrap());
    assert_eq!(refusal(&tick(&mut world)), Some(Refusal::OtherSpace));
}

#[test]
fn a_result_from_sources_far_apart_is_refused() {
    for (spread_ms, refused) in [(500, None), (501, Some(Refusal::OldObservation))] {
        let mut world = moving(sources(), &[0.0; 3], &[0.1; 3]);
        let mut origin = world.fresh_origin();
        origin.observation_spread = std::time::Duration::from_millis(spread_ms);
        world.forged = Some(
            ActionChunk::joints(origin, 5.0, JointAction::Position, [3, 1], vec![0.0; 4]).unwrap(),
        );
        assert_eq!(refusal(&tick(&mut world)), refused, "{spread_ms} ms");
    }
}

fn refusal(output: &Output) -> Option<Refusal> {
    output.events.iter().find_map(|event| match event {
        Event::ChunkRefused { why, .. } => Some(*why),
        _ => None,
    })
}

#[test]
fn nan_latches_in_joint_space() {
    for row in [[f64::NAN, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, f64::INFINITY]] {
        let mut world = moving(sources(), &[0.0; 3], &[0.1; 3]);
        run(&mut world, 0.3);
        world.policy.rows = vec![row.to_vec()];
        let output = world.until(50, |output| output.state == State::Fault);
        assert_eq!(output.cause.reason, Reason::NotFinite);
        world.until(30, |output| output.at_rest);
    }
}

#[test]
fn a_deactivation_ramps_down_in_joint_space() {
    let mut world = moving(sources(), &[-1.5, 0.0, 0.0], &[1.5, 0.0, 0.0]);
    run(&mut world, 1.0);
    assert!(0.9 < velocities(&world.output.unwrap())[0]);
    world.lifecycle = Lifecycle::Inactive;
    let announced = world.output.unwrap().motion.joints.unwrap().setpoint[0];
    let output = world.until(25, |output| output.at_rest);
    assert!((positions(&output)[0] - announced).abs() < 1e-12);
    assert_eq!(tick(&mut world).command, None);
}

#[test]
fn a_continuous_joint_takes_the_short_way() {
    let wheel = RawJoint { min: None, max: None, ..JOINT };
    let raw = joint_config(JointAction::Position, JointOutput::Position, &[wheel, JOINT]);
    for (from, to, ends_at) in
        [(3.0, -3.0, std::f64::consts::TAU - 3.0), (9.0, 9.5 - std::f64::consts::TAU, 9.5)]
    {
        let mut world = moving(raw, &[from, 0.0], &[to, 0.3]);
        let output = run(&mut world, 4.0);
        assert!((positions(&output)[0] - ends_at).abs() < 1e-9, "{:?}", positions(&output));
    }
}

/// A chunk of `steps` steps at `hz` along a line of `speed` rad/s for every joint.
fn ramp(world: &mut World, hz: f64, steps: usize, from: f64, speed: f64) -> ActionChunk {
    let origin = world.fresh_origin();
    let row = |step: usize| {
        let x = from + speed * (step + 1) as f64 / hz;
        vec![x, x, x, 1.0]
    };
    let values = (0..steps).flat_map(row).collect::<Vec<f64>>();
    ActionChunk::joints(origin, hz, JointAction::Position, [3, 1], values).unwrap()
}

#[test]
fn a_chunk_is_followed_in_time() {
    for (look_ahead, error) in [(true, 1e-3), (false, 0.1)] {
        let mut raw = RawControlConfig { inference_timeout_s: 60.0, ..sources() };
        raw.joints.as_mut().unwrap().look_ahead = look_ahead;
        let mut world = moving(raw, &[0.0; 3], &[0.0; 3]);
        world.policy.blocked = true;
        run(&mut world, 0.1);
        // 0.5 rad/s for 2 s at 50 Hz.
        let chunk = ramp(&mut world, 50.0, 100, 0.0, 0.5);
        world.forged = Some(chunk);
        let mut worst: f64 = 0.0;
        for i in 0..90 {
            let output = tick(&mut world);
            // A step's position is reached at its end. The first steps are the start from rest.
            let wanted = 0.5 * i as f64 * 0.02;
            if 30 < i {
                worst = worst.max((positions(&output)[0] - wanted).abs());
            }
        }
        assert!(worst < error && 0.05 * error < worst + 1e-3, "{look_ahead}: {worst}");
        if !look_ahead {
            // The delay of the limiter: 0.2 s at 0.5 rad/s.
            assert!((worst - 0.1).abs() < 0.005, "{worst}");
        }
    }
}

#[test]
fn a_chunk_is_executed_for_its_number_of_steps() {
    for (execute_steps, expected) in [(0, 1), (1, 1), (8, 8), (25, 25), (200, 50)] {
        let raw = RawControlConfig { execute_steps, inference_timeout_s: 60.0, ..sources() };
        let mut world = moving(raw, &[0.0; 3], &[0.0; 3]);
        world.policy.blocked = true;
        run(&mut world, 0.1);
        let first = ramp(&mut world, 50.0, 50, 0.0, 0.1);
        world.forged = Some(first);
        let begun = tick(&mut world).steps_begun;
        // The next one is there at once.
        let second = ramp(&mut world, 50.0, 100, 0.0, 0.1);
        let generation = second.origin().generation;
        world.forged = Some(second);
        let taken = world.until(100, |output| {
            output.events.iter().any(|event| {
                matches!(event, Event::ChunkTaken { generation: taken, .. } if *taken == generation)
            })
        });
        assert_eq!(taken.steps_begun - begun, expected, "{execute_steps}");
        let first_step = taken.events.iter().find_map(|event| match event {
            Event::ChunkTaken { first_step, .. } => Some(u64::from(*first_step)),
            _ => None,
        });
        // Aligned by count: its step 0 belongs to the time of its observation.
        assert_eq!(first_step, Some(expected - 1), "{execute_steps}");
    }
}

#[test]
fn an_ensemble_is_the_weighted_mean_of_its_chunks() {
    let decay = 0.5;
    let raw = RawControlConfig {
        ensemble: Some(RawEnsemble { decay, chunks: 3 }),
        inference_timeout_s: 60.0,
        gripper: RawGripper { continuous: true, rate: 1000.0, ..RawGripper::default() },
        ..sources()
    };
    let mut world = moving(raw, &[0.0; 3], &[0.0; 3]);
    world.policy.blocked = true;
    run(&mut world, 0.1);
    let mean = |values: &[f64]| {
        let weights = (0..values.len()).map(|i| (-decay * i as f64).exp());
        let sum: f64 = weights.clone().sum();
        values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / sum
    };
    let desired = |output: &Output| output.motion.joints.unwrap().desired.unwrap();
    let gripper = |output: &Output| output.command.unwrap().gripper().unwrap();
    // Chunks of one value each, one per step, the first for 4 steps. The last three are kept.
    for (value, steps, of) in [
        (0.1, 4, &[0.1][..]),
        (0.2, 20, &[0.1, 0.2]),
        (0.4, 20, &[0.1, 0.2, 0.4]),
        (0.8, 20, &[0.2, 0.4, 0.8]),
    ] {
        let origin = world.fresh_origin();
        let values = vec![vec![value, -value, 0.0, value]; steps].concat();
        let chunk = ActionChunk::joints(origin, 50.0, JointAction::Position, [3, 1], values);
        world.forged = Some(chunk.unwrap());
        let output = tick(&mut world);
        assert!((desired(&output)[0] - mean(of)).abs() < 1e-12, "{value}: {:?}", desired(&output));
        assert_eq!(desired(&output)[1], -desired(&output)[0]);
        // The gripper is the newest chunk's alone.
        assert!((gripper(&output) - value).abs() < 1e-12, "{value}: {}", gripper(&output));
    }
    // Nothing of before a gap counts after it.
    world.until(30, |output| output.motion.joints.unwrap().desired.is_none());
    let origin = world.fresh_origin();
    let chunk = ActionChunk::joints(origin, 50.0, JointAction::Position, [3, 1], vec![0.5; 80]);
    world.forged = Some(chunk.unwrap());
    assert_eq!(desired(&tick(&mut world))[0], 0.5);
}

#[test]
fn an_ensemble_leaves_out_chunks_that_are_over() {
    let ensemble = Some(RawEnsemble { decay: 0.0, chunks: 3 });
    let raw = RawControlConfig { ensemble, inference_timeout_s: 60.0, ..sources() };
    let mut world = moving(raw, &[0.0; 3], &[0.0; 3]);
    world.policy.blocked = true;
    run(&mut world, 0.1);
    for (value, steps) in [(0.2, 3), (0.4, 8)] {
        let origin = world.fresh_origin();
        let values = vec![vec![value, 0.0, 0.0, 1.0]; steps].concat();
        let chunk = ActionChunk::joints(origin, 50.0, JointAction::Position, [3, 1], values);
        world.forged = Some(chunk.unwrap());
        tick(&mut world);
    }
    let desired: Vec<f64> = (0..6)
        .map(|_| tick(&mut world).motion.joints.unwrap().desired.unwrap()[0])
        .map(|x| (x * 1e6).round() * 1e-6)
        .collect();
    // The first chunk's third step is the last one that both predict.
    assert!((desired[0] - 0.3).abs() < 1e-9, "{desired:?}");
    assert!(desired[1..].iter().all(|x| (x - 0.4).abs() < 1e-9), "{desired:?}");
}

#[test]
fn seams_are_reported() {
    let raw = RawControlConfig { inference_timeout_s: 60.0, ..sources() };
    let mut world = moving(raw, &[0.25; 3], &[0.0; 3]);
    world.policy.blocked = true;
    assert_eq!(tick(&mut world).motion.seams.count, 0);
    // From the start position to the first step of the first chunk.
    let chunk = ramp(&mut world, 50.0, 10, 0.25, 1.0);
    world.forged = Some(chunk);
    let seams = tick(&mut world).motion.seams;
    assert_eq!(seams.count, 1);
    assert!((seams.last.unwrap().joint - 0.02).abs() < 1e-12, "{seams:?}");
    // From the last executed step to another chunk's: a jump that limits smooth, and that is shown.
    tick(&mut world);
    let chunk = ramp(&mut world, 50.0, 10, 0.75, 1.0);
    world.forged = Some(chunk);
    tick(&mut world);
    let seams = tick(&mut world).motion.seams;
    assert_eq!(seams.count, 2);
    assert!((0.4..0.6).contains(&seams.last.unwrap().joint), "{seams:?}");
    assert_eq!(seams.largest.joint, seams.last.unwrap().joint);
    // In the space of the end effector: metres and radians.
    let mut world = World::running(live());
    world.until(50, |output| 3 < output.motion.seams.count);
    assert_eq!(world.output.unwrap().motion.seams.largest.translation, 0.0);
    world.policy.steps = vec![ChunkStep::from_array([0.02, 0.03, 0.04, 0.0, 0.0, 0.07, 1.0])];
    let output = world.until(50, |output| 0.0 < output.motion.seams.largest.translation);
    let largest = output.motion.seams.largest;
    assert!((largest.translation - 0.05).abs() < 1e-12, "{largest:?}");
    assert!((largest.rotation - 0.05).abs() < 1e-12 && largest.joint == 0.0, "{largest:?}");
}

#[test]
fn each_gripper_has_its_command() {
    let gripper = RawGripper { continuous: true, rate: 1.0, ..RawGripper::default() };
    let raw = RawControlConfig { grippers: 2, gripper, ..sources() };
    let mut world = moving(raw, &[0.0; 3], &[0.0; 3]);
    assert_eq!(world.output.unwrap().command.unwrap().grippers(), &[None; 4]);
    world.policy.rows = vec![vec![0.0, 0.0, 0.0, 0.25, 0.75]];
    run(&mut world, 0.3);
    world.policy.rows = vec![vec![0.0, 0.0, 0.0, 1.0, 0.0]];
    let before = *world.output.unwrap().command.unwrap().grippers();
    assert_eq!(before, [Some(0.25), Some(0.75), None, None]);
    let mut last = before;
    for _ in 0..100 {
        let now = *tick(&mut world).command.unwrap().grippers();
        for i in 0..2 {
            assert!((now[i].unwrap() - last[i].unwrap()).abs() <= 0.02 + 1e-9);
        }
        last = now;
    }
    assert_eq!(last, [Some(1.0), Some(0.0), None, None]);
}

#[test]
fn limits_of_joints_are_checked() {
    let refused = |change: &dyn Fn(&mut RawControlConfig)| {
        let mut raw = sources();
        change(&mut raw);
        raw.validate().unwrap_err().to_string()
    };
    fn joint(raw: &mut RawControlConfig, i: usize) -> &mut RawJoint {
        &mut raw.joints.as_mut().unwrap().joints.as_mut_slice()[i]
    }
    type Change = fn(&mut RawControlConfig);
    let cases: &[(Change, &str)] = &[
        (|c| joint(c, 1).velocity = 0.0, "joints.1.velocity: 0 per s is outside 0.001..50 per s"),
        (|c| joint(c, 2).acceleration = f64::NAN, "joints.2.acceleration: NaN per s2 is outside"),
        (|c| joint(c, 0).jerk = -1.0, "joints.0.jerk: -1 per s3 is outside"),
        (|c| joint(c, 0).margin = 2.0, "joints.0.margin: 2 is outside 0..1"),
        (|c| joint(c, 0).tracking_error = 0.0, "joints.0.tracking_error: 0 is outside"),
        (|c| joint(c, 0).min = None, "joints.0: only max 2 is given"),
        (|c| joint(c, 0).max = None, "joints.0: only min -2 is given"),
        (|c| joint(c, 1).min = Some(f64::NEG_INFINITY), "joints.1.min: -inf is outside"),
        (|c| joint(c, 1).max = Some(-1.97), "joints.1: min -2 and max -1.97 leave no room"),
        (|c| joint(c, 1).acceleration = 0.3, "joints: a stop would take"),
        (|c| c.cameras = 0, "cameras: 0 is outside 1..8"),
        (|c| c.cameras = 9, "cameras: 9 is outside"),
        (|c| c.states = 9, "states: 9 is outside 0..8"),
        (|c| c.grippers = 5, "grippers: 5 is outside 0..4"),
        (|c| c.state_timeout_s = 0.0, "state_timeout_s: 0 s is outside"),
        (|c| c.observation_spread_s = 0.0, "observation_spread_s: 0 s is outside"),
        (|c| c.execute_steps = 257, "execute_steps: 257 is outside 0..256"),
        (|c| c.gripper.rate = 0.0, "gripper.rate: 0 1/s is outside"),
        (
            |c| c.ensemble = Some(RawEnsemble { decay: f64::NAN, chunks: 2 }),
            "ensemble.decay: NaN is outside",
        ),
        (
            |c| c.ensemble = Some(RawEnsemble { decay: 0.0, chunks: 1 }),
            "ensemble.chunks: 1 is outside 2..64",
        ),
        (
            |c| {
                c.workspace =
                    Some(vla_control::RawWorkspace { min: [0.0; 3], max: [1.0; 3], margin: 0.02 });
            },
            "workspace: is for displacements of the end effector, not for joints",
        ),
        (
            |c| c.joints.as_mut().unwrap().joints = vla_control::JointList::new(&[]).unwrap(),
            "joints: has no joint",
        ),
    ];
    for (change, expected) in cases {
        let error = refused(change);
        assert!(error.contains(expected), "got      {error}\nexpected {expected}");
    }
    let error = RawControlConfig { grippers: 2, ..live() }.validate().unwrap_err().to_string();
    assert!(error.contains("grippers: 2 grippers, but an end effector has one"), "{error}");
    assert!(vla_control::JointList::new(&[JOINT; 33]).is_none());
    assert_eq!(vla_control::JointList::new(&[JOINT; 32]).unwrap().as_slice().len(), 32);
}
