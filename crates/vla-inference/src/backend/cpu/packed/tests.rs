//! The tiles against each other, bit for bit, and against float64.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::tensor::DType;

/// Seeded values in -1..1 (splitmix64), `spread` powers of two apart.
fn values(seed: u64, count: usize, spread: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count)
        .map(|_| {
            let (unit, power) = (next() >> 40, next() % u64::from(spread + 1));
            (unit as f32 / (1u64 << 23) as f32 - 1.0) * 0.5f32.powi(power as i32)
        })
        .collect()
}

fn tensor(dtype: DType, shape: &[usize], values: &[f32]) -> HostTensor {
    let bytes: Vec<u8> = match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    HostTensor::from_bytes(dtype, shape, bytes.into()).unwrap()
}

fn product(packed: &Packed, x: &CpuTensor) -> Vec<f32> {
    let mut out = CpuTensor::unspecified(x.rows, packed.outputs);
    packed.multiply(x, &mut out, |_, _| {});
    out.values.to_vec()
}

/// Shapes that no register and no pass divides.
const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [1, 136, 96],
    [8, 515, 40],
    [9, 73, 33],
    [14, 1030, 65],
    [33, 269, 200],
    [61, 2051, 72],
];

fn rounded(value: f32) -> f64 {
    f64::from(half::bf16::from_f32(value).to_f32())
}

/// A format with float32 sums: the weights' stored type, and what becomes of an activation.
type Sums = (CpuFormat, DType, fn(f32) -> f64);

const FLOATS: [Sums; 4] = [
    (CpuFormat::Bf16, DType::Bf16, rounded),
    (CpuFormat::Bf16, DType::F32, rounded),
    (CpuFormat::F32, DType::Bf16, f64::from),
    (CpuFormat::F32, DType::F32, f64::from),
];

#[test]
fn products_are_exact_but_for_the_sums() {
    for ([rows, inputs, outputs], (format, stored, activation)) in
        SHAPES.into_iter().flat_map(|shape| FLOATS.map(|format| (shape, format)))
    {
        let (x, w) = (values(1, rows * inputs, 4), values(2, outputs * inputs, 4));
        let weights = [tensor(stored, &[outputs, inputs], &w)];
        let packed = Packed::new(format, &weights, inputs, outputs).unwrap();
        let got = product(&packed, &CpuTensor::new(rows, inputs, x.clone()));
        let weight = match (format, stored) {
            (CpuFormat::F32, DType::F32) => f64::from,
            _ => rounded,
        };
        for (index, got) in got.iter().enumerate() {
            let (x, w) = (&x[index / outputs * inputs..], &w[index % outputs * inputs..]);
            let terms = x[..inputs].iter().zip(w).map(|(x, w)| activation(*x) * weight(*w));
            let (sum, size) =
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            // Each addition rounds by at most 2^-24 of what was added so far.
            let bound = size * inputs as f64 * 2f64.powi(-24);
            let at = format!("{format:?} {stored} {rows}x{inputs}x{outputs} {index}");
            assert!((f64::from(*got) - sum).abs() <= bound, "{at}: {got} {sum}");
        }
    }
}

#[test]
fn int8_sums_are_exact() {
    for [rows, inputs, outputs] in SHAPES {
        let (x, w) = (values(3, rows * inputs, 4), values(4, outputs * inputs, 4));
        let weights = [tensor(DType::F32, &[outputs, inputs], &w)];
        let packed = Packed::new(CpuFormat::Int8, &weights, inputs, outputs).unwrap();
        let got = product(&packed, &CpuTensor::new(rows, inputs, x.clone()));
        let quantised = |values: &[f32]| {
            let largest = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            let whole = |v: &f32| f64::from((v * (127.0 / largest)).round_ties_even());
            (f64::from(largest) / 127.0, values.iter().map(whole).collect::<Vec<f64>>())
        };
        let x: Vec<_> = x.chunks_exact(inputs).map(quantised).collect();
        let w: Vec<_> = w.chunks_exact(inputs).map(quantised).collect();
        for (index, got) in got.iter().enumerate() {
            let ((unit_x, x), (unit_w, w)) = (&x[index / outputs], &w[index % outputs]);
            let sum: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            let want = sum * unit_x * unit_w;
            let error = (f64::from(*got) - want).abs();
            // The sum as float32, the product of both factors, and their product.
            assert!(error <= want.abs() * 4e-7, "{rows}x{inputs}x{outputs} {index}: {got} {want}");
        }
    }
}

#[test]
fn every_tile_gives_the_same_bits() {
    for [rows, inputs, outputs] in SHAPES {
        let x = CpuTensor::new(rows, inputs, values(5, rows * inputs, 6));
        let w = tensor(DType::Bf16, &[outputs, inputs], &values(6, outputs * inputs, 6));
        for format in [Format::Floats, Format::WidenedBf16, Format::Bf16, Format::Int8] {
            let shape = [inputs, outputs];
            let weights = [w.clone()];
            let portable = store::pack(format, &weights, shape, Features::NONE).unwrap();
            let native = store::pack(format, &weights, shape, Features::of_processor()).unwrap();
            let want = bits(&product(&portable, &x));
            assert_eq!(bits(&product(&native, &x)), want, "{format:?} {rows}x{inputs}x{outputs}");
            let tiles: &[Tile] = match format {
                Format::Floats => &[Tile::Floats],
                Format::WidenedBf16 => &[Tile::Floats, Tile::Widening],
                Format::Bf16 => &[Tile::Floats, Tile::Widening, Tile::Pairs],
                Format::Int8 => &[Tile::Bytes],
            };
            for packed in [&portable, &native] {
                for tile in tiles {
                    if *tile == Tile::Pairs && !packed.features.has(*tile) {
                        continue;
                    }
                    let mut out = CpuTensor::unspecified(rows, outputs);
                    packed.multiply_with(*tile, &x, &mut out, |_, _| {});
                    assert_eq!(bits(&out.values), want, "{tile:?} {rows}x{inputs}x{outputs}");
                }
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (inputs, outputs) = (300, 70);
    let x = values(8, 40 * inputs, 3);
    for (format, stored) in [
        (CpuFormat::F32, DType::F32),
        (CpuFormat::F32, DType::Bf16),
        (CpuFormat::Bf16, DType::Bf16),
        (CpuFormat::Int8, DType::Bf16),
    ] {
        let weights = [tensor(stored, &[outputs, inputs], &values(7, outputs * inputs, 3))];
        let packed = Packed::new(format, &weights, inputs, outputs).unwrap();
        let all = product(&packed, &CpuTensor::new(40, inputs, x.clone()));
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            let alone = product(&packed, &CpuTensor::new(1, inputs, x.to_vec()));
            let together = &all[row * outputs..(row + 1) * outputs];
            assert_eq!(bits(&alone), bits(together), "{format:?}");
        }
    }
}

#[test]
fn what_is_not_finite_reaches_the_outputs() {
    let (inputs, outputs) = (70, 40);
    for format in [CpuFormat::F32, CpuFormat::Bf16, CpuFormat::Int8] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut w = values(9, outputs * inputs, 0);
            let mut x = values(10, 2 * inputs, 0);
            x[inputs + 3] = bad;
            let load = |w: &[f32]| {
                let weights = [tensor(DType::F32, &[outputs, inputs], w)];
                Packed::new(format, &weights, inputs, outputs).unwrap()
            };
            let out = product(&load(&w), &CpuTensor::new(2, inputs, x.clone()));
            assert!(out[..outputs].iter().all(|value| value.is_finite()));
            assert!(out[outputs..].iter().all(|value| !value.is_finite()), "{format:?} {bad}");
            w[5 * inputs] = bad;
            let out = product(&load(&w), &CpuTensor::new(1, inputs, x[..inputs].to_vec()));
            assert!(!out[5].is_finite() && out[4].is_finite(), "{format:?} {bad}");
        }
    }
}

#[test]
fn impossible_weights_are_refused() {
    let wide = 70_000;
    let weights = [tensor(DType::F32, &[1, wide], &vec![0.0; wide])];
    let error = Packed::new(CpuFormat::Int8, &weights, wide, 1).err().unwrap().to_string();
    assert!(error.contains("70000 inputs") && error.contains("use bf16"), "{error}");
    assert!(Packed::new(CpuFormat::Bf16, &weights, wide, 1).is_ok());
    let empty = [tensor(DType::F32, &[0, 4], &[])];
    assert!(Packed::new(CpuFormat::Bf16, &empty, 4, 0).is_err());
}

#[test]
fn blocks_and_groups_cover_everything() {
    for rows in 1..200 {
        let blocks = row_blocks(rows);
        assert_eq!(blocks.iter().map(|block| block.rows).sum::<usize>(), rows);
        assert!(blocks.iter().all(|block| (1..=MAX_ROWS).contains(&block.rows)));
        assert!(blocks.windows(2).all(|pair| pair[0].start + pair[0].rows == pair[1].start));
    }
    // 36 panels on two workers: nine groups of four would leave one worker without work.
    assert_eq!((group_size(36, 2), group_size(32, 2), group_size(8, 2)), (3, 4, 4));
}
