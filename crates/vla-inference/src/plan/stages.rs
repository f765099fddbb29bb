//! The roofline of each stage.

use super::layers::{Group, PlannedLayer};
use super::{Assumptions, MeshKind, TILE_SIDE, bucket};
use crate::backend::precision::{MathFidelity, NumberFormat, PrecisionPolicy};
use crate::backend::tt::cache_rows;
use crate::checkpoint::OpenVlaConfig;

/// A stage on one chip.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// `vision`, `prefill` or `decode step`.
    pub name: &'static str,
    /// How often per inference.
    pub count: usize,
    /// Products and sums on one chip.
    pub flop: f64,
    /// Bytes that one chip reads from DRAM.
    pub bytes: f64,
    /// Bytes that one chip sends over each of its links.
    pub sent: f64,
    /// Milliseconds of arithmetic.
    pub flop_ms: f64,
    /// Milliseconds of memory traffic.
    pub memory_ms: f64,
    /// Milliseconds of collectives that nothing hides.
    pub collective_ms: f64,
}

impl StagePlan {
    /// Milliseconds of one pass.
    #[must_use]
    pub fn ms(&self) -> f64 {
        self.flop_ms.max(self.memory_ms) + self.collective_ms
    }
}

/// Work that adds up.
#[derive(Default)]
struct Work {
    flop: f64,
    seconds: f64,
    bytes: f64,
}

impl Work {
    fn add(&mut self, flop: f64, fidelity: MathFidelity, bytes: f64, assumptions: &Assumptions) {
        self.flop += flop;
        self.seconds += flop * f64::from(fidelity.passes()) / assumptions.flop_per_second;
        self.bytes += bytes;
    }

    fn stage(
        self,
        name: &'static str,
        count: usize,
        (sent, seconds): (f64, f64),
        assumptions: &Assumptions,
    ) -> StagePlan {
        StagePlan {
            name,
            count,
            flop: self.flop,
            bytes: self.bytes,
            sent,
            flop_ms: self.seconds * 1e3,
            memory_ms: self.bytes / assumptions.dram_bytes_per_second * 1e3,
            collective_ms: if assumptions.serial_collectives { seconds * 1e3 } else { 0.0 },
        }
    }
}

/// Bytes per link and seconds of one all-reduce of `bytes`: a ring in both directions where there
/// is one.
fn all_reduce(bytes: f64, mesh: MeshKind, assumptions: &Assumptions) -> (f64, f64) {
    let chips = mesh.chips() as f64;
    if chips < 2.0 {
        return (0.0, 0.0);
    }
    let directions = if mesh.ring() { 2.0 } else { 1.0 };
    let sent = 2.0 * (chips - 1.0) / chips * bytes / directions;
    // Reduce-scatter and all-gather each go half way round.
    (sent, sent / assumptions.link_bytes_per_second + chips * assumptions.hop_seconds)
}

pub(super) fn stages(
    config: &OpenVlaConfig,
    mesh: MeshKind,
    policy: &PrecisionPolicy,
    assumptions: &Assumptions,
    layers: &[PlannedLayer],
) -> Vec<StagePlan> {
    let chips = mesh.chips();
    let llama = &config.llama;
    let add = |work: &mut Work, layer: &PlannedLayer, rows: usize| {
        let precision = policy.weight(layer.role);
        let elements = layer.count as f64 * layer.elements(policy, chips, assumptions);
        work.add(
            2.0 * rows as f64 * elements,
            precision.fidelity,
            elements * precision.format.bytes(),
            assumptions,
        );
    };
    let sums = |format: NumberFormat, rows: usize| {
        let per =
            all_reduce(rows as f64 * llama.hidden_size as f64 * format.bytes(), mesh, assumptions);
        let count: usize = layers
            .iter()
            .filter(|layer| layer.group == Group::Llama && layer.sums(policy, chips))
            .map(|layer| layer.count)
            .sum();
        (per.0 * count as f64, per.1 * count as f64)
    };

    let mut vision = Work::default();
    for layer in
        layers.iter().filter(|layer| matches!(layer.group, Group::Vision | Group::Projector))
    {
        add(&mut vision, layer, layer.rows);
    }
    for tower in &config.towers {
        let rows = (tower.patches() + tower.prefix_tokens).next_multiple_of(TILE_SIDE) as f64;
        let width = (tower.num_heads * tower.head_dim().next_multiple_of(TILE_SIDE)) as f64;
        let cut = if policy.split_vision && tower.num_heads.is_multiple_of(chips) {
            chips as f64
        } else {
            1.0
        };
        let flop = 4.0 * rows * rows * width * tower.used_blocks() as f64 / cut;
        vision.add(flop, policy.attention_math, 0.0, assumptions);
    }

    let rows = bucket(assumptions.positions);
    let mut prefill = Work::default();
    for layer in layers.iter().filter(|layer| layer.group == Group::Llama) {
        add(&mut prefill, layer, rows);
    }
    for layer in layers.iter().filter(|layer| layer.group == Group::Head) {
        // The last position only.
        add(&mut prefill, layer, TILE_SIDE);
    }
    let [groups, width, _] = cache_rows(
        llama.num_attention_heads,
        llama.num_key_value_heads,
        llama.head_dim,
        chips,
        rows,
    );
    let queries = (groups * (llama.num_attention_heads / llama.num_key_value_heads)) as f64;
    // Causal: half of the square.
    let square =
        (rows * rows) as f64 * 2.0 * queries * width as f64 * llama.num_hidden_layers as f64;
    prefill.add(square, policy.attention_math, 0.0, assumptions);

    let mut decode = Work::default();
    for layer in layers.iter().filter(|layer| matches!(layer.group, Group::Llama | Group::Head)) {
        // A tile has 32 rows, of which one is used.
        add(&mut decode, layer, TILE_SIDE);
    }
    let seen = (assumptions.positions + assumptions.tokens + 1) as f64;
    let read = 2.0
        * seen
        * (groups * width) as f64
        * llama.num_hidden_layers as f64
        * policy.cache.bytes();
    decode.bytes += read;

    let [first, later] = assumptions.payloads(policy);
    vec![
        vision.stage("vision", 1, (0.0, 0.0), assumptions),
        prefill.stage("prefill", 1, sums(first, rows), assumptions),
        decode.stage(
            "decode step",
            assumptions.tokens.saturating_sub(1),
            sums(later, assumptions.decode_rows),
            assumptions,
        ),
    ]
}
