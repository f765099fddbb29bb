#![no_main]

#[path = "../wire_entries.rs"]
#[allow(dead_code)]
mod wire_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    wire_entries::fuzz_json_numpy(bytes);
});
