//! Three-vectors, just enough of them.

pub(super) type V3 = [f64; 3];

pub(super) const ZERO: V3 = [0.0; 3];

pub(super) fn sub(a: V3, b: V3) -> V3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// `a + b * factor`.
pub(super) fn add_scaled(a: V3, b: V3, factor: f64) -> V3 {
    [a[0] + b[0] * factor, a[1] + b[1] * factor, a[2] + b[2] * factor]
}

pub(super) fn scale(a: V3, factor: f64) -> V3 {
    a.map(|x| x * factor)
}

pub(super) fn dot(a: V3, b: V3) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// The Euclidean norm, right for subnormal and for huge components too, where squaring would lose
/// or overflow.
pub(super) fn norm(a: V3) -> f64 {
    let square = dot(a, a);
    if 1e-200 < square && square < 1e200 {
        return square.sqrt();
    }
    let largest = a[0].abs().max(a[1].abs()).max(a[2].abs());
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    let unit = a.map(|x| x / largest);
    dot(unit, unit).sqrt() * largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_at_the_edges_of_the_numbers() {
        assert_eq!(norm(ZERO), 0.0);
        assert_eq!(norm([3.0, -4.0, 0.0]), 5.0);
        assert_eq!(norm([5e-324, 0.0, 0.0]), 5e-324);
        assert!((norm([3e-310, 4e-310, 0.0]) / 5e-310 - 1.0).abs() < 1e-10);
        assert!((norm([3e300, 0.0, -4e300]) / 5e300 - 1.0).abs() < 1e-15);
        assert!(norm([1e-101, 0.0, 0.0]) > 0.99e-101);
    }

    #[test]
    fn arithmetic() {
        assert_eq!(sub([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]), [-2.0, 0.0, 2.0]);
        assert_eq!(add_scaled([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], -0.5), [0.5, 0.0, -0.5]);
        assert_eq!(scale([1.0, 2.0, 3.0], 2.0), [2.0, 4.0, 6.0]);
        assert_eq!(dot([1.0, 2.0, 3.0], [4.0, -5.0, 6.0]), 12.0);
    }
}
