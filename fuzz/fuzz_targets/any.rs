//! Every target in one program, which links once: `OPENVLA_FUZZ_TARGET` names the entry.
#![no_main]

#[path = "../bag_entries.rs"]
mod bag_entries;
#[path = "../checkpoint_entries.rs"]
mod checkpoint_entries;
#[path = "../config_entries.rs"]
mod config_entries;
#[allow(dead_code)] // the good files, for the test that runs the stored seeds
#[path = "../dataset_entries.rs"]
mod dataset_entries;
#[path = "../entries.rs"]
mod entries;
#[path = "../folder_entries.rs"]
mod folder_entries;
#[path = "../picture_entries.rs"]
mod picture_entries;
#[path = "../wire_entries.rs"]
mod wire_entries;

use std::sync::LazyLock;

static ENTRY: LazyLock<entries::Entry> = LazyLock::new(|| {
    let name = std::env::var("OPENVLA_FUZZ_TARGET").unwrap_or_default();
    let known = entries::ENTRIES.iter().find(|(known, _)| *known == name);
    known.unwrap_or_else(|| panic!("OPENVLA_FUZZ_TARGET={name:?} is no target")).1
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ENTRY(bytes);
});
