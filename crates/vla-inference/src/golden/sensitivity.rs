//! Whether an answer depends on what it should depend on. A port that ignores the image or the
//! instruction still gives plausible tokens; only changing one of them shows it.

use std::collections::BTreeSet;

use super::check::CheckError;
use super::kit::Kit;
use crate::policy::{Instruction, Policy, PolicyError};

/// How far the answers to several inputs lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Inputs.
    pub inputs: usize,
    /// Different answers among them.
    pub distinct: usize,
    /// Mean distance between two answers, in tokens' ids per action dimension.
    pub distance: f64,
}

/// What the answers depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    /// Several images under one instruction.
    pub images: Spread,
    /// Several instructions before one image.
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

    /// Whether the answers differ about as much as the reference's: as many of them, less one, and
    /// half as far apart.
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

/// Asks a policy about the first `count` images of a kit under one instruction, and about `count`
/// instructions before one image.
///
/// # Errors
/// When the kit is unfit or the policy fails.
pub fn sensitivity(
    kit: &Kit,
    policy: &mut dyn Policy,
    count: usize,
) -> Result<Sensitivity, CheckError> {
    let mut ask = |image: &super::Case, words: &super::Case| -> Result<Vec<u32>, CheckError> {
        let failed = |source: PolicyError| CheckError::Policy { case: image.id, source };
        let instruction =
            Instruction::new(&words.instruction).map_err(|error| failed(error.into()))?;
        Ok(policy.act(&kit.image(&image.image)?, &instruction).map_err(failed)?.token_ids)
    };
    // Cases differ in both; one of the two is held while the other changes.
    let (some, first) = (&kit.cases[..count.min(kit.cases.len())], &kit.cases[0]);
    let images = some.iter().map(|case| ask(case, first)).collect::<Result<Vec<_>, _>>()?;
    let mut texts = BTreeSet::new();
    let different = kit.cases.iter().filter(|case| texts.insert(&case.instruction)).take(count);
    let instructions = different.map(|case| ask(first, case)).collect::<Result<Vec<_>, _>>()?;
    Ok(Sensitivity { images: Spread::of(&images), instructions: Spread::of(&instructions) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blind_policy_is_not_like_a_seeing_one() {
        let seeing =
            Spread::of(&[vec![31_800, 31_900], vec![31_900, 31_850], vec![31_750, 31_999]]);
        let blind = Spread::of(&vec![vec![31_872, 31_872]; 3]);
        let dull = Spread::of(&[vec![31_872, 31_872], vec![31_872, 31_873], vec![31_873, 31_872]]);
        assert_eq!((seeing.distinct, blind.distinct, blind.distance), (3, 1, 0.0));
        assert!(seeing.like(seeing) && !blind.like(seeing) && !dull.like(seeing));
    }
}
