//! OpenVLA-OFT: the official code's values, and what must not be run or not be silent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "checkpoint_support/mod.rs"]
mod checkpoint_support;

use std::path::{Path, PathBuf};

use checkpoint_support::{edited, folder, kit_with, one_line_with};
use vla_inference::backend::Mask;
use vla_inference::backend::cpu::CpuBackend;
use vla_inference::checkpoint::{BoundsKind, Checkpoint, CheckpointKind, OftCheckpoint};
use vla_inference::golden::{KitKind, OftKit, check_oft, check_oft_with};
use vla_inference::observation::{
    CameraFrame, Instruction, Observation, Operation, Playback, Preparation, RgbImage, Size,
};
use vla_inference::policy::{OftContract, OftPolicy, Policy, PolicyOptions};

fn data(kit: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(kit)
}

fn cpu() -> CpuBackend {
    CpuBackend::new(2).unwrap()
}

fn golden(name: &str, cases: usize) {
    let folder = data(name);
    assert_eq!(KitKind::of(&folder).unwrap(), KitKind::Policy(CheckpointKind::OpenVlaOft));
    let kit = OftKit::open(&folder).unwrap();
    let report = check_oft(&kit, cpu(), &kit.checkpoint(), "f32").unwrap();
    let lines: Vec<String> = report.cases.iter().map(ToString::to_string).collect();
    println!("{}", lines.join("\n"));
    assert_eq!(report.missed(), Vec::<String>::new());
    assert_eq!(report.cases.len(), cases, "{lines:?}");
}

#[test]
fn two_images_a_state_and_eight_steps() {
    // Of two cases: as trained, without state, with one image, and discrete with one and two.
    golden("oft_tiny", 10);
}

#[test]
fn three_images_fourteen_joints_with_and_without_film() {
    golden("oft_tiny_aloha", 2);
}

#[test]
fn causal_attention_is_noticed() {
    let kit = OftKit::open(&data("oft_tiny")).unwrap();
    // Also by the loosest bounds, those of a mesh with block-float weights.
    for precision in ["f32", "bfp8"] {
        let report = check_oft_with(&kit, cpu(), &kit.checkpoint(), precision, |policy| {
            policy.set_mask(Mask::Causal);
        });
        let report = report.unwrap();
        let plain: Vec<_> = report.cases.iter().filter(|case| case.variant == "plain").collect();
        assert!(plain.iter().all(|case| !case.missed.is_empty()), "{plain:?}");
        // The recorded answers of stock transformers, which is causal.
        let causal = "nearer to those of causal attention";
        assert!(plain.iter().all(|case| case.missed.iter().any(|line| line.contains(causal))));
    }
}

#[test]
fn a_plain_checkpoint_stays_plain() {
    let plain = data("openvla_tiny/ckpt");
    assert_eq!(CheckpointKind::of(&plain).unwrap(), CheckpointKind::OpenVla);
    Checkpoint::open(&plain).unwrap();
}

#[test]
fn no_folder_with_signs_of_oft_is_run_as_plain() {
    let refused = |folder: &Path, sign: &str| {
        assert_eq!(CheckpointKind::of(folder).unwrap(), CheckpointKind::OpenVlaOft, "{sign}");
        one_line_with(Checkpoint::open(folder).unwrap_err(), &["OpenVLA-OFT", sign]);
    };
    refused(&data("oft_tiny/ckpt"), "action_head--150000_checkpoint.pt");
    for name in [
        "action_head--latest_checkpoint.pt",
        "proprio_projector--50000_checkpoint.pt",
        "noisy_action_projector--1_checkpoint.pt",
        "vision_backbone--latest_checkpoint.pt",
        "action_head.safetensors",
    ] {
        refused(kit_with(&[(name, vec![])], &[]).path(), name);
    }
    let adapter = kit_with(&[], &[]);
    std::fs::create_dir(adapter.path().join("lora_adapter")).unwrap();
    refused(adapter.path(), "lora_adapter");
    // The discrete variant leaves no file beside the weights.
    let code = b"class X:\n    def set_num_images_in_input(self): pass\n".to_vec();
    refused(kit_with(&[("modeling_prismatic.py", code)], &[]).path(), "modeling_prismatic.py");
    let config = edited("config.json", |config| config["use_l1_regression"] = true.into());
    refused(kit_with(&[("config.json", config)], &[]).path(), "use_l1_regression");
    let stats = edited("dataset_statistics.json", |stats| {
        stats["bridge_orig"]["proprio"]["q99"][0] = 0.5.into();
    });
    refused(kit_with(&[("dataset_statistics.json", stats)], &[]).path(), "\"bridge_orig\"");
}

/// The kit's checkpoint with files changed or left out.
fn oft_with(changed: &[(&str, Vec<u8>)], removed: &[&str]) -> tempfile::TempDir {
    let folder = folder(changed);
    for entry in std::fs::read_dir(data("oft_tiny/ckpt")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !removed.contains(&name.as_str()) && !changed.iter().any(|(other, _)| *other == name) {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(name)).unwrap();
        }
    }
    folder
}

const HEAD: &str = "action_head--150000_checkpoint.pt";
const PROPRIO: &str = "proprio_projector--150000_checkpoint.pt";

#[test]
fn unfit_folders_are_refused() {
    let head = std::fs::read(data("oft_tiny/ckpt").join(HEAD)).unwrap();
    let other = std::fs::read(data("oft_tiny_aloha/ckpt/action_head--latest_checkpoint.pt"));
    let open = |folder: &tempfile::TempDir| OftCheckpoint::open(folder.path()).unwrap_err();
    let diffusion = oft_with(&[("noisy_action_projector--1_checkpoint.pt", vec![])], &[]);
    one_line_with(open(&diffusion), &["diffusion head", "use_l1_regression"]);
    let two = oft_with(&[("action_head--1_checkpoint.pt", head.clone())], &[]);
    one_line_with(open(&two), &[HEAD, "action_head--1_checkpoint.pt", "remove the other"]);
    let truncated = oft_with(&[(HEAD, head[..head.len() / 2].to_vec())], &[]);
    one_line_with(open(&truncated), &[HEAD, "download it again"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec();
    one_line_with(open(&oft_with(&[(HEAD, pointer)], &[])), &["git lfs pull"]);
    // A head for another number of joints: caught by the statistics.
    let joints = oft_with(&[(HEAD, other.unwrap())], &[]);
    let error = OftPolicy::open(cpu(), joints.path(), &options(), contract());
    one_line_with(error.err().unwrap(), &["action", "14", "7", "libero_spatial_no_noops"]);
}

fn options() -> PolicyOptions {
    PolicyOptions { unnorm_key: Some("libero_spatial_no_noops".into()), ..Default::default() }
}

fn contract() -> OftContract {
    let steps = vec![Operation::Lanczos3(Size::square(224)).into()];
    OftContract {
        cameras: vec!["full".into(), "wrist".into()],
        preparation: Preparation::new(steps).unwrap(),
        chunk: 8,
        bounds: BoundsKind::Quantiles,
        state: true,
        discrete: false,
        film: true,
    }
}

#[test]
fn contracts_that_do_not_fit_are_refused() {
    let open = |folder: &Path, contract: OftContract, parts: &[&str]| {
        let error = OftPolicy::open(cpu(), folder, &options(), contract).err().unwrap();
        one_line_with(error, parts);
    };
    let whole = data("oft_tiny/ckpt");
    let without_head = oft_with(&[], &[HEAD]);
    open(without_head.path(), contract(), &["action_head", "download it", "discrete"]);
    let without_state = oft_with(&[], &[PROPRIO]);
    open(without_state.path(), contract(), &["state", "no proprio_projector"]);
    open(&whole, OftContract { state: false, ..contract() }, &["does not give", "state"]);
    open(&whole, OftContract { discrete: true, ..contract() }, &[HEAD, "discrete tokens"]);
    open(&whole, OftContract { chunk: 0, ..contract() }, &["chunk of 0 steps"]);
    open(&whole, OftContract { cameras: vec![], ..contract() }, &["cameras []"]);
    let twice = vec!["full".into(), "full".into()];
    open(&whole, OftContract { cameras: twice, ..contract() }, &["different ones"]);
    let small = vec![Operation::Lanczos3(Size::square(256)).into()];
    let small = Preparation::new(small).unwrap();
    open(&whole, OftContract { preparation: small, ..contract() }, &["256", "224"]);
    // The kit's random bounds of one joint are the wrong way round, which no data set has.
    let aloha = data("oft_tiny_aloha/ckpt");
    let joints = OftContract { bounds: BoundsKind::Extremes, chunk: 25, ..contract() };
    let options = PolicyOptions { unnorm_key: Some("aloha1_tiny_fold".into()), ..options() };
    let error = OftPolicy::open(cpu(), &aloha, &options, joints).err().unwrap();
    one_line_with(error, &["number 12 of the action", "restore"]);
    let options = PolicyOptions { unnorm_key: Some("no such".into()), ..Default::default() };
    let error = OftPolicy::open(cpu(), &whole, &options, contract()).err().unwrap();
    one_line_with(error, &["no such", "tiny_other"]);
}

#[test]
fn an_observation_becomes_a_chunk() {
    let mut policy =
        OftPolicy::open(cpu(), &data("oft_tiny/ckpt"), &options(), contract()).unwrap();
    let info = policy.info().clone();
    assert_eq!((info.horizon, info.action_dim, info.state_dim), (8, 7, 8));
    let grey = |value: u8| RgbImage::new(224, 224, vec![value; 224 * 224 * 3]).unwrap();
    let frame = |camera: &str, value| CameraFrame { camera: camera.into(), image: grey(value) };
    let mut observation = Observation {
        instruction: Instruction::new("Pick up the bowl").unwrap(),
        // In any order: names decide.
        images: vec![frame("wrist", 200), frame("full", 40)],
        state: vec![0.1; 8],
        playback: Playback::default(),
    };
    let first = policy.act(&observation).unwrap();
    assert_eq!((first.actions.len(), first.actions[0].len()), (8, 7));
    assert!(first.token_ids.is_empty() && first.prompt.contains("pick up the bowl?"));
    assert_eq!(policy.act(&observation).unwrap().actions, first.actions);
    // Cameras, state and instruction all matter.
    observation.images.reverse();
    assert_eq!(policy.act(&observation).unwrap().actions, first.actions);
    observation.images = vec![frame("wrist", 40), frame("full", 200)];
    assert_ne!(policy.act(&observation).unwrap().actions, first.actions);
    observation.images = vec![frame("wrist", 200), frame("full", 40)];
    observation.state[7] = 0.6;
    assert_ne!(policy.act(&observation).unwrap().actions, first.actions);
    observation.state[7] = 0.1;
    observation.instruction = Instruction::new("open the drawer").unwrap();
    assert_ne!(policy.act(&observation).unwrap().actions, first.actions);
    observation.state = vec![0.1; 7];
    one_line_with(policy.act(&observation).unwrap_err(), &["8", "7"]);
    observation.state = vec![f64::NAN; 8];
    one_line_with(policy.act(&observation).unwrap_err(), &["NaN"]);
    observation.state = vec![0.1; 8];
    observation.images.pop();
    one_line_with(policy.act(&observation).unwrap_err(), &["'full'", "'wrist'"]);
}
