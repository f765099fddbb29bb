//! The emulated cores and the kernels under AddressSanitizer and UndefinedBehaviorSanitizer, as a
//! program of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

include!("../kernel_units.rs");

#[test]
fn kernels_and_emulator_are_clean() {
    let folder = tempfile::tempdir().unwrap();
    let sources = tt_metal::kernels::sources();
    let text = |name: &str| sources.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    let patches = text("dataflow/image_patches.cpp");
    let without = |what: &str| {
        assert!(patches.contains(what));
        patches.replacen(what, "", 1)
    };
    let kernels = [
        ("image_patches", "dataflow/image_patches.cpp", patches.clone()),
        (
            "image_patches_without_barrier",
            "dataflow/image_patches.cpp",
            without("noc_async_read_barrier();"),
        ),
        (
            "image_patches_without_push",
            "dataflow/image_patches.cpp",
            without("cb_push_back(out_buffer, 1);"),
        ),
        ("write_tiles", "dataflow/write_tiles.cpp", text("dataflow/write_tiles.cpp")),
        ("read_columns", "dataflow/read_columns.cpp", text("dataflow/read_columns.cpp")),
        ("column_matmul", "compute/column_matmul.cpp", text("compute/column_matmul.cpp")),
    ];
    for (file, _, text) in &kernels {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let kernels: Vec<(String, String)> =
        kernels.iter().map(|(_, name, text)| ((*name).to_string(), text.clone())).collect();
    let units = write_units(folder.path(), &kernels).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = "x86_64-unknown-linux-gnu";
    let compiler = cc::Build::new()
        .cpp(true)
        .target(target)
        .host(target)
        .opt_level(1)
        .cargo_metadata(false)
        .get_compiler();
    let program = folder.path().join("sanitized");
    let status = Command::new(compiler.path())
        .args([
            "-std=c++20",
            "-O1",
            "-g",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-DTT_KERNEL_ON_HOST",
            // TT-NN 0.81's accessors: kernels must not count words themselves.
            "-DTT_ACCESSOR_WORDS=2",
        ])
        .args([
            "-I".into(),
            root.join("cpp/include"),
            "-I".into(),
            root.join("../tt-metal-sys/include"),
        ])
        .args(&units)
        .args([root.join("cpp/emulator.cpp"), root.join("cpp/sanitized.cpp")])
        .arg("-o")
        .arg(&program)
        .status()
        .expect("a C++ compiler is needed for this test");
    assert!(status.success());
    let output = Command::new(&program)
        .arg(folder.path())
        // A kernel that ends in a fault is not unwound where it blocked: what its fibre held is not
        // a leak to look for.
        .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("two faults as expected"), "{out}");
}
