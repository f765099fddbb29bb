//! The guide in `docs/` against what it describes: pages that are made from the interfaces, keys of
//! policy and robot files, messages of the program, links.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod book;
mod interfaces;
mod keys;
mod layouts;
mod links;
mod reasons;
mod symptoms;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with Cargo.toml.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Tracked and new files, without those that git ignores; empty where this is no git checkout.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.split('\0').filter(|name| !name.is_empty());
    names.filter(|name| root().join(name).is_file()).map(str::to_owned).collect()
}

/// Compares a page with what it is made from; with `UPDATE` in the environment, writes it.
fn compare(page: &str, made: &str) {
    let path: PathBuf = root().join(page);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "{page} is out of date: UPDATE=1 cargo test --test documents");
}

/// Text in lines of at most 100 columns, the later ones indented.
fn wrap(text: &str, indent: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        let margin = if lines.is_empty() { 0 } else { indent.len() };
        if !line.is_empty() && 100 < margin + line.chars().count() + 1 + word.chars().count() {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join(&format!("\n{indent}"))
}

/// Text of a comment as Markdown: what would end a table's cell or begin a tag is escaped.
fn markdown(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
