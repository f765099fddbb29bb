//! L1 of a core that TT-NN's matmul and attention take for their circular buffers, with the program
//! configurations of the shim (`crates/tt-metal-sys/shim/operations.cpp`): what does not fit is
//! refused there when the program is compiled.

use tt_metal_sys::boards::BoardFacts;

use super::Op;
use crate::error::{Result, ensure};
use crate::format::{Format, Spec, TILE};

/// Below the circular buffers: firmware, kernels and mailboxes, and TT-NN's region of small
/// buffers (`DEFAULT_L1_SMALL_SIZE`).
const RESERVED: u64 = 102_400 + 32_768;
/// What the shim fills with a matmul's operands and result before it takes smaller blocks.
const MATMUL_BYTES: u64 = 1200 * 1024;
/// What it fills with the result alone before it computes it in several goes.
const RESULT_BYTES: u64 = 700 * 1024;
/// Bytes of a tile of the result: in bf16, and as a float32 sum.
const RESULT_TILE: u64 = 2048 + 4096;

fn tiles(elements: usize) -> u64 {
    elements.div_ceil(TILE) as u64
}

fn largest_divisor(value: u64, limit: u64) -> u64 {
    (1..=value.min(limit)).rev().find(|candidate| value.is_multiple_of(*candidate)).unwrap_or(1)
}

/// Refuses an operation whose circular buffers exceed the L1 of a core.
pub fn check(op: &Op, inputs: &[Spec], board: &BoardFacts) -> Result<()> {
    let bytes = match *op {
        Op::Linear { bias, format, .. } => linear(inputs, bias, format, board.grid),
        Op::Attention { mask, .. } => attention(inputs, mask),
        _ => return Ok(()),
    };
    let room = board.chip.l1_bytes - RESERVED;
    ensure!(
        bytes <= room,
        "{} of {}: its circular buffers need {bytes} B of L1 on a core, which has {room}; take \
        fewer rows or columns at once",
        op.name(),
        inputs.iter().map(Spec::to_string).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// A row of blocks for up to 16 rows of tiles, else a grid; operands buffered twice, result and sum
/// once (`matmul_multicore_reuse_mcast_1d_program_factory.cpp` and its 2D sibling).
fn linear(inputs: &[Spec], bias: bool, format: Format, (columns, rows): (u32, u32)) -> u64 {
    let (x, w) = (inputs[0], inputs[1]);
    let (columns, rows) = (u64::from(columns), u64::from(rows));
    let m = (x.dims[0] * x.dims[1]) as u64 * tiles(x.dims[2]);
    let (k, n) = (tiles(x.dims[3]), tiles(w.dims[3]));
    let one_row = m <= 16;
    let m = if one_row { m } else { m.div_ceil(rows) };
    let part = n.div_ceil(if one_row { columns * rows } else { columns });
    let mut n = part;
    while !one_row && n > 1 && m * n * RESULT_TILE > RESULT_BYTES {
        n = largest_divisor(part, n - 1);
    }
    let mut block = largest_divisor(k, 8);
    while block > 1 && m * n * RESULT_TILE + 2 * 2048 * block * (m + n) > MATMUL_BYTES {
        block = largest_divisor(k, block - 1);
    }
    let tile = |format: Format| format.tile_bytes() as u64;
    let operands = 2 * block * (m * tile(x.format) + n * tile(w.format));
    // The bias shares no buffer; the sum is float32 whatever the result's format.
    let biases = if bias { n * tile(Format::Bf16) } else { 0 };
    operands + m * n * (tile(format) + tile(Format::F32)) + biases
}

/// Rows of a chunk, as the shim chooses them: 64, or with a mask what divides the rows.
pub fn chunk(rows: usize, mask: bool) -> usize {
    match mask && !rows.is_multiple_of(2 * TILE) {
        true => TILE,
        false => rows.next_multiple_of(TILE).min(2 * TILE),
    }
}

/// Chunks of queries once or twice, of keys, values and mask twice, scores and sums in bf16
/// (`sdpa_program_factory.cpp`).
fn attention(inputs: &[Spec], mask: bool) -> u64 {
    let (q, k) = (inputs[0], inputs[1]);
    let rows = tiles(chunk(q.dims[2], mask));
    let keys = tiles(chunk(k.dims[2], mask));
    let width = tiles(q.dims[3]);
    let tile = |spec: &Spec| spec.format.tile_bytes() as u64;
    let bf16 = Format::Bf16.tile_bytes() as u64;
    let masks = inputs.get(3).map_or(0, |mask| 2 * rows * keys * tile(mask));
    2 * rows * width * tile(&q)
        + 2 * keys * width * (tile(&k) + tile(&inputs[2]))
        + masks
        + bf16 * (rows * keys + 3 * rows * width + 5 * rows + 3)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::format::Layout;
    use crate::op::{Activation, Compute, Fidelity};
    use tt_metal_sys::boards::BOARDS;

    fn spec(dims: [usize; 4], format: Format) -> Spec {
        Spec::new(dims, format, Layout::Tile).unwrap()
    }

    const COMPUTE: Compute = Compute { fidelity: Fidelity::HiFi4, fp32_dest: true };

    fn product(rows: usize, [inputs, outputs]: [usize; 2], weights: Format) -> (Op, [Spec; 2]) {
        let op = Op::Linear {
            bias: false,
            activation: Activation::None,
            compute: COMPUTE,
            format: Format::Bf16,
        };
        let x = spec([1, 1, rows, inputs], Format::Bf16);
        (op, [x, spec([1, 1, inputs, outputs], weights)])
    }

    /// Every product and attention of the published models, on every board.
    #[test]
    fn published_models_fit() {
        // Inputs and outputs on one chip of 1, 2, 4 and 8.
        let llama = |chips: usize| {
            [[4096, 12_288 / chips], [4096 / chips, 4096], [4096, 11_264], [11_264, 4096]]
        };
        let towers = [[608, 1024], [1024, 4096], [4096, 1024], [1152, 4608], [4320, 1152]];
        let projector = [[2176, 8704], [8704, 4096], [4096, 4096]];
        let gemma = [[2048, 2560], [2048, 16_384], [16_384, 2048], [1024, 4096], [4096, 1024]];
        for board in &BOARDS {
            let llama = llama(board.chips as usize);
            for shape in llama.iter().chain(&towers).chain(&projector).chain(&gemma) {
                for rows in [1, 7, 32, 64, 256, 288, 320, 544, 608, 1088] {
                    for weights in [Format::Bf16, Format::Bfp8B] {
                        let (op, specs) = product(rows, *shape, weights);
                        check(&op, &specs, board).unwrap();
                    }
                }
            }
            for (rows, keys, width) in [(320, 320, 128), (261, 261, 64), (64, 704, 256)] {
                let masked = keys != rows;
                let op = Op::Attention { mask: masked, causal: false, scale: 0, compute: COMPUTE };
                let [q, k] = [rows, keys].map(|rows| spec([1, 8, rows, width], Format::Bf16));
                let mask = spec([1, 1, rows, keys], Format::Bf16);
                let inputs = if masked { vec![q, k, k, mask] } else { vec![q, k, k] };
                check(&op, &inputs, board).unwrap();
            }
        }
    }

    #[test]
    fn what_exceeds_a_core_is_refused() {
        let (op, specs) = product(1 << 17, [4096, 65_536], Format::Bf16);
        let error = check(&op, &specs, &BOARDS[0]).unwrap_err();
        assert!(error.text.contains("B of L1 on a core, which has 1363968"), "{}", error.text);
        let wide = spec([1, 1, 64, 4096], Format::Bf16);
        let op = Op::Attention { mask: false, causal: false, scale: 0, compute: COMPUTE };
        let error = check(&op, &[wide; 3], &BOARDS[0]).unwrap_err();
        assert!(error.text.starts_with("attention of [1, 1, 64, 4096]"), "{}", error.text);
    }

    #[test]
    fn a_product_takes_what_its_buffers_are() {
        // 288 rows on 8x8 cores: 9 rows of tiles, one row of blocks; 128 columns of tiles over 64
        // cores, blocks of 8.
        let (_, specs) = product(288, [4096, 4096], Format::Bfp8B);
        let bytes = linear(&specs, false, Format::Bf16, (8, 8));
        assert_eq!(bytes, 2 * 8 * (9 * 2048 + 2 * 1088) + 9 * 2 * (2048 + 4096));
    }
}
