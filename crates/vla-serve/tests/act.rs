//! `POST /act` of a server on loopback: official forms, refusals, queue, limits, end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::{Setup, action, answer, body, picture, rows};
use vla_serve::{Ending, Limits, ServeError};

#[test]
fn both_encodings_as_the_official_server_answers() {
    let server = Setup::default().start();
    let single = body(7, "pick up the block");
    let expected = action(&[7], &[], "pick up the block");
    let (status, answer) = server.act(&single);
    assert_eq!((status, rows(&answer)), (200, vec![expected.clone()]));
    assert!(answer.starts_with(r#"{"__numpy__":""#), "{answer}");
    assert!(answer.ends_with(r#""dtype":"<f8","shape":[2]}"#), "{answer}");

    let inner = single.replace('"', "\\\"");
    let (status, answer) = server.act(&format!(r#"{{"encoded": "{inner}"}}"#));
    assert_eq!((status, rows(&answer)), (200, vec![expected.clone()]));
    assert!(answer.starts_with(r#""{\"__numpy__\":"#), "{answer}");

    // A key that is null or the server's own; a grey picture; a JPEG's bytes are no pixels.
    let image = picture(7, 2, 2);
    for more in [r#""unnorm_key": null"#, r#""unnorm_key": "bridge_orig""#] {
        let body = format!(r#"{{"image": {image}, "instruction": "go", {more}}}"#);
        assert_eq!(rows(&server.act(&body).1), [action(&[7], &[], "go")]);
    }
    let grey = r#"{"image": {"__numpy__": "BwcHBw==", "dtype": "|u1", "shape": [2, 2]},
        "instruction": "go"}"#;
    assert_eq!(rows(&server.act(grey).1), [action(&[7], &[], "go")]);
    assert_eq!(server.end().unwrap(), Ending { cut_off: 0 });
}

/// OpenVLA-OFT's clients send several pictures and a state, and get a list of actions.
#[test]
fn several_cameras_and_a_chunk() {
    let setup = Setup {
        cameras: &["full", "left_wrist", "right_wrist"],
        state_dim: 2,
        horizon: 3,
        ..Setup::default()
    };
    let server = setup.start();
    let state = r#"{"__numpy__": "AAAAAAAA4D8AAAAAAADwvw==", "dtype": "<f8", "shape": [2]}"#;
    let send = |names: [&str; 3]| {
        let [a, b, c] = names;
        let [x, y, z] = [picture(1, 2, 2), picture(2, 2, 3), picture(3, 3, 2)];
        server.act(&format!(
            r#"{{"{a}": {x}, "{b}": {y}, "{c}": {z}, "state": {state}, "instruction": "fold"}}"#
        ))
    };
    let expected = |pictures: [u8; 3]| vec![action(&pictures, &[0.5, -1.0], "fold"); 3];
    let (status, answer) = send(["full_image", "left_wrist_image", "right_wrist_image"]);
    assert_eq!((status, rows(&answer)), (200, expected([1, 2, 3])), "{answer}");
    assert!(answer.starts_with(r#"[{"__numpy__":""#), "{answer}");
    // By name where there is one, in the official server's order where there is none.
    let (_, answer) = send(["full_image", "right_wrist_image", "left_wrist_image"]);
    assert_eq!(rows(&answer), expected([1, 3, 2]));
    let (_, answer) = send(["full_image", "wrist_a", "wrist_b"]);
    assert_eq!(rows(&answer), expected([1, 2, 3]));

    let (status, answer) = send(["full_image", "left_wrist_image", "left_wrist"]);
    assert_eq!(status, 422);
    assert!(answer.contains("are both pictures of camera 'left_wrist'"), "{answer}");
    let full = picture(1, 2, 2);
    let (status, answer) = server
        .act(&format!(r#"{{"full_image": {full}, "state": {state}, "instruction": "fold"}}"#));
    assert_eq!(status, 422);
    let expected = "no picture of camera 'left_wrist'; send it as cam_left_wrist or left_wrist or \
        left_wrist_image";
    assert!(answer.contains(expected), "{answer}");
}

#[test]
fn refusals_have_a_status_and_a_line() {
    let setup = Setup { state_dim: 1, ..Setup::default() };
    let server = setup.start();
    let image = picture(1, 2, 2);
    let with = |more: &str| server.act(&format!(r#"{{"image": {image}, {more}}}"#));
    for ((status, answer), expected) in [
        (server.act(""), (400, "EOF")),
        (server.act("[1]"), (400, "is a list")),
        (server.act(r#"{"image": "#), (400, "EOF")),
        (server.act(r#"{"encoded": "x"}"#), (400, "expected value")),
        (server.act("\u{0}\u{1}"), (400, "expected value")),
        (with(r#""state": [1]"#), (422, "no instruction")),
        (with(r#""state": [1], "instruction": " ""#), (422, "instruction")),
        (with(r#""state": [1], "instruction": 7"#), (422, "'instruction' is the number 7")),
        (with(r#""instruction": "go""#), (422, "no state; send the 1 numbers")),
        (
            with(r#""instruction": "go", "state": [1, 2]"#),
            (422, "has 2 numbers; the policy's has 1"),
        ),
        (with(r#""instruction": "go", "state": "x""#), (422, "a vector of numbers is expected")),
        (
            with(r#""instruction": "go", "state": [1], "unnorm_key": "x""#),
            (422, "un-normalises by"),
        ),
        (with(r#""instruction": "go", "state": [1], "imagee": 1"#), (422, "'imagee'")),
        (with(r#""instruction": "go", "state": [1], "prompt": "go""#), (422, "second instruction")),
        (
            server.act(r#"{"instruction": "go", "state": [1]}"#),
            (422, "no picture of camera 'image'"),
        ),
        (
            server.act(r#"{"instruction": "go", "state": [1], "image": [[[1, 2, 3]]]}"#),
            (422, "list"),
        ),
    ] {
        assert_eq!(status, expected.0, "{answer}");
        assert!(answer.contains(expected.1), "{answer} / {}", expected.1);
        assert!(answer.starts_with(r#"{"error":""#) && answer.lines().count() == 1, "{answer}");
    }
    for (array, expected) in [
        (r#"{"__numpy__": "AAAA", "dtype": "<f4", "shape": [1, 1, 3]}"#, "has 12 bytes"),
        (r#"{"__numpy__": "AAAA", "dtype": "|u1", "shape": [3]}"#, "3 bytes"),
        (r#"{"__numpy__": "AAAA", "dtype": "|i1", "shape": [1, 1, 3]}"#, "is no picture"),
    ] {
        let (status, answer) =
            server.act(&format!(r#"{{"image": {array}, "instruction": "go", "state": [1]}}"#));
        assert!((400..=422).contains(&status) && answer.contains(expected), "{status} {answer}");
    }
    for (head, status) in [
        ("GET /act HTTP/1.1", 405),
        ("POST / HTTP/1.1", 405),
        ("GET / HTTP/1.1", 400),
        ("GET /nothing HTTP/1.1", 404),
        ("GET /healthz HTTP/1.1", 200),
        ("GET /health HTTP/1.1", 200),
        ("GET /healthz HTTP/1.1\r\norigin: http://evil.example", 403),
    ] {
        assert_eq!(server.request(head, b"").0, status, "{head}");
    }
    for header in ["x-deadline-ms: 0", "x-deadline-ms: 1.5", "x-client-id: "] {
        let (status, answer) = server.request(&format!("POST /act HTTP/1.1\r\n{header}"), b"{}");
        assert_eq!(status, 400, "{answer}");
    }
    assert_eq!(server.metric(r#"openvla_requests_total{protocol="act",outcome="malformed"}"#), "9");
    assert_eq!(server.gate.begun(), 0);
}

#[test]
fn the_key_is_asked_of_all_but_the_check_for_life() {
    let server = Setup { key: Some("0123456789abcdef"), ..Setup::default() }.start();
    let with = |header: &str| {
        server.request(&format!("POST /act HTTP/1.1{header}"), body(1, "go").as_bytes()).0
    };
    assert_eq!(with(""), 401);
    assert_eq!(with("\r\nauthorization: Api-Key 0123456789abcdeF"), 401);
    assert_eq!(with("\r\nauthorization: Bearer 0123456789abcdef"), 401);
    assert_eq!(with("\r\nauthorization: Api-Key 0123456789abcdef"), 200);
    assert_eq!(server.request("GET /metrics HTTP/1.1", b"").0, 401);
    assert_eq!(server.request("GET / HTTP/1.1", b"").0, 401);
    assert_eq!(server.request("GET /healthz HTTP/1.1", b"").0, 200);
}

#[test]
fn the_newest_request_of_a_client_and_deadlines() {
    let server = Setup { limits: Limits { waiting: 2, ..Limits::default() }, ..Setup::default() };
    let server = server.start();
    let head = |header: &str| format!("POST /act HTTP/1.1\r\n{header}");
    std::thread::scope(|scope| {
        let send = |header: &'static str, value: u8| {
            let server = &server;
            scope.spawn(move || server.request(&head(header), body(value, "go").as_bytes()))
        };
        server.gate.shut();
        let computed = send("x-client-id: a", 1);
        server.gate.wait_begun(0);
        // What is computed is not replaced; what waits is.
        let older = send("x-client-id: a", 2);
        wait_for(|| server.metric("openvla_requests_waiting") == "1");
        let newer = send("x-client-id: a", 3);
        let (status, line) = older.join().unwrap();
        assert_eq!(status, 409, "{line}");
        assert!(line.contains("a newer request of the same client"), "{line}");
        let other = send("x-client-id: b", 4);
        wait_for(|| server.metric("openvla_requests_waiting") == "2");
        let (status, line) = send("x-client-id: c", 5).join().unwrap();
        assert_eq!(status, 503, "{line}");
        assert!(line.contains("2 requests are waiting"), "{line}");
        // Waiting ends at the deadline, and frees the place.
        drop(send("x-client-id: b\r\nx-deadline-ms: 60", 6).join().unwrap());
        assert_eq!(other.join().unwrap().0, 409);
        assert_eq!(server.metric("openvla_requests_waiting"), "1");
        let begun = Instant::now();
        let (status, line) = send("x-deadline-ms: 50", 7).join().unwrap();
        assert_eq!(status, 504, "{line}");
        assert!(line.contains("no action within the 50 ms"), "{line}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        server.gate.open();
        assert_eq!(rows(&computed.join().unwrap().1), [action(&[1], &[], "go")]);
        assert_eq!(rows(&newer.join().unwrap().1), [action(&[3], &[], "go")]);
    });
    // Two of seven were computed.
    assert_eq!(server.gate.begun(), 2);
}

#[test]
fn a_client_that_leaves_is_not_computed_for() {
    let server = Setup::default().start();
    server.gate.shut();
    let text = body(1, "go");
    let head = format!("POST /act HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", text.len());
    let mut computed = server.connect();
    computed.write_all(format!("{head}{text}").as_bytes()).unwrap();
    server.gate.wait_begun(0);
    let mut waiting = server.connect();
    waiting.write_all(format!("{head}{text}").as_bytes()).unwrap();
    wait_for(|| server.metric("openvla_requests_waiting") == "1");
    // In the middle of its body, too.
    let mut half = server.connect();
    half.write_all(&format!("{head}{text}").as_bytes()[..head.len() + 30]).unwrap();
    drop(half);
    drop(waiting);
    wait_for(|| server.metric("openvla_requests_waiting") == "0");
    drop(computed);
    // Before the answer: a client that leaves after it is none that left.
    let gone = r#"openvla_requests_total{protocol="act",outcome="gone"}"#;
    wait_for(|| server.metric(gone) == "2");
    server.gate.open();
    assert_eq!(server.gate.begun(), 1);
    assert_eq!(server.act(&text).0, 200);
    wait_for(|| server.metric("openvla_connections") == "1");
}

#[test]
fn limits_on_bytes_pixels_and_connections() {
    let limits =
        Limits { body_bytes: 1000, picture_pixels: 30, connections: 3, ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let (status, line) = server.act(&body(1, &"x".repeat(2000)));
    assert_eq!(status, 413, "{line}");
    assert!(line.contains("at most 1000 are taken"), "{line}");
    // Without a length, too.
    let mut stream = server.connect();
    let head =
        "POST /act HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..3 {
        stream.write_all(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(answer(stream).0, 413);
    let image = picture(1, 6, 6);
    let (status, line) = server.act(&format!(r#"{{"image": {image}, "instruction": "go"}}"#));
    assert_eq!(status, 422);
    assert!(line.contains("more than 30 pixels"), "{line}");
    // A PNG of 40 x 1 pixels, as an array of its bytes.
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(40, 1).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let data = png.into_inner();
    let file = vla_wire::NdArray::new(vla_wire::Dtype::U8, vec![data.len()], data).unwrap();
    let single = vla_wire::json_numpy::Encoding::Single;
    let file = vla_wire::json_numpy::encode(&file.into(), single).unwrap();
    let file = String::from_utf8(file).unwrap();
    let (status, line) = server.act(&format!(r#"{{"image": {file}, "instruction": "go"}}"#));
    assert_eq!(status, 422);
    assert!(line.contains("40 x 1 pixels"), "{line}");

    wait_for(|| server.metric("openvla_connections") == "1");
    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let (status, line) = answer(server.connect());
    assert_eq!(status, 503);
    assert!(line.contains("3 connections are open"), "{line}");
    drop(held);
    wait_for(|| server.request("GET /healthz HTTP/1.1", b"").0 == 200);
    assert!(!server.metric("openvla_connections_refused_total").is_empty());
}

#[test]
fn slow_clients_are_cut_off() {
    let second = Duration::from_millis(300);
    let limits = Limits { header_time: second, body_time: second, ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut head = server.connect();
    head.write_all(b"POST /act HTTP/1.1\r\nhost:").unwrap();
    let idle = server.connect();
    let mut slow = server.connect();
    slow.write_all(b"POST /act HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let mut status = [0; 12];
    slow.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 408");
    for mut stream in [head, idle] {
        // The connection is closed, with or without a word.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    drop(slow);
    wait_for(|| server.metric("openvla_connections") == "1");
}

#[test]
fn the_end_lets_open_requests_end() {
    let server = Setup::default().start();
    server.gate.shut();
    let mut first = server.connect();
    let text = body(1, "go");
    let head = format!("POST /act HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", text.len());
    first.write_all(format!("{head}{text}").as_bytes()).unwrap();
    server.gate.wait_begun(0);
    let mut second = server.connect();
    second.write_all(format!("{head}{text}").as_bytes()).unwrap();
    wait_for(|| server.metric("openvla_requests_waiting") == "1");
    server.stop.stop();
    // No further connections.
    wait_for(|| std::net::TcpStream::connect(server.address).is_err());
    server.gate.open();
    for stream in [first, second] {
        let (status, answer) = answer(stream);
        assert_eq!((status, rows(&answer)), (200, vec![action(&[1], &[], "go")]));
    }
    assert_eq!(server.wait().unwrap(), Ending { cut_off: 0 });
}

#[test]
fn the_end_is_bounded() {
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    server.gate.shut();
    let gate = server.gate.clone();
    let text = body(1, "go");
    let mut stream = server.connect();
    let head = format!("POST /act HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", text.len());
    stream.write_all(format!("{head}{text}").as_bytes()).unwrap();
    gate.wait_begun(0);
    assert_eq!(server.end().unwrap(), Ending { cut_off: 1 });
    gate.open();
}

#[test]
fn a_policy_that_panics_ends_the_server() {
    let server = Setup::default().start();
    server.gate.panic_next();
    let (status, line) = server.act(&body(1, "go"));
    assert_eq!(status, 500, "{line}");
    assert!(line.contains("the inference thread ended"), "{line}");
    assert!(matches!(server.wait(), Err(ServeError::Inference)));
}

/// Waits for what the server does a moment later.
fn wait_for(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it did not happen within 30 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}
