//! The noise that a chunk starts from.

/// Standard normal numbers from a seed: SplitMix64 (Steele et al. 2014) and the Box-Muller
/// transform in float64. Written out, because a chunk must be the same in a replay years later,
/// which no random number library promises across its versions.
#[derive(Clone, Debug)]
pub struct Noise {
    state: u64,
    spare: Option<f64>,
}

/// One step of SplitMix64: the seed of the next chunk after that of one chunk.
#[must_use]
pub fn next_seed(seed: u64) -> u64 {
    let mut state = seed;
    split_mix(&mut state)
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed that no earlier run had: the standard library's random hash keys, which the operating
/// system seeds.
#[must_use]
pub fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Noise {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed, spare: None }
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        ((split_mix(&mut self.state) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// The next `count` numbers.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal() as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_fixed_and_standard_normal() {
        let numbers = Noise::new(7).take(100_000);
        assert_eq!(numbers, Noise::new(7).take(100_000));
        assert_ne!(numbers, Noise::new(8).take(100_000));
        let moment = |power: i32| {
            numbers.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / numbers.len() as f64
        };
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
        assert_ne!(fresh_seed(), fresh_seed());
        assert_ne!(next_seed(7), 7);
    }
}
