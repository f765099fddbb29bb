//! Folders and files that are no checkpoint, given as one.

use std::path::{Path, PathBuf};

use super::checkpoint_support::kit;
use super::program::{Input, Should, check};

/// A file with its folders.
pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A link to the kit's checkpoint.
pub fn link_kit(at: &Path) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(kit(), at).unwrap();
}

#[test]
fn folders_that_hold_something_else_are_named() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let mut inputs = Vec::new();
    let mut refuse = |name, path: PathBuf, parts| {
        inputs.push(Input::checkpoint(name, path, Should::Refuse(parts)));
    };
    put(&at("ros1.bag"), b"#ROSBAG V2.0\n");
    refuse("ros1_bag", at("ros1.bag"), &["it is a ROS 1 bag"]);
    put(&at("ros1/a.bag"), b"#ROSBAG V2.0\n");
    refuse("ros1_folder", at("ros1"), &["is a folder of ROS 1 bags"]);
    put(&at("lerobot/meta/info.json"), b"{}");
    put(&at("lerobot/data/chunk-000/episode_000000.parquet"), b"PAR1");
    refuse("lerobot_data_set", at("lerobot"), &["is a LeRobot data set"]);
    put(&at("rlds/1.0.0/features.json"), b"{}");
    put(&at("rlds/1.0.0/dataset_info.json"), b"{}");
    refuse("rlds_data_set", at("rlds/1.0.0"), &["TensorFlow Datasets"]);
    let bags = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bags");
    refuse("bag_folder", bags.join("mcap_plain"), &["is a ROS 2 bag"]);
    refuse("bag_file", bags.join("mcap_plain/mcap_plain.mcap"), &["it is a ROS 2 bag"]);
    put(&at("bags/one/metadata.yaml"), b"");
    put(&at("bags/two/metadata.yaml"), b"");
    refuse("folder_of_bags", at("bags"), &["is a folder of 2 ROS 2 bags"]);
    put(&at("jax/params/_METADATA"), b"");
    put(&at("jax/assets/x"), b"");
    refuse("openpi_jax", at("jax"), &["convert_jax_model_to_pytorch.py"]);
    put(&at("adapter/adapter_config.json"), b"{}");
    put(&at("adapter/adapter_model.safetensors"), b"");
    refuse("adapter_alone", at("adapter"), &["is a LoRA adapter without the model"]);
    put(&at("weights/model.safetensors"), b"");
    refuse("weights_alone", at("weights"), &["holds weights, but no config.json"]);
    link_kit(&at("run/checkpoints/005000/pretrained_model"));
    refuse("training_folder", at("run"), &["checkpoints/005000/pretrained_model"]);
    put(&at("prismatic/checkpoints/step-000100.pt"), b"PK");
    refuse("prismatic_folder", at("prismatic"), &["convert_openvla_weights_to_hf.py"]);
    std::fs::create_dir(at("empty")).unwrap();
    refuse("empty_folder", at("empty"), &["is an empty folder"]);
    put(&at("onnx/model.onnx"), b"");
    refuse("onnx", at("onnx"), &["holds an exported network"]);
    put(&at("model.tar.gz"), b"\x1f\x8b");
    refuse("archive", at("model.tar.gz"), &["it is an archive: unpack it"]);
    put(&at("policy.yaml"), b"a: 1\n");
    refuse("policy_file", at("policy.yaml"), &["a policy file goes to --policy-file"]);
    refuse("one_file_of_it", kit().join("config.json"), &["it is one file of a checkpoint"]);
    check(&inputs);
}

#[test]
fn folders_of_the_hubs_cache_lead_to_their_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let model = at("hub/models--openvla--openvla-7b");
    let commit = "31f090d05236101ebfc381b61c674dd4746d4ce0";
    put(&model.join("refs/main"), commit.as_bytes());
    link_kit(&model.join("snapshots").join(commit));
    put(&model.join("snapshots/older/README.md"), b"");
    let without_ref = at("other/models--openvla--openvla-7b");
    link_kit(&without_ref.join("snapshots").join(commit));
    let several = at("several/models--openvla--openvla-7b");
    link_kit(&several.join("snapshots/a"));
    link_kit(&several.join("snapshots/b"));
    let unfinished = at("unfinished/models--openvla--openvla-7b");
    put(&unfinished.join("refs/main"), commit.as_bytes());
    std::fs::create_dir_all(unfinished.join("snapshots")).unwrap();
    let outside = at("outside/models--openvla--openvla-7b");
    put(&outside.join("refs/main"), b"../../../../etc");
    std::fs::create_dir_all(outside.join("snapshots")).unwrap();
    // Names of a snapshot are links into `blobs`; here one leads nowhere.
    let pruned = at("pruned/models--openvla--openvla-7b/snapshots/a");
    std::fs::create_dir_all(&pruned).unwrap();
    for entry in std::fs::read_dir(kit()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let lost = name == "model-00002-of-00002.safetensors";
        let goal = if lost { PathBuf::from("../../blobs/0f0f") } else { entry.path() };
        std::os::unix::fs::symlink(goal, pruned.join(name)).unwrap();
    }
    put(&at("data/datasets--x--y/snapshots/a/README.md"), b"");
    let act = |name, path: PathBuf| Input::checkpoint(name, path, Should::Act(""));
    let refuse = |name, path, parts| Input::checkpoint(name, path, Should::Refuse(parts));
    check(&[
        act("cache_folder", model.clone()),
        act("cache_snapshots", model.join("snapshots")),
        act("cache_without_ref", without_ref),
        refuse("cache_several", several, &["2 snapshots and without refs/main"]),
        refuse("cache_unfinished", unfinished, &["the download did not finish"]),
        refuse("cache_outside", outside, &["which is not there"]),
        refuse("cache_pruned", pruned, &["the download did not finish or the cache was cleared"]),
        refuse("cache_root", at("hub"), &["is Hugging Face's cache of 1 models"]),
        refuse("cache_data_set", at("data/datasets--x--y"), &["is a data set in Hugging Face's"]),
    ]);
}
