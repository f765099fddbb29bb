//! How long the parts of an inference took. Reported only: no step depends on it.

/// Maximum number of stages: `image` and `preprocess`, at most four of a model, an added latency,
/// and one more.
pub const STAGES_MAX: usize = 8;

/// Durations of the stages of an inference, in their order. Copied without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StageTimes {
    /// Name, and seconds.
    stages: [(&'static str, f64); STAGES_MAX],
    count: usize,
}

impl StageTimes {
    /// From names and seconds. Stages beyond [`STAGES_MAX`] are left out.
    #[must_use]
    pub fn new(stages: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        let mut times = Self::default();
        for (slot, stage) in times.stages.iter_mut().zip(stages) {
            *slot = stage;
            times.count += 1;
        }
        times
    }

    /// Names, and seconds.
    #[must_use]
    pub fn as_slice(&self) -> &[(&'static str, f64)] {
        &self.stages[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_the_maximum_is_kept() {
        assert!(StageTimes::default().as_slice().is_empty());
        let stages = [("network", 0.25), ("server", 0.5)];
        assert_eq!(StageTimes::new(stages).as_slice(), stages);
        let many = StageTimes::new((0..20).map(|i| ("stage", f64::from(i))));
        assert_eq!((many.as_slice().len(), many.as_slice()[7].1), (STAGES_MAX, 7.0));
    }
}
