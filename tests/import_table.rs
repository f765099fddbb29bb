//! Who may know whom: the table of ARCHITECTURE.md, kept by reading the sources.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules of ours that it may name.
const TABLE: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("time", &[]),
    ("tensor", &[]),
    ("chunk", &["units", "time"]),
    ("checkpoint", &["tensor"]),
    ("backend", &["tensor"]),
    ("models", &["tensor", "checkpoint", "backend"]),
    ("observation", &["units", "time", "tensor", "checkpoint"]),
    ("policy", &["units", "time", "chunk", "tensor", "checkpoint", "backend", "models", "observation"]),
    ("control", &["units", "time", "chunk"]),
    ("recorder", &["units", "time", "chunk", "control"]),
    ("contract", &["units", "time", "chunk", "control"]),
    ("plan", &["checkpoint", "backend"]),
    ("golden", &["tensor", "checkpoint", "backend", "models", "observation", "policy"]),
    ("runtime", &["units", "time", "chunk", "policy", "control", "observation", "recorder", "contract"]),
    ("bag", &["units", "time", "observation"]),
    ("eval", &["units", "time", "chunk", "checkpoint", "observation", "policy", "control", "contract", "bag"]),
    (
        "cli",
        &[
            "units",
            "time",
            "chunk",
            "tensor",
            "checkpoint",
            "backend",
            "models",
            "observation",
            "policy",
            "golden",
            "plan",
            "eval",
            "bag",
            "contract",
            "control",
            "ros",
        ],
    ),
    (
        "ros",
        &[
            "units",
            "time",
            "chunk",
            "observation",
            "policy",
            "control",
            "recorder",
            "contract",
            "runtime",
            "checkpoint",
            "bag",
        ],
    ),
];

/// Crate, and the modules that alone may name it.
const CONFINED: &[(&str, &[&str])] = &[
    ("r2r", &["ros"]),
    ("tokio", &["ros", "runtime"]),
    ("futures", &["ros"]),
    ("tt_metal", &["backend"]),
    ("tt_metal_sys", &[]),
    ("memmap2", &["checkpoint"]),
    ("mcap", &["bag", "recorder"]),
    ("rusqlite", &["bag"]),
    ("gemm_f32", &["backend"]),
    ("gemm_common", &["backend"]),
    ("tokenizers", &["checkpoint"]),
    ("safetensors", &["checkpoint"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The text without comments, strings and test modules at the end of a file.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    body.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Names that follow `prefix` (`crate::` for our modules).
fn names_after<'a>(code: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let word = |text: &'a str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            // `use crate::{a::B, c::{D, E}}`: first segments at depth one.
            Some(list) => {
                let (mut depth, mut fresh) = (0, true);
                for (index, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => fresh = true,
                        c if c.is_whitespace() => {}
                        _ if fresh => {
                            names.insert(word(&list[index..]));
                            fresh = false;
                        }
                        _ => {}
                    }
                }
            }
            None => {
                names.insert(word(rest));
            }
        }
    }
    names
}

fn modules() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut modules: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for path in files {
        let relative = path.strip_prefix(&root).unwrap().to_owned();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        if module != "lib" && module != "bin" {
            modules.entry(module).or_default().push((relative, code(&fs::read_to_string(&path).unwrap())));
        }
    }
    modules
}

#[test]
fn modules_know_only_whom_they_may() {
    let table: BTreeMap<_, _> = TABLE.iter().copied().collect();
    let mut broken = Vec::new();
    for (module, files) in modules() {
        let Some(allowed) = table.get(module.as_str()) else {
            panic!("module {module} stands in no row of the table; add it here and in ARCHITECTURE.md");
        };
        for (path, code) in files {
            for name in names_after(&code, "crate::") {
                if table.contains_key(name) && name != module && !allowed.contains(&name) {
                    broken.push(format!("{}: {module} may not know {name}", path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn crates_stay_where_they_belong() {
    let mut broken = Vec::new();
    for (module, files) in modules() {
        for (path, code) in files {
            for (name, homes) in CONFINED {
                let used = [format!("use {name}::"), format!("{name}::"), format!("use {name};")];
                let hit = used.iter().any(|pattern| {
                    code.match_indices(pattern.as_str()).any(|(at, _)| {
                        let before = code[..at].chars().next_back();
                        before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    })
                });
                // A module may have the name of a crate (`linear::gemm` is a function); `crate::` and `super::` were excluded.
                if hit && !homes.contains(&module.as_str()) {
                    broken.push(format!("{}: {name} is confined to {homes:?}", path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn control_has_no_clock_thread_or_lock() {
    const FORBIDDEN: &[&str] =
        &["std::thread", "std::sync", "Instant::now", "SystemTime", "SystemClock", "Mutex", "tokio", "r2r", "println!"];
    for (module, files) in modules() {
        if module != "control" {
            continue;
        }
        for (path, code) in files {
            for word in FORBIDDEN {
                assert!(!code.contains(word), "{}: control must not know {word}", path.display());
            }
        }
    }
}

#[test]
fn the_reader_of_imports_sees_nested_lists() {
    let code = "use crate::{time::{Age, Stamp}, units::Metres};\nlet x = crate::policy::act();";
    assert_eq!(names_after(code, "crate::"), BTreeSet::from(["time", "units", "policy"]));
}
