//! Plans of pi0, pi0.5 and OpenVLA-OFT: the operations that they state are those that the backend
//! captures, and memory is what the simulated mesh allocates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{MeshKind, Provider, flow_trace_region_bytes, open, open_with};
use vla_inference::checkpoint::pi0::{Pi0Checkpoint, Pi0Config, Pi0Kind, Pi0Source};
use vla_inference::models::pi0::{ChunkInput, Pi0, TracedChunk, TracedChunks};
use vla_inference::models::{ModelError, TensorSource};
use vla_inference::plan::{Assumptions, Flow, Plan};
use vla_inference::policy::{Pi0Policy, PolicyOptions};
use vla_inference::tensor::HostTensor;

const KITS: [&str; 2] = ["pi0_lerobot_tiny", "pi05_lerobot_tiny"];
const MESHES: [MeshKind; 3] = [MeshKind::N150, MeshKind::N300, MeshKind::T3k];

fn checkpoint(kit: &str) -> Pi0Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(kit);
    let source = Pi0Source { folder: folder.join("ckpt"), ..Pi0Source::default() };
    Pi0Checkpoint::open(&source).unwrap()
}

/// Small numbers in any shape.
struct AnyTensor;

impl TensorSource for AnyTensor {
    fn tensor(&self, _name: &str, shape: &[usize]) -> Result<HostTensor, ModelError> {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|at| ((at * 7919) % 101) as f32 * 1e-3 - 0.05).collect();
        Ok(HostTensor::from_f32(shape, values).unwrap())
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }
}

/// The published numbers of layers over the kits' small widths, and images of 16 patches.
fn deep(mut checkpoint: Pi0Checkpoint) -> Pi0Checkpoint {
    let config = &mut checkpoint.config;
    config.vision.num_hidden_layers = 27;
    (config.vlm.depth, config.expert.depth) = (18, 18);
    config.image_resolution = [4 * config.vision.patch_size; 2];
    checkpoint
}

#[test]
fn stated_operations_are_those_that_the_backend_captures() {
    for kit in KITS {
        let checkpoint = deep(checkpoint(kit));
        let config = &checkpoint.config;
        for (mesh, cameras, precision) in [
            (MeshKind::N150, 1, "bf16"),
            (MeshKind::N300, 2, "bfp8"),
            (MeshKind::T3k, 3, "mixed"),
            (MeshKind::QuietBox, 1, "bf16"),
        ] {
            let what = format!("{kit} {mesh:?} {cameras} cameras");
            let precision = PrecisionPolicy::load(precision).unwrap();
            let traces = flow_trace_region_bytes(mesh);
            let backend = open_with(Provider::Simulated, mesh, precision.clone(), traces).unwrap();
            let model = Pi0::load(&backend, &AnyTensor, &checkpoint).unwrap();
            let schedule = model.schedule(&backend, 10).unwrap();
            let pixels = vec![0.25; 3 * config.image_resolution.iter().product::<usize>()];
            let ids = [3; 11];
            let input = ChunkInput {
                images: &vec![pixels.as_slice(); cameras],
                ids: &ids,
                state: &vec![0.5; config.max_state_dim],
            };
            let noise = [config.chunk_size, config.max_action_dim];
            let noise = HostTensor::from_f32(&noise, vec![0.1; noise[0] * noise[1]]).unwrap();
            let mut traced = TracedChunks::default();
            let network = (&model, &schedule);
            for executed in [false, true] {
                let before = backend.launches();
                assert_eq!(traced.begin(&backend, network, &input).unwrap(), executed, "{what}");
                let chunk = traced.integrate(&backend, network, &noise).unwrap();
                traced.finish(&backend, network).unwrap();
                let after = backend.launches();
                assert_eq!(chunk.shape(), noise.shape(), "{what}");
                assert_eq!(after == before, executed, "{what}: {before:?} {after:?}");
            }
            let flow = Flow { cameras, text: ids.len(), steps: 10 };
            let assumptions = Assumptions::flow(config, flow);
            let plan = Plan::flow(config, mesh, precision, assumptions, flow);
            println!("{what}: {} operations", plan.launches());
            assert_eq!(plan.launches() as u64, backend.launches().captured, "{what}");
        }
    }
}

#[test]
fn planned_weights_equal_allocated_memory() {
    for kit in KITS {
        for mesh in MESHES {
            for name in ["bf16", "bfp8"] {
                let checkpoint = checkpoint(kit);
                let config = checkpoint.config.clone();
                let weights = checkpoint.weights.clone();
                let precision = PrecisionPolicy::load(name).unwrap();
                let backend = open(Provider::Simulated, mesh, precision.clone()).unwrap();
                let options = PolicyOptions { precision: name.into(), ..Default::default() };
                let policy =
                    Pi0Policy::from_checkpoint(backend, checkpoint, &weights, &options).unwrap();
                let steps = config.num_inference_steps;
                let flow = Flow { cameras: 2, text: 20, steps };
                let assumptions = Assumptions::flow(&config, flow);
                let plan = Plan::flow(&config, mesh, precision, assumptions, flow);
                let planned: u64 = plan.memory.items[..7].iter().map(|(_, bytes)| bytes).sum();
                let allocated = policy.backend().allocated_memory().unwrap();
                assert_eq!(allocated, planned, "{kit} {mesh:?} {name}");
            }
        }
    }
}

/// The published sizes: LeRobot's defaults.
fn published(kind: &str) -> Pi0Config {
    let image = serde_json::json!({"type": "VISUAL", "shape": [3, 224, 224]});
    let text = serde_json::json!({
        "type": kind,
        "input_features": {
            "observation.images.base_0_rgb": image,
            "observation.images.left_wrist_0_rgb": image,
            "observation.images.right_wrist_0_rgb": image,
            "observation.state": {"type": "STATE", "shape": [32]}
        },
        "output_features": {"action": {"type": "ACTION", "shape": [32]}},
        "normalization_mapping":
            {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    });
    let path = PathBuf::from("config.json");
    Pi0Config::from_json(&path, text.to_string().as_bytes()).unwrap()
}

#[test]
fn published_sizes_agree_with_the_roofline() {
    for (kind, name) in [(Pi0Kind::Pi0, "pi0"), (Pi0Kind::Pi05, "pi05")] {
        let config = published(name);
        assert_eq!(config.kind, kind);
        for (cameras, tflop) in [(1, 1.75), (2, 2.98), (3, 4.23)] {
            let flow = Flow { cameras, text: 20, steps: 10 };
            let plan = |mesh, precision| {
                let assumptions = Assumptions::flow(&config, flow);
                let precision = PrecisionPolicy::load(precision).unwrap();
                Plan::flow(&config, mesh, precision, assumptions, flow)
            };
            let one = plan(MeshKind::N150, "bfp8");
            // The sum of vision, language model and ten steps of 64 rows, without padding of heads
            // and MLPs and without the state: ours counts those as well.
            let flop: f64 = one.stages.iter().map(|stage| stage.flop * stage.count as f64).sum();
            let ratio = flop / 1e12 / tflop;
            assert!((0.98..1.1).contains(&ratio), "{name} {cameras}: {flop:.3e}");
            let mut all = Vec::new();
            for mesh in MESHES {
                for precision in PrecisionPolicy::shipped() {
                    let plan = plan(mesh, precision);
                    assert_eq!(plan.memory.shortfall(), None, "{name} {mesh:?} {precision}");
                    all.push(plan.total_ms());
                    println!(
                        "{name} {mesh:?} {precision:<5} {cameras} cameras: {:.2} GiB, {} \
                        operations, {:.1} ms by the roofline, {:.1} ms with operations",
                        plan.memory.total() as f64 / (1u64 << 30) as f64,
                        plan.launches(),
                        plan.total_ms(),
                        plan.predicted().likely
                    );
                }
            }
            assert!(all[3..6].iter().zip(&all[..3]).all(|(two, one)| two < one));
        }
    }
}
