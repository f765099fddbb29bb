//! What a folder without `config.json` is, and the way from it to a checkpoint.

use std::path::{Path, PathBuf};

use super::error::quoted;
use super::location::CONFIG;
use super::read::is_listed;

/// Most entries of a folder looked at.
const MAX_ENTRIES: usize = 10_000;
/// Most folders below one that are searched for a checkpoint.
const MAX_FOLDERS: usize = 1000;
/// Depth of that search: `checkpoints/last/pretrained_model` of LeRobot.
const DEPTH: usize = 3;

/// What a folder is, to be read after its path, and what to do.
type Description = (String, String);

/// What the folder is, and what to do.
pub(super) fn describe(folder: &Path) -> Description {
    let names = entries(folder);
    if names.is_empty() {
        let remedy = "fill it with hf download OWNER/NAME --local-dir FOLDER, or give another";
        return ("is an empty folder".into(), remedy.into());
    }
    data_set(folder, &names)
        .or_else(|| model(&names))
        .or_else(|| below(folder, &names))
        .unwrap_or_else(|| {
            let what = "is no checkpoint folder: it has no config.json".to_owned();
            (what, "give the folder of a Hugging Face checkpoint, which has one".to_owned())
        })
}

/// Names of the entries of a folder, sorted; hidden ones are left out, and those of a folder that
/// cannot be listed.
pub(super) fn entries(folder: &Path) -> Vec<String> {
    let Ok(listed) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = listed.take(MAX_ENTRIES).flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Recordings and data sets.
fn data_set(folder: &Path, names: &[String]) -> Option<Description> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let ends = |endings: &[&str]| {
        names.iter().any(|name| endings.iter().any(|ending| name.ends_with(ending)))
    };
    let bag = "give it to --bag of openvla eval run or openvla replay, and here the folder of a \
        checkpoint";
    let checkpoint = "give the folder of a checkpoint that was trained with it";
    if ends(&[".mcap", ".db3", ".mcap.zstd", ".db3.zstd"]) {
        return Some(("is a ROS 2 bag".into(), bag.into()));
    }
    if ends(&[".bag"]) {
        return Some((
            "is a folder of ROS 1 bags".into(),
            "give the folder of a checkpoint".into(),
        ));
    }
    if is_listed(&folder.join("meta").join("info.json")) {
        return Some(("is a LeRobot data set".into(), checkpoint.into()));
    }
    let records = names.iter().any(|name| name.contains(".tfrecord"));
    if records || (has("dataset_info.json") && has("features.json")) {
        return Some(("is a data set of TensorFlow Datasets (RLDS)".into(), checkpoint.into()));
    }
    None
}

/// Models in other forms, and parts of one.
fn model(names: &[String]) -> Option<Description> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let ends = |endings: &[&str]| {
        names.iter().any(|name| endings.iter().any(|ending| name.ends_with(ending)))
    };
    let is = |what: &str, remedy: &str| Some((what.to_owned(), remedy.to_owned()));
    if let Some(first) = names.iter().find(|name| name.starts_with("models--")) {
        let count = names.iter().filter(|name| name.starts_with("models--")).count();
        let what = format!("is Hugging Face's cache of {count} models");
        return Some((what, format!("give the folder of one of them, {} for one", quoted(first))));
    }
    if has("adapter_config.json") {
        let remedy = "merge it into its base model first (merge_and_unload, save_pretrained)";
        return is("is a LoRA adapter without the model", remedy);
    }
    if has("params") && (has("assets") || has("_CHECKPOINT_METADATA")) || has("manifest.ocdbt") {
        let remedy = "convert it with openpi's examples/convert_jax_model_to_pytorch.py";
        return is("is a JAX checkpoint, as openpi trains it", remedy);
    }
    if ends(&[".gguf"]) {
        return is("holds quantised weights (GGUF)", "use the bfloat16 *.safetensors files");
    }
    if ends(&[".onnx", ".engine", ".plan"]) {
        return is("holds an exported network", "use the folder that it was exported from");
    }
    if has("saved_model.pb") {
        return is("is a TensorFlow model", "give the folder of a PyTorch checkpoint");
    }
    if has("model_index.json") {
        let remedy = "give the folder of a pi0, pi0.5 or OpenVLA checkpoint";
        return is("is a pipeline of the library diffusers", remedy);
    }
    if ends(&[".safetensors", ".bin", "model.safetensors.index.json"]) {
        let remedy = "download the whole folder of the checkpoint, not its weights alone";
        return is("holds weights, but no config.json", remedy);
    }
    None
}

/// Folders inside.
fn below(folder: &Path, names: &[String]) -> Option<Description> {
    let mut level: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    level.retain(|path| path.is_dir());
    let is_bag = |path: &PathBuf| is_listed(&path.join("metadata.yaml"));
    let bags = level.iter().filter(|path| is_bag(path)).count();
    if bags > 0 {
        let remedy = "give them to --bag of openvla eval run, and here the folder of a checkpoint";
        return Some((format!("is a folder of {bags} ROS 2 bags"), remedy.into()));
    }
    for _ in 0..DEPTH {
        let found: Vec<&PathBuf> =
            level.iter().filter(|path| is_listed(&path.join(CONFIG))).collect();
        // The newest of a training's folders has the highest number, or is named last.
        if let Some(newest) = found.last() {
            let (what, newest) = ("has no config.json itself", quoted(&newest.to_string_lossy()));
            let remedy = match found.len() {
                1 => format!("the folder inside has one: give {newest}"),
                count => format!("{count} folders inside have one: give {newest} or another"),
            };
            return Some((what.into(), remedy));
        }
        let children = level.iter().flat_map(|path| {
            entries(path).into_iter().map(|name| path.join(name)).collect::<Vec<_>>()
        });
        level = children.filter(|path| path.is_dir()).take(MAX_FOLDERS).collect();
    }
    // A training of the Prismatic code keeps its weights in `checkpoints/*.pt`.
    if entries(&folder.join("checkpoints")).iter().any(|name| name.ends_with(".pt")) {
        let remedy = "convert it with vla-scripts/extern/convert_openvla_weights_to_hf.py of \
            OpenVLA's code";
        return Some(("is a training run of the Prismatic code".into(), remedy.into()));
    }
    None
}
