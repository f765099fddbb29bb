//! Traced decoding on the mesh: inputs at fixed addresses, position counter, token buffer, traces.

use tt_metal::{Activation, Combine, Distribution, Format, HostArray, Layout, Tensor, Trace};

use super::sharding::{Sharding, TILE};
use super::{
    TtBackend, TtCache, TtImage, TtLinear, TtTable, TtTensor, TtTokenBuffer, TtTokenIds, bucket,
    device, shape_error,
};
use crate::backend::{BackendError, GreedyToken, TokenBufferSpec, TraceBackend};
use crate::tensor::HostTensor;

/// The ids followed by zeros up to a multiple of a tile's side; a single id is not padded.
fn padded(ids: &[u32]) -> Vec<u32> {
    let mut padded = ids.to_vec();
    if ids.len() != 1 {
        padded.resize(ids.len().max(1).next_multiple_of(TILE), 0);
    }
    padded
}

impl TtBackend {
    /// Rows of a tensor of tiles by ids on the mesh, in its format. TT-NN looks up rows of bf16
    /// only: float32 is looked up as three bf16 parts, whose sum is exact.
    fn looked_up(&self, x: &Tensor, ids: &Tensor) -> tt_metal::Result<Tensor> {
        let rows =
            |x: &Tensor| x.convert(Format::Bf16, Layout::RowMajor)?.embedding(ids, Layout::Tile);
        if x.format() != Format::F32 {
            let found = rows(x)?;
            return match found.format() == x.format() {
                true => Ok(found),
                false => found.convert(x.format(), Layout::Tile),
            };
        }
        let combine =
            |a: &Tensor, b: &Tensor, how| a.combine(b, how, Activation::None, Format::F32);
        let high = x.convert(Format::Bf16, Layout::Tile)?;
        let rest = combine(x, &high, Combine::Sub)?;
        let middle = rest.convert(Format::Bf16, Layout::Tile)?;
        let low = combine(&rest, &middle, Combine::Sub)?;
        let small = combine(&rows(&low)?, &rows(&middle)?, Combine::Add)?;
        combine(&small, &rows(&high)?, Combine::Add)
    }
}

impl TraceBackend for TtBackend {
    type TokenIds = TtTokenIds;
    type TokenBuffer = TtTokenBuffer;
    type Trace = Trace;

    fn write_image(&self, image: &mut TtImage, rgb: &[u8]) -> Result<(), BackendError> {
        image.write(rgb)
    }

    fn write_matrix(&self, place: &mut TtTensor, values: &HostTensor) -> Result<(), BackendError> {
        const OPERATION: &str = "write_matrix";
        if *values.shape() != [place.rows, place.columns] {
            let detail = format!("{:?} into [{}, {}]", values.shape(), place.rows, place.columns);
            return Err(shape_error(OPERATION, detail));
        }
        if place.sharding != Sharding::Replicated {
            return Err(shape_error(OPERATION, "the matrix was not uploaded whole".into()));
        }
        let (one, mut values) = (place.one(OPERATION)?, values.to_f32());
        values.resize(place.physical_rows() * place.columns, 0.0);
        let array = HostArray::f32(&values, one.dims());
        one.write(array, Distribution::Replicate).map_err(device(OPERATION))
    }

    fn upload_ids(&self, ids: &[u32]) -> Result<TtTokenIds, BackendError> {
        let padded = padded(ids);
        let array = HostArray::u32(&padded, [1, 1, 1, padded.len()]);
        let tensor =
            self.mesh.upload(array, Distribution::Replicate, Format::U32, Layout::RowMajor);
        let largest = ids.iter().copied().max().unwrap_or(0);
        Ok(TtTokenIds { ids: tensor.map_err(device("upload_ids"))?, count: ids.len(), largest })
    }

    fn write_ids(&self, place: &mut TtTokenIds, ids: &[u32]) -> Result<(), BackendError> {
        const OPERATION: &str = "write_ids";
        if ids.len() != place.count {
            let detail = format!("{} ids into a tensor of {}", ids.len(), place.count);
            return Err(shape_error(OPERATION, detail));
        }
        let padded = padded(ids);
        let array = HostArray::u32(&padded, place.ids.dims());
        place.ids.write(array, Distribution::Replicate).map_err(device(OPERATION))?;
        place.largest = ids.iter().copied().max().unwrap_or(0);
        Ok(())
    }

    fn embed_ids(&self, table: &TtTable, ids: &TtTokenIds) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "embed";
        if ids.largest as usize >= table.vocabulary {
            let detail =
                format!("id {} is outside a table of {} rows", ids.largest, table.vocabulary);
            return Err(shape_error(OPERATION, detail));
        }
        let rows = table.table.embedding(&ids.ids, Layout::Tile).map_err(device(OPERATION))?;
        Ok(TtTensor {
            parts: vec![self.to_stream_format(&rows)?],
            sharding: Sharding::Replicated,
            rows: ids.count,
            columns: table.columns,
        })
    }

    fn select_rows(&self, x: &TtTensor, rows: &TtTokenIds) -> Result<TtTensor, BackendError> {
        const OPERATION: &str = "select_rows";
        if rows.largest as usize >= x.rows {
            let detail = format!("row {} of {}", rows.largest, x.rows);
            return Err(shape_error(OPERATION, detail));
        }
        let part = self.looked_up(x.one(OPERATION)?, &rows.ids).map_err(device(OPERATION))?;
        Ok(TtTensor { parts: vec![part], rows: rows.count, ..x.clone() })
    }

    fn sequence_rows(&self, rows: usize) -> usize {
        bucket(rows)
    }

    fn block_rows(&self, rows: usize) -> usize {
        rows.next_multiple_of(TILE)
    }

    fn set_block_rows(&self, cache: &mut TtCache, rows: &[usize]) -> Result<(), BackendError> {
        cache.set_block_rows(rows)
    }

    fn add_scaled(
        &self,
        x: &mut TtTensor,
        y: &TtTensor,
        factor: &TtTensor,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "add_scaled";
        let shapes = [&*x, y, factor].map(|tensor| (tensor.rows, tensor.columns));
        let place = x.one(OPERATION)?;
        if shapes.iter().any(|shape| *shape != shapes[0])
            || place.format() != Format::F32
            || y.sharding != Sharding::Replicated
        {
            let detail = format!("{shapes:?} in {}", place.format());
            return Err(shape_error(OPERATION, detail));
        }
        let none = tt_metal::Activation::None;
        y.one(OPERATION)?
            .combine(factor.one(OPERATION)?, Combine::Mul, none, Format::F32)
            .and_then(|step| place.combine(&step, Combine::Add, none, Format::F32))
            .and_then(|sum| sum.copy_to(place))
            .map_err(device(OPERATION))
    }

    fn set_position(&self, cache: &mut TtCache, position: usize) -> Result<(), BackendError> {
        cache.sequence()?.set_position(self, position)
    }

    fn move_position(&self, cache: &mut TtCache, position: usize) -> Result<(), BackendError> {
        cache.sequence()?.move_position(position)
    }

    fn reset_position(&self, cache: &mut TtCache) -> Result<(), BackendError> {
        cache.sequence()?.reset_position()
    }

    fn advance_position(&self, cache: &mut TtCache) -> Result<(), BackendError> {
        cache.sequence()?.advance_position()
    }

    fn causal_attention_at_counter(
        &self,
        qkv: &TtTensor,
        cache: &mut TtCache,
        layer: usize,
    ) -> Result<TtTensor, BackendError> {
        cache.sequence()?.attend_at_counter(self, qkv, layer)
    }

    fn new_token_buffer(
        &self,
        spec: TokenBufferSpec,
        table: &TtTable,
    ) -> Result<TtTokenBuffer, BackendError> {
        TtTokenBuffer::new(self, spec, table)
    }

    fn argmax_append(
        &self,
        x: &TtTensor,
        head: &TtLinear,
        table: &TtTable,
        buffer: &mut TtTokenBuffer,
    ) -> Result<(), BackendError> {
        buffer.argmax_append(self, x, head, table)
    }

    fn set_last_token(
        &self,
        buffer: &mut TtTokenBuffer,
        table: &TtTable,
        id: &TtTokenIds,
    ) -> Result<(), BackendError> {
        buffer.set_last_token(table, id)
    }

    fn last_embedding(&self, buffer: &TtTokenBuffer) -> Result<TtTensor, BackendError> {
        buffer.last_embedding(self)
    }

    fn read_tokens(&self, buffer: &TtTokenBuffer) -> Result<Vec<GreedyToken>, BackendError> {
        buffer.read()
    }

    fn capture_trace(
        &self,
        work: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<Trace, BackendError> {
        let (trace, done) = self.mesh.capture(|| Ok(work())).map_err(device("capture_trace"))?;
        done.map(|()| trace)
    }

    fn execute_trace(&self, trace: &Trace) -> Result<(), BackendError> {
        trace.execute(false).map_err(device("execute_trace"))
    }
}
