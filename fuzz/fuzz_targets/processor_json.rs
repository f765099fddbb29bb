#![no_main]

#[path = "../checkpoint_entries.rs"]
#[allow(dead_code)]
mod checkpoint_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checkpoint_entries::fuzz_processor_json(bytes);
});
