//! Counters and latencies of the node, for `~/status` and `/diagnostics`.

use std::collections::VecDeque;

use vla_control::time::Instant;
use vla_inference::policy::{DraftCounts, Stage};

/// Number of recent latencies kept for percentiles.
const WINDOW: usize = 200;

/// What the node counts and measures outside of the control core. Never reset.
#[derive(Debug, Default)]
pub(super) struct NodeMetrics {
    /// Finished inferences.
    pub inferences: u64,
    /// Refused images.
    pub images_rejected: u64,
    /// Faults raised by control.
    pub faults: u64,
    /// Late control periods.
    pub overruns: u64,
    /// Generation of the newest chunk accepted by control.
    pub generation: u64,
    /// Duration of the last inference, seconds.
    pub inference_s: Option<f64>,
    /// Durations of inferences, seconds.
    pub inference_times: Window,
    /// Times from image stamp to decision, seconds.
    pub latencies: Window,
    /// Stages of the last decision.
    pub last_stages: Vec<Stage>,
    /// Way to a policy server and back, seconds.
    pub network: Window,
    /// Durations that a policy server states, seconds.
    pub server: Window,
    /// Speculative decoding: draft tokens offered and accepted.
    pub draft: DraftCounts,
    /// Commands published per second.
    pub command_rate: Rate,
}

impl NodeMetrics {
    /// Takes the stages of a decision.
    pub fn stages(&mut self, stages: &[Stage]) {
        self.last_stages.clear();
        self.last_stages.extend_from_slice(stages);
        for stage in stages {
            match stage.name {
                "network" | "round_trip" => self.network.push(stage.milliseconds * 1e-3),
                "server" => self.server.push(stage.milliseconds * 1e-3),
                _ => {}
            }
        }
    }
}

/// The last values of a measurement.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<f64>);

impl Window {
    pub fn push(&mut self, value: f64) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The value that the given share of the values is below; NaN without values.
    pub fn percentile(&self, share: f64) -> f64 {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )] // an index into a short list
        let index = (share * sorted.len() as f64) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// Rate of a counter between two readings.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: Option<(Instant, u64)>,
    /// Counts per second between the last two readings.
    pub hz: f64,
}

impl Rate {
    /// Reads the counter.
    pub fn update(&mut self, now: Instant, count: u64) {
        let (since, before) = self.last.unwrap_or((now, count));
        #[allow(clippy::cast_precision_loss)] // commands of about one second
        let passed = count.saturating_sub(before) as f64;
        self.hz = if since < now { passed / now.since(since).seconds() } else { 0.0 };
        self.last = Some((now, count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_none() {
        assert!(Window::default().percentile(0.5).is_nan());
        let values = Window((1..=100).rev().map(f64::from).collect());
        assert_eq!(
            (values.percentile(0.5), values.percentile(0.99), values.percentile(1.0)),
            (51.0, 100.0, 100.0)
        );
    }

    #[test]
    fn rate_is_counts_per_second() {
        let mut rate = Rate::default();
        rate.update(Instant::from_nanoseconds(1_000_000_000), 100);
        assert_eq!(rate.hz, 0.0);
        rate.update(Instant::from_nanoseconds(3_000_000_000), 200);
        assert_eq!(rate.hz, 50.0);
    }
}
