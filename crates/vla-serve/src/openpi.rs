//! openpi's websocket, as `src/openpi/serving/websocket_policy_server.py` speaks it: metadata
//! first, then an answer to each observation. An error is a text message, after which the
//! connection is closed with code 1011.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{
    Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;
use vla_wire::msgpack::{self, Names};
use vla_wire::value::object;
use vla_wire::{NdArray, Value};

use crate::engine::Answer;
use crate::error::{Outcome, RequestError};
use crate::guard::{self, refusal};
use crate::listener::Place;
use crate::metrics::{Counted, Protocol};
use crate::observation::{self, Style};
use crate::server::Shared;
use crate::session::{End, Session, code};

/// Answers `GET /`.
pub(crate) async fn connect(
    State(server): State<Arc<Shared>>,
    place: Option<Extension<Place>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match opened(&server, upgrade) {
        Ok(upgrade) => upgrade,
        Err(error) => return refusal(&error),
    };
    let deadline = match guard::deadline(&headers) {
        Ok(deadline) => deadline,
        Err(error) => return refusal(&error),
    };
    let place = place.map(|Extension(place)| place);
    upgrade.on_upgrade(move |socket: WebSocket| async move {
        let session = Session::new(socket, Arc::clone(&server), place);
        serve(session, &server, deadline).await;
    })
}

/// A websocket with the server's bounds.
pub(crate) fn opened(
    server: &Shared,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, RequestError> {
    if server.is_ending() {
        return Err(RequestError::ending());
    }
    let most = server.options.limits.body_bytes;
    match upgrade {
        Ok(upgrade) => Ok(upgrade.max_message_size(most).max_frame_size(most)),
        Err(error) => Err(RequestError::new(
            Outcome::Malformed,
            format!("openpi's protocol is a websocket here; OpenVLA's is POST /act ({error})"),
        )),
    }
}

async fn serve(mut session: Session, server: &Arc<Shared>, deadline: Option<Duration>) {
    let mut previous = None;
    let mut end = session.send(metadata(server)).await.err();
    while end.is_none() {
        end = one(&mut session, server, deadline, &mut previous).await.err();
    }
    match end {
        Some(End::Refused(code, error)) => {
            server.metrics.sent(Protocol::OpenPi, error.line.len());
            if session.send(Message::Text(error.line.into())).await.is_ok() {
                session.close(code, "the message before says why").await;
            }
        }
        Some(End::Ending) => session.close(code::GOING_AWAY, "the server is ending").await,
        Some(End::Silent) => session.close(code::GOING_AWAY, "silent for too long").await,
        _ => {}
    }
}

/// Answers one observation.
async fn one(
    session: &mut Session,
    server: &Arc<Shared>,
    allowed: Option<Duration>,
    previous: &mut Option<Duration>,
) -> Result<(), End> {
    let message = match session.next().await {
        Ok(message) => message,
        Err(End::Refused(code, error)) => {
            server.metrics.ended(Protocol::OpenPi, error.outcome);
            return Err(End::Refused(code, error));
        }
        Err(end) => return Err(end),
    };
    let started = Instant::now();
    let deadline = guard::from_now(allowed);
    server.metrics.received(Protocol::OpenPi, message.len());
    let counted = Counted::new(&server.metrics, Protocol::OpenPi);
    let failed = |error: RequestError| End::Refused(code::INTERNAL, error);
    let answered = async {
        let observation = server
            .decode(move |contract, limits, pictures| {
                let fields = msgpack::decode(&message, limits)?.into_fields("msgpack")?;
                drop(message);
                observation::read(fields, contract, Style::OpenPi, pictures)
            })
            .await;
        let ticket = observation
            .and_then(|observed| server.engine.submit(observed, None, deadline.map(|(at, _)| at)))
            .map_err(failed)?;
        let answer = session.answer(ticket, deadline).await?.map_err(failed)?;
        encode(&answer, *previous).map_err(failed)
    };
    let message = match answered.await {
        Ok(message) => message,
        Err(end) => {
            match &end {
                End::Refused(_, error) => counted.end(error.outcome),
                _ => counted.end(Outcome::Gone),
            }
            return Err(end);
        }
    };
    server.metrics.sent(Protocol::OpenPi, message.len());
    session.send(Message::Binary(message.into())).await?;
    counted.end(Outcome::Ok);
    *previous = Some(started.elapsed());
    Ok(())
}

/// What openpi's server sends first; its own servers send what their configuration holds.
fn metadata(server: &Shared) -> Message {
    let contract = &server.contract;
    let texts = |texts: Vec<&str>| Value::List(texts.into_iter().map(Value::from).collect());
    let cameras = (0..contract.cameras.len()).map(|camera| texts(contract.names_of(camera)));
    let count = |count: usize| Value::Int(count as i128);
    let metadata = object([
        ("server", "openvla_tt".into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("policy", contract.policy.as_deref().map_or(Value::Nil, Value::from)),
        ("device", contract.device.as_str().into()),
        ("unnorm_key", contract.unnorm_key.as_str().into()),
        ("cameras", texts(contract.cameras.iter().map(|camera| &**camera).collect())),
        ("camera_names", Value::List(cameras.collect())),
        ("state_dim", count(contract.state_dim)),
        ("action_dim", count(contract.action_dim)),
        ("action_horizon", count(contract.horizon)),
    ]);
    let message = msgpack::encode(&metadata, Names::Bytes).unwrap_or_default();
    Message::Binary(message.into())
}

fn encode(answer: &Answer, previous: Option<Duration>) -> Result<Vec<u8>, RequestError> {
    let milliseconds = |time: Duration| Value::Float(time.as_secs_f64() * 1e3);
    let infer = milliseconds(answer.inference);
    let mut timing = vec![("infer_ms".to_owned(), infer.clone())];
    timing.extend(previous.map(|time| ("prev_total_ms".to_owned(), milliseconds(time))));
    let failed = |error: vla_wire::WireError| RequestError::new(Outcome::Failed, error.to_string());
    let actions = NdArray::matrix(&answer.actions).map_err(failed)?;
    let mut fields = vec![
        ("actions".to_owned(), actions.into()),
        ("policy_timing".to_owned(), object([("infer_ms", infer)])),
        ("server_timing".to_owned(), Value::Object(timing)),
    ];
    fields.extend(answer.seed.map(|seed| ("seed".to_owned(), Value::Int(seed.into()))));
    msgpack::encode(&Value::Object(fields), Names::Bytes).map_err(failed)
}
