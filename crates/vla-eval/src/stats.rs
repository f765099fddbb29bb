//! Statistics, as defined by numpy.

use serde::{Deserialize, Serialize};
use vla_inference::stats::percentile;

/// Distribution of a quantity, in the unit of its values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Number of values.
    pub n: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Maximum.
    pub max: f64,
}

impl Percentiles {
    /// `None` without values.
    pub fn of(values: &[f64]) -> Option<Percentiles> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |p: f64| percentile(&sorted, p);
        Some(Percentiles {
            n: values.len(),
            mean: mean(values)?,
            p50: at(50.0)?,
            p90: at(90.0)?,
            p95: at(95.0)?,
            p99: at(99.0)?,
            max: *sorted.last()?,
        })
    }
}

/// Arithmetic mean; `None` without values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation (`np.std(ddof=1)`); `None` for fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Pearson's correlation coefficient; `None` if one side is constant.
pub fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (mean(&first)?, mean(&second)?);
    let product: f64 = pairs.iter().map(|(x, y)| (x - a) * (y - b)).sum();
    let (xs, ys): (f64, f64) =
        (first.iter().map(|x| (x - a).powi(2)).sum(), second.iter().map(|y| (y - b).powi(2)).sum());
    (xs > 0.0 && ys > 0.0).then(|| product / (xs.sqrt() * ys.sqrt()))
}
