//! OpenVLA-OFT on simulated meshes: every stage of the golden kits, and traces that answer as eager
//! passes do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{MeshKind, Provider, TtBackend, open};
use vla_inference::backend::{Mask, TraceBackend};
use vla_inference::checkpoint::{BoundsKind, OftCheckpoint};
use vla_inference::golden::{OftKit, check_oft, check_oft_with};
use vla_inference::observation::{
    CameraFrame, Instruction, Observation, Operation, Playback, Preparation, RgbImage, Size,
};
use vla_inference::plan::{Assumptions, OnePass, Plan};
use vla_inference::policy::{OftContract, OftPolicy, Policy, PolicyOptions};

fn data(kit: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(kit)
}

fn backend(mesh: MeshKind, precision: &str) -> TtBackend {
    open(Provider::Simulated, mesh, PrecisionPolicy::load(precision).unwrap()).unwrap()
}

// Every mesh and precision once; `openvla selfcheck` runs any other combination.
#[test]
fn the_libero_kit_agrees_on_every_mesh() {
    for (mesh, precision) in [
        (MeshKind::N150, "bf16"),
        (MeshKind::T3k, "bf16"),
        (MeshKind::N300, "mixed"),
        (MeshKind::P150, "bfp8"),
        (MeshKind::QuietBox, "bf16"),
    ] {
        agrees("oft_tiny", mesh, precision);
    }
}

#[test]
fn the_aloha_kit_agrees_on_two_and_eight_chips() {
    agrees("oft_tiny_aloha", MeshKind::N300, "bf16");
    agrees("oft_tiny_aloha", MeshKind::T3k, "bfp8");
}

fn agrees(kit: &str, mesh: MeshKind, precision: &str) {
    let kit = OftKit::open(&data(kit)).unwrap();
    let report = check_oft(&kit, backend(mesh, precision), &kit.checkpoint(), precision).unwrap();
    println!("{mesh:?} {precision}: {}", report.cases[0]);
    assert_eq!(report.missed(), Vec::<String>::new(), "{mesh:?} {precision}");
}

#[test]
fn causal_attention_is_noticed_on_a_mesh() {
    let kit = OftKit::open(&data("oft_tiny")).unwrap();
    let device = backend(MeshKind::N300, "bfp8");
    let causal = |policy: &mut OftPolicy<TtBackend>| policy.set_mask(Mask::Causal);
    let report = check_oft_with(&kit, device, &kit.checkpoint(), "bfp8", causal).unwrap();
    assert!(report.missed().iter().any(|line| line.contains("causal")), "{report:?}");
}

/// A kit's cameras, chunk and statistics.
fn contract(kit: &str) -> (OftContract, &'static str, usize) {
    let steps = vec![Operation::Lanczos3(Size::square(224)).into()];
    let libero = OftContract {
        cameras: vec!["full".into(), "wrist".into()],
        preparation: Preparation::new(steps).unwrap(),
        chunk: 8,
        bounds: BoundsKind::Quantiles,
        state: true,
        discrete: false,
        film: true,
    };
    match kit {
        "oft_tiny" => (libero, "libero_spatial_no_noops", 8),
        _ => {
            let cameras = vec!["full".into(), "left_wrist".into(), "right_wrist".into()];
            let bounds = BoundsKind::Extremes;
            let aloha = OftContract { cameras, bounds, chunk: 25, ..libero };
            (aloha, "aloha1_tiny_fold", 14)
        }
    }
}

fn policy<B: TraceBackend + 'static>(device: B, kit: &str) -> OftPolicy<B> {
    let (contract, key, _) = contract(kit);
    let options = PolicyOptions { unnorm_key: Some(key.into()), ..Default::default() };
    let checkpoint = OftCheckpoint::open(&data(kit).join("ckpt")).unwrap();
    OftPolicy::from_checkpoint(device, checkpoint, &options, contract).unwrap()
}

fn observation(kit: &str, words: &str, seed: u8) -> Observation {
    let (contract, _, state_dim) = contract(kit);
    let image = |number: usize| {
        let value = |at: usize| ((at / 97 + number * 31) as u8).wrapping_mul(seed);
        RgbImage::new(224, 224, (0..224 * 224 * 3).map(value).collect()).unwrap()
    };
    let frames = contract.cameras.iter().enumerate();
    Observation {
        instruction: Instruction::new(words).unwrap(),
        images: frames
            .map(|(number, camera)| CameraFrame { camera: camera.clone(), image: image(number) })
            .collect(),
        state: (0..state_dim).map(|at| f64::from(seed) * 0.01 - 0.05 * at as f64).collect(),
        playback: Playback::default(),
    }
}

/// Operations that a plan of the kit without FiLM states.
fn planned_operations(kit: &str, mesh: MeshKind) -> Option<u64> {
    let (contract, _, state_dim) = contract(kit);
    let checkpoint = OftCheckpoint::open(&data(kit).join("ckpt")).unwrap();
    let pass = OnePass { chunk: contract.chunk, action_dim: 7, state_dim };
    let config = &checkpoint.base.config;
    let assumptions = Assumptions::one_pass(config, contract.cameras.len(), pass);
    let plan = Plan::new(config, mesh, PrecisionPolicy::load("bf16").unwrap(), assumptions);
    (kit == "oft_tiny").then_some(plan.launches() as u64)
}

/// One pass, one trace: no program is launched by the host, and only the inputs are sent.
fn traces_equal_eager(kit: &str, mesh: MeshKind) {
    let mut eager = policy(backend(mesh, "bf16"), kit);
    let mut traced = policy(backend(mesh, "bf16"), kit).with_traces();
    let steps = [
        ("pick up the bowl", 3, "capture"),
        ("pick up the bowl", 5, "execute"),
        // As long; with FiLM the factors of every block are others.
        ("lift up the bowl", 5, "execute"),
        ("open the middle drawer of the cabinet", 7, "capture"),
        ("open the middle drawer of the cabinet", 9, "execute"),
    ];
    let mut distinct = Vec::new();
    let planned = planned_operations(kit, mesh);
    for (words, seed, stage) in steps {
        let observation = observation(kit, words, seed);
        let (ours, theirs) = (traced.act(&observation).unwrap(), eager.act(&observation).unwrap());
        assert_eq!(ours.stages.last().unwrap().name, stage, "{kit} {mesh:?} {words}");
        assert_eq!(ours.actions, theirs.actions, "{kit} {mesh:?} {words}");
        // FiLM adds two operations for each block of a tower, which a plan does not know of.
        if let Some(planned) = planned.filter(|_| distinct.is_empty()) {
            assert_eq!(traced.backend().launches().captured, planned, "{kit} {mesh:?}");
        }
        distinct.push(ours.actions);
    }
    distinct.dedup();
    assert_eq!(distinct.len(), steps.len(), "inputs do not matter");
    for policy in [&eager, &traced] {
        assert_eq!(policy.backend().resharding_count(), 0, "resharded through the host");
    }
}

#[test]
fn traces_answer_as_eager_passes_on_one_chip() {
    traces_equal_eager("oft_tiny", MeshKind::N150);
}

#[test]
fn traces_answer_as_eager_passes() {
    traces_equal_eager("oft_tiny", MeshKind::T3k);
}

#[test]
fn traces_take_another_prompt_of_film() {
    traces_equal_eager("oft_tiny_aloha", MeshKind::N300);
}
