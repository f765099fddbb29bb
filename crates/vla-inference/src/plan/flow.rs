//! pi0 and pi0.5: layers, memory, work and operations of a chunk.

use super::layers::{Group, PlannedLayer};
use super::rates::{Operations, PerLayer};
use super::stages::{Sent, StagePlan, Work, operations};
use super::{Assumptions, MemoryPlan, MeshKind, Plan, TILE_SIDE, allocated, reserved};
use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::{cache_dims, flow_trace_region_bytes, local_queries};
use crate::backend::{HeadShape, TensorParallel, WeightRole};
use crate::checkpoint::pi0::{GemmaConfig, Pi0Config, Pi0Kind, SiglipConfig};

/// What a chunk is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Cameras with an image.
    pub cameras: usize,
    /// Token ids of the prompt.
    pub text: usize,
    /// Euler steps.
    pub steps: usize,
}

/// Published milliseconds per chunk, two cameras and ten Euler steps, for comparison.
pub const PUBLISHED: [(&str, f64, &str); 2] = [
    ("one chip of an N300", 326.0, "tt-metal #38174"),
    ("one Blackhole p150", 140.6, "tt-metal #41431"),
];

/// Everything that an estimate depends on.
struct Model<'a> {
    config: &'a Pi0Config,
    flow: Flow,
    mesh: MeshKind,
    policy: &'a PrecisionPolicy,
    assumptions: &'a Assumptions,
}

/// Plans pi0 or pi0.5 on a mesh.
pub(super) fn plan(
    config: &Pi0Config,
    mesh: MeshKind,
    policy: PrecisionPolicy,
    assumptions: Assumptions,
    flow: Flow,
) -> Plan {
    let model = Model { config, flow, mesh, policy: &policy, assumptions: &assumptions };
    let (memory, stages) = (model.memory(), model.stages());
    Plan { mesh, policy, assumptions, memory, stages }
}

/// Positions of images and text.
pub(super) fn positions(config: &Pi0Config, flow: Flow) -> usize {
    flow.cameras * patches(config) + flow.text
}

fn patches(config: &Pi0Config) -> usize {
    config.grid().iter().product()
}

fn heads(config: &GemmaConfig) -> HeadShape {
    let GemmaConfig { num_heads: heads, num_kv_heads: kv_heads, head_dim, .. } = *config;
    HeadShape { heads, kv_heads, head_dim, rotary: true }
}

fn tower_heads(config: &SiglipConfig) -> HeadShape {
    let heads = config.num_attention_heads;
    HeadShape { heads, kv_heads: heads, head_dim: config.hidden_size / heads, rotary: false }
}

/// Attention projections and MLP of a Gemma stack: `whole` layers, and one more of which only keys
/// and values are computed where `last` is set.
fn gemma(config: &GemmaConfig, group: Group, whole: usize, last: bool) -> Vec<PlannedLayer> {
    let GemmaConfig { width, mlp_dim, num_heads, num_kv_heads, head_dim, .. } = *config;
    let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
    let shape = heads(config);
    let (column, row) = (TensorParallel::ColumnByHead(shape), TensorParallel::RowByHead(shape));
    let layer = |role, parallelism, parts, [outputs, inputs]: [usize; 2], count| PlannedLayer {
        group,
        role,
        parallelism,
        parts,
        outputs,
        inputs,
        bias: false,
        count,
        rows: 0,
    };
    let attention = WeightRole::Attention;
    vec![
        layer(attention, column, 3, [queries + 2 * keys, width], whole + usize::from(last)),
        layer(attention, row, 1, [width, queries], whole),
        layer(WeightRole::Mlp, TensorParallel::Column, 2, [2 * mlp_dim, width], whole),
        layer(WeightRole::Mlp, TensorParallel::Row, 1, [width, mlp_dim], whole),
    ]
}

/// Tower and projector.
fn vision(config: &Pi0Config) -> Vec<PlannedLayer> {
    let tower = &config.vision;
    let SiglipConfig { hidden_size: width, intermediate_size: inner, .. } = *tower;
    let (shape, blocks) = (tower_heads(tower), tower.num_hidden_layers);
    let layer = |group, parallelism, parts, [outputs, inputs]: [usize; 2], count| PlannedLayer {
        group,
        role: if group == Group::Vision { WeightRole::Vision } else { WeightRole::Projector },
        parallelism,
        parts,
        outputs,
        inputs,
        bias: true,
        count,
        rows: 0,
    };
    let pixels = 3 * tower.patch_size * tower.patch_size;
    let whole = TensorParallel::Replicated;
    vec![
        layer(Group::Vision, whole, 1, [width, pixels], 1),
        layer(Group::Vision, TensorParallel::ColumnByHead(shape), 3, [3 * width, width], blocks),
        layer(Group::Vision, TensorParallel::RowByHead(shape), 1, [width, width], blocks),
        layer(Group::Vision, TensorParallel::Column, 1, [inner, width], blocks),
        layer(Group::Vision, TensorParallel::Row, 1, [width, inner], blocks),
        layer(Group::Projector, whole, 1, [config.vlm.width, width], 1),
    ]
}

impl Model<'_> {
    fn chips(&self) -> usize {
        self.mesh.chips()
    }

    /// What rates depend on.
    fn on(&self) -> (MeshKind, &Assumptions) {
        (self.mesh, self.assumptions)
    }

    fn has_state(&self) -> bool {
        self.config.kind == Pi0Kind::Pi0
    }

    fn prefix(&self) -> Vec<PlannedLayer> {
        gemma(&self.config.vlm, Group::Llama, self.config.vlm.depth.saturating_sub(1), true)
    }

    fn expert(&self) -> Vec<PlannedLayer> {
        gemma(&self.config.expert, Group::Expert, self.config.expert.depth, false)
    }

    /// The layers around the expert: those of the state, of one Euler step, and how many of the
    /// latter's first one there are.
    fn around(&self) -> (Vec<PlannedLayer>, Vec<PlannedLayer>, usize) {
        let (width, action) = (self.config.expert.width, self.config.max_action_dim);
        let layer = |outputs, inputs| PlannedLayer {
            group: Group::Head,
            role: WeightRole::Head,
            parallelism: TensorParallel::Replicated,
            parts: 1,
            outputs,
            inputs,
            bias: true,
            count: 1,
            rows: 0,
        };
        let (first, last) = (layer(width, action), layer(action, width));
        if self.has_state() {
            let state = vec![layer(width, self.config.max_state_dim)];
            return (state, vec![first, layer(width, width), last], self.flow.steps);
        }
        (Vec::new(), vec![first, last], 1)
    }

    /// Padded rows of each block of the sequence: images and text, pi0's state, actions.
    fn blocks(&self) -> Vec<usize> {
        let state = self.has_state().then_some(1);
        let rows = [positions(self.config, self.flow)].into_iter().chain(state);
        let rows = rows.chain([self.config.chunk_size]);
        rows.map(|rows| rows.next_multiple_of(TILE_SIDE)).collect()
    }

    fn bytes(&self, layers: &[PlannedLayer]) -> u64 {
        layers.iter().map(|layer| layer.bytes(self.policy, self.mesh, self.assumptions)).sum()
    }

    /// Key/value heads and columns of a head on one chip.
    fn local_cache(&self) -> [usize; 2] {
        let HeadShape { heads, kv_heads, head_dim, .. } = heads(&self.config.vlm);
        let [groups, width, _] = cache_dims(heads, kv_heads, head_dim, self.chips(), 1);
        [groups, width]
    }

    fn memory(&self) -> MemoryPlan {
        let config = self.config;
        let (vision, projector): (Vec<_>, Vec<_>) =
            vision(config).into_iter().partition(|layer| layer.group == Group::Vision);
        let (state, mut step, firsts) = self.around();
        if let Some(first) = step.first_mut() {
            first.count = firsts;
        }
        let blocks = self.blocks();
        let total: usize = blocks.iter().sum();
        let [groups, width] = self.local_cache();
        let head = |rows: usize, format| self.tiles(groups * rows, width, format);
        let bf16 = |rows, columns| self.tiles(rows, columns, NumberFormat::Bf16);
        let mut cache = 2 * config.vlm.depth as u64 * head(total, self.policy.cache);
        for (index, rows) in blocks.iter().copied().enumerate() {
            let after: usize = blocks[index + 1..].iter().sum();
            let keys = if index == 0 { rows } else { total };
            cache += 2 * bf16(rows, width) + bf16(rows, keys);
            cache += if after > 0 { head(after, NumberFormat::Bf16) } else { 0 };
        }
        // Peak of a prefix layer: residual stream, its norm, projections, both halves of the MLP.
        let vlm = &config.vlm;
        let widest =
            4 * vlm.width + (vlm.num_heads + 2 * vlm.num_kv_heads) * vlm.head_dim + 3 * vlm.mlp_dim;
        let items = vec![
            ("vision tower".into(), self.bytes(&vision)),
            ("projector".into(), self.bytes(&projector)),
            ("language model layers".into(), self.bytes(&self.prefix())),
            ("action expert layers".into(), self.bytes(&self.expert())),
            ("state and action layers".into(), self.bytes(&state) + self.bytes(&step)),
            ("norms, position embedding".into(), self.small_tensors()),
            ("tables of the time".into(), self.time_tables()),
            (format!("keys and values of {total} rows"), cache),
            ("activations".into(), self.tiles(blocks[0], widest, self.policy.stream)),
            reserved(self.mesh, flow_trace_region_bytes(self.mesh)),
        ];
        MemoryPlan { items, capacity: MemoryPlan::capacity(self.mesh) }
    }

    /// Bytes of a tensor of tiles on a chip.
    fn tiles(&self, rows: usize, columns: usize, format: NumberFormat) -> u64 {
        allocated(self.mesh, [rows, columns], format, true)
    }

    /// Norms and the position embedding, replicated.
    fn small_tensors(&self) -> u64 {
        let Pi0Config { vision, vlm, expert, .. } = self.config;
        let vector = |width| self.tiles(1, width, NumberFormat::Bf16);
        (4 * vision.num_hidden_layers as u64 + 2) * vector(vision.hidden_size)
            + self.tiles(patches(self.config), vision.hidden_size, self.policy.stream)
            + (2 * vlm.depth as u64).saturating_sub(1) * vector(vlm.width)
            + (2 * expert.depth as u64 + 1) * vector(expert.width)
    }

    /// pi0.5's scale, shift and gate of every norm of the expert at every step; pi0's are among its
    /// first layers.
    fn time_tables(&self) -> u64 {
        if self.has_state() {
            return 0;
        }
        let norms = (2 * self.config.expert.depth + 1) as u64;
        let row = self.tiles(1, self.config.expert.width, self.policy.stream);
        self.flow.steps as u64 * norms * 3 * row
    }

    /// Products of layers over `rows` rows.
    fn add(&self, work: &mut Work, layers: &[PlannedLayer], rows: usize) {
        for layer in layers {
            let elements =
                layer.count as f64 * layer.elements(self.policy, self.mesh, self.assumptions);
            let precision = self.policy.weight(layer.role);
            let bytes = elements * precision.format.bytes();
            let flop = 2.0 * rows as f64 * elements;
            work.add(flop, precision.fidelity, bytes, rows);
        }
    }

    /// Attention of `rows` rows to `keys` rows in `depth` of these layers; reads the cache where it
    /// is not the rows' own.
    fn attend(
        &self,
        work: &mut Work,
        [rows, keys]: [usize; 2],
        (layers, depth): (&[PlannedLayer], usize),
        cached: bool,
    ) {
        let [groups, width] = self.local_cache();
        let queries = layers.iter().find(|layer| layer.role == WeightRole::Attention);
        let queries = queries.map_or(0, |layer| {
            let chips = layer.chips(self.policy, self.mesh, self.assumptions);
            local_queries(heads(&self.config.vlm), chips)
        });
        let flop = 4.0 * (rows * keys * queries * width * depth) as f64;
        let bytes = if cached {
            2.0 * (keys * groups * width * depth) as f64 * self.policy.cache.bytes()
        } else {
            0.0
        };
        work.add(flop, self.policy.attention_math, bytes, rows);
    }

    /// The all-reduces after `layers` for rows of `width`.
    fn all_reduces(&self, layers: &[PlannedLayer], rows: usize, width: usize) -> Sent {
        let format = self.assumptions.payloads(self.policy)[0];
        let bytes = (rows * width) as f64 * format.bytes();
        Sent::all_reduce(bytes, self.mesh).times(self.reduced(layers))
    }

    /// Operations of a stage: `launches` of ours besides all-reduces, or another implementation's.
    fn operations(
        &self,
        layers: &[PlannedLayer],
        launches: usize,
        theirs: impl FnOnce(&PerLayer) -> usize,
    ) -> Operations {
        let reduced = self.reduced(layers);
        let ours = || Operations {
            launches: launches + self.reductions(layers),
            // A reduction is two operations of TT-NN.
            within: reduced,
            ..Operations::default()
        };
        operations(self.assumptions, ours, theirs)
    }

    /// Layers whose partial sums are all-reduced.
    fn reduced(&self, layers: &[PlannedLayer]) -> usize {
        let all = layers
            .iter()
            .filter(|layer| layer.all_reduces(self.policy, self.mesh, self.assumptions));
        all.map(|layer| layer.count).sum()
    }

    /// Operations of all-reduces: one each, and a conversion where the sums have another format.
    fn reductions(&self, layers: &[PlannedLayer]) -> usize {
        let converted = self.policy.collectives != self.policy.stream;
        self.reduced(layers) * (1 + usize::from(converted))
    }

    fn stages(&self) -> Vec<StagePlan> {
        let mut stages = vec![self.vision_stage(), self.prefix_stage()];
        stages.extend(self.has_state().then(|| self.state_stage()));
        stages.push(self.step_stage());
        stages
    }

    /// Tower and projector over one image.
    fn vision_stage(&self) -> StagePlan {
        let (config, tower) = (self.config, &self.config.vision);
        let layers = vision(config);
        let rows = patches(config).next_multiple_of(TILE_SIDE);
        let mut work = Work::default();
        self.add(&mut work, &layers, rows);
        let HeadShape { heads, head_dim, .. } = tower_heads(tower);
        let shards = if self.policy.split_vision && heads.is_multiple_of(self.chips()) {
            self.chips()
        } else {
            1
        };
        let width = heads * head_dim.next_multiple_of(TILE_SIDE) / shards;
        let flop = 4.0 * (rows * rows * width * tower.num_hidden_layers) as f64;
        work.add(flop, self.policy.attention_math, 0.0, rows);
        // Patch and position embedding, last norm, projector; eleven in a layer.
        let depth = tower.num_hidden_layers;
        let launched = self.operations(&layers, 4 + 11 * depth, |per| depth * per.vision);
        work.stage(("vision", launched), self.flow.cameras, Sent::default(), self.on())
    }

    /// The language model over images and text.
    fn prefix_stage(&self) -> StagePlan {
        let (layers, rows, depth) = (self.prefix(), self.blocks()[0], self.config.vlm.depth);
        let mut work = Work::default();
        self.add(&mut work, &layers, rows);
        self.attend(&mut work, [rows, rows], (&layers, depth.saturating_sub(1)), false);
        let sent = self.all_reduces(&layers, rows, self.config.vlm.width);
        // Concatenation; a layer, with two operations for each of keys and values; the last one.
        let launches = 1 + 19 * depth.saturating_sub(1) + 9;
        let launched = self.operations(&layers, launches, |per| depth * per.prefill);
        work.stage(("prefix", launched), 1, sent, self.on())
    }

    /// The expert over the state.
    fn state_stage(&self) -> StagePlan {
        let (mut layers, depth) = (self.expert(), self.config.expert.depth);
        let total = self.blocks().iter().sum();
        let mut work = Work::default();
        let sent = self.all_reduces(&layers, TILE_SIDE, self.config.expert.width);
        // Others compute the state's row with the actions', at every step.
        let launched = self.operations(&layers, 1 + 19 * depth, |_| 0);
        layers.extend(self.around().0);
        self.add(&mut work, &layers, TILE_SIDE);
        self.attend(&mut work, [TILE_SIDE, total], (&layers, depth), true);
        work.stage(("state", launched), 1, sent, self.on())
    }

    /// One Euler step.
    fn step_stage(&self) -> StagePlan {
        let (mut layers, depth) = (self.expert(), self.config.expert.depth);
        let blocks = self.blocks();
        let (rows, total) = (blocks.last().copied().unwrap_or(0), blocks.iter().sum());
        let mut work = Work::default();
        let sent = self.all_reduces(&layers, rows, self.config.expert.width);
        // Scale and shift of two norms, and gates of two residuals instead of sums.
        let modulated = if self.has_state() { 0 } else { 6 * depth + 2 };
        let around = self.around().1;
        // The layers around the expert, its last norm, the step itself.
        let launches = around.len() + 1 + 3 + 17 * depth + modulated;
        let launched = self.operations(&layers, launches, |per| depth * per.expert + per.around);
        layers.extend(around);
        self.add(&mut work, &layers, rows);
        self.attend(&mut work, [rows, total], (&layers, depth), true);
        work.stage(("Euler step", launched), self.flow.steps, sent, self.on())
    }
}
