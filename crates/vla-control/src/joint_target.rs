//! Where the setpoint of the joints is to go in a tick, from the active chunk.

use std::{
    f64::consts::{PI, TAU},
    time::Duration,
};

use super::{
    chunk_player::ChunkPlayer,
    joint_config::{JointSpace, PerJoint},
};
use crate::action_chunk::{JOINTS_MAX, WIDTH_MAX};
use crate::time::Instant;

/// A continuous joint this close to its target is there: after whole turns the last bits of a
/// target are rounding.
const SNAP: f64 = 1e-12;

/// The way that was left to a chunk when it began, and how long closing it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blend {
    pub(super) offset: PerJoint,
    pub(super) began: Instant,
    pub(super) length_s: f64,
}

impl Blend {
    /// The part that is left at `at`: from 1 to 0.
    pub(super) fn left(&self, at: Instant) -> f64 {
        let passed = at.since(self.began).seconds();
        if self.length_s <= passed { 0.0 } else { 1.0 - passed / self.length_s }
    }
}

/// What the setpoint follows.
#[derive(Debug)]
pub(super) struct JointTarget<'a> {
    pub(super) space: &'a JointSpace,
    pub(super) player: &'a ChunkPlayer,
    /// How far ahead chunks are read.
    pub(super) lead: Duration,
    pub(super) blend: Option<&'a Blend>,
}

/// Result of [`JointTarget::way_by_velocity`].
#[derive(Debug, Clone, Copy)]
pub(super) struct VelocityWay {
    pub(super) way: PerJoint,
    /// Whether the velocities were scaled to their limits.
    pub(super) scaled: bool,
}

impl JointTarget<'_> {
    /// The positions that the setpoint should have at `at`, on the chunk's line, within the
    /// position limits; for a continuous joint the turn that is nearest to the setpoint.
    pub(super) fn line(&self, at: Instant, setpoint: &PerJoint) -> Option<PerJoint> {
        let line = self.player.line_at(at.after(self.lead))?;
        let mut positions = [0.0; JOINTS_MAX];
        for (joint, slot) in positions.iter_mut().enumerate().take(self.space.count) {
            let x = setpoint[joint];
            let (from, to) = if self.is_continuous(joint) {
                let from = x + turn(line.from[joint] - x);
                (from, from + turn(line.to[joint] - from))
            } else {
                let [low, high] = self.allowed(joint, x);
                (line.from[joint].clamp(low, high), line.to[joint].clamp(low, high))
            };
            *slot = if line.part == 1.0 { to } else { from + (to - from) * line.part };
        }
        Some(positions)
    }

    /// The line, with what is left of a seam.
    pub(super) fn reference(&self, at: Instant, setpoint: &PerJoint) -> Option<PerJoint> {
        let mut positions = self.line(at, setpoint)?;
        let left = self.blend.map_or(0.0, |blend| blend.left(at));
        if let Some(blend) = self.blend.filter(|_| 0.0 < left) {
            positions.iter_mut().zip(blend.offset).for_each(|(x, offset)| *x += offset * left);
        }
        Some(positions)
    }

    /// The displacement of a tick that ends at `end`, towards the chunk's positions.
    pub(super) fn way_to_position(&self, end: Instant, setpoint: &PerJoint) -> Option<PerJoint> {
        let mut way = self.reference(end, setpoint)?;
        for (joint, slot) in way.iter_mut().enumerate().take(self.space.count) {
            let (x, target) = (setpoint[joint], *slot);
            *slot = if self.is_continuous(joint) {
                let way = turn(target - x);
                if way.abs() < SNAP { 0.0 } else { way }
            } else {
                let [low, high] = self.allowed(joint, x);
                target.clamp(low, high) - x
            };
        }
        Some(way)
    }

    /// The displacement of a tick that ends at `end`, with the chunk's velocities.
    pub(super) fn way_by_velocity(
        &self,
        end: Instant,
        setpoint: &PerJoint,
        tick_s: f64,
    ) -> Option<VelocityWay> {
        let mut row = [0.0; WIDTH_MAX];
        let (whole, _) = self.player.position_at(end.after(self.lead))?;
        self.player.row_ahead(whole as i64, &mut row);
        let factor = (0..self.space.count)
            .filter(|joint| self.space.velocity[*joint] < row[*joint].abs())
            .map(|joint| self.space.velocity[joint] / row[joint].abs())
            .fold(1.0, f64::min);
        let mut way = [0.0; JOINTS_MAX];
        for (joint, slot) in way.iter_mut().enumerate().take(self.space.count) {
            let x = setpoint[joint];
            let [low, high] = self.allowed(joint, x);
            *slot = (row[joint] * factor * tick_s).clamp(low - x, high - x);
        }
        Some(VelocityWay { way, scaled: factor < 1.0 })
    }

    /// The interval in which the setpoint `x` may move: within the limits, or inwards.
    fn allowed(&self, joint: usize, x: f64) -> [f64; 2] {
        [self.space.min[joint].min(x), self.space.max[joint].max(x)]
    }

    fn is_continuous(&self, joint: usize) -> bool {
        self.space.max[joint] == f64::INFINITY
    }
}

/// The angle less whole turns, within -pi..=pi.
fn turn(angle: f64) -> f64 {
    if angle.abs() <= PI {
        return angle;
    }
    let turned = (angle + PI).rem_euclid(TAU) - PI;
    turned.clamp(-PI, PI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_left_out() {
        for (angle, expected) in [
            (0.0, 0.0),
            (3.0, 3.0),
            (-3.0, -3.0),
            (4.0, 4.0 - TAU),
            (-4.0, TAU - 4.0),
            (1.0 + 10.0 * TAU, 1.0),
        ] {
            assert!((turn(angle) - expected).abs() < 1e-12, "{angle}: {}", turn(angle));
        }
        for huge in [f64::MAX, f64::MIN, 1e300] {
            assert!(turn(huge).abs() <= PI);
        }
    }

    #[test]
    fn a_seam_closes_in_its_time() {
        let began = Instant::from_nanoseconds(1_000_000_000);
        let blend = Blend { offset: [1.0; JOINTS_MAX], began, length_s: 0.5 };
        let left = |ms: u64| blend.left(Instant::from_nanoseconds(ms * 1_000_000));
        assert_eq!(
            [left(0), left(1000), left(1250), left(1500), left(9000)],
            [1.0, 1.0, 0.5, 0.0, 0.0]
        );
    }
}
