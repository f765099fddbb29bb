//! What silicon would punish later is refused at once, by kind and with a line that names value and
//! remedy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks)] // the ABI is called as a careless C program would

mod common;
use common::*;
use tt_metal::{
    Board, Compute, Distribution, Error, Format, HostArray, Kind, Layout, LinearOptions, Mesh,
    MeshOptions, RopeOrder, Tensor,
};

#[track_caller]
fn refused<T>(result: Result<T, Error>, kind: Kind, words: &str) {
    let Err(error) = result else { panic!("not refused: {words}") };
    let line = error.to_string();
    assert_eq!(error.kind(), Some(kind), "{line}");
    assert!(line.contains(words) && !line.contains('\n'), "{line}");
}

fn limited(bytes: u64) -> Mesh {
    Mesh::open(
        &provider(),
        Board::N300,
        MeshOptions { trace_region_bytes: 0, dram_limit_bytes: Some(bytes), command_queues: 1 },
    )
    .unwrap()
}

#[test]
fn freed_and_foreign_handles() {
    let api = tt_mesh_sim::api();
    let (first, second) = (mesh(Board::N150), mesh(Board::N150));
    let (a, b) = (
        random(&first, [1, 1, 32, 32], Format::Bf16, 1),
        random(&second, [1, 1, 32, 32], Format::Bf16, 1),
    );
    refused(a.add(&b), Kind::BadHandle, "it belongs to another mesh");
    // The safe crate has no way to use a freed tensor, so the ABI is called directly.
    let mut config = tt_metal_sys::MeshConfig {
        struct_size: 0,
        board: 1,
        trace_region_bytes: 0,
        dram_limit_bytes: 0,
        command_queues: 1,
        reserved: 0,
    };
    let spec = tt_metal_sys::Spec { dims: [1, 1, 32, 32], format: 1, layout: 1 };
    let last = || unsafe {
        std::ffi::CStr::from_ptr((api.ttp_last_error)()).to_str().unwrap().to_string()
    };
    let (mut mesh, mut tensor, mut out) = (0, 0, 0);
    unsafe {
        assert_eq!(
            (api.ttp_mesh_open)(&raw const config, &raw mut mesh),
            tt_metal_sys::TTP_INVALID_ARGUMENT
        );
        assert!(last().contains("built against another header"), "{}", last());
        config.struct_size = size_of::<tt_metal_sys::MeshConfig>() as u32;
        assert_eq!((api.ttp_mesh_open)(&raw const config, &raw mut mesh), 0);
        assert_eq!((api.ttp_tensor_create)(mesh, &raw const spec, 1, &raw mut tensor), 0);
        assert_eq!((api.ttp_tensor_free)(tensor), 0);
        for (handle, why) in [
            (tensor, "it was freed"),
            (0, "its mesh is closed or was never opened"),
            (tensor + 99, "never given out"),
            (mesh, "never given out"),
        ] {
            assert_eq!((api.ttp_unary)(handle, 1, &raw mut out), tt_metal_sys::TTP_BAD_HANDLE);
            assert!(last().contains(why), "{why}: {}", last());
        }
        assert_eq!(
            (api.ttp_unary)(tensor, 1, std::ptr::null_mut()),
            tt_metal_sys::TTP_INVALID_ARGUMENT
        );
        assert_eq!(
            (api.ttp_tensor_create)(mesh, std::ptr::null(), 1, &raw mut tensor),
            tt_metal_sys::TTP_INVALID_ARGUMENT
        );
        assert!(last().contains("NULL"), "{}", last());
        assert_eq!((api.ttp_mesh_close)(mesh), 0);
        assert_eq!((api.ttp_mesh_close)(mesh), tt_metal_sys::TTP_BAD_HANDLE);
        assert_eq!((api.ttp_tensor_free)(tensor), tt_metal_sys::TTP_BAD_HANDLE);
        // Another thread's error text is its own.
        assert_eq!(
            std::thread::spawn(move || {
                std::ffi::CStr::from_ptr((api.ttp_last_error)()).to_bytes().len()
            })
            .join()
            .unwrap(),
            0
        );
    }
}

#[test]
fn unwritten_data() {
    let mesh = mesh(Board::N300);
    let empty = mesh.empty([1, 2, 32, 32], Format::Bf16, Layout::Tile).unwrap();
    refused(empty.read_f32(0), Kind::Unwritten, "nothing has written");
    refused(empty.add(&empty), Kind::Unwritten, "nothing has written");
    // Rows 0..4 are written: a position beyond them reads a hole, and so does the whole.
    let rows = random(&mesh, [1, 2, 4, 32], Format::Bf16, 1);
    empty.cache_fill(&rows).unwrap();
    let q = random(&mesh, [1, 2, 1, 32], Format::Bf16, 2);
    let position = |at: i32| {
        mesh.upload(
            HostArray::i32(&[at], [1; 4]),
            Distribution::Replicate,
            Format::I32,
            Layout::RowMajor,
        )
        .unwrap()
    };
    let decode =
        |at: i32| q.attention_decode(&empty, &empty, &position(at), 1.0, Compute::default());
    decode(3).unwrap();
    refused(decode(4), Kind::Unwritten, "row 4 of tensor");
    refused(empty.slice([0, 0, 2, 0], [1, 2, 6, 32]), Kind::Unwritten, "row 4");
    refused(empty.read_f32(1), Kind::Unwritten, "row 4");
    // Outside the cache altogether.
    let full = random(&mesh, [1, 2, 32, 32], Format::Bf16, 3);
    let beyond = q.attention_decode(&full, &full, &position(32), 1.0, Compute::default());
    refused(beyond, Kind::InvalidArgument, "position 32 is outside the cache of 32 rows");
    refused(empty.cache_update(&q, &position(-1)), Kind::InvalidArgument, "position -1");
}

#[test]
fn out_of_memory_is_reported_without_leak() {
    // Room for 12 tiles of bf16 in each of 12 banks.
    let mesh = limited(12 * 2048 * 12);
    let before = mesh.memory(0).unwrap();
    assert_eq!((before.total, before.allocated), (12 * 2048 * 12, 0));
    let x = random(&mesh, [1, 1, 32, 32 * 100], Format::Bf16, 1); // 9 tiles in a bank
    assert_eq!(mesh.memory(1).unwrap().allocated, 9 * 2048 * 12);
    refused(
        mesh.zeros([1, 1, 32, 32 * 37], Format::Bf16, Layout::Tile),
        Kind::OutOfMemory,
        "needs 98304 B of DRAM across 12 banks, 8192 B in each",
    );
    refused(x.add(&x), Kind::OutOfMemory, "largest free block 6144 B");
    // The same tensor in bfp8_b fits, in bfp4_b twice.
    let small = x.convert(Format::Bfp4B, Layout::Tile).unwrap();
    assert_eq!(mesh.memory(0).unwrap().allocated, 12 * 9 * (2048 + 576));
    drop((x, small));
    let after = mesh.memory(0).unwrap();
    assert_eq!(
        (after.allocated, after.largest_free, after.peak),
        (0, after.total, 12 * 9 * (2048 + 576))
    );
    refused(mesh.memory(2), Kind::InvalidArgument, "chip 2 does not exist");
}

#[test]
fn llama_layers_fit_the_memory() {
    // 12 GB are filled by account only: the host itself never needs them.
    let mesh = mesh(Board::N150);
    let mut layers: Vec<Tensor> = Vec::new();
    let error = loop {
        // One Llama layer's weights, as one matrix.
        match mesh.empty([1, 1, 4096, 49408], Format::Bfp8B, Layout::Tile) {
            Ok(tensor) => layers.push(tensor),
            Err(error) => break error,
        }
        assert!(layers.len() < 80);
    };
    assert_eq!(error.kind(), Some(Kind::OutOfMemory));
    // 215 MB each in bfp8_b: 32 layers would take 6.9 GB and fit, 59 are the most.
    assert_eq!(layers.len(), 59, "{error}");
}

#[test]
fn shapes_and_formats_that_ttnn_refuses() {
    let mesh = mesh(Board::N300);
    let bad = |result: tt_metal::Result<Tensor>, words: &str| {
        refused(result, Kind::InvalidArgument, words)
    };
    let x = random(&mesh, [1, 1, 32, 96], Format::Bf16, 1);
    let rows = x.convert(Format::Bf16, Layout::RowMajor).unwrap();
    let options = LinearOptions::default();
    bad(x.linear(&x, None, options), "x has 96 columns and w 32 rows");
    bad(rows.linear(&x, None, options), "TILE layout");
    bad(
        x.linear(&random(&mesh, [1, 1, 96, 32], Format::Bf16, 1), Some(&x), options),
        "bias must be [1, 1, 1, 32]",
    );
    bad(mesh.zeros([1, 1, 32, 32], Format::Bfp8B, Layout::RowMajor), "exists only in tiles");
    bad(mesh.zeros([1, 0, 32, 32], Format::Bf16, Layout::Tile), "is empty");
    bad(
        mesh.zeros([1 << 30, 1 << 30, 1 << 30, 1 << 30], Format::Bf16, Layout::Tile),
        "larger than any chip",
    );
    // SigLIP's head dimension is 72, DINOv2's tiny one 16: they must be padded.
    let heads = random(&mesh, [1, 4, 32, 72], Format::Bf16, 1);
    bad(
        heads.attention(&heads, &heads, None, false, 1.0, Compute::default()),
        "head dimension 72 is not a multiple of 32",
    );
    bad(
        random(&mesh, [1, 1, 32, 48], Format::Bf16, 1).split_heads(1, 1).map(|[q, _, _]| q),
        "head dimension 16",
    );
    let (q, k) = (
        random(&mesh, [1, 2, 32, 32], Format::Bf16, 1),
        random(&mesh, [1, 2, 64, 32], Format::Bf16, 1),
    );
    bad(
        q.attention(&k, &k, None, true, 1.0, Compute::default()),
        "as many queries (32) as keys (64)",
    );
    bad(
        k.attention(
            &k,
            &random(&mesh, [1, 1, 64, 32], Format::Bf16, 1),
            None,
            false,
            1.0,
            Compute::default(),
        ),
        "k is [1, 2, 64, 32]",
    );
    let floats = random(&mesh, [1, 2, 32, 32], Format::F32, 1);
    bad(
        floats.attention(&floats, &floats, None, false, 1.0, Compute::default()),
        "must be BF16, BFP8_B or BFP4_B",
    );
    let table = random(&mesh, [1, 1, 32, 32], Format::Bf16, 1);
    bad(q.rope(&table, &table, RopeOrder::Half, Compute::default()), "not a multiple of 64");
    let row = random(&mesh, [1, 1, 1, 3 * 32 * 33], Format::Bf16, 31);
    bad(row.split_heads_decode(33, 33).map(|[q, ..]| q), "33 query heads are more than 32");
    let many = random(&mesh, [1, 1, 2, 96], Format::Bf16, 32);
    bad(many.split_heads_decode(1, 1).map(|[q, ..]| q), "must be one row");
    bad(floats.rope(&table, &table, RopeOrder::Pairs, Compute::default()), "must be BF16");
    bad(q.rope(&k, &k, RopeOrder::Pairs, Compute::default()), "must be [1, 1, 32, 32]");
    let ids = |data: &[u32]| {
        mesh.upload(
            HostArray::u32(data, [1, 1, 1, data.len()]),
            Distribution::Replicate,
            Format::U32,
            Layout::RowMajor,
        )
        .unwrap()
    };
    let words = table.convert(Format::Bf16, Layout::RowMajor).unwrap();
    bad(words.embedding(&ids(&[1, 2]), Layout::Tile), "2 ids cannot become tiles");
    bad(words.embedding(&ids(&[32]), Layout::RowMajor), "id 32 is outside the table of 32 rows");
    bad(table.embedding(&ids(&[1]), Layout::RowMajor), "table must be BF16");
    bad(x.argmax(90..97), "columns 90..97 are not a part of 96");
    bad(x.slice([0; 4], [1, 1, 33, 1]), "is not a part of");
    bad(x.reshape([1, 1, 1, 3]), "3072 elements");
    bad(
        x.add(&random(&mesh, [1, 1, 32, 95], Format::Bf16, 1)),
        "each dimension must be equal or 1",
    );
    bad(Tensor::concat(&[&x, &rows], 2), "does not continue");
    bad(
        ids(&[1]).convert(Format::Bf16, Layout::RowMajor),
        "not a conversion between float formats",
    );
    bad(
        random(&mesh, [1, 1, 31, 32], Format::Bf16, 1).reduce_scatter(2),
        "does not split over 2 chips",
    );
    bad(
        mesh.upload(
            HostArray::f32(&[0.0; 31], [1, 1, 1, 31]),
            Distribution::Shard(3),
            Format::Bf16,
            Layout::Tile,
        ),
        "does not split over 2 chips; pad it",
    );
    bad(
        mesh.upload(
            HostArray::f32(&[0.0; 31], [1, 1, 1, 32]),
            Distribution::Replicate,
            Format::Bf16,
            Layout::Tile,
        ),
        "has 128 bytes, not 124",
    );
    bad(
        mesh.upload(
            HostArray::f32(&[f32::NAN; 32], [1, 1, 1, 32]),
            Distribution::Replicate,
            Format::Bfp8B,
            Layout::Tile,
        ),
        "NaN or infinity",
    );
    bad(x.layer_norm(&x, None, 1e-6, Compute::default()), "must be [1, 1, 1, 96]");
    bad(
        x.rms_norm(&random(&mesh, [1, 1, 1, 96], Format::Bf16, 1), 0.0, Compute::default()),
        "eps 0 is not a positive number",
    );
    let nan = mesh
        .upload(
            HostArray::f32(&[0.0, f32::NAN], [1, 1, 1, 2]),
            Distribution::Replicate,
            Format::F32,
            Layout::Tile,
        )
        .unwrap();
    bad(nan.argmax(0..2), "NaN in row 0, column 1");
    refused(x.copy_to(&q), Kind::InvalidArgument, "copy");
    // Nothing of all this has left a tensor behind.
    let held = mesh.memory(0).unwrap().allocated;
    bad(x.linear(&x, None, options), "columns");
    assert_eq!(mesh.memory(0).unwrap().allocated, held);
}

/// TT-NN refuses a mask whose rows or keys its chunks do not divide.
#[test]
fn masks_need_whole_chunks() {
    let mesh = mesh(Board::N150);
    let heads = |rows: usize, seed| random(&mesh, [1, 2, rows, 32], Format::Bf16, seed);
    let attend = |rows: usize, keys: usize, format| {
        let (q, k) = (heads(rows, 1), heads(keys, 2));
        let mask = mesh.zeros([1, 1, rows, keys], format, Layout::Tile).unwrap();
        q.attention(&k, &k, Some(&mask), false, 1.0, Compute::default())
    };
    let invalid = Kind::InvalidArgument;
    refused(attend(51, 64, Format::Bf16), invalid, "do not divide 51 queries");
    refused(attend(64, 70, Format::Bf16), invalid, "do not divide 70 keys");
    refused(attend(64, 64, Format::F32), invalid, "mask must be BF16");
    attend(96, 160, Format::Bf16).unwrap();
}
