//! The shim's environment for TT-NN (shim/environment.cpp): compiled here, without TT-NN, and run
//! with made-up folders and variables.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const COMPILER: &str = "compiler/bin/riscv-tt-elf-g++";

/// The driver, compiled once.
fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = folder.join("shim_environment");
        let fresh = folder.join(format!("shim_environment-{}", std::process::id()));
        let target = "x86_64-unknown-linux-gnu";
        let compiler = cc::Build::new()
            .cpp(true)
            .target(target)
            .host(target)
            .opt_level(0)
            .cargo_metadata(false)
            .get_compiler();
        let status = Command::new(compiler.path())
            .args(["-std=c++20", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&fresh)
            .args([source.join("tests/environment.cpp"), source.join("shim/environment.cpp")])
            .status();
        assert!(status.expect("a C++ compiler is needed for this test").success());
        // Another run of this test may be executing the old one.
        fs::rename(&fresh, &program).unwrap();
        program
    })
}

/// A made-up machine: a tt-metal tree, another one, and the folder above /opt.
struct Machine {
    folder: tempfile::TempDir,
}

struct Prepared {
    problem: String,
    variables: BTreeMap<String, String>,
}

impl Machine {
    /// With a tree at `tree` and SFPI in it.
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(machine.path("tree/tt_metal")).unwrap();
        machine.program("tree/runtime/sfpi");
        machine
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn program(&self, sfpi: &str) {
        let path = self.folder.path().join(sfpi).join(COMPILER);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Prepares the environment `given`, for a provider that was built with the tree `baked`.
    fn prepare(&self, baked: &str, given: &[(&str, &str)]) -> Prepared {
        let output = Command::new(driver())
            .args([baked.to_owned(), self.path("")])
            .env_clear()
            .envs(given.iter().copied())
            // A working directory that TT-NN would take for its root.
            .current_dir(self.folder.path().join("tree"))
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let mut variables: BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once('=').expect("one line each"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(variables.len(), 5, "a problem has one line:\n{text}");
        Prepared { problem: variables.remove("problem").unwrap(), variables }
    }
}

impl Prepared {
    fn has(&self, name: &str, value: &str) {
        assert_eq!(self.variables[name], value, "{name} ({})", self.problem);
    }

    fn refused(&self, wanted: &[&str]) {
        for wanted in wanted {
            assert!(self.problem.contains(wanted), "'{wanted}' not in '{}'", self.problem);
        }
    }
}

#[test]
fn what_is_unset_is_set() {
    let machine = Machine::new();
    let tree = machine.path("tree");
    let prepared = machine.prepare(&tree, &[]);
    assert_eq!(prepared.problem, "");
    prepared.has("TT_METAL_RUNTIME_ROOT", &tree);
    prepared.has("TT_METAL_OPERATION_TIMEOUT_SECONDS", "30");
    prepared.has("TT_LOGGER_LEVEL", "warn");
    // TT-NN takes an empty root for a root.
    let empty = [("TT_METAL_RUNTIME_ROOT", ""), ("TT_METAL_OPERATION_TIMEOUT_SECONDS", "")];
    let prepared = machine.prepare(&tree, &empty);
    assert_eq!(prepared.problem, "");
    prepared.has("TT_METAL_RUNTIME_ROOT", &tree);
    prepared.has("TT_METAL_OPERATION_TIMEOUT_SECONDS", "30");
}

#[test]
fn what_is_set_is_kept() {
    let machine = Machine::new();
    let tree = machine.path("tree");
    let prepared = machine.prepare(
        "/nowhere",
        &[
            ("TT_METAL_RUNTIME_ROOT", &tree),
            ("TT_METAL_OPERATION_TIMEOUT_SECONDS", "0.5"),
            ("TT_LOGGER_LEVEL", "debug"),
        ],
    );
    assert_eq!(prepared.problem, "");
    prepared.has("TT_METAL_RUNTIME_ROOT", &tree);
    prepared.has("TT_METAL_OPERATION_TIMEOUT_SECONDS", "0.5");
    prepared.has("TT_LOGGER_LEVEL", "debug");
    // The logger reads its other name only where the first is unset.
    let prepared = machine.prepare(&tree, &[("TT_METAL_LOGGER_LEVEL", "info")]);
    assert_eq!(prepared.problem, "");
    prepared.has("TT_LOGGER_LEVEL", "(unset)");
}

#[test]
fn a_root_without_tt_metal_is_refused_with_the_variable() {
    let machine = Machine::new();
    let (tree, empty) = (machine.path("tree"), machine.path("empty"));
    fs::create_dir(&empty).unwrap();
    // Set by the user: the provider's own root does not replace it.
    let prepared = machine.prepare(&tree, &[("TT_METAL_RUNTIME_ROOT", &empty)]);
    prepared.refused(&[&format!("TT_METAL_RUNTIME_ROOT={empty} holds no tt_metal/"), "set it to"]);
    prepared.has("TT_LOGGER_LEVEL", "(unset)");
    // Not set, and the tree of the build was moved away, although the working directory is one.
    let prepared = machine.prepare("/moved/away", &[]);
    prepared.refused(&["TT_METAL_RUNTIME_ROOT is not set", "/moved/away", "set it to"]);
    prepared.has("TT_METAL_RUNTIME_ROOT", "(unset)");
    machine.prepare("", &[]).refused(&["TT_METAL_RUNTIME_ROOT is not set", "built without"]);
    // A file of that name is no folder.
    fs::write(format!("{empty}/tt_metal"), "").unwrap();
    machine.prepare(&empty, &[]).refused(&["holds no tt_metal/"]);
}

#[test]
fn sfpi_is_found_in_the_tree_or_in_opt() {
    let machine = Machine::new();
    let tree = machine.path("tree");
    let compiler = machine.folder.path().join("tree/runtime/sfpi").join(COMPILER);
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o644)).unwrap();
    let missing = machine.prepare(&tree, &[]);
    missing.refused(&[
        "no SFPI compiler",
        &compiler.display().to_string(),
        "/opt/tenstorrent/sfpi/compiler",
        "TT_METAL_RUNTIME_ROOT",
    ]);
    // Nothing was changed by the refusal.
    missing.has("TT_METAL_RUNTIME_ROOT", "(unset)");
    missing.has("TT_METAL_OPERATION_TIMEOUT_SECONDS", "(unset)");
    // A mock cluster compiles nothing.
    let mock = [("TT_METAL_MOCK_CLUSTER_DESC_PATH", "/n300.yaml")];
    assert_eq!(machine.prepare(&tree, &mock).problem, "");
    machine.program("opt/tenstorrent/sfpi");
    assert_eq!(machine.prepare(&tree, &[]).problem, "");
}

#[test]
fn a_limit_that_is_no_number_is_refused() {
    let machine = Machine::new();
    let tree = machine.path("tree");
    let limit = |text| machine.prepare(&tree, &[("TT_METAL_OPERATION_TIMEOUT_SECONDS", text)]);
    for text in ["abc", "30s", "-1", "nan", "inf"] {
        limit(text).refused(&[
            &format!("TT_METAL_OPERATION_TIMEOUT_SECONDS={text} is not a number of seconds"),
            "set it to 30",
        ]);
    }
    for text in ["0", "30", "1e2"] {
        assert_eq!(limit(text).problem, "", "{text}");
    }
}
