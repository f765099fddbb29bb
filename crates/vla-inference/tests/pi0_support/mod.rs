//! The kits of pi0 and pi0.5, and policies from them.
#![allow(dead_code)] // each test binary uses some of it

pub mod defective;
pub mod openpi;
pub mod plain;

use std::path::PathBuf;

use vla_inference::backend::cpu::CpuBackend;
use vla_inference::golden::pi0::Pi0Kit;
use vla_inference::policy::{Pi0Policy, PolicyOptions};

/// Names of the kits.
pub const KITS: [&str; 2] = ["pi0_lerobot_tiny", "pi05_lerobot_tiny"];

/// Folder of a kit: the repository's, or that of the same name below `PI0_KITS`, to run whole ones.
///
/// Relative to the package, where `cargo test` starts its programs: a path that is joined to the
/// kit's folder twice is found only by an absolute one.
pub fn folder(name: &str) -> PathBuf {
    let kits = std::env::var_os("PI0_KITS").map(PathBuf::from);
    kits.unwrap_or_else(|| "../../tests/data".into()).join(name)
}

pub fn kit(name: &str) -> Pi0Kit {
    Pi0Kit::open(&folder(name)).unwrap()
}

pub fn policy(kit: &Pi0Kit) -> Pi0Policy<CpuBackend> {
    let options = PolicyOptions { precision: "f32".into(), ..Default::default() };
    Pi0Policy::open(CpuBackend::new(2).unwrap(), &kit.checkpoint(), &options).unwrap()
}

/// A copy of a kit's checkpoint and tokenizer, to be changed; the checkpoint is in `ckpt`.
pub fn copied(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for part in ["ckpt", "tokenizer"] {
        std::fs::create_dir(copy.path().join(part)).unwrap();
        for entry in std::fs::read_dir(folder(name).join(part)).unwrap() {
            let entry = entry.unwrap();
            let to = copy.path().join(part).join(entry.file_name());
            // Not `fs::copy`: a kit may be read-only, and the copy must not be.
            std::fs::write(to, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
    copy
}

/// Changes a JSON file.
pub fn edit(path: &std::path::Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// The step of a pipeline with this name.
pub fn step<'a>(pipeline: &'a mut serde_json::Value, name: &str) -> &'a mut serde_json::Value {
    let steps = pipeline["steps"].as_array_mut().unwrap();
    steps.iter_mut().find(|step| step["registry_name"] == name).unwrap()
}

/// Tensors of a file: name, type, shape and bytes.
pub type Tensors = Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>;

pub fn read_tensors(path: &std::path::Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect()
}

pub fn write_tensors(path: &std::path::Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
