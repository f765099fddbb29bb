//! Mesh backend: a network over 1, 2 or 8 Wormhole chips, through the safe crate `tt_metal`.
//!
//! The language model is tensor parallel: heads and MLP columns are sharded over the chips, partial
//! sums are all-reduced, where that pays ([`Division`]). Towers and projector are replicated unless
//! the precision policy shards them. Fidelity, float32 accumulation and epsilon are passed with
//! every call; TT-NN's defaults are not used.
//!
//! Every host array is rounded to the stored format on upload. Number formats come from the
//! [`PrecisionPolicy`].

mod attention;
mod block_cache;
mod cache;
mod division;
mod eager;
mod image;
mod kv_cache;
mod linear;
mod open;
mod resharding;
mod sharding;
mod token_buffer;
mod traced;
mod weight_cache;

use std::sync::atomic::{AtomicU64, Ordering};

use tt_metal::{Combine, Compute, Distribution, Fidelity, Format, HostArray, Layout, Mesh, Tensor};

use super::precision::{MathFidelity, NumberFormat, PrecisionPolicy};
use super::{Activation, BackendError, LinearSource, TensorParallel, WeightRole};
use crate::tensor::HostTensor;
pub use cache::TtCache;
pub use division::{Chips, Division, head_shards, local_queries};
pub use image::TtImage;
pub use linear::{TtLinear, TtNorm};
pub use open::{
    MeshKind, OpenError, Provider, ProviderLibrary, flow_trace_region_bytes, load_library, open,
    open_with,
};
pub use sharding::{MLP_COLUMN_MULTIPLE, Placement, TILE as TILE_SIDE, cache_dims};
use sharding::{Sharding, TILE};
pub use token_buffer::{TtTokenBuffer, scanned_logits};
pub use weight_cache::{CacheCounts, WeightCache};

/// Row counts for which prompt programs are compiled: 256 patches and up to 32 or 64 further
/// positions.
pub const SEQUENCE_BUCKETS: [usize; 2] = [288, 320];

/// A mesh with a precision policy.
pub struct TtBackend {
    mesh: Mesh,
    target: String,
    policy: PrecisionPolicy,
    division: Division,
    formats: Formats,
    /// Matrices resharded through the host.
    reshardings: AtomicU64,
    kernels: Kernels,
    weight_cache: Option<WeightCache>,
    fold_rows: bool,
    /// Whether the mesh records shapes and keeps no elements: weights are then not rearranged.
    shapes_only: bool,
}

/// Implementation of patch extraction and argmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernels {
    /// The kernels of this repository, under `kernels/`.
    #[default]
    Custom,
    /// TT-NN operations, and patch extraction on the host.
    Ttnn,
}

impl std::str::FromStr for Kernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "custom" => Ok(Self::Custom),
            "ttnn" => Ok(Self::Ttnn),
            other => Err(format!("kernels is '{other}'; use custom or ttnn")),
        }
    }
}

/// Token ids on the mesh.
pub struct TtTokenIds {
    /// U32 `[1, 1, 1, n]` row-major; n is 1 or a multiple of [`TILE_SIDE`].
    ids: Tensor,
    /// Ids without padding.
    count: usize,
    largest: u32,
}

/// Activation formats of the policy, as device formats.
struct Formats {
    /// Residual stream.
    stream: Format,
    /// Inside the MLPs.
    hidden: Format,
    /// KV cache.
    cache: Format,
    /// Partial sums between chips.
    collectives: Format,
}

/// A matrix on the mesh. The physical tensors may have padding: rows up to a bucket, columns up to
/// whole tiles.
#[derive(Clone, Debug)]
pub struct TtTensor {
    /// `[1, 1, physical rows, physical columns]` each.
    parts: Vec<Tensor>,
    sharding: Sharding,
    /// Logical rows.
    rows: usize,
    /// Logical columns.
    columns: usize,
}

/// An embedding table `[1, 1, vocabulary, columns]`, replicated.
pub struct TtTable {
    table: Tensor,
    vocabulary: usize,
    columns: usize,
}

fn shape_error(operation: &'static str, detail: String) -> BackendError {
    BackendError::Shape { operation, detail }
}

/// Converts an error of the device.
fn device(operation: &'static str) -> impl Fn(tt_metal::Error) -> BackendError + Copy {
    move |error| BackendError::Device { operation, detail: error.to_string() }
}

fn format(format: NumberFormat) -> Format {
    match format {
        NumberFormat::F32 => Format::F32,
        NumberFormat::Bf16 => Format::Bf16,
        NumberFormat::Bfp8B => Format::Bfp8B,
        NumberFormat::Bfp4B => Format::Bfp4B,
    }
}

fn fidelity(fidelity: MathFidelity) -> Fidelity {
    match fidelity {
        MathFidelity::LoFi => Fidelity::LoFi,
        MathFidelity::HiFi2 => Fidelity::HiFi2,
        MathFidelity::HiFi3 => Fidelity::HiFi3,
        MathFidelity::HiFi4 => Fidelity::HiFi4,
    }
}

/// Physical rows for `rows` positions of a sequence.
#[must_use]
pub fn bucket(rows: usize) -> usize {
    let prompt = SEQUENCE_BUCKETS.into_iter().find(|&bucket| rows > 256 && rows <= bucket);
    prompt.unwrap_or_else(|| rows.next_multiple_of(TILE))
}

impl TtTensor {
    /// The physical tensor of a matrix that is not in several parts.
    fn one(&self, operation: &'static str) -> Result<&Tensor, BackendError> {
        match self.parts.as_slice() {
            [one] => Ok(one),
            many => Err(shape_error(
                operation,
                format!("gate and up are separate in {} tensors", many.len()),
            )),
        }
    }

    fn physical_rows(&self) -> usize {
        self.parts.first().map_or(0, |part| part.dims()[2])
    }
}

impl TtBackend {
    /// A backend over an open mesh; `target` names it in reports.
    #[must_use]
    pub fn new(mesh: Mesh, target: String, policy: PrecisionPolicy) -> Self {
        let formats = Formats {
            stream: format(policy.stream),
            hidden: format(policy.hidden),
            cache: format(policy.cache),
            collectives: format(policy.collectives),
        };
        Self {
            shapes_only: mesh.provider_name().ends_with(tt_metal::RECORDING),
            division: Division::of(mesh.info().board, &policy),
            mesh,
            target,
            policy,
            formats,
            reshardings: AtomicU64::new(0),
            kernels: Kernels::default(),
            weight_cache: None,
            fold_rows: false,
        }
    }

    /// Folds a single row into whole tiles around an all-reduce. Off unless asked for: TT-NN's
    /// reshape of tiles costs more than the links save, and on a ring of 8 a folded row cannot be
    /// reduce-scattered.
    #[must_use]
    pub fn with_folded_rows(self, fold_rows: bool) -> Self {
        Self { fold_rows, ..self }
    }

    /// Divides other layers over the chips than [`Division::of`] does: for tests and measurements.
    #[must_use]
    pub fn with_division(self, division: Division) -> Self {
        Self { division, ..self }
    }

    /// Keeps packed weights in a folder.
    #[must_use]
    pub fn with_weight_cache(self, cache: WeightCache) -> Self {
        Self { weight_cache: Some(cache), ..self }
    }

    /// Hits and misses of the weight cache.
    #[must_use]
    pub fn weight_cache_counts(&self) -> CacheCounts {
        self.weight_cache.as_ref().map(WeightCache::counts).unwrap_or_default()
    }

    /// Selects the kernels.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// Transfers between host and mesh so far.
    #[must_use]
    pub fn traffic(&self) -> tt_metal::Traffic {
        self.mesh.traffic()
    }

    /// Operations so far.
    #[must_use]
    pub fn launches(&self) -> tt_metal::Launches {
        self.mesh.launches()
    }

    fn custom_kernels(&self) -> bool {
        self.kernels == Kernels::Custom
    }

    /// The precision policy.
    #[must_use]
    pub fn policy(&self) -> &PrecisionPolicy {
        &self.policy
    }

    /// Number of chips.
    #[must_use]
    pub fn chips(&self) -> usize {
        self.mesh.chips()
    }

    /// Memory in use on the fullest chip, bytes.
    ///
    /// # Errors
    /// When the device fails.
    pub fn allocated_memory(&self) -> Result<u64, BackendError> {
        let all =
            (0..self.chips()).map(|chip| self.mesh.memory(chip).map(|memory| memory.allocated));
        all.collect::<Result<Vec<_>, _>>()
            .map(|chips| chips.into_iter().max().unwrap_or(0))
            .map_err(device("memory"))
    }

    /// Matrices that were resharded through the host: 0 for the supported models, whose layers
    /// produce the sharding that the next one needs.
    #[must_use]
    pub fn resharding_count(&self) -> u64 {
        self.reshardings.load(Ordering::Relaxed)
    }

    /// Chips over which a layer is divided.
    fn chips_of(&self, source: &LinearSource) -> Chips {
        self.division.over((source.role, source.few_rows), &self.policy, self.mesh.chips())
    }

    /// Sharding of the logits of a column-parallel head.
    fn head_sharding(&self, outputs: usize) -> Sharding {
        let chips = self.division.over((WeightRole::Head, false), &self.policy, self.chips());
        let placed = (chips, sharding::column_multiple(WeightRole::Head));
        Sharding::of_outputs(TensorParallel::Column, 1, outputs, placed)
    }

    fn compute(&self, passes: MathFidelity) -> Compute {
        Compute {
            fidelity: fidelity(passes),
            fp32_dest: self.policy.fp32_accumulation,
            approximate: false,
        }
    }

    fn attention_compute(&self) -> Compute {
        self.compute(self.policy.attention_math)
    }

    /// For norms and rotary embeddings: exact products, float32 sums.
    fn exact(&self) -> Compute {
        Compute { fidelity: Fidelity::HiFi4, fp32_dest: true, approximate: false }
    }

    /// Uploads `[rows, columns]` to every chip.
    fn upload_tiles(
        &self,
        values: &[f32],
        rows: usize,
        columns: usize,
        format: Format,
    ) -> Result<Tensor, BackendError> {
        let array = HostArray::f32(values, [1, 1, rows, columns]);
        self.mesh
            .upload(array, Distribution::Replicate, format, Layout::Tile)
            .map_err(device("upload"))
    }

    /// Uploads `[rows, columns]` to every chip, padded with rows of zeros to whole tiles.
    fn upload_padded(&self, tensor: &HostTensor, format: Format) -> Result<TtTensor, BackendError> {
        let [rows, columns] = *tensor.shape() else {
            let detail = format!("shape {:?} is not a matrix", tensor.shape());
            return Err(shape_error("upload_block", detail));
        };
        let mut values = tensor.to_f32();
        let physical = rows.next_multiple_of(TILE);
        values.resize(physical * columns, 0.0);
        let part = self.upload_tiles(&values, physical, columns, format)?;
        Ok(TtTensor { parts: vec![part], sharding: Sharding::Replicated, rows, columns })
    }

    /// `x` times a factor per column.
    fn times_columns(&self, x: &TtTensor, factors: &[f32]) -> Result<TtTensor, BackendError> {
        let x = self.reshard(x, Sharding::Replicated)?;
        let factors = self.upload_tiles(factors, 1, factors.len(), Format::Bf16)?;
        let one = x.one("scale")?;
        let y = one.combine(&factors, Combine::Mul, tt_metal::Activation::None, one.format());
        Ok(TtTensor { parts: vec![y.map_err(device("scale"))?], ..x })
    }

    fn to_stream_format(&self, tensor: &Tensor) -> Result<Tensor, BackendError> {
        if tensor.format() == self.formats.stream {
            return Ok(tensor.clone());
        }
        tensor.convert(self.formats.stream, Layout::Tile).map_err(device("convert"))
    }
}
