//! CPU backend: the reference of all tests and the default device.
//!
//! Linear layers multiply with weights that are packed at load (`packed/`), in the number format
//! that a [`CpuPrecision`] gives their role, float32 by default; everything else is float32. The
//! loops in `loops.rs` are compiled for AVX2, AVX-512 and NEON and selected at run time.

mod attention;
mod buffer;
mod ceilings;
mod linear;
mod loops;
mod matmul;
mod norm;
mod packed;
mod precision;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::patches::{centred_patches, check_pixels, normalisation_tables};
use super::{
    Activation, Backend, BackendError, CacheSpec, LinearSource, Mask, NormSource, Normalisation,
    PatchEmbeddingSource, Pixels, TopTwo,
};
use crate::tensor::HostTensor;
pub use attention::CpuCache;
use buffer::Buffer;
pub use ceilings::Ceilings;
pub use linear::CpuLinear;
pub use norm::CpuNorm;
pub use precision::{CpuFormat, CpuPrecision};

/// Elements of a sum that are worth a task of their own.
const ELEMENTS: usize = 32 << 10;

/// Runs a network on the host's cores.
#[derive(Clone)]
pub struct CpuBackend {
    pool: Arc<rayon::ThreadPool>,
    precision: Arc<CpuPrecision>,
}

/// A float32 matrix.
#[derive(Clone, Debug)]
pub struct CpuTensor {
    rows: usize,
    columns: usize,
    values: Buffer,
}

impl CpuTensor {
    fn new(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), rows * columns);
        Self { rows, columns, values: values.into() }
    }

    /// Elements of unspecified content, all of which are to be written.
    fn unspecified(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: Buffer::unspecified(rows * columns) }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }
}

/// An embedding table in its stored format.
pub struct CpuTable {
    table: HostTensor,
    columns: usize,
}

/// A patch embedding, with the normalised value of every byte per channel.
pub struct CpuPatchEmbedding {
    linear: CpuLinear,
    tables: [[f32; 256]; 3],
}

/// An RGB image.
pub struct CpuImage {
    rgb: Vec<u8>,
    side: usize,
    patch: usize,
}

fn shape_error(operation: &'static str, detail: String) -> BackendError {
    BackendError::Shape { operation, detail }
}

impl CpuBackend {
    /// A float32 backend with a pool of `threads` workers; 0 means one per core.
    ///
    /// # Errors
    /// When the operating system refuses to start the threads.
    pub fn new(threads: usize) -> Result<Self, BackendError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("cpu-backend-{index}"))
            .build()
            .map_err(|error| BackendError::Device {
                operation: "start worker threads",
                detail: error.to_string(),
            })?;
        Ok(Self { pool: Arc::new(pool), precision: Arc::default() })
    }

    /// The same with other number formats of linear layers that are loaded from now on.
    #[must_use]
    pub fn with_precision(self, precision: CpuPrecision) -> Self {
        Self { precision: Arc::new(precision), ..self }
    }

    /// Number of workers.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Normalises the result of [`Backend::cut_patches`]: the input of the patch embedding's
    /// matmul, `[patches, 3 * patch * patch]`.
    ///
    /// # Errors
    /// When the columns do not divide into three channels.
    pub fn normalise(
        &self,
        patches: &CpuTensor,
        normalisation: Normalisation,
    ) -> Result<CpuTensor, BackendError> {
        normalised(patches, &normalisation_tables(normalisation))
    }

    /// `product(gate, up)` for `x` = `[rows, gate | up]`.
    fn gated(
        &self,
        operation: &'static str,
        x: &CpuTensor,
        product: impl Fn(&mut [f32], &[f32], &[f32]) + Sync,
    ) -> Result<CpuTensor, BackendError> {
        if !x.columns.is_multiple_of(2) {
            return Err(shape_error(operation, format!("{} columns are not gate | up", x.columns)));
        }
        let half = x.columns / 2;
        let mut out = CpuTensor::unspecified(x.rows, half);
        self.scope(|| {
            out.values
                .par_chunks_mut(half.max(1))
                .zip(x.values.par_chunks(x.columns.max(1)))
                .for_each(|(out, row)| {
                    let (gate, up) = row.split_at(half);
                    product(out, gate, up);
                });
        });
        Ok(out)
    }
}

fn normalised(patches: &CpuTensor, tables: &[[f32; 256]; 3]) -> Result<CpuTensor, BackendError> {
    let (rows, columns) = (patches.rows, patches.columns);
    if columns == 0 || !columns.is_multiple_of(3) {
        return Err(shape_error(
            "embed_patches",
            format!("{columns} columns are not three channels of a patch"),
        ));
    }
    let channel = |at: usize| at % columns / (columns / 3);
    // Values are bytes minus 128; a cast of anything else stays within the table.
    let value =
        |(at, &value): (usize, &f32)| tables[channel(at)][usize::from((value + 128.0) as u8)];
    Ok(CpuTensor::new(rows, columns, patches.values.iter().enumerate().map(value).collect()))
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type Norm = CpuNorm;
    type Table = CpuTable;
    type Cache = CpuCache;
    type PatchEmbedding = CpuPatchEmbedding;
    type Image = CpuImage;

    fn name(&self) -> String {
        format!("cpu ({} threads, {})", self.threads(), self.precision.in_words())
    }

    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    fn load_linear(&self, source: LinearSource) -> Result<CpuLinear, BackendError> {
        let format = self.precision.of(source.role);
        self.scope(|| CpuLinear::new(source, format))
    }

    fn load_norm(&self, source: NormSource) -> Result<CpuNorm, BackendError> {
        CpuNorm::new(&source)
    }

    fn load_table(&self, table: HostTensor) -> Result<CpuTable, BackendError> {
        match *table.shape() {
            [_, columns] => Ok(CpuTable { table, columns }),
            _ => Err(shape_error(
                "load_table",
                format!("shape {:?} is not [vocabulary, columns]", table.shape()),
            )),
        }
    }

    fn upload(&self, tensor: &HostTensor) -> Result<CpuTensor, BackendError> {
        match *tensor.shape() {
            [rows, columns] => Ok(CpuTensor::new(rows, columns, tensor.to_f32())),
            _ => Err(shape_error("upload", format!("shape {:?} is not a matrix", tensor.shape()))),
        }
    }

    fn shape(&self, tensor: &CpuTensor) -> [usize; 2] {
        [tensor.rows, tensor.columns]
    }

    fn download(&self, tensor: &CpuTensor) -> Result<HostTensor, BackendError> {
        Ok(HostTensor::from_f32(&[tensor.rows, tensor.columns], tensor.values.to_vec())?)
    }

    fn new_cache(&self, spec: CacheSpec) -> Result<CpuCache, BackendError> {
        CpuCache::new(spec)
    }

    fn read_cache(
        &self,
        cache: &CpuCache,
        layer: usize,
    ) -> Result<(HostTensor, HostTensor), BackendError> {
        cache.read(layer)
    }

    fn load_patch_embedding(
        &self,
        source: PatchEmbeddingSource,
    ) -> Result<CpuPatchEmbedding, BackendError> {
        let tables = normalisation_tables(source.normalisation);
        let format = self.precision.of_pixels();
        let linear = self.scope(|| CpuLinear::new(source.linear, format))?;
        Ok(CpuPatchEmbedding { linear, tables })
    }

    fn upload_image(&self, pixels: Pixels<'_>) -> Result<CpuImage, BackendError> {
        check_pixels("upload_image", pixels)?;
        Ok(CpuImage { rgb: pixels.rgb.to_vec(), side: pixels.side, patch: pixels.patch })
    }

    fn cut_patches(&self, image: &CpuImage) -> Result<CpuTensor, BackendError> {
        let &CpuImage { ref rgb, side, patch } = image;
        let values = centred_patches(Pixels { rgb, side, patch });
        Ok(CpuTensor::new((side / patch).pow(2), 3 * patch * patch, values))
    }

    fn embed_patches(
        &self,
        x: &CpuTensor,
        layer: &CpuPatchEmbedding,
    ) -> Result<CpuTensor, BackendError> {
        let x = normalised(x, &layer.tables)?;
        self.scope(|| layer.linear.apply(&x, Activation::Identity))
    }

    fn linear(
        &self,
        x: &CpuTensor,
        layer: &CpuLinear,
        activation: Activation,
    ) -> Result<CpuTensor, BackendError> {
        self.scope(|| layer.apply(x, activation))
    }

    fn layer_norm(&self, x: &CpuTensor, norm: &CpuNorm) -> Result<CpuTensor, BackendError> {
        self.scope(|| norm.layer_norm(x))
    }

    fn rms_norm(&self, x: &CpuTensor, norm: &CpuNorm) -> Result<CpuTensor, BackendError> {
        self.scope(|| norm.rms_norm(x))
    }

    fn add(&self, mut x: CpuTensor, y: &CpuTensor) -> Result<CpuTensor, BackendError> {
        if (x.rows, x.columns) != (y.rows, y.columns) {
            let detail =
                format!("[{}, {}] and [{}, {}] differ", x.rows, x.columns, y.rows, y.columns);
            return Err(shape_error("add", detail));
        }
        self.scope(|| {
            let pieces = x.values.par_chunks_mut(ELEMENTS).zip(y.values.par_chunks(ELEMENTS));
            pieces.for_each(|(x, y)| loops::add_in_place(x, y));
        });
        Ok(x)
    }

    fn multiply_add(
        &self,
        x: &CpuTensor,
        factor: &CpuTensor,
        offset: &CpuTensor,
    ) -> Result<CpuTensor, BackendError> {
        for other in [factor, offset] {
            if other.columns != x.columns || ![1, x.rows].contains(&other.rows) {
                let detail =
                    format!("[{}, {}] and [{}, {}]", x.rows, x.columns, other.rows, other.columns);
                return Err(shape_error("multiply_add", detail));
            }
        }
        let mut out = CpuTensor::unspecified(x.rows, x.columns);
        let of = |tensor: &CpuTensor, row: usize| if tensor.rows == 1 { 0 } else { row };
        for (row, out) in out.values.chunks_exact_mut(x.columns.max(1)).enumerate() {
            let (factor, offset) = (factor.row(of(factor, row)), offset.row(of(offset, row)));
            loops::multiply_add(out, x.row(row), factor, offset);
        }
        Ok(out)
    }

    fn silu_mul(&self, x: &CpuTensor) -> Result<CpuTensor, BackendError> {
        self.gated("silu_mul", x, loops::silu_mul)
    }

    fn gelu_tanh_mul(&self, x: &CpuTensor) -> Result<CpuTensor, BackendError> {
        self.gated("gelu_tanh_mul", x, loops::gelu_tanh_mul)
    }

    fn attention(&self, qkv: &CpuTensor, heads: usize) -> Result<CpuTensor, BackendError> {
        self.scope(|| attention::bidirectional(qkv, heads))
    }

    fn cached_attention(
        &self,
        qkv: &CpuTensor,
        cache: &mut CpuCache,
        layer: usize,
        position: usize,
        mask: Mask,
    ) -> Result<CpuTensor, BackendError> {
        self.scope(|| cache.attend(qkv, layer, position, mask))
    }

    fn write_cache(
        &self,
        qkv: &CpuTensor,
        cache: &mut CpuCache,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError> {
        self.scope(|| cache.write("write_cache", qkv, layer, position))
    }

    fn embed(&self, table: &CpuTable, ids: &[u32]) -> Result<CpuTensor, BackendError> {
        let mut values = Vec::with_capacity(ids.len() * table.columns);
        for &id in ids {
            let row = id as usize;
            values.extend(table.table.rows(row..row + 1)?.to_f32());
        }
        Ok(CpuTensor::new(ids.len(), table.columns, values))
    }

    fn concat_rows(&self, parts: &[&CpuTensor]) -> Result<CpuTensor, BackendError> {
        let columns = parts.first().map_or(0, |part| part.columns);
        if let Some(other) = parts.iter().find(|part| part.columns != columns) {
            return Err(shape_error(
                "concat_rows",
                format!("{columns} and {} columns", other.columns),
            ));
        }
        let values: Vec<f32> = parts.iter().flat_map(|part| part.values.iter().copied()).collect();
        Ok(CpuTensor::new(parts.iter().map(|part| part.rows).sum(), columns, values))
    }

    fn concat_columns(&self, parts: &[&CpuTensor]) -> Result<CpuTensor, BackendError> {
        let rows = parts.first().map_or(0, |part| part.rows);
        if let Some(other) = parts.iter().find(|part| part.rows != rows) {
            return Err(shape_error("concat_columns", format!("{rows} and {} rows", other.rows)));
        }
        let columns = parts.iter().map(|part| part.columns).sum();
        let mut values = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            for part in parts {
                values.extend_from_slice(part.row(row));
            }
        }
        Ok(CpuTensor::new(rows, columns, values))
    }

    fn slice_rows(&self, x: &CpuTensor, range: Range<usize>) -> Result<CpuTensor, BackendError> {
        if range.start > range.end || range.end > x.rows {
            return Err(shape_error("slice_rows", format!("rows {range:?} of {}", x.rows)));
        }
        let values = x.values[range.start * x.columns..range.end * x.columns].to_vec();
        Ok(CpuTensor::new(range.len(), x.columns, values))
    }

    fn reshape_rows(&self, x: &CpuTensor, rows: usize) -> Result<CpuTensor, BackendError> {
        if rows == 0 || !x.values.len().is_multiple_of(rows) {
            let detail = format!("[{}, {}] as {rows} rows", x.rows, x.columns);
            return Err(shape_error("reshape_rows", detail));
        }
        Ok(CpuTensor::new(rows, x.values.len() / rows, x.values.to_vec()))
    }

    fn top_two(&self, x: &CpuTensor) -> Result<Vec<TopTwo>, BackendError> {
        if x.columns < 2 {
            return Err(shape_error(
                "top_two",
                format!("{} columns have no second largest", x.columns),
            ));
        }
        (0..x.rows).map(|row| super::top_two_of(x.row(row))).collect()
    }
}
