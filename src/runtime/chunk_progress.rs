//! How far the previous chunk has been executed, in counted steps.

use std::time::Duration;

use super::step_times::StepTimes;
use vla_control::action_chunk::ChunkOrigin;
use vla_control::time::Instant;
use vla_inference::observation::Playback;

/// Progress of the chunk of the last decision.
#[derive(Debug)]
pub(super) struct ChunkProgress {
    policy_hz: f64,
    /// Steps of a chunk that begin before the next observation.
    execute: u64,
    motion_delay: Duration,
    /// Steps begun at the observation of the previous chunk, and the start of its inference.
    previous: Option<(u64, Instant)>,
    /// Steps begun when the last inference started.
    count: u64,
    /// Duration of the last inference, seconds.
    inference_s: f64,
    /// Steps that began between the observation of the last chunk and its end.
    delay: usize,
}

impl ChunkProgress {
    /// Before the first chunk. `motion_delay`: from the begin of a step to that of the robot's
    /// motion. `inference_s`: expected duration.
    pub fn new(policy_hz: f64, execute: usize, motion_delay: Duration, inference_s: f64) -> Self {
        Self {
            policy_hz,
            execute: execute as u64,
            motion_delay,
            previous: None,
            count: 0,
            inference_s,
            delay: 0,
        }
    }

    /// Steps begun before the one that the robot began to follow when an observation was taken.
    pub fn begun_at(&self, steps: &StepTimes, taken: Instant) -> u64 {
        steps.begun_at(taken, self.motion_delay, Duration::from_secs_f64(self.policy_hz.recip()))
    }

    /// Whether steps of the present chunk are still to begin before the next observation, of which
    /// the newest image was taken at `newest`. An observation is taken for a step, not for a time:
    /// of a chunk from an observation of before, the steps begun in between would be left out, and
    /// with them a part of the way. Where no step begins any more, as on a hold, the time of half
    /// as many steps more ends the wait.
    pub fn executes(&self, steps: &StepTimes, newest: Instant, now: Instant) -> bool {
        let Some((previous, started)) = self.previous.filter(|_| self.execute > 1) else {
            return false;
        };
        let longest = Duration::from_secs_f64(1.5 * self.execute as f64 / self.policy_hz);
        let runs = previous < steps.count() && now.since(started).get() < longest;
        runs && self.begun_at(steps, newest).saturating_sub(previous) < self.execute
    }

    /// How far the previous chunk has been executed at an observation at which `begun` steps had
    /// begun. Where no step began since the last inference nothing is being executed: control
    /// holds, and a chunk that continues the old one would keep a plan alive that is not executed.
    pub fn playback(&mut self, steps: &StepTimes, begun: u64) -> Playback {
        let count = steps.count();
        let moving = self.count != count;
        self.count = count;
        let executed = self
            .previous
            .filter(|_| moving)
            .and_then(|(previous, _)| usize::try_from(begun.saturating_sub(previous)).ok());
        // Those begun since the observation, and those that begin during the inference. The last
        // delay includes the step that begins just before its end. Saturates; a delay beyond the
        // chunk is the policy's to handle.
        let since = usize::try_from(count.saturating_sub(begun)).unwrap_or(usize::MAX);
        let during = (self.inference_s * self.policy_hz).ceil() as usize;
        Playback { executed, delay: since.saturating_add(during).max(self.delay) }
    }

    /// An inference of this duration [s] ended, with a decision or without.
    pub fn inferred(&mut self, inference_s: f64) {
        self.inference_s = inference_s;
    }

    /// A chunk was decided, of which control takes over now.
    pub fn decided(&mut self, steps: &StepTimes, origin: &ChunkOrigin) {
        let begun = origin.steps_begun_at_observation;
        self.delay = usize::try_from(steps.count().saturating_sub(begun)).unwrap_or(usize::MAX);
        self.previous = Some((begun, origin.inference_started));
    }

    /// Nothing is executed any more that the next observation has to wait for.
    pub fn forget(&mut self) {
        self.previous = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: f64 = 10.0;

    fn at(milliseconds: u64) -> Instant {
        Instant::START.after(Duration::from_millis(milliseconds))
    }

    /// A progress whose chunk, of an observation at which `begun` steps had begun, was decided
    /// after an inference from 1.0 s on.
    fn decided(steps: &StepTimes, begun: u64, motion_delay_ms: u64) -> ChunkProgress {
        let delay = Duration::from_millis(motion_delay_ms);
        let mut progress = ChunkProgress::new(HZ, 5, delay, 0.03);
        let origin = ChunkOrigin {
            steps_begun_at_observation: begun,
            inference_started: at(1000),
            ..ChunkOrigin::default()
        };
        progress.decided(steps, &origin);
        progress
    }

    /// Steps from 1.05 s on, `count` of them.
    fn begun(count: u64) -> StepTimes {
        let steps = StepTimes::default();
        (0..count).for_each(|step| steps.note(step + 1, at(1050 + 100 * step)));
        steps
    }

    #[test]
    fn an_observation_is_taken_after_the_steps_to_execute() {
        let progress = decided(&begun(0), 0, 0);
        // No step begins: the next observation does not wait.
        assert!(!progress.executes(&begun(0), at(1100), at(1100)));
        for count in 1..=4 {
            let image = at(1000 + 100 * count);
            assert!(progress.executes(&begun(count), image, image), "{count}");
        }
        assert!(!progress.executes(&begun(5), at(1500), at(1500)));
    }

    #[test]
    fn steps_that_the_robot_does_not_follow_yet_are_still_to_execute() {
        let progress = decided(&begun(0), 0, 120);
        assert!(progress.executes(&begun(6), at(1600), at(1600)));
        assert!(!progress.executes(&begun(7), at(1730), at(1730)));
    }

    #[test]
    fn a_hold_ends_the_wait() {
        let progress = decided(&begun(0), 0, 0);
        assert!(progress.executes(&begun(2), at(1700), at(1700)));
        assert!(!progress.executes(&begun(2), at(1800), at(1800)));
    }

    #[test]
    fn single_actions_do_not_wait() {
        let mut progress = ChunkProgress::new(5.0, 1, Duration::ZERO, 0.03);
        progress.decided(&begun(0), &ChunkOrigin::default());
        assert!(!progress.executes(&begun(1), at(1100), at(1100)));
    }

    #[test]
    fn the_delay_has_the_steps_in_flight_and_those_of_the_inference() {
        let mut progress = decided(&begun(0), 0, 120);
        let steps = begun(7);
        let observed = progress.begun_at(&steps, at(1710));
        assert_eq!(observed, 5); // the last two at 1.55 and 1.65 s are in flight
        let playback = progress.playback(&steps, observed);
        assert_eq!(playback, Playback { executed: Some(5), delay: 3 });
        // The inference took 0.3 s.
        progress.inferred(0.3);
        let origin = ChunkOrigin {
            steps_begun_at_observation: observed,
            inference_started: at(1710),
            ..ChunkOrigin::default()
        };
        progress.decided(&begun(10), &origin);
        assert_eq!(progress.playback(&begun(12), 10), Playback { executed: Some(5), delay: 5 });
    }

    #[test]
    fn where_no_step_begins_nothing_is_continued() {
        let mut progress = decided(&begun(2), 0, 0);
        let steps = begun(3);
        assert_eq!(progress.playback(&steps, 3).executed, Some(3));
        assert_eq!(progress.playback(&steps, 3).executed, None);
        progress.forget();
        assert_eq!(progress.playback(&begun(4), 4).executed, None);
    }
}
