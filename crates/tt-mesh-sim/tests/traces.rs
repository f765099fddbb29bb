//! Traces: execution repeats the capture, and every rule of traces is enforced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::undocumented_unsafe_blocks)] // the ABI is called as a careless C program would

mod common;
use common::*;
use tt_metal::{
    Board, Compute, Distribution, Error, Format, HostArray, Kind, Layout, LinearOptions, Mesh,
    MeshOptions, Tensor,
};

#[track_caller]
fn refused<T>(result: Result<T, Error>, kind: Kind, words: &str) {
    let Err(error) = result else { panic!("not refused: {words}") };
    assert_eq!(error.kind(), Some(kind), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

struct Network {
    x: Tensor,
    w: Tensor,
}

impl Network {
    fn new(mesh: &Mesh) -> Self {
        Self {
            x: random(mesh, [1, 1, 32, 64], Format::Bf16, 1),
            w: random(mesh, [1, 1, 64, 64], Format::Bf16, 2),
        }
    }

    fn run(&self) -> tt_metal::Result<Tensor> {
        let hidden = self.x.linear(&self.w, None, LinearOptions::default())?;
        let sum = hidden.all_reduce()?;
        self.x.add(&sum.silu_mul(&hidden)?)
    }
}

#[test]
fn trace_equals_eager_with_new_inputs() {
    for &board in BOARDS {
        let mesh = mesh(board);
        let network = Network::new(&mesh);
        let eager = network.run().unwrap().read_f32(0).unwrap();
        let (trace, output) = mesh.capture(|| network.run()).unwrap();
        refused(output.read_f32(0), Kind::Unwritten, "nothing has written");
        trace.execute(true).unwrap();
        assert_eq!(same_everywhere(&output), eager);
        let other = gaussian(32 * 64, 9);
        network.x.write(HostArray::f32(&other, [1, 1, 32, 64]), Distribution::Replicate).unwrap();
        trace.execute(false).unwrap();
        let second = output.read_f32(0).unwrap();
        assert_ne!(second, eager);
        assert_eq!(network.run().unwrap().read_f32(0).unwrap(), second);
    }
}

/// A loop that the device closes itself: position, cache and state advance with every run.
#[test]
fn state_advances_from_run_to_run() {
    let mesh = mesh(Board::N300);
    let cache = mesh.empty([1, 1, 32, 32], Format::Bf16, Layout::Tile).unwrap();
    let row = random(&mesh, [1, 1, 1, 32], Format::Bf16, 3);
    let zero = HostArray::i32(&[0], [1; 4]);
    let position =
        mesh.upload(zero, Distribution::Replicate, Format::I32, Layout::RowMajor).unwrap();
    let step = || {
        cache.cache_update(&row, &position)?;
        let seen = row.attention_decode(&cache, &cache, &position, 1.0, Compute::default())?;
        seen.add(&row)?.copy_to(&row)?;
        position.increment(1)
    };
    step().unwrap();
    let start = gaussian(32, 3);
    row.write(HostArray::f32(&start, [1, 1, 1, 32]), Distribution::Replicate).unwrap();
    position.write(zero, Distribution::Replicate).unwrap();
    let (trace, ()) = mesh.capture(step).unwrap();
    assert_eq!(position.read_u32(0).unwrap(), [0]);
    for run in 1..=5 {
        trace.execute(true).unwrap();
        assert_eq!(position.read_u32(1).unwrap(), [run]);
    }
    let traced = row.read_f32(1).unwrap();
    row.write(HostArray::f32(&start, [1, 1, 1, 32]), Distribution::Replicate).unwrap();
    position.write(zero, Distribution::Replicate).unwrap();
    (0..5).for_each(|_| step().unwrap());
    assert_eq!(row.read_f32(0).unwrap(), traced);
}

#[test]
fn what_a_capture_forbids() {
    let mesh = mesh(Board::N150);
    let network = Network::new(&mesh);
    let forbidden =
        |result: tt_metal::Result<()>, words: &str| refused(result, Kind::TraceRule, words);
    forbidden(
        mesh.capture(|| network.run().map(drop)).map(drop),
        "was not compiled before the capture",
    );
    network.run().unwrap();
    let data = [0.0; 32 * 64];
    let array = HostArray::f32(&data, [1, 1, 32, 64]);
    forbidden(mesh.capture(|| network.x.read_f32(0)).map(drop), "reading a tensor");
    forbidden(
        mesh.capture(|| network.x.write(array, Distribution::Replicate)).map(drop),
        "writing a tensor",
    );
    forbidden(
        mesh.capture(|| mesh.upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile))
            .map(drop),
        "uploading a tensor",
    );
    forbidden(
        mesh.capture(|| mesh.zeros([1, 1, 32, 32], Format::Bf16, Layout::Tile)).map(drop),
        "creating a tensor",
    );
    forbidden(mesh.capture(|| mesh.synchronize()).map(drop), "synchronizing");
    forbidden(
        mesh.capture(|| mesh.capture(|| Ok(())).map(drop)).map(drop),
        "capturing another trace",
    );
    // Another shape is another program.
    let longer = random(&mesh, [1, 1, 64, 64], Format::Bf16, 4);
    forbidden(
        mesh.capture(|| longer.linear(&network.w, None, LinearOptions::default())).map(drop),
        "linear of [1, 1, 64, 64]",
    );
    // After every one of these the mesh is out of the capture and works.
    network.run().unwrap().read_f32(0).unwrap();
    let without = Mesh::open(
        &provider(),
        Board::N150,
        MeshOptions { trace_region_bytes: 0, ..MeshOptions::default() },
    )
    .unwrap();
    forbidden(without.capture(|| Ok(())).map(drop), "set trace_region_bytes");
}

/// Four operations of about 16 KiB each do not fit 96 KiB twice.
#[test]
fn traces_share_their_region() {
    let options = MeshOptions { trace_region_bytes: 96 << 10, ..MeshOptions::default() };
    let mesh = Mesh::open(&provider(), Board::N300, options).unwrap();
    let network = Network::new(&mesh);
    let eager = network.run().unwrap().read_f32(0).unwrap();
    let before = mesh.memory(0).unwrap().allocated;
    let first = mesh.capture(|| network.run()).unwrap();
    let allocated = mesh.memory(0).unwrap().allocated;
    let second = mesh.capture(|| network.run()).map(drop);
    refused(second, Kind::TraceRule, "65536 B and other traces 65536 B, more than");
    // What the refused trace would have kept is free again, and the first one works.
    assert_eq!(mesh.memory(0).unwrap().allocated, allocated);
    first.0.execute(true).unwrap();
    assert_eq!(first.1.read_f32(0).unwrap(), eager);
    drop(first);
    assert_eq!(mesh.memory(0).unwrap().allocated, before);
    mesh.capture(|| network.run()).unwrap().0.execute(true).unwrap();
}

#[test]
fn memory_of_a_trace_is_written_again() {
    let mesh = mesh(Board::N300);
    let network = Network::new(&mesh);
    network.run().unwrap();
    let before = mesh.memory(0).unwrap().allocated;
    let (trace, output) = mesh.capture(|| network.run()).unwrap();
    // Intermediates are free again, the output is not.
    assert_eq!(mesh.memory(0).unwrap().allocated, before + 12 * 2048);
    // A tensor allocated now has an intermediate's address: the next execution overwrites it.
    let later = random(&mesh, [1, 1, 32, 64], Format::Bf16, 5);
    later.read_f32(0).unwrap();
    trace.execute(true).unwrap();
    refused(later.read_f32(0), Kind::Unwritten, "writes the same addresses");
    output.read_f32(0).unwrap();
    // Written anew it is good again, until the next run.
    later.write(HostArray::f32(&[1.0; 32 * 64], [1, 1, 32, 64]), Distribution::Replicate).unwrap();
    later.add(&network.x).unwrap();
}

#[test]
fn stale_trace_is_refused() {
    // Through the safe wrapper, a trace keeps its inputs alive.
    let mesh = mesh(Board::N150);
    let network = Network::new(&mesh);
    let eager = network.run().unwrap().read_f32(0).unwrap();
    let (trace, output) = mesh.capture(|| network.run()).unwrap();
    let used = mesh.memory(0).unwrap().allocated;
    drop(network);
    assert_eq!(mesh.memory(0).unwrap().allocated, used);
    trace.execute(true).unwrap();
    assert_eq!(output.read_f32(0).unwrap(), eager);
    drop((trace, output));
    assert_eq!(mesh.memory(0).unwrap().allocated, 0);
    // Through the ABI, the freed input is named.
    let api = tt_mesh_sim::api();
    let config = tt_metal_sys::MeshConfig {
        struct_size: size_of::<tt_metal_sys::MeshConfig>() as u32,
        board: 1,
        trace_region_bytes: 1 << 20,
        dram_limit_bytes: 0,
        command_queues: 1,
        reserved: 0,
    };
    let spec = tt_metal_sys::Spec { dims: [1, 1, 32, 32], format: 1, layout: 1 };
    let [mut mesh, mut x, mut y, mut trace] = [0u64; 4];
    unsafe {
        assert_eq!((api.ttp_mesh_open)(&raw const config, &raw mut mesh), 0);
        assert_eq!((api.ttp_tensor_create)(mesh, &raw const spec, 1, &raw mut x), 0);
        assert_eq!((api.ttp_unary)(x, 1, &raw mut y), 0);
        assert_eq!((api.ttp_trace_begin)(mesh), 0);
        assert_eq!((api.ttp_unary)(x, 1, &raw mut y), 0);
        assert_eq!((api.ttp_trace_end)(mesh, &raw mut trace), 0);
        assert_eq!((api.ttp_trace_run)(trace, 1), 0);
        assert_eq!((api.ttp_tensor_free)(x), 0);
        assert_eq!((api.ttp_trace_run)(trace, 1), tt_metal_sys::TTP_TRACE_RULE);
        assert!(
            std::ffi::CStr::from_ptr((api.ttp_last_error)())
                .to_str()
                .unwrap()
                .contains("is stale: unary reads tensor")
        );
        assert_eq!((api.ttp_trace_free)(trace), 0);
        assert_eq!((api.ttp_trace_run)(trace, 1), tt_metal_sys::TTP_BAD_HANDLE);
        assert_eq!((api.ttp_mesh_close)(mesh), 0);
    }
}
