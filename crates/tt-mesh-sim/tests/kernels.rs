//! The Tensix kernels, run on emulated cores: against a reference in Rust on random data, and each
//! fault caught.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
use common::*;
use tt_metal::kernels::{
    CANDIDATES, PickAction, PickCandidate, ScanLogits, image_patches, image_patches_on,
    image_patches_program, narrow_matmul, narrow_matmul_program, pick_action, pick_action_program,
    pick_candidate, pick_candidate_program, scan_logits, scan_logits_program,
};
use tt_metal::{
    Board, Compute, Distribution, Error, Fidelity, Format, HostArray, Kind, Layout, LinearOptions,
    Mesh, Program, Tensor,
};

include!("../faults.rs");

fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    gaussian(count, seed).into_iter().map(|x| (x.to_bits() >> 7) as u8).collect()
}

fn image(mesh: &Mesh, side: usize, bytes: &[u8]) -> Tensor {
    mesh.upload(
        HostArray::u8(bytes, [1, 1, side, 3 * side]),
        Distribution::Replicate,
        Format::U8,
        Layout::RowMajor,
    )
    .unwrap()
}

/// The patch matrix, from its definition.
fn patches(bytes: &[u8], side: usize, patch: usize) -> Vec<f32> {
    let across = side / patch;
    let mut out = Vec::new();
    for at in 0..across * across {
        for channel in 0..3 {
            for y in 0..patch {
                for x in 0..patch {
                    let (row, column) = (at / across * patch + y, at % across * patch + x);
                    out.push(f32::from(bytes[(row * side + column) * 3 + channel]) - 128.0);
                }
            }
        }
    }
    out
}

#[test]
fn image_patches_are_exact() {
    for &board in BOARDS {
        let mesh = mesh(board);
        // The camera's size, and sizes with ragged edges: 9 and 64 patches, 75 and 147 columns.
        for (side, patch) in [(224, 14), (15, 5), (56, 7)] {
            let bytes = random_bytes(3 * side * side, side as u64);
            let count = (side / patch) * (side / patch);
            let out =
                mesh.empty([1, 1, count, 3 * patch * patch], Format::Bf16, Layout::Tile).unwrap();
            image_patches(&mesh, &image(&mesh, side, &bytes), &out, patch).unwrap();
            assert_eq!(
                same_everywhere(&out),
                patches(&bytes, side, patch),
                "{board} {side}/{patch}"
            );
        }
    }
}

/// Tensix dispatch leaves 8x7 cores on an N300's chip: rows of tiles go round the rows of cores.
#[test]
fn image_patches_fit_any_grid() {
    for board in [Board::N150, Board::P150] {
        let mesh = mesh(board);
        for (grid, side, patch) in [((8, 7), 224, 14), ((3, 3), 224, 14), ((1, 1), 56, 7)] {
            let bytes = random_bytes(3 * side * side, side as u64);
            let count = (side / patch) * (side / patch);
            let dims = [1, 1, count, 3 * patch * patch];
            let out = mesh.empty(dims, Format::Bf16, Layout::Tile).unwrap();
            let image = image(&mesh, side, &bytes);
            let program = image_patches_on(&mesh, grid, &image, &out, patch).unwrap();
            let last = program.kernels[0].cores.last;
            assert!(last.0 < grid.0 && last.1 < grid.1, "{last:?}");
            mesh.run_program(&[&image, &out], &program).unwrap();
            assert_eq!(out.read_f32(0).unwrap(), patches(&bytes, side, patch), "{board} {grid:?}");
        }
    }
}

/// Rows of an image 672 bytes apart in L1 are right on Wormhole and not on Blackhole, whose reads
/// from DRAM need 64-byte remainders.
#[test]
fn rows_are_placed_for_the_chips_alignment() {
    for (board, right) in [(Board::N150, true), (Board::P150, false)] {
        let mesh = mesh(board);
        let bytes = random_bytes(3 * 224 * 224, 1);
        let image = image(&mesh, 224, &bytes);
        let matrix = mesh.empty([1, 1, 256, 588], Format::Bf16, Layout::Tile).unwrap();
        let mut program = image_patches_program(&mesh, &image, &matrix, 14).unwrap();
        assert_eq!(program.kernels[0].compile_args[2], if right { 672 } else { 704 });
        program.kernels[0].compile_args[2] = 672;
        program.buffers[0].page_bytes = 672;
        let result = mesh.run_program(&[&image, &matrix], &program);
        if right {
            result.unwrap();
        } else {
            refused(result, Kind::Device, "they must agree modulo 64");
        }
    }
}

#[test]
fn every_byte_becomes_its_number() {
    let mesh = mesh(Board::N150);
    let bytes: Vec<u8> = (0..3 * 16 * 16).map(|i| i as u8).collect();
    let out = mesh.empty([1, 1, 1, 768], Format::Bf16, Layout::Tile).unwrap();
    image_patches(&mesh, &image(&mesh, 16, &bytes), &out, 16).unwrap();
    let mut found: Vec<i32> = out.read_f32(0).unwrap().into_iter().map(|x| x as i32).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, (-128..128).collect::<Vec<i32>>());
}

/// Normalisation folded into the weights of one matmul for both towers equals normalising first.
#[test]
fn normalisation_folds_into_the_patch_matmul() {
    let mesh = mesh(Board::N150);
    let (side, patch, columns) = (28, 14, 64);
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let bytes = random_bytes(3 * side * side, 3);
    let weights = gaussian(588 * columns, 4);
    let channel = |k: usize| k / (patch * patch);
    let folded: Vec<f32> = weights
        .iter()
        .enumerate()
        .map(|(at, w)| w / (255.0 * std[channel(at / columns)]))
        .collect();
    let bias: Vec<f32> = (0..columns)
        .map(|c| {
            (0..588)
                .map(|k| {
                    weights[k * columns + c] * (128.0 / 255.0 - mean[channel(k)]) / std[channel(k)]
                })
                .sum()
        })
        .collect();
    let matrix = mesh.empty([1, 1, 4, 588], Format::Bf16, Layout::Tile).unwrap();
    image_patches(&mesh, &image(&mesh, side, &bytes), &matrix, patch).unwrap();
    let (w, b) = (
        upload(&mesh, &folded, [1, 1, 588, columns], Format::Bf16),
        upload(&mesh, &bias, [1, 1, 1, columns], Format::F32),
    );
    let y = matrix.linear(&w, Some(&b), LinearOptions::default()).unwrap();
    let reference: Vec<f64> = (0..4 * columns)
        .map(|at| {
            (0..588)
                .map(|k| {
                    let pixel =
                        f64::from(patches(&bytes, side, patch)[at / columns * 588 + k]) + 128.0;
                    f64::from(weights[k * columns + at % columns])
                        * (pixel / 255.0 - f64::from(mean[channel(k)]))
                        / f64::from(std[channel(k)])
                })
                .sum()
        })
        .collect();
    let distance = distance(&y.read_f32(0).unwrap(), &reference);
    assert!(distance < 5e-3, "{distance}");
}

#[test]
fn narrow_matmul_equals_linear_bit_for_bit() {
    for &board in BOARDS {
        let mesh = mesh(board);
        for (depth, columns, format) in
            [(128, 256, Format::Bf16), (96, 32, Format::Bfp8B), (512, 320, Format::F32)]
        {
            for (fidelity, fp32_dest) in [
                (Fidelity::HiFi4, true),
                (Fidelity::HiFi2, true),
                (Fidelity::LoFi, true),
                (Fidelity::HiFi3, true),
                (Fidelity::HiFi4, false),
            ] {
                let compute = Compute { fidelity, fp32_dest, approximate: false };
                let (x, w) = (
                    random(&mesh, [1, 1, 3, depth], Format::Bf16, 5),
                    random(&mesh, [1, 1, depth, columns], format, 6),
                );
                let out = mesh.empty([1, 1, 3, columns], Format::F32, Layout::Tile).unwrap();
                narrow_matmul(&mesh, &x, &w, &out, compute).unwrap();
                let reference = x
                    .linear(
                        &w,
                        None,
                        LinearOptions { compute, format: Format::F32, ..Default::default() },
                    )
                    .unwrap();
                // HiFi3 joins its passes in another order: rounding of float32 sums only.
                let (found, expected) = (same_everywhere(&out), reference.read_f32(0).unwrap());
                assert_eq!(
                    found, expected,
                    "{board} {depth}x{columns} {format} {fidelity} {fp32_dest}"
                );
            }
        }
    }
}

/// The trace has other addresses than the run before its capture: addresses are runtime
/// arguments, and compile nothing.
#[test]
fn trace_uses_its_own_addresses() {
    let mesh = mesh(Board::N300);
    let w = random(&mesh, [1, 1, 128, 256], Format::Bf16, 6);
    let multiply = |x: &Tensor, out: &Tensor| narrow_matmul(&mesh, x, &w, out, Compute::default());
    let empty = || mesh.empty([1, 1, 1, 256], Format::F32, Layout::Tile).unwrap();
    let (x, out) = (random(&mesh, [1, 1, 1, 128], Format::Bf16, 5), empty());
    multiply(&x, &out).unwrap();
    let (other_x, other_out) = (random(&mesh, [1, 1, 1, 128], Format::Bf16, 7), empty());
    assert!(
        x.address().unwrap() != other_x.address().unwrap()
            && out.address().unwrap() != other_out.address().unwrap()
    );
    let (trace, ()) = mesh.capture(|| multiply(&other_x, &other_out)).unwrap();
    trace.execute(true).unwrap();
    let captured = same_everywhere(&other_out);
    multiply(&other_x, &out).unwrap();
    assert_eq!(captured, same_everywhere(&out));
    // What is compiled in still counts: another depth is another program.
    let (short, narrow) = (
        random(&mesh, [1, 1, 1, 64], Format::Bf16, 5),
        random(&mesh, [1, 1, 64, 256], Format::Bf16, 6),
    );
    let refused = mesh
        .capture(|| narrow_matmul(&mesh, &short, &narrow, &other_out, Compute::default()))
        .map(drop);
    assert!(refused.unwrap_err().to_string().contains("was not compiled before the capture"));
}

struct Head {
    logits: Tensor,
    centres: Tensor,
    table: Tensor,
    row: Tensor,
    result: Tensor,
}

impl Head {
    fn new(mesh: &Mesh, logits: &[f32], seed: u64) -> Self {
        let row_major = |data: &[f32], dims, format| {
            mesh.upload(
                HostArray::f32(data, dims),
                Distribution::Replicate,
                format,
                Layout::RowMajor,
            )
            .unwrap()
        };
        let edges = |i: usize| -1.0 + 2.0 * i as f32 / 255.0;
        let rows = logits.len() + 144;
        let centres: Vec<f32> = (0..255).map(|i| (edges(i) + edges(i + 1)) / 2.0).collect();
        Self {
            logits: upload(mesh, logits, [1, 1, 1, logits.len()], Format::F32),
            centres: row_major(&centres, [1, 1, 1, 255], Format::F32),
            table: row_major(&gaussian(rows * 96, seed), [1, 1, rows, 96], Format::Bf16),
            row: mesh.empty([1, 1, 1, 96], Format::Bf16, Layout::Tile).unwrap(),
            result: mesh.empty([1, 1, 1, 8], Format::U32, Layout::RowMajor).unwrap(),
        }
    }

    /// Ids from 100 on of a vocabulary that ends with the last logit, with some embeddings more.
    fn pick(&self) -> PickAction<'_> {
        let [.., count] = self.logits.dims();
        PickAction {
            logits: &self.logits,
            centres: &self.centres,
            table: &self.table,
            row: &self.row,
            result: &self.result,
            first_id: 100,
            end_id: 100 + count as u32,
        }
    }

    fn check(&self, logits: &[f32]) {
        // The lowest index wins ties, also between the zeros.
        let best = (0..logits.len())
            .reduce(|best, i| if logits[i] > logits[best] { i } else { best })
            .unwrap();
        let second = (0..logits.len())
            .filter(|i| *i != best)
            .reduce(|best, i| if logits[i] > logits[best] { i } else { best })
            .unwrap();
        let bin = (logits.len() - best - 1).min(254);
        let result = self.result.read_u32(0).unwrap();
        assert_eq!(result[..3], [best as u32, 100 + best as u32, bin as u32]);
        assert_eq!(f32::from_bits(result[3]), self.centres.read_f32(0).unwrap()[bin]);
        assert_eq!(
            (f32::from_bits(result[4]), f32::from_bits(result[5])),
            (logits[best], logits[second])
        );
        assert_eq!(result[6..], [0, 0]);
        let id = 100 + best;
        assert_eq!(
            same_everywhere(&self.row),
            self.table.read_f32(0).unwrap()[id * 96..(id + 1) * 96]
        );
    }
}

#[test]
fn pick_action_gives_bin_and_embedding() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let mut cases: Vec<Vec<f32>> = (0..5).map(|seed| gaussian(256, 10 + seed)).collect();
        cases.push(vec![-1.0; 256]);
        cases.push((0..256).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }).collect());
        for edge in [0, 1, 31, 32, 127, 254, 255] {
            let mut one = vec![f32::NEG_INFINITY; 256];
            (one[edge], one[(edge + 7) % 256]) = (-3.5, -4.0);
            cases.push(one);
        }
        for logits in cases {
            let head = Head::new(&mesh, &logits, 20);
            pick_action(&mesh, head.pick()).unwrap();
            head.check(&logits);
        }
        // NaN is counted, so that the host can refuse.
        let mut logits = gaussian(256, 9);
        (logits[3], logits[200]) = (f32::NAN, -f32::NAN);
        let head = Head::new(&mesh, &logits, 20);
        pick_action(&mesh, head.pick()).unwrap();
        assert_eq!(head.result.read_u32(0).unwrap()[6], 2);
    }
}

/// Logits that lie over the chips in shards of whole tiles, and what is found among them.
struct Divided {
    head: Head,
    logits: Tensor,
    shard: Tensor,
    candidates: Tensor,
}

impl Divided {
    fn new(mesh: &Mesh, logits: &[f32], seed: u64) -> Self {
        let chips = mesh.chips();
        let width = logits.len().div_ceil(chips).next_multiple_of(32);
        let mut padded = logits.to_vec();
        padded.resize(chips * width, 0.0);
        let words: Vec<u32> = (0..chips)
            .flat_map(|chip| {
                let own = logits.len().saturating_sub(chip * width).min(width);
                [(chip * width) as u32, own as u32, 0, 0, 0, 0, 0, 0]
            })
            .collect();
        let over = |dim| match chips {
            1 => Distribution::Replicate,
            _ => Distribution::Shard(dim),
        };
        let array = HostArray::f32(&padded, [1, 1, 1, chips * width]);
        let shard = HostArray::u32(&words, [1, chips, 1, 8]);
        Self {
            head: Head::new(mesh, logits, seed),
            logits: mesh.upload(array, over(3), Format::F32, Layout::Tile).unwrap(),
            shard: mesh.upload(shard, over(1), Format::U32, Layout::RowMajor).unwrap(),
            candidates: mesh.empty(CANDIDATES, Format::F32, Layout::Tile).unwrap(),
        }
    }

    fn scan(&self) -> ScanLogits<'_> {
        let Self { logits, shard, candidates, .. } = self;
        ScanLogits { logits, shard, candidates }
    }

    /// Candidates of every chip.
    fn gathered(&self, mesh: &Mesh) -> Tensor {
        match mesh.chips() {
            1 => self.candidates.clone(),
            _ => self.candidates.all_gather(3).unwrap(),
        }
    }

    fn pick<'a>(&'a self, candidates: &'a Tensor) -> PickCandidate<'a> {
        let PickAction { logits, centres, table, row, result, first_id, end_id } = self.head.pick();
        let [.., count] = logits.dims();
        PickCandidate { candidates, count, centres, table, row, result, first_id, end_id }
    }
}

/// Of logits over all chips the same token, bin, values and embedding as of the same logits on one.
#[test]
fn candidates_of_every_chip_give_the_token_of_all_logits() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let mut cases: Vec<Vec<f32>> =
            [300, 1088, 4008].into_iter().map(|count| gaussian(count, count as u64)).collect();
        // Negative ones: zeros of the padding are not among them. On eight chips the last one has
        // none at all.
        cases.push(gaussian(1000, 3).into_iter().map(|logit| -1.0 - logit.abs()).collect());
        cases.push(vec![-1.0; 1088]);
        cases.push(vec![f32::NEG_INFINITY; 520]);
        cases.push((0..1088).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }).collect());
        // The largest of several shares and chips; the second largest beside the first and far.
        for places in [[31, 32], [0, 1087], [543, 544], [136, 1000], [1086, 1087]] {
            let mut ties = gaussian(1088, 11);
            places.iter().for_each(|&at| ties[at] = 40.0);
            cases.push(ties.clone());
            ties[places[0]] = 41.0;
            cases.push(ties);
        }
        for logits in cases {
            let divided = Divided::new(&mesh, &logits, 20);
            scan_logits(&mesh, divided.scan()).unwrap();
            pick_candidate(&mesh, divided.pick(&divided.gathered(&mesh))).unwrap();
            divided.head.check(&logits);
        }
        let mut logits = gaussian(1088, 9);
        (logits[3], logits[200], logits[1087]) = (f32::NAN, -f32::NAN, f32::NAN);
        let divided = Divided::new(&mesh, &logits, 20);
        scan_logits(&mesh, divided.scan()).unwrap();
        pick_candidate(&mesh, divided.pick(&divided.gathered(&mesh))).unwrap();
        assert_eq!(divided.head.result.read_u32(0).unwrap()[6], 3);
    }
}

#[test]
fn kernels_execute_in_a_trace() {
    let mesh = mesh(Board::N300);
    let head = Head::new(&mesh, &gaussian(256, 30), 31);
    pick_action(&mesh, head.pick()).unwrap();
    let (trace, ()) = mesh.capture(|| pick_action(&mesh, head.pick())).unwrap();
    for seed in 40..43 {
        let logits = gaussian(256, seed);
        head.logits
            .write(HostArray::f32(&logits, [1, 1, 1, 256]), Distribution::Replicate)
            .unwrap();
        trace.execute(true).unwrap();
        head.check(&logits);
    }
}

#[track_caller]
fn refused(result: Result<(), Error>, kind: Kind, words: &str) {
    let error = result.expect_err(words);
    assert_eq!(error.kind(), Some(kind), "{error}");
    assert!(error.to_string().contains(words) && !error.to_string().contains('\n'), "{error}");
}

/// Puts a fault into the kernel of that name, as build.rs did when it compiled it.
fn broken(mut program: Program, name: &str, from: &str, to: &str) -> Program {
    let kernel = program.kernels.iter_mut().find(|kernel| kernel.name == name).unwrap();
    assert!(kernel.source.contains(from));
    kernel.source = kernel.source.replacen(from, to, 1);
    program
}

/// Logits over two chips, among which each fault of their kernels makes a difference. All but the
/// last are negative: zeros of padding and of empty places would win.
fn logits_that_show_faults() -> Vec<Vec<f32>> {
    let negative = |largest: &[(usize, f32)]| {
        let mut logits: Vec<f32> = gaussian(400, 4).into_iter().map(|x| -2.0 - x.abs()).collect();
        largest.iter().for_each(|&(at, logit)| logits[at] = logit);
        logits
    };
    vec![
        // Equal ones of one core, on the second chip.
        negative(&[(333, -1.0), (350, -1.0), (7, -1.5)]),
        // Equal ones of several cores and chips.
        negative(&[(100, -1.0), (180, -1.0), (390, -1.0)]),
        // The second largest before the largest.
        negative(&[(40, -1.25), (41, -1.0)]),
        (0..400).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }).collect(),
    ]
}

/// Whether a fault in one of the two kernels leaves the token of these logits as it must be.
fn broken_over_chips(
    mesh: &Mesh,
    (name, from, to): (&str, &str, &str),
    logits: &[f32],
) -> Result<bool, Error> {
    let divided = Divided::new(mesh, logits, 3);
    let in_scan = name.contains("scan_logits");
    let mut scan = scan_logits_program(mesh, divided.scan())?;
    if in_scan {
        scan = broken(scan, name, from, to);
    }
    mesh.run_program(&[&divided.logits, &divided.shard, &divided.candidates], &scan)?;
    let found = divided.candidates.all_gather(3)?;
    let mut pick = pick_candidate_program(divided.pick(&found))?;
    if !in_scan {
        pick = broken(pick, name, from, to);
    }
    let Head { centres, table, row, result, .. } = &divided.head;
    mesh.run_program(&[&found, centres, table, row, result], &pick)?;
    let check = std::panic::AssertUnwindSafe(|| divided.head.check(logits));
    Ok(std::panic::catch_unwind(check).is_ok())
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "broken kernels are compiled into debug builds only")]
fn every_fault_is_caught() {
    let (two, mesh) = (mesh(Board::N300), mesh(Board::N150));
    let cases = logits_that_show_faults();
    let none = ("dataflow/scan_logits.cpp", "kernel_main", "kernel_main");
    assert!(cases.iter().all(|logits| matches!(broken_over_chips(&two, none, logits), Ok(true))));
    for &(name, from, to, words) in FAULTS {
        if name.contains("scan_logits") || name.contains("pick_candidate") {
            let mut results =
                cases.iter().map(|logits| broken_over_chips(&two, (name, from, to), logits));
            if words.is_empty() {
                let caught = results.any(|result| !matches!(result, Ok(true)));
                assert!(caught, "{name}: \"{to}\" for \"{from}\" was not caught");
            } else {
                refused(results.next().unwrap().map(drop), Kind::Device, words);
            }
            continue;
        }
        let bytes = random_bytes(3 * 224 * 224, 1);
        let logits = gaussian(256, 2);
        let (x, w) = (
            random(&mesh, [1, 1, 1, 1024], Format::Bf16, 5),
            random(&mesh, [1, 1, 1024, 64], Format::Bf16, 6),
        );
        let (image, head) = (image(&mesh, 224, &bytes), Head::new(&mesh, &logits, 3));
        let matrix = mesh.empty([1, 1, 256, 588], Format::Bf16, Layout::Tile).unwrap();
        let product = mesh.empty([1, 1, 1, 64], Format::F32, Layout::Tile).unwrap();
        let (program, tensors): (Program, Vec<&Tensor>) = match name {
            "dataflow/image_patches.cpp" | "dataflow/write_tiles.cpp" => {
                (image_patches_program(&mesh, &image, &matrix, 14).unwrap(), vec![&image, &matrix])
            }
            "dataflow/read_columns.cpp" | "compute/column_matmul.cpp" => (
                narrow_matmul_program(&mesh, &x, &w, &product, Compute::default()).unwrap(),
                vec![&x, &w, &product],
            ),
            _ => (
                pick_action_program(head.pick()).unwrap(),
                vec![&head.logits, &head.centres, &head.table, &head.row, &head.result],
            ),
        };
        let result = mesh.run_program(&tensors, &broken(program, name, from, to));
        if words.is_empty() {
            // Legal moves to the wrong place: a refusal, an output with holes, or a wrong result.
            let right = result.is_ok()
                && match name {
                    "dataflow/write_tiles.cpp" => {
                        matrix.read_f32(0).is_ok_and(|found| found == patches(&bytes, 224, 14))
                    }
                    "dataflow/read_columns.cpp" => product.read_f32(0).is_ok_and(|found| {
                        found
                            == x.linear(
                                &w,
                                None,
                                LinearOptions { format: Format::F32, ..Default::default() },
                            )
                            .unwrap()
                            .read_f32(0)
                            .unwrap()
                    }),
                    _ => std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        head.check(&logits)
                    }))
                    .is_ok(),
                };
            assert!(!right, "{name}: \"{to}\" for \"{from}\" was not caught");
        } else {
            refused(result, Kind::Device, words);
        }
    }
}

#[test]
fn programs_are_bounded_before_they_run() {
    let mesh = mesh(Board::N150);
    let bytes = random_bytes(3 * 28 * 28, 1);
    let image = image(&mesh, 28, &bytes);
    let out = mesh.empty([1, 1, 4, 588], Format::Bf16, Layout::Tile).unwrap();
    let program = image_patches_program(&mesh, &image, &out, 14).unwrap();
    let changed = |change: &dyn Fn(&mut Program)| {
        let mut program = program.clone();
        change(&mut program);
        mesh.run_program(&[&image, &out], &program)
    };
    refused(
        changed(&|p| p.kernels[0].source.push(' ')),
        Kind::Unsupported,
        "was not compiled with this library",
    );
    refused(changed(&|p| p.buffers[0].pages = 100_000), Kind::Device, "of L1, a core has 1499136");
    refused(
        changed(&|p| p.buffers[1].page_bytes = u32::MAX),
        Kind::Device,
        "of L1, a core has 1499136",
    );
    refused(changed(&|p| p.buffers.truncate(1)), Kind::Device, "circular buffer 16 does not exist");
    refused(
        changed(&|p| p.kernels[0].compile_args.truncate(1)),
        Kind::Device,
        "compile-time argument",
    );
    refused(
        changed(&|p| p.kernels[0].runtime_args.iter_mut().for_each(|args| args.truncate(2))),
        Kind::Device,
        "has no runtime argument",
    );
    refused(
        changed(&|p| p.kernels[0].accessors = vec![7]),
        Kind::InvalidArgument,
        "names none of the 2 tensors",
    );
    refused(
        changed(&|p| p.kernels[1].runtime_args[0][0] ^= 1 << 20),
        Kind::Device,
        "is in none of the program's tensors",
    );
    let far = |p: &mut Program| {
        p.kernels[0].cores = tt_metal::CoreRange { first: (9, 9), last: (9, 9) };
        p.kernels[0].runtime_args.truncate(1);
    };
    refused(changed(&far), Kind::InvalidArgument, "are not on the chip's 8 by 8");
    refused(out.read_f32(0).map(drop), Kind::Unwritten, "nothing has written");
    // The program is still good.
    changed(&|_| {}).unwrap();
    assert_eq!(out.read_f32(0).unwrap(), patches(&bytes, 28, 14));
}
