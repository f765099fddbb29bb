//! A recording mesh: the checks and the memory of a computing one, no elements, and a line for
//! every call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use tt_metal::{
    Activation, Board, Compute, Distribution, Fidelity, Format, HostArray, Layout, LinearOptions,
    Mesh, MeshOptions, Provider, Tensor,
};

const COMPUTE: Compute = Compute { fidelity: Fidelity::HiFi2, fp32_dest: true, approximate: false };

/// A product with GELU, its sum over the chips, twice: by the host and captured. Returns the peak
/// of memory and the result.
fn run(mesh: &Mesh, width: usize) -> (u64, Vec<f32>) {
    let ones = vec![1.0; 32 * width];
    let upload = |rows: usize, columns: usize, distribution| {
        let array = HostArray::f32(&ones[..rows * columns], [1, 1, rows, columns]);
        mesh.upload(array, distribution, Format::Bf16, Layout::Tile).unwrap()
    };
    let x = upload(32, width, Distribution::Shard(3));
    let w = upload(width, 32, Distribution::Shard(2));
    let options =
        LinearOptions { activation: Activation::Gelu, compute: COMPUTE, format: Format::F32 };
    let product = |x: &Tensor| x.linear(&w, None, options)?.all_reduce();
    let eager = product(&x).unwrap();
    let (trace, captured) = mesh.capture(|| product(&x)).unwrap();
    trace.execute(true).unwrap();
    assert_eq!(eager.dims(), [1, 1, 32, 32]);
    (mesh.memory(0).unwrap().peak, captured.read_f32(1).unwrap())
}

#[test]
fn every_call_is_a_line_and_nothing_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let open = |provider: &Provider| {
        let options = MeshOptions { trace_region_bytes: 1 << 20, ..MeshOptions::default() };
        Mesh::open(provider, Board::N300, options).unwrap()
    };
    let recording = Provider::linked(tt_mesh_sim::record::api(&path).unwrap());
    assert!(recording.name().ends_with(tt_metal::RECORDING), "{}", recording.name());
    let (recorder, computer) = (open(&recording), open(&Provider::linked(tt_mesh_sim::api())));
    let (peak, values) = run(&recorder, 64);
    let (computed_peak, computed) = run(&computer, 64);
    assert_eq!(peak, computed_peak);
    assert!(values.iter().all(|value| *value == 0.0), "nothing is computed");
    assert!(computed.iter().all(|value| *value > 1.0), "the other mesh computes");
    // Refused as by a computing mesh.
    let narrow = recorder.zeros([1, 1, 32, 32], Format::Bf16, Layout::Tile).unwrap();
    let wide = recorder.zeros([1, 1, 64, 32], Format::Bf16, Layout::Tile).unwrap();
    let options =
        LinearOptions { activation: Activation::None, compute: COMPUTE, format: Format::Bf16 };
    assert!(narrow.linear(&wide, None, options).is_err());
    drop((narrow, wide));
    let lines: Vec<Value> = std::fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let calls: Vec<&str> = lines.iter().map(|line| line["call"].as_str().unwrap()).collect();
    assert_eq!(calls[..3], ["open", "upload", "upload"]);
    let of = |call: &str| calls.iter().filter(|name| **name == call).count();
    // The product and the sum, by the host and captured; nothing of the refused one.
    assert_eq!((of("open"), of("run"), of("read")), (1, 4, 1));
    assert_eq!((of("trace_begin"), of("trace_end"), of("trace_run")), (1, 1, 1));
    let linear = lines.iter().find(|line| line["op"]["op"] == "linear").unwrap();
    assert_eq!(linear["op"]["activation"], "Gelu");
    assert_eq!(linear["op"]["compute"]["fidelity"], "HiFi2");
    assert_eq!(linear["in"].as_array().unwrap().len(), 2);
    // The part of one chip.
    assert_eq!(linear["in_specs"][0]["dims"], serde_json::json!([1, 1, 32, 32]));
    assert_eq!(linear["out_specs"][0]["format"], "F32");
}
