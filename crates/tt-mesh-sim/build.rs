//! Compiles the Tensix kernels for the host, each in a translation unit of its own, with the
//! machine they run on.
// a failed build must stop with its location
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

include!("faults.rs");
include!("kernel_units.rs");

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut kernels: Vec<(String, String)> = tt_metal::kernels::sources()
        .into_iter()
        .map(|(name, text)| (name.to_string(), text))
        .collect();
    // Broken kernels are for the tests only.
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        for (name, from, to, _) in FAULTS {
            let text =
                &kernels.iter().find(|(known, _)| known == name).expect("a fault names a kernel").1;
            assert!(text.contains(from), "the fault \"{from}\" of {name} no longer fits its text");
            let broken = text.replacen(from, to, 1);
            kernels.push(((*name).to_string(), broken));
        }
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").warnings(true).extra_warnings(true).warnings_into_errors(true);
    // Broken kernels leave variables unused.
    build
        .flag_if_supported("-Wno-unused-variable")
        .flag_if_supported("-Wno-unused-but-set-variable");
    build
        .include("cpp/include")
        .include("../tt-metal-sys/include")
        .define("TT_KERNEL_ON_HOST", None);
    build.files(write_units(&out, &kernels).expect("OUT_DIR is writable")).file("cpp/emulator.cpp");
    build.compile("tt_emulator");
    for path in ["cpp", "faults.rs", "kernel_units.rs", "../../kernels", "../tt-metal-sys/include"]
    {
        println!("cargo::rerun-if-changed={path}");
    }
}
