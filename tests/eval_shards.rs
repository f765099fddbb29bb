//! `openvla eval run --shards-on-stdin`: parts with a policy that is loaded once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eval_support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use eval_support::{evaluation, kit, program, run};
use serde_json::{Value, json};
use vla_eval::{Paired, Report, read_table};

/// Exit status, the lines on stdout, and stderr.
fn shards(out: &Path, input: &str) -> (Option<i32>, Vec<Value>, String) {
    let mut command = evaluation(&kit(), out);
    command.arg("--shards-on-stdin").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let lines = text(output.stdout);
    let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code(), lines, text(output.stderr))
}

/// The frames without the measured times.
fn frames(out: &Path) -> Vec<Paired> {
    let mut pairs = read_table(out, 7).unwrap();
    for pair in &mut pairs {
        if let vla_eval::Outcome::Action(prediction) = &mut pair.step.outcome {
            prediction.stages.clear();
        }
    }
    pairs
}

#[test]
fn parts_equal_those_of_runs_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, whole) = (folder.path().join("parts"), folder.path().join("whole"));
    let (status, lines, error) = shards(&parts, "1/3\n0/3\n2/3\n");
    assert_eq!((status, error.as_str()), (Some(0), ""));
    let line = |index: u32| json!({"shard": format!("{index}/3"), "frames": 2});
    assert_eq!(lines, [line(1), line(0), line(2)]);
    let (merged, mut merge) = (folder.path().join("merged"), program());
    let folders = ["0", "1", "2"].map(|index| parts.join(index));
    merge.args(["eval", "merge"]).args(&folders).arg("--out").arg(&merged);
    assert_eq!(run(merge).0, Some(0));
    assert_eq!(run(evaluation(&kit(), &whole)).0, Some(0));
    assert_eq!(frames(&merged), frames(&whole));
    let report = |out: &Path| Report { latency_ms: [].into(), ..Report::read(out).unwrap() };
    assert_eq!(report(&merged), report(&whole));

    // Complete parts are left as they are; of the other one the missing frame is evaluated.
    let journal = |index: usize| folders[index].join("journal.jsonl");
    let written = |index| std::fs::metadata(journal(index)).unwrap().modified().unwrap();
    let (text, before) = (std::fs::read_to_string(journal(1)).unwrap(), [0, 2].map(written));
    let cut: Vec<&str> = text.split_inclusive('\n').take(2).collect();
    std::fs::write(journal(1), cut.concat()).unwrap();
    std::fs::remove_file(folders[1].join("report.json")).unwrap();
    let (status, lines, error) = shards(&parts, "0/3\n1/3\n2/3\n");
    assert_eq!((status, error.as_str()), (Some(0), ""));
    assert_eq!(lines, [line(0), line(1), line(2)]);
    assert_eq!([0, 2].map(written), before);
    let again = std::fs::read_to_string(journal(1)).unwrap();
    assert!(again.starts_with(&cut.concat()) && again.lines().count() == 3, "{again}");
}

#[test]
fn parts_that_fail_are_named() {
    let folder = tempfile::tempdir().unwrap();
    // Seven parts of six frames: one has none.
    let (status, lines, error) = shards(folder.path(), "6/7\n5/7\n");
    assert_eq!((status, lines.len()), (Some(1), 2), "{error}");
    let reason = lines[0]["error"].as_str().unwrap();
    assert!(reason.contains("leave none of 6 images"), "{reason}");
    assert_eq!(lines[1], json!({"shard": "5/7", "frames": 1}));
    assert!(error.contains("1 of 2 parts are not complete"), "{error}");
    let endless = "1".repeat(1000);
    for wrong in ["7/7\n", "now\n", &endless] {
        let (status, lines, error) = shards(folder.path(), wrong);
        assert_eq!((status, lines.len(), error.lines().count()), (Some(1), 0, 1), "{error}");
        assert!(error.contains("write i/n"), "{error}");
    }
}
