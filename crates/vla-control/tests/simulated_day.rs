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
use support::{MS, World, live, norm};
use vla_control::action_chunk::ChunkStep;
use vla_control::{Event, Intervention, Lifecycle, PolicyFailure, Reason, Requests, State};

/// Sums of a day.
#[derive(Debug, PartialEq, Eq)]
struct Day {
    steps: u64,
    commands: u64,
    stops: u64,
    longest_stop_ns: u64,
    running: u64,
    faults: BTreeMap<&'static str, u64>,
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

fn heal(world: &mut World) {
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

fn live_through(seed: u64, length: Duration) -> Day {
    let mut rng = Rng::with_seed(seed);
    let length_ns = u64::try_from(length.as_nanos()).unwrap();
    let mut world = World::new(live());
    let begin = world.now;
    let mut day = Day {
        steps: 0,
        commands: 0,
        stops: 0,
        longest_stop_ns: 0,
        running: 0,
        faults: BTreeMap::new(),
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
            happen(&mut world, &mut rng);
            trouble = 1 + rng.u64(..1000) as u32;
        } else if trouble == 1 {
            heal(&mut world);
        }
        trouble = trouble.saturating_sub(1);
        if one_in(&mut rng, 10) {
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
                    *day.faults.entry(cause.reason.name()).or_default() += 1
                }
                Event::Latched { .. } => day.latches += 1,
                Event::Reset(vla_control::ResetOutcome::Done) => day.resets += 1,
                _ => {}
            }
        }
        if let Some(command) = output.command {
            distance += norm(command.twist().linear) * dt as f64 * 1e-9;
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
    assert!(0 < world.state.interventions().get(Intervention::Jerk));
    day
}

#[test]
fn random_faults_break_no_invariant() {
    let seed = match std::env::var("OPENVLA_DAY_SEED") {
        Ok(text) => text.parse().expect("OPENVLA_DAY_SEED must be a number"),
        Err(_) => 20_260_115,
    };
    println!("seed {seed}; replay with OPENVLA_DAY_SEED={seed}");
    let day = live_through(seed, Duration::from_secs(24 * 3600));
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
    let first = live_through(3, hour);
    assert_eq!(first, live_through(3, hour));
    assert_ne!(first.hash, live_through(4, hour).hash);
}
