//! Agreement of a computed tensor with a reference.

/// Agreement of two tensors of equal length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Pearson correlation, -1..1; 1 when both are constant and equal.
    pub pcc: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Root mean square of the difference over that of the reference.
    pub relative_rms: f64,
}

/// Compares `computed` with `reference`, in float64. `None` when the lengths differ or a value is
/// not finite.
#[must_use]
pub fn agreement(computed: &[f32], reference: &[f32]) -> Option<Agreement> {
    if computed.len() != reference.len() || computed.is_empty() {
        return None;
    }
    let n = computed.len() as f64;
    let pairs = || computed.iter().zip(reference).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    if pairs().any(|(a, b)| !a.is_finite() || !b.is_finite()) {
        return None;
    }
    let (sum_a, sum_b) = pairs().fold((0., 0.), |(x, y), (a, b)| (x + a, y + b));
    let (mean_a, mean_b) = (sum_a / n, sum_b / n);
    let mut covariance = 0.;
    let (mut variance_a, mut variance_b, mut square_error, mut square, mut max_abs) =
        (0., 0., 0., 0., 0f64);
    for (a, b) in pairs() {
        covariance += (a - mean_a) * (b - mean_b);
        variance_a += (a - mean_a).powi(2);
        variance_b += (b - mean_b).powi(2);
        square_error += (a - b).powi(2);
        square += b * b;
        max_abs = max_abs.max((a - b).abs());
    }
    let pcc = if variance_a == 0. || variance_b == 0. {
        f64::from(u8::from(max_abs == 0.))
    } else {
        covariance / (variance_a * variance_b).sqrt()
    };
    let relative_rms =
        if square == 0. { square_error.sqrt() } else { (square_error / square).sqrt() };
    Some(Agreement { pcc, max_abs, relative_rms })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn equal_shifted_and_opposite() {
        let reference = [1.0f32, 2.0, 4.0];
        assert_eq!(agreement(&reference, &reference).unwrap().max_abs, 0.);
        let shifted = agreement(&[2.0, 3.0, 5.0], &reference).unwrap();
        assert!((shifted.pcc - 1.).abs() < 1e-12 && (shifted.max_abs - 1.).abs() < 1e-12);
        assert!((agreement(&[-1.0, -2.0, -4.0], &reference).unwrap().pcc + 1.).abs() < 1e-12);
    }

    #[test]
    fn nonsense_has_no_agreement() {
        assert!(agreement(&[1.0], &[1.0, 2.0]).is_none());
        assert!(agreement(&[f32::NAN], &[1.0]).is_none());
    }
}
