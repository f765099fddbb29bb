//! Watchdogs: conditions that must hold before and during motion. Timeouts use the steady clock;
//! ROS time is only checked for jumps back.

use super::{
    config::ControlConfig,
    frozen_image::UnchangedImageMonitor,
    inputs::{Inference, Inputs, Lifecycle, PolicyFailure},
    outputs::Twist,
    reason::{Cause, CauseSet, Reason},
};
use crate::time::{Instant, Stamp};
use std::time::Duration;

/// State of the watchdogs between steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watchdogs {
    /// The newest image whose stamp differed from the one before it.
    latest_image: Option<LatestImage>,
    unchanged_image: UnchangedImageMonitor,
    /// The latest ROS time since the last jump.
    latest_ros: Option<Stamp>,
    /// Start of the interval in which the command has had no subscriber.
    unsubscribed_since: Option<Instant>,
}

/// An image at its first arrival.
#[derive(Debug, Clone, Copy)]
struct LatestImage {
    stamp: Stamp,
    received: Instant,
    taken: Instant,
    /// Delay of its stamp behind ROS time at arrival, seconds; negative when ahead.
    behind_s: f64,
}

/// State of the control loop that the watchdogs use besides the inputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchdogContext {
    /// Time since the previous step; `None` in the first.
    pub(super) interval: Option<Duration>,
    /// When motion was last allowed, while it is.
    pub(super) running_since: Option<Instant>,
    /// When the last result arrived, accepted or not.
    pub(super) last_result: Option<Instant>,
    /// The command in force since the previous step.
    pub(super) twist: Twist,
}

impl Watchdogs {
    /// Evaluates all watchdogs and returns the causes of those that fire, in order of priority, at
    /// most eight.
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
        let results = [
            check_interval(config, context),
            self.check_ros_time(config, inputs.ros_now),
            check_policy(inputs),
            self.check_image_age(now, config, inputs),
            self.check_unchanged_image(now, config, inputs, context),
            check_inference(now, config, inputs, context),
            self.check_subscriber(now, config, inputs),
            check_pose(now, config, inputs),
        ];
        results.into_iter().flatten().for_each(|cause| causes.push(cause));
        causes
    }

    /// Age of the newest image with a new stamp.
    pub(super) fn image_age_s(&self, now: Instant) -> Option<f64> {
        self.latest_image.map(|image| now.since(image.taken).seconds())
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

    fn check_image_age(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
    ) -> Option<Cause> {
        let Some(image) = inputs.image else {
            return Some(Cause::plain(Reason::ImageMissing));
        };
        // A driver that repeats one message delivers no new image: only a new stamp counts.
        let latest = match self.latest_image {
            Some(latest) if latest.stamp == image.stamp => latest,
            _ => LatestImage {
                stamp: image.stamp,
                received: image.received,
                taken: image.taken(),
                behind_s: image.ros_received.seconds_since(image.stamp),
            },
        };
        self.latest_image = Some(latest);
        let (past_s, future_s) = (config.stamp_past_tolerance_s, config.stamp_future_tolerance_s);
        if past_s < latest.behind_s {
            return Some(Cause::seconds(Reason::ImageStampPast, latest.behind_s, past_s));
        }
        if future_s < -latest.behind_s {
            return Some(Cause::seconds(Reason::ImageStampFuture, -latest.behind_s, future_s));
        }
        let age = now.since(latest.taken);
        if !age.exceeds(config.observation_timeout) {
            return None;
        }
        let repeated = latest.received < image.received;
        let frozen = repeated && !now.since(image.received).exceeds(config.observation_timeout);
        let reason = if frozen { Reason::ImageFrozen } else { Reason::ImageStale };
        Some(Cause::seconds(reason, age.seconds(), config.observation_timeout.as_secs_f64()))
    }

    fn check_unchanged_image(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        context: &WatchdogContext,
    ) -> Option<Cause> {
        let before = now.before(context.interval.unwrap_or_default());
        self.unchanged_image.update(before, now, &context.twist, inputs.image.as_ref());
        // A dry run executes no motion; motion before a deactivation does not count afterwards.
        if inputs.lifecycle != Lifecycle::Active || config.dry_run {
            self.unchanged_image.reset_motion();
        }
        self.unchanged_image.check(&config.unchanged_image)
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

/// While busy: the time since inference began. While running and idle: the time since the last
/// result, so that a worker that never begins is detected too; a worker that waits for the next
/// image may take as long as an image may be old.
fn check_inference(
    now: Instant,
    config: &ControlConfig,
    inputs: &Inputs<'_>,
    context: &WatchdogContext,
) -> Option<Cause> {
    let (since, limit) = match inputs.inference {
        Inference::Busy { since } => (since, config.inference_timeout),
        Inference::Idle => {
            let running = context.running_since?;
            let since = context.last_result.map_or(running, |last| last.max(running));
            (since, config.inference_timeout + config.observation_timeout)
        }
        Inference::Dead => return None,
    };
    let age = now.since(since);
    age.exceeds(limit)
        .then(|| Cause::seconds(Reason::InferenceTimeout, age.seconds(), limit.as_secs_f64()))
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
