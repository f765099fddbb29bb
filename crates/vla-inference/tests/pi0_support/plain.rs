//! pi0 and pi0.5 in their plain form, in float64, as the reference computes them: every row of the
//! padded prefix with a mask, the state row and the time's layers at every step, all layers. Slow,
//! and independent of the code under test; each simplification can be switched on alone.

use std::collections::BTreeMap;

use vla_inference::checkpoint::WeightFiles;
use vla_inference::checkpoint::pi0::{GemmaConfig, Pi0Config, Pi0Kind};

/// `[rows][columns]`.
pub type Rows = Vec<Vec<f64>>;

/// Simplifications, each of which must not change the result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Simplified {
    /// Rows without an image and padding tokens are left out instead of masked.
    pub dropped: bool,
    /// The state row is computed once.
    pub state_once: bool,
    /// The time's half of the first layer comes from a table, into whose other half
    /// `action_in_proj` is folded; pi0.5's modulations come from a table.
    pub tabulated: bool,
    /// Of the last prefix layer only keys and values are computed.
    pub keys_only: bool,
    /// No simplification but a defect: pi0's state row sees the actions, so that it changes from
    /// step to step.
    pub state_sees_actions: bool,
}

pub struct Plain {
    config: Pi0Config,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Keys and values of one layer, `[positions]` each with all heads side by side.
type Cache = Vec<(Rows, Rows)>;

/// Positions, which rows each new row sees, and the cache before them.
struct Attention<'a> {
    positions: &'a [usize],
    cache: &'a [(Rows, Rows)],
    /// Whether new row i sees row j of cache and new rows together.
    sees: &'a dyn Fn(usize, usize) -> bool,
}

const VLM: &str = "paligemma_with_expert.paligemma.model.language_model";
const EXPERT: &str = "paligemma_with_expert.gemma_expert.model";

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

fn add(x: &Rows, y: &Rows) -> Rows {
    x.iter().zip(y).map(|(x, y)| x.iter().zip(y).map(|(x, y)| x + y).collect()).collect()
}

impl Plain {
    pub fn load(weights: &WeightFiles, config: &Pi0Config) -> Self {
        let tensors = weights
            .tensors()
            .map(|tensor| {
                let name = tensor.name().trim_start_matches("model.").to_owned();
                let values = tensor.to_f32_vec().unwrap().into_iter().map(f64::from).collect();
                (name, (tensor.shape().to_vec(), values))
            })
            .collect();
        Self { config: config.clone(), tensors }
    }

    fn vector(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = self.vector(&format!("{name}.weight"));
        let bias = self.tensors.get(&format!("{name}.bias")).map(|(_, values)| values);
        x.iter()
            .map(|row| {
                weight
                    .chunks_exact(row.len())
                    .enumerate()
                    .map(|(output, weights)| {
                        let sum: f64 = weights.iter().zip(row).map(|(w, x)| w * x).sum();
                        sum + bias.map_or(0.0, |bias| bias[output])
                    })
                    .collect()
            })
            .collect()
    }

    /// RMS norm; with `cond`, one per row, scale and shift come from `dense`. Returns the gate too.
    fn norm(&self, name: &str, x: &Rows, cond: Option<&Rows>) -> (Rows, Option<Rows>) {
        let scaled: Rows = x
            .iter()
            .map(|row| {
                let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                row.iter().map(|v| v / (square + 1e-6).sqrt()).collect()
            })
            .collect();
        let Some(cond) = cond else {
            let weight = self.vector(&format!("{name}.weight"));
            let gained = scaled
                .iter()
                .map(|row| row.iter().zip(weight).map(|(v, w)| v * (1.0 + w)).collect());
            return (gained.collect(), None);
        };
        let modulation = self.linear(&format!("{name}.dense"), cond);
        let width = x[0].len();
        let of = |row: usize, part: usize| &modulation[row][part * width..(part + 1) * width];
        let out = scaled
            .iter()
            .enumerate()
            .map(|(row, values)| {
                let (scale, shift) = (of(row, 0), of(row, 1));
                values
                    .iter()
                    .zip(scale.iter().zip(shift))
                    .map(|(v, (a, b))| v * (1.0 + a) + b)
                    .collect()
            })
            .collect();
        (out, Some((0..x.len()).map(|row| of(row, 2).to_vec()).collect()))
    }

    fn gated(branch: Rows, gate: Option<&Rows>) -> Rows {
        let Some(gate) = gate else { return branch };
        let pairs = branch.iter().zip(gate);
        pairs.map(|(row, gate)| row.iter().zip(gate).map(|(v, g)| v * g).collect()).collect()
    }

    fn rotate(&self, x: &Rows, positions: &[usize]) -> Rows {
        let dim = self.config.vlm.head_dim;
        let half = dim / 2;
        x.iter()
            .zip(positions)
            .map(|(row, position)| {
                let mut out = row.clone();
                for head in (0..row.len()).step_by(dim) {
                    for pair in 0..half {
                        let angle =
                            *position as f64 * 10_000f64.powf(-2.0 * pair as f64 / dim as f64);
                        let (a, b) = (row[head + pair], row[head + pair + half]);
                        out[head + pair] = a * angle.cos() - b * angle.sin();
                        out[head + pair + half] = b * angle.cos() + a * angle.sin();
                    }
                }
                out
            })
            .collect()
    }

    /// One layer: its output, and keys and values of the new rows.
    fn layer(
        &self,
        (model, index): (&str, usize),
        x: &Rows,
        cond: Option<&Rows>,
        attention: &Attention<'_>,
    ) -> (Rows, (Rows, Rows)) {
        let GemmaConfig { num_heads, num_kv_heads, head_dim, .. } = self.config.vlm;
        let layer = format!("{model}.layers.{index}");
        let (normed, gate) = self.norm(&format!("{layer}.input_layernorm"), x, cond);
        let project = |name: &str| self.linear(&format!("{layer}.self_attn.{name}"), &normed);
        let q = self.rotate(&project("q_proj"), attention.positions);
        let k = self.rotate(&project("k_proj"), attention.positions);
        let v = project("v_proj");
        let empty = (Rows::new(), Rows::new());
        let before = attention.cache.get(index).unwrap_or(&empty);
        let keys: Vec<&Vec<f64>> = before.0.iter().chain(&k).collect();
        let values: Vec<&Vec<f64>> = before.1.iter().chain(&v).collect();
        let attended: Rows = q
            .iter()
            .enumerate()
            .map(|(row, query)| {
                let mut out = vec![0.0; num_heads * head_dim];
                for head in 0..num_heads {
                    let kv = head / (num_heads / num_kv_heads) * head_dim;
                    let query = &query[head * head_dim..(head + 1) * head_dim];
                    let score = |at: usize| -> f64 {
                        if !(attention.sees)(row, at) {
                            return f64::NEG_INFINITY;
                        }
                        let key = &keys[at][kv..kv + head_dim];
                        query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>()
                            / (head_dim as f64).sqrt()
                    };
                    let scores: Vec<f64> = (0..keys.len()).map(score).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let own = &mut out[head * head_dim..(head + 1) * head_dim];
                    for (weight, value) in weights.iter().zip(&values) {
                        if *weight == 0.0 {
                            continue;
                        }
                        for (out, value) in own.iter_mut().zip(&value[kv..kv + head_dim]) {
                            *out += weight / total * value;
                        }
                    }
                }
                out
            })
            .collect();
        let branch = self.linear(&format!("{layer}.self_attn.o_proj"), &attended);
        let x = add(x, &Self::gated(branch, gate.as_ref()));
        let (normed, gate) = self.norm(&format!("{layer}.post_attention_layernorm"), &x, cond);
        let gate_proj = self.linear(&format!("{layer}.mlp.gate_proj"), &normed);
        let up = self.linear(&format!("{layer}.mlp.up_proj"), &normed);
        let hidden: Rows = gate_proj
            .iter()
            .zip(&up)
            .map(|(g, u)| g.iter().zip(u).map(|(g, u)| gelu_tanh(*g) * u).collect())
            .collect();
        let branch = self.linear(&format!("{layer}.mlp.down_proj"), &hidden);
        (add(&x, &Self::gated(branch, gate.as_ref())), (k, v))
    }

    /// Keys and values of the padded prefix, with the mask.
    fn prefix(&self, embs: &Rows, mask: &[bool], simplified: Simplified) -> (Cache, Vec<bool>) {
        let (embs, mask) = if simplified.dropped {
            let kept = embs.iter().zip(mask).filter(|(_, kept)| **kept);
            let embs: Rows = kept.map(|(row, _)| row.clone()).collect();
            let mask = vec![true; embs.len()];
            (embs, mask)
        } else {
            (embs.clone(), mask.to_vec())
        };
        // `cumsum(mask) - 1`
        let positions: Vec<usize> = mask
            .iter()
            .scan(0usize, |count, visible| {
                *count += usize::from(*visible);
                Some(count.saturating_sub(1))
            })
            .collect();
        let depth = self.config.vlm.depth;
        let (mut x, mut cache) = (embs, Cache::new());
        for index in 0..depth {
            let sees = |_: usize, at: usize| mask[at];
            let attention = Attention { positions: &positions, cache: &[], sees: &sees };
            if simplified.keys_only && index + 1 == depth {
                let layer = format!("{VLM}.layers.{index}");
                let (normed, _) = self.norm(&format!("{layer}.input_layernorm"), &x, None);
                let k = self.linear(&format!("{layer}.self_attn.k_proj"), &normed);
                let v = self.linear(&format!("{layer}.self_attn.v_proj"), &normed);
                cache.push((self.rotate(&k, &positions), v));
                break;
            }
            let (out, new) = self.layer((VLM, index), &x, None, &attention);
            (x, cache) = (out, [cache, vec![new]].concat());
        }
        (cache, mask)
    }

    fn time_embedding(&self, time: f64) -> Vec<f64> {
        let half = self.config.expert.width / 2;
        let period = |at: usize| {
            let range = self.config.max_period / self.config.min_period;
            self.config.min_period * range.powf(at as f64 / (half - 1) as f64)
        };
        let angle = |at| 2.0 * std::f64::consts::PI * time / period(at);
        (0..half).map(|at| angle(at).sin()).chain((0..half).map(|at| angle(at).cos())).collect()
    }

    fn cond(&self, time: f64) -> Vec<f64> {
        let hidden = self.linear("time_mlp_in", &vec![self.time_embedding(time)]);
        let hidden = vec![hidden[0].iter().map(|v| silu(*v)).collect()];
        self.linear("time_mlp_out", &hidden)[0].iter().map(|v| silu(*v)).collect()
    }

    /// Action rows of pi0 before the expert.
    fn action_rows(&self, x: &Rows, time: f64, simplified: Simplified) -> Rows {
        let embedded = self.time_embedding(time);
        let hidden = if simplified.tabulated {
            let width = self.config.expert.width;
            let weight = self.vector("action_time_mlp_in.weight");
            let bias = self.vector("action_time_mlp_in.bias");
            let rows = weight.chunks_exact(2 * width);
            let actions: Rows = rows.clone().map(|row| row[..width].to_vec()).collect();
            let table: Vec<f64> = rows
                .zip(bias)
                .map(|(row, b)| {
                    b + row[width..].iter().zip(&embedded).map(|(w, e)| w * e).sum::<f64>()
                })
                .collect();
            let inner = self.vector("action_in_proj.weight");
            let inner_bias = self.vector("action_in_proj.bias");
            let columns = x[0].len();
            let fold = |row: &Vec<f64>| -> (Vec<f64>, f64) {
                let column = |c: usize| {
                    row.iter().enumerate().map(|(k, w)| w * inner[k * columns + c]).sum()
                };
                let bias = row.iter().zip(inner_bias).map(|(w, b)| w * b).sum();
                ((0..columns).map(column).collect(), bias)
            };
            let folded: Vec<(Vec<f64>, f64)> = actions.iter().map(fold).collect();
            x.iter()
                .map(|row| {
                    let one = |((weights, bias), table): (&(Vec<f64>, f64), &f64)| {
                        weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>() + bias + table
                    };
                    folded.iter().zip(&table).map(one).collect()
                })
                .collect()
        } else {
            let actions = self.linear("action_in_proj", x);
            let joined: Rows =
                actions.into_iter().map(|row| [row, embedded.clone()].concat()).collect();
            self.linear("action_time_mlp_in", &joined)
        };
        let active: Rows =
            hidden.iter().map(|row| row.iter().map(|v| silu(*v)).collect()).collect();
        self.linear("action_time_mlp_out", &active)
    }

    /// Runs `rows` through the expert behind `cache`; returns the output and new keys and values.
    fn expert(
        &self,
        x: Rows,
        cond: Option<&Rows>,
        (cache, positions): (&Cache, &[usize]),
        sees: &dyn Fn(usize, usize) -> bool,
    ) -> (Rows, Cache) {
        let attention = Attention { positions, cache, sees };
        let (mut x, mut new) = (x, Cache::new());
        for index in 0..self.config.expert.depth {
            let (out, stored) = self.layer((EXPERT, index), &x, cond, &attention);
            x = out;
            new.push(stored);
        }
        (self.norm(&format!("{EXPERT}.norm"), &x, cond).0, new)
    }

    /// Velocities of `steps` Euler steps from `noise`, and x after the last.
    pub fn sample(
        &self,
        (embs, mask): (&Rows, &[bool]),
        state: &[f64],
        (noise, steps): (&Rows, usize),
        simplified: Simplified,
    ) -> (Vec<Rows>, Rows) {
        let (prefix, mask) = self.prefix(embs, mask, simplified);
        let visible = mask.iter().filter(|visible| **visible).count();
        let before = mask.len();
        let has_state = self.config.kind == Pi0Kind::Pi0;
        let state_rows = usize::from(has_state);
        let rows = noise.len();
        let once = has_state && simplified.state_once;
        let state_row = || self.linear("state_proj", &vec![state.to_vec()]);
        // With the state row in the cache, the action rows see it like the prefix.
        let (cache, mask) = if once {
            let sees = |_: usize, at: usize| at >= before || mask[at];
            let (_, new) = self.expert(state_row(), None, (&prefix, &[visible]), &sees);
            let joined = prefix.iter().zip(new).map(|((k, v), (new_k, new_v))| {
                ([k.clone(), new_k].concat(), [v.clone(), new_v].concat())
            });
            (joined.collect(), [mask.clone(), vec![true]].concat())
        } else {
            (prefix, mask)
        };
        let before = mask.len();
        let first = visible + usize::from(once);
        let (mut x, mut velocities) = (noise.clone(), Vec::new());
        let table: Rows = match self.config.kind {
            Pi0Kind::Pi05 if simplified.tabulated => {
                (0..steps).map(|step| self.cond(1.0 - step as f64 / steps as f64)).collect()
            }
            _ => Rows::new(),
        };
        for step in 0..steps {
            let time = 1.0 - step as f64 / steps as f64;
            let own_state = has_state && !once;
            let (suffix, cond) = match self.config.kind {
                Pi0Kind::Pi0 => {
                    let actions = self.action_rows(&x, time, simplified);
                    let state = if own_state { state_row() } else { Rows::new() };
                    ([state, actions].concat(), None)
                }
                Pi0Kind::Pi05 => {
                    let cond = match table.get(step) {
                        Some(cond) => cond.clone(),
                        None => self.cond(time),
                    };
                    (self.linear("action_in_proj", &x), Some(vec![cond; rows]))
                }
            };
            let offset = if own_state { state_rows } else { 0 };
            let positions: Vec<usize> = (first..first + suffix.len()).collect();
            // The state does not see the actions; everything sees the visible prefix.
            let sees = |row: usize, at: usize| {
                let everything = row >= offset || simplified.state_sees_actions;
                if at < before { mask[at] } else { everything || at - before <= row }
            };
            let (out, _) = self.expert(suffix, cond.as_ref(), (&cache, &positions), &sees);
            let v = self.linear("action_out_proj", &out[offset..].to_vec());
            for (x, v) in x.iter_mut().flatten().zip(v.iter().flatten()) {
                *x -= v / steps as f64;
            }
            velocities.push(v);
        }
        (velocities, x)
    }
}
