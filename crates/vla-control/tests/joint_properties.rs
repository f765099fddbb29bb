//! Joint space: for any sequence of chunks, targets, limits, time steps and faults every published
//! command obeys every limit, the position limits included, and a stop is always in reserve.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fastrand::Rng;
use proptest::prelude::*;
use support::joints::{JOINT, joint_config};
use support::{MS, World, cases};
use vla_control::action_chunk::{ActionChunk, JointAction};
use vla_control::{
    JointOutput, Lifecycle, RawControlConfig, RawEnsemble, RawJoint, Requests, State,
};

const ENABLE: Requests = Requests { enable: Some(true), estop: false, reset: false };
const ESTOP: Requests = Requests { enable: None, estop: true, reset: false };

/// In `-1..1`.
fn signed(rng: &mut Rng) -> f64 {
    2.0 * rng.f64() - 1.0
}

/// A value for a joint: mostly in and around the limits, sometimes far away or odd.
fn value(rng: &mut Rng, action: JointAction, joint: &RawJoint) -> f64 {
    let scale = match action {
        JointAction::Position => joint.max.unwrap_or(7.0),
        JointAction::Velocity => joint.velocity,
    };
    match rng.u8(..64) {
        0 => f64::MAX * signed(rng),
        1 => 5e-324,
        2 => -0.0,
        3 => 1e6 * signed(rng),
        4 => scale,
        5 => -scale,
        6..=12 => 3.0 * scale * signed(rng),
        _ => scale * signed(rng),
    }
}

/// What a policy answers: a wild chunk, one around a point, or one that repeats a row.
fn rows(rng: &mut Rng, action: JointAction, joints: &[RawJoint], grippers: usize) -> Vec<Vec<f64>> {
    let horizon = [1, 1, 2, 8, 50][rng.usize(..5)];
    let row = |rng: &mut Rng| {
        let mut row: Vec<f64> = joints.iter().map(|joint| value(rng, action, joint)).collect();
        row.extend((0..grippers).map(|_| rng.f64() * 1.4 - 0.2));
        row
    };
    let first = row(rng);
    let mut rows: Vec<Vec<f64>> = match rng.u8(..3) {
        0 => (0..horizon).map(|_| row(rng)).collect(),
        1 => vec![first; horizon],
        _ => (0..horizon)
            .map(|_| first.iter().map(|x| x + 0.05 * signed(rng)).collect::<Vec<f64>>())
            .collect(),
    };
    if rng.u16(..400) == 0 {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][rng.usize(..3)];
        let at = rng.usize(..rows.len());
        let joint = rng.usize(..rows[at].len());
        rows[at][joint] = odd;
    }
    rows
}

/// One random event.
fn happen(world: &mut World, rng: &mut Rng) {
    let camera = rng.usize(..world.cameras.len() + 1);
    let state = rng.usize(..world.states.len());
    match rng.u8(..18) {
        0 if camera == 0 => world.camera_on = rng.bool(),
        0 => world.cameras[camera - 1].on = rng.bool(),
        1 if camera == 0 => world.camera_frozen = rng.bool(),
        1 => world.cameras[camera - 1].frozen = rng.bool(),
        2 if camera == 0 => world.camera_unchanged = rng.bool(),
        2 => world.cameras[camera - 1].unchanged = rng.bool(),
        3 if 0 < camera => world.cameras[camera - 1].skew_ns = (signed(rng) * 1e9) as i64,
        4 => world.states[state].on = rng.bool(),
        5 => world.states[state].complete = rng.bool(),
        6 => world.states[state].skew_ns = (signed(rng) * 1e9) as i64,
        7 => arm(world).source.on = rng.bool(),
        8 => arm(world).missing = rng.bool().then_some(0),
        9 => arm(world).stuck = rng.bool(),
        10 => {
            // Moved by hand.
            let joint = rng.usize(..arm(world).positions.len());
            arm(world).positions[joint] += 0.1 * signed(rng);
        }
        11 => {
            let joint = rng.usize(..arm(world).positions.len());
            arm(world).positions[joint] = [f64::NAN, f64::INFINITY, 0.0, 0.0][rng.usize(..4)];
        }
        12 => world.instruction = [None, Some(1), Some(2)][rng.usize(..3)],
        13 => world.policy.blocked = rng.bool(),
        14 => world.policy.takes_ns = rng.u64(..400) * MS,
        15 => world.worker_dead = rng.u8(..4) == 0,
        16 => {
            world.lifecycle =
                [Lifecycle::Active, Lifecycle::Active, Lifecycle::Inactive][rng.usize(..3)];
        }
        _ => world.policy.hz = [5.0, 10.0, 50.0, 1000.0][rng.usize(..4)],
    }
}

fn arm(world: &mut World) -> &mut support::joints::Arm {
    world.arm.as_mut().unwrap()
}

fn heal(world: &mut World) {
    world.camera_on = true;
    world.camera_frozen = false;
    world.camera_unchanged = false;
    world.cameras.iter_mut().chain(&mut world.states).for_each(support::SourceSim::heal);
    world.policy.blocked = false;
    world.worker_dead = false;
    world.instruction = Some(1);
    world.lifecycle = Lifecycle::Active;
    let arm = arm(world);
    arm.source.heal();
    (arm.stuck, arm.missing) = (false, None);
    arm.positions.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
}

/// Mostly a period with jitter; sometimes an early call, an overrun, a pause.
fn interval(rng: &mut Rng, period_ns: u64) -> u64 {
    match rng.u8(..64) {
        0 => rng.u64(..period_ns),
        1 => rng.u64(..20 * period_ns),
        2 => rng.u64(..3_000) * MS,
        3..=20 => period_ns / 2 + rng.u64(..period_ns),
        _ => period_ns,
    }
}

/// A random life of `steps` steps from a random position, and a stop at its end.
fn play(raw: RawControlConfig, seed: u64, steps: usize) -> Result<World, String> {
    let mut rng = Rng::with_seed(seed);
    let space = raw.joints.unwrap();
    let joints = space.joints.as_slice();
    let mut world = World::new(raw);
    let period_ns = world.state.config().period().as_nanos() as u64;
    let starts = joints.iter().map(|joint| {
        let [low, high] = [joint.min.unwrap_or(-7.0), joint.max.unwrap_or(7.0)];
        match rng.u8(..16) {
            // A little outside.
            0 => high + 0.09 * rng.f64(),
            1 => low - 0.09 * rng.f64(),
            _ => low + (high - low) * rng.f64(),
        }
    });
    arm(&mut world).positions = starts.collect();
    world.policy.takes_ns = [0, 20, 60, 200][rng.usize(..4)] * MS;
    world.policy.hz = [5.0, 10.0, 50.0, 1000.0][rng.usize(..4)];
    world.tick(period_ns, ENABLE)?;
    for i in 0..steps {
        if rng.u8(..24) == 0 {
            happen(&mut world, &mut rng);
        }
        if rng.u8(..12) == 0 {
            heal(&mut world);
        }
        if rng.u8(..3) == 0 {
            world.policy.rows = rows(&mut rng, space.action, joints, raw.grippers as usize);
        }
        let requests = Requests {
            enable: (rng.u8(..12) == 0).then(|| rng.u8(..8) != 0),
            estop: rng.u8(..200) == 0,
            reset: rng.u8(..20) == 0,
        };
        let dt = interval(&mut rng, period_ns);
        world.tick(dt, requests).map_err(|error| format!("seed {seed}, step {i}: {error}"))?;
    }
    // A stop at any moment ends in time and where it was announced.
    let announced = world.output.unwrap().motion.joints.unwrap().setpoint;
    let running = world.output.unwrap().command.is_some();
    let by_position = space.output == JointOutput::Position;
    let stop_steps = world.state.config().stop_time_s() * 1e9 / period_ns as f64;
    world.tick(period_ns, ESTOP).map_err(|error| format!("seed {seed}, e-stop: {error}"))?;
    for i in 0..stop_steps as usize + 2 {
        let stopped = world.tick(period_ns, Requests::default());
        stopped.map_err(|error| format!("seed {seed}, step {i} of the stop: {error}"))?;
    }
    let output = world.output.unwrap();
    if !output.at_rest || output.state != State::Estopped {
        return Err(format!("seed {seed}: not at rest in e-stop: {output:?}"));
    }
    let end = output.motion.joints.unwrap();
    if by_position && running && end.limited.positions() != &announced[..joints.len()] {
        return Err(format!("seed {seed}: stopped at {end:?}, announced {announced:?}"));
    }
    Ok(world)
}

/// Limits of a random joint that can be kept: a stop takes less than 3 s.
fn any_joint() -> impl Strategy<Value = RawJoint> {
    (
        0.05f64..4.0,
        0.3f64..40.0,
        2.0f64..2000.0,
        (-3.0f64..-0.3, 0.3f64..3.0),
        0.0f64..0.05,
        prop::bool::weighted(0.1),
    )
        .prop_map(|(velocity, acceleration, jerk, (min, max), margin, continuous)| {
            let acceleration = acceleration.max(velocity / 1.2);
            RawJoint {
                min: (!continuous).then_some(min),
                max: (!continuous).then_some(max),
                velocity,
                acceleration,
                jerk: jerk.max(2.0 * acceleration / 1.2),
                margin,
                tracking_error: 0.5,
            }
        })
}

fn any_action() -> impl Strategy<Value = JointAction> {
    prop_oneof![Just(JointAction::Position), Just(JointAction::Velocity)]
}

fn any_output() -> impl Strategy<Value = JointOutput> {
    prop_oneof![Just(JointOutput::Position), Just(JointOutput::Velocity)]
}

/// Two cameras, two state sources, and whatever else may be chosen.
fn with_sources(raw: RawControlConfig) -> RawControlConfig {
    RawControlConfig { cameras: 2, states: 2, rearm_window_s: 5.0, ..raw }
}

/// A part of 100 000 cases, or of `OPENVLA_SOAK_CASES`. A case is its seed: shrinking it is of no
/// use.
fn config(part: u32) -> ProptestConfig {
    ProptestConfig { cases: cases(100_000) / part, max_shrink_iters: 64, ..Default::default() }
}

proptest! {
    #![proptest_config(config(1))]

    /// Three joints with ordinary limits against anything.
    #[test]
    fn any_life_keeps_every_joint_limit(
        action in any_action(),
        output in any_output(),
        seed in any::<u64>(),
    ) {
        let raw = with_sources(joint_config(action, output, &[JOINT; 3]));
        play(raw, seed, 60).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(config(20))]

    /// Any legal limits, rates and numbers of joints against anything.
    #[test]
    fn any_joint_limits_are_kept(
        action in any_action(),
        output in any_output(),
        joints in prop::collection::vec(any_joint(), 1..=32),
        rate in 20.0f64..250.0,
        look_ahead in any::<bool>(),
        execute_steps in 0u32..12,
        ensemble in prop::option::of((-0.5f64..0.5, 2u32..8)),
        grippers in 0u32..=4,
        continuous in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut raw = with_sources(joint_config(action, output, &joints));
        raw.command_rate_hz = rate;
        raw.pause_s = 1.0;
        raw.joints.as_mut().unwrap().look_ahead = look_ahead;
        raw.execute_steps = execute_steps;
        raw.ensemble = ensemble.map(|(decay, chunks)| RawEnsemble { decay, chunks });
        (raw.grippers, raw.gripper.continuous) = (grippers, continuous);
        play(raw, seed, 60).map_err(TestCaseError::fail)?;
    }

    /// From rest towards one position: every joint goes straight there, all in proportion, and ends
    /// exactly on it, or on its limit; never beyond.
    #[test]
    fn joints_reach_a_position_in_step(
        joints in prop::collection::vec(any_joint(), 1..=8),
        fractions in prop::array::uniform8((-0.99f64..0.99, -0.99f64..0.99)),
        jitter in prop::collection::vec(10u64..30, 400),
        hz in 0.5f64..20.0,
    ) {
        let joints: Vec<RawJoint> = joints
            .into_iter()
            .map(|joint| RawJoint { min: Some(-3.0), max: Some(3.0), ..joint })
            .collect();
        let raw = joint_config(JointAction::Position, JointOutput::Position, &joints);
        let raw = RawControlConfig { inference_timeout_s: 60.0, ..raw };
        let mut world = World::new(raw);
        world.policy.takes_ns = u64::MAX / 2;
        let starts: Vec<f64> = fractions.iter().map(|f| 2.9 * f.0).take(joints.len()).collect();
        let ends: Vec<f64> = fractions.iter().map(|f| 2.9 * f.1).take(joints.len()).collect();
        arm(&mut world).positions.clone_from(&starts);
        world.tick(20 * MS, ENABLE).map_err(TestCaseError::fail)?;
        // One target for 50 s or more, as a chunk of equal rows.
        let mut row = ends.clone();
        row.push(0.5);
        let steps = 256.min((60.0 * hz) as usize + 1);
        let origin = world.fresh_origin();
        let values = vec![row; steps].concat();
        let shape = [joints.len(), 1];
        let chunk = ActionChunk::joints(origin, hz, JointAction::Position, shape, values);
        world.forged = Some(chunk.unwrap());
        let mut before = 0.0;
        for dt in jitter {
            let output = world.tick(dt * MS, Requests::default()).map_err(TestCaseError::fail)?;
            let command = output.command.unwrap();
            let positions = command.joints().unwrap().positions().unwrap().to_vec();
            let done = |joint: usize| {
                (positions[joint] - starts[joint]) / (ends[joint] - starts[joint])
            };
            let longest = (0..joints.len())
                .max_by(|a, b| {
                    let way = |joint: &usize| (ends[*joint] - starts[*joint]).abs();
                    way(a).total_cmp(&way(b))
                })
                .unwrap();
            let part = done(longest);
            // Positions are rounded.
            let straight = (-1e-12..=1.0 + 1e-12).contains(&part) && before <= part + 1e-12;
            prop_assert!(straight, "{} {}", before, part);
            before = part;
            for joint in 0..joints.len() {
                let way = ends[joint] - starts[joint];
                let error = (positions[joint] - starts[joint] - part * way).abs();
                prop_assert!(error < 1e-9, "joint {} is off by {}", joint, error);
                let [low, high] = [starts[joint].min(ends[joint]), starts[joint].max(ends[joint])];
                let beyond = (low - positions[joint]).max(positions[joint] - high);
                prop_assert!(beyond < 1e-14, "joint {} is {} beyond", joint, beyond);
            }
        }
        let slowest = joints.iter().enumerate().map(|(joint, limits)| {
            (ends[joint] - starts[joint]).abs() / limits.velocity
        });
        let needed = slowest.fold(0.0, f64::max) + hz.recip() + world.state.config().stop_time_s();
        if needed < 4.0 && steps as f64 / hz > needed {
            let end = world.output.unwrap().motion.joints.unwrap().limited;
            prop_assert_eq!(end.positions(), &ends[..]);
        }
    }

    /// An arm that integrates the commanded velocities never leaves its position limits, whatever
    /// the policy wants: no part of the margin beyond a period at full speed is needed.
    #[test]
    fn arm_by_velocity_stays_in_its_limits(
        action in any_action(),
        joints in prop::collection::vec(any_joint(), 1..=4),
        seed in any::<u64>(),
    ) {
        let joints: Vec<RawJoint> =
            joints.into_iter().map(|joint| RawJoint { margin: 0.0, ..joint }).collect();
        let raw = joint_config(action, JointOutput::Velocity, &joints);
        let room = joints.iter().all(|joint| {
            joint.min.zip(joint.max).is_none_or(|(min, max)| 0.05 * joint.velocity < max - min)
        });
        prop_assume!(room);
        let mut world = World::new(raw);
        let mut rng = Rng::with_seed(seed);
        world.policy.takes_ns = 60 * MS;
        world.policy.hz = 10.0;
        world.tick(20 * MS, ENABLE).map_err(TestCaseError::fail)?;
        for _ in 0..300 {
            if rng.u8(..20) == 0 {
                world.policy.rows = rows(&mut rng, action, &joints, 1);
                world.policy.rows.iter_mut().flatten().filter(|x| !x.is_finite())
                    .for_each(|x| *x = 1.0);
            }
            world.tick(15 * MS + rng.u64(..10 * MS), Requests::default())
                .map_err(TestCaseError::fail)?;
            let positions = &world.arm.as_ref().unwrap().positions;
            for (x, joint) in positions.iter().zip(&joints) {
                let inside = joint.min.is_none_or(|min| min <= *x)
                    && joint.max.is_none_or(|max| *x <= max);
                prop_assert!(inside, "{} outside of {:?}", x, joint);
            }
        }
    }
}

/// What the random lives reach, so that their silence means something.
#[test]
fn lives_are_worth_their_name() {
    let (mut running, mut runs, mut outside, mut commands) = (0, 0, 0, 0u64);
    for seed in 0..300 {
        for action in [JointAction::Position, JointAction::Velocity] {
            let raw = with_sources(joint_config(action, JointOutput::Position, &[JOINT; 3]));
            let world = play(raw, seed, 60).unwrap();
            running += u64::from(0 < world.judge.commands);
            let judge = world.judge.joints.unwrap();
            runs += judge.runs;
            outside += u64::from(0.0 < judge.farthest_outside);
            commands += world.judge.commands;
        }
    }
    assert!(
        300 < running && 400 < runs && 30 < outside && 10_000 < commands,
        "{running} {runs} {outside} {commands}"
    );
}

/// Lives that once broke a rule of the check, which was wrong.
#[test]
fn counterexamples_stay_fixed() {
    // An enable request comes in the very step in which the window of a hold is over.
    let three =
        with_sources(joint_config(JointAction::Position, JointOutput::Position, &[JOINT; 3]));
    play(three, 1_974_833_308_279_296_354, 60).unwrap();
    // The joint turns on its way to rest and is sampled when its velocity is exactly zero.
    let joint = RawJoint {
        min: Some(-2.384_114_194_181_062_5),
        max: Some(1.692_989_860_560_988),
        velocity: 3.976_496_990_877_908,
        acceleration: 3.313_747_492_398_257,
        jerk: 1_893.518_081_413_431_4,
        margin: 0.0,
        tracking_error: 0.5,
    };
    let mut raw =
        with_sources(joint_config(JointAction::Position, JointOutput::Position, &[joint]));
    raw.command_rate_hz = 52.183_978_807_382_935;
    raw.pause_s = 1.0;
    raw.joints.as_mut().unwrap().look_ahead = false;
    (raw.execute_steps, raw.grippers) = (0, 2);
    play(raw, 12_244_641_989_524_655_916, 60).unwrap();
}
