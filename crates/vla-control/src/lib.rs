//! From the newest chunk to a command a robot can be trusted with.
//!
//! Pure: no clock, no thread, no ROS, no model, no allocation. The runtime calls [`step`] once per
//! control period and publishes what comes out:
//!
//! ```ignore
//! let config = raw.validate()?;                    // RawControlConfig: serde, or filled from ROS parameters
//! let mut state = ControlState::new(config);       // allocates, once
//! loop {
//!     // at a fixed rate, e.g. 50 Hz, on absolute deadlines of the steady clock
//!     let now = clock.steady();                    // read directly before the publication: it is the time of the command
//!     let inputs = Inputs { ros_now: clock.ros(), lifecycle, requests, instruction, image, ee_pose, chunk: newest.as_ref(), inference, .. };
//!     let output = step(now, &mut state, &inputs);
//!     if let Some(command) = output.command { publish(command); }
//!     if output.changed { publish_status(&output, state.interventions()); }
//!     for event in output.events.iter() { log(event); }
//!     mailbox.set_steps_begun(output.steps_begun); // goes into the next observation's ChunkOrigin
//! }
//! ```
//!
//! * `image`, `ee_pose`, `instruction`, `lifecycle`, `inference` are levels: repeat them in every
//!   step. `chunk`, `requests`, `policy_failure` are what happened since the last step: pass them
//!   once.
//! * Keep stepping in every lifecycle state. To deactivate, set `lifecycle: Inactive` and reply
//!   when `output.at_rest`.
//! * `dry_run` computes everything (see [`Verdict::limited`]) and publishes nothing.
//! * After e-stop, a latch, deactivation or reset, motion must be enabled anew: a reset never
//!   starts a motion by itself.
//!
//! The way through this module: `watchdog` looks (`unchanged` for it at pictures), `machine`
//! decides whether the robot may move, `player` picks the policy's step, `shape` bounds it,
//! `profile` makes it smooth and stoppable (its documentation holds the proof), `gripper` and
//! `detect` stand beside. `step` calls them in that order. `SAFETY.md` lists hazard, mechanism,
//! file and test.

pub mod action_chunk;
mod chunk_player;
mod command_limits;
mod config;
mod frozen_image;
mod gripper;
mod jerk_limiter;
pub mod ranges;
mod reason;
mod stall_detector;
mod state_machine;
mod step;
pub mod time;
mod types;
mod vector;
mod watchdog;

pub use config::{
    ControlConfig, MotionLimits, Problem, Problems, RawControlConfig, RawDetectors, RawEnvelope,
    RawGripper, RawLimits, RawMotionLimits, RawStepCap, RawUnchangedImage, RawWorkspace,
};
pub use reason::{Cause, Class, Intervention, InterventionCounts, InterventionSet, Reason};
pub use step::{ControlState, step};
pub use types::{
    Command, EVENTS_MAX, Event, Events, ImageSeen, Inference, Inputs, Lifecycle, Output,
    PolicyFailure, PoseSeen, Refusal, Requests, ResetOutcome, State, Twist, Verdict,
};
