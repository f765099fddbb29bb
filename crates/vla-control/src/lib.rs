//! Control core: turns the newest action chunk of a policy into commands within limits: velocities
//! of the end effector, or positions and velocities of joints.
//!
//! Pure: no clock, thread, ROS, model or allocation per step. The runtime calls [`step`] once per
//! control period and publishes the result:
//!
//! ```ignore
//! let config = raw.validate()?;              // RawControlConfig: from serde or ROS parameters
//! let mut state = ControlState::new(config); // allocates, once
//! loop {
//!     // at a fixed rate, e.g. 50 Hz, on absolute deadlines of the steady clock
//!     let now = clock.steady();              // directly before the publication
//!     let inputs = Inputs { ros_now: clock.ros(), lifecycle, requests, instruction, images,
//!                           states, joints, ee_pose, chunk: newest.as_ref(), inference, .. };
//!     let output = step(now, &mut state, &inputs);
//!     if let Some(command) = output.command { publish(command); }
//!     for event in output.events.iter() { log_and_publish_status(event); }
//!     mailbox.set_steps_begun(output.steps_begun); // for the next observation's ChunkOrigin
//! }
//! ```
//!
//! * `images`, `states`, `joints`, `ee_pose`, `instruction`, `lifecycle`, `inference` are levels:
//!   pass the present value in every step. `chunk`, `requests`, `policy_failure` are edges: pass
//!   them once.
//! * Call [`step`] in every lifecycle state. To deactivate, set `lifecycle: Inactive` and reply
//!   when `output.at_rest`.
//! * `dry_run` computes everything (see [`MotionReport::limited`]) and publishes nothing.
//! * After an e-stop, a latch, a deactivation, a reset or a hold longer than `rearm_window_s`,
//!   motion must be enabled again: `state_machine` has the rules.
//!
//! # Terms
//! * *desired*: velocity of the policy's step, unlimited. *target*: after the limits on step,
//!   workspace and velocity. *limited*: after acceleration and jerk limits; this is published.
//! * *watchdog*: a condition whose violation stops motion. *fault*: a watchdog that interrupted
//!   motion. *hold*: an interruption that may end by itself. *latch*: a stop until `~/reset`.
//! * *setpoint*: where the joints come to rest if nothing follows. *run*: from a start at the
//!   measured positions until the joints are at rest and motion is not allowed. *seam*: the
//!   distance between a chunk's first executed step and the step executed before it.
//! * *intervention*: a limit that changed the velocity, or a refused result; counted by name.
//!
//! # Modules, in the order of a step
//! | module | task |
//! |---|---|
//! | `inputs` | what a step receives |
//! | `watchdog` | timeouts and plausibility |
//! | `source_watchdog`, `frozen_image` | those of one camera or state; repeated images |
//! | `state_machine` | enabling, holds, faults, latches, reset |
//! | [`action_chunk`], `chunk_player` | the policy's steps, and which of them is executed now |
//! | `gripper` | threshold, hysteresis and dwell of the gripper command |
//! | `command_limits` | envelope, step cap, workspace and velocity limits |
//! | `jerk_limiter` | acceleration and jerk limits with a bounded stop |
//! | `joint_motion`, `joint_target` | joints: start, targets, position limits, tracking |
//! | `joint_limiter` | joints: velocity, acceleration and jerk limits, all in step |
//! | `stall_detector` | repeated actions, a robot that does not follow; reported only |
//! | `outputs`, `events`, `reason` | command, state, causes, events |
//! | `config`, `joint_config`, `config_rules`, `config_error` | parameters and their validation |
//! | [`time`] | steady and ROS time |
//!
//! `SAFETY.md` lists hazard, mechanism, file and test.

pub mod action_chunk;
mod chunk_player;
mod command_limits;
mod config;
mod config_error;
mod config_rules;
mod events;
mod frozen_image;
mod gripper;
mod inputs;
mod jerk_limiter;
mod joint_config;
mod joint_limiter;
mod joint_motion;
mod joint_target;
mod outputs;
pub mod ranges;
mod reason;
mod source_watchdog;
mod stage_times;
mod stall_detector;
mod state_machine;
mod step;
pub mod time;
mod vector;
mod watchdog;

pub use config::{
    ControlConfig, MotionLimits, RawControlConfig, RawDetectors, RawEnsemble, RawEnvelope,
    RawGripper, RawLimits, RawMotionLimits, RawStepCap, RawUnchangedImage, RawWorkspace,
};
pub use config_error::{ConfigError, ConfigErrors};
pub use events::{EVENTS_MAX, EnableOutcome, Event, Events, Refusal, ResetOutcome};
pub use inputs::{
    CAMERAS_MAX, ImageSeen, Inference, Inputs, JointsSeen, Lifecycle, PolicyFailure, PoseSeen,
    Requests, STATE_SOURCES_MAX, StateSeen,
};
pub use joint_config::{JointList, JointOutput, JointSpace, RawJoint, RawJointSpace};
pub use outputs::{
    Command, CommandMotion, JointCommand, JointReport, JointState, MotionReport, Output, Seam,
    Seams, State, Twist,
};
pub use reason::{
    CAUSES_MAX, Cause, CauseSet, Class, Intervention, InterventionCounts, InterventionSet,
    NamedCause, Reason, Source,
};
pub use stage_times::{STAGES_MAX, StageTimes};
pub use step::{ControlState, step};
