//! What was asked, what was commanded, and the difference.
//!
//! Asked are the recorded actions as velocities, `step * policy_hz`. Their acceleration is the
//! change from one action to the next over the time between them, and their jerk the change of
//! that; the arm begins at rest, and is at rest again after a pause. Commanded is what control
//! would have published; its acceleration and jerk are differences from command to command.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::control_replay::Moment;
use super::recorded_actions::Plan;
use crate::Percentiles;
use crate::step::dimension_names;
use vla_control::{Intervention, InterventionSet, RawControlConfig, Twist};

/// By which share of itself a component must have been changed to count: control keeps 2e-7 off its
/// velocity limit.
const CHANGED: f64 = 1e-6;

type V3 = [f64; 3];

/// Largest values of what was commanded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Commanded {
    /// Per second.
    pub velocity: f64,
    /// Per second squared.
    pub acceleration: f64,
    /// Per second cubed.
    pub jerk: f64,
}

/// Translation or rotation: lengths of vectors, in metres or radians.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Motion {
    /// Velocities that were asked for, action by action.
    pub asked_velocity: Option<Percentiles>,
    /// Accelerations that were asked for, from action to action.
    pub asked_acceleration: Option<Percentiles>,
    /// Jerks that were asked for, from action to action.
    pub asked_jerk: Option<Percentiles>,
    /// Largest values of what was commanded.
    pub commanded: Commanded,
    /// Length of the way asked for.
    pub path_asked: f64,
    /// Length of the way commanded.
    pub path_commanded: f64,
    /// How far the commanded motion was from the one asked for, at most.
    pub offset_max: f64,
    /// The same at the end of each bag, the largest of them.
    pub offset_end: f64,
}

/// One dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DimensionChange {
    /// Its name.
    pub name: String,
    /// Largest velocity asked for, per second.
    pub asked_peak: f64,
    /// Largest velocity commanded, per second.
    pub commanded_peak: f64,
    /// Actions of which envelope, step cap, workspace or velocity limit changed this dimension.
    pub clipped: u64,
    /// Their share of all actions.
    pub clipped_share: f64,
}

/// How often control did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterventionCount {
    /// As in `Status`.
    pub name: String,
    /// Commands in which it happened.
    pub commands: u64,
    /// Actions during which it happened.
    pub actions: u64,
}

/// The gripper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GripperChanges {
    /// Changes between open and closed in the recording, the first word included.
    pub asked: u64,
    /// Changes that were commanded.
    pub commanded: u64,
}

/// Where the end effector was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// Poses recorded.
    pub n: u64,
    /// Smallest x, y, z, metres.
    pub min: V3,
    /// Largest x, y, z, metres.
    pub max: V3,
    /// Poses outside the box of the robot file, its margin not counted.
    pub outside: u64,
}

/// What the limits made of one bag, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Actions that were replayed.
    pub actions: u64,
    /// Actions that were replaced before a command was due: they came faster than commands.
    pub unseen: u64,
    /// Actions with a number that is not finite; left out.
    pub unusable: u64,
    /// Intervals between actions in which the policy's step ended and nothing followed.
    pub pauses: u64,
    /// Seconds replayed, until the arm was at rest.
    pub seconds: f64,
    /// Commands.
    pub commands: u64,
    /// Metres.
    pub linear: Motion,
    /// Radians.
    pub angular: Motion,
    /// dx, dy, dz, droll, dpitch, dyaw.
    pub dimensions: Vec<DimensionChange>,
    /// What control did, in the order of `Status`; only what happened.
    pub interventions: Vec<InterventionCount>,
    /// The gripper.
    pub gripper: GripperChanges,
    /// Where the end effector was, where poses were read.
    pub positions: Option<Positions>,
}

/// Running sums of one group of axes.
#[derive(Debug, Default)]
struct Group {
    velocities: Vec<f64>,
    accelerations: Vec<f64>,
    jerks: Vec<f64>,
    /// Velocity and acceleration of the action before.
    asked: (V3, V3),
    commanded: (V3, V3),
    peaks: Commanded,
    path: (f64, f64),
    offset: V3,
    offset_max: f64,
    offset_end: f64,
}

impl Group {
    fn ask(&mut self, velocity: V3, interval_s: f64, from_rest: bool) {
        let (before, acceleration_before) =
            if from_rest { ([0.0; 3], [0.0; 3]) } else { self.asked };
        let acceleration = rate(velocity, before, interval_s);
        self.velocities.push(norm(velocity));
        self.accelerations.push(norm(acceleration));
        self.jerks.push(norm(rate(acceleration, acceleration_before, interval_s)));
        self.asked = (velocity, acceleration);
    }

    fn command(&mut self, desired: V3, commanded: V3, period_s: f64) {
        let acceleration = rate(commanded, self.commanded.0, period_s);
        let jerk = rate(acceleration, self.commanded.1, period_s);
        self.commanded = (commanded, acceleration);
        self.peaks = Commanded {
            velocity: self.peaks.velocity.max(norm(commanded)),
            acceleration: self.peaks.acceleration.max(norm(acceleration)),
            jerk: self.peaks.jerk.max(norm(jerk)),
        };
        self.path =
            (self.path.0 + norm(desired) * period_s, self.path.1 + norm(commanded) * period_s);
        for i in 0..3 {
            self.offset[i] += (desired[i] - commanded[i]) * period_s;
        }
        self.offset_end = norm(self.offset);
        self.offset_max = self.offset_max.max(self.offset_end);
    }

    fn join(&mut self, other: &Group) {
        self.velocities.extend_from_slice(&other.velocities);
        self.accelerations.extend_from_slice(&other.accelerations);
        self.jerks.extend_from_slice(&other.jerks);
        self.peaks = Commanded {
            velocity: self.peaks.velocity.max(other.peaks.velocity),
            acceleration: self.peaks.acceleration.max(other.peaks.acceleration),
            jerk: self.peaks.jerk.max(other.peaks.jerk),
        };
        self.path = (self.path.0 + other.path.0, self.path.1 + other.path.1);
        self.offset_max = self.offset_max.max(other.offset_max);
        self.offset_end = self.offset_end.max(other.offset_end);
    }

    fn motion(&self) -> Motion {
        Motion {
            asked_velocity: Percentiles::of(&self.velocities),
            asked_acceleration: Percentiles::of(&self.accelerations),
            asked_jerk: Percentiles::of(&self.jerks),
            commanded: self.peaks,
            path_asked: self.path.0,
            path_commanded: self.path.1,
            offset_max: self.offset_max,
            offset_end: self.offset_end,
        }
    }
}

/// Sums that grow with each command.
pub struct Measure {
    config: RawControlConfig,
    policy_period_s: f64,
    linear: Group,
    angular: Group,
    peaks: [(f64, f64); 6],
    clipped: [u64; 6],
    counts: BTreeMap<u8, (u64, u64)>,
    /// What happened to the action that plays.
    open: Option<Open>,
    actions: u64,
    unseen: u64,
    unusable: u64,
    pauses: u64,
    commands: u64,
    seconds: f64,
    gripper: GripperChanges,
    gripper_open: Option<bool>,
    last_asked: Option<u64>,
    positions: Option<Positions>,
}

/// An action that plays.
#[derive(Default)]
struct Open {
    clipped: [bool; 6],
    interventions: Vec<u8>,
}

impl Measure {
    pub fn new(config: &RawControlConfig, policy_hz: f64) -> Measure {
        Measure {
            config: *config,
            policy_period_s: 1.0 / policy_hz,
            linear: Group::default(),
            angular: Group::default(),
            peaks: [(0.0, 0.0); 6],
            clipped: [0; 6],
            counts: BTreeMap::new(),
            open: None,
            actions: 0,
            unseen: 0,
            unusable: 0,
            pauses: 0,
            commands: 0,
            seconds: 0.0,
            gripper: GripperChanges::default(),
            gripper_open: None,
            last_asked: None,
            positions: None,
        }
    }

    pub fn take(&mut self, moment: Moment<'_>) {
        if let Some(planned) = moment.came.last() {
            self.close();
            self.actions += moment.came.len() as u64;
            self.unseen += moment.came.len() as u64 - 1;
            self.open = Some(Open::default());
            // An action that no command has seen asks for nothing.
            let from_rest = moment.came.iter().any(|planned| planned.after_pause);
            self.pauses += u64::from(from_rest && self.last_asked.is_some());
            let interval = self
                .last_asked
                .filter(|_| !from_rest)
                .map(|before| (planned.at - before) as f64 * 1e-9);
            self.last_asked = Some(planned.at);
            let interval_s = interval.filter(|interval| *interval > 0.0);
            self.ask(&moment.desired, interval_s, from_rest);
            if planned.has_gripper {
                self.ask_gripper(planned.step.gripper);
            }
        }
        self.command(&moment);
    }

    fn ask(&mut self, desired: &Twist, interval_s: Option<f64>, from_rest: bool) {
        // From rest the policy's own period is what the arm has.
        let interval_s = interval_s.unwrap_or(self.policy_period_s);
        self.linear.ask(desired.linear, interval_s, from_rest);
        self.angular.ask(desired.angular, interval_s, from_rest);
    }

    fn ask_gripper(&mut self, value: f64) {
        let gripper = &self.config.gripper;
        let value = if gripper.invert { 1.0 - value } else { value };
        let open = value > gripper.threshold;
        self.gripper.asked += u64::from(self.gripper_open != Some(open));
        self.gripper_open = Some(open);
    }

    fn command(&mut self, moment: &Moment<'_>) {
        self.commands += 1;
        self.seconds = moment.time_s;
        self.gripper.commanded += moment.gripper_changes;
        self.linear.command(moment.desired.linear, moment.commanded.linear, moment.period_s);
        self.angular.command(moment.desired.angular, moment.commanded.angular, moment.period_s);
        let (desired, target, commanded) =
            (six(&moment.desired), six(&moment.target), six(&moment.commanded));
        for i in 0..6 {
            self.peaks[i] =
                (self.peaks[i].0.max(desired[i].abs()), self.peaks[i].1.max(commanded[i].abs()));
        }
        self.count(moment.interventions);
        if let Some(open) = self.open.as_mut() {
            for i in 0..6 {
                open.clipped[i] |= (desired[i] - target[i]).abs() > CHANGED * desired[i].abs();
            }
        }
    }

    fn count(&mut self, interventions: InterventionSet) {
        for which in interventions.iter().map(|which| which as u8) {
            self.counts.entry(which).or_default().0 += 1;
            if let Some(open) =
                self.open.as_mut().filter(|open| !open.interventions.contains(&which))
            {
                open.interventions.push(which);
            }
        }
    }

    /// The action that plays is over.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        for (count, clipped) in self.clipped.iter_mut().zip(open.clipped) {
            *count += u64::from(clipped);
        }
        for which in open.interventions {
            self.counts.entry(which).or_default().1 += 1;
        }
    }

    /// The bag is at its end.
    pub fn finish(&mut self, plan: &Plan) {
        self.close();
        self.unusable += plan.unusable;
        for (_, position) in &plan.poses {
            let seen = self.positions.get_or_insert(Positions {
                n: 0,
                min: *position,
                max: *position,
                outside: 0,
            });
            seen.n += 1;
            seen.min = std::array::from_fn(|i| seen.min[i].min(position[i]));
            seen.max = std::array::from_fn(|i| seen.max[i].max(position[i]));
            let inside = |area: &vla_control::RawWorkspace| {
                (0..3).all(|i| (area.min[i]..=area.max[i]).contains(&position[i]))
            };
            seen.outside +=
                u64::from(self.config.workspace.as_ref().is_some_and(|area| !inside(area)));
        }
    }

    /// Adds another bag, which is finished.
    pub fn join(&mut self, other: &Measure) {
        self.linear.join(&other.linear);
        self.angular.join(&other.angular);
        for i in 0..6 {
            self.peaks[i] =
                (self.peaks[i].0.max(other.peaks[i].0), self.peaks[i].1.max(other.peaks[i].1));
            self.clipped[i] += other.clipped[i];
        }
        for (which, (commands, actions)) in &other.counts {
            let count = self.counts.entry(*which).or_default();
            *count = (count.0 + commands, count.1 + actions);
        }
        self.actions += other.actions;
        self.unseen += other.unseen;
        self.unusable += other.unusable;
        self.pauses += other.pauses;
        self.commands += other.commands;
        self.seconds += other.seconds;
        self.gripper.asked += other.gripper.asked;
        self.gripper.commanded += other.gripper.commanded;
        self.positions = match (self.positions, other.positions) {
            (Some(a), Some(b)) => Some(Positions {
                n: a.n + b.n,
                min: std::array::from_fn(|i| a.min[i].min(b.min[i])),
                max: std::array::from_fn(|i| a.max[i].max(b.max[i])),
                outside: a.outside + b.outside,
            }),
            (a, b) => a.or(b),
        };
    }

    pub fn sums(&self) -> Sums {
        let share =
            |count: u64| if self.actions == 0 { 0.0 } else { count as f64 / self.actions as f64 };
        let dimensions = dimension_names(7).into_iter().take(6).enumerate();
        Sums {
            actions: self.actions,
            unseen: self.unseen,
            unusable: self.unusable,
            pauses: self.pauses,
            seconds: self.seconds,
            commands: self.commands,
            linear: self.linear.motion(),
            angular: self.angular.motion(),
            dimensions: dimensions
                .map(|(i, name)| DimensionChange {
                    name,
                    asked_peak: self.peaks[i].0,
                    commanded_peak: self.peaks[i].1,
                    clipped: self.clipped[i],
                    clipped_share: share(self.clipped[i]),
                })
                .collect(),
            interventions: self
                .counts
                .iter()
                .map(|(which, &(commands, actions))| InterventionCount {
                    name: Intervention::NAMES[usize::from(*which)].to_owned(),
                    commands,
                    actions,
                })
                .collect(),
            gripper: self.gripper,
            positions: self.positions,
        }
    }
}

fn six(twist: &Twist) -> [f64; 6] {
    let ([x, y, z], [r, p, w]) = (twist.linear, twist.angular);
    [x, y, z, r, p, w]
}

fn norm(v: V3) -> f64 {
    v[0].hypot(v[1]).hypot(v[2])
}

fn rate(now: V3, before: V3, interval_s: f64) -> V3 {
    std::array::from_fn(|i| (now[i] - before[i]) / interval_s)
}
