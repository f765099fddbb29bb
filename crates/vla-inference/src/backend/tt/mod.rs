//! The mesh backend: a network over 1, 2 or 8 Wormhole chips, through the safe floor `tt_metal`.
//!
//! The language model is cut over the chips (heads and MLP columns, partial sums added between
//! chips); towers and projector are computed on every chip unless the precision policy splits them.
//! Everything a product or a norm depends on (fidelity, float32 sums, epsilon) is given with each
//! call: TT-NN's defaults are never relied on.

mod attention;
mod cache;
mod image;
mod linear;
mod open;
mod sharding;
mod token_buffer;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use tt_metal::{Combine, Compute, Distribution, Fidelity, Format, HostArray, Layout, Mesh, Tensor};

use super::precision::{MathFidelity, NumberFormat, PrecisionPolicy};
use super::{
    Activation, AnswerSpec, Backend, BackendError, CacheSpec, Choice, LinearSource, NormSource,
    PatchEmbeddingSource, Pixels, Position, TopTwo, WeightRole,
};
use crate::tensor::HostTensor;
pub use attention::TtCache;
pub use cache::{CacheCounts, WeightCache};
pub use image::TtImage;
pub use linear::{TtLinear, TtNorm};
pub use open::{MeshKind, OpenError, Provider, open};
use sharding::{Form, TILE};
pub use sharding::{Placement, TILE as TILE_SIDE, cache_rows};
pub use token_buffer::TtAnswer;

/// Lengths of a prompt with an image that programs are compiled for: 256 patches and up to 32 or 64
/// more positions.
pub const SEQUENCE_BUCKETS: [usize; 2] = [288, 320];

/// Runs a network on a mesh.
pub struct TtBackend {
    mesh: Mesh,
    target: String,
    policy: PrecisionPolicy,
    formats: Formats,
    /// How often a matrix went through the host to lie as the next operation needs it: never, on a
    /// model's way.
    detours: AtomicU64,
    kernels: Kernels,
    weight_cache: Option<WeightCache>,
}

/// Who cuts patches and chooses tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Our own kernels, under `kernels/`.
    #[default]
    Custom,
    /// TT-NN's operations and the host.
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
pub struct TtIds {
    /// U32 `[1, 1, 1, n]` row-major, one or whole tiles of them.
    ids: Tensor,
    count: usize,
    /// The largest of them.
    largest: u32,
}

impl TtIds {
    /// One id, or whole tiles of them.
    fn padded(ids: &[u32]) -> Vec<u32> {
        let mut padded = ids.to_vec();
        if ids.len() != 1 {
            padded.resize(ids.len().max(1).next_multiple_of(TILE), 0);
        }
        padded
    }
}

/// The policy's formats of what flows, as the device names them.
struct Formats {
    stream: Format,
    hidden: Format,
    cache: Format,
    collectives: Format,
}

/// A matrix on the mesh. What is shown may be less than what is there: rows that fill a bucket,
/// columns that fill tiles.
#[derive(Clone, Debug)]
pub struct TtTensor {
    /// `[1, 1, physical rows, physical columns]` each.
    parts: Vec<Tensor>,
    form: Form,
    rows: usize,
    columns: usize,
}

/// An embedding table `[1, 1, vocabulary, columns]`, whole on each chip.
pub struct TtTable {
    table: Tensor,
    vocabulary: usize,
    columns: usize,
}

fn shape_error(operation: &'static str, detail: String) -> BackendError {
    BackendError::Shape { operation, detail }
}

/// The device's own words.
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

/// Rows that are kept for `rows` positions of a sequence.
#[must_use]
pub fn bucket(rows: usize) -> usize {
    let prompt = SEQUENCE_BUCKETS.into_iter().find(|&bucket| rows > 256 && rows <= bucket);
    prompt.unwrap_or_else(|| rows.next_multiple_of(TILE))
}

impl TtTensor {
    /// The tensor of a matrix that has one.
    fn one(&self, operation: &'static str) -> Result<&Tensor, BackendError> {
        match self.parts.as_slice() {
            [one] => Ok(one),
            many => Err(shape_error(
                operation,
                format!("gate and up lie apart in {} tensors", many.len()),
            )),
        }
    }

    fn physical_rows(&self) -> usize {
        self.parts.first().map_or(0, |part| part.dims()[2])
    }
}

impl TtBackend {
    /// A backend over an open mesh.
    #[must_use]
    pub fn new(mesh: Mesh, target: String, policy: PrecisionPolicy) -> Self {
        let formats = Formats {
            stream: format(policy.stream),
            hidden: format(policy.hidden),
            cache: format(policy.cache),
            collectives: format(policy.collectives),
        };
        Self {
            mesh,
            target,
            policy,
            formats,
            detours: AtomicU64::new(0),
            kernels: Kernels::default(),
            weight_cache: None,
        }
    }

    /// The same with packed weights kept in a folder.
    #[must_use]
    pub fn with_weight_cache(self, cache: WeightCache) -> Self {
        Self { weight_cache: Some(cache), ..self }
    }

    /// What the folder of packed weights has saved so far.
    #[must_use]
    pub fn weight_cache_counts(&self) -> CacheCounts {
        self.weight_cache.as_ref().map(WeightCache::counts).unwrap_or_default()
    }

    /// The same with other kernels.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// What has gone between host and mesh so far.
    #[must_use]
    pub fn traffic(&self) -> tt_metal::Traffic {
        self.mesh.traffic()
    }

    fn own_kernels(&self) -> bool {
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

    /// Highest use of one chip's memory so far, bytes.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn peak_memory(&self) -> Result<u64, BackendError> {
        let all = (0..self.chips()).map(|chip| self.mesh.memory(chip).map(|memory| memory.peak));
        all.collect::<Result<Vec<_>, _>>()
            .map(|peaks| peaks.into_iter().max().unwrap_or(0))
            .map_err(device("memory"))
    }

    /// Memory in use on the fullest chip, bytes.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn allocated_memory(&self) -> Result<u64, BackendError> {
        let all =
            (0..self.chips()).map(|chip| self.mesh.memory(chip).map(|memory| memory.allocated));
        all.collect::<Result<Vec<_>, _>>()
            .map(|chips| chips.into_iter().max().unwrap_or(0))
            .map_err(device("memory"))
    }

    /// How often a matrix went through the host because it did not lie as the next operation needs
    /// it.
    #[must_use]
    pub fn detours(&self) -> u64 {
        self.detours.load(Ordering::Relaxed)
    }

    /// Over how many chips weights of a role are cut.
    fn spread(&self, role: WeightRole) -> usize {
        match role {
            WeightRole::Vision | WeightRole::Projector if !self.policy.split_vision => 1,
            _ => self.mesh.chips(),
        }
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

    /// For what is not a matmul of weights: norms and rotations.
    fn exact(&self) -> Compute {
        Compute { fidelity: Fidelity::HiFi4, fp32_dest: true, approximate: false }
    }

    fn put(
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

    /// Logical values, rows that are not shown left out.
    fn values(&self, x: &TtTensor) -> Result<Vec<f32>, BackendError> {
        let mut out = vec![0.0; x.rows * x.columns];
        for (part, map) in x.parts.iter().zip(x.form.maps(x.columns)) {
            let values = if x.form.spread() == 1 { part.read_f32(0) } else { part.gather_f32(3) };
            attention::logical(
                &values.map_err(device("download"))?,
                &map,
                x.rows,
                &mut out,
                x.columns,
            );
        }
        Ok(out)
    }

    /// The matrix as the next operation needs it. On a model's way it lies so already; elsewhere it
    /// goes through the host.
    fn in_form(&self, x: &TtTensor, form: Form) -> Result<TtTensor, BackendError> {
        if x.form == form {
            return Ok(x.clone());
        }
        if let (Form::Columns { parts: 1, each, spread, run }, Form::Whole) = (x.form, form) {
            // Runs lie in order and padding only after the last column: gathered, they are the
            // matrix.
            let mut part = x.one("gather")?.clone();
            if spread > 1 {
                part = part.all_gather(3).map_err(device("gather"))?;
            }
            if spread * run > each {
                let [_, _, rows, _] = part.dims();
                part = part.slice([0; 4], [1, 1, rows, each]).map_err(device("gather"))?;
            }
            return Ok(TtTensor { parts: vec![part], form, ..x.clone() });
        }
        self.detours.fetch_add(1, Ordering::Relaxed);
        let values = self.values(x)?;
        let number_format = x.parts.first().map_or(self.formats.stream, Tensor::format);
        let spread = form.spread();
        let distribution =
            if spread == 1 { Distribution::Replicate } else { Distribution::Shard(3) };
        let parts = form.maps(x.columns).into_iter().map(|map| {
            let mut laid = vec![0.0; x.rows * map.len()];
            for (row, line) in laid.chunks_exact_mut(map.len().max(1)).enumerate() {
                for (value, &column) in line.iter_mut().zip(&map) {
                    if column != sharding::PADDING {
                        *value = values[row * x.columns + column as usize];
                    }
                }
            }
            let array = HostArray::f32(&laid, [1, 1, x.rows, map.len()]);
            self.mesh
                .upload(array, distribution, number_format, Layout::Tile)
                .map_err(device("relayout"))
        });
        Ok(TtTensor {
            parts: parts.collect::<Result<_, _>>()?,
            form,
            rows: x.rows,
            columns: x.columns,
        })
    }

    /// The matrix without rows that are not shown.
    fn shown(&self, x: &TtTensor) -> Result<TtTensor, BackendError> {
        if x.physical_rows() == x.rows { Ok(x.clone()) } else { self.cut_rows(x, 0..x.rows) }
    }

    fn cut_rows(&self, x: &TtTensor, range: Range<usize>) -> Result<TtTensor, BackendError> {
        let cut = |part: &Tensor| {
            let [_, _, _, width] = part.dims();
            part.slice([0, 0, range.start, 0], [1, 1, range.end, width])
                .map_err(device("slice_rows"))
        };
        let parts = x.parts.iter().map(cut).collect::<Result<_, _>>()?;
        Ok(TtTensor { parts, rows: range.len(), ..x.clone() })
    }

    /// `x` times a factor per column.
    fn times_columns(&self, x: &TtTensor, factors: &[f32]) -> Result<TtTensor, BackendError> {
        let x = self.in_form(x, Form::Whole)?;
        let factors = self.put(factors, 1, factors.len(), Format::Bf16)?;
        let one = x.one("scale")?;
        let y = one.combine(&factors, Combine::Mul, tt_metal::Activation::None, one.format());
        Ok(TtTensor { parts: vec![y.map_err(device("scale"))?], ..x })
    }

    fn in_stream(&self, tensor: &Tensor) -> Result<Tensor, BackendError> {
        if tensor.format() == self.formats.stream {
            return Ok(tensor.clone());
        }
        tensor.convert(self.formats.stream, Layout::Tile).map_err(device("convert"))
    }

    /// Parts of one width below each other, and `filler` rows of anything.
    fn stack(
        &self,
        operation: &'static str,
        parts: &[&TtTensor],
        filler: usize,
    ) -> Result<TtTensor, BackendError> {
        let Some(first) = parts.first() else {
            return Err(shape_error(operation, "no matrices".into()));
        };
        let columns = first.columns;
        if let Some(other) = parts.iter().find(|part| part.columns != columns) {
            return Err(shape_error(operation, format!("{columns} and {} columns", other.columns)));
        }
        let rows = parts.iter().map(|part| part.rows).sum();
        let mut tensors = Vec::with_capacity(parts.len() + 1);
        for part in parts.iter().filter(|part| part.rows > 0) {
            let whole = self.shown(&self.in_form(part, Form::Whole)?)?;
            tensors.push(self.in_stream(whole.one(operation)?)?);
        }
        if filler > 0 {
            // Rows that are there already fill up as well as zeros from the host, and can be
            // recorded.
            let there = tensors.iter().find(|part| part.dims()[2] >= filler);
            let rows = match there {
                Some(part) => part.slice([0; 4], [1, 1, filler, columns]),
                None => self.mesh.zeros([1, 1, filler, columns], self.formats.stream, Layout::Tile),
            };
            tensors.push(rows.map_err(device(operation))?);
        }
        let joined = match tensors.as_slice() {
            [one] => one.clone(),
            many => {
                Tensor::concat(&many.iter().collect::<Vec<_>>(), 2).map_err(device(operation))?
            }
        };
        Ok(TtTensor { parts: vec![joined], form: Form::Whole, rows, columns })
    }
}

impl Backend for TtBackend {
    type Tensor = TtTensor;
    type Linear = TtLinear;
    type Norm = TtNorm;
    type Table = TtTable;
    type Cache = TtCache;
    type PatchEmbedding = TtLinear;
    type Image = TtImage;
    type Ids = TtIds;
    type Answer = TtAnswer;
    type Recording = tt_metal::Trace;

    fn name(&self) -> String {
        let chips = self.chips();
        format!(
            "{} ({chips} chip{}, {})",
            self.target,
            if chips == 1 { "" } else { "s" },
            self.policy.name
        )
    }

    fn load_linear(&self, source: LinearSource) -> Result<TtLinear, BackendError> {
        TtLinear::new(self, source)
    }

    fn load_norm(&self, source: NormSource) -> Result<TtNorm, BackendError> {
        TtNorm::new(self, &source)
    }

    fn load_table(&self, table: HostTensor) -> Result<TtTable, BackendError> {
        let [vocabulary, columns] = *table.shape() else {
            let detail = format!("shape {:?} is not [vocabulary, columns]", table.shape());
            return Err(shape_error("load_table", detail));
        };
        let dims = [1, 1, vocabulary, columns];
        let values;
        let array = match table.dtype() {
            crate::tensor::DType::Bf16 => HostArray::bf16_bytes(table.bytes(), dims),
            crate::tensor::DType::F32 => {
                values = table.to_f32();
                HostArray::f32(&values, dims)
            }
        };
        let table =
            self.mesh.upload(array, Distribution::Replicate, Format::Bf16, Layout::RowMajor);
        Ok(TtTable { table: table.map_err(device("load_table"))?, vocabulary, columns })
    }

    fn upload(&self, tensor: &HostTensor) -> Result<TtTensor, BackendError> {
        let [rows, columns] = *tensor.shape() else {
            return Err(shape_error(
                "upload",
                format!("shape {:?} is not a matrix", tensor.shape()),
            ));
        };
        let part = self.put(&tensor.to_f32(), rows, columns, self.formats.stream)?;
        Ok(TtTensor { parts: vec![part], form: Form::Whole, rows, columns })
    }

    fn shape(&self, tensor: &TtTensor) -> [usize; 2] {
        [tensor.rows, tensor.columns]
    }

    fn download(&self, tensor: &TtTensor) -> Result<HostTensor, BackendError> {
        Ok(HostTensor::from_f32(&[tensor.rows, tensor.columns], self.values(tensor)?)?)
    }

    fn new_cache(&self, spec: CacheSpec) -> Result<TtCache, BackendError> {
        TtCache::new(self, spec)
    }

    fn read_cache(
        &self,
        cache: &TtCache,
        layer: usize,
    ) -> Result<(HostTensor, HostTensor), BackendError> {
        cache.read(layer)
    }

    fn load_patch_embedding(&self, source: PatchEmbeddingSource) -> Result<TtLinear, BackendError> {
        TtLinear::new(self, image::folded(source)?)
    }

    fn image(&self, pixels: Pixels<'_>) -> Result<TtImage, BackendError> {
        TtImage::new(self, pixels)
    }

    fn renew_image(&self, image: &mut TtImage, rgb: &[u8]) -> Result<(), BackendError> {
        image.renew(rgb)
    }

    fn cut_patches(&self, image: &TtImage) -> Result<TtTensor, BackendError> {
        image.cut(self)
    }

    fn embed_patches(&self, x: &TtTensor, layer: &TtLinear) -> Result<TtTensor, BackendError> {
        layer.apply(self, x, Activation::Identity)
    }

    fn linear(
        &self,
        x: &TtTensor,
        layer: &TtLinear,
        activation: Activation,
    ) -> Result<TtTensor, BackendError> {
        layer.apply(self, x, activation)
    }

    fn layer_norm(&self, x: &TtTensor, norm: &TtNorm) -> Result<TtTensor, BackendError> {
        norm.apply("layer_norm", &self.in_form(x, Form::Whole)?, true, self.exact())
    }

    fn rms_norm(&self, x: &TtTensor, norm: &TtNorm) -> Result<TtTensor, BackendError> {
        norm.apply("rms_norm", &self.in_form(x, Form::Whole)?, false, self.exact())
    }

    fn add(&self, x: TtTensor, y: &TtTensor) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "add";
        if (x.rows, x.columns) != (y.rows, y.columns) {
            let detail =
                format!("[{}, {}] and [{}, {}] differ", x.rows, x.columns, y.rows, y.columns);
            return Err(shape_error(OPERATION, detail));
        }
        let y = self.in_form(y, x.form)?;
        let (x, y) = if x.physical_rows() == y.physical_rows() {
            (x, y)
        } else {
            (self.shown(&x)?, self.shown(&y)?)
        };
        let sums = x.parts.iter().zip(&y.parts).map(|(a, b)| {
            a.combine(b, Combine::Add, tt_metal::Activation::None, a.format())
                .map_err(device(OPERATION))
        });
        Ok(TtTensor { parts: sums.collect::<Result<_, _>>()?, ..x })
    }

    fn silu_mul(&self, x: &TtTensor) -> Result<TtTensor, BackendError> {
        attention::silu_mul(self, x)
    }

    fn attention(&self, qkv: &TtTensor, heads: usize) -> Result<TtTensor, BackendError> {
        attention::bidirectional(self, qkv, heads)
    }

    fn causal_attention(
        &self,
        qkv: &TtTensor,
        cache: &mut TtCache,
        layer: usize,
        position: Position,
    ) -> Result<TtTensor, BackendError> {
        cache.attend(self, qkv, layer, position)
    }

    fn seek(&self, cache: &mut TtCache, position: usize) -> Result<(), BackendError> {
        cache.seek(self, position)
    }

    fn rewind(&self, cache: &mut TtCache) -> Result<(), BackendError> {
        cache.rewind()
    }

    fn advance(&self, cache: &mut TtCache) -> Result<(), BackendError> {
        cache.advance()
    }

    fn ids(&self, ids: &[u32]) -> Result<TtIds, BackendError> {
        let padded = TtIds::padded(ids);
        let array = HostArray::u32(&padded, [1, 1, 1, padded.len()]);
        let tensor =
            self.mesh.upload(array, Distribution::Replicate, Format::U32, Layout::RowMajor);
        let largest = ids.iter().copied().max().unwrap_or(0);
        Ok(TtIds { ids: tensor.map_err(device("ids"))?, count: ids.len(), largest })
    }

    fn renew_ids(&self, place: &mut TtIds, ids: &[u32]) -> Result<(), BackendError> {
        const OPERATION: &str = "renew_ids";
        if ids.len() != place.count {
            return Err(shape_error(
                OPERATION,
                format!("{} ids where {} were", ids.len(), place.count),
            ));
        }
        let padded = TtIds::padded(ids);
        let array = HostArray::u32(&padded, place.ids.dims());
        place.ids.write(array, Distribution::Replicate).map_err(device(OPERATION))?;
        place.largest = ids.iter().copied().max().unwrap_or(0);
        Ok(())
    }

    fn embed_ids(&self, table: &TtTable, ids: &TtIds) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "embed";
        if ids.largest as usize >= table.vocabulary {
            let detail = format!("id {} leaves a table of {} rows", ids.largest, table.vocabulary);
            return Err(shape_error(OPERATION, detail));
        }
        let rows = table.table.embedding(&ids.ids, Layout::Tile).map_err(device(OPERATION))?;
        let part = self.in_stream(&rows)?;
        Ok(TtTensor {
            parts: vec![part],
            form: Form::Whole,
            rows: ids.count,
            columns: table.columns,
        })
    }

    fn concat_rows(&self, parts: &[&TtTensor]) -> Result<TtTensor, BackendError> {
        self.stack("concat_rows", parts, 0)
    }

    fn sequence(&self, parts: &[&TtTensor]) -> Result<TtTensor, BackendError> {
        let rows = parts.iter().map(|part| part.rows).sum::<usize>();
        self.stack("sequence", parts, bucket(rows) - rows)
    }

    fn concat_columns(&self, parts: &[&TtTensor]) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "concat_columns";
        let rows = parts.first().map_or(0, |part| part.rows);
        if let Some(other) = parts.iter().find(|part| part.rows != rows) {
            return Err(shape_error(OPERATION, format!("{rows} and {} rows", other.rows)));
        }
        let mut tensors = Vec::with_capacity(parts.len());
        for part in parts {
            let whole = self.shown(&self.in_form(part, Form::Whole)?)?;
            tensors.push(self.in_stream(whole.one(OPERATION)?)?);
        }
        let joined =
            Tensor::concat(&tensors.iter().collect::<Vec<_>>(), 3).map_err(device(OPERATION))?;
        let columns = parts.iter().map(|part| part.columns).sum();
        Ok(TtTensor { parts: vec![joined], form: Form::Whole, rows, columns })
    }

    fn slice_rows(&self, x: &TtTensor, range: Range<usize>) -> Result<TtTensor, BackendError> {
        if range.start > range.end || range.end > x.rows {
            return Err(shape_error("slice_rows", format!("rows {range:?} of {}", x.rows)));
        }
        if range == (0..x.rows) {
            return self.shown(x);
        }
        self.cut_rows(x, range)
    }

    fn top_two(&self, x: &TtTensor) -> Result<Vec<TopTwo>, BackendError> {
        if x.columns < 2 {
            return Err(shape_error(
                "top_two",
                format!("{} columns have no second largest", x.columns),
            ));
        }
        self.values(x)?.chunks_exact(x.columns).map(super::top_two_of).collect()
    }

    fn new_answer(&self, spec: AnswerSpec, table: &TtTable) -> Result<TtAnswer, BackendError> {
        TtAnswer::new(self, spec, table)
    }

    fn choose(
        &self,
        x: &TtTensor,
        head: &TtLinear,
        table: &TtTable,
        answer: &mut TtAnswer,
    ) -> Result<(), BackendError> {
        answer.choose(self, x, head, table)
    }

    fn tell(&self, answer: &mut TtAnswer, table: &TtTable, id: u32) -> Result<(), BackendError> {
        answer.tell(self, table, id)
    }

    fn chosen_row(&self, answer: &TtAnswer) -> Result<TtTensor, BackendError> {
        answer.row(self)
    }

    fn read_answer(&self, answer: &TtAnswer) -> Result<Vec<Choice>, BackendError> {
        answer.read()
    }

    fn records(&self) -> bool {
        true
    }

    fn record(
        &self,
        work: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Option<tt_metal::Trace>, BackendError> {
        let (trace, done) = self.mesh.capture(|| Ok(work())).map_err(device("record"))?;
        done.map(|()| Some(trace))
    }

    fn replay(&self, recording: &tt_metal::Trace) -> Result<(), BackendError> {
        recording.run(false).map_err(device("replay"))
    }
}
