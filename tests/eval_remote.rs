//! `openvla eval run --remote` against `openvla serve` in a process of its own, and against servers
//! that do what a test says.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eval_support;

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::Ordering;

use eval_support::{
    Server, act_server, evaluation, failure, forwarder, kit, on_a_server, run, zeros,
};
use vla_eval::{Metrics, Report, read_table};

/// Everything of the metrics that needs the actions alone, bit for bit: neither tokens nor
/// statistics cross the wire.
fn of_actions(metrics: &Metrics) -> String {
    let dimensions = metrics.dimensions.iter();
    let numbers: Vec<_> = dimensions
        .map(|d| (d.n, [d.mae, d.rmse, d.bias, d.max, d.correlation].map(|x| x.map(f64::to_bits))))
        .collect();
    format!("{} {numbers:?} {:?}", metrics.frames, metrics.gripper)
}

/// The predicted actions, bit for bit.
fn actions(out: &Path) -> Vec<Vec<u64>> {
    let bits = |action: &Vec<f64>| action.iter().map(|value| value.to_bits()).collect();
    let pairs = read_table(out, 7).unwrap();
    pairs.iter().map(|pair| bits(&pair.prediction().unwrap().action)).collect()
}

fn assert_equal(a: &Path, b: &Path) {
    assert_eq!(actions(a), actions(b));
    let (a, b) = (Report::read(a).unwrap(), Report::read(b).unwrap());
    assert_eq!(of_actions(&a.overall), of_actions(&b.overall));
    assert_eq!((&a.frames, &a.failures), (&b.frames, &b.failures));
    for (a, b) in a.episodes.iter().zip(&b.episodes) {
        assert_eq!(of_actions(&a.metrics), of_actions(&b.metrics));
    }
}

#[test]
fn a_server_gives_what_its_checkpoint_gives() {
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("local");
    assert_eq!(run(evaluation(&kit(), &local)).0, Some(0));
    let server = Server::start();
    for (protocol, metadata) in [("act", ""), ("openpi", "unnorm_key: bridge_orig")] {
        let out = folder.path().join(protocol);
        let address = format!("{protocol}://{}", server.address);
        let (status, _, error) = run(evaluation(&on_a_server(&address), &out));
        assert_eq!(status, Some(0), "{protocol}: {error}");
        assert_equal(&local, &out);
        let report = Report::read(&out).unwrap();
        let named = report.settings.policy.server.as_ref().unwrap();
        assert_eq!((named.address.as_str(), named.answers.as_str()), (&*address, "physical"));
        assert!(named.metadata.contains(metadata), "{}", named.metadata);
        for stage in ["preprocess", "network", "server", "total"] {
            assert_eq!(report.latency_ms[stage].n, 6, "{protocol}: {stage}");
        }
        assert_eq!((report.action_tokens, report.overall.normalized_mae), (None, None));
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains(&address) && page.contains(metadata), "{protocol}");
    }
    // Shards are those of any evaluation.
    let address = format!("openpi://{}", server.address);
    let parts = ["0/2", "1/2"].map(|shard| {
        let out = folder.path().join(shard.replace('/', "_"));
        let mut command = evaluation(&on_a_server(&address), &out);
        command.args(["--shard", shard]);
        assert_eq!(run(command).0, Some(0));
        out
    });
    let (merged, mut merge) = (folder.path().join("merged"), eval_support::program());
    merge.args(["eval", "merge"]).args(&parts).arg("--out").arg(&merged);
    assert_eq!(run(merge).0, Some(0));
    assert_equal(&local, &merged);
}

#[test]
fn a_server_killed_on_the_way_is_named_and_the_run_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (local, out) = (folder.path().join("local"), folder.path().join("out"));
    assert_eq!(run(evaluation(&kit(), &local)).0, Some(0));
    // The first connection is a probe, each further one a request.
    let (address, server) = forwarder(Server::start(), 4);
    let policy = on_a_server(&format!("act://{address}"));
    let mut command = evaluation(&policy, &out);
    command.args(["--remote-attempts", "2"]);
    let error = failure(command);
    for part in ["stopped after 3 frames", &address.to_string(), "the connection was lost"] {
        assert!(error.contains(part), "{error}");
    }
    let report = Report::read(&out).unwrap();
    assert_eq!((report.frames.evaluated, report.incomplete.len()), (3, 1));
    let before = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();

    *server.lock().unwrap() = Server::start();
    let (status, _, error) = run(evaluation(&policy, &out));
    assert_eq!(status, Some(0), "{error}");
    assert_equal(&local, &out);
    let after = std::fs::read_to_string(out.join("journal.jsonl")).unwrap();
    assert!(after.starts_with(&before), "no frame was evaluated twice");
    assert_eq!(after.lines().count(), 1 + 6);
}

#[test]
fn frames_without_a_valid_answer_are_counted_and_evaluated_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let (address, requests) = act_server(|number| match number {
        1 => None,
        2 => Some((200, zeros().replace("[7]", "[7,1]"))),
        4 => Some((200, "{\"__numpy__\":".into())),
        5 => Some((500, "{\"error\": \"no action\"}".into())),
        _ => Some((200, zeros())),
    });
    let evaluation = || {
        let policy = on_a_server(&format!("act://{address}"));
        let mut command = evaluation(&policy, folder.path());
        command.args(["--remote-timeout-s", "2"]);
        command
    };
    let error = failure(evaluation());
    for part in ["4 frames without an answer", "frame 1: act://", "not answered within 2.000 s"] {
        assert!(error.contains(part), "{error}");
    }
    let report = Report::read(folder.path()).unwrap();
    assert_eq!((report.frames.evaluated, report.frames.failed), (2, 0));
    assert_eq!(report.frames.skipped["no answer of the server"], 4);
    assert_eq!(requests.load(Ordering::SeqCst), 6, "a refused request is not repeated");

    let (status, _, error) = run(evaluation());
    assert_eq!(status, Some(0), "{error}");
    let report = Report::read(folder.path()).unwrap();
    assert_eq!((report.frames.evaluated, report.frames.skipped.len()), (6, 0));
    assert_eq!(requests.load(Ordering::SeqCst), 10);
    assert!(actions(folder.path()).iter().flatten().all(|bits| *bits == 0));
}

#[test]
fn a_server_that_answers_no_frame_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (address, requests) = act_server(|_| Some((422, "{\"error\": \"no such field\"}".into())));
    let error =
        failure(evaluation(&on_a_server(&format!("act://{address}")), &folder.path().join("a")));
    assert!(error.contains("answered with status 422: ") && error.contains("no such field"));
    assert_eq!(requests.load(Ordering::SeqCst), 5, "of six frames");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for protocol in ["act", "openpi"] {
        let policy = on_a_server(&format!("{protocol}://{free}"));
        let mut command = evaluation(&policy, &folder.path().join(protocol));
        command.args(["--remote-attempts", "3"]);
        let error = failure(command);
        assert!(error.contains("no server listens at"), "{error}");
        assert!(error.contains("(3 attempts to connect)"), "{error}");
    }
}

#[test]
fn command_lines_that_mix_server_and_checkpoint_are_refused() {
    let out = Path::new("nowhere");
    let server = on_a_server("act://127.0.0.1:9");
    for (more, part) in [
        (vec!["--checkpoint", "x"], "--checkpoint one that is run here"),
        (vec!["--unnorm-key", "x"], "`x` is none of bridge_orig"),
    ] {
        let mut command = evaluation(&server, out);
        command.args(more);
        let error = failure(command);
        assert!(error.contains(part), "{error}");
    }
    for more in [["--device", "sim:n300"], ["--threads", "2"], ["--seed", "1"]] {
        let mut command = evaluation(&server, out);
        command.args(more);
        let (status, _, error) = run(command);
        assert_eq!(status, Some(2), "{error}");
        assert!(error.contains("cannot be used with") && error.contains(more[0]), "{error}");
    }
    for (policy, status, part) in [
        (vec!["--remote", "act://h:1"], 2, "--policy-file"),
        (vec!["--remote", "http://h:1", "--policy-file", "x"], 2, "http for act"),
        (vec!["--remote-timeout-s", "1"], 2, "--remote"),
    ] {
        let policy: Vec<String> = policy.into_iter().map(str::to_owned).collect();
        let (got, _, error) = run(evaluation(&policy, out));
        assert_eq!(got, Some(status), "{error}");
        assert!(error.contains(part), "{error}");
    }
    let file = eval_support::root("config/policies/openvla-7b.yaml").display().to_string();
    let policy = ["--remote", "act://h:1", "--policy-file", &file].map(str::to_owned);
    let error = failure(evaluation(&policy, out));
    assert!(error.contains("has no section remote"), "{error}");
}
