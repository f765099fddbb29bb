//! Traced actions on a mesh: capture and execution, with the custom kernels and with TT-NN's
//! operations; speculative decoding; the weight cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use vla_inference::backend::Backend;
use vla_inference::backend::cpu::CpuBackend;
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{
    CacheCounts, Kernels, MeshKind, Provider, TtBackend, WeightCache, open,
};
use vla_inference::golden::Kit;
use vla_inference::models::NoProbe;
use vla_inference::models::TensorSource;
use vla_inference::observation::Observation;
use vla_inference::policy::{
    DecodeMode, DraftCounts, Instruction, OpenVlaPolicy, Policy, PolicyError, PolicyOptions,
};
use vla_inference::tensor::{DType, HostTensor};

const MESHES: [MeshKind; 3] = [MeshKind::N150, MeshKind::N300, MeshKind::T3k];
/// Numbers per action.
const TOKENS: u64 = 7;
/// Bytes of the camera image on its way to a mesh.
const IMAGE: u64 = 224 * 224 * 3;

fn kit() -> Kit {
    Kit::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/openvla_tiny")).unwrap()
}

fn backend(mesh: MeshKind, precision: &str, kernels: Kernels) -> TtBackend {
    open(Provider::Simulated, mesh, PrecisionPolicy::load(precision).unwrap())
        .unwrap()
        .with_kernels(kernels)
}

fn options(decode: DecodeMode) -> PolicyOptions {
    PolicyOptions { unnorm_key: Some("bridge_orig".into()), decode, ..Default::default() }
}

fn policy(kit: &Kit, backend: TtBackend, decode: DecodeMode) -> OpenVlaPolicy<TtBackend> {
    OpenVlaPolicy::open(backend, &kit.checkpoint(), &options(decode)).unwrap().with_traces()
}

fn stages(decision: &vla_inference::policy::Decision) -> Vec<&'static str> {
    decision.stages.iter().map(|stage| stage.name).collect()
}

/// An instruction of `tokens` token ids with its prompt.
fn of_length(policy: &OpenVlaPolicy<TtBackend>, tokens: usize) -> Instruction {
    let template = &policy.checkpoint().config.prompt;
    let mut text = String::from("pick up");
    loop {
        let instruction = Instruction::new(&text).unwrap();
        let ids = policy.tokenize(&vla_inference::policy::prompt(template, &instruction)).unwrap();
        match ids.len() {
            length if length == tokens => return instruction,
            length => assert!(length < tokens, "{length} of {tokens} tokens for '{text}'"),
        }
        // A word of one token, as the assertion above demands.
        text.push_str(" a");
    }
}

/// The first `count` of the actions below through `act`, compared with the eager ones: prompts of
/// many lengths, of which only the first, and those longer than both buckets, run eagerly.
fn traces_equal_eager(
    count: usize,
    mesh: MeshKind,
    precision: &str,
    kernels: Kernels,
    decode: DecodeMode,
) {
    let kit = kit();
    let mut policy = policy(&kit, backend(mesh, precision, kernels), decode);
    // Two images under one instruction, another instruction as long, and others of other lengths:
    // the longest of the first bucket, the shortest and the longest of the second, and longer.
    let (first, second) = (&kit.cases[0], &kit.cases[4]);
    let images = [first, second, &kit.cases[3]].map(|case| kit.image(&case.image).unwrap());
    let given = |text: &str| Instruction::new(text).unwrap();
    assert_eq!(first.instruction, second.instruction);
    let (capture, execute) = (["preprocess", "capture"], ["preprocess", "execute"]);
    let steps = [
        (0, given(&first.instruction), capture),
        (1, given(&first.instruction), execute),
        (2, given("lift up the block"), execute),
        (2, given(&kit.cases[1].instruction), execute),
        (0, of_length(&policy, 33), execute),
        (0, of_length(&policy, 32), execute),
        (1, of_length(&policy, 64), execute),
        (0, given(&first.instruction), execute),
        (0, of_length(&policy, 65), capture),
        (1, of_length(&policy, 64), execute),
        (1, given(&first.instruction), execute),
        (0, of_length(&policy, 100), capture),
        (0, of_length(&policy, 65), capture),
    ];
    let mut distinct = std::collections::BTreeSet::new();
    let mut memory = Vec::new();
    for (number, (image, instruction, wanted)) in steps.iter().enumerate().take(count) {
        let (image, wanted) = (&images[*image], *wanted);
        let what = format!("{mesh:?} {precision} {kernels:?} {decode:?}, step {number}");
        let before = (policy.backend().traffic(), policy.backend().launches());
        let decision = match policy.act(&Observation::single(image, instruction)) {
            Ok(decision) => decision,
            Err(error) => panic!("{what}: {error}"),
        };
        let after = (policy.backend().traffic(), policy.backend().launches());
        assert_eq!(stages(&decision), wanted, "{what}");
        let prompt = decision.input_ids.len();
        if wanted == execute {
            assert_eq!(after.1, before.1, "{what}: {prompt} tokens launched operations");
            let (after, before) = (after.0, before.0);
            let words = if kernels == Kernels::Custom { 8 } else { 1 };
            assert_eq!(
                (after.reads - before.reads, after.read_bytes - before.read_bytes),
                (1, 4 * TOKENS * words),
                "{what}"
            );
            // The image; the ids where they are others; where their number is another, the last
            // row, and the position twice (start and current) as a number and as the 32 rows of a
            // lookup.
            let (writes, bytes) = match number {
                1 => (1, IMAGE),
                2 => (2, IMAGE + 32 * 4),
                3 => (7, IMAGE + (32 + 1 + 2 * (1 + 32)) * 4),
                _ => continue,
            };
            assert_eq!(after.writes - before.writes, writes, "{what}");
            if kernels == Kernels::Custom {
                assert_eq!(after.written_bytes - before.written_bytes, bytes, "{what}");
            }
        } else {
            assert!(after.1.captured > before.1.captured, "{what}");
            memory.push(policy.backend().allocated_memory().unwrap());
        }
        let rgb = policy.prepare(image).unwrap().pixels().to_vec();
        let eager = policy.generate(&rgb, &decision.input_ids, &mut NoProbe).unwrap();
        assert_eq!(decision.token_ids, eager.token_ids, "{what}: {prompt} tokens");
        if kernels == Kernels::Custom {
            assert_eq!(decision.logit_margins, eager.logit_margins, "{what}: {prompt} tokens");
        } else {
            assert!(decision.logit_margins.is_empty(), "{what}");
        }
        distinct.insert(decision.token_ids);
    }
    assert!(3.min(count) <= distinct.len(), "{distinct:?}");
    // Released traces leave no memory allocated.
    if let [_, long, _, again] = memory.as_slice() {
        assert_eq!(long, again, "{mesh:?} {precision}");
    }
    assert_eq!(policy.backend().resharding_count(), 0);
}

#[test]
fn traced_tokens_equal_eager_tokens() {
    use DecodeMode::{Actions, Full};
    use Kernels::{Custom, Ttnn};
    for (mesh, precision) in MESHES.into_iter().zip(["bfp8", "mixed", "bf16"]) {
        traces_equal_eager(4, mesh, precision, Custom, Actions);
    }
    traces_equal_eager(13, MeshKind::N300, "bf16", Custom, Full);
    traces_equal_eager(4, MeshKind::P300, "mixed", Custom, Actions);
    // The whole vocabulary: every chip scans its shard, and some shards are padded.
    traces_equal_eager(2, MeshKind::N150, "bf16", Custom, Full);
    traces_equal_eager(2, MeshKind::T3k, "mixed", Custom, Full);
    traces_equal_eager(4, MeshKind::QuietBox, "bf16", Custom, Full);
    traces_equal_eager(3, MeshKind::T3k, "mixed", Ttnn, Full);
    traces_equal_eager(3, MeshKind::N150, "bf16", Ttnn, Actions);
}

/// What an instruction needs is captured before it is in use, and decides nothing.
#[test]
fn preparation_is_before_the_first_action() {
    let kit = kit();
    let case = &kit.cases[0];
    let image = kit.image(&case.image).unwrap();
    let fresh =
        || policy(&kit, backend(MeshKind::N300, "bf16", Kernels::Custom), DecodeMode::Actions);
    let mut policy = fresh();
    let long = of_length(&policy, 70);
    for (instruction, left) in [
        (Instruction::new(&case.instruction).unwrap(), true),
        (of_length(&policy, 64), false),
        (long.clone(), true),
        (long.clone(), false),
        (Instruction::new(&case.instruction).unwrap(), false),
    ] {
        let observation = Observation::single(&image, &instruction);
        assert_eq!(policy.prepare_for(&observation).unwrap(), left, "{instruction:?}");
        let before = policy.backend().launches();
        let decision = policy.act(&observation).unwrap();
        assert_eq!(policy.backend().launches(), before, "{instruction:?}");
        assert_eq!(stages(&decision), ["preprocess", "execute"]);
    }
    // The same as without preparation.
    let decision = policy.act(&Observation::single(&image, &long)).unwrap();
    let tokens = fresh().act(&Observation::single(&image, &long)).unwrap().token_ids;
    assert_eq!(decision.token_ids, tokens);
}

/// Speculative decoding gives the same actions.
fn drafts_change_nothing<B: Backend>(
    kit: &Kit,
    drafted: u64,
    open: impl Fn(&PolicyOptions) -> OpenVlaPolicy<B>,
) {
    let open = |draft: bool| {
        open(&PolicyOptions { unnorm_key: Some("bridge_orig".into()), draft, ..Default::default() })
    };
    let (mut plain, mut drafting) = (open(false), open(true));
    let mut inputs: Vec<_> = [0, 0, 4, 1, 1]
        .map(|case| &kit.cases[case])
        .map(|case| (kit.image(&case.image).unwrap(), Instruction::new(&case.instruction).unwrap()))
        .into_iter()
        .collect();
    inputs.push(inputs[0].clone());
    for (image, instruction) in &inputs {
        let (want, got) = (
            plain.act(&Observation::single(image, instruction)).unwrap(),
            drafting.act(&Observation::single(image, instruction)).unwrap(),
        );
        assert_eq!((want.token_ids, want.actions), (got.token_ids, got.actions));
    }
    let counts = drafting.draft_counts();
    println!(
        "{}: {} of {} drafted tokens accepted",
        drafting.info().device,
        counts.accepted,
        counts.drafted
    );
    // The first has no draft; two images come twice, and then every draft token is accepted.
    assert_eq!(counts.drafted, drafted);
    assert!((12..=drafted).contains(&counts.accepted), "{counts:?}");
    assert_eq!(plain.draft_counts(), DraftCounts::default());
}

#[test]
fn drafts_change_no_action() {
    let kit = kit();
    drafts_change_nothing(&kit, 5 * 6, |options| {
        OpenVlaPolicy::open(CpuBackend::new(2).unwrap(), &kit.checkpoint(), options).unwrap()
    });
    // The first action runs eagerly before its capture and has no draft.
    for mesh in [MeshKind::N300, MeshKind::T3k] {
        drafts_change_nothing(&kit, 5 * 6, |options| {
            let backend = backend(mesh, "bf16", Kernels::Custom);
            OpenVlaPolicy::open(backend, &kit.checkpoint(), options).unwrap().with_traces()
        });
    }
}

#[test]
fn accepted_draft_takes_one_read() {
    let kit = kit();
    let options =
        PolicyOptions { unnorm_key: Some("bridge_orig".into()), draft: true, ..Default::default() };
    let backend = backend(MeshKind::N300, "mixed", Kernels::Custom);
    let mut policy =
        OpenVlaPolicy::open(backend, &kit.checkpoint(), &options).unwrap().with_traces();
    let instruction = Instruction::new(&kit.cases[0].instruction).unwrap();
    let images = [0, 0, 4].map(|case| kit.image(&kit.cases[case].image).unwrap());
    let mut reads = Vec::new();
    for image in &images {
        let before = (policy.backend().traffic(), policy.draft_counts());
        let launches = policy.backend().launches();
        let decision = policy.act(&Observation::single(image, &instruction)).unwrap();
        let after = (policy.backend().traffic(), policy.draft_counts());
        // Not even the continuation after a part of the draft is launched by the host.
        assert_eq!(policy.backend().launches() == launches, !reads.is_empty());
        reads.push((
            after.0.reads - before.0.reads,
            after.1.accepted - before.1.accepted,
            decision.token_ids,
        ));
    }
    // The same image: all six accepted. Another image: the others are decoded and read again.
    assert_eq!((reads[1].0, reads[1].1), (1, 6), "{reads:?}");
    assert!(reads[2].1 < 6 && reads[2].0 == 2, "{reads:?}");
}

#[test]
fn custom_kernels_equal_ttnn_bit_for_bit() {
    let kit = kit();
    let case = &kit.cases[7];
    let instruction = Instruction::new(&case.instruction).unwrap();
    for (mesh, precision, decode) in [
        (MeshKind::N300, "bf16", DecodeMode::Actions),
        (MeshKind::N300, "bfp8", DecodeMode::Actions),
        (MeshKind::N150, "mixed", DecodeMode::Full),
        (MeshKind::N300, "bf16", DecodeMode::Full),
        (MeshKind::T3k, "bf16", DecodeMode::Full),
        (MeshKind::P300, "bfp8", DecodeMode::Full),
    ] {
        let decisions = [Kernels::Custom, Kernels::Ttnn].map(|kernels| {
            let mut policy = policy(&kit, backend(mesh, precision, kernels), decode);
            let image = kit.image(&case.image).unwrap();
            let rgb = policy.prepare(&image).unwrap().pixels().to_vec();
            // Eager: patches from the kernel or from the host; logit margins compare the logits'
            // bits.
            let eager = policy.generate(&rgb, &case.input_ids_fed, &mut NoProbe).unwrap();
            (
                eager.token_ids,
                eager.logit_margins,
                policy.act(&Observation::single(&image, &instruction)).unwrap().token_ids,
            )
        });
        let [(tokens, margins, acted), plain] = decisions;
        let what = format!("{mesh:?} {precision} {decode:?}");
        assert_eq!((&tokens, &margins, &acted), (&plain.0, &plain.1, &plain.2), "{what}");
        assert_eq!(tokens, acted, "{what}");
    }
}

/// The checkpoint's tensors with a NaN in one row of the head.
struct Broken<'a>(&'a (dyn TensorSource + Send + Sync));

impl TensorSource for Broken<'_> {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<HostTensor, vla_inference::models::ModelError> {
        let tensor = self.0.tensor(name, shape)?;
        if name != "language_model.lm_head.weight" {
            return Ok(tensor);
        }
        let mut bytes = tensor.bytes().to_vec();
        let row = 31_800 * shape[1] * 2;
        bytes[row..row + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
        Ok(HostTensor::from_bytes(DType::Bf16, shape, bytes.into()).unwrap())
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

#[test]
fn traced_nan_and_early_end_are_errors() {
    let kit = kit();
    let case = &kit.cases[0];
    let (image, instruction) =
        (kit.image(&case.image).unwrap(), Instruction::new(&case.instruction).unwrap());
    let mut policy =
        policy(&kit, backend(MeshKind::N300, "bf16", Kernels::Custom), DecodeMode::Actions);
    let tokens = policy.act(&Observation::single(&image, &instruction)).unwrap().token_ids;
    let end = policy.end_of_sequence();
    for (at, id) in tokens.iter().enumerate().take(6) {
        policy.set_end_of_sequence(Some(*id));
        let first = tokens.iter().position(|token| token == id).unwrap();
        let error = policy.act(&Observation::single(&image, &instruction)).unwrap_err();
        assert!(
            matches!(error, PolicyError::EndedEarly { got, wanted: 7 } if got == first),
            "{at}: {error}"
        );
    }
    policy.set_end_of_sequence(end);
    assert_eq!(policy.act(&Observation::single(&image, &instruction)).unwrap().token_ids, tokens);
    let checkpoint = policy.checkpoint().clone();
    drop(policy);
    // With the whole vocabulary the NaN is on one of the chips.
    for decode in [DecodeMode::Actions, DecodeMode::Full] {
        let weights = checkpoint.weights.clone();
        let mut policy = OpenVlaPolicy::from_checkpoint(
            backend(MeshKind::N300, "bf16", Kernels::Custom),
            checkpoint.clone(),
            &Broken(&weights),
            &options(decode),
        )
        .unwrap()
        .with_traces();
        for _ in 0..2 {
            let error = policy.act(&Observation::single(&image, &instruction)).unwrap_err();
            assert!(error.is_not_finite(), "{decode:?}: {error}");
        }
    }
}

#[test]
fn weight_cache_serves_the_second_load() {
    let kit = kit();
    let case = &kit.cases[0];
    let folder = tempfile::tempdir().unwrap();
    let run = |mesh: MeshKind, precision: &str, cached: bool| {
        let plain = backend(mesh, precision, Kernels::Custom);
        let backend = if cached {
            plain.with_weight_cache(WeightCache::open(folder.path()).unwrap())
        } else {
            plain
        };
        let mut policy = policy(&kit, backend, DecodeMode::Actions);
        let rgb = policy.prepare(&kit.image(&case.image).unwrap()).unwrap().pixels().to_vec();
        let generation = policy.generate(&rgb, &case.input_ids_fed, &mut NoProbe).unwrap();
        (policy.backend().weight_cache_counts(), generation.token_ids, generation.logit_margins)
    };
    for mesh in [MeshKind::N150, MeshKind::T3k] {
        for precision in ["mixed", "bfp8"] {
            let (none, tokens, margins) = run(mesh, precision, false);
            assert_eq!(none, CacheCounts::default());
            let (first, ..) = run(mesh, precision, true);
            let (second, cached_tokens, cached_margins) = run(mesh, precision, true);
            println!("{mesh:?} {precision}: {first:?}, then {second:?}");
            assert_eq!((second.packed, second.found), (0, first.packed + first.found));
            // Logit margins compare the logits' bits.
            assert_eq!((cached_tokens, cached_margins), (tokens, margins), "{mesh:?} {precision}");
        }
    }
    // Damaged files are repacked and give the same tensors.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let (_, tokens, margins) = run(MeshKind::N150, "mixed", false);
    let (counts, again, bits) = run(MeshKind::N150, "mixed", true);
    assert!(counts.found == 0 && counts.packed > 0, "{counts:?}");
    assert_eq!((again, bits), (tokens, margins));
}
