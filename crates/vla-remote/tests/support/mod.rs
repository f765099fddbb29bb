//! Servers for the tests: openpi's websocket and OpenVLA's HTTP, on loopback, that do what a test
//! says.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Message, WebSocket};
use vla_inference::observation::{Instruction, Observation, Preparation, RgbImage};
use vla_inference::policy::{Decision, Policy, PolicyError, RemoteError, RemoteFault, Restored};
use vla_remote::{
    Answers, ApiKey, Contract, Deadlines, Protocol, RemoteAddress, RemotePolicy, Settings, StateRun,
};
use vla_wire::msgpack::{self, Names};
use vla_wire::value::object;
use vla_wire::{Limits, NdArray, Value};

pub const HORIZON: usize = 3;
pub const WIDTH: usize = 2;

/// Long enough for a loaded machine, short enough for a test.
pub const ANSWER: Duration = Duration::from_millis(400);
/// What a bounded wait may take longer on a loaded machine.
pub const SLACK: Duration = Duration::from_secs(2);

pub type Socket = WebSocket<TcpStream>;

/// Accepts connections, and serves each with its number in a thread.
pub fn listen(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream.unwrap(), number));
        }
    });
    address
}

/// An openpi server: handshake and metadata, then `serve`.
pub fn openpi(serve: impl Fn(&mut Socket, usize) + Send + Sync + 'static) -> SocketAddr {
    listen(move |stream, number| {
        // A client that has gone, or that gave up, is no failure of the server.
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let metadata = object([("robot", "arm".into()), ("reset_pose", Value::List(vec![]))]);
        if socket.send(binary(&metadata)).is_ok() {
            serve(&mut socket, number);
        }
    })
}

pub fn binary(value: &Value) -> Message {
    Message::Binary(msgpack::encode(value, Names::Bytes).unwrap().into())
}

/// The next request; `None` when the client has gone.
pub fn request(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.read().ok()? {
            Message::Binary(data) => {
                return Some(msgpack::decode(&data, &Limits::default()).unwrap());
            }
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

/// Steps that are `value` in every number.
pub fn steps(value: f64) -> Value {
    Value::Array(NdArray::matrix(&vec![vec![value; WIDTH]; HORIZON]).unwrap())
}

pub fn answer(actions: Value, infer_ms: f64) -> Value {
    let timing = object([("infer_ms", infer_ms.into())]);
    object([("actions", actions), ("server_timing", timing)])
}

/// Answers every request with `value` until the client has gone.
pub fn answer_all(socket: &mut Socket, value: f64) {
    let mut ms = 0.125;
    while request(socket).is_some() {
        ms += 1e-3; // a clock's reading never repeats
        if socket.send(binary(&answer(steps(value), ms))).is_err() {
            return;
        }
    }
}

pub fn contract() -> Contract {
    Contract {
        images: vec![
            ("base".into(), "observation/image".into()),
            ("wrist".into(), "observation/wrist_image".into()),
        ],
        preparation: Preparation::plain(8).unwrap(),
        state: vec![
            StateRun { key: "observation/joint_position".into(), values: 2 },
            StateRun { key: "observation/gripper_position".into(), values: 1 },
        ],
        instruction: "prompt".into(),
        texts: vec![],
        horizon: HORIZON,
        names: vec![],
        bounds: vec![[-1.0, 1.0]; WIDTH],
        tolerance: 0.0,
        answers: Answers::Physical,
    }
}

pub fn settings(protocol: Protocol, server: SocketAddr) -> Settings {
    let path = if protocol == Protocol::Act { "/act" } else { "/" };
    Settings {
        address: RemoteAddress {
            protocol,
            host: server.ip().to_string(),
            port: server.port(),
            path: path.into(),
        },
        key: None,
        deadlines: Deadlines {
            connect: ANSWER,
            read: ANSWER / 2,
            answer: ANSWER,
            first_answer: ANSWER,
        },
        contract: contract(),
        unnorm_key: "droid".into(),
    }
}

pub fn open(protocol: Protocol, server: SocketAddr) -> RemotePolicy {
    RemotePolicy::open(settings(protocol, server)).unwrap()
}

pub fn key(text: &str) -> ApiKey {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    ApiKey::load(file.path()).unwrap()
}

pub fn observation() -> Observation {
    let pixels: Vec<u8> = (0..16 * 12 * 3).map(|i| (i % 251) as u8).collect();
    let image = RgbImage::new(16, 12, pixels).unwrap();
    let instruction = Instruction::new("pick up the fork").unwrap();
    let mut observation =
        Observation::uniform(&image, &instruction, &["base".into(), "wrist".into()], 3);
    observation.state = vec![0.5, -0.25, 1.0];
    observation
}

pub fn act(policy: &mut RemotePolicy) -> Result<Decision, RemoteError> {
    policy.act(&observation()).map_err(remote)
}

pub fn remote(error: PolicyError) -> RemoteError {
    match error {
        PolicyError::Remote(error) => error,
        other => panic!("{other}"),
    }
}

/// The first number of the next decision.
pub fn value(policy: &mut RemotePolicy) -> f64 {
    act(policy).unwrap().actions[0][0]
}

/// Restores until it can decide again; returns the faults on the way.
pub fn restored(policy: &mut RemotePolicy) -> Vec<RemoteFault> {
    let (began, mut faults) = (Instant::now(), Vec::new());
    loop {
        assert!(began.elapsed() < Duration::from_secs(20), "not restored: {faults:?}");
        match policy.restore() {
            Restored::Ready | Restored::Again(_) => return faults,
            Restored::Later(time) => thread::sleep(time),
            Restored::Failed(error) => faults.push(remote(error).fault),
        }
    }
}

/// Restores until it fails.
pub fn failure(policy: &mut RemotePolicy) -> RemoteError {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing failed");
        match policy.restore() {
            Restored::Failed(error) => return remote(error),
            Restored::Later(time) => thread::sleep(time),
            _ => thread::yield_now(),
        }
    }
}

/// An HTTP server that reads one request of each connection, passes its head and body on, and
/// answers with what `reply` gives for its number.
pub fn http(
    reply: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static,
) -> (SocketAddr, Receiver<(String, Vec<u8>)>) {
    let (requests, received) = sync_channel(64);
    let address = listen(move |mut stream, number| {
        let Some(request) = http_request(&mut stream) else { return };
        let _ = requests.try_send(request);
        reply(number, &mut stream);
    });
    (address, received)
}

/// A request; `None` for a connection without one, as of a probe.
fn http_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.unwrap().parse().unwrap();
            if at + 4 + length <= bytes.len() {
                return Some((head, bytes[at + 4..].to_vec()));
            }
        }
        match stream.read(&mut part) {
            Ok(count) if 0 < count => bytes.extend_from_slice(&part[..count]),
            _ => return None,
        }
    }
}

pub fn respond(stream: &mut TcpStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
