//! pi0 and pi0.5 as policies: fresh noise, seeds, cameras, refusals, real-time chunking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use std::path::Path;

use pi0_support::{KITS, copied, edit, kit, step};
use serde_json::json;
use vla_inference::backend::cpu::CpuBackend;
use vla_inference::golden::pi0::{Pi0Case, Pi0Kit};
use vla_inference::observation::{CameraFrame, Observation, Playback};
use vla_inference::policy::{
    ContinuationMode, FlowOptions, Instruction, Pi0Policy, Policy, PolicyError, PolicyOptions,
};

fn open(folder: &Path, flow: FlowOptions) -> Result<Pi0Policy<CpuBackend>, PolicyError> {
    let flow = FlowOptions { steps: flow.steps.or(Some(3)), ..flow };
    let options = PolicyOptions { precision: "f32".into(), flow, ..Default::default() };
    Pi0Policy::open(CpuBackend::new(2).unwrap(), folder, &options)
}

fn observation(kit: &Pi0Kit, case: &Pi0Case) -> Observation {
    let short = |feature: &str| feature.strip_prefix("observation.images.").unwrap().to_owned();
    Observation {
        instruction: Instruction::new(&case.instruction).unwrap(),
        images: case
            .present
            .iter()
            .map(|(feature, path)| CameraFrame {
                // pi0.5's kit renames its second camera.
                camera: match short(feature).as_str() {
                    "image2" => "wrist_image".into(),
                    name => name.into(),
                },
                image: kit.image(path).unwrap(),
            })
            .collect(),
        state: case.state.clone(),
        playback: Playback::default(),
    }
}

#[test]
fn noise_is_fresh_and_its_seed_repeats_a_chunk() {
    for name in KITS {
        let kit = kit(name);
        let seen = observation(&kit, &kit.cases[0]);
        let mut policy =
            open(&kit.checkpoint(), FlowOptions { seed: Some(5), ..Default::default() }).unwrap();
        let (first, second) = (policy.act(&seen).unwrap(), policy.act(&seen).unwrap());
        assert_eq!(first.seed, Some(5));
        assert_eq!((first.actions.len(), first.actions[0].len()), (10, 7));
        assert_ne!(first.actions, second.actions);
        let mut again =
            open(&kit.checkpoint(), FlowOptions { seed: second.seed, ..Default::default() })
                .unwrap();
        assert_eq!(again.act(&seen).unwrap().actions, second.actions);
        let drawn: Vec<_> = (0..2)
            .map(|_| {
                let mut policy = open(&kit.checkpoint(), FlowOptions::default()).unwrap();
                policy.act(&seen).unwrap().seed
            })
            .collect();
        assert!(drawn[0].is_some() && drawn[0] != drawn[1]);
        assert_eq!(policy.info().horizon, 10);
        assert_eq!(policy.info().cameras.len(), 2);
        assert!(first.token_ids.is_empty() && first.prompt == kit.cases[0].prompt);
    }
}

#[test]
fn a_missing_camera_is_an_error_unless_it_is_declared_absent() {
    let kit = kit(KITS[1]);
    let case = kit.cases.iter().find(|case| case.present.len() == 1).unwrap();
    let seen = observation(&kit, case);
    let error = open(&kit.checkpoint(), FlowOptions::default()).unwrap().act(&seen).unwrap_err();
    assert!(error.to_string().contains("wrist_image"), "{error}");
    let absent = |name: &str| FlowOptions {
        absent_cameras: vec![name.into()],
        seed: Some(1),
        ..Default::default()
    };
    for name in ["wrist_image", "observation.images.image2"] {
        let mut policy = open(&kit.checkpoint(), absent(name)).unwrap();
        assert_eq!(policy.info().cameras.len(), 1);
        assert_eq!(policy.act(&seen).unwrap().input_ids, case.ids());
    }
    let error = open(&kit.checkpoint(), absent("ceiling")).err().unwrap().to_string();
    assert!(error.contains("image, wrist_image"), "{error}");
    let all = FlowOptions {
        absent_cameras: vec!["image".into(), "wrist_image".into()],
        ..Default::default()
    };
    assert!(open(&kit.checkpoint(), all).is_err());
}

#[test]
fn observations_that_cannot_be_decided_from_are_refused() {
    let kit = kit(KITS[1]);
    let mut policy = open(&kit.checkpoint(), FlowOptions::default()).unwrap();
    let good = observation(&kit, &kit.cases[0]);
    let mut act = |change: fn(&mut Observation)| {
        let mut seen = good.clone();
        change(&mut seen);
        policy.act(&seen).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(act(|o| o.state[3] = f64::NAN).contains("value 3 of the state is NaN"));
    assert!(act(|o| o.state.truncate(7)).contains("8 values"));
    let long = act(|o| o.instruction = Instruction::new(&"cup ".repeat(200)).unwrap());
    assert!(long.contains("tokens but the model was trained with at most 200"), "{long}");
    assert_eq!(act(|_| {}), "");
}

#[test]
fn a_base_checkpoint_is_driven_with_given_statistics_only() {
    let copy = copied(KITS[0]);
    let folder = copy.path().join("ckpt");
    for (file, name) in [
        ("policy_preprocessor.json", "normalizer_processor"),
        ("policy_postprocessor.json", "unnormalizer_processor"),
    ] {
        edit(&folder.join(file), |pipeline| {
            step(pipeline, name).as_object_mut().unwrap().remove("state_file");
        });
    }
    let error = open(&folder, FlowOptions::default()).err().unwrap().to_string();
    assert!(error.contains("base checkpoint without statistics"), "{error}");
    let list = |value: f64| vec![value; 32];
    let stats = json!({"mean": list(0.1), "std": list(0.5)});
    let file = copy.path().join("norm_stats.json");
    let write = |state: &serde_json::Value| {
        let text = json!({"norm_stats": {"state": state, "actions": stats}}).to_string();
        std::fs::write(&file, text).unwrap();
    };
    write(&stats);
    let given = || FlowOptions { statistics: Some(file.clone()), ..Default::default() };
    let policy = open(&folder, given()).unwrap();
    assert_eq!(policy.normalizers()[0].low.len(), 8);
    // A dimension that never moved in training.
    let mut still = stats.clone();
    still["std"][2] = json!(0.0);
    write(&still);
    let error = open(&folder, given()).err().unwrap().to_string();
    assert!(error.contains("dimensions [2] of the state were constant"), "{error}");
}

/// Distance of the first rows of a chunk from those that were to come.
fn distance(chunk: &[Vec<f64>], wanted: &[Vec<f64>], rows: usize) -> f64 {
    let pairs = chunk.iter().take(rows).flatten().zip(wanted.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / rows as f64
}

#[test]
fn a_chunk_continues_the_previous_one() {
    for name in KITS {
        let kit = kit(name);
        let mut seen = observation(&kit, &kit.cases[0]);
        let guided = "guided".parse::<ContinuationMode>().unwrap();
        let chunks: Vec<_> = [ContinuationMode::None, guided]
            .into_iter()
            .map(|continuation| {
                let flow = FlowOptions {
                    seed: Some(3),
                    steps: Some(10),
                    continuation,
                    ..Default::default()
                };
                let mut policy = open(&kit.checkpoint(), flow).unwrap();
                seen.playback = Playback::default();
                let first = policy.act(&seen).unwrap();
                seen.playback = Playback { executed: Some(4), delay: 3 };
                let second = policy.act(&seen).unwrap();
                distance(&second.normalized, &first.normalized[4..], 3)
            })
            .collect();
        assert!(chunks[1] < 0.2 * chunks[0], "{name}: {chunks:?}");
        let error = open(
            &kit.checkpoint(),
            FlowOptions { continuation: ContinuationMode::Trained, ..Default::default() },
        );
        assert!(error.err().unwrap().to_string().contains("rtc_training_max_delay"));
    }
}

#[test]
fn the_trained_mode_keeps_what_is_being_executed() {
    let copy = copied(KITS[1]);
    let folder = copy.path().join("ckpt");
    edit(&folder.join("config.json"), |config| config["rtc_training_max_delay"] = json!(4));
    let kit = kit(KITS[1]);
    let flow = FlowOptions {
        seed: Some(3),
        continuation: ContinuationMode::Trained,
        ..Default::default()
    };
    let mut policy = open(&folder, flow).unwrap();
    let mut seen = observation(&kit, &kit.cases[0]);
    let first = policy.act(&seen).unwrap();
    seen.playback = Playback { executed: Some(2), delay: 4 };
    let second = policy.act(&seen).unwrap();
    assert_eq!(second.normalized[..4], first.normalized[2..6]);
    assert_eq!(second.remark, None);
    // A longer delay than in training is no reason to stop: the trained part is continued.
    seen.playback = Playback { executed: Some(2), delay: 5 };
    let third = policy.act(&seen).unwrap();
    assert_eq!(third.normalized[..4], second.normalized[2..6]);
    assert_ne!(third.normalized[4], second.normalized[6]);
    let remark = third.remark.unwrap();
    assert!(remark.contains("takes 5 steps") && remark.contains("at most 4"), "{remark}");
    // Two steps are left of the chunk, fewer than the inference takes.
    seen.playback = Playback { executed: Some(first.normalized.len() - 2), delay: 4 };
    let fourth = policy.act(&seen).unwrap();
    assert_eq!(fourth.normalized[..2], third.normalized[first.normalized.len() - 2..]);
    assert!(fourth.remark.unwrap().contains("2 steps left"));
    // Nothing is left: nothing is continued, and control says that the chunk has run out.
    seen.playback = Playback { executed: Some(usize::MAX), delay: 4 };
    assert_eq!(policy.act(&seen).unwrap().remark, None);
}

#[test]
fn a_policy_restarts_from_its_first_seed() {
    let kit = kit(KITS[0]);
    let seen = observation(&kit, &kit.cases[0]);
    let flow = FlowOptions { seed: Some(3), ..Default::default() };
    let mut policy = open(&kit.checkpoint(), flow).unwrap();
    let first = policy.act(&seen).unwrap();
    let second = policy.act(&seen).unwrap();
    assert_ne!(first.normalized, second.normalized);
    assert_eq!(first.seed, Some(3));
    policy.restart();
    assert_eq!(policy.next_seed(), Some(3));
    assert_eq!(policy.act(&seen).unwrap().normalized, first.normalized);
}
