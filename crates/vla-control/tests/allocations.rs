//! A step and its record in the flight recorder do not allocate or free memory. Counted by a global
//! allocator, on this thread only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use flight_recorder::Recorder;
use support::joints::{JOINT, joint_config};
use support::{MS, live};
use vla_control::action_chunk::{ActionChunk, ChunkOrigin, ChunkStep, JOINTS_MAX, JointAction};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    ControlState, ImageSeen, Inference, Inputs, JointOutput, JointsSeen, Lifecycle, PoseSeen,
    RawControlConfig, RawEnsemble, RawEnvelope, RawGripper, RawWorkspace, Requests, State,
    StateSeen, step,
};

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // During a thread's end its counter may be gone; nothing is measured then.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which meets its
// requirements; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller meets the requirements of `alloc`; so does the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: `pointer` came from `alloc` above, that is from the system's allocator, with this
        // layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as for `dealloc`; the caller vouches for `size`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn allocator_counts() {
    let before = CALLS.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(CALLS.get() - before, 2);
}

/// Joint space with everything on: fourteen joints, two grippers, three cameras, two state sources,
/// an ensemble of long chunks.
#[test]
fn step_and_record_do_not_allocate_in_joint_space() {
    let ensemble = Some(RawEnsemble { decay: 0.01, chunks: 8 });
    let raw = RawControlConfig {
        cameras: 3,
        states: 2,
        grippers: 2,
        gripper: RawGripper { continuous: true, ..RawGripper::default() },
        ensemble,
        ..joint_config(JointAction::Position, JointOutput::Position, &[JOINT; 14])
    };
    let mut state = ControlState::new(raw.validate().unwrap());
    let mut recorder = Recorder::new(state.config().period());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut now = 1000 * MS;
    let (mut counted, mut steps_begun, mut running, mut recordings) = (0, 0, 0, 0);
    let mut positions = [0.0; JOINTS_MAX];
    for i in 0..50_000u64 {
        now += if rng.u64(..500) == 0 { 700 * MS } else { 19 * MS + rng.u64(..2 * MS) };
        let here = Instant::from_nanoseconds(now);
        let stamp = Stamp::from_nanoseconds(now as i64);
        let origin = ChunkOrigin {
            generation: i,
            instruction_generation: 1,
            image_stamp: stamp,
            image_taken: here,
            inference_started: here,
            steps_begun_at_observation: steps_begun,
            ..ChunkOrigin::default()
        };
        let horizon = 1 + rng.usize(..100);
        let mut values: Vec<f64> =
            (0..16 * horizon).map(|_| 3.0 * (2.0 * rng.f64() - 1.0)).collect();
        if rng.u64(..5_000) == 0 {
            values[3] = f64::NAN;
        }
        let chunk = (rng.u64(..6) == 0).then(|| {
            ActionChunk::joints(origin, 50.0, JointAction::Position, [14, 2], values).unwrap()
        });
        let image = (rng.u64(..2000) != 0).then_some(ImageSeen {
            received: here,
            stamp,
            ros_received: stamp,
            unchanged_since: here,
        });
        let source = Some(StateSeen {
            received: here,
            stamp,
            ros_received: stamp,
            complete: rng.u64(..2000) != 0,
        });
        let joints = JointsSeen { received: here, stamp, ros_received: stamp, positions };
        let inputs = Inputs {
            ros_now: stamp,
            lifecycle: Lifecycle::Active,
            requests: Requests {
                enable: Some(true),
                estop: rng.u64(..5000) == 0,
                reset: rng.u64(..40) == 0,
            },
            instruction: Some(1),
            images: &[image; 3],
            states: &[source; 2],
            joints: Some(&joints),
            chunk: chunk.as_ref(),
            ..Inputs::default()
        };
        let before = CALLS.get();
        let output = step(here, &mut state, &inputs);
        recorder.record(here, &inputs, &output);
        if let Some(recording) = if recorder.due(here) { recorder.take() } else { None } {
            recordings += 1;
            recorder.give_back(recording);
        }
        counted += CALLS.get() - before;
        steps_begun = output.steps_begun;
        running += u64::from(output.state == State::Running);
        if let Some(commanded) = output.command.as_ref().and_then(|c| c.joints()?.positions()) {
            positions[..14].copy_from_slice(commanded);
        }
    }
    assert!(25_000 < running, "the robot must have moved for this to mean anything: {running}");
    assert!(20 < recordings, "{recordings}");
    assert_eq!(counted, 0);
}

#[test]
fn step_and_record_do_not_allocate() {
    let raw = RawControlConfig {
        workspace: Some(RawWorkspace { min: [-1.0; 3], max: [1.0; 3], margin: 0.02 }),
        envelope: Some(RawEnvelope { q01: [-0.05; 6], q99: [0.05; 6] }),
        ..live()
    };
    let mut state = ControlState::new(raw.validate().unwrap());
    let mut recorder = Recorder::new(state.config().period());
    let mut recordings = 0;
    let mut rng = fastrand::Rng::with_seed(7);
    let mut now = 1000 * MS;
    let (mut counted, mut steps_begun, mut running) = (0, 0, 0);
    let mut unchanged_since = Instant::START;
    for i in 0..200_000u64 {
        now += if rng.u64(..500) == 0 { 700 * MS } else { 19 * MS + rng.u64(..2 * MS) };
        let here = Instant::from_nanoseconds(now);
        // For a second out of forty the camera repeats one image.
        if i % 2000 < 1950 {
            unchanged_since = here;
        }
        let origin = ChunkOrigin {
            generation: i,
            instruction_generation: 1,
            image_stamp: Stamp::from_nanoseconds(now as i64),
            image_taken: here,
            inference_started: here,
            steps_begun_at_observation: steps_begun,
            ..ChunkOrigin::default()
        };
        let mut value =
            if rng.u64(..20_000) == 0 { f64::NAN } else { 0.2 * (2.0 * rng.f64() - 1.0) };
        let steps: Vec<ChunkStep> = (0..1 + rng.u64(..256))
            .map(|_| {
                value *= 0.99;
                ChunkStep::from_array([
                    value,
                    -value,
                    value,
                    value,
                    value,
                    value,
                    2.0 * rng.f64() - 0.5,
                ])
            })
            .collect();
        let chunk = (rng.u64(..6) == 0)
            .then(|| ActionChunk::new(origin, 10.0 + rng.u64(..90) as f64, steps).unwrap());
        let inputs = Inputs {
            ros_now: Stamp::from_nanoseconds(
                now as i64 - if rng.u64(..3000) == 0 { 2_000_000_000 } else { 0 },
            ),
            lifecycle: if rng.u64(..4000) == 0 { Lifecycle::Inactive } else { Lifecycle::Active },
            requests: Requests {
                enable: Some(true),
                estop: rng.u64(..5000) == 0,
                reset: rng.u64(..40) == 0,
            },
            instruction: Some(1),
            images: &[Some(ImageSeen {
                received: here,
                stamp: Stamp::from_nanoseconds(now as i64),
                ros_received: Stamp::from_nanoseconds(now as i64),
                unchanged_since,
            })],
            ee_pose: Some(PoseSeen {
                received: here,
                position: [0.9 * (2.0 * rng.f64() - 1.0), 0.0, 0.0],
            }),
            chunk: chunk.as_ref(),
            inference: Inference::Idle,
            policy_failure: None,
            subscribed: rng.u64(..3000) != 0,
            ..Inputs::default()
        };
        let before = CALLS.get();
        let output = step(here, &mut state, &inputs);
        recorder.record(here, &inputs, &output);
        let taken = if recorder.due(here) { recorder.take() } else { None };
        recordings += u64::from(taken.is_some());
        if let Some(recording) = taken {
            recorder.give_back(recording);
        }
        counted += CALLS.get() - before;
        steps_begun = output.steps_begun;
        running += u64::from(output.state == State::Running);
    }
    assert!(100_000 < running, "the robot must have moved for this to mean anything: {running}");
    assert!(100 < recordings, "{recordings}");
    assert_eq!(counted, 0);
}
