//! Eager operations of the mesh.

use std::ops::Range;

use tt_metal::{Combine, Distribution, Format, HostArray, Layout, Tensor};

use super::sharding::Sharding;
use super::{
    TtBackend, TtCache, TtImage, TtLinear, TtNorm, TtTable, TtTensor, attention, bucket, device,
    image, shape_error,
};
use crate::backend::types::top_two_of;
use crate::backend::{
    Activation, Backend, BackendError, CacheSpec, LinearSource, Mask, NormSource,
    PatchEmbeddingSource, Pixels, TopTwo, TraceBackend,
};
use crate::tensor::HostTensor;

impl Backend for TtBackend {
    type Tensor = TtTensor;
    type Linear = TtLinear;
    type Norm = TtNorm;
    type Table = TtTable;
    type Cache = TtCache;
    type PatchEmbedding = TtLinear;
    type Image = TtImage;

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
        let part = self.upload_tiles(&tensor.to_f32(), rows, columns, self.formats.stream)?;
        Ok(TtTensor { parts: vec![part], sharding: Sharding::Replicated, rows, columns })
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

    fn new_block_cache(&self, spec: CacheSpec, rows: &[usize]) -> Result<TtCache, BackendError> {
        TtCache::blocks(self, spec, rows)
    }

    fn upload_block(&self, rows: &HostTensor) -> Result<TtTensor, BackendError> {
        self.upload_padded(rows, self.formats.stream)
    }

    fn upload_block_f32(&self, rows: &HostTensor) -> Result<TtTensor, BackendError> {
        self.upload_padded(rows, Format::F32)
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

    fn upload_image(&self, pixels: Pixels<'_>) -> Result<TtImage, BackendError> {
        TtImage::new(self, pixels)
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
        norm.apply("layer_norm", &self.reshard(x, Sharding::Replicated)?, true, self.exact())
    }

    fn rms_norm(&self, x: &TtTensor, norm: &TtNorm) -> Result<TtTensor, BackendError> {
        norm.apply("rms_norm", &self.reshard(x, Sharding::Replicated)?, false, self.exact())
    }

    fn add(&self, x: TtTensor, y: &TtTensor) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "add";
        if (x.rows, x.columns) != (y.rows, y.columns) {
            let detail =
                format!("[{}, {}] and [{}, {}] differ", x.rows, x.columns, y.rows, y.columns);
            return Err(shape_error(OPERATION, detail));
        }
        let y = self.reshard(y, x.sharding)?;
        let (x, y) = if x.physical_rows() == y.physical_rows() {
            (x, y)
        } else {
            (self.without_padding_rows(&x)?, self.without_padding_rows(&y)?)
        };
        let sums = x.parts.iter().zip(&y.parts).map(|(a, b)| {
            a.combine(b, Combine::Add, tt_metal::Activation::None, a.format())
                .map_err(device(OPERATION))
        });
        Ok(TtTensor { parts: sums.collect::<Result<_, _>>()?, ..x })
    }

    fn multiply_add(
        &self,
        x: &TtTensor,
        factor: &TtTensor,
        offset: &TtTensor,
    ) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "multiply_add";
        let whole = |tensor: &TtTensor| self.reshard(tensor, Sharding::Replicated);
        let all = [whole(x)?, whole(factor)?, whole(offset)?];
        // Padding rows stay where all operands of several rows have as many.
        let heights =
            all.each_ref().map(|tensor| (tensor.rows > 1).then(|| tensor.physical_rows()));
        let padded = heights.iter().flatten().all(|height| Some(*height) == heights[0]);
        let [x, factor, offset] = if padded {
            all
        } else {
            let [x, factor, offset] = all.map(|tensor| self.without_padding_rows(&tensor));
            [x?, factor?, offset?]
        };
        for other in [&factor, &offset] {
            if other.columns != x.columns || ![1, x.rows].contains(&other.rows) {
                let detail =
                    format!("[{}, {}] and [{}, {}]", x.rows, x.columns, other.rows, other.columns);
                return Err(shape_error(OPERATION, detail));
            }
        }
        let none = tt_metal::Activation::None;
        let (one, factor, offset) =
            (x.one(OPERATION)?, factor.one(OPERATION)?, offset.one(OPERATION)?);
        let out = one
            .combine(factor, Combine::Mul, none, one.format())
            .and_then(|product| product.combine(offset, Combine::Add, none, one.format()))
            .map_err(device(OPERATION))?;
        Ok(TtTensor { parts: vec![out], ..x })
    }

    fn silu_mul(&self, x: &TtTensor) -> Result<TtTensor, BackendError> {
        attention::gated(self, "silu_mul", x, tt_metal::Activation::Silu)
    }

    fn gelu_tanh_mul(&self, x: &TtTensor) -> Result<TtTensor, BackendError> {
        attention::gated(self, "gelu_tanh_mul", x, tt_metal::Activation::GeluTanh)
    }

    fn attention(&self, qkv: &TtTensor, heads: usize) -> Result<TtTensor, BackendError> {
        attention::bidirectional(self, qkv, heads)
    }

    fn cached_attention(
        &self,
        qkv: &TtTensor,
        cache: &mut TtCache,
        layer: usize,
        position: usize,
        mask: Mask,
    ) -> Result<TtTensor, BackendError> {
        cache.attend(self, qkv, layer, position, mask)
    }

    fn write_cache(
        &self,
        qkv: &TtTensor,
        cache: &mut TtCache,
        layer: usize,
        position: usize,
    ) -> Result<(), BackendError> {
        cache.write(self, qkv, layer, position)
    }

    fn embed(&self, table: &TtTable, ids: &[u32]) -> Result<TtTensor, BackendError> {
        self.embed_ids(table, &self.upload_ids(ids)?)
    }

    fn concat_rows(&self, parts: &[&TtTensor]) -> Result<TtTensor, BackendError> {
        self.concat_rows_padded("concat_rows", parts, 0)
    }

    fn concat_sequence(&self, parts: &[&TtTensor]) -> Result<TtTensor, BackendError> {
        let rows = parts.iter().map(|part| part.rows).sum::<usize>();
        self.concat_rows_padded("concat_sequence", parts, bucket(rows) - rows)
    }

    fn concat_columns(&self, parts: &[&TtTensor]) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "concat_columns";
        let rows = parts.first().map_or(0, |part| part.rows);
        if let Some(other) = parts.iter().find(|part| part.rows != rows) {
            return Err(shape_error(OPERATION, format!("{rows} and {} rows", other.rows)));
        }
        let mut tensors = Vec::with_capacity(parts.len());
        for part in parts {
            let whole = self.without_padding_rows(&self.reshard(part, Sharding::Replicated)?)?;
            tensors.push(self.to_stream_format(whole.one(OPERATION)?)?);
        }
        let joined =
            Tensor::concat(&tensors.iter().collect::<Vec<_>>(), 3).map_err(device(OPERATION))?;
        let columns = parts.iter().map(|part| part.columns).sum();
        Ok(TtTensor { parts: vec![joined], sharding: Sharding::Replicated, rows, columns })
    }

    fn slice_rows(&self, x: &TtTensor, range: Range<usize>) -> Result<TtTensor, BackendError> {
        if range.start > range.end || range.end > x.rows {
            return Err(shape_error("slice_rows", format!("rows {range:?} of {}", x.rows)));
        }
        if range == (0..x.rows) {
            return self.without_padding_rows(x);
        }
        self.cut_rows(x, range)
    }

    fn reshape_rows(&self, x: &TtTensor, rows: usize) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "reshape_rows";
        let elements = x.rows * x.columns;
        if rows == 0 || !elements.is_multiple_of(rows) {
            let detail = format!("[{}, {}] as {rows} rows", x.rows, x.columns);
            return Err(shape_error(OPERATION, detail));
        }
        let columns = elements / rows;
        let whole = self.without_padding_rows(&self.reshard(x, Sharding::Replicated)?)?;
        let part = whole.one(OPERATION)?.reshape([1, 1, rows, columns]);
        let parts = vec![part.map_err(device(OPERATION))?];
        Ok(TtTensor { parts, sharding: Sharding::Replicated, rows, columns })
    }

    fn top_two(&self, x: &TtTensor) -> Result<Vec<TopTwo>, BackendError> {
        if x.columns < 2 {
            return Err(shape_error(
                "top_two",
                format!("{} columns have no second largest", x.columns),
            ));
        }
        self.values(x)?.chunks_exact(x.columns).map(top_two_of).collect()
    }
}
