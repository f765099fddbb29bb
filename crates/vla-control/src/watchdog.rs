//! Watchdogs: what must be true before and while the robot moves. All on the steady clock; ROS time
//! is only watched for jumping back.

use super::{
    config::ControlConfig,
    frozen_image::UnchangedImage,
    reason::{Cause, Reason},
    types::{Inference, Inputs, Lifecycle, PolicyFailure, Twist},
};
use crate::time::{Instant, Stamp};
use std::time::Duration;

/// What the watchdogs remember between steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watchdogs {
    /// The newest image whose stamp differed from the one before it.
    newest_image: Option<Newest>,
    unchanged_image: UnchangedImage,
    /// The latest ROS time seen since the last jump.
    ros_high: Option<Stamp>,
    /// Since when the command has had no subscriber.
    alone_since: Option<Instant>,
}

/// An image at its first arrival.
#[derive(Debug, Clone, Copy)]
struct Newest {
    stamp: Stamp,
    received: Instant,
    taken: Instant,
    /// How far its stamp lay behind ROS time when it arrived; negative when ahead.
    behind_s: f64,
}

/// What else a watchdog looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// Time since the step before; `None` in the first.
    pub(super) interval: Option<Duration>,
    /// When motion was last allowed, while it is.
    pub(super) running_since: Option<Instant>,
    /// When the last result arrived, taken or not.
    pub(super) last_result: Option<Instant>,
    /// The command in force since the step before.
    pub(super) twist: Twist,
}

impl Watchdogs {
    /// Looks at everything; the first cause in the order below is the one that is told.
    ///
    /// Called in every step and every state, so that memory is right when it matters.
    pub(super) fn look(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        around: &Around,
    ) -> Option<Cause> {
        let paused = look_at_interval(config, around);
        let jumped = self.look_at_ros_time(config, inputs.ros_now);
        let image = self.look_at_images(now, config, inputs);
        let unchanged = self.look_at_pictures(now, config, inputs, around);
        let subscriber = self.look_at_subscriber(now, config, inputs);
        paused
            .or(jumped)
            .or_else(|| look_at_policy(inputs))
            .or(image)
            .or(unchanged)
            .or_else(|| look_at_inference(now, config, inputs, around))
            .or(subscriber)
            .or_else(|| look_at_pose(now, config, inputs))
    }

    /// Age of the newest image whose stamp was new.
    pub(super) fn image_age_s(&self, now: Instant) -> Option<f64> {
        self.newest_image.map(|newest| now.since(newest.taken).seconds())
    }

    fn look_at_ros_time(&mut self, config: &ControlConfig, ros_now: Stamp) -> Option<Cause> {
        let Some(high) = self.ros_high else {
            self.ros_high = Some(ros_now);
            return None;
        };
        let back_s = high.seconds_since(ros_now);
        if config.clock_jump_tolerance_s < back_s {
            self.ros_high = Some(ros_now);
            return Some(Cause::seconds(
                Reason::ClockJumpedBack,
                back_s,
                config.clock_jump_tolerance_s,
            ));
        }
        self.ros_high = Some(high.max(ros_now));
        None
    }

    fn look_at_images(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
    ) -> Option<Cause> {
        let Some(image) = inputs.image else {
            return Some(Cause::plain(Reason::ImageMissing));
        };
        // A camera that repeats one image has stopped seeing: only a new stamp counts as a new
        // image.
        let newest = match self.newest_image {
            Some(newest) if newest.stamp == image.stamp => newest,
            _ => {
                let behind_s = image.ros_received.seconds_since(image.stamp);
                Newest {
                    stamp: image.stamp,
                    received: image.received,
                    taken: image.taken(),
                    behind_s,
                }
            }
        };
        self.newest_image = Some(newest);
        if config.stamp_past_tolerance_s < newest.behind_s {
            return Some(Cause::seconds(
                Reason::ImageStampPast,
                newest.behind_s,
                config.stamp_past_tolerance_s,
            ));
        }
        if config.stamp_future_tolerance_s < -newest.behind_s {
            return Some(Cause::seconds(
                Reason::ImageStampFuture,
                -newest.behind_s,
                config.stamp_future_tolerance_s,
            ));
        }
        let age = now.since(newest.taken);
        if !age.exceeds(config.observation_timeout) {
            return None;
        }
        let repeated = newest.received < image.received;
        let frozen = repeated && !now.since(image.received).exceeds(config.observation_timeout);
        let reason = if frozen { Reason::ImageFrozen } else { Reason::ImageStale };
        Some(Cause::seconds(reason, age.seconds(), config.observation_timeout.as_secs_f64()))
    }

    fn look_at_pictures(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        around: &Around,
    ) -> Option<Cause> {
        let before = now.before(around.interval.unwrap_or_default());
        self.unchanged_image.see(before, now, &around.twist, inputs.image.as_ref());
        // In a dry run nothing is driven; and what was driven before a deactivation is long past
        // when the robot moves again.
        if inputs.lifecycle != Lifecycle::Active || config.dry_run {
            self.unchanged_image.forget_travel();
        }
        self.unchanged_image.complaint(&config.unchanged_image)
    }

    fn look_at_subscriber(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
    ) -> Option<Cause> {
        if inputs.subscribed || inputs.lifecycle != Lifecycle::Active || config.dry_run {
            self.alone_since = None;
            return None;
        }
        let alone = now.since(*self.alone_since.get_or_insert(now));
        alone.exceeds(config.subscriber_timeout).then(|| {
            Cause::seconds(
                Reason::SubscriberGone,
                alone.seconds(),
                config.subscriber_timeout.as_secs_f64(),
            )
        })
    }
}

fn look_at_interval(config: &ControlConfig, around: &Around) -> Option<Cause> {
    let interval = around.interval?;
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

fn look_at_policy(inputs: &Inputs<'_>) -> Option<Cause> {
    if inputs.inference == Inference::Dead {
        return Some(Cause::plain(Reason::InferenceDead));
    }
    match inputs.policy_failure {
        Some(PolicyFailure::Refused) => Some(Cause::plain(Reason::InferenceFailed)),
        // Not finite latches; the state machine sees to that.
        Some(PolicyFailure::NotFinite) | None => None,
    }
}

/// While busy: the time since inference began. While running and idle: the time since the last sign
/// of life, so that a worker that never begins is noticed too; a worker that waits for the next
/// image may take as long as an image may be old.
fn look_at_inference(
    now: Instant,
    config: &ControlConfig,
    inputs: &Inputs<'_>,
    around: &Around,
) -> Option<Cause> {
    let (since, limit) = match inputs.inference {
        Inference::Busy { since } => (since, config.inference_timeout),
        Inference::Idle => {
            let running = around.running_since?;
            let since = around.last_result.map_or(running, |last| last.max(running));
            (since, config.inference_timeout + config.observation_timeout)
        }
        Inference::Dead => return None,
    };
    let age = now.since(since);
    age.exceeds(limit)
        .then(|| Cause::seconds(Reason::InferenceTimeout, age.seconds(), limit.as_secs_f64()))
}

fn look_at_pose(now: Instant, config: &ControlConfig, inputs: &Inputs<'_>) -> Option<Cause> {
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
