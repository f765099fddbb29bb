//! Bidirectional attention of the vision towers, and the gated activation of the MLP.

use tt_metal::Combine;

use super::sharding::{Sharding, local_heads};
use super::{BackendError, TtBackend, TtTensor, device, shape_error};
use crate::backend::HeadShape;

/// Bidirectional attention over all rows.
pub(super) fn bidirectional(
    backend: &TtBackend,
    qkv: &TtTensor,
    heads: usize,
) -> Result<TtTensor, BackendError> {
    const OPERATION: &str = "attention";
    if heads == 0 || !qkv.columns.is_multiple_of(3 * heads) || qkv.columns == 0 {
        return Err(shape_error(OPERATION, format!("{} columns for {heads} heads", qkv.columns)));
    }
    let head_dim = qkv.columns / (3 * heads);
    let shape = HeadShape { heads, kv_heads: heads, head_dim, rotary: false };
    // Sharded as by the preceding layer; any other input is replicated.
    let num_shards = match qkv.sharding {
        Sharding::QkvHeads { shape: given, num_shards } if given == shape => num_shards,
        _ => 1,
    };
    let sharded = backend.reshard(qkv, Sharding::QkvHeads { shape, num_shards })?;
    let sharded = backend.without_padding_rows(&sharded)?;
    let local = local_heads(shape, num_shards);
    let [q, k, v] = sharded
        .one(OPERATION)?
        .split_heads(local.queries, local.groups)
        .map_err(device(OPERATION))?;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let out = q
        .attention(&k, &v, None, false, scale, backend.attention_compute())
        .and_then(|out| out.concat_heads())
        .map_err(device(OPERATION))?;
    Ok(TtTensor {
        parts: vec![out],
        sharding: Sharding::OutputHeads { shape, num_shards },
        rows: qkv.rows,
        columns: heads * head_dim,
    })
}

/// `activation(gate) * up` for `x` = `[rows, gate | up]`.
pub(super) fn gated(
    backend: &TtBackend,
    operation: &'static str,
    x: &TtTensor,
    activation: tt_metal::Activation,
) -> Result<TtTensor, BackendError> {
    if !x.columns.is_multiple_of(2) {
        return Err(shape_error(operation, format!("{} columns are not gate | up", x.columns)));
    }
    let half = x.columns / 2;
    let (sharding, gate, up) = match (x.sharding, x.parts.as_slice()) {
        (Sharding::Columns { parts: 2, part_width, num_shards, shard_width }, [gate, up]) => {
            let half = Sharding::Columns { parts: 1, part_width, num_shards, shard_width };
            (half, gate.clone(), up.clone())
        }
        _ => {
            let x = backend.reshard(x, Sharding::Replicated)?;
            let (x, rows) = (x.one(operation)?, x.physical_rows());
            let cut = |from: usize| {
                x.slice([0, 0, 0, from], [1, 1, rows, from + half]).map_err(device(operation))
            };
            (Sharding::Replicated, cut(0)?, cut(half)?)
        }
    };
    let out = gate
        .combine(&up, Combine::Mul, activation, backend.formats.hidden)
        .map_err(device(operation))?;
    Ok(TtTensor { parts: vec![out], sharding, rows: x.rows, columns: half })
}
