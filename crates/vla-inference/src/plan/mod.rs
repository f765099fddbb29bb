//! Memory and time of a model on a mesh, predicted from its config.json alone.
//!
//! A roofline model: a stage takes the longer of its arithmetic and its memory traffic, plus its
//! collectives. All assumptions are in [`Assumptions`] and are printed with every plan. Nothing
//! here was measured on silicon.

mod flow;
mod launches;
mod layers;
mod lines;
mod stages;

use tt_metal::{DEFAULT_TRACE_REGION_BYTES, DRAM_BANK_BYTES, DRAM_BANKS};

use crate::backend::precision::{NumberFormat, PrecisionPolicy};
use crate::backend::tt::{MLP_COLUMN_MULTIPLE, MeshKind, TILE_SIDE, bucket, cache_dims};
use crate::checkpoint::OpenVlaConfig;
use crate::checkpoint::pi0::Pi0Config;
use crate::models::oft::OftLayout;
pub use flow::{Flow, PUBLISHED};
pub use layers::{Group, PlannedLayer};
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

/// Residual blocks of the published regression heads.
const HEAD_BLOCKS: usize = 2;

/// Assumptions of a plan. Rates are per chip.
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
    /// FLOP per second of one matmul pass, all cores.
    pub flop_per_second: f64,
    /// DRAM bytes per second reached by matmuls.
    pub dram_bytes_per_second: f64,
    /// Bytes per second of one Ethernet link, each way.
    pub link_bytes_per_second: f64,
    /// Seconds per hop between chips.
    pub hop_seconds: f64,
    /// Whether collectives and arithmetic run one after the other; otherwise collectives take no
    /// time.
    pub serial_collectives: bool,
    /// Rows sent by a collective of a decode step: 1, or all 32 of a tile.
    pub decode_rows: usize,
    /// Format of the partial sums in prefill and in decode; `None` for the policy's.
    pub payload: Option<[NumberFormat; 2]>,
    /// MLP columns per chip are padded to a multiple of this.
    pub mlp_multiple: usize,
    /// Seconds that an operation of a trace takes beyond its arithmetic and traffic.
    pub launch_seconds: f64,
    /// Host time per inference that does not overlap with the device, seconds: resize, upload,
    /// read-back.
    pub host_seconds: f64,
}

impl Assumptions {
    /// For the model as implemented here, with rates from published tt-metal measurements.
    #[must_use]
    pub fn standard(config: &OpenVlaConfig) -> Self {
        let patches = config.towers.first().map_or(0, |tower| tower.patches());
        Self {
            positions: patches + 20,
            tokens: 7,
            // The backend reshapes a single row to whole tiles if it fills them.
            decode_rows: if config.llama.hidden_size.is_multiple_of(TILE_SIDE * TILE_SIDE) {
                1
            } else {
                TILE_SIDE
            },
            ..Self::rates()
        }
    }

    /// Rates from published measurements, for a model of no positions.
    fn rates() -> Self {
        Self {
            images: 1,
            one_pass: None,
            flow: None,
            positions: 0,
            tokens: 1,
            head_rows: ACTION_ROWS,
            flop_per_second: 262.144e12,
            dram_bytes_per_second: 240e9,
            link_bytes_per_second: 12.5e9,
            hop_seconds: 1e-6,
            serial_collectives: true,
            decode_rows: TILE_SIDE,
            payload: None,
            mlp_multiple: MLP_COLUMN_MULTIPLE,
            launch_seconds: 18e-6,
            host_seconds: 0.0,
        }
    }

    /// For pi0 and pi0.5.
    #[must_use]
    pub fn flow(config: &Pi0Config, flow: Flow) -> Self {
        let positions = flow::positions(config, flow);
        Self { images: flow.cameras, flow: Some(flow), positions, ..Self::rates() }
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

    /// Operations of one inference in its traces; 0 where they are not counted.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.stages.iter().map(|stage| stage.launches * stage.count).sum()
    }

    /// Milliseconds of one inference with what every operation takes beyond the roofline.
    #[must_use]
    pub fn launched_ms(&self) -> f64 {
        self.total_ms() + self.launches() as f64 * self.assumptions.launch_seconds * 1e3
    }

    /// Milliseconds of one inference by the roofline.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.stages.iter().map(|stage| stage.ms() * stage.count as f64).sum::<f64>()
            + self.assumptions.host_seconds * 1e3
    }

    /// Inferences per second.
    #[must_use]
    pub fn hz(&self) -> f64 {
        1e3 / self.total_ms()
    }
}

/// Bytes allocated for a tensor on a chip: pages (tiles or rows) are interleaved over the banks,
/// and every bank reserves as many pages as the fullest.
#[must_use]
pub fn allocated(rows: usize, columns: usize, format: NumberFormat, tiled: bool) -> u64 {
    let (pages, page) = if tiled {
        (rows.div_ceil(TILE_SIDE) * columns.div_ceil(TILE_SIDE), (1024.0 * format.bytes()) as u64)
    } else {
        (rows, (columns as f64 * format.bytes()) as u64)
    };
    (pages as u64).div_ceil(DRAM_BANKS) * page.next_multiple_of(32) * DRAM_BANKS
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
            .map(|layer| layer.bytes(policy, chips, assumptions))
            .sum()
    };
    let llama = &config.llama;
    let [groups, width, rows] =
        cache_dims(llama.num_attention_heads, llama.num_key_value_heads, llama.head_dim, chips, {
            assumptions.positions + assumptions.tokens - 1
        });
    // One pass keeps no keys: all layers use the same place in turn.
    let cached = if assumptions.one_pass.is_some() { 1 } else { llama.num_hidden_layers };
    let side = allocated(groups * rows, width, policy.cache, true);
    // Cosine and sine, in tiles for the prefill and row-major for the lookup of a decode step.
    let tables = [true, false]
        .map(|tiled| 2 * allocated(rows, width, NumberFormat::Bf16, tiled))
        .iter()
        .sum::<u64>();
    // Peak of a layer: residual stream, its norm, the projections and both halves of the MLP.
    let widest = llama.hidden_size * 4
        + (llama.num_attention_heads + 2 * llama.num_key_value_heads) * llama.head_dim
        + 3 * llama.intermediate_size;
    let work = allocated(assumptions.rows(), widest, policy.stream, true);
    let items = vec![
        ("vision towers".into(), of(Group::Vision)),
        ("projector".into(), of(Group::Projector)),
        ("language model layers".into(), of(Group::Llama)),
        ("output head".into(), of(Group::Head)),
        (
            "token embedding".into(),
            allocated(llama.vocab_size, llama.hidden_size, NumberFormat::Bf16, false),
        ),
        ("norms and embeddings".into(), layers::small_tensors(config, policy)),
        (format!("keys and values of {rows} positions"), 2 * cached as u64 * side + tables),
        ("activations".into(), work),
        ("trace region".into(), DRAM_BANKS * DEFAULT_TRACE_REGION_BYTES),
    ];
    MemoryPlan { items, capacity: DRAM_BANKS * (DRAM_BANK_BYTES / 32 * 32) }
}
