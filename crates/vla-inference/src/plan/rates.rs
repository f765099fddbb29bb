//! What chips and implementations reach, each figure with its bounds and its source. None was
//! measured by this project.

use crate::backend::tt::MeshKind;

/// A figure between its bounds, lowest first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Lowest value that is published or assumed.
    pub low: f64,
    /// Expected.
    pub likely: f64,
    /// Highest.
    pub high: f64,
    /// Where the three are from.
    pub source: &'static str,
}

impl Figure {
    const fn new(low: f64, likely: f64, high: f64, source: &'static str) -> Self {
        Self { low, likely, high, source }
    }

    /// Optimistic, expected and pessimistic value of `of` where more is better.
    pub(super) fn more_is_better(self, of: impl Fn(f64) -> f64) -> Span {
        Span { low: of(self.high), likely: of(self.likely), high: of(self.low) }
    }

    /// The same where less is better.
    pub(super) fn less_is_better(self, of: impl Fn(f64) -> f64) -> Span {
        Span { low: of(self.low), likely: of(self.likely), high: of(self.high) }
    }
}

/// A predicted time in milliseconds: optimistic, expected, pessimistic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// With every figure at its better bound.
    pub low: f64,
    /// With every figure as expected.
    pub likely: f64,
    /// With every figure at its worse bound.
    pub high: f64,
}

impl Span {
    pub(super) fn both(self, other: Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            low: of(self.low, other.low),
            likely: of(self.likely, other.likely),
            high: of(self.high, other.high),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        self.both(other, |a, b| a + b)
    }

    pub(super) fn times(self, factor: f64) -> Self {
        Self { low: factor * self.low, likely: factor * self.likely, high: factor * self.high }
    }

    /// Whether a measured time is within the bounds.
    #[must_use]
    pub fn contains(&self, ms: f64) -> bool {
        (self.low..=self.high).contains(&ms)
    }
}

/// What a kind of chip reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChipRates {
    /// FLOP per second of one matmul pass on one core: 8x16x16 multiply-adds a cycle.
    pub core_flop_per_second: f64,
    /// DRAM bytes per second by specification.
    pub dram_specified: f64,
    /// DRAM bytes per second of the roofline: what the best published matmuls reach.
    pub dram_roofline: f64,
    /// The same by matmuls whose weights are interleaved over the banks, as the backend's are.
    pub dram_interleaved: Figure,
    /// The same with each core beside its bank.
    pub dram_sharded: Figure,
    /// Bytes per second of a link and direction, for the roofline.
    pub link_roofline: f64,
    /// Bytes per second of a link and direction, measured.
    pub link: Figure,
    /// Seconds from chip to chip.
    pub hop: Figure,
}

const WORMHOLE: ChipRates = ChipRates {
    core_flop_per_second: 4.096e12,
    dram_specified: 288e9,
    dram_roofline: 240e9,
    dram_interleaved: Figure::new(
        175e9,
        190e9,
        205e9,
        "about 190 of 288 GB/s (tt-metal, Saturating_DRAM_bandwidth), 8 % either way assumed",
    ),
    dram_sharded: Figure::new(
        239e9,
        250e9,
        261e9,
        "239 to 261 GB/s at 12 GT/s, Llama-3-70B and Mixtral (Saturating_DRAM_bandwidth)",
    ),
    link_roofline: 12.5e9,
    link: Figure::new(
        8.2e9,
        9.98e9,
        11.7e9,
        "neighbour exchange, one direction, and unicast of 4 KB packets \
        (golden_bandwidth_summary_wormhole_b0_t3k.csv)",
    ),
    hop: Figure::new(
        0.77e-6,
        1e-6,
        1.45e-6,
        "16 B on a line to 4 KB in a mesh (golden_latency_wormhole_b0_t3k.csv)",
    ),
};

const BLACKHOLE: ChipRates = ChipRates {
    core_flop_per_second: 1.35 * 4.096e12,
    dram_specified: 512e9,
    dram_roofline: 460e9,
    dram_interleaved: Figure::new(
        280e9,
        390e9,
        400e9,
        "400 GB/s bf16, 279 bfp4_b (tt-metal #55898)",
    ),
    dram_sharded: Figure::new(
        282e9,
        390e9,
        461e9,
        "55 % of 512 GB/s with one reader a bank to 90 % with several (#54242)",
    ),
    link_roofline: 15.6e9,
    link: Figure::new(
        15.2e9,
        15.6e9,
        32.9e9,
        "both directions at once to one direction, 4 KB packets \
        (golden_bandwidth_summary_blackhole_p150_x4.csv)",
    ),
    hop: Figure::new(
        0.66e-6,
        0.76e-6,
        0.87e-6,
        "16 B on a line to 4 KB in a ring (golden_latency_blackhole_p150_x4.csv)",
    ),
};

impl ChipRates {
    /// Those of a board's chips.
    #[must_use]
    pub fn of(mesh: MeshKind) -> &'static Self {
        if mesh.facts().chip.architecture == MeshKind::N150.facts().chip.architecture {
            &WORMHOLE
        } else {
            &BLACKHOLE
        }
    }

    /// FLOP per second of one matmul pass on all cores of a board's chip.
    #[must_use]
    pub fn flop_per_second(mesh: MeshKind) -> f64 {
        let (columns, rows) = mesh.facts().grid;
        f64::from(columns * rows) * Self::of(mesh).core_flop_per_second
    }
}

/// Placement of the weights in DRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// Tiles go round the banks.
    Interleaved,
    /// Columns are dealt to the banks, and each bank is read by cores beside it.
    DramSharded,
}

/// Operations of another implementation, which cannot be counted from a trace: per layer of a
/// tower, of the language model over a prompt, of a decode step, and of an action expert; and
/// around the layers of a decode or an Euler step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerLayer {
    /// Tower.
    pub vision: usize,
    /// Language model over a prompt.
    pub prefill: usize,
    /// Language model over one token.
    pub decode: usize,
    /// Action expert.
    pub expert: usize,
    /// Around the layers.
    pub around: usize,
}

/// Where implementations of a model differ, apart from the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Implementation {
    /// Name.
    pub name: &'static str,
    /// Placement of the weights.
    pub layout: WeightLayout,
    /// Share of the peak that matmuls of fewer than 512 rows reach.
    pub few_rows: Figure,
    /// Share of the peak that matmuls of more rows reach.
    pub many_rows: Figure,
    /// Seconds that an operation takes beyond its arithmetic and traffic.
    pub launch: Figure,
    /// Its operations; `None`: those of this backend's traces.
    pub operations: Option<PerLayer>,
}

const RESIDUE: &str = "published Llama-3.1-8B decode on N150, N300 and T3K (PERF.md) \
    less bytes at 250 GB/s and collectives at 10 GB/s: 0.20 to 0.31 ms a layer for 20 to 22 \
    operations";

/// One figure for every board and model: what published decode layers leave.
const LAUNCH: Figure = Figure::new(10e-6, 13e-6, 16e-6, RESIDUE);

const TUNED_FEW: Figure = Figure::new(
    0.20,
    0.45,
    0.70,
    "512 x 1024 x 2048 reaches 0.18 to 0.23 with default configurations (GEMM_FLOPS.md), 0.45 \
    assumed for ours; 1024 x 2048 x 2048 reaches 0.69 to 0.81",
);
const TUNED_MANY: Figure = Figure::new(
    0.45,
    0.65,
    0.81,
    "1024 x 2048 x 2048 with default configurations: 0.69 (bfp8_b HiFi2), 0.81 (bf16 HiFi4) \
    (GEMM_FLOPS.md)",
);

/// This backend.
pub const OURS: Implementation = Implementation {
    name: "this backend",
    layout: WeightLayout::Interleaved,
    few_rows: TUNED_FEW,
    many_rows: TUNED_MANY,
    launch: LAUNCH,
    operations: None,
};

/// tt_transformers: DRAM-sharded weights, 22 operations in a decode layer besides four collectives.
pub const TT_TRANSFORMERS: Implementation = Implementation {
    name: "tt_transformers",
    layout: WeightLayout::DramSharded,
    few_rows: TUNED_FEW,
    many_rows: TUNED_MANY,
    launch: LAUNCH,
    operations: Some(PerLayer { vision: 0, prefill: 26, decode: 22, expert: 0, around: 8 }),
};

/// tt-metal's `models/experimental/pi0`: default program configurations; operations counted in its
/// sources (`ttnn_gemma.py`, `ttnn_siglip.py`, `ttnn_suffix.py`), the prompt's MLPs in three
/// chunks.
pub const TT_METAL_PI0: Implementation = Implementation {
    name: "tt-metal's models/experimental/pi0",
    layout: WeightLayout::Interleaved,
    few_rows: Figure::new(
        0.10,
        0.18,
        0.23,
        "default program configurations, 512 x 1024 x 2048: 0.12 LoFi, 0.18 HiFi2, 0.23 HiFi4 \
        (GEMM_FLOPS.md)",
    ),
    many_rows: Figure::new(0.10, 0.18, 0.23, "chunks of 256 rows"),
    launch: LAUNCH,
    operations: Some(PerLayer { vision: 15, prefill: 47, decode: 0, expert: 33, around: 20 }),
};

/// Seconds of operations that do not spread over the cores, instead of [`Implementation::launch`].
/// From reading their loops in tt-metal 191d0eed and in `kernels/`, not measured.
pub const ONE_CORE: OneCore = OneCore {
    norm: Figure::new(
        30e-6,
        45e-6,
        60e-6,
        "rms_norm of one row of tiles: one core, 256 tiles read",
    ),
    update: Figure::new(25e-6, 40e-6, 55e-6, "paged_update_cache: one core, head after head"),
    fold: Figure::new(30e-6, 45e-6, 60e-6, "reshape of tiles: a barrier for each line"),
    scanned_id: Figure::new(30e-9, 50e-9, 70e-9, "pick_action: one processor, value after value"),
    patches: Figure::new(100e-6, 200e-6, 300e-6, "image_patches: 3 000 conversions a core"),
};

/// See [`ONE_CORE`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneCore {
    /// A norm of one row.
    pub norm: Figure,
    /// A row written into a cache.
    pub update: Figure,
    /// One row reshaped to whole tiles, or back.
    pub fold: Figure,
    /// One value of an argmax.
    pub scanned_id: Figure,
    /// The patches of one image.
    pub patches: Figure,
}

/// Operations of one pass of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Of the C ABI, as the backend captures them.
    pub launches: usize,
    /// Further ones of TT-NN, of which the shim makes up some of the ABI's.
    pub within: usize,
    /// Of those: norms of one row.
    pub norms: usize,
    /// Of those: rows written into a cache.
    pub updates: usize,
    /// Of those: single rows reshaped to whole tiles, or back.
    pub folds: usize,
    /// Values of argmaxes that one core after the other compares.
    pub scanned: usize,
    /// Images cut into patches.
    pub images: usize,
}

impl Operations {
    /// Operations that take the same time whatever they are.
    pub(super) fn launches(launches: usize) -> Self {
        Self { launches, ..Self::default() }
    }

    /// Milliseconds beyond arithmetic, traffic and collectives.
    pub(super) fn ms(&self, implementation: &Implementation) -> Span {
        let alone = self.norms + self.updates + self.folds + self.images;
        let others = (self.launches + self.within).saturating_sub(alone);
        let of = |figure: Figure, count: usize| {
            figure.less_is_better(|seconds| 1e3 * seconds * count as f64)
        };
        let OneCore { norm, update, fold, scanned_id, patches } = ONE_CORE;
        of(implementation.launch, others)
            .plus(of(norm, self.norms))
            .plus(of(update, self.updates))
            .plus(of(fold, self.folds))
            .plus(of(scanned_id, self.scanned))
            .plus(of(patches, self.images))
    }
}
