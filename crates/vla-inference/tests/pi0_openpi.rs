//! One checkpoint in both forms, LeRobot's and openpi's converted one: the same weights and
//! statistics give the same chunks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use std::path::Path;

use pi0_support::openpi::converted;
use pi0_support::{KITS, kit};
use vla_inference::backend::cpu::CpuBackend;
use vla_inference::checkpoint::pi0::{ActionMapping, Resize, StateTokens};
use vla_inference::golden::pi0::Pi0Kit;
use vla_inference::models::pi0::{TimeSteps, times};
use vla_inference::observation::{CameraFrame, Observation, Playback};
use vla_inference::policy::{Decision, FlowOptions, Instruction, Pi0Policy, Policy, PolicyOptions};

fn policy(folder: &Path, flow: FlowOptions) -> Pi0Policy<CpuBackend> {
    let flow = FlowOptions { seed: Some(3), ..flow };
    let options = PolicyOptions { precision: "f32".into(), flow, ..Default::default() };
    Pi0Policy::open(CpuBackend::new(2).unwrap(), folder, &options).unwrap()
}

/// What openpi's folder does not say; LeRobot's resizer, so that the pixels are the same.
fn answers() -> FlowOptions {
    FlowOptions {
        resize: Some(Resize::TorchBilinearPad),
        state_tokens: Some(StateTokens::Exact),
        actions: Some(ActionMapping::Absolute),
        absent_cameras: vec!["right_wrist_0_rgb".into()],
        ..FlowOptions::default()
    }
}

/// The kit's first case, with each camera under the policy's name.
fn act(kit: &Pi0Kit, policy: &mut Pi0Policy<CpuBackend>, instruction: &str) -> Decision {
    let case = &kit.cases[0];
    let cameras = policy.info().cameras.clone();
    let images = cameras
        .into_iter()
        .zip(case.present.values())
        .map(|(camera, path)| CameraFrame { camera, image: kit.image(path).unwrap() });
    let observation = Observation {
        instruction: Instruction::new(instruction).unwrap(),
        images: images.collect(),
        state: case.state.clone(),
        playback: Playback::default(),
    };
    policy.restart();
    policy.act(&observation).unwrap()
}

fn largest(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn both_forms_give_the_same_chunks() {
    for name in KITS {
        let kit = kit(name);
        let mut own = policy(&kit.checkpoint(), FlowOptions::default());
        let lerobot = act(&kit, &mut own, "pick up the block");
        let copy = converted(name);
        let folder = copy.path().join("ckpt");
        let mut openpi = policy(&folder, answers());
        for (policy, form) in [(&own, TimeSteps::Rounded), (&openpi, TimeSteps::Accumulated)] {
            assert_eq!(policy.schedule(10).unwrap().times, times(10, form), "{name}");
        }
        let theirs = act(&kit, &mut openpi, "pick up the block");
        assert_eq!(theirs.prompt, lerobot.prompt, "{name}");
        assert_eq!(theirs.input_ids, lerobot.input_ids, "{name}");
        // openpi adds 1e-6 to deviations and ranges and adds its times up.
        let chunk = largest(&theirs.normalized, &lerobot.normalized);
        let actions = largest(&theirs.actions, &lerobot.actions);
        println!("{name}: chunks differ by {chunk:.1e} normalised, {actions:.1e} in units");
        assert!(chunk > 0.0 && chunk < 1e-4 && actions < 1e-4, "{name}: {chunk:e}, {actions:e}");
        // openpi cleans the instruction of both models.
        let untidy = act(&kit, &mut openpi, " pick_up the_block ");
        assert_eq!(untidy.normalized, theirs.normalized, "{name}");
        // Its own resizer is another picture.
        let flow = FlowOptions { resize: None, ..answers() };
        let resized = act(&kit, &mut policy(&folder, flow), "pick up the block");
        assert!(largest(&resized.normalized, &theirs.normalized) > 1e-3, "{name}");
        // Differences from the state: the physical state is added after un-normalising.
        let flow = FlowOptions { actions: Some("relative:6,-1".parse().unwrap()), ..answers() };
        let relative = act(&kit, &mut policy(&folder, flow), "pick up the block");
        assert_eq!(relative.normalized, theirs.normalized, "{name}");
        for (relative, own) in relative.actions.iter().zip(&theirs.actions) {
            for (at, (relative, own)) in relative.iter().zip(own).enumerate() {
                let state = if at < 6 { kit.cases[0].state[at] } else { 0.0 };
                assert!((relative - own - state).abs() < 1e-6, "{name}, {at}");
            }
        }
    }
}
