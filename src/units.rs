//! Numbers that carry their unit and are never NaN or infinite.
//!
//! A value that has one of these types has been checked once, at the edge; the code behind it does arithmetic without asking again.
//! The types are deliberately poor: `new`, `get`, order and display. Arithmetic happens on the plain `f64` from [`get`](Meters::get), and its result
//! is believed only after it has passed `new` again.

use std::fmt;

/// A number that was NaN or infinite where a physical quantity was expected.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{quantity} is {value}, which is not a finite number; give a finite value in {unit}")]
pub struct NotFinite {
    /// What the number was to be, e.g. `length`.
    pub quantity: &'static str,
    /// The unit it was to be in.
    pub unit: &'static str,
    /// The offending value.
    pub value: f64,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $quantity:literal, $unit:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
        pub struct $name(f64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0.0);
            /// The unit's symbol.
            pub const UNIT: &'static str = $unit;

            /// Accepts a finite number.
            ///
            /// # Errors
            /// [`NotFinite`] for NaN and the infinities.
            pub fn new(value: f64) -> Result<Self, NotFinite> {
                if value.is_finite() { Ok(Self(value)) } else { Err(NotFinite { quantity: $quantity, unit: $unit, value }) }
            }

            /// The plain number, always finite.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = NotFinite;
            fn try_from(value: f64) -> Result<Self, NotFinite> {
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)?;
                f.write_str(concat!(" ", $unit))
            }
        }
    };
}

quantity!(
    /// A length in metres.
    Meters, "length", "m"
);
quantity!(
    /// An angle in radians.
    Radians, "angle", "rad"
);
quantity!(
    /// A duration in seconds; may be negative, unlike [`std::time::Duration`].
    Seconds, "duration", "s"
);
quantity!(
    /// A rate in hertz.
    Hertz, "rate", "Hz"
);
quantity!(
    /// A linear velocity in metres per second.
    MetersPerSecond, "linear velocity", "m/s"
);
quantity!(
    /// An angular velocity in radians per second.
    RadiansPerSecond, "angular velocity", "rad/s"
);

/// A vector of three finite numbers. Unit and frame are said by whoever holds it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Vec3([f64; 3]);

impl Vec3 {
    /// The zero vector.
    pub const ZERO: Self = Self([0.0; 3]);

    /// Accepts three finite numbers.
    ///
    /// # Errors
    /// [`NotFinite`] naming the first component that is NaN or infinite.
    pub fn new(xyz: [f64; 3]) -> Result<Self, NotFinite> {
        for (value, quantity) in xyz.into_iter().zip(["x component", "y component", "z component"]) {
            if !value.is_finite() {
                return Err(NotFinite { quantity, unit: "its unit", value });
            }
        }
        Ok(Self(xyz))
    }

    /// `[x, y, z]`, always finite.
    #[must_use]
    pub const fn get(self) -> [f64; 3] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refuses_what_is_not_finite_and_names_it() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Meters::new(bad).is_err());
            assert!(Vec3::new([0.0, bad, 0.0]).is_err());
        }
        assert_eq!(
            Hertz::new(f64::INFINITY).unwrap_err().to_string(),
            "rate is inf, which is not a finite number; give a finite value in Hz"
        );
        assert_eq!(Vec3::new([0.0, 0.0, f64::NAN]).unwrap_err().quantity, "z component");
    }

    #[test]
    fn keeps_every_finite_number_exactly() {
        for good in [0.0, -0.0, 5e-324, f64::MAX, f64::MIN, 0.1] {
            assert_eq!(Meters::new(good).unwrap().get().to_bits(), good.to_bits());
        }
        assert_eq!(MetersPerSecond::new(0.25).unwrap().to_string(), "0.25 m/s");
        assert_eq!(format!("{:.1}", Seconds::new(0.26).unwrap()), "0.3 s");
    }
}
