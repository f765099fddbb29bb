//! Desired motion, commanded motion, and their difference.
//!
//! The desired velocity is `step * policy_hz` of the recorded action. Its acceleration is the
//! change from one action to the next over the time between them, its jerk the change of that; the
//! arm starts at rest, and is at rest again after a pause. Commanded is what the node would have
//! published; acceleration and jerk are differences from command to command.

use std::collections::BTreeMap;

use super::control_replay::CommandPeriod;
use super::recorded_actions::Plan;
use super::summary::{
    CommandPeaks, DimensionSummary, GripperChanges, InterventionCount, LimitsSummary, Motion,
    Positions,
};
use crate::Percentiles;
use crate::step::dimension_names;
use vla_control::{Intervention, InterventionSet, RawControlConfig, Twist};

/// Relative change from which a component counts as clipped: control keeps a distance of 2e-7 from
/// its velocity limit.
const CLIPPED: f64 = 1e-6;

type V3 = [f64; 3];

/// Running sums of translation or rotation.
#[derive(Debug, Default)]
struct AxisGroup {
    velocities: Vec<f64>,
    accelerations: Vec<f64>,
    jerks: Vec<f64>,
    /// Velocity and acceleration of the previous action.
    desired: (V3, V3),
    /// Velocity and acceleration of the previous command.
    commanded: (V3, V3),
    peaks: CommandPeaks,
    /// Desired and commanded path length.
    path: (f64, f64),
    deviation: V3,
    deviation_max: f64,
    deviation_end: f64,
}

impl AxisGroup {
    fn add_action(&mut self, velocity: V3, interval_s: f64, from_rest: bool) {
        let (before, acceleration_before) =
            if from_rest { ([0.0; 3], [0.0; 3]) } else { self.desired };
        let acceleration = rate(velocity, before, interval_s);
        self.velocities.push(norm(velocity));
        self.accelerations.push(norm(acceleration));
        self.jerks.push(norm(rate(acceleration, acceleration_before, interval_s)));
        self.desired = (velocity, acceleration);
    }

    fn add_command(&mut self, desired: V3, commanded: V3, period_s: f64) {
        let acceleration = rate(commanded, self.commanded.0, period_s);
        let jerk = rate(acceleration, self.commanded.1, period_s);
        self.commanded = (commanded, acceleration);
        self.peaks = CommandPeaks {
            velocity: self.peaks.velocity.max(norm(commanded)),
            acceleration: self.peaks.acceleration.max(norm(acceleration)),
            jerk: self.peaks.jerk.max(norm(jerk)),
        };
        self.path =
            (self.path.0 + norm(desired) * period_s, self.path.1 + norm(commanded) * period_s);
        for i in 0..3 {
            self.deviation[i] += (desired[i] - commanded[i]) * period_s;
        }
        self.deviation_end = norm(self.deviation);
        self.deviation_max = self.deviation_max.max(self.deviation_end);
    }

    fn join(&mut self, other: &AxisGroup) {
        self.velocities.extend_from_slice(&other.velocities);
        self.accelerations.extend_from_slice(&other.accelerations);
        self.jerks.extend_from_slice(&other.jerks);
        self.peaks = CommandPeaks {
            velocity: self.peaks.velocity.max(other.peaks.velocity),
            acceleration: self.peaks.acceleration.max(other.peaks.acceleration),
            jerk: self.peaks.jerk.max(other.peaks.jerk),
        };
        self.path = (self.path.0 + other.path.0, self.path.1 + other.path.1);
        self.deviation_max = self.deviation_max.max(other.deviation_max);
        self.deviation_end = self.deviation_end.max(other.deviation_end);
    }

    fn motion(&self) -> Motion {
        Motion {
            desired_velocity: Percentiles::of(&self.velocities),
            desired_acceleration: Percentiles::of(&self.accelerations),
            desired_jerk: Percentiles::of(&self.jerks),
            commanded: self.peaks,
            desired_path: self.path.0,
            commanded_path: self.path.1,
            deviation_max: self.deviation_max,
            deviation_end: self.deviation_end,
        }
    }
}

/// Sums that grow with each command.
pub struct Measure {
    config: RawControlConfig,
    policy_period_s: f64,
    linear: AxisGroup,
    angular: AxisGroup,
    peaks: [(f64, f64); 6],
    clipped: [u64; 6],
    counts: BTreeMap<u8, (u64, u64)>,
    /// The action in progress.
    current: Option<CurrentAction>,
    actions: u64,
    superseded: u64,
    not_finite: u64,
    pauses: u64,
    commands: u64,
    seconds: f64,
    gripper: GripperChanges,
    gripper_open: Option<bool>,
    last_action: Option<u64>,
    positions: Option<Positions>,
}

/// What has happened since the newest action began.
#[derive(Default)]
struct CurrentAction {
    clipped: [bool; 6],
    interventions: Vec<u8>,
}

impl Measure {
    pub fn new(config: &RawControlConfig, policy_hz: f64) -> Measure {
        Measure {
            config: *config,
            policy_period_s: 1.0 / policy_hz,
            linear: AxisGroup::default(),
            angular: AxisGroup::default(),
            peaks: [(0.0, 0.0); 6],
            clipped: [0; 6],
            counts: BTreeMap::new(),
            current: None,
            actions: 0,
            superseded: 0,
            not_finite: 0,
            pauses: 0,
            commands: 0,
            seconds: 0.0,
            gripper: GripperChanges::default(),
            gripper_open: None,
            last_action: None,
            positions: None,
        }
    }

    pub fn take(&mut self, period: CommandPeriod<'_>) {
        if let Some(planned) = period.actions.last() {
            self.close();
            self.actions += period.actions.len() as u64;
            self.superseded += period.actions.len() as u64 - 1;
            self.current = Some(CurrentAction::default());
            // Superseded actions have no effect; only the last one counts.
            let from_rest = period.actions.iter().any(|planned| planned.after_pause);
            self.pauses += u64::from(from_rest && self.last_action.is_some());
            let interval = self
                .last_action
                .filter(|_| !from_rest)
                .map(|before| (planned.at - before) as f64 * 1e-9);
            self.last_action = Some(planned.at);
            let interval_s = interval.filter(|interval| *interval > 0.0);
            self.add_action(&period.desired, interval_s, from_rest);
            if planned.has_gripper {
                self.add_gripper(planned.step.gripper);
            }
        }
        self.add_command(&period);
    }

    fn add_action(&mut self, desired: &Twist, interval_s: Option<f64>, from_rest: bool) {
        // From rest the arm has one policy period.
        let interval_s = interval_s.unwrap_or(self.policy_period_s);
        self.linear.add_action(desired.linear, interval_s, from_rest);
        self.angular.add_action(desired.angular, interval_s, from_rest);
    }

    fn add_gripper(&mut self, value: f64) {
        let gripper = &self.config.gripper;
        let value = if gripper.invert { 1.0 - value } else { value };
        let open = value > gripper.threshold;
        self.gripper.desired += u64::from(self.gripper_open != Some(open));
        self.gripper_open = Some(open);
    }

    fn add_command(&mut self, period: &CommandPeriod<'_>) {
        self.commands += 1;
        self.seconds = period.time_s;
        self.gripper.commanded += period.gripper_changes;
        self.linear.add_command(period.desired.linear, period.commanded.linear, period.period_s);
        self.angular.add_command(period.desired.angular, period.commanded.angular, period.period_s);
        let [desired, target, commanded] =
            [period.desired, period.target, period.commanded].map(components);
        for i in 0..6 {
            self.peaks[i] =
                (self.peaks[i].0.max(desired[i].abs()), self.peaks[i].1.max(commanded[i].abs()));
        }
        self.count(period.interventions);
        if let Some(current) = self.current.as_mut() {
            for i in 0..6 {
                current.clipped[i] |= (desired[i] - target[i]).abs() > CLIPPED * desired[i].abs();
            }
        }
    }

    fn count(&mut self, interventions: InterventionSet) {
        for which in interventions.iter().map(|which| which as u8) {
            self.counts.entry(which).or_default().0 += 1;
            if let Some(current) =
                self.current.as_mut().filter(|current| !current.interventions.contains(&which))
            {
                current.interventions.push(which);
            }
        }
    }

    /// Counts the action in progress, which has ended.
    fn close(&mut self) {
        let Some(current) = self.current.take() else { return };
        for (count, clipped) in self.clipped.iter_mut().zip(current.clipped) {
            *count += u64::from(clipped);
        }
        for which in current.interventions {
            self.counts.entry(which).or_default().1 += 1;
        }
    }

    /// Ends a bag and adds its poses.
    pub fn finish(&mut self, plan: &Plan) {
        self.close();
        self.not_finite += plan.not_finite;
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

    /// Adds the sums of another, finished bag.
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
        self.superseded += other.superseded;
        self.not_finite += other.not_finite;
        self.pauses += other.pauses;
        self.commands += other.commands;
        self.seconds += other.seconds;
        self.gripper.desired += other.gripper.desired;
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

    pub fn summary(&self) -> LimitsSummary {
        let share =
            |count: u64| if self.actions == 0 { 0.0 } else { count as f64 / self.actions as f64 };
        let dimensions = dimension_names(7).into_iter().take(6).enumerate();
        LimitsSummary {
            actions: self.actions,
            superseded: self.superseded,
            not_finite: self.not_finite,
            pauses: self.pauses,
            seconds: self.seconds,
            commands: self.commands,
            linear: self.linear.motion(),
            angular: self.angular.motion(),
            dimensions: dimensions
                .map(|(i, name)| DimensionSummary {
                    name,
                    desired_max: self.peaks[i].0,
                    commanded_max: self.peaks[i].1,
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

/// vx, vy, vz, then the angular rates.
pub(super) fn components(twist: Twist) -> [f64; 6] {
    let ([x, y, z], [r, p, w]) = (twist.linear, twist.angular);
    [x, y, z, r, p, w]
}

fn norm(v: V3) -> f64 {
    v[0].hypot(v[1]).hypot(v[2])
}

fn rate(now: V3, before: V3, interval_s: f64) -> V3 {
    std::array::from_fn(|i| (now[i] - before[i]) / interval_s)
}
