#![no_main]

#[path = "../dataset_entries.rs"]
#[allow(dead_code)]
mod dataset_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dataset_entries::fuzz_dataset_episodes(bytes);
});
