//! The safe wrapper: errors that cannot be returned where they happen, life times, names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};

use tt_metal::{
    Board, Distribution, Error, Format, HostArray, Kind, Layout, Mesh, MeshOptions, Provider,
    ProviderKind, Target, find_provider,
};

fn open(provider: &Provider) -> Mesh {
    Mesh::open(provider, Board::N300, MeshOptions::default()).unwrap()
}

fn linked() -> Provider {
    Provider::linked(tt_mesh_sim::api())
}

/// A provider whose device fails while tensors are freed.
static FREES: AtomicU32 = AtomicU32::new(0);
extern "C" fn failing_free(_: u64) -> i32 {
    FREES.fetch_add(1, Ordering::Relaxed);
    tt_metal_sys::TTP_DEVICE
}

#[test]
fn an_error_in_drop_is_returned_by_the_next_call() {
    let mut api = tt_mesh_sim::api();
    api.ttp_tensor_free = failing_free;
    let mesh = open(&Provider::linked(api));
    let tensor = mesh.zeros([1, 1, 32, 32], Format::Bf16, Layout::Tile).unwrap();
    let other = tensor.clone();
    drop(tensor);
    assert_eq!(FREES.load(Ordering::Relaxed), 0, "a clone is left");
    mesh.synchronize().unwrap();
    drop(other);
    assert_eq!(FREES.load(Ordering::Relaxed), 1);
    let error = mesh.synchronize().unwrap_err();
    assert_eq!(error.kind(), Some(Kind::Device), "{error}");
    assert!(error.to_string().contains("ttp_tensor_free"), "{error}");
    mesh.synchronize().unwrap();
}

#[test]
fn tensors_of_a_closed_mesh_are_refused() {
    let mesh = open(&linked());
    let tensor = mesh
        .upload(
            HostArray::f32(&[1.0; 64], [1, 1, 1, 64]),
            Distribution::Shard(3),
            Format::F32,
            Layout::Tile,
        )
        .unwrap();
    assert_eq!(tensor.dims(), [1, 1, 1, 32]);
    mesh.clone().close().unwrap();
    assert_eq!(tensor.read_f32(0).unwrap_err().kind(), Some(Kind::BadHandle));
    assert_eq!(tensor.add(&tensor).unwrap_err().kind(), Some(Kind::BadHandle));
    drop(tensor);
    mesh.close().unwrap();
}

#[test]
fn meshes_work_side_by_side_on_many_threads() {
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            std::thread::spawn(move || {
                let mesh = open(&linked());
                let x = mesh
                    .upload(
                        HostArray::f32(&[seed as f32; 1024], [1, 1, 32, 32]),
                        Distribution::Replicate,
                        Format::Bf16,
                        Layout::Tile,
                    )
                    .unwrap();
                (0..50).for_each(|_| drop(x.add(&x).unwrap()));
                x.add(&x).unwrap().read_f32(1).unwrap()[7]
            })
        })
        .collect();
    let results: Vec<f32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(results, [0.0, 2.0, 4.0, 6.0]);
    // One mesh, several threads: calls are serialised.
    let mesh = open(&linked());
    let x = mesh.zeros([1, 1, 32, 32], Format::Bf16, Layout::Tile).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| drop(x.add(&x).unwrap().read_f32(0).unwrap())));
        }
    });
    assert_eq!(mesh.memory(0).unwrap().allocated, 12 * 2048);
}

#[test]
fn failed_capture_ends() {
    let mesh = open(&linked());
    let result = mesh.capture(|| Err::<(), _>(Error::Host("stopped inside".into())));
    assert!(result.is_err());
    mesh.synchronize().unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        mesh.capture(|| -> tt_metal::Result<()> { panic!("inside") })
    }));
    assert!(panic.is_err());
    mesh.synchronize().unwrap();
}

#[test]
fn names_of_devices() {
    for (text, provider, board) in [
        ("sim:n150", ProviderKind::Simulated, Board::N150),
        ("tt:t3k", ProviderKind::Silicon, Board::T3k),
        ("sim:p150", ProviderKind::Simulated, Board::P150),
        ("tt:p300", ProviderKind::Silicon, Board::P300),
        ("tt:quietbox", ProviderKind::Silicon, Board::QuietBox),
        ("sim:loudbox", ProviderKind::Simulated, Board::LoudBox),
    ] {
        let target: Target = text.parse().unwrap();
        assert_eq!(
            (target.provider, target.board, target.to_string().as_str()),
            (provider, board, text)
        );
    }
    for text in ["", "n300", "sim:", "sim:n3000", "cuda:0", ":n150", "sim:n150:1"] {
        let error = text.parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("sim:n300") && error.contains(&format!("\"{text}\"")), "{error}");
        assert!(error.contains("tt:quietbox") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn library_beside_the_program_is_found() {
    let provider = find_provider(ProviderKind::Simulated).unwrap();
    assert_eq!(provider.name(), linked().name());
    let mesh = open(&provider);
    let x = mesh
        .upload(
            HostArray::f32(&[1.5; 1024], [1, 1, 32, 32]),
            Distribution::Replicate,
            Format::Bfp8B,
            Layout::Tile,
        )
        .unwrap();
    assert_eq!(x.add(&x).unwrap().read_f32(1).unwrap(), vec![3.0; 1024]);
    assert_eq!(mesh.info().chips, 2);
    let missing = find_provider(ProviderKind::Silicon).unwrap_err().to_string();
    assert!(
        missing.contains("libtt_provider_ttnn.so")
            && missing.contains("name it in OPENVLA_TT_PROVIDER")
            && !missing.contains('\n'),
        "{missing}"
    );
}
