//! Each stage's work, its roofline, and the prediction from what chips and implementations reach.

use super::launches::Launched;
use super::layers::{Group, PlannedLayer};
use super::rates::{ChipRates, Figure, Operations, PerLayer, Span, WeightLayout};
use super::{Assumptions, MeshKind, TILE_SIDE};
use crate::backend::precision::{MathFidelity, NumberFormat, PrecisionPolicy};
use crate::backend::tt::cache_dims;
use crate::backend::{TensorParallel, WeightRole};
use crate::checkpoint::OpenVlaConfig;

/// One stage of an inference, on one chip.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// `vision`, `prefill` or `decode step`.
    pub name: &'static str,
    /// Passes per inference.
    pub count: usize,
    /// Operations of one pass in its trace.
    pub operations: Operations,
    /// FLOP on one chip.
    pub flop: f64,
    /// Bytes read from DRAM by one chip.
    pub bytes: f64,
    /// Bytes sent by one chip over each of its links.
    pub sent: f64,
    /// Milliseconds of arithmetic at the peak.
    pub flop_ms: f64,
    /// Milliseconds of memory traffic at the roofline's rate.
    pub memory_ms: f64,
    /// Milliseconds of collectives that do not overlap with arithmetic, at the roofline's rate.
    pub collective_ms: f64,
    /// Milliseconds of the operations beyond arithmetic, traffic and collectives.
    pub operations_ms: Span,
    /// Predicted milliseconds of one pass.
    pub predicted: Span,
}

impl StagePlan {
    /// Milliseconds of one pass by the roofline.
    #[must_use]
    pub fn ms(&self) -> f64 {
        self.flop_ms.max(self.memory_ms) + self.collective_ms
    }
}

/// Accumulated work of a stage.
#[derive(Default)]
pub(super) struct Work {
    flop: f64,
    /// FLOP times the passes of their fidelity, of products of few rows and of many.
    passes: [f64; 2],
    bytes: f64,
}

/// Rows from which a product counts as one of many: tt-metal's tables start there.
const MANY_ROWS: usize = 512;

impl Work {
    pub(super) fn add(&mut self, flop: f64, fidelity: MathFidelity, bytes: f64, rows: usize) {
        self.flop += flop;
        self.passes[usize::from(rows >= MANY_ROWS)] += flop * f64::from(fidelity.passes());
        self.bytes += bytes;
    }

    pub(super) fn stage(
        self,
        (name, operations): (&'static str, Operations),
        count: usize,
        sent: Sent,
        (mesh, assumptions): (MeshKind, &Assumptions),
    ) -> StagePlan {
        let rates = ChipRates::of(mesh);
        let peak = ChipRates::flop_per_second(mesh);
        let implementation = &assumptions.implementation;
        let [few, many] = self.passes;
        let share = |figure: Figure, passes: f64| {
            figure.more_is_better(|share| 1e3 * passes / (share * peak))
        };
        let arithmetic =
            share(implementation.few_rows, few).plus(share(implementation.many_rows, many));
        let bandwidth = match implementation.layout {
            WeightLayout::Interleaved => rates.dram_interleaved,
            WeightLayout::DramSharded => rates.dram_sharded,
        };
        let memory = bandwidth.more_is_better(|rate| 1e3 * self.bytes / rate);
        let serial = if assumptions.serial_collectives { 1.0 } else { 0.0 };
        let links = rates.link.more_is_better(|rate| 1e3 * sent.bytes / rate);
        let hops = rates.hop.less_is_better(|seconds| 1e3 * seconds * sent.hops);
        let collectives = links.plus(hops).times(serial);
        let operations_ms = operations.ms(implementation);
        let reached = assumptions.dram_bytes_per_second.unwrap_or(rates.dram_roofline);
        StagePlan {
            name,
            count,
            operations,
            flop: self.flop,
            bytes: self.bytes,
            sent: sent.bytes,
            flop_ms: (few + many) / peak * 1e3,
            memory_ms: self.bytes / reached * 1e3,
            collective_ms: serial
                * 1e3
                * (sent.bytes / rates.link_roofline + sent.hops * ROOFLINE_HOP_SECONDS),
            operations_ms,
            predicted: arithmetic.both(memory, f64::max).plus(collectives).plus(operations_ms),
        }
    }
}

/// Seconds from chip to chip by the roofline.
const ROOFLINE_HOP_SECONDS: f64 = 1e-6;

/// What collectives send.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sent {
    /// Bytes of a chip over each of its links.
    pub bytes: f64,
    /// Chips passed one after another.
    pub hops: f64,
}

impl Sent {
    /// One all-reduce of `bytes`, in both directions of a ring if there is one.
    pub(super) fn all_reduce(bytes: f64, mesh: MeshKind) -> Self {
        let (chips, links) = (mesh.chips() as f64, f64::from(mesh.facts().links));
        if chips < 2.0 {
            return Self::default();
        }
        let directions = if mesh.ring() { 2.0 } else { 1.0 };
        // Reduce-scatter and all-gather take half of the ring each.
        let bytes = 2.0 * (chips - 1.0) / chips * bytes / directions / links;
        Self { bytes, hops: chips }
    }

    pub(super) fn times(self, count: usize) -> Self {
        Self { bytes: self.bytes * count as f64, hops: self.hops * count as f64 }
    }
}

/// Operations of a stage: of this backend, or of another implementation by its figures.
pub(super) fn operations(
    assumptions: &Assumptions,
    ours: impl FnOnce() -> Operations,
    theirs: impl FnOnce(&PerLayer) -> usize,
) -> Operations {
    match &assumptions.implementation.operations {
        None => ours(),
        Some(per_layer) => Operations::launches(theirs(per_layer)),
    }
}

/// Everything a stage's estimate depends on.
struct Model<'a> {
    config: &'a OpenVlaConfig,
    mesh: MeshKind,
    policy: &'a PrecisionPolicy,
    assumptions: &'a Assumptions,
    layers: &'a [PlannedLayer],
}

pub(super) fn stages(
    config: &OpenVlaConfig,
    mesh: MeshKind,
    policy: &PrecisionPolicy,
    assumptions: &Assumptions,
    layers: &[PlannedLayer],
) -> Vec<StagePlan> {
    let model = Model { config, mesh, policy, assumptions, layers };
    let [first, later] = assumptions.payloads(policy);
    let further = assumptions.tokens.saturating_sub(1);
    let (prefill, decode) = (
        model.all_reduces(first, assumptions.rows()),
        model.all_reduces(later, assumptions.decode_rows),
    );
    let launched = Launched { config, mesh, policy, assumptions, layers };
    let depth = config.llama.num_hidden_layers;
    let blocks: usize = config.towers.iter().map(|tower| tower.used_blocks()).sum();
    let counted = |ours: &dyn Fn() -> Operations, theirs: &dyn Fn(&PerLayer) -> usize| {
        operations(assumptions, ours, theirs)
    };
    let vision = counted(&|| launched.vision(), &|per| assumptions.images * blocks * per.vision);
    let prompt = counted(
        &|| match assumptions.one_pass {
            Some(pass) => launched.one_pass(pass),
            None => launched.prefill(),
        },
        &|per| depth * per.prefill + per.around,
    );
    let on = (mesh, assumptions);
    let mut stages = vec![
        model.vision().stage(("vision", vision), 1, Sent::default(), on),
        model.prefill().stage(("prefill", prompt), 1, prefill, on),
    ];
    if assumptions.one_pass.is_none() {
        let step = counted(&|| launched.decode_step(), &|per| depth * per.decode + per.around);
        stages.push(model.decode_step().stage(("decode step", step), further, decode, on));
    }
    stages
}

impl Model<'_> {
    /// Layers of some groups.
    fn layers(&self, groups: &[Group]) -> impl Iterator<Item = &PlannedLayer> {
        self.layers.iter().filter(move |layer| groups.contains(&layer.group))
    }

    /// Adds a layer's products for `rows` rows.
    fn add(&self, work: &mut Work, layer: &PlannedLayer, rows: usize) {
        let precision = self.policy.weight(layer.role);
        let elements =
            layer.count as f64 * layer.elements(self.policy, self.mesh, self.assumptions);
        let flop = 2.0 * rows as f64 * elements;
        let first_of_mlp =
            layer.role == WeightRole::Mlp && layer.parallelism == TensorParallel::Column;
        let format = self.assumptions.gate_up.filter(|_| first_of_mlp);
        let bytes = elements * format.unwrap_or(precision.format).bytes();
        work.add(flop, precision.fidelity, bytes, rows);
    }

    /// All all-reduces of the language model for `rows` rows.
    fn all_reduces(&self, format: NumberFormat, rows: usize) -> Sent {
        let bytes = rows as f64 * self.config.llama.hidden_size as f64 * format.bytes();
        let count: usize = self
            .layers(&[Group::Llama])
            .filter(|layer| layer.all_reduces(self.policy, self.mesh, self.assumptions))
            .map(|layer| layer.count)
            .sum();
        Sent::all_reduce(bytes, self.mesh).times(count)
    }

    /// Towers and projector.
    fn vision(&self) -> Work {
        let chips = self.mesh.chips();
        let mut work = Work::default();
        // The towers run for each image, the projector once for all.
        for _ in 0..self.assumptions.images {
            for layer in self.layers(&[Group::Vision]) {
                self.add(&mut work, layer, layer.rows);
            }
        }
        for layer in self.layers(&[Group::Projector]) {
            self.add(&mut work, layer, layer.rows);
        }
        for tower in &self.config.towers {
            let rows = (tower.patches() + tower.prefix_tokens).next_multiple_of(TILE_SIDE) as f64;
            let width = (tower.num_heads * tower.head_dim().next_multiple_of(TILE_SIDE)) as f64;
            let sharded = self.policy.split_vision && tower.num_heads.is_multiple_of(chips);
            let shards = if sharded { chips as f64 } else { 1.0 };
            let images = self.assumptions.images as f64;
            let flop = images * 4.0 * rows * rows * width * tower.used_blocks() as f64 / shards;
            work.add(flop, self.policy.attention_math, 0.0, rows as usize);
        }
        work
    }

    /// The language model over the prompt.
    fn prefill(&self) -> Work {
        let (llama, rows) = (&self.config.llama, self.assumptions.rows());
        let mut work = Work::default();
        for layer in self.layers(&[Group::Llama]) {
            self.add(&mut work, layer, rows);
        }
        for layer in self.layers(&[Group::Head]) {
            // The last position only, or the steps of a chunk.
            self.add(&mut work, layer, layer.rows);
        }
        let [groups, width] = self.local_cache();
        let queries = (groups * (llama.num_attention_heads / llama.num_key_value_heads)) as f64;
        // Causal: half of the square.
        let part = if self.assumptions.one_pass.is_some() { 4.0 } else { 2.0 };
        let square =
            (rows * rows) as f64 * part * queries * width as f64 * llama.num_hidden_layers as f64;
        work.add(square, self.policy.attention_math, 0.0, rows);
        work
    }

    /// The language model over one token.
    fn decode_step(&self) -> Work {
        let mut work = Work::default();
        for layer in self.layers(&[Group::Llama, Group::Head]) {
            // A tile has 32 rows, of which one is used.
            self.add(&mut work, layer, TILE_SIDE);
        }
        let [groups, width] = self.local_cache();
        let seen = (self.assumptions.positions + self.assumptions.tokens + 1) as f64;
        work.bytes += 2.0
            * seen
            * (groups * width) as f64
            * self.config.llama.num_hidden_layers as f64
            * self.policy.cache.bytes();
        work
    }

    /// Key/value heads and columns of a head on one chip.
    fn local_cache(&self) -> [usize; 2] {
        let llama = &self.config.llama;
        let (heads, kv_heads) = (llama.num_attention_heads, llama.num_key_value_heads);
        let [groups, width, _] = cache_dims(heads, kv_heads, llama.head_dim, self.mesh.chips(), 1);
        [groups, width]
    }
}
