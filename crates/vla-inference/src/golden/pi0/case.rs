//! A whole case: from images, instruction and raw state to physical actions.

use std::collections::BTreeMap;

use super::{CaseReport, Pi0Case, Pi0CheckError, Run, failed, flat, narrow};
use crate::backend::{Backend, BackendError};
use crate::models::{NoProbe, Probe};
use crate::observation::RgbImage;
use crate::policy::PolicyError;
use crate::policy::pi0::{Continuation, Prepared};
use crate::tensor::HostTensor;

/// Keeps the first occurrence of every tensor.
struct Recorder<'a, B: Backend> {
    backend: &'a B,
    tensors: BTreeMap<String, HostTensor>,
    order: Vec<String>,
}

impl<B: Backend> Probe<B> for Recorder<'_, B> {
    fn observe(&mut self, name: &str, tensor: &B::Tensor) -> Result<(), BackendError> {
        if !self.tensors.contains_key(name) {
            self.tensors.insert(name.to_owned(), self.backend.download(tensor)?);
            self.order.push(name.to_owned());
        }
        Ok(())
    }
}

impl<B: Backend> Recorder<'_, B> {
    /// pi0's state row, where there is one, then the action rows.
    fn suffix(&self, state: &str, actions: &str) -> Vec<f32> {
        [flat(&self.tensors, state), flat(&self.tensors, actions)].concat()
    }
}

/// What the integration of a case gave.
#[derive(Default)]
pub(super) struct Trajectory {
    /// x before each step, and after the last.
    pub x: Vec<Vec<f32>>,
    /// Velocity of the model at each step.
    pub v: Vec<Vec<f32>>,
    /// Velocity used at each step.
    pub guided: Vec<Vec<f32>>,
}

impl<B: Backend> Run<'_, B> {
    /// Images, text and state of a case, as the policy prepares them.
    pub(super) fn prepared(&self, case: &Pi0Case) -> Result<Prepared, Pi0CheckError> {
        let images = case
            .present
            .iter()
            .map(|(feature, path)| Ok((feature.clone(), self.kit.image(path)?)))
            .collect::<Result<BTreeMap<String, RgbImage>, Pi0CheckError>>()?;
        let images = images.iter().map(|(feature, image)| (feature.clone(), image)).collect();
        let state: Vec<f32> = case.state.iter().map(|&value| value as f32).collect();
        self.policy
            .prepare(&images, &state, &case.instruction)
            .map_err(failed(format!("case {}", case.id)))
    }

    /// Integrates a case with `steps` Euler steps.
    pub(super) fn integrate(
        &mut self,
        prepared: &Prepared,
        (steps, noise): (usize, Vec<f32>),
        continuation: &Continuation,
        probe: &mut (impl Probe<B> + Send),
    ) -> Result<Trajectory, PolicyError> {
        self.schedule(steps)?;
        let mut trajectory = Trajectory::default();
        let Some(schedule) = self.schedules.get(&steps) else { return Ok(trajectory) };
        let (x, v, guided) = (&mut trajectory.x, &mut trajectory.v, &mut trajectory.guided);
        let last = self.policy.sample(prepared, schedule, noise, continuation, probe, |step| {
            x.push(step.x.to_vec());
            v.push(step.v.to_vec());
            guided.push(step.guided.to_vec());
        })?;
        trajectory.x.push(last);
        Ok(trajectory)
    }

    pub(super) fn case(&mut self, case: &Pi0Case) -> Result<CaseReport, Pi0CheckError> {
        let golden = self.kit.case_tensors(case.id)?;
        let prepared = self.prepared(case)?;
        let mut report = CaseReport { name: format!("case {}", case.id), ..Default::default() };
        let bounds = self.bounds;
        let plain = (bounds, None);
        report.require(prepared.prompt == case.prompt, || {
            format!("prompt: {:?}, the reference {:?}", prepared.prompt, case.prompt)
        });
        let ids = case.ids();
        report.require(prepared.input_ids == ids, || {
            format!("token ids: {:?}, the reference {ids:?}", prepared.input_ids)
        });
        let state: Vec<f32> = case.state_normalised.iter().map(|&value| value as f32).collect();
        // On the host, in float32, whatever the device.
        report.compare("state", &prepared.normalized_state, &state, (bounds, Some(1e-5)));
        let backend = self.policy.backend();
        let mut recorder = Recorder { backend, tensors: BTreeMap::new(), order: vec![] };
        let noise = flat(&golden, "noise");
        let run = self
            .integrate(&prepared, (case.num_steps, noise), &Continuation::None, &mut recorder)
            .map_err(failed(&report.name))?;
        for name in &recorder.order {
            if let Some(reference) = golden.get(name) {
                report.compare(name, &flat(&recorder.tensors, name), &reference.to_f32(), plain);
            }
        }
        let reference = flat(&golden, "prefix_embs");
        report.compare("prefix_embs", &flat(&recorder.tensors, "prefix.embs"), &reference, plain);
        self.keys_and_values(&mut report, &prepared, &golden)?;
        self.suffix(&mut report, &recorder, (case, &golden));
        self.trajectory(&mut report, &run, &golden);
        let last = run.x.last().map(Vec::as_slice).unwrap_or_default();
        let reference = narrow(&case.actions_normalised);
        report.compare("actions_normalised", last, &reference, (bounds, bounds.x));
        let mapping = &self.policy.checkpoint().processors.mapping;
        let actions = self.policy.actions(last, &prepared.state, mapping).concat();
        report.compare("actions", &actions, &narrow(&case.actions), (bounds, bounds.actions));
        report.detail = format!(
            "{} text tokens, {} images, {} steps",
            ids.len(),
            prepared.images.len(),
            case.num_steps
        );
        Ok(report)
    }

    /// Keys and values of the first and the last layer.
    fn keys_and_values(
        &self,
        report: &mut CaseReport,
        prepared: &Prepared,
        golden: &BTreeMap<String, HostTensor>,
    ) -> Result<(), Pi0CheckError> {
        let read = || -> Result<Vec<(String, Vec<f32>)>, PolicyError> {
            let backend = self.policy.backend();
            let prefix = backend.scope(|| self.policy.prefix(prepared, &mut NoProbe))?;
            let last = self.policy.model().config().vlm.depth.saturating_sub(1);
            let mut all = Vec::new();
            for (layer, place) in [(0, "first"), (last, "last")] {
                let (keys, values) = backend.read_cache(prefix.cache(), layer)?;
                for (name, tensor) in [("k", keys), ("v", values)] {
                    let rows = prefix_rows(&tensor, prefix.positions());
                    all.push((format!("prefix_{name}_{place}"), rows));
                }
            }
            Ok(all)
        };
        for (name, values) in read().map_err(failed(&report.name))? {
            report.compare(&name, &values, &flat(golden, &name), (self.bounds, None));
        }
        Ok(())
    }

    /// The expert at the first step.
    fn suffix(
        &self,
        report: &mut CaseReport,
        recorder: &Recorder<'_, B>,
        (case, golden): (&Pi0Case, &BTreeMap<String, HostTensor>),
    ) {
        let plain = (self.bounds, None);
        if let Some(reference) = golden.get("adarms_cond") {
            let schedule = self.schedules.get(&case.num_steps);
            let cond = schedule.and_then(|schedule| schedule.cond());
            let cond = cond.map(|cond| cond.to_f32()).unwrap_or_default();
            report.compare("adarms_cond", &cond, &reference.to_f32(), plain);
        }
        let embs = recorder.suffix("state.embs", "suffix.embs");
        report.compare("suffix_embs_0", &embs, &flat(golden, "suffix_embs_0"), plain);
        if let Some(layers) = golden.get("expert_hidden_0") {
            let count = layers.shape().first().copied().unwrap_or(0);
            for layer in 0..count {
                let ours = recorder.suffix(
                    &format!("state.layer{layer}.out"),
                    &format!("suffix.layer{layer}.out"),
                );
                let reference = layers.rows(layer..layer + 1).map(|rows| rows.to_f32());
                let name = format!("expert_hidden_0.{layer}");
                report.compare(name, &ours, &reference.unwrap_or_default(), plain);
            }
        }
        let out = recorder.suffix("state.out", "suffix.out");
        report.compare("suffix_out_0", &out, &flat(golden, "suffix_out_0"), plain);
    }

    /// Times, velocities and noisy actions of every step.
    fn trajectory(
        &self,
        report: &mut CaseReport,
        run: &Trajectory,
        golden: &BTreeMap<String, HostTensor>,
    ) {
        let bounds = self.bounds;
        if let Some(times) = golden.get("t") {
            let ours = self.schedules.get(&run.v.len()).map(|schedule| schedule.times.as_slice());
            report.compare("t", ours.unwrap_or_default(), &times.to_f32(), (bounds, Some(0.0)));
        }
        steps(report, "v", &run.v, golden.get("v"), (bounds, None));
        steps(report, "x", &run.x, golden.get("x"), (bounds, bounds.x));
        let errors = report.stages.iter().filter(|stage| stage.name.starts_with("x."));
        report.growth = errors.map(|stage| stage.agreement.max_abs).collect();
    }
}

/// Compares `[steps, ...]` step by step.
pub(super) fn steps(
    report: &mut CaseReport,
    name: &str,
    ours: &[Vec<f32>],
    reference: Option<&HostTensor>,
    bounds: (super::Pi0Bounds, Option<f64>),
) {
    let Some(reference) = reference else { return };
    let count = reference.shape().first().copied().unwrap_or(0);
    report.require(count == ours.len(), || {
        format!("{name}: {} steps, the reference {count}", ours.len())
    });
    for (step, ours) in ours.iter().enumerate().take(count) {
        let row = reference.rows(step..step + 1).map(|row| row.to_f32()).unwrap_or_default();
        report.compare(format!("{name}.{step}"), ours, &row, bounds);
    }
}

/// The first `rows` positions of `[heads, positions, head_dim]`.
fn prefix_rows(tensor: &HostTensor, rows: usize) -> Vec<f32> {
    let [_, positions, columns] = *tensor.shape() else { return tensor.to_f32() };
    let values = tensor.to_f32();
    let heads = values.chunks_exact((positions * columns).max(1));
    heads.flat_map(|head| head[..(rows * columns).min(head.len())].to_vec()).collect()
}
