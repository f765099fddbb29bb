//! Selection of a token on the mesh: argmax, its bin, and the next embedding.

use super::{kernel, rectangle, require};
use crate::{CircularBuffer, CoreRange, Format, Layout, Mesh, Program, Result, Role, Tensor};

/// Shape of the candidates of one chip: 128 places of 8 words in one F32 tile.
pub const CANDIDATES: [usize; 4] = [1, 1, 32, 32];
/// Places for candidates in a tile.
const PLACES: usize = 128;

/// Inputs and outputs of [`pick_action`].
#[derive(Debug, Clone, Copy)]
pub struct PickAction<'a> {
    /// F32 tiles `[1, 1, 1, N]`: logits of the action ids, lowest id first.
    pub logits: &'a Tensor,
    /// F32 `[1, 1, 1, bins]` row-major: bin centres.
    pub centres: &'a Tensor,
    /// BF16 `[1, 1, vocabulary, width]` row-major: token embeddings.
    pub table: &'a Tensor,
    /// BF16 tiles `[1, 1, 1, width]`: the selected token's embedding (output).
    pub row: &'a Tensor,
    /// U32 `[1, 1, 1, 8]` row-major: index, token id, bin, centre, largest and second
    /// largest logit (float32 bits), number of NaN logits, zero (output).
    pub result: &'a Tensor,
    /// Token id of the first logit: 31744.
    pub first_id: u32,
    /// One past the last token id of the original vocabulary: 32000. The id below it is bin 0; ids
    /// from it on stand for no action.
    pub end_id: u32,
}

/// Argmax of the action logits, its bin and the next embedding row, on every chip. The host must
/// refuse a result whose NaN count is not zero.
pub fn pick_action(mesh: &Mesh, pick: PickAction<'_>) -> Result<()> {
    let tensors = [pick.logits, pick.centres, pick.table, pick.row, pick.result];
    mesh.run_program(&tensors, &pick_action_program(pick)?)
}

/// The program of [`pick_action`].
pub fn pick_action_program(pick: PickAction<'_>) -> Result<Program> {
    let [a, b, c, count] = pick.logits.dims();
    require([a, b, c] == [1; 3] && count % 32 == 0 && float_tiles(pick.logits), || {
        format!("pick_action: logits must be F32 [1, 1, 1, 32 n] in tiles, not {:?}", pick.logits)
    })?;
    let token = Token {
        kernel: "pick_action",
        values: pick.logits,
        count,
        centres: pick.centres,
        table: pick.table,
        row: pick.row,
        result: pick.result,
        ids: [pick.first_id, pick.end_id],
    };
    token.program((count / 32) as u32, 4 * count)
}

/// Inputs and outputs of [`scan_logits`].
#[derive(Debug, Clone, Copy)]
pub struct ScanLogits<'a> {
    /// F32 tiles `[1, 1, 1, 32 n]`: the chip's logits and their padding.
    pub logits: &'a Tensor,
    /// U32 `[1, 1, 1, 8]` row-major, different on every chip: index of its first logit, number of
    /// its logits.
    pub shard: &'a Tensor,
    /// F32 tiles [`CANDIDATES`]: the two largest logits of each core (output).
    pub candidates: &'a Tensor,
}

/// Columns and rows of cores that [`scan_logits`] runs on, and the largest share of `tiles` tiles
/// of one of them: as many rows as there are places for the cores' candidates, and tiles.
#[must_use]
pub fn scan_cores((columns, rows): (u32, u32), tiles: u32) -> ((u32, u32), u32) {
    let columns = columns.clamp(1, PLACES as u32);
    let rows = rows.min(PLACES as u32 / columns).min(tiles.div_ceil(columns)).max(1);
    ((columns, rows), tiles.div_ceil(columns * rows))
}

/// The two largest logits of each core's share of a chip's logits, for [`pick_candidate`].
pub fn scan_logits(mesh: &Mesh, scan: ScanLogits<'_>) -> Result<()> {
    let tensors = [scan.logits, scan.shard, scan.candidates];
    mesh.run_program(&tensors, &scan_logits_program(mesh, scan)?)
}

/// The program of [`scan_logits`].
pub fn scan_logits_program(mesh: &Mesh, scan: ScanLogits<'_>) -> Result<Program> {
    let ScanLogits { logits, shard, candidates } = scan;
    let [a, b, c, count] = logits.dims();
    require([a, b, c] == [1; 3] && count % 32 == 0 && float_tiles(logits), || {
        format!("scan_logits: logits must be F32 [1, 1, 1, 32 n] in tiles, not {logits:?}")
    })?;
    require(is(shard, [1, 1, 1, 8], Format::U32, Layout::RowMajor), || {
        format!("scan_logits: shard must be U32 [1, 1, 1, 8] row-major, not {shard:?}")
    })?;
    require(is(candidates, CANDIDATES, Format::F32, Layout::Tile), || {
        format!("scan_logits: candidates must be F32 {CANDIDATES:?} in tiles, not {candidates:?}")
    })?;
    let tiles = (count / 32) as u32;
    let (size, share) = scan_cores(mesh.info().grid, tiles);
    let cores = size.0 * size.1;
    let addresses = [logits.address()?, shard.address()?, candidates.address()?];
    let runtime = |core: u32| {
        let first = (core * share).min(tiles);
        let own = [first, share.min(tiles - first), core, cores];
        addresses.iter().copied().chain(own).collect()
    };
    let on = rectangle(size);
    Ok(Program {
        kernels: vec![kernel(
            "dataflow/scan_logits.cpp",
            Role::Reader,
            size,
            Vec::new(),
            vec![0, 1, 2],
            (0..cores).map(runtime).collect(),
        )?],
        buffers: vec![
            page(0, Format::F32, 128 * share as usize, on),
            page(1, Format::U32, 32, on),
            page(2, Format::U32, 64, on),
        ],
        semaphores: Vec::new(),
    })
}

/// Inputs and outputs of [`pick_candidate`]: those of [`PickAction`] with candidates for logits.
#[derive(Debug, Clone, Copy)]
pub struct PickCandidate<'a> {
    /// F32 tiles `[1, 1, 32, 32 chips]`: the candidates of every chip.
    pub candidates: &'a Tensor,
    /// Number of logits of all chips.
    pub count: usize,
    /// As in [`PickAction`].
    pub centres: &'a Tensor,
    /// As in [`PickAction`].
    pub table: &'a Tensor,
    /// As in [`PickAction`].
    pub row: &'a Tensor,
    /// As in [`PickAction`].
    pub result: &'a Tensor,
    /// Token id of the first logit.
    pub first_id: u32,
    /// As in [`PickAction`].
    pub end_id: u32,
}

/// [`pick_action`] over the candidates that [`scan_logits`] found on every chip.
pub fn pick_candidate(mesh: &Mesh, pick: PickCandidate<'_>) -> Result<()> {
    let tensors = [pick.candidates, pick.centres, pick.table, pick.row, pick.result];
    mesh.run_program(&tensors, &pick_candidate_program(pick)?)
}

/// The program of [`pick_candidate`].
pub fn pick_candidate_program(pick: PickCandidate<'_>) -> Result<Program> {
    let [a, b, rows, columns] = pick.candidates.dims();
    let chips = columns / 32;
    require(
        [a, b, rows] == CANDIDATES[..3] && columns % 32 == 0 && float_tiles(pick.candidates),
        || {
            format!(
                "pick_candidate: candidates must be F32 [1, 1, 32, 32 chips] in tiles, not {:?}",
                pick.candidates
            )
        },
    )?;
    let token = Token {
        kernel: "pick_candidate",
        values: pick.candidates,
        count: pick.count,
        centres: pick.centres,
        table: pick.table,
        row: pick.row,
        result: pick.result,
        ids: [pick.first_id, pick.end_id],
    };
    token.program(chips as u32, 4096 * chips)
}

/// What both kernels that select a token have in common.
struct Token<'a> {
    kernel: &'static str,
    /// Logits or candidates.
    values: &'a Tensor,
    /// Logits of all chips.
    count: usize,
    centres: &'a Tensor,
    table: &'a Tensor,
    row: &'a Tensor,
    result: &'a Tensor,
    /// Of the first logit; end of the vocabulary.
    ids: [u32; 2],
}

impl Token<'_> {
    /// A program on one core that reads `tiles` tiles, of which it keeps `bytes`.
    fn program(self, tiles: u32, bytes: usize) -> Result<Program> {
        let Self { kernel: name, values, count, centres, table, row, result, ids } = self;
        let ([.., bins], [.., vocabulary, width]) = (centres.dims(), table.dims());
        require(is(centres, [1, 1, 1, bins], Format::F32, Layout::RowMajor), || {
            format!("{name}: centres must be F32 [1, 1, 1, bins] row-major, not {centres:?}")
        })?;
        require(
            is(table, [1, 1, vocabulary, width], Format::Bf16, Layout::RowMajor) && width % 32 == 0,
            || format!("{name}: table must be BF16 [1, 1, V, 32 n] row-major, not {table:?}"),
        )?;
        require(is(row, [1, 1, 1, width], Format::Bf16, Layout::Tile), || {
            format!("{name}: row must be BF16 [1, 1, 1, {width}] in tiles, not {row:?}")
        })?;
        require(is(result, [1, 1, 1, 8], Format::U32, Layout::RowMajor), || {
            format!("{name}: result must be U32 [1, 1, 1, 8] row-major, not {result:?}")
        })?;
        let [first_id, end_id] = ids;
        let last = u64::from(first_id) + count as u64;
        require(last <= vocabulary as u64, || {
            format!("{name}: {count} logits from id {first_id} leave the {vocabulary} embeddings")
        })?;
        let one = (1, 1);
        let cores = rectangle(one);
        let addresses = [values, centres, table, row, result]
            .iter()
            .map(|tensor| tensor.address())
            .collect::<Result<Vec<u32>>>()?;
        let compile = vec![tiles, bins as u32, first_id, end_id, width as u32];
        Ok(Program {
            kernels: vec![kernel(
                &format!("dataflow/{name}.cpp"),
                Role::Reader,
                one,
                compile,
                vec![0, 1, 2, 3, 4],
                vec![addresses],
            )?],
            buffers: vec![
                page(0, Format::F32, bytes, cores),
                page(1, Format::F32, 4 * bins, cores),
                page(2, Format::Bf16, 2 * width, cores),
                page(3, Format::U32, 32, cores),
            ],
            semaphores: Vec::new(),
        })
    }
}

fn is(tensor: &Tensor, dims: [usize; 4], format: Format, layout: Layout) -> bool {
    tensor.dims() == dims && tensor.format() == format && tensor.spec().layout == layout
}

fn float_tiles(tensor: &Tensor) -> bool {
    tensor.format() == Format::F32 && tensor.spec().layout == Layout::Tile
}

/// A circular buffer of one page.
fn page(index: u32, format: Format, bytes: usize, cores: CoreRange) -> CircularBuffer {
    let page_bytes = bytes.next_multiple_of(32).max(32) as u32;
    CircularBuffer { index, format, page_bytes, pages: 1, cores }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tile belongs to a core of the grid, and every core has a place for its candidate.
    #[test]
    fn cores_share_every_tile() {
        for grid in [(1, 1), (8, 7), (8, 8), (11, 10), (13, 10), (130, 2)] {
            for tiles in [1, 2, 7, 8, 63, 64, 65, 126, 251, 501, 1002] {
                let ((columns, rows), share) = scan_cores(grid, tiles);
                assert!(columns <= grid.0 && rows <= grid.1, "{grid:?} {tiles}");
                assert!(columns * rows <= PLACES as u32, "{grid:?} {tiles}");
                assert!(columns * rows * share >= tiles, "{grid:?} {tiles}");
                // Not a tile more than an even distribution over these cores needs.
                assert!(columns * rows * (share - 1) < tiles, "{grid:?} {tiles}");
            }
        }
    }
}
