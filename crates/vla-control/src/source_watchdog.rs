//! Watchdogs of one source: a camera, a state source, or the measured joint positions.

use super::{
    config::ControlConfig,
    frozen_image::UnchangedImageMonitor,
    inputs::{ImageSeen, Inputs, JointsSeen, Lifecycle, StateSeen},
    joint_config::{JointSpace, UNIT},
    reason::{Cause, Reason, Source},
    watchdog::WatchdogContext,
};
use crate::time::{Instant, Stamp};

/// State of one camera's watchdogs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CameraWatchdog {
    /// The newest image whose stamp differed from the one before it.
    latest: Option<LatestImage>,
    unchanged: UnchangedImageMonitor,
}

/// State of one state source's watchdog.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StateWatchdog {
    /// The newest message whose stamp differed from the one before it.
    latest: Option<LatestState>,
}

/// A state at its first arrival.
#[derive(Debug, Clone, Copy)]
struct LatestState {
    stamp: Stamp,
    taken: Instant,
    /// As [`LatestImage::behind_s`].
    behind_s: f64,
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

impl CameraWatchdog {
    /// Capture time of the newest image with a new stamp.
    pub(super) fn taken(&self) -> Option<Instant> {
        self.latest.map(|image| image.taken)
    }

    pub(super) fn check_age(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        image: Option<ImageSeen>,
    ) -> Option<Cause> {
        let Some(image) = image else {
            return Some(Cause::plain(Reason::ImageMissing));
        };
        // A driver that repeats one message delivers no new image: only a new stamp counts.
        let latest = match self.latest {
            Some(latest) if latest.stamp == image.stamp => latest,
            _ => LatestImage {
                stamp: image.stamp,
                received: image.received,
                taken: image.taken(),
                behind_s: image.ros_received.seconds_since(image.stamp),
            },
        };
        self.latest = Some(latest);
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

    pub(super) fn check_unchanged(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        inputs: &Inputs<'_>,
        image: Option<&ImageSeen>,
        context: &WatchdogContext,
    ) -> Option<Cause> {
        let before = now.before(context.interval.unwrap_or_default());
        self.unchanged.update(before, now, &context.twist, image);
        // A dry run executes no motion; motion before a deactivation does not count afterwards.
        if inputs.lifecycle != Lifecycle::Active || config.dry_run {
            self.unchanged.reset_motion();
        }
        self.unchanged.check(&config.unchanged_image)
    }
}

impl StateWatchdog {
    /// Time of the newest message with a new stamp.
    pub(super) fn taken(&self) -> Option<Instant> {
        self.latest.map(|state| state.taken)
    }

    /// Presence, completeness, stamp and age of a state source's newest message.
    pub(super) fn check(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        state: Option<StateSeen>,
    ) -> Option<Cause> {
        let Some(state) = state else {
            return Some(Cause::plain(Reason::StateMissing));
        };
        // A driver that repeats one message delivers no new state: only a new stamp counts.
        let latest = match self.latest {
            Some(latest) if latest.stamp == state.stamp => latest,
            _ => LatestState {
                stamp: state.stamp,
                taken: state.taken(),
                behind_s: state.ros_received.seconds_since(state.stamp),
            },
        };
        self.latest = Some(latest);
        if !state.complete {
            return Some(Cause::plain(Reason::StateInvalid));
        }
        let (past_s, future_s) = (config.stamp_past_tolerance_s, config.stamp_future_tolerance_s);
        if past_s < latest.behind_s {
            return Some(Cause::seconds(Reason::StateStamp, latest.behind_s, past_s));
        }
        if future_s < -latest.behind_s {
            return Some(Cause::seconds(Reason::StateStamp, latest.behind_s, -future_s));
        }
        let (age, limit) = (now.since(latest.taken), config.state_timeout);
        age.exceeds(limit)
            .then(|| Cause::seconds(Reason::StateStale, age.seconds(), limit.as_secs_f64()))
    }

    /// The measured joint positions: as a state source, and every joint needs a finite position
    /// that is not far outside of its limits: an arm is commanded to start where it is, so that a
    /// wrong unit or a glitch would become a command.
    pub(super) fn check_joints(
        &mut self,
        now: Instant,
        config: &ControlConfig,
        space: &JointSpace,
        joints: Option<&JointsSeen>,
    ) -> Option<Cause> {
        let believed = |joint: usize, x: f64| space.lowest[joint] <= x && x <= space.highest[joint];
        let missing = joints.and_then(|seen| {
            (0..space.count).find(|joint| !believed(*joint, seen.positions[*joint]))
        });
        let state = joints.map(|seen| StateSeen {
            received: seen.received,
            stamp: seen.stamp,
            ros_received: seen.ros_received,
            complete: missing.is_none(),
        });
        let source = missing.map_or(Source::Joints, |joint| Source::Joint(joint as u8));
        let cause = self.check(now, config, state)?;
        let implausible = missing.zip(joints).map(|(joint, seen)| (joint, seen.positions[joint]));
        let cause = match implausible.filter(|(_, x)| x.is_finite()) {
            Some((joint, x)) => {
                let limit =
                    if x < space.lowest[joint] { space.lowest } else { space.highest }[joint];
                Cause::measured(cause.reason, x, limit, UNIT)
            }
            None => cause,
        };
        Some(cause.of(source))
    }
}
