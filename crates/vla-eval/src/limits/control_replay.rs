//! Steps the control core through a plan as the node's control loop does, with a camera and a
//! policy that never fail.

use std::time::Duration;

use super::recorded_actions::{Plan, Planned};
use crate::EvalError;
use vla_control::action_chunk::{ActionChunk, ChunkOrigin};
use vla_control::time::{Instant, Stamp};
use vla_control::{
    ControlConfig, ControlState, Event, ImageSeen, Inputs, InterventionSet, Lifecycle, PoseSeen,
    Requests, State, Twist, step,
};

/// Longest time to come to rest after the last step, nanoseconds. Configurations allow stops of at
/// most 3 s.
const SETTLE: u64 = 10_000_000_000;

/// One command period.
#[derive(Debug, Clone, Copy)]
pub struct CommandPeriod<'a> {
    /// Seconds since the beginning of the plan.
    pub time_s: f64,
    /// Seconds to the next command.
    pub period_s: f64,
    /// Steps since the last command, the newest one last; it is the one in effect.
    pub actions: &'a [Planned],
    /// Velocity of the step.
    pub desired: Twist,
    /// After envelope, step cap, workspace and velocity limit.
    pub target: Twist,
    /// After the jerk limiter: what would have been published.
    pub commanded: Twist,
    /// Limits that changed this command.
    pub interventions: InterventionSet,
    /// Changes of the gripper's command.
    pub gripper_changes: u64,
}

/// Replays a plan; `visit` gets every command period in order.
///
/// # Errors
/// When the control core leaves RUNNING, which would invalidate the numbers.
pub fn replay(
    plan: &Plan,
    config: &ControlConfig,
    policy_hz: f64,
    visit: &mut dyn FnMut(CommandPeriod<'_>),
) -> Result<(), EvalError> {
    let Some(last) = plan.steps.last() else { return Ok(()) };
    let mut state = ControlState::new(*config);
    let period = u64::try_from(config.period().as_nanos()).unwrap_or(u64::MAX).max(1);
    let end = last.at.saturating_add(plan.period);
    let (mut next, mut steps_begun, mut now) = (0, 0, 0u64);
    loop {
        let begin = next;
        while plan.steps.get(next).is_some_and(|planned| planned.at <= now) {
            next += 1;
        }
        let actions = &plan.steps[begin..next];
        let instant = Instant::from_nanoseconds(now);
        // Any epoch will do; a stamp of zero means "not stamped".
        let stamp =
            Stamp::from_nanoseconds(i64::try_from(now).unwrap_or(i64::MAX).saturating_add(1));
        let origin = ChunkOrigin {
            generation: next as u64,
            instruction_generation: 1,
            image_stamp: stamp,
            image_taken: instant,
            inference_started: instant,
            steps_begun_at_observation: steps_begun,
            observation_spread: Duration::ZERO,
        };
        let chunk = actions
            .last()
            .map(|planned| ActionChunk::new(origin, policy_hz, vec![planned.step]))
            .transpose();
        let chunk = chunk.map_err(|error| EvalError::Usage(error.to_string()))?;
        let pose = config.needs_ee_pose().then(|| position_at(&plan.poses, now)).flatten();
        let inputs = Inputs {
            ros_now: stamp,
            lifecycle: Lifecycle::Active,
            requests: Requests { enable: (now == 0).then_some(true), ..Requests::default() },
            instruction: Some(1),
            images: &[Some(ImageSeen {
                received: instant,
                stamp,
                ros_received: stamp,
                unchanged_since: instant,
            })],
            ee_pose: pose.map(|position| PoseSeen { received: instant, position }),
            chunk: chunk.as_ref(),
            ..Inputs::default()
        };
        let output = step(instant, &mut state, &inputs);
        if output.state != State::Running {
            return Err(EvalError::Usage(format!(
                "control stopped {} s into the replay: {}",
                now as f64 * 1e-9,
                output.cause
            )));
        }
        steps_begun = output.steps_begun;
        visit(CommandPeriod {
            time_s: now as f64 * 1e-9,
            period_s: period as f64 * 1e-9,
            actions,
            desired: output.motion.desired,
            target: output.motion.target,
            commanded: output.motion.limited,
            interventions: output.motion.interventions,
            gripper_changes: output
                .events
                .iter()
                .filter(|event| matches!(event, Event::Gripper { .. }))
                .count() as u64,
        });
        if (end <= now && output.at_rest) || end.saturating_add(SETTLE) <= now {
            return Ok(());
        }
        now = now.saturating_add(period);
    }
}

/// The position between the two poses around `at`; the first or the last one outside.
fn position_at(poses: &[(u64, [f64; 3])], at: u64) -> Option<[f64; 3]> {
    let after = poses.partition_point(|(time, _)| *time <= at);
    match (after.checked_sub(1).map(|before| poses[before]), poses.get(after)) {
        (Some((t0, a)), Some(&(t1, b))) => {
            let share = (at - t0) as f64 / (t1 - t0).max(1) as f64;
            Some(std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share))
        }
        (Some((_, only)), None) | (None, Some(&(_, only))) => Some(only),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_interpolated() {
        let poses = [(100, [0.0, 0.0, 1.0]), (200, [1.0, 0.0, 0.0])];
        assert_eq!(position_at(&poses, 0), Some([0.0, 0.0, 1.0]));
        assert_eq!(position_at(&poses, 150), Some([0.5, 0.0, 0.5]));
        assert_eq!(position_at(&poses, 900), Some([1.0, 0.0, 0.0]));
        assert_eq!(position_at(&[], 5), None);
    }
}
