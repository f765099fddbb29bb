//! Whatever a user names as a provider: one clear line, never a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tt_metal_sys::{LoadError, Provider, TTP_ABI_VERSION, signatures};

fn shared_library(folder: &Path, name: &str, source: &str) -> PathBuf {
    let file = folder.join(format!("{name}.c"));
    std::fs::write(&file, source).unwrap();
    let library = folder.join(format!("lib{name}.so"));
    let target = "x86_64-unknown-linux-gnu";
    let compiler = cc::Build::new()
        .target(target)
        .host(target)
        .opt_level(0)
        .cargo_metadata(false)
        .get_compiler();
    let status = Command::new(compiler.path())
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&file)
        .status();
    assert!(status.expect("a C compiler is needed for this test").success());
    library
}

/// A library with every function, answering `version`.
fn whole(version: u32) -> String {
    let mut c = String::new();
    for signature in signatures() {
        match signature.name {
            "ttp_abi_version" => {
                writeln!(c, "unsigned ttp_abi_version(void) {{ return {version}; }}").unwrap()
            }
            "ttp_provider_name" => {
                c.push_str("const char* ttp_provider_name(void) { return \"test provider\"; }\n")
            }
            other => writeln!(c, "int {other}(void) {{ return 0; }}").unwrap(),
        }
    }
    c
}

fn refused(path: &Path) -> (LoadError, String) {
    let error = Provider::open(path).expect_err("must be refused");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(line.contains(&path.display().to_string()), "{line}");
    (error, line)
}

#[test]
fn a_whole_provider_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let library = shared_library(folder.path(), "whole", &whole(TTP_ABI_VERSION));
    assert_eq!(Provider::open(&library).unwrap().name(), "test provider");
}

#[test]
fn missing_file_is_named_with_remedy() {
    let (error, line) = refused(Path::new("/nowhere/libtt.so"));
    assert!(matches!(error, LoadError::Missing { .. }));
    assert!(line.contains("cargo build -p tt-mesh-sim"), "{line}");
}

#[test]
fn other_version_is_reported_first() {
    let folder = tempfile::tempdir().unwrap();
    // Only the version is reported, whatever functions the other version has.
    let source = format!("unsigned ttp_abi_version(void) {{ return {}; }}", TTP_ABI_VERSION + 1);
    let (error, line) = refused(&shared_library(folder.path(), "future", &source));
    assert!(
        matches!(error, LoadError::Version { found, .. } if found == TTP_ABI_VERSION + 1),
        "{line}"
    );
}

#[test]
fn missing_functions_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (error, _) = refused(&shared_library(folder.path(), "other", "int f(void) { return 0; }"));
    assert!(matches!(error, LoadError::Incomplete { count, total, .. } if count == total));
    let source = whole(TTP_ABI_VERSION).replace("ttp_trace_run", "ttp_trace_walk");
    let (error, line) = refused(&shared_library(folder.path(), "partial", &source));
    assert!(
        matches!(error, LoadError::Incomplete { count: 1, first: "ttp_trace_run", .. }),
        "{line}"
    );
}

#[test]
fn a_truncated_or_foreign_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let library = shared_library(folder.path(), "whole", &whole(TTP_ABI_VERSION));
    let bytes = std::fs::read(&library).unwrap();
    // A file cut anywhere: the linker would map what is not there and die of it.
    let cuts = [0, 10, 63, 64, 500]
        .into_iter()
        .chain((1..16).map(|i| bytes.len() * i / 16))
        .chain([bytes.len() - 1]);
    for length in cuts {
        let short = folder.path().join(format!("short{length}.so"));
        std::fs::write(&short, &bytes[..length]).unwrap();
        assert!(matches!(refused(&short).0, LoadError::Unloadable { .. }));
    }
    let text = folder.path().join("text.so");
    std::fs::write(&text, "not a library at all\n".repeat(100)).unwrap();
    assert!(matches!(refused(&text).0, LoadError::Unloadable { .. }));
    assert!(matches!(refused(folder.path()).0, LoadError::Unloadable { .. }));
}

/// Stands for spdlog: TT-NN has one version of it, ROS another, with the same names.
fn logger_version(version: u32) -> String {
    format!("unsigned spdlog_version(void) {{ return {version}; }}\n")
}

#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn a_provider_is_bound_to_its_own_libraries() {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

    let folder = tempfile::tempdir().unwrap();
    // As ROS's libspdlog in the node: in the process's global scope before the provider is loaded.
    let ros = shared_library(folder.path(), "ros_spdlog", &logger_version(1));
    // SAFETY: a library of one function without initialisers.
    let ros = unsafe { Library::open(Some(&ros), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
    // The provider exports its own and reports which of the two it calls.
    let source = whole(TTP_ABI_VERSION).replace("int ttp_mesh_open(void) { return 0; }", "")
        + &logger_version(2)
        + "int ttp_mesh_open(void) { return (int) spdlog_version(); }\n";
    let library = shared_library(folder.path(), "provider", &source);
    // The same bytes elsewhere: the linker gives one handle to one file.
    let copy = folder.path().join("libcopy.so");
    std::fs::copy(&library, &copy).unwrap();

    type Called = unsafe extern "C" fn() -> i32;
    // SAFETY: this test's own function, of this type.
    let without = unsafe {
        let library = Library::open(Some(&copy), RTLD_NOW | RTLD_LOCAL).unwrap();
        library.get::<Called>(b"ttp_mesh_open\0").unwrap()()
    };
    assert_eq!(without, 1, "the impostor does not take the provider's calls: no test");
    let provider = Provider::open(&library).unwrap();
    // SAFETY: it takes no arguments and returns a number, whatever the table says.
    let called: Called = unsafe { std::mem::transmute(provider.api().ttp_mesh_open) };
    // AddressSanitizer's runtime refuses the flag, so that the loader leaves it out there.
    // SAFETY: the symbol is only looked for, never called.
    let sanitized = unsafe { Library::this().get::<Called>(b"__asan_init\0") }.is_ok();
    let wanted = if sanitized { 1 } else { 2 };
    // SAFETY: as above.
    assert_eq!(unsafe { called() }, wanted, "1: the provider calls ROS's library");
    drop(ros);
}
