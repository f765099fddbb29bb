//! Normalisation of state and action by statistics, in float32 and in the order of operations of
//! the code that trained the checkpoint.

use crate::checkpoint::error::{CheckpointError, quoted};
use crate::checkpoint::fields::Fields;

/// How values are normalised. It is data of the checkpoint, never a property of the model type:
/// published pi0.5 checkpoints exist with either of the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum NormMode {
    /// By mean and standard deviation.
    MeanStd,
    /// 1st and 99th percentile to -1 and 1.
    Quantiles,
    /// Minimum and maximum to -1 and 1.
    MinMax,
    /// As it is.
    Identity,
}

/// Code whose formulas apply; they differ in the small number that keeps a division finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Origin {
    /// `lerobot/processor/normalize_processor.py`: `eps` is added to the deviation when
    /// normalising only, and replaces a range of 0.
    LeRobot,
    /// `openpi/transforms.py`: 1e-6 is added to the deviation and to the range, both ways.
    OpenPi,
}

/// The statistics of one feature with the formula that uses them.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Normalizer {
    /// Formula.
    pub mode: NormMode,
    /// Whose formula.
    pub origin: Origin,
    /// LeRobot's `eps`.
    pub epsilon: f32,
    /// Mean, 1st percentile or minimum of each dimension; empty for the identity.
    pub low: Vec<f32>,
    /// Standard deviation, 99th percentile or maximum of each dimension; empty for the identity.
    pub high: Vec<f32>,
}

impl NormMode {
    pub(super) fn named(
        fields: &Fields<'_>,
        key: &str,
        text: &str,
    ) -> Result<Self, CheckpointError> {
        match text {
            "MEAN_STD" => Ok(Self::MeanStd),
            "QUANTILES" => Ok(Self::Quantiles),
            "MIN_MAX" => Ok(Self::MinMax),
            "IDENTITY" => Ok(Self::Identity),
            other => Err(fields.error(
                key,
                quoted(other),
                "this normalisation is not implemented; MEAN_STD, QUANTILES, MIN_MAX and IDENTITY \
                are",
            )),
        }
    }

    /// Names of its two statistics.
    #[must_use]
    pub fn statistics(self) -> Option<[&'static str; 2]> {
        match self {
            Self::MeanStd => Some(["mean", "std"]),
            Self::Quantiles => Some(["q01", "q99"]),
            Self::MinMax => Some(["min", "max"]),
            Self::Identity => None,
        }
    }
}

impl Normalizer {
    /// A normaliser that changes nothing.
    #[must_use]
    pub fn identity() -> Self {
        Self {
            mode: NormMode::Identity,
            origin: Origin::LeRobot,
            epsilon: 1e-8,
            low: Vec::new(),
            high: Vec::new(),
        }
    }

    /// Dimensions that were constant in the training data; a state that differs from the constant
    /// would become very large.
    #[must_use]
    pub fn constant_dimensions(&self) -> Vec<usize> {
        let pairs = self.low.iter().zip(&self.high).enumerate();
        let constant = |low: f32, high: f32| match self.mode {
            NormMode::MeanStd => high.abs() < 1e-6,
            NormMode::Quantiles | NormMode::MinMax => (high - low).abs() < 1e-6,
            NormMode::Identity => false,
        };
        pairs.filter(|(_, (low, high))| constant(**low, **high)).map(|(at, _)| at).collect()
    }

    fn range(&self, low: f32, high: f32) -> f32 {
        let range = high - low;
        match self.origin {
            Origin::LeRobot if range == 0.0 => self.epsilon,
            Origin::LeRobot => range,
            Origin::OpenPi => range + 1e-6,
        }
    }

    fn deviation(&self, std: f32) -> f32 {
        match self.origin {
            Origin::LeRobot => std + self.epsilon,
            Origin::OpenPi => std + 1e-6,
        }
    }

    /// Normalised values; values beyond the statistics stay as they are.
    #[must_use]
    pub fn normalize(&self, values: &[f32]) -> Vec<f32> {
        let one = |(at, &x): (usize, &f32)| {
            let (Some(&low), Some(&high)) = (self.low.get(at), self.high.get(at)) else { return x };
            match self.mode {
                NormMode::MeanStd => (x - low) / self.deviation(high),
                NormMode::Quantiles | NormMode::MinMax => match self.origin {
                    Origin::LeRobot => 2.0 * (x - low) / self.range(low, high) - 1.0,
                    Origin::OpenPi => (x - low) / self.range(low, high) * 2.0 - 1.0,
                },
                NormMode::Identity => x,
            }
        };
        values.iter().enumerate().map(one).collect()
    }

    /// Physical values of the first dimensions of `normalized`.
    #[must_use]
    pub fn unnormalize(&self, normalized: &[f32]) -> Vec<f32> {
        let one = |(at, &y): (usize, &f32)| {
            let (Some(&low), Some(&high)) = (self.low.get(at), self.high.get(at)) else { return y };
            match (self.mode, self.origin) {
                (NormMode::MeanStd, Origin::LeRobot) => y * high + low,
                (NormMode::MeanStd, Origin::OpenPi) => y * self.deviation(high) + low,
                (NormMode::Quantiles | NormMode::MinMax, Origin::LeRobot) => {
                    (y + 1.0) * self.range(low, high) / 2.0 + low
                }
                (NormMode::Quantiles | NormMode::MinMax, Origin::OpenPi) => {
                    (y + 1.0) / 2.0 * self.range(low, high) + low
                }
                (NormMode::Identity, _) => y,
            }
        };
        normalized.iter().enumerate().map(one).collect()
    }

    /// Range of each dimension in the training data, for reports: percentiles, extremes, or the
    /// mean and three standard deviations to either side.
    #[must_use]
    pub fn ranges(&self) -> Vec<(f64, f64)> {
        let pairs = self.low.iter().zip(&self.high);
        pairs
            .map(|(&low, &high)| {
                let (low, high) = (f64::from(low), f64::from(high));
                match self.mode {
                    NormMode::MeanStd => (low - 3.0 * high, low + 3.0 * high),
                    _ => (low, high),
                }
            })
            .collect()
    }
}
