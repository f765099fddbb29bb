//! Every operation of a backend against a float64 reference written from its definition.
//!
//! Generic over the backend: the CPU runs it with float32 tolerances, a mesh with those of its
//! number formats.

use vla_inference::backend::{
    Activation, Backend, CacheSpec, GreedyToken, HeadShape, LinearSource, Mask, NormSource,
    Normalisation, PatchEmbeddingSource, Pixels, TensorParallel, TokenBufferSpec, TraceBackend,
    WeightRole,
};
use vla_inference::tensor::{DType, HostTensor};

/// A matrix in float64.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    fn from_fn(rows: usize, columns: usize, f: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..rows * columns).map(|index| f(index / columns, index % columns)).collect();
        Self { rows, columns, values }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..][..self.columns]
    }

    fn columns(&self, range: std::ops::Range<usize>) -> Self {
        Self::from_fn(self.rows, range.len(), |row, column| self.at(row, range.start + column))
    }

    /// `self other^T`.
    fn times_transposed(&self, other: &Self) -> Self {
        Self::from_fn(self.rows, other.rows, |i, j| {
            self.row(i).iter().zip(other.row(j)).map(|(a, b)| a * b).sum()
        })
    }
}

/// A seeded stream of numbers (splitmix64): the same on every machine.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1, exact in bf16 so that storing it costs nothing.
    fn unit(&mut self) -> f64 {
        f64::from(half::bf16::from_f64(
            (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0,
        ))
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Matrix {
        let values = (0..rows * columns).map(|_| self.unit()).collect();
        Matrix { rows, columns, values }
    }
}

fn bf16(matrix: &Matrix, shape: &[usize]) -> HostTensor {
    let bytes: Vec<u8> =
        matrix.values.iter().flat_map(|&v| half::bf16::from_f64(v).to_le_bytes()).collect();
    HostTensor::from_bytes(DType::Bf16, shape, bytes.into()).unwrap()
}

fn host(matrix: &Matrix) -> HostTensor {
    let values = matrix.values.iter().map(|&v| v as f32).collect();
    HostTensor::from_f32(&[matrix.rows, matrix.columns], values).unwrap()
}

/// Largest error allowed, relative to the root mean square of the reference or to the element,
/// whichever is larger.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance(pub f64);

impl Tolerance {
    /// An error of a score is an error of its probability, times the score's size.
    fn of_scores(self) -> Self {
        Self(3.0 * self.0)
    }
}

fn near<B: Backend>(
    backend: &B,
    what: &str,
    ours: &B::Tensor,
    want: &Matrix,
    tolerance: Tolerance,
) {
    let got = backend.download(ours).unwrap();
    assert_eq!(got.shape(), [want.rows, want.columns], "{what}: shape");
    assert_eq!(backend.shape(ours), [want.rows, want.columns], "{what}: shape");
    let scale = (want.values.iter().map(|v| v * v).sum::<f64>() / want.values.len().max(1) as f64)
        .sqrt()
        .max(1e-30);
    for (index, (got, want)) in got.to_f32().into_iter().zip(&want.values).enumerate() {
        // A large element carries the rounding of its own size.
        let error = (f64::from(got) - want).abs() / scale.max(want.abs());
        assert!(
            error <= tolerance.0,
            "{what}: element {index} is {got}, not {want} (error {error:.2e})"
        );
    }
}

/// Runs everything.
pub fn suite<B: Backend>(backend: &B, tolerance: Tolerance) {
    for seed in 0..3 {
        let mut numbers = Numbers::new(seed);
        linear(backend, &mut numbers, tolerance);
        norms(backend, &mut numbers, tolerance);
        elementwise(backend, &mut numbers, tolerance);
        bidirectional_attention(backend, &mut numbers, tolerance);
        causal_attention(backend, &mut numbers, tolerance);
        suffix_attention(backend, &mut numbers, tolerance);
        patches(backend, &mut numbers, tolerance);
        moving(backend, &mut numbers, tolerance);
        parallel_mlp(backend, &mut numbers, tolerance);
        parallel_attention(backend, &mut numbers, tolerance);
    }
    refusals(backend);
}

fn gelu(x: f64) -> f64 {
    // erf z = 2/sqrt(pi) e^(-z^2) (z + 2 z^3 / 3 + 4 z^5 / (3 5) + ...): terms of one sign, so that
    // nothing cancels; 1 to double precision from 6 on.
    let z = (x / 2f64.sqrt()).abs().min(6.0);
    let (mut term, mut sum, mut odd) = (z, z, 1.0);
    while term > 1e-17 * sum {
        odd += 2.0;
        term *= 2.0 * z * z / odd;
        sum += term;
    }
    let erf = 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum;
    0.5 * x * (1.0 + erf.copysign(x))
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn active(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

fn linear<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    // One row and few rows are streamed, many go through the GEMM; widths that no register divides.
    for (rows, inputs, parts) in [
        (1, 136, vec![96]),
        (3, 72, vec![40, 24]),
        (33, 269, vec![72]),
        (275, 64, vec![64, 64, 64]),
    ] {
        let x = numbers.matrix(rows, inputs);
        let weights: Vec<Matrix> =
            parts.iter().map(|&outputs| numbers.matrix(outputs, inputs)).collect();
        let outputs: usize = parts.iter().sum();
        let (bias, scale) = (numbers.matrix(1, outputs), numbers.matrix(1, outputs));
        let stacked = Matrix {
            rows: outputs,
            columns: inputs,
            values: weights.iter().flat_map(|w| w.values.clone()).collect(),
        };
        let product = x.times_transposed(&stacked);
        for activation in [
            Activation::Identity,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
            Activation::Relu,
        ] {
            for full in [false, true] {
                let layer = backend
                    .load_linear(LinearSource {
                        role: WeightRole::Mlp,
                        weights: weights.iter().map(|w| bf16(w, &[w.rows, w.columns])).collect(),
                        bias: full.then(|| bf16(&bias, &[outputs])),
                        output_scale: full.then(|| bf16(&scale, &[outputs])),
                        parallelism: TensorParallel::Replicated,
                        few_rows: false,
                    })
                    .unwrap();
                let want = Matrix::from_fn(rows, outputs, |row, column| {
                    let sum = product.at(row, column) + if full { bias.at(0, column) } else { 0.0 };
                    active(sum, activation) * if full { scale.at(0, column) } else { 1.0 }
                });
                let x = backend.upload(&host(&x)).unwrap();
                let got = backend.linear(&x, &layer, activation).unwrap();
                near(
                    backend,
                    &format!("linear {rows}x{inputs}x{outputs} {activation:?} {full}"),
                    &got,
                    &want,
                    tolerance,
                );
            }
        }
    }
}

fn norms<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    for (rows, columns) in [(1, 64), (37, 72), (261, 128)] {
        let x = numbers.matrix(rows, columns);
        let (weight, bias) = (numbers.matrix(1, columns), numbers.matrix(1, columns));
        let device = backend.upload(&host(&x)).unwrap();
        for epsilon in [1e-6f32, 0.1] {
            let source = |bias| NormSource { weight: bf16(&weight, &[columns]), bias, epsilon };
            let layer = backend.load_norm(source(Some(bf16(&bias, &[columns])))).unwrap();
            let statistics = |row: usize| {
                let values = &x.values[row * columns..(row + 1) * columns];
                let mean = values.iter().sum::<f64>() / columns as f64;
                let variance =
                    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / columns as f64;
                let square = values.iter().map(|v| v * v).sum::<f64>() / columns as f64;
                (mean, variance, square)
            };
            let want = Matrix::from_fn(rows, columns, |row, column| {
                let (mean, variance, _) = statistics(row);
                (x.at(row, column) - mean) / (variance + f64::from(epsilon)).sqrt()
                    * weight.at(0, column)
                    + bias.at(0, column)
            });
            near(
                backend,
                "layer_norm",
                &backend.layer_norm(&device, &layer).unwrap(),
                &want,
                tolerance,
            );
            let rms = backend.load_norm(source(None)).unwrap();
            let want = Matrix::from_fn(rows, columns, |row, column| {
                x.at(row, column) / (statistics(row).2 + f64::from(epsilon)).sqrt()
                    * weight.at(0, column)
            });
            near(backend, "rms_norm", &backend.rms_norm(&device, &rms).unwrap(), &want, tolerance);
        }
    }
}

fn elementwise<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    for (rows, columns) in [(1, 86), (31, 344)] {
        let (mut x, y) = (numbers.matrix(rows, 2 * columns), numbers.matrix(rows, 2 * columns));
        let sum = Matrix::from_fn(rows, 2 * columns, |r, c| x.at(r, c) + y.at(r, c));
        let up = |m: &Matrix| backend.upload(&host(m)).unwrap();
        near(backend, "add", &backend.add(up(&x), &up(&y)).unwrap(), &sum, tolerance);
        x.values.iter_mut().for_each(|v| *v *= 8.0);
        let want = Matrix::from_fn(rows, columns, |r, c| {
            let gate = x.at(r, c);
            gate / (1.0 + (-gate).exp()) * x.at(r, columns + c)
        });
        near(backend, "silu_mul", &backend.silu_mul(&up(&x)).unwrap(), &want, tolerance);
        let want =
            Matrix::from_fn(rows, columns, |r, c| gelu_tanh(x.at(r, c)) * x.at(r, columns + c));
        near(backend, "gelu_tanh_mul", &backend.gelu_tanh_mul(&up(&x)).unwrap(), &want, tolerance);
        let (whole, row) = (numbers.matrix(rows, 2 * columns), numbers.matrix(1, 2 * columns));
        for (factor, offset) in [(&whole, &row), (&row, &whole), (&row, &row), (&whole, &whole)] {
            let of = |m: &Matrix, r: usize, c: usize| m.at(if m.rows == 1 { 0 } else { r }, c);
            let want = Matrix::from_fn(rows, 2 * columns, |r, c| {
                y.at(r, c) * of(factor, r, c) + of(offset, r, c)
            });
            let got = backend.multiply_add(&up(&y), &up(factor), &up(offset)).unwrap();
            near(backend, "multiply_add", &got, &want, tolerance);
        }
        // Values that every format of a logit holds exactly: the order must be right, ties
        // included.
        let top = backend.top_two(&up(&y)).unwrap();
        for (row, top) in top.iter().enumerate() {
            let mut values: Vec<(f32, usize)> = y.values[row * 2 * columns..][..2 * columns]
                .iter()
                .enumerate()
                .map(|(i, v)| (*v as f32, i))
                .collect();
            values.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            assert_eq!(top.index, values[0].1, "top_two");
            assert!(
                (top.logit_margin() - (values[0].0 - values[1].0)).abs() as f64
                    <= tolerance.0 * 4.0,
                "top_two margin"
            );
        }
    }
}

fn softmax_rows(scores: &mut Matrix, visible: impl Fn(usize, usize) -> bool) {
    for row in 0..scores.rows {
        let columns = scores.columns;
        let values = &mut scores.values[row * columns..(row + 1) * columns];
        let max = (0..columns)
            .filter(|&c| visible(row, c))
            .map(|c| values[c])
            .fold(f64::NEG_INFINITY, f64::max);
        let exp = |c: usize, v: f64| if visible(row, c) { (v - max).exp() } else { 0.0 };
        let sum: f64 = values.iter().enumerate().map(|(c, &v)| exp(c, v)).sum();
        values.iter_mut().enumerate().for_each(|(c, v)| *v = exp(c, *v) / sum);
    }
}

/// One head: `softmax(q k^T / sqrt(d)) v`.
fn attend(q: &Matrix, k: &Matrix, v: &Matrix, visible: impl Fn(usize, usize) -> bool) -> Matrix {
    let mut scores = q.times_transposed(k);
    scores.values.iter_mut().for_each(|s| *s /= (q.columns as f64).sqrt());
    softmax_rows(&mut scores, visible);
    Matrix::from_fn(q.rows, v.columns, |i, j| {
        (0..v.rows).map(|t| scores.at(i, t) * v.at(t, j)).sum()
    })
}

fn side_by_side(heads: &[Matrix]) -> Matrix {
    let width = heads[0].columns;
    Matrix::from_fn(heads[0].rows, heads.len() * width, |row, column| {
        heads[column / width].at(row, column % width)
    })
}

fn bidirectional_attention<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    for (rows, heads, dim) in [(5, 1, 16), (261, 4, 16), (256, 4, 18)] {
        let mut qkv = numbers.matrix(rows, 3 * heads * dim);
        qkv.values.iter_mut().for_each(|v| *v *= 2.0);
        let part = |which: usize, head: usize| {
            let start = (which * heads + head) * dim;
            qkv.columns(start..start + dim)
        };
        let want: Vec<Matrix> = (0..heads)
            .map(|h| attend(&part(0, h), &part(1, h), &part(2, h), |_, _| true))
            .collect();
        let got = backend.attention(&backend.upload(&host(&qkv)).unwrap(), heads).unwrap();
        near(backend, "attention", &got, &side_by_side(&want), tolerance.of_scores());
    }
}

/// HF's rotary embedding: pairs `(i, i + d/2)`.
fn rotate(x: &Matrix, first: usize, theta: f64) -> Matrix {
    let half = x.columns / 2;
    Matrix::from_fn(x.rows, x.columns, |row, column| {
        let pair = column % half;
        let angle = (first + row) as f64 * theta.powf(-2.0 * pair as f64 / x.columns as f64);
        let (own, other) = (x.at(row, column), x.at(row, (column + half) % x.columns));
        own * angle.cos() + if column < half { -other } else { other } * angle.sin()
    })
}

fn causal_attention<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    for (heads, kv_heads, dim) in [(4, 4, 32), (4, 2, 16)] {
        let spec = CacheSpec {
            layers: 2,
            heads,
            kv_heads,
            head_dim: dim,
            capacity: 48,
            rope_theta: 10_000.0,
        };
        let mut cache = backend.new_cache(spec).unwrap();
        let total = 40;
        let qkv = numbers.matrix(total, (heads + 2 * kv_heads) * dim);
        let head = |which: usize| qkv.columns(which * dim..(which + 1) * dim);
        let keys: Vec<Matrix> =
            (0..kv_heads).map(|h| rotate(&head(heads + h), 0, spec.rope_theta)).collect();
        let want: Vec<Matrix> = (0..heads)
            .map(|h| {
                let q = rotate(&head(h), 0, spec.rope_theta);
                let kv = h / (heads / kv_heads);
                attend(&q, &keys[kv], &head(heads + kv_heads + kv), |row, t| t <= row)
            })
            .collect();
        let want = side_by_side(&want);
        // A prompt, single tokens, and a block in the middle: all must equal the one-piece result.
        let mut position = 0;
        for rows in [33, 1, 1, 4, 1] {
            let piece = Matrix {
                rows,
                columns: qkv.columns,
                values: qkv.values[position * qkv.columns..(position + rows) * qkv.columns]
                    .to_vec(),
            };
            let device = backend.upload(&host(&piece)).unwrap();
            let got =
                backend.cached_attention(&device, &mut cache, 1, position, Mask::Causal).unwrap();
            let expected = Matrix {
                rows,
                columns: want.columns,
                values: want.values[position * want.columns..(position + rows) * want.columns]
                    .to_vec(),
            };
            near(
                backend,
                &format!("causal cached_attention at {position}"),
                &got,
                &expected,
                tolerance.of_scores(),
            );
            position += rows;
        }
        let (stored, _) = backend.read_cache(&cache, 1).unwrap();
        assert_eq!(stored.shape(), [kv_heads, total, dim]);
        for (index, got) in stored.to_f32().into_iter().enumerate() {
            let (head, row, column) = (index / (total * dim), index / dim % total, index % dim);
            assert!(
                (f64::from(got) - keys[head].at(row, column)).abs() <= tolerance.0 * 2.0,
                "cached key {index}"
            );
        }
        // Rewriting from an earlier position forgets what came after it.
        let device = backend.upload(&host(&Matrix {
            rows: 1,
            columns: qkv.columns,
            values: qkv.values[..qkv.columns].to_vec(),
        }));
        backend.cached_attention(&device.unwrap(), &mut cache, 1, 10, Mask::Causal).unwrap();
        assert_eq!(backend.read_cache(&cache, 1).unwrap().0.shape(), [kv_heads, 11, dim]);
    }
}

/// A prefix that sees all of itself, one row after it, then rows that see both and each other,
/// repeated at the same positions: heads share one key/value head, as in Gemma.
///
/// In a cache that grows row by row, and in one of blocks.
fn suffix_attention<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    for (heads, kv_heads, dim, prefix, rows, blocks) in [
        (4, 1, 32, 37, 10, false),
        (4, 1, 32, 37, 10, true),
        (6, 1, 24, 64, 33, true),
        (4, 2, 16, 3, 1, false),
        (4, 2, 16, 3, 1, true),
    ] {
        let spec = CacheSpec {
            layers: 2,
            heads,
            kv_heads,
            head_dim: dim,
            capacity: prefix + 1 + rows,
            rope_theta: 10_000.0,
        };
        let mut cache = if blocks {
            backend.new_block_cache(spec, &[prefix, 1, rows]).unwrap()
        } else {
            backend.new_cache(spec).unwrap()
        };
        let width = (heads + 2 * kv_heads) * dim;
        let mut stored: Option<Matrix> = None;
        // The last two passes are at one position: the second must forget the first.
        let passes = [(0, prefix), (prefix, 1), (prefix + 1, rows), (prefix + 1, rows)];
        for (pass, (position, count)) in passes.into_iter().enumerate() {
            let new = numbers.matrix(count, width);
            let before = stored.as_ref().map_or(0, |all| all.rows.min(position));
            let kept = stored.as_ref().map_or(&[][..], |all| &all.values[..before * width]);
            let all = Matrix {
                rows: position + count,
                columns: width,
                values: [kept, &new.values].concat(),
            };
            let new_rows = host(&new);
            let device =
                if blocks { backend.upload_block(&new_rows) } else { backend.upload(&new_rows) };
            let device = device.unwrap();
            let head = |of: &Matrix, which: usize| of.columns(which * dim..(which + 1) * dim);
            let want: Vec<Matrix> = (0..heads)
                .map(|h| {
                    let kv = h / (heads / kv_heads);
                    let q = rotate(&head(&new, h), position, spec.rope_theta);
                    let k = rotate(&head(&all, heads + kv), 0, spec.rope_theta);
                    attend(&q, &k, &head(&all, heads + kv_heads + kv), |_, _| true)
                })
                .collect();
            let got = backend
                .cached_attention(&device, &mut cache, 1, position, Mask::Bidirectional)
                .unwrap();
            let what =
                format!("bidirectional cached_attention, blocks {blocks}, {pass} at {position}");
            near(backend, &what, &got, &side_by_side(&want), tolerance.of_scores());
            // The other layer is only written; both hold the same keys and values.
            backend.write_cache(&device, &mut cache, 0, position).unwrap();
            let [a, b] = [0, 1].map(|layer| {
                let (keys, values) = backend.read_cache(&cache, layer).unwrap();
                [keys.to_f32(), values.to_f32()].concat()
            });
            assert_eq!(a, b, "write_cache at {position}");
            stored = Some(all);
        }
    }
}

fn patches<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    let (side, patch) = (224, 14);
    let rgb: Vec<u8> = (0..side * side * 3).map(|_| numbers.next() as u8).collect();
    let image = backend.upload_image(Pixels { rgb: &rgb, side, patch }).unwrap();
    let want = Matrix::from_fn(256, 588, |index, column| {
        let (channel, y, x) = (
            column / 196,
            index / 16 * patch + column % 196 / patch,
            index % 16 * patch + column % patch,
        );
        f64::from(rgb[(y * side + x) * 3 + channel]) - 128.0
    });
    let cut = backend.cut_patches(&image).unwrap();
    near(backend, "cut_patches", &cut, &want, Tolerance(0.0));
    // Two towers over the same patches, each with its own normalisation.
    for (mean, std) in [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5; 3], [0.5; 3])] {
        let (weight, bias) = (numbers.matrix(96, 588), numbers.matrix(1, 96));
        let linear = LinearSource {
            role: WeightRole::Vision,
            weights: vec![bf16(&weight, &[96, 588])],
            bias: Some(bf16(&bias, &[96])),
            output_scale: None,
            parallelism: TensorParallel::Replicated,
            few_rows: false,
        };
        let normalisation = Normalisation { mean, std };
        let layer =
            backend.load_patch_embedding(PatchEmbeddingSource { linear, normalisation }).unwrap();
        let normalised = Matrix::from_fn(256, 588, |row, column| {
            let channel = column / 196;
            ((want.at(row, column) + 128.0) / 255.0 - f64::from(mean[channel]))
                / f64::from(std[channel])
        });
        let product = normalised.times_transposed(&weight);
        let want =
            Matrix::from_fn(256, 96, |row, column| product.at(row, column) + bias.at(0, column));
        near(
            backend,
            "embed_patches",
            &backend.embed_patches(&cut, &layer).unwrap(),
            &want,
            tolerance,
        );
    }
}

/// Attention at the position counter equals attention at a position given by the host.
fn position_counter<B: TraceBackend>(backend: &B, numbers: &mut Numbers) {
    let spec =
        CacheSpec { layers: 2, heads: 8, kv_heads: 8, head_dim: 32, capacity: 40, rope_theta: 1e4 };
    let width = 3 * 8 * 32;
    let prompt = backend.upload(&host(&numbers.matrix(33, width))).unwrap();
    let rows: Vec<B::Tensor> =
        (0..4).map(|_| backend.upload(&host(&numbers.matrix(1, width))).unwrap()).collect();
    let [mut given, mut counted] = [0, 1].map(|_| backend.new_cache(spec).unwrap());
    for cache in [&mut given, &mut counted] {
        for layer in 0..2 {
            backend.cached_attention(&prompt, cache, layer, 0, Mask::Causal).unwrap();
        }
    }
    backend.set_position(&mut counted, 33).unwrap();
    for round in 0..2 {
        // The second round starts from the same position.
        backend.reset_position(&mut counted).unwrap();
        for (at, row) in rows.iter().enumerate() {
            for layer in 0..2 {
                let a = backend
                    .cached_attention(row, &mut given, layer, 33 + at, Mask::Causal)
                    .unwrap();
                let b = backend.causal_attention_at_counter(row, &mut counted, layer).unwrap();
                let [a, b] = [a, b].map(|x| backend.download(&x).unwrap().to_f32());
                assert_eq!(a, b, "round {round}, row {at}, layer {layer}");
            }
            backend.advance_position(&mut counted).unwrap();
        }
    }
}

/// Rows named by ids on the device equal slices, in every bit, and follow the ids written last; a
/// counter that was moved goes on from there, and a reset restores its start.
fn rows_and_positions_from_the_device<B: TraceBackend>(backend: &B, numbers: &mut Numbers) {
    let matrix = host(&numbers.matrix(70, 64));
    // Both formats of a residual stream.
    for x in [backend.upload(&matrix).unwrap(), backend.upload_block_f32(&matrix).unwrap()] {
        let mut one = backend.upload_ids(&[0]).unwrap();
        let mut seven = backend.upload_ids(&[0; 7]).unwrap();
        for first in [0, 33, 63] {
            for (ids, count) in [(&mut one, 1), (&mut seven, 7)] {
                let rows: Vec<u32> = (first..first + count).collect();
                backend.write_ids(ids, &rows).unwrap();
                let selected = backend.select_rows(&x, ids).unwrap();
                assert_eq!(backend.shape(&selected), [count as usize, 64]);
                let range = first as usize..(first + count) as usize;
                let sliced = backend.slice_rows(&x, range).unwrap();
                let [got, want] = [&selected, &sliced].map(|x| backend.download(x).unwrap());
                assert_eq!(got.to_f32(), want.to_f32(), "{count} rows from {first}");
            }
        }
        backend.write_ids(&mut one, &[70]).unwrap();
        assert!(backend.select_rows(&x, &one).is_err(), "a row outside the matrix");
    }
    assert!(backend.sequence_rows(33) >= 33);

    let spec =
        CacheSpec { layers: 1, heads: 8, kv_heads: 8, head_dim: 32, capacity: 40, rope_theta: 1e4 };
    let width = 3 * 8 * 32;
    let prompt = backend.upload(&host(&numbers.matrix(36, width))).unwrap();
    let row = backend.upload(&host(&numbers.matrix(1, width))).unwrap();
    let mut cache = backend.new_cache(spec).unwrap();
    assert!(backend.move_position(&mut cache, 3).is_err(), "no position was set");
    let mut at = |position: Option<usize>, counted: bool| {
        backend.cached_attention(&prompt, &mut cache, 0, 0, Mask::Causal).unwrap();
        if let Some(position) = position.filter(|_| counted) {
            backend.move_position(&mut cache, position).unwrap();
        }
        let out = match (counted, position) {
            (false, Some(position)) => {
                backend.cached_attention(&row, &mut cache, 0, position, Mask::Causal)
            }
            (_, None) => {
                backend.set_position(&mut cache, 9).unwrap();
                backend.set_position(&mut cache, 33).unwrap();
                backend.move_position(&mut cache, 12).unwrap();
                backend.reset_position(&mut cache).unwrap();
                backend.causal_attention_at_counter(&row, &mut cache, 0)
            }
            (true, _) => backend.causal_attention_at_counter(&row, &mut cache, 0),
        };
        backend.download(&out.unwrap()).unwrap().to_f32()
    };
    let reset = at(None, true);
    assert_eq!(reset, at(Some(33), false), "the start set last");
    for position in [34, 20] {
        assert_eq!(at(Some(position), true), at(Some(position), false), "moved to {position}");
    }
    assert!(backend.move_position(&mut cache, 41).is_err(), "outside the cache");
}

/// Tokens and embeddings of the token buffer equal those selected on the host.
fn token_buffer<B: TraceBackend>(backend: &B, numbers: &mut Numbers) {
    // Few outputs, replicated, and many, column-parallel.
    for (outputs, parallelism, first) in [
        (64, TensorParallel::Replicated, 100),
        (1088, TensorParallel::Column, 0),
        (96, TensorParallel::Replicated, 200),
    ] {
        let (vocabulary, width) = (1100, 64);
        let table = backend
            .load_table(bf16(&numbers.matrix(vocabulary, width), &[vocabulary, width]))
            .unwrap();
        let head = backend
            .load_linear(LinearSource {
                role: WeightRole::Head,
                weights: vec![bf16(&numbers.matrix(outputs, width), &[outputs, width])],
                bias: None,
                output_scale: None,
                parallelism,
                few_rows: false,
            })
            .unwrap();
        let end_id = first + outputs as u32;
        let centres: Vec<f32> = (0..outputs - 1).map(|bin| bin as f32).collect();
        let spec = TokenBufferSpec { tokens: 3, ids: first..end_id, end_id, centres };
        let mut buffer = backend.new_token_buffer(spec, &table).unwrap();
        let mut all = Vec::new();
        for _ in 0..5 {
            let x = backend.upload(&host(&numbers.matrix(1, width))).unwrap();
            let top = backend
                .top_two(&backend.linear(&x, &head, Activation::Identity).unwrap())
                .unwrap()[0];
            backend.argmax_append(&x, &head, &table, &mut buffer).unwrap();
            let id = first + top.index as u32;
            let bin = (end_id - id - 1).min(outputs as u32 - 2);
            all.push(GreedyToken {
                id,
                centre: Some(bin as f32),
                logit_margin: Some(top.logit_margin()),
            });
            let row = backend.download(&backend.last_embedding(&buffer).unwrap()).unwrap().to_f32();
            let want = backend.download(&backend.embed(&table, &[id]).unwrap()).unwrap().to_f32();
            assert_eq!(row, want, "the embedding of {id}");
        }
        let chosen = backend.read_tokens(&buffer).unwrap();
        assert_eq!(chosen.len(), 3);
        for (got, want) in chosen.iter().zip(&all[2..]) {
            assert_eq!(got.id, want.id);
            // Optional, but right if present.
            assert!(got.centre.is_none() || got.centre == want.centre, "{got:?} {want:?}");
            assert!(
                got.logit_margin.is_none() || got.logit_margin == want.logit_margin,
                "{got:?} {want:?}"
            );
        }
        // A NaN is refused by one of the two calls.
        let mut broken = vec![0.5; width];
        broken[3] = f32::NAN;
        let x = backend.upload(&HostTensor::from_f32(&[1, width], broken).unwrap()).unwrap();
        let refused = backend
            .argmax_append(&x, &head, &table, &mut buffer)
            .and_then(|()| backend.read_tokens(&buffer).map(drop));
        assert!(refused.is_err());
    }
}

/// Of equal logits the lowest id is the token, on whichever chips they are; logits below zero are
/// not less than padding.
fn equal_logits<B: TraceBackend>(backend: &B) {
    let (outputs, width) = (1088, 32);
    let table = vec![0.5; outputs * width];
    let table = HostTensor::from_f32(&[outputs, width], table).unwrap();
    let table = backend.load_table(table).unwrap();
    let x = backend.upload(&HostTensor::from_f32(&[1, width], vec![1.0; width]).unwrap()).unwrap();
    for largest in [vec![0, 1087], vec![500, 501], vec![31, 32, 700], vec![1086, 1087], vec![960]] {
        let mut weight = vec![0.0; outputs * width];
        for (id, row) in weight.chunks_exact_mut(width).enumerate() {
            row[0] = if largest.contains(&id) { -1.0 } else { -2.0 - (id % 7) as f32 };
        }
        let head = LinearSource {
            role: WeightRole::Head,
            weights: vec![HostTensor::from_f32(&[outputs, width], weight).unwrap()],
            bias: None,
            output_scale: None,
            parallelism: TensorParallel::Column,
            few_rows: false,
        };
        let head = backend.load_linear(head).unwrap();
        let (ids, end_id) = (0..outputs as u32, outputs as u32);
        let centres = vec![0.0; outputs - 1];
        let spec = TokenBufferSpec { tokens: 1, ids, end_id, centres };
        let mut buffer = backend.new_token_buffer(spec, &table).unwrap();
        backend.argmax_append(&x, &head, &table, &mut buffer).unwrap();
        let token = backend.read_tokens(&buffer).unwrap()[0];
        assert_eq!(token.id as usize, largest[0], "{largest:?}");
        let margin = if largest.len() > 1 { 0.0 } else { 1.0 };
        assert!(token.logit_margin.is_none_or(|found| found == margin), "{largest:?} {token:?}");
    }
}

fn moving<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    let (a, b) = (numbers.matrix(3, 64), numbers.matrix(5, 64));
    let up = |m: &Matrix| backend.upload(&host(m)).unwrap();
    let rows =
        Matrix { rows: 8, columns: 64, values: [a.values.clone(), b.values.clone()].concat() };
    let joined = backend.concat_rows(&[&up(&a), &up(&b)]).unwrap();
    near(backend, "concat_rows", &joined, &rows, tolerance);
    let cut = Matrix { rows: 4, columns: 64, values: rows.values[2 * 64..6 * 64].to_vec() };
    near(backend, "slice_rows", &backend.slice_rows(&joined, 2..6).unwrap(), &cut, tolerance);
    // Rows that neither tiles nor registers divide, side by side and back.
    let tall = numbers.matrix(35, 48);
    let wide = Matrix { rows: 5, columns: 7 * 48, values: tall.values.clone() };
    let device = backend.upload(&host(&tall)).unwrap();
    let reshaped = backend.reshape_rows(&device, 5).unwrap();
    near(backend, "reshape_rows", &reshaped, &wide, tolerance);
    let back = backend.reshape_rows(&reshaped, 35).unwrap();
    near(backend, "reshape_rows back", &back, &tall, tolerance);
    assert!(
        backend.reshape_rows(&device, 11).is_err() && backend.reshape_rows(&device, 0).is_err()
    );
    let c = numbers.matrix(3, 72);
    let want = Matrix::from_fn(3, 136, |row, column| {
        if column < 64 { a.at(row, column) } else { c.at(row, column - 64) }
    });
    near(
        backend,
        "concat_columns",
        &backend.concat_columns(&[&up(&a), &up(&c)]).unwrap(),
        &want,
        tolerance,
    );
    let table = numbers.matrix(320, 128);
    let loaded = backend.load_table(bf16(&table, &[320, 128])).unwrap();
    let ids = [0u32, 319, 7, 7];
    let want = Matrix::from_fn(4, 128, |row, column| table.at(ids[row] as usize, column));
    near(backend, "embed", &backend.embed(&loaded, &ids).unwrap(), &want, tolerance);
}

/// Weights small enough that a chain of layers stays near one.
fn weights(numbers: &mut Numbers, outputs: usize, inputs: usize) -> Matrix {
    let mut matrix = numbers.matrix(outputs, inputs);
    matrix.values.iter_mut().for_each(|v| *v /= 4.0);
    matrix
}

fn loaded<B: Backend>(
    backend: &B,
    parallelism: TensorParallel,
    parts: &[&Matrix],
    bias: Option<&Matrix>,
) -> B::Linear {
    let source = LinearSource {
        role: WeightRole::Attention,
        weights: parts.iter().map(|w| bf16(w, &[w.rows, w.columns])).collect(),
        bias: bias.map(|b| bf16(b, &[b.columns])),
        output_scale: None,
        parallelism,
        few_rows: false,
    };
    backend.load_linear(source).unwrap()
}

/// Pairs of column- and row-parallel layers, against the unsharded layers.
fn parallel_mlp<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    // Widths that chips and tiles divide, and widths that they do not.
    // A row of 1024 fills whole tiles when it is summed.
    for (rows, width, inside) in [(1, 64, 344), (33, 72, 256), (288, 64, 86), (1, 1024, 96)] {
        let x = numbers.matrix(rows, width);
        let [gate, up] = [0, 1].map(|_| weights(numbers, inside, width));
        let (down, bias) = (weights(numbers, width, inside), numbers.matrix(1, width));
        let hidden = {
            let (g, u) = (x.times_transposed(&gate), x.times_transposed(&up));
            Matrix::from_fn(rows, inside, |r, c| {
                g.at(r, c) / (1.0 + (-g.at(r, c)).exp()) * u.at(r, c)
            })
        };
        let sum = hidden.times_transposed(&down);
        let want = Matrix::from_fn(rows, width, |r, c| sum.at(r, c) + bias.at(0, c));
        let device = backend.upload(&host(&x)).unwrap();
        let (first, second) = (
            loaded(backend, TensorParallel::Column, &[&gate, &up], None),
            loaded(backend, TensorParallel::Row, &[&down], Some(&bias)),
        );
        let inner = backend.linear(&device, &first, Activation::Identity).unwrap();
        let inner = backend.silu_mul(&inner).unwrap();
        near(backend, "column-parallel gate and up", &inner, &hidden, Tolerance(2.0 * tolerance.0));
        let got = backend.linear(&inner, &second, Activation::Identity).unwrap();
        near(backend, "row-parallel down", &got, &want, Tolerance(2.0 * tolerance.0));
        // One weight, an activation on its columns and one on the sum.
        let first = loaded(backend, TensorParallel::Column, &[&gate], None);
        let hidden = x.times_transposed(&gate);
        let hidden = Matrix::from_fn(rows, inside, |r, c| gelu(hidden.at(r, c)));
        let sum = hidden.times_transposed(&down);
        let want = Matrix::from_fn(rows, width, |r, c| gelu(sum.at(r, c) + bias.at(0, c)));
        let inner = backend.linear(&device, &first, Activation::Gelu).unwrap();
        let got = backend.linear(&inner, &second, Activation::Gelu).unwrap();
        near(backend, "column- and row-parallel gelu", &got, &want, Tolerance(2.0 * tolerance.0));
    }
}

fn parallel_attention<B: Backend>(backend: &B, numbers: &mut Numbers, tolerance: Tolerance) {
    for (heads, kv_heads, head_dim, rotary) in [
        (8, 8, 64, true),
        (4, 4, 32, true),
        (4, 2, 16, true),
        // One key head on every chip; on eight chips, heads of zeros.
        (4, 1, 16, true),
        (4, 4, 18, false),
    ] {
        let shape = HeadShape { heads, kv_heads, head_dim, rotary };
        let (rows, width) = (35, 64);
        let x = numbers.matrix(rows, width);
        let [q, k, v] =
            [heads, kv_heads, kv_heads].map(|count| weights(numbers, count * head_dim, width));
        let out = weights(numbers, width, heads * head_dim);
        let device = backend.upload(&host(&x)).unwrap();
        let qkv = loaded(backend, TensorParallel::ColumnByHead(shape), &[&q, &k, &v], None);
        let after = loaded(backend, TensorParallel::RowByHead(shape), &[&out], None);
        let projected = [&q, &k, &v].map(|weight| x.times_transposed(weight));
        let head = |which: usize, index: usize| {
            let part = projected[which].columns(index * head_dim..(index + 1) * head_dim);
            if rotary && which < 2 { rotate(&part, 0, 10_000.0) } else { part }
        };
        let group = heads / kv_heads;
        let attended: Vec<Matrix> = (0..heads)
            .map(|h| {
                attend(&head(0, h), &head(1, h / group), &head(2, h / group), |row, t| {
                    !rotary || t <= row
                })
            })
            .collect();
        let want = side_by_side(&attended).times_transposed(&out);
        let laid = backend.linear(&device, &qkv, Activation::Identity).unwrap();
        let attended = if rotary {
            let spec = CacheSpec {
                layers: 1,
                heads,
                kv_heads,
                head_dim,
                capacity: 64,
                rope_theta: 10_000.0,
            };
            let mut cache = backend.new_cache(spec).unwrap();
            let attended = backend.cached_attention(&laid, &mut cache, 0, 0, Mask::Causal).unwrap();
            let (keys, values) = backend.read_cache(&cache, 0).unwrap();
            for (which, stored) in [(1, keys), (2, values)] {
                assert_eq!(stored.shape(), [kv_heads, rows, head_dim]);
                let wanted: Vec<Matrix> = (0..kv_heads).map(|h| head(which, h)).collect();
                for (index, got) in stored.to_f32().into_iter().enumerate() {
                    let (h, row, column) =
                        (index / (rows * head_dim), index / head_dim % rows, index % head_dim);
                    let error = (f64::from(got) - wanted[h].at(row, column)).abs();
                    assert!(
                        error <= tolerance.0 * 4.0,
                        "cached {which}, head {h}, row {row}, column {column}: {error}"
                    );
                }
            }
            attended
        } else {
            backend.attention(&laid, heads).unwrap()
        };
        let got = backend.linear(&attended, &after, Activation::Identity).unwrap();
        let what = format!("head-parallel attention of {heads}/{kv_heads} heads of {head_dim}");
        near(backend, &what, &got, &want, Tolerance(4.0 * tolerance.0));
    }
}

/// Inputs that do not fit together are errors.
fn refusals<B: Backend>(backend: &B) {
    let mut numbers = Numbers::new(99);
    let up = |m: &Matrix| backend.upload(&host(m)).unwrap();
    let (narrow, wide) = (numbers.matrix(2, 64), numbers.matrix(2, 96));
    assert!(backend.add(up(&narrow), &up(&wide)).is_err());
    assert!(backend.concat_rows(&[&up(&narrow), &up(&wide)]).is_err());
    assert!(backend.multiply_add(&up(&narrow), &up(&wide), &up(&narrow)).is_err());
    assert!(backend.multiply_add(&up(&narrow), &up(&narrow), &up(&numbers.matrix(3, 64))).is_err());
    assert!(backend.slice_rows(&up(&narrow), 1..3).is_err());
    assert!(backend.attention(&up(&narrow), 5).is_err());
    let weight = bf16(&numbers.matrix(32, 64), &[32, 64]);
    let source = |weights, bias| LinearSource {
        role: WeightRole::Mlp,
        weights,
        bias,
        output_scale: None,
        parallelism: TensorParallel::Replicated,
        few_rows: false,
    };
    let layer = backend.load_linear(source(vec![weight.clone()], None)).unwrap();
    assert!(backend.linear(&up(&wide), &layer, Activation::Identity).is_err());
    assert!(
        backend
            .load_linear(source(vec![weight.clone()], Some(bf16(&numbers.matrix(1, 31), &[31]))))
            .is_err()
    );
    assert!(backend.load_linear(source(vec![], None)).is_err());
    let table = backend.load_table(bf16(&numbers.matrix(32, 64), &[32, 64])).unwrap();
    assert!(backend.embed(&table, &[32]).is_err());
    let spec =
        CacheSpec { layers: 1, heads: 1, kv_heads: 1, head_dim: 32, capacity: 4, rope_theta: 1e4 };
    let mut cache = backend.new_cache(spec).unwrap();
    let qkv = up(&numbers.matrix(3, 96));
    assert!(backend.cached_attention(&qkv, &mut cache, 0, 1, Mask::Causal).is_err(), "a gap");
    backend.cached_attention(&qkv, &mut cache, 0, 0, Mask::Causal).unwrap();
    assert!(backend.cached_attention(&qkv, &mut cache, 0, 3, Mask::Causal).is_err(), "full");
    assert!(backend.new_cache(CacheSpec { heads: 3, kv_heads: 2, ..spec }).is_err());
    let rgb = [0; 12];
    assert!(backend.upload_image(Pixels { rgb: &rgb, side: 3, patch: 3 }).is_err());
    let broken = HostTensor::from_f32(&[1, 64], [vec![1.0; 63], vec![f32::NAN]].concat()).unwrap();
    assert!(backend.top_two(&backend.upload(&broken).unwrap()).is_err());
}

/// Invalid uses of traced decoding's state are errors.
fn trace_refusals<B: TraceBackend>(backend: &B) {
    let mut numbers = Numbers::new(99);
    let table = backend.load_table(bf16(&numbers.matrix(32, 64), &[32, 64])).unwrap();
    let mut image = backend.upload_image(Pixels { rgb: &[0; 27], side: 3, patch: 3 }).unwrap();
    assert!(backend.write_image(&mut image, &[0; 12]).is_err());
    let mut ids = backend.upload_ids(&[1, 2]).unwrap();
    assert!(backend.write_ids(&mut ids, &[1]).is_err());
    assert!(backend.embed_ids(&table, &backend.upload_ids(&[32, 0]).unwrap()).is_err());
    let spec =
        CacheSpec { layers: 1, heads: 1, kv_heads: 1, head_dim: 32, capacity: 4, rope_theta: 1e4 };
    let mut cache = backend.new_cache(spec).unwrap();
    assert!(
        backend.reset_position(&mut cache).is_err()
            && backend.advance_position(&mut cache).is_err(),
        "no position was set"
    );
    let row = backend.upload(&host(&numbers.matrix(1, 96))).unwrap();
    assert!(backend.causal_attention_at_counter(&row, &mut cache, 0).is_err());
    assert!(backend.set_position(&mut cache, 5).is_err(), "outside the cache");
    let buffer = |ids| TokenBufferSpec { tokens: 2, ids, end_id: 32, centres: vec![0.0] };
    assert!(backend.new_token_buffer(buffer(0..33), &table).is_err());
    assert!(backend.new_token_buffer(buffer(4..4), &table).is_err());
}

/// An image that was overwritten gives the patches of the new one.
fn written_image<B: TraceBackend>(backend: &B, numbers: &mut Numbers) {
    let (side, patch) = (224, 14);
    let rgb: Vec<u8> = (0..side * side * 3).map(|_| numbers.next() as u8).collect();
    let black = vec![0; rgb.len()];
    let mut image = backend.upload_image(Pixels { rgb: &black, side, patch }).unwrap();
    backend.write_image(&mut image, &rgb).unwrap();
    let direct = backend.upload_image(Pixels { rgb: &rgb, side, patch }).unwrap();
    let [written, direct] = [&image, &direct]
        .map(|image| backend.download(&backend.cut_patches(image).unwrap()).unwrap().to_f32());
    assert_eq!(written, direct);
}

/// The suite of a backend with traces: [`suite`], and everything of [`TraceBackend`].
pub fn trace_suite<B: TraceBackend>(backend: &B, tolerance: Tolerance) {
    suite(backend, tolerance);
    for seed in 0..3 {
        let mut numbers = Numbers::new(seed + 100);
        written_image(backend, &mut numbers);
        position_counter(backend, &mut numbers);
        rows_and_positions_from_the_device(backend, &mut numbers);
        token_buffer(backend, &mut numbers);
        equal_logits(backend);
    }
    trace_refusals(backend);
}
