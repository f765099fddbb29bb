//! The golden kit of the official code, on the CPU backend: pixels, every stage, tokens, actions,
//! special cases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use vla_inference::backend::cpu::CpuBackend;
use vla_inference::backend::{Backend, Normalisation, Pixels};
use vla_inference::checkpoint::Checkpoint;
use vla_inference::golden::{Bounds, EosCase, Kit, check};
use vla_inference::models::NoProbe;
use vla_inference::models::TensorSource;
use vla_inference::models::openvla::OpenVla;
use vla_inference::observation::Observation;
use vla_inference::policy::{
    DecodeMode, Instruction, OpenVlaPolicy, Policy, PolicyError, PolicyOptions,
};
use vla_inference::tensor::{DType, HostTensor, agreement};

fn kit_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/openvla_tiny"))
}

fn kit() -> Kit {
    Kit::open(kit_folder()).unwrap()
}

fn options(decode: DecodeMode) -> PolicyOptions {
    PolicyOptions {
        unnorm_key: Some("bridge_orig".into()),
        decode,
        precision: "f32".into(),
        ..Default::default()
    }
}

fn policy(kit: &Kit, decode: DecodeMode) -> OpenVlaPolicy<CpuBackend> {
    let backend = CpuBackend::new(2).unwrap();
    OpenVlaPolicy::open(backend, &kit.checkpoint(), &options(decode)).unwrap()
}

#[test]
fn every_stage_and_token_agrees() {
    let kit = kit();
    let report = check(&kit, &mut policy(&kit, DecodeMode::Full), Bounds::F32).unwrap();
    assert!(report.missed.is_empty(), "{:#?}", report.missed);
    assert_eq!(report.cases.len(), 12);
    assert!(
        report.cases.iter().all(|case| case.tokens == case.expected && case.physical_error < 1e-12)
    );
    assert_eq!(report.texts, kit.tokenizer_cases.len());
    let stages: BTreeMap<_, usize> =
        report.stages.iter().fold(BTreeMap::new(), |mut counts, stage| {
            *counts.entry(stage.stage.as_str()).or_default() += 1;
            counts
        });
    for (stage, cases) in [
        ("patch_features.dino", 1),
        ("projector.out", 1),
        ("llm.layer2.out.last", 1),
        ("logits.first", 1),
    ] {
        assert_eq!(stages[stage], cases, "{stage}");
    }
}

#[test]
fn the_check_notices_a_wrong_number() {
    let kit = kit();
    // Bounds that cannot be met.
    let bounds = Bounds { pcc: 1.0 + 1e-9, logits: Some(0.0), margin: 0.0 };
    let report = check(&kit, &mut policy(&kit, DecodeMode::Full), bounds).unwrap();
    assert!(report.missed.iter().any(|line| line.contains("projector.out")));
    assert!(report.missed.iter().any(|line| line.contains("logits.first")));
}

/// A kit whose only case is `case`, so that special cases run on little else.
fn kit_of_case(case: usize) -> Kit {
    let mut kit = kit();
    kit.cases.retain(|kept| kept.id == case);
    kit.eos_cases.clear();
    kit
}

fn special(kit: &Kit) -> Vec<String> {
    check(kit, &mut policy(kit, DecodeMode::Full), Bounds::F32).unwrap().special
}

#[test]
fn trailing_space_may_have_its_own_instruction() {
    // Another instruction in front of the same image: only the recorded values belong to it.
    let mut kit = kit_of_case(0);
    let other = self::kit().cases[1].clone();
    let image = kit.image(&kit.trailing_space_case.image).unwrap();
    let instruction = Instruction::new(&other.instruction).unwrap();
    let answer =
        policy(&kit, DecodeMode::Full).act(&Observation::single(&image, &instruction)).unwrap();
    assert_ne!(answer.token_ids, kit.cases[0].generated_ids);
    kit.trailing_space_case.prompt = format!("{} ", other.prompt);
    kit.trailing_space_case.input_ids = other.input_ids_fed;
    kit.trailing_space_case.action = answer.actions[0].clone();
    assert_eq!(special(&kit), Vec::<String>::new());

    kit.trailing_space_case.action[3] += 0.01;
    assert!(special(&kit)[0].contains("from dimension 3 on"), "{:?}", special(&kit));
    kit.trailing_space_case.input_ids.pop();
    assert!(special(&kit)[0].contains("prompt ids"), "{:?}", special(&kit));
}

#[test]
fn end_token_in_last_place_completes_the_action() {
    let mut kit = kit_of_case(0);
    let case = kit.cases[0].clone();
    let (id, action) = (*case.generated_ids.last().unwrap(), &case.actions["bridge_orig"]);
    assert_eq!(case.generated_ids.iter().position(|&token| token == id), Some(6));
    kit.eos_cases = vec![EosCase { case: 0, eos_token_id: id, action: action.clone() }];
    assert_eq!(special(&kit), Vec::<String>::new());

    kit.eos_cases[0].action[6] += 0.01;
    assert!(special(&kit)[0].contains("from dimension 6 on"), "{:?}", special(&kit));
    kit.eos_cases[0].eos_token_id = 31_744;
    assert!(special(&kit)[0].contains("lack it"), "{:?}", special(&kit));
}

#[test]
fn action_tokens_alone_give_the_same_action() {
    let kit = kit();
    let (mut full, mut actions) =
        (policy(&kit, DecodeMode::Full), policy(&kit, DecodeMode::Actions));
    for case in &kit.cases {
        let (image, instruction) =
            (kit.image(&case.image).unwrap(), Instruction::recorded(&case.instruction).unwrap());
        let (a, b) = (
            full.act(&Observation::single(&image, &instruction)).unwrap(),
            actions.act(&Observation::single(&image, &instruction)).unwrap(),
        );
        assert_eq!(a.token_ids, case.generated_ids);
        assert_eq!(a.prompt, case.prompt);
        assert_eq!((a.token_ids, a.actions), (b.token_ids, b.actions));
    }
}

/// The checkpoint's tensors, one row of the head filled with a value.
struct Bent<'a>(&'a vla_inference::checkpoint::WeightFiles, usize, f32);

impl TensorSource for Bent<'_> {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<HostTensor, vla_inference::models::ModelError> {
        let tensor = TensorSource::tensor(self.0, name, shape)?;
        if name != "language_model.lm_head.weight" {
            return Ok(tensor);
        }
        let (mut values, columns) = (tensor.to_f32(), shape[1]);
        values[self.1 * columns..(self.1 + 1) * columns].fill(self.2);
        Ok(HostTensor::from_f32(shape, values).unwrap())
    }

    fn contains(&self, name: &str) -> bool {
        TensorSource::contains(self.0, name)
    }
}

/// The kit's policy with row `token` of the head filled with `value`.
fn bent(kit: &Kit, token: usize, value: f32) -> OpenVlaPolicy<CpuBackend> {
    let checkpoint = Checkpoint::open(&kit.checkpoint()).unwrap();
    let weights = checkpoint.weights.clone();
    let backend = CpuBackend::new(2).unwrap();
    let weights = Bent(&weights, token, value);
    OpenVlaPolicy::from_checkpoint(backend, checkpoint, &weights, &options(DecodeMode::Full))
        .unwrap()
}

#[test]
fn token_outside_the_actions_is_named() {
    let kit = kit();
    let case = &kit.cases[0];
    // Token 278 is "▁the"; with one of the two values it has the largest logit.
    let refused = [100.0, -100.0].into_iter().filter_map(|value| {
        let mut policy = bent(&kit, 278, value);
        policy
            .act(&Observation::single(
                &kit.image(&case.image).unwrap(),
                &Instruction::new(&case.instruction).unwrap(),
            ))
            .err()
    });
    let texts: Vec<String> = refused.map(|error: PolicyError| error.to_string()).collect();
    assert!(
        texts.iter().any(|text| text.contains("token 278 (\"▁the\")") && text.contains("31744")),
        "{texts:?}"
    );
}

/// The checkpoint's tensors, the head all zeros.
struct Headless<'a>(&'a vla_inference::checkpoint::WeightFiles);

impl TensorSource for Headless<'_> {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<HostTensor, vla_inference::models::ModelError> {
        if name == "language_model.lm_head.weight" {
            let values = vec![0.0; shape.iter().product()];
            return Ok(HostTensor::from_f32(shape, values).unwrap());
        }
        TensorSource::tensor(self.0, name, shape)
    }

    fn contains(&self, name: &str) -> bool {
        TensorSource::contains(self.0, name)
    }
}

#[test]
fn an_action_that_nothing_is_preferred_for_is_an_error() {
    let kit = kit();
    let checkpoint = Checkpoint::open(&kit.checkpoint()).unwrap();
    let weights = checkpoint.weights.clone();
    let mut policy = OpenVlaPolicy::from_checkpoint(
        CpuBackend::new(2).unwrap(),
        checkpoint,
        &Headless(&weights),
        &options(DecodeMode::Actions),
    )
    .unwrap();
    let case = &kit.cases[0];
    let image = kit.image(&case.image).unwrap();
    let instruction = Instruction::new(&case.instruction).unwrap();
    let error = policy.act(&Observation::single(&image, &instruction)).unwrap_err();
    assert!(matches!(error, PolicyError::NoPreference(7)), "{error}");
}

#[test]
fn non_finite_logit_is_an_error() {
    let kit = kit();
    let mut policy = bent(&kit, 31_800, f32::NAN);
    let case = &kit.cases[0];
    let error = policy
        .act(&Observation::single(
            &kit.image(&case.image).unwrap(),
            &Instruction::new(&case.instruction).unwrap(),
        ))
        .unwrap_err();
    assert!(error.is_not_finite(), "{error}");
}

#[test]
fn keys_after_rope_and_values_agree() {
    let (kit, backend) = (kit(), CpuBackend::new(2).unwrap());
    let mut policy = policy(&kit, DecodeMode::Full);
    let checkpoint = policy.checkpoint().clone();
    let (config, vocabulary) = (&checkpoint.config, checkpoint.config.llama.vocab_size);
    let model = OpenVla::load(
        &backend,
        &checkpoint.weights,
        config,
        &checkpoint.preprocessor,
        0..vocabulary,
    )
    .unwrap();
    let case = &kit.cases[0];
    let golden = kit.tensors(case.id).unwrap().unwrap();
    let rgb = policy.prepare(&kit.image(&case.image).unwrap()).unwrap().pixels().to_vec();
    let features = model.features(&backend, &rgb, &mut NoProbe).unwrap();
    let image = model.project(&backend, &features, &mut NoProbe).unwrap();
    let (sequence, _) =
        model.prefill(&backend, &image, &case.input_ids_fed, 6, &mut NoProbe).unwrap();
    let (keys, values) = backend.read_cache(sequence.cache(), 0).unwrap();
    for (ours, name) in [(keys, "llm.layer0.k_cache"), (values, "llm.layer0.v_cache")] {
        assert_eq!(ours.shape(), golden[name].shape(), "{name}");
        let agreement = agreement(&ours.to_f32(), &golden[name].to_f32()).unwrap();
        assert!(agreement.max_abs < 1e-5, "{name}: {agreement:?}");
    }
}

#[test]
fn normalised_pixels_are_exact() {
    let (kit, backend) = (kit(), CpuBackend::new(1).unwrap());
    let mut policy = policy(&kit, DecodeMode::Full);
    let towers = policy.checkpoint().preprocessor.towers.clone();
    for id in [0, 3] {
        let Some(golden) =
            kit.tensors(id).unwrap().and_then(|mut tensors| tensors.remove("pixel_values"))
        else {
            continue;
        };
        let rgb =
            policy.prepare(&kit.image(&kit.cases[id].image).unwrap()).unwrap().pixels().to_vec();
        let golden = golden.to_f32();
        for (tower, pixels) in towers.iter().enumerate() {
            let image = backend.upload_image(Pixels { rgb: &rgb, side: 224, patch: 14 }).unwrap();
            let patches = backend.cut_patches(&image).unwrap();
            let normalisation = Normalisation { mean: pixels.mean, std: pixels.std };
            let ours =
                backend.download(&backend.normalise(&patches, normalisation).unwrap()).unwrap();
            assert_eq!((ours.dtype(), ours.shape()), (DType::F32, [256, 588].as_slice()));
            for (index, value) in ours.to_f32().into_iter().enumerate() {
                let (patch, column) = (index / 588, index % 588);
                let (channel, y, x) = (
                    column / 196,
                    patch / 16 * 14 + column % 196 / 14,
                    patch % 16 * 14 + column % 14,
                );
                let want = golden[((tower * 3 + channel) * 224 + y) * 224 + x];
                assert!(
                    value.to_bits() == want.to_bits(),
                    "tower {tower} channel {channel} ({x}, {y}): {value} {want}"
                );
            }
        }
    }
}
