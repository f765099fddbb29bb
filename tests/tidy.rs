//! Line width and the words that were replaced: see ARCHITECTURE.md, "Terms".
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

/// Columns of source code. Markdown tables and data files are exempt.
const WIDTH: usize = 100;

/// Tracked files, or nothing where this is no git checkout (a source archive).
fn tracked() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8(output.stdout).unwrap();
    text.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn is_source(name: &str, text: &str) -> bool {
    let endings = [".rs", ".py", ".sh", ".cpp", ".hpp", ".h"];
    endings.iter().any(|ending| name.ends_with(ending))
        || text.starts_with("#!/usr/bin/env python")
        || text.starts_with("#!/usr/bin/env bash")
}

#[test]
fn no_line_of_code_is_wider_than_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wide = Vec::new();
    let mut read = 0;
    for name in tracked().iter().filter(|name| !name.starts_with("tests/data/")) {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        if !is_source(name, &text) {
            continue;
        }
        read += 1;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with("#include") {
                continue; // a foreign path
            }
            let columns = line.chars().count();
            if columns > WIDTH {
                wide.push(format!("{name}:{}: {columns} columns", index + 1));
            }
        }
    }
    assert!(read == 0 || read > 300, "only {read} source files were found");
    assert!(wide.is_empty(), "wrap these lines:\n{}", wide.join("\n"));
}

/// Identifiers and files that were renamed, as whole words: CHANGELOG.md lists their successors.
const REPLACED: &[&str] = &[
    "CheckpointContract",
    "ContractError",
    "Desk",
    "Bell",
    "CameraBytes",
    "LlamaSpec",
    "RecordedAction",
    "chosen_row",
    "detours",
    "wished",
    "config/checkpoints",
    "cautious_robot",
    "joint_states_topic",
    "serde_norway",
    "sim/peer.py",
    "sim/session.py",
    "eval --expert",
    "spinning side",
    "TT_PROVIDER_LIBRARY",
    "TT_MESH_SIM_LIBRARY",
];

#[test]
fn replaced_names_are_in_the_changelog_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exempt = ["CHANGELOG.md", "tests/tidy.rs", "LICENSE"];
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for name in tracked().iter().filter(|name| !name.starts_with("tests/data/")) {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        if exempt.contains(&name.as_str()) {
            continue;
        }
        for old in REPLACED {
            let whole = text.match_indices(old).any(|(at, _)| {
                let before = text[..at].chars().next_back().is_none_or(|c| !is_word(c));
                before && text[at + old.len()..].chars().next().is_none_or(|c| !is_word(c))
            });
            if whole {
                found.push(format!("{name}: {old}"));
            }
        }
    }
    assert!(found.is_empty(), "use the new names:\n{}", found.join("\n"));
}
