//! A simulated day with random faults: no invariant is broken, and the same seed gives the same
//! day.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use fastrand::Rng;
use support::joints::{JOINT, joint_config};
use support::{MS, SourceSim, World, live, norm};
use vla_control::action_chunk::{ChunkStep, JointAction};
use vla_control::{
    Event, Intervention, JointOutput, Lifecycle, PolicyFailure, RawControlConfig, Reason, Requests,
    Source, State,
};

/// Sums of a day.
#[derive(Debug, PartialEq, Eq)]
struct Day {
    steps: u64,
    commands: u64,
    stops: u64,
    longest_stop_ns: u64,
    running: u64,
    faults: BTreeMap<&'static str, u64>,
    /// Faults by source.
    sources: BTreeMap<Option<Source>, u64>,
    latches: u64,
    resets: u64,
    resumed: u64,
    withdrawn: u64,
    distance_mm: u64,
    hash: u64,
}

fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.u64(..n) == 0
}

/// In `-1..1`.
fn signed(rng: &mut Rng) -> f64 {
    2.0 * rng.f64() - 1.0
}

/// One random event of the day.
fn happen(world: &mut World, rng: &mut Rng) {
    match rng.u64(..17) {
        0 => world.camera_on = false,
        1 => world.camera_frozen = true,
        2 => world.camera_skew_ns = (signed(rng) * 3e9) as i64,
        3 => world.policy.blocked = true,
        4 => world.worker_dead = true,
        5 => world.failure = Some(PolicyFailure::Refused),
        6 => world.failure = one_in(rng, 4).then_some(PolicyFailure::NotFinite),
        7 => world.subscribed = false,
        8 => world.ros -= rng.u64(..5_000_000_000) as i64,
        9 => world.instruction = None,
        10 => world.instruction = Some(1 + rng.u64(..1000)),
        11 => world.ros_rate = [0.0, 0.1, 1.0, 10.0][rng.u64(..4) as usize],
        12 => world.policy.takes_ns = rng.u64(..600) * MS,
        13 => world.lifecycle = Lifecycle::Inactive,
        14 => {
            world.policy.steps[0].translation[0] =
                [f64::NAN, f64::INFINITY, f64::MAX, 5e-324][rng.u64(..4) as usize]
        }
        15 => world.camera_unchanged = true,
        _ => world.policy.hz = [5.0, 10.0, 50.0][rng.u64(..3) as usize],
    }
}

/// One random event of a day in joint space: of one of the further sources, or as above.
fn happen_to_joints(world: &mut World, rng: &mut Rng) {
    let arm = world.arm.as_mut().unwrap();
    let joint = rng.usize(..arm.positions.len());
    let source = match rng.usize(..world.cameras.len() + world.states.len() + 1) {
        0 => &mut arm.source,
        i if i <= world.cameras.len() => &mut world.cameras[i - 1],
        i => &mut world.states[i - 1 - world.cameras.len()],
    };
    match rng.u64(..17) {
        0 | 1 => source.on = false,
        2 => source.frozen = true,
        3 => source.skew_ns = (signed(rng) * 3e9) as i64,
        4 | 5 => source.unchanged = true,
        6 => source.complete = false,
        // Less than its timeout behind, but apart from the others.
        7 => source.skew_ns = -400 * MS as i64,
        8 => arm.missing = Some(joint),
        9 => arm.stuck = true,
        10 => arm.positions[joint] += 0.5 * signed(rng),
        11 => {
            for row in &mut world.policy.rows {
                row[joint] = [f64::NAN, f64::INFINITY, f64::MAX, 5e-324][rng.usize(..4)];
            }
        }
        _ => happen(world, rng),
    }
}

fn heal(world: &mut World) {
    world.cameras.iter_mut().chain(&mut world.states).for_each(SourceSim::heal);
    if let Some(arm) = &mut world.arm {
        arm.source.heal();
        (arm.stuck, arm.missing) = (false, None);
        // Moved by hand to where its position is plausible.
        arm.positions.iter_mut().for_each(|x| *x = x.clamp(-2.1, 2.1));
    }
    world.camera_on = true;
    world.camera_frozen = false;
    world.camera_unchanged = false;
    world.camera_skew_ns = 0;
    world.policy.blocked = false;
    world.worker_dead = false;
    world.subscribed = true;
    world.instruction = world.instruction.or(Some(1));
    world.ros_rate = 1.0;
    world.policy.takes_ns = 100 * MS;
    world.lifecycle = Lifecycle::Active;
}

fn live_through(seed: u64, length: Duration, raw: RawControlConfig) -> Day {
    let mut rng = Rng::with_seed(seed);
    let length_ns = u64::try_from(length.as_nanos()).unwrap();
    let mut world = World::new(raw);
    let in_joints = raw.joints.is_some();
    let begin = world.now;
    let mut day = Day {
        steps: 0,
        commands: 0,
        stops: 0,
        longest_stop_ns: 0,
        running: 0,
        faults: BTreeMap::new(),
        sources: BTreeMap::new(),
        latches: 0,
        resets: 0,
        resumed: 0,
        withdrawn: 0,
        distance_mm: 0,
        hash: 0,
    };
    let mut hasher = DefaultHasher::new();
    let mut distance = 0.0;
    let mut trouble = 0u32;
    while world.now - begin < length_ns {
        // Trouble about twice a minute; within 20 s everything is repaired.
        if one_in(&mut rng, 1500) {
            if in_joints {
                happen_to_joints(&mut world, &mut rng);
            } else {
                happen(&mut world, &mut rng);
            }
            trouble = 1 + rng.u64(..1000) as u32;
        } else if trouble == 1 {
            heal(&mut world);
        }
        trouble = trouble.saturating_sub(1);
        if in_joints {
            if one_in(&mut rng, 25) {
                let scale = if one_in(&mut rng, 4) { 3.0 } else { 1.0 };
                let row: Vec<f64> = (0..36).map(|_| scale * signed(&mut rng)).collect();
                world.policy.rows = vec![row; 1 + rng.usize(..4)];
            }
        } else if one_in(&mut rng, 10) {
            let mut step = [0.0; 7];
            step.iter_mut().for_each(|value| *value = 0.06 * signed(&mut rng));
            step[6] = signed(&mut rng) + 0.5;
            let horizon = 1 + rng.u64(..4) as usize;
            world.policy.steps = vec![ChunkStep::from_array(step); horizon];
        }
        let requests = Requests {
            enable: if one_in(&mut rng, 100) { Some(!one_in(&mut rng, 30)) } else { None },
            estop: one_in(&mut rng, 60_000),
            reset: one_in(&mut rng, 50),
        };
        let jitter = rng.u64(..4 * MS);
        let dt = match rng.u64(..20_000) {
            0 => rng.u64(..3_000) * MS,
            1 => rng.u64(..MS),
            _ => 18 * MS + jitter,
        };
        let output = world.tick(dt, requests).unwrap_or_else(|error| {
            panic!("seed {seed}, {:.3} s into the day: {error}", (world.now - begin) as f64 * 1e-9)
        });
        day.steps += 1;
        day.running += u64::from(output.state == State::Running);
        for event in output.events.iter() {
            match event {
                Event::FaultRaised { cause, .. } => {
                    *day.faults.entry(cause.reason.name()).or_default() += 1;
                    *day.sources.entry(cause.source).or_default() += 1;
                }
                Event::Latched { .. } => day.latches += 1,
                Event::Reset(vla_control::ResetOutcome::Done) => day.resets += 1,
                _ => {}
            }
        }
        if let Some(command) = output.command {
            distance += norm(command.twist().linear) * dt as f64 * 1e-9;
            if let Some(joints) = command.joints() {
                distance += joints.velocities()[0].abs() * dt as f64 * 1e-9;
                for values in [joints.velocities(), joints.positions().unwrap_or_default()] {
                    values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
                }
            }
            command.twist().linear.map(f64::to_bits).hash(&mut hasher);
            command.twist().angular.map(f64::to_bits).hash(&mut hasher);
        }
        (output.state as u8, output.cause.reason.code()).hash(&mut hasher);
    }
    day.commands = world.judge.commands;
    day.stops = world.judge.stops;
    (day.resumed, day.withdrawn) = (world.judge.resumed, world.judge.withdrawn);
    day.longest_stop_ns = world.judge.longest_stop_ns;
    day.distance_mm = (distance * 1e3) as u64;
    day.hash = hasher.finish();
    let limited = if in_joints { Intervention::Acceleration } else { Intervention::Jerk };
    assert!(0 < world.state.interventions().get(limited));
    day
}

fn seed() -> u64 {
    let seed = match std::env::var("OPENVLA_DAY_SEED") {
        Ok(text) => text.parse().expect("OPENVLA_DAY_SEED must be a number"),
        Err(_) => 20_260_115,
    };
    println!("seed {seed}; replay with OPENVLA_DAY_SEED={seed}");
    seed
}

/// Six joints, two cameras and two state sources.
fn joints(action: JointAction, output: JointOutput) -> RawControlConfig {
    let raw = joint_config(action, output, &[JOINT; 6]);
    RawControlConfig { cameras: 2, states: 2, ..raw }
}

#[test]
fn random_faults_of_every_source_break_no_invariant_in_joint_space() {
    // A day, half of it with positions and half with velocities.
    let half = Duration::from_secs(12 * 3600);
    // In the first half a source that is late is apart from the others before it is too old.
    let apart = RawControlConfig {
        observation_spread_s: 0.3,
        ..joints(JointAction::Position, JointOutput::Position)
    };
    let by_position = live_through(seed(), half, apart);
    let by_velocity =
        live_through(seed(), half, joints(JointAction::Velocity, JointOutput::Velocity));
    println!("{by_position:#?} {by_velocity:#?}");
    for day in [&by_position, &by_velocity] {
        assert!(
            2_000_000 < day.steps
                && 400_000 < day.running
                && 100 < day.stops
                && 10 < day.latches
                && 10 < day.resets
                && 50 < day.resumed
                && 50 < day.withdrawn,
            "{day:?}"
        );
        for reason in [
            Reason::ImageUnchanged,
            Reason::ImageStampPast,
            Reason::ImageStampFuture,
            Reason::StateStale,
            Reason::StateStamp,
            Reason::StateInvalid,
            Reason::InferenceTimeout,
            Reason::ControlOverrun,
            Reason::ProcessPaused,
        ] {
            assert!(day.faults.contains_key(reason.name()), "{} never happened", reason.name());
        }
        let sources = [
            Source::Camera(0),
            Source::Camera(1),
            Source::State(0),
            Source::State(1),
            Source::Joints,
        ];
        for source in sources {
            assert!(day.sources.contains_key(&Some(source)), "{source:?} never failed");
        }
    }
    for (day, reason) in [
        (&by_position, Reason::TrackingError),
        (&by_position, Reason::ObservationSpread),
        (&by_velocity, Reason::ImageStale),
        (&by_velocity, Reason::ImageFrozen),
    ] {
        assert!(day.faults.contains_key(reason.name()), "{} never happened", reason.name());
    }
}

#[test]
fn random_faults_break_no_invariant() {
    let day = live_through(seed(), Duration::from_secs(24 * 3600), live());
    println!("{day:#?}");
    assert!(
        4_000_000 < day.steps
            && 1_000_000 < day.running
            && 100 < day.stops
            && 10 < day.latches
            && 10 < day.resets
            && 100 < day.resumed
            && 100 < day.withdrawn,
        "{day:?}"
    );
    // Every watchdog must have fired.
    for reason in [
        Reason::ImageStale,
        Reason::ImageFrozen,
        Reason::ImageUnchanged,
        Reason::ImageStampPast,
        Reason::ImageStampFuture,
        Reason::InferenceTimeout,
        Reason::InferenceFailed,
        Reason::InferenceDead,
        Reason::ControlOverrun,
        Reason::ProcessPaused,
        Reason::SubscriberGone,
        Reason::ClockJumpedBack,
    ] {
        assert!(day.faults.contains_key(reason.name()), "{} never happened", reason.name());
    }
}

#[test]
fn same_seed_same_day() {
    let hour = Duration::from_secs(600);
    let by_joints = joints(JointAction::Position, JointOutput::Velocity);
    for raw in [live(), by_joints] {
        let first = live_through(3, hour, raw);
        assert_eq!(first, live_through(3, hour, raw));
        assert_ne!(first.hash, live_through(4, hour, raw).hash);
    }
}
