//! Sensitivity of actions to the image and to the instruction. A port that ignores one of them
//! still generates plausible tokens; only changing that input shows it.

use std::collections::BTreeSet;

use super::check::CheckError;
use super::kit::Kit;
use crate::policy::{Instruction, Observation, Policy, PolicyError};

/// Differences among the actions for several inputs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// Number of inputs.
    pub inputs: usize,
    /// Different actions among them.
    pub distinct: usize,
    /// Mean distance of two actions, in token ids per action dimension.
    pub distance: f64,
}

/// Spread of actions over images and over instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    /// Several images with one instruction.
    pub images: Spread,
    /// Several instructions with one image.
    pub instructions: Spread,
}

impl Spread {
    fn of(answers: &[Vec<u32>]) -> Self {
        let pairs = || {
            answers
                .iter()
                .enumerate()
                .flat_map(|(at, a)| answers[at + 1..].iter().map(move |b| (a, b)))
        };
        let apart = |(a, b): (&Vec<u32>, &Vec<u32>)| {
            a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>()
                / a.len().max(1) as f64
        };
        Self {
            inputs: answers.len(),
            distinct: answers.iter().collect::<BTreeSet<_>>().len(),
            distance: pairs().map(apart).sum::<f64>() / pairs().count().max(1) as f64,
        }
    }

    /// Whether the actions differ about as much as the reference's: at most one distinct action
    /// fewer, and at least half the distance.
    #[must_use]
    pub fn like(self, reference: Self) -> bool {
        self.distinct > 1
            && self.distinct + 1 >= reference.distinct
            && self.distance >= 0.5 * reference.distance
    }
}

impl Sensitivity {
    /// Whether images and instructions matter about as much as in the reference.
    #[must_use]
    pub fn like(self, reference: Self) -> bool {
        self.images.like(reference.images) && self.instructions.like(reference.instructions)
    }
}

/// Runs a policy on the first `count` images of a kit with one instruction, and on `count`
/// instructions with one image.
///
/// # Errors
/// When the kit is unfit or the policy fails.
pub fn sensitivity(
    kit: &Kit,
    policy: &mut dyn Policy,
    count: usize,
) -> Result<Sensitivity, CheckError> {
    let mut act = |image: &super::Case, words: &super::Case| -> Result<Vec<u32>, CheckError> {
        let failed = |source: PolicyError| CheckError::Policy { case: image.id, source };
        let instruction =
            Instruction::recorded(&words.instruction).map_err(|error| failed(error.into()))?;
        Ok(policy
            .act(&Observation::single(&kit.image(&image.image)?, &instruction))
            .map_err(failed)?
            .token_ids)
    };
    // Cases differ in both; one of the two is kept while the other varies.
    let (some, first) = (&kit.cases[..count.min(kit.cases.len())], &kit.cases[0]);
    let images = some.iter().map(|case| act(case, first)).collect::<Result<Vec<_>, _>>()?;
    let mut texts = BTreeSet::new();
    let different = kit.cases.iter().filter(|case| texts.insert(&case.instruction)).take(count);
    let instructions = different.map(|case| act(first, case)).collect::<Result<Vec<_>, _>>()?;
    Ok(Sensitivity { images: Spread::of(&images), instructions: Spread::of(&instructions) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insensitive_policies_are_found() {
        let seeing =
            Spread::of(&[vec![31_800, 31_900], vec![31_900, 31_850], vec![31_750, 31_999]]);
        let blind = Spread::of(&vec![vec![31_872, 31_872]; 3]);
        let dull = Spread::of(&[vec![31_872, 31_872], vec![31_872, 31_873], vec![31_873, 31_872]]);
        assert_eq!((seeing.distinct, blind.distinct, blind.distance), (3, 1, 0.0));
        assert!(seeing.like(seeing) && !blind.like(seeing) && !dull.like(seeing));
    }
}
