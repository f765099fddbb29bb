//! Actions that a mesh does without the host: recorded, replayed, with our own kernels and with
//! TT-NN's operations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use vla_inference::backend::Backend;
use vla_inference::backend::cpu::CpuBackend;
use vla_inference::backend::precision::PrecisionPolicy;
use vla_inference::backend::tt::{
    CacheCounts, Kernels, MeshKind, Provider, TtBackend, WeightCache, open,
};
use vla_inference::golden::Kit;
use vla_inference::models::TensorSource;
use vla_inference::models::probe::Blind;
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

fn policy(kit: &Kit, backend: TtBackend, decode: DecodeMode) -> OpenVlaPolicy<TtBackend> {
    let options =
        PolicyOptions { unnorm_key: Some("bridge_orig".into()), decode, ..Default::default() };
    OpenVlaPolicy::open(backend, &kit.checkpoint(), &options).unwrap()
}

fn stages(decision: &vla_inference::policy::Decision) -> Vec<&'static str> {
    decision.stages.iter().map(|stage| stage.name).collect()
}

/// Some actions through `act`, next to the same operation by operation: the first `count` of six.
fn replays_equal_eager(
    count: usize,
    mesh: MeshKind,
    precision: &str,
    kernels: Kernels,
    decode: DecodeMode,
) {
    let kit = kit();
    let mut policy = policy(&kit, backend(mesh, precision, kernels), decode);
    // Two images under one instruction, another instruction as long, and one of another length.
    let (first, second) = (&kit.cases[0], &kit.cases[4]);
    let images = [first, second, &kit.cases[3]].map(|case| kit.image(&case.image).unwrap());
    let longer = Instruction::new(&kit.cases[1].instruction).unwrap();
    let instruction = Instruction::new(&first.instruction).unwrap();
    assert_eq!(first.instruction, second.instruction);
    let other = Instruction::new("lift up the block").unwrap();
    let record = ["preprocess", "record"];
    let replay = ["preprocess", "replay"];
    let steps = [
        (&images[0], &instruction, record),
        (&images[1], &instruction, replay),
        (&images[2], &other, replay),
        (&images[2], &longer, record),
        (&images[0], &longer, replay),
        (&images[0], &instruction, record),
    ];
    let mut distinct = std::collections::BTreeSet::new();
    let mut memory = None;
    for (number, (image, instruction, wanted)) in steps.into_iter().enumerate().take(count) {
        let what = format!("{mesh:?} {precision} {kernels:?} {decode:?}, step {number}");
        let before = policy.backend().traffic();
        let decision = match policy.act(image, instruction) {
            Ok(decision) => decision,
            Err(error) => panic!("{what}: {error}"),
        };
        let after = policy.backend().traffic();
        assert_eq!(stages(&decision), wanted, "{what}");
        if wanted == replay {
            let words = if kernels == Kernels::Custom { 8 } else { 1 };
            assert_eq!(
                (after.reads - before.reads, after.read_bytes - before.read_bytes),
                (1, 4 * TOKENS * words),
                "{what}"
            );
            // The image, and the ids where they are others: whole tiles of them.
            let others = number == 2;
            assert_eq!(after.writes - before.writes, if others { 2 } else { 1 }, "{what}");
            if kernels == Kernels::Custom {
                let ids = decision.input_ids.len().next_multiple_of(32) as u64 * 4;
                assert_eq!(
                    after.written_bytes - before.written_bytes,
                    IMAGE + if others { ids } else { 0 },
                    "{what}"
                );
            }
        }
        if number == 1 {
            memory = Some(policy.backend().allocated_memory().unwrap());
        }
        let rgb = policy.resize(image);
        let eager = policy.generate(&rgb, &decision.input_ids, &mut Blind).unwrap();
        assert_eq!(decision.token_ids, eager.token_ids, "{what}");
        if kernels == Kernels::Custom {
            assert_eq!(decision.margins, eager.margins, "{what}");
        } else {
            assert!(decision.margins.is_empty(), "{what}");
        }
        distinct.insert(decision.token_ids);
    }
    assert!(distinct.len() + 2 >= count, "{distinct:?}");
    // Nothing is left behind by recordings that were given back; prompts of one length take what
    // they took before.
    if count == steps.len() {
        assert_eq!(
            Some(policy.backend().allocated_memory().unwrap()),
            memory,
            "{mesh:?} {precision}"
        );
    }
    assert_eq!(policy.backend().detours(), 0);
}

#[test]
fn replays_give_the_tokens_of_the_eager_path_on_every_mesh_in_every_precision() {
    use DecodeMode::{Actions, Full};
    use Kernels::{Custom, Ttnn};
    for mesh in MESHES {
        for precision in ["bf16", "mixed", "bfp8"] {
            replays_equal_eager(3, mesh, precision, Custom, Actions);
        }
    }
    replays_equal_eager(6, MeshKind::N300, "bf16", Custom, Full);
    replays_equal_eager(3, MeshKind::T3k, "mixed", Ttnn, Full);
    replays_equal_eager(3, MeshKind::N150, "bf16", Ttnn, Actions);
}

/// Actions with the last answer as a draft are those without.
fn drafts_change_nothing<B: Backend>(kit: &Kit, offered: u64, make: impl Fn() -> B) {
    let open = |draft: bool| {
        let options =
            PolicyOptions { unnorm_key: Some("bridge_orig".into()), draft, ..Default::default() };
        OpenVlaPolicy::open(make(), &kit.checkpoint(), &options).unwrap()
    };
    let (mut plain, mut drafting) = (open(false), open(true));
    let mut inputs: Vec<_> = [0, 0, 4, 1, 1]
        .map(|case| &kit.cases[case])
        .map(|case| (kit.image(&case.image).unwrap(), Instruction::new(&case.instruction).unwrap()))
        .into_iter()
        .collect();
    inputs.push(inputs[0].clone());
    for (image, instruction) in &inputs {
        let (want, got) =
            (plain.act(image, instruction).unwrap(), drafting.act(image, instruction).unwrap());
        assert_eq!((want.token_ids, want.action), (got.token_ids, got.action));
    }
    let counts = drafting.draft_counts();
    println!(
        "{}: {} of {} drafted tokens accepted",
        drafting.info().device,
        counts.accepted,
        counts.offered
    );
    // The first has nothing to guess from; two images come twice, and then every token is right.
    assert_eq!(counts.offered, offered);
    assert!((12..=offered).contains(&counts.accepted), "{counts:?}");
    assert_eq!(plain.draft_counts(), DraftCounts::default());
}

#[test]
fn drafting_changes_no_action_on_the_cpu_and_on_meshes() {
    let kit = kit();
    drafts_change_nothing(&kit, 5 * 6, || CpuBackend::new(2).unwrap());
    // The first action of each length is being recorded and guesses nothing.
    for mesh in [MeshKind::N300, MeshKind::T3k] {
        drafts_change_nothing(&kit, 3 * 6, || backend(mesh, "bf16", Kernels::Custom));
    }
}

#[test]
fn a_right_draft_is_one_read() {
    let kit = kit();
    let options =
        PolicyOptions { unnorm_key: Some("bridge_orig".into()), draft: true, ..Default::default() };
    let backend = backend(MeshKind::N300, "mixed", Kernels::Custom);
    let mut policy = OpenVlaPolicy::open(backend, &kit.checkpoint(), &options).unwrap();
    let instruction = Instruction::new(&kit.cases[0].instruction).unwrap();
    let images = [0, 0, 4].map(|case| kit.image(&kit.cases[case].image).unwrap());
    let mut reads = Vec::new();
    for image in &images {
        let before = (policy.backend().traffic(), policy.draft_counts());
        let decision = policy.act(image, &instruction).unwrap();
        let after = (policy.backend().traffic(), policy.draft_counts());
        reads.push((
            after.0.reads - before.0.reads,
            after.1.accepted - before.1.accepted,
            decision.token_ids,
        ));
    }
    // The same image: all six were right. Another: the wrong ones are decoded after a second look.
    assert_eq!((reads[1].0, reads[1].1), (1, 6), "{reads:?}");
    assert!(reads[2].1 < 6 && reads[2].0 == 2, "{reads:?}");
}

#[test]
fn our_kernels_give_the_very_logits_of_the_plain_way() {
    let kit = kit();
    let case = &kit.cases[7];
    let instruction = Instruction::new(&case.instruction).unwrap();
    for precision in ["bf16", "bfp8"] {
        let decisions = [Kernels::Custom, Kernels::Ttnn].map(|kernels| {
            let mut policy =
                policy(&kit, backend(MeshKind::N300, precision, kernels), DecodeMode::Actions);
            let image = kit.image(&case.image).unwrap();
            let rgb = policy.resize(&image);
            // Op by op: the patches come from the kernel or from the host, and the margins show the
            // logits' bits.
            let eager = policy.generate(&rgb, &case.input_ids_fed, &mut Blind).unwrap();
            (eager.token_ids, eager.margins, policy.act(&image, &instruction).unwrap().token_ids)
        });
        let [(tokens, margins, acted), plain] = decisions;
        assert_eq!((&tokens, &margins, &acted), (&plain.0, &plain.1, &plain.2), "{precision}");
        assert_eq!(tokens, acted);
    }
}

/// The checkpoint's tensors, one row of the head not a number.
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
fn what_is_not_a_number_or_ends_early_is_an_error_in_a_replay_too() {
    let kit = kit();
    let case = &kit.cases[0];
    let (image, instruction) =
        (kit.image(&case.image).unwrap(), Instruction::new(&case.instruction).unwrap());
    let mut policy =
        policy(&kit, backend(MeshKind::N300, "bf16", Kernels::Custom), DecodeMode::Actions);
    let tokens = policy.act(&image, &instruction).unwrap().token_ids;
    let end = policy.end_of_sequence();
    for (at, id) in tokens.iter().enumerate().take(6) {
        policy.set_end_of_sequence(Some(*id));
        let first = tokens.iter().position(|token| token == id).unwrap();
        let error = policy.act(&image, &instruction).unwrap_err();
        assert!(
            matches!(error, PolicyError::EndedEarly { got, wanted: 7 } if got == first),
            "{at}: {error}"
        );
    }
    policy.set_end_of_sequence(end);
    assert_eq!(policy.act(&image, &instruction).unwrap().token_ids, tokens);
    policy.reload(|weights| Box::new(Broken(weights)), DecodeMode::Actions).unwrap();
    for _ in 0..2 {
        let error = policy.act(&image, &instruction).unwrap_err();
        assert!(error.is_not_finite(), "{error}");
    }
}

#[test]
fn packed_weights_are_taken_from_their_folder_the_second_time() {
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
        let rgb = policy.resize(&kit.image(&case.image).unwrap());
        let generation = policy.generate(&rgb, &case.input_ids_fed, &mut Blind).unwrap();
        (policy.backend().weight_cache_counts(), generation.token_ids, generation.margins)
    };
    for mesh in [MeshKind::N150, MeshKind::T3k] {
        for precision in ["mixed", "bfp8"] {
            let (none, tokens, margins) = run(mesh, precision, false);
            assert_eq!(none, CacheCounts::default());
            let (first, ..) = run(mesh, precision, true);
            let (second, cached_tokens, cached_margins) = run(mesh, precision, true);
            println!("{mesh:?} {precision}: {first:?}, then {second:?}");
            assert_eq!((second.packed, second.found), (0, first.packed + first.found));
            // The margins show the bits of the logits.
            assert_eq!((cached_tokens, cached_margins), (tokens, margins), "{mesh:?} {precision}");
        }
    }
    // A folder full of damage gives the same tensors, packed anew.
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
