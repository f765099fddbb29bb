//! Reads a bag into a plan for the control core: policy steps and poses on one time line that
//! starts at zero.

use std::path::{Path, PathBuf};

use super::report::LimitsSettings;
use crate::EvalError;
use crate::recorded::{ActionKind, ActionSpace, Track};
use rosbag2_reader::messages::{self, PoseStamped};
use rosbag2_reader::{Bag, BagError, Selection, Topic};
use vla_config::{PolicyFile, PolicyGripper};
use vla_control::action_chunk::ChunkStep;

/// Values per action of the control core.
const WIDTH: usize = 7;
/// Longest pause that is replayed, seconds; the arm is at rest well before its end.
const PAUSE: f64 = 5.0;
/// Tolerated deviation of the interval between two actions, as a share of the policy period;
/// within it they follow each other without a pause.
const JITTER: f64 = 0.25;
/// Most poses kept per bag: a day at 100 Hz.
const POSES: usize = 10_000_000;

/// A policy step and when it is given to control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    /// Nanoseconds since the beginning of the plan.
    pub at: u64,
    /// Whether it follows a pause, in which the arm stopped.
    pub after_pause: bool,
    /// The step, in metres and radians.
    pub step: ChunkStep,
    /// Whether the recording has a gripper value for this step.
    pub has_gripper: bool,
}

/// A bag's actions and poses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In ascending order of time.
    pub steps: Vec<Planned>,
    /// Times as in [`Planned::at`], positions in metres; ascending. Empty without a workspace
    /// limit.
    pub poses: Vec<(u64, [f64; 3])>,
    /// Actions with a number that is not finite; they are left out.
    pub not_finite: u64,
    /// Nanoseconds from one step to the next at the policy's rate.
    pub period: u64,
}

/// Result of reading a bag, besides the plan.
#[derive(Debug, Default)]
pub struct ReadResult {
    /// Warnings about the bag.
    pub warnings: Vec<String>,
    /// Why reading ended early.
    pub failure: Option<String>,
}

/// A bag with its topics checked.
pub struct Recording {
    bag: Bag,
    action: Topic,
    gripper: Option<Topic>,
    pose: Option<Topic>,
    kind: ActionKind,
}

impl Recording {
    pub fn open(path: &Path, settings: &LimitsSettings) -> Result<Recording, EvalError> {
        let bag = Bag::open(path)?;
        let find = |name: &Option<String>, types: &[&str]| -> Result<Option<Topic>, BagError> {
            name.as_ref().map(|name| bag.topic_of_type(name, types).cloned()).transpose()
        };
        let action = bag.topic_of_type(&settings.action_topic, &ActionKind::TYPES)?.clone();
        let gripper = find(&settings.gripper_topic, &[messages::FLOAT64])?;
        let pose = find(&settings.pose_topic, &[messages::POSE_STAMPED])?;
        let kind = ActionKind::of(&action)
            .ok_or_else(|| EvalError::Usage(format!("{} holds no actions", action.name)))?;
        Ok(Recording { bag, action, gripper, pose, kind })
    }

    pub fn path(&self) -> &Path {
        self.bag.path()
    }

    /// Reads the bag to its end. `poses`: whether to read them.
    pub fn read(
        &self,
        policy_file: &PolicyFile,
        poses: bool,
    ) -> Result<(Plan, ReadResult), EvalError> {
        let space = ActionSpace {
            dimensions: WIDTH,
            ranges: vec![None; WIDTH],
            policy_hz: policy_file.policy_hz,
        };
        let mut track = Track::new(self.kind, space)?;
        let mut positions: Vec<RecordedPose> = Vec::new();
        let mut result = ReadResult::default();
        let topics =
            [Some(&self.action), self.gripper.as_ref(), self.pose.as_ref().filter(|_| poses)];
        let mut stream = self
            .bag
            .messages(&Selection::topics(topics.into_iter().flatten().map(|topic| topic.index)))?;
        for message in stream.by_ref() {
            let selected = |topic: &Option<Topic>, index: usize| {
                topic.as_ref().filter(|topic| topic.index == index).cloned()
            };
            let taken = message.and_then(|message| {
                if message.topic == self.action.index {
                    return track.push(&self.bag, &message, &self.action);
                }
                if let Some(topic) = selected(&self.gripper, message.topic) {
                    track.push_gripper(&message, &topic)?;
                }
                if let Some(topic) =
                    selected(&self.pose, message.topic).filter(|_| positions.len() < POSES)
                {
                    let pose: PoseStamped = messages::decode(&message, &topic)?;
                    let position = pose.pose.position;
                    positions.push(RecordedPose {
                        log_time: message.log_time,
                        stamp: pose.header.stamp.nanoseconds(),
                        position: [position.x, position.y, position.z],
                    });
                }
                Ok(())
            });
            if let Err(error) = taken {
                result.failure = Some(error.to_string());
                break;
            }
        }
        result.warnings = stream.warnings().iter().map(ToString::to_string).collect();
        let path: PathBuf = self.bag.path().to_owned();
        let (count, values) = track.wrong_size;
        if count > 0 {
            result.warnings.push(format!(
                "{}: {count} actions do not have {WIDTH} values (the first has {values}); they \
                are left out",
                path.display()
            ));
        }
        let plan = plan(&track, self.kind, &positions, policy_file, &path, &mut result.warnings);
        if plan.steps.is_empty() && result.failure.is_none() {
            result.failure = Some(format!(
                "{}: no action on {} can be replayed",
                path.display(),
                self.action.name
            ));
        }
        Ok((plan, result))
    }
}

/// A pose as recorded.
struct RecordedPose {
    log_time: i64,
    stamp: Option<i64>,
    position: [f64; 3],
}

/// Merges actions and poses into one time line, by header stamp where all messages have one, else
/// by log time.
fn plan(
    track: &Track,
    kind: ActionKind,
    positions: &[RecordedPose],
    policy_file: &PolicyFile,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Plan {
    let stamped = positions.iter().all(|pose| pose.stamp.is_some());
    let recorded = track.in_order(stamped);
    if stamped && track.stamps().stands_still() {
        warnings.push(format!(
            "{}: the stamps of the recorded actions stand still; their log times are used",
            path.display()
        ));
    }
    let period = (1e9 / policy_file.policy_hz) as u64;
    let mut plan = Plan { period, ..Plan::default() };
    // Recorded and planned time of each step in use.
    let mut times: Vec<(i64, u64)> = Vec::new();
    for (time, values) in recorded.actions {
        let Some(step) = to_step(&values, kind, policy_file) else {
            plan.not_finite += 1;
            continue;
        };
        let (at, after_pause) = match times.last() {
            None => (0, true),
            Some(&(before, at)) => {
                let (interval, pause) = interval(time.abs_diff(before), period);
                (at + interval, pause)
            }
        };
        times.push((time, at));
        plan.steps.push(Planned {
            at,
            after_pause,
            step,
            has_gripper: values.get(WIDTH - 1).copied().flatten().is_some(),
        });
    }
    if plan.not_finite > 0 {
        warnings.push(format!(
            "{}: {} actions have a number that is not finite; they are left out, where the node \
            would latch a fault",
            path.display(),
            plan.not_finite
        ));
    }
    plan.poses = positions
        .iter()
        .filter(|pose| pose.position.iter().all(|x| x.is_finite()))
        .filter_map(|pose| {
            let time = if recorded.by_stamp { pose.stamp? } else { pose.log_time };
            Some((planned_time(&times, time), pose.position))
        })
        .collect();
    plan.poses.sort_by_key(|(at, _)| *at);
    if !positions.is_empty() && plan.poses.is_empty() {
        warnings.push(format!("{}: no pose can be used", path.display()));
    }
    plan
}

/// Nanoseconds to the next step, and whether the interval is a pause.
fn interval(recorded: u64, period: u64) -> (u64, bool) {
    let share = recorded as f64 / period as f64;
    if (share - 1.0).abs() <= JITTER {
        return (period, false);
    }
    let longest = period.max((PAUSE * 1e9) as u64);
    (recorded.min(longest), share > 1.0)
}

fn to_step(
    values: &[Option<f64>],
    kind: ActionKind,
    policy_file: &PolicyFile,
) -> Option<ChunkStep> {
    let mut action = [0.0; WIDTH];
    for (i, slot) in action.iter_mut().enumerate() {
        *slot = match values.get(i).copied().flatten() {
            Some(value) => value,
            // At the threshold: within the hysteresis, so that control leaves the gripper as it is.
            None if i + 1 == WIDTH => {
                let PolicyGripper { closed, open, threshold, .. } = policy_file.gripper;
                closed + threshold.unwrap_or(0.5) * (open - closed)
            }
            None => return None,
        };
    }
    // A recorded twist is in metres and radians; the other types are in the checkpoint's units.
    Some(if kind == ActionKind::Twist {
        ChunkStep::from_array(action)
    } else {
        policy_file.to_step(action)?
    })
}

/// Maps a recorded time to the plan's time line: interpolated between two steps, shifted by a
/// constant after the last one.
fn planned_time(times: &[(i64, u64)], time: i64) -> u64 {
    let after = times.partition_point(|(recorded, _)| *recorded <= time);
    match (after.checked_sub(1).and_then(|before| times.get(before)), times.get(after)) {
        (Some(&(t0, p0)), Some(&(t1, p1))) => {
            let share = time.abs_diff(t0) as f64 / t1.abs_diff(t0).max(1) as f64;
            p0 + ((p1 - p0) as f64 * share) as u64
        }
        (Some(&(t0, p0)), None) => p0.saturating_add(time.abs_diff(t0)),
        // Before the first step, which is at zero.
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_no_pause_and_pauses_are_bounded() {
        const P: u64 = 200_000_000;
        assert_eq!(interval(P, P), (P, false));
        assert_eq!(interval(P - P / 5, P), (P, false));
        assert_eq!(interval(P + P / 5, P), (P, false));
        assert_eq!(interval(P / 10, P), (P / 10, false));
        assert_eq!(interval(3 * P, P), (3 * P, true));
        assert_eq!(interval(1_000_000 * P, P), (5_000_000_000, true));
        // A policy slower than the longest pause keeps its own period.
        assert_eq!(interval(60_000_000_000, 10_000_000_000), (10_000_000_000, true));
    }

    #[test]
    fn poses_are_interpolated_between_steps() {
        let times = [(1000, 0), (1100, 200), (1200, 1000)];
        for (time, planned) in
            [(0, 0), (1000, 0), (1050, 100), (1100, 200), (1150, 600), (1200, 1000), (1300, 1100)]
        {
            assert_eq!(planned_time(&times, time), planned, "{time}");
        }
        assert_eq!(planned_time(&[], 5), 0);
    }
}
