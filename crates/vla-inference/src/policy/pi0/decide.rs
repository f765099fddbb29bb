//! One decision: observation to chunk.

use std::collections::BTreeMap;

use super::options::{ContinuationMode, FlowError};
use super::sample::sample_traced;
use super::{Continuation, Noise, Pi0Policy, Previous, next_seed, sample};
use crate::backend::Backend;
use crate::checkpoint::pi0::ActionMapping;
use crate::models::NoProbe;
use crate::observation::Observation;
use crate::policy::openvla::Stopwatch;
use crate::policy::{Decision, Instruction, Policy, PolicyError, PolicyInfo};

impl<B: Backend> Pi0Policy<B> {
    /// How the next chunk continues the previous one.
    fn continuation(
        &self,
        observation: &Observation,
        state: &[f32],
    ) -> Result<Continuation, FlowError> {
        let (Some(previous), Some(executed)) = (&self.previous, observation.playback.executed)
        else {
            return Ok(Continuation::None);
        };
        let config = &self.checkpoint.config;
        let (shape, delay) =
            ([config.chunk_size, config.max_action_dim], observation.playback.delay);
        let mapping = &self.checkpoint.processors.mapping;
        let first = executed.min(previous.normalized.len());
        let rest = match mapping {
            ActionMapping::Absolute => previous.normalized[first..].to_vec(),
            ActionMapping::Relative { .. } => {
                self.reanchored(&previous.actions[first..], state, mapping)
            }
        };
        Ok(match self.continuation {
            ContinuationMode::None => Continuation::None,
            ContinuationMode::Trained => {
                Continuation::trained(&rest, shape, delay, config.rtc_training_max_delay)?
            }
            ContinuationMode::Guided { horizon, schedule, max_weight } => {
                let horizon = horizon.unwrap_or(config.rtc.execution_horizon);
                let stored = config.rtc.prefix_attention_schedule.parse().unwrap_or_default();
                let curve = (
                    schedule.unwrap_or(stored),
                    max_weight.unwrap_or(config.rtc.max_guidance_weight as f32),
                );
                Continuation::guided(&rest, shape, (delay, horizon), curve)?
            }
        })
    }

    fn decide(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let mut clock = Stopwatch::start();
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
        let continuation = self.continuation(observation, &state)?;
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
            let mut prefix = self.prefix(&prepared, &mut NoProbe)?;
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

    fn info(&self) -> &PolicyInfo {
        &self.info
    }
}
