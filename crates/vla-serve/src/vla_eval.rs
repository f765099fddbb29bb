//! vla-eval's model server, as `src/vla_eval/model_servers/serve.py` speaks it: messages `{type,
//! payload, seq, timestamp}`. An error is a message; the connection stays. The harness executes one
//! action for each observation: the further steps of a chunk answer the observations that follow,
//! as in its own servers, until `episode_start`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::ws::{
    Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::extract::{Extension, State};
use axum::response::Response;
use vla_inference::observation::Observation;
use vla_wire::msgpack::{self, Names};
use vla_wire::value::object;
use vla_wire::{NdArray, Value};

use crate::contract::Gripper;
use crate::engine::Answer;
use crate::error::{Outcome, RequestError};
use crate::guard::refusal;
use crate::listener::Place;
use crate::metrics::{Counted, Protocol};
use crate::observation::{self, Style};
use crate::openpi::opened;
use crate::server::Shared;
use crate::session::{End, Session, code};

/// The version of the protocol that this is.
const PROTOCOL: i128 = 1;

/// Answers `GET /vla-eval`.
pub(crate) async fn connect(
    State(server): State<Arc<Shared>>,
    place: Option<Extension<Place>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match opened(&server, upgrade) {
        Ok(upgrade) => upgrade,
        Err(error) => return refusal(&error),
    };
    let place = place.map(|Extension(place)| place);
    upgrade.on_upgrade(move |socket: WebSocket| async move {
        let mut session = Session::new(socket, Arc::clone(&server), place);
        let mut further = VecDeque::new();
        let end = loop {
            match one(&mut session, &server, &mut further).await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        match end {
            End::Refused(code, error) => {
                let _ = session.send(failure(&error, 0)).await;
                session.close(code, "the message before says why").await;
            }
            End::Ending => session.close(code::GOING_AWAY, "the server is ending").await,
            End::Silent => session.close(code::GOING_AWAY, "silent for too long").await,
            End::Gone => {}
        }
    })
}

/// Takes one message and answers it, if it has an answer. `further` are the steps of the last chunk
/// that have not been sent.
async fn one(
    session: &mut Session,
    server: &Arc<Shared>,
    further: &mut VecDeque<Vec<f64>>,
) -> Result<(), End> {
    let message = match session.next().await {
        Ok(message) => message,
        Err(End::Refused(code, error)) => {
            server.metrics.ended(Protocol::VlaEval, error.outcome);
            return Err(End::Refused(code, error));
        }
        Err(end) => return Err(end),
    };
    server.metrics.received(Protocol::VlaEval, message.len());
    let counted = Counted::new(&server.metrics, Protocol::VlaEval);
    let read = server
        .decode(move |contract, limits, pictures| {
            let (kind, seq, payload) = envelope(msgpack::decode(&message, limits)?)?;
            drop(message);
            let observation = (kind == "observation").then(|| {
                let fields = payload.into_fields("msgpack");
                let fields = fields.map_err(RequestError::from)?;
                observation::read(fields, contract, Style::VlaEval, pictures)
            });
            Ok((kind, seq, observation))
        })
        .await;
    let (kind, seq, observation) = match read {
        Ok(read) => read,
        Err(error) => {
            counted.end(error.outcome);
            return session.send(failure(&error, 0)).await;
        }
    };
    let reply = match (kind.as_str(), observation) {
        ("hello", _) => hello(server, seq),
        ("observation", Some(observation)) => {
            let step = match observation {
                Ok(observation) => step(session, server, further, observation).await?,
                Err(error) => Err(error),
            };
            match step.and_then(|step| action(&step, seq)) {
                Ok(reply) => {
                    counted.end(Outcome::Ok);
                    server.metrics.sent(Protocol::VlaEval, reply.len());
                    return session.send(Message::Binary(reply.into())).await;
                }
                Err(error) => {
                    counted.end(error.outcome);
                    return session.send(failure(&error, seq)).await;
                }
            }
        }
        // The start or the end of an episode, or an error of the client.
        _ => {
            further.clear();
            counted.end(Outcome::Ok);
            return Ok(());
        }
    };
    counted.end(Outcome::Ok);
    session.send(reply).await
}

/// The next step: of the chunk under way, else of a new one.
async fn step(
    session: &mut Session,
    server: &Shared,
    further: &mut VecDeque<Vec<f64>>,
    observation: Observation,
) -> Result<Result<Vec<f64>, RequestError>, End> {
    if let Some(step) = further.pop_front() {
        return Ok(Ok(step));
    }
    let ticket = match server.engine.submit(observation, None, None) {
        Ok(ticket) => ticket,
        Err(error) => return Ok(Err(error)),
    };
    let contract = &server.contract;
    Ok(session.answer(ticket, None).await?.and_then(|answer| {
        further.extend(converted(answer, contract.gripper).into_iter().take(contract.execute));
        let none = || RequestError::new(Outcome::Failed, "the policy's answer has no step");
        further.pop_front().ok_or_else(none)
    }))
}

/// Type, sequence number and payload of a message.
fn envelope(message: Value) -> Result<(String, i128, Value), RequestError> {
    let mut kind = None;
    let mut seq = None;
    let mut payload = None;
    for (name, value) in message.into_fields("msgpack")? {
        match (name.as_str(), value) {
            ("type", value) => kind = Some(value.into_text("type")?),
            ("seq", Value::Int(value)) => seq = Some(value),
            ("payload", value) => payload = Some(value),
            _ => {}
        }
    }
    let missing = |name: &str| {
        RequestError::new(Outcome::Malformed, format!("a message of vla-eval without '{name}'"))
    };
    let kind = kind.ok_or_else(|| missing("type"))?;
    if !matches!(&*kind, "hello" | "observation" | "episode_start" | "episode_end" | "error") {
        return Err(RequestError::new(
            Outcome::Malformed,
            format!("a message of the type '{}', which clients do not send", kind.escape_debug()),
        ));
    }
    let seq = seq.ok_or_else(|| missing("seq"))?;
    Ok((kind, seq, payload.ok_or_else(|| missing("payload"))?))
}

fn hello(server: &Shared, seq: i128) -> Message {
    let contract = &server.contract;
    // What vla-eval's benchmarks are asked to send.
    let parameters = object([
        ("send_wrist_image", Value::Bool(contract.cameras.len() > 1)),
        ("send_state", Value::Bool(contract.state_dim > 0)),
    ]);
    let payload = object([
        ("harness_version", concat!("openvla_tt ", env!("CARGO_PKG_VERSION")).into()),
        ("protocol_version", Value::Int(PROTOCOL)),
        ("model_server", "openvla_tt".into()),
        ("capabilities", Value::Object(Vec::new())),
        ("observation_params", parameters),
    ]);
    message("hello", payload, seq)
}

/// The steps of an answer. vla-eval's benchmarks take robosuite's gripper, -1 open and 1 closed, to
/// which its servers convert; here too when the policy file says what the policy's gripper means.
fn converted(answer: Answer, gripper: Option<Gripper>) -> Vec<Vec<f64>> {
    let mut rows = answer.actions;
    if let Some(Gripper { closed, open }) = gripper {
        for value in rows.iter_mut().filter_map(|row| row.last_mut()) {
            // 0 closed to 1 open, then -sign(2 x - 1) as in vla-eval's OpenVLA server.
            let opened = (*value - closed) / (open - closed);
            *value = match 2.0 * opened - 1.0 {
                middle if middle > 0.0 => -1.0,
                middle if middle < 0.0 => 1.0,
                _ => 0.0,
            };
        }
    }
    rows
}

fn action(step: &[f64], seq: i128) -> Result<Vec<u8>, RequestError> {
    let actions = object([("actions", NdArray::vector(step).into())]);
    msgpack::encode(&enveloped("action", actions, seq), Names::Text)
        .map_err(|error| RequestError::new(Outcome::Failed, error.to_string()))
}

fn failure(error: &RequestError, seq: i128) -> Message {
    message("error", object([("error", error.line.as_str().into())]), seq)
}

fn message(kind: &str, payload: Value, seq: i128) -> Message {
    let encoded = msgpack::encode(&enveloped(kind, payload, seq), Names::Text);
    Message::Binary(encoded.unwrap_or_default().into())
}

fn enveloped(kind: &str, payload: Value, seq: i128) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    object([
        ("type", kind.into()),
        ("payload", payload),
        ("seq", Value::Int(seq)),
        ("timestamp", Value::Float(now.as_secs_f64())),
    ])
}
