//! The action expert: a narrow Gemma stack whose rows are noisy actions, and whose output is the
//! velocity that turns them into the actions of the data.
//!
//! Everything that depends on the time alone is tabulated for each Euler step ([`Schedule`]): in
//! pi0 the time's half of `action_time_mlp_in`, into whose other half `action_in_proj` is folded;
//! in pi0.5 the modulation of the norms.

use super::gemma::{Layer, Stack, load_norm};
use super::modulation::{Modulation, ModulationTable, TimeNetwork};
use super::time::{TimeEmbedding, TimeSteps, times};
use crate::backend::{Activation, Backend, BackendError, LinearSource, TensorParallel, WeightRole};
use crate::checkpoint::pi0::{Pi0Config, Pi0Kind};
use crate::models::{ModelError, Probe, Weights};
use crate::tensor::HostTensor;

/// The expert and the layers around it.
pub(super) struct Expert<B: Backend> {
    layers: Vec<Layer<B>>,
    norm: B::Norm,
    action_out_proj: B::Linear,
    embedding: TimeEmbedding,
    time_steps: TimeSteps,
    form: Form<B>,
}

/// What differs between the two models.
enum Form<B: Backend> {
    Pi0 { state_proj: B::Linear, action_time_mlp_in: FoldedInput, action_time_mlp_out: B::Linear },
    Pi05 { action_in_proj: B::Linear, time: Box<TimeNetwork> },
}

/// `action_time_mlp_in(action_in_proj(x), e(t))` as one layer per time: `W x + b(t)`.
struct FoldedInput {
    /// `[width, action_dim]`.
    weight: HostTensor,
    /// The part of the bias that does not depend on the time.
    bias: Vec<f64>,
    /// The time's half of `action_time_mlp_in`, `[width, width]`.
    time: Vec<f32>,
}

/// Everything that depends on the number of Euler steps.
pub struct Schedule<B: Backend> {
    /// Time of each step, from 1 downwards.
    pub times: Vec<f32>,
    steps: Steps<B>,
}

enum Steps<B: Backend> {
    /// The first layer of each step.
    Pi0(Vec<B::Linear>),
    /// The modulation of each step, and the table it was made from, with time 0 in its last row.
    Pi05(Vec<Modulation<B>>, ModulationTable),
}

impl<B: Backend> Schedule<B> {
    /// The condition of pi0.5's norms at each step, `[steps, width]`.
    #[must_use]
    pub fn cond(&self) -> Option<HostTensor> {
        match &self.steps {
            Steps::Pi0(_) => None,
            Steps::Pi05(steps, table) => table.cond.rows(0..steps.len()).ok(),
        }
    }
}

impl<B: Backend> Expert<B> {
    /// `root` is the checkpoint without its prefix.
    pub(super) fn load(
        backend: &B,
        root: &Weights<'_>,
        (config, time_steps): (&Pi0Config, TimeSteps),
    ) -> Result<Self, ModelError> {
        let weights = root.at("paligemma_with_expert.gemma_expert.model");
        let adaptive = config.kind == Pi0Kind::Pi05;
        let (width, action) = (config.expert.width, config.max_action_dim);
        // An Euler step has the rows of one chunk.
        let stack = Stack { adaptive, few_rows: true };
        let layers = (0..config.expert.depth)
            .map(|index| {
                let layer = weights.at("layers").at(index);
                Layer::load(backend, &layer, &config.expert, (stack, true))
            })
            .collect::<Result<_, _>>()?;
        let role = (WeightRole::Head, TensorParallel::Replicated);
        let linear = |name, shape| root.linear(backend, role, name, shape);
        let form = match config.kind {
            Pi0Kind::Pi0 => Form::Pi0 {
                state_proj: linear("state_proj", [width, config.max_state_dim])?,
                action_time_mlp_in: FoldedInput::load(root, width, action)?,
                action_time_mlp_out: linear("action_time_mlp_out", [width, width])?,
            },
            Pi0Kind::Pi05 => Form::Pi05 {
                action_in_proj: linear("action_in_proj", [width, action])?,
                time: Box::new(TimeNetwork::load(root, &weights, &config.expert)?),
            },
        };
        Ok(Self {
            layers,
            norm: load_norm(backend, &weights, "norm", (width, adaptive))?,
            action_out_proj: linear("action_out_proj", [action, width])?,
            embedding: TimeEmbedding::new(width, config.min_period, config.max_period),
            time_steps,
            form,
        })
    }

    pub(super) fn schedule(&self, backend: &B, steps: usize) -> Result<Schedule<B>, BackendError> {
        self.schedule_at(backend, times(steps, self.time_steps))
    }

    pub(super) fn schedule_at(
        &self,
        backend: &B,
        times: Vec<f32>,
    ) -> Result<Schedule<B>, BackendError> {
        let steps = match &self.form {
            Form::Pi0 { action_time_mlp_in, .. } => {
                let load = |time: &f32| {
                    let embedded = self.embedding.of(&[*time])?.to_f32();
                    backend.load_linear(action_time_mlp_in.at(&embedded)?)
                };
                Steps::Pi0(times.iter().map(load).collect::<Result<_, _>>()?)
            }
            Form::Pi05 { time, .. } => {
                let with_zero = [times.as_slice(), &[0.0]].concat();
                let table = time.table(&self.embedding, &with_zero)?;
                let rows = 0..times.len();
                let steps = rows.map(|row| table.at(backend, &[row])).collect::<Result<_, _>>()?;
                Steps::Pi05(steps, table)
            }
        };
        Ok(Schedule { times, steps })
    }

    /// Whether the state has a row.
    pub(super) fn has_state(&self) -> bool {
        matches!(self.form, Form::Pi0 { .. })
    }

    /// pi0's state row at `position`: fills its keys and values, which no Euler step changes,
    /// because the state sees the prefix and itself only.
    pub(super) fn state(
        &self,
        backend: &B,
        state: &B::Tensor,
        (cache, position): (&mut B::Cache, usize),
        probe: &mut impl Probe<B>,
    ) -> Result<(), BackendError> {
        let Form::Pi0 { state_proj, .. } = &self.form else { return Ok(()) };
        let x = backend.linear(state, state_proj, Activation::Identity)?;
        probe.observe("state.embs", &x)?;
        let x = self.run(backend, x, (cache, position), None, probe, "state")?;
        if probe.every_layer() {
            probe.observe("state.out", &backend.rms_norm(&x, &self.norm)?)?;
        }
        Ok(())
    }

    /// Velocity `[rows, action_dim]` of the noisy actions `x` at a step. The first `frozen` rows
    /// are actions already, at time 0 (pi0.5 trained for real-time chunking).
    pub(super) fn velocity(
        &self,
        backend: &B,
        x: &B::Tensor,
        (cache, position): (&mut B::Cache, usize),
        (schedule, step, frozen): (&Schedule<B>, usize, usize),
        probe: &mut impl Probe<B>,
    ) -> Result<B::Tensor, BackendError> {
        let no_step = || BackendError::Shape {
            operation: "velocity",
            detail: format!("step {step} of {}", schedule.times.len()),
        };
        let [rows, _] = backend.shape(x);
        let mixed;
        let (x, modulation) = match (&self.form, &schedule.steps) {
            (Form::Pi0 { action_time_mlp_out, .. }, Steps::Pi0(steps)) => {
                let first = steps.get(step).ok_or_else(no_step)?;
                let hidden = backend.linear(x, first, Activation::Silu)?;
                (backend.linear(&hidden, action_time_mlp_out, Activation::Identity)?, None)
            }
            (Form::Pi05 { action_in_proj, .. }, Steps::Pi05(steps, table)) => {
                let modulation = if frozen == 0 {
                    steps.get(step).ok_or_else(no_step)?
                } else {
                    let of = |row| if row < frozen { steps.len() } else { step };
                    mixed = table.at(backend, &(0..rows).map(of).collect::<Vec<_>>())?;
                    &mixed
                };
                (backend.linear(x, action_in_proj, Activation::Identity)?, Some(modulation))
            }
            _ => return Err(no_step()),
        };
        probe.observe("suffix.embs", &x)?;
        let x = self.run(backend, x, (cache, position), modulation, probe, "suffix")?;
        let x = backend.rms_norm(&x, &self.norm)?;
        let x = match modulation {
            Some(modulation) => modulation.norm.apply(backend, &x)?,
            None => x,
        };
        probe.observe("suffix.out", &x)?;
        backend.linear(&x, &self.action_out_proj, Activation::Identity)
    }

    fn run(
        &self,
        backend: &B,
        mut x: B::Tensor,
        (cache, position): (&mut B::Cache, usize),
        modulation: Option<&Modulation<B>>,
        probe: &mut impl Probe<B>,
        name: &str,
    ) -> Result<B::Tensor, BackendError> {
        for (index, layer) in self.layers.iter().enumerate() {
            let modulation = modulation.and_then(|all| all.layers.get(index));
            let place = (&mut *cache, index, position);
            let out = layer.forward(backend, x, place, modulation)?;
            x = out.ok_or_else(|| BackendError::Shape {
                operation: "expert",
                detail: format!("layer {index} gives keys and values only"),
            })?;
            if probe.every_layer() {
                probe.observe(&format!("{name}.layer{index}.out"), &x)?;
            }
        }
        Ok(x)
    }
}

impl FoldedInput {
    fn load(root: &Weights<'_>, width: usize, action: usize) -> Result<Self, ModelError> {
        let layer = root.at("action_in_proj");
        let inner = layer.tensor("weight", &[width, action])?.to_f32();
        let inner_bias = layer.tensor("bias", &[width])?.to_f32();
        let layer = root.at("action_time_mlp_in");
        let outer = layer.tensor("weight", &[width, 2 * width])?.to_f32();
        let outer_bias = layer.tensor("bias", &[width])?.to_f32();
        let (mut weight, mut bias, mut time) = (Vec::new(), Vec::new(), Vec::new());
        for (row, own) in outer.chunks_exact(2 * width).zip(outer_bias) {
            let (actions, times) = row.split_at(width);
            let mut sums = vec![0.0f64; action];
            let mut sum = f64::from(own);
            for ((&w, inner), &inner_bias) in
                actions.iter().zip(inner.chunks_exact(action)).zip(&inner_bias)
            {
                for (sum, &inner) in sums.iter_mut().zip(inner) {
                    *sum += f64::from(w) * f64::from(inner);
                }
                sum += f64::from(w) * f64::from(inner_bias);
            }
            weight.extend(sums.into_iter().map(|sum| sum as f32));
            bias.push(sum);
            time.extend_from_slice(times);
        }
        let weight = HostTensor::from_f32(&[width, action], weight).map_err(BackendError::from)?;
        Ok(Self { weight, bias, time })
    }

    /// The layer at a time whose embedding is given.
    fn at(&self, embedded: &[f32]) -> Result<LinearSource, BackendError> {
        let rows = self.time.chunks_exact(embedded.len().max(1));
        let bias: Vec<f32> = rows
            .zip(&self.bias)
            .map(|(row, bias)| {
                let products = row.iter().zip(embedded).map(|(a, b)| f64::from(*a) * f64::from(*b));
                (bias + products.sum::<f64>()) as f32
            })
            .collect();
        Ok(LinearSource {
            role: WeightRole::Head,
            weights: vec![self.weight.clone()],
            bias: Some(HostTensor::from_f32(&[bias.len()], bias)?),
            output_scale: None,
            parallelism: TensorParallel::Replicated,
            few_rows: false,
        })
    }
}
