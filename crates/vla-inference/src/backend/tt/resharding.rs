//! Changes of a matrix's sharding, and removal or addition of padding.

use std::ops::Range;
use std::sync::atomic::Ordering;

use tt_metal::{Distribution, HostArray, Layout, Tensor};

use super::sharding::{PADDING, Sharding};
use super::{BackendError, TtBackend, TtTensor, device, shape_error};

impl TtBackend {
    /// Logical values `[rows, columns]` on the host.
    pub(super) fn values(&self, x: &TtTensor) -> Result<Vec<f32>, BackendError> {
        let mut out = vec![0.0; x.rows * x.columns];
        for (part, map) in x.parts.iter().zip(x.sharding.column_maps(x.columns)) {
            let values =
                if x.sharding.num_shards() == 1 { part.read_f32(0) } else { part.gather_f32(3) };
            copy_logical_columns(
                &values.map_err(device("download"))?,
                &map,
                x.rows,
                &mut out,
                x.columns,
            );
        }
        Ok(out)
    }

    /// The matrix in another sharding. Gathering column shards runs on the device; any other change
    /// goes through the host and is counted.
    pub(super) fn reshard(
        &self,
        x: &TtTensor,
        sharding: Sharding,
    ) -> Result<TtTensor, BackendError> {
        if x.sharding == sharding {
            return Ok(x.clone());
        }
        if let (
            Sharding::Columns { parts: 1, part_width, num_shards, shard_width },
            Sharding::Replicated,
        ) = (x.sharding, sharding)
        {
            // Shards are in column order with padding after the last column only: gathered, they
            // are the matrix.
            let mut part = x.one("gather")?.clone();
            if num_shards > 1 {
                part = part.all_gather(3).map_err(device("gather"))?;
            }
            if num_shards * shard_width > part_width {
                let [_, _, rows, _] = part.dims();
                part = part.slice([0; 4], [1, 1, rows, part_width]).map_err(device("gather"))?;
            }
            return Ok(TtTensor { parts: vec![part], sharding, ..x.clone() });
        }
        self.reshardings.fetch_add(1, Ordering::Relaxed);
        let values = self.values(x)?;
        let number_format = x.parts.first().map_or(self.formats.stream, Tensor::format);
        let replicated = sharding.num_shards() == 1;
        let distribution =
            if replicated { Distribution::Replicate } else { Distribution::Shard(3) };
        let parts = sharding.column_maps(x.columns).into_iter().map(|map| {
            // Padding rows stay, as zeros.
            let rows = x.physical_rows().max(x.rows);
            let mut physical = vec![0.0; rows * map.len()];
            let lines = physical.chunks_exact_mut(map.len().max(1)).take(x.rows);
            for (row, line) in lines.enumerate() {
                for (value, &column) in line.iter_mut().zip(&map) {
                    if column != PADDING {
                        *value = values[row * x.columns + column as usize];
                    }
                }
            }
            let array = HostArray::f32(&physical, [1, 1, rows, map.len()]);
            self.mesh
                .upload(array, distribution, number_format, Layout::Tile)
                .map_err(device("reshard"))
        });
        Ok(TtTensor {
            parts: parts.collect::<Result<_, _>>()?,
            sharding,
            rows: x.rows,
            columns: x.columns,
        })
    }

    /// The matrix without padding rows.
    pub(super) fn without_padding_rows(&self, x: &TtTensor) -> Result<TtTensor, BackendError> {
        if x.physical_rows() == x.rows { Ok(x.clone()) } else { self.cut_rows(x, 0..x.rows) }
    }

    pub(super) fn cut_rows(
        &self,
        x: &TtTensor,
        range: Range<usize>,
    ) -> Result<TtTensor, BackendError> {
        let cut = |part: &Tensor| {
            let [_, _, _, width] = part.dims();
            part.slice([0, 0, range.start, 0], [1, 1, range.end, width])
                .map_err(device("slice_rows"))
        };
        let parts = x.parts.iter().map(cut).collect::<Result<_, _>>()?;
        Ok(TtTensor { parts, rows: range.len(), ..x.clone() })
    }

    /// Concatenates matrices of one width along the rows, followed by `padding` rows of arbitrary
    /// values.
    pub(super) fn concat_rows_padded(
        &self,
        operation: &'static str,
        parts: &[&TtTensor],
        padding: usize,
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
            let whole = self.without_padding_rows(&self.reshard(part, Sharding::Replicated)?)?;
            tensors.push(self.to_stream_format(whole.one(operation)?)?);
        }
        if padding > 0 {
            // Existing rows serve as padding as well as zeros from the host, and a trace can
            // capture their copy.
            let existing = tensors.iter().find(|part| part.dims()[2] >= padding);
            let rows = match existing {
                Some(part) => part.slice([0; 4], [1, 1, padding, columns]),
                None => {
                    self.mesh.zeros([1, 1, padding, columns], self.formats.stream, Layout::Tile)
                }
            };
            tensors.push(rows.map_err(device(operation))?);
        }
        let joined = match tensors.as_slice() {
            [one] => one.clone(),
            many => {
                Tensor::concat(&many.iter().collect::<Vec<_>>(), 2).map_err(device(operation))?
            }
        };
        Ok(TtTensor { parts: vec![joined], sharding: Sharding::Replicated, rows, columns })
    }
}

/// Copies the logical columns of one physical tensor, `values` = `[rows, map]` with the shards side
/// by side, to `out` = `[rows, columns]`.
fn copy_logical_columns(values: &[f32], map: &[u32], rows: usize, out: &mut [f32], columns: usize) {
    for row in 0..rows {
        for (value, &column) in values[row * map.len()..(row + 1) * map.len()].iter().zip(map) {
            if column != PADDING {
                out[row * columns + column as usize] = *value;
            }
        }
    }
}
