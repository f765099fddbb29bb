#![no_main]

#[path = "../checkpoint_entries.rs"]
#[allow(dead_code)]
mod checkpoint_entries;
#[path = "../picture_entries.rs"]
#[allow(dead_code)]
mod picture_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    picture_entries::fuzz_raw_image(bytes);
});
