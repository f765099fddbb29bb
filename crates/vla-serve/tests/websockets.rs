//! The websockets of openpi and vla-eval on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use support::{Server, Setup, action};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use vla_serve::Limits;
use vla_wire::msgpack::{self, Names};
use vla_wire::value::object;
use vla_wire::{Dtype, NdArray, Value};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.unwrap() })
}

async fn connect(
    server: &Server,
    path: &str,
    header: Option<(&str, &str)>,
) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{path}", server.address).into_client_request()?;
    if let Some((name, value)) = header {
        let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

fn decoded(message: Message) -> Value {
    let Message::Binary(bytes) = message else { panic!("{message:?}") };
    msgpack::decode(&bytes, &vla_wire::Limits::default()).unwrap()
}

async fn send(socket: &mut Socket, value: &Value, names: Names) {
    let bytes = msgpack::encode(value, names).unwrap();
    socket.send(Message::Binary(bytes.into())).await.unwrap();
}

async fn receive(socket: &mut Socket) -> Message {
    socket.next().await.unwrap().unwrap()
}

/// The text of an error, and the code with which the connection is closed after it.
async fn refused(socket: &mut Socket) -> (String, u16) {
    let Message::Text(line) = receive(socket).await else { panic!("no text") };
    let Message::Close(Some(CloseFrame { code, .. })) = receive(socket).await else { panic!() };
    assert_eq!(line.lines().count(), 1);
    (line.to_string(), code.into())
}

fn picture(value: u8, shape: [usize; 3]) -> Value {
    let count = shape.iter().product();
    NdArray::new(Dtype::U8, shape.to_vec(), vec![value; count]).unwrap().into()
}

fn droid() -> Setup {
    Setup {
        cameras: &["base_0_rgb", "left_wrist_0_rgb"],
        state_dim: 3,
        horizon: 2,
        ..Setup::default()
    }
}

#[test]
fn openpi_metadata_first_then_an_answer_to_each_observation() {
    let server = droid().start();
    run(async {
        let mut socket = connect(&server, "/", None).await.unwrap();
        let metadata = decoded(receive(&mut socket).await);
        assert_eq!(metadata.get("action_horizon"), Some(&Value::Int(2)));
        assert_eq!(metadata.get("unnorm_key"), Some(&"bridge_orig".into()));
        let pictures = NdArray::single(vec![3, 1, 2], &[0.25; 6]).unwrap();
        let expected = [
            // libero's names; a picture of floats with the channels first is 63 = 0.25 * 255.
            (
                object([
                    ("observation/image", picture(7, [4, 5, 3])),
                    ("observation/wrist_image", pictures.into()),
                    ("observation/state", NdArray::vector(&[1.0, 2.0, 3.0]).into()),
                    ("prompt", "go".into()),
                ]),
                action(&[7, 63], &[1.0, 2.0, 3.0], "go"),
            ),
            // DROID's.
            (
                object([
                    ("observation/exterior_image_1_left", picture(1, [4, 5, 3])),
                    ("observation/wrist_image_left", picture(2, [4, 5, 3])),
                    ("observation/joint_position", NdArray::vector(&[1.5, 2.0]).into()),
                    ("observation/gripper_position", NdArray::vector(&[0.5]).into()),
                    ("prompt", Value::Bytes(b"go on".to_vec())),
                ]),
                action(&[1, 2], &[1.5, 2.0, 0.5], "go on"),
            ),
            // ALOHA's: channels first, and cameras that the policy has not.
            (
                object([
                    (
                        "images",
                        object([
                            ("cam_high", picture(3, [3, 4, 5])),
                            ("cam_low", picture(9, [3, 4, 5])),
                            ("cam_left_wrist", picture(4, [3, 4, 5])),
                            ("cam_right_wrist", picture(9, [3, 4, 5])),
                        ]),
                    ),
                    ("state", NdArray::single(vec![3], &[1.0, 2.0, 4.0]).unwrap().into()),
                    ("prompt", "go".into()),
                ]),
                action(&[3, 4], &[1.0, 2.0, 4.0], "go"),
            ),
        ];
        for (observation, expected) in expected {
            send(&mut socket, &observation, Names::Bytes).await;
            let answer = decoded(receive(&mut socket).await);
            let actions = answer.get("actions").unwrap();
            assert_eq!(actions.rows("actions").unwrap(), vec![expected; 2]);
            let Value::Array(array) = actions else { panic!() };
            assert_eq!((array.dtype(), array.shape()), (Dtype::F64, &[2, 6][..]));
            let timing = answer.get("server_timing").unwrap();
            assert!(matches!(timing.get("infer_ms"), Some(Value::Float(time)) if *time >= 0.0));
        }
        let ok = r#"openvla_requests_total{protocol="openpi",outcome="ok"}"#;
        // Counted after the answer is sent: it may arrive before.
        until(|| server.metric(ok) == "3").await;
    });
}

#[test]
fn openpi_errors_are_a_text_and_the_code_1011() {
    let limits = Limits { body_bytes: 2000, ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    run(async {
        let image = picture(1, [2, 2, 3]);
        let observation = object([("image", image.clone()), ("prompt", "go".into())]);
        let whole = msgpack::encode(&observation, Names::Bytes).unwrap();
        for (bytes, expected) in [
            (b"".to_vec(), "msgpack"),
            (whole[..whole.len() - 3].to_vec(), "msgpack"),
            ([&whole[..], b"\xc0"].concat(), "bytes after its end"),
            (b"\x01".to_vec(), "is a number"),
            (msgpack::encode(&object([("image", image)]), Names::Bytes).unwrap(), "no instruction"),
            (
                msgpack::encode(
                    &object([("image", picture(1, [3, 2, 3])), ("prompt", "go".into())]),
                    Names::Bytes,
                )
                .unwrap(),
                "cannot be known",
            ),
        ] {
            let mut socket = connect(&server, "/", None).await.unwrap();
            receive(&mut socket).await;
            socket.send(Message::Binary(bytes.into())).await.unwrap();
            let (line, code) = refused(&mut socket).await;
            assert!(line.contains(expected), "{line} / {expected}");
            assert_eq!(code, 1011);
        }
        let mut socket = connect(&server, "/", None).await.unwrap();
        receive(&mut socket).await;
        socket.send(Message::Text("go".into())).await.unwrap();
        assert_eq!(refused(&mut socket).await.1, 1003);
        let mut socket = connect(&server, "/", None).await.unwrap();
        receive(&mut socket).await;
        socket.send(Message::Binary(vec![0; 3000].into())).await.unwrap();
        let (line, code) = refused(&mut socket).await;
        assert!(line.contains("more than 2000 bytes") && code == 1009, "{line} {code}");
        // The server is as before.
        let mut socket = connect(&server, "/", None).await.unwrap();
        receive(&mut socket).await;
        send(&mut socket, &observation, Names::Bytes).await;
        assert!(decoded(receive(&mut socket).await).get("actions").is_some());
    });
}

#[test]
fn keys_and_web_pages() {
    let server = Setup { key: Some("0123456789abcdef"), ..Setup::default() }.start();
    run(async {
        let status = |error: Error| match error {
            Error::Http(response) => response.status().as_u16(),
            other => panic!("{other}"),
        };
        assert_eq!(status(connect(&server, "/", None).await.unwrap_err()), 401);
        let key = ("authorization", "Api-Key 0123456789abcdef");
        assert!(connect(&server, "/", Some(key)).await.is_ok());
        let page = ("origin", "http://evil.example");
        assert_eq!(status(connect(&server, "/", Some(page)).await.unwrap_err()), 403);
    });
}

#[test]
fn a_deadline_for_each_observation() {
    let server = Setup::default().start();
    run(async {
        let header = ("x-deadline-ms", "50");
        let mut socket = connect(&server, "/", Some(header)).await.unwrap();
        receive(&mut socket).await;
        server.gate.shut();
        let observation = object([("image", picture(1, [2, 2, 3])), ("prompt", "go".into())]);
        send(&mut socket, &observation, Names::Bytes).await;
        let (line, code) = refused(&mut socket).await;
        assert!(line.contains("no action within the 50 ms") && code == 1011, "{line}");
    });
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let server = Setup::default().start();
    run(async {
        let observation = object([("image", picture(1, [2, 2, 3])), ("prompt", "go".into())]);
        server.gate.shut();
        let mut computed = connect(&server, "/", None).await.unwrap();
        receive(&mut computed).await;
        send(&mut computed, &observation, Names::Bytes).await;
        server.gate.wait_begun(0);
        let mut waiting = connect(&server, "/", None).await.unwrap();
        receive(&mut waiting).await;
        send(&mut waiting, &observation, Names::Bytes).await;
        let waits = || server.metric("openvla_requests_waiting");
        until(|| waits() == "1").await;
        drop(waiting);
        until(|| waits() == "0").await;
        // A second message of the same client waits its turn.
        send(&mut computed, &observation, Names::Bytes).await;
        server.gate.open();
        for _ in 0..2 {
            assert!(decoded(receive(&mut computed).await).get("actions").is_some());
        }
        drop(computed);
        until(|| server.metric("openvla_connections") == "1").await;
        assert_eq!(server.gate.begun(), 2);
    });
}

#[test]
fn silent_clients_are_closed_and_others_are_not() {
    let limits = Limits { silence: Duration::from_millis(200), ..Limits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    run(async {
        // A client that does not read answers no ping.
        let mut silent = connect(&server, "/", None).await.unwrap();
        let mut living = connect(&server, "/", None).await.unwrap();
        receive(&mut living).await;
        // Reading answers pings.
        let reading = async { while let Some(Ok(_)) = living.next().await {} };
        assert!(tokio::time::timeout(Duration::from_secs(1), reading).await.is_err());
        until(|| server.metric("openvla_connections") == "2").await;
        receive(&mut silent).await;
    });
}

#[test]
fn the_end_closes_with_going_away_after_the_answer() {
    let server = Setup::default().start();
    run(async {
        let mut idle = connect(&server, "/", None).await.unwrap();
        receive(&mut idle).await;
        let mut busy = connect(&server, "/", None).await.unwrap();
        receive(&mut busy).await;
        server.gate.shut();
        let observation = object([("image", picture(1, [2, 2, 3])), ("prompt", "go".into())]);
        send(&mut busy, &observation, Names::Bytes).await;
        server.gate.wait_begun(0);
        server.stop.stop();
        let closed = |message: Message| match message {
            Message::Close(Some(frame)) => u16::from(frame.code),
            other => panic!("{other:?}"),
        };
        assert_eq!(closed(receive(&mut idle).await), 1001);
        server.gate.open();
        assert!(decoded(receive(&mut busy).await).get("actions").is_some());
        assert_eq!(closed(receive(&mut busy).await), 1001);
        // The handshake of closing is answered while the sockets are read.
        for mut socket in [idle, busy] {
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    assert_eq!(server.wait().unwrap(), vla_serve::Ending { cut_off: 0 });
}

/// A message of the harness vla-eval.
fn harness_message(kind: &str, seq: i128, payload: Value) -> Value {
    let kind = kind.into();
    let fields = [("type", kind), ("payload", payload), ("seq", Value::Int(seq))];
    let Value::Object(mut fields) = object(fields) else { panic!() };
    fields.push(("timestamp".into(), Value::Float(0.5)));
    Value::Object(fields)
}

#[test]
fn vla_eval_hello_episode_and_actions() {
    let setup = Setup { cameras: &["full", "wrist"], state_dim: 2, ..Setup::default() };
    let server = setup.start();
    run(async {
        let mut socket = connect(&server, "/vla-eval", None).await.unwrap();
        let message = harness_message;
        send(&mut socket, &message("hello", 1, object([])), Names::Text).await;
        let hello = decoded(receive(&mut socket).await);
        assert_eq!(
            (hello.get("type"), hello.get("seq")),
            (Some(&"hello".into()), Some(&Value::Int(1)))
        );
        let asked = hello.get("payload").unwrap().get("observation_params").unwrap();
        assert_eq!(asked.get("send_wrist_image"), Some(&Value::Bool(true)));
        let start = message("episode_start", 2, object([("task", "x".into())]));
        send(&mut socket, &start, Names::Text).await;

        let mut png = std::io::Cursor::new(Vec::new());
        let rgb = image::RgbImage::from_pixel(3, 2, image::Rgb([5, 0, 0]));
        rgb.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let images = object([
            ("agentview", Value::File("png".into(), png.into_inner())),
            ("wrist", picture(6, [2, 2, 3])),
        ]);
        let observation = |state: &[f64]| {
            object([
                ("images", images.clone()),
                ("task_description", "put it down".into()),
                ("states", NdArray::vector(state).into()),
                ("controller_states", NdArray::vector(&[9.0]).into()),
            ])
        };
        let good = message("observation", 3, observation(&[0.5, 1.0]));
        send(&mut socket, &good, Names::Text).await;
        let answer = decoded(receive(&mut socket).await);
        assert_eq!(
            (answer.get("type"), answer.get("seq")),
            (Some(&"action".into()), Some(&Value::Int(3)))
        );
        let Some(Value::Array(actions)) = answer.get("payload").unwrap().get("actions") else {
            panic!("{answer:?}")
        };
        assert_eq!(actions.numbers().unwrap(), action(&[5, 6], &[0.5, 1.0], "put it down"));

        // An error is a message, and the connection stays.
        for (wrong, expected) in [
            (message("observation", 4, observation(&[0.5])), "has 1 numbers"),
            (message("dance", 5, object([])), "type 'dance'"),
            (Value::Int(3), "is a number"),
        ] {
            send(&mut socket, &wrong, Names::Text).await;
            let answer = decoded(receive(&mut socket).await);
            assert_eq!(answer.get("type"), Some(&"error".into()));
            let text = format!("{:?}", answer.get("payload").unwrap().get("error"));
            assert!(text.contains(expected), "{text}");
        }
        send(&mut socket, &message("episode_end", 6, object([])), Names::Text).await;
        send(&mut socket, &good, Names::Text).await;
        assert_eq!(decoded(receive(&mut socket).await).get("type"), Some(&"action".into()));
    });
}

/// The harness executes one action for each observation: it gets a chunk step by step.
#[test]
fn vla_eval_gets_a_chunk_step_by_step() {
    for (execute, inferred) in [(None, [5, 5, 5, 8, 9]), (Some(2), [5, 5, 7, 7, 9])] {
        let server = Setup { horizon: 3, execute, ..Setup::default() }.start();
        run(async {
            let mut socket = connect(&server, "/vla-eval", None).await.unwrap();
            for (seq, (byte, from)) in [5, 6, 7, 8, 9].into_iter().zip(inferred).enumerate() {
                if byte == 9 {
                    // A new episode takes nothing over.
                    let start = harness_message("episode_start", 0, object([]));
                    send(&mut socket, &start, Names::Text).await;
                }
                let images = object([("agentview", picture(byte, [2, 2, 3]))]);
                let payload = object([("images", images), ("task_description", "go".into())]);
                let sent = harness_message("observation", seq as i128, payload);
                send(&mut socket, &sent, Names::Text).await;
                let answer = decoded(receive(&mut socket).await);
                assert_eq!(answer.get("seq"), Some(&Value::Int(seq as i128)));
                let Some(Value::Array(step)) = answer.get("payload").unwrap().get("actions") else {
                    panic!("{answer:?}")
                };
                assert_eq!(step.shape(), [2], "one action of two numbers");
                assert_eq!(step.numbers().unwrap(), action(&[from], &[], "go"), "{byte}");
            }
        });
        assert_eq!(server.gate.begun(), 3);
    }
}

/// Waits for what the server does a moment later.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
