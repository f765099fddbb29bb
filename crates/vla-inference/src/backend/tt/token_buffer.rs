//! Tokens that are chosen on the mesh: the next one's embedding is there before the host knows
//! which it was.

use tt_metal::kernels::{PickAction, narrow_matmul, pick_action};
use tt_metal::{Distribution, Format, HostArray, Layout, Tensor};

use super::sharding::{Form, TILE};
use super::{BackendError, TtBackend, TtLinear, TtTable, TtTensor, device, shape_error};
use crate::backend::{Activation, AnswerSpec, Choice};

/// Words that the kernel says about each choice.
const WORDS: usize = 8;

/// Tokens chosen on the mesh, the oldest first; each choice pushes the first out.
pub struct TtAnswer {
    spec: AnswerSpec,
    /// Embedding of the newest token, BF16 tiles `[1, 1, 1, width]`.
    row: Tensor,
    /// U32 `[1, 1, tokens, words]` row-major.
    chosen: Tensor,
    way: Way,
}

/// How a token is chosen.
enum Way {
    /// By our kernels, with its bin, its margin and a count of what is no number.
    Kernels {
        /// F32 tiles `[1, 1, 1, ids]`: the product's place.
        logits: Tensor,
        /// F32 `[1, 1, 1, bins]`.
        centres: Tensor,
        /// U32 `[1, 1, 1, WORDS]`.
        result: Tensor,
    },
    /// By TT-NN's argmax: an index, and nothing else.
    Argmax {
        /// The table's rows of the ids that are chosen among.
        rows: Tensor,
    },
}

impl TtAnswer {
    pub(super) fn new(
        backend: &TtBackend,
        spec: AnswerSpec,
        table: &TtTable,
    ) -> Result<Self, BackendError> {
        const OPERATION: &str = "new_answer";
        let AnswerSpec { tokens, ids, centres, .. } = &spec;
        let (first, end) = (ids.start as usize, ids.end as usize);
        if *tokens == 0 || first >= end || end > table.vocabulary {
            let detail = format!("{tokens} tokens among ids {ids:?} of {}", table.vocabulary);
            return Err(shape_error(OPERATION, detail));
        }
        let mesh = &backend.mesh;
        let failed = device(OPERATION);
        let row =
            mesh.empty([1, 1, 1, table.columns], Format::Bf16, Layout::Tile).map_err(failed)?;
        let (way, words) =
            if backend.own_kernels() && (end - first).is_multiple_of(TILE) && !centres.is_empty() {
                let array = HostArray::f32(centres, [1, 1, 1, centres.len()]);
                let centres =
                    mesh.upload(array, Distribution::Replicate, Format::F32, Layout::RowMajor);
                let way = Way::Kernels {
                    logits: mesh
                        .empty([1, 1, 1, end - first], Format::F32, Layout::Tile)
                        .map_err(failed)?,
                    centres: centres.map_err(failed)?,
                    result: mesh
                        .empty([1, 1, 1, WORDS], Format::U32, Layout::RowMajor)
                        .map_err(failed)?,
                };
                (way, WORDS)
            } else {
                let rows = match (first, end) {
                    (0, end) if end == table.vocabulary => table.table.clone(),
                    _ => table
                        .table
                        .slice([0, 0, first, 0], [1, 1, end, table.columns])
                        .map_err(failed)?,
                };
                (Way::Argmax { rows }, 1)
            };
        let chosen =
            mesh.zeros([1, 1, *tokens, words], Format::U32, Layout::RowMajor).map_err(failed)?;
        Ok(Self { spec, row, chosen, way })
    }

    pub(super) fn choose(
        &self,
        backend: &TtBackend,
        x: &TtTensor,
        head: &TtLinear,
        table: &TtTable,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "choose";
        let failed = device(OPERATION);
        if x.rows != 1 {
            return Err(shape_error(OPERATION, format!("{} rows; one is chosen from", x.rows)));
        }
        if head.outputs() != self.spec.ids.len() {
            let detail =
                format!("a head of {} outputs for ids {:?}", head.outputs(), self.spec.ids);
            return Err(shape_error(OPERATION, detail));
        }
        let newest = match &self.way {
            Way::Kernels { logits, centres, result } => {
                let x = backend.shown(x)?;
                let computed;
                let logits = match head.narrow() {
                    // One core for each 32 ids, without a launch of its own for the bias that a
                    // head does not have.
                    Some((weight, compute)) => {
                        let x = backend.in_form(&x, Form::Whole)?;
                        narrow_matmul(&backend.mesh, x.one(OPERATION)?, weight, logits, compute)
                            .map_err(failed)?;
                        logits
                    }
                    None => {
                        computed = backend.in_form(
                            &head.apply(backend, &x, Activation::Identity)?,
                            Form::Whole,
                        )?;
                        computed.one(OPERATION)?
                    }
                };
                let pick = PickAction {
                    logits,
                    centres,
                    table: &table.table,
                    row: &self.row,
                    result,
                    first_id: self.spec.ids.start,
                    end_id: self.spec.end_id,
                };
                pick_action(&backend.mesh, pick).map_err(failed)?;
                result.clone()
            }
            Way::Argmax { rows } => {
                let logits = head.apply(backend, &backend.shown(x)?, Activation::Identity)?;
                let logits = backend.in_form(&logits, Form::Whole)?;
                let index = logits.one(OPERATION)?.argmax(0..head.outputs()).map_err(failed)?;
                let row = rows.embedding(&index, Layout::Tile).map_err(failed)?;
                row.copy_to(&self.row).map_err(failed)?;
                index
            }
        };
        // A shift register: every choice goes to the same place, which is what a recording needs.
        let [_, _, tokens, words] = self.chosen.dims();
        if tokens == 1 {
            return newest.copy_to(&self.chosen).map_err(failed);
        }
        let kept = self.chosen.slice([0, 0, 1, 0], [1, 1, tokens, words]).map_err(failed)?;
        let joined = Tensor::concat(&[&kept, &newest], 2).map_err(failed)?;
        joined.copy_to(&self.chosen).map_err(failed)
    }

    pub(super) fn tell(
        &self,
        backend: &TtBackend,
        table: &TtTable,
        id: u32,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "tell";
        if id as usize >= table.vocabulary {
            return Err(shape_error(
                OPERATION,
                format!("id {id} leaves a table of {} rows", table.vocabulary),
            ));
        }
        let ids = [id];
        let array = HostArray::u32(&ids, [1; 4]);
        backend
            .mesh
            .upload(array, Distribution::Replicate, Format::U32, Layout::RowMajor)
            .and_then(|id| table.table.embedding(&id, Layout::Tile))
            .and_then(|row| row.copy_to(&self.row))
            .map_err(device(OPERATION))
    }

    pub(super) fn row(&self, backend: &TtBackend) -> Result<TtTensor, BackendError> {
        let part = backend.in_stream(&self.row)?;
        let [_, _, rows, columns] = part.dims();
        Ok(TtTensor { parts: vec![part], form: Form::Whole, rows, columns })
    }

    pub(super) fn read(&self) -> Result<Vec<Choice>, BackendError> {
        const OPERATION: &str = "read_answer";
        // Every chip chose for itself, from the same logits.
        let words = self.chosen.read_u32(0).map_err(device(OPERATION))?;
        if let Way::Argmax { .. } = self.way {
            let choice = |index: &u32| Choice {
                id: self.spec.ids.start + index,
                centre: None,
                margin: None,
            };
            return Ok(words.iter().map(choice).collect());
        }
        let choice = |said: &[u32]| match *said {
            [_, id, _, centre, largest, second, 0, _] => {
                let [centre, largest, second] = [centre, largest, second].map(f32::from_bits);
                if !largest.is_finite() {
                    return Err(BackendError::NotFinite { operation: OPERATION });
                }
                Ok(Choice { id, centre: Some(centre), margin: Some(largest - second) })
            }
            _ => Err(BackendError::NotFinite { operation: OPERATION }),
        };
        words.chunks_exact(WORDS).map(choice).collect()
    }
}
