//! One decision: observation to chunk.

use std::collections::BTreeMap;

use super::options::{ContinuationMode, FlowError};
use super::sample::{sample_traced, serves};
use super::{Continuation, Noise, Pi0Policy, Prepared, Previous, next_seed, sample};
use crate::backend::Backend;
use crate::checkpoint::pi0::{ActionMapping, Pi0Kind};
use crate::models::NoProbe;
use crate::observation::{Observation, Playback};
use crate::policy::openvla::Stopwatch;
use crate::policy::{Decision, Instruction, Policy, PolicyError, PolicyInfo};

impl<B: Backend> Pi0Policy<B> {
    /// How the next chunk continues the previous one, and in which way it does so otherwise than
    /// was asked for. A delay that the continuation does not cover leaves a seam, which control
    /// limits; refusing the chunk would stop the arm instead.
    fn continuation(
        &self,
        observation: &Observation,
        state: &[f32],
    ) -> Result<(Continuation, Option<String>), FlowError> {
        let Some((rest, delay)) = self.unexecuted(observation.playback, state) else {
            return Ok((Continuation::None, None));
        };
        let config = &self.checkpoint.config;
        let shape = [config.chunk_size, config.max_action_dim];
        match self.continuation {
            ContinuationMode::None => Ok((Continuation::None, None)),
            ContinuationMode::Trained => {
                let trained = config.rtc_training_max_delay;
                let (covered, remark) = covered(delay, rest.len(), trained);
                Ok((Continuation::trained(&rest, shape, covered, trained)?, remark))
            }
            ContinuationMode::Guided { horizon, schedule, max_weight } => {
                let horizon = horizon.unwrap_or(config.rtc.execution_horizon);
                let stored = config.rtc.prefix_attention_schedule.parse().unwrap_or_default();
                let curve = (
                    schedule.unwrap_or(stored),
                    max_weight.unwrap_or(config.rtc.max_guidance_weight as f32),
                );
                let (covered, remark) = covered(delay, rest.len(), usize::MAX);
                Ok((Continuation::guided(&rest, shape, (covered, horizon), curve)?, remark))
            }
        }
    }

    /// What is left of the previous chunk, normalised as seen from this state, and how many steps
    /// of it are executed meanwhile. `None` where there is nothing to continue.
    fn unexecuted(&self, playback: Playback, state: &[f32]) -> Option<(Vec<Vec<f32>>, usize)> {
        let (previous, executed) = (self.previous.as_ref()?, playback.executed?);
        let mapping = &self.checkpoint.processors.mapping;
        let first = executed.min(previous.normalized.len());
        let rest = match mapping {
            ActionMapping::Absolute => previous.normalized[first..].to_vec(),
            ActionMapping::Relative { .. } => {
                self.reanchored(&previous.actions[first..], state, mapping)
            }
        };
        (!rest.is_empty()).then_some((rest, playback.delay))
    }

    /// The state of an observation, and what its chunk is computed from.
    fn inputs(&self, observation: &Observation) -> Result<(Vec<f32>, Prepared), PolicyError> {
        let state: Vec<f32> =
            observation.state(self.info.state_dim)?.iter().map(|&v| v as f32).collect();
        let mut images = BTreeMap::new();
        for (feature, name) in &self.cameras {
            let image = match observation.image(feature) {
                Ok(image) => image,
                Err(_) => observation.image(name)?,
            };
            images.insert(feature.clone(), image);
        }
        let instruction: &Instruction = &observation.instruction;
        let prepared = self.prepare(&images, &state, instruction.as_given())?;
        Ok((state, prepared))
    }

    fn decide(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let mut clock = Stopwatch::start();
        let (state, prepared) = self.inputs(observation)?;
        let (continuation, remark) = self.continuation(observation, &state)?;
        clock.lap("preprocess");
        let config = &self.checkpoint.config;
        let seed = self.seed;
        let noise = Noise::new(seed).take(config.chunk_size * config.max_action_dim);
        let mut traced = self.traced.take();
        let chunk = self.backend.scope(|| -> Result<Vec<f32>, PolicyError> {
            if let Some(traced) = &mut traced {
                let (backend, network) = (&self.backend, (&self.model, &self.schedule));
                let (chunk, executed) = sample_traced(
                    backend,
                    network,
                    traced.as_mut(),
                    &prepared,
                    noise,
                    &continuation,
                )?;
                clock.lap(if executed { "execute" } else { "capture" });
                return Ok(chunk);
            }
            let mut prefix = self.timed_prefix(&prepared, &mut NoProbe, || clock.lap("vision"))?;
            clock.lap("prefix");
            let place = (&mut prefix, &self.schedule);
            let (model, backend) = (&self.model, &self.backend);
            let chunk = sample(backend, model, place, noise, &continuation, &mut NoProbe, |_| {})?;
            clock.lap("denoise");
            Ok(chunk)
        });
        self.traced = traced;
        let chunk = chunk?;
        self.seed = next_seed(seed);
        let actions = self.actions(&chunk, &state, &self.checkpoint.processors.mapping);
        let rows = chunk.chunks_exact(config.max_action_dim);
        let normalized: Vec<Vec<f32>> = rows.map(|row| row[..config.action.1].to_vec()).collect();
        let wide = |rows: &[Vec<f32>]| -> Vec<Vec<f64>> {
            rows.iter().map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect()
        };
        let decision = Decision {
            prompt: prepared.prompt,
            input_ids: prepared.input_ids,
            normalized: wide(&normalized),
            actions: wide(&actions),
            seed: Some(seed),
            remark,
            stages: clock.stages,
            ..Decision::default()
        };
        self.previous = Some(Previous { normalized, actions });
        Ok(decision)
    }
}

impl<B: Backend> Policy for Pi0Policy<B> {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let decision = self.decide(observation);
        // What the robot does after an error is unknown here, so that nothing is continued.
        if decision.is_err() {
            self.previous = None;
        }
        decision
    }

    fn prepare_for(&mut self, observation: &Observation) -> Result<bool, PolicyError> {
        let Some(traced) = &self.traced else { return Ok(false) };
        let (_, prepared) = self.inputs(observation)?;
        let network = (&self.model, &self.schedule);
        if serves(&self.backend, network, traced.as_ref(), &prepared)? {
            return Ok(false);
        }
        let (seed, previous) = (self.seed, self.previous.take());
        let made = self.decide(observation);
        (self.seed, self.previous) = (seed, previous);
        made.map(|_| true)
    }

    fn prepares_for_state(&self) -> bool {
        self.traced.is_some() && self.checkpoint.config.kind == Pi0Kind::Pi05
    }

    fn info(&self) -> &PolicyInfo {
        &self.info
    }

    fn restart(&mut self) {
        self.seed = self.first_seed;
        self.previous = None;
    }

    fn next_seed(&self) -> Option<u64> {
        Some(self.seed)
    }
}

/// The part of a delay that a continuation covers, of a previous chunk with `rows` steps left and a
/// model trained for `trained` of them; what there is to say when it is not the whole.
fn covered(delay: usize, rows: usize, trained: usize) -> (usize, Option<String>) {
    let covered = delay.min(trained).min(rows);
    let remark = if delay <= covered {
        None
    } else if rows < delay {
        Some(format!(
            "real-time chunking: the previous chunk has {rows} steps left but the inference takes \
            {delay}, so that the robot waits in between; lower the policy file's execute or \
            policy_hz, or use a faster device"
        ))
    } else {
        Some(format!(
            "real-time chunking: the inference takes {delay} steps but the checkpoint was trained \
            to continue after at most {trained} (rtc_training_max_delay), so that a seam remains; \
            use a faster device or a lower policy_hz"
        ))
    };
    (covered, remark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_that_are_not_covered_are_cut_and_said() {
        assert_eq!(covered(3, 8, 4), (3, None));
        assert_eq!(covered(4, 4, 4), (4, None));
        assert_eq!(covered(9, 9, usize::MAX), (9, None));
        let (cut, remark) = covered(5, 8, 4);
        assert_eq!(cut, 4);
        assert!(remark.is_some_and(|text| text.contains("takes 5 steps")
            && text.contains("at most 4 (rtc_training_max_delay)")));
        // The end of the chunk comes first: the robot stands still, which matters more.
        for trained in [2, 4, usize::MAX] {
            let (cut, remark) = covered(5, 3, trained);
            assert_eq!(cut, trained.min(3));
            assert!(remark.is_some_and(|text| text.contains("has 3 steps left")));
        }
    }
}
