//! Memory and time of a model on a mesh, predicted from its config.json alone.
//!
//! A stage takes the longer of its arithmetic and its memory traffic, plus its collectives, plus
//! what its operations take beyond these. [`StagePlan::ms`] is the roofline: everything at its
//! peak, no cost of operations. [`Plan::predicted`] is the prediction: what chips and
//! implementations reach by published figures ([`rates`]), from an optimistic to a pessimistic
//! bound. Nothing here was measured on silicon.

mod flow;
mod launches;
mod layers;
mod lines;
pub mod rates;
mod stages;

use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::{
    Division, MLP_COLUMN_MULTIPLE, MeshKind, SEQUENCE_BUCKETS, TILE_SIDE, bucket, cache_dims,
};
use crate::checkpoint::OpenVlaConfig;
use crate::checkpoint::pi0::Pi0Config;
use crate::models::oft::OftLayout;
pub use flow::{Flow, PUBLISHED};
pub use layers::{Group, PlannedLayer};
use rates::{Implementation, OURS, Operations, Span};
pub use stages::StagePlan;

/// One GiB in bytes.
pub const GIB: f64 = (1u64 << 30) as f64;
/// Rows of the output head for action tokens.
pub const ACTION_ROWS: usize = 256;

/// A chunk of actions answered in one pass (OpenVLA-OFT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnePass {
    /// Steps of a chunk.
    pub chunk: usize,
    /// Numbers per step.
    pub action_dim: usize,
    /// Numbers of the robot's state; 0 for none.
    pub state_dim: usize,
}

/// A head with more rows than this is sharded.
const WIDE_HEAD: usize = 1024;
/// Residual blocks of the published regression heads.
const HEAD_BLOCKS: usize = 2;

/// Assumptions of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// Images of one observation.
    pub images: usize,
    /// One pass for a chunk instead of decoding.
    pub one_pass: Option<OnePass>,
    /// A chunk by flow matching instead of decoding (pi0, pi0.5).
    pub flow: Option<Flow>,
    /// Positions of the prompt with its image, before padding to a bucket.
    pub positions: usize,
    /// Action tokens; the prefill gives the first.
    pub tokens: usize,
    /// Rows of the output head that are computed.
    pub head_rows: usize,
    /// DRAM bytes per second of a chip for the roofline; `None` for what the best published matmuls
    /// reach on it.
    pub dram_bytes_per_second: Option<f64>,
    /// What computes the model.
    pub implementation: Implementation,
    /// Format of the MLP's first two matrices where it is not the policy's, as in tt_transformers'
    /// preset "performance".
    pub gate_up: Option<NumberFormat>,
    /// Whether collectives and arithmetic run one after the other; otherwise collectives take no
    /// time.
    pub serial_collectives: bool,
    /// Rows sent by a collective of a decode step: 1, or all 32 of a tile.
    pub decode_rows: usize,
    /// Format of the partial sums in prefill and in decode; `None` for the policy's.
    pub payload: Option<[NumberFormat; 2]>,
    /// Layers that are divided over the chips; `None` for the backend's choice.
    pub division: Option<Division>,
    /// MLP columns per chip are padded to a multiple of this.
    pub mlp_multiple: usize,
    /// Host time per inference that does not overlap with the device, seconds: resize, upload,
    /// read-back.
    pub host_seconds: f64,
}

impl Assumptions {
    /// For the model as implemented here.
    #[must_use]
    pub fn standard(config: &OpenVlaConfig) -> Self {
        let patches = config.towers.first().map_or(0, |tower| tower.patches());
        Self { positions: patches + 20, tokens: 7, ..Self::empty() }
    }

    /// For a model of no positions.
    fn empty() -> Self {
        Self {
            images: 1,
            one_pass: None,
            flow: None,
            positions: 0,
            tokens: 1,
            head_rows: ACTION_ROWS,
            dram_bytes_per_second: None,
            implementation: OURS,
            gate_up: None,
            serial_collectives: true,
            decode_rows: TILE_SIDE,
            payload: None,
            division: None,
            mlp_multiple: MLP_COLUMN_MULTIPLE,
            host_seconds: 0.0,
        }
    }

    /// For pi0 and pi0.5.
    #[must_use]
    pub fn flow(config: &Pi0Config, flow: Flow) -> Self {
        let positions = flow::positions(config, flow);
        Self { images: flow.cameras, flow: Some(flow), positions, ..Self::empty() }
    }

    /// For OpenVLA-OFT: `images` images and a prompt of 30 ids, answered in one pass.
    #[must_use]
    pub fn one_pass(config: &OpenVlaConfig, images: usize, pass: OnePass) -> Self {
        let patches = config.towers.first().map_or(0, |tower| tower.patches());
        let state = pass.state_dim > 0;
        let layout = OftLayout::new(images * patches, state, 30, pass.chunk * pass.action_dim);
        Self {
            images,
            one_pass: Some(pass),
            positions: layout.rows,
            tokens: 1,
            ..Self::standard(config)
        }
    }

    /// Rows that the language model computes for the prompt.
    pub(super) fn rows(&self) -> usize {
        match self.one_pass {
            // Padding rows would be attended to, so that there are only a tile's.
            Some(_) => self.positions.next_multiple_of(TILE_SIDE),
            None => bucket(self.positions),
        }
    }

    fn division(&self, policy: &PrecisionPolicy, mesh: MeshKind) -> Division {
        self.division.unwrap_or_else(|| Division::of(mesh, policy))
    }

    fn payloads(&self, policy: &PrecisionPolicy) -> [NumberFormat; 2] {
        self.payload.unwrap_or([policy.collectives; 2])
    }
}

/// Memory of one chip by purpose, bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Purpose and bytes.
    pub items: Vec<(String, u64)>,
    /// Bytes available to tensors.
    pub capacity: u64,
}

impl MemoryPlan {
    /// Bytes of a chip that tensors and traces share.
    fn capacity(mesh: MeshKind) -> u64 {
        let chip = mesh.facts().chip;
        chip.dram_banks * chip.usable_bank_bytes()
    }

    /// Sum of all items.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.items.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes missing, if any.
    #[must_use]
    pub fn shortfall(&self) -> Option<u64> {
        self.total().checked_sub(self.capacity).filter(|&bytes| bytes > 0)
    }
}

/// Predicted memory and time of a model on a mesh.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The mesh.
    pub mesh: MeshKind,
    /// The precision policy.
    pub policy: PrecisionPolicy,
    /// Assumptions.
    pub assumptions: Assumptions,
    /// Memory of one chip.
    pub memory: MemoryPlan,
    /// Stages of one inference.
    pub stages: Vec<StagePlan>,
}

impl Plan {
    /// Plans a model on a mesh.
    #[must_use]
    pub fn new(
        config: &OpenVlaConfig,
        mesh: MeshKind,
        policy: PrecisionPolicy,
        assumptions: Assumptions,
    ) -> Self {
        let layers = layers::layers(config, &assumptions);
        let memory = memory(config, mesh, &policy, &assumptions, &layers);
        let stages = stages::stages(config, mesh, &policy, &assumptions, &layers);
        Self { mesh, policy, assumptions, memory, stages }
    }

    /// Plans pi0 or pi0.5 on a mesh; `assumptions` come from [`Assumptions::flow`].
    #[must_use]
    pub fn flow(
        config: &Pi0Config,
        mesh: MeshKind,
        policy: PrecisionPolicy,
        assumptions: Assumptions,
        flow: Flow,
    ) -> Self {
        flow::plan(config, mesh, policy, assumptions, flow)
    }

    /// Operations of one inference in its traces, as the backend captures them.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.stages.iter().map(|stage| stage.operations.launches * stage.count).sum()
    }

    /// Operations of TT-NN in one inference.
    #[must_use]
    pub fn operations(&self) -> usize {
        let all = |operations: &Operations| operations.launches + operations.within;
        self.stages.iter().map(|stage| all(&stage.operations) * stage.count).sum()
    }

    /// Predicted milliseconds of one inference.
    #[must_use]
    pub fn predicted(&self) -> Span {
        let host = 1e3 * self.assumptions.host_seconds;
        let start = Span { low: host, likely: host, high: host };
        self.stages
            .iter()
            .fold(start, |sum, stage| sum.plus(stage.predicted.times(stage.count as f64)))
    }

    /// Milliseconds of one inference by the roofline.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.ms() * stage.count as f64).sum::<f64>()
            + self.assumptions.host_seconds * 1e3
    }

    /// Expected inferences per second.
    #[must_use]
    pub fn hz(&self) -> f64 {
        1e3 / self.predicted().likely
    }
}

/// Bytes allocated for a tensor `[rows, columns]` on a chip: pages (tiles or rows) are interleaved
/// over the banks, and every bank reserves as many pages as the fullest.
#[must_use]
pub fn allocated(
    mesh: MeshKind,
    [rows, columns]: [usize; 2],
    format: NumberFormat,
    tiled: bool,
) -> u64 {
    let (pages, page) = if tiled {
        (rows.div_ceil(TILE_SIDE) * columns.div_ceil(TILE_SIDE), (1024.0 * format.bytes()) as u64)
    } else {
        (rows, (columns as f64 * format.bytes()) as u64)
    };
    mesh.facts().chip.allocated(pages as u64, page)
}

/// The room for traces, of which every bank reserves all.
fn reserved(mesh: MeshKind, trace_region_bytes: u64) -> (String, u64) {
    ("trace region".into(), mesh.facts().chip.dram_banks * trace_region_bytes)
}

fn memory(
    config: &OpenVlaConfig,
    mesh: MeshKind,
    policy: &PrecisionPolicy,
    assumptions: &Assumptions,
    layers: &[PlannedLayer],
) -> MemoryPlan {
    let chips = mesh.chips();
    let of = |group: Group| -> u64 {
        layers
            .iter()
            .filter(|layer| layer.group == group)
            .map(|layer| layer.bytes(policy, mesh, assumptions))
            .sum()
    };
    let llama = &config.llama;
    let [groups, width, rows] =
        cache_dims(llama.num_attention_heads, llama.num_key_value_heads, llama.head_dim, chips, {
            // Traces hold for both buckets, and share one cache.
            let traced = if assumptions.one_pass.is_some() { 0 } else { SEQUENCE_BUCKETS[1] };
            assumptions.positions.max(traced) + assumptions.tokens - 1
        });
    // One pass keeps no keys: all layers use the same place in turn.
    let cached = if assumptions.one_pass.is_some() { 1 } else { llama.num_hidden_layers };
    let side = allocated(mesh, [groups * rows, width], policy.cache, true);
    // Cosine and sine, in tiles for the prefill and row-major for the lookup of a decode step.
    let tables = [true, false]
        .map(|tiled| 2 * allocated(mesh, [rows, width], NumberFormat::Bf16, tiled))
        .iter()
        .sum::<u64>();
    // Peak of a layer: residual stream, its norm, the projections and both halves of the MLP.
    let widest = llama.hidden_size * 4
        + (llama.num_attention_heads + 2 * llama.num_key_value_heads) * llama.head_dim
        + 3 * llama.intermediate_size;
    let work = allocated(mesh, [assumptions.rows(), widest], policy.stream, true);
    let table = [llama.vocab_size, llama.hidden_size];
    let items = vec![
        ("vision towers".into(), of(Group::Vision)),
        ("projector".into(), of(Group::Projector)),
        ("language model layers".into(), of(Group::Llama)),
        ("output head".into(), of(Group::Head)),
        ("token embedding".into(), allocated(mesh, table, NumberFormat::Bf16, false)),
        ("norms and embeddings".into(), layers::small_tensors(config, policy, mesh)),
        (format!("keys and values of {rows} positions"), 2 * cached as u64 * side + tables),
        ("activations".into(), work),
        reserved(mesh, mesh.facts().trace_region_bytes),
    ];
    MemoryPlan { items, capacity: MemoryPlan::capacity(mesh) }
}
