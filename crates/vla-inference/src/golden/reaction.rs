//! Reaction of action chunks to their inputs. A port that ignores a camera, the instruction or the
//! state still answers with plausible chunks; only changing that input alone shows it. Numbers of
//! a coarse format can hide an input as well, when their error is as large as the reaction.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::kit::KitError;
use crate::observation::{CameraFrame, Playback, RgbImage};
use crate::policy::{Instruction, Observation, Policy, PolicyError};

/// Longest instruction taken from a kit, bytes: a longer one fits pi0.5's prompt only beside its
/// own state.
const MAX_INSTRUCTION: usize = 100;
/// For kits with fewer than two instructions.
const OTHER_INSTRUCTIONS: [&str; 3] = ["open the drawer", "lift the cup", "push the block"];

/// Values of a kit for each input of a policy: the first is the one that is kept, the others
/// replace it.
pub struct Inputs {
    images: Vec<RgbImage>,
    instructions: Vec<Instruction>,
    states: Vec<Vec<f64>>,
}

/// A policy's chunks: one from the inputs that are kept, and one after each change.
pub struct Answers {
    base: Vec<f64>,
    changed: Vec<(Change, Vec<f64>)>,
}

/// One input replaced by another value.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// `image NAME`, `instruction` or `state`.
    pub input: String,
    /// Number of the value, from 1.
    pub value: usize,
}

/// How a chunk changes with one input.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Reaction {
    /// What was changed.
    #[serde(flatten)]
    pub change: Change,
    /// Root mean square of the reference's change, in normalised actions.
    pub reference: f64,
    /// The same of the device's change.
    pub device: f64,
    /// Root mean square of the difference of both changes, over the reference's: 0 for the same
    /// reaction, 1 for none. NaN where the reference does not react.
    pub error: f64,
    /// Cosine of the angle between both changes; NaN where one does not react.
    pub correlation: f64,
}

impl Reaction {
    /// The device's change must be larger than its error: an ignored input has the error 1, a
    /// reaction of the right size to something else 1.41.
    pub const ERROR_BELOW: f64 = 1.0;
    /// At least half of the device's change, in power, must be the reference's; the rest is
    /// rounding.
    pub const MIN_CORRELATION: f64 = std::f64::consts::FRAC_1_SQRT_2;
    /// An input may be ignored by less than half; the bound for action tokens is the same.
    pub const MIN_SIZE: f64 = 0.5;

    /// Whether the device reacts to this input as the reference does. Where the reference does not
    /// react, neither may the device, and only the state may be without effect: openpi's
    /// pi05_libero has none in its prompt.
    #[must_use]
    pub fn like_reference(&self) -> bool {
        if self.reference > 0.0 {
            return self.error < Self::ERROR_BELOW
                && self.correlation >= Self::MIN_CORRELATION
                && self.device >= Self::MIN_SIZE * self.reference;
        }
        self.change.input == "state" && self.device == 0.0
    }

    fn of(change: &Change, [before, after]: [&[f64]; 2], [own, changed]: [&[f64]; 2]) -> Self {
        let whole = before.len() == own.len() && after.len() == changed.len();
        let difference = |from: &[f64], to: &[f64]| -> Vec<f64> {
            to.iter().zip(from).map(|(to, from)| to - from).collect()
        };
        let (theirs, ours) = (difference(before, after), difference(own, changed));
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            values.sum::<f64>() / theirs.len().max(1) as f64
        };
        let rms = |values: &[f64]| mean(&mut values.iter().map(|v| v * v)).sqrt();
        let product = mean(&mut ours.iter().zip(&theirs).map(|(a, b)| a * b));
        let (reference, device) = (rms(&theirs), rms(&ours));
        let error = if whole { rms(&difference(&theirs, &ours)) / reference } else { f64::NAN };
        let correlation = product / (reference * device);
        Self { change: change.clone(), reference, device, error, correlation }
    }
}

impl Inputs {
    /// Up to `count` different values of each input, from the cases of the kit in `folder`. What
    /// there is only one of gets a second.
    ///
    /// # Errors
    /// When the kit has no image.
    pub(super) fn of_kit(
        folder: &Path,
        images: Vec<RgbImage>,
        instructions: Vec<&str>,
        states: Vec<Vec<f64>>,
        count: usize,
    ) -> Result<Self, KitError> {
        let failed = |reason| KitError { path: folder.join("cases.json"), reason };
        let mut images = distinct(images, count);
        if let [only] = images.as_slice() {
            let turned = only.pixels().chunks_exact(3).rev().flatten().copied().collect();
            let turned = RgbImage::new(only.width(), only.height(), turned);
            images.push(turned.map_err(|error| failed(error.to_string()))?);
        }
        if images.is_empty() {
            return Err(failed("names no image".into()));
        }
        let short = instructions.into_iter().filter(|text| text.len() <= MAX_INSTRUCTION);
        let mut words = BTreeSet::new();
        // Texts that differ in what a prompt leaves out are the same to a model.
        let mut new = |text: &&str| words.insert(text.to_lowercase().replace(letterless, ""));
        let mut instructions: Vec<Instruction> = short
            .filter(&mut new)
            .filter_map(|text| Instruction::recorded(text).ok())
            .take(count)
            .collect();
        let missing = 2usize.saturating_sub(instructions.len());
        for text in OTHER_INSTRUCTIONS.into_iter().filter(&mut new).take(missing) {
            let instruction = Instruction::recorded(text);
            instructions.push(instruction.map_err(|error| failed(error.to_string()))?);
        }
        let mut states = distinct(states, count);
        if let [only] = states.as_slice() {
            let mut turned = only.clone();
            turned.rotate_left(1.min(only.len()));
            states.push(turned);
        }
        Ok(Self { images, instructions, states })
    }

    /// The chunks of a policy whose seed is fixed. Every one starts from the same noise and
    /// continues none.
    ///
    /// # Errors
    /// When the policy fails.
    pub fn answers(&self, policy: &mut dyn Policy) -> Result<Answers, PolicyError> {
        let info = policy.info().clone();
        let base = Observation {
            instruction: self.instructions[0].clone(),
            images: info
                .cameras
                .iter()
                .enumerate()
                .map(|(at, camera)| self.frame(camera, at))
                .collect(),
            state: self.state(0, info.state_dim),
            playback: Playback::default(),
        };
        let mut act = |observation: &Observation| -> Result<Vec<f64>, PolicyError> {
            policy.restart();
            Ok(policy.act(observation)?.normalized.concat())
        };
        let mut answers = Answers { base: act(&base)?, changed: Vec::new() };
        let mut changed = |input: String, value: usize, observation: Observation| {
            let chunk = act(&observation)?;
            answers.changed.push((Change { input, value }, chunk));
            Ok::<(), PolicyError>(())
        };
        for (at, camera) in info.cameras.iter().enumerate() {
            for value in 1..self.images.len() {
                let mut observation = base.clone();
                observation.images[at] = self.frame(camera, at + value);
                changed(format!("image {camera}"), value, observation)?;
            }
        }
        for (value, instruction) in self.instructions.iter().enumerate().skip(1) {
            let instruction = instruction.clone();
            changed("instruction".into(), value, Observation { instruction, ..base.clone() })?;
        }
        let states = if info.state_dim > 0 { self.states.len() } else { 0 };
        for value in 1..states {
            let state = self.state(value, info.state_dim);
            changed("state".into(), value, Observation { state, ..base.clone() })?;
        }
        Ok(answers)
    }

    /// The kit's images, one after the other: any picture shows whether a camera is looked at.
    fn frame(&self, camera: &Arc<str>, at: usize) -> CameraFrame {
        let image = self.images[at % self.images.len()].clone();
        CameraFrame { camera: Arc::clone(camera), image }
    }

    /// A state of a policy's length, which may differ from the kit's.
    fn state(&self, value: usize, length: usize) -> Vec<f64> {
        let zeros = vec![0.0];
        let state = self.states.get(value).filter(|state| !state.is_empty()).unwrap_or(&zeros);
        state.iter().copied().cycle().take(length).collect()
    }
}

impl Answers {
    /// The reactions of a device, beside those of `self`, the reference.
    #[must_use]
    pub fn compare(&self, device: &Self) -> Vec<Reaction> {
        self.changed
            .iter()
            .map(|(change, after)| {
                let same = device.changed.iter().find(|(other, _)| other == change);
                let own = same.map_or(&[][..], |(_, own)| own);
                Reaction::of(change, [&self.base, after], [&device.base, own])
            })
            .collect()
    }
}

fn letterless(c: char) -> bool {
    !c.is_alphanumeric()
}

/// The first `count` different values.
fn distinct<T: PartialEq>(values: Vec<T>, count: usize) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if kept.len() < count && !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaction(input: &str, theirs: [f64; 2], ours: [f64; 2]) -> Reaction {
        let change = Change { input: input.into(), value: 1 };
        Reaction::of(&change, [&[1.0, 2.0], &theirs], [&[1.5, 2.0], &ours])
    }

    #[test]
    fn reactions_are_compared_from_where_each_starts() {
        let same = reaction("instruction", [2.0, 1.0], [2.5, 1.0]);
        assert_eq!((same.reference, same.device, same.error), (1.0, 1.0, 0.0));
        assert!((same.correlation - 1.0).abs() < 1e-12 && same.like_reference());
        let ignored = reaction("instruction", [2.0, 1.0], [1.5, 2.0]);
        assert!((ignored.error - 1.0).abs() < 1e-12 && ignored.correlation.is_nan());
        let other = reaction("instruction", [2.0, 1.0], [2.5, 3.0]);
        assert!((other.error - 2f64.sqrt()).abs() < 1e-12 && other.correlation.abs() < 1e-12);
        let small = reaction("instruction", [2.0, 1.0], [1.9, 1.6]);
        assert!(small.error < 1.0 && small.correlation > 0.99 && small.device < 0.5);
        let rough = reaction("instruction", [2.0, 1.0], [2.5, 1.8]);
        assert!(rough.error < 1.0 && rough.device > 0.5 && rough.correlation > 0.7);
        // The right direction in part, but more rounding than reaction.
        let coarse = reaction("instruction", [2.0, 1.0], [2.4, 2.1]);
        assert!(coarse.error < 1.0 && coarse.device > 0.5 && coarse.correlation < 0.7);
        let wild = reaction("instruction", [2.0, 1.0], [3.9, 0.6]);
        assert!(wild.error > 1.0 && wild.correlation > 0.9);
        assert!(rough.like_reference());
        for missed in [ignored, other, small, coarse, wild] {
            assert!(!missed.like_reference(), "{missed:?}");
        }
    }

    #[test]
    fn what_the_reference_ignores_shows_nothing_but_of_the_state() {
        let still = [1.0, 2.0];
        assert!(!reaction("image full", still, [1.5, 2.0]).like_reference());
        assert!(reaction("state", still, [1.5, 2.0]).like_reference());
        assert!(!reaction("state", still, [1.5, 2.1]).like_reference());
        let change = Change { input: "state".into(), value: 1 };
        let short = Reaction::of(&change, [&[1.0, 2.0], &[2.0, 1.0]], [&[1.0], &[]]);
        assert!(short.error.is_nan() && !short.like_reference());
    }
}
