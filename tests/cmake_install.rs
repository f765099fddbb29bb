//! CMake's part of the installation: the provider for silicon, built where tt-metal is named, is
//! installed where the programs look for it. tt-metal and the packages of ROS are made up, and so
//! are the built files; configuring and installing are CMake's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// CMake, or `None` with a line for the table of `make test`.
fn cmake() -> Option<PathBuf> {
    let given = std::env::var_os("CMAKE").map(PathBuf::from);
    let program = given.unwrap_or_else(|| PathBuf::from("cmake"));
    if Command::new(&program).arg("--version").output().is_err() {
        println!("SKIPPED cmake_install: no cmake on the PATH, none named in CMAKE");
        return None;
    }
    Some(program)
}

/// A file with its folders.
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A shared library without contents.
fn library(path: &Path, arguments: &[String]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let source = path.with_extension("c");
    fs::write(&source, "").unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-o"]).arg(path).arg(&source).args(arguments);
    assert!(compiler.status().expect("a C compiler is needed").success());
}

/// A tree of tt-metal with empty libraries.
fn tt_metal(folder: &Path) -> PathBuf {
    let home = folder.join("tt-metal");
    write(&home.join("ttnn/api/ttnn/distributed/api.hpp"), "");
    fs::create_dir_all(home.join("tt_metal")).unwrap();
    for name in ["_ttnncpp.so", "libtt_metal.so", "libtt_stl.so"] {
        library(&home.join("build/lib").join(name), &[]);
    }
    home
}

fn text(output: &Output) -> String {
    let text =
        String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    // CMake wraps its messages.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Configures `source`; `build` is its build folder.
fn configure(cmake: &Path, source: &Path, build: &Path, options: &[String]) -> Output {
    let mut command = Command::new(cmake);
    command.arg("-S").arg(source).arg("-B").arg(build).args(options);
    command.env_remove("TT_METAL_HOME").output().unwrap()
}

fn install(cmake: &Path, build: &Path, prefix: &Path) {
    let mut command = Command::new(cmake);
    let output = command.arg("--install").arg(build).arg("--prefix").arg(prefix).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn option(name: &str, value: &Path) -> String {
    format!("-D{name}={}", value.display())
}

#[test]
fn the_provider_is_installed_beside_the_programs() {
    let Some(cmake) = cmake() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let home = tt_metal(folder.path());
    write(&at("ament/ament_cmakeConfig.cmake"), "macro(ament_package)\nendmacro()\n");
    write(&at("msgs/openvla_tt_msgsConfig.cmake"), "");
    let options = [
        option("ament_cmake_DIR", &at("ament")),
        option("openvla_tt_msgs_DIR", &at("msgs")),
        option("OPENVLA_TT_METAL_HOME", &home),
        "-DTT_METAL_SKIP_COMMIT_CHECK=ON".to_owned(),
        "-DBUILD_TESTING=OFF".to_owned(),
    ];
    let build = at("build");
    let output = configure(&cmake, Path::new(ROOT), &build, &options);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("holds no tt_metal/"), "{}", text(&output));
    // In place of cargo and of a compiler with TT-NN's headers.
    for program in ["vla_node", "openvla"] {
        write(&build.join("cargo/release").join(program), "");
    }
    let libraries = home.join("build/lib");
    let search = format!("-Wl,-rpath,{}", libraries.display());
    library(&build.join("provider/libtt_provider_ttnn.so"), &[search]);
    install(&cmake, &build, &at("install"));
    for name in ["vla_node", "openvla", "libtt_provider_ttnn.so"] {
        assert!(at("install/lib/openvla_tt").join(name).is_file(), "{name} is not installed");
    }
    let library = fs::read(at("install/lib/openvla_tt/libtt_provider_ttnn.so")).unwrap();
    let libraries = libraries.display().to_string();
    let found = library.windows(libraries.len()).any(|bytes| bytes == libraries.as_bytes());
    assert!(found, "the installed provider does not name the folder of TT-NN's libraries");
    // Without tt-metal nothing of it is built or installed.
    let plain = at("plain");
    let output = configure(&cmake, Path::new(ROOT), &plain, &options[..2]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!plain.join("provider").exists());
}

#[test]
fn the_provider_alone_says_what_is_missing() {
    let Some(cmake) = cmake() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let shim = Path::new(ROOT).join("crates/tt-metal-sys/shim");
    let home = tt_metal(folder.path());
    // Another commit, or none.
    let output = configure(&cmake, &shim, &at("a"), &[option("TT_METAL_HOME", &home)]);
    assert!(!output.status.success() && text(&output).contains("this shim supports 191d0eed35"));
    let empty = at("empty");
    fs::create_dir(&empty).unwrap();
    let output = configure(&cmake, &shim, &at("b"), &[option("TT_METAL_HOME", &empty)]);
    assert!(!output.status.success() && text(&output).contains("holds no tt-metal source tree"));
    let skip = "-DTT_METAL_SKIP_COMMIT_CHECK=ON".to_owned();
    let options = [option("TT_METAL_HOME", &home), skip, option("TT_METAL_RUNTIME_ROOT", &empty)];
    let output = configure(&cmake, &shim, &at("c"), &options);
    let words = text(&output);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("holds no tt_metal/: name the runtime root with"), "{words}");
    // As the linker would have written it.
    let search = format!("-Wl,-rpath,{}", home.join("build/lib").display());
    library(&at("c/libtt_provider_ttnn.so"), &[search]);
    install(&cmake, &at("c"), &at("prefix"));
    assert!(at("prefix/lib/libtt_provider_ttnn.so").is_file());
}
