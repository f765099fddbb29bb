//! OpenVLA's `POST /act` against a server that does what each test says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::*;
use vla_inference::policy::{Policy, RemoteFault, Restored};
use vla_remote::{Protocol, RemotePolicy};
use vla_wire::json_numpy::{self, Encoding};
use vla_wire::{Dtype, Limits, Value};

const GOOD: &[u8] = b"[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]";

/// The policy's first request gets `reply`; checks the fault, and that the next one is served.
fn faulty(
    fault: RemoteFault,
    words: &str,
    reply: impl Fn(&mut TcpStream) + Send + Sync + 'static,
) -> Duration {
    // A probe is a connection without a request.
    let first = AtomicBool::new(true);
    let (server, _requests) = http(move |_, stream| {
        if first.swap(false, Ordering::AcqRel) {
            reply(stream)
        } else {
            respond(stream, "200 OK", GOOD)
        }
    });
    let mut policy = open(Protocol::Act, server);
    let began = Instant::now();
    let error = act(&mut policy).unwrap_err();
    let took = began.elapsed();
    assert_eq!(error.fault, fault, "{error}");
    assert!(error.what.contains(words), "{error}");
    assert!(error.to_string().starts_with(&format!("act://{server}: ")), "{error}");
    assert!(restored(&mut policy).is_empty());
    assert_eq!(value(&mut policy), 0.5);
    took
}

#[test]
fn requests_and_answers_are_openvlas() {
    let (server, requests) = http(|_, stream| {
        let array = json_numpy::encode(&steps(0.25), Encoding::Single).unwrap();
        respond(stream, "200 OK", &array);
    });
    let mut settings = settings(Protocol::Act, server);
    settings.key = Some(key("s3cret"));
    settings.contract.texts = vec![("unnorm_key".into(), "bridge_orig".into())];
    let mut policy = RemotePolicy::open(settings).unwrap();
    let decision = act(&mut policy).unwrap();
    assert_eq!(decision.actions, vec![vec![0.25; WIDTH]; HORIZON]);
    let stages: Vec<_> = decision.stages.iter().map(|stage| stage.name).collect();
    assert_eq!(stages, ["preprocess", "round_trip"]);
    let (head, body) = requests.recv().unwrap();
    let lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines[0], "POST /act HTTP/1.1");
    assert!(lines.contains(&format!("Host: {server}").as_str()), "{head}");
    assert!(lines.contains(&"Authorization: Api-Key s3cret"), "{head}");
    let (fields, encoding) = json_numpy::decode_request(&body, &Limits::default()).unwrap();
    assert_eq!(encoding, Encoding::Single);
    let request = Value::Object(fields);
    let Some(Value::Array(image)) = request.get("observation/image") else { panic!("{request:?}") };
    assert_eq!((image.dtype(), image.shape()), (Dtype::U8, &[8, 8, 3][..]));
    assert_eq!(request.get("unnorm_key"), Some(&Value::Text("bridge_orig".into())));
}

#[test]
fn bodies_of_every_form_are_read() {
    let bodies: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\n[[0.5, \r\n1d;x\r\n\
        0.5], [0.5, 0.5], [0.5, 0.5]]\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]",
        // The double encoding.
        b"HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n\"[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]\"",
    ];
    for body in bodies {
        let (server, _requests) = http(move |_, stream| stream.write_all(body).unwrap());
        assert_eq!(value(&mut open(Protocol::Act, server)), 0.5);
    }
}

#[test]
fn the_servers_time_is_used_where_it_can_be_true() {
    for (timing, server_ms) in [
        ("infer;dur=0.001, total;dur=0.002", Some(0.002)),
        ("total;desc=all;dur=0", Some(0.0)),
        ("total;dur=86400000", None), // longer than the whole exchange
        ("total;dur=-1", None),
        ("total;dur=NaN", None),
        ("infer;dur=0.001", Some(0.001)),
        ("db;dur=0.001", None),
        (";;=,", None),
    ] {
        let (server, _requests) = http(move |_, stream| {
            let length = GOOD.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nServer-Timing: {timing}\r\nContent-Length: {length}");
            let _ = stream.write_all(&[head.as_bytes(), b"\r\n\r\n", GOOD].concat());
        });
        let stages = act(&mut open(Protocol::Act, server)).unwrap().stages;
        let stated = stages.iter().find(|stage| stage.name == "server");
        assert_eq!(stated.map(|stage| stage.milliseconds), server_ms, "{timing}: {stages:?}");
        let network = stages.iter().any(|stage| stage.name == "network");
        assert_eq!(network, server_ms.is_some(), "{timing}");
    }
}

#[test]
fn errors_are_refusals_whatever_their_status() {
    // OpenVLA's server: the JSON text "error" with status 200.
    faulty(RemoteFault::Refused, "\"error\"", |stream| respond(stream, "200 OK", b"\"error\""));
    for status in ["400 Bad Request", "401 Unauthorized", "500 Internal Server Error"] {
        let words = format!("status {}: no such key", &status[..3]);
        faulty(RemoteFault::Refused, &words, move |stream| {
            respond(stream, status, b"details:\nno such key\n");
        });
    }
    // No other address gets a request.
    faulty(RemoteFault::Refused, "status 302", |stream| {
        let moved =
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(moved).unwrap();
    });
}

#[test]
fn answers_of_another_form_are_malformed() {
    let one = |words: &'static str, body: &'static [u8]| {
        faulty(RemoteFault::Malformed, words, |stream| respond(stream, "200 OK", body));
    };
    one("1 steps of 2 numbers", b"[0.5, 0.5]");
    one("JSON", b"[[NaN, 0.5], [0.5, 0.5], [0.5, 0.5]]");
    one("actions", b"{\"a\": 1}");
    one("JSON", b"[[0.5");
    one("JSON", b"");
    let raw = |words: &'static str, bytes: &'static [u8]| {
        faulty(RemoteFault::Malformed, words, |stream| stream.write_all(bytes).unwrap());
    };
    raw("does not speak HTTP", b"SSH-2.0-OpenSSH_9.6\r\n\r\n");
    raw("more than 4194304 bytes", b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n");
    raw("content length -1", b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n");
    raw("transfer encoding gzip", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n");
    raw(
        "more than 4194304 bytes",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    );
    raw("without a size", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n");
    faulty(RemoteFault::Malformed, "16384 bytes of headers", |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ");
        let _ = stream.write_all(&[b'x'; 64 << 10]);
    });
}

#[test]
fn a_server_that_hangs_drips_or_ends_is_noticed_in_time() {
    let hung = faulty(RemoteFault::Late, "0.400 s (remote_timeout_s)", |_| {
        thread::sleep(2 * ANSWER);
    });
    assert!(ANSWER <= hung && hung < ANSWER + SLACK, "{hung:?}");
    let drips = faulty(RemoteFault::Late, "remote_timeout_s", |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ");
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(ANSWER <= drips && drips < ANSWER + SLACK, "{drips:?}");
    let silent = faulty(RemoteFault::Late, "0.200 s (remote_read_timeout_s)", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        thread::sleep(2 * ANSWER);
    });
    assert!(ANSWER / 2 <= silent && silent < ANSWER / 2 + SLACK, "{silent:?}");
    faulty(RemoteFault::Gone, "connection was lost", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\n[[0.5").unwrap();
    });
    faulty(RemoteFault::Gone, "connection was lost", |_| {});
}

#[test]
fn without_a_server_nothing_is_opened() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = RemotePolicy::open(settings(Protocol::Act, free)).map(drop);
    let error = remote(error.unwrap_err());
    assert_eq!(error.fault, RemoteFault::Gone);
    assert!(error.what.contains("no server listens"), "{error}");
}

#[test]
fn between_requests_nothing_is_sent() {
    let (server, requests) = http(|_, stream| respond(stream, "200 OK", GOOD));
    let mut policy = open(Protocol::Act, server);
    assert!(matches!(policy.restore(), Restored::Ready));
    assert!(requests.try_recv().is_err());
    assert_eq!(value(&mut policy), 0.5);
}
