#![no_main]

#[path = "../checkpoint_entries.rs"]
#[allow(dead_code)]
mod checkpoint_entries;
#[path = "../folder_entries.rs"]
#[allow(dead_code)]
mod folder_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    folder_entries::fuzz_pi0_processors(bytes);
});
