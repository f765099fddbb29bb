//! The part of a step that takes chunks: which result may be executed.

use super::ControlState;
use crate::{
    action_chunk::ActionChunk,
    chunk_player::PlayerEvent,
    events::{Event, Events, Refusal},
    inputs::Inputs,
    reason::{Intervention, InterventionSet},
    time::Instant,
};

impl ControlState {
    /// Passes a new chunk to the player, or refuses it.
    pub(super) fn accept_chunk(
        &mut self,
        now: Instant,
        inputs: &Inputs<'_>,
        chunk: &ActionChunk,
        finite: bool,
        done: &mut InterventionSet,
        events: &mut Events,
    ) {
        let generation = chunk.origin().generation;
        let checked = self.check_chunk(now, inputs, chunk, finite);
        self.newest_generation = self.newest_generation.max(Some(generation));
        if let Err(why) = checked {
            refuse_chunk(generation, why, done, events);
            return;
        }
        // Joint positions that stay equal are legal: holding still is an action there.
        if let Some(first) = chunk.steps().first() {
            let position = inputs
                .ee_pose
                .map(|pose| pose.position)
                .filter(|p| p.iter().all(|x| x.is_finite()));
            self.stall.update(first, position, &self.config.detectors, events);
        }
        if let Some(event) = self.player.offer(now, chunk) {
            self.chunk_begins(now, event);
            record_player_event(event, done, events);
        }
    }

    /// Whether a chunk may be executed.
    fn check_chunk(
        &self,
        now: Instant,
        inputs: &Inputs<'_>,
        chunk: &ActionChunk,
        finite: bool,
    ) -> Result<(), Refusal> {
        let origin = chunk.origin();
        if !finite {
            return Err(Refusal::NotFinite);
        }
        // Before the check whether motion is allowed: a result that missed its deadline has
        // usually ended the motion, and the deadline is the cause to report.
        if now.since(origin.inference_started).exceeds(self.config.inference_timeout) {
            return Err(Refusal::LateResult);
        }
        let Some(running_since) = self.machine.running_since() else {
            return Err(Refusal::NotAllowed);
        };
        if Some(origin.instruction_generation) != inputs.instruction {
            return Err(Refusal::OldInstruction);
        }
        if self.newest_generation.is_some_and(|newest| origin.generation <= newest) {
            return Err(Refusal::OutOfOrder);
        }
        let joints = self.config.joints.as_ref().map_or(0, |space| space.count);
        if chunk.space() != self.config.action_space()
            || chunk.shape() != [joints, self.config.grippers]
        {
            return Err(Refusal::OtherSpace);
        }
        let too_old = origin
            .inference_started
            .since(origin.image_taken)
            .exceeds(self.config.observation_timeout);
        let spread = self.config.observation_spread < origin.observation_spread;
        if too_old || spread || origin.inference_started < running_since {
            return Err(Refusal::OldObservation);
        }
        Ok(())
    }
}

fn refuse_chunk(generation: u64, why: Refusal, done: &mut InterventionSet, events: &mut Events) {
    done.insert(match why {
        Refusal::NotFinite => Intervention::NotFinite,
        Refusal::OldInstruction => Intervention::OldInstruction,
        Refusal::OutOfOrder => Intervention::OutOfOrder,
        Refusal::LateResult => Intervention::LateResult,
        Refusal::OldObservation => Intervention::OldObservation,
        Refusal::Exhausted => Intervention::Exhausted,
        Refusal::NotAllowed => Intervention::NotAllowed,
        Refusal::OtherSpace => Intervention::OtherSpace,
    });
    events.push(Event::ChunkRefused { generation, why });
}

pub(super) fn record_player_event(
    event: PlayerEvent,
    done: &mut InterventionSet,
    events: &mut Events,
) {
    match event {
        PlayerEvent::Started { generation, first_step } => {
            events.push(Event::ChunkTaken { generation, first_step });
        }
        PlayerEvent::Refused { generation, why } => refuse_chunk(generation, why, done, events),
        PlayerEvent::RanOut => done.insert(Intervention::RampDown),
    }
}
