//! Compiles the Tensix kernels for the host, each in a translation unit of its own, with the machine they run on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a build that cannot go on must stop and say where

use std::fmt::Write as _;
use std::path::PathBuf;

include!("faults.rs");

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut kernels: Vec<(String, String)> =
        tt_metal::kernels::sources().into_iter().map(|(name, text)| (name.to_string(), text)).collect();
    // Broken kernels are for the tests only.
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        for (name, from, to, _) in FAULTS {
            let text = &kernels.iter().find(|(known, _)| known == name).expect("a fault names a kernel").1;
            assert!(text.contains(from), "the fault \"{from}\" of {name} no longer fits its text");
            let broken = text.replacen(from, to, 1);
            kernels.push(((*name).to_string(), broken));
        }
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").warnings(true).extra_warnings(true).warnings_into_errors(true);
    build.flag_if_supported("-Wno-unused-variable").flag_if_supported("-Wno-unused-but-set-variable"); // broken kernels
    build.include("cpp/include").include("../tt-metal-sys/include").define("TT_KERNEL_ON_HOST", None);
    let mut table = String::from("#include <cstring>\n");
    let mut entries = String::new();
    for (number, (name, text)) in kernels.iter().enumerate() {
        let file = out.join(format!("kernel_{number}.cpp"));
        std::fs::write(&file, format!("#define kernel_main kernel_{number}_main\n#line 1 \"kernels/{name}\"\n{text}"))
            .unwrap();
        build.file(file);
        writeln!(table, "void kernel_{number}_main();").unwrap();
        // Compilers limit the length of one literal: a piece a line.
        let pieces: String = text.split_inclusive('\n').map(|line| format!("R\"~({line})~\"\n")).collect();
        writeln!(entries, "    {{\"{name}\",\n{pieces}, kernel_{number}_main}},").unwrap();
    }
    write!(
        table,
        "struct Entry {{ const char* name; const char* source; void (*run)(); }};\nstatic const Entry entries[] = {{\n{entries}}};\n\
         void (*find_kernel(const char* name, const char* source))() {{\n    for (const Entry& entry : entries) {{\n        \
         if (std::strcmp(entry.name, name) == 0 && std::strcmp(entry.source, source) == 0) {{\n            return entry.run;\n        }}\n    }}\n    return nullptr;\n}}\n"
    )
    .unwrap();
    let table_file = out.join("kernel_table.cpp");
    std::fs::write(&table_file, table).unwrap();
    build.file(table_file).file("cpp/emulator.cpp").compile("tt_emulator");
    for path in ["cpp", "faults.rs", "../../kernels", "../tt-metal-sys/include"] {
        println!("cargo::rerun-if-changed={path}");
    }
}
