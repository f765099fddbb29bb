//! Which frames become rows: those with an action, in episodes without long gaps; and their rate.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Conversion;
use crate::episode::Episode;
use crate::recorded::{ActionKind, ActionSpace};
use crate::run::match_actions;
use crate::step::{Outcome, Paired, Step};
use crate::{EvalError, Settings};
use rosbag2_reader::messages::{self, Action, Float64MultiArray};
use rosbag2_reader::{Bag, Selection};

/// Reason by which frames without an action are counted.
const NO_ACTION: &str = "no recorded action";
/// Share by which the bags' rate may differ from whole rows per second.
const RATE: f64 = 0.05;
/// Share of a period by which a row may be early or late before it is counted.
const UNEVEN: f64 = 0.25;

/// What becomes of the frames of a bag.
#[derive(Default)]
pub struct BagRows {
    /// Actions by number of the frame: the rows.
    pub actions: HashMap<u64, Vec<f64>>,
    /// Numbers of the frames that are no rows.
    pub left_out: HashSet<u64>,
    /// Numbers of the rows that begin another episode.
    pub begins: HashSet<u64>,
    /// How many frames are no rows, by reason.
    pub skipped: Vec<(String, u64)>,
    /// Number and time of each row, nanoseconds.
    times: Vec<(u64, i64)>,
}

/// What becomes of all bags.
#[derive(Default)]
pub struct Planned {
    pub bags: Vec<BagRows>,
    pub warnings: Vec<String>,
}

/// Numbers of a recorded action.
pub fn action_width(settings: &Settings) -> Result<usize, EvalError> {
    let usage = |line: String| Err(EvalError::Usage(line));
    let Some(topic) = &settings.action_topic else {
        return usage("no --action-topic: a row of a dataset needs an action".to_owned());
    };
    for path in &settings.bags {
        let bag = Bag::open(path)?;
        let found = bag.topic_of_type(topic, &ActionKind::TYPES)?.clone();
        let kind = ActionKind::of(&found);
        if kind == Some(ActionKind::Twist) {
            if settings.gripper_topic.is_none() {
                return usage(format!(
                    "{topic} is a TwistStamped, which has no gripper; give --gripper-topic, or \
                    record the actions as Float64MultiArray"
                ));
            }
            return Ok(7);
        }
        let Some(message) = bag.messages(&Selection::topics([found.index]))?.next() else {
            continue;
        };
        let message = message?;
        let width = if kind == Some(ActionKind::Action) {
            messages::decode::<Action>(&message, &found)?.dimension as usize
        } else {
            let array: Float64MultiArray = messages::decode(&message, &found)?;
            array.data.len().saturating_sub(array.layout.data_offset as usize)
        };
        if width == 0 || 4096 < width {
            return usage(format!("the first action on {topic} has {width} numbers"));
        }
        return Ok(width);
    }
    usage(format!("{topic} has no message in any bag; name the topic of the actions"))
}

/// Reads times and actions of all bags and chooses the rows.
pub fn plan(
    conversion: &Conversion,
    episodes: &[Episode],
    stop: &AtomicBool,
) -> Result<Planned, EvalError> {
    let settings = &conversion.settings;
    let dimensions = settings.policy.action_dim;
    let ranges = vec![None; dimensions];
    let space = ActionSpace { dimensions, ranges, policy_hz: settings.policy_hz };
    let mut planned = Planned::default();
    for (bag, episode) in episodes.iter().enumerate() {
        let mut pairs: Vec<Paired> = Vec::new();
        let mut result =
            episode.read(bag, settings, episode.track(&space)?, &HashSet::new(), &mut |frame| {
                let step = Step {
                    bag,
                    frame: frame.number,
                    log_time: frame.log_time,
                    stamp: frame.stamp,
                    size: (0, 0),
                    instruction: String::new(),
                    outcome: Outcome::Failure(String::new()),
                };
                pairs.push(Paired { step, recorded: None });
                !stop.load(Ordering::Relaxed)
            });
        if let Some(error) = result.failure.take() {
            return Err(error);
        }
        let matching = match_actions(settings, episode, &result, None, pairs.iter_mut().collect());
        let name = episode.path().display();
        planned.warnings.append(&mut result.warnings);
        let lines = matching.warnings.iter().map(|warning| format!("{name}: {warning}"));
        planned.warnings.extend(lines);
        let mut rows = BagRows::default();
        let mut skipped: Vec<(String, u64)> = Vec::new();
        for (reason, (count, first)) in &result.skipped {
            planned.warnings.push(format!("{name}: {count} frames left out, {reason} ({first})"));
            skipped.push(((*reason).to_owned(), *count));
        }
        let without = choose(&pairs, &mut rows);
        if 0 < without {
            skipped.push((NO_ACTION.to_owned(), without));
        }
        rows.skipped = skipped;
        planned.bags.push(rows);
    }
    Ok(planned)
}

/// Frames whose action is complete are rows; returns the number of the others.
fn choose(pairs: &[Paired], rows: &mut BagRows) -> u64 {
    let mut without = 0;
    // Of one clock: a stamp is never compared with a log time.
    let stamped = pairs.iter().all(|pair| pair.step.stamp.is_some());
    for pair in pairs {
        let number = pair.step.frame;
        let action: Option<Vec<f64>> =
            pair.recorded.as_ref().and_then(|recorded| recorded.action.iter().copied().collect());
        match action {
            Some(action) => {
                let time = pair.step.stamp.filter(|_| stamped).unwrap_or(pair.step.log_time);
                rows.times.push((number, time));
                rows.actions.insert(number, action);
            }
            None => {
                without += 1;
                rows.left_out.insert(number);
            }
        }
    }
    without
}

/// Rows per second, from the times of the rows; divides the bags into episodes at long gaps.
pub fn rate(conversion: &Conversion, planned: &mut Planned) -> Result<u32, EvalError> {
    let usage = |line: String| Err(EvalError::Usage(line));
    let gaps = |rows: &BagRows| -> Vec<(u64, f64)> {
        let pairs = rows.times.windows(2);
        pairs.map(|pair| (pair[1].0, pair[1].1.saturating_sub(pair[0].1) as f64 * 1e-9)).collect()
    };
    let mut all: Vec<f64> =
        planned.bags.iter().flat_map(gaps).map(|(_, seconds)| seconds).collect();
    all.retain(|seconds| 0.0 < *seconds);
    all.sort_by(f64::total_cmp);
    let measured = all.get(all.len() / 2).map(|median| 1.0 / median);
    let fps = match (conversion.fps, measured) {
        (Some(given), _) => given,
        (None, None) => {
            if planned.bags.iter().all(|rows| rows.times.is_empty()) {
                let names: Vec<String> = planned.warnings.iter().take(3).cloned().collect();
                return usage(format!("no frame has an action: {}", names.join("; ")));
            }
            return usage("one row has no rate; give --fps".to_owned());
        }
        (None, Some(rate)) => {
            let whole = rate.round().clamp(1.0, 10_000.0);
            if (rate - whole).abs() > RATE * whole {
                return usage(format!(
                    "the rows come at {rate:.2} Hz and a dataset has whole rows per second; give \
                    --fps, or --every N for fewer rows"
                ));
            }
            whole as u32
        }
    };
    let period = 1.0 / f64::from(fps);
    if let Some(rate) = measured.filter(|rate| (rate - f64::from(fps)).abs() > RATE * rate) {
        planned.warnings.push(format!(
            "the rows come at {rate:.2} Hz and are stored as {fps} per second, as --fps says"
        ));
    }
    let policy = conversion.settings.policy_hz;
    if (policy - f64::from(fps)).abs() > RATE * policy {
        planned.warnings.push(format!(
            "actions are steps of 1/{policy} s (--policy-hz), rows are 1/{fps} s apart: give the \
            rate of the actions, or --every N for rows at that rate"
        ));
    }
    let longest = conversion.longest_gap_s.max(2.5 * period);
    let (mut uneven, mut rows, mut divided) = (0, 0, 0);
    for bag in &mut planned.bags {
        rows += bag.times.len();
        for (number, seconds) in gaps(bag) {
            if seconds > longest {
                bag.begins.insert(number);
                divided += 1;
            } else if (seconds - period).abs() > UNEVEN * period {
                uneven += 1;
            }
        }
    }
    if 0 < divided {
        planned.warnings.push(format!(
            "{divided} gaps are longer than {longest} s; after each another episode begins"
        ));
    }
    if 0 < uneven {
        planned.warnings.push(format!(
            "{uneven} of {rows} rows are not 1/{fps} s after the row before; a dataset has evenly \
            spaced rows, so that their times are numbers of rows by {fps}"
        ));
    }
    Ok(fps)
}
