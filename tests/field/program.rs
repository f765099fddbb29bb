//! Runs the program on inputs, and compares what it says with what it should.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::checkpoint_support::kit;

/// What should come of an input.
#[derive(Clone, Debug)]
pub enum Should {
    /// One line on stderr that holds one of these texts, and exit status 1.
    Refuse(&'static [&'static str]),
    /// The action of the kit's checkpoint for "pick up the block", with this on stderr.
    Act(&'static str),
    /// These token ids of the prompt, from the second on, and this on stderr.
    Read(Vec<u32>, &'static str),
}

/// An input: what is given to `openvla predict`.
#[derive(Clone, Debug)]
pub struct Input {
    /// As docs/field.md lists it.
    pub name: &'static str,
    pub checkpoint: String,
    pub instruction: String,
    pub unnorm_key: &'static str,
    /// The home folder of the process.
    pub home: Option<PathBuf>,
    pub should: Should,
    /// Whether `inspect` and `eval` must refuse it too.
    pub everywhere: bool,
}

impl Input {
    pub fn checkpoint(name: &'static str, checkpoint: impl AsRef<Path>, should: Should) -> Self {
        Self {
            name,
            checkpoint: checkpoint.as_ref().to_str().unwrap().to_owned(),
            instruction: "pick up the block".into(),
            unnorm_key: "bridge_orig",
            home: None,
            should,
            everywhere: true,
        }
    }

    pub fn instruction(name: &'static str, instruction: &str, should: Should) -> Self {
        let everywhere = false;
        let instruction = instruction.into();
        Self { instruction, everywhere, ..Self::checkpoint(name, kit(), should) }
    }
}

/// The program under test, and whether it is another version, of which only a table is wanted.
fn program() -> (PathBuf, bool) {
    match std::env::var_os("OPENVLA_FIELD_PROGRAM") {
        Some(path) => (path.into(), true),
        None => (env!("CARGO_BIN_EXE_openvla").into(), false),
    }
}

fn run(input: &Input, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program().0);
    command.args(arguments).env_remove("OPENVLA_WEIGHTS");
    // An empty folder, in which no name of the hub is a relative path.
    command.current_dir(std::env::temp_dir());
    if let Some(home) = &input.home {
        command.env("HOME", home);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn predict(input: &Input) -> (Option<i32>, String, String) {
    let image = kit().parent().unwrap().join("images/07_480x640_RGB.png");
    let arguments = [
        "predict",
        "--json",
        "--decode=actions",
        "--threads=1",
        &format!("--checkpoint={}", input.checkpoint),
        &format!("--image={}", image.display()),
        &format!("--unnorm-key={}", input.unnorm_key),
        &format!("--instruction={}", input.instruction),
    ];
    run(input, &arguments)
}

/// What the other commands that load a checkpoint say.
fn elsewhere(input: &Input) -> Vec<(&'static str, Option<i32>, String)> {
    let checkpoint = format!("--checkpoint={}", input.checkpoint);
    let out = tempfile::tempdir().unwrap();
    let out = format!("--out={}", out.path().join("out").display());
    let bag = format!("--bag={}/tests/data/bags/mcap_plain", env!("CARGO_MANIFEST_DIR"));
    let key = format!("--unnorm-key={}", input.unnorm_key);
    let (status, _, error) = run(input, &["inspect", &checkpoint]);
    let eval = ["eval", "run", &checkpoint, &bag, &out, &key, "--image-topic=/image"];
    let (also, _, second) = run(input, &[&eval[..], &["--instruction=go"]].concat());
    vec![("inspect", status, error), ("eval", also, second)]
}

/// The answer to the kit's unchanged checkpoint.
fn plain() -> Value {
    let input = Input::checkpoint("plain", kit(), Should::Act(""));
    let (status, out, error) = predict(&input);
    assert_eq!(status, Some(0), "{error}");
    serde_json::from_str(&out).unwrap()
}

/// What is wrong with the answer to an input; `None` when it is as it should be.
fn fault(input: &Input, plain: &Value) -> Option<String> {
    let (status, out, error) = predict(input);
    let answer: Value = serde_json::from_str(&out).unwrap_or_default();
    match &input.should {
        Should::Refuse(parts) => {
            let mut said = vec![("predict", status, error)];
            // Options of another version's other commands may differ.
            if input.everywhere && !program().1 {
                said.extend(elsewhere(input));
            }
            said.into_iter().find_map(|(command, status, error)| {
                let good = status == Some(1)
                    && error.lines().count() == 1
                    && parts.iter().any(|part| error.contains(part));
                (!good).then(|| format!("{command}, exit status {status:?}: {error}"))
            })
        }
        Should::Act(remark) => {
            let good = answer["token_ids"] == plain["token_ids"]
                && answer["input_ids"] == plain["input_ids"]
                && has(&error, remark);
            (!good).then(|| format!("{} {error}", answer["prompt"]))
        }
        Should::Read(ids, remark) => {
            let found: Vec<u32> =
                serde_json::from_value(answer["input_ids"].clone()).unwrap_or_default();
            let good = found == *ids && has(&error, remark);
            (!good).then(|| format!("{} {found:?} {error}", answer["prompt"]))
        }
    }
}

/// Whether stderr holds the remark; none is wanted where it is empty.
fn has(error: &str, remark: &str) -> bool {
    if remark.is_empty() { error.is_empty() } else { error.contains(remark) }
}

/// Requires of every input what it should bring, and that docs/field.md lists it.
pub fn check(inputs: &[Input]) {
    let plain = plain();
    let listed = include_str!("../../docs/field.md");
    let (_, other) = program();
    let mut faults = Vec::new();
    for input in inputs {
        let fault = fault(input, &plain);
        if other {
            let verdict = if fault.is_some() { "FAILS" } else { "passes" };
            let (status, out, error) = predict(input);
            let answer: Value = serde_json::from_str(&out).unwrap_or_default();
            let said = if status == Some(0) { answer["prompt"].to_string() } else { String::new() };
            println!("{} | {verdict} | {status:?} {said} {}", input.name, error.trim());
        }
        faults.extend(fault.map(|fault| format!("{}: {fault}", input.name)));
        if !listed.contains(&format!("| `{}` |", input.name)) {
            faults.push(format!("{}: docs/field.md has no line for it", input.name));
        }
    }
    assert!(other || faults.is_empty(), "{}", faults.join("\n"));
}
