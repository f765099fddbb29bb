//! Sharded work gives the result of one chip.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
use common::*;
use tt_metal::{Compute, Distribution, Format, HostArray, Layout, LinearOptions};

#[test]
fn shards_gather_and_scatter() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let chips = mesh.chips();
        let data = gaussian(2 * 64 * 256, 1);
        for dim in 1..4 {
            let dims = [1, 8, 16, 256];
            let x = mesh
                .upload(
                    HostArray::f32(&data, dims),
                    Distribution::Shard(dim),
                    Format::F32,
                    Layout::Tile,
                )
                .unwrap();
            assert_eq!(x.dims()[dim], dims[dim] / chips);
            assert_eq!(x.gather_f32(dim).unwrap(), data);
            let whole = x.all_gather(dim).unwrap();
            assert_eq!(same_everywhere(&whole), data);
            let parts = whole.partition(dim).unwrap();
            assert_eq!(parts.gather_f32(dim).unwrap(), data);
        }
    }
}

#[test]
fn sums_agree_on_every_chip() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let chips = mesh.chips();
        for format in [Format::F32, Format::Bf16, Format::Bfp8B] {
            // 256 columns split evenly over the ring, 40 do not.
            for width in [256, 40] {
                let data = gaussian(chips * 16 * width, 2);
                let x = mesh
                    .upload(
                        HostArray::f32(&data, [chips, 1, 16, width]),
                        Distribution::Shard(0),
                        format,
                        Layout::Tile,
                    )
                    .unwrap();
                let held: Vec<Vec<f32>> =
                    (0..chips).map(|chip| x.read_f32(chip).unwrap()).collect();
                let exact: Vec<f64> = (0..16 * width)
                    .map(|i| held.iter().map(|part| f64::from(part[i])).sum())
                    .collect();
                let sum = same_everywhere(&x.all_reduce().unwrap());
                // One rounding for each hop.
                let bound = tolerance(format) * (chips as f64).sqrt();
                assert!(
                    distance(&sum, &exact) <= bound,
                    "{board} {format} {width}: {}",
                    distance(&sum, &exact)
                );
                if width == 256 {
                    let scattered = x.reduce_scatter(3).unwrap().all_gather(3).unwrap();
                    assert_eq!(same_everywhere(&scattered), sum, "{board} {format}");
                }
            }
        }
    }
}

/// Column-parallel products are bit-identical to the whole product; row-parallel ones differ by
/// rounding only.
#[test]
fn sharded_linear_layers_equal_the_whole() {
    let (rows, depth, columns) = (33, 256, 512);
    let (x, w) = (gaussian(rows * depth, 3), gaussian(depth * columns, 4));
    let options = LinearOptions { compute: Compute::HIFI2, ..LinearOptions::default() };
    let mut results = Vec::new();
    for &board in BOARDS {
        let mesh = mesh(board);
        let whole_x = mesh
            .upload(
                HostArray::f32(&x, [1, 1, rows, depth]),
                Distribution::Replicate,
                Format::Bf16,
                Layout::Tile,
            )
            .unwrap();
        let by_column = mesh
            .upload(
                HostArray::f32(&w, [1, 1, depth, columns]),
                Distribution::Shard(3),
                Format::Bfp8B,
                Layout::Tile,
            )
            .unwrap();
        let column_parallel =
            whole_x.linear(&by_column, None, options).unwrap().gather_f32(3).unwrap();
        let part_x = whole_x.partition(3).unwrap();
        let by_row = mesh
            .upload(
                HostArray::f32(&w, [1, 1, depth, columns]),
                Distribution::Shard(2),
                Format::Bfp8B,
                Layout::Tile,
            )
            .unwrap();
        let row_parallel =
            same_everywhere(&part_x.linear(&by_row, None, options).unwrap().all_reduce().unwrap());
        results.push((column_parallel, row_parallel));
    }
    let one_chip: Vec<f64> = results[0].0.iter().map(|value| f64::from(*value)).collect();
    for (column_parallel, row_parallel) in &results {
        assert_eq!(*column_parallel, results[0].0);
        assert!(distance(row_parallel, &one_chip) < 6e-3, "{}", distance(row_parallel, &one_chip));
    }
}

#[test]
fn a_packed_cache_uploads_to_the_same_bits() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let data = gaussian(96 * 512, 5);
        for format in FLOATS {
            for distribution in
                [Distribution::Replicate, Distribution::Shard(3), Distribution::Shard(2)]
            {
                let dims = [1, 1, 96, 512];
                let direct = mesh
                    .upload(HostArray::f32(&data, dims), distribution, format, Layout::Tile)
                    .unwrap();
                let packed = tt_metal::pack(
                    &provider(),
                    HostArray::f32(&data, dims),
                    distribution,
                    mesh.chips(),
                    format,
                )
                .unwrap();
                let tiles = if distribution == Distribution::Replicate {
                    48
                } else {
                    direct.dims()[2].div_ceil(32) * direct.dims()[3].div_ceil(32) * mesh.chips()
                };
                assert_eq!(packed.len(), tiles * format.tile_bytes());
                let cached = mesh
                    .upload(
                        HostArray::packed(&packed, dims, format),
                        distribution,
                        format,
                        Layout::Tile,
                    )
                    .unwrap();
                for chip in 0..mesh.chips() {
                    assert_eq!(cached.read_f32(chip).unwrap(), direct.read_f32(chip).unwrap());
                }
                let short = HostArray::packed(&packed[1..], dims, format);
                assert!(mesh.upload(short, distribution, format, Layout::Tile).is_err());
            }
        }
    }
}
