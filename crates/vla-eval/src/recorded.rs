//! The recorded actions of a bag: collected while it is read, matched to frames at its end.
//!
//! - `openvla_tt_msgs/Action`: the first step of the chunk, with its tokens.
//! - `std_msgs/Float64MultiArray`: the numbers, in physical units per policy period.
//! - A row of a LeRobot dataset: the numbers, as those of an array.
//! - `geometry_msgs/TwistStamped`: velocities divided by the policy rate; the gripper from a
//!   `std_msgs/Float64` topic: the value nearest to the twist within the tolerance, else the last
//!   one before it.

use serde::{Deserialize, Serialize};

use super::clock::StampLog;
use super::tokens::{ActionTokens, normalize};
use super::{EvalError, Recorded};
use rosbag2_reader::align::{ActionMatch, match_action};
use rosbag2_reader::messages::{self, Action, Float64, Float64MultiArray, TwistStamped};
use rosbag2_reader::{Bag, BagError, Message, Topic};

/// Most recorded actions kept per bag: a day at 100 Hz.
const MAX_ACTIONS: usize = 10_000_000;

/// Message type of the recorded actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// `openvla_tt_msgs/Action`
    Action,
    /// `std_msgs/Float64MultiArray`
    Array,
    /// `geometry_msgs/TwistStamped`
    Twist,
    /// A row of a LeRobot dataset, which has image and action.
    Row,
}

impl ActionKind {
    /// Types of an action topic.
    pub const TYPES: [&'static str; 3] =
        [messages::ACTION, messages::FLOAT64_MULTI_ARRAY, messages::TWIST_STAMPED];

    /// By the type of the topic.
    pub fn of(topic: &Topic) -> Option<ActionKind> {
        match topic.type_name.as_str() {
            messages::ACTION => Some(ActionKind::Action),
            messages::FLOAT64_MULTI_ARRAY => Some(ActionKind::Array),
            messages::TWIST_STAMPED => Some(ActionKind::Twist),
            _ => None,
        }
    }

    /// Default of `--match` for this type.
    pub fn default_match(self) -> ActionMatch {
        match self {
            ActionKind::Action | ActionKind::Row => ActionMatch::Exact,
            ActionKind::Array | ActionKind::Twist => ActionMatch::Next,
        }
    }
}

/// The policy's action space.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionSpace {
    /// Numbers per action.
    pub dimensions: usize,
    /// 1st and 99th percentile of each dimension; `None` where the value passes through.
    pub ranges: Vec<Option<(f64, f64)>>,
    /// Rate of the policy, hertz: a twist times its period is a step.
    pub policy_hz: f64,
}

/// Values over time, `width` per message.
#[derive(Debug, Default)]
struct Series {
    log_times: Vec<i64>,
    /// Header stamps; as long as `log_times` if every message has one.
    stamps: Vec<i64>,
    /// `width` values per message.
    values: Vec<f64>,
    width: usize,
    /// Token ids, for `Action` messages.
    tokens: Vec<u32>,
}

impl Series {
    fn push(&mut self, log_time: i64, stamp: Option<i64>, values: &[f64]) {
        self.log_times.push(log_time);
        self.stamps.extend(stamp);
        self.values.extend_from_slice(values);
        self.width = values.len();
    }

    /// Index of the action for an image, and its time: the header stamp if both have one, else the
    /// log time.
    fn find(
        &self,
        order: &Clocks,
        image: (i64, Option<i64>),
        how: ActionMatch,
        tolerance: i64,
    ) -> Option<(usize, i64)> {
        let (clock, time) = match image.1 {
            Some(stamp) if self.stamps.len() == self.log_times.len() => (&order.stamps, stamp),
            _ => (&order.log_times, image.0),
        };
        let place = match_action(&clock.times, time, how, tolerance)?;
        Some((clock.rows[place], clock.times[place]))
    }
}

/// Times in ascending order, each with the index of its message.
struct Clock {
    times: Vec<i64>,
    rows: Vec<usize>,
}

struct Clocks {
    log_times: Clock,
    stamps: Clock,
}

impl Clock {
    fn new(times: &[i64]) -> Clock {
        let mut rows: Vec<usize> = (0..times.len()).collect();
        // Stable: of equal times, the message recorded first comes first.
        rows.sort_by_key(|&row| times[row]);
        Clock { times: rows.iter().map(|&row| times[row]).collect(), rows }
    }
}

impl Clocks {
    fn new(series: &Series) -> Clocks {
        Clocks { log_times: Clock::new(&series.log_times), stamps: Clock::new(&series.stamps) }
    }
}

/// Actions by time.
pub struct InOrder {
    /// Whether the times are header stamps; otherwise they are log times.
    pub by_stamp: bool,
    /// Nanoseconds since the epoch, and the values as in [`Recorded::action`]; ascending.
    pub actions: Vec<(i64, Vec<Option<f64>>)>,
}

/// The recorded actions of one bag.
pub struct Track {
    kind: ActionKind,
    space: ActionSpace,
    actions: Series,
    gripper: Series,
    /// Number of messages with the wrong number of values, and the size of the first of them.
    pub wrong_size: (u64, usize),
}

impl Track {
    /// An empty track for a topic of `kind`.
    pub fn new(kind: ActionKind, space: ActionSpace) -> Result<Track, EvalError> {
        if kind == ActionKind::Twist && space.dimensions != 7 {
            return Err(EvalError::Usage(format!(
                "a TwistStamped has 6 dimensions and a gripper, the policy has {}; record its \
                actions as Float64MultiArray",
                space.dimensions
            )));
        }
        Ok(Track {
            kind,
            space,
            actions: Series::default(),
            gripper: Series::default(),
            wrong_size: (0, 0),
        })
    }

    /// Number of actions.
    pub fn len(&self) -> usize {
        self.actions.log_times.len()
    }

    /// Stamps of the actions; empty where not every action has one.
    pub fn stamps(&self) -> StampLog {
        let mut log = StampLog::default();
        if self.actions.stamps.len() == self.len() {
            let times = self.actions.log_times.iter().zip(&self.actions.stamps);
            times.for_each(|(&log_time, &stamp)| log.add(log_time, Some(stamp)));
        }
        log
    }

    /// Time from the nearest action to any of the frames, nanoseconds; by the clock of
    /// [`Track::matched`].
    pub fn nearest(&self, frames: &[(i64, Option<i64>)]) -> Option<u64> {
        let clocks = Clocks::new(&self.actions);
        let distance = |frame: &(i64, Option<i64>)| {
            let (_, time) = self.actions.find(&clocks, *frame, ActionMatch::Nearest, i64::MAX)?;
            let by_stamp = self.actions.stamps.len() == self.len();
            Some(time.abs_diff(frame.1.filter(|_| by_stamp).unwrap_or(frame.0)))
        };
        frames.iter().filter_map(distance).min()
    }

    /// Adds the action of a row, in physical units per policy period.
    pub fn push_row(&mut self, time: i64, values: &[f64]) {
        if values.len() == self.space.dimensions && self.len() < MAX_ACTIONS {
            self.actions.push(time, None, values);
        } else {
            self.count_wrong_size(values.len());
        }
    }

    /// Adds a message of the action topic.
    pub fn push(&mut self, bag: &Bag, message: &Message, topic: &Topic) -> Result<(), BagError> {
        if self.len() >= MAX_ACTIONS {
            return Err(BagError::TooLarge {
                path: bag.path().to_owned(),
                what: "the number of recorded actions",
                value: MAX_ACTIONS as u64 + 1,
                limit: MAX_ACTIONS as u64,
            });
        }
        let dimensions = self.space.dimensions;
        match self.kind {
            ActionKind::Action => {
                let action: Action = messages::decode(message, topic)?;
                // Only the first step belongs to this image.
                let Some(first) = action
                    .action
                    .get(..dimensions)
                    .filter(|_| action.dimension as usize == dimensions)
                else {
                    self.count_wrong_size(action.dimension as usize);
                    return Ok(());
                };
                self.actions.push(message.log_time, action.header.stamp.nanoseconds(), first);
                if let Some(tokens) = action.token_ids.get(..dimensions) {
                    self.actions.tokens.extend_from_slice(tokens);
                }
            }
            ActionKind::Array => {
                let array: Float64MultiArray = messages::decode(message, topic)?;
                let start = array.layout.data_offset as usize;
                match array.data.get(start..).filter(|values| values.len() == dimensions) {
                    Some(values) => self.actions.push(message.log_time, None, values),
                    None => self.count_wrong_size(array.data.len().saturating_sub(start)),
                }
            }
            // No topic has them.
            ActionKind::Row => {}
            ActionKind::Twist => {
                let stamped: TwistStamped = messages::decode(message, topic)?;
                let (linear, angular) = (stamped.twist.linear, stamped.twist.angular);
                let step = [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
                    .map(|v| v / self.space.policy_hz);
                self.actions.push(message.log_time, stamped.header.stamp.nanoseconds(), &step);
            }
        }
        Ok(())
    }

    /// Adds a message of the gripper topic.
    pub fn push_gripper(&mut self, message: &Message, topic: &Topic) -> Result<(), BagError> {
        let value: Float64 = messages::decode(message, topic)?;
        if self.gripper.log_times.len() < MAX_ACTIONS {
            self.gripper.push(message.log_time, None, &[value.data]);
        }
        Ok(())
    }

    fn count_wrong_size(&mut self, values: usize) {
        if self.wrong_size.0 == 0 {
            self.wrong_size.1 = values;
        }
        self.wrong_size.0 += 1;
    }

    /// All actions in ascending order of time: the header stamp if `stamped` and every action has
    /// one and they move, else the log time. Of two with the same time, the one recorded first.
    pub fn in_order(&self, stamped: bool) -> InOrder {
        let every = self.len() > 0 && self.actions.stamps.len() == self.len();
        let by_stamp = stamped && every && !self.stamps().stands_still();
        let mut times =
            if by_stamp { self.actions.stamps.clone() } else { self.actions.log_times.clone() };
        times.sort_unstable();
        times.dedup();
        let queries: Vec<(i64, Option<i64>)> =
            times.iter().map(|&time| (time, by_stamp.then_some(time))).collect();
        // The tolerance concerns the gripper of a twist, as in an evaluation.
        let tolerance = (1e9 / self.space.policy_hz) as i64;
        let found =
            self.matched(&queries, ActionMatch::Exact, tolerance, None).into_iter().flatten();
        InOrder {
            by_stamp,
            actions: found.map(|recorded| (recorded.time, recorded.action)).collect(),
        }
    }

    /// Finds the actions of frames, each given by its log time and stamp.
    pub fn matched(
        &self,
        frames: &[(i64, Option<i64>)],
        how: ActionMatch,
        tolerance: i64,
        tokens: Option<ActionTokens>,
    ) -> Vec<Option<Recorded>> {
        let (clocks, gripper_clocks) = (Clocks::new(&self.actions), Clocks::new(&self.gripper));
        let one = |&frame: &(i64, Option<i64>)| {
            let (row, time) = self.actions.find(&clocks, frame, how, tolerance)?;
            let width = self.actions.width;
            let mut action: Vec<Option<f64>> =
                self.actions.values[row * width..][..width].iter().map(|&v| Some(v)).collect();
            if self.kind == ActionKind::Twist {
                // The command given with the twist; a gripper command holds until the next one.
                let at = (self.actions.log_times[row], None);
                let near = self.gripper.find(&gripper_clocks, at, ActionMatch::Nearest, tolerance);
                let held = || self.gripper.find(&gripper_clocks, at, ActionMatch::Latest, i64::MAX);
                action.push(near.or_else(held).map(|(row, _)| self.gripper.values[row]));
            }
            Some(self.record(row, time, action, tokens))
        };
        frames.iter().map(one).collect()
    }

    fn record(
        &self,
        row: usize,
        time: i64,
        action: Vec<Option<f64>>,
        tokens: Option<ActionTokens>,
    ) -> Recorded {
        // A recorded NaN counts as not recorded.
        let action: Vec<Option<f64>> =
            action.into_iter().map(|value| value.filter(|value| value.is_finite())).collect();
        let pairs = action.iter().zip(&self.space.ranges);
        let normalized: Vec<Option<f64>> =
            pairs.map(|(value, range)| value.map(|value| normalize(value, *range))).collect();
        let dimensions = self.space.dimensions;
        let recorded_tokens = self.actions.tokens.get(row * dimensions..(row + 1) * dimensions);
        let complete = self.actions.tokens.len() == self.len() * dimensions;
        let token_ids = match (tokens, recorded_tokens) {
            (None, _) => Vec::new(),
            (Some(_), Some(ids)) if complete => ids.iter().map(|&id| Some(id)).collect(),
            (Some(tokens), _) => {
                normalized.iter().map(|value| value.map(|value| tokens.encode(value))).collect()
            }
        };
        Recorded { time, action, normalized, token_ids }
    }
}
