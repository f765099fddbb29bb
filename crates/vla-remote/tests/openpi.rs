//! openpi's websocket against a server that does what each test says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use support::*;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message};
use vla_inference::policy::{Policy, RemoteFault, Restored};
use vla_remote::{Protocol, RemotePolicy};
use vla_wire::value::object;
use vla_wire::{Dtype, NdArray, Value};

fn client(server: std::net::SocketAddr) -> RemotePolicy {
    open(Protocol::Openpi, server)
}

/// Opens a policy whose first request fails; checks the fault and that the next answer, over
/// another connection, is the right one.
fn faulty(
    fault: RemoteFault,
    words: &str,
    serve: impl Fn(&mut Socket) + Send + Sync + 'static,
) -> Duration {
    let server = openpi(move |socket, number| match number {
        0 => serve(socket),
        _ => answer_all(socket, 0.5),
    });
    let mut policy = client(server);
    let began = Instant::now();
    let error = act(&mut policy).unwrap_err();
    let took = began.elapsed();
    assert_eq!(error.fault, fault, "{error}");
    assert!(error.what.contains(words), "{error}");
    assert!(error.to_string().starts_with(&format!("openpi://{server}: ")), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    // Opening a new connection sends no request.
    assert_eq!(act(&mut policy).unwrap_err(), error);
    assert!(restored(&mut policy).is_empty());
    assert_eq!(value(&mut policy), 0.5);
    took
}

#[test]
fn requests_and_answers_are_openpis() {
    let (seen, requests) = channel();
    let server = openpi(move |socket, _| {
        seen.send(request(socket).unwrap()).unwrap();
        thread::sleep(Duration::from_millis(20));
        socket.send(binary(&answer(steps(0.25), 12.5))).unwrap();
    });
    let mut policy = client(server);
    let origin = policy.origin().unwrap();
    assert!(origin.contains("robot: arm, reset_pose: []"), "{origin}");
    let decision = act(&mut policy).unwrap();
    assert_eq!(decision.actions, vec![vec![0.25; WIDTH]; HORIZON]);
    let stages: Vec<_> = decision.stages.iter().map(|stage| stage.name).collect();
    assert_eq!(stages, ["preprocess", "network", "server"]);
    assert_eq!(decision.stages[2].milliseconds, 12.5);
    assert!(7.0 <= decision.stages[1].milliseconds, "{:?}", decision.stages);

    let seen = requests.recv().unwrap();
    let Value::Object(fields) = &seen else { panic!("{seen:?}") };
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "observation/image",
            "observation/wrist_image",
            "observation/joint_position",
            "observation/gripper_position",
            "prompt"
        ]
    );
    let Some(Value::Array(image)) = seen.get("observation/wrist_image") else { panic!("{seen:?}") };
    assert_eq!((image.dtype(), image.shape()), (Dtype::U8, &[8, 8, 3][..]));
    let joints = seen.get("observation/joint_position");
    assert_eq!(joints, Some(&Value::Array(NdArray::vector(&[0.5, -0.25]))));
    let gripper = seen.get("observation/gripper_position");
    assert_eq!(gripper, Some(&Value::Array(NdArray::vector(&[1.0]))));
    assert_eq!(seen.get("prompt"), Some(&Value::Text("pick up the fork".into())));
}

#[test]
fn the_key_is_a_header() {
    let (seen, headers) = channel();
    let server = listen(move |stream, _| {
        #[allow(clippy::result_large_err)]
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            let value = request.headers().get("authorization").unwrap();
            seen.send(value.to_str().unwrap().to_owned()).unwrap();
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, look).unwrap();
        socket.send(binary(&object([]))).unwrap();
        let _ = socket.read();
    });
    let settings =
        vla_remote::Settings { key: Some(key("s3cret")), ..settings(Protocol::Openpi, server) };
    RemotePolicy::open(settings).unwrap();
    assert_eq!(headers.recv().unwrap(), "Api-Key s3cret");
}

#[test]
fn a_late_answer_is_never_taken_for_the_next_one() {
    let took = faulty(RemoteFault::Late, "within 0.400 s (remote_timeout_s)", |socket| {
        request(socket).unwrap();
        thread::sleep(2 * ANSWER);
        // Long after the client has given up.
        let _ = socket.send(binary(&answer(steps(-0.5), 700.25)));
    });
    assert!(ANSWER <= took && took < ANSWER + SLACK, "{took:?}");
}

#[test]
fn a_server_that_drips_is_late_within_the_whole() {
    let took = faulty(RemoteFault::Late, "remote_timeout_s", |socket| {
        request(socket).unwrap();
        let stream = socket.get_mut();
        let _ = stream.write_all(&[0x82, 126, 4, 0]); // a binary frame of 1024 bytes
        while stream.write_all(&[0]).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(ANSWER <= took && took < ANSWER + SLACK, "{took:?}");
}

#[test]
fn a_silence_within_an_answer_is_late_sooner() {
    let took = faulty(RemoteFault::Late, "0.200 s (remote_read_timeout_s)", |socket| {
        request(socket).unwrap();
        let _ = socket.get_mut().write_all(&[0x82, 126, 4, 0, 1, 2, 3]);
        thread::sleep(2 * ANSWER);
    });
    assert!(ANSWER / 2 <= took && took < ANSWER / 2 + SLACK, "{took:?}");
}

#[test]
fn a_server_that_ends_is_gone() {
    faulty(RemoteFault::Gone, "connection was lost", |socket| drop(request(socket)));
    faulty(RemoteFault::Gone, "code 1001", |socket| {
        request(socket).unwrap();
        let frame = CloseFrame { code: CloseCode::Away, reason: "".into() };
        let _ = socket.close(Some(frame));
    });
}

#[test]
fn error_answers_are_refusals() {
    faulty(RemoteFault::Refused, "KeyError: 'observation/image'", |socket| {
        request(socket).unwrap();
        let text = "Traceback (most recent call last):\n  File\nKeyError: 'observation/image'\n";
        let _ = socket.send(Message::Text(text.into()));
        let frame = CloseFrame { code: CloseCode::Error, reason: "Internal server error.".into() };
        let _ = socket.close(Some(frame));
    });
    faulty(RemoteFault::Refused, "code 1008: not today", |socket| {
        request(socket).unwrap();
        let frame = CloseFrame { code: CloseCode::Policy, reason: "not today".into() };
        let _ = socket.close(Some(frame));
    });
    faulty(RemoteFault::Refused, "out of memory", |socket| {
        request(socket).unwrap();
        let _ = socket.send(binary(&object([("error", "out of memory".into())])));
    });
}

#[test]
fn answers_of_another_form_are_malformed() {
    let one = |words: &'static str, message: Message| {
        faulty(RemoteFault::Malformed, words, move |socket| {
            request(socket).unwrap();
            let _ = socket.send(message.clone());
            request(socket);
        });
    };
    let of = |actions: Value| binary(&answer(actions, 1.5));
    let rows = |rows: &[Vec<f64>]| Value::Array(NdArray::matrix(rows).unwrap());
    one("4 steps of 2 numbers", of(rows(&vec![vec![0.0; WIDTH]; HORIZON + 1])));
    one("3 steps of 7 numbers", of(rows(&vec![vec![0.0; 7]; HORIZON])));
    one("number 1 of step 0 of its answer is NaN", of(rows(&vec![vec![0.0, f64::NAN]; HORIZON])));
    let bytes = NdArray::new(Dtype::U8, vec![HORIZON, WIDTH], vec![0; HORIZON * WIDTH]).unwrap();
    one("floats are expected", of(Value::Array(bytes)));
    one("no actions, only", binary(&object([("action", steps(0.0))])));
    one("not an object", binary(&Value::Nil));
    one("msgpack", Message::Binary(Bytes::from_static(&[0xc1, 0, 1])));
    one("server_timing.infer_ms is", binary(&answer(steps(0.0), f64::NAN)));
    // A server's clock cannot have run longer than ours.
    one("belongs to an earlier one", binary(&answer(steps(0.0), 90_000.5)));
    one("more than 4194304 bytes", Message::Binary(vec![0; vla_remote::ANSWER_MAX + 1].into()));
}

#[test]
fn an_answer_out_of_bounds_leaves_the_connection() {
    let server = openpi(|socket, number| {
        assert_eq!(number, 0, "another connection");
        for value in [1.5, 0.5] {
            request(socket).unwrap();
            socket.send(binary(&answer(steps(value), value))).unwrap();
        }
        request(socket);
    });
    let mut policy = client(server);
    let error = act(&mut policy).unwrap_err();
    assert!(error.out_of_bounds && error.fault == RemoteFault::Malformed, "{error}");
    assert!(error.what.contains("is 1.5000, outside -1..1"), "{error}");
    assert!(matches!(policy.restore(), Restored::Ready));
    assert_eq!(value(&mut policy), 0.5);
}

#[test]
fn a_repeated_answer_is_never_taken_for_the_next_one() {
    // Repeated at once: there before the next request.
    let (sent, twice) = channel();
    let server = openpi(move |socket, number| {
        if number == 0 {
            request(socket).unwrap();
            let message = binary(&answer(steps(-0.5), 1.25));
            socket.send(message.clone()).unwrap();
            socket.send(message).unwrap();
            sent.send(()).unwrap();
        }
        answer_all(socket, 0.5);
    });
    let mut policy = client(server);
    assert_eq!(value(&mut policy), -0.5);
    twice.recv().unwrap();
    let error = failure(&mut policy);
    assert_eq!(error.fault, RemoteFault::Malformed, "{error}");
    assert!(error.what.contains("no request has asked for"), "{error}");
    assert!(restored(&mut policy).is_empty());
    assert_eq!(value(&mut policy), 0.5);

    // Repeated in place of the next answer.
    let server = openpi(move |socket, number| {
        if number == 0 {
            let message = binary(&answer(steps(-0.5), 1.25));
            for _ in 0..2 {
                request(socket).unwrap();
                socket.send(message.clone()).unwrap();
            }
        }
        answer_all(socket, 0.5);
    });
    let mut policy = client(server);
    assert_eq!(value(&mut policy), -0.5);
    let error = act(&mut policy).unwrap_err();
    assert_eq!(error.fault, RemoteFault::Malformed, "{error}");
    assert!(error.what.contains("byte for byte"), "{error}");
    assert!(restored(&mut policy).is_empty());
    assert_eq!(value(&mut policy), 0.5);
}

#[test]
fn pings_are_answered_between_requests() {
    let (ponged, pong) = channel();
    let server = openpi(move |socket, _| {
        socket.send(Message::Ping(Bytes::from_static(b"alive?"))).unwrap();
        loop {
            match socket.read() {
                Ok(Message::Pong(data)) => ponged.send(data).unwrap(),
                Ok(Message::Binary(_)) => {
                    socket.send(binary(&answer(steps(0.5), 0.5))).unwrap();
                }
                _ => return,
            }
        }
    });
    let mut policy = client(server);
    let began = Instant::now();
    let data = loop {
        assert!(matches!(policy.restore(), Restored::Ready));
        assert!(began.elapsed() < Duration::from_secs(20));
        match pong.try_recv() {
            Ok(data) => break data,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    assert_eq!(&data[..], b"alive?");
    assert_eq!(value(&mut policy), 0.5);
}

#[test]
fn an_end_between_requests_is_noticed_without_a_request() {
    let (ended, end) = channel();
    let server = openpi(move |socket, number| match number {
        0 => {
            request(socket).unwrap();
            socket.send(binary(&answer(steps(0.25), 0.5))).unwrap();
            ended.send(()).unwrap();
        }
        _ => answer_all(socket, 0.5),
    });
    let mut policy = client(server);
    assert_eq!(value(&mut policy), 0.25);
    end.recv().unwrap();
    assert_eq!(failure(&mut policy).fault, RemoteFault::Gone);
    assert!(restored(&mut policy).is_empty());
    assert_eq!(value(&mut policy), 0.5);
}

#[test]
fn opening_fails_within_its_time_with_the_reason() {
    let refused = |server, fault, words: &str| {
        let began = Instant::now();
        let error = RemotePolicy::open(settings(Protocol::Openpi, server)).map(drop);
        let error = remote(error.unwrap_err());
        assert_eq!(error.fault, fault, "{error}");
        assert!(error.what.contains(words), "{error}");
        assert!(began.elapsed() < ANSWER + SLACK, "{:?}", began.elapsed());
    };
    // Nothing listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(free, RemoteFault::Gone, "no server listens at 127.0.0.1:");
    // Accepted by the kernel, and nothing more.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    refused(hung.local_addr().unwrap(), RemoteFault::Late, "0.400 s (remote_connect_timeout_s)");
    // A handshake without metadata.
    let mute = listen(|stream, _| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let _ = socket.read();
    });
    refused(mute, RemoteFault::Late, "metadata");
    // Another protocol.
    let http = listen(|mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 6\r\n\r\nno key");
    });
    refused(http, RemoteFault::Refused, "401 Unauthorized");
    let other = listen(|mut stream, _| drop(stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")));
    refused(other, RemoteFault::Malformed, "");
    let garbage = listen(|stream, _| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let _ = socket.send(Message::Binary(Bytes::from_static(&[0xc1])));
        let _ = socket.read();
    });
    refused(garbage, RemoteFault::Malformed, "metadata");
}

#[test]
fn attempts_to_return_are_rare_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let accepted = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut socket = tungstenite::accept(stream).unwrap();
        socket.send(binary(&object([]))).unwrap();
    });
    let mut policy = client(server);
    accepted.join().unwrap(); // connection and listener are closed
    assert_eq!(failure(&mut policy).fault, RemoteFault::Gone);
    let began = Instant::now();
    let error = failure(&mut policy);
    assert!(error.what.contains("no server listens"), "{error}");
    for _ in 0..3 {
        assert!(matches!(policy.restore(), Restored::Later(_)));
        assert_eq!(failure(&mut policy).fault, RemoteFault::Gone);
    }
    // 0, 0.1, 0.2 and 0.4 s.
    assert!(Duration::from_millis(700) <= began.elapsed(), "{:?}", began.elapsed());
}
