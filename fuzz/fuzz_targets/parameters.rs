#![no_main]

#[path = "../checkpoint_entries.rs"]
#[allow(dead_code)]
mod checkpoint_entries;
#[path = "../config_entries.rs"]
#[allow(dead_code)]
mod config_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    config_entries::fuzz_parameters(bytes);
});
