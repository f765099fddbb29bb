//! Compares a device with the simulated mesh: runs every operation once on both and prints the
//! distance of the results.
//!
//!     cargo run -p tt-mesh-sim --features device-check --bin device-check -- tt:n300
//!
//! To be run first on new hardware or a new tt-metal. On a mock cluster, which reads zeros, values
//! are not compared: the output shows what TT-NN accepts. Exit status 1 when an operation is
//! refused or differs.

use tt_metal::kernels::{
    CANDIDATES, PickAction, PickCandidate, ScanLogits, image_patches, narrow_matmul, pick_action,
    pick_candidate, scan_logits,
};
use tt_metal::{
    Activation, Combine, Compute, Distribution, Error, Format, HostArray, Layout, LinearOptions,
    Mesh, MeshOptions, Provider, Result, RopeOrder, Target, Tensor, find_provider,
};

/// Largest relative root-mean-square distance of two devices: a few roundings of bf16.
const BOUND: f64 = 0.02;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn random(mesh: &Mesh, dims: [usize; 4], format: Format, seed: u32) -> Result<Tensor> {
    let data = noise(dims.iter().product(), seed);
    mesh.upload(HostArray::f32(&data, dims), Distribution::Replicate, format, Layout::Tile)
}

fn sharded(mesh: &Mesh, dims: [usize; 4], dim: usize, seed: u32) -> Result<Tensor> {
    let data = noise(dims.iter().product(), seed);
    mesh.upload(HostArray::f32(&data, dims), Distribution::Shard(dim), Format::Bf16, Layout::Tile)
}

fn words(mesh: &Mesh, data: &[u32]) -> Result<Tensor> {
    mesh.upload(
        HostArray::u32(data, [1, 1, 1, data.len()]),
        Distribution::Replicate,
        Format::U32,
        Layout::RowMajor,
    )
}

fn position(mesh: &Mesh, at: i32) -> Result<Tensor> {
    mesh.upload(
        HostArray::i32(&[at], [1; 4]),
        Distribution::Replicate,
        Format::I32,
        Layout::RowMajor,
    )
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    match tensor.format() {
        Format::U32 | Format::I32 => {
            Ok(tensor.read_u32(0)?.into_iter().map(|word| word as f32).collect())
        }
        _ => tensor.read_f32(0),
    }
}

type Check = (&'static str, fn(&Mesh) -> Result<Tensor>);

const CHECKS: &[Check] = &[
    ("upload bf16", |m| random(m, [1, 1, 45, 70], Format::Bf16, 1)),
    ("upload bfp8_b", |m| random(m, [1, 1, 45, 70], Format::Bfp8B, 1)),
    ("upload bfp4_b", |m| random(m, [1, 1, 45, 70], Format::Bfp4B, 1)),
    ("upload f32", |m| random(m, [1, 1, 45, 70], Format::F32, 1)),
    ("upload packed bfp8_b", |m| {
        let (data, dims) = (noise(64 * 512, 2), [1, 1, 64, 512]);
        let provider = Provider::linked(tt_mesh_sim::api());
        let packed = tt_metal::pack(
            &provider,
            HostArray::f32(&data, dims),
            Distribution::Shard(3),
            m.chips(),
            Format::Bfp8B,
        )?;
        m.upload(
            HostArray::packed(&packed, dims, Format::Bfp8B),
            Distribution::Shard(3),
            Format::Bfp8B,
            Layout::Tile,
        )
    }),
    ("zeros", |m| m.zeros([1, 2, 64, 32], Format::Bfp8B, Layout::Tile)),
    ("write", |m| {
        let tensor = random(m, [1, 1, 32, 64], Format::Bf16, 3)?;
        tensor.write(HostArray::f32(&noise(2048, 4), [1, 1, 32, 64]), Distribution::Replicate)?;
        Ok(tensor)
    }),
    ("linear, gelu, 9 tiles by 192", |m| {
        let (x, w) = (
            random(m, [1, 1, 288, 1024], Format::Bf16, 5)?,
            random(m, [1, 1, 1024, 6144], Format::Bfp8B, 6)?,
        );
        let bias = random(m, [1, 1, 1, 6144], Format::Bf16, 7)?;
        x.linear(
            &w,
            Some(&bias),
            LinearOptions { activation: Activation::Gelu, ..LinearOptions::default() },
        )
    }),
    ("linear, one row", |m| {
        let (x, w) = (
            random(m, [1, 1, 1, 4096], Format::Bf16, 5)?,
            random(m, [1, 1, 4096, 1376], Format::Bfp8B, 6)?,
        );
        x.linear(&w, None, LinearOptions { compute: Compute::HIFI2, ..LinearOptions::default() })
    }),
    ("linear, many rows, f32", |m| {
        let (x, w) = (
            random(m, [1, 1, 1024, 256], Format::Bf16, 5)?,
            random(m, [1, 1, 256, 512], Format::Bf16, 6)?,
        );
        x.linear(&w, None, LinearOptions { format: Format::F32, ..LinearOptions::default() })
    }),
    ("layer_norm", |m| {
        let (x, w) = (
            random(m, [1, 1, 261, 1024], Format::Bf16, 8)?,
            random(m, [1, 1, 1, 1024], Format::Bf16, 9)?,
        );
        x.layer_norm(&w, Some(&w), 1e-6, Compute::default())
    }),
    ("rms_norm", |m| {
        let (x, w) = (
            random(m, [1, 1, 288, 4096], Format::Bf16, 8)?,
            random(m, [1, 1, 1, 4096], Format::Bf16, 9)?,
        );
        x.rms_norm(&w, 1e-6, Compute::default())
    }),
    ("rope, pairs", |m| {
        let (x, t) = (
            random(m, [1, 4, 64, 128], Format::Bf16, 10)?,
            random(m, [1, 1, 64, 128], Format::Bf16, 11)?,
        );
        x.rope(&t, &t, RopeOrder::Pairs, Compute::default())
    }),
    ("rope, pairs, one row", |m| {
        let (x, t) = (
            random(m, [1, 4, 1, 128], Format::Bf16, 10)?,
            random(m, [1, 1, 1, 128], Format::Bf16, 11)?,
        );
        x.rope(&t, &t, RopeOrder::Pairs, Compute::default())
    }),
    ("rope, half", |m| {
        let (x, t) = (
            random(m, [1, 4, 64, 128], Format::Bf16, 10)?,
            random(m, [1, 1, 64, 128], Format::Bf16, 11)?,
        );
        x.rope(&t, &t, RopeOrder::Half, Compute::default())
    }),
    ("split_heads", |m| {
        random(m, [1, 1, 288, 1536], Format::Bf16, 12)?.split_heads(4, 4).map(|[_, k, _]| k)
    }),
    ("concat_heads", |m| random(m, [1, 4, 288, 128], Format::Bf16, 13)?.concat_heads()),
    ("attention, full, 261 rows", |m| {
        let q = random(m, [1, 16, 261, 64], Format::Bf16, 14)?;
        q.attention(&q, &q, None, false, 0.125, Compute::default())
    }),
    ("attention, causal", |m| {
        let q = random(m, [1, 4, 288, 128], Format::Bf16, 14)?;
        q.attention(&q, &q, None, true, 0.088, Compute::default())
    }),
    ("attention, masked", |m| {
        let (q, k) = (
            random(m, [1, 4, 64, 128], Format::Bf16, 14)?,
            random(m, [1, 4, 320, 128], Format::Bf16, 15)?,
        );
        let mask = m.zeros([1, 1, 64, 320], Format::Bf16, Layout::Tile)?;
        q.attention(&k, &k, Some(&mask), false, 0.088, Compute::default())
    }),
    ("attention_decode", |m| {
        let (q, k) = (
            random(m, [1, 4, 1, 128], Format::Bf16, 14)?,
            random(m, [1, 4, 320, 128], Format::Bf16, 15)?,
        );
        q.attention_decode(&k, &k, &position(m, 283)?, 0.088, Compute::default())
    }),
    ("split_heads_decode", |m| {
        let row = random(m, [1, 1, 1, 1536], Format::Bf16, 12)?;
        row.split_heads_decode(4, 4).map(|[_, k, _]| k)
    }),
    ("rope, cache_update_pair and attention_decode of heads as rows", |m| {
        let [q, k, v] = random(m, [1, 1, 1, 1536], Format::Bf16, 12)?.split_heads_decode(4, 4)?;
        let angles = random(m, [1, 1, 32, 128], Format::Bf16, 11)?;
        let turn = |x: &Tensor| x.rope(&angles, &angles, RopeOrder::Half, Compute::default());
        let cache = || m.zeros([1, 4, 320, 128], Format::Bfp8B, Layout::Tile);
        let (keys, values, at) = (cache()?, cache()?, position(m, 300)?);
        Tensor::update_pair([&keys, &values], [&turn(&k)?, &v], &at)?;
        turn(&q)?.attention_decode(&keys, &values, &at, 0.088, Compute::default())
    }),
    ("cache_fill", |m| {
        let cache = m.zeros([1, 4, 320, 128], Format::Bf16, Layout::Tile)?;
        cache.cache_fill(&random(m, [1, 4, 288, 128], Format::Bf16, 16)?)?;
        Ok(cache)
    }),
    ("cache_fill, bfp8_b", |m| {
        let cache = m.zeros([1, 4, 320, 128], Format::Bfp8B, Layout::Tile)?;
        cache.cache_fill(&random(m, [1, 4, 288, 128], Format::Bf16, 16)?)?;
        Ok(cache)
    }),
    ("cache_update", |m| {
        let cache = m.zeros([1, 4, 320, 128], Format::Bf16, Layout::Tile)?;
        cache.cache_update(&random(m, [1, 4, 1, 128], Format::Bf16, 17)?, &position(m, 300)?)?;
        Ok(cache)
    }),
    ("embedding, one id", |m| {
        let table = random(m, [1, 1, 512, 4096], Format::Bf16, 18)?
            .convert(Format::Bf16, Layout::RowMajor)?;
        table.embedding(&words(m, &[77])?, Layout::Tile)
    }),
    ("embedding, 32 ids", |m| {
        let table = random(m, [1, 1, 512, 256], Format::Bf16, 18)?
            .convert(Format::Bf16, Layout::RowMajor)?;
        table.embedding(&words(m, &[5; 32])?, Layout::Tile)
    }),
    ("add", |m| {
        random(m, [1, 1, 288, 4096], Format::Bf16, 19)?.add(&random(
            m,
            [1, 1, 288, 4096],
            Format::Bf16,
            20,
        )?)
    }),
    ("sub, row spread", |m| {
        let (x, y) = (
            random(m, [1, 1, 64, 256], Format::Bf16, 19)?,
            random(m, [1, 1, 1, 256], Format::Bf16, 20)?,
        );
        x.combine(&y, Combine::Sub, Activation::None, Format::Bf16)
    }),
    ("silu_mul", |m| {
        random(m, [1, 1, 288, 1376], Format::Bf16, 19)?.silu_mul(&random(
            m,
            [1, 1, 288, 1376],
            Format::Bf16,
            20,
        )?)
    }),
    ("gelu", |m| random(m, [1, 1, 64, 256], Format::Bf16, 21)?.activate(Activation::Gelu)),
    ("silu", |m| random(m, [1, 1, 64, 256], Format::Bf16, 21)?.activate(Activation::Silu)),
    ("relu", |m| random(m, [1, 1, 64, 256], Format::Bf16, 21)?.activate(Activation::Relu)),
    ("increment", |m| {
        let at = position(m, 41)?;
        at.increment(1)?;
        Ok(at)
    }),
    ("concat rows", |m| {
        Tensor::concat(
            &[
                &random(m, [1, 1, 5, 256], Format::Bf16, 22)?,
                &random(m, [1, 1, 256, 256], Format::Bf16, 23)?,
            ],
            2,
        )
    }),
    ("concat columns", |m| {
        Tensor::concat(
            &[
                &random(m, [1, 1, 256, 1024], Format::Bf16, 22)?,
                &random(m, [1, 1, 256, 1152], Format::Bf16, 23)?,
            ],
            3,
        )
    }),
    ("slice rows", |m| {
        random(m, [1, 1, 261, 1024], Format::Bf16, 24)?.slice([0, 0, 5, 0], [1, 1, 261, 1024])
    }),
    ("slice one row", |m| {
        random(m, [1, 1, 288, 4096], Format::Bf16, 24)?.slice([0, 0, 274, 0], [1, 1, 275, 4096])
    }),
    ("reshape", |m| random(m, [1, 4, 32, 64], Format::Bf16, 25)?.reshape([1, 1, 128, 64])),
    ("transpose", |m| random(m, [1, 2, 64, 96], Format::Bf16, 26)?.transpose()),
    ("convert to bfp8_b", |m| {
        random(m, [1, 1, 64, 96], Format::Bf16, 27)?.convert(Format::Bfp8B, Layout::Tile)
    }),
    ("convert to rows", |m| {
        random(m, [1, 1, 45, 96], Format::Bf16, 27)?.convert(Format::Bf16, Layout::RowMajor)
    }),
    ("copy", |m| {
        let target = m.zeros([1, 1, 1, 4096], Format::Bf16, Layout::Tile)?;
        random(m, [1, 1, 1, 4096], Format::Bf16, 28)?.copy_to(&target)?;
        Ok(target)
    }),
    ("argmax", |m| random(m, [1, 1, 1, 256], Format::F32, 29)?.argmax(0..256)),
    ("all_gather", |m| sharded(m, [1, 1, 32, 1024], 3, 30)?.all_gather(3)),
    ("reduce_scatter", |m| random(m, [1, 1, 32, 1024], Format::Bf16, 31)?.reduce_scatter(3)),
    ("all_reduce", |m| random(m, [1, 1, 288, 4096], Format::Bf16, 32)?.all_reduce()),
    ("partition", |m| random(m, [1, 1, 32, 1024], Format::Bf16, 33)?.partition(3)),
    ("kernel: image_patches", |m| {
        let bytes: Vec<u8> =
            noise(224 * 672, 34).into_iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
        let image = m.upload(
            HostArray::u8(&bytes, [1, 1, 224, 672]),
            Distribution::Replicate,
            Format::U8,
            Layout::RowMajor,
        )?;
        let out = m.empty([1, 1, 256, 588], Format::Bf16, Layout::Tile)?;
        image_patches(m, &image, &out, 14)?;
        Ok(out)
    }),
    ("kernel: narrow_matmul", |m| {
        let (x, w) = (
            random(m, [1, 1, 1, 4096], Format::Bf16, 35)?,
            random(m, [1, 1, 4096, 256], Format::Bf16, 36)?,
        );
        let out = m.empty([1, 1, 1, 256], Format::F32, Layout::Tile)?;
        narrow_matmul(m, &x, &w, &out, Compute::default())?;
        Ok(out)
    }),
    ("kernel: pick_action", |m| {
        let rows = |data: &[f32], dims, format| {
            m.upload(HostArray::f32(data, dims), Distribution::Replicate, format, Layout::RowMajor)
        };
        let logits = random(m, [1, 1, 1, 256], Format::F32, 37)?;
        let centres = rows(&noise(255, 38), [1, 1, 1, 255], Format::F32)?;
        let table = rows(&noise(256 * 1024, 39), [1, 1, 256, 1024], Format::Bf16)?;
        let row = m.empty([1, 1, 1, 1024], Format::Bf16, Layout::Tile)?;
        let result = m.empty([1, 1, 1, 8], Format::U32, Layout::RowMajor)?;
        let (first_id, end_id) = (0, 256);
        pick_action(
            m,
            PickAction {
                logits: &logits,
                centres: &centres,
                table: &table,
                row: &row,
                result: &result,
                first_id,
                end_id,
            },
        )?;
        Ok(row)
    }),
    ("kernel: scan_logits, pick_candidate", |m| {
        let rows = |data: &[f32], dims, format| {
            m.upload(HostArray::f32(data, dims), Distribution::Replicate, format, Layout::RowMajor)
        };
        // The same logits on every chip, as those of one shard after the other.
        let logits = random(m, [1, 1, 1, 4032], Format::F32, 40)?;
        let places: Vec<u32> =
            (0..m.chips() as u32).flat_map(|chip| [4032 * chip, 4008, 0, 0, 0, 0, 0, 0]).collect();
        let shard = m.upload(
            HostArray::u32(&places, [1, m.chips(), 1, 8]),
            Distribution::Shard(1),
            Format::U32,
            Layout::RowMajor,
        )?;
        let own = m.empty(CANDIDATES, Format::F32, Layout::Tile)?;
        scan_logits(m, ScanLogits { logits: &logits, shard: &shard, candidates: &own })?;
        let candidates = own.all_gather(3)?;
        let count = 4032 * m.chips();
        let centres = rows(&noise(255, 38), [1, 1, 1, 255], Format::F32)?;
        let table = rows(&noise(count * 32, 39), [1, 1, count, 32], Format::Bf16)?;
        let row = m.empty([1, 1, 1, 32], Format::Bf16, Layout::Tile)?;
        let result = m.empty([1, 1, 1, 8], Format::U32, Layout::RowMajor)?;
        pick_candidate(
            m,
            PickCandidate {
                candidates: &candidates,
                count,
                centres: &centres,
                table: &table,
                row: &row,
                result: &result,
                first_id: 0,
                end_id: count as u32,
            },
        )?;
        Ok(row)
    }),
    // Operations of traced actions, see the model's backend.
    ("words: shift register", |m| {
        let chosen = m.zeros([1, 1, 7, 8], Format::U32, Layout::RowMajor)?;
        let newest = words(m, &[1, 2, 3, 4, 5, 6, 7, 8])?;
        let kept = chosen.slice([0, 0, 1, 0], [1, 1, 7, 8])?;
        Tensor::concat(&[&kept, &newest], 2)?.copy_to(&chosen)?;
        Ok(chosen)
    }),
    ("words: register of indices", |m| {
        let chosen = m.zeros([1, 1, 7, 1], Format::U32, Layout::RowMajor)?;
        let kept = chosen.slice([0, 0, 1, 0], [1, 1, 7, 1])?;
        Tensor::concat(&[&kept, &words(m, &[9])?], 2)?.copy_to(&chosen)?;
        Ok(chosen)
    }),
    ("words: copy and count", |m| {
        let (begin, at) = (words(m, &[276])?, words(m, &[0])?);
        begin.copy_to(&at)?;
        at.increment(1)?;
        Ok(at)
    }),
    ("rotation looked up by a counted position", |m| {
        let table = random(m, [1, 1, 288, 128], Format::Bf16, 41)?
            .convert(Format::Bf16, Layout::RowMajor)?;
        table.embedding(&words(m, &[277])?, Layout::Tile)
    }),
    ("rows of a table, row-major", |m| {
        let data = noise(512 * 1024, 42);
        let array = HostArray::f32(&data, [1, 1, 512, 1024]);
        let table = m.upload(array, Distribution::Replicate, Format::Bf16, Layout::RowMajor)?;
        table.slice([0, 0, 256, 0], [1, 1, 512, 1024])
    }),
    ("one row summed as whole tiles", |m| {
        let x = random(m, [1, 1, 1, 4096], Format::Bf16, 43)?;
        x.reshape([1, 1, 32, 128])?.all_reduce()?.reshape([1, 1, 1, 4096])
    }),
    ("one row of bfp8_b summed as whole tiles", |m| {
        let x = random(m, [1, 1, 1, 4096], Format::Bfp8B, 44)?;
        x.reshape([1, 1, 32, 128])?.all_reduce()?.reshape([1, 1, 1, 4096])
    }),
    ("image renewed", |m| {
        let bytes: Vec<u8> = (0..28 * 84).map(|i| i as u8).collect();
        let array = HostArray::u8(&bytes, [1, 1, 28, 84]);
        let image = m.upload(array, Distribution::Replicate, Format::U8, Layout::RowMajor)?;
        image.write(array, Distribution::Replicate)?;
        let out = m.empty([1, 1, 4, 588], Format::Bf16, Layout::Tile)?;
        image_patches(m, &image, &out, 14)?;
        Ok(out)
    }),
    ("trace: capture", |m| {
        let x = random(m, [1, 1, 32, 64], Format::Bf16, 40)?;
        x.add(&x)?;
        let (trace, out) = m.capture(|| x.add(&x))?;
        // A mock cluster cannot execute a trace.
        if m.info().simulated && !m.provider_name().contains("tt-mesh-sim") {
            drop((trace, out));
            return x.add(&x);
        }
        trace.execute(true)?;
        Ok(out)
    }),
];

/// Uses that both must refuse.
const REFUSALS: &[Check] = &[
    ("linear of unequal depths", |m| {
        random(m, [1, 1, 32, 64], Format::Bf16, 1)?.linear(
            &random(m, [1, 1, 96, 32], Format::Bf16, 2)?,
            None,
            LinearOptions::default(),
        )
    }),
    ("linear of a row-major tensor", |m| {
        let x =
            random(m, [1, 1, 32, 64], Format::Bf16, 1)?.convert(Format::Bf16, Layout::RowMajor)?;
        x.linear(&random(m, [1, 1, 64, 32], Format::Bf16, 2)?, None, LinearOptions::default())
    }),
    ("attention of head dimension 72", |m| {
        let q = random(m, [1, 4, 64, 72], Format::Bf16, 3)?;
        q.attention(&q, &q, None, false, 1.0, Compute::default())
    }),
    ("attention of f32", |m| {
        let q = random(m, [1, 4, 64, 64], Format::F32, 3)?;
        q.attention(&q, &q, None, false, 1.0, Compute::default())
    }),
    ("causal attention of unequal lengths", |m| {
        let (q, k) = (
            random(m, [1, 4, 32, 64], Format::Bf16, 3)?,
            random(m, [1, 4, 64, 64], Format::Bf16, 3)?,
        );
        q.attention(&k, &k, None, true, 1.0, Compute::default())
    }),
    ("rope by halves of head dimension 32", |m| {
        let (x, t) = (
            random(m, [1, 4, 32, 32], Format::Bf16, 4)?,
            random(m, [1, 1, 32, 32], Format::Bf16, 5)?,
        );
        x.rope(&t, &t, RopeOrder::Half, Compute::default())
    }),
    ("rope by pairs of f32", |m| {
        let (x, t) = (
            random(m, [1, 4, 32, 64], Format::F32, 4)?,
            random(m, [1, 1, 32, 64], Format::Bf16, 5)?,
        );
        x.rope(&t, &t, RopeOrder::Pairs, Compute::default())
    }),
    ("split_heads of head dimension 16", |m| {
        random(m, [1, 1, 32, 192], Format::Bf16, 6)?.split_heads(4, 4).map(|[q, ..]| q)
    }),
    ("embedding from a tiled f32 table", |m| {
        random(m, [1, 1, 64, 64], Format::F32, 7)?.embedding(&words(m, &[1; 32])?, Layout::Tile)
    }),
    ("bfp8_b in rows", |m| m.zeros([1, 1, 32, 32], Format::Bfp8B, Layout::RowMajor)),
    ("layer norm by a weight of another width", |m| {
        random(m, [1, 1, 32, 64], Format::Bf16, 8)?.layer_norm(
            &random(m, [1, 1, 1, 96], Format::Bf16, 9)?,
            None,
            1e-6,
            Compute::default(),
        )
    }),
    ("add of unequal widths", |m| {
        random(m, [1, 1, 32, 64], Format::Bf16, 8)?.add(&random(
            m,
            [1, 1, 32, 96],
            Format::Bf16,
            9,
        )?)
    }),
    ("concat of unequal heights", |m| {
        Tensor::concat(
            &[
                &random(m, [1, 1, 32, 64], Format::Bf16, 8)?,
                &random(m, [1, 1, 64, 64], Format::Bf16, 9)?,
            ],
            3,
        )
    }),
    ("cache_fill of other heads", |m| {
        let cache = m.zeros([1, 4, 64, 64], Format::Bf16, Layout::Tile)?;
        cache.cache_fill(&random(m, [1, 2, 32, 64], Format::Bf16, 8)?)?;
        Ok(cache)
    }),
];

/// Host packing is exact: the bytes must be those of the provider's own packer.
fn same_packing(provider: &Provider) -> Result<Vec<(Format, usize, usize)>> {
    // Sizes over 60 binary orders, exact ties, zeros and denormals.
    let mut data = noise(128 * 96, 50);
    for (at, value) in data.iter_mut().enumerate() {
        match at % 7 {
            0 => *value *= 2f32.powi((at % 61) as i32 - 30),
            1 => *value = ((at % 509) as f32 - 254.0) / 128.0,
            2 => *value = if at % 2 == 0 { 0.0 } else { -f32::MIN_POSITIVE / 4.0 },
            _ => {}
        }
    }
    let array = HostArray::f32(&data, [1, 1, 128, 96]);
    let ours = Provider::linked(tt_mesh_sim::api());
    [Format::F32, Format::Bf16, Format::Bfp8B, Format::Bfp4B]
        .into_iter()
        .map(|format| {
            let found = tt_metal::pack(provider, array, Distribution::Shard(2), 2, format)?;
            let expected = tt_metal::pack(&ours, array, Distribution::Shard(2), 2, format)?;
            let different = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            Ok((format, different + found.len().abs_diff(expected.len()), found.len()))
        })
        .collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let scale: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    if a.len() == b.len() { (error / scale.max(1e-30)).sqrt() } else { f64::INFINITY }
}

fn compare(
    device: &Mesh,
    simulated: &Mesh,
    run: fn(&Mesh) -> Result<Tensor>,
    silicon: bool,
) -> Result<(bool, String)> {
    let (found, expected) = (run(device)?, run(simulated)?);
    if found.spec() != expected.spec() {
        return Ok((false, format!("is {found:?}, expected {expected:?}")));
    }
    let values_found = values(&found)?;
    if !silicon {
        return Ok((true, format!("accepted, {found:?}")));
    }
    let distance = distance(&values_found, &values(&expected)?);
    Ok((distance <= BOUND, format!("distance {distance:.1e}")))
}

fn check(name: &str) -> Result<bool> {
    let target: Target = name.parse()?;
    let options = MeshOptions { trace_region_bytes: 8 << 20, ..MeshOptions::default() };
    let provider = find_provider(target.provider)?;
    let device = Mesh::open(&provider, target.board, options)?;
    let simulated = Mesh::open(&Provider::linked(tt_mesh_sim::api()), target.board, options)?;
    println!("{}: {:?}", device.provider_name(), device.info());
    let silicon = !device.info().simulated || device.provider_name().contains("tt-mesh-sim");
    let mut good = true;
    for (what, run) in CHECKS {
        let (ok, text) = compare(&device, &simulated, *run, silicon)
            .unwrap_or_else(|error| (false, error.to_string()));
        good &= ok;
        println!("{} {what}: {text}", if ok { "ok  " } else { "FAIL" });
    }
    for (what, run) in REFUSALS {
        let (there, here) = (run(&device).err(), run(&simulated).err());
        let ok = there.is_some() && here.is_some();
        good &= ok;
        let text =
            |error: Option<Error>| error.map_or("ACCEPTED".into(), |error| error.to_string());
        println!(
            "{} refuses {what}: {} | simulated: {}",
            if ok { "ok  " } else { "FAIL" },
            text(there),
            text(here)
        );
    }
    for (format, different, of) in same_packing(&provider)? {
        good &= different == 0;
        println!(
            "{} packs {format}: {different} of {of} bytes differ",
            if different == 0 { "ok  " } else { "FAIL" }
        );
    }
    // More memory than any board has.
    let huge = device.empty([1, 1, 1 << 18, 1 << 17], Format::Bf16, Layout::Tile);
    let ran_out = matches!(&huge, Err(error) if error.kind() == Some(tt_metal::Kind::OutOfMemory));
    println!(
        "{} out of memory: {}",
        if ran_out { "ok  " } else { "FAIL" },
        huge.err().map_or("not refused".into(), |e| e.to_string())
    );
    println!("memory of chip 0: {:?}", device.memory(0)?);
    device.close()?;
    Ok(good && ran_out)
}

fn main() -> std::process::ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: device-check DEVICE, one of {}", Target::names());
        return 2.into();
    };
    match check(&name) {
        Ok(true) => 0.into(),
        Ok(false) => 1.into(),
        Err(error @ Error::Target { .. }) => {
            eprintln!("{error}");
            2.into()
        }
        Err(error) => {
            eprintln!("{error}");
            1.into()
        }
    }
}
