#![no_main]

#[path = "../bag_entries.rs"]
#[allow(dead_code)]
mod bag_entries;
#[path = "../checkpoint_entries.rs"]
#[allow(dead_code)]
mod checkpoint_entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    bag_entries::fuzz_bag_storage(bytes);
});
