//! Every operation against float64, per format, on every board. References start from what the
//! device holds after rounding the inputs, so that only the operation itself is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
use common::*;
use tt_metal::{
    Activation, Combine, Compute, Distribution, Fidelity, Format, HostArray, Layout, LinearOptions,
    RopeOrder, Tensor,
};

fn erf_gelu(x: f64) -> f64 {
    // 1 + erf by numerical integration: another path than the implementation's.
    let (steps, mut sum) = (2000, 0.0);
    let top = x / std::f64::consts::SQRT_2;
    for i in 0..steps {
        let t = top * (i as f64 + 0.5) / steps as f64;
        sum += (-t * t).exp();
    }
    0.5 * x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * sum * top / steps as f64)
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn matmul(x: &[f64], w: &[f64], depth: usize, columns: usize) -> Vec<f64> {
    let rows = x.len() / depth;
    let mut out = vec![0.0; rows * columns];
    for r in 0..rows {
        for k in 0..depth {
            for c in 0..columns {
                out[r * columns + c] += x[r * depth + k] * w[k * columns + c];
            }
        }
    }
    out
}

#[track_caller]
fn close(what: &str, tensor: &Tensor, reference: &[f64], bound: f64) {
    let distance = distance(&same_everywhere(tensor), reference);
    assert!(distance <= bound, "{what}: {distance:.2e} exceeds {bound:.2e} ({tensor:?})");
}

#[test]
fn linear_in_every_format() {
    for &board in BOARDS {
        let mesh = mesh(board);
        // Ragged on purpose: 45 rows, 70 deep, 50 columns.
        for x_format in [Format::F32, Format::Bf16, Format::Bfp8B] {
            for w_format in FLOATS {
                let (x, w) = (
                    random(&mesh, [1, 2, 45, 70], x_format, 1),
                    random(&mesh, [1, 1, 70, 50], w_format, 2),
                );
                let bias = random(&mesh, [1, 1, 1, 50], Format::Bf16, 3);
                let mut reference = matmul(&held(&x), &held(&w), 70, 50);
                for (i, value) in reference.iter_mut().enumerate() {
                    *value = erf_gelu(*value + held(&bias)[i % 50]);
                }
                for format in FLOATS {
                    let options = LinearOptions {
                        activation: Activation::Gelu,
                        format,
                        compute: Compute::default(),
                    };
                    let y = x.linear(&w, Some(&bias), options).unwrap();
                    // float32 operands lose all but 10 mantissa bits on their way to the
                    // multiplier.
                    let operands =
                        if x_format == Format::F32 || w_format == Format::F32 { 2e-3 } else { 0.0 };
                    close("linear", &y, &reference, tolerance(format) + operands);
                }
            }
        }
    }
}

/// Error of one matmul by fidelity, weights and destination, K = 4096: the table of the hardware
/// notes.
#[test]
fn matmul_errors_are_those_of_the_hardware() {
    let mesh = mesh(tt_metal::Board::N150);
    let x = gaussian(32 * 4096, 5);
    let w = gaussian(4096 * 64, 6);
    let exact_x = upload(&mesh, &x, [1, 1, 32, 4096], Format::Bf16);
    use Fidelity::{HiFi2, HiFi3, HiFi4, LoFi};
    // Weights, fidelity, float32 destination, percent. Weight rounding counts, as in the table.
    let rows = [
        (Format::Bf16, LoFi, true, 2.64),
        (Format::Bf16, LoFi, false, 3.2),
        (Format::Bf16, HiFi2, true, 0.41),
        (Format::Bf16, HiFi2, false, 2.50),
        (Format::Bf16, HiFi3, true, 0.010),
        (Format::Bf16, HiFi4, true, 0.0),
        (Format::Bf16, HiFi4, false, 2.50),
        (Format::Bfp8B, LoFi, true, 2.03),
        (Format::Bfp8B, HiFi2, true, 0.87),
        (Format::Bfp8B, HiFi4, true, 0.76),
        (Format::Bfp8B, HiFi4, false, 2.42),
        (Format::Bfp4B, LoFi, true, 11.8),
        (Format::Bfp4B, HiFi4, false, 12.0),
    ];
    let w_bf16 = upload(&mesh, &w, [1, 1, 4096, 64], Format::Bf16);
    let reference = matmul(&held(&exact_x), &held(&w_bf16), 4096, 64);
    for (format, fidelity, fp32_dest, percent) in rows {
        let weights = upload(&mesh, &w_bf16.read_f32(0).unwrap(), [1, 1, 4096, 64], format);
        let compute = Compute { fidelity, fp32_dest, approximate: false };
        let y = exact_x
            .linear(
                &weights,
                None,
                LinearOptions { compute, format: Format::F32, ..Default::default() },
            )
            .unwrap();
        let found = 100.0 * distance(&y.read_f32(0).unwrap(), &reference);
        assert!(
            (found - percent).abs() <= 0.12 * percent + 2e-4,
            "{format} {fidelity} fp32_dest={fp32_dest}: {found:.3} %, the table says {percent} %"
        );
    }
}

#[test]
fn norms_in_every_format() {
    for &board in BOARDS {
        let mesh = mesh(board);
        for format in FLOATS {
            let x = random(&mesh, [1, 1, 37, 72], format, 7);
            let (weight, bias) = (
                random(&mesh, [1, 1, 1, 72], Format::Bf16, 8),
                random(&mesh, [1, 1, 1, 72], Format::Bf16, 9),
            );
            let (xs, ws, bs) = (held(&x), held(&weight), held(&bias));
            let (mut layer, mut rms) = (Vec::new(), Vec::new());
            for row in xs.chunks(72) {
                let mean = row.iter().sum::<f64>() / 72.0;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 72.0;
                let square = row.iter().map(|x| x * x).sum::<f64>() / 72.0;
                layer.extend(
                    (0..72).map(|i| (row[i] - mean) / (variance + 1e-6).sqrt() * ws[i] + bs[i]),
                );
                rms.extend((0..72).map(|i| row[i] / (square + 1e-5).sqrt() * ws[i]));
            }
            let y = x.layer_norm(&weight, Some(&bias), 1e-6, Compute::default()).unwrap();
            close("layer_norm", &y, &layer, tolerance(format));
            close(
                "rms_norm",
                &x.rms_norm(&weight, 1e-5, Compute::default()).unwrap(),
                &rms,
                tolerance(format),
            );
            // A bf16 destination rounds every step.
            let coarse = x
                .rms_norm(&weight, 1e-5, Compute { fp32_dest: false, ..Compute::default() })
                .unwrap();
            close("rms_norm, bf16 destination", &coarse, &rms, tolerance(format) + 1e-2);
        }
    }
}

#[test]
fn rope_in_both_orders() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let (heads, rows, dim) = (3, 40, 64);
        let x = random(&mesh, [1, heads, rows, dim], Format::Bf16, 10);
        let xs = held(&x);
        for order in [RopeOrder::Half, RopeOrder::Pairs] {
            let pair = |i: usize| if order == RopeOrder::Half { i % (dim / 2) } else { i / 2 };
            let angle = |row: usize, i: usize| {
                row as f64 / 10000f64.powf(2.0 * pair(i) as f64 / dim as f64)
            };
            let table = |f: fn(f64) -> f64| {
                let data: Vec<f32> =
                    (0..rows * dim).map(|at| f(angle(at / dim, at % dim)) as f32).collect();
                upload(&mesh, &data, [1, 1, rows, dim], Format::Bf16)
            };
            let (cosine, sine) = (table(f64::cos), table(f64::sin));
            let (cs, ss) = (held(&cosine), held(&sine));
            let reference: Vec<f64> = (0..xs.len())
                .map(|at| {
                    let (i, start) = (at % dim, at - at % dim);
                    let turned = match order {
                        RopeOrder::Half if i < dim / 2 => -xs[start + i + dim / 2],
                        RopeOrder::Half => xs[start + i - dim / 2],
                        RopeOrder::Pairs if i % 2 == 0 => -xs[at + 1],
                        RopeOrder::Pairs => xs[at - 1],
                    };
                    let table = at / dim % rows * dim + i;
                    xs[at] * cs[table] + turned * ss[table]
                })
                .collect();
            close(
                "rope",
                &x.rope(&cosine, &sine, order, Compute::default()).unwrap(),
                &reference,
                2.0 * tolerance(Format::Bf16),
            );
        }
    }
}

/// softmax(scale q k^T + mask) v in double precision; `seen(row, key)` is whether a row attends
/// to a key.
fn attend(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    [heads, groups, rows, keys, dim]: [usize; 5],
    scale: f64,
    seen: impl Fn(usize, usize) -> bool,
) -> Vec<f64> {
    let mut out = Vec::new();
    for head in 0..heads {
        let group = head / (heads / groups);
        for row in 0..rows {
            let query = &q[(head * rows + row) * dim..][..dim];
            let scores: Vec<f64> = (0..keys)
                .map(|key| {
                    if seen(row, key) {
                        scale
                            * query
                                .iter()
                                .zip(&k[(group * keys + key) * dim..])
                                .map(|(a, b)| a * b)
                                .sum::<f64>()
                    } else {
                        f64::NEG_INFINITY
                    }
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..dim).map(|i| {
                (0..keys)
                    .map(|key| weights[key] / sum * v[(group * keys + key) * dim + i])
                    .sum::<f64>()
            }));
        }
    }
    out
}

#[test]
fn attention_full_causal_masked_and_decode() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let shape @ [heads, groups, rows, keys, dim] = [4, 2, 50, 50, 32];
        let scale = 1.0 / (dim as f64).sqrt();
        for format in [Format::Bf16, Format::Bfp8B] {
            let q = random(&mesh, [1, heads, rows, dim], format, 11);
            let (k, v) = (
                random(&mesh, [1, groups, keys, dim], format, 12),
                random(&mesh, [1, groups, keys, dim], format, 13),
            );
            let (qs, ks, vs) = (held(&q), held(&k), held(&v));
            // Scores and probabilities are bf16: a relative 2^-9 of scores up to about 4 is the
            // larger part.
            let bound = 6e-3 + tolerance(format);
            let compute = Compute::default();
            close(
                "attention",
                &q.attention(&k, &v, None, false, scale as f32, compute).unwrap(),
                &attend(&qs, &ks, &vs, shape, scale, |_, _| true),
                bound,
            );
            close(
                "causal",
                &q.attention(&k, &v, None, true, scale as f32, compute).unwrap(),
                &attend(&qs, &ks, &vs, shape, scale, |row, key| key <= row),
                bound,
            );
            // A mask needs whole chunks of rows and keys.
            let seen = |row: usize, key: usize| !(row + 2 * key).is_multiple_of(3) || key == 0;
            let (rows, past) = (64, 96);
            let mask: Vec<f32> = (0..rows * past)
                .map(|at| if seen(at / past, at % past) { 0.0 } else { -1e9 })
                .collect();
            let mask = upload(&mesh, &mask, [1, 1, rows, past], Format::Bf16);
            let q = random(&mesh, [1, heads, rows, dim], format, 21);
            let [k96, v96] = [22, 23].map(|at| random(&mesh, [1, groups, past, dim], format, at));
            let shape = [heads, groups, rows, past, dim];
            close(
                "masked",
                &q.attention(&k96, &v96, Some(&mask), false, scale as f32, compute).unwrap(),
                &attend(&held(&q), &held(&k96), &held(&v96), shape, scale, seen),
                bound,
            );

            let one = random(&mesh, [1, heads, 1, dim], format, 14);
            let position = mesh
                .upload(
                    HostArray::i32(&[30], [1; 4]),
                    Distribution::Replicate,
                    Format::I32,
                    Layout::RowMajor,
                )
                .unwrap();
            let reference =
                attend(&held(&one), &ks, &vs, [heads, groups, 1, keys, dim], scale, |_, key| {
                    key <= 30
                });
            close(
                "decode",
                &one.attention_decode(&k, &v, &position, scale as f32, compute).unwrap(),
                &reference,
                bound,
            );
        }
    }
}

/// The operations with heads as rows give, bit for bit, what the others give of the same row.
#[test]
fn heads_as_rows_equal_heads_as_planes() {
    for &board in BOARDS {
        let mesh = mesh(board);
        for (format, q_heads, kv_heads) in
            [(Format::Bf16, 4, 2), (Format::Bfp8B, 1, 1), (Format::Bfp8B, 32, 8)]
        {
            let (dim, rows, compute) = (64, 40, Compute::default());
            let width = (q_heads + 2 * kv_heads) * dim;
            let qkv = random(&mesh, [1, 1, 1, width], Format::Bf16, 41);
            let line = random(&mesh, [1, 1, 1, dim], Format::Bf16, 42);
            let table = Tensor::concat(&[&line; 32], 2).unwrap();
            let caches = [43, 44].map(|seed| random(&mesh, [1, kv_heads, rows, dim], format, seed));
            let pair = caches.each_ref().map(|cache| {
                let copy = mesh.zeros(cache.dims(), format, Layout::Tile).unwrap();
                cache.copy_to(&copy).unwrap();
                copy
            });
            let at = HostArray::i32(&[37], [1; 4]);
            let position =
                mesh.upload(at, Distribution::Replicate, Format::I32, Layout::RowMajor).unwrap();
            let turn = |x: &Tensor, table: &Tensor| {
                x.rope(table, table, RopeOrder::Half, compute).unwrap()
            };

            let [q, k, v] = qkv.split_heads(q_heads, kv_heads).unwrap();
            let (q, k) = (turn(&q, &line), turn(&k, &line));
            caches[0].cache_update(&k, &position).unwrap();
            caches[1].cache_update(&v, &position).unwrap();
            let planes = q.attention_decode(&caches[0], &caches[1], &position, 0.1, compute);

            let [q, k, v] = qkv.split_heads_decode(q_heads, kv_heads).unwrap();
            assert_eq!((q.dims(), v.dims()), ([1, 1, q_heads, dim], [1, 1, kv_heads, dim]));
            let (q, k) = (turn(&q, &table), turn(&k, &table));
            Tensor::update_pair([&pair[0], &pair[1]], [&k, &v], &position).unwrap();
            let as_rows = q.attention_decode(&pair[0], &pair[1], &position, 0.1, compute).unwrap();

            let planes = planes.unwrap();
            assert_eq!(as_rows.dims(), planes.dims());
            assert_eq!(same_everywhere(&as_rows), same_everywhere(&planes));
            for (a, b) in caches.iter().zip(&pair) {
                assert_eq!(same_everywhere(a), same_everywhere(b));
            }
        }
    }
}

#[test]
fn heads_come_apart_and_together() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let (q_heads, kv_heads, rows, dim) = (4, 2, 35, 32);
        let x = random(&mesh, [1, 1, rows, (q_heads + 2 * kv_heads) * dim], Format::Bf16, 15);
        let xs = x.read_f32(0).unwrap();
        let [q, k, v] = x.split_heads(q_heads, kv_heads).unwrap();
        for (part, first, count) in
            [(&q, 0, q_heads), (&k, q_heads, kv_heads), (&v, q_heads + kv_heads, kv_heads)]
        {
            let values = same_everywhere(part);
            assert_eq!(part.dims(), [1, count, rows, dim]);
            for (at, value) in values.iter().enumerate() {
                let (head, row, i) = (at / (rows * dim), at / dim % rows, at % dim);
                assert_eq!(*value, xs[row * 256 + (first + head) * dim + i]);
            }
        }
        let joined = q.concat_heads().unwrap();
        let expected = x.slice([0; 4], [1, 1, rows, q_heads * dim]).unwrap();
        assert_eq!(same_everywhere(&joined), same_everywhere(&expected));
    }
}

#[test]
fn elementwise_in_every_format() {
    for &board in BOARDS {
        let mesh = mesh(board);
        for format in FLOATS {
            let (a, b) = (
                random(&mesh, [1, 2, 33, 40], format, 16),
                random(&mesh, [1, 2, 33, 40], format, 17),
            );
            let row = random(&mesh, [1, 1, 1, 40], format, 18);
            let column = random(&mesh, [1, 1, 33, 1], Format::Bf16, 19);
            let (xs, ys, rs, cs) = (held(&a), held(&b), held(&row), held(&column));
            let map = |f: &dyn Fn(usize) -> f64| (0..xs.len()).map(f).collect::<Vec<f64>>();
            let bound = tolerance(format);
            close("add", &a.add(&b).unwrap(), &map(&|i| xs[i] + ys[i]), bound);
            close(
                "sub",
                &a.combine(&b, Combine::Sub, Activation::None, format).unwrap(),
                &map(&|i| xs[i] - ys[i]),
                bound,
            );
            close("mul", &a.mul(&b).unwrap(), &map(&|i| xs[i] * ys[i]), bound);
            close("silu_mul", &a.silu_mul(&b).unwrap(), &map(&|i| silu(xs[i]) * ys[i]), bound);
            close("row", &a.mul(&row).unwrap(), &map(&|i| xs[i] * rs[i % 40]), bound);
            close("column", &a.add(&column).unwrap(), &map(&|i| xs[i] + cs[i / 40 % 33]), bound);
            close(
                "gelu",
                &a.activate(Activation::Gelu).unwrap(),
                &map(&|i| erf_gelu(xs[i])),
                bound,
            );
            close("silu", &a.activate(Activation::Silu).unwrap(), &map(&|i| silu(xs[i])), bound);
            close("relu", &a.activate(Activation::Relu).unwrap(), &map(&|i| xs[i].max(0.0)), bound);
            let tanh = |x: f64| {
                0.5 * x
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            };
            close(
                "gelu_tanh",
                &a.activate(Activation::GeluTanh).unwrap(),
                &map(&|i| tanh(xs[i])),
                bound,
            );
        }
    }
}

#[test]
fn movement_keeps_every_element() {
    for &board in BOARDS {
        let mesh = mesh(board);
        for format in [Format::F32, Format::Bf16] {
            let a = random(&mesh, [1, 3, 20, 48], format, 20);
            let xs = a.read_f32(0).unwrap();
            let at = |i: usize, j: usize, k: usize| xs[(i * 20 + j) * 48 + k];
            let part = a.slice([0, 1, 5, 7], [1, 3, 19, 41]).unwrap();
            assert_eq!(part.dims(), [1, 2, 14, 34]);
            assert_eq!(same_everywhere(&part)[(14 + 3) * 34 + 2], at(2, 8, 9));
            let back = Tensor::concat(
                &[
                    &a.slice([0; 4], [1, 3, 20, 5]).unwrap(),
                    &a.slice([0, 0, 0, 5], [1, 3, 20, 48]).unwrap(),
                ],
                3,
            )
            .unwrap();
            assert_eq!(same_everywhere(&back), xs);
            let back = Tensor::concat(
                &[
                    &a.slice([0; 4], [1, 1, 20, 48]).unwrap(),
                    &a.slice([0, 1, 0, 0], [1, 3, 20, 48]).unwrap(),
                ],
                1,
            )
            .unwrap();
            assert_eq!(same_everywhere(&back), xs);
            assert_eq!(same_everywhere(&a.reshape([1, 1, 60, 48]).unwrap()), xs);
            let turned = a.transpose().unwrap();
            assert_eq!(turned.dims(), [1, 3, 48, 20]);
            assert_eq!(same_everywhere(&turned)[(48 + 7) * 20 + 11], at(1, 11, 7));
            assert_eq!(same_everywhere(&a.convert(format, Layout::RowMajor).unwrap()), xs);
        }
        let a = random(&mesh, [1, 1, 64, 64], Format::F32, 21);
        for format in FLOATS {
            close(
                "convert",
                &a.convert(format, Layout::Tile).unwrap(),
                &held(&a),
                tolerance(format),
            );
        }
    }
}

#[test]
fn ids_rows_and_counters() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let (rows, width) = (300, 48);
        let table = gaussian(rows * width, 22);
        let table = mesh
            .upload(
                HostArray::f32(&table, [1, 1, rows, width]),
                Distribution::Replicate,
                Format::Bf16,
                Layout::RowMajor,
            )
            .unwrap();
        let ids: Vec<u32> = (0..32).map(|i| (i * 37) % rows as u32).collect();
        let on_device = mesh
            .upload(
                HostArray::u32(&ids, [1, 1, 1, 32]),
                Distribution::Replicate,
                Format::U32,
                Layout::RowMajor,
            )
            .unwrap();
        let embedded = table.embedding(&on_device, Layout::Tile).unwrap();
        let (values, whole) = (same_everywhere(&embedded), table.read_f32(0).unwrap());
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(values[i * width..(i + 1) * width], whole[*id as usize * width..][..width]);
        }
        // From logits back to the ids: each row's own embedding is made its largest.
        let mut logits = gaussian(32 * rows, 23);
        ids.iter().enumerate().for_each(|(row, id)| logits[row * rows + *id as usize] = 50.0);
        let logits = mesh
            .upload(
                HostArray::f32(&logits, [1, 1, 32, rows]),
                Distribution::Replicate,
                Format::F32,
                Layout::Tile,
            )
            .unwrap();
        let found = logits.argmax(0..rows).unwrap();
        assert_eq!((found.dims(), found.read_u32(0).unwrap()), ([1, 1, 1, 32], ids.clone()));
        // Only columns 100..200 count, and the index is still that of the whole row; ties go to the
        // lowest.
        let mut tied = vec![0.0; rows];
        (tied[50], tied[150], tied[170]) = (9.0, 3.0, 3.0);
        let tied = mesh
            .upload(
                HostArray::f32(&tied, [1, 1, 1, rows]),
                Distribution::Replicate,
                Format::Bf16,
                Layout::Tile,
            )
            .unwrap();
        let found = tied.argmax(100..200).unwrap();
        assert_eq!(found.read_u32(0).unwrap(), [150]);
        found.increment(-100).unwrap();
        assert_eq!(found.read_u32(mesh.chips() - 1).unwrap(), [50]);
    }
}

#[test]
fn caches_are_filled_updated_and_read() {
    for &board in BOARDS {
        let mesh = mesh(board);
        for format in [Format::Bf16, Format::Bfp8B] {
            let cache = mesh.empty([1, 2, 64, 32], format, Layout::Tile).unwrap();
            let (prefix, row) = (
                random(&mesh, [1, 2, 10, 32], Format::Bf16, 24),
                random(&mesh, [1, 2, 1, 32], Format::Bf16, 25),
            );
            cache.cache_fill(&prefix).unwrap();
            let position = mesh
                .upload(
                    HostArray::i32(&[9], [1; 4]),
                    Distribution::Replicate,
                    Format::I32,
                    Layout::RowMajor,
                )
                .unwrap();
            position.increment(1).unwrap();
            cache.cache_update(&row, &position).unwrap();
            let found = cache.slice([0; 4], [1, 2, 11, 32]).unwrap();
            let (ps, rs) = (held(&prefix), held(&row));
            let reference: Vec<f64> = (0..2)
                .flat_map(|head| {
                    ps[head * 320..][..320]
                        .iter()
                        .chain(&rs[head * 32..][..32])
                        .copied()
                        .collect::<Vec<_>>()
                })
                .collect();
            close("cache", &found, &reference, tolerance(format));
            // What is read through the cache is what was put in.
            let q = random(&mesh, [1, 2, 1, 32], Format::Bf16, 26);
            let direct = found.slice([0; 4], [1, 2, 11, 32]).unwrap();
            let a = q.attention_decode(&cache, &cache, &position, 0.2, Compute::default()).unwrap();
            let b = q.attention(&direct, &direct, None, false, 0.2, Compute::default()).unwrap();
            assert_eq!(same_everywhere(&a), same_everywhere(&b));
            let target = mesh.zeros([1, 2, 1, 32], Format::Bf16, Layout::Tile).unwrap();
            row.copy_to(&target).unwrap();
            assert_eq!(same_everywhere(&target), row.read_f32(0).unwrap());
        }
    }
}
