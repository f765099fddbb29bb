//! The proprioceptive state of an observation, assembled from messages as the policy file says.
//! The node and the evaluation of recordings use the same code.

use super::{StatePart, StateSource};

/// A topic that the state is assembled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateTopic {
    /// `sensor_msgs/JointState`.
    JointStates,
    /// `geometry_msgs/PoseStamped`.
    EePose,
    /// `std_msgs/Float64` of a gripper, on this topic.
    Gripper(String),
}

impl StateTopic {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::JointStates => "joint_states",
            Self::EePose => "ee_pose",
            Self::Gripper(topic) => topic,
        }
    }
}

/// A message that cannot be used as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateMessageError {
    /// Arrays of different lengths.
    #[error("joint_states has {names} names but {values} {what}; check the driver")]
    Length {
        /// Names in the message.
        names: usize,
        /// Values in the message.
        values: usize,
        /// Which values.
        what: &'static str,
    },
    /// A joint that occurs twice.
    #[error("joint_states names joint '{0}' twice; check the driver")]
    Twice(String),
}

/// The newest value of a joint.
#[derive(Debug, Clone, Copy)]
struct Reading {
    position: f64,
    velocity: f64,
    /// Seconds on the clock of the caller.
    at: f64,
}

/// Assembles the state of a policy.
#[derive(Debug, Clone)]
pub struct StateAssembler {
    parts: Vec<StatePart>,
    topics: Vec<StateTopic>,
    /// Joints that are wanted, of the state or beside it, and their newest readings.
    joints: Vec<(String, Option<Reading>)>,
    /// Longest time that a joint's reading holds while messages do not name it, seconds.
    hold_s: f64,
    pose: Option<([f64; 3], [f64; 4])>,
    grippers: Vec<Option<f64>>,
}

impl StateAssembler {
    /// For the parts of a policy file. `others` are joints that are wanted beside the state. A
    /// joint that messages stop naming, as where two drivers publish on one topic, counts as
    /// unknown after `hold_s`.
    #[must_use]
    pub fn new(parts: &[StatePart], others: &[String], hold_s: f64) -> Self {
        let mut topics: Vec<StateTopic> = Vec::new();
        let mut joints: Vec<(String, Option<Reading>)> = Vec::new();
        let mut add = |topic: StateTopic| {
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        };
        let mut want = |name: &String| {
            if !joints.iter().any(|(known, _)| known == name) {
                joints.push((name.clone(), None));
            }
        };
        for part in parts {
            match &part.source {
                StateSource::JointPosition(names) | StateSource::JointVelocity(names) => {
                    add(StateTopic::JointStates);
                    names.iter().for_each(&mut want);
                }
                StateSource::EePosition
                | StateSource::EeRotationVector
                | StateSource::EeRpy
                | StateSource::EeQuaternion => add(StateTopic::EePose),
                StateSource::Gripper { topic } => add(StateTopic::Gripper(topic.clone())),
                StateSource::Constant(_) => {}
            }
        }
        others.iter().for_each(&mut want);
        let grippers = vec![None; topics.len()];
        Self { parts: parts.to_vec(), topics, joints, hold_s, pose: None, grippers }
    }

    /// Changes how long a joint's reading holds, seconds.
    pub fn set_hold(&mut self, hold_s: f64) {
        self.hold_s = hold_s;
    }

    /// The topics that the state needs, each once. Joints wanted beside the state are not counted.
    #[must_use]
    pub fn topics(&self) -> &[StateTopic] {
        &self.topics
    }

    /// Takes a message of joints that was received at `at` seconds.
    ///
    /// # Errors
    /// When the message contradicts itself; nothing of it is taken then.
    pub fn joint_states(
        &mut self,
        at: f64,
        names: &[String],
        positions: &[f64],
        velocities: &[f64],
    ) -> Result<(), StateMessageError> {
        // A driver may leave out one of the two arrays.
        for (what, values) in [("positions", positions.len()), ("velocities", velocities.len())] {
            if values != 0 && values != names.len() {
                return Err(StateMessageError::Length { names: names.len(), values, what });
            }
        }
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        for (wanted, _) in &self.joints {
            if let Some(index) = find(wanted)
                && names[index + 1..].contains(wanted)
            {
                return Err(StateMessageError::Twice(wanted.clone()));
            }
        }
        for (wanted, reading) in &mut self.joints {
            let Some(index) = find(wanted) else { continue };
            let value = |values: &[f64]| values.get(index).copied().unwrap_or(f64::NAN);
            *reading =
                Some(Reading { position: value(positions), velocity: value(velocities), at });
        }
        Ok(())
    }

    /// Takes a pose: position in metres, orientation as a quaternion `x y z w`.
    pub fn ee_pose(&mut self, position: [f64; 3], orientation: [f64; 4]) {
        self.pose = Some((position, orientation));
    }

    /// Takes the value of a gripper's topic.
    pub fn gripper(&mut self, topic: usize, value: f64) {
        if let Some(slot) = self.grippers.get_mut(topic) {
            *slot = Some(value);
        }
    }

    /// The newest reading of a joint that still holds at `now`.
    fn reading(&self, name: &str, now: f64) -> Option<&Reading> {
        let (_, reading) = self.joints.iter().find(|(known, _)| known == name)?;
        reading.as_ref().filter(|reading| now - reading.at <= self.hold_s)
    }

    /// Position of a joint in radians or metres; NaN when it is unknown.
    #[must_use]
    pub fn position(&self, joint: &str, now: f64) -> f64 {
        self.reading(joint, now).map_or(f64::NAN, |reading| reading.position)
    }

    /// Whether all values of a topic are known and finite.
    #[must_use]
    pub fn complete(&self, topic: &StateTopic, now: f64) -> bool {
        let of_topic = |part: &&StatePart| match (&part.source, topic) {
            (
                StateSource::JointPosition(_) | StateSource::JointVelocity(_),
                StateTopic::JointStates,
            ) => true,
            (StateSource::Gripper { topic: own }, StateTopic::Gripper(wanted)) => own == wanted,
            (
                StateSource::EePosition
                | StateSource::EeRotationVector
                | StateSource::EeRpy
                | StateSource::EeQuaternion,
                StateTopic::EePose,
            ) => true,
            _ => false,
        };
        let mut values = Vec::new();
        self.parts.iter().filter(of_topic).all(|part| self.part(part, now, &mut values).is_some())
            && values.iter().all(|value| value.is_finite())
    }

    /// The state in the policy's order, scale and offset applied; `None` while a value is unknown
    /// or not finite.
    #[must_use]
    pub fn values(&self, now: f64) -> Option<Vec<f64>> {
        let mut values = Vec::new();
        for part in &self.parts {
            self.part(part, now, &mut values)?;
        }
        values.iter().all(|value| value.is_finite()).then_some(values)
    }

    fn part(&self, part: &StatePart, now: f64, values: &mut Vec<f64>) -> Option<()> {
        let begin = values.len();
        match &part.source {
            StateSource::JointPosition(names) => {
                values.extend(names.iter().map(|name| self.position(name, now)));
            }
            StateSource::JointVelocity(names) => {
                values.extend(names.iter().map(|name| {
                    self.reading(name, now).map_or(f64::NAN, |reading| reading.velocity)
                }))
            }
            StateSource::EePosition => values.extend(self.pose?.0),
            StateSource::EeRotationVector => values.extend(rotation_vector(self.pose?.1)?),
            StateSource::EeRpy => values.extend(roll_pitch_yaw(self.pose?.1)?),
            StateSource::EeQuaternion => values.extend(unit(self.pose?.1)?),
            StateSource::Gripper { topic } => {
                let own = |known: &StateTopic| *known == StateTopic::Gripper(topic.clone());
                values.push((*self.grippers.get(self.topics.iter().position(own)?)?)?);
            }
            StateSource::Constant(constants) => values.extend(constants),
        }
        for value in &mut values[begin..] {
            *value = *value * part.scale + part.offset;
        }
        Some(())
    }
}

/// The unit quaternion `x y z w` with `w >= 0`; `None` when it is not one up to 1 %.
fn unit(q: [f64; 4]) -> Option<[f64; 4]> {
    let norm = q.iter().map(|value| value * value).sum::<f64>().sqrt();
    if !(0.99..=1.01).contains(&norm) {
        return None;
    }
    let sign = if q[3] < 0.0 { -1.0 } else { 1.0 };
    Some(q.map(|value| sign * value / norm))
}

/// Axis times angle, the angle from 0 to pi.
fn rotation_vector(q: [f64; 4]) -> Option<[f64; 3]> {
    let [x, y, z, w] = unit(q)?;
    let sine = (x * x + y * y + z * z).sqrt();
    let angle = 2.0 * sine.atan2(w);
    // For small angles the ratio tends to 2.
    let factor = if sine < 1e-12 { 2.0 } else { angle / sine };
    Some([x * factor, y * factor, z * factor])
}

/// Roll, pitch, yaw about the fixed axes x, y, z (REP 103).
fn roll_pitch_yaw(q: [f64; 4]) -> Option<[f64; 3]> {
    let [x, y, z, w] = unit(q)?;
    let roll = (2.0 * (w * x + y * z)).atan2(1.0 - 2.0 * (x * x + y * y));
    let pitch = (2.0 * (w * y - z * x)).clamp(-1.0, 1.0).asin();
    let yaw = (2.0 * (w * z + x * y)).atan2(1.0 - 2.0 * (y * y + z * z));
    Some([roll, pitch, yaw])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn part(source: StateSource) -> StatePart {
        StatePart { source, scale: 1.0, offset: 0.0 }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn joints_are_taken_by_name() {
        let parts = [
            StatePart {
                source: StateSource::JointPosition(names(&["b", "a"])),
                scale: 2.0,
                offset: 1.0,
            },
            part(StateSource::JointVelocity(names(&["a"]))),
            part(StateSource::Constant(vec![7.0])),
        ];
        let mut state = StateAssembler::new(&parts, &names(&["c"]), 0.5);
        assert_eq!(state.topics(), [StateTopic::JointStates]);
        assert_eq!(state.values(0.0), None);
        state
            .joint_states(0.0, &names(&["a", "x", "b", "c"]), &[1.0, 9.0, 2.0, 3.0], &[4.0; 4])
            .unwrap();
        assert_eq!(state.values(0.0), Some(vec![5.0, 3.0, 4.0, 7.0]));
        assert_eq!(state.position("c", 0.0), 3.0);
        // Another order, and a message of another driver that lacks `a`.
        state.joint_states(0.4, &names(&["b"]), &[3.0], &[]).unwrap();
        assert_eq!(state.values(0.4), Some(vec![7.0, 3.0, 4.0, 7.0]));
        // `a` has not been named for too long.
        assert_eq!(state.values(0.6), None);
        assert!(!state.complete(&StateTopic::JointStates, 0.6));
        assert!(state.position("a", 0.6).is_nan());
    }

    #[test]
    fn contradictions_are_refused_whole() {
        let parts = [part(StateSource::JointPosition(names(&["a"])))];
        let mut state = StateAssembler::new(&parts, &[], 1.0);
        let error = state.joint_states(0.0, &names(&["a", "b"]), &[1.0], &[]).unwrap_err();
        assert!(error.to_string().contains("2 names but 1 positions"));
        let error = state.joint_states(0.0, &names(&["a", "a"]), &[1.0, 2.0], &[]).unwrap_err();
        assert_eq!(error, StateMessageError::Twice("a".into()));
        assert_eq!(state.values(0.0), None);
        state.joint_states(0.0, &names(&["a"]), &[f64::NAN], &[]).unwrap();
        assert_eq!(state.values(0.0), None);
        // Efforts alone: no position.
        state.joint_states(0.0, &names(&["a"]), &[], &[]).unwrap();
        assert_eq!(state.values(0.0), None);
    }

    #[test]
    fn orientations_have_the_stated_form() {
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let parts = [
            part(StateSource::EePosition),
            part(StateSource::EeRotationVector),
            part(StateSource::EeRpy),
            part(StateSource::EeQuaternion),
            part(StateSource::Gripper { topic: "g".into() }),
        ];
        let mut state = StateAssembler::new(&parts, &[], 1.0);
        state.gripper(1, 0.5);
        // A quarter turn about z, given with the other sign.
        state.ee_pose([1.0, 2.0, 3.0], [0.0, 0.0, -half, -half]);
        let quarter = std::f64::consts::FRAC_PI_2;
        let wanted =
            [1.0, 2.0, 3.0, 0.0, 0.0, quarter, 0.0, 0.0, quarter, 0.0, 0.0, half, half, 0.5];
        let values = state.values(0.0).unwrap();
        assert_eq!(values.len(), wanted.len());
        for (value, wanted) in values.iter().zip(wanted) {
            assert!((value - wanted).abs() < 1e-12, "{values:?}");
        }
        state.ee_pose([0.0; 3], [0.0; 4]);
        assert_eq!(state.values(0.0), None);
        assert!(!state.complete(&StateTopic::EePose, 0.0));
        assert!(state.complete(&StateTopic::Gripper("g".into()), 0.0));
    }
}
