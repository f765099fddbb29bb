//! Runs the program on pictures and bags, and compares what it says with what it should.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::eval_support::root;

/// A file of `tests/field/data`.
pub fn data(name: &str) -> Vec<u8> {
    std::fs::read(root("tests/field/data").join(name)).unwrap()
}

/// The program under test, and whether it is another version, of which only a table is wanted.
fn program() -> (PathBuf, bool) {
    match std::env::var_os("OPENVLA_FIELD_PROGRAM") {
        Some(path) => (path.into(), true),
        None => (env!("CARGO_BIN_EXE_openvla").into(), false),
    }
}

/// Copies an input to the folder named in `OPENVLA_FIELD_KEEP`, for trying other programs on it.
pub fn keep(name: &str, from: &Path) {
    let Some(folder) = std::env::var_os("OPENVLA_FIELD_KEEP") else { return };
    let to = PathBuf::from(folder).join(name);
    copy(from, &to);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    if from.is_file() {
        std::fs::copy(from, to).unwrap();
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// What a run of the program left.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub status: Option<i32>,
    pub error: String,
    /// The JSON object on stdout.
    pub answer: Value,
}

impl Said {
    /// Everything that was said, report warnings included.
    pub fn words(&self) -> String {
        format!("{} {}", self.error, self.answer["warnings"])
    }
}

fn run(arguments: &[String]) -> Said {
    let output = Command::new(program().0).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Said { status: output.status.code(), error: text(&output.stderr), answer }
}

fn checkpoint() -> String {
    format!("--checkpoint={}", root("tests/data/openvla_tiny/ckpt").display())
}

/// `openvla predict` of a picture.
pub fn predict(image: &Path) -> Said {
    let image = format!("--image={}", image.display());
    let fixed = ["--json", "--decode=actions", "--threads=1", "--unnorm-key=bridge_orig"];
    let mut arguments = vec!["predict".to_owned(), checkpoint(), image];
    arguments.extend(fixed.map(str::to_owned));
    arguments.push("--instruction=pick up the block".into());
    run(&arguments)
}

/// `openvla eval run` of a bag.
pub fn eval(bag: &Path, more: &[&str]) -> Said {
    let out = tempfile::tempdir().unwrap();
    let mut arguments = vec!["eval".to_owned(), "run".to_owned(), checkpoint()];
    arguments.push(format!("--bag={}", bag.display()));
    arguments.push(format!("--out={}", out.path().join("out").display()));
    let fixed = ["--json", "--decode=actions", "--threads=1", "--unnorm-key=bridge_orig"];
    arguments.extend(fixed.iter().chain(&["--quiet"]).chain(more).map(|text| (*text).to_owned()));
    if !more.iter().any(|text| text.starts_with("--instruction")) {
        arguments.push("--instruction=pick up the block".into());
    }
    run(&arguments)
}

/// Collects what is wrong; a row of a table for each input.
#[derive(Default)]
pub struct Verdicts {
    faults: Vec<String>,
}

impl Verdicts {
    /// `fault`: what is wrong with the answer to the input, if anything.
    pub fn add(&mut self, name: &str, fault: Option<String>) {
        let (_, other) = program();
        if other {
            println!("{name} | {}", fault.as_deref().unwrap_or("as it should be").trim());
        }
        self.faults.extend(fault.map(|fault| format!("{name}: {fault}")));
        if !include_str!("../../docs/field.md").contains(&format!("| `{name}` |")) {
            self.faults.push(format!("{name}: docs/field.md has no line for it"));
        }
    }

    /// Fails when something was wrong with the program under test.
    pub fn check(self) {
        let (_, other) = program();
        assert!(other || self.faults.is_empty(), "{}", self.faults.join("\n"));
    }
}
