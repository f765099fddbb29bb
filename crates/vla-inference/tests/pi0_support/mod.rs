//! The kits of pi0 and pi0.5, and policies from them.
#![allow(dead_code)] // each test binary uses some of it

pub mod defective;
pub mod plain;

use std::path::PathBuf;

use vla_inference::backend::cpu::CpuBackend;
use vla_inference::golden::pi0::Pi0Kit;
use vla_inference::policy::{Pi0Policy, PolicyOptions};

/// Names of the kits.
pub const KITS: [&str; 2] = ["pi0_lerobot_tiny", "pi05_lerobot_tiny"];

/// Folder of a kit: the repository's, or that of the same name below `PI0_KITS`, to run whole ones.
pub fn folder(name: &str) -> PathBuf {
    match std::env::var_os("PI0_KITS") {
        Some(folder) => PathBuf::from(folder).join(name),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data")).join(name),
    }
}

pub fn kit(name: &str) -> Pi0Kit {
    Pi0Kit::open(&folder(name)).unwrap()
}

pub fn policy(kit: &Pi0Kit) -> Pi0Policy<CpuBackend> {
    let options = PolicyOptions { precision: "f32".into(), ..Default::default() };
    Pi0Policy::open(CpuBackend::new(2).unwrap(), &kit.checkpoint(), &options).unwrap()
}
