//! The CPU backend: the oracle of all tests and the embedded default.
//!
//! float32 arithmetic; weights stay in bf16 as stored (a mapped file is never copied) and are
//! widened on the way into the GEMM's cache-sized blocks. Our own loops are compiled for AVX2,
//! AVX-512 and NEON and chosen at run time.

mod attention;
mod linear;
mod loops;
mod matmul;
mod norm;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::patches::{centred_patches, check_pixels, normalisation_tables};
use super::{
    Activation, AnswerSpec, Backend, BackendError, CacheSpec, Choice, LinearSource, NormSource,
    Normalisation, PatchEmbeddingSource, Pixels, Position, TopTwo,
};
use crate::tensor::HostTensor;
pub use attention::CpuCache;
pub use linear::CpuLinear;
pub use norm::CpuNorm;

/// Runs a network on the host's cores.
#[derive(Clone)]
pub struct CpuBackend {
    pool: Arc<rayon::ThreadPool>,
}

/// A float32 matrix.
#[derive(Clone, Debug)]
pub struct CpuTensor {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl CpuTensor {
    fn new(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), rows * columns);
        Self { rows, columns, values }
    }

    fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(rows, columns, vec![0.0; rows * columns])
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }
}

/// An embedding table, kept as stored.
pub struct CpuTable {
    table: HostTensor,
    columns: usize,
}

/// A patch embedding, and what every byte of a channel becomes before it.
pub struct CpuPatchEmbedding {
    linear: CpuLinear,
    tables: [[f32; 256]; 3],
}

/// Pixels of an image.
pub struct CpuImage {
    rgb: Vec<u8>,
    side: usize,
    patch: usize,
}

/// Tokens that were chosen, oldest first.
pub struct CpuAnswer {
    spec: AnswerSpec,
    chosen: Vec<TopTwo>,
    row: Option<CpuTensor>,
}

/// `what` does not fit, in words.
fn shape_error(operation: &'static str, detail: String) -> BackendError {
    BackendError::Shape { operation, detail }
}

impl CpuBackend {
    /// A backend with a pool of `threads` workers; 0 means one per core.
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
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Number of workers.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Normalised pixels of patches that [`Backend::cut_patches`] gave: what a patch embedding
    /// sees.
    ///
    /// # Errors
    /// When the columns are not three channels.
    pub fn normalise(
        &self,
        patches: &CpuTensor,
        normalisation: Normalisation,
    ) -> Result<CpuTensor, BackendError> {
        normalised(patches, &normalisation_tables(normalisation))
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
    type Ids = Vec<u32>;
    type Answer = CpuAnswer;
    /// Nothing is recorded: a host does not wait for itself.
    type Recording = std::convert::Infallible;

    fn name(&self) -> String {
        format!("cpu ({} threads, f32 arithmetic)", self.threads())
    }

    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    fn load_linear(&self, source: LinearSource) -> Result<CpuLinear, BackendError> {
        CpuLinear::new(source)
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
        Ok(HostTensor::from_f32(&[tensor.rows, tensor.columns], tensor.values.clone())?)
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
        Ok(CpuPatchEmbedding { linear: CpuLinear::new(source.linear)?, tables })
    }

    fn image(&self, pixels: Pixels<'_>) -> Result<CpuImage, BackendError> {
        check_pixels("image", pixels)?;
        Ok(CpuImage { rgb: pixels.rgb.to_vec(), side: pixels.side, patch: pixels.patch })
    }

    fn renew_image(&self, image: &mut CpuImage, rgb: &[u8]) -> Result<(), BackendError> {
        check_pixels("renew_image", Pixels { rgb, side: image.side, patch: image.patch })?;
        image.rgb.copy_from_slice(rgb);
        Ok(())
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
        loops::add_in_place(&mut x.values, &y.values);
        Ok(x)
    }

    fn silu_mul(&self, x: &CpuTensor) -> Result<CpuTensor, BackendError> {
        if !x.columns.is_multiple_of(2) {
            return Err(shape_error(
                "silu_mul",
                format!("{} columns are not gate | up", x.columns),
            ));
        }
        let half = x.columns / 2;
        let mut out = CpuTensor::zeros(x.rows, half);
        self.scope(|| {
            out.values
                .par_chunks_mut(half.max(1))
                .zip(x.values.par_chunks(x.columns.max(1)))
                .for_each(|(out, row)| {
                    let (gate, up) = row.split_at(half);
                    loops::silu_mul(out, gate, up);
                });
        });
        Ok(out)
    }

    fn attention(&self, qkv: &CpuTensor, heads: usize) -> Result<CpuTensor, BackendError> {
        self.scope(|| attention::bidirectional(qkv, heads))
    }

    fn causal_attention(
        &self,
        qkv: &CpuTensor,
        cache: &mut CpuCache,
        layer: usize,
        position: Position,
    ) -> Result<CpuTensor, BackendError> {
        let position = match position {
            Position::At(position) => position,
            Position::Counted if qkv.rows == 1 => cache.counted()?,
            Position::Counted => {
                return Err(shape_error("causal_attention", format!("{} counted rows", qkv.rows)));
            }
        };
        self.scope(|| cache.attend(qkv, layer, position))
    }

    fn seek(&self, cache: &mut CpuCache, position: usize) -> Result<(), BackendError> {
        cache.seek(position)
    }

    fn rewind(&self, cache: &mut CpuCache) -> Result<(), BackendError> {
        cache.rewind()
    }

    fn advance(&self, cache: &mut CpuCache) -> Result<(), BackendError> {
        cache.advance()
    }

    fn ids(&self, ids: &[u32]) -> Result<Vec<u32>, BackendError> {
        Ok(ids.to_vec())
    }

    fn renew_ids(&self, place: &mut Vec<u32>, ids: &[u32]) -> Result<(), BackendError> {
        if place.len() != ids.len() {
            return Err(shape_error(
                "renew_ids",
                format!("{} ids where {} were", ids.len(), place.len()),
            ));
        }
        place.copy_from_slice(ids);
        Ok(())
    }

    fn embed_ids(&self, table: &CpuTable, ids: &Vec<u32>) -> Result<CpuTensor, BackendError> {
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

    fn top_two(&self, x: &CpuTensor) -> Result<Vec<TopTwo>, BackendError> {
        if x.columns < 2 {
            return Err(shape_error(
                "top_two",
                format!("{} columns have no second largest", x.columns),
            ));
        }
        (0..x.rows).map(|row| super::top_two_of(x.row(row))).collect()
    }

    fn new_answer(&self, spec: AnswerSpec, table: &CpuTable) -> Result<CpuAnswer, BackendError> {
        let vocabulary = table.table.shape().first().copied().unwrap_or(0);
        if spec.tokens == 0 || spec.ids.is_empty() || spec.ids.end as usize > vocabulary {
            let detail = format!("{} tokens among ids {:?} of {vocabulary}", spec.tokens, spec.ids);
            return Err(shape_error("new_answer", detail));
        }
        Ok(CpuAnswer { spec, chosen: Vec::new(), row: None })
    }

    fn choose(
        &self,
        x: &CpuTensor,
        head: &CpuLinear,
        table: &CpuTable,
        answer: &mut CpuAnswer,
    ) -> Result<(), BackendError> {
        let logits = self.linear(x, head, Activation::Identity)?;
        let tops = self.top_two(&logits)?;
        let ([top], true) = (tops.as_slice(), logits.columns == answer.spec.ids.len()) else {
            let detail =
                format!("[{}, {}] for ids {:?}", logits.rows, logits.columns, answer.spec.ids);
            return Err(shape_error("choose", detail));
        };
        // The head's columns are ids of a vocabulary far below u32::MAX.
        let id = answer.spec.ids.start + top.index as u32;
        answer.row = Some(self.embed(table, &[id])?);
        if answer.chosen.len() == answer.spec.tokens {
            answer.chosen.remove(0);
        }
        answer.chosen.push(*top);
        Ok(())
    }

    fn tell(&self, answer: &mut CpuAnswer, table: &CpuTable, id: u32) -> Result<(), BackendError> {
        answer.row = Some(self.embed(table, &[id])?);
        Ok(())
    }

    fn chosen_row(&self, answer: &CpuAnswer) -> Result<CpuTensor, BackendError> {
        answer.row.clone().ok_or_else(|| shape_error("chosen_row", "nothing was chosen".into()))
    }

    fn read_answer(&self, answer: &CpuAnswer) -> Result<Vec<Choice>, BackendError> {
        let AnswerSpec { ids, end_id, centres, .. } = &answer.spec;
        let choice = |top: &TopTwo| {
            let id = ids.start + top.index as u32;
            let bin = (end_id.saturating_sub(id + 1) as usize).min(centres.len().saturating_sub(1));
            Choice { id, centre: centres.get(bin).copied(), margin: Some(top.margin()) }
        };
        Ok(answer.chosen.iter().map(choice).collect())
    }

    fn replay(&self, recording: &Self::Recording) -> Result<(), BackendError> {
        match *recording {}
    }
}
