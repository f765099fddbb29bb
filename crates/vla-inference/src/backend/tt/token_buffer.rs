//! Token buffer on the mesh: argmax over the head's logits, and the embedding of the selected token
//! as input of the next decode step, without the host.

use tt_metal::kernels::{
    CANDIDATES, PickAction, PickCandidate, ScanLogits, narrow_matmul, pick_action, pick_candidate,
    scan_cores, scan_logits,
};
use tt_metal::{Distribution, Format, HostArray, Layout, Tensor};

use super::linear::NARROW;
use super::sharding::{Sharding, TILE};
use super::{
    BackendError, MeshKind, TtBackend, TtLinear, TtTable, TtTensor, TtTokenIds, device, shape_error,
};
use crate::backend::{Activation, GreedyToken, TokenBufferSpec};

/// U32 words that the kernels write per token.
const WORDS: usize = 8;

/// Tokens selected on the mesh, oldest first: a shift register.
pub struct TtTokenBuffer {
    spec: TokenBufferSpec,
    /// Embedding of the newest token, BF16 tiles `[1, 1, 1, width]`.
    embedding: Tensor,
    /// U32 `[1, 1, tokens, words]` row-major.
    tokens: Tensor,
    argmax: Argmax,
}

/// Implementation of the argmax.
enum Argmax {
    /// The kernels of `kernels/`: id, bin centre, both largest logits and a count of NaN.
    Kernels {
        /// F32 tiles `[1, 1, 1, ids]`, output of the head.
        logits: Tensor,
        /// F32 `[1, 1, 1, bins]`.
        centres: Tensor,
        /// U32 `[1, 1, 1, WORDS]`.
        result: Tensor,
        /// For a head of more outputs than one row of cores computes.
        scan: Option<Scan>,
    },
    /// TT-NN's argmax: the index only.
    Ttnn {
        /// Embeddings of the ids of the head's outputs.
        rows: Tensor,
    },
}

/// An argmax chip by chip: each scans its own shard of the logits, and only what its cores found is
/// sent.
struct Scan {
    /// Sharding of the logits.
    sharding: Sharding,
    /// U32 `[1, 1, 1, 8]` on each chip: index of its first logit, number of its logits.
    shard: Tensor,
    /// Two largest logits of each core.
    candidates: Tensor,
}

/// Values that one core after the other compares for an argmax over a head of `outputs` rows,
/// divided over the chips or whole on each, and whether every chip scans its own logits.
#[must_use]
pub fn scanned_logits(mesh: MeshKind, outputs: usize, divided: bool) -> (usize, bool) {
    let chips = mesh.chips();
    if outputs <= NARROW || !divided && chips > 1 {
        return (outputs, false);
    }
    let (_, share) = scan_cores(mesh.facts().grid, outputs.div_ceil(TILE * chips) as u32);
    let candidates = CANDIDATES.iter().product::<usize>() / WORDS;
    // Of each candidate both logits.
    (share as usize * TILE + 2 * candidates * chips, true)
}

impl TtTokenBuffer {
    pub(super) fn new(
        backend: &TtBackend,
        spec: TokenBufferSpec,
        table: &TtTable,
    ) -> Result<Self, BackendError> {
        const OPERATION: &str = "new_token_buffer";
        let TokenBufferSpec { tokens, ids, .. } = &spec;
        let (first, end) = (ids.start as usize, ids.end as usize);
        if *tokens == 0 || first >= end || end > table.vocabulary {
            let detail = format!("{tokens} tokens among ids {ids:?} of {}", table.vocabulary);
            return Err(shape_error(OPERATION, detail));
        }
        let failed = device(OPERATION);
        let mesh = &backend.mesh;
        let embedding =
            mesh.empty([1, 1, 1, table.columns], Format::Bf16, Layout::Tile).map_err(failed)?;
        let kernels = backend.custom_kernels()
            && (end - first).is_multiple_of(TILE)
            && !spec.centres.is_empty();
        let (argmax, words) = if kernels {
            (Argmax::kernels(backend, &spec).map_err(failed)?, WORDS)
        } else {
            let rows = match (first, end) {
                (0, end) if end == table.vocabulary => table.table.clone(),
                _ => table
                    .table
                    .slice([0, 0, first, 0], [1, 1, end, table.columns])
                    .map_err(failed)?,
            };
            (Argmax::Ttnn { rows }, 1)
        };
        let tokens =
            mesh.zeros([1, 1, *tokens, words], Format::U32, Layout::RowMajor).map_err(failed)?;
        Ok(Self { spec, embedding, tokens, argmax })
    }

    pub(super) fn argmax_append(
        &self,
        backend: &TtBackend,
        x: &TtTensor,
        head: &TtLinear,
        table: &TtTable,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "argmax_append";
        let failed = device(OPERATION);
        if x.rows != 1 {
            return Err(shape_error(OPERATION, format!("{} rows; one is needed", x.rows)));
        }
        if head.outputs() != self.spec.ids.len() {
            let detail =
                format!("a head of {} outputs for ids {:?}", head.outputs(), self.spec.ids);
            return Err(shape_error(OPERATION, detail));
        }
        let x = backend.without_padding_rows(x)?;
        let newest = match &self.argmax {
            Argmax::Kernels { .. } => self.pick_action(backend, &x, head, table)?,
            Argmax::Ttnn { rows } => {
                let logits = head.apply(backend, &x, Activation::Identity)?;
                let logits = backend.reshard(&logits, Sharding::Replicated)?;
                let index = logits.one(OPERATION)?.argmax(0..head.outputs()).map_err(failed)?;
                let row = rows.embedding(&index, Layout::Tile).map_err(failed)?;
                row.copy_to(&self.embedding).map_err(failed)?;
                index
            }
        };
        // Shifted by one, so that every token is written to the same address: a trace needs that.
        let [_, _, tokens, words] = self.tokens.dims();
        if tokens == 1 {
            return newest.copy_to(&self.tokens).map_err(failed);
        }
        let kept = self.tokens.slice([0, 0, 1, 0], [1, 1, tokens, words]).map_err(failed)?;
        let joined = Tensor::concat(&[&kept, &newest], 2).map_err(failed)?;
        joined.copy_to(&self.tokens).map_err(failed)
    }

    /// Logits and argmax by the custom kernels; returns the words of the token.
    fn pick_action(
        &self,
        backend: &TtBackend,
        x: &TtTensor,
        head: &TtLinear,
        table: &TtTable,
    ) -> Result<Tensor, BackendError> {
        const OPERATION: &str = "argmax_append";
        let failed = device(OPERATION);
        let Argmax::Kernels { logits, centres, result, scan } = &self.argmax else {
            return Err(shape_error(OPERATION, "the buffer was made for TT-NN's argmax".into()));
        };
        let computed;
        let logits = match head.narrow_weight() {
            // One core for each 32 ids, without a separate launch for a bias that the head lacks.
            Some((weight, compute)) => {
                let x = backend.reshard(x, Sharding::Replicated)?;
                narrow_matmul(&backend.mesh, x.one(OPERATION)?, weight, logits, compute)
                    .map_err(failed)?;
                logits
            }
            None => {
                let y = head.apply(backend, x, Activation::Identity)?;
                if let Some(scan) = scan.as_ref().filter(|scan| scan.sharding == y.sharding) {
                    let candidates = scan.candidates(backend, y.one(OPERATION)?).map_err(failed)?;
                    let pick = PickCandidate {
                        candidates: &candidates,
                        count: y.columns,
                        centres,
                        table: &table.table,
                        row: &self.embedding,
                        result,
                        first_id: self.spec.ids.start,
                        end_id: self.spec.end_id,
                    };
                    pick_candidate(&backend.mesh, pick).map_err(failed)?;
                    return Ok(result.clone());
                }
                computed = backend.reshard(&y, Sharding::Replicated)?;
                computed.one(OPERATION)?
            }
        };
        let pick = PickAction {
            logits,
            centres,
            table: &table.table,
            row: &self.embedding,
            result,
            first_id: self.spec.ids.start,
            end_id: self.spec.end_id,
        };
        pick_action(&backend.mesh, pick).map_err(failed)?;
        Ok(result.clone())
    }

    pub(super) fn set_last_token(
        &self,
        table: &TtTable,
        id: &TtTokenIds,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "set_last_token";
        if id.count != 1 || id.largest as usize >= table.vocabulary {
            let TtTokenIds { count, largest, .. } = id;
            let rows = table.vocabulary;
            let detail = format!("{count} ids up to {largest} for one of {rows}");
            return Err(shape_error(OPERATION, detail));
        }
        table
            .table
            .embedding(&id.ids, Layout::Tile)
            .and_then(|row| row.copy_to(&self.embedding))
            .map_err(device(OPERATION))
    }

    pub(super) fn last_embedding(&self, backend: &TtBackend) -> Result<TtTensor, BackendError> {
        let part = backend.to_stream_format(&self.embedding)?;
        let [_, _, rows, columns] = part.dims();
        Ok(TtTensor { parts: vec![part], sharding: Sharding::Replicated, rows, columns })
    }

    pub(super) fn read(&self) -> Result<Vec<GreedyToken>, BackendError> {
        const OPERATION: &str = "read_tokens";
        // Every chip computes the argmax of the same logits.
        let words = self.tokens.read_u32(0).map_err(device(OPERATION))?;
        if let Argmax::Ttnn { .. } = self.argmax {
            let token = |index: &u32| GreedyToken {
                id: self.spec.ids.start + index,
                centre: None,
                logit_margin: None,
            };
            return Ok(words.iter().map(token).collect());
        }
        let token = |words: &[u32]| match *words {
            // The seventh word counts logits that are NaN.
            [_, id, _, centre, largest, second, 0, _] => {
                let [centre, largest, second] = [centre, largest, second].map(f32::from_bits);
                if !largest.is_finite() {
                    return Err(BackendError::NotFinite { operation: OPERATION });
                }
                Ok(GreedyToken { id, centre: Some(centre), logit_margin: Some(largest - second) })
            }
            _ => Err(BackendError::NotFinite { operation: OPERATION }),
        };
        words.chunks_exact(WORDS).map(token).collect()
    }
}

impl Argmax {
    fn kernels(backend: &TtBackend, spec: &TokenBufferSpec) -> tt_metal::Result<Self> {
        let (mesh, centres) = (&backend.mesh, &spec.centres);
        let array = HostArray::f32(centres, [1, 1, 1, centres.len()]);
        let centres = mesh.upload(array, Distribution::Replicate, Format::F32, Layout::RowMajor)?;
        Ok(Self::Kernels {
            logits: mesh.empty([1, 1, 1, spec.ids.len()], Format::F32, Layout::Tile)?,
            centres,
            result: mesh.empty([1, 1, 1, WORDS], Format::U32, Layout::RowMajor)?,
            scan: (spec.ids.len() > NARROW)
                .then(|| Scan::new(backend, spec.ids.len()))
                .transpose()?,
        })
    }
}

impl Scan {
    fn new(backend: &TtBackend, count: usize) -> tt_metal::Result<Self> {
        let (mesh, sharding) = (&backend.mesh, backend.head_sharding(count));
        let shards = sharding.num_shards();
        let width = sharding.shard_width(count);
        let mut words = Vec::with_capacity(shards * 8);
        for shard in 0..shards {
            // A vocabulary fits 32 bits; columns behind it are padding.
            let first = shard * width;
            let own = count.saturating_sub(first).min(width);
            words.extend([first as u32, own as u32, 0, 0, 0, 0, 0, 0]);
        }
        let distribution =
            if shards == 1 { Distribution::Replicate } else { Distribution::Shard(1) };
        let array = HostArray::u32(&words, [1, shards, 1, 8]);
        Ok(Self {
            sharding,
            shard: mesh.upload(array, distribution, Format::U32, Layout::RowMajor)?,
            candidates: mesh.empty(CANDIDATES, Format::F32, Layout::Tile)?,
        })
    }

    /// Candidates of every chip, in the order of their logits.
    fn candidates(&self, backend: &TtBackend, logits: &Tensor) -> tt_metal::Result<Tensor> {
        let Self { sharding, shard, candidates } = self;
        scan_logits(&backend.mesh, ScanLogits { logits, shard, candidates })?;
        match sharding.num_shards() {
            1 => Ok(candidates.clone()),
            _ => candidates.all_gather(3),
        }
    }
}
