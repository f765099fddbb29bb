//! A policy that takes longer than it needs, as the same policy on a slower device would.

use std::time::Duration;

use vla_inference::observation::Observation;
use vla_inference::policy::{
    Decision, DraftCounts, Policy, PolicyError, PolicyInfo, Restored, Stage,
};

/// A policy whose every decision takes a fixed time more. Only the inference thread waits.
pub struct AddedLatency {
    policy: Box<dyn Policy>,
    time: Duration,
}

impl AddedLatency {
    /// `policy` as it is for zero seconds.
    #[must_use]
    pub fn to(policy: Box<dyn Policy>, seconds: f64) -> Box<dyn Policy> {
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if !time.is_zero() => Box::new(Self { policy, time }),
            _ => policy,
        }
    }
}

impl Policy for AddedLatency {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let mut decision = self.policy.act(observation)?;
        std::thread::sleep(self.time);
        decision.stages.push(Stage { name: "added", milliseconds: self.time.as_secs_f64() * 1e3 });
        Ok(decision)
    }

    fn info(&self) -> &PolicyInfo {
        self.policy.info()
    }

    fn restart(&mut self) {
        self.policy.restart();
    }

    fn next_seed(&self) -> Option<u64> {
        self.policy.next_seed()
    }

    fn restore(&mut self) -> Restored {
        self.policy.restore()
    }

    fn origin(&self) -> Option<String> {
        self.policy.origin()
    }

    fn draft_counts(&self) -> DraftCounts {
        self.policy.draft_counts()
    }
}
