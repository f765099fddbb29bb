//! Plans of OpenVLA: the operations that they state are those that the backend captures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{MeshKind, Provider, TtBackend, open};
use vla_inference::golden::Kit;
use vla_inference::models::{ModelError, TensorSource};
use vla_inference::observation::Observation;
use vla_inference::plan::{ACTION_ROWS, Assumptions, Plan, StagePlan};
use vla_inference::policy::{DecodeMode, Instruction, OpenVlaPolicy, Policy, PolicyOptions};
use vla_inference::tensor::HostTensor;

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

/// Operations captured for an action of the kit's model with other sizes, and those of its plan.
fn captured_and_planned(
    mesh: MeshKind,
    precision: &str,
    decode: DecodeMode,
    [layers, hidden]: [usize; 2],
    fold: bool,
) -> [u64; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny");
    let kit = Kit::open(&folder).unwrap();
    let precision = PrecisionPolicy::load(precision).unwrap();
    let backend = open(Provider::Simulated, mesh, precision.clone()).unwrap();
    let options =
        PolicyOptions { unnorm_key: Some("bridge_orig".into()), decode, ..Default::default() };
    let whole = OpenVlaPolicy::open(backend, &kit.checkpoint(), &options).unwrap();
    let mut checkpoint = whole.checkpoint().clone();
    drop(whole);
    let config = &mut checkpoint.config;
    config.llama.num_hidden_layers = layers;
    config.llama.hidden_size = hidden;
    config.projector.layers.iter_mut().skip(1).for_each(|width| *width = hidden);
    let config = config.clone();
    let backend = open(Provider::Simulated, mesh, precision.clone()).unwrap();
    let backend = backend.with_folded_rows(fold);
    let policy = OpenVlaPolicy::from_checkpoint(backend, checkpoint, &AnyTensor, &options);
    let mut policy = policy.unwrap().with_traces();
    let case = &kit.cases[0];
    let image = kit.image(&case.image).unwrap();
    let instruction = Instruction::new(&case.instruction).unwrap();
    // Whatever it answers, the traces are captured.
    let _ = policy.act(&Observation::single(&image, &instruction));
    let head_rows = if decode == DecodeMode::Full { config.llama.vocab_size } else { ACTION_ROWS };
    let decode_rows = if fold { 1 } else { 32 };
    let assumptions = Assumptions { head_rows, decode_rows, ..Assumptions::standard(&config) };
    let plan = Plan::new(&config, mesh, precision, assumptions);
    // A prefill is captured for each of the two buckets, the other stages once.
    let captured = |stage: &StagePlan| match stage.name {
        "prefill" => 2 * stage.operations.launches,
        _ => stage.operations.launches,
    };
    let planned: usize = plan.stages.iter().map(captured).sum();
    [policy.backend().launches().captured, planned as u64]
}

#[test]
fn stated_operations_are_those_that_the_backend_captures() {
    use DecodeMode::{Actions, Full};
    for (mesh, precision, decode, size) in [
        (MeshKind::N150, "bf16", Actions, [3, 128]),
        (MeshKind::N150, "bf16", Full, [1, 128]),
        (MeshKind::N300, "bfp8", Actions, [1, 128]),
        (MeshKind::N300, "bf16", Full, [1, 128]),
        (MeshKind::P300, "bf16", Actions, [2, 128]),
        (MeshKind::T3k, "mixed", Full, [1, 128]),
        (MeshKind::QuietBox, "mixed", Actions, [2, 128]),
        (MeshKind::LoudBox, "bfp8", Full, [1, 128]),
    ] {
        let [captured, planned] = captured_and_planned(mesh, precision, decode, size, false);
        assert_eq!(captured, planned, "{mesh:?} {precision} {decode:?} {size:?}");
    }
}

/// Rows of 1 024 columns are folded into whole tiles around an all-reduce with `with_folded_rows`.
#[test]
fn folded_rows_are_counted() {
    for mesh in [MeshKind::N150, MeshKind::N300] {
        let counted = [false, true].map(|fold| {
            let [captured, planned] =
                captured_and_planned(mesh, "bf16", DecodeMode::Actions, [1, 1024], fold);
            assert_eq!(captured, planned, "{mesh:?}, folded {fold}");
            captured
        });
        assert_eq!(counted[0] == counted[1], mesh == MeshKind::N150, "{mesh:?} {counted:?}");
    }
}

/// Programs that TT-NN launches for a layer of the decode step: what an added layer adds to an
/// action with six decode steps, without what it adds to one whose draft is accepted.
#[test]
fn a_decode_layer_launches_at_most_24_programs() {
    let launched = |mesh: MeshKind, layers: usize, draft: bool| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny");
        let kit = Kit::open(&folder).unwrap();
        let options = PolicyOptions {
            unnorm_key: Some("bridge_orig".into()),
            decode: DecodeMode::Actions,
            draft,
            ..Default::default()
        };
        // Linked, not loaded: the counter is then this program's.
        let open = || {
            let provider = tt_metal::Provider::linked(tt_mesh_sim::api());
            let options = tt_metal::MeshOptions::default();
            let opened = tt_metal::Mesh::open(&provider, mesh, options).unwrap();
            TtBackend::new(opened, "linked".into(), PrecisionPolicy::load("bf16").unwrap())
        };
        let whole = OpenVlaPolicy::open(open(), &kit.checkpoint(), &options).unwrap();
        let mut checkpoint = whole.checkpoint().clone();
        drop(whole);
        checkpoint.config.llama.num_hidden_layers = layers;
        let weights = checkpoint.weights.clone();
        let policy = OpenVlaPolicy::from_checkpoint(open(), checkpoint, &weights, &options);
        let mut policy = policy.unwrap().with_traces();
        let case = &kit.cases[0];
        let (image, instruction) =
            (kit.image(&case.image).unwrap(), Instruction::new(&case.instruction).unwrap());
        let observation = Observation::single(&image, &instruction);
        policy.act(&observation).unwrap();
        let before = tt_mesh_sim::clock::launched();
        policy.act(&observation).unwrap();
        assert_eq!(policy.draft_counts().accepted, if draft { 6 } else { 0 });
        tt_mesh_sim::clock::launched() - before
    };
    for (mesh, wanted) in [(MeshKind::N150, 18), (MeshKind::N300, 22), (MeshKind::T3k, 22)] {
        let added = |draft| launched(mesh, 2, draft) - launched(mesh, 1, draft);
        let (six_steps, prefill) = (added(false), added(true));
        println!(
            "{mesh:?}: {prefill} launches of a layer in the prefill, {six_steps} with 6 steps"
        );
        assert_eq!(six_steps - prefill, 6 * wanted, "{mesh:?}");
        assert!(wanted <= 24);
    }
}
