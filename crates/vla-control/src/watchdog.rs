//! Watchdogs: conditions that must hold before and during motion. Timeouts use the steady clock;
//! ROS time is only checked for jumps back.

use super::{
    config::ControlConfig,
    inputs::{CAMERAS_MAX, Inference, Inputs, Lifecycle, PolicyFailure, STATE_SOURCES_MAX},
    outputs::Twist,
    reason::{Cause, CauseSet, Reason, Source},
    source_watchdog::{CameraWatchdog, StateWatchdog},
};
use crate::time::{Instant, Stamp};
use std::time::Duration;

/// State of the watchdogs between steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watchdogs {
    cameras: [CameraWatchdog; CAMERAS_MAX],
    states: [StateWatchdog; STATE_SOURCES_MAX],
    joints: StateWatchdog,
    /// The latest ROS time since the last jump.
    latest_ros: Option<Stamp>,
    /// Start of the interval in which the command has had no subscriber.
    unsubscribed_since: Option<Instant>,
    /// The last step in which the worker prepared for an instruction.
    prepared: Option<Instant>,
}

/// Longest preparation for an instruction: programs of another shape are compiled in it. Nothing
/// moves meanwhile, since chunks of the instruction before are dropped.
pub(super) const PREPARATION_TIMEOUT: Duration = Duration::from_secs(120);

/// State of the control loop that the watchdogs use besides the inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchdogContext {
    /// Time since the previous step; `None` in the first.
    pub(super) interval: Option<Duration>,
    /// When motion was last allowed, while it is.
    pub(super) running_since: Option<Instant>,
    /// When the last result arrived, accepted or not.
    pub(super) last_result: Option<Instant>,
    /// The command in force since the previous step. In joint space its angular speed is that of
    /// the fastest joint.
    pub(super) twist: Twist,
    /// A joint that does not follow its command.
    pub(super) tracking: Option<Cause>,
}

impl Watchdogs {
    /// Evaluates all watchdogs and returns the causes of those that fire, in order of priority.
    ///
    /// Must be called in every step and every state, since the watchdogs keep history.
    pub(super) fn check(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        context: &WatchdogContext,
    ) -> CauseSet {
        let mut causes = CauseSet::default();
        let mut add = |cause: Option<Cause>| {
            if let Some(cause) = cause {
                causes.push(cause);
            }
        };
        add(check_interval(config, context));
        add(self.check_ros_time(config, inputs.ros_now));
        add(check_policy(inputs));
        for (index, camera) in self.cameras.iter_mut().enumerate().take(config.cameras) {
            let source = Source::Camera(index as u8);
            let image = inputs.images.get(index).copied().flatten();
            add(camera.check_age(now, config, image).map(|cause| cause.of(source)));
            let unchanged = camera.check_unchanged(now, config, inputs, image.as_ref(), context);
            add(unchanged.map(|cause| cause.of(source)));
        }
        for (index, watchdog) in self.states.iter_mut().enumerate().take(config.states) {
            let state = inputs.states.get(index).copied().flatten();
            let cause = watchdog.check(now, config, state);
            add(cause.map(|cause| cause.of(Source::State(index as u8))));
        }
        if let Some(space) = &config.joints {
            add(self.joints.check_joints(now, config, space, inputs.joints));
            add(context.tracking);
        }
        add(self.check_spread(config));
        add(self.check_inference(now, config, inputs, context));
        add(self.check_subscriber(now, config, inputs));
        add(check_pose(now, config, inputs));
        causes
    }

    /// Age of the newest image with a new stamp; of several cameras, the greatest. `None` while one
    /// has no image.
    pub(super) fn image_age_s(&self, now: Instant, config: &ControlConfig) -> Option<f64> {
        let mut oldest: Option<f64> = None;
        for camera in self.cameras.iter().take(config.cameras) {
            let age = now.since(camera.taken()?).seconds();
            oldest = Some(oldest.map_or(age, |oldest| oldest.max(age)));
        }
        oldest
    }

    /// The distance between the oldest and the newest of the sources; the oldest is named.
    fn check_spread(&self, config: &ControlConfig) -> Option<Cause> {
        let cameras = self.cameras.iter().take(config.cameras).enumerate();
        let cameras =
            cameras.filter_map(|(i, camera)| Some((camera.taken()?, Source::Camera(i as u8))));
        let states = self.states.iter().take(config.states).enumerate();
        let states = states.filter_map(|(i, state)| Some((state.taken()?, Source::State(i as u8))));
        let (mut oldest, mut newest): (Option<(Instant, Source)>, Instant) = (None, Instant::START);
        for (taken, source) in cameras.chain(states) {
            newest = newest.max(taken);
            if oldest.is_none_or(|(before, _)| taken < before) {
                oldest = Some((taken, source));
            }
        }
        let (taken, source) = oldest?;
        let (spread, limit) = (newest.since(taken), config.observation_spread);
        spread.exceeds(limit).then(|| {
            let (value, limit) = (spread.seconds(), limit.as_secs_f64());
            Cause::seconds(Reason::ObservationSpread, value, limit).of(source)
        })
    }

    fn check_ros_time(&mut self, config: &ControlConfig, ros_now: Stamp) -> Option<Cause> {
        let latest = *self.latest_ros.get_or_insert(ros_now);
        let back_s = latest.seconds_since(ros_now);
        if config.clock_jump_tolerance_s < back_s {
            self.latest_ros = Some(ros_now);
            let limit_s = config.clock_jump_tolerance_s;
            return Some(Cause::seconds(Reason::ClockJumpedBack, back_s, limit_s));
        }
        self.latest_ros = Some(latest.max(ros_now));
        None
    }

    /// While busy: the time since inference began. While running and idle: the time since the last
    /// result or preparation, so that a worker that never begins is detected too; a worker that
    /// waits for the next image may take as long as an image may be old.
    fn check_inference(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        context: &WatchdogContext,
    ) -> Option<Cause> {
        let (since, limit) = match inputs.inference {
            Inference::Busy { since } => (since, config.inference_timeout),
            Inference::Preparing { since } => {
                self.prepared = Some(now);
                (since, PREPARATION_TIMEOUT)
            }
            Inference::Idle => {
                let running = context.running_since?;
                let since = context.last_result.max(self.prepared);
                let since = since.map_or(running, |last| last.max(running));
                (since, config.inference_timeout + config.observation_timeout)
            }
            Inference::Dead => return None,
        };
        let age = now.since(since);
        age.exceeds(limit)
            .then(|| Cause::seconds(Reason::InferenceTimeout, age.seconds(), limit.as_secs_f64()))
    }

    fn check_subscriber(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
    ) -> Option<Cause> {
        if inputs.subscribed || inputs.lifecycle != Lifecycle::Active || config.dry_run {
            self.unsubscribed_since = None;
            return None;
        }
        let time = now.since(*self.unsubscribed_since.get_or_insert(now));
        let limit = config.subscriber_timeout;
        time.exceeds(limit)
            .then(|| Cause::seconds(Reason::SubscriberGone, time.seconds(), limit.as_secs_f64()))
    }
}

fn check_interval(config: &ControlConfig, context: &WatchdogContext) -> Option<Cause> {
    let interval = context.interval?;
    let cause = |reason, limit: Duration| {
        Cause::seconds(reason, interval.as_secs_f64(), limit.as_secs_f64())
    };
    if config.pause <= interval {
        Some(cause(Reason::ProcessPaused, config.pause))
    } else if config.overrun < interval {
        Some(cause(Reason::ControlOverrun, config.overrun))
    } else {
        None
    }
}

fn check_policy(inputs: &Inputs<'_>) -> Option<Cause> {
    if inputs.inference == Inference::Dead {
        return Some(Cause::plain(Reason::InferenceDead));
    }
    match inputs.policy_failure {
        Some(PolicyFailure::Refused) => Some(Cause::plain(Reason::InferenceFailed)),
        // A value that is not finite latches; see the state machine.
        Some(PolicyFailure::NotFinite) | None => None,
    }
}

fn check_pose(now: Instant, config: &ControlConfig, inputs: &Inputs<'_>) -> Option<Cause> {
    config.workspace?;
    let limit_s = config.pose_timeout.as_secs_f64();
    let Some(pose) = inputs.ee_pose else {
        return Some(Cause::plain(Reason::EePoseStale));
    };
    if !pose.position.iter().all(|x| x.is_finite()) {
        return Some(Cause::plain(Reason::EePoseStale));
    }
    let age = now.since(pose.received);
    age.exceeds(config.pose_timeout)
        .then(|| Cause::seconds(Reason::EePoseStale, age.seconds(), limit_s))
}
