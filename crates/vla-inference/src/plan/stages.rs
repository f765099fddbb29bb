//! Roofline estimate of each stage.

use super::layers::{Group, PlannedLayer};
use super::{Assumptions, MeshKind, TILE_SIDE, launches};
use crate::backend::precision::{MathFidelity, NumberFormat, PrecisionPolicy};
use crate::backend::tt::cache_dims;
use crate::checkpoint::OpenVlaConfig;

/// One stage of an inference, on one chip.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// `vision`, `prefill` or `decode step`.
    pub name: &'static str,
    /// Passes per inference.
    pub count: usize,
    /// Operations of one pass in its trace, for a model whose operations are counted
    /// (OpenVLA-OFT, pi0); otherwise 0.
    pub launches: usize,
    /// FLOP on one chip.
    pub flop: f64,
    /// Bytes read from DRAM by one chip.
    pub bytes: f64,
    /// Bytes sent by one chip over each of its links.
    pub sent: f64,
    /// Milliseconds of arithmetic.
    pub flop_ms: f64,
    /// Milliseconds of memory traffic.
    pub memory_ms: f64,
    /// Milliseconds of collectives that do not overlap with arithmetic.
    pub collective_ms: f64,
}

impl StagePlan {
    /// Milliseconds of one pass.
    #[must_use]
    pub fn ms(&self) -> f64 {
        self.flop_ms.max(self.memory_ms) + self.collective_ms
    }
}

/// Accumulated work of a stage.
#[derive(Default)]
pub(super) struct Work {
    flop: f64,
    seconds: f64,
    bytes: f64,
}

impl Work {
    pub(super) fn add(
        &mut self,
        flop: f64,
        fidelity: MathFidelity,
        bytes: f64,
        assumptions: &Assumptions,
    ) {
        self.flop += flop;
        self.seconds += flop * f64::from(fidelity.passes()) / assumptions.flop_per_second;
        self.bytes += bytes;
    }

    pub(super) fn stage(
        self,
        (name, launches): (&'static str, usize),
        count: usize,
        (sent, seconds): (f64, f64),
        assumptions: &Assumptions,
    ) -> StagePlan {
        StagePlan {
            name,
            count,
            launches,
            flop: self.flop,
            bytes: self.bytes,
            sent,
            flop_ms: self.seconds * 1e3,
            memory_ms: self.bytes / assumptions.dram_bytes_per_second * 1e3,
            collective_ms: if assumptions.serial_collectives { seconds * 1e3 } else { 0.0 },
        }
    }
}

/// Bytes per link and seconds of one all-reduce of `bytes`, in both directions of a ring if there
/// is one.
pub(super) fn all_reduce(bytes: f64, mesh: MeshKind, assumptions: &Assumptions) -> (f64, f64) {
    let chips = mesh.chips() as f64;
    if chips < 2.0 {
        return (0.0, 0.0);
    }
    let directions = if mesh.ring() { 2.0 } else { 1.0 };
    let sent = 2.0 * (chips - 1.0) / chips * bytes / directions;
    // Reduce-scatter and all-gather take half of the ring each.
    (sent, sent / assumptions.link_bytes_per_second + chips * assumptions.hop_seconds)
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
    let [vision_launches, prefill_launches] = match assumptions.one_pass {
        Some(pass) => launches::one_pass(config, mesh.chips(), policy, (assumptions.images, pass)),
        None => [0; 2],
    };
    let mut stages = vec![
        model.vision().stage(("vision", vision_launches), 1, (0.0, 0.0), assumptions),
        model.prefill().stage(("prefill", prefill_launches), 1, prefill, assumptions),
    ];
    if assumptions.one_pass.is_none() {
        let step = model.decode_step();
        stages.push(step.stage(("decode step", 0), further, decode, assumptions));
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
            layer.count as f64 * layer.elements(self.policy, self.mesh.chips(), self.assumptions);
        let flop = 2.0 * rows as f64 * elements;
        let bytes = elements * precision.format.bytes();
        work.add(flop, precision.fidelity, bytes, self.assumptions);
    }

    /// Bytes per link and seconds of all all-reduces of the language model for `rows` rows.
    fn all_reduces(&self, format: NumberFormat, rows: usize) -> (f64, f64) {
        let bytes = rows as f64 * self.config.llama.hidden_size as f64 * format.bytes();
        let (sent, seconds) = all_reduce(bytes, self.mesh, self.assumptions);
        let count: usize = self
            .layers(&[Group::Llama])
            .filter(|layer| layer.all_reduces(self.policy, self.mesh.chips()))
            .map(|layer| layer.count)
            .sum();
        (sent * count as f64, seconds * count as f64)
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
            work.add(flop, self.policy.attention_math, 0.0, self.assumptions);
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
        work.add(square, self.policy.attention_math, 0.0, self.assumptions);
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
